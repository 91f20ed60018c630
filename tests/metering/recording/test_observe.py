"""Observing: blocks, what they refuse, and what they hand out."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from diffmeter import observe
from diffmeter.errors import DiffmeterError, InputError
from tests.custom import Custom, CustomPipeline, component
from tests.metering.recording.states import BOTH

ones = torch.ones


@pytest.mark.parametrize("thing", [None, 3, "a/model", nn.Linear(3, 3), object(), {"unet": nn.Linear(3, 3)}])
def test_no_pipeline(thing) -> None:
    with pytest.raises(InputError, match="pipeline"):
        observe(thing)


def test_a_block_without_a_call() -> None:
    with observe(CustomPipeline(Custom())) as run:
        pass
    with pytest.raises(DiffmeterError, match="run the pipeline inside it"):
        _ = run.profile


def test_the_profile_is_there_after_the_block() -> None:
    pipe = CustomPipeline(nn.Sequential(nn.Linear(8, 8)))
    with observe(pipe) as run:
        pipe()
        with pytest.raises(DiffmeterError, match="when the block is over"):
            _ = run.profile
    assert run.profile.matmul_macs == 4 * BOTH and run.profile is run.profile


def test_a_nested_block_of_the_same_pipeline() -> None:
    pipe = CustomPipeline(nn.Sequential(nn.Linear(8, 8)))
    with observe(pipe) as outer:
        with observe(pipe) as inner:
            pipe()
        pipe()
    assert (outer.profile.matmul_macs, inner.profile.matmul_macs) == (2 * 4 * BOTH, 4 * BOTH)
    assert (outer.profile.generations, inner.profile.generations) == (2, 1)


def test_a_call_that_raises() -> None:
    class Mine(Exception):
        pass

    def forward(self, x):
        self.a(x)
        raise Mine("mine")

    net = component(forward)
    pipe = CustomPipeline(net, lambda pipe: pipe.net(ones(2, 8)))
    with pytest.raises(Mine, match="mine") as caught, observe(pipe) as run:
        pipe()
    assert caught.value.__cause__ is None
    assert not run.profile.complete and "Mine" in run.profile.uncounted[0]["reason"]
    assert type(net).__mro__[1] is Custom


def test_a_block_is_used_once() -> None:
    pipe = CustomPipeline(nn.Sequential(nn.Linear(8, 8)))
    block = observe(pipe)
    with block:
        pipe()
    with pytest.raises(DiffmeterError, match=r"observe\(pipe\) again"), block:
        pass
