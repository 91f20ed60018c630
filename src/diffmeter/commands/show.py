"""``diffmeter show``: what an image, a profile's file, or a folder of results says about itself."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from . import _options
from ._console import TABLE, Answer, Form, print_table, progress

if TYPE_CHECKING:
    from diffmeter.reports.tables import Table, Value
    from diffmeter.storage.run_folder import RunFolder

EXAMPLES = [
    "diffmeter show outputs/20250101_120000",
    "diffmeter show image.png",
    "diffmeter show profile.json --convention products --format latex",
]


def run(
    path: Annotated[Path, typer.Argument(help="A PNG file, a profile or records as JSON, or a folder of diffmeter.")],
    convention: _options.Convention = None,
    per: _options.Per = None,
    depth: _options.Depth = None,
    columns: _options.Columns = None,
    sort: _options.Sort = None,
    caption: _options.Caption = None,
    label: _options.Label = None,
    output_format: _options.Format = TABLE,
    as_json: _options.AsJson = False,
) -> None:
    """Show the parameters and the compute profile that are stored in an image, a JSON file or a folder."""
    chosen = {"columns": columns, "sort": sort}
    if path.is_dir():
        _show_folder(path, Form.of(output_format, as_json, **chosen))
        return
    given = {"convention": convention, "per": per, "depth": depth, "caption": caption, "label": label}
    form = Form.of(output_format, as_json, **given, **chosen)
    if path.suffix.lower() == ".json":
        _show_json(path, form)
    else:
        _show_image(path, form)


def _show_json(path: Path, form: Form) -> None:
    from diffmeter.errors import InputError
    from diffmeter.profile import ComputeProfile
    from diffmeter.storage.profiles import find_profiles

    found = find_profiles(path)
    if not found:
        raise InputError(f"{str(path)!r} holds no compute profile.")
    for profile in found.values():
        form.write(ComputeProfile.from_dict(profile))


def _show_image(path: Path, form: Form) -> None:
    from diffmeter.errors import InputError
    from diffmeter.profile import ComputeProfile
    from diffmeter.rendering import printable
    from diffmeter.storage import png

    texts = png.read_texts(path)
    record = png.read_record(path)
    others = {key: value for key, value in texts.items() if key != png.RECORD_KEY}
    if form.name == "json":
        form.write(Answer({"path": str(path), "texts": others, "record": record}, lambda: _nothing()))
    elif record is None and png.PARAMETERS_KEY not in texts:
        raise InputError(f"{str(path)!r} holds no generation parameters.")
    elif form.name == TABLE and not form.options:
        if png.PARAMETERS_KEY in texts:
            print(printable(texts[png.PARAMETERS_KEY]))
        if record is not None:
            _print_record(record)
    else:
        form.write(ComputeProfile.load(path))


def _nothing() -> Table:
    from diffmeter.reports.tables import Table

    return Table(columns=(), rows=())


def _print_record(record: dict[str, Any]) -> None:
    from diffmeter.errors import InputError
    from diffmeter.rendering import printable

    from .generate import print_profile

    profile = record.get("compute_profile")
    if not isinstance(profile, dict):
        print("No compute profile: the image was made without profiling.")
    elif profile.get("enabled") is False:
        print(f"No compute profile: {printable(str(profile.get('reason')), 500)}")
    else:
        try:
            print_profile(str(record.get("model_name") or record.get("model_id") or "the image"), profile)
        except InputError as error:
            print(f"The compute profile cannot be read: {printable(str(error), 200)}")


def _show_folder(path: Path, form: Form) -> None:
    from diffmeter.errors import InputError
    from diffmeter.storage.run_folder import RunFolder

    folder = RunFolder(path)
    with progress(f"Reading {path}"):
        if not folder.has_records():
            raise InputError(f"{str(path)!r} holds no records of diffmeter.")
        runs = list(folder.records())
    value = {"path": str(path), "planned": _planned(path), "runs": runs}
    table = _folder_table(folder, runs)
    if form.name == TABLE:
        print_table(table.choose(**form.options))
    else:
        form.write(Answer(value, lambda: table))


def _planned(path: Path) -> int | None:
    """The number of generations that a batch in this folder was to make, if it says so."""
    from diffmeter.errors import StorageError
    from diffmeter.storage.files import read_json
    from diffmeter.storage.run_folder import MANIFEST

    try:
        manifest = read_json(path / MANIFEST)
    except StorageError:
        return None
    planned = manifest.get("planned") if isinstance(manifest, dict) else None
    return planned if isinstance(planned, int) else None


def _folder_table(folder: RunFolder, runs: list[dict[str, Any]]) -> Table:
    from diffmeter.reports.tables import Column, Kind, Row, Table
    from diffmeter.units import format_count, format_seconds

    rows = [Row(_run_cells(record), _failure(record)) for record in runs]
    planned = _planned(folder.path)
    done = sum(record.get("status") == "done" for record in runs)
    macs = list(_numbers(runs, "compute_profile", "total_macs"))
    seconds = list(_numbers(runs, "inference_time_seconds"))
    of = f" of {planned} planned" if planned is not None else ""
    incomplete = sum((record.get("compute_profile") or {}).get("complete") is False for record in runs)
    bound = ">= " if incomplete else ""
    total = f"{bound}{format_count(int(sum(macs)), 'MACs')} in {format_seconds(sum(seconds))}"
    return Table(
        columns=[
            Column("image", "Image"),
            Column("model", "Model", Kind.TEXT, 3),
            Column("prompt", "Prompt", Kind.TEXT, 5),
            Column("seed", "Seed", Kind.TEXT, 4),
            Column("size", "Size", Kind.TEXT, 2),
            Column("steps", "Steps", Kind.INTEGER, 2),
            Column("guidance", "Guidance", Kind.NUMBER, 7),
            Column("scheduler", "Scheduler", Kind.TEXT, 9),
            Column("dtype", "Dtype", Kind.TEXT, 8),
            Column("macs", "MACs", Kind.MACS),
            Column("seconds", "Time", Kind.SECONDS, 1),
        ],
        rows=rows,
        warning=f"INCOMPLETE: {incomplete} of the images were not fully counted; their MACs are lower bounds."
        if incomplete
        else None,
        notes=[f"{done} image{'' if done == 1 else 's'}{of}, {len(runs) - done} failed; {total}"],
    )


def _run_cells(record: Mapping[str, Any]) -> dict[str, Value]:
    from diffmeter.rendering import printable
    from diffmeter.reports.tables import AtLeast

    profile = record.get("compute_profile") or {}
    macs = _number(profile.get("total_macs"))
    texts = {
        "image": str(record.get("image") or record.get("key") or "none"),
        "model": str(record.get("model_name") or record.get("model_id")),
        "prompt": str(record.get("prompt")),
        "seed": str(record.get("seed")),
        "size": f"{record.get('width')} x {record.get('height')}",
        "scheduler": str(record.get("scheduler") or ""),
        "dtype": str(record.get("dtype") or ""),
    }
    cells: dict[str, Value] = {key: printable(text, 70) for key, text in texts.items()}
    numbers = {
        "steps": _number(record.get("num_inference_steps")),
        "guidance": _number(record.get("guidance_scale")),
        "macs": AtLeast(macs) if macs is not None and profile.get("complete") is False else macs,
        "seconds": _number(record.get("inference_time_seconds")),
    }
    return cells | {key: value for key, value in numbers.items() if value is not None}


def _failure(record: Mapping[str, Any]) -> str | None:
    return None if record.get("status") == "done" else f"failed: {record.get('error')}"


def _numbers(runs: list[dict[str, Any]], *keys: str) -> Iterator[float | int]:
    """A number of each record, by the keys that lead to it, where there is one."""
    for record in runs:
        value: Any = record
        for key in keys:
            value = value.get(key) if isinstance(value, Mapping) else None
        number = _number(value)
        if number is not None:
            yield number


def _number(value: Any) -> float | int | None:
    """A number of 0 or more as it stands in a record, else ``None``: a record may hold anything."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < 1e30:
        return None
    return value
