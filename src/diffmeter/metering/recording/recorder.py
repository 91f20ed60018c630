"""One recorder for every kind of run: it sees calls, generations and steps, and notes them in a :class:`Recording`.

How a call is carried out is not its business: a :class:`Carrier` does that, by the component itself while a real
generation is observed, by a twin in a dry run.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import threading
import time
from collections.abc import Callable, Container, Iterator
from typing import Any, Protocol

from torch import nn

from diffmeter.compat import MODULE_ENTRIES, in_backward, take_off
from diffmeter.metering.counters.live import OutsideCalls, outermost_module
from diffmeter.metering.pipelines.call import call_of
from diffmeter.metering.pipelines.parts import Parts
from diffmeter.metering.pipelines.roles import images_made
from diffmeter.metering.watching import intercept
from diffmeter.metering.watching.signature import freeze, iter_tensors

from . import scopes
from .calls import NO_GENERATION, CallRecord, DirectProducts, Generation, Recording

Proceed = Callable[..., Any]


class Carrier(Protocol):
    """Carries calls out. A recorder has one, and asks it nothing else.

    Attributes:
        watches_steps: whether the operators of a scheduler's step concern it.
    """

    watches_steps: bool

    def between_calls(self, busy: Callable[[], bool], found: Callable[[str, int | None], None]) -> OutsideCalls:
        """What looks at the operators of the pipeline's own code."""

    def call(
        self, record: CallRecord, target: nn.Module, proceed: Proceed, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """Carry a call out, note in ``record`` how it went, and return what the pipeline gets."""

    def generation_over(self) -> None:
        """A generation has returned or raised: its time is taken after this."""


class Recorder:
    """Notes the calls of one pipeline's components in ``recording``.

    Args:
        parts: what the pipeline consists of.
        carrier: carries the calls out.
        recording: where they are noted.
    """

    def __init__(self, parts: Parts, carrier: Carrier, recording: Recording) -> None:
        self.parts = parts
        self.carrier = carrier
        self.recording = recording
        self._block = scopes.Scope(block=self, within=self._between_calls)
        self._foreign_before: set[int] = set()
        self._names = {id(module): name for name, module in parts.components.items()}
        self._owners: dict[int, tuple[str, str]] = {}
        self._local = threading.local()
        self._last_component: str | None = None

    # the block

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """Record what happens in this block."""
        self._foreign_before = {id(pipe) for pipe in scopes.pipelines_on_stack()}
        with contextlib.ExitStack() as stack:
            for target in (*self.parts.components.values(), *self.parts.pipelines, *self.parts.schedulers):
                intercept.watch(target, self)
                stack.callback(intercept.unwatch, target, self)
            stack.enter_context(scopes.ScopesInThreads())
            scopes.enter(self._block)
            stack.callback(scopes.leave, self._block)
            stack.enter_context(self._between_calls())
            yield

    @contextlib.contextmanager
    def _between_calls(self) -> Iterator[None]:
        """Look at the operators that this thread runs outside of recorded calls."""
        if getattr(self._local, "mode", None) is not None:
            yield
            return
        mode = self._local.mode = self.carrier.between_calls(self._busy, self._found)
        mode.__enter__()
        try:
            yield
        finally:
            self._local.mode = None
            take_off(mode)

    def _paused(self) -> contextlib.AbstractContextManager[None]:
        mode: OutsideCalls | None = getattr(self._local, "mode", None)
        return contextlib.nullcontext() if mode is None else mode.paused()

    def _busy(self) -> bool:
        return getattr(self._local, "inside", False)

    # whose call it is

    def priority(self) -> int:
        """Recorders whose block the current code runs inside come before those that know nothing of this thread."""
        return 2 if any(scope.block is self for scope in scopes.current()) else 1

    def _place(self) -> tuple[bool, Generation | None]:
        """Whether what runs here is for this recorder, and in which generation.

        A block answers for the generations of its own pipeline, and for calls outside any pipeline.
        """
        known = False
        for scope in reversed(scopes.current()):
            if scope.block is self:
                if scope.generation is not None:
                    return True, scope.generation
                known = True
                break
        if any(id(pipe) not in self._foreign_before for pipe in scopes.pipelines_on_stack() if not self._owns(pipe)):
            return False, None
        running = [generation for generation in self.recording.generations if not generation.finished]
        return True, running[0] if not known and len(running) == 1 else None

    def _owns(self, pipe: Any) -> bool:
        return any(pipe is own for own in self.parts.pipelines)

    # calls, steps and generations

    def on_call(
        self, target: Any, method: str, proceed: Proceed, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """Entry from the interception: a component, a scheduler or a pipeline was called."""
        if self._busy():
            return proceed(*args, **kwargs)
        name = self._names.get(id(target))
        if name is None and method != "step":
            return self._on_generation(target, proceed, args, kwargs)
        mine, generation = self._place()
        if not mine:
            return proceed(*args, **kwargs)
        if name is None:
            return self._on_step(generation, proceed, args, kwargs)
        if method != "forward" and next(iter_tensors((args, kwargs)), None) is None:
            return proceed(*args, **kwargs)  # switching something on or off
        return self._on_component(name, target, method, generation, proceed, args, kwargs)

    def _on_step(self, generation: Generation | None, proceed: Proceed, args: Any, kwargs: Any) -> Any:
        if getattr(self._local, "stepping", False):  # a scheduler that steps through another
            return proceed(*args, **kwargs)
        self._local.stepping = True
        try:
            with contextlib.nullcontext() if self.carrier.watches_steps else self._paused():
                return proceed(*args, **kwargs)
        finally:
            self._local.stepping = False
            if generation is not None:
                generation.steps += 1
            if self._last_component is not None:
                self.recording.last_before_step[self._last_component] += 1

    def _on_generation(self, pipe: Any, proceed: Proceed, args: Any, kwargs: Any) -> Any:
        if any(scope.block is self and scope.generation is not None for scope in scopes.current()):
            return proceed(*args, **kwargs)  # a pipeline that calls a pipeline is one generation
        generations = self.recording.generations
        generation = Generation(
            number=len(generations),
            pipeline_class=type(pipe).__name__,
            arguments=call_of(pipe).plain(args, kwargs),
        )
        generations.append(generation)
        scope = scopes.Scope(block=self, recorder=self, generation=generation, within=self._between_calls)
        scopes.enter(scope)
        start = time.perf_counter()
        try:
            with self._between_calls():
                output = proceed(*args, **kwargs)
            generation.images = images_made(output)
            return output
        finally:
            scopes.leave(scope)
            self.carrier.generation_over()
            generation.seconds = time.perf_counter() - start
            generation.finished = True

    def _on_component(
        self,
        name: str,
        target: nn.Module,
        method: str,
        generation: Generation | None,
        proceed: Proceed,
        args: Any,
        kwargs: Any,
    ) -> Any:
        self._local.inside = True
        try:
            with self._paused():
                record = self._new_call(name, target, method, generation, args, kwargs)
                if record is None:
                    return proceed(*args, **kwargs)
                return self.carrier.call(record, target, proceed, args, kwargs)
        finally:
            self._local.inside = False

    def _new_call(
        self, name: str, target: nn.Module, method: str, generation: Generation | None, args: Any, kwargs: Any
    ) -> CallRecord | None:
        cls: Any = type(target)
        try:
            record = CallRecord(
                component=name,
                method=method,
                arguments=freeze(args, kwargs),
                parameter_names=_parameter_names(cls, method),
                generation=NO_GENERATION if generation is None else generation.number,
                step=None if generation is None else generation.steps,
            )
        except Exception as error:  # a profile that fails never breaks a generation
            self.recording.note(name, f"{type(error).__name__} while recording a call: {error}")
            return None
        self.recording.calls.append(record)
        self._last_component = name
        return record

    # products of submodules that are entered directly

    def _found(self, operator: str, macs: int | None) -> None:
        mine, generation = self._place()
        if not mine:
            return
        module = outermost_module(self._belongs, self._entries, strangers=generation is not None)
        if module is None:
            if in_backward():
                component = self._last_component or type(self.parts.pipelines[0]).__name__
                self.recording.note(component, "products of a backward pass are not counted")
            return
        component, path = self._owners.get(id(module)) or (type(module).__name__, type(module).__name__)
        if component not in self.parts.components:
            self.recording.non_components[component] = sum(p.numel() for p in module.parameters())
        direct = self.recording.direct
        entry = direct.setdefault((component, path), DirectProducts(component=component, path=path))
        if macs is None:
            entry.unknown[operator] += 1
        else:
            entry.macs[operator] += macs

    def _entries(self, module: nn.Module) -> Container[str]:
        if id(module) in self._names:
            return (*MODULE_ENTRIES, *intercept.public_methods(module.__class__))
        return MODULE_ENTRIES

    def _belongs(self, module: nn.Module) -> bool:
        if id(module) not in self._owners:
            for component, root in self.parts.components.items():
                for path, child in root.named_modules():
                    self._owners.setdefault(id(child), (component, path))
        return id(module) in self._owners

    def forget(self) -> None:
        """Let go of the user's pipeline."""
        self.parts = Parts({}, [], [])
        self._names.clear()
        self._owners.clear()


@functools.cache
def _parameter_names(cls: Any, method: str) -> tuple[str, ...]:
    try:
        return tuple(inspect.signature(getattr(cls, method)).parameters)[1:]
    except (AttributeError, TypeError, ValueError):
        return ()
