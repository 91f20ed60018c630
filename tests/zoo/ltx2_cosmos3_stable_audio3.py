"""Video, audio, world and protein models: LTX 2, Sana Video, Cosmos 3, Stable Audio 3 and others."""

from __future__ import annotations

from typing import Any

from .audio import oobleck
from .hunyuan_image_glm_kolors import byt5, byt5_tokenizer
from .parts import (
    NEGATIVE,
    PROMPT,
    assemble,
    clip_text,
    clip_tokenizer,
    drop,
    gemma2,
    gemma_tokenizer,
    generator,
    image,
    model,
    qwen2_5_vl,
    qwen2_5_vl_config,
    qwen2_processor,
    qwen3,
    qwen_tokenizer,
    scheduler,
    siglip_images,
    siglip_vision,
    t5_tokenizer,
    umt5,
    video,
)  # fmt: skip
from .qwen_image import video_vae
from .registry import add
from .stable_diffusion_3 import flow
from .video import (
    NoSafetyChecker,
    cosmos_transformer,
    hunyuan_vae,
    text,
    wan_image_parts,
    wan_parts,
    wan_text,
    wan_transformer,
)

# LTX 2 -----------------------------------------------------------------------------------------------------------


def gemma_with_eyes(hidden: int, **more: Any) -> dict[str, Any]:
    """The configuration of Gemma 3, of which every other layer attends to a window only, and its image encoder."""
    return {
        "text_config": {
            "vocab_size": 400, "hidden_size": hidden, "intermediate_size": 37, "num_hidden_layers": 2,
            "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, "sliding_window": 8,
            "layer_types": ["sliding_attention", "full_attention"], **more,
        },
        "vision_config": {
            "hidden_size": 16, "intermediate_size": 20, "num_hidden_layers": 1, "num_attention_heads": 2,
            "image_size": 16, "patch_size": 4,
        },
        "mm_tokens_per_image": 4,
    }  # fmt: skip


def gemma3(hidden: int = 32) -> Any:
    """Gemma 3 with its SigLIP image encoder."""
    import torch
    from transformers import Gemma3Config, Gemma3ForConditionalGeneration

    torch.manual_seed(0)
    return Gemma3ForConditionalGeneration(Gemma3Config(**gemma_with_eyes(hidden), image_token_index=7))


def ltx2_vae() -> Any:
    """LTX 2's video VAE: 8 x 8 pixels and 4 frames a latent."""
    return model(
        "AutoencoderKLLTX2Video", latent_channels=8, block_out_channels=(8, 16),
        down_block_types=("LTX2VideoDownBlock3D",) * 2, decoder_block_out_channels=(8, 16),
        layers_per_block=(1, 1, 1), decoder_layers_per_block=(1, 1, 1), spatio_temporal_scaling=(True, True),
        decoder_spatio_temporal_scaling=(True, True), decoder_inject_noise=(False,) * 3,
        downsample_type=("spatiotemporal",) * 2, upsample_type=("spatiotemporal",) * 2,
        upsample_residual=(True, True), upsample_factor=(2, 2), patch_size=2, decoder_spatial_padding_mode="zeros",
    )  # fmt: skip


def ltx2_transformer(**more: Any) -> Any:
    """LTX 2's transformer: a video and an audio stream, each of which attends to the other."""
    config: dict[str, Any] = {
        "in_channels": 8, "out_channels": 8, "num_attention_heads": 2, "attention_head_dim": 16,
        "cross_attention_dim": 32, "vae_scale_factors": (4, 8, 8), "audio_in_channels": 8, "audio_out_channels": 8,
        "audio_num_attention_heads": 2, "audio_attention_head_dim": 8, "audio_cross_attention_dim": 16,
        "num_layers": 2, "caption_channels": 32, "rope_double_precision": False,
    }  # fmt: skip
    return model("LTX2VideoTransformer3DModel", **{**config, **more})


def ltx2_connectors(**more: Any) -> Any:
    """Two small transformers that turn the states of all layers of Gemma into text for the two streams."""
    from diffusers.pipelines.ltx2 import LTX2TextConnectors

    config: dict[str, Any] = {
        "caption_channels": 32, "text_proj_in_factor": 3, "video_connector_num_attention_heads": 4,
        "video_connector_attention_head_dim": 8, "video_connector_num_layers": 1,
        "video_connector_num_learnable_registers": 8, "audio_connector_num_attention_heads": 4,
        "audio_connector_attention_head_dim": 8, "audio_connector_num_layers": 1,
        "audio_connector_num_learnable_registers": 8, "connector_rope_base_seq_len": 32,
        "rope_double_precision": False,
    }  # fmt: skip
    return LTX2TextConnectors(**{**config, **more})


