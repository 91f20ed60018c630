"""One recorder for every kind of run: it sees calls, generations and steps, and notes them in a :class:`Recording`.

How a call is carried out is not its business: a :class:`Carrier` does that, by the component itself while a real
generation is observed, by a twin in a dry run.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import logging
import threading
import time
from collections.abc import Callable, Container, Iterator, Mapping
from typing import Any, Protocol

import numpy as np
from torch import nn

from diffmeter.compat import MODULE_ENTRIES, in_backward, leave_dispatch_mode
from diffmeter.metering.counters.live import OutsideCalls, outermost_module
from diffmeter.metering.pipelines.call import call_of
from diffmeter.metering.pipelines.parts import Parts, parts_of
from diffmeter.metering.pipelines.roles import images_made
from diffmeter.metering.watching import entries, intercept
from diffmeter.metering.watching.signature import freeze, iter_tensors, map_leaves
from diffmeter.metering.watching.snapshot import WriteWatch
from diffmeter.metering.watching.undisturbed import unseen

from . import scopes
from .calls import CallRecord, DirectProducts, Generation, Recording
from .strangers import Stranger

logger = logging.getLogger(__name__)

Proceed = Callable[..., Any]


class Carrier(Protocol):
    """Carries calls out. A recorder has one, and asks it nothing else.

    Attributes:
        sees_all_operators: whether its mode must also see what a scheduler's step runs, and a module that the
            pipeline enters past a component.
    """

    sees_all_operators: bool

    def between_calls(self, busy: Callable[[], bool], found: Callable[[str, int | None], None]) -> OutsideCalls:
        """What looks at the operators of the pipeline's own code."""

    def call(
        self, record: CallRecord, target: Any, proceed: Proceed, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """Carry a call out, note in ``record`` how it went, and return what the pipeline gets."""

    def entry(
        self,
        record: CallRecord,
        root: nn.Module,
        module: nn.Module,
        args: tuple[Any, ...],
        kwargs: dict[str, Any] | None,
    ) -> contextlib.AbstractContextManager[Callable[[Any], None]]:
        """Around a call of ``module``, a part of the component ``root``, that is under way already.

        What is given is told the output. ``kwargs`` is None where they are not known, to ``record`` neither.
        """

    def generation_over(self) -> None:
        """A generation has returned or raised: its time is taken after this."""


class Block:
    """What the recorders of one observed block share: each pipeline has its own, and a call belongs to one of them."""

    def __init__(self) -> None:
        self.recorders: list[Recorder] = []
        self.foreign_before = {id(pipe) for pipe in scopes.pipelines_on_stack()}

    def first_of(self, target: Any) -> Recorder:
        """Whose a component is where it is called outside any pipeline."""
        return next(recorder for recorder in self.recorders if recorder.knows(target))


class Recorder:
    """Notes the calls of one pipeline's components in ``recording``.

    Args:
        pipe: the pipeline, or None for ``extra`` modules alone.
        carrier: carries the calls out.
        recording: where they are noted.
        block: what the recorders of one observed block share.
        extra: further modules that count as components.
    """

    def __init__(
        self, pipe: Any, carrier: Carrier, recording: Recording, block: Block, extra: Mapping[str, Any] | None = None
    ) -> None:
        self.pipe = pipe
        self.carrier = carrier
        self.recording = recording
        self.parts = Parts({}, [], [])
        self._extra = dict(extra or {})
        self._block = block
        self._scope = scopes.Scope(block=block, within=self._between_calls)
        self._names: dict[int, str] = {}
        self._watched: list[Any] = []
        self._owners: dict[int, tuple[str, str]] = {}
        self._owners_at = -1
        self._local = threading.local()
        self._last_component: str | None = None
        block.recorders.append(self)

    # the block

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """Record what happens in this block."""
        with contextlib.ExitStack() as stack:
            stack.callback(self._unwatch)
            self._look_for_components()
            stack.enter_context(scopes.ScopesInThreads())
            stack.enter_context(entries.told(self))
            scopes.enter(self._scope)
            stack.callback(scopes.leave, self._scope)
            stack.enter_context(self._between_calls())
            yield

    def _look_for_components(self) -> None:
        """Watch what the pipeline consists of now; a pipeline may get other components at any time."""
        self.parts = parts_of(self.pipe)
        self.parts.components.update(self._extra)
        for name, target in (*self.parts.components.items(), *self.parts.engines.items()):
            if id(target) not in self._names:
                self._names[id(target)] = name
                if not self._watch(target) and name in self.parts.engines:
                    kind = type(target).__name__
                    self.recording.note(name, f"calls of a {kind} cannot be watched: what it does is not counted")
        for target in (*self.parts.pipelines, *self.parts.schedulers):
            if not any(target is known for known in self._watched):
                self._watch(target)
        self._owners.clear()

    def _watch(self, target: Any) -> bool:
        self._watched.append(target)
        return intercept.watch(target, self)

    def _unwatch(self) -> None:
        for target in self._watched:
            intercept.unwatch(target, self)
        self.pipe = None
        self.parts = Parts({}, [], [])
        self._extra.clear()
        self._watched.clear()
        self._names.clear()
        self._owners.clear()

    def on_assignment(self, target: Any) -> None:
        """Entry from the interception: the pipeline was given something that may be a component."""
        try:
            self._look_for_components()
        except Exception:  # a pipeline in the middle of being changed
            logger.debug("the components of %s cannot be told", type(target).__name__, exc_info=True)

    @contextlib.contextmanager
    def _between_calls(self) -> Iterator[None]:
        """Look at what this thread runs outside of recorded calls."""
        if getattr(self._local, "mode", None) is not None:
            yield
            return
        mode = self._local.mode = self.carrier.between_calls(self._busy, self._found)
        mode.__enter__()
        try:
            with entries.between_calls():
                yield
        finally:
            self._local.mode = None
            leave_dispatch_mode(mode)

    @contextlib.contextmanager
    def _paused(self, *, operators: bool = True) -> Iterator[None]:
        """Around what is no business of :meth:`_between_calls`; with ``operators`` its mode is taken off too."""
        mode: OutsideCalls | None = getattr(self._local, "mode", None)
        if mode is None:
            yield
            return
        with entries.paused(), mode.paused() if operators else contextlib.nullcontext():
            yield

    # whose call it is

    def priority(self) -> int:
        """Recorders whose block the current code runs inside come before those that know nothing of this thread."""
        return 2 if scopes.innermost(self._block) is not None else 1

    def knows(self, target: Any) -> bool:
        """Whether ``target`` is a component, or a part of one."""
        return id(target) in self._names or id(target) in self._owners

    def _busy(self) -> bool:
        scope = scopes.innermost(self._block)
        return scope is not None and scope.is_call

    def _place(self, target: Any = None) -> tuple[bool, Generation | None]:
        """Whether what runs here is for this recorder, and in which generation.

        A block answers for the generations of its own pipelines, and for calls outside any pipeline.
        """
        scope = scopes.innermost(self._block)
        if scope is not None and scope.generation is not None:
            return scope.recorder is self, scope.generation
        before = self._block.foreign_before
        if any(id(pipe) not in before for pipe in scopes.pipelines_on_stack() if not self._owns(pipe)):
            return False, None
        if len(self._block.recorders) > 1 and target is not None and self._block.first_of(target) is not self:
            return False, None
        running = [g for g in self.recording.generations if not g.finished] if scope is None else []
        return True, running[0] if len(running) == 1 else None

    def _owns(self, pipe: Any) -> bool:
        return any(pipe is own for own in self.parts.pipelines)

    @contextlib.contextmanager
    def _recording(self, generation: Generation | None, *, operators: bool = True) -> Iterator[None]:
        """Inside a call that is recorded."""
        scope = scopes.Scope(block=self._block, recorder=self, generation=generation, is_call=True)
        scopes.enter(scope)
        stranger: Stranger | None = getattr(self._local, "stranger", None)
        try:
            with contextlib.nullcontext() if stranger is None else stranger.left(), self._paused(operators=operators):
                yield
        finally:
            scopes.leave(scope)

    # calls, steps and generations

    def on_call(
        self, target: Any, method: str, proceed: Proceed, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """Entry from the interception: a component, a scheduler or a pipeline was called."""
        entries.end_interrupted()
        if self._busy():
            return proceed(*args, **kwargs)
        name = self._names.get(id(target))
        if name is None and method != "step":
            is_own = method == "__call__" and self._owns(target)
            return self._on_generation(target, proceed, args, kwargs) if is_own else proceed(*args, **kwargs)
        mine, generation = self._place(target)
        if not mine:
            return proceed(*args, **kwargs)
        if name is None:
            return self._on_step(generation, proceed, args, kwargs)
        if method != "forward" and not _has_data((args, kwargs)):
            return proceed(*args, **kwargs)  # switching something on or off
        return self._on_component(name, target, method, generation, proceed, args, kwargs)

    def _on_step(self, generation: Generation | None, proceed: Proceed, args: Any, kwargs: Any) -> Any:
        if getattr(self._local, "stepping", False):  # a scheduler that steps through another
            return proceed(*args, **kwargs)
        self._local.stepping = True
        try:
            with contextlib.nullcontext() if self.carrier.sees_all_operators else self._paused():
                return proceed(*args, **kwargs)
        finally:
            self._local.stepping = False
            if generation is not None:
                generation.steps += 1
            if self._last_component is not None:
                self.recording.last_before_step[self._last_component] += 1
                self._last_component = None

    def _on_generation(self, pipe: Any, proceed: Proceed, args: Any, kwargs: Any) -> Any:
        scope = scopes.innermost(self._block)
        if scope is not None and scope.generation is not None and scope.recorder is self:
            return proceed(*args, **kwargs)  # a pipeline that calls a pipeline is one generation
        self.on_assignment(pipe)
        generations = self.recording.generations
        generation = Generation(
            number=len(generations),
            pipeline_class=type(pipe).__name__,
            arguments=call_of(pipe).plain(args, kwargs),
        )
        generations.append(generation)
        self._last_component = None
        scope = scopes.Scope(block=self._block, recorder=self, generation=generation, within=self._between_calls)
        scopes.enter(scope)
        start = time.perf_counter()
        try:
            with self._between_calls():
                output = proceed(*args, **kwargs)
            generation.images = images_made(output)
            return output
        finally:
            entries.end_interrupted()
            scopes.leave(scope)
            self.carrier.generation_over()
            generation.seconds = time.perf_counter() - start
            generation.finished = True

    def _on_component(
        self,
        name: str,
        target: Any,
        method: str,
        generation: Generation | None,
        proceed: Proceed,
        args: Any,
        kwargs: Any,
    ) -> Any:
        with self._recording(generation):
            cls: Any = type(target)
            record = self._new_call(name, method, generation, args, kwargs)
            if record is None:
                return proceed(*args, **kwargs)
            record.parameter_names = _parameter_names(cls, method)
            return self.carrier.call(record, target, proceed, args, kwargs)

    def _new_call(
        self, name: str, method: str, generation: Generation | None, args: Any, kwargs: Any
    ) -> CallRecord | None:
        try:
            with unseen():
                arguments = freeze(args, kwargs)
        except Exception as error:  # a profile that fails never breaks a generation
            self.recording.note(name, f"{type(error).__name__} while recording a call: {error}")
            return None
        record = CallRecord(component=name, method=method, arguments=arguments)
        if generation is not None:
            record.generation, record.step = generation.number, generation.steps
        self.recording.calls.append(record)
        self._last_component = name
        return record

    # modules that are entered past a component

    def listens(self) -> bool:
        """Entry from the hooks of modules: whether a module that is entered now may be of interest."""
        return not self._busy()

    def entered(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any] | None
    ) -> entries.Finish | None:
        """Entry from the hooks of modules: a part of a component, or a module that belongs to none, is called."""
        try:
            owner = self._owner(module)
            mine, generation = self._place(module if owner is not None else None)
            if not mine:
                return None
            if owner is not None:
                around = self._part(module, *owner, generation, args, kwargs)
            elif generation is not None and self._takes_strangers():
                around = self._stranger(module, generation)
            else:
                return None
            tell = around.__enter__()
        except Exception:  # a profile that fails never breaks a generation
            self.recording.note(type(module).__name__, "a call of it could not be recorded")
            logger.debug("a call of %s was not recorded", type(module).__name__, exc_info=True)
            return None

        def finish(output: Any, error: BaseException | None) -> None:
            if error is None:
                tell(output)
            with contextlib.suppress(BaseException):  # it is raised where it was raised
                around.__exit__(None if error is None else type(error), error, None)

        return finish

    @contextlib.contextmanager
    def _part(
        self,
        module: nn.Module,
        name: str,
        path: str,
        generation: Generation | None,
        args: tuple[Any, ...],
        kwargs: dict[str, Any] | None,
    ) -> Iterator[Callable[[Any], None]]:
        """Around a call of a part of a component, as around one of the component itself."""
        with self._recording(generation, operators=not self.carrier.sees_all_operators):
            record = self._new_call(name, path or "forward", generation, args, kwargs or {})
            if record is None:
                yield lambda output: None
                return
            cls: Any = type(module)
            record.parameter_names, record.path = _parameter_names(cls, "forward"), path
            root = next(root for root in self._components() if self._names[id(root)] == name)
            with self.carrier.entry(record, root, module, args, kwargs) as tell:
                yield tell

    @contextlib.contextmanager
    def _stranger(self, module: nn.Module, generation: Generation) -> Iterator[Callable[[Any], None]]:
        """Around a call of a module that belongs to no component: counted while it runs, without the calls inside."""
        stranger = self._local.stranger = Stranger(module)
        try:
            with stranger.counting():
                yield lambda output: None
        finally:
            self._local.stranger = None
            name = type(module).__name__
            self.recording.non_components[name] = sum(p.numel() for p in module.parameters())
            record = self._new_call(name, "forward", generation, (), {})
            if record is not None:
                record.in_run, record.count, record.failure = True, stranger.count, stranger.failure
                record.method = name

    def _takes_strangers(self) -> bool:
        """Whether a module of no component would be of a generation: not in a thread that nothing is known of."""
        return scopes.innermost(self._block) is not None and getattr(self._local, "stranger", None) is None

    def _found(self, operator: str, macs: int | None) -> None:
        """A product ran that no recorded call holds: a forward was called past its module, or it is plain code."""
        if getattr(self._local, "stranger", None) is not None:
            return
        mine, generation = self._place()
        if not mine:
            return
        module = outermost_module(
            self._belongs, self._entries, strangers=generation is not None and self._takes_strangers()
        )
        if module is None:
            if in_backward():
                component = self._last_component or type(self.pipe).__name__
                self.recording.note(component, "products of a backward pass are not counted")
            return
        name, path = self._owner(module) or (type(module).__name__, type(module).__name__)
        if name not in self.parts.components:
            self.recording.non_components[name] = sum(p.numel() for p in module.parameters())
        entry = self.recording.direct.setdefault((name, path), DirectProducts(component=name, path=path))
        if macs is None:
            entry.unknown[operator] += 1
        else:
            entry.macs[operator] += macs

    def _entries(self, module: nn.Module) -> Container[str]:
        if id(module) in self._names:
            return (*MODULE_ENTRIES, *intercept.public_methods(module.__class__))
        return MODULE_ENTRIES

    def _belongs(self, module: nn.Module) -> bool:
        return self._owner(module) is not None

    def _owner(self, module: nn.Module) -> tuple[str, str] | None:
        """The component that a module is part of, and its path there; None if it belongs to none."""
        if not self._owners or (id(module) not in self._owners and self._owners_at != WriteWatch.count):
            self._owners_at = WriteWatch.count  # since then, no component got another part
            for root in self._components():
                for path, child in root.named_modules():
                    self._owners.setdefault(id(child), (self._names[id(root)], path))
        return self._owners.get(id(module))

    def _components(self) -> Iterator[nn.Module]:
        """Every module that is or was a component, those that are one now first."""
        now = [*self.parts.components.values()]
        yield from now
        yield from (m for m in self._watched if isinstance(m, nn.Module) and not any(m is known for known in now))


def _has_data(arguments: Any) -> bool:
    """Whether a call was given a tensor or an array."""
    if next(iter_tensors(arguments), None) is not None:
        return True
    found: list[Any] = []
    map_leaves(arguments, np.ndarray, found.append)
    return bool(found)


@functools.cache
def _parameter_names(cls: Any, method: str) -> tuple[str, ...]:
    try:
        return tuple(inspect.signature(getattr(cls, method)).parameters)[1:]
    except (AttributeError, TypeError, ValueError):
        return ()
