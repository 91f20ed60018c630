"""Control over U-Nets and transformers: ControlNet, ControlNet-XS, ControlNet Union, T2I adapters, GLIGEN."""

from __future__ import annotations

from typing import Any

from .parts import assemble, clip_images, clip_vision, image, mask, model
from .pixart_sana_lumina import hunyuan_parts
from .pixart_sana_lumina import text as dit_text
from .registry import add
from .stable_diffusion import edit, parts, text, unet
from .stable_diffusion_3 import SHORT
from .stable_diffusion_3 import parts as sd3_parts
from .stable_diffusion_xl import parts as xl_parts

FAMILY = "ControlNet"


def controlnet(**more: Any) -> Any:
    """The ControlNet of the small U-Net: its encoder, and 3 x 3 convolutions that bring the image to its size."""
    config: dict[str, Any] = {
        "block_out_channels": (8, 16), "layers_per_block": 1, "in_channels": 4,
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"), "cross_attention_dim": 32,
        "conditioning_embedding_out_channels": (8, 16), "attention_head_dim": 2, "norm_num_groups": 4,
    }  # fmt: skip
    return model("ControlNetModel", **{**config, **more})


XL: dict[str, Any] = {
    "cross_attention_dim": 64, "attention_head_dim": (2, 4), "use_linear_projection": True,
    "addition_embed_type": "text_time", "addition_time_embed_dim": 8, "transformer_layers_per_block": (1, 2),
    "projection_class_embeddings_input_dim": 80,
}  # fmt: skip


def union() -> Any:
    return model(
        "ControlNetUnionModel", block_out_channels=(8, 16), layers_per_block=1, in_channels=4,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"), conditioning_embedding_out_channels=(8, 16),
        norm_num_groups=4, num_trans_channel=8, num_trans_head=2, num_proj_channel=8, **XL,
    )  # fmt: skip


add(
    "StableDiffusionControlNetPipeline", FAMILY,
    lambda: assemble("StableDiffusionControlNetPipeline", parts(controlnet=controlnet())),
    lambda p: text(image=image()), True,
)  # fmt: skip
add(
    "StableDiffusionControlNetPipeline[two]", FAMILY,
    lambda: assemble("StableDiffusionControlNetPipeline", parts(controlnet=[controlnet(), controlnet()])),
    lambda p: text(image=[image(), image()], controlnet_conditioning_scale=[1.0, 0.5]),
)  # fmt: skip
add(
    "StableDiffusionControlNetPipeline[guess mode, cut off]", FAMILY,
    lambda: assemble("StableDiffusionControlNetPipeline", parts(controlnet=controlnet())),
    lambda p: text(image=image(), guess_mode=True, num_inference_steps=4, control_guidance_end=0.5),
)  # fmt: skip
add(
    "StableDiffusionControlNetImg2ImgPipeline", FAMILY,
    lambda: assemble("StableDiffusionControlNetImg2ImgPipeline", parts(controlnet=controlnet())),
    lambda p: edit(control_image=image()), True,
)  # fmt: skip
add(
    "StableDiffusionControlNetInpaintPipeline", FAMILY,
    lambda: assemble("StableDiffusionControlNetInpaintPipeline", parts(controlnet=controlnet(), unet=unet(9))),
    lambda p: text(image=image(), mask_image=mask(), control_image=image()), True,
)  # fmt: skip
add(
    "StableDiffusionXLControlNetPipeline", FAMILY,
    lambda: assemble("StableDiffusionXLControlNetPipeline", xl_parts(controlnet=controlnet(**XL))),
    lambda p: text(image=image()), True,
)  # fmt: skip
add(
    "StableDiffusionXLControlNetImg2ImgPipeline", FAMILY,
    lambda: assemble("StableDiffusionXLControlNetImg2ImgPipeline", xl_parts(controlnet=controlnet(**XL))),
    lambda p: edit(control_image=image()),
)  # fmt: skip
add(
    "StableDiffusionXLControlNetInpaintPipeline", FAMILY,
    lambda: assemble("StableDiffusionXLControlNetInpaintPipeline", xl_parts(controlnet=controlnet(**XL))),
    lambda p: text(image=image(), mask_image=mask(), control_image=image(), num_inference_steps=4, strength=0.5),
)  # fmt: skip
add(
    "StableDiffusionXLControlNetUnionPipeline", FAMILY,
    lambda: assemble("StableDiffusionXLControlNetUnionPipeline", xl_parts(controlnet=union())),
    lambda p: text(control_image=[image()], control_mode=[0]), True,
)  # fmt: skip
add(
    "StableDiffusionXLControlNetUnionImg2ImgPipeline", FAMILY,
    lambda: assemble("StableDiffusionXLControlNetUnionImg2ImgPipeline", xl_parts(controlnet=union())),
    lambda p: edit(control_image=[image()], control_mode=[1]),
)  # fmt: skip
add(
    "StableDiffusionXLControlNetUnionInpaintPipeline",
    FAMILY,
    lambda: assemble("StableDiffusionXLControlNetUnionInpaintPipeline", xl_parts(controlnet=union())),
    lambda p: text(
        image=image(),
        mask_image=mask(),
        control_image=[image()],
        control_mode=[1],
        num_inference_steps=4,
        strength=0.5,
    ),
)

# ControlNet-XS ---------------------------------------------------------------------------------------------------


def xs(base: Any, **more: Any) -> Any:
    from diffusers import ControlNetXSAdapter

    return ControlNetXSAdapter.from_unet(
        base, size_ratio=1, learn_time_embedding=True, conditioning_embedding_out_channels=(2, 2), **more
    )


