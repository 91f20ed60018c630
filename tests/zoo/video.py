"""Video transformers: Wan, SkyReels, Lucy, LTX, CogVideoX, Mochi, Allegro, Latte, HunyuanVideo, Cosmos and others."""

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
    llama_config,
    llama_tokenizer,
    model,
    qwen_tokenizer,
    scheduler,
    siglip_images,
    siglip_vision,
    t5,
    t5_tokenizer,
    umt5,
    vae,
    video,
)  # fmt: skip
from .qwen_image import video_vae
from .registry import add
from .stable_diffusion_3 import flow


def text(**more: Any) -> dict[str, Any]:
    """Arguments of a guided two-step generation of 5 frames at 32 x 32."""
    return {
        "prompt": PROMPT, "negative_prompt": NEGATIVE, "num_frames": 5, "num_inference_steps": 2,
        "guidance_scale": 4.0, "height": 32, "width": 32, "output_type": "np", "generator": generator(), **more,
    }  # fmt: skip


# Wan -------------------------------------------------------------------------------------------------------------


def wan_transformer(in_channels: int = 4, class_name: str = "WanTransformer3DModel", **more: Any) -> Any:
    config: dict[str, Any] = {
        "patch_size": (1, 2, 2), "num_attention_heads": 2, "attention_head_dim": 12, "in_channels": in_channels,
        "out_channels": 4, "text_dim": 32, "freq_dim": 16, "ffn_dim": 32, "num_layers": 2, "cross_attn_norm": True,
        "qk_norm": "rms_norm_across_heads", "rope_max_seq_len": 32,
    }  # fmt: skip
    return model(class_name, **{**config, **more})


def wan_parts(**more: Any) -> dict[str, Any]:
    return {
        "tokenizer": t5_tokenizer(),
        "text_encoder": umt5(),
        "transformer": wan_transformer,
        "vae": video_vae("AutoencoderKLWan"),
        "scheduler": scheduler(
            "UniPCMultistepScheduler", flow_shift=3.0, prediction_type="flow_prediction", use_flow_sigmas=True
        ),
        **more,
    }


def wan_text(**more: Any) -> dict[str, Any]:
    return text(**{"max_sequence_length": 24, **more})


def wan_image_parts(**more: Any) -> dict[str, Any]:
    """The 2.1 image-to-video model: CLIP states join the text, latents of the image join the noise."""
    return wan_parts(
        transformer=wan_transformer(4 + 4 + 4, image_dim=32, added_kv_proj_dim=None),
        image_encoder=clip_vision(projection=None), image_processor=clip_images(), **more,
    )  # fmt: skip


add("WanPipeline", "Wan", lambda: assemble("WanPipeline", wan_parts()), lambda p: wan_text(), True)
add(
    "WanPipeline[2.2 two stages]", "Wan",
    lambda: assemble("WanPipeline", wan_parts(transformer_2=wan_transformer(num_layers=1), boundary_ratio=0.875)),
    lambda p: wan_text(num_inference_steps=4, guidance_scale_2=3.0), True,
)  # fmt: skip
add(
    "WanPipeline[2.2 expanded timesteps]", "Wan",
    lambda: assemble("WanPipeline", wan_parts(expand_timesteps=True)), lambda p: wan_text(),
)  # fmt: skip
add(
    "WanImageToVideoPipeline", "Wan", lambda: assemble("WanImageToVideoPipeline", wan_image_parts()),
    lambda p: wan_text(image=image()), True,
)  # fmt: skip
add(
    "WanImageToVideoPipeline[2.2 two stages]", "Wan",
    lambda: assemble(
        "WanImageToVideoPipeline",
        wan_parts(
            transformer=wan_transformer(12), transformer_2=wan_transformer(12, num_layers=1), boundary_ratio=0.9,
            image_encoder=None, image_processor=None,
        ),
    ),
    lambda p: wan_text(image=image(), num_inference_steps=4),
)  # fmt: skip
add(
    "WanVACEPipeline",
    "Wan",
    lambda: assemble(
        "WanVACEPipeline",
        wan_parts(
            transformer=wan_transformer(
                class_name="WanVACETransformer3DModel", vace_layers=[0], vace_in_channels=4 * 2 + 64
            )
        ),
    ),
    lambda p: wan_text(video=video(5), mask=[image().convert("L")] * 5),
    True,
)
add(
    "WanVideoToVideoPipeline", "Wan", lambda: assemble("WanVideoToVideoPipeline", wan_parts()),
    lambda p: drop(wan_text(video=video(5), num_inference_steps=4, strength=0.5), "num_frames"), True,
)  # fmt: skip
add(
    "LucyEditPipeline", "Wan",
    lambda: assemble("LucyEditPipeline", wan_parts(transformer=wan_transformer(8), expand_timesteps=True)),
    lambda p: wan_text(video=video(5)), True,
)  # fmt: skip

