"""Observe a real generation: which component was entered, in which order, with what, at which step, for how long.

Recording holds on to shapes, not to activations; counting happens afterwards, on twins, once per signature. Only
where a component's work depends on more than its structure and arguments (step caches, foreign hooks) is a call
counted while it runs.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from diffmeter.compat import uncompiled
from diffmeter.devices import Timer, accelerator_of, synchronize
from diffmeter.errors import CountError, DiffmeterError, InputError
from diffmeter.metering.counters import user_formulas
from diffmeter.metering.counters.live import LiveCount, OutsideCalls
from diffmeter.metering.pipelines.parts import Parts, parts_of
from diffmeter.metering.twins.building import build_twin
from diffmeter.metering.twins.counts import TwinCounts
from diffmeter.metering.twins.replay import random_state_kept
from diffmeter.metering.watching.signature import TensorSpec, iter_tensors
from diffmeter.metering.watching.snapshot import ModuleSnapshot, WriteWatch
from diffmeter.metering.watching.trust import Judgement, judge
from diffmeter.profile import ComputeProfile
from diffmeter.rendering import Rendered
from diffmeter.storage.files import write_bytes
from diffmeter.storage.png import encode_png

from .assemble import PipelineFacts, build_profile, describe_pipeline
from .calls import NO_GENERATION, CallRecord, Recording
from .recorder import Proceed, Recorder

if TYPE_CHECKING:
    from PIL.Image import Image

logger = logging.getLogger(__name__)


class RealCalls:
    """Lets components do their own work: plainly where a twin can repeat it afterwards, counted where none can."""

    watches_steps = False  # a scheduler enters no component, and its own products belong to none

    def __init__(self, parts: Parts, recording: Recording) -> None:
        self._recording = recording
        self._structures: dict[str, ModuleSnapshot] = {}
        self._judgements: dict[int, Judgement] = {}
        self._entered: set[tuple[str, int]] = set()  # component and generation
        self._made: list[tuple[CallRecord, ModuleSnapshot, Judgement]] = []
        self._timers: list[tuple[CallRecord, Timer]] = []
        for name, module in parts.components.items():  # before anything runs: then it is only compared
            try:
                self._picture(name, module)
            except Exception:  # a call of it will say so
                logger.debug("%s could not be pictured", name, exc_info=True)

    def between_calls(self, busy: Callable[[], bool], found: Callable[[str, int | None], None]) -> OutsideCalls:
        """See :class:`~.recorder.Carrier`."""
        return OutsideCalls(busy, found)

    def call(
        self, record: CallRecord, target: nn.Module, proceed: Proceed, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """See :class:`~.recorder.Carrier`."""
        live = None
        try:
            structure = self._structure(record, target)
            judgement = self._judgements[id(structure)]
            self._made.append((record, structure, judgement))
            if judgement.of_call(record.arguments) is not None:
                live = LiveCount(structure.module_ids, judgement, uncompiled(target))
        except Exception as error:  # a profile that fails never breaks a generation
            logger.warning("a call of %s was not recorded: %s", record.component, error)
            record.failure = f"{type(error).__name__} while recording a call: {error}"
        try:
            output = self._timed(record, proceed, args, kwargs) if live is None else None
            if live is not None:
                with live.running():
                    output = self._timed(record, proceed, args, kwargs)
                record.in_run = True
                record.count, record.failure = None if live.failure else live.count, live.failure
        except BaseException as error:
            record.failure = f"the call raised {type(error).__name__}: what it did until then is not counted"
            raise
        first = next(iter_tensors(output), None)
        record.output_shape = None if first is None else TensorSpec.of(first).shape
        return output

    def _timed(self, record: CallRecord, proceed: Proceed, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        timer = Timer(accelerator_of(iter_tensors((args, kwargs))))
        timer.start()
        output = proceed(*args, **kwargs)
        timer.stop()
        self._timers.append((record, timer))
        return output

    # what a component was at each call

    def _structure(self, record: CallRecord, module: nn.Module) -> ModuleSnapshot:
        name = record.component
        structure = self._structures.get(name)
        # Whatever was done to a component between two generations is seen before the first call of the second.
        entered = (name, record.generation)
        quick = record.generation != NO_GENERATION and entered in self._entered
        self._entered.add(entered)
        if structure is None or not structure.same(quick):
            if structure is not None:
                self._doubt(name, structure)
            structure = self._picture(name, module)
        elif not self._judgements[id(structure)].holds():
            self._judgements[id(structure)] = judge(structure)
        return structure

    def _picture(self, name: str, module: nn.Module) -> ModuleSnapshot:
        structure = self._structures[name] = ModuleSnapshot(uncompiled(module))
        self._judgements[id(structure)] = judge(structure)
        return structure

    def _doubt(self, name: str, structure: ModuleSnapshot) -> None:
        """Calls in which a change may have been there already are not counted with the structure before it."""
        earlier = [record for record, known, _ in self._made if known is structure]
        for record in earlier[max(len(earlier) - structure.late, 0) :]:
            if not record.settled:
                record.failure = f"a part of {name} was replaced meanwhile, past its module's methods"

    def _look_again(self) -> None:
        """Look for what quick looks left out, before anything else can change."""
        for name, structure in self._structures.items():
            if not structure.same_contents():
                self._doubt(name, structure)

    def generation_over(self) -> None:
        """See :class:`~.recorder.Carrier`."""
        self._look_again()
        for device in {timer.device for _, timer in self._timers if timer.device is not None}:
            synchronize(device)

    def finish(self) -> list[Pending]:
        """Let go of the user's modules: the calls that are still to be counted, each with its twin."""
        self._look_again()
        for record, timer in self._timers:
            record.seconds = timer.seconds
        twins: dict[tuple[int, int], TwinCounts | CountError] = {}
        pending = []
        for record, structure, judgement in self._made:
            if record.settled:
                continue
            key = (id(structure), id(judgement.code))  # other code in place may make another count
            if key not in twins:
                twins[key] = _twin_of(structure)
            pending.append(Pending(record=record, twin=twins[key], judgement=judgement))
        self._made.clear()
        self._timers.clear()
        self._structures.clear()
        self._judgements.clear()
        return pending


