"""LoRAs, ControlNets, IP-Adapters, VAEs and schedulers on a model without weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from diffmeter.errors import InputError, ModelLoadError
from diffmeter.metering.recording.dry_run import ModelDryRuns
from diffmeter.models.adapters import Changes, parse_lora
from diffmeter.models.sources import build_pipeline_without_weights
from tests.weight_layouts import write_sparse
from tests.zoo import ZOO

SMALL = {"prompt": "x", "num_inference_steps": 1, "height": 32, "width": 32}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("model")
    ZOO["StableDiffusionPipeline"].build().save_pretrained(folder)
    return str(folder)


def profile(model: str, **changes: Any) -> Any:
    return ModelDryRuns(model, changes=Changes(**changes)).dry_run(**SMALL)


def lora_file(path: Path, unet: torch.nn.Module, rank: int) -> Path:
    """A LoRA on the query projections, in the layout that diffusers saves."""
    shapes = {}
    for name, module in unet.named_modules():
        if name.endswith("to_q"):
            shapes[f"unet.{name}.lora_A.weight"] = (rank, module.in_features)
            shapes[f"unet.{name}.lora_B.weight"] = (module.out_features, rank)
    return write_sparse(path, shapes, "F32")


def test_a_lora_adds_its_two_small_products(model: str, tmp_path: Path) -> None:
    unet = build_pipeline_without_weights(model).unet
    path = lora_file(tmp_path / "lora.safetensors", unet, rank=4)
    plain, adapted = profile(model), profile(model, loras=((str(path), 0.5),))
    fused = profile(model, loras=((str(path), 1.0),), fuse_loras=True)
    before, after = plain.components["unet"].calls[0], adapted.components["unet"].calls[0]
    # Every query projection of the UNet sees its block's tokens: for each, tokens x rank x (in + out).
    added = 0
    handles = []

    def note(module: Any, args: Any) -> None:
        nonlocal added
        rows = args[0].numel() // module.in_features
        added += rows * 4 * (module.in_features + module.out_features)

    for name, module in unet.named_modules():
        if name.endswith("to_q"):
            handles.append(module.register_forward_pre_hook(note))
    size = before.shapes["sample"] if "sample" in before.shapes else next(iter(before.shapes.values()))
    width = unet.config.cross_attention_dim
    with torch.no_grad(), torch.device("meta"):
        unet(torch.empty(*size), 1, encoder_hidden_states=torch.empty(size[0], 77, width))
    assert after.matmul_macs - before.matmul_macs == added > 0
    assert fused.components["unet"].calls[0].matmul_macs == before.matmul_macs
    (named,) = adapted.conditions.adapters
    assert named["rank"] == 4
    assert named["component"] == "unet"
    assert named["params"] == sum(
        4 * (m.in_features + m.out_features) for n, m in unet.named_modules() if n.endswith("to_q")
    )
    assert plain.conditions.adapters == []


def test_a_controlnet_is_a_component(model: str, tmp_path: Path) -> None:
    net = ZOO["StableDiffusionControlNetPipeline"].build().controlnet
    net.save_config(tmp_path)
    found = profile(model, controlnets=(str(tmp_path),))
    assert found.conditions.pipeline == "StableDiffusionControlNetPipeline"
    assert found.complete
    assert found.components["controlnet"].matmul_macs > 0


def test_a_scheduler_by_name(model: str) -> None:
    found = ModelDryRuns(model, changes=Changes(scheduler="heun" + "Discrete")).dry_run(
        **{**SMALL, "num_inference_steps": 5}
    )
    assert found.conditions.scheduler == "HeunDiscreteScheduler"
    assert found.components["unet"].call_count == 2 * 5 - 1  # Heun's second order, but for the last step
    with pytest.raises(InputError, match=r"'eular' is no scheduler of diffusers; the nearest are .*Euler"):
        profile(model, scheduler="eular")


def test_another_vae(model: str, tmp_path: Path) -> None:
    from diffusers import AutoencoderTiny

    AutoencoderTiny(
        in_channels=3,
        out_channels=3,
        encoder_block_out_channels=(8, 8, 8, 8),
        decoder_block_out_channels=(8, 8, 8, 8),
        num_encoder_blocks=(1, 1, 1, 1),
        num_decoder_blocks=(1, 1, 1, 1),
    ).save_config(tmp_path)
    found = profile(model, vae=str(tmp_path))
    assert found.components["vae"].class_name == "AutoencoderTiny"
    assert found.complete


def test_what_does_not_fit_is_refused(model: str, tmp_path: Path) -> None:
    path = write_sparse(tmp_path / "other.safetensors", {"unet.nowhere.lora_A.weight": (4, 8)}, "F32")
    with pytest.raises(ModelLoadError, match="the LoRA"):
        profile(model, loras=((str(path), 1.0),))
    with pytest.raises(ModelLoadError, match="is no IP-Adapter"):
        profile(model, ip_adapters=(str(path),))
    (tmp_path / "config.json").write_text(json.dumps({"_class_name": "NoSuchNet"}))
    with pytest.raises(ModelLoadError, match="NoSuchNet"):
        profile(model, controlnets=(str(tmp_path),))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a.safetensors", ("a.safetensors", 1.0)),
        ("a.safetensors:0.7", ("a.safetensors", 0.7)),
        ("owner/name:-1", ("owner/name", -1.0)),
        (r"C:\loras\a.safetensors", (r"C:\loras\a.safetensors", 1.0)),
    ],
)
def test_a_lora_and_its_scale(text: str, expected: tuple[str, float]) -> None:
    assert parse_lora(text) == expected


def test_a_scale_that_is_none() -> None:
    with pytest.raises(InputError, match="the scale of the LoRA 'a'"):
        parse_lora("a:nan")
