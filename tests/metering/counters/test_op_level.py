"""The op-level counter against numbers worked out by hand."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.flop_counter import FlopCounterMode, register_flop_formula

from diffmeter.metering.counters.op_level import OpCounter, OpTally, op_macs

ones = torch.ones


def macs(function, *args, **kwargs) -> int:
    with OpCounter() as counter:
        function(*args, **kwargs)
    assert not counter.tally.unknown
    return counter.tally.total


@pytest.mark.parametrize(
    ("function", "shapes", "expected"),
    [
        (torch.mm, [(2, 3), (3, 5)], 2 * 3 * 5),
        (torch.addmm, [(2, 5), (2, 3), (3, 5)], 2 * 3 * 5),
        (torch.bmm, [(4, 2, 3), (4, 3, 5)], 4 * 2 * 3 * 5),
        (torch.baddbmm, [(4, 2, 5), (4, 2, 3), (4, 3, 5)], 4 * 2 * 3 * 5),
        (torch.addbmm, [(2, 5), (4, 2, 3), (4, 3, 5)], 4 * 2 * 3 * 5),
        (torch.mv, [(2, 3), (3,)], 2 * 3),
        (torch.addmv, [(2,), (2, 3), (3,)], 2 * 3),
        (torch.dot, [(7,), (7,)], 7),
        (torch.vdot, [(7,), (7,)], 7),
        (torch.matmul, [(4, 1, 2, 3), (6, 3, 5)], 4 * 6 * 2 * 3 * 5),
        (torch.matmul, [(3,), (4, 3, 5)], 4 * 3 * 5),
        (F.linear, [(2, 7, 3), (5, 3), (5,)], 2 * 7 * 3 * 5),
        # out (2, 6, 4, 4): each element 4/2 channels x 3 x 3
        (lambda x, w: F.conv2d(x, w, stride=2, padding=1, groups=2), [(2, 4, 8, 8), (6, 2, 3, 3)], 2 * 6 * 16 * 2 * 9),
        # dilation 2 of a kernel 3 covers 5: out (1, 2, 6)
        (lambda x, w: F.conv1d(x, w, dilation=2), [(1, 3, 10), (2, 3, 3)], 2 * 6 * 3 * 3),
        (F.conv3d, [(1, 2, 3, 4, 5), (3, 2, 1, 2, 2)], 3 * (3 * 3 * 4) * 2 * 4),
        # transposed: every one of the 4 x 5 x 5 inputs is spread over 6/2 channels x 3 x 3
        (
            lambda x, w: F.conv_transpose2d(x, w, stride=2, groups=2),
            [(1, 4, 5, 5), (4, 3, 3, 3)],
            4 * 5 * 5 * 3 * 9,
        ),
    ],
)
def test_products(function, shapes, expected) -> None:
    assert macs(function, *(ones(shape) for shape in shapes)) == expected


@pytest.mark.parametrize("inference", [False, True])
@pytest.mark.parametrize(
    ("q", "k", "v", "options", "expected"),
    [
        # N != M and D != Dv: 2*3 heads, 5 queries, 7 keys, 4 for the scores and 6 for the values
        ((2, 3, 5, 4), (2, 3, 7, 4), (2, 3, 7, 6), {}, 2 * 3 * 5 * 7 * (4 + 6)),
        ((2, 3, 5, 4), (2, 3, 5, 4), (2, 3, 5, 4), {"is_causal": True}, 2 * 3 * 5 * 5 * 8),
        ((2, 3, 5, 4), (2, 3, 7, 4), (2, 3, 7, 4), {"attn_mask": ones(5, 7)}, 2 * 3 * 5 * 7 * 8),
        ((2, 6, 5, 4), (2, 2, 7, 4), (2, 2, 7, 4), {"enable_gqa": True}, 2 * 6 * 5 * 7 * 8),
        ((6, 5, 4), (6, 7, 4), (6, 7, 4), {}, 6 * 5 * 7 * 8),
        ((2, 3, 2, 5, 4), (2, 3, 2, 7, 4), (2, 3, 2, 7, 4), {}, 12 * 5 * 7 * 8),
    ],
)
def test_attention(q, k, v, options, expected, inference) -> None:
    with torch.inference_mode(inference):
        found = macs(F.scaled_dot_product_attention, query=ones(q), key=ones(k), value=ones(v), **options)
    assert found == expected


def test_attention_equals_the_shipped_counter_on_the_math_kernel() -> None:
    q, k, v = torch.rand(2, 3, 5, 4), torch.rand(2, 3, 7, 4), torch.rand(2, 3, 7, 4)
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH), FlopCounterMode(display=False) as shipped:
        F.scaled_dot_product_attention(q, k, v)
    assert 2 * macs(F.scaled_dot_product_attention, q, k, v) == shipped.get_total_flops()


def test_composite_operators_are_looked_into_under_inference_mode() -> None:
    with torch.inference_mode():
        assert macs(torch.einsum, "ab,bc->ac", ones(2, 3), ones(3, 5)) == 2 * 3 * 5
        assert macs(nn.Conv2d(3, 4, 3, padding="same"), ones(1, 3, 6, 6)) == 4 * 36 * 27
        assert macs(nn.Linear(3, 5), ones(2, 3)) == 2 * 3 * 5


def test_recurrent_layers() -> None:
    # LSTM: 4 gates x 6, of inputs 8 and states 6; second layer reads 2 x 6; two directions; 2 x 5 steps
    lstm = nn.LSTM(8, 6, 2, bidirectional=True, batch_first=True).eval()
    weights = 2 * (24 * 8 + 24 * 6) + 2 * (24 * 12 + 24 * 6)
    with torch.no_grad():
        assert macs(lstm, ones(2, 5, 8)) == 2 * 5 * weights
        assert macs(nn.GRU(8, 6).eval(), ones(5, 2, 8)) == 2 * 5 * (18 * 8 + 18 * 6)


def test_fused_transformer_layers() -> None:
    # attention over 6 tokens of 8: four projections and two products; feed-forward 8 -> 16 -> 8
    def layer(n: int) -> int:
        return 4 * n * 8 * 8 + 2 * n * n * 8 + 2 * n * 8 * 16

    encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), 2).eval()
    with torch.no_grad():
        assert macs(encoder, ones(2, 6, 8)) == 2 * 2 * layer(6)
        padding = torch.tensor([[False] * 5 + [True], [False] * 3 + [True] * 3])
        # with padding marked, PyTorch makes nested tensors of 5 and 3 tokens
        assert macs(encoder, ones(2, 6, 8), src_key_padding_mask=padding) == 2 * (layer(5) + layer(3))
        attention = nn.MultiheadAttention(8, 2, batch_first=True).eval()
        x = ones(2, 6, 8)
        assert macs(attention, x, x, x) == 2 * (4 * 6 * 8 * 8 + 2 * 6 * 6 * 8)


@torch.library.custom_op("diffmeter_tests::mystery", mutates_args=())
def mystery(x: torch.Tensor) -> torch.Tensor:
    return x @ x


@mystery.register_fake
def _(x):
    return torch.empty_like(x)


@torch.library.custom_op("diffmeter_tests::known", mutates_args=())
def known(x: torch.Tensor) -> torch.Tensor:
    return x @ x


@known.register_fake
def _(x):
    return torch.empty_like(x)


@register_flop_formula(torch.ops.diffmeter_tests.known)
def _(x_shape, *args, out_shape=None, **kwargs) -> int:
    return 2 * x_shape[0] ** 3


def test_an_operator_without_a_formula_is_named() -> None:
    with OpCounter() as counter:
        torch.ops.diffmeter_tests.mystery(ones(3, 3))
        torch.linalg.solve(torch.eye(3), ones(3, 3))
    assert counter.tally.unknown["diffmeter_tests.mystery"] == 1
    assert any("linalg_solve" in name for name in counter.tally.unknown)


def test_a_registered_formula_is_used() -> None:
    assert macs(torch.ops.diffmeter_tests.known, ones(3, 3)) == 27


def test_a_formula_that_fails_never_ends_the_run() -> None:
    tally = OpTally()
    assert tally.add(torch.ops.aten.mm.default, (), {}, None) == 0
    assert tally.unknown == {"aten.mm": 1}


def test_what_is_no_product_has_no_macs() -> None:
    assert op_macs(torch.ops.aten.add.Tensor, (ones(2), ones(2)), {}, ones(2)) is None