def ltx2_vocoder() -> Any:
    """LTX 2's vocoder, from a stereo spectrogram of 16 bands to samples."""
    from diffusers.pipelines.ltx2.vocoder import LTX2Vocoder

    return LTX2Vocoder(
        in_channels=32, hidden_channels=16, upsample_kernel_sizes=[4, 4], upsample_factors=[2, 2],
        resnet_kernel_sizes=[3], resnet_dilations=[[1, 3, 5]], output_sampling_rate=16000,
    )  # fmt: skip


def ltx2_wide_vocoder() -> Any:
    """LTX 2.3's vocoder: a second one adds the upper half of the band, from the spectrogram of the first's samples."""
    from diffusers.pipelines.ltx2.vocoder import LTX2VocoderWithBWE

    first: dict[str, Any] = {
        "upsample_kernel_sizes": [4, 4], "upsample_factors": [2, 2], "resnet_kernel_sizes": [3],
        "resnet_dilations": [[1, 3, 5]],
    }  # fmt: skip
    second = first | {"upsample_kernel_sizes": [4, 4, 4], "upsample_factors": [2, 2, 2]}
    return LTX2VocoderWithBWE(
        in_channels=32, hidden_channels=16, **first, bwe_in_channels=16, bwe_hidden_channels=16,
        **{f"bwe_{name}": value for name, value in second.items()}, filter_length=16, hop_length=4, window_length=16,
        num_mel_channels=8, input_sampling_rate=16000, output_sampling_rate=32000,
    )  # fmt: skip


def ltx2_parts(**more: Any) -> dict[str, Any]:
    return {
        "scheduler": flow(),
        "vae": ltx2_vae,
        "audio_vae": model(
            "AutoencoderKLLTX2Audio", base_channels=8, ch_mult=(1, 2, 2), num_res_blocks=1, resolution=32,
            latent_channels=2, mel_bins=16,
        ),
        "text_encoder": gemma3,
        "tokenizer": gemma_tokenizer(),
        "connectors": ltx2_connectors,
        "transformer": ltx2_transformer,
        "vocoder": ltx2_vocoder,
        **more,
    }  # fmt: skip


def ltx2_text(**more: Any) -> dict[str, Any]:
    """Arguments of a generation with all three guidances: by prompt, by perturbed layers and by modality."""
    return text(
        **{"num_frames": 9, "max_sequence_length": 24, "spatio_temporal_guidance_blocks": [1], **more},
    )


def ltx2_condition(kind: str, **more: Any) -> Any:
    """A condition of one of the three kinds that the LTX 2 pipelines read."""
    from diffusers.pipelines.ltx2 import pipeline_ltx2_condition, pipeline_ltx2_hdr_lora, pipeline_ltx2_ic_lora

    for module in (pipeline_ltx2_condition, pipeline_ltx2_ic_lora, pipeline_ltx2_hdr_lora):
        if hasattr(module, kind):
            return getattr(module, kind)(**more)
    raise ValueError(f"LTX 2 has no condition named {kind!r}")


def ltx2_upsampler(**more: Any) -> Any:
    from diffusers.pipelines.ltx2.latent_upsampler import LTX2LatentUpsamplerModel

    return LTX2LatentUpsamplerModel(in_channels=8, mid_channels=32, num_blocks_per_stage=1, **more)


def ltx2_frames(*latents: int) -> Any:
    """Random latents of ``latents`` frames, height and width."""
    import torch

    return torch.randn(1, 8, *latents)


def ltx2_keyframe_parts(**more: Any) -> dict[str, Any]:
    """LTX 2.5's pipelines that first make keyframes, which the transformer knows by a learned position."""
    return ltx2_parts(transformer=ltx2_transformer(use_keyframes_abs_pos_embedding=True), **more)


def ltx2_keyframe_text(**more: Any) -> dict[str, Any]:
    """Arguments for one segment of 13 frames, which ends with a keyframe."""
    return drop(
        ltx2_text(**{"num_frames": 13, "sigmas": [1.0, 0.5], **more}),
        "negative_prompt", "num_inference_steps", "guidance_scale", "spatio_temporal_guidance_blocks",
    )  # fmt: skip


