"""Profiles: sums that add up, nothing lost on the way to JSON and back, and a schema that describes it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import torch

import diffmeter
from diffmeter import ComputeProfile, dry_run, observe
from diffmeter.metering.counters.kinds import Kind
from diffmeter.profile import disabled_profile
from tests.custom import CustomPipeline, component
from tests.zoo import ZOO

NAMES = ["StableDiffusionPipeline", "FluxPipeline", "StableCascadeCombinedPipeline", "WanPipeline[2.2 two stages]"]
SCHEMA = json.loads((Path(diffmeter.__file__).parent / "schema.json").read_text())


@pytest.fixture(scope="module", params=[*NAMES, "dry", "incomplete"])
def profile(request) -> ComputeProfile:
    if request.param == "incomplete":
        pipe = CustomPipeline(component(lambda self, x: torch.linalg.solve(torch.eye(2), self.a(x))))
        with observe(pipe) as run:
            pipe()
        return run.profile
    case = ZOO["StableDiffusionPipeline" if request.param == "dry" else request.param]
    pipe = case.build()
    if request.param == "dry":
        return dry_run(pipe, **case.arguments(pipe))
    with observe(pipe) as run:
        pipe(**case.arguments(pipe))
    return run.profile


def test_sums_add_up(profile) -> None:
    assert profile.matmul_macs == sum(c.matmul_macs or 0 for c in profile.components.values())
    assert profile.total_macs == sum(c.total_macs or 0 for c in profile.components.values())
    assert profile.total_flops == 2 * profile.total_macs
    assert profile.pipeline_params == sum(c.params for c in profile.components.values())
    assert profile.total_macs >= profile.matmul_macs >= profile.matmul_macs_without_attention > 0
    for c in profile.components.values():
        assert c.call_count == sum(call.count for call in c.calls)
        assert (c.total_macs or 0) == sum(c.macs_by_op.values())
        for call in c.calls:
            assert sum(call.macs_by_op.values()) == call.total_macs
            assert sum(call.op_level.values()) == call.matmul_macs
            assert sum(call.macs_by_op.get(kind.value, 0) for kind in Kind if kind.is_product) == call.matmul_macs
            assert all(type(n) is int and n > 0 for n in (*call.macs_by_op.values(), *call.op_level.values()))


def test_the_timeline_lists_every_call(profile) -> None:
    assert len(profile.timeline) == sum(c.call_count for c in profile.components.values())
    total = sum(profile.components[e.component].calls[e.call].total_macs for e in profile.timeline)
    assert total == profile.total_macs
    steps = [entry.step for entry in profile.timeline if entry.component in profile.denoisers]
    assert [s for s in steps if s is not None] == sorted(s for s in steps if s is not None)


def test_per_step_times_steps_is_the_denoisers_total(profile) -> None:
    denoisers = sum(profile.components[name].total_macs for name in profile.denoisers)
    assert abs(profile.macs_per_step * profile.steps_run - denoisers) <= profile.steps_run // 2


def test_nothing_is_lost_on_the_way_to_json(profile) -> None:
    data = json.loads(json.dumps(profile.to_dict()))
    again = ComputeProfile.from_dict(data)
    assert again == profile
    assert again.to_dict() == profile.to_dict() == data


def test_the_schema_describes_it(profile) -> None:
    validator = jsonschema.validators.validator_for(SCHEMA)
    validator.check_schema(SCHEMA)
    validator(SCHEMA).validate(profile.to_dict())
    validator(SCHEMA).validate(disabled_profile("switched off"))


@pytest.mark.parametrize(("key", "value"), [("total_macs", "many"), ("components", []), ("complete", None)])
def test_the_schema_refuses_what_it_is_not(profile, key, value) -> None:
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**profile.to_dict(), key: value}, SCHEMA)


def test_every_key_of_the_design(profile) -> None:
    keys = {
        *("enabled", "model_component", "total_params", "params_str", "flops_per_step", "flops_per_step_str"),
        *("macs_per_step", "macs_per_step_str", "total_flops", "total_flops_str", "total_macs", "total_macs_str"),
        *("num_inference_steps", "inference_time_seconds", "inference_time_str", "input_shape", "latent_shape"),
        *("schema_version", "convention", "complete", "uncounted", "components", "cross_check", "throughput_tflops"),
    }
    data = profile.to_dict()
    assert keys <= set(data)
    assert data["total_flops"] == 2 * data["total_macs"]
    assert data["flops_per_step"] == 2 * data["macs_per_step"]


def test_complete_means_counted_and_agreed(profile) -> None:
    assert profile.complete == (not profile.uncounted and not profile.differences)
    difference = {"component": "unet", "method": "forward", "op": "convolution", "thop": 1, "op_level": 2}
    assert not replace(profile, uncounted=(), differences=(difference,)).complete
    assert not replace(profile, uncounted=({"component": "unet", "reason": "x", "calls": 1},), differences=()).complete


@pytest.mark.parametrize("data", [{}, {"schema_version": "9.0", "components": {}}, {"enabled": False}])
def test_what_is_no_profile(data) -> None:
    with pytest.raises(ValueError, match="Not a compute profile"):
        ComputeProfile.from_dict(data)


def test_conditions_are_stated(profile) -> None:
    conditions = profile.conditions
    assert conditions.kind in ("observed", "dry_run")
    assert conditions.pipeline
    assert conditions.device
    assert {"torch", "diffusers", "transformers", "thop", "diffmeter"} <= conditions.versions.keys()
    if conditions.pipeline == "StableDiffusionPipeline":
        assert (conditions.height, conditions.width, conditions.num_inference_steps) == (32, 32, 2)
        assert (conditions.guidance_scale, conditions.denoiser_batch, conditions.scheduler) == (
            5.0,
            2,
            "DDIMScheduler",
        )
        assert conditions.dtype == "float32"


def test_one_name_is_one_number(profile) -> None:
    """The same names in the dictionary and on the profile; ``total_params`` is the denoiser's, as it always was."""
    data = profile.to_dict()
    for name in ("total_params", "pipeline_params", "denoiser_params", "total_macs", "macs_per_step", "steps_run"):
        assert data[name] == getattr(profile, name), name
    denoisers = sum(profile.components[name].params for name in profile.denoisers)
    assert data["denoiser_params"] == denoisers
    assert data["total_params"] == (denoisers or data["pipeline_params"])


