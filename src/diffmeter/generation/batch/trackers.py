"""Report generations to experiment trackers (tensorboard, wandb, mlflow, ...) through accelerate's tracking API."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diffmeter.errors import InputError
from diffmeter.profile import ComputeProfile

if TYPE_CHECKING:
    from PIL.Image import Image

    from diffmeter.metering.recording.observe import Observation

logger = logging.getLogger(__name__)

PROJECT = "diffmeter"


class Trackers:
    """Open trackers. ``log`` never raises: a tracker that fails must not end a batch.

    ``names`` are accelerate's tracker names; objects derived from ``accelerate.tracking.GeneralTracker`` are taken as
    they are. Raises ``InputError`` for a name that accelerate does not know or whose package is not installed.
    """

    def __init__(self, names: Sequence[Any], folder: str | Path, config: Mapping[str, Any], *, cpu: bool) -> None:
        check_trackers(names)
        from accelerate import Accelerator

        self._step = 0
        self._accelerator = Accelerator(cpu=cpu, log_with=list(names), project_dir=str(folder))
        self._accelerator.init_trackers(PROJECT, config=dict(config))

    def log(self, record: Mapping[str, Any], image: str | Path | Image | None) -> None:
        """Report one generation: its parameters, MACs by component, time, and the image."""
        try:
            self._accelerator.log(tracked_values(record), step=self._step)
            if image is not None:
                self._log_image(image)
        except Exception as error:
            logger.warning("the tracker did not take a generation: %s", error)
        self._step += 1

    def _log_image(self, image: str | Path | Image) -> None:
        import numpy
        import PIL.Image

        with PIL.Image.open(image) if isinstance(image, (str, Path)) else image.copy() as opened:
            pixels = numpy.asarray(opened.convert("RGB"))[None]
        for tracker in self._accelerator.trackers:
            if not hasattr(tracker, "log_images"):
                continue
            # tensorboard takes the channels first unless told otherwise.
            options = {"dataformats": "NHWC"} if tracker.name == "tensorboard" else {}
            tracker.log_images({"image": pixels}, step=self._step, **options)

    def finish(self) -> None:
        """Close the trackers, so that everything is written. Other processes are left alone."""
        for tracker in self._accelerator.trackers:
            try:
                tracker.finish()
            except Exception as error:
                logger.warning("tracker %s did not close: %s", tracker.name, error)


def track(
    result: ComputeProfile | Observation,
    trackers: str | Sequence[Any],
    folder: str | Path = "logs",
    *,
    image: str | Path | Image | None = None,
) -> None:
    """Report a profile, or an observed run, to experiment trackers, as ``diffmeter batch --tracker`` does.

    >>> with observe(pipe) as run:
    ...     image = pipe("a red circle").images[0]
    >>> track(run, "tensorboard", image=image)

    Args:
        result: a profile or an observation.
        trackers: accelerate's names of trackers (``tensorboard``, ``wandb``, ``mlflow``, ...), or open trackers.
        folder: where trackers that write files put them.
        image: the image that was made, of PIL or in a file.

    Raises:
        InputError: a tracker is not known, or its package is not installed.
    """
    profile = result if isinstance(result, ComputeProfile) else result.profile
    names = [trackers] if isinstance(trackers, str) else list(trackers)
    record = tracked_record(profile)
    opened = Trackers(names, folder, {"model_id": record["model_id"]}, cpu=True)
    opened.log(record, image)
    opened.finish()


def tracked_record(profile: ComputeProfile) -> dict[str, Any]:
    """The record of a generation, as far as its profile tells it."""
    conditions, arguments = profile.conditions, profile.conditions.arguments
    return {
        "model_id": conditions.model_id or conditions.pipeline,
        "prompt": arguments.get("prompt"),
        "negative_prompt": arguments.get("negative_prompt"),
        "width": conditions.width,
        "height": conditions.height,
        "num_inference_steps": conditions.num_inference_steps,
        "guidance_scale": conditions.guidance_scale,
        "inference_time_seconds": profile.inference_time_seconds,
        "compute_profile": profile.to_dict(modules=False),
    }


def tracked_values(record: Mapping[str, Any]) -> dict[str, Any]:
    """What a tracker gets of a record: flat numbers and texts."""
    profile = record.get("compute_profile") or {}
    values: dict[str, Any] = {
        f"parameters/{name}": record.get(name)
        for name in (
            "model_id",
            "prompt",
            "negative_prompt",
            "seed",
            "width",
            "height",
            "num_inference_steps",
            "guidance_scale",
        )
    }
    for name in ("total_macs", "total_flops", "macs_per_step"):
        values[f"compute/{name}"] = profile.get(name)
    for name, component in (profile.get("components") or {}).items():
        if isinstance(component, Mapping):
            values[f"macs/{name}"] = component.get("total_macs")
    values["time/inference_seconds"] = record.get("inference_time_seconds")
    values["error"] = record.get("error")
    return {name: value for name, value in values.items() if value is not None}


def check_trackers(names: Sequence[Any]) -> None:
    """Raise ``InputError`` for a tracker that accelerate does not know or whose package is missing."""
    from accelerate.tracking import LOGGER_TYPE_TO_CLASS, GeneralTracker, get_available_trackers

    available = {str(name) for name in get_available_trackers()}
    for name in names:
        if isinstance(name, GeneralTracker):
            continue
        if name not in LOGGER_TYPE_TO_CLASS:
            raise InputError(f"unknown tracker {name!r}; accelerate knows {', '.join(sorted(LOGGER_TYPE_TO_CLASS))}.")
        if name not in available:
            raise InputError(f"tracker {name!r} needs its package; install it with: pip install {name}.")
