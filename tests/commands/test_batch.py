"""``diffmeter batch`` as typed; what a batch does is tested in tests/batch."""

from __future__ import annotations

import json
import sys
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

import diffmeter
from diffmeter import cli
from diffmeter.generation.batch.display import BatchProgress
from diffmeter.generation.batch.plan import Costs
from diffmeter.generation.request import GenerationRequest
from diffmeter.rendering import printable

SHAPES = str(Path(diffmeter.__file__).parent / "embedded" / "shapes")


def call(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    monkeypatch.setattr(sys, "argv", ["diffmeter", *map(str, arguments)])
    with pytest.raises(SystemExit) as caught:
        cli.main()
    return int(caught.value.code or 0)


@pytest.fixture
def spec(tmp_path: Path) -> Path:
    path = tmp_path / "spec.yaml"
    path.write_text(f"models: {json.dumps(SHAPES)}\nprompts: [a red circle, a blue square]\nseeds: [0, 1]\nsteps: 1\n")
    return path


def test_a_batch_from_yaml_quiet_where_there_is_no_terminal(
    spec: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert call(monkeypatch, "batch", spec, "--output", out, "--no-profiling") == 0
    printed = capsys.readouterr()
    assert f"4 of 4 images are in {out}" in printed.out and printed.err == ""
    assert len(list(out.glob("*.png"))) == 4
    assert call(monkeypatch, "batch", spec, "--output", out, "--no-profiling") == 2
    assert "--resume" in capsys.readouterr().err
    assert call(monkeypatch, "batch", spec, "--output", out, "--no-profiling", "--resume", "--json") == 0
    result = json.loads(capsys.readouterr().out)
    assert (result["already_finished"], result["finished"], result["resume"]) == (4, 0, None)


def test_the_plan_and_its_compute_without_generating(
    spec: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert call(monkeypatch, "batch", spec, "--output", out, "--dry-run", "--json") == 0
    plan = json.loads(capsys.readouterr().out)
    assert not out.exists()
    assert plan["planned"] == 4 and len({g["total_macs"] for g in plan["generations"]}) == 1
    assert plan["total_macs"] == 4 * plan["generations"][0]["total_macs"] > 0
    assert plan["total_flops"] == 2 * plan["total_macs"]
    assert call(monkeypatch, "batch", spec, "--dry-run") == 0
    assert "Images to generate: 4" in capsys.readouterr().out


def test_a_plan_of_which_nothing_can_be_counted_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    spec = tmp_path / "spec.json"
    spec.write_text(json.dumps({"models": ["nobody/unknown"], "prompts": "x", "steps": 1}))
    assert call(monkeypatch, "batch", spec, "--dry-run") == 2
    printed = capsys.readouterr()
    assert "Not counted: nobody/unknown:" in printed.out and printed.out.startswith("INCOMPLETE")
    assert "Nothing of this batch could be counted" in printed.err


def test_failures_are_named_with_exit_code_1(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    spec = tmp_path / "spec.json"
    spec.write_text(json.dumps({"models": ["nobody/unknown", SHAPES], "prompts": "x", "steps": 1}))
    out = tmp_path / "out with space"
    assert call(monkeypatch, "batch", spec, "--output", out, "--no-profiling") == 1
    printed = capsys.readouterr()
    assert "1 of 2 images" in printed.out
    assert "failed: nobody/unknown:" in printed.err
    assert f"--output '{out}' --resume" in printed.err


def test_a_csv_of_prompts_with_a_model_from_the_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    spec = tmp_path / "p.csv"
    spec.write_text("prompt,seed,steps\na red circle,3,1\n")
    assert call(monkeypatch, "batch", spec, "--model", SHAPES, "-o", tmp_path / "out", "--no-profiling") == 0
    assert "1 of 1 images" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("text", "arguments", "reason"),
    [
        ("models: [", [], "cannot be parsed"),
        ("models: a\nprompts: x\nsteps: 0", [], "the least is 1"),
        ("models: a\nprompts: x", ["--tracker", "nothing"], "unknown tracker"),
        ("models: a\nprompts: x", ["--threads", "0"], "threads"),
    ],
)
def test_bad_input_is_one_sentence_exit_code_2_and_no_file(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    text: str,
    arguments: list[str],
    reason: str,
) -> None:
    spec = tmp_path / "spec.yaml"
    spec.write_text(text)
    assert call(monkeypatch, "batch", spec, "--output", tmp_path / "out", *arguments) == 2
    printed = capsys.readouterr()
    assert reason in printed.err and printed.err.count("\n") == 1 and printed.out == ""
    assert not (tmp_path / "out").exists()


def test_progress_by_compute() -> None:
    # One generation of 9 units and one of 1: after the large one a tenth is left, though half of the images.
    large = GenerationRequest("m/[red]", "x", num_inference_steps=9)
    small = GenerationRequest("m/[red]", "x", num_inference_steps=1)
    screen = StringIO()
    console = Console(file=screen, force_terminal=True, width=200)
    progress = BatchProgress([large, small], Costs({large.key: 9_000_000_000, small.key: 1_000_000_000}), console)
    with progress:
        progress.loading("m/[red]")
        progress.started(large)
        progress.step(3)
        progress._started -= 90.0  # as if it had taken 90 seconds
        progress.finished(large, {})
        assert progress._note() == "1/2 images, 9.00 GMACs done, 1.00 GMACs to go, about 10.00s left"
        progress.failed(small, "no [memory]\x1b[2J")
        assert progress._note().startswith("2/2 images")
    assert "\x1b[2J" not in screen.getvalue() and "m/[red]" in screen.getvalue()


def test_text_for_a_terminal() -> None:
    assert printable("a\x1b[31m\0\u202e\ud800ü\nb") == "a\\x1b[31m\\x00\\u202e\\ud800ü\nb"
    assert printable("x" * 100, 10) == "xxxxxxx..." and printable("a\nb", 10) == "a\\nb"
