"""Hold predicted peak memory against real runs on the CPU, pipeline by pipeline, and write docs/MEMORY.md.

    python benchmarks/memory.py            run every pipeline below and write the page

Each of the tiny pipelines of ``tests/zoo`` below runs for real under the profiler, which tells every allocation, on
one thread; what it had allocated at most, its weights included, is compared with what a dry run predicts.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from diffmeter.prediction import memory  # noqa: E402
from diffmeter.prediction.workload import Workloads  # noqa: E402
from tests.zoo import ZOO  # noqa: E402

PAGE = ROOT / "docs" / "MEMORY.md"
#: every twelfth of the zoo, in its order: chosen by place, not by how well it is met
PIPELINES = list(ZOO)[::12]


def real_peak(run: Callable[[], Any]) -> int:
    """The most bytes that a second run has allocated at a time, besides what was there before."""
    run()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        run()
    now = most = 0
    for event in seen.profiler.kineto_results.events():
        if event.name() == "[memory]":
            now += event.nbytes()
            most = max(most, now)
    return most


def compare(name: str) -> tuple[int, int]:
    """Bytes that a pipeline really needs at most, and bytes that are predicted; weights included in both."""
    case = ZOO[name]
    pipe = case.build()
    real = real_peak(lambda: pipe(**case.arguments(pipe)))
    workload = Workloads(pipe).of(**case.arguments(pipe))
    footprints = [part.footprint(memory.CPU) for part in workload.components.values()]
    return real + sum(f.weights for f in footprints), memory.peak(footprints, memory.RESIDENT, memory.CPU)


def main() -> None:
    """Run every pipeline and write the page."""
    torch.set_num_threads(1)
    rows, off = [], []
    for name in PIPELINES:
        try:
            real, predicted = compare(name)
        except Exception as error:
            rows.append((1.0, f"| {name} | | | {type(error).__name__} |"))
            continue
        off.append(abs(predicted / real - 1))
        rows.append((off[-1], f"| {name} | {real:,} | {predicted:,} | {predicted / real - 1:+.1%} |"))
        print(rows[-1][1], flush=True)
    rows.sort(reverse=True)
    within = sum(value <= 0.05 for value in off)
    PAGE.write_text(
        "# Predicted memory against real runs\n\n"
        "Written by `python benchmarks/memory.py`: peak of allocated bytes of tiny pipelines on a CPU, weights "
        "included, by the profiler's memory events and as predicted from a dry run; the largest misses first.\n\n"
        f"{len(off)} pipelines, {within} of them within 5%; {median(off):.1%} in the median.\n\n"
        "What is missed is memory that the pipeline's own code holds between calls (images that it was given, "
        "latents of several sizes), and kernels that no rule here knows.\n\n"
        "| pipeline | real bytes | predicted bytes | off |\n|---|---:|---:|---:|\n"
        + "\n".join(r for _, r in rows)
        + "\n"
    )


if __name__ == "__main__":
    main()
