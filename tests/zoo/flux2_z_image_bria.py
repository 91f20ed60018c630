"""Later text-to-image transformers: FLUX.2, Z-Image, Ovis, PRX, Chroma, HiDream, Bria, LongCat, VisualCloze."""

from __future__ import annotations

from typing import Any

from . import flux
from .parts import (
    PROMPT,
    assemble,
    clip_text,
    clip_tokenizer,
    drop,
    gemma_tokenizer,
    generator,
    image,
    llama_config,
    llama_tokenizer,
    mask,
    model,
    qwen2_5_vl,
    qwen2_processor,
    qwen3,
    qwen_tokenizer,
    t5,
    t5_tokenizer,
)  # fmt: skip
from .pixart_sana_lumina import dc_ae, text
from .registry import add
from .stable_diffusion_3 import flow, flow_vae

# FLUX.2 ----------------------------------------------------------------------------------------------------------


def flux2_vae() -> Any:
    """FLUX.2's VAE, whose latents are packed 2 x 2 and normalized by running statistics."""
    return model(
        "AutoencoderKLFlux2", in_channels=3, out_channels=3, down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2, block_out_channels=(8, 16), layers_per_block=1, latent_channels=4,
        norm_num_groups=4, sample_size=32,
    )  # fmt: skip


def flux2_transformer(joint: int, **more: Any) -> Any:
    config: dict[str, Any] = {
        "patch_size": 1, "in_channels": 16, "num_layers": 1, "num_single_layers": 1, "attention_head_dim": 16,
        "num_attention_heads": 2, "joint_attention_dim": joint, "timestep_guidance_channels": 32,
        "axes_dims_rope": [4, 4, 4, 4], "guidance_embeds": True,
    }  # fmt: skip
    return model("Flux2Transformer2DModel", **{**config, **more})


def mistral3() -> Any:
    """A Mistral 3 vision-language model."""
    import torch
    from transformers import Mistral3Config, Mistral3ForConditionalGeneration

    torch.manual_seed(0)
    return Mistral3ForConditionalGeneration(
        Mistral3Config(
            text_config={
                "model_type": "mistral", "vocab_size": 300, "hidden_size": 32, "intermediate_size": 37,
                "num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8,
                "max_position_embeddings": 1024,
            },
            vision_config={
                "model_type": "pixtral", "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
                "intermediate_size": 20, "image_size": 32, "patch_size": 8, "num_channels": 3,
            },
            image_token_index=5, spatial_merge_size=1,
        )
    )  # fmt: skip


def flux2_parts() -> dict[str, Any]:
    return {
        "scheduler": flow(use_dynamic_shifting=True),
        "vae": flux2_vae(),
        "text_encoder": mistral3(),
        "tokenizer": qwen_tokenizer(),
        "transformer": flux2_transformer(96),
    }


def klein_parts(**more: Any) -> dict[str, Any]:
    return {
        "scheduler": flow(use_dynamic_shifting=True),
        "vae": flux2_vae(),
        "text_encoder": qwen3(layers=3),
        "tokenizer": qwen_tokenizer(),
        "transformer": flux2_transformer(96, guidance_embeds=False),
        **more,
    }


FLUX2: dict[str, Any] = {"max_sequence_length": 48, "text_encoder_out_layers": (1, 2, 3)}


def flux2_text(**more: Any) -> dict[str, Any]:
    return drop(text(**FLUX2, **more), "negative_prompt")


add("Flux2Pipeline", "FLUX.2", lambda: assemble("Flux2Pipeline", flux2_parts()), lambda p: flux2_text(), True)
add(
    "Flux2Pipeline[image]", "FLUX.2", lambda: assemble("Flux2Pipeline", flux2_parts()),
    lambda p: flux2_text(image=[image(64)]),
)  # fmt: skip
add(
    "Flux2KleinPipeline", "FLUX.2", lambda: assemble("Flux2KleinPipeline", klein_parts()), lambda p: flux2_text(), True
)
add(
    "Flux2KleinKVPipeline", "FLUX.2", lambda: assemble("Flux2KleinKVPipeline", klein_parts(is_distilled=True)),
    lambda p: drop(flux2_text(image=[image(64)]), "guidance_scale"),
)  # fmt: skip
add(
    "Flux2KleinInpaintPipeline", "FLUX.2", lambda: assemble("Flux2KleinInpaintPipeline", klein_parts()),
    lambda p: flux2_text(image=image(64), mask_image=mask(64), strength=0.8),
)  # fmt: skip

