"""``diffmeter formula``: mathematics, data for programs, a sentence for bad input; and profiles from formulas."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

import diffmeter

SHAPES = "diffmeter/shapes"


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    """The command in a process of its own."""
    return subprocess.run([sys.executable, "-m", "diffmeter", *arguments], capture_output=True, text=True, check=False)


def test_text_says_domain_polynomials_and_provenance() -> None:
    result = run("formula", SHAPES)
    assert result.returncode == 0, result.stderr
    for part in ("Holds for", "y = height // 8", "unet, called steps times", "Attention", "proved on", "diffusers"):
        assert part in result.stdout


def test_json_reads_back_and_is_saved(tmp_path: Path) -> None:
    path = tmp_path / "formula.json"
    result = run("formula", SHAPES, "--json", "--save", str(path))
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout) == json.loads(path.read_text())
    assert diffmeter.formula(path).matmul_macs() == diffmeter.formula(SHAPES).matmul_macs()


def test_latex_of_one_component() -> None:
    result = run("formula", SHAPES, "--component", "vae", "--format", "latex")
    assert result.returncode == 0, result.stderr
    assert r"\left\lfloor \frac{\mathrm{height}}{8} \right\rfloor" in result.stdout


def test_programs() -> None:
    assert "BigInt" in run("formula", SHAPES, "--format", "javascript").stdout
    exported = run("formula", SHAPES, "--format", "python").stdout
    namespace: dict[str, object] = {}
    exec(compile(exported, "exported", "exec"), namespace)
    found = namespace["cost"](steps=7)["total"]["total_macs"]  # type: ignore[operator]
    assert found == diffmeter.formula(SHAPES).total_macs(steps=7)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--format", "word"], "--format 'word'"),
        (["--quantity", "watts"], "--quantity 'watts'"),
        (["--component", "transformer"], "no component 'transformer'"),
        (["--guidance", "1e9"], "guidance scale"),
    ],
)
def test_bad_input_is_one_sentence(arguments: list[str], said: str) -> None:
    result = run("formula", SHAPES, *arguments)
    assert result.returncode == 2
    assert said in result.stderr
    assert result.stdout == ""
    assert result.stderr.count("\n") == 1


def test_a_profile_comes_from_the_formula_without_torch() -> None:
    code = (
        "import sys; from diffmeter.cli import main; sys.argv = ['diffmeter', 'profile', 'shapes', '--json']\n"
        "try: main()\n"
        "finally: print([m for m in ('torch', 'diffusers', 'transformers') if m in sys.modules], file=sys.stderr)\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.stderr.strip().endswith("[]")
    profile = json.loads(result.stdout)
    assert profile["conditions"]["kind"] == "formula"
    assert profile["conditions"]["versions"]["diffusers"]


def test_the_real_thing_can_be_forced_and_is_equal() -> None:
    settings = ["profile", SHAPES, "--height", "72", "--steps", "3", "--batch", "2", "--guidance", "1.0", "--json"]
    answer, forced = json.loads(run(*settings).stdout), json.loads(run(*settings, "--dry-run").stdout)
    assert answer["conditions"]["kind"] == "formula"
    assert forced["conditions"]["kind"] == "dry_run"
    for name in (
        "total_macs",
        "matmul_macs",
        "matmul_macs_without_attention",
        "macs_per_step",
        "timeline",
        "total_params",
    ):
        assert answer[name] == forced[name], name


def test_outside_the_domain_a_dry_run_answers() -> None:
    profile = json.loads(run("profile", SHAPES, "--steps", "101", "--json").stdout)
    assert profile["conditions"]["kind"] == "dry_run"
    assert profile["steps_run"] == 101
