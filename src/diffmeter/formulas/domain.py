"""Where a formula holds, and the lengths that it is a polynomial in.

A network rarely sees the pixels of an image: it sees ``height // 16`` patches, or ``ceil(height / 64)`` cells at its
deepest level. Each such whole number is a :class:`Length` of the user's own quantities, and a cost is an exact
polynomial in lengths for every size, also for those that are no multiple of the network's stride.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from diffmeter.errors import InputError

#: what a user calls the quantities, in messages
WORDS = {
    "height": "height",
    "width": "width",
    "steps": "number of steps",
    "guidance_scale": "guidance scale",
    "batch": "batch",
    "num_frames": "number of frames",
    "tokens": "number of tokens",
    "max_sequence_length": "maximum sequence length",
}


@dataclass(frozen=True)
class Length:
    """``(times * product of quantities + shift) // divide``, rounded down; up with ``shift = divide - 1``.

    ``of`` names quantities of the user, or lengths that are defined before this one.
    """

    name: str
    of: tuple[str, ...]
    times: int = 1
    shift: int = 0
    divide: int = 1

    def __call__(self, values: Mapping[str, Any]) -> Any:
        """Its value, a whole number or an array of them."""
        product = self.times
        for name in self.of:
            product = product * values[name]
        return (product + self.shift) // self.divide

    @property
    def inside(self) -> str:
        """What is divided, as text."""
        if not self.times:
            return str(self.shift)
        product = "*".join(([str(self.times)] if self.times != 1 else []) + list(self.of))
        if not self.shift:
            return product
        return f"{product} {'+' if self.shift > 0 else '-'} {abs(self.shift)}"

    def text(self) -> str:
        """As a program would have it, with the floor division of Python."""
        return (
            self.inside
            if self.divide == 1
            else f"({self.inside}) // {self.divide}".replace("(" + self.of[0] + ")", self.of[0])
        )

    def latex(self) -> str:
        """As mathematics, with the brackets of rounding down or up."""
        product = r" \cdot ".join(
            ([str(self.times)] if self.times != 1 else []) + [latex_name(name) for name in self.of]
        )
        up = self.divide > 1 and self.shift == self.divide - 1
        shift = 0 if up else self.shift
        if shift:
            product += f" {'+' if shift > 0 else '-'} {abs(shift)}"
        if self.divide == 1:
            return product
        left, right = (r"\lceil", r"\rceil") if up else (r"\lfloor", r"\rfloor")
        return rf"\left{left} \frac{{{product}}}{{{self.divide}}} \right{right}"

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "name": self.name,
            "of": list(self.of),
            "times": self.times,
            "shift": self.shift,
            "divide": self.divide,
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Length:
        """Read what :meth:`to_dict` wrote."""
        return cls(data["name"], tuple(data["of"]), data["times"], data["shift"], data["divide"])


def latex_name(name: str) -> str:
    """A variable as LaTeX shows it: ``y2`` with an index, a word upright."""
    letters = name.rstrip("0123456789")
    index = name[len(letters) :]
    shown = letters if len(letters) == 1 else rf"\mathrm{{{letters}}}".replace("_", r"\_")
    return f"{shown}_{{{index}}}" if index else shown


@dataclass(frozen=True)
class Range:
    """The values of one quantity that a formula holds for: ``low`` to ``high``, those that ``modulus`` divides."""

    low: int
    high: int
    modulus: int = 1

    def check(self, name: str, value: Any, whose: str) -> None:
        """Refuse a value outside, or an array that holds one.

        Raises:
            InputError: in one sentence, with the value and what is allowed.
        """
        for one in value.ravel().tolist() if hasattr(value, "ravel") else (value,):
            if isinstance(one, bool) or not isinstance(one, int):
                raise InputError(f"The {WORDS.get(name, name)} must be a whole number, not {one!r}.")
            if not self.low <= one <= self.high or one % self.modulus:
                raise InputError(
                    f"The formula of {whose} holds for a {WORDS.get(name, name)} {self.text()}, not for {one}."
                )

    def text(self) -> str:
        """In words."""
        if self.low == self.high:
            return f"of {self.low}"
        return f"from {self.low} to {self.high}" + (f" that {self.modulus} divides" if self.modulus > 1 else "")

    def to_list(self) -> list[int]:
        """For JSON."""
        return [self.low, self.high, self.modulus]


@dataclass(frozen=True)
class SizeTable:
    """The sizes that a pipeline computes at: the one whose ratio of height to width is nearest to what is asked for.

    ``rows`` are (ratio, height, width); of two that are equally near, the first is taken.
    """

    rows: tuple[tuple[float, int, int], ...]

    def __call__(self, height: int, width: int) -> tuple[int, int]:
        """The size that is computed."""
        asked = float(height / width)
        _, height, width = min(self.rows, key=lambda row: abs(row[0] - asked))
        return height, width

    def to_list(self) -> list[list[float]]:
        """For JSON."""
        return [list(row) for row in self.rows]

    @classmethod
    def from_list(cls, data: list[list[float]]) -> SizeTable:
        """Read what :meth:`to_list` wrote."""
        return cls(tuple((float(ratio), int(height), int(width)) for ratio, height, width in data))
