"""Stable Diffusion 1.x and 2.x: text to image, image to image, inpainting, depth, upscaling and relatives."""

from __future__ import annotations

from typing import Any

from .parts import (
    NEGATIVE,
    PROMPT,
    assemble,
    clip_images,
    clip_text,
    clip_tokenizer,
    clip_vision,
    drop,
    generator,
    image,
    mask,
    model,
    safety_checker,
    scheduler,
    vae,
)
from .registry import add

FAMILY = "Stable Diffusion"


def unet(in_channels: int = 4, cross: int | None = 32, **more: Any) -> Any:
    """A U-Net with one plain and one cross-attention stage, two heads in each."""
    config: dict[str, Any] = {
        "block_out_channels": (8, 16), "layers_per_block": 1, "sample_size": 16, "in_channels": in_channels,
        "out_channels": 4, "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"), "cross_attention_dim": cross,
        "attention_head_dim": 2, "norm_num_groups": 4,
    }  # fmt: skip
    return model("UNet2DConditionModel", **{**config, **more})


def ddim() -> Any:
    """The scheduler of most cases: one call a step."""
    return scheduler("DDIMScheduler", beta_schedule="scaled_linear", clip_sample=False, set_alpha_to_one=False)


def parts(**more: Any) -> dict[str, Any]:
    """The components of a Stable Diffusion pipeline without a safety checker."""
    return {
        "vae": vae(), "text_encoder": clip_text(), "tokenizer": clip_tokenizer(), "unet": unet, "scheduler": ddim(),
        "feature_extractor": clip_images, "requires_safety_checker": False, "safety_checker": None, **more,
    }  # fmt: skip


def text(**more: Any) -> dict[str, Any]:
    """Arguments of a guided two-step generation at 32 x 32."""
    return {
        "prompt": PROMPT, "negative_prompt": NEGATIVE, "num_inference_steps": 2, "guidance_scale": 5.0, "height": 32,
        "width": 32, "output_type": "np", "generator": generator(), **more,
    }  # fmt: skip


def edit(**more: Any) -> dict[str, Any]:
    """Arguments of a guided generation that starts from an image."""
    return drop(text(**{"image": image(), "num_inference_steps": 4, "strength": 0.5, **more}), "height", "width")


def image_encoder_parts(**more: Any) -> dict[str, Any]:
    return parts(image_encoder=clip_vision(), **more)


def depth() -> Any:
    """A small DPT depth estimator with a hybrid (convolutional) backbone left out."""
    from transformers import DPTConfig, DPTForDepthEstimation

    return DPTForDepthEstimation(
        DPTConfig(
            hidden_size=16, num_hidden_layers=4, num_attention_heads=2, intermediate_size=20, image_size=32,
            patch_size=16, backbone_out_indices=[0, 1, 2, 3], neck_hidden_sizes=[8, 8, 8, 8], fusion_hidden_size=8,
            is_hybrid=False, readout_type="ignore", reassemble_factors=[4, 2, 1, 0.5],
        )
    )  # fmt: skip


def dpt_images() -> Any:
    from transformers import DPTImageProcessor

    return DPTImageProcessor(size={"height": 32, "width": 32})


def noise_scheduler() -> Any:
    return scheduler("DDPMScheduler", beta_schedule="squaredcos_cap_v2")


def latent_upscaler_unet() -> Any:
    return model(
        "UNet2DConditionModel",
        act_fn="gelu",
        attention_head_dim=8,
        norm_num_groups=None,
        block_out_channels=[32, 32, 64, 64],
        time_cond_proj_dim=160,
        conv_in_kernel=1,
        conv_out_kernel=1,
        cross_attention_dim=32,
        down_block_types=("KDownBlock2D", *("KCrossAttnDownBlock2D",) * 3),
        in_channels=8,
        mid_block_type=None,
        only_cross_attention=False,
        out_channels=5,
        resnet_time_scale_shift="scale_shift",
        time_embedding_type="fourier",
        timestep_post_act="gelu",
        up_block_types=(*("KCrossAttnUpBlock2D",) * 3, "KUpBlock2D"),
    )


def instruct(**more: Any) -> dict[str, Any]:
    """Arguments of a guided edit that follows an instruction."""
    return drop(edit(**{"num_inference_steps": 2, "image_guidance_scale": 1.5, **more}), "strength")


def unclip_parts(text_prior: bool) -> dict[str, Any]:
    from diffusers.pipelines.stable_diffusion.stable_unclip_image_normalizer import StableUnCLIPImageNormalizer

    shared = parts(
        unet=unet(class_embed_type="projection", projection_class_embeddings_input_dim=64, use_linear_projection=True),
        image_normalizer=StableUnCLIPImageNormalizer(embedding_dim=32), image_noising_scheduler=noise_scheduler(),
    )  # fmt: skip
    if not text_prior:
        return shared | {"image_encoder": clip_vision()}
    return shared | {
        "prior_tokenizer": clip_tokenizer(),
        "prior_text_encoder": clip_text(projection=32),
        "prior": model(
            "PriorTransformer", num_attention_heads=2, attention_head_dim=12, embedding_dim=32, num_layers=1
        ),
        "prior_scheduler": scheduler(
            "DDPMScheduler",
            variance_type="fixed_small_log",
            prediction_type="sample",
            num_train_timesteps=1000,
            clip_sample=True,
            clip_sample_range=5.0,
            beta_schedule="squaredcos_cap_v2",
        ),
    }


