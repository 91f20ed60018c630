"""Dry runs: the pipeline's own Python, with its real scheduler and loops, while twins stand in for its components.

Every call is seen, nothing heavy is computed and no weight is needed. The pipeline given is not touched: a stand-in
pipeline of the same class is run, whose components answer as the originals and return zeros of the right shapes.
"""

from __future__ import annotations

import contextlib
import copy
import logging
import os
import time
import types
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from diffmeter.compat import uncompiled
from diffmeter.errors import CountError, DiffmeterError, InputError, whole_number
from diffmeter.metering.counters.live import OutsideCalls
from diffmeter.metering.pipelines.call import call_of
from diffmeter.metering.pipelines.parts import parts_of
from diffmeter.metering.pipelines.sizes import with_both_sides
from diffmeter.metering.pipelines.stand_ins import StandIns
from diffmeter.metering.twins.argument_mutations import hand_back
from diffmeter.metering.twins.building import build_twin
from diffmeter.metering.twins.counts import TwinCounts
from diffmeter.metering.twins.replay import READS, random_state_kept
from diffmeter.metering.twins.user_state import user_state_kept
from diffmeter.metering.watching.nested import leaves
from diffmeter.metering.watching.signature import iter_tensors, map_leaves
from diffmeter.metering.watching.snapshot import ModuleSnapshot, WriteWatch
from diffmeter.metering.watching.trust import judge
from diffmeter.models.adapters import Changes
from diffmeter.models.sources import source_of
from diffmeter.models.tokenizers import longer_texts, stand_ins_of
from diffmeter.profile import ComputeProfile

from .assemble import PipelineFacts, build_profile, describe_pipeline
from .calls import CallRecord, Note, Recording
from .recorder import Proceed, Recorder

logger = logging.getLogger(__name__)


def dry_run(
    pipe_or_model_id: Any,
    *,
    tokens: int | None = None,
    token_count: int | None = None,
    dtype: torch.dtype | None = None,
    image_size: int | tuple[int, int] | None = None,
    **call_arguments: Any,
) -> ComputeProfile:
    """What a pipeline call would cost, without computing it.

    >>> dry_run("stabilityai/stable-diffusion-xl-base-1.0", height=1024, width=1024, steps=30)
    >>> dry_run(pipe, prompt="a red circle", num_inference_steps=30)

    Args:
        pipe_or_model_id: a loaded pipeline on any device (it is not touched), one built on the meta device, or the
            id or folder of a model, of which only the configuration is used.
        tokens: number of tokens that a prompt is taken to have; None: what the tokenizer says, and where none is
            there, its words and punctuation. ``token_count`` is its older name.
        dtype: of a model that is named by id or folder; a loaded pipeline has its own.
        image_size: (width, height) in pixels, or one side, of the images and videos that stand in for those that the
            pipeline needs and that are not given. None: the size of what is made.
        call_arguments: what the pipeline's ``__call__`` would get, by its own names or by ``height``, ``width``,
            ``steps``, ``guidance_scale``, ``batch`` (images or videos made by the call), ``num_frames`` and
            ``prompt``. For a model that is named, one side alone stands for a square, and what is not given is as the
            catalog has it. A prompt or image that the pipeline needs and that is not given is stood in for; the
            profile's ``conditions.stand_ins`` says by what.

    Raises:
        InputError: an argument that the pipeline does not take or accept, or an object that is no pipeline.
        DiffmeterError: a component cannot run without its weights' values.
    """
    count = _token_count(tokens, token_count)
    if isinstance(pipe_or_model_id, (str, os.PathLike)):
        runs = ModelDryRuns(pipe_or_model_id, token_count=count, dtype=dtype)
        return runs.dry_run(image_size=image_size, **call_arguments)
    if dtype is not None:
        raise InputError(f"dtype={dtype} is for a model that is named; the pipeline given has its own.")
    return run_dry(pipe_or_model_id, call_arguments)


def _token_count(tokens: int | None, token_count: int | None) -> int | None:
    if tokens is not None and token_count is not None and tokens != token_count:
        raise InputError(f"tokens={tokens} and token_count={token_count} are the same argument: give one.")
    count = token_count if tokens is None else tokens
    return None if count is None else whole_number(count, "the number of tokens")


