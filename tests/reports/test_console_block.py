"""The block that a generation prints."""

from __future__ import annotations

from pathlib import Path

import pytest

import diffmeter
from diffmeter import config, generate_image, generate_images_sequential
from diffmeter.reports.console_block import console_block

SHAPES = str(Path(diffmeter.__file__).parent / "embedded" / "shapes")
DATA = {
    "enabled": True,
    "complete": True,
    "params_str": "865.91M",
    "total_flops_str": "6.17 TFLOPs",
    "total_macs_str": "3.09 TMACs",
    "flops_per_step_str": "123.46 GFLOPs",
    "macs_per_step_str": "61.73 GMACs",
    "num_inference_steps": 50,
    "inference_time_str": "12.34s",
}


def test_the_lines_are_the_promised_ones() -> None:
    assert console_block("SD 2.1", DATA).splitlines() == [
        "📊 Compute Profile for SD 2.1:",
        "   Parameters: 865.91M",
        "   FLOPs (total): 6.17 TFLOPs",
        "   MACs (total): 3.09 TMACs",
        "   FLOPs/step: 123.46 GFLOPs",
        "   MACs/step: 61.73 GMACs",
        "   Steps: 50",
        "",
        "⏱️  Inference time: 12.34s",
    ]


def test_an_incomplete_profile_says_so() -> None:
    uncounted = [{"component": "unet", "reason": "unknown kernel"}]
    data = {**DATA, "total_macs_str": ">= 3.09 TMACs", "complete": False, "uncounted": uncounted}
    text = console_block("x", data)
    assert "MACs (total): >= 3.09 TMACs" in text
    assert "Not complete: unknown kernel" in text
    assert "Parameters: 865.91M" in text


def test_a_failed_profile_is_one_line() -> None:
    assert console_block("x", {"enabled": False, "reason": "no thop"}) == "⚠️  No compute profile for x: no thop"


def test_control_characters_of_a_name_are_not_printed() -> None:
    assert "\x1b" not in console_block("a\x1b[31mb\n", DATA).splitlines()[0]


@pytest.fixture
def outputs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(config, "OUTPUT_DIR", tmp_path)
    return tmp_path


def test_generate_image_prints_it(outputs: Path, capsys: pytest.CaptureFixture[str], monkeypatch) -> None:
    result = generate_image(SHAPES, "a red circle", num_inference_steps=1)
    printed = capsys.readouterr().out
    assert printed == console_block("shapes", result.profiling_data or {}) + "\n"
    assert result.profiling_data is not None and result.profiling_data["input_shape"] == (1, 3, 64, 64)
    assert result.profiling_data["latent_shape"] == (1, 4, 16, 16)

    generate_image(SHAPES, "a red circle", num_inference_steps=1, print_profile=False)
    generate_image(SHAPES, "a red circle", num_inference_steps=1, enable_profiling=False)
    monkeypatch.setattr(config, "PRINT_COMPUTE_PROFILE", False)
    generate_image(SHAPES, "a red circle", num_inference_steps=1)
    assert capsys.readouterr().out == ""


def test_a_sequence_prints_one_for_each_model(outputs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    results = generate_images_sequential([SHAPES, "diffmeter/shapes"], "a red circle", num_inference_steps=1, seed=3)
    printed = capsys.readouterr().out
    assert printed.count("📊 Compute Profile for") == 2
    assert [Path(result["image_path"]).name.split("_seed3")[0] for result in results] == ["shapes", "shapes"]
