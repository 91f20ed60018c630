"""Hold predictions against published measurements, fit the rates that they rest on, and write the page about it.

    python benchmarks/prediction.py            predict every row and write docs/PREDICTION.md
    python benchmarks/prediction.py --fit      fit the rates first and write hardware/constants.json
    python benchmarks/prediction.py --check    predict every row and fail if the page says something else

``data/measured/`` holds the measurements with their sources. Needs no weights, no network and no GPU: what a run does
comes from a dry run of the pipeline, which takes a while for the first time and is kept in ``--cache``.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import pickle
import sys
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import least_squares

from diffmeter.prediction import energy, hardware, parallel, roofline
from diffmeter.prediction.hardware import Gpu
from diffmeter.prediction.operators import ATTENTION, CallOperators, Lifetime, Operator, counted
from diffmeter.prediction.predict import Options, estimate
from diffmeter.prediction.workload import Workload, Workloads

HERE = Path(__file__).resolve().parent
PAGE = HERE.parent / "docs" / "PREDICTION.md"
CONSTANTS = HERE.parent / "src" / "diffmeter" / "prediction" / "hardware" / "constants.json"
#: names of the GPUs in the benchmark's rows
NAMES = {"H100": "h100-sxm", "B200": "b200"}
#: the largest batch whose operators come from a dry run; those of larger ones are these, grown
LARGEST_BATCH = 4
#: what each rate is thought to be before any fit, how far it may be off (in its logarithm), and why
PRIORS: Mapping[str, tuple[float, float, str]] = {
    "matmul": (0.92, 0.1, "the products of a model are nearly as fast as the best ones"),
    "attention_limit": (3.3e12, 0.2, "FlashAttention-2 on H100: about 370 TFLOP/s with heads of 128"),
    "convolution_limit": (0.9e12, 0.3, "cuDNN on operands that it has to copy into its own order first"),
    "softmax_elements": (2.2e10, 0.15, "16 exponentials a cycle and multiprocessor at 1.4 GHz"),
    "bandwidth": (0.82, 0.1, "copies reach four fifths of the published bandwidth"),
    "strided_elements": (1.8e9, 0.3, "about one element a cycle and multiprocessor"),
    "kernel_seconds": (3e-6, 0.4, "an empty kernel takes two to four microseconds"),
    "host_seconds": (8e-6, 0.3, "PyTorch dispatches an operator in five to ten microseconds"),
    "step_seconds": (1.5e-3, 0.4, "guidance and scheduler: some dozen small operators and Python"),
    "run_seconds": (0.05, 0.4, "tokenizers and the scheduler's timesteps"),
    "pixel_seconds": (2.5e-8, 0.5, "float to byte on the host, some ten operations a pixel"),
}
#: an error of this size in a row weighs as much as a rate that is off by its whole prior
ROW_ERROR = 0.07


@dataclass(frozen=True)
class Row:
    """One measurement. ``group`` says which part of the page it is on."""

    group: str
    model: str
    gpu: str
    batch: int
    dtype: str
    mode: str
    arguments: tuple[tuple[str, int], ...]
    seconds: float
    joules: float | None
    peak_gb: float | None
    ulysses: int
    ring: int
    source: str
    note: str
    extra: tuple[tuple[str, Any], ...] = ()

    @property
    def gpus(self) -> int:
        """GPUs that shared the run."""
        return self.ulysses * self.ring

    @property
    def label(self) -> str:
        """The model's short name."""
        return self.model.rpartition("/")[2]


def rows() -> list[Row]:
    """Every measurement."""
    data = json.loads((HERE / "data" / "measured" / "ml_energy.json").read_text())
    found = [_row(entry, data["source"]) for entry in data["rows"]]
    others = json.loads((HERE / "data" / "measured" / "others.json").read_text())
    return found + [_row(entry, entry["source"]) for entry in others]