# SkyReels --------------------------------------------------------------------------------------------------------


def sky_parts(in_channels: int = 4, **more: Any) -> dict[str, Any]:
    return wan_parts(
        transformer=wan_transformer(in_channels, "SkyReelsV2Transformer3DModel", **more),
        scheduler=scheduler("UniPCMultistepScheduler", flow_shift=8.0, use_flow_sigmas=True),
    )


def sky_forced(**more: Any) -> dict[str, Any]:
    """Diffusion forcing: each frame has its own noise level; 9 frames, 3 latent ones."""
    return wan_text(**{"num_frames": 9, "base_num_frames": 9, "ar_step": 0, **more})


add("SkyReelsV2Pipeline", "SkyReels", lambda: assemble("SkyReelsV2Pipeline", sky_parts()), lambda p: wan_text(), True)
add(
    "SkyReelsV2ImageToVideoPipeline", "SkyReels",
    lambda: assemble(
        "SkyReelsV2ImageToVideoPipeline",
        sky_parts(12, image_dim=32) | {"image_encoder": clip_vision(projection=32), "image_processor": clip_images()},
    ),
    lambda p: wan_text(image=image()),
)  # fmt: skip
add(
    "SkyReelsV2DiffusionForcingPipeline", "SkyReels",
    lambda: assemble("SkyReelsV2DiffusionForcingPipeline", sky_parts()), lambda p: sky_forced(), True,
)  # fmt: skip
add(
    "SkyReelsV2DiffusionForcingPipeline[asynchronous]", "SkyReels",
    lambda: assemble("SkyReelsV2DiffusionForcingPipeline", sky_parts()),
    lambda p: sky_forced(ar_step=1, causal_block_size=1),
)  # fmt: skip
add(
    "SkyReelsV2DiffusionForcingPipeline[long]", "SkyReels",
    lambda: assemble("SkyReelsV2DiffusionForcingPipeline", sky_parts()),
    lambda p: sky_forced(num_frames=17, overlap_history=5, addnoise_condition=20),
)  # fmt: skip
add(
    "SkyReelsV2DiffusionForcingImageToVideoPipeline", "SkyReels",
    lambda: assemble("SkyReelsV2DiffusionForcingImageToVideoPipeline", sky_parts()),
    lambda p: sky_forced(image=image()),
)  # fmt: skip
add(
    "SkyReelsV2DiffusionForcingVideoToVideoPipeline", "SkyReels",
    lambda: assemble("SkyReelsV2DiffusionForcingVideoToVideoPipeline", sky_parts()),
    lambda p: sky_forced(video=video(9), num_frames=17, overlap_history=5, addnoise_condition=20),
)  # fmt: skip

# LTX -------------------------------------------------------------------------------------------------------------


def ltx_vae(**more: Any) -> Any:
    config: dict[str, Any] = {
        "in_channels": 3, "out_channels": 3, "latent_channels": 8, "block_out_channels": (8, 8, 8, 8),
        "decoder_block_out_channels": (8, 8, 8, 8), "layers_per_block": (1, 1, 1, 1, 1),
        "decoder_layers_per_block": (1, 1, 1, 1, 1), "spatio_temporal_scaling": (True, True, False, False),
        "decoder_spatio_temporal_scaling": (True, True, False, False), "decoder_inject_noise": (False,) * 5,
        "upsample_residual": (False,) * 4, "upsample_factor": (1,) * 4, "timestep_conditioning": False,
        "patch_size": 1, "patch_size_t": 1, "encoder_causal": True, "decoder_causal": False,
    }  # fmt: skip
    return model("AutoencoderKLLTXVideo", **{**config, **more})


