"""Text-to-image transformers and their text encoders: PixArt, Sana, HunyuanDiT, AuraFlow, Lumina, CogView, DiT."""

from __future__ import annotations

from typing import Any

from .parts import (
    NEGATIVE,
    PROMPT,
    assemble,
    bert,
    bert_tokenizer,
    drop,
    gemma,
    gemma2,
    gemma_tokenizer,
    generator,
    image,
    model,
    qwen_tokenizer,
    scheduler,
    t5,
    t5_tokenizer,
    umt5,
    vae,
)  # fmt: skip
from .registry import add
from .stable_diffusion_3 import flow


def text(**more: Any) -> dict[str, Any]:
    """Arguments of a guided two-step generation at 32 x 48."""
    return {
        "prompt": PROMPT, "negative_prompt": NEGATIVE, "num_inference_steps": 2, "guidance_scale": 4.0, "height": 32,
        "width": 48, "output_type": "np", "generator": generator(), **more,
    }  # fmt: skip


def dpm(**config: Any) -> Any:
    return scheduler("DPMSolverMultistepScheduler", **config)


# PixArt ----------------------------------------------------------------------------------------------------------


def pixart_transformer(**more: Any) -> Any:
    """PixArt's transformer: T5 states, one time embedding for all layers."""
    config: dict[str, Any] = {
        "sample_size": 16, "num_layers": 2, "patch_size": 2, "attention_head_dim": 8, "num_attention_heads": 4,
        "caption_channels": 32, "in_channels": 4, "cross_attention_dim": 32, "out_channels": 8,
        "attention_bias": True, "activation_fn": "gelu-approximate", "num_embeds_ada_norm": 1000,
        "norm_type": "ada_norm_single", "norm_elementwise_affine": False, "norm_eps": 1e-6,
    }  # fmt: skip
    return model("PixArtTransformer2DModel", **{**config, **more})


def pixart_parts(**more: Any) -> dict[str, Any]:
    return {
        "tokenizer": t5_tokenizer(), "text_encoder": t5(), "vae": vae(), "transformer": pixart_transformer,
        "scheduler": dpm(), **more,
    }  # fmt: skip


def pixart_text(**more: Any) -> dict[str, Any]:
    return text(use_resolution_binning=False, clean_caption=False, max_sequence_length=24, **more)


add(
    "PixArtAlphaPipeline",
    "PixArt",
    lambda: assemble("PixArtAlphaPipeline", pixart_parts()),
    lambda p: pixart_text(),
    True,
)
add(
    "PixArtAlphaPipeline[1024 conditions]",
    "PixArt",
    lambda: assemble(
        "PixArtAlphaPipeline",
        pixart_parts(
            transformer=pixart_transformer(
                sample_size=128, use_additional_conditions=True, num_attention_heads=3, cross_attention_dim=24
            )
        ),
    ),
    lambda p: pixart_text(),
)
add(
    "PixArtSigmaPipeline",
    "PixArt",
    lambda: assemble("PixArtSigmaPipeline", pixart_parts()),
    lambda p: pixart_text(),
    True,
)


# Sana ------------------------------------------------------------------------------------------------------------


def sana_transformer(**more: Any) -> Any:
    """Sana's transformer: linear attention over the image, plain attention over the text."""
    config: dict[str, Any] = {
        "patch_size": 1, "in_channels": 4, "out_channels": 4, "num_layers": 2, "num_attention_heads": 2,
        "attention_head_dim": 8, "num_cross_attention_heads": 2, "cross_attention_head_dim": 8,
        "cross_attention_dim": 16, "caption_channels": 32, "sample_size": 32,
    }  # fmt: skip
    return model("SanaTransformer2DModel", **{**config, **more})


def dc_ae(**more: Any) -> Any:
    """The deep-compression autoencoder, with a linear-attention stage."""
    config: dict[str, Any] = {
        "in_channels": 3,
        "latent_channels": 4,
        "attention_head_dim": 4,
        "encoder_block_types": ("ResBlock", "EfficientViTBlock"),
        "decoder_block_types": ("ResBlock", "EfficientViTBlock"),
        "encoder_block_out_channels": (8, 8),
        "decoder_block_out_channels": (8, 8),
        "encoder_qkv_multiscales": ((), (5,)),
        "decoder_qkv_multiscales": ((), (5,)),
        "encoder_layers_per_block": (1, 1),
        "decoder_layers_per_block": (1, 1),
        "downsample_block_type": "conv",
        "upsample_block_type": "interpolate",
        "decoder_norm_types": "rms_norm",
        "decoder_act_fns": "silu",
        "scaling_factor": 0.41407,
    }
    return model("AutoencoderDC", **{**config, **more})


def sana_parts(**more: Any) -> dict[str, Any]:
    return {
        "tokenizer": gemma_tokenizer(), "text_encoder": gemma2(), "vae": dc_ae(), "transformer": sana_transformer,
        "scheduler": flow(shift=3.0), **more,
    }  # fmt: skip


