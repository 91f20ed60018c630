"""The output folder of a run: its images, their records, and the summaries made from the records.

``runs.jsonl`` is the record: one line per generation, appended when its image takes its name. Everything else
(``generation_config.json``, ``summary.csv``) is made from it and can be made again. With several processes each writes
``runs.rank-00003.jsonl`` of its own, which the main process merges into ``runs.jsonl``.
"""

from __future__ import annotations

import csv
import io
import json
import logging
import os
import textwrap
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diffmeter.errors import FolderInUseError, StorageError

from . import files as store
from . import png as images

if TYPE_CHECKING:
    from PIL.Image import Image

logger = logging.getLogger(__name__)

RECORDS = "runs.jsonl"
CONFIG = "generation_config.json"
SUMMARY = "summary.csv"
MANIFEST = "batch.json"
LOCK = ".diffmeter.lock"
SUMMARY_LOCK = ".diffmeter-summary.lock"
CONFIG_SCHEMA_VERSION = 1

_PART_PATTERN = "runs.rank-*.jsonl"
# Rewriting the summaries during a run may take this share of its time, and never happens more often than this.
_SUMMARY_SHARE = 0.02
_SUMMARY_SECONDS = 10.0

SUMMARY_COLUMNS = (
    "key",
    "status",
    "model_id",
    "model_name",
    "prompt",
    "negative_prompt",
    "seed",
    "width",
    "height",
    "num_inference_steps",
    "guidance_scale",
    "scheduler",
    "image",
    "timestamp",
    "inference_time_seconds",
    "total_params",
    "macs_per_step",
    "total_macs",
    "total_flops",
    "complete",
    "error",
)
_FROM_PROFILE = ("total_params", "macs_per_step", "total_macs", "total_flops", "complete")
# What only runs.jsonl keeps: it concerns the run, not the image.
_NOT_IN_CONFIG = ("schema_version", "status", "memory", "process_index")
_DESIGN_KEYS = ("model_id", "model_name", "image_path", "compute_profile")


def part_name(rank: int) -> str:
    """The record file of one process among several."""
    return f"runs.rank-{rank:05d}.jsonl"


def encode(image: Image, record: Mapping[str, Any]) -> bytes:
    """The image as a PNG file with the ``parameters`` line of its record."""
    return images.encode_png(image, {images.PARAMETERS_KEY: images.parameters_text(record)})


@dataclass(frozen=True)
class _Line:
    """Where a record is in the file, and what of it is needed to decide about it."""

    offset: int
    done: bool
    image: str | None


