"""``diffmeter generate``."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

import diffmeter
from diffmeter import cli
from diffmeter.commands.generate import model_and_prompt

SHAPES = str(Path(diffmeter.__file__).parent / "embedded" / "shapes")


def call(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    """Run the command line in this process; its exit code."""
    monkeypatch.setattr(sys, "argv", ["diffmeter", *arguments])
    with pytest.raises(SystemExit) as caught:
        cli.main()
    return int(caught.value.code or 0)


def test_paths_and_profile_go_to_standard_output(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["generate", "--model", SHAPES, "--prompt", "a red circle", "--steps", "2", "--seed", "4"]
    assert call(monkeypatch, *arguments, "-n", "2", "--output", str(tmp_path / "out")) == 0
    shown = capsys.readouterr().out
    config = json.loads((tmp_path / "out" / "generation_config.json").read_text())
    assert [entry["seed"] for entry in config["models"]] == [4, 5]
    for entry in config["models"]:
        assert f"{entry['image_path']}  (seed {entry['seed']})" in shown
    profile = config["models"][0]["compute_profile"]
    for key in ("params_str", "total_flops_str", "total_macs_str", "flops_per_step_str", "macs_per_step_str"):
        assert profile[key] in shown
    assert "unet" in shown and "text_encoder" in shown and "vae" in shown
    assert str(tmp_path / "out" / "generation_config.json") in shown


def test_json_and_no_profiling(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["generate", SHAPES, "-p", "[red]<b>\x1b[31m", "--steps", "1", "--no-profiling", "--json"]
    assert call(monkeypatch, *arguments, "--output", str(tmp_path)) == 0
    (result,) = json.loads(capsys.readouterr().out)
    assert Path(result["image_path"]).is_file() and result["compute_profile"] is None


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--model", "nobody/unknown", "--prompt", "x"], "nobody/unknown"),
        (["--model", SHAPES], "a prompt is missing"),
        (["sd15"], "a prompt is missing"),
        (["nobody/unknown", "a", "b"], "one word too many"),
        (["--model", SHAPES, "--prompt", "x", "--steps", "0"], "steps"),
        (["--model", SHAPES, "--prompt", "x", "--num-images", "0"], "at least 1, not 0"),
        (["--model", SHAPES, "--prompt", "x", "--height", "60"], "60"),
        (["--model", SHAPES, "--prompt", "x", "--seed", "-3"], "seed"),
        (["--model", SHAPES, "--prompt", "x", "-n", "2", "--seed", str(2**63 - 1)], "seed"),
        (["--model", SHAPES, "--prompt", "x", "--guidance", "nan"], "guidance"),
        (["--model", SHAPES, "--prompt", "x", "--device", "abacus"], "abacus"),
        ([SHAPES, "--model", "o/other", "--prompt", "x"], "two models"),
    ],
)
def test_bad_input_is_one_sentence_exit_code_2_and_no_file(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    reason: str,
) -> None:
    assert call(monkeypatch, "generate", *arguments, "--output", str(tmp_path / "out")) == 2
    printed = capsys.readouterr()
    message = [line for line in printed.err.splitlines() if line.startswith("diffmeter: ")]
    assert len(message) == 1 and reason in message[0]
    assert printed.out == "" and "Traceback" not in printed.err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("words", "model", "prompt", "expected"),
    [
        (["a red circle"], None, None, ("diffmeter/shapes", "a red circle")),
        (["circle"], None, None, ("diffmeter/shapes", "circle")),
        (["sd15", "a cat"], None, None, ("sd15", "a cat")),
        (["o/name", "a cat"], None, None, ("o/name", "a cat")),
        (["o/name"], None, "a cat", ("o/name", "a cat")),
        (["a cat"], "o/name", None, ("o/name", "a cat")),
        (["o/name"], "o/name", "a cat", ("o/name", "a cat")),
        ([], "o/name", "a cat", ("o/name", "a cat")),
    ],
)
def test_one_word_that_names_no_model_is_the_prompt(
    words: list[str], model: str | None, prompt: str | None, expected: tuple[str, str]
) -> None:
    assert model_and_prompt(words, model, prompt) == expected


def test_an_unwritable_folder_is_exit_code_2(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    arguments = ["generate", "--model", SHAPES, "--prompt", "x", "--output", str(tmp_path / "file")]
    assert call(monkeypatch, *arguments) == 2
    assert "is no folder" in capsys.readouterr().err


def test_a_generation_that_breaks_is_exit_code_1_without_a_traceback(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from diffmeter.model_manager import get_model_manager

    pipe = get_model_manager().load_model(SHAPES)

    def fail(*arguments: object) -> None:
        raise RuntimeError("broken kernel")

    handle = pipe.unet.register_forward_pre_hook(fail)
    try:
        arguments = ["generate", "--model", SHAPES, "--prompt", "x", "--output", str(tmp_path / "out")]
        assert call(monkeypatch, *arguments) == 1
    finally:
        handle.remove()
    assert "the generation failed: RuntimeError: broken kernel" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_help_loads_neither_torch_nor_diffusers() -> None:
    code = (
        "import sys; sys.argv = ['diffmeter', '{verb}', '--help']\n"
        "from diffmeter import cli\n"
        "try: cli.main()\n"
        "except SystemExit as e: assert not e.code\n"
        "assert not {{'torch', 'diffusers', 'transformers', 'accelerate', 'yaml'}} & set(sys.modules)\n"
    )
    for verb in ("generate", "batch", "show"):
        subprocess.run([sys.executable, "-c", code.format(verb=verb)], check=True, capture_output=True)
