"""What people derive by hand from a cost: shares, crossings and marginal costs, each from the exact polynomial."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from diffmeter.errors import InputError

from .domain import Range
from .evaluate import Formula


@dataclass(frozen=True)
class Marginal:
    """What one more of something adds to a generation.

    ``of`` is a quantity of the vocabulary, ``from_value`` and ``to_value`` the two settings that are compared, and
    ``macs`` the difference of ``matmul_macs``.
    """

    of: str
    from_value: Any
    to_value: Any
    macs: int


def attention_share(formula: Formula, **settings: Any) -> float:
    """The share of products of two activations in ``matmul_macs``, from 0 to 1.

    Raises:
        InputError: settings outside the formula's domain.
    """
    whole = formula.matmul_macs(**settings)
    return (whole - formula.matmul_macs_without_attention(**settings)) / whole if whole else 0.0


def squares(formula: Formula, **settings: Any) -> Iterator[int]:
    """Sides of square images that the formula holds for, in rising order."""
    allowed, other = _range(formula, "height", settings), _range(formula, "width", settings)
    if formula.cases[0].sizes is not None:
        return
    for side in range(max(allowed.low, other.low), min(allowed.high, other.high) + 1):
        if side % allowed.modulus == 0 and side % other.modulus == 0:
            yield side


def crossover(formula: Formula, **settings: Any) -> int | None:
    """The smallest side of a square image at which attention is at least half of ``matmul_macs``; None if none is.

    Raises:
        InputError: the model has no height, or other settings are outside the domain.
    """
    for side in squares(formula, **settings):
        if attention_share(formula, **{**settings, "height": side, "width": side}) >= 0.5:
            return side
    return None


def marginals(formula: Formula, **settings: Any) -> list[Marginal]:
    """What one more step, image, frame and token add, and what doubling the side does, as far as the model has them.

    Raises:
        InputError: settings outside the formula's domain.
    """
    values = formula.arguments_of(settings)
    before = formula.matmul_macs(**settings)
    found = []
    for name, change in (("steps", 1), ("batch", 1), ("num_frames", 4), ("tokens", 1), ("max_sequence_length", 1)):
        value = values.get(name)
        if value is None:
            continue
        try:
            after = formula.matmul_macs(**{**settings, name: value + change})
        except InputError:
            continue
        found.append(Marginal(name, value, value + change, after - before))
    if values.get("height") is not None:
        doubled = {"height": 2 * values["height"], "width": 2 * values["width"]}
        try:
            after = formula.matmul_macs(**{**settings, **doubled})
        except InputError:
            return found
        size, twice = f"{values['width']} x {values['height']}", f"{doubled['width']} x {doubled['height']}"
        found.append(Marginal("height and width", size, twice, after - before))
    return found


def _range(formula: Formula, name: str, settings: dict[str, Any]) -> Range:
    case, _ = formula.case_for(settings)
    if name not in case.ranges:
        raise InputError(f"{formula.name} has no {name}: its images have one size.")
    return case.ranges[name]
