"""The function counter against hand numbers, and against the operators that the same call dispatches."""

from __future__ import annotations

import string

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from diffmeter.metering.counters.functional import FORMULAS, Entry, FunctionCounter
from diffmeter.metering.counters.kinds import Kind
from diffmeter.metering.counters.op_level import OpCounter

ones = torch.ones
ATTENTION, ATTENTION_SOFTMAX, CONV, LINEAR, MATMUL = (
    Kind.ATTENTION, Kind.ATTENTION_SOFTMAX, Kind.CONV, Kind.LINEAR, Kind.MATMUL
)  # fmt: skip


def both(function, *args, **kwargs) -> tuple[dict[str, int], int]:
    """MACs by class from the functions, and the total of the operators beneath, on the meta device and for real."""
    functions = FunctionCounter()
    with OpCounter() as operators, functions:
        function(*args, **kwargs)
    assert not operators.tally.unknown
    return dict(functions.macs), operators.tally.total


W = nn.Parameter(ones(3, 5))


@pytest.mark.parametrize(
    ("function", "args", "expected"),
    [
        (torch.matmul, (ones(4, 2, 3), ones(3, 5)), {MATMUL: 4 * 2 * 3 * 5}),
        (lambda a, b: a @ b, (ones(4, 2, 3), ones(4, 3, 5)), {MATMUL: 4 * 2 * 3 * 5}),
        (lambda a, b: a.matmul(b), (ones(3), ones(3)), {MATMUL: 3}),
        (lambda a, b: a.__rmatmul__(b), (ones(3, 5), ones(2, 3)), {MATMUL: 2 * 3 * 5}),
        (lambda a: a @ W, (ones(2, 3),), {LINEAR: 2 * 3 * 5}),
        (torch.mm, (ones(2, 3), ones(3, 5)), {MATMUL: 30}),
        (lambda a, b: torch.mm(a, mat2=b), (ones(2, 3), ones(3, 5)), {MATMUL: 30}),
        (lambda a, b: a.mm(b), (ones(2, 3), ones(3, 5)), {MATMUL: 30}),
        (lambda a, b: a.bmm(b), (ones(4, 2, 3), ones(4, 3, 5)), {MATMUL: 120}),
        (torch.baddbmm, (ones(4, 2, 5), ones(4, 2, 3), ones(4, 3, 5)), {MATMUL: 120}),
        (
            lambda c, a, b: torch.baddbmm(c, a, b, beta=0, alpha=0.5),
            (ones(1), ones(4, 2, 3), ones(4, 3, 5)),
            {MATMUL: 120},
        ),
        (lambda c, a, b: c.baddbmm_(a, b), (ones(4, 2, 5), ones(4, 2, 3), ones(4, 3, 5)), {MATMUL: 120}),
        (torch.addbmm, (ones(2, 5), ones(4, 2, 3), ones(4, 3, 5)), {MATMUL: 120}),
        (torch.addmm, (ones(5), ones(2, 3), ones(3, 5)), {MATMUL: 30}),
        (torch.addmv, (ones(2), ones(2, 3), ones(3)), {MATMUL: 6}),
        (torch.mv, (ones(2, 3), ones(3)), {MATMUL: 6}),
        (torch.dot, (ones(7), ones(7)), {MATMUL: 7}),
        (torch.inner, (ones(2, 3), ones(4, 3)), {MATMUL: 2 * 4 * 3}),
        (lambda a, b: a.inner(b), (ones(5, 2, 3), ones(4, 3)), {MATMUL: 5 * 2 * 4 * 3}),
        # (10 x 30)(30 x 5)(5 x 60): the first pair first
        (lambda *m: torch.linalg.multi_dot(m), (ones(10, 30), ones(30, 5), ones(5, 60)), {MATMUL: 1500 + 3000}),
        (lambda *m: torch.linalg.multi_dot(m), (ones(30), ones(30, 5), ones(5)), {MATMUL: 150 + 5}),
        (F.conv_tbc, (ones(9, 2, 4), ones(3, 4, 6), ones(6)), {CONV: 7 * 2 * 6 * 3 * 4}),
        (torch.linalg.matmul, (ones(2, 3), ones(3, 5)), {MATMUL: 30}),
        (torch.tensordot, (ones(2, 3, 4), ones(3, 4, 5)), {MATMUL: 2 * 12 * 5}),
        (lambda a, b: torch.tensordot(a, b, dims=([1], [0])), (ones(2, 3, 4), ones(3, 5)), {MATMUL: 2 * 4 * 3 * 5}),
        (F.linear, (ones(2, 7, 3), ones(5, 3), ones(5)), {LINEAR: 2 * 7 * 3 * 5}),
        (lambda x, w: F.linear(x, weight=w), (ones(2, 3), ones(5, 3)), {LINEAR: 30}),
        (lambda x, w: F.conv2d(x, w, stride=2, padding=1), (ones(1, 4, 8, 8), ones(6, 4, 3, 3)), {CONV: 96 * 36}),
        (lambda x, w: F.conv1d(x, w, groups=4), (ones(1, 4, 8), ones(8, 1, 3)), {CONV: 8 * 6 * 3}),
        (torch.conv2d, (ones(1, 4, 8, 8), ones(6, 4, 1, 1)), {CONV: 6 * 64 * 4}),
        (F.conv3d, (ones(1, 2, 3, 3, 3), ones(4, 2, 3, 3, 3)), {CONV: 4 * 54}),
        (F.conv_transpose1d, (ones(1, 4, 5), ones(4, 6, 3)), {CONV: 4 * 5 * 18}),
        (lambda x, w: F.conv_transpose2d(x, w, groups=2), (ones(1, 4, 5, 5), ones(4, 3, 2, 2)), {CONV: 100 * 12}),
    ],
)
def test_functions(function, args, expected) -> None:
    found, operators = both(function, *args)
    assert found == expected
    assert operators == sum(expected.values())


