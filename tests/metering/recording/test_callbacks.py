"""Callbacks in a dry run: they see and ask the stand-in, and write into nothing of the user's."""

from __future__ import annotations

import collections
import copy
import functools
import sys
import threading
import types
import weakref
from collections.abc import Callable
from typing import Any

import pytest
from diffusers import hooks

from diffmeter import dry_run, observe
from tests.reference import count_real_run
from tests.zoo import ZOO

PIPE: Any = None  # what a script's own functions refer to by a global name
COUNTED = 0
SEEN: list[int] = []


def stop_global(_pipe: Any, step: int, _time: Any, tensors: dict[str, Any]) -> dict[str, Any]:
    if step == 0:
        PIPE._interrupt = True
    return tensors


def stop_by_another_function(_pipe: Any, step: int, _time: Any, tensors: dict[str, Any]) -> dict[str, Any]:
    return stop_global(_pipe, step, _time, tensors)


def count_global(_pipe: Any, step: int, _time: Any, tensors: dict[str, Any]) -> dict[str, Any]:
    global COUNTED
    COUNTED += 1
    SEEN.append(step)
    if COUNTED == 1:
        PIPE._interrupt = True
    return tensors


class Stopper:
    """Holds the pipeline, or a part of it, as an attribute."""

    stopped: list[int] = []  # noqa: RUF012  # shared on purpose

    def __init__(self, pipe: Any) -> None:
        self.pipe = pipe
        self.lock = threading.Lock()
        self.steps: collections.deque[int] = collections.deque()

    def __call__(self, _pipe: Any, step: int, _time: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        with self.lock:
            self.steps.append(step)
            self.stopped.append(step)
            self.pipe._interrupt = True
        return tensors

    def method(self, *arguments: Any) -> Any:
        return self(*arguments)


class Quiet(Stopper):
    """Reaches the pipeline by a global name in a method of its own, and the rest by its base."""

    def __init__(self) -> None:
        super().__init__(None)

    def __call__(self, *arguments: Any) -> Any:
        self.pipe = PIPE
        return super().__call__(*arguments)


class Slotted:
    """Has no attribute dictionary."""

    __slots__ = ("pipe",)

    def __init__(self, pipe: Any) -> None:
        self.pipe = pipe

    def stop(self, *arguments: Any) -> Any:
        self.pipe._interrupt = True
        return arguments[-1]


def closure(pipe: Any) -> Callable[..., Any]:
    def stop(*arguments: Any) -> Any:
        pipe._interrupt = True
        return arguments[-1]

    return stop


def nonlocal_count(pipe: Any) -> Callable[..., Any]:
    made = 0

    def stop(*arguments: Any) -> Any:
        nonlocal made
        made += 1
        if made == 2:
            pipe._interrupt = True
        return arguments[-1]

    return stop


def default(pipe: Any) -> Callable[..., Any]:
    def stop(_p: Any, step: int, _t: Any, tensors: Any, held: Any = pipe, *, more: Any = (pipe,)) -> Any:
        more[0]._interrupt = held._interrupt or step == 1
        return tensors

    return stop


def weak(pipe: Any) -> Callable[..., Any]:
    reference, proxy = weakref.ref(pipe), weakref.proxy(pipe)

    def stop(*arguments: Any) -> Any:
        held = reference()
        assert held is not None
        held._interrupt = proxy.num_timesteps > 0
        return arguments[-1]

    return stop


def in_containers(pipe: Any) -> Callable[..., Any]:
    held = types.SimpleNamespace(pipes={"main": [pipe]})

    def stop(*arguments: Any) -> Any:
        held.pipes["main"][0]._interrupt = True
        held.pipes["done"] = []
        return arguments[-1]

    return stop


def by_event(pipe: Any) -> Callable[..., Any]:
    event = threading.Event()

    def stop(_p: Any, step: int, *arguments: Any) -> Any:
        if step == 0:
            event.set()
        pipe._interrupt = event.is_set()
        return arguments[-1]

    return stop


def a_block_switched_off(pipe: Any) -> Callable[..., Any]:
    """Writes into a part of a component, which changes what runs from then on."""
    block = pipe.unet.mid_block

    def skip(*arguments: Any) -> Any:
        block.attentions = type(block.attentions)()
        return arguments[-1]

    return skip


class State:
    """What a script keeps in a class."""

    pipe: Any = None


def held_by_a_class(pipe: Any) -> Callable[..., Any]:
    State.pipe = pipe

    def stop(*arguments: Any) -> Any:
        State.pipe._interrupt = True
        return arguments[-1]

    return stop


def held_by_a_module(pipe: Any) -> Callable[..., Any]:
    app = types.ModuleType("app")
    app.pipe = pipe  # type: ignore[attr-defined]

    def stop(*arguments: Any) -> Any:
        app.pipe._interrupt = True
        return arguments[-1]

    return stop


def by_a_computed_name(*arguments: Any) -> Any:
    globals()["PI" + "PE"]._interrupt = True
    return arguments[-1]


def wrapped(pipe: Any) -> Callable[..., Any]:
    return functools.wraps(closure(pipe))(functools.lru_cache(None)(closure(pipe)).__wrapped__)


SITUATIONS: dict[str, Callable[[Any], Callable[..., Any]]] = {
    "global name": lambda pipe: stop_global,
    "global name in a function that is called": lambda pipe: stop_by_another_function,
    "counter by a global statement": lambda pipe: count_global,
    "closure": closure,
    "nonlocal counter": nonlocal_count,
    "default": default,
    "weak reference": weak,
    "containers": in_containers,
    "event": by_event,
    "object": Stopper,
    "bound method": lambda pipe: Stopper(pipe).method,
    "object, by a global name in its class": lambda pipe: Quiet(),
    "slots": lambda pipe: Slotted(pipe).stop,
    "partial": lambda pipe: functools.partial(lambda held, *a: [setattr(held, "_interrupt", True), a[-1]][1], pipe),
    "partial of a method": lambda pipe: functools.partial(Stopper(pipe).method),
    "class attribute": held_by_a_class,
    "module": held_by_a_module,
    "computed global name": lambda pipe: by_a_computed_name,
    "wrapped": wrapped,
    "lambda": lambda pipe: lambda *a: (setattr(pipe, "_interrupt", True), a[-1])[1],
    "setattr by a bound method": lambda pipe: lambda *a: (pipe.__setattr__("_interrupt", True), a[-1])[1],
}


@pytest.fixture(scope="module")
def shared() -> Any:
    return ZOO["StableDiffusionPipeline"].build()


def observed(pipe: Any, callback: Callable[..., Any], arguments: dict[str, Any]) -> int:
    with observe(pipe) as run:
        pipe(**arguments, callback_on_step_end=callback)
    assert run.profile.complete
    return run.profile.matmul_macs


@pytest.mark.parametrize("name", SITUATIONS)
def test_a_callback_asks_the_stand_in(name: str, shared: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(f"{__name__}.PIPE", shared)
    monkeypatch.setattr(f"{__name__}.COUNTED", 0)
    arguments = {**ZOO["StableDiffusionPipeline"].arguments(shared), "num_inference_steps": 4}
    SEEN.clear()
    Stopper.stopped.clear()
    before = dict(vars(shared))
    made = SITUATIONS[name](shared)
    kept = copy.copy(vars(made)) if isinstance(made, Stopper) else {}
    dry = dry_run(shared, **arguments, callback_on_step_end=made)
    assert {key: value for key, value in vars(shared).items() if before.get(key) is not value} == {}
    assert (COUNTED, SEEN, Stopper.stopped) == (0, [], [])
    if isinstance(made, Stopper):
        assert vars(made) == kept
        assert not made.steps
    assert dry.complete
    assert dry.matmul_macs == observed(shared, SITUATIONS[name](shared), arguments)


def test_a_callback_that_changes_a_component() -> None:
    case = ZOO["StableDiffusionPipeline"]
    pipe = case.build()
    arguments = {**case.arguments(pipe), "num_inference_steps": 4}
    blocks = list(pipe.unet.mid_block.attentions)
    dry = dry_run(pipe, **arguments, callback_on_step_end=a_block_switched_off(pipe))
    assert list(pipe.unet.mid_block.attentions) == blocks
    truth = count_real_run(case.build(), **arguments).total
    pipe = case.build()
    assert dry.matmul_macs == observed(pipe, a_block_switched_off(pipe), arguments) < truth


def test_what_cannot_be_copied_is_not_called_and_said(tmp_path: Any, shared: Any) -> None:
    arguments = {**ZOO["StableDiffusionPipeline"].arguments(shared), "num_inference_steps": 3}
    with (tmp_path / "log.txt").open("w") as log:

        def write(_pipe: Any, step: int, _time: Any, tensors: Any) -> Any:
            log.write(f"{step}\n")
            return tensors

        dry = dry_run(shared, **arguments, callback_on_step_end=write)
    assert (tmp_path / "log.txt").read_text() == ""
    assert not dry.complete
    assert "callback_on_step_end holds a TextIOWrapper" in dry.uncounted[0]["reason"]


def test_a_way_that_is_not_seen_leaves_nothing_behind_and_is_said() -> None:
    case = ZOO["StableDiffusionPipeline"]
    pipe = case.build()

    def by_the_back_door(_pipe: Any, step: int, _time: Any, tensors: Any) -> Any:
        sys.modules[__name__].PIPE._interrupt = True  # type: ignore[attr-defined]
        return tensors

    globals()["PIPE"] = pipe
    before = dict(vars(pipe))
    try:
        dry = dry_run(pipe, **case.arguments(pipe), callback_on_step_end=by_the_back_door)
    finally:
        globals()["PIPE"] = None
    assert {key: value for key, value in vars(pipe).items() if before.get(key) is not value} == {}
    assert not dry.complete
    assert "a function wrote into the StableDiffusionPipeline given" in dry.uncounted[0]["reason"]


def current_time() -> Any:
    return PIPE.current_timestep


@pytest.mark.parametrize("how", ["global name", "object", "bound method"])
def test_a_step_cache_whose_callback_holds_the_pipeline(how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    case = ZOO["FluxPipeline"]

    class Clock:
        def __init__(self, pipe: Any) -> None:
            self.pipe = pipe

        def now(self) -> Any:
            return self.pipe.current_timestep

    def with_cache() -> Any:
        pipe = case.build()
        monkeypatch.setattr(f"{__name__}.PIPE", pipe)
        clock = Clock(pipe)
        callback = {
            "global name": current_time,
            "object": lambda: clock.now(),
            "bound method": clock.now,
        }
        config = hooks.PyramidAttentionBroadcastConfig(
            spatial_attention_block_skip_range=2,
            spatial_attention_timestep_skip_range=(-1, 1001),
            current_timestep_callback=callback[how],
        )
        pipe.transformer.enable_cache(config)
        return pipe

    pipe = with_cache()
    arguments = {**case.arguments(pipe), "num_inference_steps": 4}
    dry = dry_run(pipe, **arguments)
    assert dry.complete
    assert dry.matmul_macs == count_real_run(with_cache(), **arguments).total
