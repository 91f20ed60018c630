"""Small pipelines under random changes: is what diffmeter says exact, honest, silently wrong, or in the way?

    python benchmarks/mutations.py [--first 0] [--draws 500] [--out mutations.jsonl] [--json FILE]

Each draw takes one of the tests' small pipelines and one to three changes of it, all from the draw's number: a
replaced function, a hook, a callback, a wrapped component, a thread, a transform, a quantized layer, somebody else's
mode, and so on. The pipeline runs three times with the same seed: plainly, under the independent counter of
``tests/reference.py``, and observed. The verdict is

- exact: the profile's products are those of the independent counter;
- honest: they are not, and the profile says that it is not complete;
- silent: they are not, and the profile calls itself complete;
- broken: the run fails, or makes another image, only when it is observed; or the profile cannot be read;
- unjudged: the changed pipeline does not run by itself, or the independent counter cannot count it.

A draw that is in the ``--out`` file already is not made again.
"""

from __future__ import annotations

import argparse
import contextlib
import inspect
import json
import random
import sys
import threading
import types
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

PIPELINES = (
    "StableDiffusionPipeline",
    "StableDiffusionPipeline[2.x]",
    "StableDiffusionXLPipeline",
    "StableDiffusionImg2ImgPipeline",
    "StableDiffusion3Pipeline",
    "FluxPipeline",
    "PixArtSigmaPipeline",
    "DDIMPipeline",
)
VERDICTS = ("exact", "honest", "silent", "broken", "unjudged")


@dataclass
class Trial:
    """One run of a changed pipeline.

    Attributes:
        pipe, arguments: of the run; changes alter both.
        random: decides how; the same for all runs of a draw.
        observed: whether this is the run that diffmeter observes.
        judged: whether this is the run of the independent counter. It cannot follow work into other threads or
            compiled code: there such work is done in place, with the same products.
        on_step: what a callback does at the end of each step.
    """

    pipe: Any
    arguments: dict[str, Any]
    random: random.Random
    observed: bool
    judged: bool
    on_step: list[Callable[[Any, int], None]] = field(default_factory=list)
    run: Callable[..., Any] = lambda pipe, **arguments: pipe(**arguments)

    @property
    def denoiser(self) -> nn.Module:
        """The component that is called at each step."""
        return getattr(self.pipe, "unet", None) or self.pipe.transformer

    def some(self, kind: type[nn.Module], root: nn.Module | None = None) -> nn.Module:
        """One of the layers of a class."""
        found = [module for module in (root or self.denoiser).modules() if type(module) is kind]
        return self.random.choice(found)

    def component(self) -> tuple[str, nn.Module]:
        """One of the pipeline's modules, with its name."""
        found = [(name, part) for name, part in self.pipe.components.items() if isinstance(part, nn.Module)]
        return self.random.choice(found)


Change = Callable[[Trial], Iterator[None]]
CHANGES: dict[str, Change] = {}


def change(function: Change) -> Change:
    """A change: a generator that makes it, lets the run happen, and takes back what it did to libraries."""
    CHANGES[function.__name__.replace("_", " ")] = function
    return function


@contextlib.contextmanager
def replaced(owner: Any, name: str, value: Any) -> Iterator[None]:
    """Another value in a place of a library."""
    before = owner.__dict__[name]
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, before)


class Ticks:
    """State of one's own that decides work."""

    def __init__(self, period: int) -> None:
        self.period, self.count = period, 0

    def on(self) -> bool:
        """Whether it is on this time."""
        self.count += 1
        return self.count // self.period % 2 == 0


def pooled(attention: Callable[..., Any], ticks: Ticks | None) -> Callable[..., Any]:
    """Attention that leaves out every second key, always or now and then."""

    def attend(q: Any, k: Any, v: Any, attn_mask: Any = None, *args: Any, **kwargs: Any) -> Any:
        if ticks is None or ticks.on():
            return attention(q, k[..., ::2, :], v[..., ::2, :])
        return attention(q, k, v, attn_mask, *args, **kwargs)

    return attend


