"""The formulas that come with the package, one file a model of the catalog, and the door to deriving others."""

from __future__ import annotations

import os
from functools import lru_cache
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diffmeter.errors import InputError
from diffmeter.models import catalog

from .evaluate import Formula

if TYPE_CHECKING:
    from diffmeter.profile import ComputeProfile

FOLDER = Path(__file__).parent / "data"
#: packages whose version decides what a model computes
_DECISIVE = ("diffusers", "transformers")


def formula(source: Any, **arguments: Any) -> Formula:
    """The exact cost of a model or pipeline as a function of size, steps, guidance, batch and so on.

    >>> formula("sdxl").matmul_macs(height=1024, width=1024, steps=30, guidance_scale=5.0, batch=1)
    >>> formula(pipe).components["transformer"].total_macs.latex()

    A model of the catalog is answered from a file, without PyTorch. Anything else is derived from dry runs, which takes from
    half a minute to some minutes: keep the result with :meth:`~diffmeter.formulas.evaluate.Formula.save`.

    Args:
        source: a loaded pipeline, the id or folder of a model, or a ``.json`` file that holds a formula.
        arguments: further arguments of the pipeline's call, the same at every point.

    Raises:
        InputError: the file holds no formula.
        DiffmeterError: the pipeline does not run, or its cost is no polynomial of a known family.
    """
    if isinstance(source, (str, os.PathLike)):
        if os.fspath(source).endswith(".json"):
            return Formula.load(os.fspath(source))
        found = None if arguments else shipped(os.fspath(source))
        if found is not None:
            return found
    from .derive import derive

    return derive(source, **arguments)


def path_of(model_id: str) -> Path:
    """Where the formula of a model of the catalog is kept."""
    return FOLDER / ("".join(c if c.isalnum() else "_" for c in model_id.lower()) + ".json")


def shipped(model: str) -> Formula | None:
    """The formula of a model of the catalog, by id, name or alias; None where there is none."""
    if os.path.isdir(model):
        return None
    entry = catalog.find(model)
    return None if entry is None else _load(path_of(entry.model_id))


@lru_cache(maxsize=128)
def _load(path: Path) -> Formula | None:
    return Formula.load(path) if path.is_file() else None


def profile_from_formula(
    model: str | os.PathLike[str],
    *,
    height: int | None = None,
    width: int | None = None,
    steps: int | None = None,
    guidance_scale: float | None = None,
    batch: int = 1,
    prompt: str | None = None,
    token_count: int | None = None,
) -> ComputeProfile | None:
    """The profile of a generation of a model of the catalog; None where only a dry run can tell.

    That is: there is no formula, it does not hold for these settings, or the text of the prompt matters.
    """
    found = shipped(os.fspath(model))
    if found is None:
        return None
    if (height is None) != (width is None):  # one side alone stands for a square
        height = width = height if width is None else width
    given = {
        "height": height,
        "width": width,
        "steps": steps,
        "guidance_scale": guidance_scale,
        "batch": batch,
        "tokens": token_count,
    }
    if "tokens" in found.defaults:
        if prompt is not None:
            return None  # its number of tokens decides, and needs a tokenizer
    else:
        del given["tokens"]
    try:
        profile = found.profile(**{name: value for name, value in given.items() if value is not None})
    except InputError:
        return None
    if prompt is not None and "prompt" in profile.conditions.arguments:
        profile.conditions.arguments["prompt"] = prompt
    return profile


def other_versions(found: Formula) -> list[str]:
    """What is installed in another version than a formula was derived with: "diffusers 0.42.1, derived with 0.41.0"."""
    different = []
    for package in _DECISIVE:
        try:
            installed = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
        derived = found.versions.get(package)
        if derived is not None and installed != derived:
            different.append(f"{package} {installed} (the formula was derived with {derived})")
    return different
