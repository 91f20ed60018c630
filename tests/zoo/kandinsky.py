"""Kandinsky 1, 2.1, 2.2, 3 and 5, Stable Cascade and Wuerstchen: a prior embeds, a decoder paints."""

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
    model,
    qwen2_5_vl,
    qwen2_processor,
    scheduler,
    t5,
    t5_tokenizer,
)  # fmt: skip
from .registry import add
from .stable_diffusion_3 import flow, flow_vae

FAMILY = "Kandinsky"


def prior(**more: Any) -> Any:
    """The transformer that turns text into an image embedding."""
    config: dict[str, Any] = {
        "num_attention_heads": 2, "attention_head_dim": 12, "embedding_dim": 32, "num_layers": 1,
    }  # fmt: skip
    network = model("PriorTransformer", **{**config, **more})
    network.clip_std.data.fill_(1.0)
    return network


def prior_parts(prefix: str = "") -> dict[str, Any]:
    made = {
        "prior": prior(), "image_encoder": clip_vision(), "text_encoder": clip_text(projection=32),
        "tokenizer": clip_tokenizer(), "image_processor": clip_images(),
        "scheduler": scheduler(
            "UnCLIPScheduler", variance_type="fixed_small_log", prediction_type="sample", num_train_timesteps=1000,
            clip_sample_range=10.0,
        ),
    }  # fmt: skip
    return {prefix + name: part for name, part in made.items()}


def unet(in_channels: int = 4, **more: Any) -> Any:
    """The decoder's U-Net with extra keys and values from text or image embeddings."""
    config: dict[str, Any] = {
        "in_channels": in_channels, "out_channels": 8, "addition_embed_type": "text_image",
        "down_block_types": ("ResnetDownsampleBlock2D", "SimpleCrossAttnDownBlock2D"),
        "up_block_types": ("SimpleCrossAttnUpBlock2D", "ResnetUpsampleBlock2D"),
        "mid_block_type": "UNetMidBlock2DSimpleCrossAttn", "block_out_channels": (16, 32), "layers_per_block": 1,
        "encoder_hid_dim": 32, "encoder_hid_dim_type": "text_image_proj", "cross_attention_dim": 32,
        "attention_head_dim": 4, "resnet_time_scale_shift": "scale_shift", "norm_num_groups": 4, "sample_size": 16,
    }  # fmt: skip
    return model("UNet2DConditionModel", **{**config, **more})


def unet_22(in_channels: int = 4, kind: str = "image") -> Any:
    """Version 2.2 knows no text."""
    kind_22 = {"addition_embed_type": kind, "encoder_hid_dim_type": "image_proj", "cross_attention_dim": 32}
    return unet(in_channels, **kind_22)


def movq() -> Any:
    """The VQ model whose decoder is normalized by the latents themselves."""
    return model(
        "VQModel", block_out_channels=[32, 32], down_block_types=["DownEncoderBlock2D", "AttnDownEncoderBlock2D"],
        in_channels=3, latent_channels=4, layers_per_block=1, norm_num_groups=4, norm_type="spatial",
        num_vq_embeddings=12, out_channels=3, up_block_types=["AttnUpDecoderBlock2D", "UpDecoderBlock2D"],
        vq_embed_dim=4,
    )  # fmt: skip


def mclip() -> Any:
    """A multilingual CLIP text encoder: XLM-RoBERTa, averaged and projected."""
    import torch
    from diffusers.pipelines.kandinsky.text_encoder import MCLIPConfig, MultilingualCLIP

    torch.manual_seed(0)
    return MultilingualCLIP(
        MCLIPConfig(
            numDims=32, transformerDimensions=32, hidden_size=32, intermediate_size=37, num_attention_heads=4,
            num_hidden_layers=2, vocab_size=600, max_position_embeddings=600,
        )
    )  # fmt: skip


