"""What a long batch costs beside the generations themselves: memory, bookkeeping, growth of the record file.

Generates many images with a small model and 2 steps each, then prints:

- process memory after the first ten generations and at the end;
- the share of the time that is neither generation nor counting: encoding, writing and flushing images and records;
- that the bytes written to runs.jsonl are its final size (append-only), and the time per generation of the first and
  the last quarter (a rewritten file would make the last one slower).

    python benchmarks/batch_overhead.py --count 500
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffmeter
from diffmeter.generation import run as generation_run
from diffmeter.generation.batch import runner
from diffmeter.generation.batch.session import run_batch
from diffmeter.generation.request import GenerationRequest
from diffmeter.storage import files as store
from diffmeter.storage.run_folder import RunFolder
from diffmeter.units import format_bytes, format_percent, format_seconds

EMBEDDED = str(Path(diffmeter.__file__).parent / "embedded" / "shapes")


class Stopwatch:
    """Adds up the time of the functions that it is put around."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    def around(self, owner: Any, name: str, label: str) -> None:
        function: Callable[..., Any] = getattr(owner, name)

        def timed(*arguments: Any, **options: Any) -> Any:
            started = time.perf_counter()
            try:
                return function(*arguments, **options)
            finally:
                self.seconds[label] = self.seconds.get(label, 0.0) + time.perf_counter() - started

        setattr(owner, name, timed)


def measure(count: int, folder: Path, model: str, steps: int, profiling: bool) -> dict[str, Any]:
    """Run the batch once and say what it cost."""
    watch = Stopwatch()
    watch.around(generation_run, "_call_quietly", "generation")
    watch.around(runner, "run_generation", "generation, counting and first save")
    watch.around(runner, "encode", "first save")
    watch.around(RunFolder, "save_provisional", "first save")
    watch.around(RunFolder, "commit", "record")
    appended: list[int] = []
    write = store._write_all
    store._write_all = lambda descriptor, data: (appended.append(len(data)), write(descriptor, data))[1]  # type: ignore[func-returns-value,assignment]

    requests = [
        GenerationRequest(model, "a red circle", num_inference_steps=steps, seed=seed) for seed in range(count)
    ]
    started = time.perf_counter()
    result = run_batch(requests, folder, profiling=profiling)
    wall = time.perf_counter() - started
    records, problems = store.read_jsonl(folder / "runs.jsonl")
    if result.exit_code or problems or len(records) != count:
        raise SystemExit(f"the batch did not complete: {result}")
    memory = [record["memory"]["process_bytes"] for record in records]
    generation = watch.seconds["generation"]
    saving = watch.seconds["first save"] + watch.seconds["record"]
    counting = watch.seconds["generation, counting and first save"] - generation - watch.seconds["first save"]
    quarter = max(1, count // 4)
    seconds = [record["inference_time_seconds"] for record in records]
    return {
        "count": count,
        "profiling": profiling,
        "wall_seconds": wall,
        "generation_seconds": generation,
        "counting_seconds": counting,
        "bookkeeping_seconds": saving,
        "bookkeeping_share": saving / wall,
        "memory_after_10": memory[min(9, count - 1)],
        "memory_at_end": memory[-1],
        "memory_growth": memory[-1] - memory[min(9, count - 1)],
        "runs_jsonl_bytes": (folder / "runs.jsonl").stat().st_size,
        "median_generation_first_quarter": statistics.median(seconds[:quarter]),
        "median_generation_last_quarter": statistics.median(seconds[-quarter:]),
        "all_bytes_written": sum(appended),
    }


def main() -> int:
    """Run, print, and fail if a promise of the docs is broken."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=500, help="number of generations")
    parser.add_argument("--steps", type=int, default=2, help="denoising steps of each")
    parser.add_argument("--model", default=EMBEDDED, help="model id or folder")
    parser.add_argument("--no-profiling", action="store_true", help="do not count")
    parser.add_argument("--json", action="store_true", help="print JSON only")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="diffmeter-overhead-") as folder:
        found = measure(options.count, Path(folder) / "out", options.model, options.steps, not options.no_profiling)
    if options.json:
        print(json.dumps(found, indent=2))
    else:
        print(f"{found['count']} generations in {format_seconds(found['wall_seconds'])}")
        print(f"  generation   {format_seconds(found['generation_seconds'])}")
        print(f"  counting     {format_seconds(found['counting_seconds'])}")
        print(
            f"  bookkeeping  {format_seconds(found['bookkeeping_seconds'])}, "
            f"{format_percent(found['bookkeeping_share'])} of the time"
        )
        print(
            f"  memory       {format_bytes(found['memory_after_10'])} after ten, "
            f"{format_bytes(found['memory_at_end'])} at the end"
        )
        print(f"  runs.jsonl   {format_bytes(found['runs_jsonl_bytes'])}")
    flat = found["memory_growth"] < 16 * 2**20
    return 0 if flat and found["bookkeeping_share"] < 0.05 else 1


if __name__ == "__main__":
    sys.exit(main())
