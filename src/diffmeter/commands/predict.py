"""``diffmeter predict``: how long a generation takes, whether it fits and what it costs, on a GPU that is not here."""

from __future__ import annotations

from typing import Annotated

import typer

from . import _options
from ._console import TABLE, Answer, Form, print_table, progress

EXAMPLES = [
    "diffmeter predict sdxl --gpu h100-sxm --gpu rtx-4090 --batch 1,4,8 --steps 30",
    "diffmeter predict black-forest-labs/FLUX.1-dev --vram 24",
    "diffmeter predict sd35-medium --gpu l40s --compile --usd-per-hour 0.9 --grams-per-kwh 350",
]

Gpus = Annotated[
    list[str] | None, typer.Option("--gpu", help="Name in the table, or a .json file like its own; may be repeated.")
]
Vram = Annotated[float | None, typer.Option("--vram", help="Memory in GiB, of a GPU that need not be named.")]
Batches = Annotated[
    str,
    typer.Option("--batch", "--num-images-per-prompt", help="Images or videos made by one call; several as 1,4,8."),
]
Compile = Annotated[bool, typer.Option("--compile", help="With torch.compile: fused kernels, recorded launches.")]
Offload = Annotated[str | None, typer.Option("--offload", help="none, model, group or sequential.")]
Tiling = Annotated[bool, typer.Option("--vae-tiling", help="Decode tile by tile.")]
WeightDtype = Annotated[str | None, typer.Option("--weight-dtype", help="float8, int8 or nf4, for the denoiser.")]
Price = Annotated[float | None, typer.Option("--usd-per-hour", help="Price of one GPU; the table's if left out.")]
Grid = Annotated[float | None, typer.Option("--grams-per-kwh", help="CO2 of the grid, for grams of CO2.")]


def run(
    model: _options.Model,
    gpu: Gpus = None,
    vram: Vram = None,
    batch: Batches = "1",
    height: _options.Height = None,
    width: _options.Width = None,
    steps: _options.Steps = None,
    guidance: _options.Guidance = None,
    frames: _options.Frames = None,
    prompt: _options.Prompt = None,
    tokens: _options.Tokens = None,
    dtype: Annotated[str | None, typer.Option("--dtype", help="bfloat16 (the default), float16 or float32.")] = None,
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
    columns: _options.Columns = None,
    sort: _options.Sort = None,
    output_format: _options.Format = TABLE,
    as_json: _options.AsJson = False,
) -> None:
    """Predict time, memory, energy and money of a generation: no device and no weights are needed.

    One row a GPU and batch. Time is of a warm call; the range holds nine measurements in ten.
    """
    form = Form.of(output_format, as_json, columns=columns, sort=sort)
    with progress(f"Predicting {model}"):
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
            num_frames=frames,
            prompt=prompt,
        )
    from diffmeter.reports.prediction_tables import components_table, predictions_table

    form.write(Answer([prediction.to_dict() for prediction in found], lambda: predictions_table(found)))
    if form.name == TABLE and len(found) == 1:
        print_table(components_table(found[0]))


def _batches(text: str) -> list[int]:
    from diffmeter.errors import InputError

    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise InputError(f"--batch {text!r} is no list of whole numbers: write 4, or 1,4,8.") from None
