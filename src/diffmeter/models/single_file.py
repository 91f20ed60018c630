"""A pipeline from one file of weights, as ComfyUI, A1111 and the models' authors lay them out.

diffusers recognizes the model by the names and shapes of the tensors; its configuration comes from the catalog, a
folder or the hub. Then every tensor of the file is held against the model built from that configuration: a model that
only resembles a known one (pruned, widened, another kind altogether) is refused instead of counted as the known one.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from math import prod
from typing import TYPE_CHECKING, Any

from diffmeter import compat
from diffmeter.errors import ModelLoadError, one_line, shown

from . import catalog
from .blueprint import Blueprint
from .weight_files import WeightFile

if TYPE_CHECKING:
    import torch
    from torch import nn

logger = logging.getLogger(__name__)

#: how the text encoders of a file with several components are named, by their place in the pipeline
_TEXT_ENCODERS = {
    "text_encoder": ("cond_stage_model.", "conditioner.embedders.0.", "text_encoders.clip_l."),
    "text_encoder_2": ("conditioner.embedders.1.", "conditioner.embedders.0.model.", "text_encoders.clip_g."),
    "text_encoder_3": ("text_encoders.t5xxl.",),
}


#: what the names of tensors begin with that belong to other components than the denoiser
_OTHER_COMPONENTS = ("vae.", "first_stage_model.", "cond_stage_model.", "conditioner.", "text_encoders.", "model_ema.")


@dataclass(frozen=True, kw_only=True, slots=True)
class FileContents:
    """What a file holds of a pipeline.

    Attributes:
        inside: the components whose weights are in the file.
        outside: the components that come from elsewhere: the model's family.
    """

    inside: tuple[str, ...]
    outside: tuple[str, ...]


def source_of(file: WeightFile) -> str:
    """The hub repository with the configuration of the model that a file holds, as diffusers recognizes it.

    Raises:
        ModelLoadError: the file holds an adapter, or nothing that diffusers recognizes.
    """
    _check_kind(file)
    try:
        return compat.single_file_source(file.as_meta_tensors())
    except Exception as error:
        raise ModelLoadError(
            f"{shown(file.name)} holds no model that diffusers recognizes ({one_line(error)}): give the folder of its "
            "configuration with --config."
        ) from error


def families(file: WeightFile) -> Iterator[str]:
    """Models that a file may be, the likeliest first: what diffusers takes it for, then those of the same size."""
    recognized = source_of(file)
    yield recognized
    elements = sum(prod(t.shape) for name, t in file.tensors.items() if not name.startswith(_OTHER_COMPONENTS))
    known = compat.single_file_sources()
    same_size = [
        entry.model_id
        for entry in catalog.entries()
        if entry.model_id != recognized and elements in entry.params_by_component.values()
    ]
    yield from sorted(same_size, key=lambda name: known.index(name) if name in known else len(known))


def without_optional(found: Blueprint) -> Blueprint:
    """A blueprint without what diffusers leaves out when it loads a single file."""
    optional = compat.single_file_optional_components()
    return replace(found, components={name: part for name, part in found.components.items() if name not in optional})


def _check_kind(file: WeightFile) -> None:
    if not file.tensors:
        raise ModelLoadError(f"{shown(file.name)} holds no tensors.")
    adapters = sum(".lora_" in key or ".hada_" in key or key.startswith("lora_") for key in file.tensors)
    if adapters:
        raise ModelLoadError(
            f"{shown(file.name)} is a LoRA, not a model: give the model that it belongs to, and this file with --lora."
        )


def contents(file: WeightFile, pipeline: Any) -> FileContents:
    """Hold a file against the pipeline that was built for it, and say which components it has.

    Args:
        file: the header.
        pipeline: a pipeline whose models may lie on the meta device.

    Raises:
        ModelLoadError: a tensor is missing or has another shape than the configuration says, or no component of the
            pipeline is in the file. The message names the tensor.
    """
    models = {name: part for name, part in pipeline.components.items() if _is_model(part)}
    inside, problems = [], []
    for name, model in models.items():
        if name.startswith("text_encoder"):
            if _has_text_encoder(name, file):
                inside.append(name)
            continue
        found = _renamed(file, model)
        if found is None:
            continue
        problem = _difference(found, model)
        if problem is None:
            inside.append(name)
        else:
            problems.append((name, problem))
    if problems or not inside:
        name, problem = problems[0] if problems else ("no component", "none of its tensors has a name that is known")
        raise ModelLoadError(
            f"{shown(file.name)} is not what {pipeline.__class__.__name__} with the configuration of "
            f"{shown(compat.name_or_path(pipeline.config))} expects ({name}: {problem}): give the folder of its own "
            "configuration with --config."
        )
    return FileContents(inside=tuple(inside), outside=tuple(name for name in models if name not in inside))


def _is_model(part: object) -> bool:
    from torch import nn

    return isinstance(part, nn.Module)


def _has_text_encoder(name: str, file: WeightFile) -> bool:
    prefixes = _TEXT_ENCODERS.get(name, ())
    return any(key.startswith(prefixes) for key in file.tensors) if prefixes else False


def _renamed(file: WeightFile, model: nn.Module) -> Mapping[str, torch.Tensor] | None:
    """The file's tensors under diffusers' names for a component; None where the file has nothing of it."""
    checkpoint = file.as_meta_tensors()
    expected = set(model.state_dict())
    if expected <= set(checkpoint):
        return checkpoint
    convert = compat.single_file_conversion(type(model))
    if convert is None:
        return None
    try:
        found = convert(checkpoint=checkpoint, config=dict(getattr(model, "config", {})))
    except Exception as error:  # the functions fail in many ways on tensors of another model
        logger.info("%s has no %s (%s)", file.name, type(model).__name__, one_line(error, with_type=True))
        return None
    return found if expected & set(found) else None


def _difference(found: Mapping[str, torch.Tensor], model: nn.Module) -> str | None:
    """The first tensor in which a file differs from a model; None where every tensor of the model is there.

    Tables that a model computes itself may be missing from a file.
    """
    computed = {name for name, _ in model.named_buffers()}
    for name, tensor in model.state_dict().items():
        other = found.get(name)
        if other is None:
            if name in computed:
                continue
            return f"{name} is missing"
        if other.shape != tensor.shape and not (other.numel() == tensor.numel() and _is_pointwise(other, tensor)):
            return f"{name} is {_sides(other)}, not {_sides(tensor)}"
    return None


def _is_pointwise(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Whether two weights are the same matrix, one of them as a convolution with a kernel of one element."""
    longer, shorter = sorted((tuple(one.shape), tuple(other.shape)), key=len, reverse=True)
    return longer[: len(shorter)] == shorter and all(side == 1 for side in longer[len(shorter) :])


def _sides(tensor: torch.Tensor) -> str:
    return " x ".join(map(str, tensor.shape)) or "a number"


def origin(file: WeightFile, found: FileContents, family: str) -> dict[str, Any]:
    """Where a pipeline's parts came from, as plain JSON values for profiles."""
    return {
        "file": file.name,
        "stored_bytes": file.stored_bytes,
        "stored_dtypes": list(file.dtypes),
        "from_file": list(found.inside),
        "from_family": list(found.outside),
        "family": family,
    }
