"""GPUs as published: a file each, every figure with its source, found by name or by torch's device name.

A figure that no source gives is not there: nothing is taken over from another GPU. ``constants.json`` holds the
shares of those figures that real kernels reach, fitted by ``benchmarks/prediction.py`` and described in
docs/PREDICTION.md.
"""

from __future__ import annotations

import difflib
import functools
import json
import math
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from importlib import resources
from pathlib import Path
from typing import Any

from diffmeter.errors import InputError

#: figures that a file may hold, with what they are
FIGURES: Mapping[str, str] = {
    "bfloat16_tflops": "dense matrix products of bfloat16, accumulated in float32, in 10^12 FLOP/s",
    "float16_tflops": "the same of float16",
    "float8_tflops": "the same of 8-bit floats",
    "int8_tops": "dense matrix products of 8-bit integers, in 10^12 operations a second",
    "tf32_tflops": "the same of TF32, which float32 convolutions use",
    "float32_tflops": "float32 without TF32, which float32 matrix products use unless told otherwise",
    "reached_tflops": "what the best of many matrix products of bfloat16 was measured to reach",
    "memory_gib": "memory in GiB",
    "bandwidth_gb_s": "memory bandwidth in 10^9 bytes a second",
    "power_watts": "power limit in watts",
    "multiprocessors": "multiprocessors (NVIDIA) or compute units (AMD)",
    "link_gb_s": "bandwidth to another GPU of the same machine in each direction, in 10^9 bytes a second",
    "host_link_gb_s": "bandwidth between the host's memory and the GPU, in 10^9 bytes a second",
}
#: a figure beyond these bounds is a mistake in the file
_BOUNDS: Mapping[str, tuple[float, float]] = {
    "memory_gib": (0.25, 4096),
    "bandwidth_gb_s": (1, 1e5),
    "power_watts": (1, 5000),
    "multiprocessors": (1, 10_000),
    "link_gb_s": (0.1, 1e5),
    "host_link_gb_s": (0.1, 1e4),
}
_RATE_BOUNDS = (1e-4, 1e6)


@dataclass(frozen=True)
class Rates:
    """What kernels reach, as shares of the published figures. One set a generation of GPUs, shared by all models.

    Attributes:
        reached: share of the published peak that the best large matrix products reach, where no measurement says.
        matmul: share of that which the products of a model reach.
        attention: the same of attention's products, ...
        attention_limit: ... and the most FLOP/s of a multiprocessor in them, whatever its peak.
        softmax_elements: elements of attention's softmax a second and multiprocessor, which other units compute.
        convolution_limit: the most FLOP/s of a multiprocessor in a convolution that looks around.
        bandwidth: share of the published bandwidth that element-wise kernels reach.
        strided_elements: elements a second and multiprocessor of element-wise kernels that cannot go through memory in
            order: they are held up by addressing, not by memory.
        kernel_seconds: shortest time that a kernel takes on the device.
        host_seconds: time that Python and PyTorch take to dispatch one operator.
        step_seconds: time between two calls of the denoiser that nothing hides: guidance, scheduler, waiting.
        run_seconds: time of a run outside its components: tokenizers, the scheduler's timesteps.
        pixel_seconds: time to turn one decoded pixel into an image's.
        link: share of the published bandwidth between GPUs that exchanges reach.
        exchange_seconds: shortest time of an exchange between GPUs.
        spread: half the width, in the logarithm of the time, of the range that holds nine in ten measurements.
        idle_share, product_share, traffic_share: shares of the power limit that a GPU draws while it runs at all, that
            products draw at the rate that the best of them reach, and that traffic draws at the whole bandwidth.
        energy_spread: the same as ``spread`` for the energy.
        source: what they rest on.
    """

    reached: float
    matmul: float
    attention: float
    attention_limit: float
    softmax_elements: float
    convolution_limit: float
    bandwidth: float
    strided_elements: float
    kernel_seconds: float
    host_seconds: float
    step_seconds: float
    run_seconds: float
    pixel_seconds: float
    link: float
    exchange_seconds: float
    spread: float
    idle_share: float
    product_share: float
    traffic_share: float
    energy_spread: float
    source: str


@dataclass(frozen=True)
class Price:
    """Dollars an hour, with where and when."""

    usd_per_hour: float
    source: str
    date: str | None


