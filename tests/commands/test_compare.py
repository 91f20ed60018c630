"""``diffmeter compare``."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from diffmeter.errors import DiffmeterError, InputError


@pytest.fixture
def run(invoke: Callable[..., tuple[str, str]]) -> Callable[..., tuple[str, str]]:
    return lambda *arguments: invoke("compare", *arguments)


def test_json_alone_is_on_standard_output(run, folder: str) -> None:
    rows = json.loads(run(folder, folder, "--height", "32", "--steps", "2", "--batch", "2", "-f", "json")[0])["rows"]
    assert len(rows) == 2
    for row in rows:
        assert (row["height"], row["width"], row["steps"], row["batch"]) == (32, 32, 2, 2)
        assert row["total_flops"] == 2 * row["total_macs"] > 0
        assert row["growth"] == 1.0 and row["complete"] is True


@pytest.mark.parametrize(
    ("output_format", "sign"),
    [("table", "By component"), ("csv", "macs.unet"), ("markdown", "| ---"), ("latex", "\\toprule")],
)
def test_formats(run, folder: str, output_format: str, sign: str) -> None:
    assert sign in run(folder, "--height", "32", "--steps", "2", "--format", output_format)[0]


def test_one_failing_model_is_a_row(run, folder: str) -> None:
    shown = run("no-such-folder/at-all", folder, "--height", "32", "--steps", "2", "-f", "json")[0]
    rows = json.loads(shown)["rows"]
    assert rows[0]["error"] and rows[1]["error"] is None


def test_nothing_counted_is_an_error(run) -> None:
    with pytest.raises(DiffmeterError, match="No case could be counted"):
        run("no-such-folder/at-all")


def test_a_picture_is_drawn(run, folder: str, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    picture = tmp_path / "compared.svg"
    run(folder, "--height", "32", "--steps", "2", "--plot", str(picture))
    assert "TMACs" in picture.read_text() or "MACs" in picture.read_text()


def test_bad_options_are_refused_before_counting(run) -> None:
    with pytest.raises(InputError, match="'xml' is not known"):
        run("m", "--format", "xml")
    with pytest.raises(InputError, match=r"\.png or \.svg"):
        run("m", "--plot", "picture.gif")
    with pytest.raises(InputError, match="at least 1"):
        run("m", "--steps", "0")
