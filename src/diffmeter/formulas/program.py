"""The order of a pipeline's calls as a short program: some calls, some repeated with the steps, some more.

A generation of 50 steps is ``text encoder, text encoder, (denoiser) x 50, decoder``. How often a part is repeated is a
:class:`~diffmeter.formulas.domain.Length` of the number of steps: ``steps`` itself, ``steps + 1`` (PNDM),
``2*steps - 1`` (Heun), ``(3*steps) // 10`` (a strength of 0.3), or a constant.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import floor
from typing import Any, Generic, TypeVar

from .domain import Length

Call = TypeVar("Call", bound=Hashable)

#: repeats from which on a part of a sequence is taken to be repeated with the number of steps
_FEWEST_REPEATS = 4


@dataclass(frozen=True)
class Slot:
    """One place in a program: which call of the formula it makes, and by how much the step goes up before it.

    ``step`` is None for a call that belongs to no step (a decoder after the last one).
    """

    call: int
    step: int | None

    def to_list(self) -> list[int | None]:
        """For JSON."""
        return [self.call, self.step]


@dataclass(frozen=True)
class Segment:
    """Calls that follow each other ``repeats`` times."""

    slots: tuple[Slot, ...]
    repeats: Length

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {"slots": [slot.to_list() for slot in self.slots], "repeats": self.repeats.to_dict()}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Segment:
        """Read what :meth:`to_dict` wrote."""
        return cls(tuple(Slot(call, step) for call, step in data["slots"]), Length.from_dict(data["repeats"]))


@dataclass(frozen=True)
class Program:
    """Segments in order. Calls that were made outside any step count the steps from 0."""

    segments: tuple[Segment, ...]

    def unrolled(self, steps: int) -> Iterator[tuple[int, int | None]]:
        """Every call in order, with the step that it belongs to."""
        now = 0
        for segment in self.segments:
            for _ in range(max(segment.repeats({"steps": steps}), 0)):
                for slot in segment.slots:
                    if slot.step is not None:
                        now += slot.step
                    yield slot.call, None if slot.step is None else now

    def counts(self, steps: int) -> dict[int, int]:
        """How often each call is made."""
        found: dict[int, int] = {}
        for segment in self.segments:
            repeats = max(segment.repeats({"steps": steps}), 0)
            for slot in segment.slots:
                found[slot.call] = found.get(slot.call, 0) + repeats
        return found


@dataclass(frozen=True)
class Folded(Generic[Call]):
    """A sequence written as parts and how often each follows itself."""

    parts: tuple[tuple[tuple[tuple[Call, int | None], ...], int], ...]

    @property
    def shape(self) -> tuple[tuple[int, bool], ...]:
        """Length of each part, and whether it is repeated: what two runs of one program have in common."""
        return tuple((len(part), repeats > 1) for part, repeats in self.parts)


def fold(sequence: Sequence[tuple[Call, int | None]]) -> Folded[Call]:
    """Find what is repeated in a sequence of (call, increase of the step)."""
    parts: list[tuple[tuple[tuple[Call, int | None], ...], int]] = []
    loose: list[tuple[Call, int | None]] = []
    position = 0
    while position < len(sequence):
        length, repeats = _repeated(sequence, position)
        if repeats < _FEWEST_REPEATS:
            loose.append(sequence[position])
            position += 1
            continue
        if loose:
            parts.append((tuple(loose), 1))
            loose = []
        parts.append((tuple(sequence[position : position + length]), repeats))
        position += length * repeats
    if loose:
        parts.append((tuple(loose), 1))
    return Folded(tuple(parts))


def _repeated(sequence: Sequence[Any], start: int) -> tuple[int, int]:
    """The shortest part from ``start`` on that follows itself often enough, and how often it does."""
    for length in range(1, (len(sequence) - start) // _FEWEST_REPEATS + 1):
        part = sequence[start : start + length]
        repeats = 1
        while sequence[start + repeats * length : start + (repeats + 1) * length] == part:
            repeats += 1
        if repeats >= _FEWEST_REPEATS:
            return length, repeats
    return 1, 1


def law(seen: Mapping[int, int], name: str) -> Length | None:
    """How a number of repeats follows from the number of steps: a length, or None where none fits all that was seen.

    The simplest is taken: a constant, then ``(times*steps + shift) // divide`` with the smallest ``divide``.
    """
    if len(set(seen.values())) == 1:
        return Length(name, ("steps",), 0, next(iter(seen.values())), 1)
    for divide in range(1, 101):
        for times in range(1, 2 * divide + 1):
            # shift is bound by every point: repeats*divide <= times*steps + shift < (repeats + 1)*divide
            low = max(repeats * divide - times * steps for steps, repeats in seen.items())
            high = min((repeats + 1) * divide - times * steps - 1 for steps, repeats in seen.items())
            if low <= high:
                return Length(name, ("steps",), times, min(max(0, low), high), divide)
    return None


def decimal_fraction(value: float) -> Fraction:
    """A number such as a strength of 0.3 as people mean it."""
    return Fraction(repr(value)) if floor(value) != value else Fraction(int(value))
