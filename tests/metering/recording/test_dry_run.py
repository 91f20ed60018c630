"""Dry runs: the calls and integers of the real run, without computing it, or a profile that says what is missing."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from diffmeter import dry_run, observe
from diffmeter.errors import DiffmeterError, InputError
from tests.custom import CustomPipeline, component
from tests.metering.recording.changes import (
    add_lora,
    cast_layers,
    fused_lora,
    merge_tokens,
    offload_models,
    tile,
    user_hook,
)
from tests.metering.recording.states import STATES
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


UNKNOWN = "the pipeline looks at a value that only a real run knows"


def test_a_pipeline_that_goes_its_way_by_what_a_component_returned() -> None:
    def script(pipe):
        x = torch.ones(2, 8)
        while (x := pipe.net(x)).sum() > 1:
            x = x * 0.5

    profile = dry_run(CustomPipeline(nn.Sequential(nn.Linear(8, 8)), script))
    assert profile.complete  # zeros: it stopped at once, and called nothing after the look
    script_ = lambda pipe: [pipe.net(torch.ones(2, 8)) if pipe.net(torch.ones(2, 8)).mean() < 1 else 0]  # noqa: E731
    profile = dry_run(CustomPipeline(nn.Sequential(nn.Linear(8, 8)), script_))
    assert not profile.complete and [entry["reason"] for entry in profile.uncounted] == [UNKNOWN]


def test_values_written_into_the_pipelines_own_tensors_are_as_unknown() -> None:
    def script(pipe):
        canvas = torch.zeros(4, 8)
        canvas[:2] = pipe.net(torch.ones(2, 8))
        if canvas.max() > 3:
            return
        pipe.net(torch.ones(2, 8))

    profile = dry_run(CustomPipeline(nn.Sequential(nn.Linear(8, 8)), script))
    assert [entry["reason"] for entry in profile.uncounted] == [UNKNOWN]


def test_looks_at_the_pipelines_own_values_and_after_the_last_call_are_harmless() -> None:
    def script(pipe):
        steps = torch.arange(3)
        for step in steps:
            if step < 2:
                out = pipe.net(torch.ones(2, 8))
        return float(out.max())

    profile = dry_run(CustomPipeline(nn.Sequential(nn.Linear(8, 8)), script))
    assert profile.complete and profile.matmul_macs == 2 * 128


def test_a_number_that_a_component_made_of_unknown_values() -> None:
    def frames(self, x):
        return int(self.a(x).sum()) + 1

    def script(pipe):
        for _ in range(pipe.net(torch.ones(2, 8))):
            pipe.other(torch.ones(2, 8))

    pipe = CustomPipeline(component(frames), script, other=nn.Sequential(nn.Linear(8, 8)))
    pipe.other = pipe.components["other"]
    profile = dry_run(pipe)
    assert not profile.complete
    assert "forward returned a number that only a real run knows" in {entry["reason"] for entry in profile.uncounted}


def test_no_prompt_is_stood_in_for_where_an_image_takes_its_place() -> None:
    seen = []

    class Captions(CustomPipeline):
        def __call__(self, prompt=None, image=None, num_images_per_prompt=1):
            seen.append((prompt, image is not None))
            return self.net(torch.ones(2, 8))

    pipe = Captions(nn.Sequential(nn.Linear(8, 8)))
    dry_run(pipe, image=torch.ones(1, 3, 8, 8))
    dry_run(pipe, num_images_per_prompt=4)
    assert seen == [(None, True), ("a photo", False)]
