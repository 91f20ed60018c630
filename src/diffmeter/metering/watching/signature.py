"""What a call was made with: shapes and dtypes of tensors, values of the rest, kept light enough for every step.

``freeze`` turns the arguments of a call into a :class:`Frozen` tree that holds no user tensor of any size: a tensor
becomes its shape and dtype, plus a copy of its values where it is small and could decide what a forward does
(masks, token ids, lengths, time steps). ``Frozen.key`` is the signature.
"""

from __future__ import annotations

import copy
import enum
import types
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from diffmeter.compat import unseen

#: integer and boolean tensors up to this many elements keep their values: masks, ids, lengths
INTEGER_VALUES_LIMIT = 1 << 16
#: floating point tensors up to this many elements keep their values: time steps, guidance
FLOAT_VALUES_LIMIT = 16
#: floating point arguments of two dimensions up to this many elements keep theirs too: they may be masks
MASK_VALUES_LIMIT = 1 << 13

_TORCH_ATOMS = (torch.dtype, torch.device, torch.layout, torch.memory_format)
ATOMS = (int, float, complex, str, bytes, bool, type(None), *_TORCH_ATOMS)


@dataclass(slots=True, eq=False)
class TensorSpec:
    """One tensor argument: ``shape``, ``dtype``, and its values (any device) where they are kept.

    ``kind`` names what no plain dense tensor of that shape stands for: a nested or sparse tensor, a subclass.
    """

    shape: tuple[int, ...]
    dtype: torch.dtype
    values: torch.Tensor | None = None
    kind: str | None = None

    @classmethod
    def of(cls, tensor: torch.Tensor, argument: bool = False) -> TensorSpec:
        """What is kept of a tensor; ``argument`` tells one that a call was made with from one that a module holds."""
        kind = unusual_kind(tensor)
        if kind is not None:
            shape = tuple(size if isinstance(size, int) else -1 for size in tensor.shape) if kind != NESTED else ()
            return cls(shape, tensor.dtype, None, kind)
        numel = tensor.numel()
        small = INTEGER_VALUES_LIMIT
        if tensor.is_floating_point():
            small = MASK_VALUES_LIMIT if argument and tensor.dim() == 2 else FLOAT_VALUES_LIMIT
        keep = numel <= small and not tensor.is_meta and not tensor.is_complex() and type(tensor) is torch.Tensor
        source = tensor.detach() if tensor.requires_grad else tensor
        return cls(tuple(tensor.shape), tensor.dtype, source.clone() if keep else None)

    @property
    def key(self) -> tuple[Any, ...]:
        return ("tensor", self.shape, self.dtype, self.kind)

    def known(self) -> torch.Tensor | None:
        """A copy of the values on the CPU, where they are kept and may decide something.

        Of floating point numbers that is a few (a time step), or a mask: zeros and ones, and not zeros alone, which
        in a dry run may stand for anything.
        """
        if self.values is None:
            return None
        values = self.values.to("cpu", copy=True)
        if values.is_floating_point() and values.numel() > FLOAT_VALUES_LIMIT:
            if not (bool(((values == 0) | (values == 1)).all()) and bool(values.any())):
                return None
        return values

    def value_key(self) -> tuple[Any, ...] | None:
        """Something that two tensors of one shape share exactly when their values are the same."""
        return None if self.values is None else tuple(self.values.reshape(-1).tolist())


NESTED = "a nested tensor"
_PLAIN_TENSORS = frozenset(
    {torch.Tensor, torch.nn.Parameter, torch.nn.UninitializedParameter, torch.nn.UninitializedBuffer}
    | ({torch.nn.Buffer} if hasattr(torch.nn, "Buffer") else set())
)


def unusual_kind(tensor: torch.Tensor) -> str | None:
    """What a tensor is that a plain dense one of its shape does not stand for; None for the plain ones."""
    if tensor.is_nested:
        return NESTED
    if tensor.layout != torch.strided:
        return f"a sparse tensor ({str(tensor.layout).removeprefix('torch.')})"
    kind = type(tensor)
    if kind not in _PLAIN_TENSORS:
        return f"a {kind.__module__}.{kind.__qualname__}"
    return None


@dataclass(slots=True, eq=False)
class Frozen:
    """The frozen arguments of one call.

    Attributes:
        tree: nested lists, tuples, dicts and copies of objects, with a :class:`TensorSpec` for each tensor.
        key: the signature, hashable: equal for calls that differ in nothing but tensor values.
        tensors: every tensor spec, in order.
        gradients: whether the gradient mode was on; a forward may look, so it is part of the signature.
    """

    tree: Any
    key: Any
    tensors: list[TensorSpec] = field(default_factory=list)
    gradients: bool = False

    @property
    def unusual(self) -> str | None:
        """What the first tensor is that a plain dense one would not stand for; None if all are plain."""
        return next((spec.kind for spec in self.tensors if spec.kind is not None), None)

    def values(self, indices: frozenset[int]) -> tuple[Any, ...]:
        """The values of the tensors at ``indices``: what tells two calls of one signature apart."""
        return tuple((i, self.tensors[i].value_key()) for i in sorted(indices))

    def thaw(self, make: Callable[[int, TensorSpec], torch.Tensor]) -> Any:
        """The tree with each tensor spec replaced by ``make(index, spec)``, in fresh containers."""
        numbers = {id(spec): i for i, spec in enumerate(self.tensors)}
        return map_leaves(self.tree, TensorSpec, lambda spec: make(numbers[id(spec)], spec), fresh=True)


