"""The only place that writes result files: whole files replaced atomically, records appended line by line.

A reader never sees half a file: content goes to a temporary file in the same folder, is flushed to the disk, and takes
its name in one step. Records are appended as one JSON line each; an append that fails (full disk) is undone, and a
line that a killed process left unfinished is dropped by the next append and ignored by :func:`read_jsonl`.
"""

from __future__ import annotations

import errno
import json
import logging
import os
import platform
import re
import secrets
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Any

import filelock

from diffmeter.errors import FolderInUseError, StorageError

logger = logging.getLogger(__name__)

TEMPORARY_PREFIX = ".diffmeter-"
TEMPORARY_SUFFIX = ".tmp"
MAX_NAME_LENGTH = 80

# Device names that Windows reserves in every folder, with or without an extension.
_RESERVED_NAMES = {"con", "prn", "aux", "nul", "conin$", "conout$"} | {
    f"{device}{digit}" for device in ("com", "lpt") for digit in "0123456789"
}


def explain_os_error(error: OSError) -> str:
    """The reason of an ``OSError`` in a few words for people."""
    if error.errno in (errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC)):
        return "the disk is full; make space and try again"
    if error.errno == errno.EFBIG:
        return "the file is larger than this system or its limits allow"
    if error.errno in (errno.EACCES, errno.EPERM):
        return "permission denied"
    if error.errno == errno.EROFS:
        return "the file system is read-only"
    return error.strerror or type(error).__name__


@contextmanager
def _reporting(action: str, path: Path) -> Iterator[None]:
    """Turn an ``OSError`` inside the block into a :class:`StorageError` with one sentence."""
    try:
        yield
    except StorageError:
        raise
    except OSError as error:
        message = f"cannot {action} {str(path)!r}: {explain_os_error(error)}."
        failure = StorageError(message)
        failure.errno = error.errno
        raise failure from error


def safe_name(text: str, fallback: str = "unnamed") -> str:
    """A file name made from any text: ASCII letters, digits, ``.``, ``_`` and ``-``, at most 80 characters.

    Never empty, never ``.`` or ``..``, no leading dot, no trailing dot, no name that Windows reserves. Two texts may
    give one name; where that matters, add something that tells them apart.
    """
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", text[: 4 * MAX_NAME_LENGTH])
    name = name.strip("-._")[:MAX_NAME_LENGTH].strip("-._")
    if not name:
        name = fallback
    if name.split(".", 1)[0].lower() in _RESERVED_NAMES:
        name = f"_{name}"
    return name


def name_slug(model_name: str) -> str:
    """A model's name as the beginning of a file name: "SD 2.1" gives ``sd21``, "PixArt-alpha" ``pixart-alpha``."""
    name = re.sub(r"[\s.]+", "", model_name.lower())
    return safe_name(name, fallback="model")


def _flush_folder(folder: Path) -> None:
    """Flush a folder's entries, so that a new name survives a power cut. Not every system can; that is no failure."""
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _write_all(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


def _write_temporary(folder: Path, parts: Iterable[bytes]) -> Path:
    """Write ``parts`` to a new temporary file in ``folder`` and flush it; removed again if that fails."""
    temporary = folder / f"{TEMPORARY_PREFIX}{os.getpid()}-{secrets.token_hex(6)}{TEMPORARY_SUFFIX}"
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o666)
    try:
        try:
            for part in parts:
                _write_all(descriptor, part)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except BaseException:
        with suppress(OSError):
            temporary.unlink()
        raise
    return temporary


def write_bytes(path: str | Path, data: bytes) -> Path:
    """Replace the file ``path`` by ``data``: readers see the old content or the new, whole.

    Raises :class:`StorageError`; the old file is then untouched and nothing else is left behind.
    """
    return write_parts(path, [data])


def write_parts(path: str | Path, parts: Iterable[bytes]) -> Path:
    """:func:`write_bytes` for content that comes piece by piece, so that a large file is never in memory whole."""
    path = Path(path)
    with _reporting("write", path):
        temporary = _write_temporary(path.parent, parts)
        try:
            os.replace(temporary, path)
        except BaseException:
            with suppress(OSError):
                temporary.unlink()
            raise
        _flush_folder(path.parent)
    return path


def write_text(path: str | Path, text: str) -> Path:
    """:func:`write_bytes` for text, in UTF-8. Characters that UTF-8 cannot hold become backslash escapes."""
    return write_bytes(path, text.encode("utf-8", "backslashreplace"))


def write_json(path: str | Path, value: object) -> Path:
    """:func:`write_bytes` for a JSON value, indented, ASCII only so that any text survives.

    Raises ``ValueError`` for NaN or infinity, which JSON has no word for.
    """
    return write_bytes(path, (json.dumps(value, indent=2, allow_nan=False) + "\n").encode("ascii"))


