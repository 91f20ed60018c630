"""The design's face: dictionary, summary and measures; the pipeline stays as it is."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from diffmeter import create_profiler, dry_run, observe
from diffmeter.compute_profiler import measure_text_encoder_macs, measure_unet_macs, measure_vae_decode_macs
from diffmeter.errors import InputError
from tests.metering.test_no_trace import state
from tests.zoo import ZOO


@pytest.fixture(scope="module")
def pipe():
    return ZOO["StableDiffusionPipeline"].build()


def test_the_dictionary_is_that_of_the_run(pipe) -> None:
    data = create_profiler().profile_pipeline(pipe, (1, 3, 32, 32), 3, "my/model", prompt="x", guidance_scale=5.0)
    with observe(pipe) as run:
        pipe("x", height=32, width=32, num_inference_steps=3, guidance_scale=5.0)
    real = run.profile.to_dict()
    for key in ("total_macs", "matmul_macs", "macs_per_step", "total_flops", "total_params", "complete"):
        assert data[key] == real[key]
    assert data["enabled"] is True
    assert data["model_component"] == "unet"
    assert data["num_inference_steps"] == 3
    assert data["input_shape"] == (1, 3, 32, 32)
    assert data["latent_shape"][:2] == (1, 4)
    assert data["conditions"]["model_id"] == "my/model"
    assert data["total_params"] == sum(p.numel() for p in pipe.unet.parameters())


def test_a_batch_is_several_pictures(pipe) -> None:
    data = create_profiler().profile_pipeline(pipe, (3, 3, 32, 32), 2, guidance_scale=5.0)
    assert data["input_shape"] == (3, 3, 32, 32)
    assert data["components"]["unet"]["calls"][0]["batch"] == 6  # with guidance


def test_a_transformer_pipeline() -> None:
    flux = ZOO["FluxPipeline"].build()
    data = create_profiler().profile_pipeline(flux, (1, 3, 32, 32), 2)
    assert data["model_component"] == "transformer"
    assert data["complete"]
    assert {name for name, c in data["components"].items() if c["calls"]} == set(data["components"])


def test_switched_off(pipe) -> None:
    data = create_profiler(enabled=False).profile_pipeline(pipe)
    assert data["enabled"] is False
    assert data["reason"]


def test_a_profile_that_fails_never_raises() -> None:
    broken = ZOO["StableDiffusionPipeline"].build()
    broken.unet.forward = lambda *args, **kwargs: 1 / 0
    data = create_profiler().profile_pipeline(broken, (1, 3, 32, 32), 2)
    assert data.get("enabled") is False or data["complete"] is False


def test_the_measures_add_up_to_the_generation(pipe) -> None:
    summary = create_profiler().summarize_macs(pipe, 32, 32, steps=4, prompt="x", guidance_scale=5.0)
    whole = dry_run(pipe, prompt="x", height=32, width=32, num_inference_steps=4, guidance_scale=5.0)
    unet = measure_unet_macs(pipe, 32, 32, guidance_scale=5.0)
    text = measure_text_encoder_macs(pipe, "x", height=32, width=32, guidance_scale=5.0)
    decoder = measure_vae_decode_macs(pipe, 32, 32)
    assert summary["unet_macs_per_step"] == unet
    assert summary["unet_macs"] == 4 * unet
    assert summary["text_encoder_macs"] == text
    assert summary["vae_decoder_macs"] == decoder
    assert summary["total_macs"] == whole.total_macs == 4 * unet + text + decoder
    assert summary["total_flops"] == 2 * summary["total_macs"]
    assert summary["complete"]
    assert abs(sum(summary["percent"].values()) - 100) < 1e-9
    assert "Total (4 steps)" in str(summary)


def test_guidance_doubles_the_denoiser(pipe) -> None:
    plain = measure_unet_macs(pipe, 32, 32, guidance_scale=1.0)
    assert measure_unet_macs(pipe, 32, 32, guidance_scale=5.0) == 2 * plain


@pytest.mark.parametrize("shape", [(1, 3, 32), (1, 4, 32, 32), (0, 3, 32, 32), "big", (1, 3, -8, 32)])
def test_shapes_that_no_pipeline_takes(pipe, shape) -> None:
    with pytest.raises(InputError, match="input_shape"):
        create_profiler().profile_pipeline(pipe, shape)


@pytest.mark.parametrize("steps", [0, -1, 2.5, True, "50"])
def test_steps_that_no_pipeline_makes(pipe, steps) -> None:
    with pytest.raises(InputError, match="steps"):
        create_profiler().profile_pipeline(pipe, num_inference_steps=steps)


def full_size_pipeline():
    """Stable Diffusion 2.1 at its real size with random weights; the denoiser in bfloat16 takes 1.7 GB."""
    from diffmeter.model_manager import build_pipeline_without_weights

    pipe = build_pipeline_without_weights("stabilityai/stable-diffusion-2-1-base")
    noise = torch.randn(1 << 20, generator=torch.Generator().manual_seed(0)).mul(0.02).to(torch.bfloat16)
    for name in ("unet", "vae", "text_encoder"):
        module: nn.Module = getattr(pipe, name)
        if next(module.parameters()).is_meta:
            module.to(torch.bfloat16).to_empty(device="cpu")
            for tensor in (*module.parameters(), *module.buffers()):
                if tensor.is_floating_point():
                    flat = tensor.data.view(-1)
                    for piece in flat.split(len(noise)):
                        piece.copy_(noise[: len(piece)])
        module.eval()
    ids = pipe.text_encoder.text_model if hasattr(pipe.text_encoder, "text_model") else pipe.text_encoder
    for buffer in ids.buffers():
        if not buffer.is_floating_point():
            buffer.copy_(torch.arange(buffer.numel()).view(buffer.shape))
    return pipe


@pytest.mark.slow
def test_a_real_full_size_pipeline_is_left_alone() -> None:
    pipe = full_size_pipeline()
    latents = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0)).to(torch.bfloat16)

    def pixels():
        text = torch.ones(1, 7, 1024, dtype=torch.bfloat16)
        with torch.no_grad():
            return pipe.unet(latents, torch.tensor(3), text).sample

    plain, before = pixels(), state(pipe)
    assert plain.isfinite().all()
    assert plain.std() > 0
    data = create_profiler().profile_pipeline(pipe, (1, 3, 512, 512), 50)
    assert data["complete"]
    assert data["components"]["unet"]["calls"][0]["matmul_macs"] == 2 * 402_128_732_160
    assert state(pipe) == before
    assert torch.equal(pixels(), plain)

    cls = type(pipe.unet.mid_block.resnets[0])
    forward = cls.forward

    def stop(self, *args, **kwargs):
        raise RuntimeError("midway")

    cls.forward = stop
    try:
        failed = create_profiler().profile_pipeline(pipe, (1, 3, 512, 512), 50)
    finally:
        cls.forward = forward
    assert failed["enabled"] is False
    assert "midway" in failed["reason"]
    assert state(pipe) == before
    assert torch.equal(pixels(), plain)
