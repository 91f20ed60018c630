"""thop's rules, one module call at a time: exact where they are used, absent where they are wrong, no trace left."""

from __future__ import annotations

import importlib.metadata

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from diffmeter.metering.counters.functional import FunctionCounter
from diffmeter.metering.counters.kinds import Kind
from diffmeter.metering.counters.module_rules import ModuleCounter, module_macs, rule_for, thop_distribution
from diffmeter.metering.counters.op_level import OpCounter

ones = torch.ones
CONV, LINEAR = Kind.CONV, Kind.LINEAR


def counted(root: nn.Module, *args, **kwargs) -> tuple[dict[str, int], int]:
    """MACs by class of modules and functions together, and the operators' total, for one call of ``root``."""
    modules = ModuleCounter()
    functions = FunctionCounter(modules.covered)
    detach = modules.attach(root)
    try:
        with OpCounter() as operators, functions:
            root(*args, **kwargs)
    finally:
        detach()
    return dict(modules.macs + functions.macs), operators.tally.total


@pytest.mark.parametrize(
    ("module", "shape", "expected"),
    [
        (nn.Linear(3, 5), (2, 7, 3), {LINEAR: 2 * 7 * 15}),
        (nn.Conv1d(4, 6, 3, groups=2), (1, 4, 8), {CONV: 6 * 6 * 2 * 3}),
        (nn.Conv2d(4, 6, 3, stride=2, padding=1), (2, 4, 8, 8), {CONV: 2 * 6 * 16 * 36}),
        (nn.Conv3d(2, 4, 3, dilation=2), (1, 2, 5, 5, 5), {CONV: 4 * 54}),
        (nn.ConvTranspose2d(4, 6, 2, stride=2), (1, 4, 5, 5), {CONV: 4 * 25 * 6 * 4}),
    ],
)
def test_products(module, shape, expected) -> None:
    found, operators = counted(module, ones(shape))
    assert found == expected
    assert operators == sum(expected.values())


def test_called_by_keyword_and_through_forward() -> None:
    class Caller(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Linear(3, 3)

        def forward(self, x):
            return self.a.forward(self.a(input=x))

    found, operators = counted(Caller(), ones(2, 3))
    assert found == {LINEAR: 2 * 2 * 9} and operators == 36


class Doubled(nn.Linear):
    def forward(self, x):
        return super().forward(x) + F.linear(x, self.weight)


class PartialConv(nn.Conv2d):
    def forward(self, x):
        return super().forward(x[:, :, ::2])


def test_subclasses_are_counted_by_what_they_do() -> None:
    assert rule_for(Doubled) is None
    assert counted(Doubled(3, 5), ones(2, 3)) == ({LINEAR: 60}, 60)
    assert counted(PartialConv(2, 3, 1), ones(1, 2, 8, 4)) == ({CONV: 3 * 16 * 2}, 96)


def test_called_twice_and_shared_by_two_parents() -> None:
    shared = nn.Linear(3, 3)
    assert counted(nn.Sequential(nn.Sequential(shared), nn.Sequential(shared), shared), ones(2, 3)) == (
        {LINEAR: 54},
        54,
    )


@pytest.mark.parametrize(
    "wrap",
    [
        nn.utils.weight_norm,
        nn.utils.spectral_norm,
        nn.utils.parametrizations.weight_norm,
        nn.utils.parametrizations.spectral_norm,
    ],
)
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_reparametrized_layers_agree(wrap) -> None:
    found, operators = counted(wrap(nn.Conv2d(4, 6, 3)).eval(), ones(1, 4, 5, 5))
    # spectral norm's own sigma = u.(W v) is a product as well: 6 x 36, then a dot of 6
    own = 6 * 36 + 6 if "spectral" in wrap.__name__ else 0
    assert operators == sum(found.get(name, 0) for name in ("conv", "linear", "matmul")) == 6 * 9 * 36 + own


def test_a_replaced_forward_is_not_taken_for_the_layer() -> None:
    skipped = nn.Linear(3, 5)
    skipped.forward = lambda x: x
    assert counted(nn.Sequential(skipped), ones(2, 3)) == ({}, 0)
    doubled = nn.Linear(3, 5)
    doubled.forward = lambda x: F.linear(x, doubled.weight) + F.linear(x, doubled.weight)
    assert counted(nn.Sequential(doubled), ones(2, 3)) == ({LINEAR: 60}, 60)


def test_normalization_is_counted_by_thop() -> None:
    norm = nn.LayerNorm(3).eval()
    op_class, operations = module_macs(norm, (ones(2, 3),), ones(2, 3))
    assert op_class == "normalization" and operations > 0
    assert counted(nn.Sequential(nn.Linear(3, 3), norm), ones(2, 3))[1] == 18


def test_nothing_is_left_in_the_modules() -> None:
    class Fails(nn.Module):
        def forward(self, x):
            raise ZeroDivisionError

    root = nn.Sequential(nn.Linear(3, 3), nn.LayerNorm(3), Fails())
    before = [(dict(m.__dict__), dict(m._buffers), len(m._forward_hooks)) for m in root.modules()]
    modules = ModuleCounter()
    detach = modules.attach(root)
    with pytest.raises(ZeroDivisionError):
        root(ones(2, 3))
    detach()
    assert [(dict(m.__dict__), dict(m._buffers), len(m._forward_hooks)) for m in root.modules()] == before
    assert not any(hasattr(m, "total_ops") or hasattr(m, "total_params") for m in root.modules())


def test_a_rule_that_fails_never_ends_the_run(monkeypatch) -> None:
    import diffmeter.metering.counters.module_rules as rules

    monkeypatch.setattr(rules, "module_macs", lambda *_: 1 / 0)
    found, operators = counted(nn.Sequential(nn.Linear(3, 5)), ones(2, 3))
    assert found == {} and operators == 30  # so that the two counters differ, which a profile reports


def test_the_distribution_is_named() -> None:
    name, version = thop_distribution().split(" ", 1)
    assert name in ("thop", "ultralytics-thop")
    assert importlib.metadata.version(name) == version
