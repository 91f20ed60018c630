"""Video from image U-Nets: AnimateDiff, SVD, ModelScope text-to-video, I2VGen-XL, PIA, Text2Video-Zero."""

from __future__ import annotations

from typing import Any

from .parts import (
    assemble,
    clip_images,
    clip_vision,
    drop,
    generator,
    image,
    model,
    scheduler,
    video,
)  # fmt: skip
from .registry import add
from .stable_diffusion import ddim, parts, text, unet
from .stable_diffusion_xl import parts as xl_parts
from .stable_diffusion_xl import unet as xl_unet

FAMILY = "AnimateDiff"
TWO: dict[str, Any] = {"num_frames": 2}


def adapter(**more: Any) -> Any:
    """The temporal layers that are put into an image U-Net."""
    config: dict[str, Any] = {
        "block_out_channels": (8, 16), "motion_layers_per_block": 1, "motion_norm_num_groups": 4,
        "motion_num_attention_heads": 2,
    }  # fmt: skip
    return model("MotionAdapter", **{**config, **more})


def motion_parts(**more: Any) -> dict[str, Any]:
    return parts(**{"motion_adapter": adapter(), **more})


def controlnet() -> Any:
    from .control import controlnet

    return controlnet()


def sparse() -> Any:
    return model(
        "SparseControlNetModel",
        block_out_channels=(8, 16),
        layers_per_block=1,
        in_channels=4,
        conditioning_channels=3,
        down_block_types=("CrossAttnDownBlockMotion", "DownBlockMotion"),
        cross_attention_dim=32,
        conditioning_embedding_out_channels=(8, 8),
        norm_num_groups=1,
        use_simplified_condition_embedding=False,
        motion_num_attention_heads=2,
        attention_head_dim=2,
    )


def sparse_unet() -> Any:
    return unet(
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"), up_block_types=("UpBlock2D", "CrossAttnUpBlock2D")
    )


def moving(**more: Any) -> dict[str, Any]:
    return drop(text(video=video(2), num_inference_steps=4, strength=0.5, **more))


add(
    "AnimateDiffPipeline", FAMILY, lambda: assemble("AnimateDiffPipeline", motion_parts()), lambda p: text(**TWO), True
)
add(
    "AnimateDiffVideoToVideoPipeline", FAMILY, lambda: assemble("AnimateDiffVideoToVideoPipeline", motion_parts()),
    lambda p: moving(), True,
)  # fmt: skip
add(
    "AnimateDiffSDXLPipeline", FAMILY,
    lambda: assemble(
        "AnimateDiffSDXLPipeline",
        xl_parts(
            unet=xl_unet(attention_head_dim=(2, 2)),
            motion_adapter=adapter(use_motion_mid_block=False),
        ),
    ),
    lambda p: text(**TWO), True,
)  # fmt: skip
add(
    "AnimateDiffControlNetPipeline", FAMILY,
    lambda: assemble("AnimateDiffControlNetPipeline", motion_parts(controlnet=controlnet())),
    lambda p: text(conditioning_frames=video(2), **TWO),
)  # fmt: skip
add(
    "AnimateDiffVideoToVideoControlNetPipeline", FAMILY,
    lambda: assemble("AnimateDiffVideoToVideoControlNetPipeline", motion_parts(controlnet=controlnet())),
    lambda p: moving(conditioning_frames=video(2)),
)  # fmt: skip
add(
    "AnimateDiffSparseControlNetPipeline", FAMILY,
    lambda: assemble("AnimateDiffSparseControlNetPipeline", motion_parts(unet=sparse_unet(), controlnet=sparse())),
    lambda p: text(conditioning_frames=video(1), controlnet_frame_indices=[0], **TWO),
)  # fmt: skip
add(
    "AnimateDiffPAGPipeline", FAMILY,
    lambda: assemble("AnimateDiffPAGPipeline", motion_parts(pag_applied_layers="mid_block.*attn1")),
    lambda p: text(pag_scale=3.0, **TWO),
)  # fmt: skip
add(
    "AnimateDiffPipeline[FreeNoise]", FAMILY, lambda: free_noise(),
    lambda p: text(num_frames=16),
)  # fmt: skip


def free_noise() -> Any:
    """Long videos by windows over frames, which changes the temporal blocks' own loops."""
    pipe = assemble("AnimateDiffPipeline", motion_parts())
    pipe.enable_free_noise(context_length=8, context_stride=4)
    return pipe


