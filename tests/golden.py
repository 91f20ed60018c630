"""Golden files: whole outputs as they were last looked at. ``pytest --refresh-golden`` writes them anew."""

from __future__ import annotations

from pathlib import Path

import pytest

FOLDER = Path(__file__).parent / "golden_files"


def assert_golden(name: str, text: str, config: pytest.Config) -> None:
    """``text`` is what the golden file ``name`` holds; with ``--refresh-golden`` the file gets it."""
    path = FOLDER / name
    if config.getoption("--refresh-golden"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n", "utf-8")
    assert path.is_file(), f"{path} is missing: look at the output, then run pytest --refresh-golden"
    assert text + "\n" == path.read_text("utf-8"), f"{path} differs: look at the change, then run --refresh-golden"
