"""``diffmeter batch``: many generations from one file, on one or many processes, safe to interrupt."""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from . import _options
from ._console import TABLE, Answer, Form, error_console, progress

if TYPE_CHECKING:
    from diffmeter.generation.batch.plan import Costs
    from diffmeter.generation.batch.runner import Progress
    from diffmeter.generation.batch.session import BatchResult
    from diffmeter.generation.request import GenerationRequest
    from diffmeter.reports.tables import Table, Value

EXAMPLES = [
    "diffmeter batch prompts.yaml --dry-run",
    "diffmeter batch prompts.csv --model sd15 -o results --resume",
    "accelerate launch -m diffmeter batch prompts.yaml -o results",
]


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
        int | None, typer.Option("--threads", help="CPU threads of each process; one for small models if left out.")
    ] = None,
    device: _options.Device = None,
    dtype: _options.Dtype = None,
    weights: _options.Weights = "auto",
    cpu_offload: _options.CpuOffload = None,
    attention_slicing: _options.AttentionSlicing = False,
    vae_slicing: _options.VaeSlicing = False,
    vae_tiling: _options.VaeTiling = False,
    columns: _options.Columns = None,
    sort: _options.Sort = None,
    output_format: _options.Format = TABLE,
    as_json: _options.AsJson = False,
) -> None:
    """Generate everything that SPEC asks for; with --resume, everything that is not there yet.

    Starts as it is or under `accelerate launch -m diffmeter batch SPEC ...`, which splits the work.
    """
    from diffmeter.errors import DiffmeterError
    from diffmeter.generation.batch.spec import load_spec, requests_of

    form = Form.of(output_format, as_json, columns=columns, sort=sort)
    load_options = _options.load_options(
        device, dtype, weights, cpu_offload, attention_slicing, vae_slicing, vae_tiling
    )
    try:
        loaded = load_spec(spec, model or [])
        requests = requests_of(loaded, str(spec))
        if dry_run:
            if _is_main():
                _print_plan(requests, output if resume else None, form)
            return
        result = _run(requests, loaded, output, resume, profiling, load_options, tracker or [], threads)
    except DiffmeterError:
        if _is_main():
            raise
        raise typer.Exit(2) from None  # the main process says it once for all
    if result.is_main:
        _print_result(result, spec, model or [], form)
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


def _print_result(result: BatchResult, spec: Path, models: Sequence[str], form: Form) -> None:
    from diffmeter.rendering import printable

    command = ["diffmeter", "batch", str(spec), *(part for name in models for part in ("--model", name))]
    command += ["--output", str(result.folder), "--resume"]
    resume = shlex.join(command)
    incomplete = result.remaining > 0 or result.failed > 0
    if form.name != TABLE:
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
        form.write(Answer(summary, lambda: _summary_table(summary)))
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


def _summary_table(summary: Mapping[str, Any]) -> Table:
    from diffmeter.reports.tables import Column, Row, Table

    known = {name: value for name, value in summary.items() if value not in (None, {})}
    rows = [Row({"name": name, "value": str(value)}) for name, value in known.items()]
    return Table(columns=[Column("name", "Name"), Column("value", "Value")], rows=rows)


def _print_plan(requests: list[GenerationRequest], resumed: Path | None, form: Form) -> None:
    """What would be generated and what that costs.

    Raises:
        DiffmeterError: not one of the generations could be counted.
    """
    from diffmeter.errors import DiffmeterError
    from diffmeter.generation.batch.plan import estimate_costs
    from diffmeter.storage.run_folder import RunFolder

    finished = RunFolder(resumed).finished_keys() if resumed is not None and resumed.is_dir() else set()
    todo = [request for request in requests if request.key not in finished]
    with progress("Counting what the batch would cost") as say:
        costs = estimate_costs(
            todo, on_progress=lambda done, of: say(f"Counting what the batch would cost: {done} of {of}")
        )
    plan = _plan_object(todo, costs, len(finished))
    form.write(Answer(plan, lambda: _plan_table(todo, costs, len(requests) - len(todo))))
    if todo and costs.unknown(todo) == len(todo):
        raise DiffmeterError("Nothing of this batch could be counted; the plan says why.")


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


def _plan_table(todo: Sequence[GenerationRequest], costs: Costs, already: int) -> Table:
    from diffmeter.reports.tables import Column, Kind, Row, Table
    from diffmeter.units import format_count

    groups: dict[tuple[Any, ...], list[GenerationRequest]] = {}
    for request in todo:
        group = (request.model_id, request.width, request.height, request.num_inference_steps, request.guidance_scale)
        groups.setdefault((*group, costs.macs.get(request.key)), []).append(request)
    total, unknown = costs.total(todo), costs.unknown(todo)
    bound = ">= " if unknown else ""
    before = f", {already} finished before" if already else ""
    return Table(
        columns=[
            Column("model", "Model"),
            Column("size", "Size", Kind.TEXT, 3),
            Column("steps", "Steps", Kind.INTEGER, 2),
            Column("guidance", "Guidance", Kind.NUMBER, 4),
            Column("images", "Images", Kind.INTEGER, 1),
            Column("macs_each", "MACs each", Kind.MACS, 1),
            Column("macs", "MACs", Kind.MACS),
        ],
        rows=[Row(_plan_cells(group, len(of_group))) for group, of_group in groups.items()],
        warning=f"INCOMPLETE: {unknown} of {len(todo)} images could not be counted." if unknown else None,
        facts=[
            ("Images to generate", f"{len(todo)}{before}"),
            ("Total compute", f"{bound}{format_count(total, 'MACs')} ({bound}{format_count(2 * total, 'FLOPs')})"),
            *(("Not counted", f"{model_id}: {reason}") for model_id, reason in costs.problems.items()),
        ],
    )


def _plan_cells(group: tuple[Any, ...], images: int) -> dict[str, Value]:
    model_id, width, height, steps, guidance, macs = group
    cells: dict[str, Value] = {
        "model": model_id,
        "size": f"{width} x {height}" if width and height else "default",
        "images": images,
        "macs_each": macs,
        "macs": None if macs is None else macs * images,
    }
    known = {"steps": steps, "guidance": guidance}
    return cells | {key: value for key, value in known.items() if value is not None}