def ddim() -> Any:
    return scheduler(
        "DDIMScheduler",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
        prediction_type="epsilon",
        thresholding=False,
    )


def parts(in_channels: int = 4, combined: bool = False) -> dict[str, Any]:
    from .parts import roberta_tokenizer

    made = {
        "text_encoder": mclip(), "tokenizer": roberta_tokenizer(), "unet": unet(in_channels), "scheduler": ddim(),
        "movq": movq(),
    }  # fmt: skip
    return made | (prior_parts("prior_") if combined else {})


def parts_22(in_channels: int = 4, combined: bool = False, kind: str = "image") -> dict[str, Any]:
    made = {
        "unet": unet_22(in_channels, kind),
        "scheduler": scheduler("DDPMScheduler", beta_schedule="linear"),
        "movq": movq(),
    }
    return made | (prior_parts("prior_") if combined else {})


def embeddings() -> dict[str, Any]:
    import torch

    return {"image_embeds": torch.randn(1, 32), "negative_image_embeds": torch.randn(1, 32)}


def text(**more: Any) -> dict[str, Any]:
    return {
        "prompt": PROMPT, "num_inference_steps": 2, "guidance_scale": 4.0, "height": 32, "width": 32,
        "output_type": "np", "generator": generator(), **more,
    }  # fmt: skip


def decoder(**more: Any) -> dict[str, Any]:
    return text(**embeddings(), **more)


def decoder_22(**more: Any) -> dict[str, Any]:
    return drop(decoder(**more), "prompt")


EDIT: dict[str, Any] = {"num_inference_steps": 4, "strength": 0.5}
PRIOR: dict[str, Any] = {"prior_num_inference_steps": 2, "prior_guidance_scale": 4.0}


def prior_text(**more: Any) -> dict[str, Any]:
    return drop(text(negative_prompt=NEGATIVE, **{"output_type": "pt", **more}), "height", "width")


def hint() -> Any:
    import torch

    return torch.rand(1, 3, 128, 128)  # its encoder scales by 8, the small VQ model by 2


def region() -> Any:
    import numpy as np

    half = np.zeros((32, 32), dtype=np.float32)
    half[:16] = 1
    return half


