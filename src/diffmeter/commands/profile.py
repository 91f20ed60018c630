"""``diffmeter profile``: what a generation would cost, from the model's configuration alone."""

from __future__ import annotations

import json
import sys
from typing import Annotated, Any

import typer


def run(
    model: Annotated[str, typer.Argument(help="Catalogue id or alias, hub id, or local folder; no weights are read.")],
    height: Annotated[int | None, typer.Option(help="Height in pixels.")] = None,
    width: Annotated[int | None, typer.Option(help="Width in pixels.")] = None,
    steps: Annotated[int | None, typer.Option(help="Number of inference steps.")] = None,
    guidance: Annotated[float | None, typer.Option(help="Guidance scale.")] = None,
    batch: Annotated[int, typer.Option(help="Pictures made in one call.")] = 1,
    prompt: Annotated[str | None, typer.Option(help="The text, where its length matters.")] = None,
    tokens: Annotated[int | None, typer.Option(help="Number of tokens that the prompt is taken to have.")] = None,
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit of a hub model.")] = None,
    variant: Annotated[str | None, typer.Option(help="Variant of a hub model's files, such as fp16.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print only the compute_profile object.")] = False,
) -> None:
    """Show what a generation costs, by component and in total, without its weights."""
    from diffmeter.metering.recording.dry_run import profile_model

    profile = profile_model(
        model,
        height=height,
        width=width,
        steps=steps,
        guidance_scale=guidance,
        batch=batch,
        prompt=prompt,
        token_count=tokens,
        revision=revision,
        variant=variant,
    )
    if as_json:
        json.dump(profile.to_dict(), sys.stdout, indent=2)
        print()
        return
    _print(profile)


def _print(profile: Any) -> None:
    from rich.text import Text

    from diffmeter.reports.profile_tables import profile_facts, profile_table

    from ._console import output_console

    console = output_console()
    console.print(profile_table(profile))
    for name, value in profile_facts(profile):
        console.print(Text(f"  {name + ':':<28}{value}"), soft_wrap=True)
