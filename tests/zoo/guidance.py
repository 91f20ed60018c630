"""Perturbed-attention guidance (PAG) over U-Nets and transformers: a third branch with some attention left out."""

from __future__ import annotations

from typing import Any

from .control import XL, controlnet
from .parts import assemble, image, mask
from .pixart_sana_lumina import SANA, hunyuan_parts, pixart_parts, pixart_text, sana_parts
from .pixart_sana_lumina import text as dit_text
from .registry import add
from .stable_diffusion import edit, parts, text, unet
from .stable_diffusion_3 import SHORT
from .stable_diffusion_3 import parts as sd3_parts
from .stable_diffusion_xl import parts as xl_parts
from .stable_diffusion_xl import unet as xl_unet

FAMILY = "PAG"
PAG: dict[str, Any] = {"pag_scale": 3.0}
INPAINT: dict[str, Any] = {"num_inference_steps": 4, "strength": 0.5}


def perturbed(class_name: str, made: dict[str, Any], layers: str = "mid") -> Any:
    """The pipeline with its attention perturbed in ``layers``."""
    return assemble(class_name, made, pag_applied_layers=layers)


def masked(**more: Any) -> dict[str, Any]:
    return text(image=image(), mask_image=mask(), **INPAINT, **PAG, **more)


add(
    "StableDiffusionPAGPipeline", FAMILY, lambda: perturbed("StableDiffusionPAGPipeline", parts()),
    lambda p: text(**PAG), True,
)  # fmt: skip
add(
    "StableDiffusionPAGPipeline[unguided, two layers]", FAMILY,
    lambda: perturbed("StableDiffusionPAGPipeline", parts(), ["mid", "up_blocks.0"]),
    lambda p: text(guidance_scale=1.0, **PAG),
)  # fmt: skip
add(
    "StableDiffusionPAGImg2ImgPipeline", FAMILY, lambda: perturbed("StableDiffusionPAGImg2ImgPipeline", parts()),
    lambda p: edit(**PAG),
)  # fmt: skip
add(
    "StableDiffusionPAGInpaintPipeline", FAMILY,
    lambda: perturbed("StableDiffusionPAGInpaintPipeline", parts(unet=unet(9))), lambda p: masked(),
)  # fmt: skip
add(
    "StableDiffusionControlNetPAGPipeline", FAMILY,
    lambda: perturbed("StableDiffusionControlNetPAGPipeline", parts(controlnet=controlnet())),
    lambda p: text(image=image(), **PAG), True,
)  # fmt: skip
add(
    "StableDiffusionControlNetPAGInpaintPipeline", FAMILY,
    lambda: perturbed("StableDiffusionControlNetPAGInpaintPipeline", parts(unet=unet(9), controlnet=controlnet())),
    lambda p: masked(control_image=image()),
)  # fmt: skip
add(
    "StableDiffusionXLPAGPipeline", FAMILY, lambda: perturbed("StableDiffusionXLPAGPipeline", xl_parts()),
    lambda p: text(**PAG), True,
)  # fmt: skip
add(
    "StableDiffusionXLPAGImg2ImgPipeline", FAMILY,
    lambda: perturbed("StableDiffusionXLPAGImg2ImgPipeline", xl_parts()), lambda p: edit(**PAG),
)  # fmt: skip
add(
    "StableDiffusionXLPAGInpaintPipeline", FAMILY,
    lambda: perturbed("StableDiffusionXLPAGInpaintPipeline", xl_parts(unet=xl_unet(9))), lambda p: masked(),
)  # fmt: skip
add(
    "StableDiffusionXLControlNetPAGPipeline", FAMILY,
    lambda: perturbed("StableDiffusionXLControlNetPAGPipeline", xl_parts(controlnet=controlnet(**XL))),
    lambda p: text(image=image(), **PAG),
)  # fmt: skip
add(
    "StableDiffusionXLControlNetPAGImg2ImgPipeline", FAMILY,
    lambda: perturbed("StableDiffusionXLControlNetPAGImg2ImgPipeline", xl_parts(controlnet=controlnet(**XL))),
    lambda p: edit(control_image=image(), **PAG),
)  # fmt: skip
add(
    "StableDiffusion3PAGPipeline", FAMILY,
    lambda: perturbed("StableDiffusion3PAGPipeline", sd3_parts(), r"blocks\.0\.attn$"),
    lambda p: text(**SHORT, **PAG), True,
)  # fmt: skip
add(
    "StableDiffusion3PAGImg2ImgPipeline", FAMILY,
    lambda: perturbed("StableDiffusion3PAGImg2ImgPipeline", sd3_parts(), r"blocks\.0\.attn$"),
    lambda p: edit(**SHORT, **PAG),
)  # fmt: skip
add(
    "HunyuanDiTPAGPipeline", FAMILY, lambda: perturbed("HunyuanDiTPAGPipeline", hunyuan_parts(), "blocks.1"),
    lambda p: dit_text(use_resolution_binning=False, height=64, width=96, **PAG),
)  # fmt: skip
add(
    "PixArtSigmaPAGPipeline", FAMILY, lambda: perturbed("PixArtSigmaPAGPipeline", pixart_parts(), "blocks.0"),
    lambda p: pixart_text(**PAG), True,
)  # fmt: skip
add(
    "SanaPAGPipeline", FAMILY, lambda: perturbed("SanaPAGPipeline", sana_parts(), "blocks.0"),
    lambda p: dit_text(**SANA, **PAG),
)  # fmt: skip
