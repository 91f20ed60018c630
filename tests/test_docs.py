"""The documentation's code runs as it is printed, and the links in it lead somewhere."""

from __future__ import annotations

import importlib
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
EMBEDDED = "diffmeter/shapes"
#: models whose weights are not here: the embedded model takes their place in code that generates
FULL_SIZE = ("stabilityai/stable-diffusion-2-1-base", "PixArt-alpha/PixArt-XL-2-512x512")
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").glob("*.md")])


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE)


def environment() -> dict[str, str]:
    here = Path(sys.executable).parent
    return {**os.environ, "PATH": f"{here}{os.pathsep}{os.environ['PATH']}", "DIFFMETER_DEVICE": "cpu"}


def test_python_blocks_of_the_profiling_page_run_from_a_checkout(tmp_path: Path) -> None:
    """One process runs them all; ``src`` is importable because it is started in the checkout."""
    code = blocks(ROOT / "docs" / "PROFILING.md", "python")
    assert len(code) >= 9
    script = "\n".join(f"print('block {number}', flush=True)\n{text}" for number, text in enumerate(code))
    for model in FULL_SIZE:
        script = script.replace(model, EMBEDDED)
    # the blocks ask for the sizes and steps of full-size models; the embedded model is square and small
    script = script.replace("(1, 3, 512, 512)", "(1, 3, 64, 64)").replace("512", "64").replace("768", "64")
    script = re.sub(r"(num_inference_steps|steps)=\d+", r"\1=2", script)
    outputs = {"DIFFMETER_OUTPUT_DIR": str(tmp_path)}
    result = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, env=environment() | outputs, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    assert "Component-wise MACs Breakdown" in result.stdout
    assert list(tmp_path.glob("*/generation_config.json"))


def test_python_block_of_the_readme_runs(tmp_path: Path) -> None:
    (code,) = blocks(ROOT / "README.md", "python")
    for model in FULL_SIZE:  # a downloaded model: the embedded one takes its place
        code = code.replace(model, str(ROOT / "src" / "diffmeter" / "embedded" / "shapes"))
    outputs = {"DIFFMETER_OUTPUT_DIR": str(tmp_path)}
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment() | outputs, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr


def readme_commands() -> list[str]:
    lines = "\n".join(blocks(ROOT / "README.md", "bash")).splitlines()
    return [line for line in lines if line and not line.startswith("make ")]  # make runs these tests


@pytest.mark.parametrize("command", readme_commands())
def test_commands_of_the_readme_run(command: str, tmp_path: Path) -> None:
    outputs = {"DIFFMETER_OUTPUT_DIR": str(tmp_path)}
    result = subprocess.run(
        shlex.split(command), cwd=ROOT, env=environment() | outputs, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout


def test_make_has_the_targets_that_the_readme_names() -> None:
    named = set(re.findall(r"`?make (\w+)", (ROOT / "README.md").read_text()))
    rules = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert named
    assert named <= rules


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_between_pages_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", page.read_text()):
        if "://" not in target:
            assert (page.parent / target).exists(), target


def test_examples_refuse_an_unknown_model_in_one_sentence() -> None:
    result = subprocess.run(
        [sys.executable, str(ROOT / "example_profiling_detailed.py"), "--model", "no/such-model", "--steps", "1"],
        env=environment() | {"HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 2
    assert "Traceback" not in result.stderr
    assert "no/such-model" in result.stderr


def test_the_validation_page_is_what_its_script_writes() -> None:
    page = (ROOT / "docs" / "VALIDATION.md").read_text("utf-8")
    for library in ("torch", "diffusers", "transformers"):
        if f"{library} {importlib.import_module(library).__version__}," not in page:
            pytest.skip(f"the page was written with another version of {library}")
    script = [sys.executable, str(ROOT / "benchmarks" / "validate.py"), "--check"]
    ran = subprocess.run(script, capture_output=True, text=True, timeout=600, check=False)
    assert ran.returncode == 0, ran.stderr[-2000:]


def test_python_blocks_of_the_models_page_run() -> None:
    script = "\n".join(blocks(ROOT / "docs" / "MODELS.md", "python"))
    ran = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, env=environment(), capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stderr
    # 8 heads do not matter: 3 projections and the output's, 77 x 512 x 512 each, and the two attention products.
    assert ran.stdout.splitlines()[0] == str(4 * 77 * 512 * 512 + 2 * 77 * 77 * 512)
