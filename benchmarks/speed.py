"""How long an answer takes, as ratios to what anybody has to pay: ``import torch``, and one plain forward.

    python benchmarks/speed.py            measure and write docs/SPEED.md and benchmarks/results/speed.json
    python benchmarks/speed.py --page     write the page again from the last results

Whole processes run on one core, each three times, and the smallest is taken; ratios are to
``python -c "import torch"`` of the same environment in the same run. A dry run is measured in a process of its own
after imports, building its twins included, beside one plain forward of the denoiser on the meta device,
``FlopCounterMode`` and thop around that forward.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results" / "speed.json"
PAGE = HERE.parent / "docs" / "SPEED.md"
REPEATS = 3
TEN = [
    "sd15",
    "sd21",
    "sdxl",
    "sd3",
    "flux-dev",
    "flux-schnell",
    "pixart-sigma-1024",
    "sana",
    "auraflow",
    "sdxl-turbo",
]
THOUSAND = ["--height", ",".join(str(64 * n) for n in range(8, 18)), "--steps", ",".join(map(str, range(10, 44)))]

#: name, arguments of ``python``, and the ratio to ``import torch`` that is aimed at
PROCESSES: list[tuple[str, list[str], float | None]] = [
    ("import torch", ["-c", "import torch"], None),
    ("import diffmeter", ["-c", "import diffmeter"], None),
    ("diffmeter --help", ["-m", "diffmeter", "--help"], None),
    ("profile sdxl --json", ["-m", "diffmeter", "profile", "sdxl", "--json"], 0.2),
    ("profile sdxl", ["-m", "diffmeter", "profile", "sdxl"], 0.2),
    ("compare ten models", ["-m", "diffmeter", "compare", *TEN, "--format", "json"], 0.35),
    (
        "sweep 1,020 points of three models",
        ["-m", "diffmeter", "sweep", "sdxl", "sd15", "flux-dev", *THOUSAND, "--format", "csv"],
        0.5,
    ),
]
#: model, its settings, and the ratio of the whole dry run to one plain forward of the denoiser that is aimed at
DRY_RUNS: list[tuple[str, dict[str, Any], float]] = [
    ("flux-dev", {"height": 1024, "width": 1024, "steps": 28}, 0.35),
    ("sdxl", {"height": 1024, "width": 1024, "steps": 30}, 0.5),
    ("sd21", {"height": 768, "width": 768, "steps": 50}, 0.5),
]


def one_process(arguments: list[str]) -> dict[str, Any]:
    """Seconds (wall and processor) and peak memory of a whole process, the smallest of some."""
    found: list[tuple[float, float, int]] = []
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONHASHSEED": "0"}
    for _ in range(REPEATS):
        started = time.perf_counter()
        process = subprocess.Popen(
            [sys.executable, *arguments], env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        )
        complaint = process.stderr.read() if process.stderr is not None else ""
        _, status, usage = os.wait4(process.pid, 0)
        if os.waitstatus_to_exitcode(status):
            return {"error": complaint.strip().splitlines()[-1:] or ["no message"]}
        found.append((time.perf_counter() - started, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024))
    wall, processor, memory = (min(values) for values in zip(*found, strict=True))
    return {"seconds": wall, "processor_seconds": processor, "peak_bytes": memory}


def smallest(function: Callable[[], Any]) -> float:
    """The fewest processor seconds of some runs."""
    seconds = []
    for _ in range(REPEATS):
        started = time.process_time()
        function()
        seconds.append(time.process_time() - started)
    return min(seconds)


def dry_runs(model: str, settings: dict[str, Any]) -> dict[str, Any]:
    """Processor seconds of one dry run and of single forwards of the denoiser; called in a process of its own."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from diffmeter.metering.recording.dry_run import ModelDryRuns

    torch.set_num_threads(1)
    ModelDryRuns("shapes").dry_run(steps=2)  # everything that is loaded once
    first = ModelDryRuns(model)
    started = time.process_time()
    profile = first.dry_run(**settings)
    whole = time.process_time() - started
    started = time.process_time()
    first.dry_run(**settings)
    again = time.process_time() - started
    rehearsal = first.rehearse(**settings)
    name = profile.denoisers[0]
    record = next(call for call in rehearsal.recording.calls if call.component == name)
    args, kwargs = record.arguments.thaw(lambda _, spec: torch.empty(spec.shape, dtype=spec.dtype, device="meta"))
    denoiser = getattr(first.pipe, name)

    def forward() -> None:
        with torch.no_grad():
            denoiser(*args, **kwargs)

    def flop_counter() -> None:
        with torch.no_grad(), FlopCounterMode(display=False):
            denoiser(*args, **kwargs)

    def with_thop() -> None:
        import thop

        class Positional(torch.nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.inner = denoiser

            def forward(self, _: torch.Tensor) -> Any:
                return self.inner(*args, **kwargs)

        thop.profile(Positional(), inputs=(torch.empty(0),), verbose=False)

    forward()
    found = {"dry_run": whole, "dry_run_again": again, "forward": smallest(forward)}
    for what, function in (("flop_counter", flop_counter), ("thop", with_thop)):
        try:
            found[what] = smallest(function)
        except Exception as error:  # a counter that cannot count is a result, too
            found[f"{what}_error"] = f"{type(error).__name__}: {error}"[:200]
    return found


def imports() -> dict[str, float]:
    """Processor seconds of importing diffusers and a pipeline's class, and what diffmeter adds."""
    import importlib

    found = {}
    for name in ("diffusers", "diffusers.pipelines.stable_diffusion_xl.pipeline_stable_diffusion_xl"):
        started = time.process_time()
        importlib.import_module(name)
        found[name.rpartition(".")[2]] = time.process_time() - started
    started = time.process_time()
    importlib.import_module("diffmeter.metering.recording.dry_run")
    found["diffmeter"] = time.process_time() - started
    return found


def versions() -> dict[str, str]:
    """Of what decides the times.

    Called in a process of its own: this one stays small, since a child's peak memory counts that of the process that
    it was forked from.
    """
    from diffmeter.metering.recording.assemble import versions as found

    return dict(found())


def in_child(call: str) -> dict[str, Any]:
    """The result of a function of this file in a new process."""
    code = f"import json, speed; print(json.dumps(speed.{call}))"
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=HERE, env=environment, capture_output=True, text=True, check=False
    )
    if result.returncode:
        return {"error": result.stderr.strip().splitlines()[-1:]}
    found: dict[str, Any] = json.loads(result.stdout.strip().splitlines()[-1])
    return found


