"""generate_image and generate_images_sequential."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from jsonschema import Draft202012Validator
from PIL import Image

import diffmeter
from diffmeter import config, model_manager
from diffmeter.errors import InputError, ModelLoadError, ModelNotFoundError, StorageError
from diffmeter.generation.batch.spec import load_schema
from diffmeter.inference import generate_image, generate_images_sequential
from diffmeter.storage import png as images

SHAPES = str(Path(diffmeter.__file__).parent / "embedded" / "shapes")

# What the design's document lists as the keys of profiling_data.
DESIGN_KEYS = {
    "enabled",
    "model_component",
    "total_params",
    "params_str",
    "flops_per_step",
    "flops_per_step_str",
    "macs_per_step",
    "macs_per_step_str",
    "total_flops",
    "total_flops_str",
    "total_macs",
    "total_macs_str",
    "num_inference_steps",
    "inference_time_seconds",
    "inference_time_str",
    "input_shape",
    "latent_shape",
}


def read_config(folder: Path) -> Any:
    value = json.loads((folder / "generation_config.json").read_text())
    Draft202012Validator(load_schema("generation_config")).validate(value)
    return value


def test_the_four_tuple_of_the_design(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(config, "OUTPUT_DIR", tmp_path)
    result = generate_image(model_id=SHAPES, prompt="a red circle", num_inference_steps=2, seed=5)
    image, filepath, seed, profiling_data = result
    assert seed == 5
    assert image.size == (64, 64)
    assert profiling_data is not None
    assert profiling_data.get("enabled")
    assert profiling_data.keys() >= DESIGN_KEYS
    assert profiling_data["num_inference_steps"] == 2
    assert profiling_data["total_flops"] == 2 * profiling_data["total_macs"]
    folder = Path(filepath).parent
    assert folder.parent == tmp_path
    assert re.fullmatch(r"\d{4}-\d\d-\d\d_\d\d-\d\d-\d\d(_\d+)?", folder.name)
    written = read_config(folder)
    assert written["prompt"] == "a red circle"
    (entry,) = written["models"]
    assert list(entry)[:4] == ["model_id", "model_name", "image_path", "compute_profile"]
    assert entry["image_path"] == filepath
    assert entry["model_id"] == SHAPES
    assert entry["compute_profile"] == json.loads(json.dumps(profiling_data))
    with Image.open(filepath) as saved:
        assert saved.tobytes() == image.tobytes()
    assert images.read_record(filepath) == json.loads((folder / "runs.jsonl").read_text())
    assert images.read_texts(filepath)["parameters"].startswith("a red circle\nSteps: 2, Sampler: ")


def test_profiling_can_be_switched_off_per_call_and_for_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    off = generate_image(SHAPES, "x", num_inference_steps=1, seed=1, output_dir=tmp_path, enable_profiling=False)
    assert off.profiling_data is None
    monkeypatch.setattr(config, "ENABLE_COMPUTE_PROFILING", False)
    assert generate_image(SHAPES, "x", num_inference_steps=1, output_dir=tmp_path).profiling_data is None
    on = generate_image(SHAPES, "x", num_inference_steps=1, seed=1, output_dir=tmp_path, enable_profiling=True)
    assert on.profiling_data is not None
    assert on.profiling_data["enabled"]
    assert on.image.tobytes() == off.image.tobytes()


def test_one_folder_takes_many_images_and_overwrites_none(tmp_path: Path) -> None:
    made = [
        generate_image(SHAPES, prompt, num_inference_steps=1, seed=3, output_dir=tmp_path, enable_profiling=False)
        for prompt in ("a", "a", "b")
    ]
    assert len({result.filepath for result in made}) == 3
    written = read_config(tmp_path)
    assert [entry["image_path"] for entry in written["models"]] == [result.filepath for result in made]
    assert written["prompt"] is None


def test_without_a_seed_one_is_drawn_and_reported(tmp_path: Path) -> None:
    first = generate_image(SHAPES, "x", num_inference_steps=1, output_dir=tmp_path, enable_profiling=False)
    again = generate_image(
        SHAPES, "x", num_inference_steps=1, output_dir=tmp_path, enable_profiling=False, seed=first.seed
    )
    assert again.image.tobytes() == first.image.tobytes()
    assert read_config(tmp_path)["models"][0]["seed"] == first.seed


def test_pixels_do_not_depend_on_the_number_of_threads(tmp_path: Path) -> None:
    before = torch.get_num_threads()
    found = []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            result = generate_image(
                SHAPES, "x", num_inference_steps=2, seed=3, output_dir=tmp_path, enable_profiling=False
            )
            found.append(result.image.tobytes())
            assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    assert len(set(found)) == 1


def test_global_random_state_and_the_pipeline_are_left_as_they_were(tmp_path: Path) -> None:
    pipe = model_manager.get_model_manager().load_model(SHAPES)
    before = set(vars(pipe))
    torch.manual_seed(1)
    state = torch.get_rng_state()
    generate_image(SHAPES, "x", num_inference_steps=1, seed=3, output_dir=tmp_path)
    assert torch.equal(torch.get_rng_state(), state)
    assert set(vars(pipe)) == before


BAD = {
    "no string": ({"prompt": 3}, "prompt must be a string, not 3"),
    "no prompt": ({"prompt": None}, "prompt must be a string, not None"),
    "steps": ({"num_inference_steps": 0}, "steps must be a whole number from 1"),
    "fraction of a step": ({"num_inference_steps": 1.5}, "1.5"),
    "height": ({"height": 60}, "60"),
    "width of nothing": ({"width": 0}, "width must be a whole number from 1"),
    "seed": ({"seed": -1}, "seed must be a whole number from 0"),
    "guidance": ({"guidance_scale": float("nan")}, "guidance scale must be a number from 0"),
    "huge guidance": ({"guidance_scale": 10**400}, "guidance scale must be a number from 0"),
    "negative prompt": ({"negative_prompt": 5}, "negative prompt must be a string, not 5"),
    "empty model": ({"model_id": " "}, "model id"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_values_are_one_sentence_and_leave_no_file(tmp_path: Path, name: str) -> None:
    changes, reason = BAD[name]
    arguments = {"model_id": SHAPES, "prompt": "x", "num_inference_steps": 1, "output_dir": tmp_path / "out"}
    with pytest.raises(InputError) as caught:
        generate_image(**{**arguments, **changes})
    assert reason in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_unknown_models_and_folders_are_one_sentence_and_leave_no_file(tmp_path: Path) -> None:
    out = tmp_path / "out"
    (tmp_path / "empty").mkdir()
    for model in ("nobody/unknown", str(tmp_path / "empty"), "../../x", "a\0b", "x" * 10_000):
        with pytest.raises((ModelNotFoundError, ModelLoadError)) as caught:
            generate_image(model, "x", output_dir=out)
        assert "\n" not in str(caught.value)
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="no folder"):
        generate_image(SHAPES, "x", output_dir=tmp_path / "file" / "out")
    assert not out.exists()


def test_a_profile_that_fails_never_loses_the_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import diffmeter.metering.recording.observe

    on_disk: list[int] = []

    class Broken:
        def __init__(self, pipe: Any) -> None:
            pass

        def __enter__(self) -> Broken:
            return self

        def __exit__(self, *exception: object) -> None:
            on_disk.append(len(list(tmp_path.glob("*.png"))))  # before anything is counted
            raise RuntimeError("no twin")

    monkeypatch.setattr(diffmeter.metering.recording.observe, "observe", Broken)
    image, filepath, _, profile = generate_image(SHAPES, "x", num_inference_steps=1, output_dir=tmp_path)
    assert on_disk == [1]
    assert profile is not None
    assert profile["enabled"] is False
    assert profile["reason"] == "RuntimeError: no twin"
    with Image.open(filepath) as saved:
        assert saved.tobytes() == image.tobytes()
    assert read_config(tmp_path)["models"][0]["compute_profile"] == profile


def test_a_pipeline_that_cannot_be_observed_still_generates(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import diffmeter.metering.recording.observe

    def refuse(pipe: Any) -> Any:
        raise InputError("not observable")

    monkeypatch.setattr(diffmeter.metering.recording.observe, "observe", refuse)
    result = generate_image(SHAPES, "x", num_inference_steps=1, output_dir=tmp_path)
    assert result.profiling_data == {**result.profiling_data, "enabled": False}
    assert Path(result.filepath).exists()


def test_a_generation_that_raises_is_the_callers_exception_and_leaves_no_file(tmp_path: Path) -> None:
    pipe = model_manager.get_model_manager().load_model(SHAPES)

    def fail(*arguments: Any) -> None:
        raise KeyError("inside the model")

    handle = pipe.unet.register_forward_pre_hook(fail)
    try:
        with pytest.raises(KeyError, match="inside the model"):
            generate_image(SHAPES, "x", num_inference_steps=1, output_dir=tmp_path / "out")
    finally:
        handle.remove()
    assert not (tmp_path / "out").exists()


def test_steps_are_reported_one_by_one(tmp_path: Path) -> None:
    seen: list[int] = []
    generate_image(
        SHAPES, "x", num_inference_steps=4, output_dir=tmp_path, enable_profiling=False, on_step=seen.append
    )
    assert seen == [1, 2, 3, 4]


def test_several_models_one_after_the_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(config, "OUTPUT_DIR", tmp_path)
    results = generate_images_sequential(
        model_ids=[SHAPES, "nobody/unknown"], prompt="a red circle", num_inference_steps=2, seed=7
    )
    good, bad = results
    assert good["seed"] == 7
    assert good["compute_profile"]["enabled"]
    assert good["image"].size == (64, 64)
    assert Path(good["image_path"]).is_file()
    assert bad["model_id"] == "nobody/unknown"
    assert bad["image"] is None
    assert bad["image_path"] is None
    assert bad["error"]
    written = read_config(Path(good["image_path"]).parent)
    assert written["prompt"] == "a red circle"
    assert [entry["model_id"] for entry in written["models"]] == [SHAPES]
    assert [entry["model_id"] for entry in written["failures"]] == ["nobody/unknown"]
    assert model_manager.get_model_manager().loaded_models() == []


@pytest.mark.parametrize("models", [[], "one", None, 3])
def test_models_must_be_a_list(models: Any, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="model_ids must be a list"):
        generate_images_sequential(models, "x", output_dir=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_one_side_alone_is_a_square(tmp_path: Path) -> None:
    result = generate_image(SHAPES, "x", height=32, num_inference_steps=1, output_dir=tmp_path, enable_profiling=False)
    assert result.image.size == (32, 32)


def test_the_short_name_of_the_steps(tmp_path: Path) -> None:
    """``steps`` is ``num_inference_steps``; NumPy's integers are whole numbers."""
    result = generate_image(SHAPES, "x", steps=np.int64(2), seed=np.uint8(3), output_dir=tmp_path)
    assert result.seed == 3
    assert result.profiling_data is not None
    assert result.profiling_data["num_inference_steps"] == result.profiling_data["steps_run"] == 2
    (failed, *_) = generate_images_sequential(["nobody/unknown"], "x", steps=2, output_dir=tmp_path / "b")
    assert failed["error"]


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"heigth": 32}, "did you mean 'height'"),
        ({"step": 2}, "did you mean 'steps'"),
        ({"dtpye": "float32"}, "did you mean 'dtype'"),
        ({"batch": 2}, "batch=2: one image is generated at a time"),
        ({"num_images_per_prompt": 3}, "one image is generated at a time"),
        ({"steps": 2, "num_inference_steps": 3}, "are the same: give one"),
        ({"gpu": "h100"}, "takes no option 'gpu'"),
    ],
)
def test_no_option_vanishes(tmp_path: Path, options: dict[str, Any], reason: str) -> None:
    for call in (generate_image, lambda model, *a, **k: generate_images_sequential([model], *a, **k)):
        with pytest.raises(InputError, match=reason):
            call(SHAPES, "x", output_dir=tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()
