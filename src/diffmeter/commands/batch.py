"""``diffmeter batch``: many generations from one file, on one or many processes, safe to interrupt."""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from . import _options

if TYPE_CHECKING:
    from diffmeter.generation.batch.plan import Costs
    from diffmeter.generation.batch.runner import Progress
    from diffmeter.generation.batch.session import BatchResult
    from diffmeter.generation.request import GenerationRequest


def run(
    spec: Annotated[
        Path, typer.Argument(help="YAML, JSON or CSV file that says what to generate; see docs/BATCH.md.")
    ],
    output: _options.Output = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the batch in the folder, or start if there is none.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the plan and its compute; generate nothing.")
    ] = False,
    model: Annotated[
        list[str] | None, typer.Option("--model", "-m", help="Model where the file names none; may be repeated.")
    ] = None,
    profiling: _options.Profiling = None,
    tracker: Annotated[
        list[str] | None, typer.Option("--tracker", help="tensorboard, wandb, mlflow, ...; may be repeated.")
    ] = None,
    threads: Annotated[
        int | None, typer.Option(help="CPU threads of each process; one for small models if left out.")
    ] = None,
    device: _options.Device = None,
    dtype: _options.Dtype = None,
    weights: _options.Weights = "auto",
    cpu_offload: _options.CpuOffload = None,
    attention_slicing: _options.AttentionSlicing = False,
    vae_slicing: _options.VaeSlicing = False,
    vae_tiling: _options.VaeTiling = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print only a JSON object.")] = False,
) -> None:
    """Generate everything that SPEC asks for; with --resume, everything that is not there yet.

    Starts as it is or under `accelerate launch -m diffmeter batch SPEC ...`, which splits the work.
    """
    from diffmeter.errors import DiffmeterError
    from diffmeter.generation.batch.spec import load_spec, requests_of

    load_options = _options.load_options(
        device, dtype, weights, cpu_offload, attention_slicing, vae_slicing, vae_tiling
    )
    try:
        loaded = load_spec(spec, model or [])
        requests = requests_of(loaded, str(spec))
        if dry_run:
            if _is_main():
                _print_plan(requests, output if resume else None, as_json)
            return
        result = _run(requests, loaded, output, resume, profiling, load_options, tracker or [], threads)
    except DiffmeterError:
        if _is_main():
            raise
        raise typer.Exit(2) from None  # the main process says it once for all
    if result.is_main:
        _print_result(result, spec, model or [], as_json)
        raise typer.Exit(result.exit_code)
    # The main process answers for the whole batch; a launcher would take another failure for a crash.
    if result.processes_lost:
        raise typer.Exit(1)


def _is_main() -> bool:
    return int(os.environ.get("RANK", "0") or 0) == 0


def _run(
    requests: Sequence[GenerationRequest],
    spec: dict[str, Any],
    output: Path | None,
    resume: bool,
    profiling: bool | None,
    load_options: dict[str, Any],
    trackers: Sequence[str],
    threads: int | None,
) -> BatchResult:
    from diffmeter.generation.batch.display import silence_loading_bars
    from diffmeter.generation.batch.session import run_batch

    from ._console import error_console

    silence_loading_bars()
    console = error_console()
    make_progress: Callable[[Sequence[GenerationRequest], Costs], Progress] | None = None
    if console.is_terminal and _is_main():

        def make_progress(todo: Sequence[GenerationRequest], costs: Costs) -> Progress:
            from diffmeter.generation.batch.display import BatchProgress

            return BatchProgress(todo, costs, console)

    def say_stopping(name: str) -> None:
        if _is_main():
            typer.echo(f"{name}: finishing the current image; press Ctrl-C again to stop at once.", err=True)

    return run_batch(
        requests,
        output,
        resume=resume,
        profiling=profiling,
        spec=spec,
        load_options=load_options,
        trackers=trackers,
        threads=threads,
        make_progress=make_progress,
        on_stop=say_stopping,
    )