def ltx2_refine_text() -> dict[str, Any]:
    """Arguments for a round that doubles the frame rate of the 13 frames, one keyframe and their audio."""
    import torch

    return ltx2_keyframe_text(
        latents=ltx2_frames(4, 4, 4), keyframes_latents=ltx2_frames(1, 4, 4), keyframe_positions=[12],
        audio_latents=torch.randn(1, 2, 14, 4),
    )  # fmt: skip


add("LTX2Pipeline", "LTX", lambda: assemble("LTX2Pipeline", ltx2_parts()), lambda p: ltx2_text(), True)
add(
    "LTX2Pipeline[2.3]", "LTX",
    lambda: assemble(
        "LTX2Pipeline",
        ltx2_parts(
            transformer=ltx2_transformer(
                use_prompt_embeddings=False, gated_attn=True, cross_attn_mod=True, audio_gated_attn=True,
                audio_cross_attn_mod=True, perturbed_attn=True, rope_type="split",
            ),
            connectors=ltx2_connectors(
                per_modality_projections=True, video_hidden_dim=32, audio_hidden_dim=16, video_gated_attn=True,
                audio_gated_attn=True, audio_connector_num_attention_heads=2, proj_bias=True, rope_type="split",
            ),
            vocoder=ltx2_wide_vocoder(),
        ),
    ),
    lambda p: ltx2_text(),
)  # fmt: skip
add(
    "LTX2ImageToVideoPipeline", "LTX", lambda: assemble("LTX2ImageToVideoPipeline", ltx2_parts()),
    lambda p: ltx2_text(image=image(), image_crf=0), True,
)  # fmt: skip
add(
    "LTX2ConditionPipeline", "LTX", lambda: assemble("LTX2ConditionPipeline", ltx2_parts()),
    lambda p: ltx2_text(conditions=ltx2_condition("LTX2VideoCondition", frames=image(), strength=0.9, crf=0)),
)  # fmt: skip
add(
    "LTX2LatentUpsamplePipeline", "LTX",
    lambda: assemble("LTX2LatentUpsamplePipeline", {"vae": ltx2_vae(), "latent_upsampler": ltx2_upsampler()}),
    lambda p: {"video": video(9), "height": 32, "width": 32, "output_type": "np", "generator": generator()},
)  # fmt: skip
add(
    "LTX2InContextPipeline", "LTX", lambda: assemble("LTX2InContextPipeline", ltx2_parts()),
    lambda p: ltx2_text(reference_conditions=ltx2_condition("LTX2ReferenceCondition", frames=video(9))),
)  # fmt: skip
add(
    "LTX2HDRPipeline", "LTX", lambda: assemble("LTX2HDRPipeline", ltx2_parts()),
    lambda p: ltx2_text(reference_conditions=ltx2_condition("LTX2HDRReferenceCondition", frames=video(9))),
)  # fmt: skip
add(
    "LTX2DFRPipeline", "LTX", lambda: assemble("LTX2DFRPipeline", ltx2_keyframe_parts()),
    lambda p: ltx2_keyframe_text(),
)  # fmt: skip
add(
    "LTX2DFRTemporalRefinePipeline", "LTX",
    lambda: assemble(
        "LTX2DFRTemporalRefinePipeline",
        ltx2_keyframe_parts(
            scheduler=scheduler("LTXEulerAncestralRFScheduler", eta=1.0),
            temporal_latent_upsampler=ltx2_upsampler(spatial_upsample=False, temporal_upsample=True),
        ),
    ),
    lambda p: ltx2_refine_text(),
)  # fmt: skip

# Sana Video and Sana WM ------------------------------------------------------------------------------------------


def sana_parts(**more: Any) -> dict[str, Any]:
    return {
        "tokenizer": gemma_tokenizer(),
        "text_encoder": gemma2(),
        "vae": video_vae("AutoencoderKLWan"),
        "transformer": model(
            "SanaVideoTransformer3DModel", in_channels=4, out_channels=4, num_attention_heads=2, attention_head_dim=12,
            num_layers=2, num_cross_attention_heads=2, cross_attention_head_dim=12, cross_attention_dim=24,
            caption_channels=32, sample_size=4, rope_max_seq_len=32,
        ),
        **more,
    }  # fmt: skip


