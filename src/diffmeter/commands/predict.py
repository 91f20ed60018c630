"""``diffmeter predict``: how long a generation takes, whether it fits and what it costs, on a GPU that is not here."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from diffmeter.prediction.result import Prediction

Gpus = Annotated[
    list[str] | None, typer.Option("--gpu", help="Name in the table, or a .json file like its own; may be repeated.")
]
Vram = Annotated[float | None, typer.Option("--vram", help="Memory in GiB, of a GPU that need not be named.")]
Batches = Annotated[str, typer.Option("--batch", help="Images or videos made by one call; several as 1,4,8.")]
Compile = Annotated[bool, typer.Option("--compile", help="With torch.compile: fused kernels, recorded launches.")]
Offload = Annotated[str | None, typer.Option("--offload", help="none, model, group or sequential.")]
Tiling = Annotated[bool, typer.Option("--vae-tiling", help="Decode in tiles, image by image.")]
WeightDtype = Annotated[str | None, typer.Option("--weight-dtype", help="float8, int8 or nf4, for the denoiser.")]
Price = Annotated[float | None, typer.Option("--usd-per-hour", help="Price of one GPU; the table's if left out.")]
Grid = Annotated[float | None, typer.Option("--grams-per-kwh", help="CO2 of the grid, for grams of CO2.")]


def run(
    model: Annotated[str, typer.Argument(help="Id or alias of the catalog, id on the hub, or local folder.")],
    gpu: Gpus = None,
    vram: Vram = None,
    batch: Batches = "1",
    height: Annotated[int | None, typer.Option(help="Height in pixels; alone it makes square images.")] = None,
    width: Annotated[int | None, typer.Option(help="Width in pixels; alone it makes square images.")] = None,
    steps: Annotated[int | None, typer.Option(help="Number of denoising steps.")] = None,
    guidance: Annotated[float | None, typer.Option("--guidance-scale", "--guidance", help="Guidance scale.")] = None,
    num_frames: Annotated[int | None, typer.Option("--num-frames", help="Frames of a video.")] = None,
    prompt: Annotated[str | None, typer.Option(help="The text, where its length matters.")] = None,
    tokens: Annotated[int | None, typer.Option(help="Number of tokens that a prompt is taken to have.")] = None,
    dtype: Annotated[str | None, typer.Option(help="bfloat16 (the default), float16 or float32.")] = None,
    compiled: Compile = False,
    offload: Offload = None,
    tiling: Tiling = False,
    weight_dtype: WeightDtype = None,
    gpus: Annotated[int, typer.Option("--gpus", help="GPUs that share one call.")] = 1,
    ulysses: Annotated[int | None, typer.Option("--ulysses", help="Of them, those that share the heads.")] = None,
    ring: Annotated[int | None, typer.Option("--ring", help="Of them, those that pass keys and values on.")] = None,
    peak: Annotated[float | None, typer.Option("--peak", help="Dense peak in TFLOP/s at the dtype.")] = None,
    bandwidth: Annotated[float | None, typer.Option("--bandwidth", help="Memory bandwidth in GB/s.")] = None,
    usd_per_hour: Price = None,
    grams_per_kwh: Grid = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print a list of predictions and nothing else.")] = False,
) -> None:
    """Predict time, memory, energy and money of a generation: no device and no weights are needed.

    One row a GPU and batch. Time is of a warm call; the range holds nine measurements in ten.
    """
    from diffmeter.prediction.predict import predictions

    found = predictions(
        model,
        gpu=gpu or [],
        vram=vram,
        batches=_batches(batch),
        peak=peak,
        bandwidth=bandwidth,
        dtype=dtype,
        compile=compiled,
        offload=offload,
        tiling=tiling,
        weight_dtype=weight_dtype,
        gpus=gpus,
        ulysses=ulysses,
        ring=ring,
        usd_per_hour=usd_per_hour,
        grams_per_kwh=grams_per_kwh,
        tokens=tokens,
        height=height,
        width=width,
        steps=steps,
        guidance_scale=guidance,
        num_frames=num_frames,
        prompt=prompt,
    )
    if as_json:
        json.dump([prediction.to_dict() for prediction in found], sys.stdout, indent=2)
        print()
        return
    _print(found)


def _batches(text: str) -> list[int]:
    from diffmeter.errors import InputError

    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise InputError(f"--batch {text!r} is no list of whole numbers: write 4, or 1,4,8.") from None


def _print(found: list[Prediction]) -> None:
    from rich.text import Text

    from diffmeter.reports.prediction_tables import components_table, prediction_facts, predictions_table

    from ._console import output_console

    console = output_console()
    console.print(predictions_table(found))
    if len(found) == 1:
        console.print(components_table(found[0]))
    for line in prediction_facts(found):
        console.print(Text(line), soft_wrap=True)
