"""What a run does, operator by operator: a dry run of the pipeline with every replay captured. No weights are needed.

A workload is plain data afterwards: it is predicted for one GPU after another without being made again.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from diffmeter.errors import InputError

from .memory import Allocator, Footprint, activations
from .operators import CallOperators

#: dtypes that a pipeline can be predicted in
DTYPES = ("bfloat16", "float16", "float32")
#: bytes of one weight of a linear layer, scales included: one scale of two bytes a row of float8 and int8, one of
#: float32 for each 64 weights of nf4 (bitsandbytes' block size)
WEIGHT_BYTES: Mapping[str, float] = {"float8": 1.0, "int8": 1.0, "nf4": 0.5 + 4 / 64}


@dataclass(frozen=True)
class ComponentWork:
    """One component of a run.

    Attributes:
        class_name: of the component.
        weights: bytes of parameters and buffers.
        linear_weights: the part of them that a quantized linear layer would hold, and its number of weights.
        largest_layer, largest_block: bytes of its largest layer and of its largest repeated block.
        calls: operators of each signature, and how often it was called.
        denoiser: whether it is called at each step.
        params: number of its parameters.
    """

    class_name: str
    weights: int
    linear_weights: tuple[int, int]
    largest_layer: int
    largest_block: int
    calls: tuple[tuple[CallOperators, int], ...]
    denoiser: bool
    params: int = 0

    def footprint(self, allocator: Allocator, weight_dtype: str | None = None) -> Footprint:
        """What it needs on a device, its denoiser's linear weights quantized if asked for."""
        weights, layer, block = self.weights, self.largest_layer, self.largest_block
        if weight_dtype is not None and self.denoiser and weights:
            held, number = self.linear_weights
            share = (weights - held + number * WEIGHT_BYTES[weight_dtype]) / weights
            weights, layer, block = (round(size * share) for size in (weights, layer, block))
        worst = max((activations(call, allocator) for call, _ in self.calls), default=0)
        inputs = max((call.input_bytes for call, _ in self.calls), default=0)
        return Footprint(weights, layer, block, worst, inputs, sum(count for _, count in self.calls))


@dataclass(frozen=True)
class Workload:
    """A run of a pipeline.

    Attributes:
        model: what was asked for.
        pipeline: class of the pipeline.
        dtype: of its weights and activations.
        components: by name.
        images: images or videos that come out.
        pixels: pixels of all of them.
        conditions: the arguments of the run as they hold.
        estimates: what the numbers rest on that only a real run knows.
    """

    model: str
    pipeline: str
    dtype: str
    components: Mapping[str, ComponentWork]
    images: int
    pixels: int
    conditions: Mapping[str, Any]
    estimates: tuple[str, ...] = ()


def check_dtype(dtype: str) -> str:
    """The name of a dtype that pipelines run in.

    Raises:
        InputError: another one.
    """
    name = str(dtype).removeprefix("torch.")
    name = {"bf16": "bfloat16", "fp16": "float16", "half": "float16", "fp32": "float32"}.get(name, name)
    if name not in DTYPES:
        raise InputError(f"A pipeline cannot be predicted in {dtype!r}: use one of {', '.join(DTYPES)}.")
    return name


class Workloads:
    """Workloads of one model, or of one pipeline, which is built once.

    Args:
        model: an id of the catalog or the hub, a local folder, or a pipeline (which is not touched).
        dtype: of weights and activations; bfloat16 unless given. A pipeline has its own.
        tokens: tokens that a prompt is taken to have where the tokenizer is not there.

    Raises:
        InputError: a dtype that pipelines do not run in, or that the pipeline is not of.
        ModelNotFoundError, ModelLoadError: the model's configuration cannot be had.
    """

    def __init__(self, model: Any, *, dtype: str | None = None, tokens: int | None = None) -> None:
        from . import rehearsal

        own = None if isinstance(model, (str, os.PathLike)) else rehearsal.dtype_of(model)
        self.dtype = check_dtype(dtype or own or "bfloat16")
        if own is not None and self.dtype != own:
            name = type(model).__name__
            raise InputError(f"This {name} is loaded in {own}: load it in {self.dtype}, or give its id instead.")
        self._rehearsals = rehearsal.Rehearsals(model, self.dtype, tokens)
        self._known: dict[Any, Workload] = {}

    def of(self, *, tiling: bool = False, **arguments: Any) -> Workload:
        """The workload of one call with these arguments (the usual words, and the pipeline's own names).

        Args:
            tiling: the decoder works in tiles and on one image after the other (``enable_tiling``,
                ``enable_slicing``).
            arguments: None leaves one to the model's default.

        Raises:
            InputError: an argument that the pipeline does not take, or a decoder that cannot tile.
            DiffmeterError: a component cannot run without its weights' values.
        """
        key = (tiling, repr(sorted(arguments.items(), key=lambda item: item[0])))
        if key not in self._known:
            given = {name: value for name, value in arguments.items() if value is not None}
            self._known[key] = self._rehearsals.run(given, tiling=tiling)
        return self._known[key]
