"""A fresh checkout in a folder of its own, and Python in which diffmeter is not installed, only its dependencies."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

#: What git has and a copy leaves out for speed: results, documentation and the history itself.
_LEFT_OUT = shutil.ignore_patterns(".git", ".venv", "__pycache__", ".*_cache", ".hypothesis", "outputs", "build")


def fresh_checkout(folder: Path) -> Path:
    """Copy the repository to ``folder``/checkout, as a clone has it."""
    target = folder / "checkout"
    shutil.copytree(ROOT, target, ignore=_LEFT_OUT)
    (target / "outputs").mkdir()
    return target


def dependencies() -> list[str]:
    """The folders that hold the installed dependencies; files that add further folders to the path are not read."""
    return [path for path in sys.path if Path(path).name in ("site-packages", "dist-packages")]


def run_python(
    *arguments: str, cwd: Path, path: tuple[str | Path, ...] = (), env: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run Python without this installation of diffmeter; ``path`` comes before the dependencies."""
    places = os.pathsep.join([*map(str, path), *dependencies()])
    environment = {**os.environ, "DIFFMETER_DEVICE": "cpu", **(env or {}), "PYTHONPATH": places}
    command = [sys.executable, "-S", *arguments]  # -S: no site, hence no .pth file that names a checkout
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False)