def _print_result(result: BatchResult, spec: Path, models: Sequence[str], as_json: bool) -> None:
    from diffmeter.generation.batch.display import printable

    command = ["diffmeter", "batch", str(spec), *(part for name in models for part in ("--model", name))]
    command += ["--output", str(result.folder), "--resume"]
    resume = shlex.join(command)
    incomplete = result.remaining > 0 or result.failed > 0
    if as_json:
        summary = {
            "folder": str(result.folder),
            "planned": result.planned,
            "finished": result.finished,
            "already_finished": result.already,
            "failed": result.failed,
            "remaining": result.remaining,
            "failures": result.failures,
            "stopped_by": result.stopped_by,
            "storage_error": result.storage_error,
            "resume": resume if incomplete else None,
        }
        print(json.dumps(summary, indent=2))
    else:
        print(f"{result.already + result.finished} of {result.planned} images are in {result.folder}")
        if result.already:
            print(f"  {result.already} of them were finished before")
        print(f"Records: {result.folder / 'generation_config.json'}, runs.jsonl, summary.csv")
    if result.storage_error is not None:
        typer.echo(f"diffmeter: {result.storage_error}", err=True)
    for model_id, reason in result.failures.items():
        typer.echo(f"failed: {printable(model_id, 200)}: {printable(reason, 500)}", err=True)
    if result.processes_lost:
        typer.echo("a process of the batch has died; what it had finished is kept.", err=True)
    if incomplete:
        typer.echo(f"{result.failed} failed, {result.remaining} not done; go on with: {resume}", err=True)


def _print_plan(requests: list[GenerationRequest], resumed: Path | None, as_json: bool) -> None:
    """What would be generated and what that costs."""
    from diffmeter.generation.batch.plan import estimate_costs
    from diffmeter.storage.run_folder import RunFolder

    finished = RunFolder(resumed).finished_keys() if resumed is not None and resumed.is_dir() else set()
    todo = [request for request in requests if request.key not in finished]
    costs = estimate_costs(todo)
    if as_json:
        print(json.dumps(_plan_object(todo, costs, len(finished)), indent=2))
        return
    _print_plan_table(todo, costs, len(requests) - len(todo))


def _plan_object(todo: Sequence[GenerationRequest], costs: Costs, already: int) -> dict[str, Any]:
    total = costs.total(todo)
    return {
        "planned": len(todo),
        "already_finished": already,
        "total_macs": total,
        "total_flops": 2 * total,
        "not_counted": {"generations": costs.unknown(todo), "reasons": costs.problems},
        "generations": [
            {
                "key": request.key,
                "model_id": request.model_id,
                "prompt": request.prompt,
                "negative_prompt": request.negative_prompt,
                "seed": request.seed,
                "width": request.width,
                "height": request.height,
                "num_inference_steps": request.num_inference_steps,
                "guidance_scale": request.guidance_scale,
                "total_macs": costs.macs.get(request.key),
            }
            for request in todo
        ],
    }


def _print_plan_table(todo: Sequence[GenerationRequest], costs: Costs, already: int) -> None:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    from diffmeter.generation.batch.display import printable
    from diffmeter.units import format_count

    from ._console import output_console

    rows: dict[tuple[Any, ...], list[GenerationRequest]] = {}
    for request in todo:
        group = (request.model_id, request.width, request.height, request.num_inference_steps, request.guidance_scale)
        rows.setdefault((*group, costs.macs.get(request.key)), []).append(request)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in ("Model", "Size", "Steps", "Guidance", "Images", "MACs each", "MACs"):
        table.add_column(name, justify="left" if name == "Model" else "right")
    for (model_id, width, height, steps, guidance, macs), group_requests in rows.items():
        table.add_row(
            Text(printable(model_id, 60)),
            f"{width} x {height}" if width and height else "default",
            str(steps or "default"),
            "default" if guidance is None else f"{guidance:g}",
            str(len(group_requests)),
            format_count(macs, "MACs"),
            format_count(None if macs is None else macs * len(group_requests), "MACs"),
        )
    output_console().print(table)
    total = costs.total(todo)
    known = len(todo) - costs.unknown(todo)
    print(f"{len(todo)} images to generate" + (f", {already} finished before" if already else ""))
    print(f"Total compute: {format_count(total, 'MACs')} ({format_count(2 * total, 'FLOPs')}) for {known} of them")
    for model_id, reason in costs.problems.items():
        print(f"Not counted: {printable(model_id, 80)}: {printable(reason, 300)}")
