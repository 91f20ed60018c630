"""``diffmeter llm``: FLOPs of a Qwen2.5 model by formula, part by part."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from diffmeter.errors import InputError
from diffmeter.flops import (
    TRAINING_FACTOR,
    QwenBreakdown,
    QwenConfig,
    flops_for_experiment,
    qwen_breakdown,
    qwen_config,
)
from diffmeter.units import format_count, format_integer, format_params

from . import _options
from ._console import Answer, Form

if TYPE_CHECKING:
    from diffmeter.reports.tables import Table

EXAMPLES = [
    "diffmeter llm qwen2.5-7b --seq-len 4096",
    "diffmeter llm 0.5b --training --steps 1000 --batch 8",
]


def run(
    model: Annotated[str, typer.Argument(help="A published size, such as qwen2.5-7b or 0.5b.")],
    seq_len: Annotated[int, typer.Option("--seq-len", help="Tokens of each sequence.")] = 2048,
    batch: Annotated[int, typer.Option("--batch", help="Sequences.")] = 1,
    training: Annotated[
        bool, typer.Option("--training", help="Count training steps (three forwards each) instead of inference.")
    ] = False,
    steps: Annotated[int, typer.Option("--steps", help="Training or inference steps.")] = 1,
    lora_rank: Annotated[int, typer.Option("--lora-rank", help="Rank of LoRA on the attention; 0 for none.")] = 0,
    columns: _options.Columns = None,
    sort: _options.Sort = None,
    caption: _options.Caption = None,
    label: _options.Label = None,
    output_format: _options.Format = "table",
    as_json: _options.AsJson = False,
) -> None:
    """Show what a Qwen2.5 language model computes, from its sizes alone. No weights are needed."""
    form = Form.of(output_format, as_json, columns=columns, sort=sort, caption=caption, label=label)
    if steps < 1:
        raise InputError(f"--steps must be at least 1, got {steps}")
    config = qwen_config(model)
    breakdown = qwen_breakdown(config, batch, seq_len, r=lora_rank, loss=training)
    total = experiment_flops(config, breakdown, steps, lora_rank, training)
    what = (config, breakdown, steps, lora_rank, training, total)
    form.write(Answer(report(*what), lambda: _table(*what)))


def experiment_flops(config: QwenConfig, breakdown: QwenBreakdown, steps: int, lora_rank: int, training: bool) -> int:
    """FLOPs of all steps, by :func:`~diffmeter.flops.flops_for_experiment`."""
    return flops_for_experiment(
        steps, breakdown.batch_size, breakdown.seq_len, config.hidden_size, config.num_hidden_layers,
        config.num_attention_heads, 1.0, lora_rank, training, num_kv_heads=config.num_key_value_heads,
        head_dim=config.head_dim, intermediate_size=config.intermediate_size, vocab_size=config.vocab_size,
        tied_embeddings=config.tie_word_embeddings, final_norm=True, loss=True, exact_lora=True
    )  # fmt: skip


def report(
    config: QwenConfig, breakdown: QwenBreakdown, steps: int, lora_rank: int, training: bool, total: int
) -> dict[str, Any]:
    """What ``--json`` prints."""
    return {
        "model": config.name,
        "source": config.source,
        "params": config.params,
        "lora_rank": lora_rank,
        "lora_params": config.lora_params(lora_rank),
        "forward": breakdown.to_dict(),
        "training": training,
        "steps": steps,
        "step_flops": total // steps,
        "total_flops": total,
    }


def _table(
    config: QwenConfig, breakdown: QwenBreakdown, steps: int, lora_rank: int, training: bool, total: int
) -> Table:
    from diffmeter.reports.tables import Column, Kind, Row, Table

    def line(part: str, flops: int, operation: str = "", kind: str = "") -> Row:
        share = flops / breakdown.total_flops
        return Row(
            {"part": part, "operation": operation, "kind": kind, "flops": flops, "exact": flops, "share": share}
        )

    adapters = (
        f", LoRA rank {lora_rank} ({format_params(config.lora_params(lora_rank))} parameters)" if lora_rank else ""
    )
    work = "training, forward and backward" if lora_rank else f"training, {TRAINING_FACTOR} x forward a step"
    work = work if training else "inference"
    return Table(
        columns=[
            Column("part", "Part"),
            Column("operation", "Operation", Kind.TEXT, 1),
            Column("kind", "Kind", Kind.TEXT, 5),
            Column("flops", "FLOPs", Kind.FLOPS),
            Column("exact", "FLOPs, exact", Kind.INTEGER, 3),
            Column("share", "Share", Kind.PERCENT, 2),
        ],
        rows=[line(item.part, item.flops, item.operation, item.kind) for item in breakdown.items],
        total=line("total", breakdown.total_flops),
        title=f"{config.name}: {format_params(config.params)} parameters, batch {breakdown.batch_size}, "
        f"{breakdown.seq_len} tokens, one forward pass{adapters}",
        facts=[
            ("Matrix products", f"{format_count(breakdown.product_flops, 'FLOPs')}, "
             f"{format_count(breakdown.matmul_macs, 'MACs')} (FLOPs = 2 x MACs)"),
            ("Elementwise", format_count(breakdown.elementwise_flops, "FLOPs")),
            (f"{steps} step(s) of {work}", f"{format_count(total, 'FLOPs')} ({format_integer(total)})"),
        ],
        notes=["With LoRA, gradients of frozen weights are not computed, and not counted."]
        if training and lora_rank else [],
    )  # fmt: skip
