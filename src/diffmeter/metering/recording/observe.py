"""Observe a real generation: which component was entered, in which order, with what, at which step, for how long.

Recording holds on to shapes, not to activations; counting happens afterwards, on twins, once per signature. Only
where a component's work depends on more than its structure and arguments (step caches, foreign hooks) is a call
counted while it runs.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import operator
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from diffmeter.compat import uncompiled
from diffmeter.devices import Timer, accelerator_of, best_device, synchronize
from diffmeter.errors import CountError, DiffmeterError, InputError
from diffmeter.metering.counters import user_formulas
from diffmeter.metering.counters.live import LiveCount, OutsideCalls
from diffmeter.metering.pipelines.parts import parts_of
from diffmeter.metering.twins.building import build_twin
from diffmeter.metering.twins.counts import TwinCounts
from diffmeter.metering.twins.replay import random_state_kept
from diffmeter.metering.watching import entries
from diffmeter.metering.watching.signature import TensorSpec, iter_tensors
from diffmeter.metering.watching.snapshot import ModuleSnapshot, WriteWatch
from diffmeter.metering.watching.trust import Judgement, judge
from diffmeter.metering.watching.undisturbed import undisturbed
from diffmeter.profile import ComputeProfile
from diffmeter.rendering import Rendered
from diffmeter.storage.files import write_bytes
from diffmeter.storage.png import encode_png

from .assemble import PipelineFacts, build_profile, describe_pipeline
from .calls import NO_GENERATION, CallRecord, Recording
from .origins import Origins
from .recorder import Block, Proceed, Recorder

if TYPE_CHECKING:
    from PIL.Image import Image

logger = logging.getLogger(__name__)


class RealCalls:
    """Lets components do their own work: plainly where a twin can repeat it afterwards, counted where none can."""

    sees_all_operators = False  # a scheduler enters no component, and its own products belong to none

    def __init__(self, components: Mapping[str, nn.Module], recording: Recording) -> None:
        self._recording = recording
        self._structures: dict[int, ModuleSnapshot] = {}  # by component
        self._judgements: dict[int, Judgement] = {}  # by structure
        self._entered: set[tuple[int, int]] = set()  # component and generation
        self._made: list[tuple[CallRecord, ModuleSnapshot, Judgement]] = []
        self._timers: list[tuple[CallRecord, Timer]] = []
        self._origins = Origins()
        self._device_may_wait = best_device() != "cpu"
        for module in components.values():  # before anything runs: then it is only compared
            try:
                self._picture(module)
            except Exception:  # a call of it will say so
                logger.debug("%s could not be pictured", type(module).__name__, exc_info=True)

    def between_calls(self, busy: Callable[[], bool], found: Callable[[str, int | None], None]) -> OutsideCalls:
        """See :class:`~.recorder.Carrier`."""
        return OutsideCalls(busy, found)

    def call(
        self, record: CallRecord, target: Any, proceed: Proceed, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """See :class:`~.recorder.Carrier`."""
        with self._carried(record, target, (args, kwargs)) as (_, tell):
            output = proceed(*args, **kwargs)
            tell(output)
        return output

    @contextlib.contextmanager
    def entry(
        self,
        record: CallRecord,
        root: nn.Module,
        module: nn.Module,
        args: tuple[Any, ...],
        kwargs: dict[str, Any] | None,
    ) -> Iterator[Callable[[Any], None]]:
        """See :class:`~.recorder.Carrier`."""
        with self._carried(record, root, (args, kwargs), in_run=kwargs is None) as (live, tell):
            if live is not None:
                live.entered(module)
            yield tell

    @contextlib.contextmanager
    def _carried(
        self, record: CallRecord, target: Any, arguments: Any, *, in_run: bool = False
    ) -> Iterator[tuple[LiveCount | None, Callable[[Any], None]]]:
        """Around a call: timed, and counted where no twin can repeat it. What is given is told the output."""
        live = self._live(record, target, in_run)
        watch = None if live is None else self._origins.watching(target, arguments)
        timer = Timer(self._device(arguments))

        def tell(output: Any) -> None:
            timer.stop()
            first = next(iter_tensors(output), None)
            record.output_shape = None if first is None else TensorSpec.of(first).shape
            if live is not None and watch is not None and not (record.failure or live.failure):
                record.failure = watch.unexplained(output)

        try:
            with contextlib.ExitStack() as stack:
                if live is not None and watch is not None:
                    stack.enter_context(live.running())
                    stack.enter_context(watch)
                timer.start()
                yield live, tell
        except BaseException as error:
            record.failure = f"the call raised {type(error).__name__}: what it did until then is not counted"
            raise
        if timer.waits:
            self._timers.append((record, timer))
        else:
            record.seconds = timer.seconds
        if live is not None:
            record.in_run = True
            record.failure = record.failure or live.failure
            record.count = None if record.failure else live.count

    def _live(self, record: CallRecord, target: Any, in_run: bool) -> LiveCount | None:
        """What counts a call while it runs; None where a twin will."""
        if not isinstance(target, nn.Module):
            return LiveCount()
        try:
            structure = self._structure(record, target)
            judgement = self._judgements[id(structure)]
            self._made.append((record, structure, judgement))
            if not in_run and judgement.of_call(record.arguments) is None:
                return None
            return LiveCount(structure.module_ids, judgement, uncompiled(target))
        except Exception as error:  # a profile that fails never breaks a generation
            logger.warning("a call of %s was not recorded: %s", record.component, error)
            record.failure = f"{type(error).__name__} while recording a call: {error}"
            return None

    def _device(self, arguments: Any) -> torch.device | None:
        return accelerator_of(iter_tensors(arguments)) if self._device_may_wait else None

    # what a component was at each call

    def _structure(self, record: CallRecord, module: nn.Module) -> ModuleSnapshot:
        structure = self._structures.get(id(module))
        # Whatever was done to a component between two generations is seen before the first call of the second.
        entered = (id(module), record.generation)
        quick = record.generation != NO_GENERATION and entered in self._entered
        self._entered.add(entered)
        if structure is None or not structure.same(quick):
            if structure is not None:
                self._doubt(record.component, structure)
            structure = self._picture(module)
        elif not self._judgements[id(structure)].holds():
            self._judgements[id(structure)] = judge(structure)
        return structure

    def _picture(self, module: nn.Module) -> ModuleSnapshot:
        with undisturbed():
            structure = self._structures[id(module)] = ModuleSnapshot(uncompiled(module))
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
        for structure in self._structures.values():
            if not structure.same_contents():
                names = [record.component for record, known, _ in self._made if known is structure]
                self._doubt(names[0] if names else type(structure.root).__name__, structure)

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
        part = self.twin.twin.get_submodule(record.path) if record.path else None
        try:
            with self.judgement.as_it_was(), user_formulas.using(record.formulas):
                record.take(self.twin.get(record.method, record.arguments, part))
        except CountError as error:
            record.failure = str(error)


def _twin_of(structure: ModuleSnapshot) -> TwinCounts | CountError:
    try:
        return TwinCounts(build_twin(structure), forget=True)
    except Exception as error:
        return CountError(f"no twin could be made: {type(error).__name__}: {error}")


@dataclass(kw_only=True, slots=True)
class _Observed:
    """What is observed of one pipeline; without the pipeline once the block is over."""

    recording: Recording
    carrier: RealCalls
    recorder: Recorder
    pending: list[Pending] = field(default_factory=list)
    facts: PipelineFacts | None = None

    def close(self) -> None:
        """Let go of the pipeline."""
        started = time.perf_counter()
        try:
            with undisturbed():
                parts = self.recorder.parts
                self.facts = describe_pipeline(self.recorder.pipe, parts)
                self.pending = self.carrier.finish()
        except Exception as error:  # a profile that fails never breaks a generation
            logger.warning("the block could not be closed: %s", error, exc_info=True)
            self.recording.note(type(self.recorder.pipe).__name__, f"not counted: {type(error).__name__}: {error}")
        self.recording.count_seconds += time.perf_counter() - started

    def profile(self) -> ComputeProfile:
        """Count what is left to be counted, and put everything together."""
        if self.facts is None:
            raise DiffmeterError("The profile is there after the observe block: read it when the block is over.")
        started = time.perf_counter()
        with undisturbed(), entries.hidden(), random_state_kept():
            for call in self.pending:
                call.count()
        self.pending.clear()
        self.recording.count_seconds += time.perf_counter() - started
        return build_profile(self.recording, self.facts, kind="observed")


class Observation(Rendered):
    """What :func:`observe` hands out: read :attr:`profile` or :attr:`profiles` after the block."""

    def __init__(self, pipes: tuple[Any, ...], extra: Mapping[str, nn.Module]) -> None:
        self._pipes = pipes
        self._extra = dict(extra)
        self._observed: list[_Observed] = []
        self._profiles: tuple[ComputeProfile, ...] | None = None

    def open(self) -> contextlib.ExitStack:
        """Begin to record; closing what is returned ends it."""
        block = Block()
        with contextlib.ExitStack() as stack:
            stack.enter_context(WriteWatch())
            for number, pipe in enumerate(self._pipes):
                recording, extra = Recording(), self._extra if number == 0 else {}
                carrier = RealCalls({**parts_of(pipe).components, **extra}, recording)
                recorder = Recorder(pipe, carrier, recording, block, extra)
                observed = _Observed(recording=recording, carrier=carrier, recorder=recorder)
                self._observed.append(observed)
                stack.enter_context(recorder.watching())
                stack.callback(observed.close)
            self._pipes, self._extra = (), {}
            return stack.pop_all()

    @property
    def profiles(self) -> tuple[ComputeProfile, ...]:
        """A profile of each pipeline that is observed, in their order.

        Raises:
            DiffmeterError: the block is not over yet, or no component was called in it.
        """
        if self._profiles is None:
            if any(observed.facts is not None and not observed.recording.empty for observed in self._observed):
                self._profiles = tuple(observed.profile() for observed in self._observed)
            elif any(observed.facts is None for observed in self._observed):
                raise DiffmeterError("The profile is there after the observe block: read it when the block is over.")
            else:
                raise DiffmeterError("No component was called in the observe block: run the pipeline inside it.")
        return self._profiles

    @property
    def profile(self) -> ComputeProfile:
        """The profile of everything that ran in the block: of several pipelines, the sum of :attr:`profiles`.

        Raises:
            DiffmeterError: the block is not over yet, or no component was called in it.
        """
        called = [profile for profile in self.profiles if profile.generations]
        return functools.reduce(operator.add, called)

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
        if self._profiles is None:
            calls = sum(len(observed.recording.calls) for observed in self._observed)
            return f"<Observation of {calls} call{'' if calls == 1 else 's'}, not counted yet: read .profile>"
        return f"<Observation: {self.profile!r}>"

    def __str__(self) -> str:
        over = self._observed and all(observed.facts is not None for observed in self._observed)
        return self.render("table") if over else repr(self)

    def __dir__(self) -> list[str]:
        return ["profile", "profiles", "render", "save", "to_csv", "to_dict", "to_json", "to_latex", "to_markdown"]


class observe:  # used as a function: ``with observe(pipe) as run``
    """Observe what pipelines do inside a ``with`` block.

    >>> with observe(pipe) as run:
    ...     image = pipe("a red circle", num_inference_steps=30).images[0]
    >>> run.profile.total_macs

    >>> with observe(base, refiner) as run:
    ...     latents = base("a red circle", output_type="latent").images
    ...     image = refiner("a red circle", image=latents).images[0]
    >>> run.profiles[1].total_macs, run.profile.total_macs

    A block answers for the generations of its own pipelines, and for calls of their components outside of any
    pipeline. Blocks may be nested. Nothing of a pipeline is changed afterwards, also when the block raises. Several
    generations in one block are added up. Counting happens when ``run.profile`` is first read.

    Args:
        pipes: any loaded diffusers pipelines, on any device.
        extra: further modules that are to be counted, by the names that they get in the profile.

    Raises:
        InputError: something that is no pipeline, or an extra module that is none.
    """

    def __init__(self, *pipes: Any, extra: Mapping[str, nn.Module] | None = None) -> None:
        self._run: Observation | None = Observation(_checked(pipes), _checked_extra(extra or {}))
        self._block = contextlib.ExitStack()

    def __enter__(self) -> Observation:
        run, self._run = self._run, None
        if run is None:
            raise DiffmeterError("This observation is over: call observe(pipe) again for a new one.")
        self._block = run.open()
        return run

    def __exit__(self, *exception: object) -> None:
        self._block.close()


def _checked(pipes: tuple[Any, ...]) -> tuple[Any, ...]:
    if not pipes:
        raise InputError("observe needs a pipeline: pass a loaded DiffusionPipeline.")
    for index, pipe in enumerate(pipes):
        parts_of(pipe)
        if any(pipe is other for other in pipes[:index]):
            raise InputError(f"The same {type(pipe).__name__} was passed to observe twice.")
    return pipes


def _checked_extra(extra: Mapping[str, nn.Module]) -> Mapping[str, nn.Module]:
    for name, module in extra.items():
        if not isinstance(module, nn.Module):
            raise InputError(f"extra[{name!r}] must be a torch.nn.Module, not a {type(module).__name__}.")
    return extra
