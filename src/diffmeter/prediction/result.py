"""What a prediction says: numbers with ranges, what bounds each component, and what they rest on. Plain data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

Range = tuple[float, float]


@dataclass(frozen=True)
class ComponentPrediction:
    """One component in one call of the pipeline.

    Attributes:
        class_name: of the component.
        params: number of its parameters.
        calls: how often it is called.
        seconds: time inside it; None where the GPU's rates are not known.
        bound: ``compute``, ``memory`` or ``launch``: what most of that time goes into.
        flops: FLOPs of its products.
        tflops_per_second: those over ``seconds``, in 10^12.
        mfu: those over the GPU's dense peak at the dtype of the run, a share of one.
        joules: energy of the GPU during that time.
        weight_bytes: of its weights as they lie on the GPU.
        activation_bytes: what its calls need besides, at the worst moment.
    """

    class_name: str
    params: int
    calls: int
    seconds: float | None
    bound: str | None
    flops: int
    tflops_per_second: float | None
    mfu: float | None
    joules: float | None
    weight_bytes: int
    activation_bytes: int


@dataclass(frozen=True)
class Advice:
    """A change that makes a run fit, with what it costs."""

    change: str
    options: Mapping[str, Any]
    peak_memory_bytes: int
    seconds: float | None


@dataclass(frozen=True)
class Prediction:
    """One call of a pipeline on one GPU, or on several of a kind: warm, loading and compiling not included.

    Attributes:
        model, pipeline: what was asked for, and its class.
        gpu, gpu_name: its title and its name in the table.
        gpus: how many share the run.
        dtype, mode, offload, weight_dtype: how it runs: ``eager`` or ``compiled``, where its weights
            are and what they are.
        images: images or videos that come out of the call.
        seconds, seconds_range: time of the call; the range holds nine measurements in ten.
        joules, joules_range: energy of all GPUs.
        usd, usd_per_hour, price_source: money, and the price it is from.
        grams_co2: None unless the grid's intensity was given.
        tflops_per_second, mfu: of the whole call, products only, per GPU.
        peak_memory_bytes: allocated on each GPU at the worst moment.
        memory_bytes: what each GPU has for allocations.
        fits: None where the memory is not known.
        advice_to_fit: the least intrusive change that makes it fit; None if it fits, or if nothing does.
        components: by name.
        conditions: arguments of the run.
        hardware: figures used, with their sources.
        estimates: what the numbers rest on that is not known.
    """

    model: str
    pipeline: str
    gpu: str
    gpu_name: str
    gpus: int
    dtype: str
    mode: str
    offload: str
    weight_dtype: str | None
    images: int
    seconds: float | None
    seconds_range: Range | None
    joules: float | None
    joules_range: Range | None
    usd: float | None
    usd_per_hour: float | None
    price_source: str | None
    grams_co2: float | None
    tflops_per_second: float | None
    mfu: float | None
    peak_memory_bytes: int
    memory_bytes: int | None
    fits: bool | None
    advice_to_fit: Advice | None
    components: Mapping[str, ComponentPrediction]
    conditions: Mapping[str, Any] = field(default_factory=dict)
    hardware: Mapping[str, Any] = field(default_factory=dict)
    estimates: tuple[str, ...] = ()

    @property
    def kwh(self) -> float | None:
        """The energy in kilowatt-hours."""
        return None if self.joules is None else self.joules / 3.6e6

    def per_image(self, name: str, images: int = 1) -> float | None:
        """``seconds``, ``joules``, ``usd`` or ``grams_co2`` for so many of the images that the call makes."""
        value = getattr(self, name)
        return None if value is None else value / self.images * images

    def to_dict(self) -> dict[str, Any]:
        """The ``predicted`` object of the JSON."""
        data = asdict(self)
        for name in ("seconds_range", "joules_range"):
            data[name] = None if data[name] is None else list(data[name])
        # energy and emissions also by the names that codecarbon gives them, in kWh and kg
        data["energy_consumed"] = self.kwh
        data["emissions"] = None if self.grams_co2 is None else self.grams_co2 / 1000
        data["estimates"] = list(self.estimates)
        return data

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Prediction:
        """What :meth:`to_dict` wrote."""
        known = {name: data[name] for name in cls.__dataclass_fields__ if name in data}
        for name in ("seconds_range", "joules_range"):
            known[name] = None if known[name] is None else tuple(known[name])
        known["components"] = {n: ComponentPrediction(**c) for n, c in data["components"].items()}
        known["advice_to_fit"] = None if data["advice_to_fit"] is None else Advice(**data["advice_to_fit"])
        known["estimates"] = tuple(data["estimates"])
        return cls(**known)
