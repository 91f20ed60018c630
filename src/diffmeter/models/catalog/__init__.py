"""Facts of known models: what decides their compute, read from one JSON file each in ``models/``.

Adding a model is adding a file. Reading the catalog loads neither torch nor diffusers.
"""

from __future__ import annotations

import difflib
import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from diffmeter.errors import InputError, whole_number
from diffmeter.models.weight_files import safetensors_header

_FOLDER = Path(__file__).parent / "models"
_EMBEDDED_FOLDER = Path(__file__).parents[2] / "embedded"


@dataclass(frozen=True)
class Component:
    """One component of a pipeline as published."""

    library: str
    """The library that ``model_index.json`` names: diffusers, transformers, or a folder of diffusers.pipelines."""
    class_name: str
    config: Mapping[str, Any]
    source: str | None
    """Repository, revision and path that the configuration was read from."""
    verified: bool
    """Whether the configuration was read from an actual file, not recalled or taken from the base model."""
    note: str | None = None
    params: int | None = None
    """Number of parameters of the published checkpoint; None for components that have none."""
    params_source: str | None = None
    """Where that number is published, or None where it was only computed from the configuration."""


@dataclass(frozen=True)
class Input:
    """An argument of the pipeline's call that it cannot do without, for models that need more than a prompt.

    ``kind`` is "value" (``value`` is passed as it is), "tensor" (a tensor of ``shape``; -1 stands for the batch), or
    "image" (an image of the requested size).
    """

    kind: str
    value: Any = None
    shape: tuple[int, ...] | None = None


@dataclass(frozen=True)
class Defaults:
    """What a generation is unless the user says otherwise. Sizes in pixels."""

    height: int | None = None
    width: int | None = None
    num_inference_steps: int | None = None
    guidance_scale: float | None = None
    guidance_argument: str = "guidance_scale"
    """The argument of the pipeline's call that takes the guidance (``true_cfg_scale`` for some)."""
    num_frames: int | None = None
    max_sequence_length: int | None = None
    """Number of text tokens that the longest text encoder reads, where the pipeline has the argument of that name."""
    inputs: Mapping[str, Input] = field(default_factory=dict)
    source: str | None = None


@dataclass(frozen=True)
class CatalogEntry:
    """A model that diffmeter knows without asking the hub."""

    model_id: str
    name: str
    """Short name for tables and plots."""
    family: str
    pipeline_class: str
    components: Mapping[str, Component]
    defaults: Defaults
    aliases: tuple[str, ...] = ()
    arguments: Mapping[str, Any] = field(default_factory=dict)
    """Arguments of the pipeline's constructor that are no components."""
    source: str | None = None
    notes: tuple[str, ...] = ()
    embedded: bool = False
    """Whether the weights are part of this package."""
    folder: Path | None = None
    """The folder of an embedded model."""

    @property
    def params_by_component(self) -> dict[str, int]:
        """Parameters of each component that has any, in the order of the file."""
        return {name: part.params for name, part in self.components.items() if part.params is not None}

    @property
    def params(self) -> int:
        """Parameters of all components together."""
        return sum(self.params_by_component.values())

    @property
    def verified(self) -> bool:
        """Whether every component with parameters was read from an actual configuration file."""
        return all(part.verified for part in self.components.values() if part.params is not None)

    def to_dict(self) -> dict[str, Any]:
        """The entry as ``diffmeter models --json`` shows it: facts and counts, without the configurations."""
        defaults = {
            "height": self.defaults.height,
            "width": self.defaults.width,
            "num_inference_steps": self.defaults.num_inference_steps,
            "guidance_scale": self.defaults.guidance_scale,
            "guidance_argument": self.defaults.guidance_argument,
            "num_frames": self.defaults.num_frames,
            "max_sequence_length": self.defaults.max_sequence_length,
            "source": self.defaults.source,
        }
        return {
            "model_id": self.model_id,
            "name": self.name,
            "aliases": list(self.aliases),
            "family": self.family,
            "pipeline_class": self.pipeline_class,
            "embedded": self.embedded,
            "verified": self.verified,
            "params": self.params,
            "components": {
                name: {
                    "class": part.class_name,
                    "params": part.params,
                    "params_source": part.params_source,
                    "source": part.source,
                    "verified": part.verified,
                    "note": part.note,
                }
                for name, part in self.components.items()
            },
            "defaults": defaults,
            "source": self.source,
            "notes": list(self.notes),
        }