def ticks_or_none(trial: Trial) -> Ticks | None:
    return trial.random.choice([None, Ticks(trial.random.randint(1, 7))])


# functions -----------------------------------------------------------------------------------------------------------


@change
def attention_replaced(trial: Trial) -> Iterator[None]:
    with replaced(F, "scaled_dot_product_attention", pooled(F.scaled_dot_product_attention, ticks_or_none(trial))):
        yield


@change
def attention_replaced_midway(trial: Trial) -> Iterator[None]:
    before, at = F.scaled_dot_product_attention, trial.random.randint(0, 1)

    def step(pipe: Any, index: int) -> None:
        if index == at:
            F.scaled_dot_product_attention = pooled(before, None)

    trial.on_step.append(step)
    try:
        yield
    finally:
        F.scaled_dot_product_attention = before


@change
def attention_in_plain_products(trial: Trial) -> Iterator[None]:
    def attend(q: Any, k: Any, v: Any, attn_mask: Any = None, *args: Any, **kwargs: Any) -> Any:
        scores = q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5
        return scores.softmax(-1) @ v

    with replaced(F, "scaled_dot_product_attention", attend):
        yield


@change
def attention_registered_with_transformers(trial: Trial) -> Iterator[None]:
    from transformers import AttentionInterface
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    ticks = ticks_or_none(trial)

    def attend(module: Any, query: Any, key: Any, value: Any, attention_mask: Any, **kwargs: Any) -> Any:
        some = slice(None, None, 2) if ticks is None or ticks.on() else slice(None)
        return sdpa_attention_forward(module, query, key[:, :, some], value[:, :, some], None, **kwargs)

    AttentionInterface.register("mutation", attend)
    try:
        for part in trial.pipe.components.values():
            if hasattr(part, "set_attn_implementation"):
                with contextlib.suppress(ValueError):
                    part.set_attn_implementation("mutation")
        yield
    finally:
        AttentionInterface._global_mapping.pop("mutation", None)


@change
def attention_registered_with_diffusers(trial: Trial) -> Iterator[None]:
    from diffusers.models.attention_dispatch import AttentionBackendName, _AttentionBackendRegistry

    backends, name = _AttentionBackendRegistry._backends, AttentionBackendName.NATIVE
    before, ticks = backends[name], ticks_or_none(trial)

    def attend(query: Any, key: Any, value: Any, *args: Any, **kwargs: Any) -> Any:
        if ticks is None or ticks.on():
            return before(query, key[:, ::2], value[:, ::2])
        return before(query, key, value, *args, **kwargs)

    backends[name] = attend
    try:
        yield
    finally:
        backends[name] = before


@change
def linear_function_replaced(trial: Trial) -> Iterator[None]:
    before, ticks = F.linear, Ticks(trial.random.randint(1, 9))

    def linear(x: Any, weight: Any, bias: Any = None) -> Any:
        if ticks.on() and weight.shape[0] % 2 == 0:
            half = before(x, weight[::2], None if bias is None else bias[::2])
            return half.repeat_interleave(2, -1)
        return before(x, weight, bias)

    with replaced(F, "linear", linear):
        yield


@change
def convolution_method_on_layers(trial: Trial) -> Iterator[None]:
    ticks = Ticks(trial.random.randint(1, 5))

    def early(self: Any, x: Any, weight: Any, bias: Any) -> Any:
        if x.shape[-1] > 8 and self.stride == (1, 1) and ticks.on():
            small = F.conv2d(F.avg_pool2d(x, 2), weight, bias, 1, self.padding, self.dilation, self.groups)
            return F.interpolate(small, scale_factor=2.0)
        return F.conv2d(x, weight, bias, self.stride, self.padding, self.dilation, self.groups)

    for module in trial.denoiser.modules():
        if type(module) is nn.Conv2d and module.padding == (1, 1):
            module._conv_forward = types.MethodType(early, module)
    yield


