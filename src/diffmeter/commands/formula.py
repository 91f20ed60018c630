"""``diffmeter formula``: a model's exact cost as a function of size, steps, guidance, batch and so on."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from diffmeter.errors import DiffmeterError, InputError

from . import _options

if TYPE_CHECKING:
    from diffmeter.formulas.evaluate import Formula

EXAMPLES = [
    "diffmeter formula sd15",
    "diffmeter formula sdxl --component unet --format latex",
]
FORMATS = ("text", "latex", "json", "javascript", "python")
QUANTITIES = ("matmul_macs", "matmul_macs_without_attention", "total_macs")


def run(
    model: Annotated[
        str,
        typer.Argument(
            help="Id or alias of the catalog, id on the hub, local folder, or a formula's .json file.",
            autocompletion=_options.complete_model,
        ),
    ],
    output_format: Annotated[str, typer.Option("--format", "-f", help=f"{', '.join(FORMATS)}.")] = "text",
    as_json: _options.AsJson = False,
    component: Annotated[
        str | None, typer.Option("--component", help="Only this component, in text and LaTeX.")
    ] = None,
    quantity: Annotated[str, typer.Option("--quantity", help=f"{', '.join(QUANTITIES)}; for LaTeX.")] = "matmul_macs",
    guidance: _options.Guidance = None,
    scheduler: _options.Scheduler = None,
    save: Annotated[Path | None, typer.Option("--save", help="Also write the formula to this .json file.")] = None,
    derive: Annotated[bool, typer.Option("--derive", help="Derive it anew from dry runs; takes minutes.")] = False,
    verify: Annotated[
        int, typer.Option("--verify", help="Compare it with so many dry runs at random settings.", min=0)
    ] = 0,
) -> None:
    """Show what a generation costs as a polynomial, where it holds, and what follows from it."""
    output_format = "json" if as_json else output_format
    if output_format not in FORMATS:
        raise InputError(f"--format {output_format!r} is not known: use {', '.join(FORMATS)}.")
    if quantity not in QUANTITIES:
        raise InputError(f"--quantity {quantity!r} is not known: use {', '.join(QUANTITIES)}.")
    found = _formula(model, derive)
    if component is not None and component not in found.components:
        raise InputError(f"{found.name} has no component {component!r}; it has {', '.join(found.components)}.")
    if save is not None:
        found.save(save)
    sys.stdout.write(_shown(found, output_format, component, quantity, guidance, scheduler).rstrip("\n") + "\n")
    _warn_of_versions(found, model)
    if verify:
        _verify(found, model, verify)


def _formula(model: str, derive: bool) -> Formula:
    from diffmeter.formulas.library import formula

    if not derive:
        return formula(model)
    from diffmeter.formulas.derive import derive as derived

    return derived(model)


def _shown(
    found: Formula,
    output_format: str,
    component: str | None,
    quantity: str,
    guidance: float | None,
    scheduler: str | None,
) -> str:
    settings = {
        name: value for name, value in (("guidance_scale", guidance), ("scheduler", scheduler)) if value is not None
    }
    if output_format == "json":
        return json.dumps(found.to_dict(), indent=1, ensure_ascii=False)
    if output_format == "javascript":
        return found.to_javascript()
    if output_format == "python":
        return found.to_python()
    if output_format == "latex":
        cost = getattr(found if component is None else found.components[component], quantity)
        return str(cost.latex(**settings))
    from diffmeter.formulas.describe import described

    if component is None:
        return described(found, **settings)
    return str(getattr(found.components[component], quantity).text(**settings))


def _warn_of_versions(found: Formula, model: str) -> None:
    from diffmeter.formulas.library import other_versions

    for difference in other_versions(found):
        command = f"diffmeter formula {model} --verify 3"
        print(f"diffmeter: {difference}; `{command}` compares it with dry runs.", file=sys.stderr)


def _verify(found: Formula, model: str, count: int) -> None:
    from diffmeter.formulas.verify import verify

    wrong = verify(found, model, count)
    if wrong:
        raise DiffmeterError(f"The formula of {found.name} does not hold here: {wrong[0]}.")
    print(f"Equal to the last integer at {count} random settings.", file=sys.stderr)