def sana_text(**more: Any) -> dict[str, Any]:
    """Arguments without the long instruction that precedes the prompt by default."""
    return drop(
        text(
            frames=5, max_sequence_length=16, complex_human_instruction=None, use_resolution_binning=False, **more
        ),
        "num_frames",
    )  # fmt: skip


def sana_world_text() -> dict[str, Any]:
    """Arguments for a camera that moves forward for 9 frames."""
    return text(
        image=image(), num_frames=9, action="w-8", intrinsics=[32.0, 32.0, 16.0, 16.0], max_sequence_length=16,
        chi_prompt=["Describe: "],
    )  # fmt: skip


add(
    "SanaVideoPipeline", "Sana",
    lambda: assemble(
        "SanaVideoPipeline",
        sana_parts(
            scheduler=scheduler(
                "DPMSolverMultistepScheduler", use_flow_sigmas=True, prediction_type="flow_prediction", flow_shift=8.0
            )
        ),
    ),
    lambda p: sana_text(), True,
)  # fmt: skip
add(
    "SanaImageToVideoPipeline", "Sana", lambda: assemble("SanaImageToVideoPipeline", sana_parts(scheduler=flow())),
    lambda p: sana_text(image=image()),
)  # fmt: skip
add(
    "SanaWMPipeline", "Sana",
    lambda: assemble(
        "SanaWMPipeline",
        {
            "tokenizer": gemma_tokenizer(), "text_encoder": gemma2(), "vae": ltx2_vae(), "scheduler": flow(),
            "transformer": model(
                "SanaWMTransformer3DModel", in_channels=8, num_layers=2, hidden_size=32, num_attention_heads=2,
                softmax_every_n=2, linear_head_dim=16, caption_channels=32, image_size=32,
                chunk_plucker_channels=24, chunk_plucker_post_attn_blocks=2,
            ),
        },
    ),
    lambda p: sana_world_text(),
)  # fmt: skip

# Wan's relatives -------------------------------------------------------------------------------------------------


add(
    "ChronoEditPipeline", "Wan",
    lambda: assemble(
        "ChronoEditPipeline",
        wan_image_parts() | {"transformer": wan_transformer(12, "ChronoEditTransformer3DModel", image_dim=32)},
    ),
    lambda p: wan_text(image=image(), num_frames=9, enable_temporal_reasoning=True, num_temporal_reasoning_steps=1),
)  # fmt: skip

# Motif Video -----------------------------------------------------------------------------------------------------


def guidance(scale: float = 4.0) -> Any:
    """The guider of the pipelines that take one as a component."""
    from diffusers.guiders import ClassifierFreeGuidance

    return ClassifierFreeGuidance(guidance_scale=scale)


def motif_parts(**more: Any) -> dict[str, Any]:
    return {
        "scheduler": flow(), "vae": video_vae("AutoencoderKLWan"), "text_encoder": t5gemma2,
        "tokenizer": gemma_tokenizer(), "guider": guidance(), "feature_extractor": siglip_images(16),
        "transformer": model(
            "MotifVideoTransformer3DModel", in_channels=9, out_channels=4, num_attention_heads=2,
            attention_head_dim=10, num_layers=1, num_single_layers=2, num_decoder_layers=1, text_embed_dim=32,
            rope_axes_dim=(2, 4, 4), **more,
        ),
    }  # fmt: skip


def t5gemma2(hidden: int = 32) -> Any:
    """The encoder of T5Gemma 2, with its SigLIP image encoder."""
    import torch
    from transformers import T5Gemma2Encoder, T5Gemma2EncoderConfig

    torch.manual_seed(0)
    return T5Gemma2Encoder(T5Gemma2EncoderConfig(**gemma_with_eyes(hidden, dropout_rate=0.0)))


def motif_text(**more: Any) -> dict[str, Any]:
    return drop(text(max_sequence_length=16, **more), "guidance_scale")


add("MotifVideoPipeline", "Motif", lambda: assemble("MotifVideoPipeline", motif_parts()), lambda p: motif_text(), True)
add(
    "MotifVideoImage2VideoPipeline", "Motif",
    lambda: assemble(
        "MotifVideoImage2VideoPipeline",
        motif_parts(
            image_embed_dim=16, enable_text_cross_attention_dual=True, enable_text_cross_attention_single=True
        ),
    ),
    lambda p: motif_text(image=image()),
)  # fmt: skip

