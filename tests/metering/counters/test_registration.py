"""Formulas of the user's: in both views, named as the user's, gone when taken back."""

from __future__ import annotations

import contextlib
import io
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import register_flop_formula

from diffmeter import count, observe, register_formula
from diffmeter.errors import InputError
from tests.custom import CustomPipeline, component
from tests.test_docs import blocks

PAGE = Path(__file__).parents[3] / "docs" / "OWN_OPERATORS.md"


@torch.library.custom_op("registration_tests::op", mutates_args=())
def op(x: torch.Tensor) -> torch.Tensor:
    return x @ x.T @ x


@op.register_fake
def _(x):
    return torch.empty_like(x)


@torch.library.custom_op("registration_tests::known_to_torch", mutates_args=())
def known_to_torch(x: torch.Tensor) -> torch.Tensor:
    return x.clone()


@register_flop_formula(torch.ops.registration_tests.known_to_torch)
def _(x_shape, *args, out_shape=None, **kwargs) -> int:
    return 2 * x_shape[0] * 100


def doubled(x, *, factor=2):
    return x @ torch.ones(8, 8) * factor


def closed(size):
    def inside(x):
        return x @ torch.ones(8, size)

    return inside


class Layer(nn.Module):
    def forward(self, x):
        return x @ torch.ones(8, 8)


class Derived(Layer):
    pass


PACKET = torch.ops.registration_tests.op
TARGETS = {
    "packet": (PACKET, lambda net, x: PACKET(x)),
    "overload": (PACKET.default, lambda net, x: PACKET(x)),
    "function": (doubled, lambda net, x: doubled(x, factor=3)),
    "class": (Layer, lambda net, x: net.layer(x)),
    "derived": (Layer, lambda net, x: net.derived(x)),
}


def net(forward) -> nn.Module:
    return component(lambda self, x: forward(self, self.a(x)), layer=Layer(), derived=Derived())


@pytest.mark.parametrize("name", TARGETS)
def test_both_counters_use_it_and_the_profile_names_it(name) -> None:
    target, forward = TARGETS[name]
    pipe = CustomPipeline(net(forward))
    ten_a_row = register_formula(target, lambda *args, out, **kwargs: 10 * out.shape[0], kind="attention")
    with ten_a_row, observe(pipe) as run:
        pipe()
    # read afterwards: 4 calls of 128 for the linear layer and 10 x 2 rows of the formula
    profile = run.profile
    assert profile.complete
    assert profile.matmul_macs == 4 * (128 + 20)
    assert profile.macs_by_op == {"linear": 512, "attention": 80}
    (entry,) = profile.user_formulas
    assert (entry["component"], entry["kind"], entry["macs"]) == ("net", "attention", 80)
    assert type(profile).from_dict(profile.to_dict()).user_formulas == profile.user_formulas
    without = count(net(forward), torch.ones(2, 8))
    assert not without.user_formulas and without.matmul_macs != 148


def test_a_function_is_itself_again_afterwards() -> None:
    function = closed(5)
    code = function.__code__
    registered = register_formula(function, lambda x, out: 1000)
    assert function(torch.ones(2, 8)).shape == (2, 5)  # nobody counts
    assert count(component(lambda self, x: function(x)), torch.ones(2, 8)).matmul_macs == 1000
    registered.unregister()
    registered.unregister()
    assert function.__code__ is code
    assert count(component(lambda self, x: function(x)), torch.ones(2, 8)).matmul_macs == 2 * 8 * 5


def test_a_formula_given_to_torch_is_used() -> None:
    profile = count(component(lambda self, x: torch.ops.registration_tests.known_to_torch(x)), torch.ones(2, 8))
    assert profile.complete and profile.matmul_macs == 200
    assert profile.user_formulas[0]["target"] == "registration_tests.known_to_torch"


def test_a_formula_that_fails_leaves_the_profile_incomplete() -> None:
    for broken in (lambda x, out: 1 / 0, lambda x, out: -1, lambda x, out: 1.5):
        with register_formula(PACKET, broken):
            profile = count(component(lambda self, x: PACKET(x)), torch.ones(2, 8))
        assert not profile.complete and profile.uncounted[0]["op"] == "registration_tests.op"


@pytest.mark.parametrize(
    ("target", "kind", "said"),
    [
        (torch.ops.aten.mm, "matmul", "has a formula already"),
        (torch.ops.aten.mm.default, "matmul", "has a formula already"),
        (nn.Linear, "linear", "has a formula already"),
        (torch.ops.registration_tests.known_to_torch, "matmul", "has a formula already"),
        (PACKET, "normalization", "kind must be one of conv, linear, attention, matmul, got 'normalization'"),
        ("aten.mm", "matmul", "not for 'aten.mm'"),
        (torch.matmul, "matmul", "has a formula already"),
    ],
)
def test_what_is_refused(target, kind, said) -> None:
    with pytest.raises(InputError, match=said):
        register_formula(target, lambda *args, out: 1, kind=kind)


def test_a_second_formula_is_refused() -> None:
    with register_formula(doubled, lambda x, out, factor: 1), pytest.raises(InputError, match="already"):
        register_formula(doubled, lambda x, out, factor: 2)


def test_the_page_runs_as_printed() -> None:
    printed = io.StringIO()
    names: dict[str, object] = {}
    with contextlib.redirect_stdout(printed):
        for block in blocks(PAGE, "python"):
            exec(block, names)
    # 2 rows x 3 x 5; 2 rows x (7 x 3 + 3 x 7), twice
    assert printed.getvalue().splitlines() == [
        "30 True shop.gated_linear", "False", "84 True", "84 True"
    ]  # fmt: skip
