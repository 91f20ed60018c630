"""Early models and loops that diffusers has deprecated: LDM, unCLIP, UniDiffuser, Shap-E, VQ-Diffusion and more."""

from __future__ import annotations

from typing import Any

from .parts import (
    PROMPT,
    assemble,
    clip_images,
    clip_text,
    clip_tokenizer,
    clip_vision,
    drop,
    generator,
    gpt2_tokenizer,
    image,
    model,
    roberta_tokenizer,
    scheduler,
    vae,
)
from .registry import add
from .stable_diffusion import edit, parts, text, unet

FAMILY = "Stable Diffusion, early edits"


def short(**more: Any) -> dict[str, Any]:
    """Arguments of a generation of a size that the model fixes."""
    return {"prompt": PROMPT, "output_type": "np", "generator": generator(), **more}


# Latent diffusion ------------------------------------------------------------------------------------------------


def ldm_bert() -> Any:
    """The text encoder that LDM trained with its U-Net."""
    from diffusers.pipelines.latent_diffusion.pipeline_latent_diffusion import LDMBertConfig, LDMBertModel

    return LDMBertModel(
        LDMBertConfig(
            vocab_size=514, encoder_layers=2, encoder_ffn_dim=37, encoder_attention_heads=4, head_dim=8, d_model=32,
            return_dict=True,
        )
    )  # fmt: skip


def ldm_parts() -> dict[str, Any]:
    return parts(vqvae=vae(), bert=ldm_bert(), tokenizer=clip_tokenizer())


add(
    "LDMTextToImagePipeline", "Latent diffusion", lambda: assemble("LDMTextToImagePipeline", ldm_parts()),
    lambda p: drop(text(height=64, width=64), "negative_prompt"), True,
)  # fmt: skip

# unCLIP ----------------------------------------------------------------------------------------------------------


def resnet_unet(class_name: str, **more: Any) -> Any:
    """A U-Net in pixels whose residual blocks scale up and down themselves."""
    config: dict[str, Any] = {
        "layers_per_block": 1, "block_out_channels": (8, 16), "norm_num_groups": 4, "attention_head_dim": 4,
        "resnet_time_scale_shift": "scale_shift",
    }  # fmt: skip
    return model(class_name, **{**config, **more})


def upscaler() -> Any:
    return resnet_unet(
        "UNet2DModel", sample_size=32, in_channels=6, out_channels=3,
        down_block_types=("ResnetDownsampleBlock2D",) * 2, up_block_types=("ResnetUpsampleBlock2D",) * 2,
    )  # fmt: skip


def unclip_scheduler(**config: Any) -> Any:
    return scheduler("UnCLIPScheduler", num_train_timesteps=1000, **config)


def unclip_parts() -> dict[str, Any]:
    from diffusers.pipelines.deprecated.unclip.text_proj import UnCLIPTextProjModel

    return {
        "prior": model(
            "PriorTransformer", num_attention_heads=2, attention_head_dim=12, embedding_dim=32, num_layers=1
        ),
        "decoder": resnet_unet(
            "UNet2DConditionModel",
            sample_size=16,
            in_channels=3,
            out_channels=6,
            cross_attention_dim=32,
            down_block_types=("ResnetDownsampleBlock2D", "SimpleCrossAttnDownBlock2D"),
            up_block_types=("SimpleCrossAttnUpBlock2D", "ResnetUpsampleBlock2D"),
            mid_block_type="UNetMidBlock2DSimpleCrossAttn",
            class_embed_type="identity",
        ),
        "text_encoder": clip_text(projection=32),
        "tokenizer": clip_tokenizer(),
        "text_proj": UnCLIPTextProjModel(clip_embeddings_dim=32, time_embed_dim=32, cross_attention_dim=32),
        "feature_extractor": clip_images(),
        "image_encoder": clip_vision(),
        "super_res_first": upscaler(),
        "super_res_last": upscaler(),
        "prior_scheduler": unclip_scheduler(
            variance_type="fixed_small_log", prediction_type="sample", clip_sample_range=5.0
        ),
        "decoder_scheduler": unclip_scheduler(variance_type="learned_range", prediction_type="epsilon"),
        "super_res_scheduler": unclip_scheduler(variance_type="fixed_small_log", prediction_type="epsilon"),
    }


UNCLIP = {"decoder_num_inference_steps": 2, "super_res_num_inference_steps": 2}

