"""After observing and dry-running, everything is as it was: modules, pipeline, functions, random numbers, pixels."""

from __future__ import annotations

import gc
import random
import weakref

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.modules import module as nn_module

from diffmeter import dry_run, observe
from diffmeter.metering.watching import intercept
from tests.custom import CustomPipeline, component
from tests.zoo import ZOO

PIPELINES = [
    "StableDiffusionPipeline",
    "StableDiffusionXLPipeline",
    "FluxPipeline",
    "StableDiffusion3Pipeline",
    "PixArtAlphaPipeline",
    "WanPipeline",
]


def build(name):
    if name == "embedded":
        from diffmeter.model_manager import get_model_manager

        pipe = get_model_manager().load_model("diffmeter/shapes")
        pipe.set_progress_bar_config(disable=True)
        arguments = {"prompt": "a red circle", "num_inference_steps": 2, "output_type": "np"}
        return pipe, lambda: {**arguments, "generator": torch.Generator().manual_seed(0)}
    pipe = ZOO[name].build()
    return pipe, lambda: ZOO[name].arguments(pipe)


def modules_of(pipe) -> list[nn.Module]:
    return [c for c in pipe.components.values() if isinstance(c, nn.Module)]


def describe(value):
    """A value as something that compares: what it is, and which object where it is no plain value."""
    if isinstance(value, (int, float, str, bool, type(None))):
        return value
    if isinstance(value, dict):
        return {key: describe(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set)):
        return [describe(item) for item in value]
    return type(value), id(value)


def state(pipe) -> dict:
    """All that could show a trace."""
    found: dict = {"pipe": (type(pipe), describe(vars(pipe)))}
    for name, value in pipe.components.items():
        found[name] = (type(value), id(value))
    scheduler = pipe.components.get("scheduler")
    if scheduler is not None:
        found["scheduler"] = (type(scheduler), sorted(vars(scheduler)))
    for number, component_ in enumerate(modules_of(pipe)):
        found[number, "keys"] = list(component_.state_dict())
        for path, module in component_.named_modules():
            attributes = describe(vars(module))
            found[number, path] = (type(module), module.training, attributes)
    functional = {name: id(value) for name, value in vars(F).items() if callable(value)}
    found["torch"] = (
        functional,
        nn.Module.__setattr__,
        nn.Module.__delattr__,
        nn.Module.__call__,
        len(nn_module._global_forward_hooks),
        len(nn_module._global_forward_pre_hooks),
        torch._C._len_torch_dispatch_stack(),
        torch._C._len_torch_function_stack(),
        torch.is_grad_enabled(),
        torch.get_default_dtype(),
        torch.Tensor.__matmul__,
        torch.matmul,
    )
    return found


def random_state():
    numpy = np.random.get_state()
    return torch.get_rng_state().tolist(), random.getstate(), numpy[1].tolist(), numpy[2]


def pixels(output):
    first = output[0] if isinstance(output, tuple) else next(iter(output.values()))
    return np.asarray(first)


@pytest.mark.parametrize("name", [*PIPELINES, "embedded"])
def test_observing_leaves_no_trace(name) -> None:
    pipe, arguments = build(name)
    torch.manual_seed(5)
    plain = pixels(pipe(**arguments()))  # also makes what a first run makes by itself
    before, after_plain = state(pipe), random_state()
    torch.manual_seed(5)
    with observe(pipe) as run:
        observed = pixels(pipe(**arguments()))
    assert random_state() == after_plain
    assert state(pipe) == before
    profile = run.profile
    assert state(pipe) == before and random_state() == after_plain
    assert profile.matmul_macs > 0
    torch.manual_seed(5)
    assert np.array_equal(observed, plain) and np.array_equal(pixels(pipe(**arguments())), plain)


@pytest.mark.parametrize("name", [*PIPELINES, "embedded"])
def test_dry_runs_leave_no_trace(name) -> None:
    pipe, arguments = build(name)
    pipe(**arguments())
    given = arguments()
    before, randoms = state(pipe), random_state()
    generators = {k: v.get_state().tolist() for k, v in given.items() if isinstance(v, torch.Generator)}
    assert dry_run(pipe, **given).matmul_macs > 0
    assert state(pipe) == before and random_state() == randoms
    assert {k: v.get_state().tolist() for k, v in given.items() if isinstance(v, torch.Generator)} == generators


class Stop(Exception):
    pass


