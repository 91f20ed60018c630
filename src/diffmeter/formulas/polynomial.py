r"""Exact polynomials in several variables with rational coefficients.

>>> y, x = Polynomial.variable("y"), Polynomial.variable("x")
>>> cost = 3 * y * x + Fraction(1, 2) * (y * x) ** 2
>>> cost(y=2, x=4), cost.text(), cost.latex()
(56, '1/2*y^2*x^2 + 3*y*x', '\\frac{1}{2} y^{2} x^{2} + 3 y x')

Values are Python integers or NumPy arrays of integers. Nothing is rounded: an array is computed in 64-bit integers
only where no intermediate value can leave them, and in Python integers otherwise.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from fractions import Fraction
from math import lcm
from typing import Any

from diffmeter.errors import InputError

#: a product of variables: their names, in alphabetical order, with exponents of at least 1
Monomial = tuple[tuple[str, int], ...]
Coefficient = int | Fraction

_INT64 = (1 << 63) - 1


class Polynomial:
    """An immutable polynomial. ``terms`` maps each monomial to its coefficient, which is never zero."""

    __slots__ = ("_terms", "_whole")

    def __init__(self, terms: Mapping[Monomial, Coefficient] | None = None) -> None:
        self._terms: dict[Monomial, Fraction] = {
            tuple(sorted(monomial)): Fraction(coefficient)
            for monomial, coefficient in (terms or {}).items()
            if coefficient
        }
        self._whole: tuple[dict[Monomial, int], int] | None = None

    @classmethod
    def constant(cls, value: Coefficient) -> Polynomial:
        """A number as a polynomial."""
        return cls({(): value})

    @classmethod
    def variable(cls, name: str) -> Polynomial:
        """The polynomial that is one variable."""
        return cls({((name, 1),): 1})

    @property
    def terms(self) -> dict[Monomial, Fraction]:
        """Coefficients by monomial, highest degree first."""
        return {monomial: self._terms[monomial] for monomial in sorted(self._terms, key=_order)}

    @property
    def variables(self) -> tuple[str, ...]:
        """Names that occur, in alphabetical order."""
        return tuple(sorted({name for monomial in self._terms for name, _ in monomial}))

    def degree(self, name: str | None = None) -> int:
        """The highest exponent of one variable, or of all of them together; 0 for a constant."""
        return max((sum(power for n, power in m if name in (None, n)) for m in self._terms), default=0)

    # arithmetic

    def __add__(self, other: Polynomial | Coefficient) -> Polynomial:
        total = dict(self._terms)
        for monomial, coefficient in _polynomial(other)._terms.items():
            total[monomial] = total.get(monomial, Fraction(0)) + coefficient
        return Polynomial(total)

    __radd__ = __add__

    def __neg__(self) -> Polynomial:
        return Polynomial({monomial: -coefficient for monomial, coefficient in self._terms.items()})

    def __sub__(self, other: Polynomial | Coefficient) -> Polynomial:
        return self + -_polynomial(other)

    def __rsub__(self, other: Coefficient) -> Polynomial:
        return _polynomial(other) - self

    def __mul__(self, other: Polynomial | Coefficient) -> Polynomial:
        total: dict[Monomial, Fraction] = {}
        for left, a in self._terms.items():
            for right, b in _polynomial(other)._terms.items():
                powers = dict(left)
                for name, power in right:
                    powers[name] = powers.get(name, 0) + power
                monomial = tuple(sorted(powers.items()))
                total[monomial] = total.get(monomial, Fraction(0)) + a * b
        return Polynomial(total)

    __rmul__ = __mul__

    def __pow__(self, power: int) -> Polynomial:
        result = Polynomial.constant(1)
        for _ in range(power):
            result = result * self
        return result

    def __truediv__(self, number: Coefficient) -> Polynomial:
        return self * (Fraction(1) / Fraction(number))

    def __eq__(self, other: object) -> bool:
        if isinstance(other, (int, Fraction)):
            other = Polynomial.constant(other)
        return isinstance(other, Polynomial) and self._terms == other._terms

    def __hash__(self) -> int:
        return hash(frozenset(self._terms.items()))

    def __bool__(self) -> bool:
        return bool(self._terms)

    def replace(self, **values: Polynomial | Coefficient) -> Polynomial:
        """The polynomial with variables replaced by numbers or by other polynomials."""
        total = Polynomial()
        for monomial, coefficient in self._terms.items():
            product = Polynomial.constant(coefficient)
            for name, power in monomial:
                product = product * _polynomial(values.get(name, Polynomial.variable(name))) ** power
            total = total + product
        return total

    # values

    def __call__(self, **values: Any) -> Any:
        """The exact value: a Python integer, or an array where an argument is one (arrays are broadcast).

        Raises:
            InputError: a variable is missing, or the value is no whole number.
        """
        if any(type(value) is not int for value in values.values()):
            missing = [name for name in self.variables if name not in values]
            if missing:
                raise InputError(f"{missing[0]} is not given; the polynomial is in {', '.join(self.variables)}.")
            return _on_arrays(*self.whole(), {name: values[name] for name in self.variables})
        return self.at(values)

    def at(self, values: Mapping[str, int]) -> int:
        """The exact value where every variable is a Python integer; ``values`` may hold others, too.

        Raises:
            InputError: as a call.
        """
        whole, denominator = self.whole()
        total = 0
        try:
            for monomial, coefficient in whole.items():
                for name, power in monomial:
                    coefficient *= values[name] ** power
                total += coefficient
        except KeyError as error:
            raise InputError(
                f"{error.args[0]} is not given; the polynomial is in {', '.join(self.variables)}."
            ) from None
        quotient, rest = divmod(total, denominator)
        if rest:
            raise InputError(f"{Fraction(total, denominator)} is no whole number, at {_listed(values)}.")
        return quotient

    def whole(self) -> tuple[dict[Monomial, int], int]:
        """Whole coefficients by monomial, and what their sum is to be divided by."""
        if self._whole is None:
            denominator = lcm(*(coefficient.denominator for coefficient in self._terms.values()))
            self._whole = {m: int(c * denominator) for m, c in self._terms.items()}, denominator
        return self._whole

    # text

    def text(self) -> str:
        """As in a program: ``3/2*y^2*x + 5``."""
        return _joined(self.terms, _text_term)

    def latex(self, names: Mapping[str, str] | None = None) -> str:
        r"""As mathematics: ``\frac{3}{2} y^{2} x + 5``; ``names`` gives the LaTeX of variables."""
        shown = names or {}
        return _joined(self.terms, lambda c, m: _latex_term(c, m, shown))

    def __str__(self) -> str:
        return self.text()

    def __repr__(self) -> str:
        return f"Polynomial({self.text()})"

    @classmethod
    def parse(cls, text: str) -> Polynomial:
        """Read what :meth:`text` wrote.

        Raises:
            InputError: it is something else.
        """
        if not isinstance(text, str) or not _POLYNOMIAL.fullmatch(text):
            raise InputError(f"{text!r} is no polynomial such as '3/2*y^2*x + 5'.")
        terms: dict[Monomial, Coefficient] = {}
        for sign, term in _TERM.findall(text):
            coefficient: Coefficient = -1 if sign == "-" else 1
            powers: dict[str, int] = {}
            for factor in term.split("*"):
                if factor[0].isdigit():
                    coefficient *= Fraction(factor) if "/" in factor else int(factor)
                else:
                    name, _, power = factor.partition("^")
                    powers[name] = powers.get(name, 0) + int(power or 1)
            monomial = tuple(sorted(powers.items()))
            terms[monomial] = terms.get(monomial, 0) + coefficient
        return cls(terms)


_FACTOR = r"(?:\d+(?:/[1-9]\d*)?|[A-Za-z_]\w*(?:\^\d+)?)"
_TERM = re.compile(rf"([+-]?)\s*({_FACTOR}(?:\*{_FACTOR})*)", re.ASCII)
_POLYNOMIAL = re.compile(rf"-?{_FACTOR}(?:\*{_FACTOR})*(?: [+-] {_FACTOR}(?:\*{_FACTOR})*)*", re.ASCII)


def _polynomial(value: Polynomial | Coefficient) -> Polynomial:
    return value if isinstance(value, Polynomial) else Polynomial.constant(value)


def _order(monomial: Monomial) -> tuple[int, list[tuple[int, str]]]:
    return -sum(power for _, power in monomial), [(-power, name) for name, power in monomial]


def _product(monomial: Monomial, values: Mapping[str, Any]) -> Any:
    result: Any = 1
    for name, power in monomial:
        result = result * values[name] ** power
    return result


def _on_arrays(whole: Mapping[Monomial, int], denominator: int, values: Mapping[str, Any]) -> Any:
    import numpy as np

    arrays = {name: np.asarray(value) for name, value in values.items()}
    for name, array in arrays.items():
        if array.dtype != object and not np.issubdtype(array.dtype, np.integer):
            raise InputError(f"{name} has values of type {array.dtype}: whole numbers are needed.")
    largest = {name: max((abs(int(v)) for v in array.ravel()), default=0) for name, array in arrays.items()}
    bound = sum(abs(coefficient) * _product(monomial, largest) for monomial, coefficient in whole.items())
    kind: Any = np.int64 if bound <= _INT64 and denominator <= _INT64 else object
    typed = {name: array.astype(kind) if kind is np.int64 else _as_objects(array) for name, array in arrays.items()}
    shape = np.broadcast_shapes(*(array.shape for array in arrays.values()))
    total = np.zeros(shape, dtype=kind)
    for monomial, coefficient in whole.items():
        total = total + coefficient * _product(monomial, typed)
    if (total % denominator != 0).any():
        raise InputError("At some of these points the polynomial has no whole value.")
    return total // denominator


def _as_objects(array: Any) -> Any:
    import numpy as np

    result = np.empty(array.shape, dtype=object)
    result[...] = (
        [int(value) for value in array.ravel()] if array.ndim == 1 else np.vectorize(int, otypes=[object])(array)
    )
    return result


def _listed(values: Mapping[str, int]) -> str:
    return ", ".join(f"{name} = {value}" for name, value in values.items()) or "no variables"


def _joined(terms: Mapping[Monomial, Fraction], term: Any) -> str:
    parts: list[str] = []
    for monomial, coefficient in terms.items():
        sign = "-" if coefficient < 0 else "+"
        text = term(abs(coefficient), monomial)
        parts.append(f" {sign} {text}" if parts else (f"-{text}" if coefficient < 0 else text))
    return "".join(parts) or "0"


def _text_term(coefficient: Fraction, monomial: Monomial) -> str:
    factors = [name if power == 1 else f"{name}^{power}" for name, power in monomial]
    if coefficient != 1 or not factors:
        factors.insert(0, str(coefficient))
    return "*".join(factors)


def _latex_term(coefficient: Fraction, monomial: Monomial, names: Mapping[str, str]) -> str:
    factors = []
    for name, power in monomial:
        shown = names.get(name, name)
        factors.append(
            shown if power == 1 else f"{{{shown}}}^{{{power}}}" if len(shown) > 1 else f"{shown}^{{{power}}}"
        )
    if coefficient.denominator != 1:
        factors.insert(0, rf"\frac{{{coefficient.numerator}}}{{{coefficient.denominator}}}")
    elif coefficient != 1 or not factors:
        factors.insert(0, str(coefficient))
    return " ".join(factors)