def profile_model(
    model: str | os.PathLike[str],
    *,
    token_count: int | None = None,
    revision: str | None = None,
    variant: str | None = None,
    config: str | os.PathLike[str] | None = None,
    changes: Changes | None = None,
    **call_arguments: Any,
) -> ComputeProfile:
    """:func:`dry_run` of a model of the hub in one of its revisions or variants, or with something put onto it.

    Args:
        model: as for :func:`dry_run`.
        token_count: tokens that the prompt is taken to have.
        revision, variant: of a hub model.
        config: the folder or model with the configuration of a single file of weights.
        changes: LoRAs, a ControlNet and the like (:class:`~diffmeter.models.adapters.Changes`).
        call_arguments: of the call, as for :func:`dry_run`.

    Raises:
        InputError: a value that the model cannot take, named in the message.
        ModelNotFoundError, ModelLoadError: the model's configuration cannot be had.
    """
    runs = ModelDryRuns(
        model, token_count=token_count, revision=revision, variant=variant, config=config, changes=changes
    )
    return runs.dry_run(**call_arguments)


def profile_component(
    component: str | os.PathLike[str], family: str | None = None, **call_arguments: Any
) -> tuple[str, ComputeProfile]:
    """The name that a component alone has in its family's pipeline, and the profile of that pipeline with it.

    Args:
        component: a folder or hub address with one ``config.json``.
        family: the model whose pipeline calls it; None looks for one in the catalog.
        call_arguments: of the call, as for :func:`dry_run`.

    Raises:
        ModelNotFoundError, ModelLoadError: see :func:`~diffmeter.models.components.in_family`.
        InputError: an argument that the pipeline does not take.
    """
    from diffmeter.models.blueprint import build
    from diffmeter.models.components import in_family

    blueprint, name = in_family(os.fspath(component), family)
    runs = ModelDryRuns(blueprint.model_id, pipe=build(blueprint))
    return name, runs.dry_run(**call_arguments)


class ModelDryRuns:
    """Dry runs of one model, which is built once: a signature that one run counted is not counted again in the next.

    Arguments and exceptions are those of :func:`dry_run` and :func:`profile_model`.
    """

    def __init__(
        self,
        model: str | os.PathLike[str],
        *,
        token_count: int | None = None,
        dtype: torch.dtype | None = None,
        revision: str | None = None,
        variant: str | None = None,
        config: str | os.PathLike[str] | None = None,
        changes: Changes | None = None,
        pipe: Any = None,
    ) -> None:
        if token_count is not None:
            token_count = whole_number(token_count, "the number of tokens")
        from diffmeter.models.sources import build_pipeline_without_weights

        self.source = source_of(model)
        self.pipe = pipe or build_pipeline_without_weights(
            model, token_count=token_count, dtype=dtype, revision=revision, variant=variant, config=config
        )
        if changes is not None:
            self.pipe = changes.apply(self.pipe)
        self.call = call_of(self.pipe, self.source.name, self.source.entry)
        self._known = KnownCounts()

    def dry_run(self, *, image_size: int | tuple[int, int] | None = None, **call_arguments: Any) -> ComputeProfile:
        """The profile of one generation; None for an argument leaves it to the model."""
        tokenizers = stand_ins_of(self.pipe.components.values())
        for tokenizer in tokenizers:
            tokenizer.estimated_lengths.clear()
        rehearsal = self.rehearse(image_size=image_size, **call_arguments)
        lengths = sorted(set().union(*(tokenizer.estimated_lengths for tokenizer in tokenizers)))
        profile = build_profile(rehearsal.recording, rehearsal.facts, kind="dry_run", model_id=self.source.name)
        if not lengths:
            return profile
        # The model's own tokenizer is not here. Whether that matters shows when the texts are taken to be longer.
        with longer_texts(tokenizers, lengths[-1] + 7):
            longer = self.rehearse(image_size=image_size, **call_arguments)
        if _signatures(longer) == _signatures(rehearsal):
            return profile
        estimated = {"tokens": f"{' and '.join(map(str, lengths))}, counted without the model's own tokenizer"}
        return replace(profile, conditions=replace(profile.conditions, estimated=estimated))

    def rehearse(self, *, image_size: int | tuple[int, int] | None = None, **call_arguments: Any) -> Rehearsal:
        """The dry run that :meth:`dry_run` makes a profile of."""
        given = with_both_sides(self.call.arguments({n: v for n, v in call_arguments.items() if v is not None}))
        stand_ins = StandIns.of(self.pipe, self.call, given, image_size)
        arguments = stand_ins.with_published(stand_ins.with_prompt(given))
        return rehearse(self.pipe, arguments, owned=True, known=self._known)


def _signatures(rehearsal: Rehearsal) -> list[tuple[str, str, Any]]:
    return [(call.component, call.method, call.arguments.key) for call in rehearsal.recording.calls]


