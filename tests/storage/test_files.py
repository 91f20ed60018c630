"""Atomic files, append-only records, names and folders."""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
import resource
import stat
from datetime import datetime
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diffmeter.errors import FolderInUseError, StorageError
from diffmeter.storage import files as store


def leftovers(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir() if path.name.endswith(store.TEMPORARY_SUFFIX)]


def test_write_json_replaces_the_whole_file(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    store.write_json(path, {"long": "x" * 10_000})
    store.write_json(path, {"short": "\ud800 \u202e ü"})
    assert json.loads(path.read_text()) == {"short": "\ud800 \u202e ü"}
    assert leftovers(tmp_path) == []
    assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~_umask()


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def test_values_that_json_has_no_word_for_leave_the_old_file(tmp_path: Path) -> None:
    path = store.write_json(tmp_path / "a.json", [1])
    with pytest.raises(ValueError, match="not JSON compliant"):
        store.write_json(path, [float("nan")])
    assert json.loads(path.read_text()) == [1]


@pytest.mark.parametrize("failing", ["write", "fsync", "replace"])
def test_a_full_disk_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: str
) -> None:
    path = store.write_text(tmp_path / "a.txt", "old")

    def full(*arguments: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(store.os, failing, full)
    with pytest.raises(StorageError, match="disk is full") as caught:
        store.write_text(path, "new")
    monkeypatch.undo()
    assert str(path) in str(caught.value)
    assert path.read_text() == "old"
    assert leftovers(tmp_path) == []


def test_a_failed_append_leaves_the_records_as_they_were(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "runs.jsonl"
    store.append_jsonl(path, {"n": 1})
    before = path.read_bytes()
    real = os.write

    def half(descriptor: int, data: bytes) -> int:
        if len(data) > 3:
            return real(descriptor, bytes(data)[:3])  # part of the line arrives ...
        raise OSError(errno.ENOSPC, "full")  # ... and then the disk is full

    monkeypatch.setattr(store.os, "write", half)
    with pytest.raises(StorageError):
        store.append_jsonl(path, {"n": 2})
    monkeypatch.undo()
    assert path.read_bytes() == before


def test_a_file_size_limit_of_the_system_is_one_clear_sentence(tmp_path: Path) -> None:
    path = tmp_path / "runs.jsonl"
    store.append_jsonl(path, {"n": 1})
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    child = context.Process(target=_write_under_limit, args=(path, queue))
    child.start()
    message = queue.get(timeout=30)
    child.join(30)
    assert "larger than this system or its limits allow" in message
    assert store.read_jsonl(path) == ([{"n": 1}], [])


def _write_under_limit(path: Path, queue: multiprocessing.Queue[str]) -> None:
    import signal

    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
    try:
        store.append_jsonl(path, {"long": "x" * 5000})
        queue.put("no error")
    except StorageError as error:
        queue.put(str(error))


def test_appending_never_rewrites_earlier_lines(tmp_path: Path) -> None:
    path = tmp_path / "runs.jsonl"
    inode, written = None, b""
    for number in range(50):
        offset = store.append_jsonl(path, {"n": number})
        assert offset == len(written)
        now = path.read_bytes()
        assert now.startswith(written)
        assert inode in (None, path.stat().st_ino)
        inode, written = path.stat().st_ino, now
    assert store.read_jsonl(path) == ([{"n": number} for number in range(50)], [])


@given(cut=st.integers(0, 40), records=st.lists(st.dictionaries(st.text(max_size=5), st.integers()), max_size=5))
@settings(deadline=None, max_examples=60)
def test_a_line_cut_short_is_dropped_and_the_rest_kept(
    tmp_path_factory: pytest.TempPathFactory, cut: int, records: list[dict[str, int]]
) -> None:
    path = tmp_path_factory.mktemp("jsonl") / "runs.jsonl"
    for record in records:
        store.append_jsonl(path, record)
    unfinished = (json.dumps({"key": "a" * 30}) + "\n").encode()[:cut]
    with open(path, "ab") as file:
        file.write(unfinished)
    complete = [{"key": "a" * 30}] if len(unfinished) >= len(json.dumps({"key": "a" * 30})) else []
    assert store.read_jsonl(path) == (records + complete, [])
    store.append_jsonl(path, {"last": 1})
    assert store.read_jsonl(path) == ([*records, *complete, {"last": 1}], [])
    assert path.read_bytes().endswith(b"\n")


@given(st.binary(max_size=300))
@settings(deadline=None, max_examples=80)
def test_any_bytes_are_read_without_a_crash(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    path = tmp_path_factory.mktemp("any") / "runs.jsonl"
    path.write_bytes(data)
    records, problems = store.read_jsonl(path)
    assert all(isinstance(record, dict) for record in records)
    assert all(isinstance(problem, str) for problem in problems)
    store.append_jsonl(path, {"n": 1})
    assert store.read_jsonl(path)[0][-1] == {"n": 1}


def test_many_processes_append_whole_lines(tmp_path: Path) -> None:
    path = tmp_path / "runs.jsonl"
    context = multiprocessing.get_context("fork")
    workers = [context.Process(target=_append_many, args=(path, number)) for number in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    records, problems = store.read_jsonl(path)
    assert problems == []
    assert sorted((r["w"], r["n"]) for r in records) == [(w, n) for w in range(4) for n in range(25)]


def _append_many(path: Path, worker: int) -> None:
    for number in range(25):
        store.append_jsonl(path, {"w": worker, "n": number, "pad": "x" * 6000}, flush=False)


def test_file_and_record_come_together_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    image, runs = tmp_path / "a.png", tmp_path / "runs.jsonl"

    def refuse(*arguments: object) -> None:
        raise OSError(errno.EIO, "input/output error")

    monkeypatch.setattr(store.os, "replace", refuse)
    with pytest.raises(StorageError):
        store.write_with_record(image, b"image", runs, {"n": 1})
    monkeypatch.undo()
    assert not image.exists()
    assert store.read_jsonl(runs) == ([], [])
    assert leftovers(tmp_path) == []
    store.write_with_record(image, b"image", runs, {"n": 1})
    assert image.read_bytes() == b"image"
    assert store.read_jsonl(runs) == ([{"n": 1}], [])


HOSTILE = [
    "../../x",
    "/etc/passwd",
    "..\\..\\x",
    "C:\\x",
    "a\0b",
    "a\nb",
    "x" * 10_000,
    "\u202egnp.exe",
    "CON",
    "nul.txt",
    "com1",
    "LPT9.png",
    "",
    ".",
    "..",
    "   ",
    "-rf",
    ".hidden",
    "trailing.",
    "\ud800",
    "名前",
    "a/../../b",
]


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_names_from_hostile_text_stay_in_the_folder(tmp_path: Path, text: str) -> None:
    for name in (store.safe_name(text), store.name_slug(text)):
        _assert_harmless(name)
        path = store.write_new(tmp_path, name, ".png", b"x")
        assert path.parent == tmp_path
        assert path.resolve().parent == tmp_path.resolve()


@given(st.text(max_size=200))
@settings(deadline=None)
def test_any_text_gives_a_harmless_name(text: str) -> None:
    _assert_harmless(store.safe_name(text))
    _assert_harmless(store.name_slug(text))


def _assert_harmless(name: str) -> None:
    assert 1 <= len(name) <= 81
    assert set(name) <= set("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-")
    assert name[0] not in ".-"
    assert name[-1] != "."
    # https://learn.microsoft.com/windows/win32/fileio/naming-a-file lists the names that Windows reserves.
    assert name.split(".")[0].upper() not in {"CON", "PRN", "AUX", "NUL", "COM1", "COM9", "LPT1", "LPT9"}


def test_taken_names_are_never_overwritten(tmp_path: Path) -> None:
    paths = [store.write_new(tmp_path, "a", ".png", bytes([n])) for n in range(3)]
    assert [path.name for path in paths] == ["a.png", "a-2.png", "a-3.png"]
    assert [path.read_bytes() for path in paths] == [b"\0", b"\1", b"\2"]


def test_runs_of_one_second_get_folders_of_their_own(tmp_path: Path) -> None:
    now = datetime(2025, 10, 14, 10, 30, 0)
    context = multiprocessing.get_context("fork")
    with context.Pool(4) as pool:
        folders = pool.starmap(store.new_run_folder, [(tmp_path, now)] * 12)
    assert len({folder.name for folder in folders}) == 12
    assert (tmp_path / "2025-10-14_10-30-00").is_dir()
    assert (tmp_path / "2025-10-14_10-30-00_12").is_dir()


def test_folders_that_cannot_be_used_are_refused_and_not_created(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("")
    for path in (file / "x", file, tmp_path / "a\0b"):
        with pytest.raises(StorageError, match="folder"):
            store.check_writable(path)
    store.check_writable(tmp_path / "new" / "deep")
    assert not (tmp_path / "new").exists()
    with pytest.raises(StorageError):
        store.make_folder("/proc/diffmeter")


def test_a_folder_without_permission_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store.os, "access", lambda path, mode: False)  # root may write anywhere
    with pytest.raises(StorageError, match="permission denied"):
        store.check_writable(tmp_path / "new")


def test_a_lock_is_held_once_and_released_with_its_process(tmp_path: Path) -> None:
    path = tmp_path / ".lock"
    context = multiprocessing.get_context("fork")
    ready, end = context.Event(), context.Event()
    holder = context.Process(target=_hold, args=(path, ready, end))
    holder.start()
    assert ready.wait(30)
    with pytest.raises(FolderInUseError, match=f"process {holder.pid}"):
        store.FileLock(path).acquire()
    holder.kill()  # no chance to clean up
    holder.join(30)
    with store.FileLock(path):
        assert path.exists()
    assert not path.exists()


def _hold(path: Path, ready: object, end: object) -> None:
    with store.FileLock(path):
        ready.set()  # type: ignore[attr-defined]
        end.wait(60)  # type: ignore[attr-defined]


def test_stale_temporary_files_are_removed(tmp_path: Path) -> None:
    (tmp_path / f"{store.TEMPORARY_PREFIX}1-a{store.TEMPORARY_SUFFIX}").write_text("half")
    (tmp_path / "mine.tmp").write_text("keep")
    assert store.remove_stale_temporaries(tmp_path) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["mine.tmp"]


def test_reading_bad_json_is_one_sentence(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text("[" * 100_000)
    with pytest.raises(StorageError, match="no valid JSON"):
        store.read_json(path)
    with pytest.raises(StorageError, match="cannot read"):
        store.read_json(tmp_path / "missing.json")
