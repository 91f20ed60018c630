"""What is seen of a forward: operators, shapes, bytes, lifetimes; and what a compiler makes of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from diffmeter.prediction import memory
from diffmeter.prediction.capture import OperatorWatch
from diffmeter.prediction.operators import (
    ATTENTION,
    CONVOLUTION,
    MATMUL,
    NORM,
    POINTWISE,
    STRIDED,
    CallOperators,
    counted,
    from_dict,
    product_flops,
    to_dict,
)


def watched(run: Callable[..., Any], *inputs: torch.Tensor) -> CallOperators:
    with torch.no_grad(), OperatorWatch() as watch:
        run(*inputs)
    return watch.result(0)


def meta(*shape: int, dtype: torch.dtype = torch.bfloat16) -> torch.Tensor:
    return torch.empty(shape, dtype=dtype, device="meta")


def test_a_linear_layer_by_hand() -> None:
    """(2, 5, 8) through 8 -> 16: 10 rows; 10 x 8 x 16 MACs; weights 8 x 16 + 16 of two bytes."""
    layer = nn.Linear(8, 16, device="meta", dtype=torch.bfloat16)
    [operator] = watched(layer, meta(2, 5, 8)).eager
    assert (operator.kind, operator.dtype, operator.shape) == (MATMUL, "bfloat16", (1, 10, 16, 8))
    assert operator.flops == 2 * 10 * 8 * 16 == product_flops(operator)
    assert (operator.weight_bytes, operator.bytes_in) == (2 * (8 * 16 + 16), 2 * (80 + 8 * 16 + 16))
    assert operator.bytes_out == 2 * 10 * 16


def test_attention_is_one_operator() -> None:
    q, k = meta(2, 4, 10, 16), meta(2, 4, 7, 16)
    [operator] = watched(lambda: F.scaled_dot_product_attention(q, k, k)).eager
    assert (operator.kind, operator.shape) == (ATTENTION, (2, 4, 10, 7, 16, 16))
    assert operator.flops == 2 * 2 * 4 * 10 * 7 * 32 == product_flops(operator)
    assert operator.bytes == 2 * (2 * 2 * 4 * 10 * 16 + 2 * 4 * 7 * 16)


def test_a_convolution_by_hand() -> None:
    """3 -> 8 channels, 3 x 3, 10 x 10 positions: 100 rows, 8 columns, 27 deep."""
    layer = nn.Conv2d(3, 8, 3, padding=1, device="meta")
    [operator] = watched(layer, meta(1, 3, 10, 10, dtype=torch.float32)).eager
    assert (operator.kind, operator.shape, operator.flops) == (CONVOLUTION, (1, 100, 8, 27), 2 * 100 * 8 * 27)
    grouped = nn.Conv2d(8, 8, 3, padding=1, groups=8, device="meta")
    [operator] = watched(grouped, meta(1, 8, 10, 10, dtype=torch.float32)).eager
    assert (operator.shape, operator.flops) == ((8, 100, 1, 9), 2 * 8 * 100 * 9)


def test_views_cost_nothing_and_dtypes_count() -> None:
    def run(x: torch.Tensor) -> torch.Tensor:
        return x.reshape(4, 2, 8).transpose(0, 1).float()

    [operator] = watched(run, meta(8, 8)).eager
    assert (operator.kind, operator.bytes_in, operator.bytes_out) == (STRIDED, 2 * 64, 4 * 64)


def test_element_wise_work_on_dense_and_on_broadcast_operands() -> None:
    x, row = meta(8, 8), meta(1, 8)
    assert [o.kind for o in watched(lambda: F.silu(x + x)).eager] == [POINTWISE, POINTWISE]
    assert [o.kind for o in watched(lambda: x * row).eager] == [STRIDED]
    [norm] = watched(lambda: F.layer_norm(x, (8,))).eager
    assert norm.kind == NORM


def test_a_lookup_reads_only_its_rows() -> None:
    table, ids = meta(1000, 16), torch.zeros(3, dtype=torch.long, device="meta")
    [operator] = watched(lambda: F.embedding(ids, table)).eager
    assert operator.bytes == 2 * 3 * 16 * 2 + 24


def test_lifetimes_give_the_peak() -> None:
    """Three tensors of 1 MiB: a is freed before c is made, so two are alive at a time at most."""

    def run(x: torch.Tensor) -> torch.Tensor:
        a = x + 1
        b = a * 2
        del a
        c = b - 1
        del b
        return c

    call = watched(run, meta(2**18, dtype=torch.float32))
    assert memory.activations(call, memory.CPU) == 2 * 2**20


def test_a_written_tensor_allocates_nothing() -> None:
    def run(x: torch.Tensor) -> torch.Tensor:
        a = x + 1
        a.mul_(2)
        return a.view(-1)

    call = watched(run, meta(256, dtype=torch.float32))
    assert memory.activations(call, memory.CPU) == 1024
    assert len(call.eager) == 2


def test_a_chain_becomes_one_kernel_that_reads_and_writes_the_ends() -> None:
    x = meta(1024, dtype=torch.float32)
    call = watched(lambda: torch.sigmoid((x + 1) * 2))
    [kernel] = call.fused
    assert (kernel.bytes_in, kernel.bytes_out, len(call.eager)) == (4096, 4096, 3)


def test_a_chain_stops_at_a_product_and_keeps_what_is_used_later() -> None:
    """H is read by the product and by the sum after it: it must be written, and the sum is a kernel of its own."""
    weight = nn.Parameter(meta(8, 8, dtype=torch.float32))

    def run(x: torch.Tensor) -> torch.Tensor:
        h = torch.tanh(x * 2)
        return h + h @ weight

    call = watched(run, meta(4, 8, dtype=torch.float32))
    assert [(k.kind, k.bytes_in, k.bytes_out) for k in call.fused] == [
        (POINTWISE, 128, 128),
        (MATMUL, 128 + 256, 128),
        (POINTWISE, 256, 128),
    ]
    assert sum(k.flops for k in call.fused) == call.flops


def test_operators_are_plain_data() -> None:
    layer = nn.Linear(8, 8, device="meta")
    call = watched(lambda x: layer(layer(x)), meta(3, 8, dtype=torch.float32))
    assert from_dict(to_dict(call.eager)) == counted(call.eager)
    assert [n for _, n in counted(call.eager)] == [2]