def measure() -> dict[str, Any]:
    """Everything, in one run."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    return {
        "python": platform.python_version(),
        "machine": platform.machine(),
        "versions": in_child("versions()"),
        "load": os.getloadavg()[0],
        "processes": {name: one_process(arguments) for name, arguments, _ in PROCESSES},
        "dry_runs": {model: in_child(f"dry_runs({model!r}, {settings!r})") for model, settings, _ in DRY_RUNS},
        "imports": in_child("imports()"),
    }


def page(found: dict[str, Any]) -> str:
    """The page in Markdown."""
    versions = ", ".join(f"{name} {version}" for name, version in found["versions"].items() if name != "python")
    torch = found["processes"]["import torch"]["processor_seconds"]
    lines = [
        "# Speed",
        "",
        "Written by `benchmarks/speed.py`. Seconds are of the processor, on one core, the smallest of three runs, "
        "so that a busy machine changes them little. Ratios are to `import torch`, or to a plain forward, in the same "
        "run.",
        "",
        f"Python {found['python']} on {found['machine']}; {versions}. "
        f"The machine's load was {found['load']:.1f} when the run began.",
        "",
        "## Whole processes",
        "",
        "Models of the catalog are answered from their formulas, without torch, diffusers or transformers.",
        "",
        "| Process | Seconds | Ratio | Aim | Peak memory (MB) |",
        "| --- | ---: | ---: | ---: | ---: |",
    ]
    for name, _, aim in PROCESSES:
        row = found["processes"][name]
        if "error" in row:
            lines.append(f"| {name} | failed: {row['error'][0]} | | | |")
            continue
        seconds = row["processor_seconds"]
        goal = "" if aim is None else f"{aim:g}"
        memory = f"{row['peak_bytes'] / 1e6:.0f}"
        lines.append(f"| `{name}` | {seconds:.3f} | {seconds / torch:.2f} | {goal} | {memory} |")
    lines += [
        "",
        "## Dry runs",
        "",
        "After imports, in one process: the whole dry run (scheduler, guidance, text encoders, decoder, both "
        "counters, twins included) beside single forwards of the denoiser on the meta device.",
        "",
        "| Model | Plain forward (s) | FlopCounterMode | thop | Whole dry run | Aim | Same again |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for model, settings, aim in DRY_RUNS:
        row = found["dry_runs"][model]
        if "error" in row:
            lines.append(f"| {model} | failed: {row['error']} | | | | | |")
            continue
        forward = row["forward"]

        def ratio(what: str, row: dict[str, Any] = row, forward: float = forward) -> str:
            return f"{row[what] / forward:.2f}" if what in row else "fails"

        name = f"{model}, {settings['width']} x {settings['height']}, {settings['steps']} steps"
        lines.append(
            f"| {name} | {forward:.2f} | {ratio('flop_counter')} | {ratio('thop')} "
            f"| {ratio('dry_run')} "
            f"| {aim:g} | {ratio('dry_run_again')} |"
        )
    rows = found["imports"]
    lines += ["", "## Imports", "", "| Module | Seconds |", "| --- | ---: |"]
    lines += [f"| `{name}` | {seconds:.3f} |" for name, seconds in rows.items() if name != "error"]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure, unless only the page is wanted, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--page", action="store_true", help="only write the page from the last results")
    options = parser.parse_args()
    if not options.page:
        RESULTS.write_text(json.dumps(measure(), indent=1) + "\n")
    PAGE.write_text(page(json.loads(RESULTS.read_text())))
    print(PAGE.read_text())


if __name__ == "__main__":
    main()
