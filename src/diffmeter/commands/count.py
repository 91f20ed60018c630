"""``diffmeter count``: what one component costs, from its own configuration."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from . import _options
from ._console import TABLE, Answer, Form, progress

if TYPE_CHECKING:
    from diffmeter.profile import ComputeProfile
    from diffmeter.reports.tables import Table

EXAMPLES = [
    "diffmeter count ./my-pruned-unet --in sd15",
    "diffmeter count someone/their-vae --height 1024 --json",
]


def run(
    component: Annotated[
        str, typer.Argument(help="Folder with one config.json (unet/, transformer/, vae/), or owner/name/folder.")
    ],
    family: Annotated[
        str | None, typer.Option("--in", help="Model whose pipeline calls it; by default one that takes the like.")
    ] = None,
    height: _options.Height = None,
    width: _options.Width = None,
    steps: _options.Steps = None,
    guidance: _options.Guidance = None,
    batch: _options.Batch = None,
    columns: _options.Columns = None,
    sort: _options.Sort = None,
    output_format: _options.Format = TABLE,
    as_json: _options.AsJson = False,
) -> None:
    """Show what one component costs in a generation: a pruned UNet, another autoencoder, a new transformer."""
    form = Form.of(output_format, as_json, columns=columns, sort=sort)
    call = {"height": height, "width": width, "steps": steps, "guidance_scale": guidance, "batch": batch}
    with progress(f"Counting {component} without its weights"):
        from diffmeter.metering.recording.dry_run import profile_component

        name, profile = profile_component(component, family, **call)
    data = profile.to_dict()
    value = {"component": name, **data["components"][name], "conditions": data["conditions"]}
    form.write(Answer(value, lambda: _table(name, profile)))


def _table(name: str, profile: ComputeProfile) -> Table:
    """One row a kind of call, and their sum."""
    from diffmeter.reports.conditions import conditions_of, sentence
    from diffmeter.reports.profile_tables import bound, gaps
    from diffmeter.reports.tables import Column, Kind, Row, Table
    from diffmeter.units import format_params

    part, counted = profile.components[name], profile.is_counted(name)
    origin = profile.conditions.origin or {}
    missing = [gap for gap in gaps(profile) if gap.startswith((f"{name}:", f"{name}."))]
    return Table(
        columns=[
            Column("method", "Call"),
            Column("batch", "Batch", Kind.INTEGER, 3),
            Column("calls", "Calls", Kind.INTEGER, 1),
            Column("macs", "MACs of one", Kind.MACS),
            Column("products", "Products of one", Kind.MACS, 2),
            Column("total", "Total", Kind.MACS, 1),
        ],
        rows=[
            Row(
                {
                    "method": call.method,
                    "batch": call.batch,
                    "calls": call.count,
                    "macs": bound(call.total_macs, counted),
                    "products": bound(call.matmul_macs, counted),
                    "total": bound(call.times("total_macs"), counted),
                }
            )
            for call in part.calls
        ],
        total=Row({"method": "total", "calls": part.call_count, "total": bound(part.total_macs, counted)}),
        title=f"{part.class_name} as the {name} of {origin.get('family') or profile.conditions.pipeline}: "
        f"{sentence(conditions_of(profile))}",
        warning=None if counted else "INCOMPLETE: not everything was counted, so every total is a lower bound.",
        facts=[("Parameters", format_params(part.params)), *(("Not counted", gap) for gap in missing)],
    )