def write_new(folder: str | Path, stem: str, suffix: str, data: bytes) -> Path:
    """Write ``data`` under a name that nothing in ``folder`` has: ``stem.suffix``, else ``stem-2.suffix``, ...

    Never replaces a file, also when several processes write at once. Returns the path. Raises :class:`StorageError`.
    """
    folder = Path(folder)
    with _reporting("write a file in", folder):
        for number in range(1, 100_000):
            path = folder / f"{stem if number == 1 else f'{stem}-{number}'}{suffix}"
            try:
                descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
            except FileExistsError:
                continue
            os.close(descriptor)
            # The empty file holds the name; the content replaces it in one step.
            try:
                return write_bytes(path, data)
            except BaseException:
                with suppress(OSError):
                    path.unlink()
                raise
    raise StorageError(f"cannot write a file in {str(folder)!r}: every name like {stem!r} is taken.")


def _end_of_complete_lines(descriptor: int, size: int) -> tuple[int, bytes]:
    """Where the last complete line ends, and what follows it (a line that its writer did not finish)."""
    tail = b""
    start = size
    while start > 0:
        step = min(start, 65536)
        start -= step
        os.lseek(descriptor, start, os.SEEK_SET)
        block = os.read(descriptor, step)
        newline = block.rfind(b"\n")
        if newline >= 0:
            return start + newline + 1, block[newline + 1 :] + tail
        tail = block + tail
    return 0, tail


def append_jsonl(path: str | Path, *records: dict[str, Any], flush: bool = True) -> int:
    """Append each record as one JSON line and flush to the disk; earlier lines are never rewritten.

    Returns the byte offset of the first line. An unfinished line of a killed process is removed first. If the append
    fails, the file is as before. ``flush=False`` leaves the flush to the system. Raises :class:`StorageError`, and
    ``ValueError`` for NaN.
    """
    with _appending(Path(path), _as_lines(records), flush=flush) as offset:
        return offset


def write_with_record(path: str | Path, data: bytes, records_path: str | Path, record: dict[str, Any]) -> int:
    """Write the file ``path`` and append its record to ``records_path``: both are there afterwards, or neither.

    Everything that takes time or can fail comes first: the content is flushed under a temporary name, then the
    record's line is written and the file takes its name, in two neighboring system calls, and the line is flushed.
    (A power cut in between can leave a record whose file is missing, which a reader has to check for anyway.)
    Returns the byte offset of the line. Raises :class:`StorageError`.
    """
    path = Path(path)
    lines = _as_lines([record])
    with _reporting("write", path):
        temporary = _write_temporary(path.parent, [data])
        try:
            with _appending(Path(records_path), lines, flush=True) as offset:
                os.replace(temporary, path)
        except BaseException:
            with suppress(OSError):
                temporary.unlink()
            raise
    return offset


def _as_lines(records: Iterable[dict[str, Any]]) -> bytes:
    texts = (json.dumps(record, allow_nan=False, separators=(",", ":")) + "\n" for record in records)
    return "".join(texts).encode("ascii")


@contextmanager
def _appending(path: Path, lines: bytes, *, flush: bool) -> Iterator[int]:
    """Append ``lines``, run the block, then flush; if anything fails, the block included, the append is undone."""
    with _reporting("append to", path):
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_BINARY", 0), 0o666)
        try:
            with FileLock(path.with_name(f"{TEMPORARY_PREFIX}{path.name}{TEMPORARY_SUFFIX}"), wait=True):
                end = _repair_end(descriptor, path)
                os.lseek(descriptor, end, os.SEEK_SET)
                try:
                    _write_all(descriptor, lines)
                    yield end
                    if flush:
                        os.fsync(descriptor)
                except BaseException:
                    with suppress(OSError):
                        os.ftruncate(descriptor, end)
                    raise
        finally:
            os.close(descriptor)


def _repair_end(descriptor: int, path: Path) -> int:
    """Where the next line goes, after dropping an unfinished line or completing one that only lacks its newline."""
    size = os.fstat(descriptor).st_size
    end, unfinished = _end_of_complete_lines(descriptor, size)
    if not unfinished:
        return size
    if _is_json_object(unfinished):
        os.lseek(descriptor, size, os.SEEK_SET)
        _write_all(descriptor, b"\n")
        return size + 1
    logger.warning("dropped an unfinished record of %d bytes at the end of %s", len(unfinished), path)
    os.ftruncate(descriptor, end)
    return end


def _is_json_object(data: bytes) -> bool:
    try:
        return isinstance(json.loads(data), dict)
    except (ValueError, RecursionError):
        return False


def read_jsonl(path: str | Path) -> tuple[list[dict[str, Any]], list[str]]:
    """The records of a JSON-lines file and, one sentence each, what could not be read.

    A last line without its end that is no JSON is the trace of a killed process and is left out silently. Raises
    :class:`StorageError` if the file cannot be read at all; a missing file has no records.
    """
    path = Path(path)
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return [], []
    except OSError as error:
        raise StorageError(f"cannot read {str(path)!r}: {explain_os_error(error)}.") from error
    records: list[dict[str, Any]] = []
    problems: list[str] = []
    lines = data.split(b"\n")
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except (ValueError, RecursionError):
            if number < len(lines):
                problems.append(f"line {number} of {str(path)!r} is no JSON and was left out.")
            continue
        if isinstance(value, dict):
            records.append(value)
        else:
            problems.append(f"line {number} of {str(path)!r} is no JSON object and was left out.")
    return records, problems


