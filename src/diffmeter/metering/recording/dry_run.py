"""Dry runs: the pipeline's own Python, with its real scheduler and loops, while twins stand in for its components.

Every call is seen, nothing heavy is computed and no weight is needed. The pipeline given is not touched: a stand-in
pipeline of the same class is run, whose components answer as the originals and return zeros of the right shapes.
"""

from __future__ import annotations

import contextlib
import logging
import os
import time
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from diffmeter.compat import quiet_libraries
from diffmeter.errors import DiffmeterError, InputError, one_line, whole_number
from diffmeter.metering.pipelines.call import PipelineCall, call_of
from diffmeter.metering.pipelines.parts import parts_of
from diffmeter.metering.pipelines.sizes import with_both_sides
from diffmeter.metering.pipelines.stand_ins import StandIns, give_token_count, takes_images, takes_videos
from diffmeter.metering.step_cache import StepCache
from diffmeter.metering.twins.replay import random_state_kept
from diffmeter.metering.twins.user_state import user_state_kept
from diffmeter.metering.watching.signature import map_leaves
from diffmeter.metering.watching.snapshot import WriteWatch
from diffmeter.metering.watching.undisturbed import undisturbed
from diffmeter.models.adapters import Changes
from diffmeter.models.sources import build_pipeline_without_weights, source_of
from diffmeter.models.tokenizers import longer_texts, stand_ins_of
from diffmeter.profile import ComputeProfile

from .assemble import PipelineFacts, build_profile
from .calls import Recording
from .host_tensors import placeholder
from .recorder import Block, Recorder
from .stand_in_calls import KnownCounts, StandInCalls

logger = logging.getLogger(__name__)


