"""What a pipeline is made of: components, schedulers, and the pipelines inside it."""

from __future__ import annotations

import types
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from diffmeter.errors import InputError


@dataclass(frozen=True)
class Parts:
    """What a pipeline is made of, nested pipelines included.

    Attributes:
        components: its modules, by name.
        pipelines: the pipeline itself, and those inside it.
        schedulers: what steps.
        engines: what stands in a component's place and is no module: a TensorRT or ONNX engine, somebody's wrapper.
    """

    components: dict[str, nn.Module]
    pipelines: list[Any]
    schedulers: list[Any]
    engines: dict[str, Any] = field(default_factory=dict)


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


#: libraries whose callable objects in a pipeline read texts and images, and compute nothing that is counted
_HELPERS = frozenset({"transformers", "tokenizers", "sentencepiece", "diffusers", "PIL", "builtins", "torch", "numpy"})
_ENGINE_METHODS = ("__call__", "forward", "encode", "decode")


def is_engine(value: object) -> bool:
    """Whether something that is no module may compute in a component's place."""
    if value is None or isinstance(value, (nn.Module, type)) or is_pipeline(value) or is_scheduler(value):
        return False
    modules = [cls.__module__ for cls in type(value).__mro__[:-1]]  # a user's subclass of a processor is one too
    is_helper = any(module.partition(".")[0] in _HELPERS for module in modules)
    if is_helper and not any("onnx" in module for module in modules) and not isinstance(value, _FUNCTIONS):
        return False
    return any(callable(getattr(type(value), name, None)) for name in _ENGINE_METHODS)


_FUNCTIONS = (types.FunctionType, types.MethodType)


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
    if not parts.components and not parts.engines:
        raise InputError(f"{type(pipe).__name__} has no component to observe: load its models first.")
    return parts


def _visit(pipeline: Any, prefix: str, parts: Parts) -> None:
    if any(pipeline is known for known in parts.pipelines):
        return
    parts.pipelines.append(pipeline)
    listed = pipeline.components
    inside = {**listed, **vars(pipeline)}
    for name, value in inside.items():
        if isinstance(value, nn.Module):
            if not any(value is known for known in parts.components.values()):
                parts.components[name if name not in parts.components else f"{prefix}{name}"] = value
        elif is_scheduler(value) and not any(value is known for known in parts.schedulers):
            parts.schedulers.append(value)
        elif name in listed and name != "safety_checker" and is_engine(value):  # it judges images, and makes none
            parts.engines[name if name not in parts.engines else f"{prefix}{name}"] = value
    for name, value in inside.items():  # afterwards: what a combined pipeline lists itself has its names
        if is_pipeline(value):
            _visit(value, f"{name}.", parts)
