"""From a finished recording to a profile: gather calls by signature, find the denoiser, note the conditions."""

from __future__ import annotations

import platform
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from torch import nn

from diffmeter.compat import active_attention_backend, execution_device, step_cache_of, uncompiled
from diffmeter.metering.counters.kinds import Kind, kind_of
from diffmeter.metering.counters.operators import table
from diffmeter.metering.counters.packed import parameters_by_module, parameters_of
from diffmeter.metering.pipelines import roles
from diffmeter.metering.pipelines.parts import Parts
from diffmeter.metering.watching.signature import TensorSpec
from diffmeter.models.adapters import active_adapters
from diffmeter.models.blueprint import origin_of
from diffmeter.profile import (
    CallProfile,
    ComponentProfile,
    ComputeProfile,
    Conditions,
    ModuleFacts,
    RunConditions,
    TimelineEntry,
    common,
    common_items,
    images_asked,
)

from .calls import CallRecord, DirectProducts, Generation, Recording


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
    origin: dict[str, Any] | None = None  # of a pipeline made from a single file
    adapters: list[dict[str, Any]] = field(default_factory=list)
    caches: dict[str, str] = field(default_factory=dict)
    modules: dict[str, dict[str, ModuleFacts]] = field(default_factory=dict)  # by component, and the path in it


def describe_pipeline(pipe: Any, parts: Parts) -> PipelineFacts:
    """Note class names, parameter counts and settings; touches nothing."""
    components = {}
    dtypes: Counter[str] = Counter()
    devices: Counter[str] = Counter()
    for name, module in (*parts.components.items(), *parts.engines.items()):
        seen: dict[int, Any] = {id(p): p for p in _parameters(module)}
        params = parameters_of(module) if isinstance(module, nn.Module) else sum(p.numel() for p in seen.values())
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
        origin=origin_of(pipe),
        modules={name: _modules_of(module) for name, module in parts.components.items()},
        adapters=[a for name, module in parts.components.items() for a in active_adapters(name, module)],
        caches={
            name: type(cache).__name__
            for name, module in parts.components.items()
            if (cache := step_cache_of(uncompiled(module))) is not None
        },
    )


def _modules_of(component: object) -> dict[str, ModuleFacts]:
    """Every module of a component: its class and the parameters that it has itself, each parameter counted once."""
    inside = uncompiled(component) if isinstance(component, nn.Module) else None
    if inside is None:
        return {}
    params = parameters_by_module(inside)
    return {path: ModuleFacts(type(module).__name__, params[path]) for path, module in inside.named_modules()}


def _parameters(component: Any) -> Iterator[Any]:
    """The parameters of a module, or of the modules that an engine in a component's place holds."""
    held = [component] if isinstance(component, nn.Module) else list(getattr(component, "__dict__", {}).values())
    for module in held:
        if isinstance(module, nn.Module):
            yield from module.parameters()


def _model_id(pipe: Any) -> str | None:
    config = getattr(pipe, "config", None)
    name = config.get("_name_or_path") if isinstance(config, Mapping) else None
    return name or None


def _execution_device(pipe: Any, devices: Counter[str]) -> str:
    try:
        return str(execution_device(pipe))
    except Exception:
        return devices.most_common(1)[0][0] if devices else "cpu"


def _attention_backend() -> str:
    try:
        return active_attention_backend()
    except Exception:
        return "native"


def versions() -> dict[str, str]:
    """Versions that decide what a profile says."""
    import diffusers
    import torch
    import transformers

    from diffmeter._version import __version__
    from diffmeter.metering.counters.module_rules import thop_distribution

    return {
        "diffmeter": __version__,
        "torch": str(torch.__version__),
        "diffusers": diffusers.__version__,
        "transformers": transformers.__version__,
        "thop": thop_distribution(),
        "python": platform.python_version(),
    }


