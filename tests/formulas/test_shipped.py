"""The formulas in the package read back, and equal dry runs at random settings to the last integer."""

from __future__ import annotations

import random

import pytest

from diffmeter.formulas.evaluate import Formula
from diffmeter.formulas.library import FOLDER, path_of, shipped
from diffmeter.formulas.verify import differences, random_settings
from diffmeter.models import catalog

FILES = sorted(FOLDER.glob("*.json"))
BY_FILE = {path_of(entry.model_id): entry for entry in catalog.entries()}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_file_belongs_to_a_model_and_reads_back(path) -> None:  # type: ignore[no-untyped-def]
    entry = BY_FILE[path]
    formula = Formula.load(path)
    assert formula.conditions["model_id"] == entry.model_id
    assert Formula.from_dict(formula.to_dict()) == formula
    assert formula.matmul_macs() > formula.matmul_macs_without_attention() > 0
    for name, part in formula.parts.items():
        published = entry.components[name].params if name in entry.components else None
        if published is not None and formula.components[name].calls():
            assert part.params == published


def verified_at_random(model_id: str, seed: int) -> None:
    """One random setting, the same in each run of the suite."""
    formula = shipped(model_id)
    assert formula is not None
    settings = random_settings(formula, random.Random(f"{model_id} {seed}"))
    assert list(differences(formula, model_id, settings)) == []


def test_the_smallest_model_at_a_random_setting() -> None:
    verified_at_random("diffmeter/shapes", 1)


@pytest.mark.zoo_full
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_model_at_random_settings(path, seed: int) -> None:  # type: ignore[no-untyped-def]
    verified_at_random(BY_FILE[path].model_id, seed)