def run_dry(
    pipe: Any,
    call_arguments: Mapping[str, Any],
    *,
    owned: bool = False,
    model_id: str | None = None,
    known: KnownCounts | None = None,
) -> ComputeProfile:
    """:func:`dry_run` of a pipeline; ``owned`` says that its meta components may themselves serve as twins.

    ``known`` holds what earlier dry runs of the same owned pipeline counted, and gets what this one counts.
    """
    rehearsal = rehearse(pipe, call_arguments, owned=owned, known=known)
    return build_profile(rehearsal.recording, rehearsal.facts, kind="dry_run", model_id=model_id)


def rehearse(
    pipe: Any, call_arguments: Mapping[str, Any], *, owned: bool = False, known: KnownCounts | None = None
) -> Rehearsal:
    """Let a pipeline's own Python run around stand-ins, and keep what its components were called with.

    Raises:
        InputError: the pipeline does not accept the arguments.
        DiffmeterError: it stopped midway, or called none of its components.
    """
    carrier = StandInCalls(pipe, owned=owned, known=known)
    recording, name = carrier.recording, carrier.facts.pipeline
    recorder = Recorder(parts_of(carrier.pipe), carrier, recording)
    arguments = _stand_in_arguments(carrier.pipe, call_arguments)
    started = time.perf_counter()
    own_code = (*carrier.own_code, *filter(callable, leaves(arguments)))
    with user_state_kept(*own_code), _quiet(), random_state_kept(), WriteWatch(), recorder.watching():
        try:
            carrier.pipe(**arguments)
        except DiffmeterError:
            raise
        except Exception as error:
            if recording.calls or not isinstance(error, (ValueError, TypeError)):
                where = f" after {recording.calls[-1].component}" if recording.calls else ""
                raise DiffmeterError(
                    f"The dry run of {name} stopped{where}: {type(error).__name__}: {error}"
                ) from error
            raise InputError(f"{name} does not accept these arguments: {error}") from error
        finally:
            carrier.remember()
    recording.count_seconds = time.perf_counter() - started
    if recording.empty:
        raise DiffmeterError(f"{name} called none of its components in the dry run.")
    return Rehearsal(recording=recording, facts=carrier.facts, components=recorder.parts.components)


