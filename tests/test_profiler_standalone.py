"""The standalone script measures the embedded model as the profiler does, by a way of its own."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch.nn.functional as F

from diffmeter import dry_run
from diffmeter.compute_profiler import summarize_macs

SCRIPT = Path(__file__).resolve().parent.parent / "test_profiler_standalone.py"
PROMPT = "a red circle left of a blue square"


@pytest.fixture(scope="module")
def standalone() -> ModuleType:
    spec = importlib.util.spec_from_file_location("standalone", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def pipe(standalone: ModuleType):
    from diffusers import DiffusionPipeline

    return DiffusionPipeline.from_pretrained(str(standalone.EMBEDDED))


@pytest.mark.parametrize("guidance_scale", [7.5, 1.0])
def test_it_gives_what_summarize_macs_gives(standalone: ModuleType, pipe, guidance_scale: float) -> None:
    original = F.scaled_dot_product_attention
    by_hand = standalone.summarize_macs(pipe, 64, 64, 4, PROMPT, guidance_scale)
    assert F.scaled_dot_product_attention is original
    summary = summarize_macs(pipe, 64, 64, 4, PROMPT, guidance_scale)
    assert summary["text_encoder_macs"] == by_hand["text_encoder_macs"]
    assert summary["vae_decoder_macs"] == by_hand["vae_decoder_macs"]
    # thop sees modules, and the wrapper sees attention. The UNet's pooling of the prompt's tokens multiplies with
    # torch.einsum, in neither of them: 2 products of one query with 33 tokens of 128 channels an image.
    images = 2 if guidance_scale > 1 else 1
    pooling = images * 2 * 33 * 128
    assert summary["unet_macs_per_step"] == by_hand["unet_macs_per_step"] + pooling
    assert summary["total_macs"] == by_hand["total_macs"] + 4 * pooling


def test_the_pooling_is_what_the_profile_calls_matmul(pipe) -> None:
    profile = dry_run(pipe, prompt=PROMPT, height=64, width=64, num_inference_steps=1, guidance_scale=7.5)
    assert profile.components["unet"].macs_by_op["matmul"] == 2 * 2 * 33 * 128


def test_it_runs_alone() -> None:
    """Without diffmeter on its path: nothing of it may be imported."""
    code = (
        "import runpy, sys\n"
        f"sys.argv = ['x', '--steps', '2']\nrunpy.run_path({str(SCRIPT)!r}, run_name='__main__')\n"
        "assert not [name for name in sys.modules if name.split('.')[0] in ('diffmeter', 'src')]\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=SCRIPT.parent)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0] == "Component-wise MACs Breakdown:"
    assert lines[1] == "-" * 70
    assert lines[2] == "  UNet (per step):            0.391 GMACs"
