"""BK-Core: the diagonal of the resolvent of a symmetric tridiagonal operator, in O(N), with its own backward.

For ``H`` with diagonal ``a`` (N numbers) and off-diagonal ``b`` (N - 1 numbers), and a complex ``z``, BK-Core gives
``G_ii = ((H - z I)^-1)_ii``. With ``d = a - z`` and the determinants of leading and trailing blocks

    theta_i = d_i * theta_{i-1} - b_{i-1}^2 * theta_{i-2}      (from the first row down)
    phi_i   = d_i * phi_{i+1}   - b_i^2     * phi_{i+2}        (from the last row up)

the diagonal is ``G_ii = theta_{i-1} * phi_{i+1} / theta_N``. The determinants grow or shrink exponentially in N and
leave the range of floating point after a few hundred rows, so the recursions here run on their ratios

    r_i = theta_i / theta_{i-1} = d_i - b_{i-1}^2 / r_{i-1}
    s_i = phi_i / phi_{i+1}     = d_i - b_i^2 / s_{i+1}

which stay of the size of the operator, and ``G_ii = 1 / (r_i + s_i - d_i)``, which is the same number. For a real
operator and Im z != 0, every ratio keeps at least |Im z| from zero, so nothing is divided by zero.

The backward is written by hand, in O(N) too. From ``dG = -G dH G`` follow, for any rows i and j,

    dG_ii/dd_j = -G_ij^2        dG_ii/db_j = -2 G_ij G_i,j+1        (d_j = a_j - z gives the gradients of a and z)

and the sums over i that they need are recursions as well, because the columns of G change by known ratios:
``G_ij = alpha_i G_i+1,j`` with ``alpha_i = -b_i / r_i`` above the diagonal, and ``G_ij = beta_i G_i-1,j`` with
``beta_i = -b_{i-1} / s_i`` below it. For output gradients g,

    P_j = g_j + alpha_{j-1}^2 P_{j-1}      (rows i <= j)         Q_j = g_j + beta_{j+1}^2 Q_{j+1}      (rows i >= j)
    sum_i g_i G_ij^2        = G_jj^2 (P_j + Q_j - g_j)
    sum_i g_i G_ij G_i,j+1  = G_jj G_j+1,j+1 (alpha_j P_j + beta_{j+1} Q_{j+1})

Source of theta and phi: Usmani, Inversion of Jacobi's tridiagonal matrix, Computers & Mathematics with Applications
27 (1994). Everything is computed in double precision, whatever the dtype of the input.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from diffmeter.errors import InputError

# With a real z a ratio may be exactly zero. Put this far below rounding instead, the next ratio becomes huge, the one
# after it right again, and products of both stay inside the range of double precision.
_TINY_PIVOT = 1e-140


def _pivots(d: Tensor, b_squared: Tensor) -> Tensor:
    """Ratios ``r_i = d_i - b_{i-1}^2 / r_{i-1}`` along the first dimension; shapes (N, ...) and (N - 1, ...)."""
    may_vanish = not d.is_meta and bool((d.imag == 0).any())
    couplings = b_squared.unbind(0)
    ratios: list[Tensor] = []
    for i, ratio in enumerate(d.unbind(0)):
        if i:
            ratio = ratio - couplings[i - 1] / ratios[-1]
        if may_vanish:
            ratio = torch.where(ratio == 0, _TINY_PIVOT, ratio)
        ratios.append(ratio)
    return torch.stack(ratios)


def _both_ways(down: Tensor, up: Tensor) -> Tensor:
    """Stack a sequence and the reverse of another, so that one loop runs both recursions."""
    return torch.stack((down, up.flip(0)), dim=1)


def _split(both: Tensor) -> tuple[Tensor, Tensor]:
    return both[:, 0], both[:, 1].flip(0)


def _diagonal(d: Tensor, b: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """``(G, r, s)`` for ``d`` of shape (N, ...) complex128 and ``b`` of shape (N - 1, ...)."""
    b_squared = b * b
    r, s = _split(_pivots(_both_ways(d, d), _both_ways(b_squared, b_squared)))
    return 1 / (r + s - d), r, s


def _weighted_sums(g: Tensor, alpha_squared: Tensor, beta_squared: Tensor) -> tuple[Tensor, Tensor]:
    """``P_j = g_j + alpha_{j-1}^2 P_{j-1}`` and ``Q_j = g_j + beta_{j+1}^2 Q_{j+1}`` along the first dimension."""
    factors = _both_ways(alpha_squared, beta_squared).unbind(0)
    sums = list(_both_ways(g, g).unbind(0))
    for i, factor in enumerate(factors, start=1):
        sums[i] = sums[i] + factor * sums[i - 1]
    return _split(torch.stack(sums))


class BKCoreFunction(torch.autograd.Function):
    """The diagonal of the inverse of a symmetric tridiagonal matrix, rows along the first dimension.

    ``apply(d, b)`` takes ``d`` of shape (N, ...) in complex128 and ``b`` of shape (N - 1, ...) in float64 or
    complex128, and returns the diagonal, of shape (N, ...). Use :func:`resolvent_diagonal`, which checks its input.
    """

    @staticmethod
    def forward(ctx: Any, d: Tensor, b: Tensor) -> Tensor:
        """The diagonal, by two recursions over the rows."""
        diagonal, r, s = _diagonal(d, b)
        ctx.save_for_backward(diagonal, r, s, d, b)
        return diagonal

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """The gradients of ``d`` and ``b``, by two recursions more: no matrix is formed."""
        diagonal, r, s, d, b = ctx.saved_tensors
        if torch.is_grad_enabled():  # somebody goes backward a second time: through the recursions
            wanted = [each for each, needed in zip((d, b), ctx.needs_input_grad, strict=True) if needed]
            found = iter(torch.autograd.grad(_diagonal(d, b)[0], wanted, grad, create_graph=True))
            return tuple(next(found) if needed else None for needed in ctx.needs_input_grad)
        # PyTorch's gradient of a holomorphic function is grad * conj(derivative): sum the conjugate, then turn back.
        g = grad.conj().resolve_conj()
        alpha, beta = -b / r[:-1], -b / s[1:]
        p, q = _weighted_sums(g, alpha * alpha, beta * beta)
        grad_d = -(diagonal * diagonal * (p + q - g)).conj()
        grad_b = -2 * (diagonal[:-1] * diagonal[1:] * (alpha * p[:-1] + beta * q[1:])).conj()
        return grad_d.resolve_conj(), grad_b.resolve_conj() if b.is_complex() else grad_b.real


def _check_operator(diagonal: Tensor, off_diagonal: Tensor) -> None:
    for name, tensor in (("diagonal", diagonal), ("off_diagonal", off_diagonal)):
        numeric = isinstance(tensor, Tensor) and (tensor.is_floating_point() or tensor.is_complex())
        if not numeric or tensor.dim() == 0:
            raise InputError(f"{name} must be a tensor of real or complex numbers with at least one dimension")
    n = diagonal.shape[-1]
    if n == 0:
        raise InputError("diagonal must have at least one row, got none")
    if off_diagonal.shape[-1] != n - 1:
        raise InputError(f"off_diagonal must have {n - 1} entries for {n} rows, got {off_diagonal.shape[-1]}")


def resolvent_diagonal(
    diagonal: Tensor, off_diagonal: Tensor, z: complex | Tensor, *, analytic_backward: bool = True
) -> Tensor:
    """Diagonal of ``(H - z I)^-1`` for a symmetric tridiagonal ``H``, in O(N), differentiable in all three inputs.

    Args:
        diagonal: shape (..., N), real or complex.
        off_diagonal: shape (..., N - 1); its leading dimensions broadcast with those of ``diagonal``.
        z: one number, or a tensor that broadcasts with the leading dimensions. An imaginary part keeps the resolvent
            finite for every real operator; without one, ``z`` must be no eigenvalue.
        analytic_backward: use the hand-written backward; False lets autograd go back through the recursions, which
            is slower and keeps a graph of N steps.

    Returns:
        Shape (..., N), complex64 for inputs below double precision and complex128 otherwise.

    Raises:
        InputError: shapes that do not fit, an empty operator, or a result that is not finite (an input is not
            finite, or ``z`` is an eigenvalue).
    """
    _check_operator(diagonal, off_diagonal)
    z = z if isinstance(z, Tensor) else torch.tensor(complex(z), dtype=torch.complex128, device=diagonal.device)
    try:
        batch = torch.broadcast_shapes(diagonal.shape[:-1], off_diagonal.shape[:-1], z.shape)
    except RuntimeError as error:
        shapes = ", ".join(str(tuple(shape)) for shape in (diagonal.shape, off_diagonal.shape, z.shape))
        raise InputError(f"leading dimensions of diagonal, off_diagonal and z do not broadcast: {shapes}") from error
    n = diagonal.shape[-1]
    double = torch.float64 in (diagonal.dtype, off_diagonal.dtype) or torch.complex128 in (
        diagonal.dtype,
        off_diagonal.dtype,
    )
    d = diagonal.to(torch.promote_types(diagonal.dtype, torch.float64)) - z.to(torch.complex128).unsqueeze(-1)
    b = off_diagonal.to(torch.promote_types(off_diagonal.dtype, torch.float64))
    # rows first: each step of a recursion then works on one contiguous slice
    d = d.expand(*batch, n).movedim(-1, 0).contiguous()
    b = b.expand(*batch, n - 1).movedim(-1, 0).contiguous()
    if n == 1:
        rows = 1 / d
    elif analytic_backward:
        rows = BKCoreFunction.apply(d, b)  # type: ignore[no-untyped-call]  # torch gives apply no types
    else:
        rows = _diagonal(d, b)[0]
    if not rows.is_meta and not bool(torch.isfinite(rows).all()):
        raise InputError("the resolvent is not finite: z is an eigenvalue of the operator, or an input is not finite")
    result: Tensor = rows.movedim(0, -1)
    return result if double else result.to(torch.complex64)


def dense_resolvent_diagonal(diagonal: Tensor, off_diagonal: Tensor, z: complex | Tensor) -> Tensor:
    """The same by a dense inverse, in O(N^3): the reference that tests and demonstrations compare with.

    Shapes as in :func:`resolvent_diagonal`, without broadcasting: ``z`` is one number.
    """
    _check_operator(diagonal, off_diagonal)
    matrix = torch.diag_embed(diagonal) + torch.diag_embed(off_diagonal, 1) + torch.diag_embed(off_diagonal, -1)
    identity = torch.eye(diagonal.shape[-1], dtype=matrix.dtype, device=matrix.device)
    inverse: torch.Tensor = torch.linalg.inv(matrix - z * identity)
    return inverse.diagonal(dim1=-2, dim2=-1)
