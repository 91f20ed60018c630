"""Tiny pipelines, built offline from small configurations with random weights, one call each.

``ZOO`` maps a name to a ``Case``. Nothing heavy is imported before a case is built.
"""

from __future__ import annotations

from . import (
    animation,
    audio,
    audio_video,
    control,
    early_models,
    flux,
    guidance,
    image_transformers,
    image_transformers_2,
    image_transformers_3,
    kandinsky,
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
    "audio_video",
    "control",
    "early_models",
    "flux",
    "guidance",
    "image_transformers",
    "image_transformers_2",
    "image_transformers_3",
    "kandinsky",
    "pixels",
    "qwen_image",
    "stable_diffusion",
    "stable_diffusion_3",
    "stable_diffusion_relatives",
    "stable_diffusion_xl",
    "variants",
    "video",
]