def entries() -> tuple[CatalogEntry, ...]:
    """Every known model: embedded ones first, then by family and name."""
    return _load(_FOLDER, _EMBEDDED_FOLDER)


def find(model_id: str) -> CatalogEntry | None:
    """The entry with this model id, short name or alias, or None. Upper and lower case are the same."""
    wanted = model_id.strip().lower()
    found = None
    for entry in entries():
        if entry.model_id.lower() == wanted:
            return entry
        if wanted in (entry.name.lower(), *(alias.lower() for alias in entry.aliases)):
            found = entry
    return found


def nearest(name: str, count: int = 3) -> list[str]:
    """Ids of the entries whose id or alias is most like ``name``, the likest first; empty where none is."""
    known: dict[str, str] = {}
    for entry in entries():
        for text in (entry.model_id, entry.model_id.rpartition("/")[2], entry.name, *entry.aliases):
            known.setdefault(text.lower(), entry.model_id)
    wanted = name.strip().lower()
    lone = wanted.rpartition("/")[2]
    begun = sorted((text for text in known if len(lone) >= 3 and text.startswith(lone)), key=len)
    alike = difflib.get_close_matches(wanted, known, n=count, cutoff=0.75)
    alike += difflib.get_close_matches(lone, known, n=count, cutoff=0.75) if lone != wanted else []
    return list(dict.fromkeys(known[text] for text in (*begun, *alike)))[:count]


def search(text: str | None = None, family: str | None = None) -> tuple[CatalogEntry, ...]:
    """The entries of ``family`` (all if None) whose id, name, aliases, family or classes hold each word of ``text``.

    Raises ``InputError`` for a family that no entry has.
    """
    chosen = entries()
    if family is not None:
        chosen = tuple(entry for entry in chosen if entry.family.lower() == family.strip().lower())
        if not chosen:
            raise InputError(f"family {family!r} is not in the catalog; there are {', '.join(families())}.")
    words = (text or "").lower().split()
    return tuple(entry for entry in chosen if all(word in _searchable(entry) for word in words))


def families() -> list[str]:
    """The names of the families, in alphabetical order."""
    return sorted({entry.family for entry in entries()})


def _searchable(entry: CatalogEntry) -> str:
    classes = [part.class_name for part in entry.components.values()]
    return " ".join([entry.model_id, entry.name, *entry.aliases, entry.family, entry.pipeline_class, *classes]).lower()


@lru_cache(maxsize=4)
def _load(folder: Path, embedded_folder: Path) -> tuple[CatalogEntry, ...]:
    found = []
    for path in sorted(folder.glob("*.json")):
        data, home = _read(path), None
        if isinstance(data, dict) and "embedded" in data:
            completed = _complete_embedded(data, embedded_folder, path.name)
            if completed is None:
                continue
            data, home = completed
        found.append(parse_entry(data, path.name, home))
    return tuple(sorted(found, key=lambda e: (not e.embedded, e.family, [*map(_natural, re.split(r"(\d+)", e.name))])))


def _natural(part: str) -> tuple[int, int, str]:
    return (0, int(part), "") if part.isdigit() else (1, 0, part)


def _complete_embedded(data: dict[str, Any], root: Path, where: str) -> tuple[dict[str, Any], Path] | None:
    """Fill in the components of a model of this package from its folder; None while the folder is not there.

    Classes come from ``model_index.json``, configurations and parameter counts from the files beside the weights,
    so that the entry always says what the weights are.
    """
    folder = root / _required(data, "embedded", str, where)
    if not (folder / "model_index.json").is_file():
        return None
    components: dict[str, Any] = {}
    arguments: dict[str, Any] = {}
    index = _read(folder / "model_index.json")
    for name, value in index.items():
        if name.startswith("_") or value == [None, None]:
            continue
        if not isinstance(value, list):
            arguments[name] = value
            continue
        configs = [
            path for path in sorted((folder / name).glob("*config.json")) if path.name != "generation_config.json"
        ]
        counts = [_count_parameters(path) for path in sorted((folder / name).glob("*.safetensors"))]
        components[name] = {
            "library": value[0],
            "class": value[1],
            "config": _read(configs[0]) if configs else {},
            "verified": True,
            "source": "this package",
            "params": sum(counts) if counts else None,
            "params_source": "the weight file's header" if counts else None,
        }
    filled = {"pipeline_class": index.get("_class_name"), "components": components, "arguments": arguments, **data}
    return filled, folder


