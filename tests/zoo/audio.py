"""Audio: AudioLDM, AudioLDM 2, MusicLDM, Stable Audio, Dance Diffusion."""

from __future__ import annotations

from typing import Any

from .parts import (
    NEGATIVE,
    PROMPT,
    assemble,
    drop,
    generator,
    model,
    roberta_tokenizer,
    scheduler,
    t5,
    t5_tokenizer,
    vae,
)
from .registry import add
from .stable_diffusion import ddim
from .stable_diffusion import unet as sd_unet

FAMILY = "Audio"


def clap_config() -> Any:
    """CLAP: a RoBERTa text encoder and a windowed (Swin) audio encoder."""
    from transformers import ClapAudioConfig, ClapConfig, ClapTextConfig

    text = ClapTextConfig(
        hidden_size=8, intermediate_size=37, num_attention_heads=2, num_hidden_layers=1, vocab_size=600,
        max_position_embeddings=100, pad_token_id=1, projection_dim=8, bos_token_id=0, eos_token_id=2,
    )  # fmt: skip
    audio = ClapAudioConfig(
        spec_size=64,
        window_size=4,
        num_mel_bins=64,
        intermediate_size=37,
        layer_norm_eps=1e-5,
        depths=[1, 1],
        num_attention_heads=[1, 1],
        num_hidden_layers=1,
        hidden_size=16,
        projection_dim=8,
        patch_size=2,
        patch_stride=2,
        patch_embed_input_channels=4,
        patch_embeds_hidden_size=8,
    )
    return ClapConfig(text_config=text.to_dict(), audio_config=audio.to_dict(), projection_dim=16)


def clap() -> Any:
    import torch
    from transformers import ClapModel

    torch.manual_seed(0)
    return ClapModel(clap_config())


def clap_text() -> Any:
    from transformers import ClapTextModelWithProjection

    config = clap_config().text_config
    config.projection_dim = 16
    return ClapTextModelWithProjection(config)


def vocoder() -> Any:
    """SpeechT5's HiFi-GAN: transposed convolutions from a spectrogram to samples."""
    from transformers import SpeechT5HifiGan, SpeechT5HifiGanConfig

    return SpeechT5HifiGan(
        SpeechT5HifiGanConfig(
            model_in_dim=8, sampling_rate=16000, upsample_initial_channel=16, upsample_rates=[2, 2],
            upsample_kernel_sizes=[4, 4], resblock_kernel_sizes=[3, 7], resblock_dilation_sizes=[[1, 3, 5], [1, 3, 5]],
            normalize_before=False,
        )
    )  # fmt: skip


def features() -> Any:
    from transformers import ClapFeatureExtractor

    return ClapFeatureExtractor(
        feature_size=64, sampling_rate=16000, hop_length=1000, max_length_s=1, nb_max_samples=16000
    )


def mel_vae() -> Any:
    return vae(4, (8, 16), in_channels=1, out_channels=1)


def conditioned_unet(**more: Any) -> Any:
    """A U-Net that knows the prompt as a class embedding."""
    return sd_unet(
        4, (8, 16), class_embed_type="simple_projection", projection_class_embeddings_input_dim=16,
        class_embeddings_concat=True, **more,
    )  # fmt: skip


def language_model() -> Any:
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    return GPT2LMHeadModel(GPT2Config(n_embd=16, n_layer=2, n_head=2, vocab_size=300, n_ctx=99, n_positions=99))


def audio2_parts() -> dict[str, Any]:
    from diffusers import AudioLDM2ProjectionModel, AudioLDM2UNet2DConditionModel

    return {
        "unet": AudioLDM2UNet2DConditionModel(
            block_out_channels=(8, 16),
            layers_per_block=1,
            norm_num_groups=8,
            sample_size=16,
            in_channels=4,
            out_channels=4,
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
            cross_attention_dim=((None, 16, 32), (None, 16, 32)),
        ),
        "scheduler": ddim(),
        "vae": mel_vae(),
        "text_encoder": clap(),
        "text_encoder_2": t5(32),
        "projection_model": AudioLDM2ProjectionModel(
            text_encoder_dim=16, text_encoder_1_dim=32, langauge_model_dim=16
        ),
        "language_model": language_model(),
        "tokenizer": roberta_tokenizer(),
        "tokenizer_2": t5_tokenizer(77),
        "feature_extractor": features(),
        "vocoder": vocoder(),
    }


