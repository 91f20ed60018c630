"""``diffmeter report``: a page for the browser from saved profiles, or from models without their weights."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ._console import progress

if TYPE_CHECKING:
    from diffmeter.profile import ComputeProfile

EXAMPLES = [
    "diffmeter report cost.json --output report.html",
    "diffmeter report outputs/20250101_120000 sd15",
]


def run(
    sources: Annotated[
        list[str],
        typer.Argument(help="Profiles (.json, .png, a folder of results) or models; several are put side by side."),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="The file to write.")] = Path("report.html"),
) -> None:
    """Write a page that shows where the compute goes: one file, which opens from disk and asks for nothing."""
    from diffmeter.reports.page import save_report

    profiles: dict[str, ComputeProfile] = {}
    with progress("Reading the sources"):
        for source in sources:
            for name, profile in _profiles_of(source).items():
                number, chosen = 1, name
                while chosen in profiles:
                    number += 1
                    chosen = f"{name} ({number})"
                profiles[chosen] = profile
    typer.echo(str(save_report(profiles, output)))


def _profiles_of(source: str) -> dict[str, ComputeProfile]:
    """The profiles that a file or folder holds, or the one of a model."""
    from diffmeter.errors import InputError
    from diffmeter.profile import ComputeProfile
    from diffmeter.storage.profiles import find_profiles

    path = Path(source).expanduser()
    is_results = path.is_dir() and not (path / "model_index.json").is_file()
    if path.suffix.lower() in (".json", ".png") or is_results:
        found = find_profiles(path)
        if not found:
            raise InputError(f"{source!r} holds no compute profile.")
        return {name: ComputeProfile.from_dict(data) for name, data in found.items()}
    from diffmeter.metering.recording.dry_run import dry_run

    return {source: dry_run(source)}
