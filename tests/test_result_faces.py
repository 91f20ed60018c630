"""What results offer in Python: saving, loading, adding, one line for a prompt, tables for a notebook."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

import diffmeter
from diffmeter import ComputeProfile, InputError, generate_image, get_model_manager, observe, track
from diffmeter.errors import StorageError
from diffmeter.profile import TimelineEntry
from diffmeter.storage import png
from diffmeter.training.cost import ComponentCost, TrainingCost
from tests.reports.hand_made import call, incomplete, measured, profile
from tests.zoo import ZOO

SHAPES = str(Path(diffmeter.__file__).parent / "embedded" / "shapes")


# files


def test_a_profile_is_saved_and_loaded_as_json_and_in_an_image(tmp_path: Path) -> None:
    whole = measured(profile(), 3.0)
    assert ComputeProfile.load(whole.save(tmp_path / "a.json")) == whole
    picture = Image.new("RGB", (4, 4), "red")
    (tmp_path / "a.png").write_bytes(png.encode_png(picture, {"parameters": "a cat"}))
    assert ComputeProfile.load(whole.save(tmp_path / "a.png")) == whole
    other = profile(steps=3)
    other.save(tmp_path / "a.png")  # replaces the first, and nothing else
    assert ComputeProfile.load(tmp_path / "a.png") == other
    assert png.read_texts(tmp_path / "a.png")["parameters"] == "a cat"
    with Image.open(tmp_path / "a.png") as opened:
        assert opened.getpixel((0, 0)) == (255, 0, 0)


def test_what_holds_no_single_profile_is_refused(tmp_path: Path) -> None:
    (tmp_path / "no.json").write_text('{"a": 1}')
    (tmp_path / "broken.json").write_text("{")
    damaged = {**profile().to_dict(), "conditions": 3}
    (tmp_path / "damaged.json").write_text(json.dumps(damaged))
    records = [{"model_name": name, "compute_profile": profile().to_dict()} for name in ("a", "b")]
    (tmp_path / "two.json").write_text(json.dumps({"models": records}))
    for name, words in (
        ("no", "holds no compute profile"),
        ("damaged", "damaged"),
        ("two", "holds 2 compute profiles"),
    ):
        with pytest.raises(InputError, match=words):
            ComputeProfile.load(tmp_path / f"{name}.json")
    for name in ("broken.json", "missing.json"):
        with pytest.raises(StorageError):
            ComputeProfile.load(tmp_path / name)
    with pytest.raises(InputError, match=r"\.json or \.png"):
        profile().save(tmp_path / "a.txt")


def test_an_observed_run_is_saved_with_its_image(tmp_path: Path) -> None:
    pipe = ZOO["StableDiffusionPipeline"].build()
    with observe(pipe) as run:
        assert "not counted yet" in repr(run)
        assert str(run) == repr(run)
        image = pipe("x", num_inference_steps=1, height=32, width=32).images[0]
    with pytest.raises(InputError, match="There is no image"):
        run.save(tmp_path / "a.png")
    run.save(tmp_path / "a.png", image)
    image.save(tmp_path / "b.png")
    run.save(tmp_path / "b.png")
    for name in ("a.png", "a.json", "b.png", "b.json"):
        assert ComputeProfile.load(tmp_path / name) == run.profile
    assert str(run) == str(run.profile)
    assert run.to_csv() == run.profile.to_csv()
    assert run.to_dict() == run.profile.to_dict()
    assert not any(name.startswith("_") for name in dir(run))


# sums


def test_the_sum_of_two_runs_of_one_pipeline() -> None:
    first, second = measured(profile(steps=10), 3.0), measured(profile(steps=20), 5.0)
    both = first + second
    assert both.total_macs == first.total_macs + second.total_macs
    assert both.matmul_macs == 11 * 10**12 + 21 * 10**12
    assert (both.steps_run, both.generations, both.inference_time_seconds) == (30, 2, 8.0)
    assert both.pipeline_params == first.pipeline_params, "the same components"
    assert both.components["unet"].calls[0].count == 30, "calls of one signature stand together"
    assert (both.conditions.height, both.conditions.num_inference_steps) == (512, None)
    assert sum([first, second]) == both


def test_the_sum_of_two_pipelines_keeps_components_that_differ_apart() -> None:
    base, refiner = profile(model="base"), profile(model="refiner", pipeline="Refiner")
    larger = replace(refiner.components["unet"], params=2 * 10**9, calls=(call(10**12, count=3),))
    entry = TimelineEntry("unet", 0, 0, 0, None)
    refiner = replace(incomplete(refiner), components={**refiner.components, "unet": larger}, timeline=(entry,))
    both = base + refiner
    assert list(both.components) == ["unet", "vae", "Refiner.unet"]
    assert both.denoisers == ("unet", "Refiner.unet")
    assert both.conditions.model_id is None
    assert both.pipeline_params == 800 * 10**6 + 50 * 10**6 + 2 * 10**9
    assert not both.complete
    assert both.is_counted("unet")
    assert not both.is_counted("Refiner.unet")
    assert both.timeline == (replace(entry, component="Refiner.unet", generation=1),)
    assert ComputeProfile.from_dict(json.loads(both.to_json())) == both


# one line, and tables


def test_one_line_says_what_it_is() -> None:
    # 11 calls of 1.1 T
    assert repr(profile()) == "<ComputeProfile of hand/made: 12.10 TMACs, 2 components, complete=True>"
    assert repr(incomplete(profile())).startswith("<ComputeProfile of hand/made: >= 12.10 TMACs")
    part = ComponentCost("unet", "UNet2DConditionModel", "denoiser", 10, 10, 10**9, 2 * 10**9)
    cost = TrainingCost("m", "full", None, (), 1, 10, False, "sgd", (part,))
    assert repr(cost) == "<TrainingCost of m: 60.00 GFLOPs in 10 steps, complete=True>"
    assert str(cost).startswith("m: full fine-tuning")
    assert "<table>" in cost._repr_html_()


def test_sums_by_op_and_per_step() -> None:
    whole = profile()
    assert whole.macs_by_op == {"conv": 11 * 75 * 10**10, "attention": 11 * 25 * 10**10, "normalization": 11 * 10**11}
    assert sum(whole.macs_by_op.values()) == whole.total_macs
    assert (whole.macs_per_step, whole.flops_per_step) == (11 * 10**11, 22 * 10**11)
    assert [row["share"] for row in whole.by_component()] == pytest.approx([10 / 11, 1 / 11])


def test_pandas_is_asked_for_by_name() -> None:
    try:
        import pandas
    except ImportError:
        with pytest.raises(InputError, match="pip install pandas"):
            profile().to_pandas()
    else:
        frame = profile().to_pandas()
        assert isinstance(frame, pandas.DataFrame)
        assert list(frame["component"]) == ["unet", "vae"]


# generations


def test_a_loaded_pipeline_generates(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pipe = get_model_manager().load_model(SHAPES)
    made = generate_image(pipe, "a red circle", steps=1, seed=3, output_dir=tmp_path)
    same = generate_image(SHAPES, "a red circle", steps=1, seed=3, output_dir=tmp_path)
    assert made.image.tobytes() == same.image.tobytes()
    assert made.profiling_data is not None
    assert same.profiling_data is not None
    assert made.profiling_data["total_macs"] == same.profiling_data["total_macs"]
    with pytest.raises(InputError, match="device: a pipeline that is loaded already"):
        generate_image(pipe, "x", device="cpu", output_dir=tmp_path)
    with pytest.raises(InputError, match="not 3"):
        generate_image(3, "x", output_dir=tmp_path)  # type: ignore[arg-type]


def test_a_profile_goes_to_trackers_as_batches_do(tmp_path: Path) -> None:
    from tests.generation.batch.test_batch_trackers import Recorder

    tracker: Any = Recorder()
    track(measured(profile(), 2.0), [tracker], tmp_path, image=Image.new("RGB", (4, 4), "red"))
    ((_, values),) = tracker.logged
    assert values["compute/total_macs"] == 121 * 10**11
    assert values["macs/unet"] == 11 * 10**12
    assert values["time/inference_seconds"] == 2.0
    assert values["parameters/num_inference_steps"] == 10
    assert tracker.finished
    assert tracker.images[0].shape == (1, 4, 4, 3)


def test_errors_stand_at_the_top() -> None:
    from diffmeter import errors

    for name in ("DiffmeterError", "InputError", "ModelNotFoundError", "ModelLoadError", "CountError", "StorageError"):
        assert getattr(diffmeter, name) is getattr(errors, name)
        assert name in dir(diffmeter)


def test_loading_says_nothing_about_other_libraries() -> None:
    code = f"import diffmeter; diffmeter.dry_run({SHAPES!r}, steps=1)"
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == ""
    assert "torchvision" not in done.stderr
