"""What operators return on the meta device, remembered: the second of two equal blocks needs no shape inference.

PyTorch finds the shapes of most results in Python, which is what a forward on the meta device spends its time with.
A model repeats its blocks, so nearly every operator has been seen before with the same operands.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

#: results remembered at most; then all are forgotten
_LIMIT = 1 << 16

_Form = tuple[Any, Any, torch.dtype]  # size, strides, dtype of a result
_known: dict[Any, tuple[_Form, ...]] = {}
_repeatable: dict[Any, bool] = {}
_PLAIN = frozenset({torch.Tensor, nn.Parameter})
_ATOMS = frozenset({int, float, bool, str, type(None), torch.dtype, torch.device, torch.layout, torch.memory_format})


class _Unfit(Exception):
    """An operand that a key cannot describe."""


def call_on_meta(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """``func(*args, **kwargs)`` for an operator whose tensors all lie on the meta device.

    Only what depends on nothing but the form of its operands is remembered: operators that write nothing, return
    nothing of what they got, and belong to PyTorch.
    """
    if not (_repeatable[func] if func in _repeatable else _is_repeatable(func)):
        return func(*args, **kwargs)
    try:
        key = (func, torch.get_default_dtype(), _key(args), _key(kwargs.items()) if kwargs else None)
    except _Unfit:
        return func(*args, **kwargs)
    forms = _known.get(key)
    if forms is not None:
        if len(forms) == 1:
            size, strides, dtype = forms[0]
            return torch.empty_strided(size, strides, dtype=dtype, device="meta")
        return tuple(torch.empty_strided(size, strides, dtype=dtype, device="meta") for size, strides, dtype in forms)
    out = func(*args, **kwargs)
    results = (out,) if isinstance(out, torch.Tensor) else out
    if type(results) is tuple and all(type(r) is torch.Tensor and r.is_meta and _is_simple(r) for r in results):
        if len(_known) >= _LIMIT:
            _known.clear()
        _known[key] = tuple((r.shape, r.stride(), r.dtype) for r in results)
    return out


def forget() -> None:
    """Forget every result, as in a fresh process."""
    _known.clear()


def _is_repeatable(func: Any) -> bool:
    schema = getattr(func, "_schema", None)
    found = (
        schema is not None
        and getattr(func, "namespace", None) == "aten"
        and not schema.is_mutable
        and bool(schema.returns)
        and all(result.alias_info is None for result in schema.returns)
        and torch.Tag.dynamic_output_shape not in func.tags
        and torch.Tag.data_dependent_output not in func.tags
        and torch.Tag.maybe_aliasing_or_mutating not in func.tags
    )
    _repeatable[func] = found
    return found


def _is_simple(tensor: torch.Tensor) -> bool:
    """Whether size, strides and dtype say everything: not of complex numbers, which may be conjugated lazily."""
    return tensor.layout == torch.strided and not tensor.dtype.is_complex


def _key(values: Any) -> tuple[Any, ...]:
    key: list[Any] = []
    for value in values:
        kind = type(value)
        if kind in _PLAIN:
            if not value.is_meta or not _is_simple(value):
                raise _Unfit
            key += (value.shape, value.stride(), value.dtype)
        elif kind in _ATOMS:
            key += (kind, value)  # 2, 2.0 and True are equal, and give results of different types
        elif kind in (list, tuple):
            key += (kind, _key(value))
        else:
            raise _Unfit
    return tuple(key)
