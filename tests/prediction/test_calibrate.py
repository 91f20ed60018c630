"""Measuring the device here: a file that the table's own reader takes, and that a prediction can be made with."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from diffmeter.errors import InputError
from diffmeter.prediction import hardware
from diffmeter.prediction.calibrate import calibrate
from diffmeter.prediction.predict import predict
from tests.zoo import ZOO


def test_the_cpu_is_a_device_like_any_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("diffmeter.prediction.calibrate._SIDES", {"cpu": (64,)})
    monkeypatch.setattr("diffmeter.prediction.calibrate._REPEATS", 1)
    path = tmp_path / "here.json"
    path.write_text(json.dumps(calibrate("cpu")))
    gpu = hardware.find(path)
    assert 1e7 < gpu.peak_flops("float32") < 1e13  # a core does between a thousandth and a thousand GFLOP/s
    assert 0.1 < gpu.figure("bandwidth_gb_s") < 2000
    assert gpu.memory_bytes is not None
    assert gpu.memory_bytes > 2**29
    case = ZOO["StableDiffusionPipeline"]
    found = predict(case.build(), gpu=gpu, prompt="a cat", steps=1)
    assert found.seconds is not None
    assert 0.0001 < found.seconds < 100
    assert found.joules is None  # the power of this device is not known


def test_a_device_that_is_not_there_is_refused() -> None:
    with pytest.raises(InputError):
        calibrate("cuda:99")
