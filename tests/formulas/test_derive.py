"""Formulas of tiny pipelines are derived, and say what dry runs and hand calculations say."""

from __future__ import annotations

from typing import Any

import pytest

from diffmeter import dry_run
from diffmeter.errors import DiffmeterError
from diffmeter.formulas.derive import derive
from diffmeter.formulas.evaluate import Formula
from diffmeter.formulas.polynomial import Polynomial
from tests.zoo import ZOO


def check(formula: Formula, pipe: Any, **settings: Any) -> None:
    """Equal to a dry run in every number that a profile has."""
    predicted, seen = formula.profile(**settings), dry_run(pipe, **settings)
    for name, component in seen.components.items():
        mine = predicted.components[name]
        for what in (
            "call_count",
            "params",
            "macs_by_op",
            "matmul_macs",
            "matmul_macs_without_attention",
            "total_macs",
        ):
            assert getattr(mine, what) == getattr(component, what), (name, what, settings)
        assert [(c.method, c.count, c.shapes, c.op_level) for c in mine.calls] == [
            (c.method, c.count, c.shapes, c.op_level) for c in component.calls
        ]
    assert predicted.timeline == tuple(
        type(entry)(entry.component, entry.call, entry.step, entry.generation, None) for entry in seen.timeline
    )
    for what in ("steps_run", "denoisers", "input_shape", "latent_shape", "macs_per_step"):
        assert getattr(predicted, what) == getattr(seen, what), what


@pytest.mark.slow
def test_a_transformer_that_reads_text_and_image_together() -> None:
    pipe = ZOO["FluxPipeline"].build()
    formula = derive(pipe, largest=64, seed=3)
    # One layer of each kind, 2 heads of 16: both products of attention over m text tokens and y*x patches, twice.
    attention = 2 * (2 * 2 * 16)
    (call,) = [call for call in formula.cases[0].calls if call.component == "transformer"]
    m, area = Polynomial.variable("m"), Polynomial.variable("y") * Polynomial.variable("x")
    assert call.macs_by_op["attention"] == attention * Polynomial.variable("b") * (m + area) ** 2
    assert formula.components["transformer"].calls.polynomial() == Polynomial.variable("steps")
    check(formula, pipe, height=60, width=36, steps=3, batch=2, max_sequence_length=21, guidance_scale=2.0)
    check(formula, pipe, height=64, width=32, steps=7, batch=1, max_sequence_length=512, guidance_scale=0.0)
    for case in formula.cases:
        assert len(case.proof.proved) >= case.proof.coefficients
        used = [dict(point) for point in case.proof.interpolated]
        assert not [point for point in case.proof.proved if dict(point) in used]


@pytest.mark.zoo_full
def test_a_network_whose_levels_round_up_with_guidance_on_and_off() -> None:
    pipe = ZOO["StableDiffusionPipeline"].build()
    formula = derive(pipe, largest=96, schedulers=["HeunDiscreteScheduler", "NoScheduler"])
    assert [case.guidance for case in formula.cases] == [(0.0, 1.0), (1.0000000000000002, 100.0)]
    # Heun's method evaluates each step twice, but the last one.
    heun = formula.components["unet"].calls.polynomial(scheduler="HeunDiscreteScheduler")
    assert heun == 2 * Polynomial.variable("steps") - 1
    assert formula.components["unet"].calls(steps=30, scheduler="HeunDiscrete") == 59
    assert set(formula.cases[0].programs) == {"DDIMScheduler", "HeunDiscreteScheduler"}
    check(formula, pipe, height=40, width=56, steps=4, batch=3, guidance_scale=1.0)
    check(formula, pipe, height=72, width=96, steps=9, batch=2, guidance_scale=3.0)


def test_a_pipeline_whose_cost_depends_on_values_has_no_formula() -> None:
    from diffusers import FirstBlockCacheConfig

    pipe = ZOO["FluxPipeline"].build()
    pipe.transformer.enable_cache(FirstBlockCacheConfig(threshold=0.1))
    with pytest.raises(DiffmeterError) as refusal:
        derive(pipe, largest=64)
    assert "\n" not in str(refusal.value)
