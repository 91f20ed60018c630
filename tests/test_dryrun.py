"""Dry runs: the calls and integers of the real run, without computing it, or a profile that says what is missing."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from diffmeter import dry_run, observe
from diffmeter.errors import DiffmeterError, InputError
from tests.custom import CustomPipeline, component
from tests.test_record import STATES, add_lora, cast_layers, fused_lora, merge_tokens, offload_models, tile, user_hook
from tests.zoo import ZOO

#: what a dry run cannot know without the values, and says so
VALUES = {"routing", "how many are above a threshold"}


def calls(profile):
    return [
        (name, [(call.method, call.count, call.shapes, call.matmul_macs) for call in component_.calls])
        for name, component_ in profile.components.items()
    ]


@pytest.mark.parametrize("what", STATES)
def test_custom_components(what) -> None:
    pipe, expected = STATES[what]()
    profile = dry_run(pipe)
    if what in VALUES:
        assert not profile.complete
        assert profile.uncounted[0]["reason"]
    else:
        assert profile.complete and profile.matmul_macs == expected


@pytest.mark.parametrize("change", [add_lora, fused_lora, tile, offload_models, cast_layers, merge_tokens])
def test_changed_pipelines(change) -> None:
    case = ZOO["StableDiffusionPipeline"]
    pipe = case.build()
    change(pipe)
    with observe(pipe) as run:
        pipe(**case.arguments(pipe))
    profile = dry_run(pipe, **case.arguments(pipe))
    assert profile.complete and calls(profile) == calls(run.profile)


def test_what_only_a_real_run_shows_is_not_guessed() -> None:
    case = ZOO["StableDiffusionPipeline"]
    pipe = case.build()
    user_hook(pipe)
    profile = dry_run(pipe, **case.arguments(pipe))
    assert not profile.complete
    assert profile.components["unet"].total_macs is None
    assert "forward hook" in profile.uncounted[0]["reason"]


def test_nothing_heavy_is_computed_and_no_weight_is_needed() -> None:
    case = ZOO["StableDiffusionPipeline"]
    pipe = case.build()
    arguments = case.arguments(pipe)
    expected = dry_run(pipe, **arguments)

    def never(*_):
        raise AssertionError("a real component ran")

    for name in ("unet", "vae", "text_encoder"):
        getattr(pipe, name).to("meta")
        getattr(pipe, name).register_forward_pre_hook(never)
    for module in (pipe.unet, pipe.vae, pipe.text_encoder):
        module._forward_pre_hooks.clear()
    assert calls(dry_run(pipe, **arguments)) == calls(expected)


def test_stable_diffusion_2_1_with_50_steps_of_pndm() -> None:
    """51 denoiser calls at batch 2, 2 text-encoder calls, 1 decode; the integers of the published operator counts."""
    profile = dry_run(
        "stabilityai/stable-diffusion-2-1-base", height=512, width=512, num_inference_steps=50, guidance_scale=7.5
    )
    found = {
        name: [(call.method, call.count, call.batch, call.matmul_macs) for call in component_.calls]
        for name, component_ in profile.components.items()
        if component_.calls
    }
    assert found == {
        "unet": [("forward", 51, 2, 2 * 402_128_732_160)],
        "text_encoder": [("forward", 2, 1, 22_563_616_768)],
        "vae": [("decode", 1, 1, 1_257_259_466_752)],
    }
    assert profile.complete and profile.conditions.scheduler == "PNDMScheduler"
    assert profile.conditions.num_inference_steps == profile.steps_run == 50
    assert profile.matmul_macs == 102 * 402_128_732_160 + 2 * 22_563_616_768 + 1_257_259_466_752


@pytest.mark.parametrize("thing", [None, 3, nn.Linear(3, 3), object()])
def test_no_pipeline(thing) -> None:
    with pytest.raises(InputError, match="pipeline"):
        dry_run(thing)


def test_an_argument_that_the_pipeline_does_not_take() -> None:
    pipe = ZOO["FluxPipeline"].build()
    with pytest.raises(InputError, match=r"takes no argument 'hight'"):
        dry_run(pipe, hight=512)


def test_a_value_that_the_pipeline_does_not_accept() -> None:
    pipe = ZOO["StableDiffusionPipeline"].build()
    with pytest.raises(InputError, match="divisible by 8"):
        dry_run(pipe, prompt="x", height=33, width=32)


def test_a_component_that_cannot_run_without_values() -> None:
    pipe = CustomPipeline(component(lambda self, x: 1 / 0))
    with pytest.raises(DiffmeterError, match="ZeroDivisionError"):
        dry_run(pipe)


def test_a_pipeline_that_calls_nothing() -> None:
    with pytest.raises(DiffmeterError, match="called none of its components"):
        dry_run(CustomPipeline(nn.Sequential(nn.Linear(8, 8)), lambda pipe: None))


def test_a_component_changed_by_the_pipeline_itself() -> None:
    def script(pipe):
        pipe.net(torch.ones(2, 8))
        pipe.net.append(nn.Linear(8, 8, device="meta" if next(pipe.net.parameters()).is_meta else None))
        pipe.net(torch.ones(2, 8))

    net = nn.Sequential(nn.Linear(8, 8))
    profile = dry_run(CustomPipeline(net, script))
    assert profile.complete and profile.matmul_macs == 3 * 128
    assert len(net) == 1
