"""Shares, crossings and marginal costs of the toy, each computed by hand."""

from __future__ import annotations

import pytest

from diffmeter.formulas.describe import described
from diffmeter.formulas.questions import attention_share, crossover, marginals

from .toy import toy

FORMULA = toy()
# per image and forward: 576 per cell and 64 per pair of cells; the decoder's 1000 per cell once
FORWARD, DECODE = 576 * 64 + 64 * 64**2, 64_000


def test_share() -> None:
    assert attention_share(FORMULA) == pytest.approx(22 * 64 * 64**2 / (22 * FORWARD + DECODE))


def test_crossover() -> None:
    # half where 22*64*cells = 22*576 + 1000, that is at 9.7 cells: 3 x 3 is too few, 4 x 4 enough, of 8 pixels each
    assert crossover(FORMULA) == 32
    assert crossover(FORMULA, steps=100) == 32


def test_marginals() -> None:
    found = {marginal.of: marginal for marginal in marginals(FORMULA)}
    assert found["steps"].macs == 2 * FORWARD
    assert found["batch"].macs == 22 * FORWARD + DECODE
    doubled = 22 * (576 * 256 + 64 * 256**2) + 256_000
    assert found["height and width"].macs == doubled - (22 * FORWARD + DECODE)
    assert set(found) == {"steps", "batch", "height and width"}


def test_description() -> None:
    text = described(FORMULA)
    for part in ("height from 8 to 512 that 8 divides", "y = height // 8", "unet, called steps + 1 times", "32 x 32"):
        assert part in text