def build_profile(
    recording: Recording,
    facts: PipelineFacts,
    kind: str,
    model_id: str | None = None,
    stand_ins: Mapping[str, str] | None = None,
) -> ComputeProfile:
    """Put a finished recording, whose calls are counted, together; ``stand_ins`` stood in for arguments."""
    entries: dict[str, list[_Entry]] = {name: [] for name in facts.component_order}
    timeline = []
    for record in recording.calls:
        if _is_trifle(recording, record):
            continue
        index = _place(entries.setdefault(record.component, []), record)
        step = _step(recording, record)
        timeline.append(TimelineEntry(record.component, index, step, record.generation, record.seconds))
    for direct in recording.direct.values():
        entries.setdefault(direct.component, []).append(_Entry.of_direct(direct))
    components = {}
    for name, listed in entries.items():
        unlisted = (name, recording.non_components.get(name, 0), None)
        class_name, params, dtype = facts.components.get(name, unlisted)
        calls, modules = tuple(e.call() for e in listed), facts.modules.get(name, {})
        components[name] = ComponentProfile(name, class_name, params, calls, dtype, modules)

    named = roles.denoisers(
        recording.last_before_step, {c.name: (c.call_count, c.total_macs or 0) for c in components.values()}
    )
    runs = tuple(_run(recording, generation, named, kind) for generation in recording.generations)
    asked = _common_run(runs, facts, _shapes(recording.calls, named))
    steps_run = _sum(run.steps_run for run in runs) or _calls_of(recording.calls, named)
    conditions = Conditions(
        pipeline=facts.pipeline,
        kind=kind,
        model_id=model_id or facts.model_id,
        height=asked.height,
        width=asked.width,
        num_inference_steps=asked.num_inference_steps if runs else steps_run,
        guidance_scale=asked.guidance_scale,
        batch=asked.batch,
        denoiser_batch=_denoiser_batch(components, named),
        scheduler=facts.scheduler,
        dtype=facts.dtype,
        attention_backend=facts.attention_backend,
        device=facts.device,
        arguments=asked.arguments,
        stand_ins=dict(stand_ins or {}),
        versions=versions(),
        origin=facts.origin,
        adapters=facts.adapters,
        caches={**facts.caches, **{r.component: "declared" for r in recording.calls if r.reused}},
    )
    seconds = [run.seconds for run in runs if run.seconds is not None]
    return ComputeProfile(
        components=components,
        denoisers=named,
        conditions=conditions,
        steps_run=steps_run,
        generations=len(runs) or int(not recording.empty),
        uncounted=tuple(_uncounted(recording)),
        differences=tuple(_differences(recording)),
        left_out=tuple(_left_out(recording)),
        user_formulas=tuple(_of_user(recording)),
        inference_time_seconds=sum(seconds) if seconds else None,
        count_seconds=recording.count_seconds,
        input_shape=asked.input_shape,
        latent_shape=asked.latent_shape,
        timeline=tuple(timeline),
        runs=runs,
    )


def _run(recording: Recording, generation: Generation, named: tuple[str, ...], kind: str) -> RunConditions:
    """The conditions of one generation."""
    calls = [record for record in recording.calls if record.generation == generation.number]
    arguments = generation.arguments
    shapes = _shapes(calls, named)
    requested = arguments.get("num_inference_steps")
    made = generation.steps or _calls_of(calls, named)
    if made and isinstance(requested, int) and requested > 0:
        made = min(made, requested)  # second-order schedulers step more often than they are asked for
    return RunConditions(
        pipeline=generation.pipeline_class,
        height=shapes.height or _whole(arguments.get("height")),
        width=shapes.width or _whole(arguments.get("width")),
        num_inference_steps=requested if isinstance(requested, int) else made,
        steps_run=made,
        guidance_scale=_first_number(arguments, ("guidance_scale", "true_cfg_scale", "prior_guidance_scale")),
        batch=images_asked(arguments) or generation.images,
        seconds=generation.seconds if kind == "observed" else None,
        input_shape=shapes.image,
        latent_shape=shapes.latents,
        arguments=dict(arguments),
    )


def _common_run(runs: tuple[RunConditions, ...], facts: PipelineFacts, alone: _Shapes) -> RunConditions:
    """What all generations have in common; of none, what calls outside any tell."""
    if not runs:
        return RunConditions(
            pipeline=facts.pipeline,
            height=alone.height,
            width=alone.width,
            input_shape=alone.image,
            latent_shape=alone.latents,
        )
    values: dict[str, Any] = {f.name: common([getattr(run, f.name) for run in runs]) for f in fields(RunConditions)}
    return RunConditions(**{**values, "arguments": common_items([run.arguments for run in runs])})


def _sum(values: Iterable[int | None]) -> int:
    return sum(value for value in values if value is not None)


def _whole(value: object) -> int | None:
    return value if isinstance(value, int) else None


def _calls_of(calls: list[CallRecord], named: tuple[str, ...]) -> int | None:
    return sum(1 for record in calls if record.component in named and not record.path) or None


def _is_trifle(recording: Recording, record: CallRecord) -> bool:
    """Whether a part of a component, or a module that is none, was entered for nothing that is counted."""
    part = bool(record.path) or record.component in recording.non_components
    count = record.count
    return part and record.failure is None and count is not None and not count.by_class and not count.unknown


