"""Options that several commands share: how models are loaded and where results go."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

Output = Annotated[
    Path | None,
    typer.Option("--output", "-o", "--output-dir", help="Folder for the results; outputs/<timestamp> if left out."),
]
Profiling = Annotated[
    bool | None, typer.Option("--profiling/--no-profiling", help="Count the compute of each image or not.")
]
Device = Annotated[str | None, typer.Option(help="auto, cpu, cuda, cuda:1, mps, ...")]
Dtype = Annotated[str | None, typer.Option(help="auto, float32, float16 or bfloat16.")]
Weights = Annotated[str, typer.Option(help="auto, or random: the model's structure with random weights.")]
CpuOffload = Annotated[str | None, typer.Option(help="none, model or sequential; saves device memory.")]
AttentionSlicing = Annotated[bool, typer.Option("--attention-slicing", help="Less memory, slower.")]
VaeSlicing = Annotated[bool, typer.Option("--vae-slicing", help="Decode image by image.")]
VaeTiling = Annotated[bool, typer.Option("--vae-tiling", help="Decode tile by tile.")]


def load_options(
    device: str | None,
    dtype: str | None,
    weights: str,
    cpu_offload: str | None,
    attention_slicing: bool,
    vae_slicing: bool,
    vae_tiling: bool,
) -> dict[str, Any]:
    """The keyword arguments of ``load_model``; a switch that was not given is left to the settings."""
    return {
        "device": device,
        "dtype": dtype,
        "weights": weights,
        "cpu_offload": cpu_offload,
        "attention_slicing": attention_slicing or None,
        "vae_slicing": vae_slicing or None,
        "vae_tiling": vae_tiling or None,
    }
