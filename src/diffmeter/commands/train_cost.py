"""``diffmeter train-cost``: what training the denoiser of a diffusion model costs."""

from __future__ import annotations

from typing import Annotated

import typer

from diffmeter.errors import InputError

from . import _options
from ._console import Form, progress

EXAMPLES = [
    "diffmeter train-cost sd15 --method full --steps 10000 --batch 8",
    "diffmeter train-cost sdxl --rank 32 --cache-latents --gradient-checkpointing",
]


def run(
    model: _options.Model,
    method: Annotated[str, typer.Option("--method", help="full (every parameter) or lora (adapters).")] = "lora",
    rank: Annotated[int, typer.Option("--rank", help="Rank of the LoRA adapters.")] = 16,
    steps: Annotated[int, typer.Option("--steps", help="Optimizer steps.")] = 1000,
    batch: Annotated[int, typer.Option("--batch", help="Images of one optimizer step.")] = 1,
    resolution: Annotated[
        int | None, typer.Option("--resolution", help="Height and width in pixels; the model's own if left out.")
    ] = None,
    height: _options.Height = None,
    width: _options.Width = None,
    gradient_checkpointing: Annotated[
        bool, typer.Option("--gradient-checkpointing", help="Compute blocks again in the backward pass.")
    ] = False,
    cache_latents: Annotated[
        bool, typer.Option("--cache-latents/--no-cache-latents", help="Images are encoded before training.")
    ] = False,
    cache_text: Annotated[
        bool, typer.Option("--cache-text/--no-cache-text", help="Captions are encoded before training.")
    ] = False,
    optimizer: Annotated[str, typer.Option("--optimizer", help="sgd, momentum, adam or adamw.")] = "adamw",
    target: Annotated[
        list[str] | None, typer.Option("--target", help="A layer that gets adapters; may be given several times.")
    ] = None,
    columns: _options.Columns = None,
    sort: _options.Sort = None,
    caption: _options.Caption = None,
    label: _options.Label = None,
    output_format: _options.Format = "table",
    as_json: _options.AsJson = False,
) -> None:
    """Show what training a diffusion model costs: forward, backward and optimizer. No weights are needed."""
    form = Form.of(output_format, as_json, columns=columns, sort=sort, caption=caption, label=label)
    for name, value in (("--resolution", resolution), ("--height", height), ("--width", width)):
        if value is not None and value < 1:
            raise InputError(f"{name} must be at least 1, got {value}")
    if resolution is not None and (height is not None or width is not None):
        raise InputError("give either --resolution or --height and --width, not both")
    sides = {"height": height or resolution, "width": width or resolution}
    with progress(f"Counting a training step of {model} without its weights"):
        from diffmeter.training.cost import LORA_TARGETS, training_cost

        cost = training_cost(
            model,
            method=method,  # type: ignore[arg-type]  # checked there, with the same words as for the library
            rank=rank,
            steps=steps,
            batch_size=batch,
            gradient_checkpointing=gradient_checkpointing,
            cache_text=cache_text,
            cache_latents=cache_latents,
            optimizer=optimizer,
            target_modules=tuple(target or LORA_TARGETS),
            **{name: value for name, value in sides.items() if value is not None},
        )
    form.write(cost)
