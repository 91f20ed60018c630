"""Kills running batches at random moments; started by test_batch_kill.py in a process of its own.

Everything is imported once, then each batch runs in a forked child, so that a round costs the batch and not the
imports. Prints one JSON line a round.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
import traceback
from pathlib import Path

import torch
from diffusers import StableDiffusionPipeline  # noqa: F401 (loaded before forking)

from diffmeter.generation.batch.session import run_batch
from diffmeter.generation.request import GenerationRequest
from diffmeter.metering.recording import observe as record  # noqa: F401
from tests.generation.batch.batch_checks import check_complete, check_folder, requests_for


def start(requests: list[GenerationRequest], folder: Path, profiling: bool) -> int:
    """Run the batch in a child; its process id."""
    child = os.fork()
    if child:
        return child
    status = 1
    try:
        torch.set_num_threads(1)
        status = run_batch(requests, folder, resume=True, profiling=profiling).exit_code
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status)


def wait(child: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def main(base: Path, rounds: int, profiled_rounds: int, seed: int) -> None:
    chance = random.Random(seed)
    duration: dict[bool, float] = {}
    for number in range(rounds):
        profiling = number < profiled_rounds
        requests = requests_for(range(2 if profiling else 6))
        if profiling not in duration:
            began = time.monotonic()
            assert wait(start(requests, base / f"whole-{profiling}", profiling)) == 0
            duration[profiling] = time.monotonic() - began
        folder = base / f"round-{number}"
        delay = chance.uniform(0.0, duration[profiling])
        child = start(requests, folder, profiling)
        time.sleep(delay)
        os.kill(child, signal.SIGKILL)
        ended = wait(child)
        finished = len([r for r in check_folder(folder) if r["status"] == "done"]) if folder.exists() else 0
        assert wait(start(requests, folder, profiling)) == 0
        check_complete(folder, requests)
        made = [line for line in (folder / "runs.jsonl").read_text().splitlines() if '"status":"done"' in line]
        assert len(made) == len(requests), "a finished generation was repeated"
        print(json.dumps({"delay": delay, "killed": ended == -signal.SIGKILL, "finished": finished}), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))
