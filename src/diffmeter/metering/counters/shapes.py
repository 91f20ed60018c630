"""Operands as formulas see them: sizes without tensors.

A formula works on tuples of sizes, so that it serves tensors on any device and sizes that are only written down.
Two layouts need more than their sizes: a nested tensor, and a sparse one.
"""

from __future__ import annotations

from typing import Any

import torch

from diffmeter.compat import without_dispatch_modes

Shape = tuple[int, ...]


class Ragged(tuple[Shape, ...]):
    """The shapes of a nested tensor's rows, whose lengths differ."""

    __slots__ = ()


class Sparse(Shape):
    """The sizes of a sparse tensor; ``stored`` is the number of its elements that are kept in memory."""

    stored: int

    def __new__(cls, sizes: Shape, stored: int) -> Sparse:
        self = super().__new__(cls, sizes)
        self.stored = stored
        return self


def shapes_of(value: Any) -> Any:
    """``value`` with its shape in the place of each tensor; lists and tuples are looked into."""
    if isinstance(value, torch.Tensor):
        return _shape(value)
    if type(value) in (list, tuple):
        return type(value)(map(shapes_of, value))
    return value


def _shape(tensor: torch.Tensor) -> Shape | Ragged:
    if tensor.layout is torch.strided and not tensor.is_nested:
        return tensor.shape
    with without_dispatch_modes(), torch.no_grad():  # a counter at work is not to see what is asked here
        if tensor.is_nested:
            return Ragged(tuple(row.shape) for row in tensor.unbind())
        if tensor.layout is torch.sparse_coo:
            return Sparse(tuple(tensor.shape), tensor._values().numel())
        if tensor.layout in _COMPRESSED:
            return Sparse(tuple(tensor.shape), tensor.values().numel())
    return tensor.shape


_COMPRESSED = (torch.sparse_csr, torch.sparse_csc, torch.sparse_bsr, torch.sparse_bsc)
