"""Every table at every width, as it was last looked at; the numbers in it are proven elsewhere."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from diffmeter.commands import batch, llm, models, show
from diffmeter.flops import flops_for_experiment, qwen_breakdown, qwen_config
from diffmeter.generation.batch.plan import Costs
from diffmeter.generation.request import GenerationRequest
from diffmeter.models import catalog
from diffmeter.reports.comparison import Comparison
from diffmeter.reports.difference import ProfileDifference
from diffmeter.reports.renderers import table_of
from diffmeter.reports.tables import Table
from diffmeter.storage.run_folder import RunFolder
from diffmeter.training.cost import ComponentCost, TrainingCost
from tests.golden import assert_golden
from tests.reports.hand_made import incomplete, measured, profile, row

WIDTHS = (60, 80, 100, 120, 160)


def _comparison() -> Comparison:
    return Comparison(
        [
            row("SD 1.5", measured(profile(678 * 10**9, steps=50), 12.5)),
            row("a pruned U-Net of mine", profile(301 * 10**9, steps=50)),
            row("SDXL", incomplete(profile(2_990 * 10**9, steps=30, height=1024, width=1024, batch=4))),
            row("DiT-XL/2", error="DiTPipeline takes no height; it makes images of 256 x 256 or 512 x 512 only."),
        ]
    )


def _sweep() -> Comparison:
    rows = [
        row("SD 1.5", profile(side * side * 2_600_000, steps=steps, height=side, width=side), height=side, width=side)
        for side in (512, 768)
        for steps in (4, 50)
    ]
    return Comparison(rows, relation="growth")


def _training() -> TrainingCost:
    parts = (
        ComponentCost("unet", "UNet2DConditionModel", "denoiser", 860 * 10**6, 3 * 10**6, 338 * 10**9, 350 * 10**9),
        ComponentCost("vae", "AutoencoderKL", "vae", 84 * 10**6, 0, 540 * 10**9, cached=True),
        ComponentCost("text_encoder", "CLIPTextModel", "encoder", 123 * 10**6, 0, 6 * 10**9),
    )
    sizes = {"height": 512, "width": 512}
    return TrainingCost("sd15", "lora", 16, ("to_q",), 4, 1000, False, "adamw", parts, 10**9, sizes, ("A note.",))


def _plan() -> Table:
    known = [GenerationRequest("stabilityai/sdxl-turbo", "x", None, 512, 512, 4, 0.0, seed) for seed in (1, 2)]
    unknown = GenerationRequest("nobody/unknown", "x")
    costs = Costs({r.key: 21 * 10**12 for r in known}, {"nobody/unknown": "it is not in the local cache."})
    return batch._plan_table([*known, unknown], costs, 1)


def _folder(tmp_path: Path) -> Table:
    done = {
        "status": "done",
        "image": "sd15_seed12345.png",
        "model_name": "SD 1.5",
        "prompt": "a lighthouse at dusk, oil on canvas, in the style of an old master",
        "seed": 12345,
        "width": 512,
        "height": 512,
        "num_inference_steps": 50,
        "guidance_scale": 7.5,
        "scheduler": "PNDMScheduler",
        "dtype": "float16",
        "inference_time_seconds": 12.345,
        "compute_profile": profile(678 * 10**9, steps=50).to_dict(),
    }
    failed = {
        **done,
        "status": "failed",
        "image": None,
        "compute_profile": None,
        "key": "0123abcd",
        "error": "no memory",
    }
    return show._folder_table(RunFolder(tmp_path), [done, failed])


def _llm() -> Table:
    config = qwen_config("0.5b")
    breakdown = qwen_breakdown(config, 1, 64)
    return llm._table(config, breakdown, 1, 0, False, breakdown.total_flops)


MADE: dict[str, Callable[[Path], Table]] = {
    "profile": lambda _: table_of(measured(profile(402_128_732_160 * 2, steps=50), 41.5)),
    "profile_incomplete": lambda _: table_of(incomplete(profile(402_128_732_160 * 2, steps=50))),
    "profile_per_forward": lambda _: table_of(profile(402_128_732_160 * 2), convention="paper", per="forward"),
    "compare": lambda _: table_of(_comparison()),
    "compare_per_step": lambda _: table_of(_comparison(), convention="products", per="step"),
    "sweep": lambda _: table_of(_sweep()),
    "diff": lambda _: table_of(ProfileDifference(profile(), profile(5 * 10**11, steps=20), ("a.json", "b.json"))),
    "train_cost": lambda _: table_of(_training()),
    "batch_plan": lambda _: _plan(),
    "folder": _folder,
    "llm": lambda _: _llm(),
    "models": lambda _: models._table(catalog.search("flux")),
}


@pytest.mark.parametrize("name", MADE)
def test_text_at_every_width(name: str, tmp_path: Path, pytestconfig: pytest.Config) -> None:
    table = MADE[name](tmp_path)
    shown = []
    for width in WIDTHS:
        text = table.to_text(width)
        assert max(map(len, text.splitlines())) <= width
        shown += [f"{width:-<{width}}", text]
    assert_golden(f"{name}.txt", "\n".join([*shown, "as wide as it needs to be", table.to_text()]), pytestconfig)


@pytest.mark.parametrize("name", ["profile_incomplete", "compare"])
@pytest.mark.parametrize("form", ["latex", "markdown", "csv", "html"])
def test_other_forms(name: str, form: str, tmp_path: Path, pytestconfig: pytest.Config) -> None:
    assert_golden(f"{name}.{form}", getattr(MADE[name](tmp_path), f"to_{form}")(), pytestconfig)


def test_the_table_of_language_models_is_that_of_the_formula() -> None:
    config = qwen_config("0.5b")
    total = flops_for_experiment(
        1, 1, 64, config.hidden_size, config.num_hidden_layers, config.num_attention_heads, 1.0, 0, False,
        num_kv_heads=config.num_key_value_heads, intermediate_size=config.intermediate_size,
        vocab_size=config.vocab_size, final_norm=True, loss=True, exact_lora=True
    )  # fmt: skip
    assert f"({total:,})" in _llm().to_text()