def text(**more: Any) -> dict[str, Any]:
    return {
        "prompt": PROMPT, "negative_prompt": NEGATIVE, "num_inference_steps": 2, "guidance_scale": 3.0,
        "generator": generator(), **more,
    }  # fmt: skip


def with_embeddings(**more: Any) -> dict[str, Any]:
    """Arguments with the prompt already embedded: MusicLDM reads its CLAP encoder as transformers 4 gave it back."""
    import torch

    return drop(
        text(prompt_embeds=torch.randn(1, 16), negative_prompt_embeds=torch.randn(1, 16), **more),
        "prompt",
        "negative_prompt",
    )


def oobleck() -> Any:
    return model(
        "AutoencoderOobleck", encoder_hidden_size=6, downsampling_ratios=[1, 2], decoder_channels=3,
        decoder_input_channels=3, audio_channels=2, channel_multiples=[2, 4], sampling_rate=4,
    )  # fmt: skip


def stable_audio_parts() -> dict[str, Any]:
    from diffusers import StableAudioProjectionModel

    return {
        "vae": oobleck(),
        "text_encoder": t5(),
        "tokenizer": t5_tokenizer(25),
        "projection_model": StableAudioProjectionModel(
            text_encoder_dim=32, conditioning_dim=4, min_value=0, max_value=32
        ),
        "transformer": model(
            "StableAudioDiTModel",
            sample_size=4,
            in_channels=3,
            num_layers=2,
            attention_head_dim=4,
            num_attention_heads=2,
            num_key_value_attention_heads=1,
            out_channels=3,
            cross_attention_dim=4,
            time_proj_dim=8,
            global_states_input_dim=8,
            cross_attention_input_dim=4,
        ),
        "scheduler": scheduler(
            "EDMDPMSolverMultistepScheduler",
            solver_order=2,
            prediction_type="v_prediction",
            sigma_data=1.0,
            sigma_schedule="exponential",
        ),
    }


add(
    "AudioLDM2Pipeline",
    FAMILY,
    lambda: assemble("AudioLDM2Pipeline", audio2_parts()),
    lambda p: text(max_new_tokens=4, audio_length_in_s=0.03),
    True,
)
add(
    "AudioLDMPipeline", FAMILY,
    lambda: assemble(
        "AudioLDMPipeline",
        {
            "unet": conditioned_unet(), "scheduler": ddim(), "vae": mel_vae(), "text_encoder": clap_text(),
            "tokenizer": roberta_tokenizer(), "vocoder": vocoder(),
        },
    ),
    lambda p: text(audio_length_in_s=0.03), True,
)  # fmt: skip
add(
    "MusicLDMPipeline", FAMILY,
    lambda: assemble(
        "MusicLDMPipeline",
        {
            "unet": conditioned_unet(), "scheduler": ddim(), "vae": mel_vae(), "text_encoder": clap(),
            "tokenizer": roberta_tokenizer(), "feature_extractor": features(), "vocoder": vocoder(),
        },
    ),
    lambda p: with_embeddings(audio_length_in_s=0.03), True,
)  # fmt: skip
add(
    "StableAudioPipeline", FAMILY, lambda: assemble("StableAudioPipeline", stable_audio_parts()),
    lambda p: text(output_type="pt", audio_end_in_s=2.0), True,
)  # fmt: skip
add(
    "DanceDiffusionPipeline",
    FAMILY,
    lambda: assemble(
        "DanceDiffusionPipeline",
        {
            "unet": model(
                "UNet1DModel",
                block_out_channels=(32, 32, 64),
                extra_in_channels=64,
                sample_size=512,
                sample_rate=16000,
                in_channels=2,
                out_channels=2,
                flip_sin_to_cos=True,
                use_timestep_embedding=False,
                time_embedding_type="fourier",
                mid_block_type="UNetMidBlock1D",
                down_block_types=("DownBlock1DNoSkip", "DownBlock1D", "AttnDownBlock1D"),
                up_block_types=("AttnUpBlock1D", "UpBlock1D", "UpBlock1DNoSkip"),
            ),
            "scheduler": scheduler("IPNDMScheduler"),
        },
    ),
    lambda p: {"num_inference_steps": 2, "generator": generator()},
)