def ltx_parts(**more: Any) -> dict[str, Any]:
    return {
        "scheduler": flow(use_dynamic_shifting=False),
        "vae": ltx_vae,
        "text_encoder": t5(),
        "tokenizer": t5_tokenizer(),
        "transformer": model(
            "LTXVideoTransformer3DModel",
            in_channels=8,
            out_channels=8,
            patch_size=1,
            patch_size_t=1,
            num_attention_heads=4,
            attention_head_dim=8,
            cross_attention_dim=32,
            num_layers=2,
            caption_channels=32,
        ),
        **more,
    }


def ltx_text(**more: Any) -> dict[str, Any]:
    return text(**{"num_frames": 9, "max_sequence_length": 24, **more})


def ltx_upsampler() -> Any:
    from diffusers.pipelines.ltx.modeling_latent_upsampler import LTXLatentUpsamplerModel

    return LTXLatentUpsamplerModel(in_channels=8, mid_channels=32, num_blocks_per_stage=1, dims=3)


add("LTXPipeline", "LTX", lambda: assemble("LTXPipeline", ltx_parts()), lambda p: ltx_text(), True)
add(
    "LTXPipeline[timestep VAE]",
    "LTX",
    lambda: assemble(
        "LTXPipeline",
        ltx_parts(vae=ltx_vae(timestep_conditioning=True, decoder_inject_noise=(True, False, False, True, False))),
    ),
    lambda p: ltx_text(decode_timestep=0.05, decode_noise_scale=0.025),
)
add(
    "LTXImageToVideoPipeline", "LTX", lambda: assemble("LTXImageToVideoPipeline", ltx_parts()),
    lambda p: ltx_text(image=image()), True,
)  # fmt: skip
add(
    "LTXConditionPipeline", "LTX", lambda: assemble("LTXConditionPipeline", ltx_parts()),
    lambda p: ltx_text(image=image(), frame_index=0, strength=0.9),
)  # fmt: skip
add(
    "LTXLatentUpsamplePipeline", "LTX",
    lambda: assemble("LTXLatentUpsamplePipeline", {"vae": ltx_vae(), "latent_upsampler": ltx_upsampler()}),
    lambda p: {"video": video(9), "height": 32, "width": 32, "output_type": "np", "generator": generator()}, True,
)  # fmt: skip
add(
    "LTXI2VLongMultiPromptPipeline", "LTX", lambda: assemble("LTXI2VLongMultiPromptPipeline", ltx_parts()),
    lambda p: drop(ltx_text(num_frames=17, temporal_tile_size=9, temporal_overlap=8), "max_sequence_length"),
)  # fmt: skip

# CogVideoX -------------------------------------------------------------------------------------------------------


def cogvideo_parts(in_channels: int = 4, **more: Any) -> dict[str, Any]:
    return {
        "tokenizer": t5_tokenizer(), "text_encoder": t5(),
        "vae": model(
            "AutoencoderKLCogVideoX", in_channels=3, out_channels=3, down_block_types=("CogVideoXDownBlock3D",) * 4,
            up_block_types=("CogVideoXUpBlock3D",) * 4, block_out_channels=(8, 8, 8, 8), latent_channels=4,
            layers_per_block=1, norm_num_groups=2, temporal_compression_ratio=4,
        ),
        "transformer": model(
            "CogVideoXTransformer3DModel", num_attention_heads=2, attention_head_dim=16, in_channels=in_channels,
            out_channels=4, time_embed_dim=4, text_embed_dim=32, num_layers=1, sample_width=4, sample_height=4,
            sample_frames=9, patch_size=2, temporal_compression_ratio=4, max_text_seq_length=16,
            **{"use_rotary_positional_embeddings": True, **more},
        ),
        "scheduler": scheduler("CogVideoXDDIMScheduler"),
    }  # fmt: skip


def cogvideo_text(**more: Any) -> dict[str, Any]:
    return text(**{"num_frames": 9, "max_sequence_length": 16, **more})