def _row(entry: Mapping[str, Any], source: str) -> Row:
    names = ("height", "width", "steps", "num_frames")
    each = entry.get("joules_each")
    extra = ("tf32", "clock_share", "weight_dtype", "engine")
    gpus = entry.get("num_gpus", 1)
    group = "other sources" if "engine" in entry else "one GPU" if gpus == 1 else "several GPUs"
    return Row(
        group=group,
        model=entry["model_id"],
        gpu=NAMES.get(entry["gpu"], entry["gpu"]),
        batch=entry["batch"],
        dtype=entry["dtype"],
        mode=entry.get("mode", "eager"),
        arguments=tuple((name, entry[name]) for name in names if entry.get(name)),
        seconds=entry["seconds"],
        joules=None if each is None else each * entry["batch"],
        peak_gb=entry.get("peak_memory_gb"),
        ulysses=entry.get("ulysses_degree", 1),
        ring=entry.get("ring_degree", 1),
        source=source,
        note=entry.get("note", ""),
        extra=tuple((name, entry[name]) for name in extra if name in entry),
    )


# what a run does -----------------------------------------------------------------------------------------------------


class Runs:
    """Workloads of rows, each made once and kept in a folder."""

    def __init__(self, cache: Path) -> None:
        self._cache = cache
        self._models: dict[tuple[str, str], Workloads] = {}
        self._known: dict[tuple[Any, ...], Workload] = {}
        cache.mkdir(parents=True, exist_ok=True)

    def of(self, row: Row) -> Workload:
        """The workload of a row."""
        batch = row.batch if row.peak_gb is not None else min(row.batch, LARGEST_BATCH)
        key = (row.model, row.dtype, batch, row.arguments)
        if key not in self._known:
            self._known[key] = self._kept(key)
        return grown(self._known[key], row.batch // batch)

    def _kept(self, key: tuple[Any, ...]) -> Workload:
        file = self._cache / (hashlib.sha256(repr(key).encode()).hexdigest()[:24] + ".pickle")
        if file.is_file():
            kept: Workload = pickle.loads(file.read_bytes())
            return kept
        model, dtype, batch, arguments = key
        if (model, dtype) not in self._models:
            self._models = {(model, dtype): Workloads(model, dtype=dtype)}  # one model at a time
        given: dict[str, Any] = dict(arguments)
        if "num_frames" in given and batch > 1:
            given["prompt"] = ["a photo"] * batch  # CogVideoX makes one video a prompt, whatever it is asked for
        elif batch > 1:
            given["batch"] = batch
        print("dry run of", model, given, flush=True)
        made = self._models[model, dtype].of(**given)
        file.write_bytes(pickle.dumps(made))
        return made


def grown(workload: Workload, times: int) -> Workload:
    """The workload of a batch that is so many times as large: every operator has as many times the rows."""
    if times == 1:
        return workload
    components = {
        name: replace(part, calls=tuple((_grown_call(call, times), n) for call, n in part.calls))
        for name, part in workload.components.items()
    }
    return replace(workload, components=components, images=workload.images * times, pixels=workload.pixels * times)


def _grown_call(call: CallOperators, times: int) -> CallOperators:
    return replace(
        call,
        eager=tuple(_grown_operator(o, times) for o in call.eager),
        fused=tuple(_grown_operator(o, times) for o in call.fused),
        lifetimes=tuple(Lifetime(life.bytes * times, life.first, life.last) for life in call.lifetimes),
        input_bytes=call.input_bytes * times,
    )


def _grown_operator(operator: Operator, times: int) -> Operator:
    first, *rest = operator.shape
    if operator.kind == ATTENTION:
        shape = (first * times, *rest)
    elif len(operator.shape) == 4:
        shape = (first, rest[0] * times, *rest[1:]) if operator.weight_bytes else (first * times, *rest)
    else:
        shape = (first * times,)
    return replace(
        operator,
        shape=shape,
        flops=operator.flops * times,
        bytes_in=(operator.bytes_in - operator.weight_bytes) * times + operator.weight_bytes,
        bytes_out=operator.bytes_out * times,
    )


def gpu_of(row: Row) -> Gpu:
    """The GPU of a row, with its clock where that was locked."""
    gpu = hardware.find(row.gpu)
    extra = dict(row.extra)
    if extra.get("tf32"):
        gpu = gpu.with_figures(float32_tflops=gpu.figure("tf32_tflops"))
    share = extra.get("clock_share")
    if share is None:
        return gpu
    rates = {name: value * share for name, value in gpu.figures.items() if name.endswith("_tflops")}
    return gpu.with_figures(**rates)


def options_of(row: Row) -> Options:
    """How a row was run."""
    weights = dict(row.extra).get("weight_dtype")
    return Options(compile=row.mode == "compiled", weight_dtype=weights, ulysses=row.ulysses, ring=row.ring)


# the fit -------------------------------------------------------------------------------------------------------------


class Fitted:
    """A row prepared for many evaluations: its operators counted and shared out once."""

    def __init__(self, row: Row, runs: Runs) -> None:
        self.row = row
        self._gpu = gpu_of(row)
        workload, options = runs.of(row), options_of(row)
        self._pixels, self._compiled = workload.pixels, options.compile
        self._steps = max(sum(n for _, n in w.calls) for w in workload.components.values() if w.denoiser)
        self._calls = []
        self.exchanged = []
        for part in workload.components.values():
            split = options.split if part.denoiser else parallel.Degrees()
            for call, n in part.calls:
                operators = counted(call.fused if options.compile else call.eager)
                self._calls.append((list(parallel.share(operators, split)), n))
                self.exchanged.append((operators, split, n))

    def time(self, rates: hardware.Rates) -> roofline.Time:
        """The whole run with these rates, exchange between GPUs not included."""
        gpu = replace(self._gpu, rates=rates)
        total = roofline.NOTHING
        for operators, n in self._calls:
            total += roofline.time_of(operators, gpu, graphs=self._compiled) * n
        besides = rates.run_seconds + self._steps * rates.step_seconds + self._pixels * rates.pixel_seconds
        return replace(total, seconds=total.seconds + besides)

    def exchange(self, rates: hardware.Rates) -> float:
        """Seconds of exchange between GPUs with these rates."""
        gpu = replace(self._gpu, rates=rates)
        return sum(n * parallel.exchange_seconds(o, split, gpu) for o, split, n in self.exchanged)

    def rates(self, shared: Mapping[str, float]) -> hardware.Rates:
        """The GPU's rates with the shared ones replaced."""
        return replace(self._gpu.rates, **shared)


def fit_times(prepared: Sequence[Fitted], start: Mapping[str, float] | None = None) -> dict[str, float]:
    """The rates of :data:`PRIORS` from rows on one GPU: as near to the measured times and to the priors as can be.

    Each model on each GPU weighs the same, however many batches it was measured at.
    """
    names = list(PRIORS)
    prior = np.log([PRIORS[name][0] for name in names])
    width = np.array([PRIORS[name][1] for name in names])
    sizes: dict[tuple[str, str, str], int] = defaultdict(int)
    for item in prepared:
        sizes[item.row.model, item.row.gpu, item.row.mode] += 1

    def residuals(x: NDArray[np.float64]) -> list[float]:
        shared = dict(zip(names, np.exp(x), strict=True))
        errors = []
        for item in prepared:
            error = math.log(item.time(item.rates(shared)).seconds / item.row.seconds)
            errors.append(error / ROW_ERROR / math.sqrt(sizes[item.row.model, item.row.gpu, item.row.mode] / 2))
        return [*errors, *((x - prior) / width)]

    begin = prior if start is None else np.log([start[name] for name in names])
    found = least_squares(residuals, begin, loss="soft_l1", max_nfev=8, diff_step=1e-3)
    return {name: float(value) for name, value in zip(names, np.exp(found.x), strict=True)}


def fit_exchange(prepared: Sequence[Fitted], shared: Mapping[str, float]) -> dict[str, float]:
    """The rates of exchanges between GPUs, everything else as it is."""
    base = [(item, item.time(item.rates(shared)).seconds) for item in prepared]
    unit = {"link": 1.0, "exchange_seconds": 0.0}, {"link": math.inf, "exchange_seconds": 1.0}
    parts = [[item.exchange(item.rates({**shared, **one})) for one in unit] for item, _ in base]

    def residuals(x: NDArray[np.float64]) -> list[float]:
        link, latency = np.exp(x)
        return [
            math.log((seconds + moved / link + times * latency) / item.row.seconds)
            for (item, seconds), (moved, times) in zip(base, parts, strict=True)
        ]

    found = least_squares(
        residuals, np.log([0.5, 5e-5]), bounds=np.log([[0.2, 1e-6], [1.0, 1e-2]]), loss="soft_l1", f_scale=0.1
    )
    return {"link": float(np.exp(found.x[0])), "exchange_seconds": float(np.exp(found.x[1]))}


def fit_energy(prepared: Sequence[Fitted], shared: Mapping[str, float]) -> dict[str, float]:
    """Shares of the power limit, from measured energy over measured time."""
    names = ("idle_share", "product_share", "traffic_share")
    times = []
    for item in prepared:
        if item.row.joules is not None:
            done = replace(item.time(item.rates(shared)), seconds=item.row.seconds)
            times.append((item, done))

    prior = np.log([0.3, 0.5, 0.3])

    def residuals(x: NDArray[np.float64]) -> list[float]:
        shares = dict(zip(names, np.exp(x), strict=True))
        errors = list((x - prior) / 0.5)
        for item, done in times:
            gpu = replace(gpu_of(item.row), rates=item.rates({**shared, **shares}))
            errors.append(math.log(energy.joules(done, gpu) * item.row.gpus / (item.row.joules or 1.0)) / 0.1)
        return errors

    found = least_squares(residuals, prior, loss="soft_l1")
    return {name: float(value) for name, value in zip(names, np.exp(found.x), strict=True)}


def fit_all(all_rows: Sequence[Row], runs: Runs) -> dict[str, Any]:
    """All constants from the rows that are fitted to, with the spreads that leaving models out shows."""
    learned = [row for row in all_rows if is_fitted(row)]
    prepared = [Fitted(row, runs) for row in learned if row.gpus == 1]
    shared = fit_times(prepared)
    print("times", shared, flush=True)
    errors = []
    for model in sorted({item.row.model for item in prepared}):
        kept = [item for item in prepared if item.row.model != model]
        without = fit_times(kept, shared)
        left = [item for item in prepared if item.row.model == model]
        found = [math.log(item.time(item.rates(without)).seconds / item.row.seconds) for item in left]
        print("without", model, [f"{error:+.0%}" for error in found], flush=True)
        errors += [(item.row, error) for item, error in zip(left, found, strict=True)]
    several = [Fitted(row, runs) for row in learned if row.gpus > 1]
    shared |= fit_exchange(several, shared)
    shared |= fit_energy(prepared, shared)
    print("all", shared, flush=True)
    return {"shared": shared, "left_out": [(row_name(row), row.gpu, row.batch, row.mode, e) for row, e in errors]}


def is_fitted(row: Row) -> bool:
    """Whether the rates are fitted to a row: batches of 1 and 4 of the benchmark, and two U-Nets on A100."""
    if row.group == "other sources":
        return row.source.startswith("fal-ai/")
    return row.batch in (1, LARGEST_BATCH)


def row_name(row: Row) -> str:
    """The model and how large its output is."""
    sizes = dict(row.arguments)
    frames = f" x {sizes['num_frames']}" if "num_frames" in sizes else ""
    return f"{row.label}, {sizes['width']} x {sizes['height']}{frames}, {sizes['steps']} steps"


def constants(found: Mapping[str, Any], before: Mapping[str, Any], outcome: Sequence[Outcome]) -> dict[str, Any]:
    """The file of constants, with the spreads of the rows that nothing was fitted to."""
    left_out = [abs(entry[-1]) for entry in found["left_out"]]
    strange = [abs(math.log(o.ratio)) for o in outcome if o.row.group == "other sources" and not is_known_gpu(o.row)]
    joules = [abs(math.log(o.joules_ratio)) for o in outcome if o.joules_ratio is not None]
    values = {
        **before["all"],
        **{name: float(f"{value:.4g}") for name, value in found["shared"].items()},
        "spread": round(float(np.quantile(left_out, 0.9)), 3),
        "energy_spread": round(float(np.quantile(joules, 0.9)), 3),
        "source": "fitted to measurements on A100, H100 and B200, see docs/PREDICTION.md",
    }
    spread = round(float(np.quantile(strange, 0.9)), 3) if strange else before["unmeasured"].get("spread", 0.5)
    return {
        "all": values,
        "generations": before["generations"],
        "unmeasured": {
            "spread": spread,
            "energy_spread": round(values["energy_spread"] + spread, 3),
            "source": "rates fitted to A100, H100 and B200 are taken over, and the range is wider",
        },
        "measured": before["measured"],
    }


def is_known_gpu(row: Row) -> bool:
    """Whether measurements on this kind of GPU were fitted to."""
    return hardware.find(row.gpu).generation in hardware.fitted_generations()


# the outcome ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Outcome:
    """A row and what was predicted for it."""

    row: Row
    seconds: float
    joules: float | None
    peak_bytes: int

    @property
    def ratio(self) -> float:
        """Predicted over measured time."""
        return self.seconds / self.row.seconds

    @property
    def joules_ratio(self) -> float | None:
        """Predicted over measured energy."""
        return None if self.row.joules is None or self.joules is None else self.joules / self.row.joules

    @property
    def peak_ratio(self) -> float | None:
        """Predicted over measured peak memory. The sources print GiB under the name of GB."""
        return None if self.row.peak_gb is None else self.peak_bytes / 2**30 / self.row.peak_gb


def predicted(all_rows: Iterable[Row], runs: Runs) -> list[Outcome]:
    """Every row that the engine of this package's users ran, predicted."""
    found = []
    for row in all_rows:
        result = estimate(runs.of(row), gpu_of(row), options_of(row))
        if result.seconds is None:
            raise SystemExit(f"{row} cannot be predicted")
        found.append(Outcome(row, result.seconds, result.joules, result.peak_memory_bytes))
    return found


def is_counted(row: Row) -> bool:
    """Whether a row is in the summary: another engine than diffusers runs other kernels."""
    return dict(row.extra).get("engine", "diffusers") == "diffusers"


def miss(ratio: float) -> float:
    """By how much a prediction is off, a share of the measurement."""
    return abs(ratio - 1)


# the page ------------------------------------------------------------------------------------------------------------

#: what is to be reached: quantity, part of the rows, the median and what nine in ten stay within
TARGETS = (
    ("one GPU", "seconds", 0.06, 0.15),
    ("one GPU", "joules", 0.10, 0.25),
    ("several GPUs", "seconds", 0.12, 0.25),
)


def misses(outcome: Iterable[Outcome], quantity: str) -> list[float]:
    """By how much each row is off in seconds, joules or peak memory, where that was measured."""
    ratios = {
        "seconds": [o.ratio for o in outcome],
        "joules": [o.joules_ratio for o in outcome],
        "peak memory": [o.peak_ratio for o in outcome],
    }[quantity]
    return [miss(ratio) for ratio in ratios if ratio is not None]


def summary(found: Sequence[float]) -> str:
    """Median, what nine in ten stay within, and the largest, as cells of a table."""
    if not found:
        return "0 | | |"
    nine = float(np.quantile(found, 0.9))
    return f"{len(found)} | {median(found):.1%} | {nine:.1%} | {max(found):.1%} |"


def page(outcome: Sequence[Outcome], left_out: Sequence[Sequence[Any]]) -> str:
    """The text of docs/PREDICTION.md."""
    text = (HERE / "data" / "measured" / "page.md").read_text()
    counted_rows = [o for o in outcome if is_counted(o.row)]
    parts = {
        "summary": _summary(counted_rows),
        "left_out": _left_out(left_out),
        "constants": _constants_table(),
        "rows": "\n\n".join(
            _rows_table(counted_rows, group) for group in ("one GPU", "other sources", "several GPUs")
        ),
        "engines": _rows_table([o for o in outcome if not is_counted(o.row)], None),
    }
    for name, part in parts.items():
        text = text.replace("{{" + name + "}}", part)
    return text


def _summary(outcome: Sequence[Outcome]) -> str:
    lines = ["| rows | quantity | number | median | nine in ten within | largest |", "|---|---|---:|---:|---:|---:|"]
    cases: list[tuple[str, list[Outcome]]] = []
    for group in ("one GPU", "several GPUs"):
        of_group = [o for o in outcome if o.row.group == group]
        cases += [
            (f"{group}, fitted to (batches 1 and {LARGEST_BATCH})", [o for o in of_group if is_fitted(o.row)]),
            (f"{group}, not fitted to (other batches)", [o for o in of_group if not is_fitted(o.row)]),
        ]
    others = [o for o in outcome if o.row.group == "other sources"]
    cases += [
        ("other sources, fitted to (U-Nets on A100)", [o for o in others if is_fitted(o.row)]),
        (
            "other sources, not fitted to, GPUs of the fit",
            [o for o in others if not is_fitted(o.row) and is_known_gpu(o.row)],
        ),
        ("other sources, GPUs that nothing was fitted to", [o for o in others if not is_known_gpu(o.row)]),
    ]
    for name, part in cases:
        for quantity in ("seconds", "joules", "peak memory"):
            found = misses(part, quantity)
            if found:
                lines.append(f"| {name} | {quantity} | {summary(found)}")
    return "\n".join(lines)


def _left_out(left_out: Sequence[Sequence[Any]]) -> str:
    lines = ["| left out | number | median | nine in ten within | largest |", "|---|---:|---:|---:|---:|"]
    by_model: dict[str, list[float]] = defaultdict(list)
    for name, *_, error in left_out:
        by_model[name.partition(",")[0]].append(miss(math.exp(error)))
    lines += [f"| {name} | {summary(found)}" for name, found in sorted(by_model.items())]
    every = [value for found in by_model.values() for value in found]
    return "\n".join([*lines, f"| all of them, each left out in turn | {summary(every)}"])


def _constants_table() -> str:
    kept = json.loads(CONSTANTS.read_text())["all"]
    lines = ["| constant | thought before | fitted | why it was thought |", "|---|---:|---:|---|"]
    lines += [f"| `{name}` | {prior:g} | {kept[name]:g} | {why} |" for name, (prior, _, why) in PRIORS.items()]
    return "\n".join(lines)


def _rows_table(outcome: Iterable[Outcome], group: str | None) -> str:
    chosen = [o for o in outcome if group is None or o.row.group == group]
    chosen.sort(key=lambda o: -miss(o.ratio))
    lines = [] if group is None else [f"### {group[0].upper() + group[1:]}", ""]
    lines += [
        "| model | GPU | batch | mode | seconds, measured | predicted | off | joules, measured | predicted | off | "
        "GiB, measured | predicted | off | fitted to |",
        "|---|---|---:|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|---|",
    ]
    return "\n".join([*lines, *map(_line, chosen)])


def _line(o: Outcome) -> str:
    row = o.row
    gpus = f"{row.gpus} x {row.gpu} (U{row.ulysses} R{row.ring})" if row.gpus > 1 else row.gpu
    cells = [row_name(row), gpus, str(row.batch), f"{row.mode}, {row.dtype}"]
    cells += _triple(row.seconds, o.seconds, 3) + _triple(row.joules, o.joules, 0)
    cells += _triple(row.peak_gb, o.peak_bytes / 2**30, 2)
    return "| " + " | ".join([*cells, "yes" if is_fitted(row) else "no"]) + " |"


def _triple(measured: float | None, value: float | None, decimals: int) -> list[str]:
    if measured is None or value is None:
        return ["", "", ""]
    return [f"{measured:,.{decimals}f}", f"{value:,.{decimals}f}", f"{value / measured - 1:+.1%}"]


def main() -> int:
    """Predict every row; fit first if asked to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fit", action="store_true")
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--cache", type=Path, default=HERE.parent / "build" / "prediction")
    chosen = parser.parse_args()
    every, runs = rows(), Runs(chosen.cache)
    left_out_file = HERE / "results" / "prediction_left_out.json"
    if chosen.fit:
        found = fit_all(every, runs)
        left_out_file.write_text(json.dumps(found["left_out"], indent=1) + "\n")
        for _ in range(2):  # the spreads are those of predictions with the new rates
            new = constants(found, json.loads(CONSTANTS.read_text()), predicted(every, runs))
            CONSTANTS.write_text(json.dumps(new, indent=2) + "\n")
            hardware.forget()
    text = page(predicted(every, runs), json.loads(left_out_file.read_text()))
    if chosen.check:
        return int(PAGE.read_text() != text)
    PAGE.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