def freeze(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Frozen:
    """Freeze the arguments of a call (see :class:`Frozen`)."""
    tensors: list[TensorSpec] = []
    seen: dict[int, TensorSpec] = {}
    objects: dict[int, tuple[Any, Any]] = {}  # met before, or being walked through: they may refer to each other

    def walk(value: Any) -> tuple[Any, Any]:
        if isinstance(value, torch.Tensor):
            spec = seen.get(id(value))
            if spec is None:
                spec = seen[id(value)] = TensorSpec.of(value, argument=True)
                tensors.append(spec)
            return spec, spec.key
        if isinstance(value, ATOMS):
            return value, (type(value).__name__, value)
        if isinstance(value, (list, tuple)):
            pairs = [walk(item) for item in value]
            return _rebuild_sequence(value, [p[0] for p in pairs]), (type(value).__name__, *(p[1] for p in pairs))
        if isinstance(value, Mapping):
            items = {name: walk(item) for name, item in value.items()}
            return _rebuild_mapping(value, {name: frozen for name, (frozen, _) in items.items()}), (
                type(value).__name__,
                *((str(name), key) for name, (_, key) in items.items()),
            )
        if isinstance(value, torch.Generator):
            return _cpu_generator(), ("generator",)
        if isinstance(value, types.MethodType):
            return value, ("method", id(value.__self__), id(value.__func__))
        if callable(value) or isinstance(value, enum.Enum):
            return value, (type(value).__qualname__, id(value))  # the tree keeps it alive: the id stays its own
        if isinstance(value, (set, frozenset)):
            return copy.copy(value), (type(value).__name__, *sorted(map(repr, value)))
        if isinstance(value, (np.generic, np.ndarray)):
            return value.copy(), (type(value).__name__, value.shape, str(value.dtype), value.tobytes())
        if id(value) not in objects:
            objects[id(value)] = _shallow_copy(value), ("object", len(objects))
            frozen, keys = _freeze_object(value, objects[id(value)][0], walk)
            return frozen, (type(value).__qualname__, *keys)
        return objects[id(value)]

    with unseen():
        tree, key = walk((tuple(args), dict(kwargs)))
    gradients = torch.is_grad_enabled()
    return Frozen(tree, (key, gradients), tensors, gradients)


def _cpu_generator() -> torch.Generator:
    return torch.Generator("cpu")


def _rebuild_sequence(like: Any, items: list[Any]) -> Any:
    if hasattr(like, "_fields"):  # namedtuple
        return type(like)(*items)
    return items if isinstance(like, list) else tuple(items)


def _rebuild_mapping(like: Any, items: dict[Any, Any]) -> Any:
    if type(like) is dict:
        return items
    rebuilt = copy.copy(like)  # ModelOutput, BatchEncoding and other dictionaries that know more than their items
    try:
        for name, item in items.items():
            rebuilt[name] = item
        return rebuilt
    except Exception:
        return items


def _shallow_copy(value: Any) -> Any:
    try:
        return copy.copy(value) if hasattr(value, "__dict__") else value
    except Exception:  # what cannot be copied is shared
        return value


def _freeze_object(value: Any, clone: Any, walk: Callable[[Any], tuple[Any, Any]]) -> tuple[Any, list[Any]]:
    """``clone`` with the attributes of ``value`` frozen: any other object (a key-value cache, a posterior, ...)."""
    attributes = getattr(value, "__dict__", None)
    if attributes is None:  # slots, slices, ranges: what they print, or which one it is
        return value, [repr(value)]
    if clone is value:
        return value, [id(value)]
    keys = []
    for name, item in attributes.items():
        frozen, key = walk(item)
        clone.__dict__[name] = frozen
        keys.append((name, key))
    return clone, keys


def map_leaves(
    value: Any,
    kind: type,
    change: Callable[[Any], Any],
    _memo: dict[int, Any] | None = None,
    *,
    fresh: bool = False,
) -> Any:
    """A copy of nested containers and plain objects with every instance of ``kind`` replaced by ``change`` of it.

    Everything else is shared, plain objects with nothing to replace included unless ``fresh``. An object met twice
    is changed once.
    """
    memo = {} if _memo is None else _memo
    known = memo.get(id(value))
    if known is not None:
        return known
    result: Any = value
    if isinstance(value, kind):
        result = change(value)
    elif isinstance(value, ATOMS):
        return value
    elif isinstance(value, (list, tuple)):
        result = _rebuild_sequence(value, [map_leaves(item, kind, change, memo, fresh=fresh) for item in value])
    elif isinstance(value, Mapping):
        items = {name: map_leaves(item, kind, change, memo, fresh=fresh) for name, item in value.items()}
        result = _rebuild_mapping(value, items)
    elif isinstance(value, (torch.nn.Module, torch.Tensor, torch.Generator)) or callable(value):
        return value
    elif hasattr(value, "__dict__"):
        try:
            memo[id(value)] = clone = copy.copy(value)  # before its attributes, which may refer to it
        except Exception:  # what cannot be copied is shared
            return value
        changed = {name: map_leaves(item, kind, change, memo, fresh=fresh) for name, item in vars(value).items()}
        if fresh or any(changed[name] is not item for name, item in vars(value).items()):
            clone.__dict__.update(changed)
            result = clone
    memo[id(value)] = result
    return result


def iter_tensors(value: Any) -> Iterator[torch.Tensor]:
    """Every tensor in nested containers and plain objects."""
    found: list[torch.Tensor] = []

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        found.append(tensor)
        return tensor

    map_leaves(value, torch.Tensor, keep)
    return iter(found)
