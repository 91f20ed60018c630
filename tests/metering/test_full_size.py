"""The published models at full size, without weights: exact integers, and both counters agree on each component."""

from __future__ import annotations

import functools

import pytest

from diffmeter import dry_run
from diffmeter.metering.counters.kinds import Kind

MODELS = {
    "stabilityai/stable-diffusion-2-1-base": "unet",
    "stabilityai/stable-diffusion-xl-base-1.0": "unet",
    "PixArt-alpha/PixArt-XL-2-512x512": "transformer",
    "stabilityai/stable-diffusion-3-medium-diffusers": "transformer",
    "black-forest-labs/FLUX.1-dev": "transformer",
}


@functools.cache
def profile(model: str, **arguments):
    return dry_run(model, num_inference_steps=2, **arguments)


def one_sample(model: str, component: str) -> int:
    """``matmul_macs`` of the first call of a component, per sample of its batch."""
    call = profile(model).components[component].calls[0]
    assert call.matmul_macs % call.batch == 0
    return call.matmul_macs // call.batch


@pytest.mark.parametrize(
    ("model", "component", "expected"),
    [
        ("stabilityai/stable-diffusion-2-1-base", "unet", 402_128_732_160),
        ("stabilityai/stable-diffusion-2-1-base", "text_encoder", 22_563_616_768),
        ("stabilityai/stable-diffusion-2-1-base", "vae", 1_257_259_466_752),
        ("stable-diffusion-v1-5/stable-diffusion-v1-5", "unet", 401_636_720_640),
        ("stable-diffusion-v1-5/stable-diffusion-v1-5", "text_encoder", 6_649_251_840),
        ("black-forest-labs/FLUX.1-dev", "text_encoder", 6_649_251_840),
        ("black-forest-labs/FLUX.1-dev", "text_encoder_2", 2_422_361_554_944),
    ],
)
def test_exact_integers(model, component, expected) -> None:
    assert one_sample(model, component) == expected


def test_without_attention_the_published_tables_are_met() -> None:
    """BK-SDM (Kim et al. 2023) prints 339 GMACs for the UNet of SD 1.x and 1,240 for its image decoder."""
    found = profile("stable-diffusion-v1-5/stable-diffusion-v1-5")
    unet, decoder = found.components["unet"].calls[0], found.components["vae"].calls[0]
    assert round(unet.matmul_macs_without_attention / unet.batch / 1e9) == 339
    assert round(decoder.matmul_macs_without_attention / 1e10) == 124


@pytest.mark.parametrize("model", MODELS)
def test_both_counters_agree_on_every_component(model) -> None:
    found = profile(model)
    assert found.complete, (found.uncounted, found.differences)
    assert found.denoisers == (MODELS[model],)
    for component in found.components.values():
        assert component.calls, component.name
        for call in component.calls:
            by_thop = sum(call.macs_by_op.get(kind.value, 0) for kind in Kind if kind.is_product)
            assert by_thop == sum(call.op_level.values()) == call.matmul_macs > 0
