"""The embedded model: it loads offline, draws what it is told, and is counted exactly."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "src" / "diffmeter" / "embedded" / "shapes"
PARTS = ("text_encoder", "unet", "vae")
sys.path.insert(0, str(ROOT / "training"))

# Least parts of 20 held-out prompts that must be right. Raise them when better weights are shipped; the targets of
# the full evaluation are 0.95, 0.85 and 0.75.
LEAST = {"color": 0.95, "shape": 0.9, "relation": 0.9}

PROMPT = "a red circle left of a blue square"
Draw = Callable[..., np.ndarray]


@pytest.fixture(scope="module")
def pipe() -> Any:
    from diffusers import StableDiffusionPipeline

    loaded = StableDiffusionPipeline.from_pretrained(FOLDER, local_files_only=True)
    loaded.set_progress_bar_config(disable=True)
    return loaded


@pytest.fixture(scope="module")
def draw(pipe: Any) -> Draw:
    def one(prompt: str = PROMPT, seed: int = 0, **options: Any) -> np.ndarray:
        options = {"num_inference_steps": 25, "guidance_scale": 3.0, **options}
        return np.asarray(pipe(prompt, generator=torch.Generator().manual_seed(seed), **options).images[0])

    return one


def test_weights_are_small_safetensors_in_half_precision() -> None:
    files = list(FOLDER.rglob("*.safetensors"))
    assert len(files) == len(PARTS)
    assert sum(file.stat().st_size for file in files) < 12_000_000
    assert not [file for file in FOLDER.rglob("*") if file.suffix in {".bin", ".pt", ".pth", ".ckpt", ".pkl"}]


def test_the_card_says_what_it_must() -> None:
    card = (FOLDER / "README.md").read_text("utf-8")
    for heading in ("## Data", "## Training", "## Limits", "## License"):
        assert heading in card


def test_the_unet_attends_at_two_resolutions_and_the_vae_compresses_four_times() -> None:
    unet = json.loads((FOLDER / "unet" / "config.json").read_text())
    assert sum(block.startswith("CrossAttn") for block in unet["down_block_types"]) >= 2
    assert len(json.loads((FOLDER / "vae" / "config.json").read_text())["block_out_channels"]) == 3


def test_same_seed_same_pixels_other_seed_other_image(draw: Draw) -> None:
    first = draw(seed=1)
    assert first.shape == (64, 64, 3)
    assert np.array_equal(first, draw(seed=1))
    assert np.abs(first.astype(int) - draw(seed=2)).mean() > 5


def test_guidance_and_negative_prompt_change_the_image(draw: Draw) -> None:
    plain = draw()
    assert not np.array_equal(plain, draw(guidance_scale=1.0))
    assert not np.array_equal(plain, draw(negative_prompt="on a white background"))


@pytest.mark.parametrize("prompt", ["", "a zebra in the rain, 4k", "\u732b", "red " * 100])
def test_any_text_gives_a_image(draw: Draw, prompt: str) -> None:
    assert draw(prompt, num_inference_steps=2).shape == (64, 64, 3)


def test_a_image_takes_seconds(draw: Draw) -> None:
    draw(num_inference_steps=1)
    started = time.process_time()
    draw()
    # The promise is 5 seconds on 2 cores: at most 10 seconds of processor time, however busy the machine is.
    assert time.process_time() - started < 10


def test_it_draws_what_held_out_prompts_say(pipe: Any) -> None:
    """A small part of training/evaluate_embedded.py; its own targets are for 200 prompts."""
    import evaluate_embedded

    paint = evaluate_embedded.painter(FOLDER, evaluate_embedded.STEPS, evaluate_embedded.GUIDANCE)
    figures = evaluate_embedded.summarize(evaluate_embedded.evaluate(paint, 20, seed=1)[0])
    for name, least in LEAST.items():
        assert figures[name] >= least, figures


def test_both_counters_agree_on_it(pipe: Any) -> None:
    from diffmeter import dry_run, observe

    with observe(pipe) as run:
        pipe(PROMPT, num_inference_steps=3, guidance_scale=3.0)
    dry = dry_run(pipe, prompt=PROMPT, num_inference_steps=3, guidance_scale=3.0)
    for profile in (run.profile, dry):
        assert profile.complete
        assert not profile.uncounted
    assert run.profile.matmul_macs == dry.matmul_macs
    assert run.profile.total_macs == dry.total_macs