def profile_of(pipe: Any, **arguments: Any) -> ComputeProfile:
    with observe(pipe) as run:
        pipe(**arguments)
    assert dry_run(pipe, **arguments).conditions.batch == run.profile.conditions.batch
    assert dry_run(pipe, **arguments).conditions.denoiser_batch == run.profile.conditions.denoiser_batch
    return run.profile


@pytest.mark.parametrize(
    ("prompt", "each", "scale", "images", "denoiser"),
    [("a", 1, 5.0, 1, 2), ("a", 3, 5.0, 3, 6), (["a", "b"], 2, 5.0, 4, 8), (["a", "b"], 2, 1.0, 4, 4)],
)
def test_batch_is_images_and_the_denoisers_stands_beside_it(prompt, each, scale, images, denoiser) -> None:
    """Two prompts of two images are four; guidance doubles what the denoiser gets, and no image."""
    case = ZOO["StableDiffusionPipeline"]
    pipe = case.build()
    given = {k: v for k, v in case.arguments(pipe).items() if "prompt" not in k}
    given |= {"prompt": prompt, "num_images_per_prompt": each, "guidance_scale": scale, "num_inference_steps": 2}
    conditions = profile_of(pipe, **given).conditions
    assert (conditions.batch, conditions.denoiser_batch) == (images, denoiser)


def test_a_list_of_tensors_is_a_batch() -> None:
    """Z-Image's transformer takes one tensor of (channels, frames, height, width) for each image."""
    case = ZOO["ZImagePipeline"]
    pipe = case.build()
    profile = profile_of(pipe, **{**case.arguments(pipe), "num_images_per_prompt": 2})
    first = profile.components["transformer"].calls[0]
    tensors = [name for name in first.shapes if name.split(".")[0] == next(iter(first.shapes)).split(".")[0]]
    assert profile.conditions.batch == 2
    assert first.batch == profile.conditions.denoiser_batch == len(tensors)
    assert first.batch in (2, 4)  # guided or not


def test_a_file_of_the_older_schema_is_read(profile) -> None:
    """There, ``batch`` was what the denoiser got."""
    old = json.loads(json.dumps(profile.to_dict()))
    old["schema_version"] = "1.0"
    del old["denoiser_params"]
    conditions = old["conditions"]
    conditions["batch"] = conditions.pop("denoiser_batch")
    del conditions["stand_ins"]
    jsonschema.validate(old, SCHEMA)
    again = ComputeProfile.from_dict(old)
    assert again.conditions.denoiser_batch == profile.conditions.denoiser_batch
    assert again.conditions.batch in (profile.conditions.batch, None)
    assert again.components == profile.components
