"""The result: what a generation cost, by component and call, with the conditions under which it was counted.

A profile is numbers and text only. ``to_dict`` gives the JSON object ``compute_profile`` that is described by
``schema.json``; ``from_dict`` reads it back without loss. Renderers read a profile and never a model.
"""

from __future__ import annotations

import platform
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import TYPE_CHECKING, Any

from .units import format_count, format_params, format_seconds

if TYPE_CHECKING:
    from .record import CallRecord, DirectProducts, Parts, Recorder

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
        from .render import profile_text

        return profile_text(self)

    def _repr_html_(self) -> str:
        from .render import profile_html

        return profile_html(self)


def disabled_profile(reason: str) -> dict[str, Any]:
    """The ``compute_profile`` object of a generation whose profile failed."""
    return {"schema_version": SCHEMA_VERSION, "enabled": False, "reason": reason}


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


# from a recording to a profile ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class PipelineFacts:
    """What is noted of a pipeline when its run is over."""

    pipeline: str
    model_id: str | None
    scheduler: str | None
    device: str
    dtype: str | None
    attention_backend: str
    components: dict[str, tuple[str, int, str | None]]  # class name, parameters, dtype
    component_order: tuple[str, ...]


def describe_pipeline(pipe: Any, parts: Parts) -> PipelineFacts:
    """Note class names, parameter counts and settings; touches nothing."""
    components = {}
    dtypes: Counter[str] = Counter()
    devices: Counter[str] = Counter()
    for name, module in parts.components.items():
        seen: dict[int, Any] = {id(p): p for p in module.parameters()}
        params = sum(_logical_numel(p) for p in seen.values())
        kinds = Counter({str(p.dtype).removeprefix("torch."): p.numel() for p in seen.values()})
        dtype = kinds.most_common(1)[0][0] if kinds else None
        if dtype is not None:
            dtypes[dtype] += params
        for p in seen.values():
            devices[str(p.device)] += 1
        inside = getattr(module, "_orig_mod", module)
        components[name] = (type(inside).__name__, params, dtype)
    return PipelineFacts(
        pipeline=type(pipe).__name__,
        model_id=_model_id(pipe),
        scheduler=type(parts.schedulers[0]).__name__ if parts.schedulers else None,
        device=_execution_device(pipe, devices),
        dtype=dtypes.most_common(1)[0][0] if dtypes else None,
        attention_backend=_attention_backend(),
        components=components,
        component_order=tuple(components),
    )


def _logical_numel(parameter: Any) -> int:
    """Elements of the weight as the model knows it, also where it is packed into fewer bytes."""
    state = getattr(parameter, "quant_state", None)
    shape = getattr(state, "shape", None)
    if shape is None:
        return int(parameter.numel())
    product = 1
    for size in shape:
        product *= int(size)
    return product


def _model_id(pipe: Any) -> str | None:
    config = getattr(pipe, "config", None)
    name = config.get("_name_or_path") if isinstance(config, Mapping) else None
    return name or None


def _execution_device(pipe: Any, devices: Counter[str]) -> str:
    try:
        return str(pipe._execution_device)
    except Exception:
        return devices.most_common(1)[0][0] if devices else "cpu"


def _attention_backend() -> str:
    try:
        from diffusers.models.attention_dispatch import _AttentionBackendRegistry

        name = _AttentionBackendRegistry.get_active_backend()[0]
        return str(getattr(name, "value", name))
    except Exception:
        return "native"


def versions() -> dict[str, str]:
    """Versions that decide what a profile says."""
    import diffusers
    import torch
    import transformers

    from . import __version__
    from .counters.module_rules import thop_distribution

    return {
        "diffmeter": __version__,
        "torch": str(torch.__version__),
        "diffusers": diffusers.__version__,
        "transformers": transformers.__version__,
        "thop": thop_distribution(),
        "python": platform.python_version(),
    }


