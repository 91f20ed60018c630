"""Every operator of PyTorch's dispatcher has its place; what is unknown is reported."""

from __future__ import annotations

import sys

import pytest
import torch
import torch.distributed._symmetric_memory
from torch import nn

from diffmeter import compat, count
from diffmeter.metering.counters.op_level import OpTally, has_formula, op_name
from diffmeter.metering.counters.operators import table
from tests.custom import component


def test_no_operator_of_the_installed_torch_is_unclassified() -> None:
    # of the namespaces that come with PyTorch: other tests and other libraries bring their own
    namespaces = {name.partition(".")[0] for part in table() for name in part} - {"quanto", "bitsandbytes"}
    if "torch._inductor" in sys.modules:  # the compiler registers primitives of its own, which no run calls
        namespaces.discard("prims")
    unplaced = []
    for full in compat.all_operators():
        namespace, _, rest = full.partition("::")
        name, _, overload = rest.partition(".")
        if namespace not in namespaces:
            continue
        try:
            func = getattr(getattr(getattr(torch.ops, namespace), name), overload or "default")
        except (AttributeError, RuntimeError):
            continue
        known = table()
        placed = any(op_name(func) in part for part in known) or has_formula(func) or compat.is_composite(func)
        if not placed:
            unplaced.append(full)
    assert not unplaced


def test_no_operator_stands_in_two_parts() -> None:
    no_product, left_out, reported = map(set, table())
    assert not no_product & reported and not left_out & (no_product | reported)


def test_an_operator_that_a_newer_torch_brings_is_reported(monkeypatch) -> None:
    known = table()
    del_add = {name: reason for name, reason in known.no_product.items() if name != "aten.add"}
    monkeypatch.setattr("diffmeter.metering.counters.op_level.table", lambda: known._replace(no_product=del_add))
    tally = OpTally()
    tally.add(torch.ops.aten.add.Tensor, (torch.ones(2), torch.ones(2)), {}, torch.ones(2))
    assert tally.unknown == {"aten.add": 1}


class Numpy(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return torch.from_numpy(x.detach().numpy() @ x.detach().numpy().T)


def writes_with_numpy(x):
    out = torch.empty(2, 2)
    out.numpy()[...] = x.detach().numpy() @ x.detach().numpy().T
    return out


@pytest.mark.parametrize(
    ("function", "said"),
    [
        (lambda x: torch.linalg.lu(x), "aten.linalg_lu"),
        (torch.geqrf, "aten.geqrf"),
        (lambda x: torch.linalg.svd(x), "aten._linalg_svd"),
        (Numpy.apply, "computed past PyTorch"),
        (writes_with_numpy, "computed past PyTorch"),
        (lambda x: torch.tensor((x.detach().numpy() * 2).tolist()), "computed past PyTorch"),
    ],
)
def test_what_hides_products_is_reported(function, said) -> None:
    profile = count(component(lambda self, x: function(self.a(x))), torch.ones(2, 8))
    assert not profile.complete
    reasons = [entry.get("op") or entry.get("reason", "") for entry in profile.uncounted]
    assert any(said in reason or "runs past PyTorch's operators" in reason for reason in reasons)


def test_reading_values_hides_nothing() -> None:
    maps = []

    def keeps(self, x):
        maps.append(x.detach().cpu().numpy())
        return x * float(x.sum())

    assert count(component(lambda self, x: keeps(self, self.a(x))), torch.ones(2, 8)).complete


def test_qr_is_no_product_and_is_named() -> None:
    profile = count(component(lambda self, x: torch.linalg.qr(self.a(x))[0]), torch.ones(2, 8))
    assert profile.complete and profile.matmul_macs == 128
    (entry,) = profile.left_out
    assert entry["op"] == "aten.linalg_qr" and "no product" in entry["reason"]


@pytest.mark.parametrize("grad", [True, False])
@pytest.mark.parametrize(("rows", "expected"), [(40, 40 * 50 * 3), (5, 5 * 50 * 3)])
def test_distances_with_and_without_gradients(grad, rows, expected) -> None:
    """The VQ-f4 decoder of a 256 x 256 image: 4096 x 8192 x 3 = 100,663,296, at a smaller size."""

    class Codebook(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.codes = nn.Embedding(50, 3)

        def forward(self, x):
            return torch.cdist(x, self.codes.weight).argmin(1)

    with torch.set_grad_enabled(grad):
        profile = count(Codebook(), torch.ones(rows, 3))
    assert profile.complete and profile.matmul_macs == expected
