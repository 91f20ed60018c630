"""Qwen-Image and its editing, layered and ControlNet variants."""

from __future__ import annotations

from typing import Any

from .parts import (
    assemble,
    drop,
    image,
    mask,
    model,
    qwen2_5_vl,
    qwen2_processor,
    qwen_tokenizer,
)
from .pixart_sana_lumina import text as base_text
from .registry import add
from .stable_diffusion_3 import flow

FAMILY = "Qwen-Image"


def transformer(**more: Any) -> Any:
    """Qwen-Image's double-stream transformer."""
    config: dict[str, Any] = {
        "patch_size": 2, "in_channels": 16, "out_channels": 4, "num_layers": 2, "attention_head_dim": 16,
        "num_attention_heads": 2, "joint_attention_dim": 32, "guidance_embeds": False, "axes_dims_rope": (8, 4, 4),
    }  # fmt: skip
    return model("QwenImageTransformer2DModel", **{**config, **more})


def video_vae(class_name: str = "AutoencoderKLQwenImage", latents: int = 4, **more: Any) -> Any:
    """The causal video VAE of Qwen-Image and Wan: 8 x 8 pixels and 4 frames a latent."""
    config: dict[str, Any] = {
        "base_dim": 4, "z_dim": latents, "dim_mult": [1, 1, 1, 1], "num_res_blocks": 1,
        "temperal_downsample": [False, True, True], "latents_mean": [0.0] * latents, "latents_std": [1.0] * latents,
    }  # fmt: skip
    return model(class_name, **{**config, **more})


def parts(**more: Any) -> dict[str, Any]:
    """The components of a Qwen-Image pipeline."""
    return {
        "scheduler": flow(use_dynamic_shifting=True),
        "vae": video_vae,
        "text_encoder": qwen2_5_vl,
        "tokenizer": qwen_tokenizer(),
        "transformer": transformer,
        "processor": qwen2_processor,
        **more,
    }


def text(**more: Any) -> dict[str, Any]:
    """Arguments of a generation with true guidance: two calls a step."""
    return drop(base_text(**{"true_cfg_scale": 2.0, "max_sequence_length": 24, **more}), "guidance_scale")


def controlnet(**more: Any) -> Any:
    """Qwen-Image's ControlNet."""
    config: dict[str, Any] = {
        "patch_size": 2, "in_channels": 16, "out_channels": 4, "num_layers": 1, "attention_head_dim": 16,
        "num_attention_heads": 2, "joint_attention_dim": 32, "axes_dims_rope": (8, 4, 4),
    }  # fmt: skip
    return model("QwenImageControlNetModel", **{**config, **more})


def edit(**more: Any) -> dict[str, Any]:
    return text(**{"image": image(), "width": 32, "num_inference_steps": 4, "strength": 0.5, **more})


add("QwenImagePipeline", FAMILY, lambda: assemble("QwenImagePipeline", parts()), lambda p: text(), True)
add("QwenImageImg2ImgPipeline", FAMILY, lambda: assemble("QwenImageImg2ImgPipeline", parts()), lambda p: edit(), True)
add(
    "QwenImageInpaintPipeline", FAMILY, lambda: assemble("QwenImageInpaintPipeline", parts()),
    lambda p: edit(mask_image=mask()), True,
)  # fmt: skip
add(
    "QwenImageControlNetPipeline", FAMILY,
    lambda: assemble("QwenImageControlNetPipeline", parts(controlnet=controlnet())),
    lambda p: text(control_image=image(), width=32), True,
)  # fmt: skip
add(
    "QwenImageControlNetInpaintPipeline", FAMILY,
    lambda: assemble("QwenImageControlNetInpaintPipeline", parts(controlnet=controlnet(extra_condition_channels=4))),
    lambda p: text(control_image=image(), control_mask=mask(), width=32),
)  # fmt: skip


# The editing pipelines scale what they see to a megapixel, whatever size is asked for: a VAE with few channels that
# scales by 32 keeps that cheap.
def deep_vae(latents: int = 4, **more: Any) -> Any:
    """A VAE that makes 32 x 32 latents of a megapixel."""
    return video_vae(
        latents=latents, base_dim=2, dim_mult=[1] * 6, temperal_downsample=[False, False, False, True, True], **more
    )


add(
    "QwenImageEditPipeline", FAMILY, lambda: assemble("QwenImageEditPipeline", parts(vae=deep_vae())),
    lambda p: text(image=image(), height=64, width=64), True,
)  # fmt: skip
add(
    "QwenImageEditPlusPipeline", FAMILY, lambda: assemble("QwenImageEditPlusPipeline", parts(vae=deep_vae())),
    lambda p: text(image=[image(), image()], height=64, width=64),
)  # fmt: skip
add(
    "QwenImageEditInpaintPipeline", FAMILY, lambda: assemble("QwenImageEditInpaintPipeline", parts(vae=deep_vae())),
    lambda p: edit(mask_image=mask(), height=64, width=64),
)  # fmt: skip
add(
    "QwenImageLayeredPipeline", FAMILY,
    lambda: assemble(
        "QwenImageLayeredPipeline",
        parts(
            vae=deep_vae(8, input_channels=4),
            transformer=transformer(in_channels=32, out_channels=8, use_additional_t_cond=True, use_layer3d_rope=True),
        ),
    ),
    lambda p: drop(text(image=image().convert("RGBA"), layers=2, resolution=640), "height", "width"),
)  # fmt: skip
