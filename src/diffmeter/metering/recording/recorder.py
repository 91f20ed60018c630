"""Observe a real generation: which component was entered, in which order, with what, at which step, for how long.

Recording holds on to shapes, not to activations; counting happens afterwards, on twins, once per signature. Only
where a component's work depends on more than its structure and arguments (step caches, foreign hooks) is a call
counted while it runs.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Container, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from diffmeter.errors import CountError, DiffmeterError, InputError
from diffmeter.metering.counters.live import LiveCount, OutsideCalls, outermost_module
from diffmeter.metering.counters.tally import Count
from diffmeter.metering.twins.building import build_twin
from diffmeter.metering.twins.replay import Replay, random_state_kept, replay
from diffmeter.metering.watching import intercept
from diffmeter.metering.watching.signature import Frozen, freeze, iter_tensors
from diffmeter.metering.watching.snapshot import ModuleSnapshot, WriteWatch
from diffmeter.metering.watching.trust import Judgement, judge

if TYPE_CHECKING:
    from diffmeter.profile import ComputeProfile

logger = logging.getLogger(__name__)


# what a pipeline consists of -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Parts:
    """What a pipeline is made of, nested pipelines included."""

    components: dict[str, nn.Module]
    pipelines: list[Any]
    schedulers: list[Any]


def parts_of(pipe: Any) -> Parts:
    """Components, nested pipelines and schedulers of a pipeline.

    Raises:
        InputError: ``pipe`` is no pipeline.
    """
    own = getattr(pipe, "components", None)
    if isinstance(pipe, nn.Module) or not isinstance(own, Mapping) or not callable(pipe):
        raise InputError(f"{type(pipe).__name__} is no diffusers pipeline: pass a loaded DiffusionPipeline.")
    components: dict[str, nn.Module] = {}
    pipelines: list[Any] = []
    schedulers: list[Any] = []

    def visit(pipeline: Any, prefix: str) -> None:
        if any(pipeline is known for known in pipelines):
            return
        pipelines.append(pipeline)
        inside = {**pipeline.components, **vars(pipeline)}
        for name, value in inside.items():
            if isinstance(value, nn.Module):
                if not any(value is known for known in components.values()):
                    components[name if name not in components else f"{prefix}{name}"] = value
            elif callable(getattr(value, "step", None)) and hasattr(value, "config"):
                if not any(value is known for known in schedulers):
                    schedulers.append(value)
        nested = [(n, v) for n, v in inside.items() if isinstance(getattr(v, "components", None), Mapping)]
        for name, value in nested:  # afterwards: what a combined pipeline lists itself has its names
            if not isinstance(value, nn.Module) and callable(value):
                visit(value, f"{name}.")

    visit(pipe, "")
    if not components:
        raise InputError(f"{type(pipe).__name__} has no component to observe: load its models first.")
    return Parts(components, pipelines, schedulers)


# what was recorded ---------------------------------------------------------------------------------------------------


@dataclass
class CallRecord:
    """One call: ``seconds`` is wall-clock time, on a GPU the time between two events on its stream."""

    component: str
    method: str
    structure: ModuleSnapshot | None
    arguments: Frozen
    step: int | None
    generation: int
    seconds: float | None = None
    output_shape: tuple[int, ...] | None = None
    count: Count | None = None  # set where it was counted in the run
    failure: str | None = None
    names: tuple[str, ...] = ()  # of the method's parameters
    in_run: bool = False  # whether it was counted while it ran
    _events: tuple[Any, Any] | None = None

    def take(self, counted: Replay) -> None:
        """Use what a replay found."""
        if counted.problem is None:
            self.count = counted.count
        else:
            self.failure = counted.problem

    def settle(self) -> None:
        """Turn GPU events into seconds."""
        if self._events is not None:
            start, end = self._events
            self._events = None
            end.synchronize()
            self.seconds = start.elapsed_time(end) / 1000


@dataclass
class Generation:
    """One entry of the pipeline itself: its arguments (plain ones), its scheduler steps, its wall-clock seconds."""

    pipeline_class: str
    arguments: dict[str, Any]
    steps: int = 0
    seconds: float = 0.0
    finished: bool = False


@dataclass
class DirectProducts:
    """Products of one submodule that the pipeline entered without going through its component."""

    component: str
    path: str
    macs: Counter[str] = field(default_factory=Counter)
    unknown: Counter[str] = field(default_factory=Counter)


class Recorder:
    """Collects the calls of one pipeline's components. Subclasses say how a call is carried out.

    Attributes:
        calls, generations, direct: what was seen, in order.
        last_before_step: how often each component was the last one called before a scheduler step.
    """

    def __init__(self, pipe: Any) -> None:
        self.parts = parts_of(pipe)
        self.pipe = pipe
        self.calls: list[CallRecord] = []
        self.generations: list[Generation] = []
        self.direct: dict[tuple[str, str], DirectProducts] = {}
        self.last_before_step: Counter[str] = Counter()
        self.notes: list[tuple[str, str]] = []
        self.non_components: dict[str, int] = {}  # modules that are no components, with their parameters
        self._names = {id(module): name for name, module in self.parts.components.items()}
        self._owners: dict[int, tuple[str, str]] = {}
        self._home = threading.get_ident()
        self._running: set[int] = set()
        self._local = threading.local()
        self._last_component: str | None = None
        self.outside = OutsideCalls(self._busy, self._on_direct_product)

    # interception

    def targets(self) -> list[Any]:
        """Every object whose calls are reported."""
        return [*self.parts.components.values(), *self.parts.pipelines, *self.parts.schedulers]

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """Report the calls of everything in :meth:`targets` to this recorder."""
        with contextlib.ExitStack() as stack:
            for target in self.targets():
                intercept.watch(target, self)
                stack.callback(intercept.unwatch, target, self)
            yield

    def priority(self) -> int:
        thread = threading.get_ident()
        if thread in self._running:
            return 2
        return 1 if thread == self._home and not self._running else 0

    def _busy(self) -> bool:
        return getattr(self._local, "inside", False)

    def on_call(self, target: Any, method: str, proceed: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Entry from the interception: a component, a scheduler or a pipeline was called."""
        if self._busy():
            return proceed(*args, **kwargs)
        name = self._names.get(id(target))
        if name is not None:
            if method != "forward" and next(iter_tensors((args, kwargs)), None) is None:
                return proceed(*args, **kwargs)  # switching something on or off
            return self._on_component(name, target, method, proceed, args, kwargs)
        if method == "step":
            return self._on_step(target, proceed, args, kwargs)
        if threading.get_ident() in self._running:  # a pipeline that calls a pipeline is one generation
            return proceed(*args, **kwargs)
        return self._on_generation(target, proceed, args, kwargs)

    def _on_step(self, scheduler: Any, proceed: Any, args: Any, kwargs: Any) -> Any:
        if getattr(self._local, "stepping", False):  # a scheduler that steps through another
            return proceed(*args, **kwargs)
        self._local.stepping = True
        try:
            with self._during_step():
                return proceed(*args, **kwargs)
        finally:
            self._local.stepping = False
            if self.generations and not self.generations[-1].finished:
                self.generations[-1].steps += 1
            if self._last_component is not None:
                self.last_before_step[self._last_component] += 1

    def _during_step(self) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext()

    def _on_generation(self, pipe: Any, proceed: Any, args: Any, kwargs: Any) -> Any:
        generation = Generation(type(pipe).__name__, plain_arguments(pipe, args, kwargs))
        self.generations.append(generation)
        thread = threading.get_ident()
        self._running.add(thread)
        start = time.perf_counter()
        try:
            with contextlib.ExitStack() as stack:
                if not (thread == self._home and self._home_is_watched):
                    stack.enter_context(self.outside)
                return proceed(*args, **kwargs)
        finally:
            self._running.discard(thread)
            if any(record._events is not None for record in self.calls):
                torch.cuda.synchronize()
            generation.seconds = time.perf_counter() - start
            generation.finished = True

    _home_is_watched = False

    def _on_component(self, name: str, module: nn.Module, method: str, proceed: Any, args: Any, kwargs: Any) -> Any:
        raise NotImplementedError

    # shared by the two kinds of run

    def new_call(self, name: str, method: str, structure: ModuleSnapshot | None, arguments: Frozen) -> CallRecord:
        """Note a call; the caller adds how it went."""
        generation = self.generations[-1] if self.generations and not self.generations[-1].finished else None
        cls: Any = self.parts.components[name].__class__
        record = CallRecord(
            component=name,
            method=method,
            structure=structure,
            arguments=arguments,
            step=None if generation is None else generation.steps,
            generation=len(self.generations) - 1 if generation is not None else -1,
            names=_parameter_names(cls, method),
        )
        self.calls.append(record)
        self._last_component = name
        return record

    def note(self, component: str, reason: str) -> None:
        """Note, once, why the profile is not complete."""
        if (component, reason) not in self.notes:
            self.notes.append((component, reason))

    def _on_direct_product(self, operator: str, macs: int | None) -> None:
        module = outermost_module(self._belongs, self._entries, Recorder._on_generation.__code__)
        if module is None:
            if _in_backward():
                component = self._last_component or type(self.pipe).__name__
                self.note(component, "products of a backward pass are not counted")
            return
        component, path = self._owners.get(id(module)) or (type(module).__name__, type(module).__name__)
        if component not in self.parts.components:
            self.non_components[component] = sum(p.numel() for p in module.parameters())
        entry = self.direct.setdefault((component, path), DirectProducts(component, path))
        if macs is None:
            entry.unknown[operator] += 1
        else:
            entry.macs[operator] += macs

    def _entries(self, module: nn.Module) -> Container[str]:
        if id(module) in self._names:
            return (*_FORWARDS, *intercept.public_methods(module.__class__))
        return _FORWARDS

    def _belongs(self, module: nn.Module) -> bool:
        if id(module) not in self._owners:
            for component, root in self.parts.components.items():
                for path, child in root.named_modules():
                    self._owners.setdefault(id(child), (component, path))
        return id(module) in self._owners


