"""The operators of a component's calls as plain data: what a prediction is made from, wherever it came from.

Nothing here needs torch. ``capture`` fills these from a replay on a twin; a file or a closed form can fill them too.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from math import prod
from typing import Any

MATMUL = "matmul"
ATTENTION = "attention"
CONVOLUTION = "convolution"
POINTWISE = "pointwise"
STRIDED = "strided"
NORM = "norm"
#: kinds that have FLOPs; the others only move bytes
PRODUCTS = (MATMUL, ATTENTION, CONVOLUTION)


@dataclass(frozen=True)
class Operator:
    """One kernel's work.

    Attributes:
        name: the operator, such as ``aten.addmm``.
        kind: ``matmul``, ``attention``, ``convolution``, ``norm`` (also softmax and other reductions), ``pointwise``
            (also copies), or ``strided``: element-wise work on operands that are broadcast, strided or of several
            dtypes, which PyTorch reads element by element.
        dtype: of its first floating-point operand, such as ``bfloat16``.
        shape: for ``matmul`` (batch, m, n, k); for ``attention`` (batch, heads, queries, keys, head size, value head
            size); for ``convolution`` the matrix product that it amounts to, (groups, m, n, k), with one row for each
            output position; otherwise (elements,).
        flops: floating-point operations, twice the MACs of ``matmul_macs``.
        bytes_in, bytes_out: bytes read and written, at the operands' own dtypes.
        weight_bytes: the part of ``bytes_in`` that is weights: it does not shrink when the work is shared out.
        host_calls: operators that Python dispatches for it: more than one where a fused kernel replaces a chain.
    """

    name: str
    kind: str
    dtype: str
    shape: tuple[int, ...]
    flops: int
    bytes_in: int
    bytes_out: int
    weight_bytes: int = 0
    host_calls: int = 1

    @property
    def bytes(self) -> int:
        """Bytes moved between memory and the chip."""
        return self.bytes_in + self.bytes_out


@dataclass(frozen=True)
class Lifetime:
    """One block of memory of a call: its bytes, and the first and last operator (by index) while it was alive."""

    bytes: int
    first: int
    last: int


@dataclass(frozen=True)
class Convolution:
    """Sizes of a convolution, from which follows what a kernel takes besides its result."""

    input: tuple[int, ...]
    weight: tuple[int, ...]
    output: tuple[int, ...]
    groups: int
    plain: bool  # neither strides nor dilation
    itemsize: int


@dataclass(frozen=True)
class CallOperators:
    """What one call of a component does.

    Attributes:
        eager: operators in order, one kernel each.
        fused: the same work with chains of element-wise operators fused, as a compiler runs it.
        lifetimes: memory that the call allocated; indices count the operators in ``eager`` order.
        input_bytes: bytes of the tensors that the call got.
        convolutions: sizes of the convolutions among the operators in ``eager`` order, by index.
    """

    eager: tuple[Operator, ...]
    fused: tuple[Operator, ...]
    lifetimes: tuple[Lifetime, ...]
    input_bytes: int
    convolutions: Mapping[int, Convolution] = field(default_factory=dict)

    @property
    def flops(self) -> int:
        """Floating-point operations of all products."""
        return sum(operator.flops for operator in self.eager)


def counted(operators: Iterable[Operator]) -> list[tuple[Operator, int]]:
    """Equal operators together, with how many there are: a model repeats its blocks."""
    return list(Counter(operators).items())


def to_dict(operators: Iterable[Operator]) -> list[dict[str, Any]]:
    """Operators as plain data for JSON: each different one once, with ``count``."""
    return [{**asdict(operator), "shape": list(operator.shape), "count": n} for operator, n in counted(operators)]


def from_dict(data: Iterable[Mapping[str, Any]]) -> list[tuple[Operator, int]]:
    """What :func:`to_dict` wrote."""
    found = []
    for entry in data:
        fields = {name: value for name, value in entry.items() if name != "count"}
        found.append((Operator(**{**fields, "shape": tuple(fields["shape"])}), entry["count"]))
    return found


def product_flops(operator: Operator) -> int:
    """FLOPs from the shape alone, the check that shape and count agree."""
    if operator.kind == ATTENTION:
        batch, heads, n, m, d, dv = operator.shape
        return 2 * batch * heads * n * m * (d + dv)
    return 2 * prod(operator.shape) if operator.kind in PRODUCTS else 0


def scaled(operator: Operator, share: float) -> Operator:
    """The part of an operator that one of several devices does when its rows are shared out."""
    if share == 1:
        return operator
    if operator.kind in (MATMUL, CONVOLUTION):
        first, rows, *rest = operator.shape
        shape: tuple[int, ...] = (first, max(round(rows * share), 1), *rest)
    elif operator.kind == ATTENTION:
        batch, heads, queries, *rest = operator.shape
        shape = (batch, heads, max(round(queries * share), 1), *rest)
    else:
        shape = (max(round(operator.shape[0] * share), 1), *operator.shape[1:])
    moving = operator.bytes_in - operator.weight_bytes
    return replace(
        operator,
        shape=shape,
        flops=round(operator.flops * share),
        bytes_in=round(moving * share) + operator.weight_bytes,
        bytes_out=round(operator.bytes_out * share),
    )