@dataclass(kw_only=True, slots=True)
class Pending:
    """A call that is still to be counted, on a twin of what the component was."""

    record: CallRecord
    twin: TwinCounts | CountError
    judgement: Judgement

    def count(self) -> None:
        """Count it, or note why that cannot be done."""
        record = self.record
        if isinstance(self.twin, CountError):
            record.failure = str(self.twin)
            return
        try:
            with self.judgement.as_it_was(), user_formulas.using(record.formulas):
                record.take(self.twin.get(record.method, record.arguments))
        except CountError as error:
            record.failure = str(error)


def _twin_of(structure: ModuleSnapshot) -> TwinCounts | CountError:
    try:
        return TwinCounts(build_twin(structure), forget=True)
    except Exception as error:
        return CountError(f"no twin could be made: {type(error).__name__}: {error}")


class Observation(Rendered):
    """What :func:`observe` hands out: read :attr:`profile` after the block."""

    def __init__(self, pipe: Any) -> None:
        self.recording = Recording()
        self._pipe = pipe
        self._parts = parts_of(pipe)
        self._pending: list[Pending] = []
        self._facts: PipelineFacts | None = None
        self._profile: ComputeProfile | None = None

    def open(self) -> contextlib.ExitStack:
        """Begin to record; closing what is returned ends it."""
        with contextlib.ExitStack() as stack:
            stack.enter_context(WriteWatch())
            carrier = RealCalls(self._parts, self.recording)
            stack.callback(self._close, carrier)
            recorder = Recorder(self._parts, carrier, self.recording)
            stack.callback(recorder.forget)
            stack.enter_context(recorder.watching())
            return stack.pop_all()

    def _close(self, carrier: RealCalls) -> None:
        started = time.perf_counter()
        self._pending = carrier.finish()
        self._facts = describe_pipeline(self._pipe, self._parts)
        self._pipe, self._parts = None, Parts({}, [], [])
        self.recording.count_seconds += time.perf_counter() - started

    @property
    def profile(self) -> ComputeProfile:
        """The profile of everything that ran in the block.

        Raises:
            DiffmeterError: the block is not over yet, or no component was called in it.
        """
        if self._profile is None:
            if self._facts is None:
                raise DiffmeterError("The profile is there after the observe block: read it when the block is over.")
            if self.recording.empty:
                raise DiffmeterError("No component was called in the observe block: run the pipeline inside it.")
            started = time.perf_counter()
            with random_state_kept(), torch.no_grad():
                for call in self._pending:
                    call.count()
            self._pending.clear()
            self.recording.count_seconds += time.perf_counter() - started
            self._profile = build_profile(self.recording, self._facts, kind="observed")
        return self._profile

    def to_dict(self) -> dict[str, Any]:
        """The ``compute_profile`` object of :attr:`profile`."""
        return self.profile.to_dict()

    def save(self, path: str | Path, image: Image | None = None) -> Path:
        """Write the profile beside an image, as ``.json``, and into it, if it is a ``.png``.

        >>> image.save("a.png")
        >>> run.save("a.png")  # or, without the line above: run.save("a.png", image)

        Args:
            path: a ``.png`` or a ``.json`` file; of an image, the JSON file has the same name.
            image: the image (of PIL) to write there first; None: the one that is there, whose pixels stay as they are.

        Returns:
            ``path``.

        Raises:
            InputError: another ending, or no image is there and none is given.
            StorageError: a file cannot be written.
        """
        path = Path(path)
        if path.suffix.lower() == ".png":
            if image is not None:
                write_bytes(path, encode_png(image, {}))
            elif not path.is_file():
                raise InputError(f"There is no image {str(path)!r}: save it first, or give it: run.save(path, image).")
            self.profile.save(path.with_suffix(".json"))
        return self.profile.save(path)

    def __repr__(self) -> str:
        if self._profile is None:
            calls = len(self.recording.calls)
            return f"<Observation of {calls} call{'' if calls == 1 else 's'}, not counted yet: read .profile>"
        return f"<Observation: {self._profile!r}>"

    def __str__(self) -> str:
        return repr(self) if self._facts is None else self.render("table")

    def __dir__(self) -> list[str]:
        return ["profile", "render", "save", "to_csv", "to_dict", "to_json", "to_latex", "to_markdown"]


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
        InputError: ``pipe`` is no pipeline.
    """

    def __init__(self, pipe: Any) -> None:
        self._run: Observation | None = Observation(pipe)
        self._block = contextlib.ExitStack()

    def __enter__(self) -> Observation:
        run, self._run = self._run, None
        if run is None:
            raise DiffmeterError("This observation is over: call observe(pipe) again for a new one.")
        self._block = run.open()
        return run

    def __exit__(self, *exception: object) -> None:
        self._block.close()
