"""``diffmeter models``: the models that diffmeter knows without asking the hub."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from . import _options
from ._console import Answer, Form

if TYPE_CHECKING:
    from diffmeter.models.catalog import CatalogEntry
    from diffmeter.reports.tables import Table, Value

EXAMPLES = [
    "diffmeter models",
    "diffmeter models sdxl --columns model,aliases,params",
    "diffmeter models --family flux --format markdown",
]


def run(
    text: Annotated[
        list[str] | None, typer.Argument(help="Show only models whose id, name, family or classes hold these words.")
    ] = None,
    family: Annotated[
        str | None, typer.Option("--family", help="Show only this family, for example stable-diffusion-2.")
    ] = None,
    columns: _options.Columns = None,
    sort: _options.Sort = None,
    output_format: _options.Format = "table",
    as_json: _options.AsJson = False,
) -> None:
    """List the known models: parameters by component, default size, steps and guidance, and source of the facts."""
    from diffmeter.models import catalog

    form = Form.of(output_format, as_json, columns=columns, sort=sort)
    found = catalog.search(" ".join(text or []), family)
    if not found and form.name != "json":
        print(f"No model matches {' '.join(text or [])!r}; `diffmeter models` lists all.", file=sys.stderr)
        return
    form.write(Answer([entry.to_dict() for entry in found], lambda: _table(found)))


def _table(found: tuple[CatalogEntry, ...]) -> Table:
    from diffmeter.reports.tables import Column, Kind, Row, Table

    count = f"{len(found)} model{'s' if len(found) != 1 else ''}"
    return Table(
        columns=[
            Column("model", "Model"),
            Column("family", "Family", Kind.TEXT, 6),
            Column("params", "Params", Kind.PARAMS),
            Column("components", "By component", Kind.TEXT, 5),
            Column("size", "Size", Kind.TEXT, 2),
            Column("frames", "Frames", Kind.INTEGER, 4),
            Column("steps", "Steps", Kind.INTEGER, 1),
            Column("guidance", "Guidance", Kind.NUMBER, 3),
            Column("facts", "Facts", Kind.TEXT, 7),
        ],
        rows=[Row(_cells(entry)) for entry in found],
        notes=[f"{count}; size, steps and guidance are the defaults. --json shows the sources of the facts."],
        more=[Column("name", "Name"), Column("aliases", "Aliases"), Column("pipeline", "Pipeline")],
    )


def _cells(entry: CatalogEntry) -> dict[str, Value]:
    from diffmeter.units import format_params

    defaults = entry.defaults
    cells: dict[str, Value] = {
        "model": entry.model_id,
        "name": entry.name,
        "aliases": ", ".join(entry.aliases),
        "family": entry.family,
        "pipeline": entry.pipeline_class,
        "params": entry.params,
        "components": "\n".join(f"{n} {format_params(count)}" for n, count in entry.params_by_component.items()),
        "facts": "embedded" if entry.embedded else ("verified" if entry.verified else "partly verified"),
    }
    known = {
        "size": f"{defaults.width} x {defaults.height}" if defaults.width and defaults.height else None,
        "frames": defaults.num_frames,
        "steps": defaults.num_inference_steps,
        "guidance": defaults.guidance_scale,
    }
    return cells | {key: value for key, value in known.items() if value is not None}
