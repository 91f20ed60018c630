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
        assert row["speedup"] == 1.0 and row["complete"] is True


@pytest.mark.parametrize(
    ("output_format", "sign"),
    [("table", "Speedup"), ("csv", "macs.unet"), ("markdown", "| ---"), ("latex", "\\toprule"), ("html", "<table>")],
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


def test_a_figure_is_drawn(run, folder: str, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    figure = tmp_path / "compared.svg"
    run(folder, "--height", "32", "--steps", "2", "--plot", str(figure))
    assert "TMACs" in figure.read_text() or "MACs" in figure.read_text()


def test_bad_options_are_refused_before_counting(run) -> None:
    with pytest.raises(InputError, match="'xml' is not known"):
        run("m", "--format", "xml")
    with pytest.raises(InputError, match=r"\.png or \.svg"):
        run("m", "--plot", "figure.gif")
    with pytest.raises(InputError, match="at least 1"):
        run("m", "--steps", "0")


def test_columns_order_convention_and_unit_of_work(run, folder: str) -> None:
    asked = ("--height", "32", "--steps", "2", "--convention", "paper", "--per", "forward")
    shown = run(folder, *asked, "--columns", "model,macs", "--sort", "-macs", "-f", "csv")[0]
    head, line = shown.splitlines()
    assert head == "model,macs,lower_bound,note" and int(line.split(",")[1]) > 0
    with pytest.raises(InputError, match="no column 'mcas'"):
        run(folder, *asked, "--columns", "mcas")
    with pytest.raises(InputError, match="'papers' is not known"):
        run(folder, "--convention", "papers")


def test_a_saved_profile_is_compared_with_a_model(run, folder: str, tmp_path: Path) -> None:
    from diffmeter import dry_run

    dry_run(folder, height=32, width=32, num_inference_steps=2).save(tmp_path / "mine.json")
    rows = json.loads(run(folder, str(tmp_path / "mine.json"), "--height", "32", "--steps", "2", "--json")[0])["rows"]
    assert rows[0]["total_macs"] == rows[1]["total_macs"] and rows[1]["name"] == "mine"
