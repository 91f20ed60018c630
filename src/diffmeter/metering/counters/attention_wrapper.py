"""A wrapper of ``F.scaled_dot_product_attention`` that adds up attention MACs, for scripts that use thop by hand.

Profiles do not use it: they see attention through their own counters. It stands here because scripts that measure
component by component with ``thop.profile`` need what thop does not see.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from math import prod
from typing import Any

import torch
from torch.nn import functional as F

#: what the wrapper has counted since it was put in place or since ``["macs"]`` was last set to 0
_sdpa_macs_counter = {"macs": 0}

_wrappers: list[_CountingAttention] = []


class _CountingAttention:
    """Counts, then calls what it replaced. Switched off, it only calls."""

    def __init__(self, original: Callable[..., torch.Tensor]) -> None:
        self.original = original
        self.counting = True
        functools.update_wrapper(self, original)

    def __call__(
        self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, *args: Any, **kwargs: Any
    ) -> torch.Tensor:
        if self.counting:
            _sdpa_macs_counter["macs"] += sdpa_flops(query, key, value)
        return self.original(query, key, value, *args, **kwargs)


def sdpa_flops(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> int:
    """MACs of one attention, softmax included: ``B*H*N*M*D + B*H*N*M + B*H*N*M*Dv``.

    With N = M and D = Dv, that is self-attention, it is the familiar ``2*B*H*N*N*D + B*H*N*N``. The name is the one
    that scripts know; the number counts multiply-accumulates, and FLOPs are twice as many.

    Args:
        q: (B, H, N, D), or any leading dimensions before N and D.
        k: (B, Hk, M, D). Fewer key heads than query heads are shared between them, which changes no product.
        v: (B, Hk, M, Dv).
    """
    queries, depth = q.shape[-2:]
    keys, value_depth = v.shape[-2:]
    products = prod(q.shape[:-2]) * queries * keys
    return products * depth + products + products * value_depth


def _wrap_sdpa_for_macs() -> None:
    """Count every call of ``F.scaled_dot_product_attention`` in ``_sdpa_macs_counter["macs"]``, beginning at 0.

    A second call resets the counter and adds no second wrapper.
    """
    _sdpa_macs_counter["macs"] = 0
    if not any(wrapper.counting for wrapper in _wrappers):
        _wrappers.append(_CountingAttention(F.scaled_dot_product_attention))
        F.scaled_dot_product_attention = _wrappers[-1]


def _unwrap_sdpa() -> None:
    """Stop counting and put the function back that was there before. Without a wrapper it does nothing.

    Where someone else has wrapped the function since, theirs stays in place and ours counts no more.
    """
    while _wrappers:
        wrapper = _wrappers.pop()
        wrapper.counting = False
        if F.scaled_dot_product_attention is wrapper:
            F.scaled_dot_product_attention = wrapper.original
