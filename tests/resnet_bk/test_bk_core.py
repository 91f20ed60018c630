"""BK-Core against dense inverses, numerical gradients and closed forms."""

from __future__ import annotations

import cmath
import math
import time
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from diffmeter.resnet_bk.bk_core import dense_resolvent_diagonal, resolvent_diagonal


def operator(n: int, seed: int, *batch: int, scale: float = 1.0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    a = scale * torch.randn(*batch, n, dtype=torch.float64, generator=generator)
    b = scale * torch.randn(*batch, n - 1, dtype=torch.float64, generator=generator)
    return a, b


@settings(max_examples=60, deadline=None)
@given(
    n=st.integers(1, 256),
    seed=st.integers(0, 2**31),
    re=st.floats(-4, 4),
    im=st.floats(0.01, 3).flatmap(lambda x: st.sampled_from([x, -x])),
    scale=st.sampled_from([1e-3, 1.0, 1e3]),
)
def test_forward_equals_the_dense_inverse(n: int, seed: int, re: float, im: float, scale: float) -> None:
    a, b = operator(n, seed, scale=scale)
    z = scale * complex(re, im)
    found, expected = resolvent_diagonal(a, b, z), dense_resolvent_diagonal(a, b, z)
    assert ((found - expected).abs() <= 1e-6 * expected.abs()).all()


def test_one_and_two_rows_by_hand() -> None:
    assert resolvent_diagonal(torch.tensor([2.0]), torch.empty(0), 1j).item() == pytest.approx(1 / (2 - 1j))
    # [[p, b], [b, q]]^-1 has the diagonal (q, p) / (p q - b^2)
    a, b = torch.tensor([2.0, 5.0], dtype=torch.float64), torch.tensor([3.0], dtype=torch.float64)
    p, q = 2 - 1j, 5 - 1j
    expected = [q / (p * q - 9), p / (p * q - 9)]
    assert resolvent_diagonal(a, b, 1j).tolist() == pytest.approx(expected)


@pytest.mark.parametrize("n", [4096])
@pytest.mark.parametrize("size", [1e-3, 1.0, 1e3])
def test_long_sequences_keep_the_answer(n: int, size: float) -> None:
    # For constant d and b the determinants are Chebyshev polynomials, theta_k = b^k sin((k+1)x)/sin(x) with
    # cos(x) = d/(2b), and sin(mx) -> exp(-imx) i/2 for large m (Im x > 0), so far from the ends
    # G_ii = 1/sqrt(d^2 - 4b^2); at the ends it is the root of b^2 G^2 - d G + 1 = 0 that decays.
    z = complex(0.5, 0.2) * size
    a = torch.full((n,), 0.3 * size, dtype=torch.float64)
    b = torch.full((n - 1,), 1.5 * size, dtype=torch.float64)
    found = resolvent_diagonal(a, b, z)
    d, off = 0.3 * size - z, 1.5 * size
    root = cmath.sqrt(d * d - 4 * off * off)
    root = root if abs((d - root) / (2 * off)) < 1 else -root
    assert found[n // 2].item() == pytest.approx(1 / root, rel=1e-9)
    end = (d - root) / (2 * off * off)
    assert [found[0].item(), found[-1].item()] == pytest.approx([end, end], rel=1e-9)
    # the raw determinant would have left the range of double precision: |theta_N| ~ |growth|^N
    growth = abs((d + root) / 2)
    assert abs(n * math.log10(growth)) > 308


def test_long_random_sequence_equals_the_dense_inverse_of_its_neighborhood() -> None:
    # Far couplings decay: row i of 4096 depends on its neighborhood alone, which a dense inverse can check.
    a, b = operator(4096, 3)
    found = resolvent_diagonal(a, b, 0.3 + 0.5j)
    for start in (0, 1500, 3696):
        part = dense_resolvent_diagonal(a[start : start + 400], b[start : start + 399], 0.3 + 0.5j)
        inner = slice(0 if start == 0 else 150, 400 if start == 3696 else 250)
        assert torch.allclose(found[start : start + 400][inner], part[inner], rtol=1e-9)


@pytest.mark.parametrize("n", [1, 2, 3, 7])
@pytest.mark.parametrize("batch", [(), (2,)])
def test_backward_passes_gradcheck(n: int, batch: tuple[int, ...]) -> None:
    a, b = (t.requires_grad_() for t in operator(n, 5, *batch))
    z = torch.tensor(0.4 + 0.7j, dtype=torch.complex128, requires_grad=True)
    assert torch.autograd.gradcheck(resolvent_diagonal, (a, b, z))


def test_backward_passes_gradcheck_for_complex_operators_and_broadcasting() -> None:
    a = torch.randn(2, 5, dtype=torch.complex128, generator=torch.Generator().manual_seed(1)).requires_grad_()
    b = torch.randn(4, dtype=torch.complex128, generator=torch.Generator().manual_seed(2)).requires_grad_()
    z = torch.tensor([2.5 + 3j, -3 + 2.5j], dtype=torch.complex128, requires_grad=True)
    assert torch.autograd.gradcheck(resolvent_diagonal, (a, b, z))


@settings(max_examples=20, deadline=None)
@given(n=st.integers(2, 48), seed=st.integers(0, 2**31), re=st.floats(-2, 2), im=st.floats(0.05, 2))
def test_backward_equals_autograd_through_a_dense_inverse(n: int, seed: int, re: float, im: float) -> None:
    weights = torch.randn(n, dtype=torch.complex128, generator=torch.Generator().manual_seed(seed + 1))
    gradients = []
    for function in (resolvent_diagonal, dense_resolvent_diagonal):
        inputs = [t.requires_grad_() for t in operator(n, seed)]
        z = torch.tensor(complex(re, im), dtype=torch.complex128, requires_grad=True)
        (function(*inputs, z) * weights).real.sum().backward()
        gradients.append([*(t.grad for t in inputs), z.grad])
    for ours, reference in zip(*gradients, strict=True):
        assert ours is not None
        assert reference is not None
        assert (ours - reference).abs().max() <= 1e-8 * reference.abs().max()


def test_long_backward_equals_autograd_through_the_recursion() -> None:
    gradients = []
    for analytic in (True, False):
        a, b = (t.requires_grad_() for t in operator(1024, 11))
        out = resolvent_diagonal(a, b, 0.1 + 0.3j, analytic_backward=analytic)
        (out.real.square() + out.imag).sum().backward()
        gradients.append(torch.cat((a.grad, b.grad)))  # type: ignore[arg-type]
    assert torch.isfinite(gradients[0]).all()
    assert (gradients[0] - gradients[1]).abs().max() <= 1e-9 * gradients[1].abs().max()


def test_single_precision_stays_single_but_is_computed_in_double() -> None:
    a, b = operator(64, 2)
    found = resolvent_diagonal(a.float(), b.float(), 0.5j)
    assert found.dtype == torch.complex64
    exact = resolvent_diagonal(a.float().double(), b.float().double(), 0.5j)
    assert torch.equal(found, exact.to(torch.complex64))


def test_real_z_outside_the_spectrum_and_with_a_vanishing_determinant() -> None:
    a, b = operator(30, 9)
    assert torch.allclose(resolvent_diagonal(a, b, 20.0), dense_resolvent_diagonal(a, b, 20.0).to(torch.complex128))
    # theta_1 = 0 although the matrix [[0, 1], [1, 0]] has an inverse, whose diagonal is zero
    zero = torch.zeros(2, dtype=torch.float64, requires_grad=True)
    out = resolvent_diagonal(zero, torch.ones(1, dtype=torch.float64), 0.0)
    assert out.abs().max() < 1e-100
    out.real.sum().backward()
    # dG_ii/da_j = -G_ij^2 with G = [[0, 1], [1, 0]]
    assert zero.grad is not None
    assert zero.grad.tolist() == pytest.approx([-1.0, -1.0])


def test_meta_tensors_give_shapes() -> None:
    out = resolvent_diagonal(torch.empty(3, 8, device="meta"), torch.empty(7, device="meta"), 1j)
    assert out.shape == (3, 8)
    assert out.is_meta


def test_time_grows_linearly() -> None:
    def seconds(n: int) -> float:
        a, b = operator(n, 0)
        best = math.inf
        for _ in range(4):
            start = time.process_time()
            resolvent_diagonal(a, b, 1j)
            best = min(best, time.process_time() - start)
        return best

    # 8 times the rows: about 8 times the time; a dense inverse would take 512 times. Wide limits: shared machines.
    assert 3 < seconds(4096) / seconds(512) < 24


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: resolvent_diagonal(torch.empty(0), torch.empty(0), 1j), "at least one row"),
        (lambda: resolvent_diagonal(torch.ones(3), torch.ones(3), 1j), "2 entries for 3 rows, got 3"),
        (lambda: resolvent_diagonal(torch.ones(2, 3), torch.ones(3, 2), 1j), "do not broadcast"),
        (lambda: resolvent_diagonal(torch.tensor([1, 2]), torch.ones(1), 1j), "real or complex numbers"),
        (lambda: resolvent_diagonal(torch.tensor([1.0, math.nan]), torch.ones(1), 1j), "not finite"),
        (lambda: resolvent_diagonal(torch.zeros(1), torch.empty(0), 0.0), "z is an eigenvalue"),
    ],
)
def test_bad_input_is_named(call: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        call()


@pytest.mark.parametrize("other", [False, True])
def test_the_second_derivative_is_there_with_and_without_another_term(other) -> None:
    """Of Re G(d): the hand-written backward against the recursions alone."""
    torch.manual_seed(0)
    d0, b0 = torch.randn(5, dtype=torch.float64), torch.randn(4, dtype=torch.float64)

    def second(analytic: bool) -> list[torch.Tensor]:
        d, b = d0.clone().requires_grad_(), b0.clone().requires_grad_()
        value = resolvent_diagonal(d, b, 0.5j, analytic_backward=analytic).real.sum() + (d**3).sum() * other
        first = torch.autograd.grad(value, (d, b), create_graph=True)
        return list(torch.autograd.grad(sum((g**2).sum() for g in first), (d, b)))

    for mine, wanted in zip(second(True), second(False), strict=True):
        torch.testing.assert_close(mine, wanted)
