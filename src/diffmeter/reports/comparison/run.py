"""Count cases. A model is built once, and its dry runs share what they counted."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable, Sequence
from itertools import groupby, product
from typing import TYPE_CHECKING

from diffmeter.errors import DiffmeterError, InputError
from diffmeter.models.sources import source_of

from .rows import Case, Comparison, Row

if TYPE_CHECKING:
    from diffmeter.metering.recording.dry_run import ModelDryRuns

logger = logging.getLogger(__name__)

Model = str | os.PathLike[str]


def compare(
    models: Iterable[Model],
    *,
    height: int | None = None,
    width: int | None = None,
    steps: int | None = None,
    guidance_scale: float | None = None,
    batch: int = 1,
    token_count: int | None = None,
    progress: Callable[[Case], None] | None = None,
) -> Comparison:
    """What the same generation costs with different models: one row a model.

    Args:
        models: catalogue ids or aliases, hub ids, or local folders; no weights are read.
        height, width: pixels; None: each model's default. One given alone makes square pictures.
        steps, guidance_scale: None: each model's default.
        batch: pictures made in one call.
        token_count: number of tokens that a prompt is taken to have.
        progress: called with each case before it is counted.

    A model that cannot do its case has a row that says why, and the others are counted.

    Raises:
        InputError: no model is given, or a number is below 1.
    """
    height, width = _square(height, width)
    listed = _listed(models)
    cases = [Case(model, height, width, steps, guidance_scale, batch) for model in listed]
    return run_cases(cases, token_count, progress)


def sweep(
    models: Model | Iterable[Model],
    *,
    heights: Sequence[int] | None = None,
    widths: Sequence[int] | None = None,
    steps: Sequence[int] | None = None,
    batches: Sequence[int] | None = None,
    guidance_scale: float | None = None,
    token_count: int | None = None,
    progress: Callable[[Case], None] | None = None,
) -> Comparison:
    """What models cost at every combination of size, batch and steps: one row each, steps varying fastest.

    ``heights`` alone makes square pictures; with ``widths`` they are taken in pairs, and one of either holds for all
    of the other. The rest is as in :func:`compare`. Steps and batches cost next to nothing to ask for: a component's
    call is counted once for each of its signatures.

    Raises:
        InputError: no model is given, a number is below 1, or heights and widths do not pair up.
    """
    sizes = _sizes(heights, widths)
    cases = [
        Case(model, height, width, count, guidance_scale, batch)
        for model, (height, width), batch, count in product(_listed(models), sizes, batches or (1,), steps or (None,))
    ]
    return run_cases(cases, token_count, progress)


def run_cases(
    cases: Iterable[Case], token_count: int | None = None, progress: Callable[[Case], None] | None = None
) -> Comparison:
    """Count cases in order; neighboring ones of the same model share its pipeline and its counts.

    Raises:
        InputError: ``token_count`` is below 1.
    """
    if token_count is not None and token_count < 1:
        raise InputError(f"The number of tokens must be at least 1, not {token_count}.")
    rows: list[Row] = []
    for model, of_model in groupby(cases, key=lambda case: case.model):
        rows.extend(_rows_of(model, list(of_model), token_count, progress))
    return Comparison(rows)


def _rows_of(
    model: str, cases: list[Case], token_count: int | None, progress: Callable[[Case], None] | None
) -> list[Row]:
    from diffmeter.metering.recording.dry_run import ModelDryRuns

    name = source_of(model).label
    rows: list[Row] = []
    runs: ModelDryRuns | None = None
    unusable: str | None = None
    for case in cases:
        if progress is not None:
            progress(case)
        if unusable is None:
            try:
                # Built at the first case, so that progress is shown before the wait.
                runs = runs or ModelDryRuns(model, token_count=token_count)
            except Exception as error:
                unusable = _reason(error)
        if runs is None:
            rows.append(Row.failed(case, name, unusable or ""))
            continue
        try:
            profile = runs.dry_run(
                height=case.height,
                width=case.width,
                steps=case.steps,
                guidance_scale=case.guidance_scale,
                batch=case.batch,
            )
        except Exception as error:
            rows.append(Row.failed(case, name, _reason(error)))
        else:
            rows.append(Row.of(case, name, profile))
    return rows


def _reason(error: Exception) -> str:
    """One line for a row. What diffmeter itself says is a sentence; anything else is named by its class as well."""
    if not isinstance(error, DiffmeterError):
        logger.debug("a case failed", exc_info=error)
    text = " ".join(str(error).split())
    return text if isinstance(error, DiffmeterError) and text else f"{type(error).__name__}: {text}"


def _listed(models: Model | Iterable[Model]) -> list[str]:
    listed = [os.fspath(models)] if isinstance(models, (str, os.PathLike)) else [os.fspath(m) for m in models]
    if not listed:
        raise InputError("Name at least one model.")
    return listed


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