add(
    "KandinskyPriorPipeline",
    FAMILY,
    lambda: assemble("KandinskyPriorPipeline", prior_parts()),
    lambda p: prior_text(),
    True,
)
add("KandinskyPipeline", FAMILY, lambda: assemble("KandinskyPipeline", parts()), lambda p: decoder(), True)
add(
    "KandinskyImg2ImgPipeline", FAMILY, lambda: assemble("KandinskyImg2ImgPipeline", parts()),
    lambda p: decoder(image=image(), **EDIT),
)  # fmt: skip
add(
    "KandinskyInpaintPipeline", FAMILY, lambda: assemble("KandinskyInpaintPipeline", parts(9)),
    lambda p: decoder(image=image(), mask_image=region()),
)  # fmt: skip
add(
    "KandinskyCombinedPipeline", FAMILY, lambda: assemble("KandinskyCombinedPipeline", parts(combined=True)),
    lambda p: text(**PRIOR), True,
)  # fmt: skip
add(
    "KandinskyImg2ImgCombinedPipeline", FAMILY,
    lambda: assemble("KandinskyImg2ImgCombinedPipeline", parts(combined=True)),
    lambda p: text(image=image(), **PRIOR, **EDIT),
)  # fmt: skip
add(
    "KandinskyInpaintCombinedPipeline", FAMILY,
    lambda: assemble("KandinskyInpaintCombinedPipeline", parts(9, combined=True)),
    lambda p: text(image=image(), mask_image=region(), **PRIOR),
)  # fmt: skip
add(
    "KandinskyV22PriorPipeline",
    FAMILY,
    lambda: assemble("KandinskyV22PriorPipeline", prior_parts()),
    lambda p: prior_text(),
    True,
)
add(
    "KandinskyV22PriorEmb2EmbPipeline", FAMILY, lambda: assemble("KandinskyV22PriorEmb2EmbPipeline", prior_parts()),
    lambda p: prior_text(image=image(), **EDIT),
)  # fmt: skip
add("KandinskyV22Pipeline", FAMILY, lambda: assemble("KandinskyV22Pipeline", parts_22()), lambda p: decoder_22(), True)
add(
    "KandinskyV22Img2ImgPipeline", FAMILY, lambda: assemble("KandinskyV22Img2ImgPipeline", parts_22()),
    lambda p: decoder_22(image=image(), **EDIT),
)  # fmt: skip
add(
    "KandinskyV22InpaintPipeline", FAMILY, lambda: assemble("KandinskyV22InpaintPipeline", parts_22(9)),
    lambda p: decoder_22(image=image(), mask_image=region()),
)  # fmt: skip
add(
    "KandinskyV22ControlnetPipeline", FAMILY,
    lambda: assemble("KandinskyV22ControlnetPipeline", parts_22(8, kind="image_hint")),
    lambda p: decoder_22(hint=hint()), True,
)  # fmt: skip
add(
    "KandinskyV22ControlnetImg2ImgPipeline", FAMILY,
    lambda: assemble("KandinskyV22ControlnetImg2ImgPipeline", parts_22(8, kind="image_hint")),
    lambda p: decoder_22(hint=hint(), image=image(), **EDIT),
)  # fmt: skip
add(
    "KandinskyV22CombinedPipeline", FAMILY, lambda: assemble("KandinskyV22CombinedPipeline", parts_22(combined=True)),
    lambda p: text(**PRIOR), True,
)  # fmt: skip
add(
    "KandinskyV22Img2ImgCombinedPipeline", FAMILY,
    lambda: assemble("KandinskyV22Img2ImgCombinedPipeline", parts_22(combined=True)),
    lambda p: text(image=image(), **PRIOR, **EDIT),
)  # fmt: skip
add(
    "KandinskyV22InpaintCombinedPipeline", FAMILY,
    lambda: assemble("KandinskyV22InpaintCombinedPipeline", parts_22(9, combined=True)),
    lambda p: text(image=image(), mask_image=region(), **PRIOR),
)  # fmt: skip

# Kandinsky 3 and 5 -----------------------------------------------------------------------------------------------


def parts_3() -> dict[str, Any]:
    return {
        "tokenizer": t5_tokenizer(),
        "text_encoder": t5(),
        "scheduler": scheduler("DDPMScheduler", beta_schedule="squaredcos_cap_v2"),
        "unet": model(
            "Kandinsky3UNet",
            in_channels=4,
            time_embedding_dim=4,
            groups=2,
            attention_head_dim=4,
            layers_per_block=2,
            block_out_channels=(32, 64),
            cross_attention_dim=4,
            encoder_hid_dim=32,
        ),
        "movq": movq(),
    }


add(
    "Kandinsky3Pipeline",
    FAMILY,
    lambda: assemble("Kandinsky3Pipeline", parts_3()),
    lambda p: text(negative_prompt=NEGATIVE),
    True,
)
add(
    "Kandinsky3Img2ImgPipeline", FAMILY, lambda: assemble("Kandinsky3Img2ImgPipeline", parts_3()),
    lambda p: drop(text(image=image(), **EDIT), "height", "width"),
)  # fmt: skip


def parts_5(video: bool, visual: bool) -> dict[str, Any]:
    from .video import hunyuan_vae

    latents = 4 if video else 16
    return {
        "transformer": model(
            "Kandinsky5Transformer3DModel", in_visual_dim=latents, in_text_dim=32, in_text_dim2=32, time_dim=16,
            out_visual_dim=latents, patch_size=(1, 2, 2), model_dim=32, ff_dim=48, num_text_blocks=1,
            num_visual_blocks=1, axes_dims=(4, 2, 2), visual_cond=visual, attention_type="regular",
        ),
        "vae": hunyuan_vae() if video else flow_vae(16), "text_encoder": qwen2_5_vl(), "tokenizer": qwen2_processor(),
        "text_encoder_2": clip_text(), "tokenizer_2": clip_tokenizer(), "scheduler": flow(),
    }  # fmt: skip