@change
def method_of_a_layer_class(trial: Trial) -> Iterator[None]:
    before, ticks = nn.Linear.forward, Ticks(trial.random.randint(1, 9))

    def forward(self: Any, x: Any) -> Any:
        return (
            before(self, before(self, x)) if self.in_features == self.out_features and ticks.on() else before(self, x)
        )

    with replaced(nn.Linear, "forward", forward):
        yield


@change
def method_of_a_library_class(trial: Trial) -> Iterator[None]:
    from diffusers.models.attention import FeedForward

    before, ticks = FeedForward.forward, Ticks(trial.random.randint(1, 4))

    def forward(self: Any, hidden_states: Any, *args: Any, **kwargs: Any) -> Any:
        return before(self, hidden_states, *args, **kwargs) if ticks.on() else hidden_states

    with replaced(FeedForward, "forward", forward):
        yield


@change
def name_in_a_library_module(trial: Trial) -> Iterator[None]:
    from diffusers.models import resnet

    ticks = Ticks(trial.random.randint(1, 4))
    before = resnet.ResnetBlock2D.forward

    def forward(self: Any, x: Any, temb: Any, *args: Any, **kwargs: Any) -> Any:
        out = before(self, x, temb, *args, **kwargs)
        return out + torch.einsum("bchw,bdhw->bcd", out, out).mean() * 0 if ticks.on() else out

    with replaced(resnet.ResnetBlock2D, "forward", forward):
        yield


@change
def torch_function_replaced(trial: Trial) -> Iterator[None]:
    before, ticks = F.group_norm, Ticks(trial.random.randint(1, 6))

    def group_norm(x: Any, *args: Any, **kwargs: Any) -> Any:
        out = before(x, *args, **kwargs)
        return out + (out.flatten(2) @ out.flatten(2).transpose(1, 2)).mean() * 0 if ticks.on() else out

    with replaced(F, "group_norm", group_norm):
        yield


# hooks, processors, adapters, caches ---------------------------------------------------------------------------------


def more_work(module: Any, args: Any, output: Any) -> Any:
    """A hook that makes a product of its own."""
    first = output[0] if isinstance(output, tuple) else getattr(output, "sample", output)
    if isinstance(first, torch.Tensor) and first.is_floating_point():
        first.flatten(1) @ first.flatten(1).transpose(0, 1)


@change
def forward_hook(trial: Trial) -> Iterator[None]:
    _, part = trial.component()
    trial.random.choice(list(part.modules())).register_forward_hook(more_work)
    yield


@change
def hook_that_comes_and_goes(trial: Trial) -> Iterator[None]:
    layer, handles = trial.some(nn.Linear), []

    def step(pipe: Any, index: int) -> None:
        handles.append(layer.register_forward_hook(more_work)) if not handles else handles.pop().remove()

    trial.on_step.append(step)
    yield


@change
def hook_on_every_module(trial: Trial) -> Iterator[None]:
    handle = nn.modules.module.register_module_forward_hook(
        lambda module, args, output: more_work(module, args, output) if type(module) is nn.SiLU else None
    )
    try:
        yield
    finally:
        handle.remove()


class Gate:
    """A processor that leaves out cross-attention now and then."""

    def __init__(self, ticks: Ticks) -> None:
        self.ticks = ticks

    def __call__(
        self, attn: Any, h: Any, encoder_hidden_states: Any = None, attention_mask: Any = None, **_: Any
    ) -> Any:
        if encoder_hidden_states is not None and self.ticks.on():
            return h
        residual, shape = h, h.shape
        if len(shape) == 4:
            h = h.flatten(2).transpose(1, 2)
        e = h if encoder_hidden_states is None else encoder_hidden_states
        q, k, v = map(attn.head_to_batch_dim, (attn.to_q(h), attn.to_k(e), attn.to_v(e)))
        out = attn.to_out[0](attn.batch_to_head_dim(attn.get_attention_scores(q, k) @ v))
        return out if len(shape) == 3 else out.transpose(1, 2).reshape(residual.shape)


