"""Check weight files before they are loaded, so that a broken one is named instead of ending in a traceback."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from diffmeter.errors import ModelLoadError, one_line

from .weight_files import HeaderError, safetensors_header


def check_folder(folder: Path, model_id: str, components: Iterable[str], variant: str | None = None) -> None:
    """Check each component's safetensors files: the header must be readable and the file as long as it says.

    Reads headers only, so it takes milliseconds for gigabytes. Raises ``ModelLoadError`` naming the file.
    """
    for component in components:
        for path in weight_files(folder / component, variant):
            problem = file_problem(path)
            if problem is not None:
                raise ModelLoadError(f"weight file {component}/{path.name} of {model_id!r} {problem}.")
        for path in sorted((folder / component).glob("*.safetensors.index*.json")):
            _check_shards(path, component, model_id, variant)


def file_problem(path: Path) -> str | None:
    """What is wrong with a safetensors file, to follow its name in a sentence; None if nothing is."""
    try:
        safetensors_header(path)
    except HeaderError as problem:
        return str(problem)
    return None


def _check_shards(index: Path, component: str, model_id: str, variant: str | None) -> None:
    if (variant is not None) != (f".{variant}." in index.name):
        return
    try:
        names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise ModelLoadError(f"weight index {component}/{index.name} of {model_id!r} cannot be read.") from None
    missing = [name for name in names if not (index.parent / str(name)).is_file()]
    if missing:
        raise ModelLoadError(f"{model_id!r} lacks the weight file {component}/{missing[0]}.")


def weight_files(folder: Path, variant: str | None = None) -> list[Path]:
    """The safetensors files of a component that loading ``variant`` reads: its own, or else the plain ones."""
    files = sorted(folder.glob("*.safetensors"))
    return [path for path in files if _variant_of(path) == variant] or [
        path for path in files if _variant_of(path) is None
    ]


def _variant_of(path: Path) -> str | None:
    """Return "fp16" for model.fp16.safetensors or model.fp16-00001-of-00002.safetensors, None without such a part."""
    parts = path.name.split(".")
    return parts[1].split("-")[0] if len(parts) > 2 else None


def check_complete(pipeline: Any, model_id: str, folder: Path, variant: str | None = None) -> None:
    """Make sure that every parameter came from the weight files.

    diffusers leaves a parameter that the files lack on the meta device, and transformers initializes it at random
    with no more than a warning. Raises ``ModelLoadError`` naming the component.
    """
    import torch

    for component, module in pipeline.components.items():
        if not isinstance(module, torch.nn.Module):
            continue
        for name, parameter in module.named_parameters():
            if parameter.device.type == "meta":
                raise ModelLoadError(f"the weights of {model_id!r} are incomplete: {component} lacks {name!r}.")
        # Files may hold more than the model takes (buffers, a decoder that is not used), but not fewer elements.
        # Quantized weights pack several parameters into one element, so they cannot be compared this way.
        stored = [_stored_elements(path) for path in weight_files(folder / component, variant)]
        needed = sum(parameter.numel() for parameter in module.parameters())
        if stored and all(count is not None for count in stored) and sum(c or 0 for c in stored) < needed:
            raise ModelLoadError(
                f"the weights of {model_id!r} are incomplete: {component} has {needed} parameters and its files hold "
                f"{sum(c or 0 for c in stored)}."
            )


def _stored_elements(path: Path) -> int | None:
    """How many elements a safetensors file holds, or None if some of them are not floating-point numbers."""
    entries, _, _ = safetensors_header(path)
    if any(dtype in ("U8", "I8") for dtype, _, _ in entries.values()):
        return None
    return sum(math.prod(shape) for _, shape, _ in entries.values())


def reason(error: BaseException) -> str:
    """The first sentence of another library's error, without a closing period."""
    sentence = one_line(error, limit=100_000).split(". ", 1)[0].rstrip(".")
    return sentence if len(sentence) <= 300 else f"{sentence[:297]}..."