add(
    "CogVideoXPipeline",
    "CogVideoX",
    lambda: assemble("CogVideoXPipeline", cogvideo_parts()),
    lambda p: cogvideo_text(),
    True,
)
add(
    "CogVideoXPipeline[DPM, learned positions]",
    "CogVideoX",
    lambda: assemble(
        "CogVideoXPipeline",
        cogvideo_parts(use_rotary_positional_embeddings=False) | {"scheduler": scheduler("CogVideoXDPMScheduler")},
    ),
    lambda p: cogvideo_text(use_dynamic_cfg=True),
)
add(
    "CogVideoXImageToVideoPipeline", "CogVideoX",
    lambda: assemble("CogVideoXImageToVideoPipeline", cogvideo_parts(8, use_learned_positional_embeddings=True)),
    lambda p: cogvideo_text(image=image()), True,
)  # fmt: skip
add(
    "CogVideoXVideoToVideoPipeline", "CogVideoX", lambda: assemble("CogVideoXVideoToVideoPipeline", cogvideo_parts()),
    lambda p: drop(cogvideo_text(video=video(9), num_inference_steps=4, strength=0.5), "num_frames"),
)  # fmt: skip
add(
    "CogVideoXFunControlPipeline", "CogVideoX", lambda: assemble("CogVideoXFunControlPipeline", cogvideo_parts(8)),
    lambda p: drop(cogvideo_text(control_video=video(9)), "num_frames"),
)  # fmt: skip

# Mochi, Allegro, Latte -------------------------------------------------------------------------------------------

add(
    "MochiPipeline", "Mochi",
    lambda: assemble(
        "MochiPipeline",
        {
            "scheduler": flow(), "text_encoder": t5(), "tokenizer": t5_tokenizer(),
            "vae": model(
                "AutoencoderKLMochi", latent_channels=12, out_channels=3, encoder_block_out_channels=(32, 32, 32, 32),
                decoder_block_out_channels=(32, 32, 32, 32), layers_per_block=(1, 1, 1, 1, 1),
            ),
            "transformer": model(
                "MochiTransformer3DModel", patch_size=2, num_attention_heads=2, attention_head_dim=8, num_layers=2,
                pooled_projection_dim=16, in_channels=12, qk_norm="rms_norm", text_embed_dim=32, time_embed_dim=4,
                activation_fn="swiglu", max_sequence_length=16,
            ),
        },
    ),
    lambda p: text(num_frames=7, max_sequence_length=16), True,
)  # fmt: skip


def allegro_vae() -> Any:
    """Allegro's VAE, which decodes in tiles only; tiles of 8 frames and 32 x 32 pixels."""
    autoencoder = model(
        "AutoencoderKLAllegro", in_channels=3, out_channels=3, down_block_types=("AllegroDownBlock3D",) * 4,
        up_block_types=("AllegroUpBlock3D",) * 4, block_out_channels=(8, 8, 8, 8), latent_channels=4,
        layers_per_block=1, norm_num_groups=2, temporal_compression_ratio=4,
    )  # fmt: skip
    autoencoder.enable_tiling()
    autoencoder.kernel, autoencoder.stride = (8, 32, 32), (4, 16, 16)
    autoencoder.tile_overlap_t, autoencoder.tile_overlap_h, autoencoder.tile_overlap_w = 4, 16, 16
    return autoencoder


add(
    "AllegroPipeline",
    "Allegro",
    lambda: assemble(
        "AllegroPipeline",
        {
            "scheduler": scheduler("DDIMScheduler"),
            "text_encoder": t5(),
            "tokenizer": t5_tokenizer(),
            "vae": allegro_vae(),
            "transformer": model(
                "AllegroTransformer3DModel",
                num_attention_heads=2,
                attention_head_dim=12,
                in_channels=4,
                out_channels=4,
                num_layers=1,
                cross_attention_dim=24,
                sample_width=8,
                sample_height=8,
                sample_frames=8,
                caption_channels=32,
            ),
        },
    ),
    lambda p: text(num_frames=8, max_sequence_length=16, clean_caption=False),
    True,
)
add(
    "LattePipeline", "Latte",
    lambda: assemble(
        "LattePipeline",
        {
            "scheduler": scheduler("DDIMScheduler"), "text_encoder": t5(), "tokenizer": t5_tokenizer(), "vae": vae(),
            "transformer": model(
                "LatteTransformer3DModel", sample_size=16, num_layers=1, patch_size=2, attention_head_dim=8,
                num_attention_heads=3, caption_channels=32, in_channels=4, cross_attention_dim=24, out_channels=8,
                attention_bias=True, activation_fn="gelu-approximate", num_embeds_ada_norm=1000,
                norm_type="ada_norm_single", norm_elementwise_affine=False, norm_eps=1e-6, video_length=2,
            ),
        },
    ),
    lambda p: drop(text(video_length=2, clean_caption=False), "num_frames"), True,
)  # fmt: skip

