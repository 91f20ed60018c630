"""The result: what a generation cost, by component and call, with the conditions under which it was counted.

A profile is numbers and text only. ``to_dict`` gives the JSON object ``compute_profile`` that is described by
``schema.json``; ``from_dict`` reads it back without loss. Renderers read a profile and never a model.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from diffmeter.units import format_count, format_params, format_seconds

SCHEMA_VERSION = "1.0"
CONVENTION = (
    "total_macs: thop's rules for modules plus B*H*N*M*D + B*H*N*M + B*H*N*M*Dv for each scaled-dot-product "
    "attention call. matmul_macs: convolutions, linear layers, matrix products and both attention products, from "
    "true shapes. FLOPs = 2 x MACs."
)
#: op classes of ``macs_by_op`` whose sum is ``matmul_macs``
PRODUCTS = ("conv", "linear", "attention", "matmul")


@dataclass(frozen=True)
class CallProfile:
    """Calls of one signature.

    Attributes:
        method: ``forward``, ``decode``, ...; for products found outside any call, the path of the submodule.
        count: how many such calls were made.
        batch: leading dimension of the first tensor argument.
        shapes: shape of each tensor argument by name.
        dtypes: dtype of each tensor argument by name.
        matmul_macs, matmul_macs_without_attention, total_macs: of one call; None if it could not be counted.
        macs_by_op: of one call, by op class; sums up to ``total_macs``.
        op_level: of one call, by dispatched operator; sums up to ``matmul_macs``.
        counted: ``"twin"`` (replayed) or ``"run"`` (counted while it ran, since its work depends on more than its
            signature).
        seconds: wall-clock time of all of them together; None without a real run.
        output_shape: shape of the first tensor that came back.
        reason: why it could not be counted.
    """

    method: str
    count: int
    batch: int | None
    shapes: dict[str, list[int]]
    dtypes: dict[str, str]
    matmul_macs: int | None
    matmul_macs_without_attention: int | None
    total_macs: int | None
    macs_by_op: dict[str, int]
    op_level: dict[str, int]
    counted: str = "twin"
    seconds: float | None = None
    output_shape: list[int] | None = None
    reason: str | None = None

    def times(self, name: str) -> int | None:
        """A per-call number times the number of calls."""
        value = getattr(self, name)
        return None if value is None else value * self.count


@dataclass(frozen=True)
class ComponentProfile:
    """One component: its parameters and its calls, in order of first use. Totals cover all of its calls."""

    name: str
    class_name: str
    params: int
    calls: tuple[CallProfile, ...] = ()
    dtype: str | None = None

    def _sum(self, name: str) -> int | None:
        counted = [value for value in (call.times(name) for call in self.calls) if value is not None]
        return sum(counted) if counted or not self.calls else None

    @property
    def matmul_macs(self) -> int | None:
        """Exact products of every counted call; None if none could be counted."""
        return self._sum("matmul_macs")

    @property
    def matmul_macs_without_attention(self) -> int | None:
        """Convolutions and linear layers of every counted call."""
        return self._sum("matmul_macs_without_attention")

    @property
    def total_macs(self) -> int | None:
        """The design's convention, over every counted call."""
        return self._sum("total_macs")

    @property
    def total_flops(self) -> int | None:
        """Twice ``total_macs``."""
        return None if self.total_macs is None else 2 * self.total_macs

    @property
    def call_count(self) -> int:
        """How often the component was entered."""
        return sum(call.count for call in self.calls)

    @property
    def macs_by_op(self) -> dict[str, int]:
        """MACs by op class over all calls."""
        total: Counter[str] = Counter()
        for call in self.calls:
            total.update({name: macs * call.count for name, macs in call.macs_by_op.items()})
        return dict(total)

    @property
    def seconds(self) -> float | None:
        """Wall-clock time inside the component; None without a real run."""
        known = [call.seconds for call in self.calls if call.seconds is not None]
        return sum(known) if known else None


@dataclass(frozen=True)
class Conditions:
    """Under which conditions a profile holds."""

    pipeline: str
    kind: str
    model_id: str | None = None
    height: int | None = None
    width: int | None = None
    num_inference_steps: int | None = None
    guidance_scale: float | None = None
    batch: int | None = None
    scheduler: str | None = None
    dtype: str | None = None
    attention_backend: str | None = None
    device: str | None = None
    arguments: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    scope: str = "every call of every component"
    #: of a single file of weights: its name and stored bytes, what it holds, and what was taken from elsewhere
    origin: dict[str, Any] | None = None
    #: what the number rests on that was not known: "tokens" and how many were assumed
    estimated: dict[str, str] = field(default_factory=dict)
    #: LoRAs and IP-Adapters at work: component, name, kind, rank, and the parameters that each adds
    adapters: list[dict[str, Any]] = field(default_factory=list)


