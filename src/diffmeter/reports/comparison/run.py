"""Count cases. A model is built once, and its dry runs share what they counted."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby, product
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from diffmeter.errors import InputError, one_line, whole_number
from diffmeter.metering.pipelines.words import understanding_own_names
from diffmeter.models.sources import source_of
from diffmeter.profile import ComputeProfile

from .rows import Case, Comparison, Row

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

    from diffmeter.metering.recording.observe import Observation

    Model: TypeAlias = str | os.PathLike[str] | DiffusionPipeline | ComputeProfile | Observation

logger = logging.getLogger(__name__)

Progress = Callable[[Case], None]


@dataclass(frozen=True)
class _Subject:
    """One thing to compare, under the name that its rows carry."""

    name: str
    model: Any


@understanding_own_names
def compare(
    models: Iterable[Model] | Mapping[str, Model],
    *,
    height: int | None = None,
    width: int | None = None,
    steps: int | None = None,
    guidance_scale: float | None = None,
    batch: int | None = None,
    num_frames: int | None = None,
    tokens: int | None = None,
    dry_run: bool = False,
    gpu: str | None = None,
    progress: Progress | None = None,
) -> Comparison:
    """What the same generation costs with different models: one row each, compared with the first.

    >>> compare({"SD 1.5": "sd15", "ours": pipe, "ours, cached": run.profile}, steps=30)

    Args:
        models: each an id or alias of the catalog, a hub id, a local folder, a loaded pipeline, a profile or an
            observation, or the path of a saved profile (``.json``, ``.png``); no weights are read. A mapping gives the
            names that the rows carry.
        height, width: pixels; None: each model's default. One given alone makes square images.
        steps, guidance_scale: None: each model's default.
        batch: images or videos made in one call; None: one.
        num_frames: of a video; None: each model's default.
        tokens: number of tokens that a prompt is taken to have, for models that are named.
        dry_run: run the pipelines' own code, also where the answer is known as a formula.
        gpu: also predict time, memory, energy and money of the models that are named, on this GPU.
        progress: called with each case before it is counted.

    A profile is taken as it is: options do not change it. A model that cannot do its case has a row that says why, and
    the others are counted.

    Raises:
        InputError: no model is given, or a number is below 1.
    """
    height, width = _square(height, width)
    cases = [
        (subject, Case(_id_of(subject.model), height, width, steps, guidance_scale, batch, num_frames))
        for subject in _subjects(models)
    ]
    return _predicted(Comparison(run_cases(cases, tokens, progress, dry_run=dry_run)), gpu, tokens)


@understanding_own_names
def sweep(
    models: Model | Iterable[Model] | Mapping[str, Model],
    *,
    heights: Sequence[int] | None = None,
    widths: Sequence[int] | None = None,
    steps: Sequence[int] | None = None,
    batches: Sequence[int] | None = None,
    guidance_scale: float | None = None,
    num_frames: int | None = None,
    tokens: int | None = None,
    dry_run: bool = False,
    gpu: str | None = None,
    progress: Progress | None = None,
) -> Comparison:
    """What models cost at every combination of size, batch and steps: one row each, steps varying fastest.

    ``heights`` alone makes square images; with ``widths`` they are taken in pairs, and one of either holds for all
    of the other. The rest is as in :func:`compare`. Steps and batches cost next to nothing to ask for: a component's
    call is counted once for each of its signatures.

    Raises:
        InputError: no model is given, a number is below 1, or heights and widths do not pair up.
    """
    sizes = _sizes(heights, widths)
    cases = [
        (subject, Case(_id_of(subject.model), height, width, count, guidance_scale, batch, num_frames))
        for subject, (height, width), batch, count in product(
            _subjects(models), sizes, batches or (None,), steps or (None,)
        )
    ]
    found = Comparison(run_cases(cases, tokens, progress, dry_run=dry_run), relation="growth")
    return _predicted(found, gpu, tokens)


def _predicted(comparison: Comparison, gpu: str | None, tokens: int | None) -> Comparison:
    if gpu is None:
        return comparison
    from .predicted import with_predictions

    return with_predictions(comparison, gpu, tokens)


def run_cases(
    cases: Iterable[tuple[_Subject, Case]],
    tokens: int | None = None,
    progress: Progress | None = None,
    *,
    dry_run: bool = False,
) -> list[Row]:
    """Count cases in order; neighboring ones of the same model share its pipeline and its counts.

    Raises:
        InputError: ``tokens`` is below 1.
    """
    if tokens is not None:
        whole_number(tokens, "The number of tokens")
    rows: list[Row] = []
    for _, of_model in groupby(cases, key=lambda pair: id(pair[0])):
        listed = list(of_model)
        subject = listed[0][0]

        def count(subject: _Subject = subject) -> Callable[[Case], ComputeProfile]:
            return _counter_of(subject.model, tokens, dry_run)

        rows.extend(_rows_of(subject, [case for _, case in listed], count, progress))
    return rows


def _rows_of(
    subject: _Subject,
    cases: list[Case],
    make_counter: Callable[[], Callable[[Case], ComputeProfile]],
    progress: Progress | None,
) -> list[Row]:
    rows: list[Row] = []
    count: Callable[[Case], ComputeProfile] | None = None
    unusable: str | None = None
    for case in cases:
        if progress is not None:
            progress(case)
        logger.info("counting %s: %s", subject.name, case)
        try:
            if unusable is None and count is None:
                try:
                    # Built at the first case, so that progress is shown before the wait.
                    count = make_counter()
                except Exception as error:
                    unusable = _reason(error)
            profile = None if count is None else count(case)
        except Exception as error:
            rows.append(Row(case, subject.name, error=_reason(error)))
        else:
            rows.append(Row(case, subject.name, profile, unusable))
    return rows


def _counter_of(model: Any, tokens: int | None, dry_run: bool) -> Callable[[Case], ComputeProfile]:
    """What gives the profile of a case, made once for all cases of a model."""
    if isinstance(model, ComputeProfile):
        return lambda case: model
    if isinstance(getattr(model, "profile", None), ComputeProfile):  # an observation
        return lambda case: model.profile
    if _is_saved_profile(model):
        profile = ComputeProfile.load(model)
        return lambda case: profile
    if isinstance(model, (str, os.PathLike)):
        from diffmeter.formulas.library import Answers

        answers = Answers(model, token_count=tokens, dry_run=dry_run)
        return lambda case: answers.profile(**case.options)
    from diffmeter.metering.recording.dry_run import dry_run as run_of

    return lambda case: run_of(model, **case.options)


def _is_saved_profile(model: Any) -> bool:
    return (
        isinstance(model, (str, os.PathLike))
        and Path(model).suffix.lower() in (".json", ".png")
        and Path(model).is_file()
    )


def _reason(error: Exception) -> str:
    """One line for a row. What diffmeter itself says is a sentence; anything else is named by its class as well."""
    logger.debug("a case failed", exc_info=error)
    return one_line(error, with_type=True)


def _subjects(models: Any) -> list[_Subject]:
    if isinstance(models, Mapping):
        subjects = [_Subject(str(name), model) for name, model in models.items()]
    else:
        listed = models if isinstance(models, Iterable) and not isinstance(models, str) else [models]
        subjects = [_Subject(_short_name(model), model) for model in listed]
    if not subjects:
        raise InputError("Name at least one model.")
    return subjects


def _id_of(model: Any) -> str:
    """What stands for a model in JSON."""
    if isinstance(model, (str, os.PathLike)):
        return os.fspath(model)
    profile = model if isinstance(model, ComputeProfile) else None
    if profile is None and isinstance(getattr(model, "profile", None), ComputeProfile):
        profile = model.profile
    return type(model).__name__ if profile is None else profile.conditions.model_id or profile.conditions.pipeline


def _short_name(model: Any) -> str:
    if not isinstance(model, (str, os.PathLike)):
        return _id_of(model)
    return Path(model).stem if _is_saved_profile(model) else source_of(model).label


def _square(height: int | None, width: int | None) -> tuple[int | None, int | None]:
    return (height if height is not None else width), (width if width is not None else height)


def _sizes(heights: Sequence[int] | None, widths: Sequence[int] | None) -> list[tuple[int | None, int | None]]:
    if not heights or not widths:
        return [_square(side, side) for side in heights or widths or ()] or [(None, None)]
    if len(heights) != len(widths) and 1 not in (len(heights), len(widths)):
        raise InputError(
            f"{len(heights)} heights and {len(widths)} widths do not pair up: give as many of both, or one of either."
        )
    count = max(len(heights), len(widths))
    return list(
        zip(
            heights if len(heights) == count else list(heights) * count,
            widths if len(widths) == count else list(widths) * count,
            strict=True,
        )
    )
