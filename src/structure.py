"""What a component is made of at one moment, and whether it is still the same at the next call.

Pipelines change their components while they run: processors are swapped, adapters attached, tiling switched on. A
:class:`Structure` is a shallow picture of a module tree, cheap enough to take during a generation; the twin is
built from it afterwards, whatever has become of the module by then.

Noticing a change must cost next to nothing, because it is asked at every call. Writes to module attributes are seen
as they happen (:class:`WriteWatch`); the few things that can change without such a write are compared.
"""

from __future__ import annotations

import gc
import threading
from collections.abc import Callable
from itertools import chain
from typing import Any

import torch
from torch import nn

from .signature import _ATOMS, TensorSpec

#: attributes that every module has
_BASE_KEYS = frozenset(nn.Module().__dict__)
_HOOK_KEYS = ("_forward_hooks", "_forward_pre_hooks")
_ATOM_TYPES = frozenset(_ATOMS)
#: configurations: shared with the twin, never written by a forward
_SHARED_KEYS = frozenset({"config", "_internal_dict", "generation_config"})
_UNINTERESTING = _BASE_KEYS | _SHARED_KEYS
#: classes of torch itself whose attributes need no second look
_PLAIN_MODULES = frozenset(
    {nn.Linear, nn.LayerNorm, nn.GroupNorm, nn.SiLU, nn.GELU, nn.Dropout, nn.Conv2d, nn.ModuleList, nn.Sequential}
    | {nn.Conv1d, nn.Conv3d, nn.Embedding, nn.Identity, nn.RMSNorm, nn.ModuleDict}
)


class WriteWatch:
    """Counts writes of module attributes that change something, while anybody watches.

    ``nn.Module.__setattr__`` and ``__delattr__`` are replaced while at least one watch is open and put back by the
    last one. The counter is shared by all threads: a write elsewhere costs a comparison, never a wrong answer.
    """

    count = 0
    _open = 0
    _lock = threading.Lock()
    _originals: tuple[Callable[..., None], Callable[..., None]] | None = None

    def __enter__(self) -> WriteWatch:
        with WriteWatch._lock:
            WriteWatch._open += 1
            if WriteWatch._open == 1:
                WriteWatch._install()
        return self

    def __exit__(self, *_: object) -> None:
        with WriteWatch._lock:
            WriteWatch._open -= 1
            if WriteWatch._open == 0 and WriteWatch._originals is not None:
                nn.Module.__setattr__, nn.Module.__delattr__ = WriteWatch._originals  # type: ignore[method-assign]
                WriteWatch._originals = None

    @staticmethod
    def _install() -> None:
        set_original, delete_original = nn.Module.__setattr__, nn.Module.__delattr__
        WriteWatch._originals = (set_original, delete_original)
        missing = object()

        def __setattr__(self: nn.Module, name: str, value: Any) -> None:
            if self.__dict__.get(name, missing) is not value:
                WriteWatch.count += 1
            set_original(self, name, value)

        def __delattr__(self: nn.Module, name: str) -> None:
            WriteWatch.count += 1
            delete_original(self, name)

        nn.Module.__setattr__ = __setattr__  # type: ignore[method-assign]
        nn.Module.__delattr__ = __delattr__  # type: ignore[method-assign]


class Part:
    """One module of the tree as it was: its class, its attributes and what they held."""

    __slots__ = ("attributes", "buffers", "cls", "module", "modules", "parameters")

    def __init__(self, module: nn.Module) -> None:
        values = module.__dict__
        self.module = module
        self.cls = _public_class(type(module))
        self.attributes = values.copy()
        # an empty table is shared: it stays empty, or a write is seen
        self.modules = values["_modules"] and values["_modules"].copy()
        self.parameters = values["_parameters"] and values["_parameters"].copy()
        self.buffers = values["_buffers"] and values["_buffers"].copy()


def _public_class(cls: type) -> type:
    """The class of the user's module, under the interception that may lie over it."""
    return cls.__dict__.get("_diffmeter_original", cls)


