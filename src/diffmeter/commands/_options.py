"""The options of the command line: each has the same names, aliases and meaning in every verb that takes it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer


def complete_model(incomplete: str) -> Iterator[str]:
    """Ids of the catalog that begin as typed, for the completion of the shell."""
    from diffmeter.models import catalog

    for entry in catalog.entries():
        yield from (name for name in (entry.model_id, *entry.aliases) if name.startswith(incomplete))


_MODEL = "Id or alias of the catalog, id on the hub, or local folder"

# what is measured

Model = Annotated[str, typer.Argument(help=f"{_MODEL}; no weights are read.", autocompletion=complete_model)]
Models = Annotated[
    list[str],
    typer.Argument(help=f"{_MODEL}, or a saved profile (.json, .png).", autocompletion=complete_model),
]
Prompt = Annotated[str | None, typer.Option("--prompt", "-p", help="The text, where its length matters.")]
Height = Annotated[int | None, typer.Option("--height", help="Height in pixels; alone it makes square images.")]
Width = Annotated[int | None, typer.Option("--width", help="Width in pixels; alone it makes square images.")]
Steps = Annotated[int | None, typer.Option("--steps", "--num-inference-steps", help="Number of denoising steps.")]
Guidance = Annotated[
    float | None, typer.Option("--guidance-scale", "--guidance", help="Strength of the guidance by the prompt.")
]
Batch = Annotated[
    int | None, typer.Option("--batch", "--num-images-per-prompt", help="Images made by one call; 1 if left out.")
]
Frames = Annotated[int | None, typer.Option("--num-frames", "--frames", help="Frames of a video.")]
Tokens = Annotated[int | None, typer.Option("--tokens", help="Number of tokens that a prompt is taken to have.")]
Revision = Annotated[str | None, typer.Option("--revision", help="Branch, tag or commit of a model on the hub.")]
Variant = Annotated[str | None, typer.Option("--variant", help="Variant of a model's files on the hub, such as fp16.")]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Run the pipeline's own code, also where the answer is known as a formula.")
]

Config = Annotated[
    str | None,
    typer.Option("--config", help="Folder or model with the configuration of a single file of weights."),
]
ImageSize = Annotated[
    int | None, typer.Option("--image-size", help="Side in pixels of the image that stands in where one is needed.")
]
Strength = Annotated[
    float | None, typer.Option("--strength", help="How much of an input image is changed, from 0 to 1.")
]
Set = Annotated[
    list[str] | None,
    typer.Option("--set", help="Any argument of the pipeline's call, NAME=VALUE; may be given several times."),
]

# what is put onto a model

Lora = Annotated[
    list[str] | None, typer.Option("--lora", help="A LoRA, FILE_OR_ID[:scale]; may be given several times.")
]
FuseLora = Annotated[bool, typer.Option("--fuse-lora", help="Add the LoRAs into the weights.")]
ControlNet = Annotated[
    list[str] | None, typer.Option("--controlnet", help="Folder or id of a ControlNet; may be given several times.")
]
IpAdapter = Annotated[
    list[str] | None, typer.Option("--ip-adapter", help="File of an IP-Adapter, on this machine or the hub.")
]
T2iAdapter = Annotated[str | None, typer.Option("--t2i-adapter", help="Folder or id of a T2I-Adapter.")]
Vae = Annotated[str | None, typer.Option("--vae", help="Folder or id of another autoencoder.")]
Scheduler = Annotated[str | None, typer.Option("--scheduler", help="Another scheduler, such as EulerDiscrete.")]

Gpu = Annotated[
    str | None, typer.Option("--gpu", help="Also predict time, memory, energy and money on this GPU (see predict).")
]

# how it is shown

AsJson = Annotated[bool, typer.Option("--json", help="The same as --format json: one JSON value and nothing else.")]
Format = Annotated[
    str,
    typer.Option(
        "--format", "-f", help="table, json, csv, markdown, latex, html, or your own as package.module:function."
    ),
]
Columns = Annotated[
    str | None, typer.Option("--columns", help="Columns to show, such as model,params,macs; another name lists all.")
]
Sort = Annotated[str | None, typer.Option("--sort", help="Column to sort by; -NAME puts the largest first.")]
Convention = Annotated[
    str | None,
    typer.Option("--convention", help="total (the default), products, or paper: products without attention."),
]
Per = Annotated[
    str | None, typer.Option("--per", help="forward (of one sample), step or image; the whole generation if left out.")
]
Depth = Annotated[int | None, typer.Option("--depth", help="One row a module, so many levels below its component.")]
Caption = Annotated[str | None, typer.Option("--caption", help="Caption of a LaTeX table.")]
Label = Annotated[str | None, typer.Option("--label", help="Label of a LaTeX table.")]
Plot = Annotated[Path | None, typer.Option("--plot", help="Also draw the result: FILE.png or FILE.svg.")]

# how models are loaded, and where results go

Output = Annotated[
    Path | None,
    typer.Option("--output", "-o", "--output-dir", help="Folder for the results; outputs/<timestamp> if left out."),
]
Profiling = Annotated[
    bool | None, typer.Option("--profiling/--no-profiling", help="Count the compute of each image or not.")
]
Device = Annotated[str | None, typer.Option("--device", help="auto, cpu, cuda, cuda:1, mps, ...")]
Dtype = Annotated[str | None, typer.Option("--dtype", help="auto, float32, float16 or bfloat16.")]
Weights = Annotated[str, typer.Option("--weights", help="auto, or random: the model's structure with random weights.")]
CpuOffload = Annotated[
    str | None, typer.Option("--cpu-offload", help="none, model or sequential; saves device memory.")
]
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


def call_arguments(settings: list[str] | None) -> dict[str, Any]:
    """The arguments that ``--set NAME=VALUE`` gives: numbers, true, false, null and lists as in JSON, else text.

    Raises:
        InputError: one has no name or no value.
    """
    import json

    from diffmeter.errors import InputError

    arguments: dict[str, Any] = {}
    for setting in settings or ():
        name, equals, value = setting.partition("=")
        if not equals or not name.isidentifier():
            raise InputError(f"--set takes NAME=VALUE, not {setting!r}.")
        try:
            arguments[name] = json.loads(value)
        except json.JSONDecodeError:
            arguments[name] = value
    return arguments
