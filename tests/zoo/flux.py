"""FLUX.1 and its relatives: control, fill, Kontext, Redux, ControlNet."""

from __future__ import annotations

from typing import Any

from .parts import (
    PROMPT,
    assemble,
    clip_text,
    clip_tokenizer,
    drop,
    generator,
    image,
    mask,
    model,
    siglip_images,
    siglip_vision,
    t5,
    t5_tokenizer,
)  # fmt: skip
from .registry import add
from .stable_diffusion_3 import flow, flow_vae

FAMILY = "FLUX"


def transformer(in_channels: int = 16, **more: Any) -> Any:
    """FLUX's transformer with one layer of each kind."""
    config: dict[str, Any] = {
        "patch_size": 1, "in_channels": in_channels, "out_channels": 16, "num_layers": 1, "num_single_layers": 1,
        "attention_head_dim": 16, "num_attention_heads": 2, "joint_attention_dim": 32, "pooled_projection_dim": 32,
        "axes_dims_rope": (4, 4, 8), "guidance_embeds": True,
    }  # fmt: skip
    return model("FluxTransformer2DModel", **{**config, **more})


def parts(**more: Any) -> dict[str, Any]:
    """The components of a FLUX pipeline; 4 latent channels, packed 2 x 2 to 16."""
    return {
        "transformer": transformer, "scheduler": flow(), "vae": flow_vae(4), "text_encoder": clip_text(),
        "tokenizer": clip_tokenizer(), "text_encoder_2": t5(), "tokenizer_2": t5_tokenizer(), **more,
    }  # fmt: skip


def text(**more: Any) -> dict[str, Any]:
    """Arguments of a two-step generation at 32 x 48."""
    return {
        "prompt": PROMPT, "num_inference_steps": 2, "guidance_scale": 3.5, "height": 32, "width": 48,
        "max_sequence_length": 24, "output_type": "np", "generator": generator(), **more,
    }  # fmt: skip


def edit(**more: Any) -> dict[str, Any]:
    """Arguments of a generation that starts from an image at 32 x 32."""
    return text(**{"image": image(), "height": 32, "width": 32, "num_inference_steps": 4, "strength": 0.5, **more})


def control(**more: Any) -> dict[str, Any]:
    """Arguments of a generation that follows a control image at 32 x 32."""
    return text(**{"control_image": image(), "height": 32, "width": 32, **more})


def redux() -> Any:
    from diffusers.pipelines.flux import ReduxImageEncoder

    return ReduxImageEncoder(redux_dim=32, txt_in_features=32)


def controlnet(**more: Any) -> Any:
    """FLUX's ControlNet, smaller than the transformer."""
    config: dict[str, Any] = {
        "patch_size": 1, "in_channels": 16, "num_layers": 1, "num_single_layers": 1, "attention_head_dim": 16,
        "num_attention_heads": 2, "joint_attention_dim": 32, "pooled_projection_dim": 32, "axes_dims_rope": [4, 4, 8],
        "guidance_embeds": True,
    }  # fmt: skip
    return model("FluxControlNetModel", **{**config, **more})


add("FluxPipeline", FAMILY, lambda: assemble("FluxPipeline", parts()), lambda p: text(), True)
add(
    "FluxPipeline[true CFG]", FAMILY, lambda: assemble("FluxPipeline", parts()),
    lambda p: text(negative_prompt="blurry", true_cfg_scale=2.0),
)  # fmt: skip
add("FluxImg2ImgPipeline", FAMILY, lambda: assemble("FluxImg2ImgPipeline", parts()), lambda p: edit(), True)
add(
    "FluxInpaintPipeline",
    FAMILY,
    lambda: assemble("FluxInpaintPipeline", parts()),
    lambda p: edit(mask_image=mask()),
    True,
)
add(
    "FluxControlPipeline", FAMILY, lambda: assemble("FluxControlPipeline", parts(transformer=transformer(32))),
    lambda p: control(), True,
)  # fmt: skip
add(
    "FluxControlImg2ImgPipeline", FAMILY,
    lambda: assemble("FluxControlImg2ImgPipeline", parts(transformer=transformer(32))),
    lambda p: edit(control_image=image()), True,
)  # fmt: skip
add(
    "FluxControlInpaintPipeline", FAMILY,
    lambda: assemble("FluxControlInpaintPipeline", parts(transformer=transformer(32))),
    lambda p: edit(control_image=image(), mask_image=mask()),
)  # fmt: skip
add(
    "FluxFillPipeline", FAMILY, lambda: assemble("FluxFillPipeline", parts(transformer=transformer(48))),
    lambda p: drop(edit(mask_image=mask()), "strength"), True,
)  # fmt: skip
add(
    "FluxKontextPipeline", FAMILY, lambda: assemble("FluxKontextPipeline", parts()),
    lambda p: drop(edit(max_area=32 * 32, _auto_resize=False), "strength"), True,
)  # fmt: skip
add(
    "FluxKontextInpaintPipeline", FAMILY, lambda: assemble("FluxKontextInpaintPipeline", parts()),
    lambda p: edit(mask_image=mask(), max_area=32 * 32, _auto_resize=False),
)  # fmt: skip
add(
    "FluxPriorReduxPipeline", FAMILY,
    lambda: assemble(
        "FluxPriorReduxPipeline",
        parts(image_encoder=siglip_vision(), feature_extractor=siglip_images(), image_embedder=redux()),
    ),
    lambda p: {"image": image(), "prompt": PROMPT}, True,
)  # fmt: skip
add(
    "FluxControlNetPipeline", FAMILY, lambda: assemble("FluxControlNetPipeline", parts(controlnet=controlnet())),
    lambda p: control(controlnet_conditioning_scale=0.5), True,
)  # fmt: skip
add(
    "FluxControlNetPipeline[union, two]", FAMILY,
    lambda: assemble("FluxControlNetPipeline", parts(controlnet=[controlnet(num_mode=2), controlnet(num_mode=2)])),
    lambda p: control(
        control_image=[image(), image()], control_mode=[0, 1], controlnet_conditioning_scale=[0.5, 0.5]
    ),
)  # fmt: skip
add(
    "FluxControlNetImg2ImgPipeline", FAMILY,
    lambda: assemble("FluxControlNetImg2ImgPipeline", parts(controlnet=controlnet())),
    lambda p: edit(control_image=image(), controlnet_conditioning_scale=0.5),
)  # fmt: skip
add(
    "FluxControlNetInpaintPipeline", FAMILY,
    lambda: assemble("FluxControlNetInpaintPipeline", parts(controlnet=controlnet())),
    lambda p: edit(control_image=image(), mask_image=mask(), controlnet_conditioning_scale=0.5),
)  # fmt: skip
