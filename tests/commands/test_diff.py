"""``diffmeter diff``."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from diffmeter.errors import InputError
from diffmeter.reports.difference import ProfileDifference
from tests.reports.hand_made import incomplete, profile


@pytest.fixture
def files(tmp_path: Path) -> tuple[str, str]:
    """Ten guided steps, and twenty with calls of half the work: 11 x 1.1 T against 21 x 0.55 T."""
    first = profile(10**12).save(tmp_path / "first.json")
    second = profile(5 * 10**11, steps=20, scheduler="PNDMScheduler").save(tmp_path / "second.json")
    return str(first), str(second)


def test_components_and_conditions(invoke: Callable[..., tuple[str, str]], files: tuple[str, str]) -> None:
    data = json.loads(invoke("diff", *files, "--json")[0])
    assert data["totals"]["total_macs"] == [121 * 10**11, 1155 * 10**10]
    unet, vae = data["components"]
    assert (unet["ratio"], vae["ratio"]) == (1.0, 0.5) and (unet["first_calls"], unet["second_calls"]) == (10, 20)
    assert data["conditions"] == {
        "steps": [10, 20],
        "steps_run": [10, 20],
        "scheduler": ["DDIMScheduler", "PNDMScheduler"],
    }
    shown = invoke("diff", *files)[0]
    assert "scheduler: DDIMScheduler -> PNDMScheduler" in shown and "512 x 512, guidance 7.5" in shown
    assert "0.50x" in shown and "1.00x" in shown


def test_products_per_forward(invoke: Callable[..., tuple[str, str]], files: tuple[str, str]) -> None:
    shown = invoke("diff", *files, "--convention", "products", "--per", "step", "-f", "csv")[0]
    assert shown.splitlines()[1].startswith("unet,1000000000000,500000000000,0.5,")


def test_what_is_not_complete_has_no_ratio() -> None:
    text = str(ProfileDifference(profile(), incomplete(profile())))
    assert text.startswith("INCOMPLETE") and text.count("1.00x") == 1, "only the decoder's"


def test_what_holds_no_profile_is_refused(invoke: Callable[..., tuple[str, str]], tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text("{}")
    with pytest.raises(InputError, match="holds no compute profile"):
        invoke("diff", str(tmp_path / "a.json"), str(tmp_path / "a.json"))
