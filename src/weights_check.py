"""Check weight files before they are loaded, so that a broken one is named instead of ending in a traceback."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from .errors import ModelLoadError

# The format allows headers of up to 100 MB; see https://github.com/huggingface/safetensors#format
_MAX_HEADER_BYTES = 100_000_000


def check_folder(folder: Path, model_id: str, components: Iterable[str], variant: str | None = None) -> None:
    """Check each component's safetensors files: the header must be readable and the file as long as it says.

    Reads headers only, so it takes milliseconds for gigabytes. Raises ``ModelLoadError`` naming the file.
    """
    for component in components:
        for path in sorted((folder / component).glob("*.safetensors")):
            problem = file_problem(path)
            if problem is not None:
                raise ModelLoadError(f"weight file {component}/{path.name} of {model_id!r} {problem}.")
        for path in sorted((folder / component).glob("*.safetensors.index*.json")):
            _check_shards(path, component, model_id, variant)


def file_problem(path: Path) -> str | None:
    """What is wrong with a safetensors file, to follow its name in a sentence; None if nothing is.

    The format is 8 bytes with the header's length, the header as JSON, and the tensors' bytes.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if size < 8 or length > min(_MAX_HEADER_BYTES, size - 8):
                return "is truncated or no safetensors file"
            header = json.loads(file.read(length))
    except (ValueError, RecursionError):
        return "is corrupt: its header cannot be read"
    except OSError as error:
        return f"cannot be read: {error.strerror}"
    if not isinstance(header, dict):
        return "is corrupt: its header is no object"
    try:
        end = max((entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"), default=0)
    except (KeyError, IndexError, TypeError):
        return "is corrupt: its header does not say where the tensors are"
    if size != 8 + length + end:
        return (
            f"is {'truncated' if size < 8 + length + end else 'corrupt'}: {size} bytes instead of {8 + length + end}"
        )
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


def check_complete(pipeline: Any, model_id: str) -> None:
    """Make sure that no parameter was left without a value. Raises ``ModelLoadError`` naming the first."""
    import torch

    for component, module in pipeline.components.items():
        if not isinstance(module, torch.nn.Module):
            continue
        for name, parameter in module.named_parameters():
            if parameter.device.type == "meta":
                raise ModelLoadError(f"the weights of {model_id!r} are incomplete: {component} lacks {name!r}.")


def reason(error: BaseException) -> str:
    """The first sentence of another library's error, without a closing period."""
    text = " ".join(str(error).split()) or type(error).__name__
    for mark in (". ", "\n"):
        text = text.split(mark, 1)[0]
    return (text[:297] + "...") if len(text) > 300 else text.rstrip(".")