@dataclass(frozen=True)
class Gpu:
    """One GPU: published figures with their sources, and the rates that kernels reach."""

    name: str
    title: str
    vendor: str
    generation: str
    figures: Mapping[str, float]
    sources: Mapping[str, str]
    rates: Rates
    aliases: tuple[str, ...] = ()
    device_names: tuple[str, ...] = ()
    price: Price | None = None
    note: str | None = None
    overridden: tuple[str, ...] = field(default=())

    def figure(self, name: str) -> float:
        """A figure, in the unit of :data:`FIGURES`.

        Raises:
            InputError: it is not known of this GPU.
        """
        try:
            return self.figures[name]
        except KeyError:
            raise InputError(f"{self.title}: {FIGURES[name]} is not known; give it in a GPU file.") from None

    @property
    def memory_bytes(self) -> int | None:
        """Its memory in bytes; None where it is not known."""
        gib = self.figures.get("memory_gib")
        return None if gib is None else round(gib * 2**30)

    @property
    def multiprocessors(self) -> float | None:
        """How many multiprocessors it has; None where that is not known."""
        return self.figures.get("multiprocessors")

    def reached_flops(self, dtype: str, kind: str = "matmul") -> float:
        """FLOP/s that the best large matrix products of a dtype reach. Exceptions are those of :meth:`peak_flops`."""
        share = self.rates.reached
        if "reached_tflops" in self.figures and "bfloat16_tflops" in self.figures:
            share = self.figures["reached_tflops"] / self.figures["bfloat16_tflops"]
        return self.peak_flops(dtype, kind) * share

    def with_figures(self, **given: float | None) -> Gpu:
        """The same GPU with some of its figures replaced by the user's.

        Raises:
            InputError: a figure that no GPU can have.
        """
        new = {name: value for name, value in given.items() if value is not None}
        for name, value in new.items():
            _check(name, value, "the value given")
        return replace(
            self,
            figures={**self.figures, **new},
            sources={**self.sources, **dict.fromkeys(new, "given by the user")},
            overridden=tuple(new),
        )

    def peak_flops(self, dtype: str, kind: str = "matmul") -> float:
        """Dense FLOP/s of products of a dtype.

        Raises:
            InputError: the GPU has no such rate, or it is not known.
        """
        name = _FIGURE_OF_DTYPE.get(dtype)
        if name is None:
            raise InputError(f"{dtype!r} is no dtype of products: use one of {', '.join(_FIGURE_OF_DTYPE)}.")
        if dtype == "float32" and kind == "convolution" and "tf32_tflops" in self.figures:
            name = "tf32_tflops"
        if name not in self.figures:
            have = [d for d, figure in _FIGURE_OF_DTYPE.items() if figure in self.figures]
            raise InputError(f"{self.title} has no known rate for {dtype}: it has {', '.join(have)}.")
        return self.figures[name] * 1e12


_FIGURE_OF_DTYPE: Mapping[str, str] = {
    "bfloat16": "bfloat16_tflops",
    "float16": "float16_tflops",
    "float32": "float32_tflops",
    "float8": "float8_tflops",
    "int8": "int8_tops",
}


@functools.cache
def table() -> Mapping[str, Gpu]:
    """Every GPU of the table, by name."""
    folder = resources.files(__name__)
    found = {}
    for file in sorted(folder.iterdir(), key=lambda f: f.name):
        if file.name.endswith(".json") and file.name != "constants.json":
            gpu = _parse(json.loads(file.read_text("utf-8")), file.name)
            found[gpu.name] = gpu
    return found


def find(name: str | os.PathLike[str] | Gpu) -> Gpu:
    """A GPU by its name, one of its aliases, torch's device name, or the path of a file like those of the table.

    Raises:
        InputError: there is none of that name (the nearest ones are named), or the file cannot be used.
    """
    if isinstance(name, Gpu):
        return name
    text = os.fspath(name)
    if text.endswith(".json"):
        return read(text)
    known = _names()
    gpu = known.get(_plain(text))
    if gpu is not None:
        return gpu
    near = difflib.get_close_matches(_plain(text), list(known), n=3, cutoff=0.4)
    names = list(dict.fromkeys(known[n].name for n in near)) or list(table())
    raise InputError(f"Unknown GPU {text!r}: the nearest are {', '.join(names)}; a .json file of your own works too.")


def match(device_name: str, memory_bytes: int | None = None, power_watts: float | None = None) -> Gpu | None:
    """The GPU of the table that a real device is, by torch's device name and, among several, memory and power limit.

    None where it is in doubt: a GPU that is not in the table is not known.
    """
    candidates = [g for g in table().values() if _plain(device_name) in map(_plain, g.device_names)]
    if memory_bytes is not None:
        candidates = [g for g in candidates if g.memory_bytes is None or _near(g.memory_bytes, memory_bytes, 0.15)]
    if len(candidates) > 1 and power_watts is not None:
        candidates = [g for g in candidates if _near(g.figures.get("power_watts", power_watts), power_watts, 0.1)]
    return candidates[0] if len(candidates) == 1 else None


