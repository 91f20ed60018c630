"""diffmeter: the compute meter for Hugging Face diffusers pipelines.

The public names load on first use, so that importing the package costs nothing and pulls in neither torch nor
diffusers.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_PUBLIC = {
    "observe": "record",
    "dry_run": "dryrun",
    "compare": "comparison",
    "sweep": "comparison",
    "ComputeProfile": "profile",
    "create_profiler": "compute_profiler",
    "ComputeProfiler": "compute_profiler",
    "generate_image": "inference",
    "generate_images_sequential": "inference",
    "get_model_manager": "model_manager",
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
    from .comparison import compare as compare
    from .comparison import sweep as sweep
    from .compute_profiler import ComputeProfiler as ComputeProfiler
    from .compute_profiler import create_profiler as create_profiler
    from .dryrun import dry_run as dry_run
    from .inference import generate_image as generate_image
    from .inference import generate_images_sequential as generate_images_sequential
    from .model_manager import get_model_manager as get_model_manager
    from .profile import ComputeProfile as ComputeProfile
    from .record import observe as observe
