"""diffmeter: the compute meter for Hugging Face diffusers pipelines.

The public names load on first use, so that importing the package costs nothing and pulls in neither torch nor
diffusers.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from ._version import __version__ as __version__

if __name__ != "diffmeter":  # "src.diffmeter" would be a second package with classes and settings of its own
    raise ImportError(f"{__name__} is no name of this package: use `import diffmeter`.")

_PUBLIC = {
    "observe": "metering.recording.observe",
    "dry_run": "metering.recording.dry_run",
    "count": "metering.recording.count",
    "StepCache": "metering.step_cache",
    "register_formula": "metering.counters.registration",
    "compare": "reports.comparison",
    "sweep": "reports.comparison",
    "formula": "formulas.library",
    "predict": "prediction.predict",
    "Prediction": "prediction.result",
    "ComputeProfile": "profile",
    "create_profiler": "compute_profiler",
    "ComputeProfiler": "compute_profiler",
    "generate_image": "inference",
    "generate_images_sequential": "inference",
    "get_model_manager": "model_manager",
    "track": "generation.batch.trackers",
    "DiffmeterError": "errors",
    "InputError": "errors",
    "ModelNotFoundError": "errors",
    "ModelLoadError": "errors",
    "CountError": "errors",
    "StorageError": "errors",
}

__all__ = ["__version__", *_PUBLIC]


def __getattr__(name: str) -> Any:
    module = _PUBLIC.get(name)
    if module is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f".{module}", __name__), name)


def __dir__() -> list[str]:
    return sorted(__all__)


if TYPE_CHECKING:
    from diffmeter.compute_profiler import ComputeProfiler as ComputeProfiler
    from diffmeter.compute_profiler import create_profiler as create_profiler
    from diffmeter.errors import CountError as CountError
    from diffmeter.errors import DiffmeterError as DiffmeterError
    from diffmeter.errors import InputError as InputError
    from diffmeter.errors import ModelLoadError as ModelLoadError
    from diffmeter.errors import ModelNotFoundError as ModelNotFoundError
    from diffmeter.errors import StorageError as StorageError
    from diffmeter.formulas.library import formula as formula
    from diffmeter.generation.batch.trackers import track as track
    from diffmeter.inference import generate_image as generate_image
    from diffmeter.inference import generate_images_sequential as generate_images_sequential
    from diffmeter.metering.counters.registration import register_formula as register_formula
    from diffmeter.metering.recording.count import count as count
    from diffmeter.metering.recording.dry_run import dry_run as dry_run
    from diffmeter.metering.recording.observe import observe as observe
    from diffmeter.metering.step_cache import StepCache as StepCache
    from diffmeter.model_manager import get_model_manager as get_model_manager
    from diffmeter.prediction.predict import predict as predict
    from diffmeter.prediction.result import Prediction as Prediction
    from diffmeter.profile import ComputeProfile as ComputeProfile
    from diffmeter.reports.comparison import compare as compare
    from diffmeter.reports.comparison import sweep as sweep