# Cosmos 2.5 ------------------------------------------------------------------------------------------------------

add(
    "Cosmos2_5_PredictBasePipeline", "Cosmos",
    lambda: assemble(
        "Cosmos2_5_PredictBasePipeline",
        {
            "text_encoder": qwen2_5_vl(), "tokenizer": qwen_tokenizer(), "vae": video_vae("AutoencoderKLWan"),
            "transformer": cosmos_transformer(
                5, extra_pos_embed_type=None, use_crossattn_projection=True, crossattn_proj_in_channels=64,
                encoder_hidden_states_channels=32,
            ),
            "scheduler": wan_parts()["scheduler"], "safety_checker": NoSafetyChecker(),
        },
    ),
    lambda p: text(max_sequence_length=16), True,
)  # fmt: skip

# Cosmos 3 --------------------------------------------------------------------------------------------------------


def cosmos3(**more: Any) -> Any:
    """Cosmos 3: one transformer reads the words and denoises, each kind of token with weights of its own."""
    return assemble(
        "Cosmos3OmniPipeline",
        {
            "transformer": model(
                "Cosmos3OmniTransformer", head_dim=12, hidden_size=32, intermediate_size=37, latent_channel=4,
                latent_patch_size=2, num_attention_heads=4, num_hidden_layers=2, num_key_value_heads=2,
                patch_latent_dim=16, vocab_size=300, rope_axes_dim=(2, 2, 2), **more,
            ),
            "text_tokenizer": qwen_tokenizer(), "vae": video_vae("AutoencoderKLWan"),
            "scheduler": wan_parts()["scheduler"],
            "sound_tokenizer": model(
                "Cosmos3AVAEAudioTokenizer", sampling_rate=96, vocoder_input_dim=4, dec_dim=8, dec_c_mults=(1, 2),
                dec_strides=(2, 2), encoder_enabled=False,
            ),
            "enable_safety_checker": False,
        },
    )  # fmt: skip


def cosmos3_text(**more: Any) -> dict[str, Any]:
    return drop(text(use_system_prompt=False, enable_safety_check=False, **more), "max_sequence_length")


add("Cosmos3OmniPipeline", "Cosmos", cosmos3, lambda p: cosmos3_text(), True)
add(
    "Cosmos3OmniPipeline[image and sound]", "Cosmos",
    lambda: cosmos3(sound_gen=True, sound_dim=4, sound_latent_fps=24.0),
    lambda p: cosmos3_text(image=image(), enable_sound=True),
)  # fmt: skip

# Helios and AnyFlow ----------------------------------------------------------------------------------------------


def helios_parts(**more: Any) -> dict[str, Any]:
    """Helios' transformer remembers earlier chunks in patches of three sizes."""
    return wan_parts(
        transformer=model(
            "HeliosTransformer3DModel", num_attention_heads=2, attention_head_dim=12, in_channels=4, out_channels=4,
            text_dim=32, freq_dim=16, ffn_dim=32, num_layers=2, rope_dim=(4, 4, 4), is_amplify_history=True,
        ),
        scheduler=scheduler("HeliosScheduler", **more),
    )  # fmt: skip


def helios_text(**more: Any) -> dict[str, Any]:
    """Arguments for two chunks of 9 frames, three latent ones."""
    return wan_text(
        num_frames=18, num_latent_frames_per_chunk=3, history_sizes=[4, 2, 1], **{"height": 64, "width": 64, **more}
    )


def any_flow(class_name: str, **more: Any) -> Any:
    return assemble(
        class_name.replace("Transformer3DModel", "Pipeline"),
        wan_parts(
            scheduler=scheduler("FlowMapEulerDiscreteScheduler"),
            transformer=model(
                class_name, num_attention_heads=2, attention_head_dim=12, in_channels=4, out_channels=4, text_dim=32,
                freq_dim=16, ffn_dim=32, num_layers=2, rope_max_seq_len=32, **more,
            ),
        ),
    )  # fmt: skip


add(
    "HeliosPipeline", "Helios", lambda: assemble("HeliosPipeline", helios_parts(stages=1)), lambda p: helios_text(),
    True,
)  # fmt: skip
add(
    "HeliosPyramidPipeline", "Helios", lambda: assemble("HeliosPyramidPipeline", helios_parts(stages=3, gamma=0.3)),
    lambda p: drop(helios_text(pyramid_num_inference_steps_list=[1, 1, 2]), "num_inference_steps"),
)  # fmt: skip
add("AnyFlowPipeline", "AnyFlow", lambda: any_flow("AnyFlowTransformer3DModel"), lambda p: wan_text(), True)

