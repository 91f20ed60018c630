"""Several processes through `accelerate launch`, on CPU with gloo."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from diffmeter.generation.batch.processes import Processes, join_processes
from diffmeter.storage.run_folder import RunFolder, lock_path, part_name
from tests.generation.batch.batch_checks import SHAPES, check_complete, check_folder, pixels, requests_for

# What differs from run to run; everything else must be the same however many processes there are.
VARYING = ("timestamp", "inference_time_seconds", "memory", "process_index", "image_path")
VARYING_IN_PROFILE = ("inference_time", "throughput", "seconds", "timeline", "started", "tflops")


def launch(processes: int, *arguments: str) -> list[str]:
    launcher = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_machines", "1"]
    launcher += ["--num_processes", str(processes), "--mixed_precision", "no", "--dynamo_backend", "no"]
    return [*launcher, "--main_process_port", "0", "-m", "diffmeter", "batch", *arguments]


def environment() -> dict[str, str]:
    return {**os.environ, "ACCELERATE_USE_CPU": "true", "CUDA_VISIBLE_DEVICES": ""}


def write_spec(path: Path, seeds: int, steps: list[int]) -> list[Any]:
    spec = {"models": SHAPES, "prompts": "a red circle", "seeds": list(range(seeds)), "steps": steps}
    path.write_text(json.dumps(spec))
    return [request for step in steps for request in requests_for(range(seeds), steps=step)]


def report(folder: Path) -> list[Any]:
    """generation_config.json without times, which differ."""

    def strip(value: Any) -> Any:
        if isinstance(value, dict):
            varying = (
                *VARYING,
                *(k for k in value if any(k.startswith(v) or k.endswith(v) for v in VARYING_IN_PROFILE)),
            )
            return {key: strip(inner) for key, inner in value.items() if key not in varying}
        return [strip(inner) for inner in value] if isinstance(value, list) else value

    config = json.loads((folder / "generation_config.json").read_text())
    return strip(config["models"])


@pytest.mark.slow
def test_two_and_four_processes_give_what_one_gives(tmp_path: Path) -> None:
    spec = tmp_path / "spec.json"
    requests = write_spec(spec, 2, [1, 2])
    alone = [sys.executable, "-m", "diffmeter", "batch", str(spec), "--output", str(tmp_path / "1")]
    # Whatever number of threads the one process starts with: the launcher gives its processes one each.
    subprocess.run(alone, check=True, capture_output=True, env={**environment(), "OMP_NUM_THREADS": "2"})
    check_complete(tmp_path / "1", requests)
    for count in (2, 4):
        folder = tmp_path / str(count)
        result = subprocess.run(
            launch(count, str(spec), "--output", str(folder)),
            capture_output=True,
            text=True,
            env={name: value for name, value in environment().items() if name != "OMP_NUM_THREADS"},
            timeout=300,
        )
        assert result.returncode == 0, result.stderr[-3000:]
        assert result.stdout.count("4 of 4 images are in") == 1  # one process speaks for all
        check_complete(folder, requests)
        records = check_folder(folder)
        assert {record["process_index"] for record in records} == set(range(count))
        assert [record["key"] for record in records] == [request.key for request in requests]
        assert pixels(folder) == pixels(tmp_path / "1")
        assert report(folder) == report(tmp_path / "1")
        assert list(folder.glob("runs.rank-*")) == []


@pytest.mark.slow
@pytest.mark.parametrize("victim", [0, 1])
def test_killing_one_process_loses_nothing_finished(tmp_path: Path, victim: int) -> None:
    spec, folder = tmp_path / "spec.json", tmp_path / "out"
    requests = write_spec(spec, 40, [2])
    command = launch(2, str(spec), "--output", str(folder), "--no-profiling")
    process = subprocess.Popen(
        command,
        env=environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        start_new_session=True,
        text=True,
    )
    try:
        part = folder / part_name(victim)
        deadline = time.monotonic() + 120
        while not (part.exists() and part.stat().st_size) and time.monotonic() < deadline:
            time.sleep(0.02)
        lock = lock_path(part)
        holder = lock.with_name(f"{lock.name}-holder").read_text()  # "process 123 on host"
        os.kill(int(holder.split()[1]), signal.SIGKILL)
        _, errors = process.communicate(timeout=120)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode != 0, errors
    finished = {record["key"]: record for record in check_folder(folder) if record["status"] == "done"}
    assert 0 < len(finished) < 40
    # One process goes on where two stopped: the records of the dead one are merged first.
    alone = [
        sys.executable,
        "-m",
        "diffmeter",
        "batch",
        str(spec),
        "--output",
        str(folder),
        "--no-profiling",
        "--resume",
    ]
    subprocess.run(alone, check=True, capture_output=True, env=environment())
    check_complete(folder, requests)
    kept = {record["key"]: record for record in check_folder(folder)}
    assert {key: kept[key] for key in finished} == finished


@pytest.mark.slow
def test_bad_input_is_said_once_by_all_processes(tmp_path: Path) -> None:
    spec = tmp_path / "spec.json"
    write_spec(spec, 2, [1])
    folder = tmp_path / "out"
    folder.mkdir()
    (folder / "runs.jsonl").write_text("")
    result = subprocess.run(
        launch(2, str(spec), "--output", str(folder)), capture_output=True, text=True, env=environment(), timeout=120
    )
    assert result.returncode != 0
    assert result.stderr.count("already holds the records of a run") == 1


def test_parts_are_merged_in_the_order_of_the_plan_each_once(tmp_path: Path) -> None:
    from diffmeter.generation.batch.session import run_batch

    requests = requests_for(range(4))
    order = [request.key for request in requests]
    run_batch(requests, tmp_path, profiling=False)
    lines = (tmp_path / "runs.jsonl").read_text().splitlines(keepends=True)
    # Two processes that finished in odd order, one of them cut off in a line, both with record 1.
    (tmp_path / "runs.jsonl").unlink()
    (tmp_path / part_name(0)).write_text(lines[3] + lines[1])
    (tmp_path / part_name(7)).write_text(lines[2] + lines[0] + lines[1] + lines[3][:50])
    run = RunFolder(tmp_path)
    assert run.merge_parts(order) == 4
    assert [record["key"] for record in check_folder(tmp_path)] == order
    assert run.merge_parts(order) == 0
    assert list(tmp_path.glob("runs.rank-*")) == []


def test_alone_there_is_nobody_to_wait_for(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    for name in ("WORLD_SIZE", "RANK", "LOCAL_RANK", "MASTER_ADDR", "KMP_BLOCKTIME"):
        monkeypatch.delenv(name, raising=False)
    alone = join_processes()
    assert alone == Processes(0, 1, None)
    assert alone.is_main
    assert alone.send_to_all("x") == "x"
    assert alone.wait_for_all()
    alone.leave()
    assert caplog.text == ""
    # `accelerate launch --cpu --num_processes 2` without MPI starts one process and leaves these behind.
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.setenv("KMP_BLOCKTIME", "1")
    assert join_processes() == alone
    assert "one process" in caplog.text