class Structure:
    """A picture of a module tree. Take one with ``Structure(root)``; ``same()`` tells whether it still holds.

    Attributes:
        root: the module pictured.
        parts: each module of the tree, parents first.
        helpers: objects in the modules' attributes that decide work (attention processors and the like), with a
            copy of their own attributes.
    """

    def __init__(self, root: nn.Module) -> None:
        self.root = root
        self._writes = WriteWatch.count
        self.parts: list[Part] = []
        self.helpers: dict[int, tuple[Any, dict[str, Any]]] = {}
        collecting = gc.isenabled()
        gc.disable()  # thousands of small dictionaries, none of them garbage
        try:
            self._picture()
        finally:
            if collecting:
                gc.enable()
        live = [part.module for part in self.parts]
        self._hook_tables = [module.__dict__[key] for module in live for key in _HOOK_KEYS]
        self._hooks = sum(map(len, self._hook_tables))
        self._child_tables = [module._modules for module in live if module._modules]
        self._children = list(chain.from_iterable(map(dict.values, self._child_tables)))

    def _picture(self) -> None:
        seen: set[int] = set()
        stack = [self.root]
        while stack:
            module = stack.pop()
            if id(module) in seen:
                continue
            seen.add(id(module))
            part = Part(module)
            self.parts.append(part)
            if part.modules:
                stack.extend(child for child in part.modules.values() if child is not None)
            if type(module) not in _PLAIN_MODULES:
                self._look_into(part)

    def _look_into(self, part: Part) -> None:
        attributes = part.attributes
        for name in [n for n, v in attributes.items() if type(v) not in _ATOM_TYPES and n not in _UNINTERESTING]:
            value = attributes[name]
            if isinstance(value, torch.Tensor):  # a picture keeps no activation alive
                attributes[name] = TensorSpec.of(value)
            elif isinstance(value, (list, dict)):
                attributes[name] = value.copy()
            elif hasattr(value, "__dict__") and not callable(getattr(value, "__func__", None)):
                if id(value) not in self.helpers and not isinstance(value, (type, nn.Module)):
                    self.helpers[id(value)] = (value, dict(value.__dict__))

    def same(self) -> bool:
        """Whether the tree is, for all that decides its work, what it was when the picture was taken."""
        if WriteWatch.count != self._writes:
            if not self._equals(Structure(self.root)):
                return False
            self._writes = WriteWatch.count
        if sum(map(len, self._hook_tables)) != self._hooks:
            return False
        if list(chain.from_iterable(map(dict.values, self._child_tables))) != self._children:
            return False
        try:
            return all(value.__dict__ == kept for value, kept in self.helpers.values())
        except Exception:  # an attribute that does not compare: a tensor, an array
            return False

    def _equals(self, other: Structure) -> bool:
        if len(self.parts) != len(other.parts) or self._hooks != other._hooks:
            return False
        return all(_same_part(a, b) for a, b in zip(self.parts, other.parts, strict=False)) and all(
            key in self.helpers and _same_values(self.helpers[key][1], kept)
            for key, (_, kept) in other.helpers.items()
        )


def _same_part(a: Part, b: Part) -> bool:
    if a.module is not b.module or a.cls is not b.cls or a.modules != b.modules:
        return False
    return _same_values(a.attributes, b.attributes, skip=_BASE_KEYS - {"training"}) and all(
        (mine is None) == (theirs is None) and (mine is None or theirs is None or mine.shape == theirs.shape)
        for mine, theirs in zip(a.parameters.values(), b.parameters.values(), strict=False)
    )


def _same_values(a: dict[str, Any], b: dict[str, Any], skip: frozenset[str] = frozenset()) -> bool:
    if a.keys() != b.keys():
        return False
    return all(a[name] is b[name] or _same_value(a[name], b[name]) for name in a if name not in skip)


def _same_value(a: Any, b: Any) -> bool:
    if isinstance(a, TensorSpec) and isinstance(b, TensorSpec):
        return a.key == b.key and a.value_key() == b.value_key()
    if type(a) is not type(b):
        return False
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(x is y or _same_value(x, y) for x, y in zip(a, b, strict=False))
    if isinstance(a, dict):
        return _same_values(a, b)
    if isinstance(a, _ATOMS):
        return bool(a == b)
    return False