# Audio -----------------------------------------------------------------------------------------------------------


def t5gemma(hidden: int = 32) -> Any:
    """The encoder of T5Gemma."""
    import torch
    from transformers import T5GemmaConfig, T5GemmaEncoderModel

    torch.manual_seed(0)
    half = {
        "vocab_size": 400, "hidden_size": hidden, "intermediate_size": 37, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, "sliding_window": 8,
    }  # fmt: skip
    return T5GemmaEncoderModel(T5GemmaConfig(encoder=half, decoder=half, is_encoder_decoder=False))


def stable_audio3_parts() -> dict[str, Any]:
    """Stable Audio 3: differential attention in the transformer and in the VAE, 32 samples a latent."""
    from diffusers.pipelines.stable_audio_3.modeling_stable_audio_3 import StableAudio3DurationEmbedder

    return {
        "vae": model(
            "AutoencoderSAME", patch_size=8, encoder_channels=16, encoder_c_mults=(2,), encoder_strides=(4,),
            encoder_transformer_depths=(2,), latent_dim=8, dim_heads=16, sampling_rate=64,
        ),
        "text_encoder": t5gemma,
        "tokenizer": gemma_tokenizer(16),
        "duration_embedder": StableAudio3DurationEmbedder(output_dim=32, fourier_dim=16, max_val=32.0),
        "transformer": model(
            "StableAudio3DiTModel", io_channels=8, embed_dim=32, depth=2, num_heads=2, cond_token_dim=32,
            global_cond_dim=32, local_add_cond_dim=9, timestep_features_dim=16, num_memory_tokens=4,
        ),
        "scheduler": flow(stochastic_sampling=True),
    }  # fmt: skip


def audio_text(**more: Any) -> dict[str, Any]:
    """Arguments of a two-step generation of sound."""
    return {"prompt": PROMPT, "num_inference_steps": 2, "generator": generator(), **more}


def sound(samples: int) -> Any:
    """A stereo sound of random samples."""
    import torch

    return torch.rand(1, 2, samples) * 2 - 1


add(
    "StableAudio3Pipeline", "Audio", lambda: assemble("StableAudio3Pipeline", stable_audio3_parts()),
    lambda p: audio_text(duration=4.0, negative_prompt=NEGATIVE, guidance_scale=3.0), True,
)  # fmt: skip
add(
    "StableAudio3InpaintPipeline", "Audio", lambda: assemble("StableAudio3InpaintPipeline", stable_audio3_parts()),
    lambda p: audio_text(duration=4.0, audio=sound(256), mask_start_seconds=1.0, mask_end_seconds=2.0),
)  # fmt: skip
add(
    "StableAudio3AudioToAudioPipeline", "Audio",
    lambda: assemble("StableAudio3AudioToAudioPipeline", stable_audio3_parts()),
    lambda p: audio_text(duration=4.0, audio=sound(256), init_noise_level=0.8),
)  # fmt: skip
add(
    "LongCatAudioDiTPipeline", "Audio",
    lambda: assemble(
        "LongCatAudioDiTPipeline",
        {
            "vae": model(
                "LongCatAudioDiTVae", channels=8, c_mults=[1, 2], strides=[2, 2], latent_dim=4, encoder_latent_dim=8,
                downsampling_ratio=4, sample_rate=16,
            ),
            "text_encoder": umt5(), "tokenizer": t5_tokenizer(), "scheduler": flow(),
            "transformer": model(
                "LongCatAudioDiTTransformer", dit_dim=32, dit_depth=2, dit_heads=2, dit_text_dim=32, latent_dim=4
            ),
        },
    ),
    lambda p: audio_text(audio_duration_s=2.0, negative_prompt=NEGATIVE, guidance_scale=3.0), True,
)  # fmt: skip


