"""Splitting the work by its compute."""

from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diffmeter.generation.batch.plan import Costs, estimate_costs, split
from diffmeter.generation.request import GenerationRequest
from tests.generation.batch.batch_checks import SHAPES, requests_for


def make(model: str, count: int, steps: int = 1) -> list[GenerationRequest]:
    return [GenerationRequest(model, "x", seed=n, num_inference_steps=steps) for n in range(count)]


def loads(parts: list[list[GenerationRequest]], weights: dict[str, float]) -> list[float]:
    return [sum(weights[request.key] for request in part) for part in parts]


def test_one_process_gets_everything_grouped_by_model() -> None:
    mixed = [GenerationRequest(model, "x", seed=seed) for seed in range(3) for model in "ab"]
    (only,) = split(mixed, {request.key: 1.0 for request in mixed}, 1)
    assert [request.model_id for request in only] == ["a", "a", "a", "b", "b", "b"]
    assert [request.seed for request in only] == [0, 1, 2, 0, 1, 2]


def test_whole_models_stay_together_where_that_balances() -> None:
    requests = make("a", 4) + make("b", 4)
    parts = split(requests, {request.key: 1.0 for request in requests}, 2)
    assert [{request.model_id for request in part} for part in parts] == [{"a"}, {"b"}]


def test_load_is_balanced_by_compute_and_not_by_count() -> None:
    # One generation costs as much as nine others: by count 5 and 5, by compute 1 and 9.
    requests = make("a", 1, steps=9) + make("b", 9)
    weights = {request.key: float(request.num_inference_steps or 0) for request in requests}
    parts = split(requests, weights, 2)
    assert sorted(len(part) for part in parts) == [1, 9]
    assert loads(parts, weights) == [9.0, 9.0]


def test_three_equal_models_on_two_processes_are_divided() -> None:
    requests = make("a", 10) + make("b", 10) + make("c", 10)
    weights = {request.key: 1.0 for request in requests}
    assert max(loads(split(requests, weights, 2), weights)) <= 1.1 * 15


@given(
    st.lists(st.tuples(st.sampled_from("abc"), st.floats(0.1, 100)), min_size=0, max_size=40),
    st.integers(1, 6),
)
@settings(deadline=None)
def test_every_generation_goes_to_exactly_one_process_and_none_is_far_too_busy(
    items: list[tuple[str, float]], count: int
) -> None:
    requests = [GenerationRequest(model, "x", seed=n) for n, (model, _) in enumerate(items)]
    weights = {request.key: weight for request, (_, weight) in zip(requests, items, strict=True)}
    parts = split(requests, weights, count)
    assert len(parts) == count
    assert sorted(r.key for part in parts for r in part) == sorted(r.key for r in requests)
    if requests:
        # Greedy list scheduling: no process has more than a perfect share plus the longest job (Graham 1966).
        bound = sum(weights.values()) / count + max(weights.values())
        assert max(loads(parts, weights)) <= 1.1 * bound
    for part in parts:  # a model is loaded once by each process
        models = [request.model_id for request in part]
        assert len([m for n, m in enumerate(models) if n == 0 or models[n - 1] != m]) == len(set(models))
    assert split(requests, weights, count) == parts


def test_unknown_costs_are_estimated_at_the_rate_of_the_known() -> None:
    known, unknown = make("a", 1, steps=10), make("b", 1, steps=20)
    weights = Costs({known[0].key: 1000}).weights(known + unknown)
    assert weights == {known[0].key: 1000.0, unknown[0].key: pytest.approx(2000.0)}
    assert Costs().weights(known)[known[0].key] > 0


def test_costs_come_from_dry_runs_shared_by_equal_generations(monkeypatch: pytest.MonkeyPatch) -> None:
    from diffmeter import observe
    from diffmeter.metering.recording import dry_run as dryrun
    from diffmeter.model_manager import get_model_manager

    built: list[str] = []
    runs: list[dict[str, object]] = []

    class Counting(dryrun.ModelDryRuns):
        def __init__(self, model: str) -> None:
            built.append(model)
            super().__init__(model)

        def dry_run(self, **arguments: Any) -> Any:
            runs.append(arguments)
            return super().dry_run(**arguments)

    monkeypatch.setattr(dryrun, "ModelDryRuns", Counting)
    requests = requests_for(range(5), steps=2) + make("/nobody/there", 3)
    random.Random(1).shuffle(requests)
    costs = estimate_costs(requests)
    assert sorted(built) == sorted(["/nobody/there", SHAPES])
    assert len(runs) == 1
    assert set(costs.problems) == {"/nobody/there"}
    assert costs.unknown(requests) == 3
    # What the plan says is what a real run costs.
    pipe = get_model_manager().load_model(SHAPES)
    with observe(pipe) as run:
        pipe("a red circle", num_inference_steps=2)
    assert costs.total(requests) == 5 * run.profile.total_macs