# Z-Image ---------------------------------------------------------------------------------------------------------


def z_transformer(**more: Any) -> Any:
    config: dict[str, Any] = {
        "all_patch_size": (2,), "all_f_patch_size": (1,), "in_channels": 16, "dim": 32, "n_layers": 2,
        "n_refiner_layers": 1, "n_heads": 2, "n_kv_heads": 2, "cap_feat_dim": 32, "rope_theta": 256.0,
        "axes_dims": [8, 4, 4], "axes_lens": [256, 32, 32],
    }  # fmt: skip
    return model("ZImageTransformer2DModel", **{**config, **more})


def z_parts(**more: Any) -> dict[str, Any]:
    return {
        "scheduler": flow(shift=3.0),
        "vae": flow_vae(16),
        "text_encoder": qwen3(head=False),
        "tokenizer": qwen_tokenizer(),
        "transformer": z_transformer,
        **more,
    }


def z_controlnet(**more: Any) -> Any:
    config: dict[str, Any] = {
        "control_layers_places": [0], "control_refiner_layers_places": [0], "control_in_dim": 16, "dim": 32,
        "n_refiner_layers": 1, "n_heads": 2, "n_kv_heads": 2,
    }  # fmt: skip
    return model("ZImageControlNetModel", **{**config, **more})


def z_text(**more: Any) -> dict[str, Any]:
    return text(**{"max_sequence_length": 32, **more})


add("ZImagePipeline", "Z-Image", lambda: assemble("ZImagePipeline", z_parts()), lambda p: z_text(), True)
add(
    "ZImageImg2ImgPipeline", "Z-Image", lambda: assemble("ZImageImg2ImgPipeline", z_parts()),
    lambda p: z_text(image=image(), width=32, num_inference_steps=4, strength=0.5),
)  # fmt: skip
add(
    "ZImageInpaintPipeline", "Z-Image", lambda: assemble("ZImageInpaintPipeline", z_parts()),
    lambda p: z_text(image=image(), mask_image=mask(), width=32, num_inference_steps=4, strength=0.5),
)  # fmt: skip
add(
    "ZImageControlNetPipeline", "Z-Image",
    lambda: assemble("ZImageControlNetPipeline", z_parts(controlnet=z_controlnet())),
    lambda p: z_text(control_image=image(), width=32), True,
)  # fmt: skip
add(
    "ZImageControlNetInpaintPipeline", "Z-Image",
    lambda: assemble("ZImageControlNetInpaintPipeline", z_parts(controlnet=z_controlnet(control_in_dim=33))),
    lambda p: z_text(image=image(), mask_image=mask(), control_image=image(), width=32),
)  # fmt: skip

# Ovis, PRX, Chroma -----------------------------------------------------------------------------------------------

add(
    "OvisImagePipeline", "Ovis",
    lambda: assemble(
        "OvisImagePipeline",
        {
            "scheduler": flow(use_dynamic_shifting=True), "vae": flow_vae(4), "text_encoder": qwen3(head=False),
            "tokenizer": qwen_tokenizer(),
            "transformer": model(
                "OvisImageTransformer2DModel", patch_size=1, in_channels=16, out_channels=16, num_layers=1,
                num_single_layers=1, attention_head_dim=16, num_attention_heads=2, joint_attention_dim=32,
                axes_dims_rope=(4, 4, 8),
            ),
        },
    ),
    lambda p: text(max_sequence_length=32), True,
)  # fmt: skip


def t5gemma() -> Any:
    """The encoder half of a T5 Gemma model."""
    import torch
    from transformers import T5GemmaConfig, T5GemmaEncoderModel

    torch.manual_seed(0)
    half = {
        "vocab_size": 400,
        "hidden_size": 32,
        "intermediate_size": 37,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "max_position_embeddings": 512,
    }
    return T5GemmaEncoderModel(T5GemmaConfig(encoder=half, decoder=half, is_encoder_decoder=False, vocab_size=400))