def ace_step_parts() -> dict[str, Any]:
    """ACE-Step: words, lyrics and the timbre of a reference condition the transformer; 2 latents a second."""
    from diffusers.pipelines.ace_step import AceStepConditionEncoder

    sizes: dict[str, Any] = {
        "hidden_size": 32, "intermediate_size": 37, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8,
        "sliding_window": 4,
    }  # fmt: skip
    return {
        "vae": oobleck,
        "text_encoder": qwen3(head=False),
        "tokenizer": qwen_tokenizer(),
        "scheduler": flow(num_train_timesteps=1, shift=1.0),
        "transformer": model(
            "AceStepTransformer1DModel", num_hidden_layers=2, in_channels=9, audio_acoustic_hidden_dim=3, **sizes
        ),
        "condition_encoder": AceStepConditionEncoder(
            text_hidden_dim=32, timbre_hidden_dim=3, num_lyric_encoder_hidden_layers=2,
            num_timbre_encoder_hidden_layers=2, **sizes,
        ),
    }  # fmt: skip


add(
    "AceStepPipeline", "Audio", lambda: assemble("AceStepPipeline", ace_step_parts()),
    lambda p: audio_text(lyrics="la la la", audio_duration=8.0, max_text_length=32, max_lyric_length=16), True,
)  # fmt: skip

# Kandinsky 6 -----------------------------------------------------------------------------------------------------


def kandinsky6_parts() -> dict[str, Any]:
    """Video and sound of one transformer, whose two streams attend to each other."""
    return {
        "vae": hunyuan_vae(),
        "text_encoder": qwen2_5_vl(),
        "tokenizer": qwen2_processor(),
        "text_encoder_2": clip_text(),
        "tokenizer_2": clip_tokenizer(),
        "scheduler": flow(),
        "transformer": model(
            "Kandinsky6Transformer3DModel", in_visual_dim=4, out_visual_dim=4, in_text_dim=32, in_text_dim2=32,
            time_dim=16, model_dim=32, ff_dim=48, num_text_blocks=1, num_visual_blocks=2, axes_dims=(4, 2, 2),
            in_audio_dim=4, out_audio_dim=4, text_token_padding=True, ca_rope=True, cross_gates=True,
            fix_modulation=True, visual_token_type_num_embeddings=2,
        ),
        "audio_vae": model(
            "MMAudioVAE", mel_bins=16, latent_channels=4, hidden_channels=16, channel_multipliers=(1, 2),
            layers_per_block=1, sample_rate=400, n_fft=64, hop_length=4,
        ),
        "vocoder": model(
            "MMAudioVocoder", num_mels=16, upsample_initial_channel=16, upsample_rates=(2, 2),
            upsample_kernel_sizes=(4, 4), resblock_kernel_sizes=(3,), resblock_dilation_sizes=((1, 3, 5),),
        ),
    }  # fmt: skip


add(
    "Kandinsky6TI2VAPipeline", "Kandinsky", lambda: assemble("Kandinsky6TI2VAPipeline", kandinsky6_parts()),
    lambda p: text(max_sequence_length=24), True,
)  # fmt: skip
add(
    "Kandinsky6TI2VAPipeline[image]", "Kandinsky", lambda: assemble("Kandinsky6TI2VAPipeline", kandinsky6_parts()),
    lambda p: text(image=image(), max_sequence_length=24),
)  # fmt: skip


# Proteins --------------------------------------------------------------------------------------------------------


def protein_design() -> Any:
    """RFD4: a trunk whose attention is biased by pairs of residues; two kinds of noise, each with a scheduler."""
    sizes: dict[str, Any] = {
        "token_dim": 24, "nheads": 2, "dim_cond": 16, "pair_repr_dim": 16, "latent_dim": 4, "token_type_emb_dim": 8,
    }  # fmt: skip
    return assemble(
        "RFD4ProteinaPipeline",
        {
            "transformer": model(
                "RFD4ProteinaTransformer", nlayers=2, tri_mult_c=8, t_emb_dim=16, cath_emb_dim=8, seq_sep_dim=8,
                update_pair_repr_every_n=1, feats_pair_repr=("xt_bb_ca_pair_dists",),
                feats_seq=("xt_bb_ca", "xt_local_latents", "token_type", "cond_a37coors_nm"), **sizes,
            ),
            "vae": model(
                "RFD4ProteinaAutoencoder", nlayers=2, atom37_mask=[[True] * 37] * 147,
                allowed_residue_types=[[True] * 147] * 7, **sizes,
            ),
            "bb_ca_scheduler": protein_scheduler("log", "1/t"),
            "local_latents_scheduler": protein_scheduler("power", "tan"),
            "recycle_depths": [1, 0],
        },
    )  # fmt: skip