class RunFolder:
    """An existing folder that generations are written to. ``records`` is the file that this process appends to."""

    def __init__(self, path: str | Path, records: str = RECORDS) -> None:
        self.path = Path(path)
        self.records_path = self.path / records
        self._lines: dict[str, _Line] = {}
        self._read_up_to = 0
        self._timestamp: str | None = None
        self._summaries_written = time.monotonic()
        self._summaries_took = 0.0

    # Writing -----------------------------------------------------------------------------------------------------

    def save_image(self, image: Image, record: Mapping[str, Any]) -> Path:
        """Save one image under a name of its own, before its record is complete. Raises ``StorageError``."""
        stem = f"{store.name_slug(record['model_name'])}_seed{record['seed']}"
        return store.write_new(self.path, stem, ".png", encode(image, record))

    def record_saved_image(self, path: Path, record: dict[str, Any]) -> None:
        """Complete what ``save_image`` began: the record goes into the image file and into ``runs.jsonl``."""
        self._refresh()
        number, key = 1, record["key"]
        while record["key"] in self._lines:  # the same generation again is a second image with its own record
            number += 1
            record["key"] = f"{key}-{number}"
        record["image"] = path.name
        png = images.add_texts(path.read_bytes(), {images.RECORD_KEY: json.dumps(record, allow_nan=False)})
        store.write_with_record(path, png, self.records_path, record)

    def provisional_path(self, key: str) -> Path:
        """Where an image waits while its generation is being counted."""
        return self.path / f"{store.TEMPORARY_PREFIX}{store.safe_name(key)}{store.TEMPORARY_SUFFIX}"

    def save_provisional(self, image: Image, record: Mapping[str, Any]) -> bytes:
        """Put the image on the disk, so that nothing that follows can lose it; returns its PNG bytes."""
        png = encode(image, record)
        path = self.provisional_path(record["key"])
        try:
            path.write_bytes(png)
        except OSError as error:
            with suppress(OSError):
                path.unlink()
            raise StorageError(f"cannot write in {str(self.path)!r}: {store.explain_os_error(error)}.") from error
        return png

    def commit(self, png: bytes, record: dict[str, Any]) -> Path:
        """Give an image its name and append its record, together; the record goes into the image file as well."""
        name = f"{store.name_slug(record['model_name'])}_seed{record['seed']}_{record['key']}.png"
        record["image"] = name
        png = images.add_texts(png, {images.RECORD_KEY: json.dumps(record, allow_nan=False)})
        store.write_with_record(self.path / name, png, self.records_path, record)
        return self.path / name

    def add_failure(self, record: dict[str, Any]) -> None:
        """Append the record of a generation that failed. Raises ``StorageError``."""
        store.append_jsonl(self.records_path, record)

    def discard_provisional(self, key: str) -> None:
        """Delete the image of ``save_provisional``, after ``commit`` or after a failure."""
        with suppress(OSError):
            self.provisional_path(key).unlink()

    # Reading -----------------------------------------------------------------------------------------------------

    def _refresh(self) -> None:
        """Read the lines that were appended since the last look. A finished record is not undone by a later one."""
        main = self.path / RECORDS
        try:
            with open(main, "rb") as file:
                file.seek(0, os.SEEK_END)
                if file.tell() < self._read_up_to:  # someone replaced the file: begin again
                    self._lines, self._read_up_to, self._timestamp = {}, 0, None
                file.seek(self._read_up_to)
                for line in file:
                    if not line.endswith(b"\n"):
                        break
                    self._note_line(self._read_up_to, line)
                    self._read_up_to += len(line)
        except FileNotFoundError:
            self._lines, self._read_up_to = {}, 0
        except OSError as error:
            raise StorageError(f"cannot read {str(main)!r}: {store.explain_os_error(error)}.") from error

    def _note_line(self, offset: int, line: bytes) -> None:
        record = parse_record(line)
        if record is None:
            if line.strip():
                logger.warning("left out a line of %s that is no record (at byte %d)", RECORDS, offset)
            return
        if self._timestamp is None:
            self._timestamp = record.get("timestamp")
        known = self._lines.get(record["key"])
        if known is None or record["status"] == "done" or not known.done:
            self._lines[record["key"]] = _Line(offset, record["status"] == "done", record.get("image"))

    def finished_keys(self) -> set[str]:
        """Keys of the generations that are recorded as done and whose image file is there and whole."""
        self._refresh()
        return {
            key
            for key, line in self._lines.items()
            if line.done and line.image is not None and images.is_whole_png(self.path / line.image)
        }

    def record(self, key: str) -> dict[str, Any] | None:
        """The last record of a generation, or ``None``."""
        self._refresh()
        return next(iter(self.records([key])), None)

    def records(self, order: Sequence[str] | None = None) -> Iterator[dict[str, Any]]:
        """The last record of each generation, one at a time: those of ``order`` first, then the others as written."""
        self._refresh()
        keys = list(self._lines) if order is None else [key for key in order if key in self._lines]
        if not keys:
            return
        with open(self.path / RECORDS, "rb") as file:
            for key in keys:
                file.seek(self._lines[key].offset)
                record = parse_record(file.readline())
                if record is not None and record["key"] == key:
                    yield record

    def has_records(self) -> bool:
        """Whether a run has written here before."""
        names = (RECORDS, CONFIG, MANIFEST)
        return any((self.path / name).exists() for name in names) or any(self.path.glob(_PART_PATTERN))

    # Resuming and merging ----------------------------------------------------------------------------------------

    def recover(self, order: Sequence[str] | None = None) -> None:
        """Bring the folder of a stopped run in order: merge the records of its processes, drop half-made files.

        An image that has its name but no record (a power cut can leave one) is recorded again from its own text.
        Call it while holding the folder's lock. Raises ``FolderInUseError`` if a process of the run still writes.
        """
        self.merge_parts(order)
        store.remove_stale_temporaries(self.path)
        self._refresh()
        for path in sorted(self.path.glob("*.png")):
            if any(line.image == path.name for line in self._lines.values()):
                continue
            with suppress(Exception):
                record = check_record(images.read_record(path))
                if record is not None and record["status"] == "done" and record.get("image") == path.name:
                    store.append_jsonl(self.path / RECORDS, record)
                    logger.info("recorded %s again from its own text", path.name)
        self._refresh()

    def merge_parts(self, order: Sequence[str] | None = None, *, skip_busy: bool = False) -> int:
        """Move the records of single processes into ``runs.jsonl``, each once, in ``order``; returns how many.

        A part whose process is still writing raises ``FolderInUseError``, or with ``skip_busy`` stays for later.
        """
        parts = sorted(self.path.glob(_PART_PATTERN))
        with ExitStack() as locks:
            free = []
            for path in parts:
                try:
                    locks.enter_context(store.FileLock(lock_path(path)))
                    free.append(path)
                except FolderInUseError:
                    if not skip_busy:
                        raise
                    logger.warning("%s is still being written; --resume will merge it", path.name)
            merged = self._merge(free, order or ())
            for path in free:
                path.unlink(missing_ok=True)
        return merged

    def _merge(self, parts: Sequence[Path], order: Sequence[str]) -> int:
        self._refresh()
        found: dict[str, tuple[Path, _Line]] = {}
        for path in parts:
            for key, line in _scan(path).items():
                known = found.get(key)
                if known is None or line.done or not known[1].done:
                    found[key] = (path, line)
        already = {key for key, line in self._lines.items() if line.done}
        place = {key: number for number, key in enumerate(order)}
        wanted = sorted((key for key in found if key not in already), key=lambda key: place.get(key, len(place)))
        # A few at a time: the records of a long batch do not fit in memory together.
        for start in range(0, len(wanted), 64):
            batch = [_record_at(*found[key]) for key in wanted[start : start + 64]]
            store.append_jsonl(self.path / RECORDS, *[record for record in batch if record is not None])
        return len(wanted)

    # Summaries ---------------------------------------------------------------------------------------------------

    def write_summaries_if_due(self, order: Sequence[str] | None = None) -> None:
        """``write_summaries``, but only as often as it costs next to nothing."""
        pause = max(_SUMMARY_SECONDS, self._summaries_took / _SUMMARY_SHARE)
        if time.monotonic() - self._summaries_written >= pause:
            self.write_summaries(order)

    def write_summaries(self, order: Sequence[str] | None = None) -> None:
        """Write ``generation_config.json`` and ``summary.csv`` from the records. Raises ``StorageError``.

        ``order`` lists keys in the order of the plan; records that it does not name follow.
        """
        started = time.monotonic()
        # Two programs that use one folder take turns, so that the later summary has the records of both.
        with store.FileLock(self.path / SUMMARY_LOCK, wait=True):
            self._refresh()
            keys = list(dict.fromkeys([*(order or ()), *self._lines]))
            store.write_parts(self.path / CONFIG, self._config_parts(keys))
            store.write_parts(self.path / SUMMARY, self._summary_parts(keys))
        self._summaries_written = time.monotonic()
        self._summaries_took = self._summaries_written - started

    def _config_parts(self, keys: Sequence[str]) -> Iterator[bytes]:
        from diffmeter._version import __version__

        prompts = set()
        for record in self.records(keys):
            prompts.add(record.get("prompt"))
            if len(prompts) > 1:
                break
        head = {
            "schema_version": CONFIG_SCHEMA_VERSION,
            "diffmeter_version": __version__,
            "timestamp": self._timestamp or datetime.now().isoformat(timespec="seconds"),
            # One prompt for all images, or null where they differ: each entry has its own as well.
            "prompt": prompts.pop() if len(prompts) == 1 else None,
        }
        yield json.dumps(head, indent=2).removesuffix("\n}").encode("ascii")
        for name, done in (("models", True), ("failures", False)):
            chosen = [key for key in keys if key in self._lines and self._lines[key].done == done]
            yield f',\n  "{name}": ['.encode("ascii")
            separator = b"\n"
            for record in self.records(chosen):
                entry = self._config_entry(record) if done else _failure_entry(record)
                yield separator + textwrap.indent(json.dumps(entry, indent=2), "    ").encode("ascii")
                separator = b",\n"
            yield b"]" if separator == b"\n" else b"\n  ]"
        yield b"\n}\n"

    def _config_entry(self, record: Mapping[str, Any]) -> dict[str, Any]:
        path = (self.path / record["image"]).as_posix() if record.get("image") else None
        first = {
            "model_id": record.get("model_id"),
            "model_name": record.get("model_name"),
            "image_path": path,
            "compute_profile": record.get("compute_profile"),
        }
        skipped = {*_NOT_IN_CONFIG, *_DESIGN_KEYS}
        return {**first, **{key: value for key, value in record.items() if key not in skipped}}

    def _summary_parts(self, keys: Sequence[str]) -> Iterator[bytes]:
        yield _csv_line(SUMMARY_COLUMNS)
        for record in self.records(keys):
            yield _csv_line(_summary_row(record))


