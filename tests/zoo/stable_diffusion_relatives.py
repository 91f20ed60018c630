"""More loops around Stable Diffusion's U-Net: consistency models, panoramas, self-attention guidance, depth maps."""

from __future__ import annotations

from typing import Any

from .parts import PROMPT, assemble, clip_vision, drop, generator, image, mask, model, scheduler, vae
from .registry import add
from .stable_diffusion import ddim, edit, parts, text, unet

FAMILY = "Stable Diffusion, other loops"


def lcm_parts() -> dict[str, Any]:
    """A distilled U-Net that knows the guidance scale as an embedding."""
    return parts(unet=unet(time_cond_proj_dim=16), scheduler=scheduler("LCMScheduler", original_inference_steps=50))


add(
    "LatentConsistencyModelPipeline", "LCM", lambda: assemble("LatentConsistencyModelPipeline", lcm_parts()),
    lambda p: drop(text(), "negative_prompt"), True,
)  # fmt: skip
add(
    "LatentConsistencyModelImg2ImgPipeline", "LCM",
    lambda: assemble("LatentConsistencyModelImg2ImgPipeline", lcm_parts()), lambda p: drop(edit(), "negative_prompt"),
)  # fmt: skip
add(
    "StableDiffusionPanoramaPipeline", FAMILY, lambda: assemble("StableDiffusionPanoramaPipeline", parts()),
    lambda p: text(height=128, width=160, view_batch_size=2), True,
)  # fmt: skip
add(
    "StableDiffusionSAGPipeline", FAMILY, lambda: assemble("StableDiffusionSAGPipeline", parts()),
    lambda p: text(sag_scale=0.75), True,
)  # fmt: skip
add(
    "StableDiffusionLDM3DPipeline", FAMILY,
    lambda: assemble("StableDiffusionLDM3DPipeline", parts(vae=vae(in_channels=6, out_channels=6))),
    lambda p: text(), True,
)  # fmt: skip
add(
    "SemanticStableDiffusionPipeline", FAMILY, lambda: assemble("SemanticStableDiffusionPipeline", parts()),
    lambda p: text(editing_prompt=["a blue square", "a tree"], edit_warmup_steps=0),
)  # fmt: skip
add(
    "CycleDiffusionPipeline", FAMILY, lambda: assemble("CycleDiffusionPipeline", parts()),
    lambda p: drop(
        edit(source_prompt="a dog", eta=0.1, source_guidance_scale=1.0), "negative_prompt"
    ),
)  # fmt: skip
add(
    "StableDiffusionParadigmsPipeline", FAMILY,
    lambda: assemble("StableDiffusionParadigmsPipeline", parts(scheduler=scheduler("DDIMParallelScheduler"))),
    lambda p: text(num_inference_steps=4, parallel=3),
)  # fmt: skip
add(
    "PaintByExamplePipeline", FAMILY, lambda: paint_by_example(),
    lambda p: drop(
        text(example_image=image(), image=image(), mask_image=mask()), "prompt", "negative_prompt"
    ),
)  # fmt: skip


def paint_by_example() -> Any:
    """An inpainting U-Net conditioned on a picture."""
    from diffusers.pipelines.deprecated.paint_by_example import PaintByExampleImageEncoder

    from .parts import clip_images

    encoder = PaintByExampleImageEncoder(clip_vision().config, proj_size=32)
    return assemble(
        "PaintByExamplePipeline",
        parts(
            unet=unet(9),
            image_encoder=encoder,
            feature_extractor=clip_images(),
            scheduler=scheduler("PNDMScheduler", skip_prk_steps=True),
        ),
    )


def marigold(class_name: str) -> Any:
    kind = "normals" if "Normals" in class_name else "depth"
    return assemble(
        class_name, parts(unet=unet(8), scheduler=ddim()), prediction_type=kind, scale_invariant=True,
        shift_invariant=True, use_full_z_range=True,
    )  # fmt: skip


def seen(**more: Any) -> dict[str, Any]:
    """Arguments of the estimate of a map of an image."""
    return {
        "image": image(), "num_inference_steps": 2, "processing_resolution": 0, "generator": generator(), **more,
    }  # fmt: skip


add("MarigoldDepthPipeline", "Marigold", lambda: marigold("MarigoldDepthPipeline"), lambda p: seen(), True)
add(
    "MarigoldDepthPipeline[ensemble]", "Marigold", lambda: marigold("MarigoldDepthPipeline"),
    lambda p: seen(ensemble_size=3, batch_size=2, ensembling_kwargs={"reduction": "mean"}),
)  # fmt: skip
add("MarigoldNormalsPipeline", "Marigold", lambda: marigold("MarigoldNormalsPipeline"), lambda p: seen())


# aMUSEd ----------------------------------------------------------------------------------------------------------


def amused_parts() -> dict[str, Any]:
    """A masked-token transformer over the codes of a VQ-VAE."""
    from .parts import clip_text, clip_tokenizer

    return {
        "transformer": model(
            "UVit2DModel",
            hidden_size=8,
            use_bias=False,
            hidden_dropout=0.0,
            cond_embed_dim=8,
            micro_cond_encode_dim=2,
            micro_cond_embed_dim=10,
            encoder_hidden_size=8,
            vocab_size=32,
            codebook_size=8,
            in_channels=8,
            block_out_channels=8,
            num_res_blocks=1,
            downsample=True,
            upsample=True,
            block_num_heads=1,
            num_hidden_layers=1,
            num_attention_heads=1,
            attention_dropout=0.0,
            intermediate_size=8,
            layer_norm_eps=1e-06,
            ln_elementwise_affine=True,
        ),
        "vqvae": model(
            "VQModel",
            act_fn="silu",
            block_out_channels=[8],
            down_block_types=["DownEncoderBlock2D"],
            in_channels=3,
            latent_channels=8,
            layers_per_block=1,
            norm_num_groups=8,
            num_vq_embeddings=8,
            out_channels=3,
            sample_size=8,
            up_block_types=["UpDecoderBlock2D"],
            mid_block_add_attention=False,
            lookup_from_codebook=True,
        ),
        "text_encoder": clip_text(8, projection=8),
        "tokenizer": clip_tokenizer(),
        "scheduler": scheduler("AmusedScheduler", mask_token_id=31),
    }


def drawn(**more: Any) -> dict[str, Any]:
    return {"prompt": PROMPT, "num_inference_steps": 2, "output_type": "np", "generator": generator(), **more}


add(
    "AmusedPipeline", "aMUSEd", lambda: assemble("AmusedPipeline", amused_parts()),
    lambda p: drawn(height=4, width=4), True,
)  # fmt: skip
add(
    "AmusedImg2ImgPipeline", "aMUSEd", lambda: assemble("AmusedImg2ImgPipeline", amused_parts()),
    lambda p: drawn(image=image(4), num_inference_steps=4, strength=0.5),
)  # fmt: skip
add(
    "AmusedInpaintPipeline", "aMUSEd", lambda: assemble("AmusedInpaintPipeline", amused_parts()),
    lambda p: drawn(image=image(4), mask_image=mask(4), num_inference_steps=4, strength=0.5),
)  # fmt: skip
