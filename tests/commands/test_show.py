"""``diffmeter show``."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

import diffmeter
from diffmeter import cli
from diffmeter.inference import generate_image
from diffmeter.profile import ComputeProfile
from diffmeter.storage import png as images

SHAPES = str(Path(diffmeter.__file__).parent / "embedded" / "shapes")


def call(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    monkeypatch.setattr(sys, "argv", ["diffmeter", "show", *map(str, arguments)])
    with pytest.raises(SystemExit) as caught:
        cli.main()
    return int(caught.value.code or 0)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made")
    return Path(
        generate_image(
            SHAPES, "a \x1b[31mred circle", "dark", num_inference_steps=2, seed=9, output_dir=folder
        ).filepath
    )


def test_an_image_tells_its_parameters_and_profile(
    made: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(monkeypatch, made) == 0
    shown = capsys.readouterr().out
    assert "a \\x1b[31mred circle\nNegative prompt: dark\nSteps: 2, " in shown and "Seed: 9" in shown
    profile = json.loads((made.parent / "generation_config.json").read_text())["models"][0]["compute_profile"]
    assert profile["total_macs_str"] in shown and "unet" in shown
    assert call(monkeypatch, made, "--json") == 0
    value = json.loads(capsys.readouterr().out)
    assert value["record"]["compute_profile"] == profile and value["texts"].keys() == {"parameters"}


def test_a_folder_tells_its_runs(
    made: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(monkeypatch, made.parent) == 0
    shown = capsys.readouterr().out
    assert made.name in shown and "1 image, 0 failed" in shown and "\x1b[31m" not in shown
    assert call(monkeypatch, made.parent, "--json") == 0
    assert json.loads(capsys.readouterr().out)["runs"][0]["image"] == made.name


def test_a_json_file_tells_its_profile(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The records of a folder, one record's image, and a file that holds a profile alone: the same numbers."""
    profile = ComputeProfile.load(made)
    alone = profile.save(tmp_path / "alone.json")
    shown = []
    for path in (made, alone, made.parent / "generation_config.json"):
        assert call(monkeypatch, path, "--columns", "component,macs", "--format", "csv") == 0
        shown.append(capsys.readouterr().out)
    assert shown[0] == shown[1] == shown[2] and f"unet,{profile.components['unet'].total_macs}," in shown[0]
    assert call(monkeypatch, alone, "--json") == 0
    assert json.loads(capsys.readouterr().out) == profile.to_dict()


def test_an_image_of_another_tool_shows_its_parameters(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    info = PngInfo()
    info.add_text("parameters", "a cat\nSteps: 20, Sampler: Euler a")
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png", pnginfo=info)
    assert call(monkeypatch, tmp_path / "a.png") == 0
    assert capsys.readouterr().out.strip() == "a cat\nSteps: 20, Sampler: Euler a"


@pytest.mark.parametrize(
    "profile", [None, {"enabled": False, "reason": "r\x1b"}, {"enabled": True}, {"enabled": True, "components": 3}, []]
)
def test_records_that_lack_a_readable_profile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], profile: object
) -> None:
    record = json.dumps({"compute_profile": profile, "model_id": 3})
    png = images.encode_png(Image.new("RGB", (4, 4)), {"parameters": "x", "diffmeter": record})
    (tmp_path / "a.png").write_bytes(png)
    assert call(monkeypatch, tmp_path / "a.png") == 0
    assert "ompute profile" in capsys.readouterr().out


def test_bad_input_is_one_sentence_and_exit_code_2(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    Image.new("RGB", (4, 4)).save(tmp_path / "plain.png")
    (tmp_path / "text.png").write_text("no png")
    (tmp_path / "empty").mkdir()
    for name in ("plain.png", "text.png", "missing.png", "empty"):
        assert call(monkeypatch, tmp_path / name) == 2
        printed = capsys.readouterr()
        assert printed.err.startswith("diffmeter: "), name and printed.err.count("\n") == 1 and printed.out == ""