def read(path: str | os.PathLike[str]) -> Gpu:
    """A GPU from a user's own file.

    Raises:
        InputError: the file cannot be read, or a figure is missing or impossible.
    """
    try:
        data = json.loads(Path(path).read_text("utf-8"))
    except OSError as error:
        raise InputError(f"The GPU file {os.fspath(path)!r} cannot be read: {error.strerror}.") from error
    except ValueError as error:
        raise InputError(f"The GPU file {os.fspath(path)!r} is no JSON: {error}.") from error
    return _parse(data, os.fspath(path))


def from_memory(memory_gib: float) -> Gpu:
    """A GPU of which only the memory is known: answers whether something fits, and nothing else.

    Raises:
        InputError: no GPU has that much.
    """
    _check("memory_gib", memory_gib, "--vram")
    return Gpu(
        name=f"{memory_gib:g} GiB",
        title=f"a GPU with {memory_gib:g} GiB",
        vendor="unknown",
        generation="unknown",
        figures={"memory_gib": memory_gib},
        sources={"memory_gib": "given by the user"},
        rates=rates_of("unknown"),
    )


def rates_of(generation: str) -> Rates:
    """The rates of a generation; one without measurements has those of the others, with a wider range."""
    constants = _constants()
    wider = {} if generation in constants["measured"] else constants["unmeasured"]
    return Rates(**{**constants["all"], **wider, **constants["generations"].get(generation, {})})


def fitted_generations() -> frozenset[str]:
    """The generations whose rates were fitted to measurements of their own."""
    return frozenset(_constants()["measured"])


def forget() -> None:
    """Read the table and the constants anew at the next use."""
    for known in (table, _names, _constants):
        known.cache_clear()


@functools.cache
def _constants() -> dict[str, Any]:
    found: dict[str, Any] = json.loads((resources.files(__name__) / "constants.json").read_text("utf-8"))
    return found


@functools.cache
def _names() -> dict[str, Gpu]:
    names: dict[str, Gpu] = {}
    for gpu in table().values():
        for name in (gpu.name, *gpu.aliases, *gpu.device_names):
            names.setdefault(_plain(name), gpu)
    return names


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def _near(a: float, b: float, share: float) -> bool:
    return abs(a - b) <= share * max(a, b)


def _parse(data: Any, where: str) -> Gpu:
    if not isinstance(data, Mapping) or not isinstance(data.get("name"), str):
        raise InputError(f"{where}: a GPU file is a JSON object with a name and figures.")
    figures, sources = {}, {}
    for name, entry in dict(data.get("figures") or {}).items():
        if name not in FIGURES:
            raise InputError(f"{where}: {name!r} is no figure of a GPU; known are {', '.join(FIGURES)}.")
        value = entry.get("value") if isinstance(entry, Mapping) else entry
        figures[name] = _check(name, value, where)
        sources[name] = str(entry.get("source", "not given")) if isinstance(entry, Mapping) else "not given"
    for name in ("bandwidth_gb_s", "float32_tflops"):
        if name not in figures:
            raise InputError(f"{where}: {name} is missing ({FIGURES[name]}).")
    generation = str(data.get("generation", "unknown"))
    return Gpu(
        name=data["name"],
        title=str(data.get("title", data["name"])),
        vendor=str(data.get("vendor", "unknown")),
        generation=generation,
        figures=figures,
        sources=sources,
        rates=_rates(data.get("rates"), generation, where),
        aliases=tuple(data.get("aliases", ())),
        device_names=tuple(data.get("device_names", ())),
        price=_price(data.get("usd_per_hour"), where),
        note=data.get("note"),
    )


def _rates(given: Any, generation: str, where: str) -> Rates:
    rates = rates_of(generation)
    if given is None:
        return rates
    known = {f.name for f in fields(Rates)}
    for name, value in dict(given).items():
        if name not in known:
            raise InputError(f"{where}: {name!r} is no rate; known are {', '.join(sorted(known))}.")
        if name != "source" and not _is_number(value, 0, 1e12):
            raise InputError(f"{where}: the rate {name} must be a number of at least 0, not {value!r}.")
    return replace(rates, **given)


def _price(entry: Any, where: str) -> Price | None:
    if entry is None:
        return None
    value: Any = entry.get("value") if isinstance(entry, Mapping) else entry
    if not _is_number(value, 0, 1e6):
        raise InputError(f"{where}: the price must be a number of dollars an hour of at least 0, not {value!r}.")
    if not isinstance(entry, Mapping):
        return Price(float(value), "not given", None)
    return Price(float(value), str(entry.get("source", "not given")), entry.get("date"))


def _check(name: str, value: Any, where: str) -> float:
    low, high = _BOUNDS.get(name, _RATE_BOUNDS)
    if not _is_number(value, low, high):
        raise InputError(f"{where}: {name} must be a number between {low:g} and {high:g}, not {value!r}.")
    return float(value)


def _is_number(value: Any, low: float, high: float) -> bool:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    return math.isfinite(value) and low <= value <= high
