"""SIGKILL at random moments: what is finished stays, and resuming makes exactly the rest."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.generation.batch.batch_checks import SHAPES, check_complete, check_folder, requests_for

ROUNDS = 30
PROFILED_ROUNDS = 5


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
def test_killed_batches_lose_nothing_and_resume(tmp_path: Path) -> None:
    command = [sys.executable, Path(__file__).with_name("kill_harness.py"), tmp_path, ROUNDS, PROFILED_ROUNDS, 2024]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[3])}
    result = subprocess.run(
        [str(part) for part in command], capture_output=True, text=True, env=environment, timeout=400
    )
    assert result.returncode == 0, result.stderr[-4000:]
    rounds = [json.loads(line) for line in result.stdout.splitlines() if line.startswith("{")]
    assert len(rounds) == ROUNDS
    # The moments are random, but a test in which hardly any kill met a running batch would show nothing.
    assert sum(one["killed"] for one in rounds) >= ROUNDS * 2 // 3
    assert any(0 < one["finished"] < 6 for one in rounds)


@pytest.mark.slow
def test_killed_command_line_resumes_with_its_own_hint(tmp_path: Path) -> None:
    requests = requests_for(range(40))
    spec = tmp_path / "spec.json"
    spec.write_text(json.dumps({"models": SHAPES, "prompts": "a red circle", "seeds": list(range(40)), "steps": 1}))
    folder = tmp_path / "out"
    command = [sys.executable, "-m", "diffmeter", "batch", str(spec), "--output", str(folder), "--no-profiling"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while not list(folder.glob("*.png")) and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    finished = {record["key"]: record["timestamp"] for record in check_folder(folder)}
    assert 0 < len(finished) < 40

    refused = subprocess.run(command, capture_output=True, text=True)
    assert refused.returncode == 2
    assert "--resume" in refused.stderr
    assert "Traceback" not in refused.stderr

    # Ctrl-C: the current image is finished and recorded, and the message says how to go on.
    process = subprocess.Popen([*command, "--resume"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    while len(list(folder.glob("*.png"))) <= len(finished) and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert f"--output {folder} --resume" in errors
    assert len(finished) < len(check_folder(folder)) < 40

    completed = subprocess.run([*command, "--resume"], capture_output=True, text=True)
    assert completed.returncode == 0, completed.stderr
    check_complete(folder, requests)
    kept = {record["key"]: record["timestamp"] for record in check_folder(folder)}
    assert {key: kept[key] for key in finished} == finished
