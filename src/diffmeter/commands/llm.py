"""``diffmeter llm``: FLOPs of a Qwen2.5 model by formula, part by part."""

from __future__ import annotations

import json
from typing import Annotated, Any

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
from diffmeter.units import format_count, format_integer, format_params, format_percent

from ._console import output_console


def run(
    model: Annotated[str, typer.Argument(help="A published size, such as qwen2.5-7b or 0.5b.")],
    seq_len: Annotated[int, typer.Option("--seq-len", help="Tokens of each sequence.")] = 2048,
    batch: Annotated[int, typer.Option("--batch", help="Sequences.")] = 1,
    training: Annotated[
        bool, typer.Option("--training", help="Count training steps (three forwards each) instead of inference.")
    ] = False,
    steps: Annotated[int, typer.Option("--steps", help="Training or inference steps.")] = 1,
    lora_rank: Annotated[int, typer.Option("--lora-rank", help="Rank of LoRA on the attention; 0 for none.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON object and nothing else.")] = False,
) -> None:
    """Show what a Qwen2.5 language model computes, from its sizes alone. No weights are needed."""
    if steps < 1:
        raise InputError(f"--steps must be at least 1, got {steps}")
    config = qwen_config(model)
    breakdown = qwen_breakdown(config, batch, seq_len, r=lora_rank, loss=training)
    total = experiment_flops(config, breakdown, steps, lora_rank, training)
    if as_json:
        print(json.dumps(report(config, breakdown, steps, lora_rank, training, total), indent=2))
        return
    _show(config, breakdown, steps, lora_rank, training, total)


def experiment_flops(config: QwenConfig, breakdown: QwenBreakdown, steps: int, lora_rank: int, training: bool) -> int:
    """FLOPs of all steps, by :func:`~diffmeter.flops.flops_for_experiment`."""
    return flops_for_experiment(
        steps, breakdown.batch_size, breakdown.seq_len, config.hidden_size, config.num_hidden_layers,
        config.num_attention_heads, 1.0, lora_rank, training, num_kv_heads=config.num_key_value_heads,
        head_dim=config.head_dim, intermediate_size=config.intermediate_size, vocab_size=config.vocab_size,
        tied_embeddings=config.tie_word_embeddings, final_norm=True, loss=True,
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


def _show(
    config: QwenConfig, breakdown: QwenBreakdown, steps: int, lora_rank: int, training: bool, total: int
) -> None:
    from rich.table import Table

    console = output_console()
    console.print(
        f"{config.name}: {format_params(config.params)} parameters, batch {breakdown.batch_size}, "
        f"{breakdown.seq_len} tokens" + (f", LoRA rank {lora_rank} ({format_params(config.lora_params(lora_rank))} "
        "parameters)" if lora_rank else "")
    )  # fmt: skip
    table = Table(title="One forward pass", title_justify="left")
    for name in ("Part", "Operation", "Kind"):
        table.add_column(name)
    for name in ("FLOPs", "", "Share"):
        table.add_column(name, justify="right")
    for item in breakdown.items:
        table.add_row(
            item.part, item.operation, item.kind, format_integer(item.flops), format_count(item.flops, "FLOPs"),
            format_percent(item.flops / breakdown.total_flops),
        )  # fmt: skip
    table.add_section()
    for name, flops in (
        ("Matrix products", breakdown.product_flops),
        ("Elementwise", breakdown.elementwise_flops),
        ("Total", breakdown.total_flops),
    ):
        share = format_percent(flops / breakdown.total_flops)
        table.add_row(name, "", "", format_integer(flops), format_count(flops, "FLOPs"), share)
    console.print(table)
    console.print(f"Products: {format_count(breakdown.matmul_macs, 'MACs')} (FLOPs = 2 x MACs)")
    kind = f"training, {TRAINING_FACTOR} x forward a step" if training else "inference"
    console.print(f"{steps} step(s) of {kind}: {format_count(total, 'FLOPs')} ({format_integer(total)})")
    if training and lora_rank:
        console.print("With LoRA this is an upper bound: gradients of frozen weights are not computed.")