def _scan(path: Path) -> dict[str, _Line]:
    """The last record of each generation in a record file, a finished one before a failed one."""
    found: dict[str, _Line] = {}
    offset = 0
    with open(path, "rb") as file:
        for text in file:
            record = parse_record(text) if text.endswith(b"\n") else None
            if record is not None:
                known = found.get(record["key"])
                if known is None or record["status"] == "done" or not known.done:
                    found[record["key"]] = _Line(offset, record["status"] == "done", record.get("image"))
            offset += len(text)
    return found


def _record_at(path: Path, line: _Line) -> dict[str, Any] | None:
    with open(path, "rb") as file:
        file.seek(line.offset)
        return parse_record(file.readline())


def lock_path(part: Path) -> Path:
    """The lock that a process holds while it writes its part of the records."""
    return part.with_name(f".{part.name}.lock")


def parse_record(line: bytes) -> dict[str, Any] | None:
    """The record in a line of ``runs.jsonl``, or ``None`` if it is none."""
    try:
        return check_record(json.loads(line))
    except (ValueError, RecursionError):
        return None


def check_record(value: object) -> dict[str, Any] | None:
    """``value`` if it has what every record has, with an image name that stays inside the folder; else ``None``."""
    if not isinstance(value, dict):
        return None
    texts = all(isinstance(value.get(name), str) for name in ("key", "model_id", "prompt"))
    if not texts or value.get("status") not in ("done", "failed"):
        return None
    image = value.get("image")
    if image is not None and (not isinstance(image, str) or not _is_plain_name(image)):
        return None
    if not isinstance(value.get("compute_profile"), (dict, type(None))):
        return None
    if not isinstance(value.get("timestamp"), (str, type(None))):
        return None
    if value["status"] == "done" and image is None:
        return None
    return value


def _is_plain_name(name: str) -> bool:
    return bool(name) and name not in (".", "..") and not any(c in name for c in "/\\\0:")


def _failure_entry(record: Mapping[str, Any]) -> dict[str, Any]:
    skipped = {*_NOT_IN_CONFIG, "compute_profile", "image"}
    return {key: value for key, value in record.items() if key not in skipped}


def _summary_row(record: Mapping[str, Any]) -> list[Any]:
    profile = record.get("compute_profile") or {}
    return [profile.get(name) if name in _FROM_PROFILE else record.get(name) for name in SUMMARY_COLUMNS]


def _csv_line(cells: Iterable[Any]) -> bytes:
    """One line of CSV in UTF-8. NUL and lone surrogates, which many readers refuse, become backslash escapes."""
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerow(
        [cell.replace("\0", "\\x00") if isinstance(cell, str) else cell for cell in cells]
    )
    return buffer.getvalue().encode("utf-8", "backslashreplace")
