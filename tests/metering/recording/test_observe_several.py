"""Several pipelines, several generations, several threads: a block answers for its own pipelines' generations."""

from __future__ import annotations

import asyncio
import json
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from torch import nn

from diffmeter import ComputeProfile, observe
from diffmeter.errors import DiffmeterError
from tests.reference import count_real_call, pipeline_modules
from tests.zoo import ZOO

CASE = ZOO["StableDiffusionPipeline"]


def pipeline() -> Any:
    pipe = CASE.build()
    pipe.set_progress_bar_config(disable=True)
    return pipe


def generate(pipe: Any, **changes: Any) -> Any:
    return pipe(**{**CASE.arguments(pipe), **changes})


def truth(pipe: Any, **changes: Any) -> int:
    """The products of one generation, by the independent counter."""
    return count_real_call(lambda: generate(pipe, **changes), pipeline_modules(pipe)).total


@pytest.fixture(scope="module")
def products() -> int:
    return truth(pipeline())


@pytest.fixture(scope="module")
def base_and_refiner() -> tuple[Any, Any, int]:
    """Two pipelines that share text encoder and VAE, and what one call of the second costs."""
    import diffusers
    from PIL import Image

    base = pipeline()
    refiner = diffusers.StableDiffusionImg2ImgPipeline(
        **{**base.components, "unet": pipeline().unet}, requires_safety_checker=False
    )
    refiner.set_progress_bar_config(disable=True)
    refiner.arguments = {
        "prompt": "x",
        "image": Image.new("RGB", (32, 32)),
        "strength": 0.6,
        "num_inference_steps": 20,
        "guidance_scale": 5.0,
    }
    modules = pipeline_modules(refiner)
    return base, refiner, count_real_call(lambda: refiner(**refiner.arguments), modules).total


def test_a_block_leaves_out_other_pipelines_of_shared_components(base_and_refiner, products: int) -> None:
    base, refiner, _ = base_and_refiner
    with observe(base) as run:
        generate(base)
        refiner(**refiner.arguments)
    assert run.profile.complete
    assert run.profile.matmul_macs == products


def test_nested_blocks_have_each_their_own(base_and_refiner, products: int) -> None:
    base, refiner, other = base_and_refiner
    with observe(base) as outer, observe(refiner) as inner:
        generate(base)
        refiner(**refiner.arguments)
    assert (outer.profile.matmul_macs, inner.profile.matmul_macs) == (products, other)
    assert outer.profile.complete
    assert inner.profile.complete


@pytest.mark.parametrize("swapped", [False, True])
def test_several_pipelines_have_a_profile_each_and_a_sum(base_and_refiner, products: int, swapped: bool) -> None:
    base, refiner, other = base_and_refiner
    with observe(*((refiner, base) if swapped else (base, refiner))) as run:
        generate(base)
        refiner(**refiner.arguments)
        refiner(**refiner.arguments)
    expected = [2 * other, products] if swapped else [products, 2 * other]
    assert [profile.matmul_macs for profile in run.profiles] == expected
    assert run.profile.matmul_macs == sum(expected)
    assert run.profile.complete
    assert ComputeProfile.from_dict(json.loads(json.dumps(run.profile.to_dict()))) == run.profile


def test_image_to_image_says_how_many_steps_ran(base_and_refiner) -> None:
    _, refiner, _ = base_and_refiner
    with observe(refiner) as run:
        refiner(**refiner.arguments)
    # 0.6 of 20 steps
    assert (run.profile.conditions.num_inference_steps, run.profile.steps_run) == (20, 12)


def test_a_module_that_is_taken_in() -> None:
    """A convolution of 3 to 5 channels with a kernel of 3 on a 32 x 32 image: 30 * 30 * 5 * 27 products."""
    pipe, upscaler = pipeline(), nn.Conv2d(3, 5, 3)
    with observe(pipe, extra={"upscaler": upscaler}) as run:
        upscaler(torch.ones(1, 3, 32, 32))
        generate(pipe)
    assert run.profile.components["upscaler"].matmul_macs == 30 * 30 * 5 * 27


