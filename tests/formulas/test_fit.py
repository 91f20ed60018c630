"""Interpolation finds known polynomials again, and refuses what is none."""

from __future__ import annotations

import random

from diffmeter.formulas.fit import Interpolation
from diffmeter.formulas.polynomial import Monomial, Polynomial

TERMS: list[Monomial] = [(), (("a", 1),), (("t", 1),), (("a", 2),), (("a", 1), ("t", 1)), (("t", 2),)]
rng = random.Random(5)
POINTS = [{"a": rng.randint(1, 50), "t": rng.randint(1, 30)} for _ in range(12)]


def test_a_known_cost_is_found_again() -> None:
    # a text of t tokens beside a*1 patches: linear layers 3 per token, attention over both
    cost = Polynomial.parse("2*a^2 + 4*a*t + 2*t^2 + 3*a + 3*t + 11")
    found = Interpolation(TERMS, POINTS)
    assert len(found.used) == 6
    assert len(found.left) == 6
    assert found.fit([cost(**point) for point in POINTS]) == cost


def test_rational_coefficients() -> None:
    cost = [point["a"] * (point["a"] + 1) // 2 for point in POINTS]  # triangular numbers
    found = Interpolation(TERMS, POINTS).fit(cost)
    assert found == Polynomial.parse("1/2*a^2 + 1/2*a")


def test_what_does_not_fit_is_none() -> None:
    cubes = [point["a"] ** 3 for point in POINTS]
    assert Interpolation(TERMS, POINTS).fit(cubes) is None
    almost = [2 * point["a"] for point in POINTS]
    almost[-1] += 1
    assert Interpolation(TERMS, POINTS).fit(almost) is None


def test_terms_that_say_the_same_everywhere_are_left_out() -> None:
    points = [{"a": a, "t": 2 * a} for a in range(1, 9)]
    found = Interpolation(TERMS, points)
    assert found.terms == [(), (("a", 1),), (("a", 2),)]
    assert found.fit([5 * point["t"] for point in points]) == Polynomial.parse("10*a")
