"""Every pipeline of the zoo: what diffmeter reports is what an independent counter finds in the same real run.

The default selection keeps the suite short; ``-m "zoo_full or not zoo_full"`` runs every case.
"""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch

from tests.reference import ReferenceCount, count_real_run
from tests.zoo import ZOO

CASES = [
    pytest.param(name, id=name, marks=() if case.quick else pytest.mark.zoo_full) for name, case in sorted(ZOO.items())
]


#: pipelines that look at what a component returned before they go on: a dry run cannot know which way
DECIDED_BY_VALUES = {
    "HunyuanImagePipeline[quoted text, distilled]",
    "LLaDA2Pipeline",
    "StableDiffusionParadigmsPipeline",
}


@pytest.fixture(scope="module", params=CASES)
def name(request: pytest.FixtureRequest) -> str:
    """The case. A module's fixture, so that its tests run one after the other and share the real runs."""
    return request.param


@functools.lru_cache(maxsize=2)
def reference(name: str) -> ReferenceCount:
    case = ZOO[name]
    pipe = case.build()
    arguments = case.arguments(pipe)
    torch.manual_seed(0)
    count = count_real_run(pipe, **arguments)
    count.result = None
    return count


@functools.lru_cache(maxsize=2)
def observed(name: str) -> Any:
    from diffmeter import observe

    case = ZOO[name]
    pipe = case.build()
    arguments = case.arguments(pipe)
    torch.manual_seed(0)
    with observe(pipe) as run:
        pipe(**arguments)
    return run.profile


def calls(profile: Any) -> dict[str, list[tuple]]:
    """What was called, by component: method, number of calls, batch, shapes and MACs of each signature."""
    return {
        name: [(call.method, call.count, call.batch, call.shapes, call.matmul_macs) for call in component.calls]
        for name, component in profile.components.items()
        if component.calls
    }


def selected_classes() -> set[str]:
    return {case.class_name for case in ZOO.values() if case.quick}


def test_the_default_selection_is_wide() -> None:
    assert len(selected_classes()) >= 60
    assert len({case.family for case in ZOO.values() if case.quick}) >= 25


def test_observe_equals_the_reference(name: str) -> None:
    profile, truth = observed(name), reference(name)
    assert truth.total > 0
    assert profile.matmul_macs == truth.total
    assert profile.complete, profile.uncounted


def test_observe_gives_each_component_its_own(name: str) -> None:
    profile, truth = observed(name), reference(name)
    found = {key: component.matmul_macs for key, component in profile.components.items() if component.matmul_macs}
    assert found == {key: macs for key, macs in truth.by_component.items() if macs}


def test_dry_run_equals_the_observed_run(name: str) -> None:
    from diffmeter import dry_run

    case = ZOO[name]
    pipe = case.build()
    torch.manual_seed(0)
    dry = dry_run(pipe, **case.arguments(pipe))
    assert dry.matmul_macs == reference(name).total
    if name in DECIDED_BY_VALUES:
        (gap,) = dry.uncounted
        assert gap["reason"] == "the pipeline looks at a value that only a real run knows" and not dry.complete
    else:
        assert dry.complete, dry.uncounted
    assert calls(dry) == calls(observed(name))