SANA: dict[str, Any] = {
    "width": 64,
    "use_resolution_binning": False,
    "max_sequence_length": 24,
    "complex_human_instruction": None,
}


def sprint_parts() -> dict[str, Any]:
    return sana_parts(
        transformer=sana_transformer(guidance_embeds=True, qk_norm="rms_norm_across_heads"),
        scheduler=scheduler("SCMScheduler"),
    )


def sana_controlnet() -> Any:
    return model(
        "SanaControlNetModel", patch_size=1, in_channels=4, out_channels=4, num_layers=1, num_attention_heads=2,
        attention_head_dim=8, num_cross_attention_heads=2, cross_attention_head_dim=8, cross_attention_dim=16,
        caption_channels=32, sample_size=32,
    )  # fmt: skip


add("SanaPipeline", "Sana", lambda: assemble("SanaPipeline", sana_parts()), lambda p: text(**SANA), True)
add(
    "SanaPipeline[instruction]", "Sana", lambda: assemble("SanaPipeline", sana_parts()),
    lambda p: text(**{**SANA, "complex_human_instruction": ["make it long.", "User Prompt: "]}),
)  # fmt: skip
add(
    "SanaSprintPipeline", "Sana", lambda: assemble("SanaSprintPipeline", sprint_parts()),
    lambda p: drop(text(**SANA), "negative_prompt"), True,
)  # fmt: skip
add(
    "SanaSprintImg2ImgPipeline", "Sana", lambda: assemble("SanaSprintImg2ImgPipeline", sprint_parts()),
    lambda p: drop(text(image=image(), strength=0.5, **{**SANA, "width": 32}), "negative_prompt"),
)  # fmt: skip
add(
    "SanaControlNetPipeline", "Sana",
    lambda: assemble("SanaControlNetPipeline", sana_parts(controlnet=sana_controlnet())),
    lambda p: text(control_image=image(), **{**SANA, "width": 32}), True,
)  # fmt: skip


# HunyuanDiT ------------------------------------------------------------------------------------------------------


def hunyuan_transformer(**more: Any) -> Any:
    """HunyuanDiT's transformer with skip connections, text of two encoders pooled by attention."""
    config: dict[str, Any] = {
        "sample_size": 16, "num_layers": 2, "patch_size": 2, "attention_head_dim": 8, "num_attention_heads": 4,
        "in_channels": 4, "cross_attention_dim": 32, "cross_attention_dim_t5": 32, "pooled_projection_dim": 16,
        "hidden_size": 32, "activation_fn": "gelu-approximate", "text_len": 77, "text_len_t5": 256,
    }  # fmt: skip
    return model("HunyuanDiT2DModel", **{**config, **more})


def hunyuan_parts(**more: Any) -> dict[str, Any]:
    return {
        "vae": vae(channels=(8, 8, 8, 16)),
        "text_encoder": bert(),
        "tokenizer": bert_tokenizer(),
        "text_encoder_2": t5(),
        "tokenizer_2": t5_tokenizer(256),
        "transformer": hunyuan_transformer,
        "scheduler": scheduler("DDPMScheduler", beta_end=0.018, prediction_type="v_prediction"),
        "requires_safety_checker": False,
        **more,
    }


add(
    "HunyuanDiTPipeline", "HunyuanDiT", lambda: assemble("HunyuanDiTPipeline", hunyuan_parts()),
    lambda p: text(use_resolution_binning=False, height=64, width=96), True,
)  # fmt: skip


# AuraFlow --------------------------------------------------------------------------------------------------------


def aura_transformer() -> Any:
    return model(
        "AuraFlowTransformer2DModel", sample_size=16, patch_size=2, in_channels=4, num_mmdit_layers=1,
        num_single_dit_layers=1, attention_head_dim=8, num_attention_heads=4, caption_projection_dim=32,
        joint_attention_dim=32, out_channels=4, pos_embed_max_size=256,
    )  # fmt: skip


add(
    "AuraFlowPipeline", "AuraFlow",
    lambda: assemble(
        "AuraFlowPipeline",
        {
            "tokenizer": t5_tokenizer(), "text_encoder": umt5(), "vae": vae(), "transformer": aura_transformer(),
            "scheduler": flow(),
        },
    ),
    lambda p: text(max_sequence_length=24), True,
)  # fmt: skip


# Lumina ----------------------------------------------------------------------------------------------------------


def lumina_parts() -> dict[str, Any]:
    return {
        "transformer": model(
            "LuminaNextDiT2DModel", sample_size=16, patch_size=2, in_channels=4, hidden_size=24, num_layers=2,
            num_attention_heads=3, num_kv_heads=1, multiple_of=16, ffn_dim_multiplier=None, norm_eps=1e-5,
            learn_sigma=True, qk_norm=True, cross_attention_dim=32, scaling_factor=1.0,
        ),
        "scheduler": flow(), "vae": vae(), "text_encoder": gemma(), "tokenizer": gemma_tokenizer(),
    }  # fmt: skip


