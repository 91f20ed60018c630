"""``diffmeter sweep``: models over sizes, steps and batches."""

from __future__ import annotations

from typing import Annotated

import typer

from diffmeter.errors import InputError

from .compare import FormatOption, GuidanceOption, PlotOption, TokensOption, check_output, progress, show_comparison


def run(
    models: Annotated[list[str], typer.Argument(help="Catalogue ids or aliases, hub ids, or local folders.")],
    height: Annotated[str | None, typer.Option(help="Heights in pixels, such as 512,768; alone: squares.")] = None,
    width: Annotated[
        str | None, typer.Option(help="Widths in pixels: one for each height, or one for all of them.")
    ] = None,
    steps: Annotated[str | None, typer.Option(help="Numbers of inference steps, such as 4,28,50.")] = None,
    batch: Annotated[str | None, typer.Option(help="Pictures made in one call, such as 1,4.")] = None,
    guidance: GuidanceOption = None,
    tokens: TokensOption = None,
    output_format: FormatOption = "table",
    plot: PlotOption = None,
) -> None:
    """Count models at every combination of size, batch and steps: one row each, without their weights.

    What one case has counted is not counted again for the next, so more steps cost next to nothing to ask for.
    """
    check_output(output_format, plot)
    heights, widths = numbers(height, "--height"), numbers(width, "--width")
    step_counts, batches = numbers(steps, "--steps"), numbers(batch, "--batch")
    from diffmeter.reports.comparison import sweep

    with progress() as show:
        found = sweep(
            models,
            heights=heights,
            widths=widths,
            steps=step_counts,
            batches=batches,
            guidance_scale=guidance,
            token_count=tokens,
            progress=show,
        )
    show_comparison(found, output_format, plot, by_size=True)


def numbers(text: str | None, option: str) -> list[int] | None:
    """The whole numbers of a list such as ``512,768,1024``, each once, in the order given.

    Raises:
        InputError: something in it is no whole number of at least 1.
    """
    if text is None:
        return None
    found: dict[int, None] = {}
    for part in text.split(","):
        stripped = part.strip()
        if not (stripped.isascii() and stripped.isdigit()) or int(stripped) < 1:
            raise InputError(f"{option} {text!r} is not usable: give whole numbers of at least 1, such as 512,768.")
        found[int(stripped)] = None
    return list(found)
