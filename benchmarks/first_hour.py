"""Time three first tasks from a fresh clone: a table for a paper, the cheapest of five models, an image's cost file.

    python benchmarks/first_hour.py

Each is one command or at most five lines of Python, and runs in a process of its own with the packages of this
environment and the code of the clone. Nothing is downloaded.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

#: what somebody wants in the first hour, and what is typed for it
RECIPES: dict[str, list[str]] = {
    "a student's LaTeX table": [
        "-m", "diffmeter", "compare", "sd15", "segmind/SSD-1B", "--convention", "paper", "--per", "forward",
        "--format", "latex", "--label", "tab:cost",
    ],
    "an engineer's cheapest of five models": [
        "-m", "diffmeter", "compare", "sd15", "sdxl", "segmind/SSD-1B", "PixArt-alpha/PixArt-XL-2-1024-MS",
        "black-forest-labs/FLUX.1-schnell", "--height", "1024", "--sort", "macs", "--columns", "model,steps,macs",
    ],
    "an artist's cost file beside the image": [
        "-c",
        "from diffmeter import get_model_manager, observe\n"
        "pipe = get_model_manager().load_model('diffmeter/shapes')\n"
        "with observe(pipe) as run:\n"
        "    image = pipe('a red circle', num_inference_steps=10).images[0]\n"
        "run.save('circle.png', image)\n",
    ],
}  # fmt: skip


def main() -> int:
    """Run each recipe and print its time; the exit code says whether all of them worked."""
    failed = 0
    with tempfile.TemporaryDirectory() as folder:
        clone = Path(folder) / "clone"
        subprocess.run(["git", "clone", "--quiet", str(ROOT), str(clone)], check=True)
        environment = {**os.environ, "PYTHONPATH": str(clone / "src"), "HF_HUB_OFFLINE": "1"}
        for name, arguments in RECIPES.items():
            started = time.perf_counter()
            ran = subprocess.run(
                [sys.executable, *arguments], cwd=folder, env=environment, capture_output=True, text=True, check=False
            )
            seconds = time.perf_counter() - started
            print(f"{name}: {seconds:.1f} s{'' if ran.returncode == 0 else ' FAILED'}")
            print((ran.stdout + (ran.stderr if ran.returncode else "")).rstrip())
            failed += ran.returncode != 0
        print("written beside the image:", ", ".join(sorted(p.name for p in Path(folder).glob("circle.*"))))
    return min(failed, 1)


if __name__ == "__main__":
    sys.exit(main())