# HunyuanVideo ----------------------------------------------------------------------------------------------------

TEMPLATE = {"template": "{}", "crop_start": 0}


def hunyuan_vae() -> Any:
    return model(
        "AutoencoderKLHunyuanVideo", in_channels=3, out_channels=3, latent_channels=4,
        down_block_types=("HunyuanVideoDownBlock3D",) * 4, up_block_types=("HunyuanVideoUpBlock3D",) * 4,
        block_out_channels=(8, 8, 8, 8), layers_per_block=1, norm_num_groups=4, scaling_factor=0.476986,
        spatial_compression_ratio=8, temporal_compression_ratio=4, mid_block_add_attention=True,
    )  # fmt: skip


def hunyuan_transformer(in_channels: int = 4, class_name: str = "HunyuanVideoTransformer3DModel", **more: Any) -> Any:
    config: dict[str, Any] = {
        "in_channels": in_channels, "out_channels": 4, "num_attention_heads": 2, "attention_head_dim": 10,
        "num_layers": 1, "num_single_layers": 1, "num_refiner_layers": 1, "patch_size": 1, "patch_size_t": 1,
        "guidance_embeds": True, "text_embed_dim": 32, "pooled_projection_dim": 32, "rope_axes_dim": (2, 4, 4),
    }  # fmt: skip
    return model(class_name, **{**config, **more})


def hunyuan_parts(**more: Any) -> dict[str, Any]:
    from transformers import LlamaModel

    return {
        "text_encoder": lambda: LlamaModel(llama_config(layers=3)), "tokenizer": llama_tokenizer(),
        "transformer": hunyuan_transformer, "vae": hunyuan_vae, "scheduler": flow(shift=7.0),
        "text_encoder_2": clip_text(), "tokenizer_2": clip_tokenizer(), **more,
    }  # fmt: skip


def hunyuan_text(**more: Any) -> dict[str, Any]:
    return drop(
        text(**{"max_sequence_length": 16, "prompt_template": TEMPLATE, **more}),
        *(() if "true_cfg_scale" in more else ("negative_prompt",)),
    )


def llava() -> Any:
    """A Llava model: CLIP image features among the tokens of a Llama decoder."""
    import torch
    from transformers import CLIPVisionConfig, LlavaConfig, LlavaForConditionalGeneration

    torch.manual_seed(0)
    vision = CLIPVisionConfig(
        hidden_size=16, intermediate_size=20, num_hidden_layers=2, num_attention_heads=2, image_size=32, patch_size=8
    )
    return LlavaForConditionalGeneration(
        LlavaConfig(
            vision_config=vision,
            text_config=llama_config(layers=3),
            image_token_id=3,
            image_seq_length=16,
            pad_token_id=2,
        )
    )


def llava_arguments(pipe: Any) -> dict[str, Any]:
    """A chat of three turns, the first of which holds the image."""
    turn = "<|start_header_id|>{}<|end_header_id|>"
    template = turn.format("s") + "<image><|eot_id|>" + turn.format("u") + "{}<|eot_id|>" + turn.format("a")
    ids = pipe.tokenizer(template)["input_ids"]
    start = ids.index(pipe.text_encoder.config.image_token_id)
    template_facts = {
        "template": template, "crop_start": start + 2, "image_emb_len": 16, "image_emb_start": start,
        "image_emb_end": start + 16, "double_return_token_id": 100,
    }  # fmt: skip
    return hunyuan_text(image=image(), prompt_template=template_facts, max_sequence_length=48)