def build_profile(recorder: Recorder, facts: PipelineFacts, kind: str, model_id: str | None = None) -> ComputeProfile:
    """Put a finished recording, whose calls are counted, together."""
    entries: dict[str, list[_Entry]] = {name: [] for name in facts.component_order}
    timeline = []
    for record in recorder.calls:
        index = _place(entries.setdefault(record.component, []), record)
        step = _step(recorder, record)
        timeline.append(TimelineEntry(record.component, index, step, record.generation, record.seconds))
    for direct in recorder.direct.values():
        entries.setdefault(direct.component, []).append(_Entry.of_direct(direct))
    components = {}
    for name, listed in entries.items():
        unlisted = (name, recorder.strangers.get(name, 0), None)
        class_name, params, dtype = facts.components.get(name, unlisted)
        components[name] = ComponentProfile(name, class_name, params, tuple(e.call() for e in listed), dtype)

    denoisers = _denoisers(recorder, components)
    generations = max(len(recorder.generations), 1)
    steps_run = _steps_run(recorder, denoisers)
    finished = [g for g in recorder.generations if kind == "observed"]
    arguments = dict(recorder.generations[0].arguments) if recorder.generations else {}
    input_shape, latent_shape = _image_shapes(recorder.calls, denoisers)
    conditions = Conditions(
        pipeline=facts.pipeline,
        kind=kind,
        model_id=model_id or facts.model_id,
        height=input_shape[-2] if input_shape and len(input_shape) >= 4 else arguments.get("height"),
        width=input_shape[-1] if input_shape and len(input_shape) >= 4 else arguments.get("width"),
        num_inference_steps=_requested_steps(recorder, steps_run),
        guidance_scale=_first_number(arguments, ("guidance_scale", "true_cfg_scale", "prior_guidance_scale")),
        batch=_batch(recorder.calls, denoisers),
        scheduler=facts.scheduler,
        dtype=facts.dtype,
        attention_backend=facts.attention_backend,
        device=facts.device,
        arguments=arguments,
        versions=versions(),
    )
    return ComputeProfile(
        components=components,
        denoisers=denoisers,
        conditions=conditions,
        steps_run=steps_run,
        generations=generations,
        uncounted=tuple(_uncounted(recorder)),
        differences=tuple(_differences(recorder)),
        inference_time_seconds=sum(g.seconds for g in finished) if finished else None,
        count_seconds=getattr(recorder, "count_seconds", None),
        input_shape=input_shape,
        latent_shape=latent_shape,
        timeline=tuple(timeline),
    )


def _step(recorder: Recorder, record: CallRecord) -> int | None:
    """The step that a call belongs to; None for what comes after the last one."""
    if record.step is None or record.generation < 0:
        return None
    made = recorder.generations[record.generation].steps
    return record.step if record.step < made or not made else None


class _Entry:
    """Calls of one signature being gathered."""

    def __init__(self, record: CallRecord) -> None:
        self.record = record
        self.count = 0
        self.seconds: float | None = None
        self.direct: DirectProducts | None = None

    @classmethod
    def of_direct(cls, direct: DirectProducts) -> _Entry:
        entry = cls.__new__(cls)
        entry.direct, entry.count, entry.seconds = direct, 1, None
        return entry

    def takes(self, record: CallRecord) -> bool:
        mine = self.record
        return (
            mine.method == record.method
            and mine.arguments.key == record.arguments.key
            and mine.count == record.count
            and mine.failure == record.failure
        )

    def add(self, record: CallRecord) -> None:
        self.count += 1
        if record.seconds is not None:
            self.seconds = (self.seconds or 0.0) + record.seconds

    def call(self) -> CallProfile:
        if self.direct is not None:
            return _direct_call(self.direct)
        record, count = self.record, self.record.count
        shapes = _named_shapes(record)
        first = next(iter(shapes.values()), (None, None))[0]
        return CallProfile(
            method=record.method,
            count=self.count,
            batch=first[0] if first else None,
            shapes={name: list(shape) for name, (shape, _) in shapes.items()},
            dtypes={name: dtype for name, (_, dtype) in shapes.items()},
            matmul_macs=None if count is None else count.matmul_macs,
            matmul_macs_without_attention=None if count is None else count.matmul_macs_without_attention,
            total_macs=None if count is None else count.total_macs,
            macs_by_op={} if count is None else dict(count.by_class),
            op_level={} if count is None else dict(count.op_level),
            counted="run" if record.in_run else "twin",
            seconds=self.seconds,
            output_shape=None if record.output_shape is None else list(record.output_shape),
            reason=record.failure,
        )


def _place(listed: list[_Entry], record: CallRecord) -> int:
    for index, entry in enumerate(listed):
        if entry.takes(record):
            entry.add(record)
            return index
    listed.append(_Entry(record))
    listed[-1].add(record)
    return len(listed) - 1


def _direct_call(direct: DirectProducts) -> CallProfile:
    from .counters.functional import WEIGHT_CLASSES
    from .live import class_of_operator

    by_class: Counter[str] = Counter()
    for operator, macs in direct.macs.items():
        by_class[class_of_operator(operator)] += macs
    return CallProfile(
        method=direct.path,
        count=1,
        batch=None,
        shapes={},
        dtypes={},
        matmul_macs=sum(direct.macs.values()),
        matmul_macs_without_attention=sum(m for name, m in by_class.items() if name in WEIGHT_CLASSES),
        total_macs=sum(direct.macs.values()),
        macs_by_op=dict(by_class),
        op_level=dict(direct.macs),
        counted="run",
    )


