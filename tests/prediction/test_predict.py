"""Predictions of whole runs: what they hold, when they fit, and what is refused. A tiny pipeline stands for all."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch

import diffmeter
from diffmeter.errors import InputError
from diffmeter.prediction.predict import predict, predictions
from diffmeter.prediction.result import Prediction
from tests.zoo import ZOO

CASE = ZOO["StableDiffusionPipeline"]


@pytest.fixture(scope="module")
def pipe() -> Any:
    return CASE.build()


@pytest.fixture(scope="module")
def prediction(pipe: Any) -> Prediction:
    return predict(pipe, gpu="h100", prompt="a cat", steps=2, usd_per_hour=3.6, grams_per_kwh=400)


def test_the_public_name_and_its_numbers(pipe: Any, prediction: Prediction) -> None:
    assert diffmeter.predict is predict
    assert prediction.seconds is not None
    low, high = prediction.seconds_range or (0, 0)
    assert 0 < low < prediction.seconds < high
    assert prediction.usd == pytest.approx(prediction.seconds / 1000)  # 3.60 an hour is a tenth of a cent a second
    assert prediction.kwh is not None
    assert prediction.grams_co2 == pytest.approx(prediction.kwh * 400)
    assert prediction.fits is True
    assert prediction.advice_to_fit is None
    weights = sum(p.numel() * 4 for part in (pipe.unet, pipe.vae, pipe.text_encoder) for p in part.parameters())
    assert prediction.peak_memory_bytes > weights


def test_flops_are_those_of_the_profile(pipe: Any, prediction: Prediction) -> None:
    profile = diffmeter.dry_run(pipe, prompt="a cat", steps=2)
    assert {n: c.flops for n, c in prediction.components.items()} == {
        n: 2 * (c.matmul_macs or 0) for n, c in profile.components.items()
    }
    assert prediction.components["unet"].bound == "launch"  # a tiny model does nothing else
    assert prediction.components["unet"].calls == 2


def test_it_survives_json(prediction: Prediction) -> None:
    data = json.loads(json.dumps(prediction.to_dict()))
    assert Prediction.from_dict(data) == prediction
    assert data["emissions"] == pytest.approx((prediction.grams_co2 or 0) / 1000)


def test_the_pipeline_is_left_as_it_was(pipe: Any) -> None:
    before = {name: value.clone() for name, value in pipe.unet.state_dict().items()}
    predict(pipe, gpu="h100", prompt="a cat", steps=1, tiling=True)
    assert not pipe.vae.use_tiling
    assert not pipe.vae.use_slicing
    assert all(torch.equal(value, before[name]) for name, value in pipe.unet.state_dict().items())


def test_compiling_takes_less_time_and_the_same_flops(pipe: Any) -> None:
    eager, compiled = (predict(pipe, gpu="h100", prompt="a", steps=2, compile=c) for c in (False, True))
    assert compiled.seconds is not None
    assert eager.seconds is not None
    assert compiled.seconds < eager.seconds
    assert compiled.components["unet"].flops == eager.components["unet"].flops


def test_memory_alone_answers_whether_it_fits(pipe: Any) -> None:
    found = predict(pipe, vram=8, prompt="a cat", steps=1)
    assert (found.seconds, found.joules, found.fits) == (None, None, True)


@pytest.fixture
def small_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """A context of nothing, so that a few megabytes are a GPU's memory."""
    from diffmeter.prediction import memory

    monkeypatch.setattr(memory.Cuda, "context", 0)
    monkeypatch.setattr(memory.Cuda, "fixed", 0)
    monkeypatch.setattr("diffmeter.prediction.hardware._BOUNDS", {"memory_gib": (0, 1)})


@pytest.mark.parametrize(("share", "change"), [(0.999, "decode in tiles"), (0.95, "offload components"), (0.01, None)])
def test_the_least_intrusive_change_that_fits(pipe: Any, small_gpu: None, share: float, change: str | None) -> None:
    whole = predict(pipe, vram=1, prompt="a cat", steps=1, height=128, width=128)
    vram = whole.peak_memory_bytes * share / 2**30
    found = predict(pipe, vram=vram, prompt="a cat", steps=1, height=128, width=128)
    assert found.fits is False
    advice = found.advice_to_fit
    assert (advice is None) == (change is None)
    if advice is not None:
        assert advice.change.startswith(str(change)[:7])
        assert advice.peak_memory_bytes <= vram * 2**30


def test_several_gpus_and_batches_in_one_go(pipe: Any) -> None:
    found = predictions(pipe, gpu=["h100", "rtx-4090"], batches=[1, 2], prompt="a cat", steps=1)
    assert [(p.gpu_name, p.images) for p in found] == [
        ("h100-sxm", 1),
        ("h100-sxm", 2),
        ("rtx-4090", 1),
        ("rtx-4090", 2),
    ]
    assert any("no measurement" in estimate for estimate in found[2].estimates)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "Name a GPU"),
        ({"gpu": "h1000"}, "Unknown GPU"),
        ({"gpu": "h100", "dtype": "float64"}, "cannot be predicted in"),
        ({"gpu": "h100", "dtype": "bfloat16"}, "is loaded in float32"),
        ({"gpu": "t4", "dtype": "bfloat16"}, "no known rate for bfloat16"),
        ({"gpu": "h100", "usd_per_hour": -1}, "price"),
        ({"gpu": "h100", "usd_per_hour": float("inf")}, "price"),
        ({"gpu": "h100", "grams_per_kwh": -1}, "carbon"),
        ({"gpu": "h100", "offload": "disk"}, "Unknown offload"),
        ({"gpu": "h100", "weight_dtype": "int3"}, "Unknown weight dtype"),
        ({"gpu": "h100", "gpus": 4, "ulysses": 3}, "must be the number"),
        ({"gpu": "h100", "vram": -2}, "memory_gib"),
        ({"gpu": "h100", "batch": 0}, "batch"),
        ({"gpu": "h100", "stepz": 3}, "stepz"),
        ({"gpu": "apple-m1", "gpus": 2}, "bandwidth to another GPU"),
    ],
)
def test_bad_input_is_one_sentence(pipe: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        predict(pipe, prompt="a cat", **options)
