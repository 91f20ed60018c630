"""Observing: the number is that of the run, whatever decides the work besides structure and arguments."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch

from tests.custom import CustomPipeline, component
from tests.metering.recording.runs import observed
from tests.metering.recording.states import STATES
from tests.reference import count_real_run

ones = torch.ones


@pytest.mark.parametrize("what", STATES)
def test_what_decides_the_work_besides_the_arguments(what) -> None:
    pipe, expected = STATES[what]()
    profile = observed(pipe)
    assert profile.complete, profile.uncounted
    assert profile.matmul_macs == expected


@pytest.mark.parametrize("seed", [random.seed, np.random.seed, torch.manual_seed])
def test_random_work(seed) -> None:
    draw = {random.seed: random.random, np.random.seed: np.random.rand}.get(seed, lambda: torch.rand(()))
    pipe = CustomPipeline(component(lambda self, x: self.a(x) if draw() < 0.5 else x))
    seed(3)
    truth = count_real_run(pipe).total
    seed(3)
    profile = observed(pipe)
    if seed is np.random.seed:  # a compiled function of NumPy in a user's forward: what it computes is not seen
        assert not profile.complete
        assert "past PyTorch's operators" in profile.uncounted[0]["reason"]
    else:
        assert profile.complete
        assert profile.matmul_macs == truth


ARGUMENTS = {
    "a NumPy number": [np.int64(3), np.int64(5)],
    "a slice": [slice(0, 3), slice(0, 5)],
    "a set": [{1, 2}, {1, 4}],
    "a function": [lambda: 3, lambda: 5],
    "a mask": [torch.tensor([1, 1, 1, 0, 0]), torch.tensor([1, 1, 1, 1, 1])],
}


def take(self, x, n):
    if isinstance(n, slice):
        return self.a(x[n])
    if isinstance(n, (set, torch.Tensor)):
        n = int(sum(n))
    return self.a(x[: n() if callable(n) else int(n)])


@pytest.mark.parametrize("what", ARGUMENTS)
def test_arguments_that_decide_the_work(what) -> None:
    pipe = CustomPipeline(component(take), lambda pipe: [pipe.net(ones(9, 8), n) for n in ARGUMENTS[what]])
    profile = observed(pipe)
    assert profile.complete and profile.matmul_macs == (3 + 5) * 64
