"""Pixel-space and unconditional models: DDPM and relatives, latent diffusion, consistency models, DeepFloyd IF."""

from __future__ import annotations

from typing import Any

from .parts import assemble, drop, generator, image, mask, model, scheduler, t5, t5_tokenizer
from .registry import add
from .stable_diffusion import noise_scheduler, text

FAMILY = "DDPM"


def unet(in_channels: int = 3, out_channels: int = 3, **more: Any) -> Any:
    """A U-Net without any condition, attending at its lower resolution."""
    config: dict[str, Any] = {
        "block_out_channels": (8, 16), "layers_per_block": 1, "sample_size": 16, "in_channels": in_channels,
        "out_channels": out_channels, "down_block_types": ("DownBlock2D", "AttnDownBlock2D"),
        "up_block_types": ("AttnUpBlock2D", "UpBlock2D"), "norm_num_groups": 4, "attention_head_dim": 4,
    }  # fmt: skip
    return model("UNet2DModel", **{**config, **more})


def sample(**more: Any) -> dict[str, Any]:
    """Arguments of two steps from noise."""
    return {"num_inference_steps": 2, "output_type": "np", "generator": generator(), **more}


def add_unconditional(class_name: str, steps: str, quick: bool = False, **arguments: Any) -> None:
    """A pipeline of a U-Net and the scheduler class ``steps``."""
    add(
        class_name, FAMILY, lambda: assemble(class_name, {"unet": unet, "scheduler": scheduler(steps)}),
        lambda p: sample(**arguments), quick,
    )  # fmt: skip


add_unconditional("DDPMPipeline", "DDPMScheduler", True)
add_unconditional("DDIMPipeline", "DDIMScheduler", True, batch_size=2)
add_unconditional("PNDMPipeline", "PNDMScheduler", num_inference_steps=4)
add_unconditional("ScoreSdeVePipeline", "ScoreSdeVeScheduler")
add_unconditional("KarrasVePipeline", "KarrasVeScheduler")
add_unconditional("ConsistencyModelPipeline", "CMStochasticIterativeScheduler", True)
add(
    "RePaintPipeline",
    FAMILY,
    lambda: assemble("RePaintPipeline", {"unet": unet, "scheduler": scheduler("RePaintScheduler")}),
    lambda p: sample(image=image(), mask_image=mask(), num_inference_steps=4, jump_length=2, jump_n_sample=2),
)


# Latent diffusion ------------------------------------------------------------------------------------------------


def vqvae() -> Any:
    """A VQ-VAE that scales by 2."""
    return model(
        "VQModel", block_out_channels=[8, 16], in_channels=3, out_channels=3,
        down_block_types=["DownEncoderBlock2D", "DownEncoderBlock2D"],
        up_block_types=["UpDecoderBlock2D", "UpDecoderBlock2D"], latent_channels=3, norm_num_groups=4,
    )  # fmt: skip


add(
    "LDMPipeline", "Latent diffusion",
    lambda: assemble("LDMPipeline", {"vqvae": vqvae, "unet": unet, "scheduler": scheduler("DDIMScheduler")}),
    lambda p: sample(), True,
)  # fmt: skip
add(
    "LDMSuperResolutionPipeline", "Latent diffusion",
    lambda: assemble(
        "LDMSuperResolutionPipeline", {"vqvae": vqvae, "unet": unet(6), "scheduler": scheduler("DDIMScheduler")}
    ),
    lambda p: sample(image=image(32)),
)  # fmt: skip


# DeepFloyd IF ----------------------------------------------------------------------------------------------------

IF = "DeepFloyd IF"


def if_unet(in_channels: int = 3, **more: Any) -> Any:
    """IF's U-Net: pixels, keys and values added from the text, attention pooling of the text."""
    config: dict[str, Any] = {
        "sample_size": 16, "layers_per_block": 1, "block_out_channels": [16, 32], "in_channels": in_channels,
        "out_channels": 6, "down_block_types": ["ResnetDownsampleBlock2D", "SimpleCrossAttnDownBlock2D"],
        "mid_block_type": "UNetMidBlock2DSimpleCrossAttn",
        "up_block_types": ["SimpleCrossAttnUpBlock2D", "ResnetUpsampleBlock2D"], "cross_attention_dim": 32,
        "encoder_hid_dim": 32, "attention_head_dim": 8, "addition_embed_type": "text",
        "addition_embed_type_num_heads": 2, "cross_attention_norm": "group_norm", "norm_num_groups": 8,
        "resnet_time_scale_shift": "scale_shift", "act_fn": "gelu",
    }  # fmt: skip
    return model("UNet2DConditionModel", **{**config, **more})


def if_parts(stage_2: bool) -> dict[str, Any]:
    more = {"class_embed_type": "timestep", "mid_block_scale_factor": 1.414, "time_embedding_act_fn": "gelu"}
    return {
        "text_encoder": t5(), "tokenizer": t5_tokenizer(), "unet": if_unet(6, **more) if stage_2 else if_unet(),
        "scheduler": scheduler(
            "DDPMScheduler", beta_schedule="squaredcos_cap_v2", thresholding=True, variance_type="learned_range"
        ),
        "image_noising_scheduler": noise_scheduler(), "requires_safety_checker": False,
    }  # fmt: skip


def pixels(size: int = 16) -> Any:
    import torch

    return torch.rand(1, 3, size, size) * 2 - 1


def written(**more: Any) -> dict[str, Any]:
    """Arguments of a guided two-step generation without cleaning of the caption."""
    return drop(text(clean_caption=False, **more), "height", "width")


EDIT: dict[str, Any] = {"num_inference_steps": 4, "strength": 0.5}


def add_if(class_name: str, stage_2: bool, arguments: Any, quick: bool = False) -> None:
    add(class_name, IF, lambda: assemble(class_name, if_parts(stage_2)), lambda p: written(**arguments()), quick)


add_if("IFPipeline", False, dict, True)
add_if("IFImg2ImgPipeline", False, lambda: {"image": pixels(), **EDIT})
add_if("IFInpaintingPipeline", False, lambda: {"image": image(16), "mask_image": mask(16), **EDIT})
add_if("IFSuperResolutionPipeline", True, lambda: {"image": pixels(8)}, True)
add_if("IFImg2ImgSuperResolutionPipeline", True, lambda: {"image": pixels(8), "original_image": pixels(16), **EDIT})
add_if(
    "IFInpaintingSuperResolutionPipeline", True,
    lambda: {"image": image(8), "original_image": image(16), "mask_image": mask(16), **EDIT},
)  # fmt: skip
