"""Stable Diffusion 3: three text encoders and a joint transformer."""

from __future__ import annotations

from typing import Any

from .parts import assemble, clip_text, clip_tokenizer, image, mask, model, scheduler, t5, t5_tokenizer, vae
from .registry import add
from .stable_diffusion import edit, text

FAMILY = "SD3"


def transformer(in_channels: int = 16, **more: Any) -> Any:
    """SD3's transformer; the first layer also has SD3.5's second attention."""
    config: dict[str, Any] = {
        "sample_size": 16, "patch_size": 1, "in_channels": in_channels, "num_layers": 2, "attention_head_dim": 8,
        "num_attention_heads": 4, "caption_projection_dim": 32, "joint_attention_dim": 32,
        "pooled_projection_dim": 64, "out_channels": 16, "qk_norm": "rms_norm", "dual_attention_layers": (0,),
    }  # fmt: skip
    return model("SD3Transformer2DModel", **{**config, **more})


def flow(**config: Any) -> Any:
    """The flow-matching Euler scheduler."""
    return scheduler("FlowMatchEulerDiscreteScheduler", **config)


def flow_vae(latents: int = 16, **more: Any) -> Any:
    """The VAE of SD3 and FLUX: shifted latents, no convolutions around them."""
    return vae(latents, use_quant_conv=False, use_post_quant_conv=False, shift_factor=0.06, scaling_factor=1.5, **more)


def parts(**more: Any) -> dict[str, Any]:
    """The components of an SD3 pipeline."""
    return {
        "transformer": transformer,
        "scheduler": flow(),
        "vae": flow_vae(),
        "text_encoder": clip_text(projection=32),
        "tokenizer": clip_tokenizer(),
        "text_encoder_2": clip_text(projection=32, seed=1),
        "tokenizer_2": clip_tokenizer(),
        "text_encoder_3": t5(),
        "tokenizer_3": t5_tokenizer(),
        **more,
    }


SHORT = {"max_sequence_length": 32}

add(
    "StableDiffusion3Pipeline",
    FAMILY,
    lambda: assemble("StableDiffusion3Pipeline", parts()),
    lambda p: text(**SHORT),
    True,
)
add(
    "StableDiffusion3Pipeline[no T5]", FAMILY,
    lambda: assemble("StableDiffusion3Pipeline", parts(text_encoder_3=None, tokenizer_3=None)),
    lambda p: text(**SHORT),
)  # fmt: skip
add(
    "StableDiffusion3Pipeline[skip-layer guidance]",
    FAMILY,
    lambda: assemble("StableDiffusion3Pipeline", parts()),
    lambda p: text(
        skip_guidance_layers=[1],
        skip_layer_guidance_start=0.0,
        skip_layer_guidance_stop=0.9,
        num_inference_steps=4,
        **SHORT,
    ),
)
add(
    "StableDiffusion3Img2ImgPipeline",
    FAMILY,
    lambda: assemble("StableDiffusion3Img2ImgPipeline", parts()),
    lambda p: edit(height=32, width=32, **SHORT),
    True,
)
add(
    "StableDiffusion3InpaintPipeline", FAMILY, lambda: assemble("StableDiffusion3InpaintPipeline", parts()),
    lambda p: text(image=image(), mask_image=mask(), num_inference_steps=4, strength=0.5, **SHORT), True,
)  # fmt: skip
