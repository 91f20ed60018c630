"""A dry run with every replay captured, as a workload. The part of predicting that needs torch."""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Iterator, Mapping
from math import prod
from typing import Any

import torch
from torch import nn

from diffmeter.errors import InputError
from diffmeter.metering.pipelines.parts import parts_of
from diffmeter.metering.recording.assemble import build_profile, describe_pipeline
from diffmeter.metering.recording.dry_run import ModelDryRuns, Rehearsal, rehearse
from diffmeter.profile import ComputeProfile

from .capture import Captures
from .operators import CallOperators
from .workload import ComponentWork, Workload


class Rehearsals:
    """Dry runs of one model by its id or folder, or of one loaded pipeline, with their operators.

    Raises:
        ModelNotFoundError, ModelLoadError: the model's configuration cannot be had.
    """

    def __init__(self, model: Any, dtype: str, tokens: int | None) -> None:
        self._captures = Captures()
        self._dtype = dtype
        if isinstance(model, (str, os.PathLike)):
            runs = ModelDryRuns(model, token_count=tokens, dtype=getattr(torch, dtype))
            self.pipe, self._rehearse = runs.pipe, runs.rehearse
            self._model = runs.source.name
        else:
            self.pipe, self._rehearse = model, functools.partial(_rehearse, model)
            self._model = type(model).__name__

    def run(self, arguments: Mapping[str, Any], *, tiling: bool) -> Workload:
        """One dry run as a workload. Exceptions are those of :func:`diffmeter.dry_run` and of :func:`tiled`."""
        with tiled(self.pipe) if tiling else contextlib.nullcontext(), self._captures:
            rehearsal = self._rehearse(**arguments)
        return workload_of(rehearsal, self._captures, self._model, self._dtype)


def _rehearse(pipe: Any, **arguments: Any) -> Rehearsal:
    return rehearse(pipe, arguments)


def dtype_of(pipe: Any) -> str:
    """The dtype that most of a pipeline's weights have."""
    return describe_pipeline(pipe, parts_of(pipe)).dtype or "float32"


@contextlib.contextmanager
def tiled(pipe: Any) -> Iterator[None]:
    """Let a pipeline's decoder work in tiles, and on one image after the other, for as long as this is entered.

    Raises:
        InputError: it cannot.
    """
    able = [part for part in pipe.components.values() if callable(getattr(part, "enable_tiling", None))]
    if not able:
        raise InputError(f"{type(pipe).__name__} has no decoder that can work in tiles.")
    with contextlib.ExitStack() as stack:
        for part in able:
            for what in ("tiling", "slicing"):
                if callable(getattr(part, f"enable_{what}", None)) and not getattr(part, f"use_{what}", False):
                    getattr(part, f"enable_{what}")()
                    stack.callback(getattr(part, f"disable_{what}"))
        yield


def workload_of(rehearsal: Rehearsal, captures: Captures, model: str, dtype: str) -> Workload:
    """A finished dry run as a workload."""
    profile = build_profile(rehearsal.recording, rehearsal.facts, kind="dry_run", model_id=model)
    calls = _calls(rehearsal, captures)
    components = {
        name: _component(module, calls.get(name, ()), name in profile.denoisers)
        for name, module in rehearsal.components.items()
    }
    shape = profile.input_shape or (1,)
    conditions = ("height", "width", "num_inference_steps", "guidance_scale", "scheduler")
    return Workload(
        model=model,
        pipeline=profile.conditions.pipeline,
        dtype=dtype,
        components=components,
        images=shape[0],
        pixels=prod(shape[:1] + shape[2:]),
        conditions={name: getattr(profile.conditions, name) for name in conditions},
        estimates=tuple(_estimates(profile)),
    )


def _calls(rehearsal: Rehearsal, captures: Captures) -> dict[str, tuple[tuple[CallOperators, int], ...]]:
    """Operators of each component's calls; equal calls together."""
    found: dict[str, dict[int, tuple[CallOperators, int]]] = {}
    for record in rehearsal.recording.calls:
        operators = None if record.count is None else captures.of(record.count)
        if operators is not None:
            of_component = found.setdefault(record.component, {})
            _, before = of_component.get(id(operators), (operators, 0))
            of_component[id(operators)] = operators, before + 1
    return {name: tuple(calls.values()) for name, calls in found.items()}


def _component(module: nn.Module, calls: tuple[tuple[CallOperators, int], ...], denoiser: bool) -> ComponentWork:
    linear = {id(m.weight): m.weight for m in module.modules() if isinstance(m, nn.Linear)}
    lists = [part for part in module.modules() if isinstance(part, nn.ModuleList)]
    blocks = [_bytes(block) for part in lists for block in part if isinstance(block, nn.Module)]
    return ComponentWork(
        class_name=type(module).__name__,
        weights=_bytes(module),
        linear_weights=(sum(w.numel() * w.itemsize for w in linear.values()), sum(w.numel() for w in linear.values())),
        largest_layer=max((_bytes(m) for m in module.modules() if next(m.children(), None) is None), default=0),
        largest_block=max(blocks, default=_bytes(module)),
        calls=calls,
        denoiser=denoiser,
        params=sum(p.numel() for p in module.parameters()),
    )


def _bytes(module: nn.Module) -> int:
    """Bytes of parameters and buffers, what is shared counted once."""
    held = {id(tensor): tensor.numel() * tensor.itemsize for tensor in (*module.parameters(), *module.buffers())}
    return sum(held.values())


def _estimates(profile: ComputeProfile) -> Iterator[str]:
    for entry in profile.uncounted:
        what = entry.get("op") or entry.get("reason")
        yield f"{entry['component']}: {what} is not in the prediction"