add(
    "UnCLIPPipeline", "unCLIP", lambda: assemble("UnCLIPPipeline", unclip_parts()),
    lambda p: short(prior_num_inference_steps=2, **UNCLIP), True,
)  # fmt: skip
add(
    "UnCLIPImageVariationPipeline", "unCLIP", lambda: assemble("UnCLIPImageVariationPipeline", unclip_parts()),
    lambda p: drop(short(image=image(), **UNCLIP), "prompt"),
)  # fmt: skip

# UniDiffuser -----------------------------------------------------------------------------------------------------


def unidiffuser_parts() -> dict[str, Any]:
    """One transformer over an image's latents, its CLIP embedding and the text."""
    return {
        "vae": vae(), "text_encoder": clip_text(), "image_encoder": clip_vision(),
        "clip_image_processor": clip_images(), "clip_tokenizer": clip_tokenizer(), "text_tokenizer": gpt2_tokenizer(),
        "scheduler": scheduler("DPMSolverMultistepScheduler"),
        "text_decoder": model(
            "UniDiffuserTextDecoder", prefix_length=77, prefix_inner_dim=32, prefix_hidden_dim=32, vocab_size=257,
            n_positions=256, n_embd=32, n_layer=2, n_head=4, n_inner=37,
        ),
        "unet": model(
            "UniDiffuserModel", text_dim=32, clip_img_dim=32, num_text_tokens=77, num_attention_heads=2,
            attention_head_dim=8, in_channels=4, out_channels=4, num_layers=2, norm_num_groups=4, sample_size=16,
            patch_size=2, activation_fn="gelu", num_embeds_ada_norm=1000,
        ),
    }  # fmt: skip


add(
    "UniDiffuserPipeline", "UniDiffuser", lambda: assemble("UniDiffuserPipeline", unidiffuser_parts()),
    lambda p: drop(text(), "negative_prompt"), True,
)  # fmt: skip

# Shap-E ----------------------------------------------------------------------------------------------------------


def shap_e_parts(**prior: Any) -> dict[str, Any]:
    """A prior that makes the weights of a small radiance field, and the renderer of that field."""
    from diffusers.pipelines.shap_e import ShapERenderer

    return {
        "prior": model(
            "PriorTransformer", num_attention_heads=2, attention_head_dim=16, embedding_dim=16, num_embeddings=32,
            time_embed_dim=64, num_layers=1, clip_embed_dim=32, additional_embeddings=0, time_embed_act_fn="gelu",
            norm_in_type="layer", encoder_hid_proj_type=None, added_emb_type=None, **prior,
        ),
        "scheduler": scheduler(
            "HeunDiscreteScheduler", beta_schedule="exp", num_train_timesteps=1024, prediction_type="sample",
            use_karras_sigmas=True, clip_sample=True, clip_sample_range=1.0,
        ),
        "text_encoder": clip_text(16, projection=16),
        "tokenizer": clip_tokenizer(),
        "image_encoder": clip_vision(projection=None),
        "image_processor": clip_images(),
        "shap_e_renderer": ShapERenderer(
            param_shapes=((8, 93), (8, 8), (8, 8), (8, 8)), d_latent=16, d_hidden=8, n_output=12
        ),
    }  # fmt: skip


# The latents, not the pictures of them: a frame costs millions of samples of the field, however small its model.
SHAP_E = {"num_inference_steps": 2, "output_type": "latent"}

add(
    "ShapEPipeline", "Shap-E", lambda: assemble("ShapEPipeline", shap_e_parts(embedding_proj_dim=16)),
    lambda p: short(**SHAP_E), True,
)  # fmt: skip
add(
    "ShapEImg2ImgPipeline", "Shap-E",
    lambda: assemble(
        "ShapEImg2ImgPipeline", shap_e_parts(embedding_proj_dim=32, embedding_proj_norm_type="layer")
    ),
    lambda p: drop(short(image=image(), **SHAP_E), "prompt"),
)  # fmt: skip

# AltDiffusion ----------------------------------------------------------------------------------------------------


def alt_parts() -> dict[str, Any]:
    """Stable Diffusion with a multilingual RoBERTa, projected to CLIP's width."""
    from diffusers.pipelines.deprecated.alt_diffusion.modeling_roberta_series import (
        RobertaSeriesConfig,
        RobertaSeriesModelWithTransformation,
    )

    encoder = RobertaSeriesModelWithTransformation(
        RobertaSeriesConfig(
            vocab_size=300, hidden_size=32, intermediate_size=37, num_hidden_layers=2, num_attention_heads=4,
            max_position_embeddings=128, project_dim=32, return_dict=True,
        )
    )  # fmt: skip
    return parts(text_encoder=encoder, tokenizer=roberta_tokenizer())


