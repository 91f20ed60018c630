"""Pipelines from one file of weights: recognized, held against the model tensor by tensor, and counted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest

import diffmeter
from diffmeter import ComputeProfile, dry_run
from diffmeter.errors import ModelLoadError
from diffmeter.models.blueprint import origin_of
from diffmeter.models.sources import build_pipeline_without_weights, source_of
from tests import weight_layouts as layouts

_pipelines: dict[str, Any] = {}


def pipeline(model: str) -> Any:
    if model not in _pipelines:
        _pipelines[model] = build_pipeline_without_weights(model)
    return _pipelines[model]


def stable_diffusion(model: str) -> layouts.Shapes:
    """UNet and autoencoder in one file, as A1111 lays it out."""
    pipe = pipeline(model)
    return layouts.ldm_unet(pipe.unet) | layouts.ldm_vae(pipe.vae)


def comfy_flux(model: str) -> layouts.Shapes:
    """The transformer alone, with the prefix that ComfyUI writes."""
    return layouts.prefixed(layouts.flux(pipeline(model).transformer), "model.diffusion_model.")


CASES = {
    "SD 1.5": ("sd15", lambda: stable_diffusion("sd15") | layouts.ldm_clip(pipeline("sd15").text_encoder)),
    "SD 2.1": ("sd21", lambda: stable_diffusion("sd21")),
    "SDXL, its UNet alone": ("sdxl", lambda: layouts.ldm_unet(pipeline("sdxl").unet)),
    "the refiner": ("sdxl-refiner", lambda: stable_diffusion("sdxl-refiner")),
    "a pruned SD 1.5": ("bk-sdm-small", lambda: stable_diffusion("bk-sdm-small")),
    "FLUX, as its authors lay it out": ("flux", lambda: layouts.flux(pipeline("flux").transformer)),
    "FLUX schnell, from ComfyUI": ("flux-schnell", lambda: comfy_flux("flux-schnell")),
}


@pytest.mark.parametrize(("model", "shapes"), CASES.values(), ids=CASES)
def test_the_model_is_recognized(tmp_path: Path, model: str, shapes: Any) -> None:
    path = layouts.write_sparse(tmp_path / "model.safetensors", shapes())
    built = build_pipeline_without_weights(path)
    known = pipeline(model)
    assert type(built) is type(known)
    for name in ("unet", "transformer", "vae"):
        if getattr(known, name, None) is not None:
            assert layouts.shapes_of(getattr(built, name)) == layouts.shapes_of(getattr(known, name))
    origin = origin_of(built)
    assert origin is not None
    assert origin["family"] == source_of(model).model_id


def test_what_the_file_lacks_comes_from_the_family_and_is_said(tmp_path: Path) -> None:
    path = layouts.write_sparse(tmp_path / "x.safetensors", comfy_flux("flux"), "F8_E4M3")
    origin = origin_of(build_pipeline_without_weights(path))
    assert origin is not None
    assert origin["from_file"] == ["transformer"]
    assert origin["from_family"] == ["vae", "text_encoder", "text_encoder_2"]
    assert origin["family"] == "black-forest-labs/FLUX.1-dev"
    assert origin["stored_dtypes"] == ["F8_E4M3"]
    # one byte a parameter, and FLUX.1-dev's transformer has 11,901,408,320 (its published safetensors index)
    assert origin["stored_bytes"] == 11_901_408_320


def test_it_costs_what_the_model_costs(tmp_path: Path) -> None:
    path = layouts.write_sparse(tmp_path / "x.safetensors", stable_diffusion("sd15"))
    arguments = {"num_inference_steps": 2, "height": 256, "width": 256}
    profile = dry_run(str(path), **arguments)
    known = dry_run("sd15", **arguments)
    assert profile.complete
    assert profile.components["unet"].total_macs == known.components["unet"].total_macs
    assert profile.components["vae"].total_macs == known.components["vae"].total_macs
    assert "safety_checker" not in profile.components  # diffusers loads single files without it
    data = profile.to_dict()
    assert data["conditions"]["origin"]["from_file"] == ["vae", "unet"]
    schema = json.loads((Path(diffmeter.__file__).parent / "schema.json").read_text())
    jsonschema.validate(json.loads(json.dumps(data)), schema)
    assert ComputeProfile.from_dict(data) == profile


def test_a_model_that_only_resembles_a_known_one_is_refused(tmp_path: Path) -> None:
    shapes = stable_diffusion("sd15")
    name = "model.diffusion_model.input_blocks.4.1.transformer_blocks.0.ff.net.2.weight"
    narrower = shapes | {name: (shapes[name][0], shapes[name][1] // 2)}
    path = layouts.write_sparse(tmp_path / "x.safetensors", narrower)
    with pytest.raises(ModelLoadError, match=r"unet: .*ff\.net\.2\.weight is 640 x 1280, not 640 x 2560.*--config"):
        build_pipeline_without_weights(path)
    missing = {key: shape for key, shape in shapes.items() if key != name}
    path = layouts.write_sparse(tmp_path / "y.safetensors", missing)
    with pytest.raises(ModelLoadError, match=r"ff\.net\.2\.weight is missing"):
        build_pipeline_without_weights(path)


def test_another_autoencoder_is_not_passed_over(tmp_path: Path) -> None:
    shapes = stable_diffusion("sd15")
    name = "first_stage_model.decoder.conv_in.weight"
    path = layouts.write_sparse(tmp_path / "x.safetensors", shapes | {name: (512, 16, 3, 3)})
    with pytest.raises(ModelLoadError, match=r"vae: decoder\.conv_in\.weight is 512 x 16 x 3 x 3"):
        build_pipeline_without_weights(path)


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        ({"lora_unet_down_blocks_0.lora_down.weight": (4, 320)}, "is a LoRA"),
        ({"unet.down.lora_A.weight": (4, 320)}, "is a LoRA"),
        ({"layer.0.weight": (7, 7)}, "none of its tensors"),
        ({}, "holds no tensors"),
    ],
)
def test_what_is_no_pipeline(tmp_path: Path, shapes: layouts.Shapes, message: str) -> None:
    path = layouts.write_sparse(tmp_path / "x.safetensors", shapes)
    with pytest.raises(ModelLoadError, match=message):
        build_pipeline_without_weights(path)


def test_a_configuration_of_its_own(tmp_path: Path) -> None:
    """A pruned model is counted with the folder of its configuration."""
    from tests.zoo import ZOO

    pipe = ZOO["StableDiffusionPipeline"].build()
    pipe.save_pretrained(tmp_path / "config")
    path = layouts.write_sparse(tmp_path / "x.safetensors", layouts.ldm_unet(pipe.unet) | layouts.ldm_vae(pipe.vae))
    with pytest.raises(ModelLoadError, match="--config"):
        build_pipeline_without_weights(path)
    built = build_pipeline_without_weights(path, config=tmp_path / "config")
    assert layouts.shapes_of(built.unet) == layouts.shapes_of(pipe.unet)


def test_a_file_with_weights_generates(tmp_path: Path) -> None:
    """The embedded model, saved in one file in the layout of latent-diffusion, with its own configuration."""
    import safetensors.torch
    import torch

    from diffmeter import observe
    from diffmeter.model_manager import ModelManager
    from tests.zoo import ZOO

    pipe = ZOO["StableDiffusionPipeline"].build()
    pipe.save_pretrained(tmp_path / "config")
    shapes = layouts.ldm_unet(pipe.unet) | layouts.ldm_vae(pipe.vae)
    shapes |= layouts.ldm_clip(pipe.text_encoder)
    tensors = {name: torch.full(shape, 0.01) for name, shape in shapes.items()}
    safetensors.torch.save_file(tensors, tmp_path / "model.safetensors")
    loaded = ModelManager().load_model(
        tmp_path / "model.safetensors", config_from=tmp_path / "config", device="cpu", dtype="float32"
    )
    loaded.set_progress_bar_config(disable=True)
    assert float(loaded.unet.conv_in.weight.mean()) == pytest.approx(0.01)
    with observe(loaded) as run:
        images = loaded("x", num_inference_steps=1, height=32, width=32).images
    assert len(images) == 1
    assert run.profile.complete
    assert run.profile.conditions.origin is not None
    assert run.profile.conditions.origin["from_file"] == ["vae", "text_encoder", "unet"]