def prx_transformer(in_channels: int, **more: Any) -> Any:
    return model(
        "PRXTransformer2DModel",
        in_channels=in_channels,
        patch_size=2,
        context_in_dim=32,
        hidden_size=32,
        mlp_ratio=2.0,
        num_heads=2,
        depth=2,
        axes_dim=[8, 8],
        **more,
    )


add(
    "PRXPipeline", "PRX",
    lambda: assemble(
        "PRXPipeline",
        {
            "transformer": prx_transformer(16), "scheduler": flow(), "text_encoder": t5gemma(),
            "tokenizer": gemma_tokenizer(24), "vae": flow_vae(16), "default_sample_size": 32,
        },
    ),
    lambda p: text(use_resolution_binning=False), True,
)  # fmt: skip
add(
    "PRXPipeline[DC-AE]", "PRX",
    lambda: assemble(
        "PRXPipeline",
        {
            "transformer": prx_transformer(4), "scheduler": flow(), "text_encoder": t5gemma(),
            "tokenizer": gemma_tokenizer(24), "vae": dc_ae(), "default_sample_size": 32,
        },
    ),
    lambda p: text(use_resolution_binning=False),
)  # fmt: skip
add(
    "PRXPixelPipeline", "PRX",
    lambda: assemble(
        "PRXPixelPipeline",
        {
            "transformer": prx_transformer(3), "scheduler": flow(), "text_encoder": qwen3(head=False),
            "tokenizer": qwen_tokenizer(), "default_sample_size": 32, "prompt_max_tokens": 24,
        },
    ),
    lambda p: text(use_resolution_binning=False),
)  # fmt: skip


def chroma_parts() -> dict[str, Any]:
    transformer = model(
        "ChromaTransformer2DModel",
        patch_size=1,
        in_channels=16,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=32,
        axes_dims_rope=(4, 4, 8),
        approximator_num_channels=8,
        approximator_hidden_dim=16,
        approximator_layers=1,
    )
    # The inpainting pipeline reads a setting that Chroma's transformer does not have.
    transformer.register_to_config(guidance_embeds=False)
    return {
        "scheduler": flow(), "vae": flow_vae(4), "text_encoder": t5(), "tokenizer": t5_tokenizer(),
        "transformer": transformer,
    }  # fmt: skip


add(
    "ChromaPipeline",
    "Chroma",
    lambda: assemble("ChromaPipeline", chroma_parts()),
    lambda p: text(max_sequence_length=24),
    True,
)
add(
    "ChromaImg2ImgPipeline", "Chroma", lambda: assemble("ChromaImg2ImgPipeline", chroma_parts()),
    lambda p: text(max_sequence_length=24, image=image(), width=32, num_inference_steps=4, strength=0.5),
)  # fmt: skip
add(
    "ChromaInpaintPipeline",
    "Chroma",
    lambda: assemble("ChromaInpaintPipeline", chroma_parts()),
    lambda p: text(
        max_sequence_length=24, image=image(), mask_image=mask(), width=32, num_inference_steps=4, strength=0.5
    ),
)

# HiDream ---------------------------------------------------------------------------------------------------------


def hidream_parts() -> dict[str, Any]:
    from transformers import LlamaForCausalLM

    return {
        "scheduler": flow(), "vae": flow_vae(4),
        "text_encoder": clip_text(projection=32), "tokenizer": clip_tokenizer(),
        "text_encoder_2": clip_text(projection=32, seed=1), "tokenizer_2": clip_tokenizer(),
        "text_encoder_3": t5(), "tokenizer_3": t5_tokenizer(),
        "text_encoder_4": LlamaForCausalLM(llama_config(layers=4)), "tokenizer_4": llama_tokenizer(),
        "transformer": model(
            "HiDreamImageTransformer2DModel", patch_size=2, in_channels=4, out_channels=4, num_layers=1,
            num_single_layers=1, attention_head_dim=8, num_attention_heads=4, caption_channels=[32, 32],
            text_emb_dim=64, num_routed_experts=4, num_activated_experts=2, axes_dims_rope=(4, 2, 2),
            max_resolution=(16, 16), llama_layers=(1, 3), force_inference_output=False,
        ),
    }  # fmt: skip


add(
    "HiDreamImagePipeline", "HiDream", lambda: assemble("HiDreamImagePipeline", hidream_parts()),
    lambda p: text(max_sequence_length=24, width=32), True,
)  # fmt: skip

