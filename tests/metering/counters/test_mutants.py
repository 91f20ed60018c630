"""Every mistake in a formula of the function counter is seen by the op-level counter, on twins and in the run."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from diffmeter.metering.counters import functional
from diffmeter.metering.counters.functional import FORMULAS
from diffmeter.metering.counters.kinds import Kind
from diffmeter.metering.counters.live import LiveCount
from diffmeter.metering.counters.op_level import OpTally
from diffmeter.metering.counters.tally import Count
from diffmeter.metering.twins.replay import replay
from diffmeter.metering.watching.signature import freeze
from tests.custom import component
from tests.metering.counters.mutants import mutants


def ones(*shape: int) -> torch.Tensor:
    return torch.ones(shape)


def multi_head(query: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
    return F.multi_head_attention_forward(
        query, key, key, 6, 3, torch.ones(18, 6), None, torch.ones(1, 1, 6), torch.ones(1, 1, 6), True, 0.0,
        torch.ones(6, 6), None,
    )[0]  # fmt: skip


def affine(theta: torch.Tensor) -> torch.Tensor:
    return F.affine_grid(theta, [2, 1, 3, 5], align_corners=False)


def lstm(x: torch.Tensor) -> torch.Tensor:
    return nn.LSTM(5, 3, device=x.device)(x)[0]


def packed(x: torch.Tensor) -> torch.Tensor:
    return torch._weight_int8pack_mm(x, x.new_ones(5, 4, dtype=torch.int8), x.new_ones(5))


def cell(x: torch.Tensor) -> torch.Tensor:
    return nn.GRUCell(5, 3, device=x.device)(x)


#: for each formula calls that take each of its ways; no two sizes of an operand are equal unless they must be
CALLS = {
    "attention": [(F.scaled_dot_product_attention, ones(2, 3, 5, 4), ones(2, 3, 7, 4), ones(2, 3, 7, 6))],
    "matrix_product": [(torch.matmul, ones(2, 3, 5), ones(5, 7))],
    "matrix_product_reversed": [(lambda b, a: b.__rmatmul__(a), ones(5, 7), ones(3, 5))],
    "matrix_product_added": [(torch.addmm, ones(7), ones(3, 5), ones(5, 7))],
    "batches_summed": [(torch.addbmm, ones(3, 7), ones(2, 3, 5), ones(2, 5, 7))],
    "linear": [(F.linear, ones(2, 3, 5), ones(7, 5))],
    "convolution": [(F.conv2d, ones(2, 4, 9, 8), ones(6, 4, 3, 5))],
    "convolution_transposed": [(F.conv_transpose1d, ones(2, 4, 9), ones(4, 6, 3))],
    "convolution_any": [
        (lambda x, w: torch.convolution(x, w, None, [1], [0], [1], False, [0], 1), ones(2, 4, 9), ones(6, 4, 3)),
        (lambda x, w: torch.convolution(x, w, None, [1], [0], [1], True, [0], 1), ones(2, 4, 9), ones(4, 6, 3)),
    ],
    "convolution_time_first": [(torch.conv_tbc, ones(9, 2, 4), ones(3, 4, 6), ones(6))],
    "einsum": [(lambda a, b: torch.einsum("ij,jk->ik", a, b), ones(3, 5), ones(5, 7))],
    "tensordot": [
        (torch.tensordot, ones(2, 3, 4), ones(3, 4, 5)),
        (lambda a, b: torch.tensordot(a, b, dims=([1], [0])), ones(2, 3, 4), ones(3, 5)),
    ],
    "inner": [(torch.inner, ones(2, 3), ones(4, 3))],
    "chain": [(lambda a, b, c: torch.linalg.multi_dot([a, b, c]), ones(2, 9), ones(9, 3), ones(3, 5)),
              (lambda a, b, c: torch.linalg.multi_dot([a, b, c]), ones(2, 3), ones(3, 9), ones(9, 5)),
              (lambda a, b, c: torch.linalg.multi_dot([a, b, c]), ones(9), ones(9, 3), ones(3, 5)),
              (lambda a, b, c: torch.linalg.multi_dot([a, b, c]), ones(2, 9), ones(9, 3), ones(3))],
    "matrix_power": [(lambda a: torch.linalg.matrix_power(a, 7), ones(2, 3, 3))],
    "distances": [(torch.cdist, ones(2, 30, 3), ones(2, 50, 3))],
    "distances_within": [(F.pdist, ones(6, 4))],
    "affine_grid": [(affine, ones(2, 2, 3))],
    "multi_head_projections": [(multi_head, ones(5, 2, 6), ones(7, 2, 6))],
    "multi_head_attention": [(multi_head, ones(5, 2, 6), ones(7, 2, 6))],
    "recurrence": [(lstm, ones(7, 2, 5))],
    "recurrent_cell": [(cell, ones(2, 5))],
}  # fmt: skip
#: calls with sparse operands or packed sequences, which are always counted in the run
IN_THE_RUN = {
    "matrix_product": [(torch.matmul, torch.eye(5).to_sparse(), ones(5, 7))],
    "linear": [(F.linear, ones(2, 5), torch.eye(7, 5).to_sparse_csr())],
    "recurrence": [(lambda x: nn.LSTM(5, 3)(nn.utils.rnn.pack_padded_sequence(x, [7, 4]))[0], ones(7, 2, 5))],
}
_SHOWN_IN_THE_RUN = ("_sparse_product", "stored", "args[2]")

#: not compared: grouped products and packed weights run on few devices, and their formulas have tests of their own
ELSEWHERE = {"grouped_product", "packed_linear"}


def formulas() -> dict[str, functional.Formula]:
    """The formulas of products: those of the default convention alone have no partner."""
    return {
        entry.formula.__name__: entry.formula
        for entries in FORMULAS.values()
        for entry in entries
        if entry.kind is not Kind.ATTENTION_SOFTMAX
    }


def on_a_twin(call) -> Count:
    function, *operands = call
    net = component(lambda self, *inputs: function(*inputs))
    return replay(net, net, freeze(tuple(operands), {})).count


def in_the_run(call) -> Count:
    function, *operands = call
    live = LiveCount()
    with torch.no_grad(), live.running():
        function(*operands)
    assert live.count is not None
    return live.count


def test_every_formula_has_a_call() -> None:
    assert set(CALLS) | ELSEWHERE == set(formulas())


@pytest.mark.parametrize("count", [on_a_twin, in_the_run])
@pytest.mark.parametrize("name", CALLS)
def test_every_mutant_is_caught(name, count, monkeypatch) -> None:
    calls, original = CALLS[name], formulas()[name]
    calls = [*calls, *IN_THE_RUN.get(name, ())] if count is in_the_run else calls
    assert not any(count(call).differences for call in calls)
    assert sum(count(call).matmul_macs for call in calls) > 0
    places = [(func, entries) for func, entries in FORMULAS.items() if any(e.formula is original for e in entries)]
    tried = 0
    for change, mutant in mutants(original):
        for func, entries in places:
            changed = [e._replace(formula=mutant) if e.formula is original else e for e in entries]
            monkeypatch.setitem(FORMULAS, func, changed)
        if count is on_a_twin and any(part in change for part in _SHOWN_IN_THE_RUN):
            continue
        assert any(count(call).differences for call in calls), f"{name} with {change} goes unnoticed"
        tried += 1
    assert tried


def test_the_counters_share_no_formula() -> None:
    """Neither module takes a name from the other but for types and the tally."""
    from diffmeter.metering.counters import op_level

    mine = {f.__code__ for f in formulas().values()}
    theirs = {entry.formula.__code__ for entries in op_level._FORMULAS.values() for entry in entries}
    assert not mine & theirs
    assert not set(vars(functional)) & {"op_level", "OpTally", "op_macs"}


def test_a_difference_is_followed_in_classes_and_total() -> None:
    """Where operators give a complete count, the classes are theirs: 3*5*7 MACs that no function shows."""
    tally = OpTally()
    tally.macs["aten.bmm"], tally.kinds[Kind.MATMUL] = 105, 105
    count = Count.of({Kind.NORMALIZATION: 8, Kind.LINEAR: 1}, tally)
    assert count.by_class == {"matmul": 105, "normalization": 8} and count.total_macs == 113
    assert count.differences == {"matrix product": (1, 105)}
