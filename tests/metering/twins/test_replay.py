"""Replays: known values stay known, unknown ones are never taken for granted, and a twin is put back."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from torch import nn

from diffmeter.errors import CountError
from diffmeter.metering.twins.building import build_twin
from diffmeter.metering.twins.replay import UNKNOWN_VALUE, random_state_kept, replay
from diffmeter.metering.watching.signature import freeze
from diffmeter.metering.watching.snapshot import ModuleSnapshot


def run(forward, *args, forget: bool = False, **attributes):
    """Replays a module whose forward is ``forward(self, *args)`` and whose layer ``a`` is 8 -> 8 (64 MACs a row)."""

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Linear(8, 8)
            self.__dict__.update(attributes)

    Net.forward = forward
    twin = build_twin(ModuleSnapshot(Net()))
    return replay(twin, twin, freeze(args, {}), forget=forget), twin


x = torch.rand(40, 8)


def rows(result) -> int:
    assert result.count.matmul_macs % 64 == 0
    assert not result.count.differences
    return result.count.matmul_macs // 64


def test_a_plain_forward() -> None:
    result, _ = run(lambda self, x: self.a(self.a(x)), x)
    assert rows(result) == 80 and result.problem is None and not result.reads
    assert result.output.is_meta and result.output.shape == (40, 8)


@pytest.mark.parametrize(
    "forward",
    [
        lambda self, x, m: self.a(x[: int(m.sum())]),
        lambda self, x, m: self.a(x[: m.sum().item()]),
        lambda self, x, m: self.a(x[: m.tolist()[0].count(1)]),
        lambda self, x, m: self.a(x[: int(m.numpy().sum())]),
        lambda self, x, m: self.a(x[m.nonzero()[:, 1]]),
        lambda self, x, m: self.a(x[:5][m[0].bool()]),
        lambda self, x, m: self.a(torch.masked_select(x[:5], m[0, :, None].bool()).view(-1, 8)),
        lambda self, x, m: self.a(x[torch.where(m[0] > 0)[0]]),
        lambda self, x, m: self.a(x[: int(m.view(-1).to(torch.int32).cumsum(0)[-1])]),
        lambda self, x, m: self.a(x[: len([1 for v in m[0] if v])]),
        lambda self, x, m: self.a(torch.repeat_interleave(x[:5], m[0], dim=0)),
    ],
)
def test_known_values_decide(forward) -> None:
    for given in ([1, 1, 1, 0, 0], [1, 1, 1, 1, 0]):
        result, _ = run(forward, x, torch.tensor([given]))
        assert rows(result) == sum(given) and result.problem is None
        assert result.reads == {1}  # so that another mask is counted anew


def test_a_value_written_in_place_is_a_value_read() -> None:
    def forward(self, x, m):
        total = torch.zeros(2, 5, dtype=torch.long)
        total[0].copy_(m[0])
        return self.a(x[: int(total.sum())])

    result, _ = run(forward, x, torch.tensor([[1, 1, 1, 0, 0]]))
    assert rows(result) == 3 and result.reads == {1}


@pytest.mark.parametrize(
    "forward",
    [
        lambda self, x: self.a(x) if x.mean() > 0.4 else x,
        lambda self, x: self.a(x[x[:, 0] > 0.5]),
        lambda self, x: self.a(x[: int(x.sum())]),
        lambda self, x: self.a(x[: len(x.argmax(-1).unique())]),
        lambda self, x: self.a(x) if torch.rand(()) < 0.5 else x,
        lambda self, x: self.a(x) if torch.equal(x, x * 2) else x,
    ],
)
def test_unknown_values_that_matter_are_a_problem(forward) -> None:
    result, _ = run(forward, x)
    assert result.problem == UNKNOWN_VALUE


def test_unknown_values_that_do_not_matter() -> None:
    result, _ = run(lambda self, x: self.a(x * 2 if x.isnan().any() else x), x)
    assert rows(result) == 40 and result.problem is None and result.assumed


@pytest.mark.parametrize("draw", [random.random, np.random.rand])
def test_random_numbers_of_python_and_numpy_are_a_problem(draw) -> None:
    state, numpy = random.getstate(), np.random.get_state()[1].tolist()
    with random_state_kept():
        result, _ = run(lambda self, x: self.a(x) if draw() < 2 else x, x)
    assert "random numbers" in result.problem
    assert random.getstate() == state and np.random.get_state()[1].tolist() == numpy


def test_the_global_generator_is_left_alone() -> None:
    state = torch.get_rng_state()
    with random_state_kept():
        run(lambda self, x: self.a(torch.nn.functional.dropout(x + torch.randn(40, 8))), x)
    assert torch.equal(torch.get_rng_state(), state)


def counting(self, x):
    self.calls += 1
    self.seen.append(self.calls)
    self.table["n"] = self.calls
    return self.a(x)


def test_a_forgetting_replay_puts_the_twin_back() -> None:
    _, twin = run(counting, x, forget=True, calls=0, seen=[], table={})
    assert (twin.calls, twin.seen, twin.table) == (0, [], {})
    _, twin = run(counting, x, calls=0, seen=[], table={})
    assert (twin.calls, twin.seen, twin.table) == (1, [1], {"n": 1})


def test_a_second_try_leaves_the_state_of_one() -> None:
    def forward(self, x):
        self.calls += 1
        return self.a(x * 2 if x.isnan().any() else x)

    result, twin = run(forward, x, calls=0)
    assert result.assumed and twin.calls == 1


def in_autocast(self, x):
    with torch.autocast(x.device.type, torch.float32):
        return self.a(x)


def with_a_generator(self, x):
    return self.a(x + torch.randn(x.shape, generator=torch.Generator(), device=x.device))


def on_a_grid(self, x):
    rows, columns = torch.meshgrid(torch.arange(40.0), x.new_ones(8), indexing="ij")
    return self.a(x * rows * columns)


@pytest.mark.parametrize("forward", [in_autocast, with_a_generator, on_a_grid])
def test_what_the_meta_device_refuses(forward) -> None:
    before = torch.autocast.__init__
    result, _ = run(forward, x)
    assert rows(result) == 40 and result.problem is None
    assert torch.autocast.__init__ is before


def test_a_forward_that_cannot_run() -> None:
    def forward(self, x):
        raise KeyError("no such thing\nand more")

    with pytest.raises(CountError, match=r"KeyError on the meta device: 'no such thing"):
        run(forward, x)


def test_arguments_that_a_forward_changes_are_fresh_each_time() -> None:
    class Cache:
        def __init__(self) -> None:
            self.items = []

    def forward(self, x, cache):
        cache.items.append(self.a(x) if not cache.items else x)
        return x * 2 if x.isnan().any() else x  # asks for a value, so that it is tried twice

    cache = Cache()
    result, _ = run(forward, x, cache)
    assert rows(result) == 40 and result.problem is None and cache.items == []