def xs_pipeline() -> Any:
    base = unet(layers_per_block=2, use_linear_projection=True)  # ControlNet-XS takes two layers for granted
    return assemble("StableDiffusionControlNetXSPipeline", parts(unet=base, controlnet=xs(base)))


def xs_xl_pipeline() -> Any:
    from .stable_diffusion_xl import unet as xl_unet

    base = xl_unet(layers_per_block=2)
    return assemble("StableDiffusionXLControlNetXSPipeline", xl_parts(unet=base, controlnet=xs(base)))


add("StableDiffusionControlNetXSPipeline", FAMILY, xs_pipeline, lambda p: text(image=image()))
add("StableDiffusionXLControlNetXSPipeline", FAMILY, xs_xl_pipeline, lambda p: text(image=image()))

# Transformers ----------------------------------------------------------------------------------------------------


def sd3_controlnet(**more: Any) -> Any:
    config: dict[str, Any] = {
        "sample_size": 16, "patch_size": 1, "in_channels": 16, "num_layers": 1, "attention_head_dim": 8,
        "num_attention_heads": 4, "joint_attention_dim": 32, "caption_projection_dim": 32, "pooled_projection_dim": 64,
        "out_channels": 16,
    }  # fmt: skip
    return model("SD3ControlNetModel", **{**config, **more})


def hunyuan_controlnet() -> Any:
    return model(
        "HunyuanDiT2DControlNetModel", sample_size=16, transformer_num_layers=2, patch_size=2, attention_head_dim=8,
        num_attention_heads=4, in_channels=4, cross_attention_dim=32, cross_attention_dim_t5=32,
        pooled_projection_dim=16, hidden_size=32, text_len=77, text_len_t5=256, conditioning_channels=3,
    )  # fmt: skip


add(
    "StableDiffusion3ControlNetPipeline", FAMILY,
    lambda: assemble("StableDiffusion3ControlNetPipeline", sd3_parts(controlnet=sd3_controlnet())),
    lambda p: text(control_image=image(), **SHORT), True,
)  # fmt: skip
add(
    "StableDiffusion3ControlNetInpaintingPipeline",
    FAMILY,
    lambda: assemble(
        "StableDiffusion3ControlNetInpaintingPipeline",
        sd3_parts(controlnet=sd3_controlnet(extra_conditioning_channels=1)),
    ),
    lambda p: text(control_image=image(), control_mask=mask(), **SHORT),
)
add(
    "HunyuanDiTControlNetPipeline", FAMILY,
    lambda: assemble("HunyuanDiTControlNetPipeline", hunyuan_parts(controlnet=hunyuan_controlnet())),
    lambda p: dit_text(control_image=image(64), height=64, width=64), True,
)  # fmt: skip

# Adapters and GLIGEN ---------------------------------------------------------------------------------------------


def adapted_unet(xl: bool = False) -> Any:
    """A U-Net whose first stage attends: its features have the sizes of the adapter's."""
    from .stable_diffusion_xl import unet as xl_unet

    blocks = {
        "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
    }
    return xl_unet(**blocks) if xl else unet(**blocks)


def t2i(kind: str = "full_adapter", channels: Any = (8, 16)) -> Any:
    return model(
        "T2IAdapter", in_channels=3, channels=list(channels), num_res_blocks=1, downscale_factor=2, adapter_type=kind
    )


add(
    "StableDiffusionAdapterPipeline",
    "T2I-Adapter",
    lambda: assemble("StableDiffusionAdapterPipeline", parts(unet=adapted_unet(), adapter=t2i())),
    lambda p: text(image=image()),
    True,
)
add(
    "StableDiffusionAdapterPipeline[two]", "T2I-Adapter",
    lambda: assemble("StableDiffusionAdapterPipeline", parts(unet=adapted_unet(), adapter=[t2i(), t2i()])),
    lambda p: text(image=[image(), image()], adapter_conditioning_scale=[0.5, 0.5]),
)  # fmt: skip
add(
    "StableDiffusionXLAdapterPipeline", "T2I-Adapter",
    lambda: assemble("StableDiffusionXLAdapterPipeline", xl_parts(unet=adapted_unet(xl=True), adapter=t2i())),
    lambda p: text(image=image()),
)  # fmt: skip


def gligen_parts(**more: Any) -> dict[str, Any]:
    return parts(unet=unet(attention_type="gated", attention_head_dim=(2, 4)), **more)


def boxes() -> dict[str, Any]:
    return {
        "gligen_phrases": ["a circle"], "gligen_boxes": [[0.1, 0.2, 0.5, 0.6]], "gligen_scheduled_sampling_beta": 0.5,
    }  # fmt: skip


def gligen_image_pipeline() -> Any:
    from diffusers.pipelines.stable_diffusion import CLIPImageProjection
    from transformers import CLIPProcessor

    from .parts import clip_tokenizer

    return assemble(
        "StableDiffusionGLIGENTextImagePipeline",
        parts(
            unet=unet(attention_type="gated-text-image", attention_head_dim=(2, 4)),
            image_encoder=clip_vision(),
            image_project=CLIPImageProjection(hidden_size=32),
            processor=CLIPProcessor(clip_images(), clip_tokenizer()),
        ),
    )


add(
    "StableDiffusionGLIGENPipeline", "GLIGEN", lambda: assemble("StableDiffusionGLIGENPipeline", gligen_parts()),
    lambda p: text(**boxes(), num_inference_steps=4), True,
)  # fmt: skip
add(
    "StableDiffusionGLIGENTextImagePipeline", "GLIGEN", gligen_image_pipeline,
    lambda p: text(**boxes(), gligen_images=[image()]),
)  # fmt: skip