def text_5(**more: Any) -> dict[str, Any]:
    return text(negative_prompt=NEGATIVE, max_sequence_length=24, **more)


add(
    "Kandinsky5T2VPipeline",
    FAMILY,
    lambda: assemble("Kandinsky5T2VPipeline", parts_5(True, False)),
    lambda p: text_5(num_frames=5),
    True,
)
add(
    "Kandinsky5T2IPipeline",
    FAMILY,
    lambda: assemble("Kandinsky5T2IPipeline", parts_5(False, False)),
    lambda p: text_5(),
    True,
)
add(
    "Kandinsky5I2VPipeline", FAMILY, lambda: assemble("Kandinsky5I2VPipeline", parts_5(True, True)),
    lambda p: text_5(image=image(), num_frames=5),
)  # fmt: skip


def small_edit() -> Any:
    """The pipeline, which makes pictures of one of a few sizes with a VAE that scales by 8, told a small size."""
    pipe = assemble("Kandinsky5I2IPipeline", parts_5(False, True), vae=flow_vae(16, channels=(8, 8, 8, 16)))
    pipe.resolutions = [(32, 32)]
    return pipe


add("Kandinsky5I2IPipeline", FAMILY, small_edit, lambda p: drop(text_5(image=image()), "max_sequence_length"))

# Stable Cascade --------------------------------------------------------------------------------------------------

CASCADE = "Stable Cascade"


def cascade_unet(**more: Any) -> Any:
    config: dict[str, Any] = {
        "conditioning_dim": 32,
        "block_out_channels": (16, 32),
        "num_attention_heads": (2, 4),
        "down_num_layers_per_block": (1, 1),
        "up_num_layers_per_block": (1, 1),
        "kernel_size": 3,
        "dropout": (0.1, 0.1),
        "clip_text_pooled_in_channels": 32,
        "self_attn": True,
        "switch_level": (False,),
        "timestep_ratio_embedding_dim": 16,
    }
    return model("StableCascadeUNet", **{**config, **more})


def cascade_prior() -> Any:
    return cascade_unet(in_channels=16, out_channels=16, clip_text_in_channels=32, clip_image_in_channels=32)


def cascade_decoder() -> Any:
    return cascade_unet(
        in_channels=4,
        out_channels=4,
        patch_size=2,
        effnet_in_channels=16,
        block_types_per_layer=[
            ["SDCascadeResBlock", "SDCascadeTimestepBlock"],
            ["SDCascadeResBlock", "SDCascadeTimestepBlock", "SDCascadeAttnBlock"],
        ],
    )


def paella() -> Any:
    from diffusers.pipelines.deprecated.wuerstchen.modeling_paella_vq_model import PaellaVQModel

    return PaellaVQModel(bottleneck_blocks=1, num_vq_embeddings=32, levels=2, embed_dim=8)


def cascade_parts(stage: str) -> dict[str, Any]:
    text = {"tokenizer": clip_tokenizer(), "text_encoder": clip_text(projection=32)}
    schedule = {"scheduler": scheduler("DDPMWuerstchenScheduler")}
    if stage == "prior":
        vision = {"image_encoder": clip_vision(), "feature_extractor": clip_images()}
        return {**text, **schedule, **vision, "prior": cascade_prior()}
    made = {**text, **schedule, "decoder": cascade_decoder(), "vqgan": paella(), "latent_dim_scale": 4.0}
    if stage == "combined":
        made |= {
            "prior_prior": cascade_prior(),
            "prior_text_encoder": text["text_encoder"],
            "prior_tokenizer": text["tokenizer"],
            "prior_scheduler": scheduler("DDPMWuerstchenScheduler"),
            "prior_feature_extractor": clip_images(),
            "prior_image_encoder": clip_vision(),
        }
    return made


