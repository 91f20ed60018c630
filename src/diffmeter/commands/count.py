"""``diffmeter count``: what one component costs, from its own configuration."""

from __future__ import annotations

import json
import sys
from typing import Annotated

import typer


def run(
    component: Annotated[
        str, typer.Argument(help="Folder with one config.json (unet/, transformer/, vae/), or owner/name/folder.")
    ],
    family: Annotated[
        str | None, typer.Option("--in", help="Model whose pipeline calls it; by default one that takes the like.")
    ] = None,
    height: Annotated[int | None, typer.Option(help="Height in pixels.")] = None,
    width: Annotated[int | None, typer.Option(help="Width in pixels.")] = None,
    steps: Annotated[int | None, typer.Option(help="Number of inference steps.")] = None,
    guidance: Annotated[float | None, typer.Option("--guidance", "--guidance-scale", help="Guidance scale.")] = None,
    batch: Annotated[int | None, typer.Option(help="Images or videos made by one call.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print only the component as a JSON object.")] = False,
) -> None:
    """Show what one component costs in a generation: a pruned UNet, another autoencoder, a new transformer."""
    from diffmeter.metering.recording.dry_run import profile_component

    call = {"height": height, "width": width, "steps": steps, "guidance_scale": guidance, "batch": batch}
    name, profile = profile_component(component, family, **call)
    found = profile.components[name]
    conditions = profile.conditions
    if as_json:
        data = profile.to_dict()
        json.dump(
            {"component": name, **data["components"][name], "conditions": data["conditions"]}, sys.stdout, indent=2
        )
        print()
        return
    from diffmeter.units import format_count, format_params

    origin = conditions.origin or {}
    typer.echo(f"{found.class_name} as the {name} of {origin.get('family')}")
    typer.echo(f"  Parameters:           {format_params(found.params)}")
    for each in found.calls:
        macs, products = format_count(each.total_macs, "MACs"), format_count(each.matmul_macs, "MACs")
        typer.echo(f"  One {each.method} of batch {each.batch}: {macs}, {products} of products, {each.count} times")
    typer.echo(f"  In one generation:    {format_count(found.total_macs, 'MACs')}")
    typer.echo(f"  Size, steps:          {conditions.width} x {conditions.height}, {conditions.num_inference_steps}")
    missing = [str(e.get("reason") or e.get("op")) for e in profile.uncounted if e.get("component") == name]
    typer.echo(f"  Complete:             {'no: ' + '; '.join(missing) if missing else 'yes'}")
