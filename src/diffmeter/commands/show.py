"""``diffmeter show``: what an image, or a folder of results, says about itself."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from diffmeter.errors import DiffmeterError, InputError, StorageError

if TYPE_CHECKING:
    from diffmeter.storage.run_folder import RunFolder


def run(
    path: Annotated[Path, typer.Argument(help="A PNG file, or a folder that diffmeter wrote.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print only a JSON object.")] = False,
) -> None:
    """Show the parameters and the compute profile that are stored in an image or a folder."""
    if path.is_dir():
        _show_folder(path, as_json)
    else:
        _show_image(path, as_json)


def _show_image(path: Path, as_json: bool) -> None:
    from diffmeter.generation.batch.display import printable
    from diffmeter.storage import png as images

    texts = images.read_texts(path)
    record = images.read_record(path)
    if as_json:
        others = {key: value for key, value in texts.items() if key != images.RECORD_KEY}
        print(json.dumps({"path": str(path), "texts": others, "record": record}, indent=2))
        return
    if record is None and images.PARAMETERS_KEY not in texts:
        raise InputError(f"{str(path)!r} holds no generation parameters.")
    print(printable(texts.get(images.PARAMETERS_KEY, "")))
    if record is not None:
        _print_record(record)


def _print_record(record: dict[str, Any]) -> None:
    from diffmeter.generation.batch.display import printable

    from .generate import print_profile

    profile = record.get("compute_profile")
    if not isinstance(profile, dict):
        print("No compute profile: the image was made without profiling.")
    elif not profile.get("enabled"):
        print(f"No compute profile: {printable(str(profile.get('reason')), 500)}")
    else:
        try:
            print_profile(str(record.get("model_name") or record.get("model_id")), profile)
        except (DiffmeterError, ValueError, TypeError, KeyError, AttributeError) as error:
            print(f"The compute profile cannot be read: {printable(str(error), 200)}")


def _show_folder(path: Path, as_json: bool) -> None:
    from diffmeter.storage.run_folder import RunFolder

    folder = RunFolder(path)
    if not folder.has_records():
        raise InputError(f"{str(path)!r} holds no records of diffmeter.")
    if as_json:
        print(json.dumps({"path": str(path), "planned": _planned(path), "runs": list(folder.records())}, indent=2))
        return
    _print_folder(folder)


def _planned(path: Path) -> int | None:
    """The number of generations that a batch in this folder was to make, if it says so."""
    from diffmeter.storage.files import read_json
    from diffmeter.storage.run_folder import MANIFEST

    try:
        manifest = read_json(path / MANIFEST)
    except StorageError:
        return None
    planned = manifest.get("planned") if isinstance(manifest, dict) else None
    return planned if isinstance(planned, int) else None


def _print_folder(folder: RunFolder) -> None:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    from diffmeter.generation.batch.display import printable
    from diffmeter.units import format_count, format_seconds

    from ._console import output_console

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in ("Image", "Model", "Prompt", "Seed", "Size", "Steps", "MACs", "Time"):
        table.add_column(name, justify="right" if name in ("Seed", "Steps", "MACs", "Time") else "left")
    done, failed, total, seconds = 0, 0, 0, 0.0
    for record in folder.records():
        profile = record.get("compute_profile") or {}
        finished = record["status"] == "done"
        macs, time = _number(profile.get("total_macs")), _number(record.get("inference_time_seconds"))
        done, failed = done + finished, failed + (not finished)
        total, seconds = total + int(macs or 0), seconds + (time or 0.0)
        result = str(record.get("image")) if finished else f"failed: {record.get('error')}"
        cells = (
            printable(result, 70),
            printable(str(record.get("model_name") or record["model_id"]), 30),
            printable(record["prompt"], 40),
            printable(str(record.get("seed")), 20),
            printable(f"{record.get('width')} x {record.get('height')}", 20),
            printable(str(record.get("num_inference_steps")), 10),
            format_count(macs, "MACs"),
            format_seconds(time),
        )
        table.add_row(*(Text(cell) for cell in cells))
    output_console().print(table)
    planned = _planned(folder.path)
    of = f" of {planned} planned" if planned is not None else ""
    print(f"{done} images{of}, {failed} failed; {format_count(total, 'MACs')} in {format_seconds(seconds)}")


def _number(value: Any) -> float | int | None:
    """A number of 0 or more as it stands in a record, else ``None``: a record may hold anything."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < 1e30:
        return None
    return value