def effnet() -> Any:
    import torch

    return torch.randn(1, 16, 4, 4)


add(
    "StableCascadePriorPipeline", CASCADE, lambda: assemble("StableCascadePriorPipeline", cascade_parts("prior")),
    lambda p: text(negative_prompt=NEGATIVE, height=128, width=128), True,
)  # fmt: skip
add(
    "StableCascadePriorPipeline[image]",
    CASCADE,
    lambda: assemble("StableCascadePriorPipeline", cascade_parts("prior")),
    lambda p: text(images=[image()], height=128, width=128),
)
add(
    "StableCascadeDecoderPipeline",
    CASCADE,
    lambda: assemble("StableCascadeDecoderPipeline", cascade_parts("decoder")),
    lambda p: drop(text(image_embeddings=effnet(), guidance_scale=2.0), "height", "width"),
    True,
)
add(
    "StableCascadeCombinedPipeline",
    CASCADE,
    lambda: assemble("StableCascadeCombinedPipeline", drop(cascade_parts("combined"), "latent_dim_scale")),
    lambda p: drop(
        text(height=128, width=128, prior_num_inference_steps=2, prior_guidance_scale=4.0), "guidance_scale"
    ),
)


# Wuerstchen ------------------------------------------------------------------------------------------------------


def wuerstchen_prior() -> Any:
    from diffusers.pipelines.deprecated.wuerstchen.modeling_wuerstchen_prior import WuerstchenPrior

    return WuerstchenPrior(c_in=2, c=8, depth=2, c_cond=32, c_r=8, nhead=2)


def wuerstchen_decoder() -> Any:
    from diffusers.pipelines.deprecated.wuerstchen.modeling_wuerstchen_diffnext import WuerstchenDiffNeXt

    return WuerstchenDiffNeXt(
        c_cond=32, c_hidden=[16], nhead=[-1], blocks=[2], level_config=["CT"], clip_embd=32, inject_effnet=[False],
        effnet_embd=2, c_in=4, c_out=4, c_r=8, patch_size=2,
    )  # fmt: skip


def wuerstchen_parts() -> dict[str, Any]:
    return {
        "tokenizer": clip_tokenizer(), "text_encoder": clip_text(), "scheduler": scheduler("DDPMWuerstchenScheduler"),
        "prior": wuerstchen_prior, "decoder": wuerstchen_decoder, "vqgan": paella, "latent_dim_scale": 4.0,
        "prior_tokenizer": clip_tokenizer(), "prior_text_encoder": clip_text(), "prior_prior": wuerstchen_prior,
        "prior_scheduler": scheduler("DDPMWuerstchenScheduler"),
    }  # fmt: skip


def wuerstchen_latents() -> Any:
    import torch

    return torch.randn(1, 2, 4, 4)


add(
    "WuerstchenPriorPipeline", "Wuerstchen", lambda: assemble("WuerstchenPriorPipeline", wuerstchen_parts()),
    lambda p: text(negative_prompt=NEGATIVE, height=128, width=128), True,
)  # fmt: skip
add(
    "WuerstchenDecoderPipeline", "Wuerstchen", lambda: assemble("WuerstchenDecoderPipeline", wuerstchen_parts()),
    lambda p: drop(text(image_embeddings=wuerstchen_latents(), guidance_scale=2.0), "height", "width"),
)  # fmt: skip
add(
    "WuerstchenCombinedPipeline",
    "Wuerstchen",
    lambda: assemble("WuerstchenCombinedPipeline", wuerstchen_parts()),
    lambda p: drop(
        text(height=128, width=128, prior_num_inference_steps=2, prior_guidance_scale=4.0), "guidance_scale"
    ),
)
