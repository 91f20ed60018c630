"""Polynomials are exact: on integers of any size, on arrays, through text and back."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

from diffmeter.errors import InputError
from diffmeter.formulas.polynomial import Polynomial

y, x, b = (Polynomial.variable(name) for name in "yxb")


def test_a_value_by_hand() -> None:
    # 3*2*4 + (2*4)^2 / 2 - 7 = 24 + 32 - 7
    assert (3 * y * x + (y * x) ** 2 / 2 - 7)(y=2, x=4) == 49


def test_arithmetic_is_that_of_fractions() -> None:
    left, right = y + Fraction(1, 3), x - 2
    product = left * right
    assert product == y * x - 2 * y + x / 3 - Fraction(2, 3)
    assert product - product == 0
    assert not product - product
    assert (1 - y) + y == 1
    assert product.degree() == 2
    assert product.degree("y") == 1


def test_variables_are_replaced_by_numbers_and_by_polynomials() -> None:
    doubled = ((y * x) ** 2).replace(y=2 * y, x=2 * x)
    assert doubled == 16 * (y * x) ** 2
    assert (y * x).replace(x=3) == 3 * y


@pytest.mark.parametrize(
    "text",
    ["0", "5", "-5", "y", "-y + 1", "3/2*x^2*y^2 + 3*x*y - 7", "12345678901234567890123*b - 1/3", "x_2^3*y1"],
)
def test_text_reads_back(text: str) -> None:
    polynomial = Polynomial.parse(text)
    assert polynomial.text() == text
    assert Polynomial.parse(polynomial.text()) == polynomial


@pytest.mark.parametrize("text", ["", "3*", "y y", "1/0", "y^^2", "y^-1", "__import__('os')", "3 +", "٣", None, 7])
def test_what_is_no_polynomial_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="no polynomial"):
        Polynomial.parse(text)


def test_latex() -> None:
    assert (3 * y * x + (y * x) ** 2 / 2 - 1).latex() == r"\frac{1}{2} x^{2} y^{2} + 3 x y - 1"
    assert (Polynomial.variable("y1") ** 2).latex({"y1": "y_{1}"}) == "{y_{1}}^{2}"


def test_arrays_in_64_bits_and_beyond() -> None:
    cost = 7 * (y * x) ** 2 + b
    sides = np.array([1, 2, 10**3, 10**9])
    found = cost(y=sides, x=sides, b=1)
    assert found.dtype == object  # 7e36 leaves 64 bits
    assert found.tolist() == [7 * side**4 + 1 for side in sides.tolist()]
    small = cost(y=sides[:3], x=2, b=np.array([[1], [2]]))
    assert small.dtype == np.int64
    assert small.tolist() == [[7 * s * s * 4 + k for s in (1, 2, 1000)] for k in (1, 2)]
    assert cost(y=np.array(2), x=3, b=0).item() == 252


def test_a_value_just_inside_and_just_outside_64_bits() -> None:
    side = np.array([3037000499])  # the largest whole number whose square fits
    assert (y * y)(y=side).tolist() == [3037000499**2]
    assert (y * y)(y=side + 1).tolist() == [3037000500**2]


def test_no_rounding() -> None:
    with pytest.raises(InputError, match="no whole number"):
        (y / 2)(y=3)
    with pytest.raises(InputError, match="no whole value"):
        (y / 2)(y=np.array([2, 3]))
    with pytest.raises(InputError, match="whole numbers are needed"):
        y(y=np.array([1.5]))


def test_a_missing_variable_is_named() -> None:
    with pytest.raises(InputError, match="x is not given"):
        (y * x)(y=2)
