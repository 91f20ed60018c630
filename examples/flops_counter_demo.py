"""FLOPs of ResNet-BK training steps: counting, breakdown, comparison, scaling, optimizers.

Run it with ``python examples/flops_counter_demo.py``; it needs no weights and no network, and takes a few seconds.
"""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import replace
from pathlib import Path

import torch

sys.path.append(str(Path(__file__).resolve().parent.parent / "src"))  # a checkout that is not installed works too

from diffmeter.resnet_bk.bk_core import dense_resolvent_diagonal, resolvent_diagonal
from diffmeter.resnet_bk.counter import OPTIMIZER_OPS, FLOPsCounter, compare_models
from diffmeter.resnet_bk.model import BASELINE_CONFIG, STEP2_CONFIG, ConfigurableResNetBK, ResNetBKConfig
from diffmeter.units import format_count, format_integer, format_percent, format_ratio, format_seconds


def build(config: ResNetBKConfig) -> ConfigurableResNetBK:
    """A model without memory: counting needs sizes only."""
    with torch.device("meta"):
        return ConfigurableResNetBK(config)


def basic_counting(output: Path | None) -> None:
    print("== Basic counting: the baseline, 32 sequences of 128 tokens")
    counter = FLOPsCounter(build(BASELINE_CONFIG), batch_size=32, seq_len=128)
    counter.print_summary()
    if output is not None:
        print(f"saved to {counter.save_to_json(output)}")


def breakdown() -> None:
    print("\n== Breakdown of the forward pass: products, and what is no product")
    counter = FLOPsCounter(build(BASELINE_CONFIG), batch_size=32, seq_len=128)
    total = counter.count_forward_flops().forward
    for item in counter.forward_items():
        share = format_percent(item.flops / total, 3)
        print(f"  {item.part:16s}{item.operation:26s}{item.kind:12s}{format_integer(item.flops):>16s}{share:>10s}")
    print(f"  matrix products together: {format_count(counter.product_flops().forward, 'FLOPs')}")


def comparison() -> None:
    print("\n== Comparison: the baseline against step 2, which ties the LM head to the embedding")
    result = compare_models(build(BASELINE_CONFIG), build(STEP2_CONFIG), 32, 128, "Baseline", "Step 2")
    for name in ("Baseline", "Step 2"):
        print(f"  {name:10s}" + "".join(f"{k} {format_count(v, 'FLOPs'):>14s}  " for k, v in result[name].items()))
    print("  speed-up  " + "".join(f"{k} {format_ratio(v, 3)}  " for k, v in result["speedup"].items()))


def scaling() -> None:
    print("\n== Scaling: FLOPs of one training step, and seconds of one forward")
    first = 0
    for seq_len in (128, 256, 512, 1024, 2048):
        model = build(replace(BASELINE_CONFIG, n_seq=seq_len))
        forward = FLOPsCounter(model, 32, seq_len).count_forward_flops().forward
        first = first or forward
        ratio = format_ratio(forward / first)
        print(
            f"  N = {seq_len:5d}: {format_count(forward, 'FLOPs'):>14s} forward, {ratio} (quadratic: "
            f"{format_ratio((seq_len / 128) ** 2)})"
        )
    for layers in (2, 4, 8):
        model = build(replace(BASELINE_CONFIG, n_layers=layers))
        blocks = FLOPsCounter(model, 32, 128).count_block_flops().forward * layers
        print(f"  L = {layers:5d}: {format_count(blocks, 'FLOPs'):>14s} in the blocks")
    for batch in (1, 8, 32):
        total = FLOPsCounter(build(BASELINE_CONFIG), batch, 128).count_total_flops().total
        print(f"  B = {batch:5d}: {format_count(total, 'FLOPs'):>14s} a training step")
    small = ConfigurableResNetBK(replace(BASELINE_CONFIG, n_seq=4096, vocab_size=100, n_layers=2))
    for seq_len in (512, 1024, 2048, 4096):
        tokens = torch.zeros(1, seq_len, dtype=torch.long)
        start = time.perf_counter()
        with torch.no_grad():
            small(tokens)
        print(f"  N = {seq_len:5d}: {format_seconds(time.perf_counter() - start)} (2 layers, vocabulary 100, CPU)")


def optimizers() -> None:
    print("\n== Optimizers: operations of one step")
    counter = FLOPsCounter(build(BASELINE_CONFIG), 32, 128)
    for name, ops in OPTIMIZER_OPS.items():
        flops = counter.count_optimizer_flops(name).optimizer
        print(f"  {name:10s}{ops:3d} for each parameter  {format_count(flops, 'FLOPs'):>14s}")


def resolvent() -> None:
    print("\n== BK-Core against a dense inverse, N = 256, double precision")
    generator = torch.Generator().manual_seed(0)
    a = torch.randn(256, dtype=torch.float64, generator=generator)
    b = torch.randn(255, dtype=torch.float64, generator=generator)
    ours, dense = resolvent_diagonal(a, b, 1j), dense_resolvent_diagonal(a, b, 1j)
    print(f"  largest relative difference: {((ours - dense).abs() / dense.abs()).max().item():.1e}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, help="write the baseline's counts to this JSON file")
    arguments = parser.parse_args()
    basic_counting(arguments.output)
    breakdown()
    comparison()
    scaling()
    optimizers()
    resolvent()


if __name__ == "__main__":
    main()
