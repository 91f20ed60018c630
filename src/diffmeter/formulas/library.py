"""The formulas that come with the package, one file a model of the catalog, and the door to deriving others."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from functools import lru_cache
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diffmeter.errors import InputError, whole_number
from diffmeter.models import catalog

from .evaluate import Formula

if TYPE_CHECKING:
    from diffmeter.metering.recording.dry_run import ModelDryRuns
    from diffmeter.profile import ComputeProfile

logger = logging.getLogger(__name__)

FOLDER = Path(__file__).parent / "data"
#: packages whose version decides what a model computes
_DECISIVE = ("diffusers", "transformers")


def formula(source: Any, **arguments: Any) -> Formula:
    """The exact cost of a model or pipeline as a function of size, steps, guidance, batch and so on.

    >>> formula("sdxl").matmul_macs(height=1024, width=1024, steps=30, guidance_scale=5.0, batch=1)
    >>> formula(pipe).components["transformer"].total_macs.latex()

    A model of the catalog is answered from a file, without PyTorch. Anything else is derived from dry runs, which
    takes from half a minute to some minutes: keep the result with :meth:`~diffmeter.formulas.evaluate.Formula.save`.

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


class Answers:
    """Profiles of one model: from its formula where it has one that holds, otherwise from dry runs.

    Args:
        model: catalog id or alias, hub id, or local folder; no weights are read.
        token_count: number of tokens that a prompt is taken to have.
        dry_run: leave formulas aside.
        origin: what else :class:`~diffmeter.metering.recording.dry_run.ModelDryRuns` takes (a revision, adapters put
            onto the model, ...); with any of it, the model is not the catalog's and is dry-run.

    Raises:
        InputError: ``token_count`` is below 1.
    """

    def __init__(
        self,
        model: str | os.PathLike[str],
        *,
        token_count: int | None = None,
        dry_run: bool = False,
        **origin: Any,
    ) -> None:
        self.model = os.fspath(model)
        self._tokens = None if token_count is None else whole_number(token_count, "the number of tokens")
        self._origin = {name: value for name, value in origin.items() if value is not None}
        plain = not self._origin and not dry_run
        self.formula = shipped(self.model) if plain else None
        self._runs: ModelDryRuns | None = None

    @property
    def remarks(self) -> list[str]:
        """What a reader of a formula's answer has to know: libraries of other versions, and how to verify it."""
        if self.formula is None or self._runs is not None:
            return []
        return [
            f"{difference}; `diffmeter formula {self.model} --verify 3` compares it with dry runs."
            for difference in other_versions(self.formula)
        ]

    def profile(self, **settings: Any) -> ComputeProfile:
        """The profile of one generation; ``kind`` says whether a formula or a dry run gave it.

        Raises:
            InputError: a value that the model cannot take, named in the message.
            ModelNotFoundError, ModelLoadError: the model's configuration cannot be had.
        """
        if self.formula is not None:
            found = self._from_formula(self.formula, settings)
            if found is not None:
                return found
        if self._runs is None:
            from diffmeter.metering.recording.dry_run import ModelDryRuns

            self._runs = ModelDryRuns(self.model, token_count=self._tokens, **self._origin)
        return self._runs.dry_run(**settings)

    def _from_formula(self, found: Formula, settings: Mapping[str, Any]) -> ComputeProfile | None:
        """None where only a dry run can tell: outside the domain, or where the text of the prompt matters."""
        given = {name: value for name, value in settings.items() if value is not None}
        prompt = given.pop("prompt", None)
        if "tokens" in found.defaults:
            if prompt is not None:
                return None  # its number of tokens decides, and needs a tokenizer
            given["tokens"] = self._tokens
        sides = [given[side] for side in ("height", "width") if side in given]
        if len(sides) == 1:  # one side alone stands for a square
            given |= {"height": sides[0], "width": sides[0]}
        try:
            profile = found.profile(**given)
        except InputError as error:
            logger.info("%s", error)
            return None
        if prompt is not None and "prompt" in profile.conditions.arguments:
            profile.conditions.arguments["prompt"] = prompt
        return profile


def other_versions(found: Formula) -> list[str]:
    """What is installed in another version than a formula was derived with, each with both versions."""
    different = []
    for package in _DECISIVE:
        try:
            installed = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
        derived = found.versions.get(package)
        if derived is not None and installed != derived:
            different.append(f"{package} {installed} is installed, the formula was derived with {derived}")
    return different
