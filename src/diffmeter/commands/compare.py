"""``diffmeter compare``: the same generation with different models, side by side."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from diffmeter.errors import DiffmeterError, InputError

if TYPE_CHECKING:
    from diffmeter.reports.comparison import Case, Comparison

FORMATS = ("table", "json", "csv", "markdown", "latex")

FormatOption = Annotated[str, typer.Option("--format", "-f", help=f"{', '.join(FORMATS[:-1])} or {FORMATS[-1]}.")]
PlotOption = Annotated[Path | None, typer.Option("--plot", help="Also draw a picture: FILE.png or FILE.svg.")]
TokensOption = Annotated[int | None, typer.Option(help="Number of tokens that a prompt is taken to have.")]
GuidanceOption = Annotated[float | None, typer.Option(help="Guidance scale, for models that take one.")]


def run(
    models: Annotated[list[str], typer.Argument(help="Catalogue ids or aliases, hub ids, or local folders.")],
    height: Annotated[int | None, typer.Option(help="Height in pixels; alone it makes square pictures.")] = None,
    width: Annotated[int | None, typer.Option(help="Width in pixels; alone it makes square pictures.")] = None,
    steps: Annotated[int | None, typer.Option(help="Number of inference steps.")] = None,
    guidance: GuidanceOption = None,
    batch: Annotated[int, typer.Option(help="Pictures made in one call.")] = 1,
    tokens: TokensOption = None,
    output_format: FormatOption = "table",
    plot: PlotOption = None,
) -> None:
    """Compare what models cost: one row a model, without their weights.

    An option that is not given is each model's default. A model that cannot do what is asked has a row that says why.
    """
    check_output(output_format, plot)
    from diffmeter.reports.comparison import compare

    with progress() as show:
        found = compare(
            models,
            height=height,
            width=width,
            steps=steps,
            guidance_scale=guidance,
            batch=batch,
            token_count=tokens,
            progress=show,
        )
    show_comparison(found, output_format, plot, by_size=False)


def check_output(output_format: str, plot: Path | None) -> None:
    """Refuse what cannot be written, before anything is counted.

    Raises:
        InputError: an unknown format, or a picture that cannot be drawn or written there.
    """
    if output_format not in FORMATS:
        raise InputError(f"--format {output_format!r} is not known: use {', '.join(FORMATS)}.")
    if plot is not None:
        from diffmeter.reports.plots import check_plot_file

        check_plot_file(plot)


@contextlib.contextmanager
def progress() -> Iterator[Callable[[Case], None] | None]:
    """Say on a terminal's standard error which case is being counted; elsewhere nothing is said."""
    from ._console import error_console

    console = error_console()
    if not console.is_terminal:
        yield None
        return
    from rich.text import Text

    with console.status(Text("Counting")) as status:

        def show(case: Case) -> None:
            size = f" {case.width} x {case.height}" if case.height else ""
            steps = f", {case.steps} steps" if case.steps else ""
            status.update(Text(f"Counting {case.model}{size}{steps}, batch {case.batch}"))

        yield show


def show_comparison(found: Comparison, output_format: str, plot: Path | None, *, by_size: bool) -> None:
    """Print the rows and draw the picture. Exit code 2 if no row has numbers."""
    if output_format == "table":
        from rich.text import Text

        from diffmeter.reports.comparison.render import to_table
        from diffmeter.reports.comparison.rows import CONVENTION

        from ._console import output_console

        console = output_console()
        console.print(to_table(found))
        console.print(Text(CONVENTION, style="dim"))
    else:
        from diffmeter.reports.comparison.render import FORMATS as RENDERERS

        sys.stdout.write(RENDERERS[output_format](found).rstrip("\n") + "\n")
    if not found.counted:
        raise DiffmeterError("No case could be counted; its row says why.")
    if plot is not None:
        from diffmeter.reports.plots import plot_components, plot_sizes

        figure = plot_sizes(found) if by_size else plot_components(found)
        figure.save(plot)
        print(f"Drawn: {plot}", file=sys.stderr)
