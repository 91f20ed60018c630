"""Step caches by their schedule, against PyTorch's own counter of each module."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from diffmeter import StepCache, dry_run
from diffmeter.errors import InputError
from diffmeter.metering.recording.dry_run import ModelDryRuns
from tests.zoo import ZOO

DEEP = ("down_blocks.1", "mid_block", "up_blocks.0")


def tiny() -> Any:
    return ZOO["StableDiffusionPipeline"].build()


def call(batch: int) -> tuple[tuple[Any, ...], dict[str, Any]]:
    size = {"device": "meta"}
    return (torch.zeros(batch, 4, 16, 16, **size), torch.zeros((), **size)), {
        "encoder_hidden_states": torch.zeros(batch, 77, tiny_width(), **size)
    }


@functools.cache
def tiny_width() -> int:
    return int(tiny().unet.config.cross_attention_dim)


@functools.cache
def by_module(batch: int) -> dict[str, int]:
    """Products of each module of the tiny U-Net in one forward, by PyTorch's counter; "" is the whole."""
    unet = tiny().unet.to("meta")
    args, kwargs = call(batch)
    with torch.no_grad(), FlopCounterMode(display=False, depth=None) as counter:
        unet(*args, **kwargs)
    prefix = type(unet).__name__
    return {
        name.removeprefix(prefix).lstrip("."): sum(ops.values()) // 2
        for name, ops in counter.get_flop_counts().items()
        if name.startswith(prefix)
    }


def without(batch: int, *modules: str) -> int:
    found = by_module(batch)
    return found[""] - sum(found.get(module, 0) for module in modules)


def cross_attention(batch: int) -> int:
    return sum(macs for name, macs in by_module(batch).items() if name.endswith(".attn2"))


def test_an_interval() -> None:
    args, kwargs = call(2)
    counts = StepCache.interval(3, *DEEP).counts(tiny().unet, *args, steps=7, **kwargs)
    full, spared = without(2), without(2, *DEEP)
    assert 0 < spared < full
    assert [count.matmul_macs for count in counts] == [full, spared, spared, full, spared, spared, full]
    assert not any(count.differences or count.unknown for count in counts)


def test_the_model_is_left_as_it_is() -> None:
    unet = tiny().unet
    before = [(name, type(module), dict(module._forward_hooks)) for name, module in unet.named_modules()]
    args, kwargs = call(1)
    StepCache.interval(2, "mid_block").counts(unet, *args, steps=2, **kwargs)
    assert [(name, type(module), dict(module._forward_hooks)) for name, module in unet.named_modules()] == before


def test_a_part_named_twice_is_left_out_once() -> None:
    args, kwargs = call(1)
    cache = StepCache.at([1], "mid_block", "mid_block.resnets.0", "mid_*")
    assert cache.counts(tiny().unet, *args, steps=2, **kwargs)[1].matmul_macs == without(1, "mid_block")


def test_t_gate_ends_guidance_and_reuses_cross_attention() -> None:
    args, kwargs = call(2)
    counts = StepCache.tgate(2).counts(tiny().unet, *args, steps=4, **kwargs)
    gated = without(1) - cross_attention(1)
    assert [count.matmul_macs for count in counts] == [without(2), without(2), gated, gated]
    assert gated < without(1)


def test_two_methods_together() -> None:
    args, kwargs = call(2)
    both = StepCache.tgate(2) + StepCache.interval(2, "mid_block")
    found = by_module(1)
    inside = sum(macs for name, macs in found.items() if name.startswith("mid_block") and name.endswith(".attn2"))
    last = without(1, "mid_block") - (cross_attention(1) - inside)
    counts = both.counts(tiny().unet, *args, steps=4, **kwargs)
    assert [count.matmul_macs for count in counts[1::2]] == [without(2, "mid_block"), last]


def test_deepcache_keeps_the_outermost_blocks() -> None:
    """Two levels of one layer: branch 0 keeps both ends, and the first pair down and the last up."""
    unet = tiny().unet
    args, kwargs = call(2)
    counts = StepCache.deepcache(unet.config, 2).counts(unet, *args, steps=2, **kwargs)
    layers, found = unet.config.layers_per_block, by_module(2)
    kept = ["conv_in", "time_embedding", "conv_out"]
    kept += ["down_blocks.0.resnets.0", "down_blocks.0.attentions.0"]
    kept += [f"up_blocks.1.{kind}.{layers}" for kind in ("resnets", "attentions")]
    assert counts[1].matmul_macs == sum(found.get(name, 0) for name in kept)
    with pytest.raises(InputError, match="branch of DeepCache must be from 0"):
        StepCache.deepcache(unet.config, 2, branch=layers)


def test_a_dry_run_with_a_declared_cache() -> None:
    pipe = tiny()
    arguments = {**ZOO["StableDiffusionPipeline"].arguments(pipe), "num_inference_steps": 6}
    plain, cached = dry_run(pipe, **arguments), dry_run(pipe, **arguments, cache=StepCache.interval(3, *DEEP))
    assert cached.complete
    assert cached.cached_steps == cached.to_dict()["cached_steps"] == [1, 2, 4, 5]
    assert plain.cached_steps == []
    per_call = plain.components["unet"].calls[0].matmul_macs
    size = plain.components["unet"].calls[0].shapes["sample"]
    spared = {call.matmul_macs for call in cached.components["unet"].calls if call.reused}
    assert len(spared) == 1
    assert plain.matmul_macs - cached.matmul_macs == 4 * (per_call - spared.pop())
    assert size[0] == 2
    assert cached.components["vae"] == plain.components["vae"]


def test_steps_of_a_gate_in_a_dry_run() -> None:
    pipe = tiny()
    arguments = {**ZOO["StableDiffusionPipeline"].arguments(pipe), "num_inference_steps": 4}
    gated = dry_run(pipe, **arguments, cache=StepCache.tgate(2))
    assert gated.cached_steps == [2, 3]
    assert [(entry.batch, entry.count) for entry in gated.components["unet"].calls] == [(2, 2), (1, 2)]


def test_counts_with_and_without_a_cache_do_not_mix(tmp_path: Any) -> None:
    tiny().save_pretrained(tmp_path)
    runs = ModelDryRuns(str(tmp_path))
    given = {"height": 32, "width": 32, "steps": 4, "guidance_scale": 5.0}
    plain = runs.dry_run(**given)
    cached = runs.dry_run(**given, cache=StepCache.interval(2, *DEEP))
    assert cached.matmul_macs < plain.matmul_macs == runs.dry_run(**given).matmul_macs


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda: StepCache.interval(0, "a"), "interval of a step cache must be a whole number of at least 1"),
        (lambda: StepCache.interval(2), "needs the paths of the modules"),
        (lambda: StepCache.at([0], "a"), "a step of a step cache must be a whole number of at least 1, not 0"),
        (lambda: StepCache.after(0, "a"), "first step of a step cache must be a whole number of at least 1"),
        (lambda: dry_run(tiny(), steps=2, cache=StepCache.interval(2, "middle")), "no module 'middle'"),
    ],
)
def test_what_is_no_cache(make: Any, reason: str) -> None:
    with pytest.raises(InputError, match=reason):
        make()
