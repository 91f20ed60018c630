"""The calls of a dry run: carried out by twins, within a stand-in of the pipeline."""

from __future__ import annotations

import contextlib
import copy
import functools
import types
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import nn

from diffmeter.compat import step_cache_of, uncompiled
from diffmeter.errors import CountError, DiffmeterError
from diffmeter.metering.counters.live import LiveCount, OutsideCalls
from diffmeter.metering.pipelines.parts import is_pipeline, is_scheduler, parts_of
from diffmeter.metering.pipelines.rebinding import (
    CannotRebindError,
    Rebinder,
    holds_code,
    left_as_it_was,
    of_library,
)
from diffmeter.metering.pipelines.roles import DENOISERS, last_name
from diffmeter.metering.step_cache import CachedCounts, StepCache
from diffmeter.metering.twins.argument_mutations import hand_back
from diffmeter.metering.twins.building import build_twin
from diffmeter.metering.twins.counts import TwinCounts
from diffmeter.metering.twins.replay import Replay
from diffmeter.metering.watching import entries
from diffmeter.metering.watching.signature import iter_tensors
from diffmeter.metering.watching.snapshot import ModuleSnapshot
from diffmeter.metering.watching.trust import judge

from .assemble import describe_pipeline
from .calls import CallRecord, Note, Recording
from .host_tensors import HostTensors, as_pipeline_sees_it, holds_numbers, on_cpu
from .recorder import Proceed


class KnownCounts:
    """What dry runs of one owned pipeline counted so far, for its next dry run.

    Counts are handed on only while the twin is, part by part, what it was when they were made.
    """

    def __init__(self) -> None:
        self._by_component: dict[str, tuple[TwinCounts, ModuleSnapshot]] = {}

    def of(self, name: str, twin: nn.Module) -> tuple[TwinCounts, ModuleSnapshot] | None:
        """The counts of a component and the structure that they hold for, if its twin still has that structure."""
        found = self._by_component.get(name)
        if found is None or found[0].twin is not twin or found[0].stateful:
            return None
        return found if found[1]._equals(ModuleSnapshot(twin)) else None

    def keep(self, name: str, counts: TwinCounts, snapshot: ModuleSnapshot) -> None:
        """Hand on the counts of a component."""
        self._by_component[name] = (counts, snapshot)


