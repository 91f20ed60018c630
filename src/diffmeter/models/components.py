"""One component alone: a folder, or a folder of a hub repository, with one ``config.json``.

What a component costs depends on what a pipeline calls it with, so it is put into the pipeline of a model of the
catalog that takes such a component: one whose own has the same class and reads and writes the same things.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from diffmeter.errors import ModelLoadError, ModelNotFoundError, shown

from . import catalog, hub
from .addresses import Address, parse_address
from .blueprint import Blueprint, ComponentBlueprint
from .sources import find_blueprint

CONFIG = "config.json"

#: keys of a component's configuration that say what a pipeline gives it and expects from it, not what is inside
_INTERFACE = (
    "in_channels",
    "out_channels",
    "latent_channels",
    "cross_attention_dim",
    "encoder_hid_dim",
    "addition_embed_type",
    "projection_class_embeddings_input_dim",
    "class_embed_type",
    "num_class_embeds",
    "joint_attention_dim",
    "pooled_projection_dim",
    "caption_channels",
    "caption_projection_dim",
    "cross_attention_dim_t5",
    "text_dim",
    "text_embed_dim",
    "cap_feat_dim",
    "guidance_embeds",
    "patch_size",
    "vocab_size",
    "hidden_size",
)


def read_component(address: Address, token: str | bool | None = None) -> ComponentBlueprint:
    """The class and configuration of the component at an address.

    Raises:
        ModelNotFoundError: it is a whole pipeline, or has no ``config.json``.
        ModelLoadError: the configuration names no class of diffusers or transformers.
    """
    config = _read_config(address, token)
    name = shown(str(address.path or f"{address.repository}/{address.inside}".rstrip("/")))
    class_name = config.get("_class_name") or next(iter(config.get("architectures") or ()), None)
    if not isinstance(class_name, str):
        raise ModelLoadError(f"{CONFIG} of {name} names no class (_class_name or architectures).")
    library = "diffusers" if "_class_name" in config else "transformers"
    return ComponentBlueprint(library, class_name, config, address.path)


def _read_config(address: Address, token: str | bool | None) -> dict[str, Any]:
    if address.path is not None:
        path, name = address.path / CONFIG, shown(str(address.path))
        if (address.path / hub.INDEX_FILE).is_file():
            raise ModelNotFoundError(f"{name} is a whole pipeline: use diffmeter profile.")
        if not path.is_file():
            raise ModelNotFoundError(f"{name} has no {CONFIG}: give the folder of one component, such as unet/.")
        text = path.read_text(encoding="utf-8", errors="replace")
    else:
        name = shown(f"{address.repository}/{address.inside}".rstrip("/"))
        text = hub.read_text(address, CONFIG, token)
    try:
        config = json.loads(text)
    except (json.JSONDecodeError, RecursionError) as error:
        raise ModelLoadError(f"{CONFIG} of {name} is not valid JSON: {error}.") from error
    if not isinstance(config, dict):
        raise ModelLoadError(f"{CONFIG} of {name} is malformed: it must hold an object.")
    return config


def in_family(model: str, family: str | None = None, token: str | bool | None = None) -> tuple[Blueprint, str]:
    """The pipeline of a family with the component at ``model`` in place of its own, and that component's name.

    Args:
        model: a folder or hub address of one component.
        family: the model whose pipeline it is put into; None looks for one in the catalog.
        token: the hub's access token; None takes ``HF_TOKEN``.

    Raises:
        ModelNotFoundError, ModelLoadError: see :func:`read_component`; or no family takes such a component.
    """
    part = read_component(parse_address(model), token)
    if family is not None:
        found = find_blueprint(family, token=token)
        names = [name for name, own in found.components.items() if own.class_name == part.class_name]
        if not names:
            raise ModelLoadError(f"{family!r} has no component of the class {part.class_name}.")
        return _with(found, names[0], part, model), names[0]
    candidates = [
        (_likeness(entry, own.config, part.config), entry.model_id, name)
        for entry in catalog.entries()
        for name, own in entry.components.items()
        if own.class_name == part.class_name and _same_interface(own.config, part.config)
    ]
    if not candidates:
        raise ModelLoadError(
            f"no model of the catalog takes a {part.class_name} with the inputs of {shown(model)}: name one with "
            "--in, or count the module with its inputs in Python, diffmeter.count(module, ...)."
        )
    _, chosen, name = max(candidates)
    return _with(find_blueprint(chosen), name, part, model), name


def _likeness(entry: catalog.CatalogEntry, own: Mapping[str, Any], other: Mapping[str, Any]) -> tuple[int, bool, int]:
    """How much a model is like the one of a component: the same settings, text alone as input, a short name."""
    same = sum(_plain(other.get(key)) == _plain(value) for key, value in own.items())
    return same, not entry.defaults.inputs and "Img2Img" not in entry.pipeline_class, -len(entry.model_id)


def _with(found: Blueprint, name: str, part: ComponentBlueprint, model: str) -> Blueprint:
    origin = {"file": str(model), "from_file": [name], "family": found.model_id}
    origin["from_family"] = [other for other in found.components if other != name]
    return replace(found, components={**found.components, name: part}, origin=origin)


def _same_interface(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    return all(_plain(one.get(key)) == _plain(other.get(key)) for key in _INTERFACE if key in one and key in other)


def _plain(value: Any) -> Any:
    """Lists with equal members as that member: some configurations spell one number out for each block."""
    if isinstance(value, (list, tuple)) and value and all(item == value[0] for item in value):
        return value[0]
    return list(value) if isinstance(value, tuple) else value


def is_component(path: Path) -> bool:
    """Whether a folder holds one component rather than a pipeline."""
    return (path / CONFIG).is_file() and not (path / hub.INDEX_FILE).is_file()
