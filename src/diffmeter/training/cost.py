"""What training a diffusion model costs: forward, backward and optimizer of its steps, without a weight.

A training step encodes a batch of images (VAE) and captions (text encoders), both frozen and both often cached,
runs the denoiser once, goes backward through it, and updates the trained parameters. Here the pipeline is rehearsed
to learn with what its denoiser is called; then the denoiser's twin runs that call forward and backward on the meta
device, with gradients required exactly where the method trains, and every product that is dispatched is counted.
So gradients that nobody needs (of frozen weights; of inputs in front of the first trained layer) are not computed
and not counted, as in a real step.

Attention is counted as the mathematics has it: two products forward, and backward up to four, those that a gradient
needs. A fused attention kernel keeps no scores and computes all of its gradients, so its backward takes more; that
difference is given apart, in ``fused_attention_extra_macs``.
"""

from __future__ import annotations

import inspect
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from math import prod
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from diffmeter.errors import CountError, InputError, install_command, whole_number
from diffmeter.metering.builtin import training_op_macs
from diffmeter.metering.counters.op_level import op_name
from diffmeter.metering.pipelines.call import PipelineCall, call_of
from diffmeter.metering.pipelines.parts import parts_of
from diffmeter.metering.pipelines.roles import DENOISERS, denoisers, last_name
from diffmeter.metering.pipelines.sizes import with_both_sides
from diffmeter.metering.pipelines.stand_ins import PROMPT, StandIns
from diffmeter.metering.recording.dry_run import Rehearsal, rehearse
from diffmeter.metering.twins.building import build_twin
from diffmeter.metering.twins.replay import replay
from diffmeter.metering.watching.signature import Frozen, freeze, iter_tensors
from diffmeter.metering.watching.snapshot import ModuleSnapshot
from diffmeter.models.sources import source_of
from diffmeter.rendering import Rendered
from diffmeter.resnet_bk.counter import OPTIMIZER_OPS, optimizer_name
from diffmeter.units import format_count

Method = Literal["full", "lora"]
METHODS = ("full", "lora")

#: the attention projections that the diffusers training scripts put adapters on
LORA_TARGETS = ("to_q", "to_k", "to_v", "to_out.0")

# Names of pipeline arguments that switch guidance on: a training step has none, so its batch is that of the images.
_GUIDANCE = {"guidance_scale": 1.0, "true_cfg_scale": 1.0, "pag_scale": 0.0}


@dataclass(frozen=True)
class StepCount:
    """Products of one forward and backward pass of a module.

    Attributes:
        forward_macs: the forward pass.
        backward_macs: gradients, of inputs and weights, as far as they are needed.
        recomputed_macs: forward work that gradient checkpointing repeats during the backward pass.
        fused_attention_extra_macs: what a fused attention kernel computes beyond that: the scores again, and gradients
            that nobody needs.
        uncounted: operators that may hold products and have no formula, with how often they ran.
    """

    forward_macs: int
    backward_macs: int
    recomputed_macs: int = 0
    fused_attention_extra_macs: int = 0
    uncounted: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class ComponentCost:
    """One component's share of a training step. MACs are products; FLOPs are twice the MACs.

    Attributes:
        name, class_name: the component of the pipeline.
        role: ``"denoiser"``, ``"encoder"`` (text, image, ControlNet) or ``"vae"``.
        params, trained_params: parameters, and how many of them (adapters included) are trained.
        forward_macs: of one step; None if it could not be counted.
        backward_macs, recomputed_macs: of one step; 0 for what is frozen.
        cached: whether its result is computed before training and read afterwards, so that steps do not pay for it.
        reason: why it could not be counted.
    """

    name: str
    class_name: str
    role: str
    params: int
    trained_params: int
    forward_macs: int | None
    backward_macs: int = 0
    recomputed_macs: int = 0
    cached: bool = False
    reason: str | None = None

    @property
    def step_macs(self) -> int:
        """MACs that one training step pays for; 0 if cached."""
        return 0 if self.cached else (self.forward_macs or 0) + self.backward_macs + self.recomputed_macs

    @property
    def step_flops(self) -> int:
        """Twice :attr:`step_macs`."""
        return 2 * self.step_macs


