"""diffusers' step caches: what was skipped is not counted, and a dry run never guesses what values decide."""

from __future__ import annotations

import functools

import pytest
from diffusers import hooks

from diffmeter import dry_run, observe
from tests.reference import count_real_run
from tests.zoo import ZOO

STEPS = 6


def pyramid(pipe):
    return hooks.PyramidAttentionBroadcastConfig(
        spatial_attention_block_skip_range=2,
        spatial_attention_timestep_skip_range=(-1, 1001),
        current_timestep_callback=lambda: pipe.current_timestep,
    )


def faster(pipe):
    return hooks.FasterCacheConfig(
        spatial_attention_block_skip_range=2,
        spatial_attention_timestep_skip_range=(-1, 901),
        unconditional_batch_skip_range=2,
        unconditional_batch_timestep_skip_range=(-1, 901),
        attention_weight_callback=lambda _: 0.5,
        current_timestep_callback=lambda: pipe.current_timestep,
    )


def taylor(pipe, **more):
    return hooks.TaylorSeerCacheConfig(cache_interval=2, disable_cache_before_step=2, max_order=1, **more)


def magnitudes(pipe):
    return hooks.MagCacheConfig(
        mag_ratios=[1.0] * STEPS, num_inference_steps=STEPS, threshold=0.5, max_skip_steps=2, retention_ratio=0.2
    )


#: pipeline, cache, whether its schedule depends on values that only a real run knows
CACHES = {
    "first block": ("FluxPipeline", lambda pipe: hooks.FirstBlockCacheConfig(threshold=0.5), True),
    "pyramid": ("FluxPipeline", pyramid, False),
    "taylor": ("FluxPipeline", taylor, False),
    "taylor lite": ("FluxPipeline", functools.partial(taylor, use_lite_mode=True), False),
    "magnitudes": ("FluxPipeline", magnitudes, False),
    "pyramid of a video": ("CogVideoXPipeline", pyramid, False),
    "faster": ("CogVideoXPipeline", faster, False),
    "first block, guided": ("QwenImagePipeline", lambda pipe: hooks.FirstBlockCacheConfig(threshold=0.3), True),
}


def build(name, cache=None):
    pipe = ZOO[name].build()
    if cache is not None:
        pipe.transformer.enable_cache(cache(pipe))
    return pipe, {**ZOO[name].arguments(pipe), "num_inference_steps": STEPS}


@functools.cache
def without_cache(name) -> int:
    pipe, arguments = build(name)
    return count_real_run(pipe, **arguments).total


@pytest.mark.parametrize("what", CACHES)
def test_observing_counts_what_ran(what) -> None:
    name, cache, _ = CACHES[what]
    pipe, arguments = build(name, cache)
    truth = count_real_run(pipe, **arguments).total
    pipe, arguments = build(name, cache)
    with observe(pipe) as run:
        pipe(**arguments)
    assert run.profile.complete, (run.profile.uncounted, run.profile.differences)
    assert run.profile.matmul_macs == truth < without_cache(name)
    assert run.profile.cached_steps
    assert 0 not in run.profile.cached_steps  # the first step has nothing to reuse


@pytest.mark.parametrize("what", CACHES)
def test_a_dry_run_is_equal_or_says_so(what) -> None:
    name, cache, by_values = CACHES[what]
    pipe, arguments = build(name, cache)
    profile = dry_run(pipe, **arguments)
    assert profile.complete is not by_values
    if not by_values:
        assert profile.matmul_macs == count_real_run(pipe, **arguments).total


def test_a_cache_switched_on_and_off_between_generations() -> None:
    pipe, arguments = build("FluxPipeline")
    config = hooks.FirstBlockCacheConfig(threshold=0.5)
    with observe(pipe) as run:
        pipe(**arguments)
        pipe.transformer.enable_cache(config)
        pipe(**arguments)
        pipe.transformer.disable_cache()
        pipe(**arguments)
    cached, arguments = build("FluxPipeline", lambda pipe: config)
    truth = 2 * without_cache("FluxPipeline") + count_real_run(cached, **arguments).total
    assert run.profile.complete and run.profile.matmul_macs == truth
    assert {call.counted for call in run.profile.components["transformer"].calls} == {"run", "twin"}