class StandInCalls:
    """Carries calls out on twins: nothing heavy is computed, and each call is counted as it is made.

    Attributes:
        pipe: the stand-in of the pipeline, around the twins.
        facts: what is known of the original.
        recording: where the calls are noted.
        own_code: functions and classes of the user that components run.
    """

    sees_all_operators = True  # they run on tensors whose values may mean nothing, and on weights without any

    def __init__(
        self, pipe: Any, *, owned: bool = False, known: KnownCounts | None = None, cache: StepCache | None = None
    ) -> None:
        original = parts_of(pipe)
        self.facts = describe_pipeline(pipe, original)
        self.recording = Recording()
        self._known = known
        self._cache = cache
        self._cached: dict[str, CachedCounts] = {}
        self._counts: dict[str, TwinCounts] = {}
        self._snapshots: dict[str, ModuleSnapshot] = {}
        self._unknowable: dict[str, str] = {}
        self._doubts: list[Note] = []
        self.own_code: list[Any] = []
        self._original = original
        stand_ins: dict[int, Any] = {}
        twins: list[tuple[nn.Module, nn.Module]] = []
        for name, module in original.components.items():
            twin = self._stand_in(name, uncompiled(module), owned)
            stand_ins[id(module)] = stand_ins[id(uncompiled(module))] = twin
            twins.append((uncompiled(module), twin))
        self._rebinder = Rebinder(stand_ins, twins, on_cpu)
        self.pipe = stand_in_pipeline(pipe, stand_ins, self._rebinder)
        for name, module in original.components.items():
            self._bring_back_cache(name, uncompiled(module))

    def bound(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """The arguments of the call, with functions and objects of the user's bound to the stand-in.

        One that cannot be bound is left out, and noted.
        """
        found: dict[str, Any] = {}
        for name, value in arguments.items():
            try:
                found[name] = self._rebinder.bind(value) if holds_code(value) else value
            except CannotRebindError as error:
                reason = f"{name} holds a {error}, of which no copy can be made: a dry run does not call it"
                self.recording.note(self.facts.pipeline, reason)
        return found

    def original_untouched(self) -> contextlib.AbstractContextManager[None]:
        """Put back what user code writes into the pipeline itself, by a way that is not bound to the stand-in."""

        def note(written: Any) -> None:
            self.recording.note(
                self.facts.pipeline,
                f"a function wrote into the {type(written).__name__} given: what it asked shows only in a real run",
            )

        return left_as_it_was([*self._original.pipelines, *self._original.schedulers], note)

    def _bring_back_cache(self, name: str, original: nn.Module) -> None:
        """Give a twin the step cache that its original has, with a state of its own."""
        twin: Any = self._counts[name].twin
        config = step_cache_of(original)
        if config is None:
            return
        try:
            bound = self._rebinder.bind(config)
        except CannotRebindError as error:
            self._unknowable[name] = f"its step cache holds a {error}: what it skips shows only in a real run"
            return
        twin._cache_config = None
        twin.enable_cache(bound)

    def between_calls(self, busy: Callable[[], bool], found: Callable[[str, int | None], None]) -> OutsideCalls:
        """See :class:`~.recorder.Carrier`."""
        return HostTensors(busy, found, self._doubt)

    @contextlib.contextmanager
    def entry(
        self,
        record: CallRecord,
        root: nn.Module,
        module: nn.Module,
        args: tuple[Any, ...],
        kwargs: dict[str, Any] | None,
    ) -> Iterator[Callable[[Any], None]]:
        """See :class:`~.recorder.Carrier`. It runs on small tensors and on weights without values, and is counted."""
        self._note_doubts()
        live = LiveCount()
        with live.running():
            live.entered(module)
            yield lambda output: None
        record.failure = self._unknowable.get(record.component) or live.failure
        record.count = None if record.failure else live.count

    def generation_over(self) -> None:
        """See :class:`~.recorder.Carrier`."""

    def _note_doubts(self) -> None:
        for doubt in self._doubts:
            self.recording.note(*doubt)
        self._doubts.clear()

    def _stand_in(self, name: str, module: nn.Module, owned: bool) -> nn.Module:
        structure = ModuleSnapshot(module)
        judgement = judge(structure)
        if owned and judgement.altered is None and all(p.is_meta for p in module.parameters()):
            twin = module
        else:
            try:
                twin = build_twin(structure)
            except Exception as error:
                raise DiffmeterError(f"No stand-in for {name} could be made: {error}") from error
        cached = step_cache_of(module) is not None
        stateful = cached or judgement.foreign is not None
        self.own_code += judgement.own_code
        if judgement.altered is not None and not cached:
            self._unknowable[name] = f"{judgement.altered}: what it does to the work shows only in a real run"
        elif judgement.unseen is not None:
            self._unknowable[name] = f"{judgement.unseen} runs past PyTorch's operators, and its products are not seen"
        twin.__class__ = _on_cpu_class(type(twin))
        known = None if self._known is None else self._known.of(name, twin)
        if known is None:
            self._counts[name] = TwinCounts(twin, stateful=stateful)
        else:
            self._counts[name], self._snapshots[name] = known
        return twin

    def remember(self) -> None:
        """Hand what was counted on to the next dry run."""
        if self._known is not None:
            for name, snapshot in self._snapshots.items():
                self._known.keep(name, self._counts[name], snapshot)

    def call(
        self, record: CallRecord, target: Any, proceed: Proceed, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """See :class:`~.recorder.Carrier`."""
        self._note_doubts()
        name = record.component
        if not isinstance(target, nn.Module):
            raise DiffmeterError(
                f"{name} is a {type(target).__name__} and no torch.nn.Module: a dry run cannot stand in for it. "
                "Observe a real generation instead."
            )
        try:
            with entries.hidden():
                counted = self._current_counts(name, target).get(record.method, record.arguments, proceed)
        except CountError as error:
            raise DiffmeterError(f"{name} cannot be run without its values: {error}") from error
        if name in self._unknowable:
            record.failure = self._unknowable[name]
        else:
            record.take(self._with_cache(record, target, counted))
        if counted.assumed and holds_numbers(counted.output):
            self._doubt(f"{record.method} returned a number that only a real run knows")
        hand_back(counted.written, args, kwargs, as_pipeline_sees_it)
        output = as_pipeline_sees_it(counted.output)
        first = next(iter_tensors(output), None)
        record.output_shape = None if first is None else tuple(first.shape)
        return output

    def _with_cache(self, record: CallRecord, twin: nn.Module, counted: Replay) -> Replay:
        """What a call costs where the declared step cache reuses some of the denoiser's modules."""
        short = last_name(record.component)
        if self._cache is None or short not in DENOISERS[:2] or record.method != "forward" or record.step is None:
            return counted
        modules, guided = self._cache.reused(record.step)
        if guided and not modules:
            return counted
        counts = self._cached.setdefault(record.component, CachedCounts(twin))
        try:
            record.arguments, counted = counts.get(record.arguments, modules, guided)
        except CountError as error:
            raise DiffmeterError(f"{record.component} cannot be run with the step cache given: {error}") from error
        record.reused = modules
        return counted

    def _doubt(self, reason: str) -> None:
        """The pipeline read a placeholder. It is a gap only if another component is called afterwards."""
        calls = self.recording.calls
        self._doubts.append(Note(calls[-1].component if calls else self.facts.pipeline, reason))

    def _current_counts(self, name: str, twin: nn.Module) -> TwinCounts:
        """The counts that hold for a stand-in as it is now: the pipeline may have changed it since the last call."""
        snapshot = self._snapshots.get(name)
        if snapshot is None or not snapshot.same():
            if snapshot is not None:
                self._counts[name] = TwinCounts(twin, stateful=self._counts[name].stateful)
            self._snapshots[name] = ModuleSnapshot(twin)
        return self._counts[name]


_on_cpu_classes: dict[type, type] = {}


def _on_cpu_class(cls: type) -> type:
    """A class whose instances say that they are on the CPU, where the dry run's tensors are."""
    if not hasattr(cls, "device") or cls in _on_cpu_classes.values():
        return cls
    known = _on_cpu_classes.get(cls)
    if known is None:
        namespace = {
            "device": property(lambda self: torch.device("cpu")),
            "__module__": cls.__module__,
            "__qualname__": cls.__qualname__,
        }
        known = _on_cpu_classes[cls] = type(cls)(cls.__name__, (cls,), namespace)
    return known


def stand_in_pipeline(pipe: Any, stand_ins: dict[int, Any], rebinder: Rebinder) -> Any:
    """A pipeline of the same class around the stand-ins.

    Schedulers and what holds code of the user's are copied; the rest is shared.
    """
    known = stand_ins.get(id(pipe))
    if known is not None:
        return known
    clone = object.__new__(type(pipe))
    stand_ins[id(pipe)] = clone

    for name, value in vars(pipe).items():
        if is_pipeline(value):  # first: the others may refer to it
            clone.__dict__[name] = stand_in_pipeline(value, stand_ins, rebinder)
    for name, value in vars(pipe).items():
        clone.__dict__[name] = _stand_in_value(value, stand_ins, rebinder)
    if "_all_hooks" in clone.__dict__:  # offloading belongs to the original
        clone.__dict__["_all_hooks"] = []
    clone.__dict__["_offload_device"] = None
    clone.__dict__["_progress_bar_config"] = {"disable": True}
    return clone


def _stand_in_value(value: Any, stand_ins: dict[int, Any], rebinder: Rebinder) -> Any:
    if id(value) in stand_ins:
        return stand_ins[id(value)]
    if is_pipeline(value):
        return stand_in_pipeline(value, stand_ins, rebinder)
    if is_scheduler(value):
        known = of_library(type(value))
        stand_ins[id(value)] = copy.deepcopy(value) if known else rebinder.bind(value)
        return stand_ins[id(value)]
    if callable(getattr(value, "postprocess_video", None)):
        return _without_large_videos(value)
    if type(value) in (list, tuple):
        return type(value)(_stand_in_value(item, stand_ins, rebinder) for item in value)
    if type(value) is dict:
        return {name: _stand_in_value(item, stand_ins, rebinder) for name, item in value.items()}
    if isinstance(value, _CODE) or not (of_library(type(value)) or isinstance(value, nn.Module)):
        try:
            return rebinder.bind(value)
        except CannotRebindError:  # shared; what it writes into the pipeline is noticed
            return value
    return value


#: functions that a pipeline may hold, which may hold the pipeline
_CODE = (types.FunctionType, types.MethodType, functools.partial)


#: elements above which a decoded video is not converted: its copies would take gigabytes, and nobody looks at zeros
_VIDEO_LIMIT = 1 << 25


def _without_large_videos(processor: Any) -> Any:
    """A video processor that hands large videos back as they are."""
    clone = copy.copy(processor)

    def postprocess_video(video: Any, *args: Any, **kwargs: Any) -> Any:
        if isinstance(video, torch.Tensor) and video.numel() > _VIDEO_LIMIT:
            return video
        return processor.postprocess_video(video, *args, **kwargs)

    clone.postprocess_video = postprocess_video
    return clone