def lumina2_parts() -> dict[str, Any]:
    return {
        "transformer": model(
            "Lumina2Transformer2DModel", sample_size=16, patch_size=2, in_channels=4, hidden_size=32, num_layers=2,
            num_refiner_layers=1, num_attention_heads=4, num_kv_heads=2, multiple_of=16, axes_dim_rope=(4, 2, 2),
            axes_lens=(128, 128, 128), cap_feat_dim=32,
        ),
        "scheduler": flow(), "vae": vae(shift_factor=0.1), "text_encoder": gemma2(), "tokenizer": gemma_tokenizer(),
    }  # fmt: skip


add(
    "LuminaPipeline", "Lumina", lambda: assemble("LuminaPipeline", lumina_parts()),
    lambda p: text(max_sequence_length=24, clean_caption=False), True,
)  # fmt: skip
add(
    "Lumina2Pipeline", "Lumina", lambda: assemble("Lumina2Pipeline", lumina2_parts()),
    lambda p: text(max_sequence_length=24), True,
)  # fmt: skip
add(
    "Lumina2Pipeline[guidance cut off]", "Lumina", lambda: assemble("Lumina2Pipeline", lumina2_parts()),
    lambda p: text(max_sequence_length=24, num_inference_steps=4, cfg_trunc_ratio=0.5),
)  # fmt: skip


# CogView ---------------------------------------------------------------------------------------------------------


def cogview3_parts() -> dict[str, Any]:
    return {
        "tokenizer": t5_tokenizer(), "text_encoder": t5(), "vae": vae(),
        "transformer": model(
            "CogView3PlusTransformer2DModel", patch_size=2, in_channels=4, num_layers=2, attention_head_dim=4,
            num_attention_heads=2, out_channels=4, text_embed_dim=32, time_embed_dim=8, condition_dim=2,
            pos_embed_max_size=32, sample_size=16,
        ),
        "scheduler": scheduler("CogVideoXDDIMScheduler"),
    }  # fmt: skip


def glm() -> Any:
    """A GLM decoder with grouped queries."""
    from transformers import GlmConfig, GlmModel

    return GlmModel(
        GlmConfig(
            vocab_size=400, hidden_size=32, intermediate_size=37, num_hidden_layers=2, num_attention_heads=4,
            num_key_value_heads=2, head_dim=8, pad_token_id=0,
        )
    )  # fmt: skip


def cogview4_parts(in_channels: int = 4) -> dict[str, Any]:
    return {
        "tokenizer": qwen_tokenizer(),
        "text_encoder": glm(),
        "vae": vae(),
        "transformer": model(
            "CogView4Transformer2DModel",
            patch_size=2,
            in_channels=in_channels,
            num_layers=2,
            attention_head_dim=4,
            num_attention_heads=4,
            out_channels=4,
            text_embed_dim=32,
            time_embed_dim=8,
            condition_dim=4,
            sample_size=16,
        ),
        "scheduler": flow(
            base_shift=0.25,
            max_shift=0.75,
            base_image_seq_len=256,
            use_dynamic_shifting=True,
            time_shift_type="linear",
        ),
    }


add(
    "CogView3PlusPipeline", "CogView", lambda: assemble("CogView3PlusPipeline", cogview3_parts()),
    lambda p: text(max_sequence_length=24), True,
)  # fmt: skip
add(
    "CogView4Pipeline", "CogView", lambda: assemble("CogView4Pipeline", cogview4_parts()),
    lambda p: text(max_sequence_length=32), True,
)  # fmt: skip
add(
    "CogView4ControlPipeline", "CogView", lambda: assemble("CogView4ControlPipeline", cogview4_parts(8)),
    lambda p: text(max_sequence_length=32, control_image=image(), width=32),
)  # fmt: skip


# DiT -------------------------------------------------------------------------------------------------------------

add(
    "DiTPipeline", "DiT",
    lambda: assemble(
        "DiTPipeline",
        {
            "transformer": model(
                "DiTTransformer2DModel", sample_size=16, num_layers=2, patch_size=4, attention_head_dim=8,
                num_attention_heads=2, in_channels=4, out_channels=8, attention_bias=True,
                activation_fn="gelu-approximate", num_embeds_ada_norm=1000, norm_type="ada_norm_zero",
                norm_elementwise_affine=False,
            ),
            "vae": vae(), "scheduler": scheduler("DDIMScheduler"),
        },
    ),
    lambda p: {
        "class_labels": [1, 3], "num_inference_steps": 2, "guidance_scale": 4.0, "output_type": "np",
        "generator": generator(),
    },
    True,
)  # fmt: skip