add(
    "HunyuanVideoPipeline",
    "HunyuanVideo",
    lambda: assemble("HunyuanVideoPipeline", hunyuan_parts()),
    lambda p: hunyuan_text(),
    True,
)
add(
    "HunyuanVideoPipeline[true CFG]", "HunyuanVideo", lambda: assemble("HunyuanVideoPipeline", hunyuan_parts()),
    lambda p: hunyuan_text(true_cfg_scale=2.0),
)  # fmt: skip
add(
    "HunyuanSkyreelsImageToVideoPipeline", "HunyuanVideo",
    lambda: assemble("HunyuanSkyreelsImageToVideoPipeline", hunyuan_parts(transformer=hunyuan_transformer(8))),
    lambda p: hunyuan_text(image=image(), true_cfg_scale=2.0),
)  # fmt: skip
add(
    "HunyuanVideoImageToVideoPipeline", "HunyuanVideo",
    lambda: assemble(
        "HunyuanVideoImageToVideoPipeline",
        hunyuan_parts(
            transformer=hunyuan_transformer(2 * 4 + 1, image_condition_type="latent_concat"), text_encoder=llava(),
            image_processor=clip_images(),
        ),
    ),
    lambda p: llava_arguments(p), True,
)  # fmt: skip
add(
    "HunyuanVideoFramepackPipeline",
    "HunyuanVideo",
    lambda: assemble(
        "HunyuanVideoFramepackPipeline",
        hunyuan_parts(
            transformer=hunyuan_transformer(
                4,
                "HunyuanVideoFramepackTransformer3DModel",
                patch_size=2,
                has_image_proj=True,
                image_proj_dim=32,
                has_clean_x_embedder=True,
            ),
            image_encoder=siglip_vision(),
            feature_extractor=siglip_images(),
        ),
    ),
    lambda p: hunyuan_text(image=image(), latent_window_size=3, num_frames=9, height=64, width=64),
    True,
)

# Cosmos ----------------------------------------------------------------------------------------------------------


def cosmos_transformer(in_channels: int = 4, **more: Any) -> Any:
    """Cosmos' transformer, without the padding mask that takes torchvision to resize."""
    config: dict[str, Any] = {
        "in_channels": in_channels, "out_channels": 4, "num_attention_heads": 2, "attention_head_dim": 12,
        "num_layers": 2, "mlp_ratio": 2, "text_embed_dim": 32, "adaln_lora_dim": 4, "max_size": (4, 32, 32),
        "patch_size": (1, 2, 2), "rope_scale": (2.0, 1.0, 1.0), "concat_padding_mask": False,
        "extra_pos_embed_type": "learnable",
    }  # fmt: skip
    return model("CosmosTransformer3DModel", **{**config, **more})


class NoSafetyChecker:
    """Lets everything through: Cosmos pipelines insist on a checker."""

    def to(self, *_: Any) -> NoSafetyChecker:
        return self

    def check_text_safety(self, *_: Any) -> bool:
        return True

    def check_video_safety(self, pixels: Any) -> Any:
        return pixels


def cosmos_parts(**more: Any) -> dict[str, Any]:
    return {
        "text_encoder": t5(),
        "tokenizer": t5_tokenizer(),
        "transformer": cosmos_transformer(4),
        "vae": model(
            "AutoencoderKLCosmos",
            in_channels=3,
            out_channels=3,
            latent_channels=4,
            encoder_block_out_channels=(8, 8, 8, 8),
            decode_block_out_channels=(8, 8, 8, 8),
            attention_resolutions=(8,),
            resolution=64,
            num_layers=1,
            patch_size=4,
            patch_type="haar",
            scaling_factor=1.0,
            spatial_compression_ratio=4,
            temporal_compression_ratio=4,
            latents_mean=None,
            latents_std=None,
        ),
        "scheduler": scheduler(
            "EDMEulerScheduler",
            sigma_min=0.002,
            sigma_max=80,
            sigma_data=0.5,
            sigma_schedule="karras",
            num_train_timesteps=1000,
            prediction_type="epsilon",
            rho=7.0,
            final_sigmas_type="sigma_min",
        ),
        "safety_checker": NoSafetyChecker(),
        **more,
    }


