"""``diffmeter trace``: the timeline of a generation, for trace viewers."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

EXAMPLES = [
    "diffmeter trace image.png",
    "diffmeter trace cost.json --output timeline.json",
]


def run(
    source: Annotated[Path, typer.Argument(help="A profile: a .json file, an image that holds one, or a folder.")],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="The file to write; SOURCE.trace.json if left out.")
    ] = None,
) -> None:
    """Write the timeline of a generation as a file that Perfetto (ui.perfetto.dev) and chrome://tracing open."""
    from diffmeter.profile import ComputeProfile
    from diffmeter.reports.trace import save_trace

    target = output or source.with_name(f"{source.stem}.trace.json")
    typer.echo(str(save_trace(ComputeProfile.load(source), target)))
