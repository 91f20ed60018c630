"""What training costs, as a table: one row a component of a training step."""

from __future__ import annotations

from typing import TYPE_CHECKING

from diffmeter.units import format_count, format_integer

from .profile_tables import bound
from .tables import Column, Kind, Row, Table, Value

if TYPE_CHECKING:
    from diffmeter.training.cost import ComponentCost, TrainingCost


def training_table(cost: TrainingCost) -> Table:
    """One row a component; MACs are those of the products of one step."""
    return Table(
        columns=[
            Column("component", "Component"),
            Column("role", "Role", Kind.TEXT, 8),
            Column("params", "Params", Kind.PARAMS, 5),
            Column("trained_params", "Trained", Kind.PARAMS, 2),
            Column("forward", "Forward", Kind.MACS, 1),
            Column("backward", "Backward", Kind.MACS, 1),
            Column("recomputed", "Recomputed", Kind.MACS, 6),
            Column("step", "Step", Kind.MACS),
            *([Column("share", "Share", Kind.PERCENT, 3)] if cost.complete else []),
        ],
        rows=[Row(_cells(cost, component), component.reason) for component in cost.components],
        total=Row(_total(cost)),
        title=_title(cost),
        warning=None if cost.complete else "INCOMPLETE: not everything was counted, so every total is a lower bound.",
        facts=_facts(cost),
        notes=["MACs are those of the products of one training step.", *cost.notes],
    )


def _cells(cost: TrainingCost, part: ComponentCost) -> dict[str, Value]:
    cells: dict[str, Value] = {
        "component": part.name + (" (cached)" if part.cached else ""),
        "role": part.role,
        "params": part.params,
        "trained_params": part.trained_params,
        "forward": part.forward_macs,
        "backward": part.backward_macs,
        "recomputed": part.recomputed_macs,
        "step": part.step_macs if part.reason is None else None,
    }
    return cells | ({"share": part.step_macs / cost.step_macs} if cost.complete and cost.step_macs else {})


def _total(cost: TrainingCost) -> dict[str, Value]:
    cells: dict[str, Value] = {
        "component": "total",
        "params": sum(part.params for part in cost.components),
        "trained_params": cost.trained_params,
        "forward": bound(cost.forward_macs, cost.complete),
        "backward": bound(cost.backward_macs, cost.complete),
        "recomputed": bound(cost.recomputed_macs, cost.complete),
        "step": bound(cost.step_macs, cost.complete),
    }
    return cells | ({"share": 1.0} if cost.complete and cost.step_macs else {})


def _title(cost: TrainingCost) -> str:
    how = "full fine-tuning" if cost.method == "full" else f"LoRA of rank {cost.rank}"
    size = (
        [f"{cost.arguments['width']} x {cost.arguments['height']}"]
        if {"width", "height"} <= set(cost.arguments)
        else []
    )
    checkpointing = ["gradient checkpointing"] if cost.gradient_checkpointing else []
    parts = [*size, how, f"batch {cost.batch_size}", f"{cost.steps} steps", cost.optimizer, *checkpointing]
    return f"{cost.model}: {', '.join(parts)}"


def _facts(cost: TrainingCost) -> list[tuple[str, str]]:
    sign = "" if cost.complete else ">= "
    facts = [
        (
            "One step",
            f"{sign}{format_count(cost.step_flops, 'FLOPs')} (products {format_count(2 * cost.step_macs, 'FLOPs')}, "
            f"optimizer {format_count(cost.optimizer_flops, 'FLOPs')})",
        ),
        (
            f"{format_integer(cost.steps)} steps",
            f"{sign}{format_count(cost.total_flops, 'FLOPs')} ({format_count(cost.total_macs, 'MACs')} in products)",
        ),
    ]
    if cost.cache_macs:
        facts.append(("Before training, once for what a batch reads", format_count(cost.cache_macs, "MACs")))
    if cost.fused_attention_extra_macs:
        extra = format_count(cost.fused_attention_extra_macs, "MACs")
        facts.append(("A fused attention kernel computes more in each backward pass, not included above", extra))
    return facts
