"""Counting inside a real call."""

from __future__ import annotations

import threading

import pytest
import torch
from torch import nn
from torch.nn.modules import module as nn_module

from diffmeter.metering.counters.live import LiveCount, OutsideCalls, outermost_module
from diffmeter.metering.watching.snapshot import ModuleSnapshot
from diffmeter.metering.watching.trust import judge
from tests.custom import component


def ids(net: nn.Module) -> set[int]:
    return {id(module) for module in net.modules()}


def live(net, *args, **options):
    counter = LiveCount(ids(net), **options)
    with counter.running():
        net(*args)
    return counter


def test_both_counters_see_the_call() -> None:
    count = live(nn.Sequential(nn.Linear(8, 8), nn.LayerNorm(8)), torch.ones(2, 8)).count
    assert count.matmul_macs == 128 and not count.differences and count.by_class["linear"] == 128
    assert count.by_class["normalization"] > 0


def test_operators_alone_decide_where_functions_are_not_looked_at() -> None:
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True).eval()
    with torch.no_grad():
        plain = live(layer, torch.ones(2, 6, 8)).count
        fused = live(layer, torch.ones(2, 6, 8), judgement=judge(ModuleSnapshot(layer))).count
    assert "aten._transformer_encoder_layer_fwd" in fused.op_level  # the kernel that the run takes by itself
    assert fused.matmul_macs == plain.matmul_macs == sum(fused.op_level.values())
    assert not fused.differences


def test_nothing_stays_behind_after_an_exception() -> None:
    hooks = len(nn_module._global_forward_hooks), len(nn_module._global_forward_pre_hooks)
    modes = torch._C._len_torch_dispatch_stack(), torch._C._len_torch_function_stack()
    net = component(lambda self, x: 1 / 0)
    counter = LiveCount(ids(net))
    with pytest.raises(ZeroDivisionError), counter.running():
        net(torch.ones(2, 8))
    assert counter.count is None
    assert (len(nn_module._global_forward_hooks), len(nn_module._global_forward_pre_hooks)) == hooks
    assert (torch._C._len_torch_dispatch_stack(), torch._C._len_torch_function_stack()) == modes


def test_another_thread_is_not_counted() -> None:
    net, other = nn.Sequential(nn.Linear(8, 8)), nn.Sequential(nn.Linear(8, 8))
    counter = LiveCount(ids(net))
    with counter.running():
        thread = threading.Thread(target=lambda: other(torch.ones(2, 8)))
        thread.start()
        thread.join()
        net(torch.ones(2, 8))
    assert counter.count.matmul_macs == 128 and counter.failure is None and not counter.count.differences


def test_own_work_in_another_thread_is_a_failure() -> None:
    net = nn.Sequential(nn.Linear(8, 8))
    counter = LiveCount(ids(net))
    with counter.running():
        thread = threading.Thread(target=lambda: net(torch.ones(2, 8)))
        thread.start()
        thread.join()
    assert "another thread" in counter.failure


def test_products_outside_calls_are_found() -> None:
    found, busy = [], [False]
    mode = OutsideCalls(lambda: busy[0], lambda name, macs: found.append((name, macs)))
    with mode:
        torch.ones(2, 3) @ torch.ones(3, 5) + 1
        busy[0] = True
        torch.ones(2, 3) @ torch.ones(3, 5)
        busy[0] = False
        with mode.paused():
            torch.ones(2, 3) @ torch.ones(3, 5)
        with torch.inference_mode():
            torch.nn.functional.linear(torch.ones(2, 3), torch.ones(5, 3))
    assert found == [("aten.mm", 30), ("aten.linear", 30)]


def test_the_outermost_module_on_the_stack() -> None:
    inner = component(lambda self, x: outermost_module(belongs, lambda m: ("_call_impl",), strangers=strangers[0]))
    outer = component(lambda self, x: self.inner(x), inner=inner)
    strangers = [True]

    def belongs(module):
        return module is outer

    assert outer(torch.ones(1)) is outer
    assert inner(torch.ones(1)) is inner  # a module that is no component
    strangers[0] = False
    assert inner(torch.ones(1)) is None
