"""Two threads: what one observes is not mixed into what the other does."""

from __future__ import annotations

import threading

import torch
from torch import nn

from diffmeter import observe
from tests.custom import CustomPipeline
from tests.zoo import ZOO


def in_threads(*functions) -> None:
    errors: list[BaseException] = []

    def guarded(function):
        try:
            function()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=guarded, args=(function,)) for function in functions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert not errors, errors


def layers(n: int) -> nn.Module:
    return nn.Sequential(*[nn.Linear(8, 8) for _ in range(n)])


def together(first, second) -> tuple:
    """Observes two pipelines in two threads that are inside their blocks at the same time."""
    barrier, profiles = threading.Barrier(2, timeout=60), {}

    def task(pipe):
        def run():
            with observe(pipe) as observation:
                for _ in range(5):
                    barrier.wait()
                    pipe()
                barrier.wait()
            profiles[id(pipe)] = observation.profile

        return run

    in_threads(task(first), task(second))
    return profiles[id(first)], profiles[id(second)]


def test_two_pipelines() -> None:
    a, b = together(CustomPipeline(layers(1)), CustomPipeline(layers(3)))
    assert (a.matmul_macs, b.matmul_macs) == (5 * 4 * 128, 5 * 4 * 3 * 128)
    assert a.complete and b.complete and a.generations == b.generations == 5


def test_two_pipelines_that_share_a_component() -> None:
    shared = layers(2)
    before = type(shared)
    a = CustomPipeline(shared)
    b = CustomPipeline(shared, lambda pipe: pipe.net(torch.ones(7, 8)))
    first, second = together(a, b)
    assert (first.matmul_macs, second.matmul_macs) == (5 * 4 * 2 * 128, 5 * 7 * 2 * 64)
    assert {call.batch for call in first.components["net"].calls} == {2}
    assert {call.batch for call in second.components["net"].calls} == {7}
    assert type(shared) is before


def test_two_components_counted_while_they_run() -> None:
    """Counting in the run uses hooks that all threads see."""
    nets = [layers(1), layers(3)]
    for net in nets:
        net[0].register_forward_hook(lambda module, args, output: output @ torch.ones(8, 8))
    a, b = together(CustomPipeline(nets[0]), CustomPipeline(nets[1]))
    assert (a.matmul_macs, b.matmul_macs) == (5 * 4 * 2 * 128, 5 * 4 * 4 * 128)
    assert a.complete and b.complete, (a.uncounted, a.differences, b.uncounted, b.differences)


def test_a_pipeline_that_runs_in_a_worker_thread() -> None:
    case = ZOO["StableDiffusionPipeline"]
    pipe = case.build()
    with observe(pipe) as run:
        pipe(**case.arguments(pipe))
    here = run.profile
    with observe(pipe) as run:
        in_threads(lambda: pipe(**case.arguments(pipe)))
    there = run.profile
    assert there.complete and there.matmul_macs == here.matmul_macs
    assert there.generations == 1 and there.steps_run == here.steps_run
    assert [c.call_count for c in there.components.values()] == [c.call_count for c in here.components.values()]
    assert nn.Module.__setattr__.__module__ == "torch.nn.modules.module"


def test_a_submodule_entered_in_a_worker_thread_of_a_generation() -> None:
    net = layers(2)
    pipe = CustomPipeline(net, lambda pipe: (pipe.net(torch.ones(2, 8)), pipe.net[0](torch.ones(2, 8))))
    with observe(pipe) as run:
        in_threads(pipe)
    assert run.profile.matmul_macs == 3 * 128