def _count_parameters(path: Path) -> int:
    """The number of elements in a safetensors file, from its header."""
    return sum(math.prod(shape) for _, shape, _ in safetensors_header(path)[0].values())


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise InputError(f"catalog file {path.name!r} cannot be read: {error}.") from error


def parse_entry(data: Any, where: str, folder: Path | None = None) -> CatalogEntry:
    """Check and convert one catalog file. Raises ``InputError`` naming the file and the key that is wrong."""
    if not isinstance(data, Mapping):
        raise InputError(f"catalog file {where!r} must hold an object.")
    components = {
        name: _component(value, f"{where}: components.{name}")
        for name, value in _required(data, "components", dict, where).items()
    }
    return CatalogEntry(
        model_id=_required(data, "model_id", str, where),
        name=_required(data, "name", str, where),
        family=_required(data, "family", str, where),
        pipeline_class=_required(data, "pipeline_class", str, where),
        components=components,
        defaults=_defaults(_required(data, "defaults", dict, where), f"{where}: defaults"),
        aliases=tuple(_texts(data.get("aliases", ()), where, "aliases")),
        arguments=dict(data.get("arguments", {})),
        source=data.get("source"),
        notes=tuple(_texts(data.get("notes", ()), where, "notes")),
        embedded=folder is not None,
        folder=folder,
    )


def _component(data: Any, where: str) -> Component:
    if not isinstance(data, Mapping):
        raise InputError(f"catalog file {where} must be an object.")
    params = data.get("params")
    if params is not None:
        params = whole_number(params, f"catalog file {where}.params", 0)
    return Component(
        library=_required(data, "library", str, where),
        class_name=_required(data, "class", str, where),
        config=_required(data, "config", dict, where),
        source=data.get("source"),
        verified=_required(data, "verified", bool, where),
        note=data.get("note"),
        params=params,
        params_source=data.get("params_source"),
    )


def _defaults(data: Mapping[str, Any], where: str) -> Defaults:
    known = {
        "height",
        "width",
        "num_inference_steps",
        "guidance_scale",
        "guidance_argument",
        "num_frames",
        "max_sequence_length",
        "source",
    }
    unknown = sorted(set(data) - known - {"inputs"})
    if unknown:
        raise InputError(f"catalog file {where} has the unknown key {unknown[0]!r}.")
    inputs = {name: _input(value, f"{where}.inputs.{name}") for name, value in data.get("inputs", {}).items()}
    return Defaults(**{key: data[key] for key in known & set(data)}, inputs=inputs)


def _input(data: Any, where: str) -> Input:
    kind = _required(data, "kind", str, where) if isinstance(data, Mapping) else None
    if kind not in ("value", "tensor", "image"):
        raise InputError(f"catalog file {where}.kind is {kind!r}: use value, tensor or image.")
    shape = data.get("shape")
    if (kind == "tensor") != (shape is not None):
        raise InputError(f"catalog file {where}: a tensor, and only a tensor, has a shape.")
    return Input(kind=kind, value=data.get("value"), shape=tuple(shape) if shape is not None else None)


def _required(data: Mapping[str, Any], key: str, kind: type, where: str) -> Any:
    value = data.get(key)
    if not isinstance(value, kind):
        raise InputError(f"catalog file {where}: {key!r} must be of type {kind.__name__}, not {value!r}.")
    return value


def _texts(value: Any, where: str, key: str) -> Iterable[str]:
    if not isinstance(value, (list, tuple)) or not all(isinstance(text, str) for text in value):
        raise InputError(f"catalog file {where}: {key!r} must be a list of strings.")
    return value