@change
def processor_of_ones_own(trial: Trial) -> Iterator[None]:
    from diffusers.models.attention_processor import Attention

    ticks = Ticks(trial.random.randint(1, 4))
    for module in trial.denoiser.modules():
        if type(module) is Attention and module.added_kv_proj_dim is None and hasattr(trial.pipe, "unet"):
            module.set_processor(Gate(ticks))
    yield


@change
def plain_processors(trial: Trial) -> Iterator[None]:
    from diffusers.models.attention_processor import AttnProcessor

    if hasattr(trial.pipe, "unet"):
        trial.pipe.unet.set_attn_processor(AttnProcessor())
    yield


@change
def low_rank_adapter(trial: Trial) -> Iterator[None]:
    from peft import LoraConfig

    config = LoraConfig(r=trial.random.choice([2, 4]), target_modules=["to_q", "to_v"], init_lora_weights="gaussian")
    trial.denoiser.add_adapter(config)
    yield


@change
def step_cache_of_ones_own(trial: Trial) -> Iterator[None]:
    forward, ticks, kept = trial.denoiser.forward, Ticks(1), []

    def cached(*args: Any, **kwargs: Any) -> Any:
        if not kept or ticks.on():
            kept[:] = [forward(*args, **kwargs)]
        return kept[0]

    trial.denoiser.forward = cached
    yield


@change
def first_block_cache(trial: Trial) -> Iterator[None]:
    from diffusers import FirstBlockCacheConfig

    if hasattr(trial.denoiser, "enable_cache"):
        trial.denoiser.enable_cache(FirstBlockCacheConfig(threshold=trial.random.choice([0.0, 0.1, 10.0])))
    yield


# components ----------------------------------------------------------------------------------------------------------


class Wrapper(nn.Module):
    """Stands before a component, and does a little more."""

    def __init__(self, inner: nn.Module, ticks: Ticks) -> None:
        super().__init__()
        self.inner, self.ticks = inner, ticks

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("inner"), name)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        if self.ticks.on():
            self.inner(*args, **kwargs)
        return self.inner(*args, **kwargs)


@change
def wrapped_denoiser(trial: Trial) -> Iterator[None]:
    name = "unet" if hasattr(trial.pipe, "unet") else "transformer"
    setattr(trial.pipe, name, Wrapper(trial.denoiser, Ticks(trial.random.randint(1, 3))))
    yield


@change
def another_class(trial: Trial) -> Iterator[None]:
    layer = trial.some(nn.Linear)

    class Twice(nn.Linear):
        def forward(self, x: Any) -> Any:
            return (super().forward(x) + super().forward(x)) / 2

    layer.__class__ = Twice
    yield


class Packed(nn.Module):
    """A linear layer with eight-bit weights that are unpacked for each call."""

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        self.in_features, self.out_features = layer.in_features, layer.out_features
        self.register_buffer("scale", layer.weight.detach().abs().amax() / 127)
        self.register_buffer("weight", (layer.weight.detach() / self.scale).round().to(torch.int8))
        self.bias = layer.bias

    def forward(self, x: Any) -> Any:
        return F.linear(x, self.weight.to(x.dtype) * self.scale, self.bias)


@change
def quantized_layers(trial: Trial) -> Iterator[None]:
    for module in list(trial.denoiser.modules()):
        for name, child in list(module.named_children()):
            if type(child) is nn.Linear and trial.random.random() < 0.5:
                if name.startswith(("to_", "proj")):
                    setattr(module, name, Packed(child))
    yield


class Weight(torch.Tensor):
    """A weight that goes its own way in linear layers."""

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        with torch._C.DisableTorchFunctionSubclass():
            out = func(*args, **(kwargs or {}))
            return out + func(*args, **(kwargs or {})) * 0 if func is F.linear else out


@change
def weight_of_ones_own(trial: Trial) -> Iterator[None]:
    layer = trial.some(nn.Linear)
    weight = layer.weight.detach().as_subclass(Weight)
    del layer.weight
    layer.weight = weight
    yield


