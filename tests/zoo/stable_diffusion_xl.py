"""Stable Diffusion XL: two text encoders and conditioning on sizes."""

from __future__ import annotations

from typing import Any

from .parts import assemble, clip_text, clip_tokenizer, image, mask, scheduler, vae
from .registry import add
from .stable_diffusion import edit, instruct, text
from .stable_diffusion import parts as sd_parts
from .stable_diffusion import unet as sd_unet

FAMILY = "SDXL"


def unet(in_channels: int = 4, sizes: int = 6, **more: Any) -> Any:
    """SDXL's U-Net: two transformer layers in a block, and ``sizes`` numbers added to the time embedding."""
    return sd_unet(
        in_channels, 64, **{
            "attention_head_dim": (2, 4), "use_linear_projection": True, "addition_embed_type": "text_time",
            "addition_time_embed_dim": 8, "transformer_layers_per_block": (1, 2),
            "projection_class_embeddings_input_dim": sizes * 8 + 32, **more,
        },
    )  # fmt: skip


def euler() -> Any:
    return scheduler(
        "EulerDiscreteScheduler", beta_schedule="scaled_linear", steps_offset=1, timestep_spacing="leading"
    )


def parts(**more: Any) -> dict[str, Any]:
    """The components of an SDXL pipeline."""
    return sd_parts(
        **{
            "unet": unet,
            "scheduler": euler(),
            "vae": vae(),
            "text_encoder": clip_text(hidden_act="gelu"),
            "text_encoder_2": clip_text(projection=32, hidden_act="gelu"),
            "tokenizer_2": clip_tokenizer(),
            "add_watermarker": False,
            **more,
        }
    )


add(
    "StableDiffusionXLPipeline", FAMILY, lambda: assemble("StableDiffusionXLPipeline", parts()), lambda p: text(), True
)
add(
    "StableDiffusionXLImg2ImgPipeline[refiner]",
    FAMILY,
    lambda: assemble(
        "StableDiffusionXLImg2ImgPipeline",
        parts(
            unet=unet(4, 5, cross_attention_dim=32), text_encoder=None, tokenizer=None, requires_aesthetics_score=True
        ),
    ),
    lambda p: edit(),
)
add(
    "StableDiffusionXLImg2ImgPipeline", FAMILY,
    lambda: assemble("StableDiffusionXLImg2ImgPipeline", parts()), lambda p: edit(), True,
)  # fmt: skip
add(
    "StableDiffusionXLInpaintPipeline", FAMILY,
    lambda: assemble("StableDiffusionXLInpaintPipeline", parts(unet=unet(9))),
    lambda p: text(image=image(), mask_image=mask(), num_inference_steps=4, strength=0.5), True,
)  # fmt: skip
add(
    "StableDiffusionXLInstructPix2PixPipeline", FAMILY,
    lambda: assemble("StableDiffusionXLInstructPix2PixPipeline", parts(unet=unet(8))),
    lambda p: instruct(height=32, width=32), True,
)  # fmt: skip
