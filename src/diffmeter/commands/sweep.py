"""``diffmeter sweep``: models over sizes, steps and batches."""

from __future__ import annotations

from typing import Annotated

import typer

from diffmeter.errors import InputError

from . import _options
from ._console import Form
from .compare import case_progress, check_plot, show_comparison

EXAMPLES = [
    "diffmeter sweep sd15 --height 512,768,1024",
    "diffmeter sweep sd15 sdxl --height 512,1024 --steps 4,28,50 --batch 1,4 --plot sizes.svg",
]


def run(
    models: _options.Models,
    height: Annotated[
        str | None, typer.Option("--height", help="Heights in pixels, such as 512,768; alone they make square images.")
    ] = None,
    width: Annotated[
        str | None, typer.Option("--width", help="Widths in pixels: one for each height, or one for all of them.")
    ] = None,
    steps: Annotated[
        str | None,
        typer.Option("--steps", "--num-inference-steps", help="Numbers of denoising steps, such as 4,28,50."),
    ] = None,
    batch: Annotated[
        str | None,
        typer.Option("--batch", "--num-images-per-prompt", help="Numbers of images made by one call, such as 1,4."),
    ] = None,
    guidance: _options.Guidance = None,
    frames: _options.Frames = None,
    tokens: _options.Tokens = None,
    dry_run: _options.DryRun = False,
    gpu: _options.Gpu = None,
    convention: _options.Convention = None,
    per: _options.Per = None,
    columns: _options.Columns = None,
    sort: _options.Sort = None,
    caption: _options.Caption = None,
    label: _options.Label = None,
    output_format: _options.Format = "table",
    as_json: _options.AsJson = False,
    plot: _options.Plot = None,
) -> None:
    """Count models at every combination of size, batch and steps: one row each, without their weights.

    What one case has counted is not counted again for the next, so more steps cost next to nothing to ask for.
    """
    form = Form.of(
        output_format,
        as_json,
        convention=convention,
        per=per,
        columns=columns,
        sort=sort,
        caption=caption,
        label=label,
    )
    check_plot(plot)
    heights, widths = numbers(height, "--height"), numbers(width, "--width")
    step_counts, batches = numbers(steps, "--steps"), numbers(batch, "--batch")
    with case_progress() as show:
        from diffmeter.reports.comparison import sweep

        found = sweep(
            models,
            heights=heights,
            widths=widths,
            steps=step_counts,
            batches=batches,
            guidance_scale=guidance,
            num_frames=frames,
            tokens=tokens,
            dry_run=dry_run,
            gpu=gpu,
            progress=show,
        )
    show_comparison(found, form, plot, by_size=True)


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