class Product(nn.Module):
    """A parametrization that makes a product."""

    def forward(self, weight: Any) -> Any:
        return weight + (weight @ weight.transpose(0, 1)).mean() * 0


@change
def parametrization(trial: Trial) -> Iterator[None]:
    from torch.nn.utils import parametrizations, parametrize

    layer = trial.some(nn.Linear)
    if trial.random.random() < 0.5:
        parametrize.register_parametrization(layer, "weight", Product())
    else:
        parametrizations.weight_norm(layer)
    yield


@change
def part_replaced_midway(trial: Trial) -> Iterator[None]:
    layer = trial.some(nn.SiLU)
    holder = next(m for m in trial.denoiser.modules() if any(c is layer for c in m.children()))
    name = next(n for n, c in holder.named_children() if c is layer)

    def step(pipe: Any, index: int) -> None:
        setattr(holder, name, nn.Sequential(layer, WithProduct()))

    trial.on_step.append(step)
    yield


class WithProduct(nn.Module):
    """Makes a product with what it gets."""

    def forward(self, x: Any) -> Any:
        return x + (x.flatten(1) @ x.flatten(1).transpose(0, 1)).mean() * 0


# ways to run ---------------------------------------------------------------------------------------------------------


@change
def interrupted(trial: Trial) -> Iterator[None]:
    def step(pipe: Any, index: int) -> None:
        pipe._interrupt = True

    trial.on_step.append(step)
    yield


@change
def in_a_thread(trial: Trial) -> Iterator[None]:
    run = trial.run

    def threaded(pipe: Any, **arguments: Any) -> Any:
        found: list[Any] = []
        worker = threading.Thread(target=lambda: found.append(run(pipe, **arguments)))
        worker.start()
        worker.join()
        return found[0]

    if not trial.judged:
        trial.run = threaded
    yield


@change
def layer_in_a_thread(trial: Trial) -> Iterator[None]:
    layer = trial.some(nn.Linear)
    forward = layer.forward

    def elsewhere(x: Any) -> Any:
        found: list[Any] = []
        grad = torch.is_grad_enabled()

        def work() -> None:
            with torch.set_grad_enabled(grad):
                found.append(forward(x))

        worker = threading.Thread(target=work)
        worker.start()
        worker.join()
        return found[0]

    if not trial.judged:
        layer.forward = elsewhere
    yield


def denoiser_again(trial: Trial, how: Callable[[Callable[[Any], Any], Any], None]) -> None:
    """Call the denoiser once more at each step, under a transform, with the arguments of its last call."""
    denoiser, last = trial.denoiser, {}

    def remember(module: Any, args: Any, kwargs: Any) -> None:
        if "busy" not in last:
            last["call"] = args, kwargs

    denoiser.register_forward_pre_hook(remember, with_kwargs=True)

    def step(pipe: Any, index: int) -> None:
        args, kwargs = last["call"]
        key = None if args else "hidden_states"
        last["busy"] = True

        def function(x: Any) -> Any:
            out = denoiser(x, *args[1:], **kwargs) if key is None else denoiser(**{**kwargs, key: x})
            return out[0] if isinstance(out, tuple) else out.sample

        try:
            how(function, args[0] if args else kwargs[key])
        finally:
            del last["busy"]

    trial.on_step.append(step)


@change
def vmap(trial: Trial) -> Iterator[None]:
    times = trial.random.randint(2, 3)
    denoiser_again(trial, lambda function, x: torch.vmap(function)(torch.stack([x] * times)))
    yield


@change
def forward_derivative(trial: Trial) -> Iterator[None]:
    denoiser_again(trial, lambda function, x: torch.func.jvp(function, (x,), (torch.ones_like(x),)))
    yield


@change
def functional_call(trial: Trial) -> Iterator[None]:
    denoiser = trial.denoiser

    def how(function: Any, x: Any) -> None:
        weights = {name: weight.detach().clone() for name, weight in denoiser.named_parameters()}
        with torch.nn.utils.stateless._reparametrize_module(denoiser, weights):
            function(x)

    denoiser_again(trial, how)
    yield


