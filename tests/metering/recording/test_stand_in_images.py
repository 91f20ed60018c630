"""Dry runs without an image at hand: one of the stated size stands in, and the profile says so."""

from __future__ import annotations

from typing import Any

import pytest
from PIL import Image

from diffmeter import dry_run
from diffmeter.errors import InputError
from tests.zoo import ZOO

#: pipeline, and the inputs that are left out
CASES = {
    "StableDiffusionImg2ImgPipeline": ["image"],
    "StableDiffusionInpaintPipeline": ["image", "mask_image"],
    "StableDiffusionUpscalePipeline": ["image"],
    "StableDiffusionControlNetPipeline": ["image"],
    "StableDiffusionXLControlNetInpaintPipeline": ["image", "mask_image", "control_image"],
    "SanaControlNetPipeline": ["control_image"],
    "StableVideoDiffusionPipeline": ["image"],
    "AnimateDiffVideoToVideoPipeline": ["video"],
    "AnimateDiffVideoToVideoControlNetPipeline": ["video", "conditioning_frames"],
}


def without(name: str) -> tuple[Any, dict[str, Any], dict[str, Any], tuple[int, int]]:
    """The pipeline, its whole call, that without images, and the size of what is left out."""
    case = ZOO[name]
    pipe = case.build()
    given = case.arguments(pipe)
    first = given[CASES[name][0]]
    image = first[0] if isinstance(first, list) else first
    assert isinstance(image, Image.Image)
    rest = {key: value for key, value in given.items() if key not in CASES[name]}
    if isinstance(first, list):
        rest["num_frames"] = len(first)
    return pipe, given, rest, image.size


@pytest.mark.parametrize("name", CASES)
def test_what_stands_in_costs_what_the_image_costs(name: str) -> None:
    pipe, given, rest, size = without(name)
    expected, found = dry_run(pipe, **given), dry_run(pipe, **rest, image_size=size)
    assert found.complete
    assert found.matmul_macs == expected.matmul_macs
    assert set(found.conditions.stand_ins) == set(CASES[name])
    assert all(f"of {size[0]} x {size[1]}" in what for what in found.conditions.stand_ins.values())
    assert expected.conditions.stand_ins == {}
    assert f"In place of {CASES[name][0]}" in str(found)


def test_a_folder_and_the_size_of_what_is_made(tmp_path: Any) -> None:
    """Image-to-image has no height of its own: height and width are the image's."""
    pipe, given, _, size = without("StableDiffusionImg2ImgPipeline")
    pipe.save_pretrained(tmp_path)
    steps = {"steps": given["num_inference_steps"], "strength": given["strength"]}
    found = dry_run(str(tmp_path), height=size[1], width=size[0], **steps)
    assert found.conditions.stand_ins["image"] == f"image of {size[0]} x {size[1]}"
    assert (found.conditions.width, found.conditions.height) == size
    larger = dry_run(str(tmp_path), height=2 * size[1], **steps)
    assert larger.conditions.stand_ins["image"] == f"image of {2 * size[1]} x {2 * size[1]}"
    assert larger.components["unet"].matmul_macs > 4 * found.components["unet"].matmul_macs - 1
    assert dry_run(str(tmp_path), image_size=size, **steps).matmul_macs == found.matmul_macs


def test_the_size_of_what_an_upscaler_makes_is_not_that_of_its_image() -> None:
    pipe, _, rest, size = without("StableDiffusionUpscalePipeline")
    with pytest.raises(InputError, match=rf"of an image of {size[0]} x {size[1]}: give image_size"):
        dry_run(pipe, **rest, height=size[1], width=size[0])


def test_an_image_that_a_pipeline_can_do_without_does_not_stand_in() -> None:
    case = ZOO["StableDiffusionPipeline"]
    pipe = case.build()
    found = dry_run(pipe, **case.arguments(pipe))
    assert found.conditions.stand_ins == {}


@pytest.mark.parametrize("size", [0, (8,), (8, 8, 8), "large", (8, 2.5)])
def test_what_is_no_size(size: Any) -> None:
    pipe, _, rest, _ = without("StableDiffusionImg2ImgPipeline")
    with pytest.raises(InputError, match="image_size"):
        dry_run(pipe, **rest, image_size=size)
