"""Tiny pipelines, built offline from small configurations with random weights, one call each.

``ZOO`` maps a name to a ``Case``. Nothing heavy is imported before a case is built.
"""

from __future__ import annotations

from . import (
    animation,
    audio,
    control,
    early_models,
    flux,
    flux2_z_image_bria,
    guidance,
    hunyuan_image_glm_kolors,
    kandinsky,
    ltx2_cosmos3_stable_audio3,
    pixart_sana_lumina,
    pixels,
    qwen_image,
    stable_diffusion,
    stable_diffusion_3,
    stable_diffusion_relatives,
    stable_diffusion_xl,
    variants,
    video,
)
from .registry import ZOO, Case

__all__ = [
    "ZOO",
    "Case",
    "animation",
    "audio",
    "control",
    "early_models",
    "flux",
    "flux2_z_image_bria",
    "guidance",
    "hunyuan_image_glm_kolors",
    "kandinsky",
    "ltx2_cosmos3_stable_audio3",
    "pixart_sana_lumina",
    "pixels",
    "qwen_image",
    "stable_diffusion",
    "stable_diffusion_3",
    "stable_diffusion_relatives",
    "stable_diffusion_xl",
    "variants",
    "video",
]