class PassOn(TorchDispatchMode):
    """Somebody's mode that splits some products."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten.mm.default and args[1].shape[1] % 2 == 0:
            half = func(args[0], args[1][:, ::2])
            return half.repeat_interleave(2, 1)
        return func(*args, **(kwargs or {}))


class PooledMode(TorchFunctionMode):
    """Somebody's mode that pools the keys of attention."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if getattr(func, "__name__", "") == "scaled_dot_product_attention":
            return pooled(func, None)(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))


def under(trial: Trial, mode: Callable[[], Any]) -> Iterator[None]:
    """Run under a mode, that is entered before or after diffmeter; always after the independent counter."""
    outside = trial.random.random() < 0.5
    if trial.observed and outside:
        with mode():
            yield
        return
    run = trial.run

    def inside(pipe: Any, **arguments: Any) -> Any:
        with mode():
            return run(pipe, **arguments)

    trial.run = inside
    yield


@change
def mode_of_operators(trial: Trial) -> Iterator[None]:
    yield from under(trial, PassOn)


@change
def mode_of_functions(trial: Trial) -> Iterator[None]:
    yield from under(trial, PooledMode)


@change
def flop_counter(trial: Trial) -> Iterator[None]:
    yield from under(trial, lambda: FlopCounterMode(display=False))


@change
def inference_mode(trial: Trial) -> Iterator[None]:
    with torch.inference_mode():
        yield


@change
def autocast(trial: Trial) -> Iterator[None]:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        yield


@change
def math_kernels(trial: Trial) -> Iterator[None]:
    from torch.nn.attention import SDPBackend, sdpa_kernel

    with sdpa_kernel(SDPBackend.MATH):
        yield


@change
def compiled(trial: Trial) -> Iterator[None]:
    if not trial.judged:
        trial.denoiser.compile(backend="eager")
    yield


@change
def library_switches(trial: Trial) -> Iterator[None]:
    for name, arguments in (
        ("enable_freeu", (0.9, 0.2, 1.2, 1.4)),
        ("enable_vae_tiling", ()),
        ("enable_attention_slicing", (1,)),
        ("fuse_qkv_projections", ()),
    ):
        method = getattr(trial.pipe, name, None)
        if method is not None and trial.random.random() < 0.5:
            method(*arguments)
    yield


@change
def training_mode(trial: Trial) -> Iterator[None]:
    trial.denoiser.train()
    yield


# drawing and judging -------------------------------------------------------------------------------------------------


@dataclass
class Verdict:
    """What came of one draw."""

    draw: int
    pipeline: str
    changes: list[str]
    verdict: str
    got: int | None = None
    want: int | None = None
    detail: str = ""


def drawn(number: int) -> tuple[str, list[str]]:
    """The pipeline and the changes of a draw."""
    chance = random.Random(number)
    return chance.choice(PIPELINES), chance.sample(sorted(CHANGES), chance.randint(1, 3))


def run_once(
    number: int, around: Callable[[Any, Callable[[], Any]], Any], *, observed: bool = False, judged: bool = False
) -> Any:
    """Build and change the pipeline of a draw, and run it; ``around`` is given the pipeline and the run."""
    from tests.zoo import ZOO

    name, changes = drawn(number)
    case = ZOO[name]
    pipe = case.build()
    arguments = case.arguments(pipe)
    trial = Trial(pipe, arguments, random.Random(number), observed, judged)
    torch.manual_seed(number)
    with contextlib.ExitStack() as stack:
        for change_name in changes:
            stack.enter_context(contextlib.contextmanager(CHANGES[change_name])(trial))

        def on_step(pipe: Any, index: int, *rest: Any) -> Any:
            for action in trial.on_step:
                action(pipe, index)
            return rest[-1] if rest else {}

        if trial.on_step and "callback_on_step_end" in inspect.signature(type(pipe).__call__).parameters:
            arguments["callback_on_step_end"] = on_step
        return around(pipe, lambda: trial.run(pipe, **arguments))


