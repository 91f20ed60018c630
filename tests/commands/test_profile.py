"""``diffmeter profile``: JSON and nothing else for programs, a table for people, one sentence for bad input."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import jsonschema
import pytest

import diffmeter

SD21 = "stabilityai/stable-diffusion-2-1-base"


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "diffmeter", *arguments], capture_output=True, text=True)


def test_json_is_the_profile_and_nothing_else() -> None:
    result = run("profile", SD21, "--steps", "2", "--json")
    assert result.returncode == 0, result.stderr
    profile = json.loads(result.stdout)
    schema = json.loads((Path(diffmeter.__file__).parent / "schema.json").read_text())
    jsonschema.validate(profile, schema)
    assert profile["complete"] and profile["conditions"]["kind"] in ("dry_run", "formula")
    # exact products of one decode of 64 x 64 latents, and of one UNet call at batch 1 (twice that with guidance)
    assert profile["components"]["vae"]["matmul_macs"] == 1_257_259_466_752
    (call,) = profile["components"]["unet"]["calls"]
    assert call["matmul_macs"] == 2 * 402_128_732_160
    assert call["count"] == 3  # PNDM: one more than the steps


def test_table_for_people() -> None:
    result = run("profile", SD21, "--steps", "1", "--height", "256", "--width", "256")
    assert result.returncode == 0, result.stderr
    assert "UNet2DConditionModel" in result.stdout and "256 x 256" in result.stdout
    assert "both counters agree" in result.stdout


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("no/such-model",), "no/such-model"),
        ((SD21, "--steps", "0"), "0"),
        ((SD21, "--batch", "0"), "0"),
        ((SD21, "--height", "500"), "500"),
        ((SD21, "--height", "-8"), "-8"),
        (("./no-such-folder",), "no-such-folder"),
        ((SD21, "--tokens", "0"), "0"),
    ],
)
def test_bad_input_is_one_sentence_and_code_2(
    arguments: tuple[str, ...], named: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    result = run("profile", *arguments)
    assert result.returncode == 2
    assert result.stdout == ""
    assert "Traceback" not in result.stderr and named in result.stderr
    assert len(result.stderr.strip().splitlines()) <= 5