# Bria, LongCat, VisualCloze --------------------------------------------------------------------------------------

add(
    "BriaPipeline", "Bria",
    lambda: assemble(
        "BriaPipeline",
        {
            "transformer": model(
                "BriaTransformer2DModel", patch_size=1, in_channels=16, num_layers=1, num_single_layers=1,
                attention_head_dim=8, num_attention_heads=2, joint_attention_dim=32, axes_dims_rope=[0, 4, 4],
            ),
            "scheduler": flow(), "vae": flow_vae(4), "text_encoder": t5(), "tokenizer": t5_tokenizer(),
        },
    ),
    lambda p: text(max_sequence_length=24), True,
)  # fmt: skip


def smollm3() -> Any:
    import torch
    from transformers import SmolLM3Config, SmolLM3ForCausalLM

    torch.manual_seed(0)
    return SmolLM3ForCausalLM(
        SmolLM3Config(
            vocab_size=300, hidden_size=32, intermediate_size=37, num_hidden_layers=3, num_attention_heads=4,
            num_key_value_heads=2, max_position_embeddings=4096, pad_token_id=0, bos_token_id=0, eos_token_id=0,
        )
    )  # fmt: skip


def fibo_parts() -> dict[str, Any]:
    from .qwen_image import video_vae

    return {
        "transformer": model(
            "BriaFiboTransformer2DModel",
            patch_size=1,
            in_channels=4,
            num_layers=2,
            num_single_layers=2,
            attention_head_dim=8,
            num_attention_heads=2,
            joint_attention_dim=64,
            axes_dims_rope=[0, 4, 4],
            text_encoder_dim=32,
        ),
        "scheduler": flow(),
        "vae": video_vae("AutoencoderKLWan"),
        "text_encoder": smollm3(),
        "tokenizer": qwen_tokenizer(),
    }


add(
    "BriaFiboPipeline",
    "Bria",
    lambda: assemble("BriaFiboPipeline", fibo_parts()),
    lambda p: text(max_sequence_length=64),
)
add(
    "BriaFiboEditPipeline",
    "Bria",
    lambda: assemble("BriaFiboEditPipeline", fibo_parts()),
    lambda p: text(
        prompt='{"edit_instruction": "make it red"}',
        max_sequence_length=64,
        image=image(),
        width=32,
        _auto_resize=False,
    ),
)


def longcat_parts() -> dict[str, Any]:
    return {
        "scheduler": flow(use_dynamic_shifting=True),
        "vae": flow_vae(16),
        "text_encoder": qwen2_5_vl(),
        "tokenizer": qwen_tokenizer(),
        "text_processor": qwen2_processor(),
        "transformer": model(
            "LongCatImageTransformer2DModel",
            patch_size=1,
            in_channels=64,
            num_layers=1,
            num_single_layers=1,
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=32,
            pooled_projection_dim=32,
            axes_dims_rope=[4, 4, 8],
        ),
    }


add(
    "LongCatImagePipeline", "LongCat", lambda: assemble("LongCatImagePipeline", longcat_parts()),
    lambda p: text(enable_prompt_rewrite=False), True,
)  # fmt: skip


def cloze_parts() -> dict[str, Any]:
    """Its tiles are encoded with their masks folded 8 x 8, as FLUX fill does: 16 latents, 64 for the mask."""
    return flux.parts(transformer=flux.transformer(16 + 16 + 16, out_channels=16), resolution=32)


def cloze_arguments() -> dict[str, Any]:
    return {
        "task_prompt": "a task", "content_prompt": PROMPT, "image": [[image(), image()], [image(), None]],
        "num_inference_steps": 2, "guidance_scale": 30.0, "max_sequence_length": 24, "output_type": "np",
        "generator": generator(),
    }  # fmt: skip


add(
    "VisualClozeGenerationPipeline", "VisualCloze",
    lambda: assemble("VisualClozeGenerationPipeline", cloze_parts()), lambda p: cloze_arguments(), True,
)  # fmt: skip
add(
    "VisualClozePipeline", "VisualCloze", lambda: assemble("VisualClozePipeline", cloze_parts()),
    lambda p: {**cloze_arguments(), "upsampling_height": 32, "upsampling_width": 32, "upsampling_strength": 0.6},
)  # fmt: skip
