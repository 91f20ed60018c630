"""Lengths round as they say, and a value outside a range is refused in one sentence."""

from __future__ import annotations

import numpy as np
import pytest

from diffmeter.errors import InputError
from diffmeter.formulas.domain import Length, Range, SizeTable


def test_lengths_round_down_and_up() -> None:
    down, up = Length("y", ("height",), divide=16), Length("y3", ("height",), shift=63, divide=64)
    assert [down({"height": h}) for h in (1000, 1008, 1024)] == [62, 63, 64]
    assert [up({"height": h}) for h in (512, 520, 576)] == [8, 9, 9]
    assert up({"height": np.array([512, 520])}).tolist() == [8, 9]
    assert down.text() == "height // 16"
    assert up.text() == "(height + 63) // 64"
    assert up.latex() == r"\left\lceil \frac{\mathrm{height}}{64} \right\rceil"
    padded = Length("s", ("y", "x"), shift=31, divide=32)
    assert padded({"y": 9, "x": 7}) == 2  # 63 patches take two blocks of 32


def test_lengths_and_ranges_read_back() -> None:
    length = Length("n", ("steps",), times=3, shift=-1, divide=10)
    assert Length.from_dict(length.to_dict()) == length
    assert Range(*Range(64, 2048, 8).to_list()) == Range(64, 2048, 8)


@pytest.mark.parametrize("value", [0, 63, 68, 4097, -8, 1024.0, "1024", True, None])
def test_values_outside_are_refused(value: object) -> None:
    with pytest.raises(InputError) as refusal:
        Range(64, 4096, 8).check("height", value, "SDXL")
    assert "height" in str(refusal.value)
    assert repr(value) in str(refusal.value)


def test_an_array_is_refused_for_one_of_its_values() -> None:
    Range(64, 4096, 8).check("height", np.array([64, 4096]), "SDXL")
    with pytest.raises(InputError, match="not for 100"):
        Range(64, 4096, 8).check("height", np.array([64, 100]), "SDXL")


def test_the_nearest_ratio_decides() -> None:
    table = SizeTable(((0.5, 704, 1408), (1.0, 1024, 1024), (2.0, 1408, 704)))
    assert table(900, 1000) == (1024, 1024)
    assert table(600, 1000) == (704, 1408)  # 0.6 is nearer to 0.5 than to 1.0
    assert SizeTable.from_list(table.to_list()) == table
