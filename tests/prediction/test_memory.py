"""Predicted memory against real runs on the CPU, by the profiler's memory events, and against hand calculations."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.profiler import ProfilerActivity, profile

from diffmeter.prediction import memory
from diffmeter.prediction.capture import OperatorWatch
from diffmeter.prediction.memory import CPU, Footprint
from diffmeter.prediction.workload import Workloads
from tests.zoo import ZOO

#: pipelines of every kind of denoiser and decoder; ``benchmarks/memory.py`` looks at more of them
PIPELINES = [
    "StableDiffusionPipeline",
    "StableDiffusion3ControlNetInpaintingPipeline",
    "HunyuanVideo15Pipeline",
    "WanPipeline[2.2 two stages]",
]


def real_peak(run: Callable[[], Any]) -> int:
    """The most bytes that a second run has allocated at a time, besides what was there before."""
    run()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        kept = run()
    now = most = 0
    for event in seen.profiler.kineto_results.events():  # type: ignore[union-attr]
        if event.name() == "[memory]":
            now += event.nbytes()
            most = max(most, now)
    del kept
    return most


@pytest.mark.parametrize("name", PIPELINES)
def test_the_peak_of_a_pipeline_is_met_within_5_percent(name: str, one_thread: None) -> None:
    case = ZOO[name]
    pipe = case.build()
    real = real_peak(lambda: pipe(**case.arguments(pipe)))
    workload = Workloads(pipe).of(**case.arguments(pipe))
    footprints = [part.footprint(CPU) for part in workload.components.values()]
    weights = sum(f.weights for f in footprints)
    assert memory.peak(footprints, memory.RESIDENT, CPU) == pytest.approx(weights + real, rel=0.05)


@pytest.fixture
def one_thread() -> Any:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


CONVOLUTIONS: dict[str, tuple[nn.Module, tuple[int, ...]]] = {
    "unfolded, since it is small": (nn.Conv2d(4, 32, 3, padding=1), (1, 4, 64, 64)),
    "by oneDNN": (nn.Conv2d(32, 32, 3, padding=1), (1, 32, 64, 64)),
    "by oneDNN, 3 channels padded to 8": (nn.Conv2d(128, 3, 3, padding=1), (1, 128, 64, 64)),
    "of one position": (nn.Conv2d(32, 32, 1), (1, 32, 64, 64)),
    "in three dimensions, unfolded": (nn.Conv3d(8, 8, 3, padding=1), (1, 8, 4, 16, 16)),
    "depthwise": (nn.Conv2d(64, 64, 3, padding=1, groups=64), (1, 64, 64, 64)),
}


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_what_a_convolution_takes_besides_its_result(name: str, one_thread: None) -> None:
    layer, shape = CONVOLUTIONS[name]
    x = torch.randn(shape)
    with torch.no_grad():
        real = real_peak(lambda: layer(x))
        twin, m = copy.deepcopy(layer).to("meta"), x.to("meta")
        with OperatorWatch() as watch:
            twin(m)
    assert memory.activations(watch.result(0), CPU) == pytest.approx(real, rel=0.03)


@pytest.mark.parametrize(("length", "width"), [(1024, 64), (77, 16), (300, 32)])
def test_what_attention_takes_besides_its_result(length: int, width: int, one_thread: None) -> None:
    q = torch.randn(2, 4, length, width)
    real = real_peak(lambda: F.scaled_dot_product_attention(q, q, q))
    m = q.to("meta")
    with OperatorWatch() as watch:
        F.scaled_dot_product_attention(m, m, m)
    assert memory.activations(watch.result(0), CPU) == pytest.approx(real, rel=0.02)


def test_offloading_by_hand() -> None:
    """Two components of 100 and 60 bytes that need 10 and 30 more; 5 and 1 bytes of arguments are held throughout."""
    parts = [Footprint(100, 20, 30, 10, 5, calls=1), Footprint(60, 8, 15, 30, 1, calls=4), Footprint(7, 7, 7, 0, 0, 0)]
    assert memory.peak(parts, memory.RESIDENT, CPU) == 167 + 30 + 6
    assert memory.peak(parts, memory.MODEL, CPU) == 110 + 6
    assert memory.peak(parts, memory.GROUP, CPU) == max(60 + 10, 30 + 30) + 6
    assert memory.peak(parts, memory.SEQUENTIAL, CPU) == max(20 + 10, 8 + 30) + 6
    assert [memory.moved_over_the_bus(parts[1], offload) for offload in memory.OFFLOADS] == [0, 60, 240, 240]
    assert memory.CUDA.block(1) == 512
