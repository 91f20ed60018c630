"""``diffmeter generate``: images and what they cost."""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from . import _options
from ._console import TABLE, Answer, Form, error_console

if TYPE_CHECKING:
    from diffmeter.inference import GeneratedImage
    from diffmeter.reports.tables import Table

DEFAULT_MODEL = "diffmeter/shapes"
EXAMPLES = [
    'diffmeter generate "a red circle"',
    'diffmeter generate sd15 "a lighthouse at dusk" --steps 30 -n 2 -o lighthouse',
    'diffmeter generate --model ./my-model --prompt "a cat" --no-profiling',
]


def run(
    words: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[MODEL] [PROMPT]",
            help=f"Model id or folder ({DEFAULT_MODEL} if left out), and what to draw.",
            autocompletion=_options.complete_model,
        ),
    ] = None,
    prompt: Annotated[str | None, typer.Option("--prompt", "-p", help="What to draw; the same as PROMPT.")] = None,
    model: Annotated[str | None, typer.Option("--model", "-m", help="The same as MODEL.")] = None,
    negative_prompt: Annotated[str | None, typer.Option("--negative-prompt", help="What not to draw.")] = None,
    height: _options.Height = None,
    width: _options.Width = None,
    steps: _options.Steps = None,
    guidance: _options.Guidance = None,
    seed: Annotated[
        int | None, typer.Option("--seed", help="Seed of the first image; the others count on. Random if left out.")
    ] = None,
    num_images: Annotated[int, typer.Option("--num-images", "-n", help="Number of images, one call each.")] = 1,
    output: _options.Output = None,
    profiling: _options.Profiling = None,
    device: _options.Device = None,
    dtype: _options.Dtype = None,
    weights: _options.Weights = "auto",
    cpu_offload: _options.CpuOffload = None,
    attention_slicing: _options.AttentionSlicing = False,
    vae_slicing: _options.VaeSlicing = False,
    vae_tiling: _options.VaeTiling = False,
    output_format: _options.Format = TABLE,
    as_json: _options.AsJson = False,
) -> None:
    """Generate images with a model and write them with their compute profile."""
    from diffmeter.errors import whole_number

    form = Form.of(output_format, as_json)
    chosen, text = model_and_prompt(words or [], model, prompt)
    whole_number(num_images, "the number of images")
    load_options = _options.load_options(
        device, dtype, weights, cpu_offload, attention_slicing, vae_slicing, vae_tiling
    )
    first_seed = secrets.randbelow(2**32) if seed is None else seed
    request = {
        "prompt": text,
        "negative_prompt": negative_prompt,
        "height": height,
        "width": width,
        "num_inference_steps": steps,
        "guidance_scale": guidance,
        "enable_profiling": profiling,
    }
    results = _generate(chosen, request, first_seed, num_images, output, load_options)
    if form.name == TABLE:
        _print_results(chosen, results)
    else:
        form.write(Answer([_as_object(chosen, result) for result in results], lambda: _table(chosen, results)))


def model_and_prompt(words: list[str], model: str | None, prompt: str | None) -> tuple[str, str]:
    """What is to draw, and with which model: one word that names no model is the prompt.

    Raises:
        InputError: the prompt is missing, or there are more words than a model and a prompt.
    """
    from diffmeter.errors import InputError

    rest = list(words)
    if rest and model is None and (len(rest) > 1 or prompt is not None or _names_a_model(rest[0])):
        model = rest.pop(0)
    elif len(rest) == 2 and rest[0] == model:
        rest.pop(0)
    elif rest and model is not None and (prompt is not None or len(rest) > 1) and rest[0] != model:
        raise InputError(f"two models are named, {rest[0]!r} and {model!r}; use one.")
    elif rest and rest[0] == model:
        rest.pop(0)
    if rest and prompt is None:
        prompt = rest.pop(0)
    if rest:
        raise InputError(f"{rest[0]!r} is one word too many: put the prompt in quotation marks.")
    if prompt is None:
        raise InputError('a prompt is missing: add it in quotation marks, or --prompt "TEXT".')
    return model or DEFAULT_MODEL, prompt


def _names_a_model(word: str) -> bool:
    """Whether a word is a model of the catalog, a folder, or looks like an id of the hub."""
    from diffmeter.models import catalog

    if catalog.find(word) is not None or Path(word).is_dir():
        return True
    return re.fullmatch(r"[\w.-]+/[\w.-]+|\.{0,2}/.*", word) is not None


def _generate(
    model: str, request: dict[str, Any], seed: int, count: int, output: Path | None, load_options: dict[str, Any]
) -> list[GeneratedImage]:
    """The images one after the other, all in one folder."""
    from diffmeter.errors import DiffmeterError, one_line
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
                reason = one_line(error)
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


def _table(model: str, results: list[GeneratedImage]) -> Table:
    """One row an image, for files."""
    from diffmeter.reports.tables import Column, Kind, Row, Table

    def cells(result: GeneratedImage) -> dict[str, Any]:
        profile = result.profiling_data or {}
        known = {"macs": profile.get("total_macs"), "seconds": profile.get("inference_time_seconds")}
        return {"image": result.filepath, "model": model, "seed": str(result.seed), **known}

    return Table(
        columns=[
            Column("image", "Image"),
            Column("model", "Model"),
            Column("seed", "Seed"),
            Column("macs", "MACs", Kind.MACS),
            Column("seconds", "Time", Kind.SECONDS),
        ],
        rows=[Row(cells(result)) for result in results],
    )


def print_profile(name: str, data: dict[str, Any]) -> None:
    """The summary of a profile and its table by component, on standard output."""
    from diffmeter.profile import ComputeProfile
    from diffmeter.reports.console_block import console_block
    from diffmeter.reports.profile_tables import profile_table

    from ._console import print_table

    print("\n" + console_block(name, data))
    print_table(profile_table(ComputeProfile.from_dict(data)))