def pixels(result: Any) -> Any:
    """The first array of what a pipeline returned."""
    first = next(iter(result.values())) if hasattr(result, "values") else result[0]
    return np.asarray(first.detach().float() if isinstance(first, torch.Tensor) else first)


def judge(number: int) -> Verdict:
    """Make one draw and judge it."""
    from tests.reference import UnknownOperatorError, count_real_call, pipeline_modules

    pipeline, changes = drawn(number)
    found = Verdict(number, pipeline, changes, "unjudged")
    try:
        plain = pixels(run_once(number, lambda pipe, run: run()))
        truth = run_once(number, lambda pipe, run: count_real_call(run, pipeline_modules(pipe)), judged=True)
    except UnknownOperatorError as error:
        found.detail = f"the independent counter: {error}"
        return found
    except Exception as error:
        found.detail = f"without diffmeter: {type(error).__name__}: {str(error)[:200]}"
        return found
    found.want = truth.total
    try:
        observation, result = run_once(number, observe_run, observed=True)
        profile = observation.profile
        same = np.array_equal(pixels(result), plain, equal_nan=True)
    except Exception as error:
        found.verdict, found.detail = "broken", f"{type(error).__name__}: {str(error)[:300]}"
        return found
    found.got = profile.matmul_macs
    if not same:
        found.verdict, found.detail = "broken", "another image when it is observed"
    elif found.got == found.want:
        found.verdict = "exact"
    else:
        found.verdict = "silent" if profile.complete else "honest"
    if not profile.complete and not found.detail:
        found.detail = "; ".join(f"{g['component']}: {g.get('reason') or g.get('op')}" for g in profile.uncounted)[
            :300
        ]
    return found


def observe_run(pipe: Any, run: Callable[[], Any]) -> Any:
    """The observation and what the pipeline returned."""
    from diffmeter import observe

    with observe(pipe) as observation:
        result = run()
    return observation, result


def summary(verdicts: list[Verdict]) -> dict[str, Any]:
    """Counts of verdicts, in all and by change, and every draw that is neither exact nor unjudged."""
    by_change: dict[str, Counter[str]] = {name: Counter() for name in sorted(CHANGES)}
    for verdict in verdicts:
        for name in verdict.changes:
            by_change[name][verdict.verdict] += 1
    counts = Counter(verdict.verdict for verdict in verdicts)
    return {
        "draws": len(verdicts),
        "verdicts": {name: counts[name] for name in VERDICTS},
        "by_change": {name: {v: counts[v] for v in VERDICTS if counts[v]} for name, counts in by_change.items()},
        "not_exact": [asdict(v) for v in verdicts if v.verdict not in ("exact", "unjudged")],
    }


def main() -> None:
    """Make the draws, and print and save what came of them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--first", type=int, default=0, help="number of the first draw")
    parser.add_argument("--draws", type=int, default=500, help="how many draws that are judged")
    parser.add_argument("--out", type=Path, default=Path("mutations.jsonl"), help="every verdict, a line each")
    parser.add_argument("--json", type=Path, help="where to save the summary")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    lines = options.out.read_text().splitlines() if options.out.exists() else []
    known = {verdict.draw: verdict for verdict in (Verdict(**json.loads(line)) for line in lines)}
    verdicts: list[Verdict] = []
    number = options.first
    while sum(v.verdict != "unjudged" for v in verdicts) < options.draws:
        verdict = known.get(number)
        if verdict is None:
            verdict = judge(number)
            with options.out.open("a") as file:
                file.write(json.dumps(asdict(verdict)) + "\n")
            if verdict.verdict not in ("exact", "unjudged"):
                print(verdict, flush=True)
        verdicts.append(verdict)
        number += 1
    result = summary(verdicts)
    print(json.dumps(result["verdicts"]))
    if options.json:
        options.json.write_text(json.dumps({"torch": torch.__version__, "first": options.first, **result}, indent=1))


if __name__ == "__main__":
    main()
