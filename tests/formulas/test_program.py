"""Sequences of calls are folded, and the number of repeats follows from the steps by the simplest law."""

from __future__ import annotations

import math

import pytest

from diffmeter.formulas.domain import Length
from diffmeter.formulas.program import Program, Segment, Slot, fold, law


def test_a_generation_is_folded() -> None:
    sequence = [("text", 0), ("unet", 0), *[("unet", 1)] * 19, ("vae", None)]
    assert [(len(part), repeats) for part, repeats in fold(sequence).parts] == [(2, 1), (1, 19), (1, 1)]


def test_guidance_in_calls_of_its_own_is_folded() -> None:
    # text twice, then conditional and unconditional calls in turn
    sequence = [("text", 0)] * 2 + [("a", 0)] + [("b", 0), ("a", 1)] * 9 + [("b", 0), ("vae", None)]
    parts = fold(sequence).parts
    assert [(len(part), repeats) for part, repeats in parts] == [(3, 1), (2, 9), (2, 1)]
    assert [call for part, repeats in parts for _ in range(repeats) for call in part] == sequence


@pytest.mark.parametrize(
    ("calls", "expected"),
    [
        (lambda n: n + 1, "steps + 1"),  # PNDM
        (lambda n: 2 * n - 1, "2*steps - 1"),  # Heun
        (lambda n: n, "steps"),
        (lambda n: 7, "7"),
        (lambda n: 3 * n // 10, "(3*steps) // 10"),  # a strength of 0.3
        (lambda n: math.ceil(n / 2), "(steps + 1) // 2"),  # a cut-off in the middle
    ],
)
def test_laws(calls, expected: str) -> None:  # type: ignore[no-untyped-def]
    found = law({n: calls(n) for n in (2, 3, 4, 5, 7, 10, 20, 28, 50, 100)}, "r")
    assert found is not None
    assert found.text() == expected
    assert all(found({"steps": n}) == calls(n) for n in range(2, 100))


def test_no_law_for_a_square() -> None:
    assert law({n: n * n for n in range(2, 30)}, "r") is None


def test_a_program_unrolls_to_calls_with_their_steps() -> None:
    once, steps = Length("one", ("steps",), 0, 1, 1), Length("r", ("steps",), 1, -1, 1)
    program = Program(
        (
            Segment((Slot(0, 0), Slot(1, 0)), once),
            Segment((Slot(1, 1),), steps),
            Segment((Slot(2, None),), once),
        )
    )
    assert list(program.unrolled(3)) == [(0, 0), (1, 0), (1, 1), (1, 2), (2, None)]
    assert program.counts(3) == {0: 1, 1: 3, 2: 1}
    assert program.counts(50) == {0: 1, 1: 50, 2: 1}
