"""``diffmeter models``: the models that diffmeter knows without asking the hub."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from diffmeter.models.catalog import CatalogEntry, Defaults


def run(
    text: Annotated[
        list[str] | None, typer.Argument(help="Show only models whose id, name, family or classes hold these words.")
    ] = None,
    family: Annotated[str | None, typer.Option(help="Show only this family, for example stable-diffusion-2.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print only a JSON list.")] = False,
) -> None:
    """List the known models: parameters by component, default size, steps and guidance, and source of the facts."""
    from diffmeter.models import catalog

    found = catalog.search(" ".join(text or []), family)
    if as_json:
        print(json.dumps([entry.to_dict() for entry in found], indent=2, ensure_ascii=False))
        return
    if not found:
        print(f"No model matches {' '.join(text or [])!r}; `diffmeter models` lists all.", file=sys.stderr)
        return
    _print_table(found)


def _print_table(found: tuple[CatalogEntry, ...]) -> None:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    from diffmeter.units import format_params

    from ._console import output_console

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in ("Model", "Family", "Parameters", "By component", "Default", "Facts"):
        table.add_column(column, justify="right" if column == "Parameters" else "left", overflow="fold")
    for entry in found:
        parts = [f"{name} {format_params(count)}" for name, count in entry.params_by_component.items()]
        table.add_row(
            Text(entry.model_id),
            Text(entry.family),
            format_params(entry.params),
            Text("\n".join(parts)),
            Text(_describe(entry.defaults)),
            "embedded" if entry.embedded else ("verified" if entry.verified else "partly verified"),
        )
    output_console().print(table)
    print(
        f"{len(found)} model{'s' if len(found) != 1 else ''}; --json shows the sources of the facts.", file=sys.stderr
    )


def _describe(defaults: Defaults) -> str:
    """Default size, steps and guidance, one a line."""
    lines = []
    if defaults.width is not None and defaults.height is not None:
        frames = f", {defaults.num_frames} frames" if defaults.num_frames else ""
        lines.append(f"{defaults.width} x {defaults.height}{frames}")
    if defaults.num_inference_steps is not None:
        lines.append(f"{defaults.num_inference_steps} step{'s' if defaults.num_inference_steps != 1 else ''}")
    if defaults.guidance_scale is not None:
        lines.append(f"guidance {defaults.guidance_scale:g}")
    return "\n".join(lines)
