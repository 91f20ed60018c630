"""Sizes in pixels: the model's own, those that it can make, and what one side given alone means."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from diffmeter.errors import InputError

from .roles import denoiser_module


def with_both_sides(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments with both sides where one was given alone: it stands for a square, with every model."""
    found = dict(arguments)
    for side, other in (("height", "width"), ("width", "height")):
        if found.get(side) is not None and found.get(other) is None:
            found[other] = found[side]
    return found


def default_size(pipe: Any) -> tuple[int, int] | None:
    """(height, width) of the images that a pipeline makes unless told otherwise; None where it does not tell."""
    sample = getattr(pipe, "default_sample_size", None)
    if sample is None:
        sample = getattr(getattr(denoiser_module(pipe), "config", None), "sample_size", None)
    scale = _vae_scale(pipe)
    sides = sample if isinstance(sample, (tuple, list)) else (sample, sample)
    if scale is None or len(sides) != 2 or not all(isinstance(side, int) for side in sides):
        return None
    return sides[0] * scale, sides[1] * scale


def size_multiple(pipe: Any) -> int:
    """The number that height and width must be a multiple of: the VAE's reduction times the denoiser's patch."""
    transformer = getattr(pipe, "transformer", None)
    patch = getattr(getattr(transformer, "config", None), "patch_size", None) or 1
    patch = patch[-1] if isinstance(patch, (tuple, list)) else patch
    if transformer is not None and isinstance(patch, int) and hasattr(pipe, "_pack_latents"):
        patch = max(patch, 2)  # 2 x 2 latents are packed into one token before the transformer
    scale = _vae_scale(pipe)
    return scale * patch if scale is not None and isinstance(patch, int) else 1


def check_multiple(pipe: Any, model: str, sides: Mapping[str, int | None]) -> None:
    """Check that a pipeline can make images of these sides.

    Raises:
        InputError: one is no multiple of :func:`size_multiple`; the nearest are in the message.
    """
    multiple = size_multiple(pipe)
    for what, side in sides.items():
        if side is not None and side % multiple:
            below = side - side % multiple
            nearest = f"{below} or {below + multiple}" if below else f"{multiple}"
            raise InputError(f"{what} {side} does not fit {model!r}: use a multiple of {multiple}, such as {nearest}.")


def _vae_scale(pipe: Any) -> int | None:
    """How many pixels one latent stands for along a side."""
    scale = getattr(pipe, "vae_scale_factor", None) or getattr(pipe, "vae_scale_factor_spatial", None)
    return scale if isinstance(scale, int) else None
