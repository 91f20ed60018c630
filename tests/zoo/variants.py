"""Switches of a pipeline that change what runs: LoRA, IP-Adapter, tiling, slicing, FreeU, schedulers, fused layers."""

from __future__ import annotations

import functools
from typing import Any

from .flux import parts as flux_parts
from .flux import text as flux_text
from .parts import assemble, clip_images, clip_vision, image, scheduler, tiny_vae
from .registry import add
from .stable_diffusion import parts, text
from .stable_diffusion_xl import parts as xl_parts

FAMILY = "Switches"


def plain(**more: Any) -> Any:
    return assemble("StableDiffusionPipeline", parts(**more))


def lora(fused: bool) -> Any:
    """Low-rank weights beside the U-Net's projections, or added into them."""
    from peft import LoraConfig

    pipe = plain()
    config = LoraConfig(r=4, target_modules=["to_q", "to_k", "to_v", "to_out.0"], init_lora_weights=False)
    pipe.unet.add_adapter(config, adapter_name="style")
    if fused:
        pipe.fuse_lora(components=["unet"])
    return pipe


def two_loras_flux() -> Any:
    """Two low-rank adapters of a transformer, both active."""
    from peft import LoraConfig

    pipe = assemble("FluxPipeline", flux_parts())
    for name, rank in (("style", 4), ("subject", 2)):
        config = LoraConfig(r=rank, target_modules=["to_q", "to_k", "to_v"], init_lora_weights=False)
        pipe.transformer.add_adapter(config, adapter_name=name)
    pipe.set_adapters(["style", "subject"], adapter_weights=[0.7, 0.5])
    return pipe


def ip_adapter() -> Any:
    """Keys and values of four image tokens beside those of the text, as an IP-Adapter's file brings them."""
    import torch

    pipe = plain(image_encoder=clip_vision(), feature_extractor=clip_images())
    unet, tokens = pipe.unet, {}
    for index, name in enumerate(n for n in unet.attn_processors if n.endswith("attn2.processor")):
        attention = unet.get_submodule(name.removesuffix(".processor"))
        for part in ("k", "v"):
            key = f"{2 * index + 1}.to_{part}_ip.weight"
            tokens[key] = torch.randn(attention.to_k.out_features, attention.to_k.in_features)
    projection = {"proj.weight": torch.randn(4 * 32, 32), "proj.bias": torch.randn(4 * 32)}
    projection |= {"norm.weight": torch.ones(32), "norm.bias": torch.zeros(32)}
    unet._load_ip_adapter_weights([{"image_proj": projection, "ip_adapter": tokens}])
    pipe.set_ip_adapter_scale(0.5)
    return pipe


def switched(*switches: str, **more: Any) -> Any:
    """The pipeline after calls of its methods ``switches``."""
    pipe = plain(**more)
    for switch in switches:
        getattr(pipe, switch)()
    return pipe


def sampled(class_name: str) -> Any:
    """The pipeline with a scheduler that calls the U-Net in its own rhythm."""
    return plain(scheduler=scheduler(class_name))


def tiled() -> Any:
    """A VAE that works on overlapping tiles of one image after the other."""
    pipe = plain()
    pipe.vae.enable_tiling()
    pipe.vae.enable_slicing()
    pipe.vae.tile_sample_min_size, pipe.vae.tile_latent_min_size = 32, 16
    return pipe


def free_u() -> Any:
    pipe = plain()
    pipe.enable_freeu(s1=0.9, s2=0.2, b1=1.2, b2=1.4)
    return pipe


def fused_projections() -> Any:
    pipe = assemble("StableDiffusionXLPipeline", xl_parts())
    pipe.fuse_qkv_projections()
    return pipe


def variant(name: str, builder: Any, quick: bool = False, **arguments: Any) -> None:
    """A case of ``StableDiffusionPipeline``."""
    add(f"StableDiffusionPipeline[{name}]", FAMILY, builder, lambda p: text(**arguments), quick)


variant("LoRA", lambda: lora(False), True)
variant("LoRA, scaled", lambda: lora(False), cross_attention_kwargs={"scale": 0.5})
variant("LoRA, fused", lambda: lora(True), True)
variant("attention slicing", lambda: switched("enable_attention_slicing"), True)
variant("FreeU", free_u)
variant("tiny VAE", lambda: plain(vae=tiny_vae()))
variant(
    "batch of 2 x 3, latents",
    plain,
    prompt=["a cat", "a dog"],
    negative_prompt=None,
    num_images_per_prompt=3,
    output_type="latent",
)
variant("no guidance", plain, guidance_scale=1.0)
for sampler in (
    "HeunDiscreteScheduler",
    "KDPM2DiscreteScheduler",
    "DPMSolverSinglestepScheduler",
    "UniPCMultistepScheduler",
    "PNDMScheduler",
):
    variant(sampler, functools.partial(sampled, sampler), num_inference_steps=4)
add(
    "StableDiffusionPipeline[VAE tiling, slicing]", FAMILY, tiled,
    lambda p: text(height=64, width=96, num_images_per_prompt=2), True,
)  # fmt: skip
add("StableDiffusionPipeline[IP-Adapter]", FAMILY, ip_adapter, lambda p: text(ip_adapter_image=image()), True)
add("StableDiffusionXLPipeline[fused projections]", FAMILY, fused_projections, lambda p: text())
add(
    "StableDiffusionXLPipeline[two prompts, guidance cut off]", FAMILY,
    lambda: assemble("StableDiffusionXLPipeline", xl_parts()),
    lambda p: text(prompt_2="in oil", num_inference_steps=4, callback_on_step_end=stop_guidance,
                   callback_on_step_end_tensor_inputs=["prompt_embeds", "add_text_embeds", "add_time_ids"]),
)  # fmt: skip
add("FluxPipeline[two LoRAs]", FAMILY, two_loras_flux, lambda p: flux_text(), True)


def stop_guidance(pipe: Any, step: int, timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
    """Ends guidance after the second step: only the guided half of the batch goes on."""
    if step == 1:
        tensors = {name: value.chunk(2)[-1] for name, value in tensors.items()}
        pipe._guidance_scale = 0.0
    return tensors
