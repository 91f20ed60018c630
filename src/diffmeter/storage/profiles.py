"""Where profiles are found and put: JSON files, images that carry one, and the folders of runs. Plain JSON objects."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from diffmeter.errors import InputError

from . import png
from .files import read_json, write_bytes, write_json

Profile = Mapping[str, Any]
CONFIG = "generation_config.json"


def save_profile(path: str | Path, profile: Profile) -> Path:
    """Write a ``compute_profile`` object to a ``.json`` file, or into the ``.png`` image at ``path``.

    Raises:
        InputError: another ending, or an image that is not there or damaged.
        StorageError: it cannot be written.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix == ".json":
        return write_json(path, profile)
    if suffix != ".png":
        raise InputError(f"A profile cannot be written to {str(path)!r}: name a file that ends in .json or .png.")
    record = png.read_record(path) or {}
    text = json.dumps({**record, "compute_profile": profile}, ensure_ascii=False)
    return write_bytes(path, png.replace_texts(path.read_bytes(), {png.RECORD_KEY: text}))


def find_profiles(path: str | Path) -> dict[str, Profile]:
    """The profiles that a file or folder holds, by a name for each, in order; those that failed are left out.

    A JSON file is a profile, the record of a generation, or the ``generation_config.json`` of several.

    Raises:
        InputError: an image is no PNG file, or damaged.
        StorageError: it cannot be read, or is no JSON.
    """
    path = Path(path)
    if path.is_dir():
        return find_profiles(path / CONFIG)
    if path.suffix.lower() == ".png":
        record = png.read_record(path)
        return {} if record is None else _profiles_of(record, path.stem)
    return _profiles_of(read_json(path), path.stem)


def one_profile(path: str | Path) -> Profile:
    """The only profile that a file or folder holds.

    Raises:
        InputError: there is none, or more than one.
        StorageError: it cannot be read.
    """
    found = find_profiles(path)
    if not found:
        raise InputError(f"{str(path)!r} holds no compute profile.")
    if len(found) > 1:
        raise InputError(f"{str(path)!r} holds {len(found)} compute profiles: {', '.join(found)}; name one image.")
    return next(iter(found.values()))


def _profiles_of(data: object, name: str) -> dict[str, Profile]:
    if not isinstance(data, Mapping):
        return {}
    if "components" in data:
        return {name: data}
    inside = data.get("compute_profile")
    if isinstance(inside, Mapping):
        return {str(data.get("model_name") or name): inside} if "components" in inside else {}
    found: dict[str, Profile] = {}
    models = data.get("models")
    for number, record in enumerate(models if isinstance(models, list) else [], start=1):
        for label, profile in _profiles_of(record, f"{name} {number}").items():
            found[label if label not in found else f"{label} ({number})"] = profile
    return found
