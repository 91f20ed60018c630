"""Comparisons: rows, growth, sharing of counts between cases, and every output format."""

from __future__ import annotations

import csv
import io
import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from diffmeter import observe
from diffmeter.errors import InputError
from diffmeter.metering.recording.dry_run import ModelDryRuns
from diffmeter.metering.twins import counts as record
from diffmeter.profile import ComputeProfile
from diffmeter.reports.comparison import Case, Comparison, compare, sweep
from diffmeter.reports.comparison.run import _sizes
from tests.reports.hand_made import incomplete, measured, profile
from tests.reports.hand_made import row as row_of
from tests.zoo import ZOO


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A tiny Stable Diffusion pipeline in the diffusers layout: a VAE of factor 2, guidance by doubled batch."""
    path = tmp_path_factory.mktemp("models") / "tiny-sd"
    ZOO["StableDiffusionPipeline"].build().save_pretrained(path, safe_serialization=True)
    return str(path)


@pytest.fixture(scope="module")
def without_height(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A pipeline that makes images of one size."""
    path = tmp_path_factory.mktemp("models") / "tiny-dit"
    ZOO["DiTPipeline"].build().save_pretrained(path, safe_serialization=True)
    return str(path)


def unet_macs_per_step(folder: str, pixels: int, batch: int) -> int:
    """Products of one guided step of the U-Net, by PyTorch's own counter on the meta device."""
    from diffusers import UNet2DConditionModel

    config = UNet2DConditionModel.load_config(os.path.join(folder, "unet"))
    with torch.device("meta"):
        unet = UNet2DConditionModel.from_config(config).eval()
        latents = torch.zeros(2 * batch, 4, pixels // 2, pixels // 2)
        text = torch.zeros(2 * batch, 77, config["cross_attention_dim"])
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            unet(latents, torch.zeros(()), encoder_hidden_states=text)
    return counter.get_total_flops() // 2


def vae_factor(folder: str) -> int:
    config = json.loads(Path(folder, "vae", "config.json").read_text())
    return 2 ** (len(config["block_out_channels"]) - 1)


# counting


def test_rows_hold_what_an_independent_counter_finds(folder: str) -> None:
    assert vae_factor(folder) == 2
    found = sweep([folder], heights=[16, 32], steps=[2], batches=[1, 3], guidance_scale=5.0)
    assert [(row.height, row.width, row.steps, row.batch) for row in found] == [
        (16, 16, 2, 1),
        (16, 16, 2, 3),
        (32, 32, 2, 1),
        (32, 32, 2, 3),
    ]
    for row in found:
        assert row.error is None and row.complete
        assert row.height is not None
        assert row.components["unet"].matmul_macs == 2 * unet_macs_per_step(folder, row.height, row.batch or 0)
        assert row.total_macs == sum(cost.total_macs or 0 for cost in row.components.values())
        assert row.macs("products") == sum(cost.matmul_macs or 0 for cost in row.components.values())
        assert row.params == row.components["unet"].params
        assert row.pipeline_params == sum(cost.params for cost in row.components.values())
        assert row.total_flops == 2 * row.total_macs
        assert row.macs_per_step is not None and row.flops_per_step == 2 * row.macs_per_step
        assert row.macs_per_step * 2 == row.components["unet"].total_macs
        assert found[0].total_macs is not None and row.growth() == row.total_macs / found[0].total_macs
    assert found[0].growth() == 1.0


def test_steps_and_batches_repeat_no_count(folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    counted: list[str] = []
    original = record.replay

    def noted(call: Any, root: torch.nn.Module, *arguments: Any, **options: Any) -> Any:
        counted.append(type(root).__name__)
        return original(call, root, *arguments, **options)

    monkeypatch.setattr(record, "replay", noted)
    few = sweep([folder], heights=[16, 32], steps=[2])
    for_few = sorted(counted)
    # a U-Net and a decoder signature for each size; the text encoder has one for all of them
    assert for_few == sorted(["UNet2DConditionModel", "AutoencoderKL"] * 2 + ["CLIPTextModel"])
    counted.clear()
    many = sweep([folder], heights=[16, 32], steps=[2, 3, 4, 9])
    assert sorted(counted) == for_few
    counted.clear()
    sweep([folder], heights=[16, 32], steps=[2, 9], batches=[1, 2])
    assert sorted(counted) == sorted(["UNet2DConditionModel", "AutoencoderKL"] * 4 + ["CLIPTextModel"])
    assert [row.total_macs for row in many if row.steps == 2] == [row.total_macs for row in few]


def test_a_shared_count_equals_one_made_alone(folder: str) -> None:
    together = sweep([folder], heights=[16, 24], steps=[3], batches=[1, 2])
    for row in together:
        alone = sweep([folder], heights=[row.height or 0], steps=[row.steps or 0], batches=[row.batch or 0])[0]
        assert (alone.total_macs, alone.components) == (row.total_macs, row.components)


def test_a_model_that_was_changed_is_counted_anew(folder: str) -> None:
    runs = ModelDryRuns(folder)
    before = runs.dry_run(height=32, width=32, steps=3, guidance_scale=5.0)
    resnet = runs.pipe.unet.down_blocks[0].resnets[0]
    wide = resnet.conv2
    assert (wide.kernel_size, wide.in_channels, wide.out_channels) == ((3, 3), 8, 8)
    resnet.conv2 = torch.nn.Conv2d(8, 8, 1, device="meta")
    after = runs.dry_run(height=32, width=32, steps=3, guidance_scale=5.0)
    # 8 of 9 taps less, of 8 x 8 channels on 16 x 16 latents, batch 2, 3 steps
    assert before.matmul_macs - after.matmul_macs == 8 * 8 * 8 * 16 * 16 * 2 * 3


def test_what_cannot_be_done_is_a_row_and_the_rest_goes_on(folder: str, without_height: str, tmp_path: Path) -> None:
    seen: list[Case] = []
    found = compare([str(tmp_path / "nothing"), without_height, folder], height=32, steps=2, progress=seen.append)
    assert [row.error is None for row in found] == [False, False, True]
    assert "takes no height" in str(found[1].error)
    assert found[0].error and found[0].total_macs is None and found[0].total_flops is None
    assert found[2].growth() == 1.0, "growth is against the first row that was counted"
    assert [case.model for case in seen] == [row.case.model for row in found]
    assert found.counted == (found[2],)


def test_an_impossible_size_is_one_row_of_a_sweep(folder: str) -> None:
    found = sweep(folder, heights=[32, 33], steps=[2])
    assert found[0].error is None
    assert found[1].error is not None and "33" in found[1].error


def test_options_that_are_not_given_are_the_models_own(without_height: str) -> None:
    row = compare([without_height], steps=2)[0]
    assert row.error is None and row.steps == 2 and row.guidance_scale == 4.0, "DiTPipeline guides at 4.0 by itself"


@pytest.mark.parametrize(
    ("heights", "widths", "expected"),
    [
        (None, None, [(None, None)]),
        ([512, 768], None, [(512, 512), (768, 768)]),
        (None, [640], [(640, 640)]),
        ([512, 768], [1024], [(512, 1024), (768, 1024)]),
        ([512], [256, 1024], [(512, 256), (512, 1024)]),
        ([1, 2], [3, 4], [(1, 3), (2, 4)]),
    ],
)
def test_sizes(heights: Any, widths: Any, expected: list[tuple[int, int]]) -> None:
    assert _sizes(heights, widths) == expected


def test_bad_input_is_refused_before_anything_is_built() -> None:
    with pytest.raises(InputError, match="2 heights and 3 widths"):
        sweep("m", heights=[1, 2], widths=[1, 2, 3])
    with pytest.raises(InputError, match="at least one model"):
        compare([])
    for options in ({"height": 0}, {"steps": 0}, {"batch": -1}, {"width": True}):
        with pytest.raises(InputError, match="at least 1"):
            compare(["m"], **options)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="tokens"):
        compare(["m"], tokens=0)


# ids, pipelines and profiles in one table


def test_models_pipelines_and_profiles_stand_in_one_table(folder: str, tmp_path: Path) -> None:
    pipe = ZOO["StableDiffusionPipeline"].build()
    with observe(pipe) as run:
        pipe("a red circle", num_inference_steps=2, height=32, width=32, guidance_scale=5.0)
    run.profile.save(tmp_path / "saved.json")
    models = {"id": folder, "ours": pipe, "a run": run, "its profile": run.profile, "saved": tmp_path / "saved.json"}
    found = compare(models, height=32, steps=2, guidance_scale=5.0)
    assert [row.name for row in found] == list(models) and all(row.error is None for row in found)
    # the folder holds the same model, and the calls are the same: whatever the source, the products are the same
    denoisers = {row.components["unet"].matmul_macs for row in found}
    assert denoisers == {2 * unet_macs_per_step(folder, 32, 1)}
    assert [row.speedup() for row in found][2:] == [row.speedup() for row in found[2:]]
    assert found[2].seconds and found[2].time_speedup is None, "the first row was not run"


def test_a_profile_is_taken_as_it_is() -> None:
    (row,) = compare({"kept": profile(steps=10)}, steps=4, height=64)
    assert row.profile == profile(steps=10) and row.steps == 10


# rows made by hand: 10 steps of two samples; each call is 1 T products and 0.1 T more


@pytest.fixture
def comparison() -> Comparison:
    return Comparison(
        [
            row_of("one", measured(profile(10**12), 20.0)),
            row_of("two", measured(profile(5 * 10**11, steps=20), 8.0)),
            row_of("three", error="it takes no height & more | less"),
        ]
    )


def test_a_row_compares_with_the_first_that_was_counted(comparison: Comparison) -> None:
    one, two, three = comparison
    assert one.total_macs == 11 * 11 * 10**11  # (10 calls + 1 decode) x 1.1 T
    assert two.total_macs == 21 * 55 * 10**10  # (20 calls + 1 decode) x 0.55 T
    assert two.growth() == two.total_macs / one.total_macs and two.speedup() == pytest.approx(121 / 115.5)
    assert (one.time_speedup, two.time_speedup, three.time_speedup) == (1.0, 2.5, None)
    assert two.speedup("products", "step") == 2.0  # 0.5 T against 1 T
    assert one.macs("paper", "forward") == 10**12 // 4 * 3 // 2  # a guided call has two samples
    assert (three.growth(), three.total_macs, three.params) == (None, None, None)
    assert comparison.component_names == ["unet", "vae"] and comparison.counted == (one, two)


def test_what_is_not_complete_has_bounds_and_no_shares() -> None:
    found = Comparison([row_of("one", profile()), row_of("two", incomplete(profile()))])
    assert (found[1].growth(), found[1].speedup(), found[1].attention_share) == (None, None, None)
    text = str(found)
    assert text.splitlines()[0].startswith("INCOMPLETE: not everything was counted of two")
    (line,) = [line for line in text.splitlines() if line.startswith("two")]
    assert ">= " in line and "%" not in line and "x" not in line


def test_what_is_the_same_is_said_once(comparison: Comparison) -> None:
    lines = str(comparison).splitlines()
    assert lines[0] == "3 models, 512 x 512, guidance 7.5, batch 1, DDIMScheduler, float16"
    assert "Steps" in lines[2] and "Guidance" not in str(comparison)
    assert "three: not counted: it takes no height & more | less" in lines


def test_json_and_csv_hold_raw_numbers(comparison: Comparison) -> None:
    data = json.loads(comparison.to_json())
    assert data == comparison.to_dict()
    first, second, failed = data["rows"]
    assert (first["total_macs"], first["total_flops"]) == (121 * 10**11, 242 * 10**11)
    assert first["denoiser_params"] == 800_000_000 and first["pipeline_params"] == 850_000_000
    assert first["components"]["unet"]["calls"] == 10 and second["time_speedup"] == 2.5
    assert failed["error"].startswith("it takes no height") and failed["complete"] is failed["total_macs"] is None
    rows = list(csv.DictReader(io.StringIO(comparison.to_csv())))
    assert [r["model"] for r in rows] == ["one", "two", "three"]
    assert rows[0]["macs"] == "12100000000000" and rows[0]["macs.unet"] == "11000000000000"
    assert rows[0]["params.vae"] == "50000000" and rows[2]["macs"] == "" and "no height" in rows[2]["note"]


@pytest.mark.parametrize(
    ("convention", "per", "macs"),
    [
        ("total", None, 121 * 10**11),
        ("products", None, 11 * 10**12),
        ("paper", "image", 11 * 75 * 10**10),
        ("products", "step", 10**12),
        ("paper", "forward", 375 * 10**9),
    ],
)
def test_conventions_and_units_of_work(comparison: Comparison, convention: str, per: str | None, macs: int) -> None:
    rows = list(csv.DictReader(io.StringIO(comparison.to_csv(convention=convention, per=per, columns="macs,flops"))))
    assert int(rows[0]["macs"]) == macs and int(rows[0]["flops"]) == 2 * macs


def test_another_convention_is_refused(comparison: Comparison) -> None:
    for bad in ({"convention": "papers"}, {"per": "pixel"}, {"columns": "model,colour"}, {"font": "large"}):
        with pytest.raises(InputError):
            comparison.to_markdown(**bad)
    with pytest.raises(InputError, match="'nothing' is not known"):
        comparison.render("nothing")


def test_a_renderer_of_the_user(comparison: Comparison) -> None:
    assert comparison.render("tests.reports.test_comparison:count_rows") == "3 rows"
    with pytest.raises(InputError, match="cannot be imported"):
        comparison.render("tests.reports.test_comparison:missing")


def count_rows(result: Comparison) -> str:
    """A renderer for the test above."""
    return f"{len(result)} rows"


def test_a_pipeline_that_works_at_another_size_says_so() -> None:
    binned = Comparison([row_of("one", profile(height=1024, width=1024), height=512, width=512)])
    assert "512 x 512" in str(binned) and json.loads(binned.to_json())["rows"][0]["computed_height"] == 1024
    two = Comparison([*binned, row_of("two", profile(), height=512, width=512)])
    assert "Works" in str(two) and str(two).count("1024 x 1024") == 1


def test_an_empty_comparison_renders() -> None:
    nothing = Comparison([])
    for text in (nothing.to_csv(), nothing.to_markdown(), nothing.to_latex(), nothing.to_json(), repr(nothing)):
        assert text


def test_a_long_comparison_has_a_short_repr(comparison: Comparison) -> None:
    assert repr(comparison) == "<Comparison of 3 rows, 2 of them counted>"
    assert comparison._repr_html_().startswith("<p>3 models")
    assert isinstance(comparison[0].profile, ComputeProfile)
