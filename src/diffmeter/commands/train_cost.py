"""``diffmeter train-cost``: what training the denoiser of a diffusion model costs."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

from diffmeter.errors import InputError
from diffmeter.units import format_count, format_integer, format_params, format_percent

from ._console import error_console, output_console

if TYPE_CHECKING:
    from diffmeter.training.cost import TrainingCost


def run(
    model: Annotated[str, typer.Argument(help="Model id of the catalogue or the hub, or a local folder.")],
    method: Annotated[str, typer.Option("--method", help="full (every parameter) or lora (adapters).")] = "lora",
    rank: Annotated[int, typer.Option("--rank", help="Rank of the LoRA adapters.")] = 16,
    steps: Annotated[int, typer.Option("--steps", help="Optimizer steps.")] = 1000,
    batch: Annotated[int, typer.Option("--batch", help="Pictures of one step.")] = 1,
    resolution: Annotated[
        int | None, typer.Option("--resolution", help="Height and width in pixels; the model's own if not given.")
    ] = None,
    height: Annotated[int | None, typer.Option("--height", help="Height in pixels.")] = None,
    width: Annotated[int | None, typer.Option("--width", help="Width in pixels.")] = None,
    gradient_checkpointing: Annotated[
        bool, typer.Option("--gradient-checkpointing", help="Compute blocks again in the backward pass.")
    ] = False,
    cache_latents: Annotated[
        bool, typer.Option("--cache-latents/--no-cache-latents", help="Pictures are encoded before training.")
    ] = False,
    cache_text: Annotated[
        bool, typer.Option("--cache-text/--no-cache-text", help="Captions are encoded before training.")
    ] = False,
    optimizer: Annotated[str, typer.Option("--optimizer", help="sgd, momentum, adam or adamw.")] = "adamw",
    target: Annotated[
        list[str] | None, typer.Option("--target", help="A layer that gets adapters; may be given several times.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON object and nothing else.")] = False,
) -> None:
    """Show what training a diffusion model costs: forward, backward and optimizer. No weights are needed."""
    for name, value in (("--resolution", resolution), ("--height", height), ("--width", width)):
        if value is not None and value < 1:
            raise InputError(f"{name} must be at least 1, got {value}")
    if resolution is not None and (height is not None or width is not None):
        raise InputError("give either --resolution or --height and --width, not both")
    with error_console().status("counting a training step without weights"):
        from diffmeter.training.cost import LORA_TARGETS, training_cost

        size = {"height": height or resolution, "width": width or resolution}
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
            **{name: value for name, value in size.items() if value is not None},
        )
    if as_json:
        print(json.dumps(cost.to_dict(), indent=2))
    else:
        _show(cost)


def _show(cost: TrainingCost) -> None:
    from rich.markup import escape
    from rich.table import Table

    console = output_console()
    how = "full fine-tuning" if cost.method == "full" else f"LoRA of rank {cost.rank}"
    size = "".join(f", {n} {cost.arguments[n]}" for n in ("height", "width") if n in cost.arguments)
    console.print(escape(
        f"{cost.model}: {how}, batch {cost.batch_size}{size}, {cost.optimizer}"
        + (", gradient checkpointing" if cost.gradient_checkpointing else "")
    ))  # fmt: skip
    table = Table(title="One training step (matrix products, in MACs)", title_justify="left")
    for name in ("Component", "Role"):
        table.add_column(name)
    for name in ("Parameters", "Trained", "Forward", "Backward", "Recomputed", "Step", "Share"):
        table.add_column(name, justify="right")
    for c in cost.components:
        remark = "cached: " if c.cached else ""
        table.add_row(
            escape(c.name), c.role, format_params(c.params), format_params(c.trained_params),
            remark + _macs(c.forward_macs), _macs(c.backward_macs), _macs(c.recomputed_macs), _macs(c.step_macs),
            format_percent(c.step_macs / cost.step_macs),
        )  # fmt: skip
    table.add_section()
    table.add_row(
        "Total", "", "", format_params(cost.trained_params), _macs(cost.forward_macs), _macs(cost.backward_macs),
        _macs(cost.recomputed_macs), _macs(cost.step_macs), format_percent(1),
    )  # fmt: skip
    console.print(table)
    for line in _lines(cost):
        console.print(escape(line))


def _lines(cost: TrainingCost) -> list[str]:
    lines = [
        f"One step: {format_count(cost.step_flops, 'FLOPs')} (products {format_count(2 * cost.step_macs, 'FLOPs')}, "
        f"optimizer {format_count(cost.optimizer_flops, 'FLOPs')})",
        f"{format_integer(cost.steps)} steps: {format_count(cost.total_flops, 'FLOPs')} "
        f"({format_count(cost.total_macs, 'MACs')} in products)",
    ]
    if cost.cache_macs:
        lines.append(f"Before training, once for what a batch reads: {format_count(cost.cache_macs, 'MACs')}")
    if cost.fused_attention_extra_macs:
        extra = format_count(cost.fused_attention_extra_macs, "MACs")
        lines.append(f"A fused attention kernel computes {extra} more in each backward pass, not included above.")
    lines += [f"Not counted: {c.name}: {c.reason}" for c in cost.components if c.reason]
    return lines + list(cost.notes)


def _macs(value: Any) -> str:
    return format_count(value, "MACs") if value != 0 else "-"