add(
    "AltDiffusionPipeline", "AltDiffusion", lambda: assemble("AltDiffusionPipeline", alt_parts()), lambda p: text(),
    True,
)  # fmt: skip
add(
    "AltDiffusionImg2ImgPipeline", "AltDiffusion", lambda: assemble("AltDiffusionImg2ImgPipeline", alt_parts()),
    lambda p: edit(),
)  # fmt: skip

# Edits by Stable Diffusion ---------------------------------------------------------------------------------------


def noise(*shape: int) -> Any:
    import torch

    return torch.randn(*shape, generator=generator())


def half() -> Any:
    """A mask over latents of 16 x 16."""
    import torch

    return (torch.arange(16) < 8).float().expand(1, 16, 16).contiguous()


add(
    "StableDiffusionDiffEditPipeline", FAMILY,
    lambda: assemble(
        "StableDiffusionDiffEditPipeline", parts(inverse_scheduler=scheduler("DDIMInverseScheduler"))
    ),
    lambda p: drop(
        text(mask_image=half(), image_latents=noise(1, 2, 4, 16, 16), inpaint_strength=1.0), "height", "width"
    ),
    True,
)  # fmt: skip
add(
    "StableDiffusionModelEditingPipeline", FAMILY,
    lambda: assemble("StableDiffusionModelEditingPipeline", parts()), lambda p: text(),
)  # fmt: skip

# Versatile Diffusion ---------------------------------------------------------------------------------------------


def flat_unet() -> Any:
    """The text half of Versatile Diffusion's U-Net: linear layers where the image half convolves."""
    from diffusers.pipelines.deprecated.versatile_diffusion.modeling_text_unet import UNetFlatConditionModel

    return UNetFlatConditionModel(
        block_out_channels=(8, 16), layers_per_block=1, sample_size=16, in_channels=4, out_channels=4,
        down_block_types=("DownBlockFlat", "CrossAttnDownBlockFlat"),
        up_block_types=("CrossAttnUpBlockFlat", "UpBlockFlat"), cross_attention_dim=32, attention_head_dim=2,
        norm_num_groups=4,
    )  # fmt: skip


def versatile_parts() -> dict[str, Any]:
    return parts(
        text_encoder=clip_text(projection=32), image_encoder=clip_vision(), image_feature_extractor=clip_images(),
        image_unet=unet(), text_unet=flat_unet(),
    )  # fmt: skip


add(
    "VersatileDiffusionTextToImagePipeline", "Versatile Diffusion",
    lambda: assemble("VersatileDiffusionTextToImagePipeline", versatile_parts()), lambda p: text(), True,
)  # fmt: skip
add(
    "VersatileDiffusionImageVariationPipeline", "Versatile Diffusion",
    lambda: assemble("VersatileDiffusionImageVariationPipeline", versatile_parts()),
    lambda p: drop(text(image=image()), "prompt", "negative_prompt"),
)  # fmt: skip

# VQ-Diffusion ----------------------------------------------------------------------------------------------------


def vq_parts() -> dict[str, Any]:
    """A transformer over the codes of a VQ-VAE, which it denoises from masks."""
    from diffusers.pipelines.deprecated.vq_diffusion.pipeline_vq_diffusion import (
        LearnedClassifierFreeSamplingEmbeddings,
    )

    codes = 12
    return {
        "vqvae": model(
            "VQModel", block_out_channels=[8, 16], down_block_types=["DownEncoderBlock2D"] * 2, in_channels=3,
            latent_channels=4, layers_per_block=1, norm_num_groups=4, num_vq_embeddings=codes, out_channels=3,
            sample_size=16, up_block_types=["UpDecoderBlock2D"] * 2, vq_embed_dim=4,
        ),
        "text_encoder": clip_text(), "tokenizer": clip_tokenizer(),
        "transformer": model(
            "Transformer2DModel", attention_bias=True, cross_attention_dim=32, attention_head_dim=8,
            num_attention_heads=2, num_vector_embeds=codes + 1, num_embeds_ada_norm=16, norm_num_groups=4,
            sample_size=8, activation_fn="geglu-approximate",
        ),
        "scheduler": scheduler("VQDiffusionScheduler", num_vec_classes=codes + 1),
        "learned_classifier_free_sampling_embeddings": LearnedClassifierFreeSamplingEmbeddings(
            learnable=True, hidden_size=32, length=77
        ),
    }  # fmt: skip


add(
    "VQDiffusionPipeline", "VQ-Diffusion", lambda: assemble("VQDiffusionPipeline", vq_parts()),
    lambda p: short(num_inference_steps=2), True,
)  # fmt: skip