def test_an_exception_in_the_block() -> None:
    pipe, arguments = build("StableDiffusionPipeline")
    pipe(**arguments())
    before = state(pipe)
    with pytest.raises(Stop), observe(pipe):
        pipe(**arguments())
        raise Stop
    assert state(pipe) == before


@pytest.mark.parametrize("with_hook", [False, True])
def test_an_exception_inside_a_component(with_hook) -> None:
    """Midway in a forward; with a hook of the user's the call is also counted while it runs."""
    pipe, arguments = build("StableDiffusionPipeline")
    pipe(**arguments())
    if with_hook:
        pipe.unet.conv_in.register_forward_hook(lambda module, args, output: None)
    middle = pipe.unet.mid_block.resnets[0]
    forward, before = type(middle).forward, state(pipe)

    def stop(self, *args, **kwargs):
        if self is middle:
            raise Stop("midway")
        return forward(self, *args, **kwargs)

    try:
        with pytest.raises(Stop, match="midway"), observe(pipe) as run:
            type(middle).forward = stop
            pipe(**arguments())
    finally:
        type(middle).forward = forward
    assert state(pipe) == before
    assert not run.profile.complete


def test_a_callback_that_raises() -> None:
    pipe, arguments = build("StableDiffusionPipeline")
    pipe(**arguments())
    before = state(pipe)

    def callback(pipe, step, timestep, values):
        raise Stop

    with pytest.raises(Stop), observe(pipe):
        pipe(**arguments(), callback_on_step_end=callback)
    assert state(pipe) == before


def live_objects() -> tuple[int, int, int]:
    gc.collect()
    found = gc.get_objects()
    tensors = sum(1 for o in found if issubclass(type(o), torch.Tensor))
    return tensors, sum(1 for o in found if issubclass(type(o), nn.Module)), len(found)


@pytest.mark.parametrize("read", [True, False])
def test_repeats_leave_nothing_and_memory_does_not_grow(read) -> None:
    pipe, arguments = build("StableDiffusionPipeline")
    before = None

    def once():
        with observe(pipe) as run:
            pipe(**{**arguments(), "num_inference_steps": 1, "output_type": "latent"})
        if read:
            assert run.profile.complete

    for repeat in range(20):
        once()
        if repeat == 4:
            before, counted = state(pipe), live_objects()
    assert state(pipe) == before
    now = live_objects()
    assert now[:2] == counted[:2]
    assert now[2] - counted[2] < 500  # of some hundred thousand; a single kept profile holds more
    assert not intercept._watchers and not intercept._instance_wraps


@pytest.mark.parametrize("read", [True, False])
def test_nothing_keeps_the_pipeline_alive(read) -> None:
    pipe, arguments = build("StableDiffusionPipeline")
    with observe(pipe) as run:
        pipe(**arguments())
    if read:
        assert run.profile.complete
    gone = [weakref.ref(module) for module in modules_of(pipe)]
    gone += [weakref.ref(next(module.parameters())) for module in modules_of(pipe)]
    gone.append(weakref.ref(pipe))
    del pipe, arguments
    gc.collect()
    assert [reference() for reference in gone] == [None] * len(gone)
    assert run.profile.matmul_macs > 0  # read late, it still has what it needs


def test_no_activation_is_kept_during_a_block() -> None:
    seen: list[weakref.ref] = []

    def forward(self, x):
        seen.append(weakref.ref(x))
        return self.a(x)

    pipe = CustomPipeline(component(forward), lambda pipe: [pipe.net(torch.rand(50, 8)) for _ in range(5)])
    with observe(pipe) as run:
        pipe()
        gc.collect()
        assert [reference() for reference in seen] == [None] * 5
    assert run.profile.complete


def test_a_dry_run_keeps_nothing() -> None:
    pipe, arguments = build("StableDiffusionPipeline")
    dry_run(pipe, **arguments())
    counted = live_objects()
    for _ in range(3):
        dry_run(pipe, **arguments())
    assert live_objects()[:2] == counted[:2]
    gone = weakref.ref(pipe.unet)
    del pipe, arguments
    gc.collect()
    assert gone() is None


def test_a_dry_run_that_fails_leaves_no_trace() -> None:
    pipe, arguments = build("StableDiffusionPipeline")
    pipe(**arguments())
    before = state(pipe)
    with pytest.raises(ValueError, match="height"):
        dry_run(pipe, **{**arguments(), "height": 33})
    assert state(pipe) == before
