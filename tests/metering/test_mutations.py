"""A small fixed sample of ``benchmarks/mutations.py``: nothing is silently wrong, and no run breaks."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

PATH = Path(__file__).resolve().parents[2] / "benchmarks" / "mutations.py"

#: draws, with the verdict that they had when the sample was chosen
SAMPLE = {2: "exact", 4: "exact", 14: "exact", 29: "exact", 48: "exact"}


@pytest.fixture(scope="module")
def mutations() -> ModuleType:
    spec = importlib.util.spec_from_file_location("mutations", PATH)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("draw", SAMPLE)
def test_a_draw(mutations, draw) -> None:
    verdict = mutations.judge(draw)
    assert verdict.verdict == SAMPLE[draw], verdict


def test_a_draw_is_the_same_each_time(mutations) -> None:
    assert mutations.drawn(7) == mutations.drawn(7)
    assert len({mutations.drawn(number)[0] for number in range(40)}) == len(mutations.PIPELINES)


def test_verdicts_are_counted(mutations) -> None:
    def verdict(draw: int, name: str) -> object:
        return mutations.Verdict(draw, "StableDiffusionPipeline", ["compiled"], name)

    result = mutations.summary([verdict(1, "exact"), verdict(2, "silent"), verdict(3, "exact")])
    assert result["verdicts"] == {"exact": 2, "honest": 0, "silent": 1, "broken": 0, "unjudged": 0}
    assert result["by_change"]["compiled"] == {"exact": 2, "silent": 1}
    assert [entry["draw"] for entry in result["not_exact"]] == [2]