@dataclass(kw_only=True, slots=True, frozen=True)
class Rehearsal:
    """What a dry run left behind: the calls, what is known of the pipeline, the stand-ins of its components."""

    recording: Recording
    facts: PipelineFacts
    components: dict[str, nn.Module]


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Zeros instead of pictures make NumPy, the image code and the pipelines warn; nobody wants to read that."""
    import numpy as np

    libraries = [logging.getLogger(name) for name in ("diffusers", "transformers")]
    levels = [library.level for library in libraries]
    try:
        for library in libraries:
            library.setLevel(logging.ERROR)
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")
            yield
    finally:
        for library, level in zip(libraries, levels, strict=True):
            library.setLevel(level)


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

    def keep(self, name: str, counts: TwinCounts, picture: ModuleSnapshot) -> None:
        """Hand on the counts of a component."""
        self._by_component[name] = (counts, picture)


class StandInCalls:
    """Carries calls out on twins: nothing heavy is computed, and each call is counted as it is made.

    Attributes:
        pipe: the stand-in of the pipeline, around the twins.
        facts: what is known of the original.
        recording: where the calls are noted.
        own_code: functions and classes of the user that components run.
    """

    watches_steps = True  # a scheduler's arithmetic runs on tensors whose values may mean nothing

    def __init__(self, pipe: Any, *, owned: bool = False, known: KnownCounts | None = None) -> None:
        original = parts_of(pipe)
        self.facts = describe_pipeline(pipe, original)
        self.recording = Recording()
        self._known = known
        self._counts: dict[str, TwinCounts] = {}
        self._pictures: dict[str, ModuleSnapshot] = {}
        self._unknowable: dict[str, str] = {}
        self._doubts: list[Note] = []
        self.own_code: list[Any] = []
        stand_ins: dict[int, Any] = {}
        for name, module in original.components.items():
            stand_ins[id(module)] = self._stand_in(name, uncompiled(module), owned)
        self.pipe = _stand_in_pipeline(pipe, stand_ins)
        for name, module in original.components.items():
            _bring_back_cache(self._counts[name], uncompiled(module), stand_ins)

    def between_calls(self, busy: Callable[[], bool], found: Callable[[str, int | None], None]) -> OutsideCalls:
        """See :class:`~.recorder.Carrier`."""
        return HostTensors(busy, found, self._doubt)

    def generation_over(self) -> None:
        """See :class:`~.recorder.Carrier`."""

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
        cached = getattr(module, "_cache_config", None) is not None
        stateful = cached or judgement.foreign is not None
        self.own_code += judgement.own_code
        if judgement.altered is not None and not cached:
            self._unknowable[name] = f"{judgement.altered}: what it does to the work shows only in a real run"
        twin.__class__ = _on_cpu(type(twin))
        known = None if self._known is None else self._known.of(name, twin)
        if known is None:
            self._counts[name] = TwinCounts(twin, stateful=stateful)
        else:
            self._counts[name], self._pictures[name] = known
        return twin

    def remember(self) -> None:
        """Hand what was counted on to the next dry run."""
        if self._known is not None:
            for name, picture in self._pictures.items():
                self._known.keep(name, self._counts[name], picture)

    def call(
        self, record: CallRecord, target: nn.Module, proceed: Proceed, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """See :class:`~.recorder.Carrier`."""
        for doubt in self._doubts:
            self.recording.note(*doubt)
        self._doubts.clear()
        name = record.component
        try:
            counted = self._current_counts(name, target).get(record.method, record.arguments, proceed)
        except CountError as error:
            raise DiffmeterError(f"{name} cannot be run without its values: {error}") from error
        if name in self._unknowable:
            record.failure = self._unknowable[name]
        else:
            record.take(counted)
        if counted.assumed and _holds_numbers(counted.output):
            self._doubt(f"{record.method} returned a number that only a real run knows")
        hand_back(counted.written, args, kwargs, _as_pipeline_sees_it)
        output = _as_pipeline_sees_it(counted.output)
        first = next(iter_tensors(output), None)
        record.output_shape = None if first is None else tuple(first.shape)
        return output

    def _doubt(self, reason: str) -> None:
        """The pipeline read a placeholder. It is a gap only if another component is called afterwards."""
        calls = self.recording.calls
        self._doubts.append(Note(calls[-1].component if calls else self.facts.pipeline, reason))

    def _current_counts(self, name: str, twin: nn.Module) -> TwinCounts:
        """The counts that hold for a stand-in as it is now: the pipeline may have changed it since the last call."""
        picture = self._pictures.get(name)
        if picture is None or not picture.same():
            if picture is not None:
                self._counts[name] = TwinCounts(twin, stateful=self._counts[name].stateful)
            self._pictures[name] = ModuleSnapshot(twin)
        return self._counts[name]


class HostTensors(OutsideCalls):
    """Keeps the pipeline's own code on small CPU tensors, also where it reads a weight or enters a submodule.

    What a stand-in returned, and everything computed from it, has values that mean nothing: ``unknown`` is told when
    the pipeline looks at one.
    """

    def __init__(
        self, busy: Callable[[], bool], found: Callable[[str, int | None], None], unknown: Callable[[str], None]
    ) -> None:
        super().__init__(busy, found)
        self._unknown = unknown

    def run(self, func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        if not any(map(_is_stand_in, _tensors((*args, *kwargs.values())))):
            return self._run(func, args, kwargs)
        if func in READS:
            self._unknown("the pipeline looks at a value that only a real run knows")
        out = self._run(func, args, kwargs)
        for tensor in _tensors((out,)):
            _mark(tensor)
        if func._schema.is_mutable and args and isinstance(args[0], torch.Tensor):
            _mark(args[0])
            if args[0]._base is not None:
                _mark(args[0]._base)
        return out

    def _run(self, func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        device = kwargs.get("device")
        if device is not None and torch.device(device).type == "meta":
            kwargs = {**kwargs, "device": torch.device("cpu")}
        if any(t.is_meta for t in _tensors(args)) or any(t.is_meta for t in _tensors(tuple(kwargs.values()))):
            if kwargs.get("device") is not None:
                kwargs = {**kwargs, "device": torch.device("meta")}
            args = map_leaves(args, torch.Tensor, _as_meta)
            kwargs = map_leaves(kwargs, torch.Tensor, _as_meta)
            return map_leaves(func(*args, **kwargs), torch.Tensor, _zeros)
        return func(*args, **kwargs)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten._local_scalar_dense.default and args[0].is_meta:
            return 0
        return super().__torch_dispatch__(func, types, args, kwargs)


def _tensors(values: tuple[Any, ...]) -> Iterator[torch.Tensor]:
    for value in values:
        if isinstance(value, torch.Tensor):
            yield value
        elif isinstance(value, (list, tuple)):
            yield from (item for item in value if isinstance(item, torch.Tensor))


def _as_meta(tensor: torch.Tensor) -> torch.Tensor:
    return tensor if tensor.is_meta else torch.empty_like(tensor, device="meta")


def _zeros(tensor: torch.Tensor) -> torch.Tensor:
    """What a pipeline gets for a tensor that a twin returned."""
    if tensor.is_meta:
        return _mark(torch.zeros(tensor.shape, dtype=tensor.dtype))
    return tensor.clone()


def _as_pipeline_sees_it(value: Any) -> Any:
    return map_leaves(value, torch.Tensor, _zeros)


def _mark(tensor: torch.Tensor) -> torch.Tensor:
    """Note that the values of a tensor mean nothing."""
    tensor._diffmeter_stand_in = True  # type: ignore[attr-defined]
    return tensor


def _is_stand_in(tensor: torch.Tensor) -> bool:
    return hasattr(tensor, "_diffmeter_stand_in")


def _holds_numbers(output: Any) -> bool:
    """Whether there is a number among what a call returned that is no tensor.

    A boolean is none: verdicts such as a safety checker's decide about pictures, not about work.
    """
    if isinstance(output, (int, float)):
        return not isinstance(output, bool)
    if isinstance(output, Mapping):
        return any(map(_holds_numbers, output.values()))
    return isinstance(output, (list, tuple)) and any(map(_holds_numbers, output))


_on_cpu_classes: dict[type, type] = {}


def _on_cpu(cls: type) -> type:
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


def _stand_in_pipeline(pipe: Any, stand_ins: dict[int, Any]) -> Any:
    """A pipeline of the same class around the stand-ins; schedulers are copied, the rest is shared."""
    known = stand_ins.get(id(pipe))
    if known is not None:
        return known
    clone = object.__new__(type(pipe))
    stand_ins[id(pipe)] = clone

    def stand_in(value: Any) -> Any:
        if id(value) in stand_ins:
            return stand_ins[id(value)]
        if isinstance(getattr(value, "components", None), Mapping) and callable(value):
            return _stand_in_pipeline(value, stand_ins)
        if callable(getattr(value, "step", None)) and hasattr(value, "config"):
            stand_ins[id(value)] = copy.deepcopy(value)
            return stand_ins[id(value)]
        if callable(getattr(value, "postprocess_video", None)):
            return _without_large_videos(value)
        if type(value) in (list, tuple):
            return type(value)(stand_in(item) for item in value)
        if type(value) is dict:
            return {name: stand_in(item) for name, item in value.items()}
        return value

    for name, value in vars(pipe).items():
        clone.__dict__[name] = stand_in(value)
    if "_all_hooks" in clone.__dict__:  # offloading belongs to the original
        clone.__dict__["_all_hooks"] = []
    clone.__dict__["_offload_device"] = None
    clone.__dict__["_progress_bar_config"] = {"disable": True}
    return clone


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


def _bring_back_cache(counts: TwinCounts, original: nn.Module, stand_ins: dict[int, Any]) -> None:
    """Give a twin the step cache that its original has, with a state of its own."""
    known = getattr(original, "_cache_config", None)
    if known is None:
        return
    config = stand_ins[id(known)] = copy.copy(known)
    for name, value in vars(config).items():
        if isinstance(value, types.FunctionType) and value.__closure__:
            setattr(config, name, _rebound(value, stand_ins))
    counts.twin._cache_config = None  # type: ignore[assignment]
    counts.twin.enable_cache(config)  # type: ignore[operator]


def _rebound(function: types.FunctionType, stand_ins: dict[int, Any]) -> types.FunctionType:
    """A function that sees the stand-ins where the original sees pipeline and components."""
    cells = []
    for cell in function.__closure__ or ():
        try:
            cells.append(types.CellType(stand_ins.get(id(cell.cell_contents), cell.cell_contents)))
        except ValueError:  # an empty cell
            cells.append(cell)
    rebound = types.FunctionType(
        function.__code__, function.__globals__, function.__name__, function.__defaults__, tuple(cells)
    )
    rebound.__kwdefaults__ = function.__kwdefaults__
    return rebound


def _stand_in_arguments(pipe: Any, given: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of the call: tensors on the CPU, generators copied, what is required and missing stood in for."""
    call = call_of(pipe)
    arguments = call.arguments(given)
    arguments = map_leaves(arguments, torch.Tensor, lambda t: _zeros(t) if t.is_meta else t.cpu())
    arguments = map_leaves(arguments, torch.Generator, _copied_generator)
    return StandIns.of(pipe, call, arguments, None).with_required(arguments)


def _copied_generator(generator: torch.Generator) -> torch.Generator:
    copied = torch.Generator("cpu")
    if generator.device.type == "cpu":
        copied.set_state(generator.get_state())
    return copied