def _step(recording: Recording, record: CallRecord) -> int | None:
    """The step that a call belongs to; None for what comes after the last one."""
    if record.step is None or record.generation < 0:
        return None
    made = recording.generations[record.generation].steps
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
            and mine.reused == record.reused
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
        return CallProfile(
            method=record.method,
            count=self.count,
            batch=roles.batch_of((name, shape) for name, (shape, _) in shapes.items()),
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
            reused=list(record.reused),
            macs_by_module={} if count is None else dict(count.by_module),
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
    by_class: Counter[str] = Counter()
    for operator, macs in direct.macs.items():
        by_class[kind_of(operator).value] += macs
    return CallProfile(
        method=direct.path,
        count=1,
        batch=None,
        shapes={},
        dtypes={},
        matmul_macs=sum(direct.macs.values()),
        matmul_macs_without_attention=sum(m for name, m in by_class.items() if Kind(name).has_weight),
        total_macs=sum(direct.macs.values()),
        macs_by_op=dict(by_class),
        op_level=dict(direct.macs),
        counted="run",
    )


def _named_shapes(record: CallRecord) -> dict[str, tuple[tuple[int, ...], str]]:
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
        walk(record.parameter_names[index] if index < len(record.parameter_names) else str(index), value)
    for name, value in kwargs.items():
        walk(name, value)
    return found


def _first_number(arguments: Mapping[str, Any], names: tuple[str, ...]) -> float | None:
    for name in names:
        value = arguments.get(name)
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            return float(value)
    return None


def _denoiser_batch(components: Mapping[str, ComponentProfile], denoisers: tuple[str, ...]) -> int | None:
    """Batch of the denoiser's first call, guidance included."""
    calls = [call for name in denoisers for call in components[name].calls]
    return next((call.batch for call in calls if call.batch is not None), None)


@dataclass(frozen=True, slots=True)
class _Shapes:
    """Shapes of an image and of the latents that it was decoded from, as the model that ran has them."""

    image: tuple[int, ...] | None = None
    latents: tuple[int, ...] | None = None

    @property
    def height(self) -> int | None:
        return self.image[-2] if self.image and len(self.image) >= 4 else None

    @property
    def width(self) -> int | None:
        return self.image[-1] if self.image and len(self.image) >= 4 else None


def _shapes(calls: list[CallRecord], named: tuple[str, ...]) -> _Shapes:
    """With a decoder, what went in and came out of its last call. Without, the denoiser's first tensor is both."""
    for record in reversed(calls):
        if roles.decodes(record.method.rpartition(".")[2]) and record.arguments.tensors:
            return _Shapes(record.output_shape, record.arguments.tensors[0].shape)
    for record in calls:
        if record.component in named and record.arguments.tensors:
            shape = record.arguments.tensors[0].shape
            return _Shapes(shape if len(shape) >= 4 and shape[1] == 3 else None, shape)
    return _Shapes()


def _uncounted(recording: Recording) -> Iterator[dict[str, Any]]:
    reasons: Counter[tuple[str, str, str]] = Counter()
    for record in recording.calls:
        if record.failure is not None:
            reasons[record.component, "reason", record.failure] += 1
        elif record.count is not None:
            for operator, times in record.count.unknown.items():
                reasons[record.component, "op", operator] += times
    for direct in recording.direct.values():
        for operator, times in direct.unknown.items():
            reasons[direct.component, "op", operator] += times
    for component, reason in recording.notes:
        reasons[component, "reason", reason] += 1
    for (component, kind, text), times in reasons.items():
        yield {"component": component, kind: text, "calls": times}


def _left_out(recording: Recording) -> Iterator[dict[str, Any]]:
    times: Counter[tuple[str, str]] = Counter()
    for record in recording.calls:
        if record.count is not None:
            times.update({(record.component, name): n for name, n in record.count.left_out.items()})
    for (component, name), n in times.items():
        yield {"component": component, "op": name, "reason": table().left_out[name], "calls": n}


def _of_user(recording: Recording) -> Iterator[dict[str, Any]]:
    macs: Counter[tuple[str, str, str]] = Counter()
    for record in recording.calls:
        for part in () if record.count is None else record.count.of_user:
            macs[record.component, part.name, part.kind.value] += part.macs
    for (component, name, kind), n in macs.items():
        yield {"component": component, "target": name, "kind": kind, "macs": n}


def _differences(recording: Recording) -> Iterator[dict[str, Any]]:
    seen = set()
    for record in recording.calls:
        if record.count is None:
            continue
        for group, (thop, op_level) in record.count.differences.items():
            entry = (record.component, record.method, group, thop, op_level)
            if entry not in seen:
                seen.add(entry)
                yield dict(zip(("component", "method", "op", "thop", "op_level"), entry, strict=False))