def protein_scheduler(schedule: str, noise: str) -> Any:
    return scheduler(
        "RFD4ProteinaScheduler", schedule_mode=schedule, noise_mode=noise, tsr_k=2.0, tsr_sigma=0.5, tail_steps=1
    )


def eight_residues() -> dict[str, Any]:
    import torch

    yes, no = torch.ones(1, 8, dtype=torch.bool), torch.zeros(1, 8, dtype=torch.bool)
    zeros = torch.zeros(1, 8, dtype=torch.long)
    return {
        "padding_mask": yes, "is_in_context_conditioning": no, "supports_local_latent": yes, "token_type": zeros,
        "conditioning_features": {"condition_sequence_1_residue": zeros, "molecule_iid": zeros},
        "generator": generator(),
    }  # fmt: skip


add("RFD4ProteinaPipeline", "Proteina", protein_design, lambda p: eight_residues(), True)


# HunyuanVideo 1.5 ------------------------------------------------------------------------------------------------


def hunyuan15(class_name: str, task: str, **more: Any) -> Any:
    """A HunyuanVideo 1.5 pipeline, its text lengths and its count of image tokens as small as its models."""
    import torch
    from transformers import Qwen2_5_VLTextModel

    torch.manual_seed(0)
    pipe = assemble(
        class_name,
        {
            "text_encoder": Qwen2_5_VLTextModel(qwen2_5_vl_config().text_config),
            "tokenizer": qwen_tokenizer(),
            "text_encoder_2": byt5,
            "tokenizer_2": byt5_tokenizer(),
            "transformer": model(
                "HunyuanVideo15Transformer3DModel", in_channels=9, out_channels=4, num_attention_heads=2,
                attention_head_dim=10, num_layers=2, num_refiner_layers=1, text_embed_dim=32, text_embed_2_dim=32,
                image_embed_dim=32, rope_axes_dim=(2, 4, 4), target_size=32, task_type=task,
            ),
            "vae": model(
                "AutoencoderKLHunyuanVideo15", latent_channels=4, block_out_channels=(16,) * 5, layers_per_block=1
            ),
            "scheduler": flow(shift=7.0),
            "guider": guidance(),
            **more,
        },
    )  # fmt: skip
    pipe.tokenizer_max_length, pipe.tokenizer_2_max_length, pipe.vision_num_semantic_tokens = 24, 16, 16
    return pipe


def hunyuan15_text(*unused: str, **more: Any) -> dict[str, Any]:
    return drop(text(prompt=f'{PROMPT} with the words "stay calm"', **more), "guidance_scale", *unused)


add(
    "HunyuanVideo15Pipeline", "HunyuanVideo", lambda: hunyuan15("HunyuanVideo15Pipeline", "t2v"),
    lambda p: hunyuan15_text(), True,
)  # fmt: skip
add(
    "HunyuanVideo15ImageToVideoPipeline", "HunyuanVideo",
    lambda: hunyuan15(
        "HunyuanVideo15ImageToVideoPipeline", "i2v", image_encoder=siglip_vision(), feature_extractor=siglip_images()
    ),
    lambda p: hunyuan15_text("height", "width", image=image()),
)  # fmt: skip


# Sana's world model, refined by LTX 2's transformer -------------------------------------------------------------


def sana_refiner() -> Any:
    transformer = model(
        "SanaWMLTX2RefinerTransformer3DModel",
        in_channels=8,
        out_channels=8,
        num_attention_heads=2,
        attention_head_dim=16,
        cross_attention_dim=32,
        vae_scale_factors=(4, 8, 8),
        audio_in_channels=8,
        audio_out_channels=8,
        audio_num_attention_heads=2,
        audio_attention_head_dim=8,
        audio_cross_attention_dim=16,
        num_layers=2,
        caption_channels=32,
        rope_double_precision=False,
    )
    return assemble("SanaWMLTX2Refiner", ltx2_parts(transformer=transformer, text_max_sequence_length=24))


add(
    "SanaWMLTX2Refiner", "Sana", sana_refiner,
    lambda p: {
        "sana_latent": ltx2_frames(7, 4, 4), "prompt": PROMPT, "fps": 24.0, "block_size": 2, "kv_max_frames": 4,
        "sigmas": (0.9, 0.5, 0.0), "generator": generator(),
    },
)  # fmt: skip