def test_attention_counts_both_products_and_the_softmax() -> None:
    q, k, v = ones(2, 3, 5, 4), ones(2, 3, 7, 4), ones(2, 3, 7, 6)
    found, operators = both(F.scaled_dot_product_attention, query=q, key=k, value=v)
    assert found == {ATTENTION: 2 * 3 * 5 * 7 * (4 + 6), ATTENTION_SOFTMAX: 2 * 3 * 5 * 7}
    assert operators == found[ATTENTION]


def test_grouped_queries() -> None:
    q, k = ones(2, 6, 5, 4), ones(2, 2, 7, 4)
    found, operators = both(F.scaled_dot_product_attention, q, k, k, enable_gqa=True)
    assert found[ATTENTION] == operators == 2 * 6 * 5 * 7 * 8


@pytest.mark.parametrize("need_weights", [True, False])
@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("extra", [{}, {"add_bias_kv": True}, {"add_zero_attn": True}, {"kdim": 5, "vdim": 7}])
def test_multi_head_attention(need_weights, batch_first, extra) -> None:
    module = nn.MultiheadAttention(8, 2, batch_first=batch_first, **extra)  # in training mode: no fused kernel
    n, m, b = 6, 4, 3
    kdim, vdim = extra.get("kdim", 8), extra.get("vdim", 8)
    shapes = [(b, n, 8), (b, m, kdim), (b, m, vdim)]
    query, key, value = (ones(s) if batch_first else ones(s).transpose(0, 1) for s in shapes)
    found, operators = both(module, query, key, value, need_weights=need_weights)
    keys = m + ("add_bias_kv" in extra) + ("add_zero_attn" in extra)
    assert found[LINEAR] == b * (n * 8 * 8 + m * kdim * 8 + m * vdim * 8 + n * 8 * 8)
    assert found[ATTENTION] == 2 * b * n * keys * 8
    assert operators == found[LINEAR] + found[ATTENTION]


@pytest.mark.parametrize("training", [True, False])
def test_transformer_encoder_layer(training) -> None:
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True).train(training)
    with torch.no_grad():
        found, operators = both(layer, ones(2, 6, 8))
    assert found[LINEAR] == 2 * 6 * (4 * 64 + 2 * 128)
    assert operators == found[LINEAR] + found[ATTENTION] == 2 * 6 * (4 * 64 + 2 * 128) + 2 * 2 * 36 * 8


@pytest.mark.parametrize(
    ("module", "expected"),
    [
        (nn.LSTM(8, 6, batch_first=True), 24 * 8 + 24 * 6),
        (nn.LSTM(8, 6, batch_first=True, proj_size=3), 24 * 8 + 24 * 3 + 3 * 6),
        (nn.GRU(8, 6, batch_first=True), 18 * 8 + 18 * 6),
        (nn.RNN(8, 6, batch_first=True), 6 * 8 + 6 * 6),
    ],
)
@pytest.mark.filterwarnings("ignore:LSTM with projections")
def test_recurrent_layers(module, expected) -> None:
    with torch.no_grad():
        found, operators = both(module.eval(), ones(2, 5, 8))
        assert found == {LINEAR: 10 * expected} and operators == 10 * expected
        packed = nn.utils.rnn.pack_padded_sequence(ones(2, 5, 8), torch.tensor([5, 3]), batch_first=True)
        found, operators = both(module, packed)
    assert found == {LINEAR: 8 * expected} and operators == 8 * expected