add("StableDiffusionPipeline", FAMILY, lambda: assemble("StableDiffusionPipeline", parts()), lambda p: text(), True)
add(
    "StableDiffusionPipeline[safety checker]", FAMILY,
    lambda: assemble("StableDiffusionPipeline", parts(safety_checker=safety_checker(), requires_safety_checker=True)),
    lambda p: text(),
)  # fmt: skip
add(
    "StableDiffusionPipeline[2.x]",
    FAMILY,
    lambda: assemble(
        "StableDiffusionPipeline",
        parts(
            unet=unet(use_linear_projection=True, attention_head_dim=(2, 4)),
            scheduler=scheduler("PNDMScheduler", skip_prk_steps=True),
        ),
    ),
    lambda p: text(num_inference_steps=5),
)
add(
    "StableDiffusionImg2ImgPipeline",
    FAMILY,
    lambda: assemble("StableDiffusionImg2ImgPipeline", parts()),
    lambda p: edit(),
    True,
)
add(
    "StableDiffusionInpaintPipeline", FAMILY,
    lambda: assemble("StableDiffusionInpaintPipeline", parts(unet=unet(9))),
    lambda p: text(image=image(), mask_image=mask()), True,
)  # fmt: skip
add(
    "StableDiffusionInpaintPipeline[plain unet]", FAMILY,
    lambda: assemble("StableDiffusionInpaintPipeline", parts()),
    lambda p: text(image=image(), mask_image=mask(), num_inference_steps=4, strength=0.5),
)  # fmt: skip
add(
    "StableDiffusionInpaintPipeline[asymmetric vae]", FAMILY,
    lambda: assemble(
        "StableDiffusionInpaintPipeline",
        parts(
            unet=unet(9),
            vae=model(
                "AsymmetricAutoencoderKL", in_channels=3, out_channels=3, down_block_types=("DownEncoderBlock2D",) * 2,
                down_block_out_channels=(8, 16), layers_per_down_block=1, up_block_types=("UpDecoderBlock2D",) * 2,
                up_block_out_channels=(8, 16), layers_per_up_block=1, norm_num_groups=4, latent_channels=4,
                sample_size=32,
            ),
        ),
    ),
    lambda p: text(image=image(), mask_image=mask()),
)  # fmt: skip
add(
    "StableDiffusionDepth2ImgPipeline",
    FAMILY,
    lambda: assemble(
        "StableDiffusionDepth2ImgPipeline",
        parts(unet=unet(5), depth_estimator=depth(), feature_extractor=dpt_images()),
    ),
    lambda p: edit(),
    True,
)
add(
    "StableDiffusionUpscalePipeline", FAMILY,
    lambda: assemble(
        "StableDiffusionUpscalePipeline",
        parts(unet=unet(7, num_class_embeds=1000), low_res_scheduler=noise_scheduler(), max_noise_level=350),
    ),
    lambda p: drop(instruct(image=image(16), noise_level=20), "image_guidance_scale"), True,
)  # fmt: skip
add(
    "StableDiffusionLatentUpscalePipeline", FAMILY,
    lambda: assemble(
        "StableDiffusionLatentUpscalePipeline",
        parts(unet=latent_upscaler_unet(), scheduler=scheduler("EulerDiscreteScheduler", prediction_type="sample")),
    ),
    lambda p: {
        "prompt": PROMPT, "image": image(64), "num_inference_steps": 2, "output_type": "np", "guidance_scale": 4.0,
        "generator": generator(),
    },
    True,
)  # fmt: skip
add(
    "StableDiffusionImageVariationPipeline", FAMILY,
    lambda: assemble("StableDiffusionImageVariationPipeline", image_encoder_parts()),
    lambda p: drop(text(image=image()), "prompt", "negative_prompt"), True,
)  # fmt: skip
add(
    "StableDiffusionInstructPix2PixPipeline", FAMILY,
    lambda: assemble("StableDiffusionInstructPix2PixPipeline", parts(unet=unet(8))),
    lambda p: instruct(), True,
)  # fmt: skip
add(
    "StableUnCLIPPipeline", FAMILY, lambda: assemble("StableUnCLIPPipeline", unclip_parts(True)),
    lambda p: text(prior_num_inference_steps=2), True,
)  # fmt: skip
add(
    "StableUnCLIPImg2ImgPipeline", FAMILY, lambda: assemble("StableUnCLIPImg2ImgPipeline", unclip_parts(False)),
    lambda p: text(image=image()), True,
)  # fmt: skip