add(
    "PIAPipeline", FAMILY, lambda: assemble("PIAPipeline", motion_parts(motion_adapter=adapter(conv_in_channels=9))),
    lambda p: text(image=image(), **TWO),
)  # fmt: skip


# Stable Video Diffusion and others -------------------------------------------------------------------------------


def svd_parts() -> dict[str, Any]:
    return {
        "unet": model(
            "UNetSpatioTemporalConditionModel",
            block_out_channels=(32, 64),
            layers_per_block=1,
            sample_size=16,
            in_channels=8,
            out_channels=4,
            down_block_types=("CrossAttnDownBlockSpatioTemporal", "DownBlockSpatioTemporal"),
            up_block_types=("UpBlockSpatioTemporal", "CrossAttnUpBlockSpatioTemporal"),
            cross_attention_dim=32,
            num_attention_heads=(2, 4),
            projection_class_embeddings_input_dim=96,
            addition_time_embed_dim=32,
        ),
        "vae": model(
            "AutoencoderKLTemporalDecoder",
            block_out_channels=[32, 32],
            in_channels=3,
            out_channels=3,
            down_block_types=["DownEncoderBlock2D", "DownEncoderBlock2D"],
            latent_channels=4,
        ),
        "image_encoder": clip_vision(size=224),
        "feature_extractor": clip_images(224),
        "scheduler": scheduler(
            "EulerDiscreteScheduler",
            sigma_max=700.0,
            sigma_min=0.002,
            beta_schedule="scaled_linear",
            prediction_type="v_prediction",
            use_karras_sigmas=True,
            timestep_type="continuous",
            timestep_spacing="leading",
        ),
    }


add(
    "StableVideoDiffusionPipeline",
    "SVD",
    lambda: assemble("StableVideoDiffusionPipeline", svd_parts()),
    lambda p: {
        "image": image(),
        "num_frames": 3,
        "num_inference_steps": 2,
        "min_guidance_scale": 1.0,
        "max_guidance_scale": 2.5,
        "height": 32,
        "width": 32,
        "decode_chunk_size": 2,
        "output_type": "np",
        "generator": generator(),
    },
    True,
)


def unet_3d() -> Any:
    return model(
        "UNet3DConditionModel", block_out_channels=(8, 16), layers_per_block=1, sample_size=16, in_channels=4,
        out_channels=4, down_block_types=("CrossAttnDownBlock3D", "DownBlock3D"),
        up_block_types=("UpBlock3D", "CrossAttnUpBlock3D"), cross_attention_dim=32, attention_head_dim=4,
        norm_num_groups=4,
    )  # fmt: skip


def i2vgen_unet() -> Any:
    return model(
        "I2VGenXLUNet", block_out_channels=(8, 16), layers_per_block=1, sample_size=16, in_channels=4, out_channels=4,
        down_block_types=("CrossAttnDownBlock3D", "DownBlock3D"), up_block_types=("UpBlock3D", "CrossAttnUpBlock3D"),
        cross_attention_dim=32, attention_head_dim=2, norm_num_groups=2,
    )  # fmt: skip


add(
    "TextToVideoSDPipeline",
    "ModelScope",
    lambda: assemble("TextToVideoSDPipeline", parts(unet=unet_3d)),
    lambda p: text(**TWO),
    True,
)
add(
    "VideoToVideoSDPipeline", "ModelScope", lambda: assemble("VideoToVideoSDPipeline", parts(unet=unet_3d)),
    lambda p: drop(moving(), "height", "width"),
)  # fmt: skip
add(
    "I2VGenXLPipeline", "I2VGen-XL",
    lambda: assemble(
        "I2VGenXLPipeline", parts(unet=i2vgen_unet, image_encoder=clip_vision(), feature_extractor=clip_images())
    ),
    lambda p: text(image=image(), target_fps=7, clip_skip=None, **TWO), True,
)  # fmt: skip
add(
    "TextToVideoZeroPipeline", "Text2Video-Zero", lambda: assemble("TextToVideoZeroPipeline", parts()),
    lambda p: text(video_length=2, num_inference_steps=4, t0=1, t1=2),
)  # fmt: skip
add(
    "TextToVideoZeroSDXLPipeline",
    "Text2Video-Zero",
    lambda: assemble("TextToVideoZeroSDXLPipeline", xl_parts(scheduler=ddim())),
    lambda p: text(video_length=2, num_inference_steps=4, t0=1, t1=2),
)