def test_recurrent_cells() -> None:
    found, operators = both(nn.LSTMCell(8, 6), ones(2, 8))
    assert found == {LINEAR: 2 * 24 * 14} and operators == 2 * 24 * 14


def test_a_covered_function_is_not_counted_again() -> None:
    counter = FunctionCounter(covered=lambda: True)
    with counter:
        F.linear(ones(2, 3), ones(5, 3))
    assert not counter.macs


def test_the_sublist_form_of_einsum() -> None:
    found, operators = both(torch.einsum, ones(2, 3), [0, 1], ones(3, 5), [1, 2], [0, 2])
    assert found == {MATMUL: 30} and operators == 30


def test_a_rule_that_fails_never_ends_the_run(monkeypatch) -> None:
    def broken(a, b, *, out):
        raise KeyError("weight")

    monkeypatch.setitem(FORMULAS, torch.mm, [Entry(broken, ("input", "mat2"), None)])
    with FunctionCounter() as counter:
        assert torch.mm(ones(2, 3), ones(3, 5)).shape == (2, 5)
    assert not counter.macs


@pytest.mark.parametrize(
    ("equation", "shapes", "expected"),
    [
        ("ij,jk->ik", [(2, 3), (3, 5)], 30),
        ("ij,jk", [(2, 3), (3, 5)], 30),
        ("bhid,bhjd->bhij", [(2, 3, 5, 4), (2, 3, 7, 4)], 2 * 3 * 5 * 7 * 4),
        ("b h i j, b h j d -> b h i d", [(2, 3, 5, 7), (2, 3, 7, 4)], 2 * 3 * 5 * 7 * 4),
        ("...ij,...jk->...ik", [(4, 2, 3), (4, 3, 5)], 120),
        ("i,j->ij", [(3,), (5,)], 0),  # an outer product: no sum
        ("ij,ij->ij", [(3, 5), (3, 5)], 0),
        ("ij->ji", [(3, 5)], 0),
        ("ab,bc,cd->ad", [(2, 3), (3, 5), (5, 7)], 2 * 3 * 5 + 2 * 5 * 7),
    ],
)
def test_einsum_by_hand(equation, shapes, expected) -> None:
    found, operators = both(torch.einsum, equation, *map(ones, shapes))
    assert sum(found.values()) == operators == expected


@st.composite
def equations(draw) -> tuple[str, list[tuple[int, ...]]]:
    """Two or three operands over up to five indices, sizes 1 to 4, some operands broadcasting with a size of 1."""
    letters = string.ascii_lowercase[: draw(st.integers(1, 5))]
    sizes = {letter: draw(st.integers(1, 4)) for letter in letters}
    terms = draw(
        st.lists(st.lists(st.sampled_from(letters), min_size=1, max_size=4, unique=True), min_size=2, max_size=3)
    )
    used = sorted(set().union(*terms))
    output = draw(st.lists(st.sampled_from(used), max_size=len(used), unique=True))
    shapes = [tuple(1 if draw(st.integers(0, 5)) == 0 else sizes[letter] for letter in term) for term in terms]
    return ",".join("".join(t) for t in terms) + "->" + "".join(output), shapes


@settings(max_examples=200, deadline=None, derandomize=True)
@given(equations())
def test_einsum_equals_what_is_dispatched(case) -> None:
    equation, shapes = case
    found, operators = both(torch.einsum, equation, *map(ones, shapes))
    assert sum(found.values()) == operators


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ([(1, 2), (0, 1)], 77 * 32 * 8 + 77 * 8 * 32),  # (77 x 32) x (32 x 8), then x (8 x 32)
        ([(0, 1), (0, 1)], 32 * 8 * 32 + 77 * 32 * 32),  # the two factors first
        ([(0, 2), (0, 1)], 77 * 32 * 8 * 32),  # an outer product first: no sum, then both at once
    ],
)
def test_einsum_follows_the_path_that_is_taken(path, expected, monkeypatch) -> None:
    class Optimizer:
        @staticmethod
        def contract_path(equation, *operands, **options):
            return path, ""

    place = torch.backends.opt_einsum
    names = place.is_available.__wrapped__.__globals__
    for name, value in (("is_available", lambda: True), ("get_opt_einsum", lambda: Optimizer)):
        monkeypatch.setitem(names, name, value)  # as if the package were installed
    with place.flags(enabled=True):
        found, operators = both(torch.einsum, "rd,er,ne->nd", ones(8, 32), ones(32, 8), ones(77, 32))
    assert sum(found.values()) == operators == expected