def read_json(path: str | Path) -> Any:
    """The JSON value in a file. Raises :class:`StorageError` with one sentence if it cannot be read or parsed."""
    path = Path(path)
    try:
        return json.loads(path.read_bytes())
    except OSError as error:
        raise StorageError(f"cannot read {str(path)!r}: {explain_os_error(error)}.") from error
    except (ValueError, RecursionError) as error:
        raise StorageError(f"{str(path)!r} is no valid JSON: {error}.") from error


def check_writable(folder: str | Path) -> None:
    """Raise :class:`StorageError` if ``folder`` could not be created or written in. Creates nothing."""
    path = Path(folder)
    if "\0" in str(path):
        raise StorageError(f"cannot use {str(path)!r} as a folder: a path holds no NUL character.")
    with _reporting("use the folder", path):
        existing = path
        while not existing.exists() and existing != existing.parent:
            existing = existing.parent
        if not existing.is_dir():
            raise StorageError(f"cannot use {str(path)!r} as a folder: {str(existing)!r} is no folder.")
        if not os.access(existing, os.W_OK | os.X_OK):
            raise StorageError(f"cannot write in {str(existing)!r}: permission denied.")


def make_folder(folder: str | Path) -> Path:
    """Create ``folder`` and its parents if they are not there. Raises :class:`StorageError`."""
    path = Path(folder)
    check_writable(path)
    with _reporting("create the folder", path):
        path.mkdir(parents=True, exist_ok=True)
    return path


def new_run_folder(base: str | Path, now: datetime | None = None) -> Path:
    """Create and return a folder of its own under ``base``, named by the time: ``2025-10-14_10-30-00``.

    Runs that start in the same second get ``..._2``, ``..._3`` and so on. Raises :class:`StorageError`.
    """
    base = make_folder(base)
    stamp = (now or datetime.now()).strftime("%Y-%m-%d_%H-%M-%S")
    with _reporting("create a folder in", base):
        for number in range(1, 100_000):
            path = base / (stamp if number == 1 else f"{stamp}_{number}")
            with suppress(FileExistsError):
                path.mkdir()
                return path
    raise StorageError(f"cannot create a folder in {str(base)!r}: every name like {stamp!r} is taken.")


def remove_stale_temporaries(folder: str | Path) -> int:
    """Delete temporary files that killed processes left in ``folder``. Call it only while nobody else writes there."""
    removed = 0
    for path in Path(folder).glob(f"{TEMPORARY_PREFIX}*{TEMPORARY_SUFFIX}"):
        with suppress(OSError):
            path.unlink()
            removed += 1
    return removed


class FileLock:
    """An exclusive lock on a file that the system releases when its holder ends, however it ends.

    >>> with FileLock(folder / ".lock"):          # doctest: +SKIP
    ...     ...

    ``wait=False`` raises :class:`FolderInUseError` at once if another process holds it, naming that process. Some
    network file systems have no locks at all; the block then runs without, and the atomic writes still hold.
    """

    def __init__(self, path: str | Path, *, wait: bool = False) -> None:
        self.path = Path(path)
        self._lock = filelock.FileLock(self.path, timeout=-1 if wait else 0, thread_local=False)
        # Beside the lock, since a locked file cannot be read on Windows.
        self._holder = None if wait else self.path.with_name(f"{self.path.name}-holder")

    def acquire(self) -> None:
        """Take the lock.

        Raises:
            FolderInUseError: another holds it, and ``wait`` is false.
            StorageError: the file cannot be created.
        """
        with _reporting("lock", self.path):
            try:
                self._lock.acquire(poll_interval=0.01)
            except filelock.Timeout:
                raise FolderInUseError(
                    f"another diffmeter run ({self._name_of_holder()}) is writing into {str(self.path.parent)!r}: "
                    "wait for it to end, or use another folder."
                ) from None
            except NotImplementedError as error:
                logger.warning("cannot lock %s (%s); going on without", self.path, error)
        if self._holder is not None:
            with suppress(OSError):  # a full disk must not keep anyone from the lock itself
                self._holder.write_text(f"process {os.getpid()} on {platform.node()}")

    def _name_of_holder(self) -> str:
        try:
            return (self._holder.read_text() if self._holder is not None else "")[:200].strip() or "unknown process"
        except (OSError, ValueError):
            return "unknown process"

    def release(self) -> None:
        """Let go; the files that the lock used are removed."""
        # While it is held: whoever waits for it sees that its file is gone, and makes a new one. Windows refuses to
        # remove a file that is open; there the lock removes it by itself.
        for path in (self._holder, self.path):
            if path is not None:
                with suppress(OSError):
                    path.unlink()
        self._lock.release()

    def __enter__(self) -> FileLock:
        self.acquire()
        return self

    def __exit__(self, *exception: object) -> None:
        self.release()
