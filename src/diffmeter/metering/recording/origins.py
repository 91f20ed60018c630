"""Where the tensors that a call returns come from: PyTorch's operators, or something that computes outside of them.

An engine (TensorRT, ONNX Runtime, a remote server) writes its result past PyTorch, where no counter sees it. What no
operator wrote from what was known is the sign of one.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.multiprocessing.reductions import StorageWeakRef

from diffmeter.compat import schema_of
from diffmeter.metering.counters.op_level import DispatchMode
from diffmeter.metering.watching.signature import TensorSpec, iter_tensors, map_leaves

_Storages = dict[int, StorageWeakRef]


class Origins:
    """What is known of tensors over all calls that are counted while they run: results may be kept for later calls."""

    def __init__(self) -> None:
        self._known: _Storages = {}

    def watching(self, target: Any, arguments: Any) -> CallOrigins:
        """Around one call of ``target``."""
        self._known = {key: ref for key, ref in self._known.items() if not ref.expired()}
        return CallOrigins(self._known, target, arguments)


class CallOrigins(DispatchMode):
    """Follows which tensors the operators of one call wrote, from the arguments on."""

    def __init__(self, known: _Storages, target: Any, arguments: Any) -> None:
        super().__init__()
        self._known = known
        self._target = type(target).__name__
        self._held = {_key(t) for t in _held_by(target)}
        for tensor in iter_tensors(arguments):
            self._explain(tensor)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        written = _written(func, args, kwargs)
        sources = [t for t in _tensors((*args, *kwargs.values())) if not any(t is w for w in written)]
        if not sources and not written and "empty" in func.__name__:
            return out  # memory that nobody has written to
        if any(map(self._is_explained, sources)) or all(_key(t) in self._held for t in sources):
            for tensor in (*_tensors((out,)), *written):
                self._explain(tensor)
        return out

    def unexplained(self, output: Any) -> str | None:
        """Why what a call returned was not computed by operators; None where it was."""
        arrays: list[Any] = []
        map_leaves(output, np.ndarray, arrays.append)
        made = (t for t in iter_tensors(output) if t.numel() and not isinstance(t, TensorSpec))
        if arrays or any(not self._is_explained(t) and _key(t) not in self._held for t in made):
            return f"{self._target} returned values that no operator of PyTorch wrote: its work is not seen"
        return None

    def _explain(self, tensor: torch.Tensor) -> None:
        key = _key(tensor)
        if key and key not in self._known:
            self._known[key] = StorageWeakRef(tensor.untyped_storage())

    def _is_explained(self, tensor: torch.Tensor) -> bool:
        key = _key(tensor)
        return not key or key in self._known


def _key(tensor: torch.Tensor) -> int:
    """What tells memory apart; 0 for a tensor that has none of its own (sparse, nested, transformed)."""
    try:
        return int(tensor.untyped_storage()._cdata)
    except Exception:
        return 0


def _tensors(values: tuple[Any, ...]) -> Iterator[torch.Tensor]:
    for value in values:
        if isinstance(value, torch.Tensor):
            yield value
        elif isinstance(value, (list, tuple)):
            yield from (item for item in value if isinstance(item, torch.Tensor))


def _written(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[torch.Tensor]:
    schema = schema_of(func)
    if schema is None or not schema.is_mutable:
        return []
    values = [*args, *(kwargs.get(a.name) for a in schema.arguments[len(args) :])]
    changed = [v for a, v in zip(schema.arguments, values, strict=False) if a.alias_info and a.alias_info.is_write]
    return list(_tensors(tuple(changed)))


def _held_by(target: Any) -> Iterator[torch.Tensor]:
    if isinstance(target, nn.Module):
        yield from target.parameters()
        yield from target.buffers()
