"""``diffmeter sweep``."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from diffmeter.commands.sweep import numbers
from diffmeter.errors import InputError


@pytest.fixture
def run(invoke: Callable[..., tuple[str, str]]) -> Callable[..., tuple[str, str]]:
    return lambda *arguments: invoke("sweep", *arguments)


def test_every_combination_is_a_row(run, folder: str, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    picture = tmp_path / "swept.png"
    options = ("--height", "32, 64", "--steps", "2,3", "--batch", "1,2", "-f", "json", "--plot", str(picture))
    rows = json.loads(run(folder, *options)[0])["rows"]
    assert [(row["height"], row["batch"], row["steps"]) for row in rows] == [
        (height, batch, steps) for height in (32, 64) for batch in (1, 2) for steps in (2, 3)
    ]
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_numbers() -> None:
    assert numbers(None, "--steps") is None
    assert numbers("512, 768,512", "--height") == [512, 768]
    for text in ("", "5,", "a", "-1", "0", "1.5", "²"):
        with pytest.raises(InputError, match="whole numbers"):
            numbers(text, "--steps")


def test_bad_lists_are_refused(run) -> None:
    with pytest.raises(InputError, match="--batch 'two'"):
        run("m", "--batch", "two")
    with pytest.raises(InputError, match="do not pair up"):
        run("m", "--height", "1,2", "--width", "1,2,3")
