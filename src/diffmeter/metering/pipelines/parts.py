"""What a pipeline is made of: components, schedulers, and the pipelines inside it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from diffmeter.errors import InputError


@dataclass(frozen=True)
class Parts:
    """What a pipeline is made of, nested pipelines included."""

    components: dict[str, nn.Module]
    pipelines: list[Any]
    schedulers: list[Any]


def is_pipeline(value: object) -> bool:
    """Whether something can be called and lists components, as every pipeline of diffusers does."""
    return (
        not isinstance(value, nn.Module)
        and callable(value)
        and isinstance(getattr(value, "components", None), Mapping)
    )


def is_scheduler(value: object) -> bool:
    """Whether something steps and has a configuration."""
    return not isinstance(value, nn.Module) and callable(getattr(value, "step", None)) and hasattr(value, "config")


def parts_of(pipe: Any) -> Parts:
    """Components, nested pipelines and schedulers of a pipeline.

    What a combined pipeline lists itself has its names; the same name in a pipeline inside it gets that one's as a
    prefix (``prior.text_encoder``). A module that stands under several names is one component, under the first.

    Raises:
        InputError: ``pipe`` is no pipeline.
    """
    if not is_pipeline(pipe):
        raise InputError(f"{type(pipe).__name__} is no diffusers pipeline: pass a loaded DiffusionPipeline.")
    parts = Parts({}, [], [])
    _visit(pipe, "", parts)
    if not parts.components:
        raise InputError(f"{type(pipe).__name__} has no component to observe: load its models first.")
    return parts


def _visit(pipeline: Any, prefix: str, parts: Parts) -> None:
    if any(pipeline is known for known in parts.pipelines):
        return
    parts.pipelines.append(pipeline)
    inside = {**pipeline.components, **vars(pipeline)}
    for name, value in inside.items():
        if isinstance(value, nn.Module):
            if not any(value is known for known in parts.components.values()):
                parts.components[name if name not in parts.components else f"{prefix}{name}"] = value
        elif is_scheduler(value) and not any(value is known for known in parts.schedulers):
            parts.schedulers.append(value)
    for name, value in inside.items():  # afterwards: what a combined pipeline lists itself has its names
        if is_pipeline(value):
            _visit(value, f"{name}.", parts)