def cosmos2_parts(in_channels: int = 4) -> dict[str, Any]:
    return cosmos_parts(
        transformer=cosmos_transformer(in_channels),
        vae=video_vae("AutoencoderKLWan"),
        scheduler=flow(use_karras_sigmas=True),
    )


add(
    "CosmosTextToWorldPipeline", "Cosmos", lambda: assemble("CosmosTextToWorldPipeline", cosmos_parts()),
    lambda p: text(num_frames=9, max_sequence_length=16), True,
)  # fmt: skip
add(
    "CosmosVideoToWorldPipeline", "Cosmos",
    lambda: assemble("CosmosVideoToWorldPipeline", cosmos_parts(transformer=cosmos_transformer(5))),
    lambda p: text(image=image(), num_frames=9, max_sequence_length=16),
)  # fmt: skip
add(
    "Cosmos2TextToImagePipeline", "Cosmos", lambda: assemble("Cosmos2TextToImagePipeline", cosmos2_parts()),
    lambda p: drop(text(max_sequence_length=16), "num_frames"), True,
)  # fmt: skip
add(
    "Cosmos2VideoToWorldPipeline", "Cosmos", lambda: assemble("Cosmos2VideoToWorldPipeline", cosmos2_parts(5)),
    lambda p: text(image=image(), num_frames=5, max_sequence_length=16),
)  # fmt: skip

# EasyAnimate -----------------------------------------------------------------------------------------------------


def qwen2_vl() -> Any:
    """A Qwen 2 VL model."""
    import torch
    from transformers import Qwen2VLConfig, Qwen2VLForConditionalGeneration

    torch.manual_seed(0)
    return Qwen2VLForConditionalGeneration(
        Qwen2VLConfig(
            text_config={
                "vocab_size": 300,
                "hidden_size": 32,
                "intermediate_size": 37,
                "num_hidden_layers": 2,
                "num_attention_heads": 4,
                "num_key_value_heads": 2,
                "max_position_embeddings": 1024,
                "rope_parameters": {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 1e6},
                "pad_token_id": 0,
                "bos_token_id": 0,
                "eos_token_id": 0,
            },
            vision_config={
                "depth": 1,
                "embed_dim": 16,
                "hidden_size": 32,
                "num_heads": 2,
                "patch_size": 4,
                "mlp_ratio": 2,
            },
        )
    )


def animate_parts(in_channels: int = 4) -> dict[str, Any]:
    return {
        "vae": model(
            "AutoencoderKLMagvit", in_channels=3, out_channels=3, latent_channels=4, block_out_channels=(8, 8, 8, 8),
            down_block_types=("SpatialDownBlock3D", *("SpatialTemporalDownBlock3D",) * 3),
            up_block_types=("SpatialUpBlock3D", *("SpatialTemporalUpBlock3D",) * 3), layers_per_block=1,
            norm_num_groups=2, spatial_group_norm=False,
        ),
        "text_encoder": qwen2_vl(), "tokenizer": qwen_tokenizer(), "scheduler": flow(),
        "transformer": model(
            "EasyAnimateTransformer3DModel", num_attention_heads=2, attention_head_dim=16, in_channels=in_channels,
            out_channels=4, time_embed_dim=2, text_embed_dim=32, num_layers=1, sample_width=16, sample_height=16,
            patch_size=2, mmdit_layers=1,
        ),
    }  # fmt: skip


def masked_video() -> dict[str, Any]:
    import torch

    return {"video": torch.rand(1, 3, 5, 32, 32), "mask_video": 255 * torch.ones(1, 1, 5, 32, 32)}


add(
    "EasyAnimatePipeline",
    "EasyAnimate",
    lambda: assemble("EasyAnimatePipeline", animate_parts()),
    lambda p: text(),
    True,
)
add(
    "EasyAnimateInpaintPipeline", "EasyAnimate", lambda: assemble("EasyAnimateInpaintPipeline", animate_parts(9)),
    lambda p: text(**masked_video()),
)  # fmt: skip