@dataclass(frozen=True, repr=False)
class TrainingCost(Rendered):
    """The cost of a training run.

    Attributes:
        model: model id or pipeline class.
        method: ``"full"`` or ``"lora"``.
        rank, target_modules: of the adapters; None and empty for full fine-tuning.
        batch_size, steps: images of one step, and how many steps.
        gradient_checkpointing: whether blocks are computed again during the backward pass.
        optimizer: name of the optimizer; its operations are elementwise.
        components: everything that runs in a step.
        fused_attention_extra_macs: of one step, on top, if attention runs in a fused kernel; not in the totals.
        arguments: how the pipeline was rehearsed (size and the like).
        notes: what else a reader must know.
    """

    model: str
    method: str
    rank: int | None
    target_modules: tuple[str, ...]
    batch_size: int
    steps: int
    gradient_checkpointing: bool
    optimizer: str
    components: tuple[ComponentCost, ...]
    fused_attention_extra_macs: int = 0
    arguments: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def _per_step(self, name: str) -> int:
        return sum(getattr(c, name) or 0 for c in self.components if not c.cached)

    @property
    def forward_macs(self) -> int:
        """Forward MACs of one step, over all components that are not cached."""
        return self._per_step("forward_macs")

    @property
    def backward_macs(self) -> int:
        """Backward MACs of one step."""
        return self._per_step("backward_macs")

    @property
    def recomputed_macs(self) -> int:
        """MACs of one step that gradient checkpointing adds."""
        return self._per_step("recomputed_macs")

    @property
    def step_macs(self) -> int:
        """MACs of the products of one step."""
        return self.forward_macs + self.backward_macs + self.recomputed_macs

    @property
    def trained_params(self) -> int:
        """Parameters that the optimizer updates."""
        return sum(c.trained_params for c in self.components)

    @property
    def optimizer_flops(self) -> int:
        """Elementwise operations of one optimizer step."""
        return OPTIMIZER_OPS[self.optimizer] * self.trained_params

    @property
    def step_flops(self) -> int:
        """FLOPs of one step: twice the MACs, plus the optimizer's operations."""
        return 2 * self.step_macs + self.optimizer_flops

    @property
    def total_macs(self) -> int:
        """MACs of the products of all steps."""
        return self.steps * self.step_macs

    @property
    def total_flops(self) -> int:
        """FLOPs of all steps, the optimizer's included."""
        return self.steps * self.step_flops

    @property
    def cache_macs(self) -> int:
        """MACs of computing, once, what one batch reads from the cache."""
        return sum(c.forward_macs or 0 for c in self.components if c.cached)

    @property
    def complete(self) -> bool:
        """Whether every component could be counted."""
        return all(c.reason is None for c in self.components)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values, with the totals."""
        totals = {
            "forward_macs": self.forward_macs, "backward_macs": self.backward_macs,
            "recomputed_macs": self.recomputed_macs, "step_macs": self.step_macs, "step_flops": self.step_flops,
            "optimizer_flops": self.optimizer_flops, "trained_params": self.trained_params,
            "total_macs": self.total_macs, "total_flops": self.total_flops, "cache_macs": self.cache_macs,
        }  # fmt: skip
        data = asdict(self)
        data["target_modules"], data["notes"] = list(self.target_modules), list(self.notes)
        data["components"] = [asdict(c) for c in self.components]
        return {**data, "complete": self.complete, "totals": totals}

    def __repr__(self) -> str:
        bound = "" if self.complete else ">= "
        total = format_count(self.total_flops, "FLOPs")
        return f"<TrainingCost of {self.model}: {bound}{total} in {self.steps} steps, complete={self.complete}>"

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> TrainingCost:
        """The cost that :meth:`to_dict` wrote; totals are computed again."""
        values = {name: data[name] for name in cls.__dataclass_fields__}
        values["components"] = tuple(ComponentCost(**c) for c in data["components"])
        values["target_modules"], values["notes"] = tuple(data["target_modules"]), tuple(data["notes"])
        return cls(**values)


class _StepProducts(TorchDispatchMode):
    """Sorts the products of a training step into forward, backward and recomputed."""

    supports_higher_order_operators = True

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch gives it no types
        self.macs: Counter[str] = Counter()
        self.unknown: Counter[str] = Counter()
        self.going_back = False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        try:
            macs = training_op_macs(func, args, kwargs, out) or 0
        except LookupError:
            self.unknown[op_name(func)] += 1
            return out
        # Gradients are computed with grad mode off; a checkpointed block that runs again has it on.
        phase = "forward" if not self.going_back else "recomputed" if torch.is_grad_enabled() else "backward"
        self.macs[phase] += macs
        return out


class _FusedAttention(TorchFunctionMode):
    """Adds up what fused attention kernels would compute in the backward pass beyond what is needed."""

    def __init__(self) -> None:
        super().__init__()
        self.extra_macs = 0
        self.watching = True

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if self.watching and torch.is_grad_enabled():
            if func is F.scaled_dot_product_attention:
                named = {**dict(zip(("query", "key", "value"), args, strict=False)), **kwargs}
                self._add(named["query"], named["key"], named["value"])
            elif func is F.multi_head_attention_forward:  # it calls attention where this mode does not look
                self._add_packed(inspect.signature(func).bind(*args, **kwargs).arguments)
        return func(*args, **kwargs)

    def _add(self, query: Tensor, key: Tensor, value: Tensor) -> None:
        *batch, n, d = query.shape
        wanted = query.requires_grad, key.requires_grad, value.requires_grad
        self._add_scores(prod(batch) * n * key.shape[-2], d, value.shape[-1], wanted)

    def _add_packed(self, named: Mapping[str, Any]) -> None:
        if named.get("need_weights", True):  # not fused: the scores are wanted
            return
        query, key, width = named["query"], named["key"], named["embed_dim_to_check"]
        packed = named.get("in_proj_weight")
        wanted = tuple(
            any(t is not None and t.requires_grad for t in (named[name], packed, named.get(f"{name[0]}_proj_weight")))
            for name in ("query", "key", "value")
        )
        size = width // named["num_heads"]
        rows = query.numel() // width * named["num_heads"]  # (N, B, E), or (N, E) without a batch
        self._add_scores(rows * key.shape[0], size, size, (wanted[0], wanted[1], wanted[2]))

    def _add_scores(self, scores: int, d: int, dv: int, wanted: tuple[bool, bool, bool]) -> None:
        if any(wanted):
            query, key, value = wanted
            # weights' gradient if query or key want theirs; then value's, query's and key's own
            needed = scores * (dv * (query or key) + dv * value + d * query + d * key)
            self.extra_macs += scores * (3 * d + 2 * dv) - needed


def count_step(module: nn.Module, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None) -> StepCount:
    """Count one forward and backward pass of a module on the meta device; the module itself is not touched.

    The backward starts at the module's first differentiable output, as that of a loss on its prediction does (the
    loss itself has no products). Gradients go to parameters that require them.

    Args:
        module: any module; its twin is run. Its ``requires_grad`` flags decide what is trained, and gradient
            checkpointing is as it is set.
        args, kwargs: arguments of its ``forward``; of large tensors only the shape matters.

    Raises:
        InputError: no parameter requires a gradient.
        CountError: no output depends on a parameter that does, or the step cannot run without real values.
    """
    return _count_twin_step(_twin(module, keep_flags=True), freeze(tuple(args), dict(kwargs or {})))


def _twin(module: nn.Module, keep_flags: bool = False) -> nn.Module:
    module = getattr(module, "_orig_mod", module)  # what torch.compile wrapped
    twin = build_twin(ModuleSnapshot(module))
    if keep_flags:
        flags = {name: p.requires_grad for name, p in module.named_parameters()}
        for name, parameter in twin.named_parameters():
            if parameter.is_floating_point() or parameter.is_complex():
                parameter.requires_grad_(flags.get(name, False))
    return twin


def _count_twin_step(twin: nn.Module, arguments: Frozen) -> StepCount:
    if not any(p.requires_grad for p in twin.parameters()):
        raise InputError(f"no parameter of {type(twin).__name__} requires a gradient, so there is nothing to train")
    twin.train()
    products, fused = _StepProducts(), _FusedAttention()

    def step(*args: Any, **kwargs: Any) -> None:
        nonlocal products, fused
        products, fused = _StepProducts(), _FusedAttention()  # anew: replay may try a second time with other values
        with torch.enable_grad(), products, fused:
            prediction = next((t for t in iter_tensors(twin(*args, **kwargs)) if t.requires_grad), None)
            if prediction is None:
                raise CountError(f"no output of {type(twin).__name__} depends on a parameter that is trained")
            products.going_back, fused.watching = True, False
            prediction.backward(torch.ones_like(prediction))

    with torch.random.fork_rng(devices=[]):
        replayed = replay(step, twin, arguments)
    if replayed.problem is not None:
        raise CountError(f"a training step of {type(twin).__name__} cannot be counted: {replayed.problem}")
    macs = products.macs
    return StepCount(macs["forward"], macs["backward"], macs["recomputed"], fused.extra_macs, dict(products.unknown))


def add_lora(module: nn.Module, rank: int, target_modules: Sequence[str] = LORA_TARGETS) -> int:
    """Freeze a module and put trained adapters of one rank on its layers, as ``add_adapter`` of diffusers does.

    Args:
        module: any module; it is changed in place.
        rank: inner width of the adapters.
        target_modules: names (or last parts of names) of the layers to adapt.

    Returns:
        Number of parameters that are trained now.

    Raises:
        InputError: a rank below 1, no layer of these names, or the package ``peft`` is not installed.
    """
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError as error:
        raise InputError(f"LoRA needs the package peft: {install_command('train')}.") from error
    rank = whole_number(rank, "rank")
    if not target_modules:
        raise InputError("target_modules is empty: name at least one layer")
    config = LoraConfig(r=rank, lora_alpha=rank, init_lora_weights="gaussian", target_modules=list(target_modules))
    module.requires_grad_(False)
    on_meta = any(p.is_meta for p in module.parameters())
    try:
        inject_adapter_in_model(config, module, low_cpu_mem_usage=on_meta)
    except ValueError as error:
        raise InputError(f"no layer of {type(module).__name__} can take an adapter: {error}") from error
    return sum(p.numel() for p in module.parameters() if p.requires_grad)


def training_cost(
    pipe_or_model_id: Any,
    *,
    method: Method = "lora",
    rank: int = 16,
    steps: int = 1,
    batch_size: int = 1,
    gradient_checkpointing: bool = False,
    cache_text: bool = False,
    cache_latents: bool = False,
    optimizer: str = "adamw",
    target_modules: Sequence[str] = LORA_TARGETS,
    token_count: int | None = None,
    **call_arguments: Any,
) -> TrainingCost:
    """What training the denoiser of a pipeline costs. No weights are needed and nothing heavy is computed.

    >>> training_cost("stabilityai/stable-diffusion-xl-base-1.0", method="lora", rank=16, steps=1000, batch_size=4)

    Args:
        pipe_or_model_id: a loaded pipeline (it is not touched), or the id or folder of a model.
        method: ``"full"`` trains every parameter of the denoiser, ``"lora"`` adapters on its attention projections.
        rank: of the adapters.
        steps: optimizer steps.
        batch_size: images of one step.
        gradient_checkpointing: compute blocks again during the backward pass instead of keeping their activations.
        cache_text: captions are encoded before training, so that steps do not pay for the text encoders.
        cache_latents: images are encoded before training, so that steps do not pay for the VAE.
        optimizer: sgd, momentum, adam or adamw.
        target_modules: layers that get adapters.
        token_count: number of tokens that a caption is taken to have where the tokenizer is not there.
        call_arguments: of the pipeline's call, for its shapes: ``height``, ``width``, ``num_frames``, ...

    Raises:
        InputError: an option that is not usable, or a model that cannot be trained this way.
        DiffmeterError: the pipeline cannot be rehearsed without its weights.
    """
    if method not in METHODS:
        raise InputError(f"unknown method {method!r}: use one of {', '.join(METHODS)}")
    rank, steps, batch_size = (
        whole_number(value, name) for name, value in (("rank", rank), ("steps", steps), ("batch_size", batch_size))
    )
    optimizer = optimizer_name(optimizer)
    pipe, model, call, arguments = _pipeline(pipe_or_model_id, token_count, call_arguments)
    rehearsal = rehearse(pipe, _training_arguments(call, arguments, batch_size))
    name = _denoiser(rehearsal)
    first = next(i for i, call in enumerate(rehearsal.recording.calls) if call.component == name)
    # stand-ins only where a pipeline inside the pipeline names its components anew
    modules = {**rehearsal.components, **parts_of(pipe).components}
    notes: list[str] = []

    twin = _twin(modules[name])
    params = sum(p.numel() for p in twin.parameters())
    if method == "lora":
        add_lora(twin, rank, target_modules)
    else:
        for parameter in twin.parameters():
            parameter.requires_grad_(parameter.is_floating_point() or parameter.is_complex())
    if gradient_checkpointing:
        _enable_checkpointing(twin)
    rows = _rows(rehearsal.recording.calls[first].arguments)
    if rows is not None and rows != batch_size:
        notes.append(f"{name} computes {rows} rows for {batch_size} images, as this pipeline calls it")
    counted = _count_twin_step(twin, rehearsal.recording.calls[first].arguments)
    trained = sum(p.numel() for p in twin.parameters() if p.requires_grad)
    unknown = f"operators without a formula: {', '.join(sorted(counted.uncounted))}" if counted.uncounted else None
    denoiser = ComponentCost(
        name, type(modules[name]).__name__, "denoiser", params, trained, counted.forward_macs,
        counted.backward_macs, counted.recomputed_macs, reason=unknown,
    )  # fmt: skip
    components = [
        *_encoders(rehearsal, first, modules, cache_text),
        *_vae(rehearsal, modules, batch_size, cache_latents),
    ]
    return TrainingCost(
        model=model,
        method=method,
        rank=rank if method == "lora" else None,
        target_modules=tuple(target_modules) if method == "lora" else (),
        batch_size=batch_size,
        steps=steps,
        gradient_checkpointing=gradient_checkpointing,
        optimizer=optimizer,
        components=(*components, denoiser),
        fused_attention_extra_macs=counted.fused_attention_extra_macs,
        arguments={k: v for k, v in arguments.items() if isinstance(v, int | float | str | bool)},
        notes=tuple(notes),
    )


def _pipeline(
    source: Any, token_count: int | None, given: Mapping[str, Any]
) -> tuple[Any, str, PipelineCall, dict[str, Any]]:
    """The pipeline, its name, how its call is asked, and the call's arguments, the catalog's included."""
    if not isinstance(source, (str, os.PathLike)):
        call = call_of(source)
        return source, call.class_name, call, call.arguments(given)
    from diffmeter.models.sources import build_pipeline_without_weights

    pipe = build_pipeline_without_weights(source, token_count=token_count)
    found = source_of(source)
    call = call_of(pipe, found.name, found.entry)
    arguments = with_both_sides(call.arguments(given))
    return pipe, found.name, call, StandIns.of(pipe, call, arguments, None).with_published(arguments)


def _training_arguments(call: PipelineCall, arguments: Mapping[str, Any], batch_size: int) -> dict[str, Any]:
    """Arguments of a pipeline call whose denoiser call has the shapes of a training step."""
    chosen = {name: value for name, value in arguments.items() if not name.startswith("negative_prompt")}
    chosen |= {name: value for name, value in _GUIDANCE.items() if call.takes(name)}
    if call.takes("num_inference_steps"):
        chosen["num_inference_steps"] = 2  # the first call is looked at; a scheduler may refuse a single step
    if call.takes("prompt"):
        chosen["prompt"] = PROMPT if batch_size == 1 else [PROMPT] * batch_size
        return chosen
    chosen.pop("class_labels", None)
    return call.arguments({**chosen, "batch": batch_size})


def _denoiser(rehearsal: Rehearsal) -> str:
    """The component that is trained: of several denoisers, the one with the most steps."""
    recording = rehearsal.recording
    calls = Counter(call.component for call in recording.calls)
    found = denoisers(recording.last_before_step, {name: (count, 0) for name, count in calls.items()})
    if not found or (not recording.last_before_step and last_name(found[0]) not in DENOISERS):
        raise InputError(f"{rehearsal.facts.pipeline} has no denoiser that its scheduler steps, so nothing to train")
    return max(found, key=lambda name: recording.last_before_step[name])


def _rows(arguments: Frozen) -> int | None:
    first = next((spec for spec in arguments.tensors if spec.shape), None)
    return None if first is None else int(first.shape[0])


def _enable_checkpointing(twin: nn.Module) -> None:
    enable = getattr(twin, "enable_gradient_checkpointing", None)
    if enable is None or not getattr(twin, "_supports_gradient_checkpointing", True):
        raise InputError(f"{type(twin).__name__} has no gradient checkpointing: leave it off")
    enable()


def _encoders(
    rehearsal: Rehearsal, first: int, modules: Mapping[str, nn.Module], cached: bool
) -> Iterator[ComponentCost]:
    """What runs before the denoiser, frozen: text and image encoders, ControlNets."""
    calls: dict[str, list[Any]] = {}
    for call in rehearsal.recording.calls[:first]:
        if call.component not in _autoencoders(rehearsal):
            calls.setdefault(call.component, []).append(call)
    for name, made in calls.items():
        failures = [call.failure for call in made if call.count is None]
        macs = None if failures else sum(call.count.matmul_macs for call in made)
        module = modules[name]
        is_text = "text" in name or "tokenizer" in name
        yield ComponentCost(
            name, type(module).__name__, "encoder", sum(p.numel() for p in module.parameters()), 0, macs,
            cached=cached and is_text, reason=failures[0] if failures else None,
        )  # fmt: skip


def _autoencoders(rehearsal: Rehearsal) -> set[str]:
    return {call.component for call in rehearsal.recording.calls if call.method in ("encode", "decode")}


def _vae(rehearsal: Rehearsal, modules: Mapping[str, nn.Module], batch: int, cached: bool) -> Iterator[ComponentCost]:
    """The encoding of the images: what the pipeline decodes into is what a training step encodes."""
    decoded = next((c for c in rehearsal.recording.calls if c.method == "decode" and c.output_shape is not None), None)
    if decoded is None or decoded.output_shape is None:
        return
    name = decoded.component
    twin = _twin(modules[name])
    params = sum(p.numel() for p in twin.parameters())
    class_name = type(modules[name]).__name__
    encode = getattr(twin, "encode", None)
    if encode is None:
        yield ComponentCost(name, class_name, "vae", params, 0, None, cached=cached, reason="it has no encode method")
        return
    images = torch.empty((batch, *decoded.output_shape[1:]), device="meta")
    try:
        counted = replay(encode, twin, freeze((images,), {}))
    except CountError as error:
        yield ComponentCost(name, class_name, "vae", params, 0, None, cached=cached, reason=str(error))
        return
    macs = counted.count.matmul_macs if counted.problem is None else None
    yield ComponentCost(name, class_name, "vae", params, 0, macs, cached=cached, reason=counted.problem)
