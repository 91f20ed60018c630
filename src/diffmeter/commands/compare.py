"""``diffmeter compare``: the same generation with different models, side by side."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from diffmeter.errors import DiffmeterError

from . import _options
from ._console import Form, progress

if TYPE_CHECKING:
    from diffmeter.reports.comparison import Case, Comparison

EXAMPLES = [
    "diffmeter compare sd15 sdxl black-forest-labs/FLUX.1-dev --height 1024 --steps 28",
    "diffmeter compare sd15 mine.json --convention paper --per forward --format latex --label tab:cost",
    "diffmeter compare sd15 sdxl --columns model,params,macs,speedup --sort -macs",
]


def run(
    models: _options.Models,
    height: _options.Height = None,
    width: _options.Width = None,
    steps: _options.Steps = None,
    guidance: _options.Guidance = None,
    batch: _options.Batch = None,
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
    """Compare what models cost: one row a model, without their weights.

    An option that is not given is each model's default. A model that cannot do what is asked has a row that says why.
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
    with case_progress() as show:
        from diffmeter.reports.comparison import compare

        found = compare(
            models,
            height=height,
            width=width,
            steps=steps,
            guidance_scale=guidance,
            batch=batch,
            num_frames=frames,
            tokens=tokens,
            dry_run=dry_run,
            gpu=gpu,
            progress=show,
        )
    show_comparison(found, form, plot, by_size=False)


def check_plot(plot: Path | None) -> None:
    """Refuse a figure that cannot be drawn or written, before anything is counted.

    Raises:
        InputError: it cannot be drawn or written there.
    """
    if plot is not None:
        from diffmeter.reports.plots import check_plot_file

        check_plot_file(plot)


@contextlib.contextmanager
def case_progress() -> Iterator[Callable[[Case], None]]:
    """Say on a terminal's standard error which case is being counted; elsewhere nothing is said."""
    with progress("Counting") as say:

        def show(case: Case) -> None:
            size = f" {case.width} x {case.height}" if case.height else ""
            steps = f", {case.steps} steps" if case.steps else ""
            say(f"Counting {case.model}{size}{steps}, batch {case.batch or 1}")

        yield show


def show_comparison(found: Comparison, form: Form, plot: Path | None, *, by_size: bool) -> None:
    """Print the rows and draw the figure.

    Raises:
        DiffmeterError: no row has numbers.
    """
    form.write(found)
    if not found.counted:
        raise DiffmeterError("No case could be counted; its row says why.")
    if plot is not None:
        from diffmeter.reports.plots import plot_components, plot_sizes

        figure = plot_sizes(found) if by_size else plot_components(found)
        figure.save(plot)
        print(f"Drawn: {plot}", file=sys.stderr)