_FORWARDS = ("forward", "_call_impl", "_slow_forward")


def _in_backward() -> bool:
    return bool(torch._C._current_graph_task_id() != -1)


@functools.cache
def _parameter_names(cls: Any, method: str) -> tuple[str, ...]:
    try:
        return tuple(inspect.signature(getattr(cls, method)).parameters)[1:]
    except (AttributeError, TypeError, ValueError):
        return ()


def plain_arguments(pipe: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """The arguments of a pipeline call by name, defaults included, as far as they are plain values."""
    try:
        bound = inspect.signature(type(pipe).__call__).bind(pipe, *args, **kwargs)
        bound.apply_defaults()
        named = dict(bound.arguments)
    except (TypeError, ValueError):
        named = dict(kwargs)
    plain = (int, float, str, bool, type(None))
    result: dict[str, Any] = {}
    for name, value in named.items():
        if name == "self":
            continue
        if isinstance(value, plain):
            result[name] = value
        elif isinstance(value, (list, tuple)) and all(isinstance(item, plain) for item in value):
            result[name] = list(value)
    return result


# counting afterwards -------------------------------------------------------------------------------------------------


class TwinCounts:
    """Counts of one twin, each signature once.

    A second call of a signature is replayed again only if the forward looked at values, and those differ.
    """

    def __init__(self, twin: nn.Module, stateful: bool = False, forget: bool = False) -> None:
        self.twin = twin
        self.forget = forget  # each call finds the twin as it was made
        self.stateful = stateful  # it remembers earlier calls: every call is replayed, in order
        self._known: dict[tuple[str, Any], dict[Any, Replay | CountError]] = {}
        self._reads: dict[tuple[str, Any], frozenset[int]] = {}

    def get(self, method: str, arguments: Frozen, call: Callable[..., Any] | None = None) -> Replay:
        """The replay of one call.

        Raises:
            CountError: it cannot be counted.
        """
        signature = (method, arguments.key)
        known = self._known.setdefault(signature, {})
        reads = self._reads.get(signature, frozenset())
        found = None if self.stateful else known.get(arguments.values(reads))
        if found is None:
            run = call or (self.twin if method == "forward" else getattr(self.twin, method))
            try:
                found = replay(run, self.twin, arguments, stateful=self.stateful, forget=self.forget)
                self._reads[signature] = reads = reads | found.reads
            except CountError as error:
                found = error
            known[arguments.values(reads)] = found
        if isinstance(found, CountError):
            raise found
        return found


# observe -------------------------------------------------------------------------------------------------------------


class Observation(Recorder):
    """What :func:`observe` hands out: read :attr:`profile` after the block."""

    def __init__(self, pipe: Any) -> None:
        super().__init__(pipe)
        self._structures: dict[str, ModuleSnapshot] = {}
        self._entered: set[tuple[str, int]] = set()  # component and generation
        self._judgements: dict[int, Judgement] = {}
        self._twins: dict[int, TwinCounts | CountError] = {}
        self._profile: ComputeProfile | None = None
        self._over = False
        self.count_seconds = 0.0

    def _on_component(self, name: str, module: nn.Module, method: str, proceed: Any, args: Any, kwargs: Any) -> Any:
        self._local.inside = True
        record = None
        try:
            with self.outside.paused():
                try:
                    record = self._begin(name, module, method, args, kwargs)
                except Exception as error:  # a profile that fails never breaks a generation
                    logger.warning("a call of %s was not recorded: %s", name, error)
                    self.notes.append((name, f"{type(error).__name__} while recording a call: {error}"))
                return self._carry_out(record, proceed, args, kwargs)
        except BaseException as error:
            if record is not None:
                record.failure = f"the call raised {type(error).__name__}: what it did until then is not counted"
            raise
        finally:
            self._local.inside = False

    def _during_step(self) -> contextlib.AbstractContextManager[None]:
        return self.outside.paused()  # a scheduler enters no component, and its own products belong to none

    def _begin(self, name: str, module: nn.Module, method: str, args: Any, kwargs: Any) -> CallRecord:
        structure = self._structures.get(name)
        entered = (name, len(self.generations))
        # Whatever was done to a component between two generations is seen before the first call of the second.
        quick = entered in self._entered and threading.get_ident() in self._running
        self._entered.add(entered)
        if structure is None or not structure.same(quick):
            if structure is not None:
                self._doubt(name, structure)
            structure = self._picture(name, module)
        return self.new_call(name, method, structure, freeze(args, kwargs))

    def _doubt(self, name: str, structure: ModuleSnapshot) -> None:
        """Calls in which a change may have been there already are not counted with the structure before it."""
        earlier = [record for record in self.calls if record.structure is structure]
        for record in earlier[len(earlier) - structure.late :]:
            if record.count is None and record.failure is None:
                record.failure = f"a part of {name} was replaced meanwhile, past its module's methods"

    def _on_generation(self, pipe: Any, proceed: Any, args: Any, kwargs: Any) -> Any:
        try:
            return super()._on_generation(pipe, proceed, args, kwargs)
        finally:
            self._look_again()

    def _look_again(self) -> None:
        """Look for what quick looks left out, before anything else can change."""
        for name, structure in self._structures.items():
            if not structure.same_contents():
                self._doubt(name, structure)

    def _picture(self, name: str, module: nn.Module) -> ModuleSnapshot:
        structure = self._structures[name] = ModuleSnapshot(uncompiled(module))
        self._judgements[id(structure)] = judge(structure)
        return structure

    def look_around(self) -> None:
        """Picture every component before anything runs: during a run it is then only compared."""
        for name, module in self.parts.components.items():
            try:
                self._picture(name, module)
            except Exception:  # a call of it will say so
                logger.debug("%s could not be pictured", name, exc_info=True)

    def _carry_out(self, record: CallRecord | None, proceed: Any, args: Any, kwargs: Any) -> Any:
        if record is None:
            return proceed(*args, **kwargs)
        live = None
        structure = record.structure
        judgement = None if structure is None else self._judgements[id(structure)]
        if structure is not None and judgement is not None and judgement.of_call(record.arguments) is not None:
            live = LiveCount(structure.module_ids, functions=not judgement.operators_only)
        cuda = _is_on_cuda(args, kwargs)
        if cuda:
            start_event = torch.cuda.Event(enable_timing=True)
            start_event.record()
        start = time.perf_counter()
        if live is None:
            output = proceed(*args, **kwargs)
        else:
            with live.running():
                output = proceed(*args, **kwargs)
            record.count, record.failure, record.in_run = live.count, live.failure, True
            if live.failure is not None:
                record.count = None
        if cuda:
            end_event = torch.cuda.Event(enable_timing=True)
            end_event.record()
            record._events = (start_event, end_event)
        else:
            record.seconds = time.perf_counter() - start
        first = next(iter_tensors(output), None)
        record.output_shape = None if first is None else tuple(first.shape)
        return output

    # the end of the block

    def close(self) -> None:
        """Let go of the user's modules: what is left are twins and numbers."""
        started = time.perf_counter()
        self._over = True
        self._look_again()
        for record in self.calls:
            record.settle()
            structure = record.structure
            if structure is None or id(structure) in self._twins or record.count is not None:
                continue
            try:
                self._twins[id(structure)] = TwinCounts(build_twin(structure), forget=True)
            except Exception as error:
                self._twins[id(structure)] = CountError(f"no twin could be made: {type(error).__name__}: {error}")
        from .assemble import describe_pipeline

        self._described = describe_pipeline(self.pipe, self.parts)
        self._record_twins = [self._twins.get(id(record.structure)) for record in self.calls]
        for record in self.calls:
            record.structure = None
        self._structures.clear()
        self._judgements.clear()
        self._twins.clear()
        self._owners.clear()
        self._names.clear()
        self.pipe = None
        self.parts = Parts({}, [], [])
        self.count_seconds += time.perf_counter() - started

    @property
    def profile(self) -> ComputeProfile:
        """The profile of everything that ran in the block.

        Raises:
            DiffmeterError: the block is not over yet, or no component was called in it.
        """
        if self._profile is None:
            if not self._over:
                raise DiffmeterError("The profile is there after the observe block: read it when the block is over.")
            if not self.calls and not self.direct:
                raise DiffmeterError("No component was called in the observe block: run the pipeline inside it.")
            started = time.perf_counter()
            with random_state_kept(), torch.no_grad():
                for record, twin in zip(self.calls, self._record_twins, strict=False):
                    _count_record(record, twin)
            self.count_seconds += time.perf_counter() - started
            from .assemble import build_profile

            self._profile = build_profile(self, self._described, kind="observed")
            self._record_twins.clear()
        return self._profile


def _count_record(record: CallRecord, twin: TwinCounts | CountError | None) -> None:
    if record.count is not None or record.failure is not None:
        return
    if not isinstance(twin, TwinCounts):
        record.failure = str(twin) if twin is not None else "not counted"
        return
    try:
        counted = twin.get(record.method, record.arguments)
    except CountError as error:
        record.failure = str(error)
    else:
        record.take(counted)


def uncompiled(module: nn.Module) -> nn.Module:
    inside = getattr(module, "_orig_mod", None)
    return inside if isinstance(inside, nn.Module) else module


def _is_on_cuda(args: Any, kwargs: Any) -> bool:
    if not torch.cuda.is_available():
        return False
    return any(tensor.is_cuda for tensor in iter_tensors((args, kwargs)))


class observe:  # used as a function: ``with observe(pipe) as run``
    """Observe what a pipeline does inside a ``with`` block.

    >>> with observe(pipe) as run:
    ...     image = pipe("a red circle", num_inference_steps=30).images[0]
    >>> run.profile.total_macs

    Nothing of the pipeline is changed afterwards, also when the block raises. Several generations in one block are
    added up. Counting happens when ``run.profile`` is first read.

    Args:
        pipe: any loaded diffusers pipeline, on any device.

    Raises:
        InputError: ``pipe`` is no pipeline, or is being observed by this thread already.
    """

    def __init__(self, pipe: Any) -> None:
        self._run = Observation(pipe)
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Observation:
        run = self._run
        for watcher in intercept.watchers_of(run.pipe):
            if isinstance(watcher, Recorder) and watcher._home == threading.get_ident():
                raise InputError(f"This {type(run.pipe).__name__} is being observed already: use one block at a time.")
        if run._over:
            raise DiffmeterError("This observation is over: call observe(pipe) again for a new one.")
        run._home = threading.get_ident()
        with contextlib.ExitStack() as stack:
            stack.enter_context(WriteWatch())
            run.look_around()
            stack.enter_context(run.watching())
            stack.enter_context(run.outside)
            run._home_is_watched = True
            self._stack = stack.pop_all()
        return run

    def __exit__(self, *exception: Any) -> None:
        try:
            self._stack.close()
        finally:
            self._run.close()
