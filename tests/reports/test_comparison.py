"""Comparisons: rows, growth, sharing of counts between cases, and every output format."""

from __future__ import annotations

import csv
import io
import json
import math
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from diffmeter.errors import InputError
from diffmeter.metering.recording.dry_run import ModelDryRuns
from diffmeter.metering.twins import counts as record
from diffmeter.reports.comparison import Case, Comparison, ComponentCost, Row, compare, sweep
from diffmeter.reports.comparison.run import _sizes
from tests.zoo import ZOO


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A tiny Stable Diffusion pipeline in the diffusers layout: a VAE of factor 2, guidance by doubled batch."""
    path = tmp_path_factory.mktemp("models") / "tiny-sd"
    ZOO["StableDiffusionPipeline"].build().save_pretrained(path, safe_serialization=True)
    return str(path)


@pytest.fixture(scope="module")
def without_height(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A pipeline that makes pictures of one size."""
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
        assert row.components["unet"].matmul_macs == 2 * unet_macs_per_step(folder, row.height, row.batch)
        assert row.total_macs == sum(cost.total_macs or 0 for cost in row.components.values())
        assert row.matmul_macs == sum(cost.matmul_macs or 0 for cost in row.components.values())
        assert row.params == sum(cost.params for cost in row.components.values())
        assert row.total_flops == 2 * row.total_macs
        assert row.macs_per_step is not None and row.flops_per_step == 2 * row.macs_per_step
        assert row.macs_per_step * 2 == row.components["unet"].total_macs
        assert found[0].total_macs is not None and row.growth == row.total_macs / found[0].total_macs
    assert found[0].growth == 1.0


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
        alone = sweep([folder], heights=[row.height or 0], steps=[row.steps or 0], batches=[row.batch])[0]
        assert (alone.total_macs, alone.matmul_macs, alone.components) == (
            row.total_macs,
            row.matmul_macs,
            row.components,
        )


def test_a_model_that_was_changed_is_counted_anew(folder: str) -> None:
    runs = ModelDryRuns(folder)
    before = runs.dry_run(height=32, width=32, steps=3, guidance_scale=5.0)
    resnet = runs._pipe.unet.down_blocks[0].resnets[0]
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
    assert found[2].growth == 1.0, "growth is against the first row that was counted"
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
        compare(["m"], token_count=0)


# rows made by hand, for the renderers


