"""``diffmeter generate``: images and what they cost."""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from . import _options

if TYPE_CHECKING:
    from diffmeter.inference import GeneratedImage

DEFAULT_MODEL = "diffmeter/shapes"


def run(
    model: Annotated[
        str | None, typer.Argument(help=f"Model id or folder in the diffusers layout. [default: {DEFAULT_MODEL}]")
    ] = None,
    prompt: Annotated[str | None, typer.Option("--prompt", "-p", help="What to draw.")] = None,
    model_option: Annotated[str | None, typer.Option("--model", "-m", help="The same as MODEL.")] = None,
    negative_prompt: Annotated[str | None, typer.Option("--negative-prompt", help="What not to draw.")] = None,
    height: Annotated[int | None, typer.Option(help="Height in pixels; the model's own if left out.")] = None,
    width: Annotated[int | None, typer.Option(help="Width in pixels; the model's own if left out.")] = None,
    steps: Annotated[
        int | None, typer.Option("--steps", "--num-inference-steps", help="Number of denoising steps.")
    ] = None,
    guidance: Annotated[
        float | None, typer.Option("--guidance", "--guidance-scale", help="Strength of the guidance by the prompt.")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of the first image; the others count on. Random.")] = None,
    num_images: Annotated[int, typer.Option("--num-images", "-n", help="Number of images.")] = 1,
    output: _options.Output = None,
    profiling: _options.Profiling = None,
    device: _options.Device = None,
    dtype: _options.Dtype = None,
    weights: _options.Weights = "auto",
    cpu_offload: _options.CpuOffload = None,
    attention_slicing: _options.AttentionSlicing = False,
    vae_slicing: _options.VaeSlicing = False,
    vae_tiling: _options.VaeTiling = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print only a JSON list, one object an image.")] = False,
) -> None:
    """Generate images with a model and write them with their compute profile."""
    from diffmeter.errors import InputError

    if model is not None and model_option is not None and model != model_option:
        raise InputError(f"two models are named, {model!r} and {model_option!r}; use one.")
    if prompt is None:
        raise InputError("a prompt is missing: add --prompt TEXT.")
    if num_images < 1:
        raise InputError(f"the number of images must be at least 1, not {num_images}.")
    chosen = model or model_option or DEFAULT_MODEL
    load_options = _options.load_options(
        device, dtype, weights, cpu_offload, attention_slicing, vae_slicing, vae_tiling
    )
    first_seed = secrets.randbelow(2**32) if seed is None else seed
    request = {
        "prompt": prompt,
        "negative_prompt": negative_prompt,
        "height": height,
        "width": width,
        "num_inference_steps": steps,
        "guidance_scale": guidance,
        "enable_profiling": profiling,
    }
    results = _generate(chosen, request, first_seed, num_images, output, load_options)
    if as_json:
        print(json.dumps([_as_object(chosen, result) for result in results], indent=2))
    else:
        _print_results(chosen, results)


def _generate(
    model: str, request: dict[str, Any], seed: int, count: int, output: Path | None, load_options: dict[str, Any]
) -> list[GeneratedImage]:
    """The images one after the other, all in one folder."""
    from diffmeter.errors import DiffmeterError
    from diffmeter.generation.batch.display import silence_loading_bars
    from diffmeter.generation.request import GenerationRequest
    from diffmeter.inference import generate_image

    # The last seed is checked first, so that a bad one fails before the first image and not after the last but one.
    checked = {name: value for name, value in request.items() if name != "enable_profiling"}
    GenerationRequest(model_id=model, seed=seed + count - 1, **checked).validated()
    silence_loading_bars()
    results: list[GeneratedImage] = []
    with _step_bar(count) as on_step:
        for number in range(count):
            try:
                result = generate_image(
                    model,
                    seed=seed + number,
                    output_dir=output,
                    on_step=on_step(number),
                    print_profile=False,
                    **request,
                    **load_options,
                )
            except (DiffmeterError, KeyboardInterrupt):
                raise
            except Exception as error:
                reason = " ".join(str(error).split()) or type(error).__name__
                typer.echo(f"diffmeter: the generation failed: {type(error).__name__}: {reason}", err=True)
                if results:
                    typer.echo(f"{len(results)} finished images are in {Path(results[0].filepath).parent}", err=True)
                raise typer.Exit(1) from error
            results.append(result)
            output = Path(result.filepath).parent
    return results


@contextmanager
def _step_bar(count: int) -> Iterator[Callable[[int], Callable[[int], None] | None]]:
    """A bar of steps on standard error where that is a terminal; gives the step callback for an image."""
    from ._console import error_console

    console = error_console()
    if not console.is_terminal:
        yield lambda number: None
        return
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = TextColumn("{task.description}"), BarColumn(), TextColumn("step {task.completed}"), TimeElapsedColumn()
    with Progress(*columns, console=console, transient=True) as bars:
        task = bars.add_task("loading", total=None)

        def for_image(number: int) -> Callable[[int], None]:
            bars.update(task, description=f"image {number + 1} of {count}", completed=0)
            return lambda step: bars.update(task, completed=step)

        yield for_image


def _as_object(model: str, result: GeneratedImage) -> dict[str, Any]:
    return {
        "model_id": model,
        "image_path": result.filepath,
        "seed": result.seed,
        "compute_profile": result.profiling_data,
    }


def _print_results(model: str, results: list[GeneratedImage]) -> None:
    from diffmeter.models.sources import source_of
    from diffmeter.units import format_seconds

    shown: Any = None
    for result in results:
        print(f"Image: {result.filepath}  (seed {result.seed})")
        profile = result.profiling_data
        if not profile:
            continue
        if not profile.get("enabled"):
            print(f"Not profiled: {profile.get('reason')}")
            continue
        cost = (profile.get("total_macs"), profile.get("total_params"))
        if cost == shown:  # the same cost again: only the time is new
            print(f"  the same compute; inference time {format_seconds(profile.get('inference_time_seconds'))}")
            continue
        shown = cost
        print_profile(source_of(model).short_name, profile)
    print(f"Records: {Path(results[0].filepath).parent / 'generation_config.json'}")


def print_profile(name: str, data: dict[str, Any]) -> None:
    """The summary of a profile and its table by component, on standard output."""
    from diffmeter.generation.batch.display import printable
    from diffmeter.profile import ComputeProfile
    from diffmeter.reports.profile_tables import profile_facts, profile_table

    from ._console import output_console

    console = output_console()
    print(f"\nCompute Profile for {printable(name, 80)}:")
    for label, key in (
        ("Parameters", "params_str"),
        ("FLOPs (total)", "total_flops_str"),
        ("MACs (total)", "total_macs_str"),
        ("FLOPs/step", "flops_per_step_str"),
        ("MACs/step", "macs_per_step_str"),
        ("Steps", "num_inference_steps"),
        ("Inference time", "inference_time_str"),
    ):
        if data.get(key) is not None:
            print(f"   {label}: {data[key]}")
    profile = ComputeProfile.from_dict(data)
    console.print(profile_table(profile))
    complete = dict(profile_facts(profile)).get("Complete")
    if complete is not None:
        print(f"Complete: {printable(complete)}")
