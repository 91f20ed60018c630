"""Interpolation over the rationals: the coefficients of known terms from exact values at chosen points."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fractions import Fraction

from .polynomial import Monomial, Polynomial

Row = list[Fraction]


class Interpolation:
    """One choice of terms and points, for many quantities that were observed at the same points.

    Args:
        terms: candidate monomials, the simplest first. Those that depend on earlier ones at all points are left out.
        points: values of every variable at each point. As many as there are terms are used to interpolate, the
            first ones that determine them; the others are left for the proof.

    Attributes:
        terms: the independent terms.
        used: positions of the points that the coefficients come from.
    """

    def __init__(self, terms: Sequence[Monomial], points: Sequence[Mapping[str, int]]) -> None:
        values = [[_value(term, point) for term in terms] for point in points]
        kept, used = _independent(values)
        self.terms = [terms[column] for column in kept]
        self.used = used
        self._rows = [[row[column] for column in kept] for row in values]
        self._inverse = _inverted([self._rows[index] for index in used])
        self._known: dict[tuple[int, ...], Polynomial | None] = {}

    @property
    def left(self) -> list[int]:
        """Positions of the points that were not used."""
        return [index for index in range(len(self._rows)) if index not in set(self.used)]

    def fit(self, observed: Sequence[int]) -> Polynomial | None:
        """The polynomial through what was observed, or None if any point that was not used contradicts it."""
        key = tuple(observed)
        if key not in self._known:
            self._known[key] = self._fit(key)
        return self._known[key]

    def _fit(self, observed: tuple[int, ...]) -> Polynomial | None:
        if len(set(observed)) == 1 and () in self.terms:
            return Polynomial.constant(observed[0])
        chosen = [observed[index] for index in self.used]
        coefficients = [sum((a * b for a, b in zip(row, chosen, strict=True)), Fraction(0)) for row in self._inverse]
        for index in self.left:
            predicted = sum((a * b for a, b in zip(self._rows[index], coefficients, strict=True)), Fraction(0))
            if predicted != observed[index]:
                return None
        return Polynomial(dict(zip(self.terms, coefficients, strict=True)))


def _value(term: Monomial, point: Mapping[str, int]) -> Fraction:
    product = 1
    for name, power in term:
        product *= point[name] ** power
    return Fraction(product)


def _independent(rows: list[Row]) -> tuple[list[int], list[int]]:
    """Columns and rows of a largest square part that can be inverted; the first ones where there is a choice."""
    # Columns: each must not be a combination of the earlier ones over all points.
    columns = _first_independent([list(column) for column in zip(*rows, strict=True)])
    picked = _first_independent([[row[column] for column in columns] for row in rows])
    return columns, picked


def _first_independent(vectors: list[Row]) -> list[int]:
    reduced: list[tuple[int, Row]] = []  # position of the leading entry, vector
    kept = []
    for index, vector in enumerate(vectors):
        rest = list(vector)
        for lead, basis in reduced:
            if rest[lead]:
                factor = rest[lead] / basis[lead]
                rest = [a - factor * b for a, b in zip(rest, basis, strict=True)]
        head = next((position for position, entry in enumerate(rest) if entry), None)
        if head is not None:
            reduced.append((head, rest))
            kept.append(index)
    return kept


def _inverted(matrix: list[Row]) -> list[Row]:
    """The inverse, by Gauss and Jordan."""
    size = len(matrix)
    work = [list(row) + [Fraction(int(i == j)) for j in range(size)] for i, row in enumerate(matrix)]
    for column in range(size):
        pivot = next(row for row in range(column, size) if work[row][column])
        work[column], work[pivot] = work[pivot], work[column]
        head = work[column][column]
        work[column] = [entry / head for entry in work[column]]
        for row in range(size):
            factor = work[row][column]
            if row != column and factor:
                work[row] = [a - factor * b for a, b in zip(work[row], work[column], strict=True)]
    return [row[size:] for row in work]
