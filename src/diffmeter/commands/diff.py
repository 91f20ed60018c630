"""``diffmeter diff``: two profiles, and where they differ."""

from __future__ import annotations

from typing import Annotated

import typer

from . import _options
from ._console import Form, progress

EXAMPLES = [
    "diffmeter diff before.json after.json",
    "diffmeter diff sd15 mine.png --convention products",
]

_WHAT = "A saved profile (.json, .png, folder) or a model"


def run(
    first: Annotated[str, typer.Argument(help=f"{_WHAT}.", autocompletion=_options.complete_model)],
    second: Annotated[str, typer.Argument(help=f"{_WHAT}.", autocompletion=_options.complete_model)],
    convention: _options.Convention = None,
    per: _options.Per = None,
    columns: _options.Columns = None,
    sort: _options.Sort = None,
    output_format: _options.Format = "table",
    as_json: _options.AsJson = False,
) -> None:
    """Show by component how the cost of SECOND differs from that of FIRST, and which conditions differ."""
    form = Form.of(output_format, as_json, convention=convention, per=per, columns=columns, sort=sort)
    with progress(f"Reading {first} and {second}"):
        from diffmeter.reports.difference import ProfileDifference, read_or_count

        difference = ProfileDifference(read_or_count(first), read_or_count(second), (first, second))
    form.write(difference)