def hand_made(model: str = "one", macs: int = 3 * 10**12, **more: Any) -> Row:
    """A denoiser of 9/10 of ``macs``, a decoder of the rest; 1/4 of the products is attention."""
    costs = {
        "vae": ComponentCost(50, 1, macs // 10, macs // 10),
        "unet": ComponentCost(800, 10, macs - macs // 10, macs - macs // 10),
    }
    values: dict[str, Any] = {
        "case": Case(model, 512, 512, 10),
        "name": model,
        "height": 512,
        "width": 512,
        "steps": 10,
        "guidance_scale": 7.5,
        "params": 850,
        "components": costs,
        "denoisers": ("unet",),
        "macs_per_step": (macs - macs // 10) // 10,
        "total_macs": macs,
        "matmul_macs": macs,
        "matmul_macs_without_attention": macs // 4 * 3,
        "complete": True,
    }
    return Row(**{**values, **more})


NASTY = r"<b>a|b</b> & 50% $x_1$ {#} \cmd ~^ `c` *d*"


@pytest.fixture
def comparison() -> Comparison:
    failed = Row.failed(Case(NASTY, batch=2), NASTY, "it takes no height & more | less")
    return Comparison([hand_made(), hand_made("two", 6 * 10**12, complete=False), failed])


def test_shares_and_growth(comparison: Comparison) -> None:
    assert [row.growth for row in comparison] == [1.0, 2.0, None]
    assert comparison[0].attention_share == 0.25
    assert comparison[0].attention_macs == 750 * 10**9
    assert comparison.component_names == ["unet", "vae"]
    assert comparison[1:] == (comparison[1], comparison[2]) and len(comparison) == 3


def test_json(comparison: Comparison) -> None:
    data = json.loads(comparison.to_json())
    assert data == comparison.to_dict()
    first, second, failed = data["rows"]
    assert (first["total_macs"], first["total_flops"]) == (3 * 10**12, 6 * 10**12)
    assert first["components"]["unet"] == {
        "params": 800,
        "calls": 10,
        "total_macs": 27 * 10**11,
        "matmul_macs": 27 * 10**11,
    }
    assert second["complete"] is False and first["complete"] is True and failed["complete"] is None
    assert failed["error"].startswith("it takes no height") and failed["total_macs"] is None


def test_csv_is_read_back(comparison: Comparison) -> None:
    rows = list(csv.DictReader(io.StringIO(comparison.to_csv())))
    assert [row["model"] for row in rows] == ["one", "two", NASTY]
    assert rows[0]["total_macs"] == "3000000000000" and rows[0]["macs.unet"] == "2700000000000"
    assert rows[0]["params.vae"] == "50" and rows[2]["macs.unet"] == "" and rows[2]["growth"] == ""
    assert math.isclose(float(rows[0]["attention_share"]), 0.25)


def test_markdown_has_one_table_and_escapes(comparison: Comparison) -> None:
    lines = comparison.to_markdown().splitlines()
    bars = [line.replace("\\|", "").count("|") for line in lines]
    assert len(set(bars)) == 1 and len(lines) == 5
    assert "<b>" not in comparison.to_markdown().replace("\\<b\\>", "")
    assert "Total (TMACs)" in lines[0] and "unet (TMACs)" in lines[0]
    assert "| 3.00 |" in lines[2] and "| 2.70 |" in lines[2] and "| 25.00% |" in lines[2]
    assert "lower bound" in lines[3] and "takes no height" in lines[4]


def test_latex_is_balanced_and_escaped(comparison: Comparison) -> None:
    text = comparison.to_latex()
    assert "\\toprule" in text and "\\midrule" in text and "\\bottomrule" in text
    body = text.split("\\midrule")[1].split("\\bottomrule")[0].strip().splitlines()
    columns = text.split("\\begin{tabular}{")[1].split("}")[0]
    cells = [line.replace("\\&", "").count("&") + 1 for line in body]
    assert cells[0] == cells[1] == len(columns)
    assert cells[2] == 6 and f"\\multicolumn{{{len(columns) - 5}}}" in body[2]
    assert body[1].endswith("% lower bound")
    head = body[2].split("&")[0]
    assert "$" not in head.replace("\\$", "") and "_" not in head.replace("\\_", "")
    assert "\\textbackslash{}cmd" in body[2] and "50\\%" in body[2]


def test_html_and_text(comparison: Comparison) -> None:
    page = comparison._repr_html_()
    assert "<b>" not in page and "&lt;b&gt;a|b" in page
    assert page.count("<tr>") == 4
    text = str(comparison)
    assert ">= 6.00 TMACs" in text and "not counted: it takes" in text
    assert "unet 2.70 TMACs 90.00%" in text and "25.00%" in text and "2.00x" in text
    # denoisers first
    assert text.index("unet 2.70") < text.index("vae 300.00")


def test_a_pipeline_that_works_at_another_size_says_so() -> None:
    binned = Comparison([hand_made(computed_height=1024, computed_width=1024), hand_made(computed_height=512)])
    assert "512 x 512 works at 1024 x 1024 |" in binned.to_markdown() and "works at 1024 x 1024" in str(binned)
    assert str(binned).count("works at") == 1
    assert json.loads(binned.to_json())["rows"][0]["computed_height"] == 1024


def test_small_models_keep_their_digits() -> None:
    text = Comparison([hand_made(macs=12_300_000)]).to_markdown()
    assert "Total (MMACs)" in text and "12.30" in text


def test_an_empty_comparison_renders() -> None:
    nothing = Comparison([])
    for text in (nothing.to_csv(), nothing.to_markdown(), nothing.to_latex(), nothing.to_json(), str(nothing)):
        assert text
