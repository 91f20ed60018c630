"""``diffmeter profile`` of a file from a model site, with a LoRA, in one command."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from diffmeter import cli
from diffmeter.models.sources import build_pipeline_without_weights
from tests import weight_layouts as layouts
from tests.models.test_adapters import lora_file

SIZE = ("--height", "256", "--width", "256", "--steps", "2")


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr("sys.argv", ["diffmeter", "profile", *arguments])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    return int(ended.value.code or 0)


def test_a_file_a_lora_and_a_question(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pipe = build_pipeline_without_weights("sd15")
    model = layouts.write_sparse(tmp_path / "model.safetensors", layouts.ldm_unet(pipe.unet))
    lora = lora_file(tmp_path / "style.safetensors", pipe.unet, rank=8)
    assert run(monkeypatch, str(model), "--lora", f"{lora}:0.8", *SIZE) == 0
    text = capsys.readouterr().out
    assert "From the file" in text
    assert "text_encoder" in text
    assert "rank 8" in text
    assert "Complete" in text
    assert run(monkeypatch, str(model), *SIZE, "--json") == 0
    plain = json.loads(capsys.readouterr().out)
    assert run(monkeypatch, str(model), "--lora", str(lora), *SIZE, "--json") == 0
    adapted = json.loads(capsys.readouterr().out)
    assert adapted["components"]["unet"]["matmul_macs"] > plain["components"]["unet"]["matmul_macs"]
    assert adapted["conditions"]["adapters"][0]["rank"] == 8


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--set", "height"), "--set takes NAME=VALUE, not 'height'"),
        (("--scheduler", "eular"), "'eular' is no scheduler of diffusers"),
        (("--lora", "nowhere/file.safetensors:nan"), "the scale of the LoRA"),
    ],
)
def test_bad_input(
    arguments: tuple[str, ...],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run(monkeypatch, "diffmeter/shapes", *arguments) == 2
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error