def dry_run(
    pipe_or_model_id: Any,
    *,
    tokens: int | None = None,
    token_count: int | None = None,
    dtype: torch.dtype | None = None,
    image_size: int | tuple[int, int] | None = None,
    cache: StepCache | None = None,
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
        cache: which blocks of the denoiser are reused at which step, by a method that changes the model's functions
            and so cannot be seen here. Step caches of diffusers that are enabled need not be declared.
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
        return runs.dry_run(image_size=image_size, cache=cache, **call_arguments)
    if dtype is not None:
        raise InputError(f"dtype={dtype} is for a model that is named; the pipeline given has its own.")
    return run_dry(
        pipe_or_model_id, call_arguments, options=DryRunOptions(image_size=image_size, tokens=count, cache=cache)
    )


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

    Attributes:
        source: what the model's name means.
        pipe: the pipeline that is run, on the meta device.
        call: how its call is asked.
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
        self.source = source_of(model)
        self.pipe = pipe or build_pipeline_without_weights(
            model, token_count=token_count, dtype=dtype, revision=revision, variant=variant, config=config
        )
        if changes is not None:
            self.pipe = changes.apply(self.pipe)
        self.call = call_of(self.pipe, self.source.name, self.source.entry)
        self._known = KnownCounts()

    def dry_run(
        self,
        *,
        image_size: int | tuple[int, int] | None = None,
        cache: StepCache | None = None,
        **call_arguments: Any,
    ) -> ComputeProfile:
        """The profile of one generation; None for an argument leaves it to the model."""
        tokenizers = stand_ins_of(self.pipe.components.values())
        for tokenizer in tokenizers:
            tokenizer.estimated_lengths.clear()
        rehearsal = self.rehearse(image_size=image_size, cache=cache, **call_arguments)
        lengths = sorted(set().union(*(tokenizer.estimated_lengths for tokenizer in tokenizers)))
        profile = rehearsal.profile(self.source.name)
        if not lengths:
            return profile
        # The model's own tokenizer is not here. Whether that matters shows when the texts are taken to be longer.
        with longer_texts(tokenizers, lengths[-1] + 7):
            longer = self.rehearse(image_size=image_size, cache=cache, **call_arguments)
        if _signatures(longer) == _signatures(rehearsal):
            return profile
        estimated = {"tokens": f"{' and '.join(map(str, lengths))}, counted without the model's own tokenizer"}
        return replace(profile, conditions=replace(profile.conditions, estimated=estimated))

    def rehearse(
        self,
        *,
        image_size: int | tuple[int, int] | None = None,
        cache: StepCache | None = None,
        **call_arguments: Any,
    ) -> Rehearsal:
        """The dry run that :meth:`dry_run` makes a profile of."""
        given = with_both_sides({name: value for name, value in call_arguments.items() if value is not None})
        options = DryRunOptions(owned=True, known=self._known, image_size=image_size, cache=cache)
        return rehearse(self.pipe, given, call=self.call, options=options)


@dataclass(frozen=True, slots=True, kw_only=True)
class DryRunOptions:
    """How a pipeline is run dry.

    Attributes:
        owned: whether its meta components may themselves serve as twins.
        known: what earlier dry runs of the same owned pipeline counted; gets what this one counts.
        image_size, tokens, cache: as in :func:`dry_run`.
    """

    owned: bool = False
    known: KnownCounts | None = None
    image_size: int | tuple[int, int] | None = None
    tokens: int | None = None
    cache: StepCache | None = None


_DEFAULT = DryRunOptions()


def _signatures(rehearsal: Rehearsal) -> list[tuple[str, str, Any]]:
    return [(call.component, call.method, call.arguments.key) for call in rehearsal.recording.calls]


def run_dry(
    pipe: Any,
    call_arguments: Mapping[str, Any],
    *,
    model_id: str | None = None,
    call: PipelineCall | None = None,
    options: DryRunOptions = _DEFAULT,
) -> ComputeProfile:
    """:func:`dry_run` of a pipeline; ``call`` says how it is asked, where more is known than its class."""
    return rehearse(pipe, call_arguments, call=call, options=options).profile(model_id)


def rehearse(
    pipe: Any,
    call_arguments: Mapping[str, Any],
    *,
    call: PipelineCall | None = None,
    options: DryRunOptions = _DEFAULT,
) -> Rehearsal:
    """Let a pipeline's own Python run around stand-ins, and keep what its components were called with.

    Where it cannot do without an image or video that it was not given, it is run again with one that stands in.

    Raises:
        InputError: the pipeline does not accept the arguments.
        DiffmeterError: it stopped midway, or called none of its components.
    """
    call = call or call_of(pipe)
    sides = {name: call_arguments[name] for name in ("height", "width") if call_arguments.get(name) is not None}
    if sides and not call.understands("height") and options.image_size is None and takes_images(call):
        # What it makes has the size of the image that it is given, or one that follows from it.
        call_arguments = {name: value for name, value in call_arguments.items() if name not in sides}
        size = with_both_sides({name: whole_number(side, f"the {name}") for name, side in sides.items()})
        wanted = size["width"], size["height"]
        found = rehearse(pipe, call_arguments, call=call, options=replace(options, image_size=wanted))
        _check_made(found, wanted)
        return found
    frames = call_arguments.get("num_frames")
    if frames is not None and not call.understands("num_frames") and takes_videos(call):  # of the video that it gets
        frames = whole_number(frames, "the number of frames")
        call_arguments = {name: value for name, value in call_arguments.items() if name != "num_frames"}
    given = call.arguments(call_arguments)
    stand_ins = StandIns.of(pipe, call, given, options.image_size, frames)
    arguments = stand_ins.with_required(stand_ins.with_published(stand_ins.with_prompt(given)))
    more = stand_ins.fuller(arguments)
    if options.image_size is not None:
        arguments = next(more, arguments)
    while True:
        try:
            return _rehearse_once(pipe, arguments, stand_ins.notes, options)
        except DiffmeterError:
            fuller = next(more, None)
            if fuller is None:
                raise
            arguments = fuller


def _check_made(rehearsal: Rehearsal, wanted: tuple[int, int]) -> None:
    """Refuse an image's size that is not the size of what was made, where only the latter was asked for."""
    made = rehearsal.profile().conditions
    if made.height and made.width and (made.width, made.height) != wanted:
        raise InputError(
            f"{made.pipeline} makes {made.width} x {made.height} pixels of an image of {wanted[0]} x {wanted[1]}: "
            f"give image_size, the size of what it gets, in place of height and width."
        )


def _rehearse_once(
    pipe: Any, arguments: Mapping[str, Any], stand_ins: Mapping[str, str], options: DryRunOptions
) -> Rehearsal:
    with undisturbed(gradients=torch.is_grad_enabled()):
        return _rehearse_undisturbed(pipe, arguments, stand_ins, options)


def _rehearse_undisturbed(
    pipe: Any, arguments: Mapping[str, Any], stand_ins: Mapping[str, str], options: DryRunOptions
) -> Rehearsal:
    carrier = StandInCalls(pipe, owned=options.owned, known=options.known, cache=options.cache)
    recording, name = carrier.recording, carrier.facts.pipeline
    parts = parts_of(carrier.pipe)
    if options.tokens is not None:
        give_token_count(parts.pipelines, options.tokens)
    recorder = Recorder(carrier.pipe, carrier, recording, Block())
    copied = map_leaves(dict(arguments), torch.Tensor, lambda t: placeholder(t) if t.is_meta else t.cpu())
    copied = carrier.bound(map_leaves(copied, torch.Generator, _copied_generator))
    started = time.perf_counter()
    with contextlib.ExitStack() as stack:
        for held in (_quiet(), random_state_kept(), user_state_kept(*carrier.own_code), WriteWatch()):
            stack.enter_context(held)
        stack.enter_context(carrier.original_untouched())
        stack.enter_context(recorder.watching())
        try:
            carrier.pipe(**copied)
        except DiffmeterError:
            raise
        except Exception as error:
            if recording.calls or not isinstance(error, (ValueError, TypeError)):
                where = f" after {recording.calls[-1].component}" if recording.calls else ""
                raise DiffmeterError(
                    f"The dry run of {name} stopped{where}: {one_line(error, with_type=True)}"
                ) from error
            raise InputError(f"{name} does not accept these arguments: {error}") from error
        finally:
            carrier.remember()
    recording.count_seconds = time.perf_counter() - started
    if recording.empty:
        raise DiffmeterError(f"{name} called none of its components in the dry run.")
    return Rehearsal(recording=recording, facts=carrier.facts, components=parts.components, stand_ins=dict(stand_ins))


def _copied_generator(generator: torch.Generator) -> torch.Generator:
    copied = torch.Generator("cpu")
    if generator.device.type == "cpu":
        copied.set_state(generator.get_state())
    return copied


@dataclass(kw_only=True, slots=True, frozen=True)
class Rehearsal:
    """What a dry run left behind.

    Attributes:
        recording: the calls.
        facts: what is known of the pipeline.
        components: the stand-ins of its components.
        stand_ins: what stood in for arguments that were not given, in words, by argument.
    """

    recording: Recording
    facts: PipelineFacts
    components: dict[str, nn.Module]
    stand_ins: dict[str, str]

    def profile(self, model_id: str | None = None) -> ComputeProfile:
        """What it cost."""
        return build_profile(self.recording, self.facts, kind="dry_run", model_id=model_id, stand_ins=self.stand_ins)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Zeros instead of pictures make NumPy, the image code and the pipelines warn; nobody wants to read that."""
    import numpy as np

    with quiet_libraries(), warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        yield
