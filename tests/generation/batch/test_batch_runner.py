"""Running a batch in one process: failures, full disks, hostile names, memory, signals, summaries."""

from __future__ import annotations

import errno
import json
import os
import shutil
import threading
import weakref
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diffmeter import model_manager
from diffmeter.errors import FolderInUseError, InputError
from diffmeter.generation.batch.runner import BatchOptions, run_generations
from diffmeter.generation.batch.session import run_batch
from diffmeter.generation.request import GenerationRequest
from diffmeter.storage import files as store
from diffmeter.storage import png as images
from diffmeter.storage import run_folder as folders
from diffmeter.storage.run_folder import RunFolder
from tests.generation.batch.batch_checks import SHAPES, check_complete, check_folder, pixels, requests_for, validate


@pytest.fixture(autouse=True)
def free_models() -> Any:
    yield
    model_manager.get_model_manager().unload_all()


@pytest.fixture
def wrap_loading(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Let a test change a pipeline as it is loaded: ``wrap_loading(change)`` with ``change(model_id, pipe)``."""

    def wrap(change: Any) -> None:
        real = model_manager.ModelManager.load_model

        def load(self: Any, model_id: str, **options: Any) -> Any:
            pipe = real(self, model_id, **options)
            change(model_id, pipe)
            return pipe

        monkeypatch.setattr(model_manager.ModelManager, "load_model", load)

    return wrap


def raise_at_call(module: Any, number: int, error: Exception) -> None:
    """Let the ``number``-th forward of a module raise."""
    calls = 0

    def count(*arguments: Any) -> None:
        nonlocal calls
        calls += 1
        if calls == number:
            raise error

    module.register_forward_pre_hook(count)


def test_a_batch_writes_images_records_and_summaries(tmp_path: Path) -> None:
    requests = [*requests_for(range(2), steps=2), *requests_for(range(1), prompt="a blue square, large")]
    result = run_batch(requests, tmp_path / "out", profiling=True, spec={"models": SHAPES})
    assert (result.exit_code, result.finished, result.failed, result.remaining) == (0, 3, 0, 0)
    check_complete(result.folder, requests)
    config = json.loads((result.folder / "generation_config.json").read_text())
    assert config["prompt"] is None  # two prompts: each entry has its own
    profile = config["models"][0]["compute_profile"]
    assert profile["enabled"]
    assert profile["complete"]
    assert profile["total_flops"] == 2 * profile["total_macs"]
    texts = images.read_texts(result.folder / config["models"][2]["image"])
    assert texts["parameters"].startswith("a blue square, large\nSteps: 1, Sampler: ")
    assert ", Seed: 0, Size: 64x64, Model: " in texts["parameters"]


def test_the_profile_in_the_files_follows_the_schema_of_profiles(tmp_path: Path) -> None:
    schema = Path(folders.__file__).parents[1] / "schema.json"
    run_batch(requests_for(range(1)), tmp_path / "out", profiling=True)
    (record,) = check_folder(tmp_path / "out")
    from jsonschema import Draft202012Validator

    Draft202012Validator(json.loads(schema.read_text())).validate(record["compute_profile"])


def test_bad_models_among_good_ones_are_recorded_and_the_good_ones_finished(tmp_path: Path, wrap_loading: Any) -> None:
    corrupt, raising, good = tmp_path / "corrupt", tmp_path / "raising", tmp_path / "good"
    for copy in (corrupt, raising, good):
        shutil.copytree(SHAPES, copy)
    weights = corrupt / "unet" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:5000])

    def change(model_id: str, pipe: Any) -> None:
        if model_id == str(raising):
            raise_at_call(pipe.unet, 3, RuntimeError("broke at step 3"))

    wrap_loading(change)
    models = [SHAPES, "nobody/unknown", str(corrupt), str(raising), str(good)]
    requests = [request for model in models for request in requests_for(range(2), steps=4, model=model)]
    result = run_batch(requests, tmp_path / "out", profiling=False)
    assert (result.exit_code, result.finished, result.failed, result.remaining) == (1, 4, 6, 0)
    records = check_folder(tmp_path / "out")
    assert {r["model_id"] for r in records if r["status"] == "done"} == {SHAPES, str(good)}
    failed = {r["model_id"]: r for r in reversed(records) if r["status"] == "failed"}
    assert set(failed) == set(models[1:4])
    assert failed["nobody/unknown"]["error_phase"] == failed[str(corrupt)]["error_phase"] == "load"
    assert failed[str(raising)]["error_phase"] == "generation"
    assert "broke at step 3" in failed[str(raising)]["error"]
    assert failed[str(raising)]["error_type"] == "RuntimeError"
    config = json.loads((tmp_path / "out" / "generation_config.json").read_text())
    assert len(config["models"]) == 4
    assert len(config["failures"]) == 6
    assert set(result.failures) == set(models[1:4])
    assert model_manager.get_model_manager().loaded_models() == []

    # What failed is tried again, what is finished is not; a repaired model completes the batch.
    before = pixels(tmp_path / "out")
    shutil.rmtree(corrupt)
    shutil.copytree(SHAPES, corrupt)
    again = run_batch(requests, tmp_path / "out", resume=True, profiling=False)
    assert (again.already, again.finished, again.failed) == (4, 2, 4)
    assert before.items() <= pixels(tmp_path / "out").items()


def test_a_model_that_keeps_failing_is_not_loaded_again_and_again(tmp_path: Path, wrap_loading: Any) -> None:
    loads = []

    def change(model_id: str, pipe: Any) -> None:
        loads.append(model_id)
        raise_at_call(pipe.unet, 1, MemoryError("no more"))

    wrap_loading(change)
    run_batch(requests_for(range(8)), tmp_path / "out", profiling=False)
    records = check_folder(tmp_path / "out")
    assert len(loads) == 3
    assert [record["error_phase"] for record in records] == ["generation"] * 3 + ["not tried"] * 5
    assert all("out of memory" in record["error"] for record in records)


def test_a_size_that_does_not_fit_is_recorded_without_reloading_the_model(tmp_path: Path, wrap_loading: Any) -> None:
    loads: list[str] = []
    wrap_loading(lambda model_id, pipe: loads.append(f"{id(pipe)}"))
    requests = [GenerationRequest(SHAPES, "x", None, 60, 64, 1, None, seed) for seed in range(5)]
    result = run_batch([*requests, *requests_for(range(1))], tmp_path / "out", profiling=False)
    assert (result.finished, result.failed) == (1, 5)
    assert len(set(loads)) == 1
    assert all("multiples of 8" in r["error"] for r in check_folder(tmp_path / "out") if r["status"] == "failed")


def test_a_count_that_fails_never_loses_the_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import diffmeter.metering.recording.observe

    seen: list[list[str]] = []

    class Broken:
        def __init__(self, pipe: Any) -> None:
            pass

        def __enter__(self) -> Broken:
            return self

        def __exit__(self, *exception: object) -> None:
            # The image is on the disk by now, under a name that --resume would clean up.
            seen.append([path.name for path in (tmp_path / "out").iterdir() if path.stat().st_size > 1000])

        @property
        def profile(self) -> Any:
            raise ZeroDivisionError("counting broke")

    monkeypatch.setattr(diffmeter.metering.recording.observe, "observe", Broken)
    requests = requests_for(range(1))
    assert run_batch(requests, tmp_path / "out", profiling=True).exit_code == 0
    (record,) = check_folder(tmp_path / "out")
    assert record["compute_profile"]["enabled"] is False
    assert record["compute_profile"]["reason"] == "ZeroDivisionError: counting broke"
    assert seen == [[RunFolder(tmp_path / "out").provisional_path(requests[0].key).name]]


def test_a_full_disk_stops_with_a_sentence_and_resume_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    requests = requests_for(range(4))
    real_write = os.write

    def limited(descriptor: int, data: Any) -> int:
        if len(list((tmp_path / "out").glob("*.png"))) >= 2:  # room for two images
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real_write(descriptor, data)

    monkeypatch.setattr(store.os, "write", limited)
    result = run_batch(requests, tmp_path / "out", profiling=False)
    monkeypatch.undo()
    assert result.exit_code == 1
    assert result.storage_error is not None
    assert "disk is full" in result.storage_error
    finished = [r["key"] for r in check_folder(tmp_path / "out")]
    assert len(finished) == 2
    assert result.remaining == 2
    resumed = run_batch(requests, tmp_path / "out", resume=True, profiling=False)
    assert (resumed.exit_code, resumed.already) == (0, len(finished))
    check_complete(tmp_path / "out", requests)


def test_a_full_tmpfs_stops_with_a_sentence_and_resume_goes_on(tmp_path: Path) -> None:
    import subprocess

    mount = tmp_path / "small"
    mount.mkdir()
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(mount)], capture_output=True)
    if made.returncode:
        pytest.skip(f"mounting a tmpfs is not permitted here: {made.stderr.decode().strip()}")
    try:
        requests = requests_for(range(12))
        result = run_batch(requests, mount / "out", profiling=False)
        assert result.exit_code == 1
        assert "disk is full" in (result.storage_error or "")
        finished = len(check_folder(mount / "out"))
        assert 0 < finished < 12
        subprocess.run(["mount", "-o", "remount,size=4m", str(mount)], check=True)
        resumed = run_batch(requests, mount / "out", resume=True, profiling=False)
        assert (resumed.exit_code, resumed.already) == (0, finished)
        check_complete(mount / "out", requests)
    finally:
        subprocess.run(["umount", "-l", str(mount)], check=False)


HOSTILE = [
    "../../x",
    "/etc/passwd",
    "a\0b",
    "line\nbreak",
    "x" * 10_000,
    "\u202eright to left",
    "CON",
    "\ud800 lone",
    "",
    "<script>[red]&",
    '=1+1,"',
]


def test_hostile_prompts_are_harmless_and_recorded_faithfully(tmp_path: Path) -> None:
    requests = [GenerationRequest(SHAPES, p, p, 64, 64, 1, None, 0) for p in HOSTILE]
    assert run_batch(requests, tmp_path / "out", profiling=False).exit_code == 0
    records = check_folder(tmp_path / "out")
    assert [record["prompt"] for record in records] == HOSTILE
    check_complete(tmp_path / "out", requests)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out"]


def test_hostile_model_ids_fail_harmlessly_and_are_recorded_faithfully(tmp_path: Path) -> None:
    models = [text for text in HOSTILE if text.strip()]
    requests = [GenerationRequest(model, "x", seed=0) for model in models]
    result = run_batch(requests, tmp_path / "out", profiling=False)
    assert result.failed == len(models)
    assert [record["model_id"] for record in check_folder(tmp_path / "out")] == models
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out"]


def test_a_second_batch_into_the_same_folder_is_refused(tmp_path: Path) -> None:
    requests = requests_for(range(1))
    run_batch(requests, tmp_path / "out", profiling=False)
    before = {path: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    with pytest.raises(InputError, match="--resume"):
        run_batch(requests_for(range(2)), tmp_path / "out", profiling=False)
    with store.FileLock(tmp_path / "out" / folders.LOCK), pytest.raises(FolderInUseError):
        run_batch(requests, tmp_path / "out", resume=True, profiling=False)
    assert {path: path.read_bytes() for path in (tmp_path / "out").iterdir()} == before


def test_batches_of_the_same_second_get_folders_of_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from diffmeter import config

    monkeypatch.setattr(config, "OUTPUT_DIR", tmp_path)
    results = [run_batch(requests_for(range(1)), profiling=False) for _ in range(2)]
    assert results[0].folder != results[1].folder
    for result in results:
        check_complete(result.folder, requests_for(range(1)))
    with pytest.raises(InputError, match="--output"):
        run_batch(requests_for(range(1)), resume=True)


def test_resume_starts_where_there_is_nothing_and_repairs_what_is_missing(tmp_path: Path) -> None:
    requests, out = requests_for(range(4)), tmp_path / "out"
    assert run_batch(requests[:3], out, resume=True, profiling=False).exit_code == 0
    first = {record["key"]: record for record in check_folder(out)}
    (out / first[requests[0].key]["image"]).unlink()  # its record is left without an image
    runs = (out / "runs.jsonl").read_text().splitlines(keepends=True)
    (out / "runs.jsonl").write_text("".join(runs[:2]) + '{"key": "half a li')  # the third image is without a record
    (out / "generation_config.json").write_text("{broken")
    result = run_batch(requests, out, resume=True, profiling=False)
    assert (result.exit_code, result.already, result.finished) == (0, 2, 2)
    config = json.loads((out / "generation_config.json").read_text())
    assert [entry["key"] for entry in config["models"]] == [request.key for request in requests]
    by_key = {entry["key"]: entry for entry in config["models"]}
    assert by_key[requests[2].key]["timestamp"] == first[requests[2].key]["timestamp"]  # adopted, not made again


def test_runs_jsonl_that_points_outside_is_not_followed(tmp_path: Path) -> None:
    out = tmp_path / "out"
    requests = requests_for(range(1))
    run_batch(requests, out, profiling=False)
    line = json.loads((out / "runs.jsonl").read_text())
    (out / line["image"]).rename(tmp_path / "outside.png")
    (out / "runs.jsonl").write_text(json.dumps({**line, "image": "../outside.png"}) + "\n")
    assert RunFolder(out).finished_keys() == set()


@given(st.lists(st.binary(max_size=60) | st.sampled_from([b"null", b"[]", b'{"key": 3}', b'{"status": "done"}'])))
@settings(deadline=None, max_examples=100)
def test_any_record_file_is_read_without_a_crash(tmp_path_factory: pytest.TempPathFactory, lines: list[bytes]) -> None:
    out = tmp_path_factory.mktemp("fuzz")
    (out / "runs.jsonl").write_bytes(b"\n".join(lines))
    (out / "runs.rank-00001.jsonl").write_bytes(b"\n".join(lines))
    run = RunFolder(out)
    run.recover()
    assert run.finished_keys() == set()
    run.write_summaries()
    validate(json.loads((out / "generation_config.json").read_text()), "generation_config")


@given(
    st.fixed_dictionaries(
        {},
        optional={
            name: st.none() | st.integers() | st.text(max_size=5) | st.lists(st.integers(), max_size=2)
            for name in (
                "key",
                "status",
                "model_id",
                "prompt",
                "image",
                "seed",
                "compute_profile",
                "timestamp",
                "error",
            )
        },
    )
)
@settings(deadline=None, max_examples=100)
def test_any_json_record_is_read_without_a_crash(
    tmp_path_factory: pytest.TempPathFactory, changes: dict[str, Any]
) -> None:
    out = tmp_path_factory.mktemp("fuzz")
    base = {"key": "0" * 16, "status": "failed", "model_id": "m", "prompt": "p", "image": None}
    (out / "runs.jsonl").write_text(json.dumps({**base, **changes}) + "\n")
    run = RunFolder(out)
    run.finished_keys()
    run.write_summaries()
    json.loads((out / "generation_config.json").read_text())


def test_models_are_loaded_once_and_freed_before_the_next(tmp_path: Path, wrap_loading: Any) -> None:
    other = tmp_path / "other"
    shutil.copytree(SHAPES, other)
    alive: list[weakref.ref[Any]] = []
    order: list[str] = []

    def change(model_id: str, pipe: Any) -> None:
        if order[-1:] != [model_id]:
            assert all(reference() is None for reference in alive), "an earlier model is still in memory"
            order.append(model_id)
            alive.append(weakref.ref(pipe.unet))

    wrap_loading(change)
    mixed = [
        r for seed in range(2) for m in (SHAPES, str(other)) for r in requests_for(range(seed, seed + 1), model=m)
    ]
    assert run_batch(mixed, tmp_path / "out", profiling=True).exit_code == 0
    assert order == [SHAPES, str(other)]
    assert all(reference() is None for reference in alive)


def test_memory_of_a_model_is_measured_and_given_back(tmp_path: Path, wrap_loading: Any) -> None:
    import torch

    size = 200 * 2**20

    def change(model_id: str, pipe: Any) -> None:
        if not hasattr(pipe.unet, "ballast"):
            pipe.unet.register_buffer("ballast", torch.ones(size // 4), persistent=False)

    wrap_loading(change)
    requests = requests_for(range(2))
    options = BatchOptions(profiling=False)
    run_generations(requests[:1], RunFolder(store.make_folder(tmp_path / "warm")), options)
    outcome = run_generations(requests, RunFolder(store.make_folder(tmp_path / "out")), options)
    (memory,) = outcome.memory
    assert memory.loaded - memory.before > 0.9 * size
    assert memory.after - memory.before < 0.2 * size


def test_memory_stays_flat_over_many_generations(tmp_path: Path) -> None:
    requests = requests_for(range(60), steps=2)
    assert run_batch(requests, tmp_path / "out", profiling=False).exit_code == 0
    used = [record["memory"]["process_bytes"] for record in check_folder(tmp_path / "out")]
    # benchmarks/batch_overhead.py does this with 500 and with profiling.
    assert max(used[-10:]) - max(used[5:15]) < 8 * 2**20


def test_summaries_on_the_way_cost_little(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = RunFolder(tmp_path)
    writes = []
    monkeypatch.setattr(run, "write_summaries", lambda order=None: writes.append(1))
    for _ in range(1000):
        run.write_summaries_if_due([])
    assert len(writes) == 0
    monkeypatch.setattr(folders, "_SUMMARY_SECONDS", 0.0)
    run.write_summaries_if_due([])
    assert len(writes) == 1


def test_stop_is_asked_between_generations_and_everything_is_recorded(tmp_path: Path) -> None:
    import signal

    requests = requests_for(range(5))
    named: list[str] = []

    class AfterTwo(threading.Thread):
        def run(self) -> None:
            while len(list((tmp_path / "out").glob("*.png"))) < 2:
                pass
            os.kill(os.getpid(), signal.SIGTERM)

    watcher = AfterTwo(daemon=True)
    watcher.start()
    result = run_batch(requests, tmp_path / "out", profiling=False, on_stop=named.append)
    watcher.join(10)
    assert named == ["SIGTERM"]
    assert result.exit_code == 128 + signal.SIGTERM
    assert result.stopped_by == "stopped by SIGTERM"
    assert 2 <= result.finished < 5
    assert len(check_folder(tmp_path / "out")) == result.finished
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_the_next_model_is_read_ahead_only_where_memory_allows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from diffmeter.generation.batch import runner

    read: list[str] = []
    monkeypatch.setattr(runner._Prefetch, "_read", lambda self, path: read.append(path.name))
    for free, expected in ((10**12, 3), (1000, 0)):
        read.clear()
        monkeypatch.setattr(runner, "_free_memory", lambda free=free: free)
        prefetch = runner._Prefetch(SHAPES)
        prefetch.start()
        prefetch.join()
        assert len(read) == expected
    prefetch = runner._Prefetch("nobody/unknown")
    prefetch.start()
    prefetch.join()  # a model that is not there is left for the load to report


@pytest.mark.parametrize("threads", [0, -1, True, 1.5])
def test_threads_must_be_a_positive_number(tmp_path: Path, threads: Any) -> None:
    with pytest.raises(InputError, match="threads"):
        run_batch(requests_for(range(1)), tmp_path / "out", threads=threads)
    with pytest.raises(InputError, match="nothing to generate"):
        run_batch([], tmp_path / "out")
    assert not (tmp_path / "out").exists()
