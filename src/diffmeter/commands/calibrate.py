"""``diffmeter calibrate``: measure the device here, as a file that ``predict --gpu`` takes."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from ._console import progress

EXAMPLES = [
    "diffmeter calibrate --output here.json",
]


def run(
    device: Annotated[str, typer.Option("--device", help="auto, cpu, cuda, cuda:1, mps, ...")] = "auto",
    output: Annotated[Path | None, typer.Option("--output", "-o", help="File; standard output if left out.")] = None,
) -> None:
    """Measure matrix products, attention, bandwidth and launches of a device, in about half a minute."""
    with progress(f"Measuring {device}"):
        from diffmeter.prediction.calibrate import calibrate

        text = json.dumps(calibrate(device), indent=2) + "\n"
    if output is None:
        sys.stdout.write(text)
        return
    from diffmeter.storage.files import write_text

    write_text(output, text)
