"""What every rendering says about the conditions of its numbers: model, size, frames, steps, guidance and others."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from diffmeter.units import format_params

from .tables import Column, Kind, Value

if TYPE_CHECKING:
    from diffmeter.profile import ComputeProfile

#: conditions in the order in which they are named, as columns of a table
CONDITION_COLUMNS = (
    Column("model", "Model"),
    Column("size", "Size", Kind.TEXT, 1),
    Column("frames", "Frames", Kind.INTEGER, 1),
    Column("steps", "Steps", Kind.INTEGER, 1),
    Column("steps_run", "Steps run", Kind.INTEGER, 6),
    Column("guidance", "Guidance", Kind.NUMBER, 6),
    Column("batch", "Batch", Kind.INTEGER, 1),
    Column("scheduler", "Scheduler", Kind.TEXT, 8),
    Column("dtype", "Dtype", Kind.TEXT, 7),
)


def conditions_of(profile: ComputeProfile) -> dict[str, Value]:
    """The conditions of a profile by the keys of :data:`CONDITION_COLUMNS`; what is not known is left out."""
    conditions = profile.conditions
    frames = conditions.arguments.get("num_frames")
    found: dict[str, Value] = {
        "model": conditions.model_id or conditions.pipeline,
        "size": f"{conditions.width} x {conditions.height}" if conditions.width and conditions.height else None,
        "frames": frames if isinstance(frames, int) else None,
        "steps": conditions.num_inference_steps,
        "steps_run": profile.steps_run,
        "guidance": conditions.guidance_scale,
        "batch": conditions.batch,
        "scheduler": conditions.scheduler,
        "dtype": conditions.dtype,
    }
    return {name: value for name, value in found.items() if value is not None}


def assumptions_of(profile: ComputeProfile) -> list[tuple[str, str]]:
    """What a reader must know besides: where the parts came from, adapters at work, inputs that stood in."""
    conditions = profile.conditions
    said = []
    origin = conditions.origin or {}
    if origin:
        size = (
            f", {origin['stored_bytes']:,} bytes as {', '.join(origin['stored_dtypes'])}"
            if "stored_bytes" in origin
            else ""
        )
        said.append(("From the file", f"{', '.join(origin['from_file'])}{size}"))
        if origin.get("from_family"):
            said.append((f"From {origin['family']}", ", ".join(origin["from_family"])))
    for adapter in conditions.adapters:
        rank = "" if adapter["rank"] is None else f", rank {adapter['rank']}"
        said.append(
            (adapter["kind"], f"{adapter['name']} in {adapter['component']}{rank}, {format_params(adapter['params'])}")
        )
    said += [(f"Estimated {what}", how) for what, how in conditions.estimated.items()]
    # A prompt that stands in has the length of any; an image decides by its size what is computed.
    said += [(f"In place of {name}", what) for name, what in conditions.stand_ins.items() if name != "prompt"]
    if profile.cached_steps:
        said.append(("Cached steps", f"{len(profile.cached_steps)}: {', '.join(map(str, profile.cached_steps))}"))
    return said


def sentence(conditions: Mapping[str, Value]) -> str:
    """The conditions in one line; the model is not among them, since it stands in front.

    For example: ``512 x 512, 20 steps asked, 12 run, guidance 7.5, batch 1, DDIMScheduler, float32``.
    """
    return ", ".join(part for part in (*_shape(conditions), *_how(conditions)) if part)


def _shape(given: Mapping[str, Value]) -> list[str]:
    parts = [str(given["size"])] if given.get("size") else []
    frames = given.get("frames")
    if isinstance(frames, int):
        parts.append(f"{frames} frame{_s(frames)}")
    asked, run = given.get("steps"), given.get("steps_run")
    if isinstance(asked, int) and (run is None or run == asked):
        parts.append(f"{asked} step{_s(asked)}")
    elif isinstance(asked, int):
        parts.append(f"{asked} step{_s(asked)} asked, {run} run")
    elif run is not None:
        parts.append(f"{run} steps run")
    return parts


def _how(given: Mapping[str, Value]) -> list[str]:
    guidance = given.get("guidance")
    return [
        f"guidance {guidance:g}" if isinstance(guidance, (int, float)) else "",
        f"batch {given['batch']}" if given.get("batch") else "",
        str(given.get("scheduler") or ""),
        str(given.get("dtype") or ""),
    ]


def _s(count: int) -> str:
    return "" if count == 1 else "s"
