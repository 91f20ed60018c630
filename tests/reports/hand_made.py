"""Profiles and rows made by hand, so that every number in a table can be checked against a calculation."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from diffmeter.profile import CallProfile, ComponentProfile, ComputeProfile, Conditions
from diffmeter.reports.comparison import Case, Row


def call(macs: int, *, count: int = 1, batch: int | None = 1, method: str = "forward", **more: Any) -> CallProfile:
    """Calls of ``macs`` products each, a quarter of them attention, and a tenth of that number in normalization."""
    return CallProfile(
        **{
            "method": method,
            "count": count,
            "batch": batch,
            "shapes": {"sample": [batch or 1, 4, 8, 8]},
            "dtypes": {"sample": "float32"},
            "matmul_macs": macs,
            "matmul_macs_without_attention": macs // 4 * 3,
            "total_macs": macs + macs // 10,
            "macs_by_op": {"conv": macs // 4 * 3, "attention": macs // 4, "normalization": macs // 10},
            "op_level": {"aten.convolution": macs},
            **more,
        }
    )


def profile(macs: int = 10**12, *, model: str = "hand/made", steps: int = 10, **conditions: Any) -> ComputeProfile:
    """A denoiser with ``steps`` guided calls of ``macs`` products each, and a decoder of one call of ``macs``."""
    components = {
        "unet": ComponentProfile("unet", "UNet2DConditionModel", 800_000_000, (call(macs, count=steps, batch=2),)),
        "vae": ComponentProfile("vae", "AutoencoderKL", 50_000_000, (call(macs, method="decode"),)),
    }
    given: dict[str, Any] = {
        "pipeline": "StableDiffusionPipeline",
        "kind": "dry_run",
        "model_id": model,
        "height": 512,
        "width": 512,
        "num_inference_steps": steps,
        "guidance_scale": 7.5,
        "batch": 1,
        "scheduler": "DDIMScheduler",
        "dtype": "float16",
        "versions": {"torch": "2.13.0"},
    }
    return ComputeProfile(components, ("unet",), Conditions(**{**given, **conditions}), steps_run=steps)


def incomplete(whole: ComputeProfile) -> ComputeProfile:
    """The same with an operator of the denoiser that nobody could count."""
    return replace(whole, uncounted=({"component": "unet", "op": "mylib.attention", "calls": 3},))


def measured(whole: ComputeProfile, seconds: float) -> ComputeProfile:
    """The same as the profile of a run: nine tenths of the time in the denoiser."""
    shares = {"unet": 0.9, "vae": 0.1}
    components = {
        name: replace(part, calls=tuple(replace(c, seconds=seconds * shares[name]) for c in part.calls))
        for name, part in whole.components.items()
    }
    return replace(whole, components=components, inference_time_seconds=seconds)


def row(name: str, of: ComputeProfile | None = None, error: str | None = None, **case: Any) -> Row:
    """One row of a comparison."""
    return Row(Case(name, **case), name, of, error)