def _named_shapes(record: CallRecord) -> dict[str, tuple[tuple[int, ...], str]]:
    from .signature import TensorSpec

    found: dict[str, tuple[tuple[int, ...], str]] = {}

    def walk(name: str, value: Any) -> None:
        if isinstance(value, TensorSpec):
            found[name] = (value.shape, str(value.dtype).removeprefix("torch."))
        elif isinstance(value, Mapping):
            for key, item in value.items():
                walk(f"{name}.{key}", item)
        elif isinstance(value, (list, tuple)):
            for index, item in enumerate(value):
                walk(f"{name}.{index}", item)

    args, kwargs = record.arguments.tree
    for index, value in enumerate(args):
        walk(record.names[index] if index < len(record.names) else str(index), value)
    for name, value in kwargs.items():
        walk(name, value)
    return found


def _denoisers(recorder: Recorder, components: Mapping[str, ComponentProfile]) -> tuple[str, ...]:
    """The components called last before scheduler steps; without a scheduler, the one called most."""
    if recorder.denoiser_votes:
        return tuple(name for name in components if recorder.denoiser_votes.get(name))
    called = [c for c in components.values() if c.calls]
    named = [c for c in called if c.name.split(".")[-1] in ("unet", "transformer", "prior", "decoder")]
    candidates = named or called
    if not candidates:
        return ()
    return (max(candidates, key=lambda c: (c.call_count, c.total_macs or 0)).name,)


def _steps_run(recorder: Recorder, denoisers: tuple[str, ...]) -> int | None:
    total = 0
    for index, generation in enumerate(recorder.generations):
        requested = generation.arguments.get("num_inference_steps")
        made = generation.steps
        if not made:
            made = sum(1 for r in recorder.calls if r.generation == index and r.component in denoisers)
        total += min(made, requested) if isinstance(requested, int) and requested > 0 else made
    if not recorder.generations:
        total = sum(1 for record in recorder.calls if record.component in denoisers)
    return total or None


def _requested_steps(recorder: Recorder, steps_run: int | None) -> int | None:
    for generation in recorder.generations:
        requested = generation.arguments.get("num_inference_steps")
        if isinstance(requested, int):
            return requested
    return steps_run


def _first_number(arguments: Mapping[str, Any], names: tuple[str, ...]) -> float | None:
    for name in names:
        value = arguments.get(name)
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            return float(value)
    return None


def _batch(calls: list[CallRecord], denoisers: tuple[str, ...]) -> int | None:
    """Batch of the denoiser's first call, guidance included."""
    for record in calls:
        if record.component in denoisers and record.arguments.tensors:
            shape = record.arguments.tensors[0].shape
            return shape[0] if shape else None
    return None


def _image_shapes(
    calls: list[CallRecord], denoisers: tuple[str, ...]
) -> tuple[tuple[int, ...] | None, tuple[int, ...] | None]:
    """Shapes of the picture and of the latents it was decoded from, as the model that ran has them.

    With a decoder: what went in and what came out of its last call. Without: the denoiser's first tensor is both.
    """
    for record in reversed(calls):
        if record.method in ("decode", "tiled_decode") and record.arguments.tensors:
            return record.output_shape, record.arguments.tensors[0].shape
    for record in calls:
        if record.component in denoisers and record.arguments.tensors:
            shape = record.arguments.tensors[0].shape
            return (shape if len(shape) >= 4 and shape[1] == 3 else None), shape
    return None, None


def _uncounted(recorder: Recorder) -> Iterator[dict[str, Any]]:
    reasons: Counter[tuple[str, str, str]] = Counter()
    for record in recorder.calls:
        if record.failure is not None:
            reasons[record.component, "reason", record.failure] += 1
        elif record.count is not None:
            for operator, times in record.count.unknown.items():
                reasons[record.component, "op", operator] += times
    for direct in recorder.direct.values():
        for operator, times in direct.unknown.items():
            reasons[direct.component, "op", operator] += times
    for component, reason in recorder.notes:
        reasons[component, "reason", reason] += 1
    for (component, kind, text), times in reasons.items():
        yield {"component": component, kind: text, "calls": times}


def _differences(recorder: Recorder) -> Iterator[dict[str, Any]]:
    seen = set()
    for record in recorder.calls:
        if record.count is None:
            continue
        for group, (thop, op_level) in record.count.differences.items():
            entry = (record.component, record.method, group, thop, op_level)
            if entry not in seen:
                seen.add(entry)
                yield dict(zip(("component", "method", "op", "thop", "op_level"), entry, strict=False))
