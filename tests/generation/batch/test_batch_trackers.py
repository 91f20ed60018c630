"""Trackers through accelerate's tracking API."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest
from accelerate.tracking import GeneralTracker, on_main_process

from diffmeter.errors import InputError
from diffmeter.generation.batch.session import run_batch
from diffmeter.generation.batch.trackers import check_trackers
from tests.generation.batch.batch_checks import check_folder, requests_for


class Recorder(GeneralTracker):
    """A tracker as users of accelerate write their own."""

    name = "recorder"
    requires_logging_directory = False

    def __init__(self, broken: bool = False) -> None:
        super().__init__()
        self.broken = broken
        self.config: dict[str, Any] = {}
        self.logged: list[tuple[int | None, dict[str, Any]]] = []
        self.images: list[Any] = []
        self.finished = False

    @property
    def tracker(self) -> list[Any]:
        return self.logged

    @on_main_process
    def store_init_configuration(self, values: dict[str, Any]) -> None:
        self.config = values

    @on_main_process
    def log(self, values: dict[str, Any], step: int | None = None, **options: Any) -> None:
        if self.broken:
            raise ConnectionError("the server is gone")
        self.logged.append((step, values))

    @on_main_process
    def log_images(self, values: dict[str, Any], step: int | None = None, **options: Any) -> None:
        self.images.append(values["image"])

    @on_main_process
    def finish(self) -> None:
        self.finished = True


def test_parameters_compute_time_and_image_are_reported(tmp_path: Path) -> None:
    tracker = Recorder()
    requests = requests_for(range(2), steps=2)
    assert run_batch(requests, tmp_path / "out", profiling=True, trackers=[tracker]).exit_code == 0
    assert tracker.config["generations"] == 2
    assert tracker.finished
    assert [step for step, _ in tracker.logged] == [0, 1]
    records = check_folder(tmp_path / "out")
    for (_, values), record, image in zip(tracker.logged, records, tracker.images, strict=True):
        profile = record["compute_profile"]
        assert values["parameters/seed"] == record["seed"]
        assert values["parameters/prompt"] == "a red circle"
        assert values["compute/total_macs"] == profile["total_macs"]
        components = {name.removeprefix("macs/"): macs for name, macs in values.items() if name.startswith("macs/")}
        assert sum(components.values()) == profile["total_macs"]
        assert {"unet", "vae", "text_encoder"} <= set(components)
        assert values["time/inference_seconds"] == record["inference_time_seconds"]
        assert image.shape == (1, 64, 64, 3)


def test_a_tracker_that_fails_does_not_end_the_batch(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    result = run_batch(requests_for(range(2)), tmp_path / "out", profiling=False, trackers=[Recorder(broken=True)])
    assert result.exit_code == 0
    assert result.finished == 2
    assert "the server is gone" in caplog.text


def test_unknown_and_missing_trackers_are_refused_before_anything_is_made(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="unknown tracker 'nothing'"):
        run_batch(requests_for(range(1)), tmp_path / "out", trackers=["nothing"])
    assert not (tmp_path / "out").exists()
    missing = [name for name in ("wandb", "mlflow", "aim") if importlib.util.find_spec(name) is None]
    if missing:
        with pytest.raises(InputError, match="pip install"):
            check_trackers(missing)


def test_tensorboard(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="tensorboard is not installed")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    result = run_batch(requests_for(range(2)), tmp_path / "out", profiling=True, trackers=["tensorboard"])
    assert result.exit_code == 0
    profile = check_folder(tmp_path / "out")[0]["compute_profile"]
    events = EventAccumulator(str(tmp_path / "out" / "trackers" / "diffmeter"), size_guidance={"images": 0})
    events.Reload()
    assert len(events.Images("image")) == 2
    assert [event.value for event in events.Scalars("compute/total_macs")] == [
        pytest.approx(profile["total_macs"])
    ] * 2