@dataclass(frozen=True)
class TimelineEntry:
    """One call in order: its component, the index of its entry there, its step, generation and seconds."""

    component: str
    call: int
    step: int | None
    generation: int
    seconds: float | None


@dataclass(frozen=True)
class ComputeProfile:
    """What one or more generations cost.

    Attributes:
        components: by name.
        denoisers: names of the components that are called at each step.
        steps_run: steps that the denoiser really made over all generations.
        generations: how often the pipeline was called.
        uncounted: what is missing from the totals: ``{"component", "op" or "reason", "calls"}``.
        differences: where the two counters do not agree: ``{"component", "method", "op", "thop", "op_level"}``.
        inference_time_seconds: wall-clock time of the pipeline calls; None without a real run.
        timeline: every call in order.
    """

    components: dict[str, ComponentProfile]
    denoisers: tuple[str, ...]
    conditions: Conditions
    steps_run: int | None = None
    generations: int = 1
    uncounted: tuple[dict[str, Any], ...] = ()
    differences: tuple[dict[str, Any], ...] = ()
    inference_time_seconds: float | None = None
    count_seconds: float | None = None
    input_shape: tuple[int, ...] | None = None
    latent_shape: tuple[int, ...] | None = None
    timeline: tuple[TimelineEntry, ...] = ()

    # totals

    def _sum(self, name: str) -> int:
        return sum(value for c in self.components.values() if (value := getattr(c, name)) is not None)

    @property
    def matmul_macs(self) -> int:
        """Exact products of the whole run; a lower bound where ``complete`` is false."""
        return self._sum("matmul_macs")

    @property
    def matmul_macs_without_attention(self) -> int:
        """Convolutions and linear layers of the whole run."""
        return self._sum("matmul_macs_without_attention")

    @property
    def total_macs(self) -> int:
        """The whole run in the design's convention; a lower bound where ``complete`` is false."""
        return self._sum("total_macs")

    @property
    def total_flops(self) -> int:
        """Twice ``total_macs``."""
        return 2 * self.total_macs

    @property
    def total_params(self) -> int:
        """Parameters of all components."""
        return sum(c.params for c in self.components.values())

    @property
    def complete(self) -> bool:
        """Whether everything that ran was counted, and both counters agree to the last integer."""
        return not self.uncounted and not self.differences

    @property
    def denoiser(self) -> ComponentProfile | None:
        """The (first) denoiser."""
        return self.components[self.denoisers[0]] if self.denoisers else None

    @property
    def macs_per_step(self) -> int | None:
        """The denoisers' ``total_macs`` over the run, divided by their steps."""
        if not self.denoisers or not self.steps_run:
            return None
        macs = [self.components[name].total_macs for name in self.denoisers]
        known = [m for m in macs if m is not None]
        return (
            round(sum(known) / self.steps_run)
            if known and sum(known) % self.steps_run
            else (sum(known) // self.steps_run if known else None)
        )

    @property
    def throughput_tflops(self) -> float | None:
        """``total_flops`` per second of inference, in units of 10^12."""
        if not self.inference_time_seconds:
            return None
        return self.total_flops / self.inference_time_seconds / 1e12

    def macs_by_step(self) -> dict[int, int]:
        """MACs of every call by the step in which it was made (of all generations)."""
        total: Counter[int] = Counter()
        for entry in self.timeline:
            macs = self.components[entry.component].calls[entry.call].total_macs
            if entry.step is not None and macs is not None:
                total[entry.step] += macs
        return dict(sorted(total.items()))

    # to and from JSON

    def to_dict(self) -> dict[str, Any]:
        """The ``compute_profile`` object: every key of the design, and everything needed to read it back."""
        denoiser_params = sum(self.components[name].params for name in self.denoisers)
        params = denoiser_params or self.total_params
        per_step = self.macs_per_step
        flops_per_step = None if per_step is None else 2 * per_step
        return {
            "schema_version": SCHEMA_VERSION,
            "enabled": True,
            "model_component": " + ".join(self.denoisers) or None,
            "total_params": params,
            "params_str": format_params(params),
            "flops_per_step": flops_per_step,
            "flops_per_step_str": format_count(flops_per_step, "FLOPs"),
            "macs_per_step": per_step,
            "macs_per_step_str": format_count(per_step, "MACs"),
            "total_flops": self.total_flops,
            "total_flops_str": format_count(self.total_flops, "FLOPs"),
            "total_macs": self.total_macs,
            "total_macs_str": format_count(self.total_macs, "MACs"),
            "matmul_macs": self.matmul_macs,
            "matmul_macs_without_attention": self.matmul_macs_without_attention,
            "num_inference_steps": self.conditions.num_inference_steps,
            "steps_run": self.steps_run,
            "generations": self.generations,
            "inference_time_seconds": self.inference_time_seconds,
            "inference_time_str": format_seconds(self.inference_time_seconds),
            "throughput_tflops": self.throughput_tflops,
            "input_shape": None if self.input_shape is None else list(self.input_shape),
            "latent_shape": None if self.latent_shape is None else list(self.latent_shape),
            "pipeline_params": self.total_params,
            "convention": CONVENTION,
            "complete": self.complete,
            "uncounted": [dict(entry) for entry in self.uncounted],
            "denoisers": list(self.denoisers),
            "components": {name: _component_to_dict(c) for name, c in self.components.items()},
            "cross_check": {
                "counters": [self.conditions.versions.get("thop", "thop") + " + attention", "op level"],
                "agree": not self.differences,
                "differences": [dict(entry) for entry in self.differences],
            },
            "conditions": asdict(self.conditions),
            "count_seconds": self.count_seconds,
            "timeline": [[e.component, e.call, e.step, e.generation, e.seconds] for e in self.timeline],
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> ComputeProfile:
        """Read what :meth:`to_dict` wrote.

        Raises:
            ValueError: it is no profile, or of a newer schema.
        """
        version = str(data.get("schema_version", ""))
        if version.split(".")[0] != SCHEMA_VERSION.split(".")[0] or "components" not in data:
            raise ValueError(f"Not a compute profile of schema {SCHEMA_VERSION}: schema_version is {version!r}.")
        return cls(
            components={name: _component_from_dict(name, c) for name, c in data["components"].items()},
            denoisers=tuple(data["denoisers"]),
            conditions=_from(Conditions, data["conditions"]),
            steps_run=data["steps_run"],
            generations=data["generations"],
            uncounted=tuple(dict(entry) for entry in data["uncounted"]),
            differences=tuple(dict(entry) for entry in data["cross_check"]["differences"]),
            inference_time_seconds=data["inference_time_seconds"],
            count_seconds=data["count_seconds"],
            input_shape=None if data["input_shape"] is None else tuple(data["input_shape"]),
            latent_shape=None if data["latent_shape"] is None else tuple(data["latent_shape"]),
            timeline=tuple(TimelineEntry(*entry) for entry in data["timeline"]),
        )

    def __str__(self) -> str:
        from diffmeter.reports.profile_tables import profile_text

        return profile_text(self)

    def _repr_html_(self) -> str:
        from diffmeter.reports.profile_tables import profile_html

        return profile_html(self)


def disabled_profile(reason: str) -> dict[str, Any]:
    """The ``compute_profile`` object of a generation whose profile failed."""
    return {"schema_version": SCHEMA_VERSION, "enabled": False, "reason": reason}


def shapes_as_tuples(data: Mapping[str, Any]) -> dict[str, Any]:
    """A ``compute_profile`` as programs read it: ``input_shape`` and ``latent_shape`` are tuples, as in PyTorch.

    JSON, and so the dictionary that files are made from, has only lists.
    """
    shapes = ("input_shape", "latent_shape")
    return {name: tuple(value) if name in shapes and value is not None else value for name, value in data.items()}


def _component_to_dict(component: ComponentProfile) -> dict[str, Any]:
    return {
        "class_name": component.class_name,
        "params": component.params,
        "params_str": format_params(component.params),
        "dtype": component.dtype,
        "call_count": component.call_count,
        "total_macs": component.total_macs,
        "total_macs_str": format_count(component.total_macs, "MACs"),
        "total_flops": component.total_flops,
        "matmul_macs": component.matmul_macs,
        "matmul_macs_without_attention": component.matmul_macs_without_attention,
        "macs_by_op": component.macs_by_op,
        "seconds": component.seconds,
        "calls": [asdict(call) for call in component.calls],
    }


def _component_from_dict(name: str, data: Mapping[str, Any]) -> ComponentProfile:
    calls = tuple(_from(CallProfile, call) for call in data["calls"])
    return ComponentProfile(name, data["class_name"], data["params"], calls, data["dtype"])


def _from(kind: Any, data: Mapping[str, Any]) -> Any:
    names = {f.name for f in fields(kind)}
    return kind(**{name: value for name, value in data.items() if name in names})