def test_each_generation_keeps_its_conditions() -> None:
    pipe = pipeline()
    with observe(pipe) as run:
        generate(pipe, num_inference_steps=2)
        generate(pipe, num_inference_steps=3, height=64, width=64)
    assert run.profile.generations == 2
    assert [(each.num_inference_steps, each.height) for each in run.profile.runs] == [(2, 32), (3, 64)]
    assert run.profile.conditions.num_inference_steps is None
    assert run.profile.matmul_macs == truth(pipe, num_inference_steps=2) + truth(
        pipe, num_inference_steps=3, height=64, width=64
    )


def test_pipelines_in_a_pool_of_threads(products: int) -> None:
    pipes = [pipeline() for _ in range(2)]
    with observe(*pipes) as run, ThreadPoolExecutor(2) as pool:
        list(pool.map(generate, pipes))
    assert [profile.matmul_macs for profile in run.profiles] == [products] * 2
    assert run.profile.complete


def test_a_pool_that_was_there_before_the_block(products: int) -> None:
    pipe, pool = pipeline(), ThreadPoolExecutor(1)
    pool.submit(int).result()
    with observe(pipe) as run:
        pool.submit(generate, pipe).result()
    pool.shutdown()
    assert (run.profile.matmul_macs, run.profile.complete) == (products, True)


def test_blocks_in_tasks_that_take_turns(products: int) -> None:
    async def one(pipe: Any, pause: float) -> ComputeProfile:
        with observe(pipe) as run:
            await asyncio.sleep(pause)
            generate(pipe)
            await asyncio.sleep(pause)
        return run.profile

    async def both() -> list[ComputeProfile]:
        return await asyncio.gather(one(pipeline(), 0.01), one(pipeline(), 0.2))

    profiles = asyncio.run(both())
    assert [profile.matmul_macs for profile in profiles] == [products] * 2
    assert all(profile.complete for profile in profiles)


def test_a_component_that_is_assigned_inside_the_block(products: int) -> None:
    pipe, other = pipeline(), pipeline().unet
    with observe(pipe) as run:
        generate(pipe)
        pipe.unet = other
        generate(pipe)
    assert run.profile.matmul_macs == 2 * products
    assert run.profile.complete


class Engine:
    """Stands for a compiled engine: no module, and no operator of PyTorch's."""

    dtype = torch.float32

    def __init__(self, unet: nn.Module) -> None:
        self.config = unet.config

    def __call__(self, sample: torch.Tensor, *_: Any, **__: Any) -> tuple[torch.Tensor]:
        return (torch.from_numpy(sample.numpy() * 1.0),)


def test_an_engine_is_a_component_whose_work_is_not_seen() -> None:
    pipe = pipeline()
    pipe.unet = Engine(pipe.unet)
    with observe(pipe) as run:
        generate(pipe)
    assert not run.profile.complete
    assert any(entry["component"] == "unet" for entry in run.profile.uncounted)
    assert "text_encoder" not in run.profile.denoisers


def test_a_wrapper_that_is_no_module_is_looked_through(products: int) -> None:
    class Wrapper(Engine):
        def __init__(self, unet: nn.Module) -> None:
            super().__init__(unet)
            self.unet = unet

        def __call__(self, *args: Any, **kwargs: Any) -> Any:
            return self.unet(*args, **kwargs)

    pipe = pipeline()
    pipe.unet = Wrapper(pipe.unet)
    with observe(pipe) as run:
        generate(pipe)
    assert (run.profile.matmul_macs, run.profile.complete) == (products, True)


def test_seconds_that_include_counting_are_marked() -> None:
    pipe = pipeline()
    pipe.unet.register_forward_hook(lambda *_: None)
    with observe(pipe) as run:
        generate(pipe)
    assert run.profile.time_includes_counting
    assert run.profile.throughput_tflops is None


def test_a_block_is_over_once() -> None:
    pipe = pipeline()
    block = observe(pipe)
    with block:
        generate(pipe)
    with pytest.raises(DiffmeterError, match="over"), block:
        pass


def test_reading_in_other_modes(products: int) -> None:
    from torch.utils.flop_counter import FlopCounterMode

    pipe = pipeline()
    with FlopCounterMode(display=False) as theirs:
        with observe(pipe) as run:
            generate(pipe)
        before = theirs.get_total_flops()
        with torch.inference_mode(), torch.device("meta"):
            profile = run.profile
        assert theirs.get_total_flops() == before
    assert (profile.matmul_macs, profile.complete) == (products, True)
