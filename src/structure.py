"""What a component is made of at one moment, and whether it is still the same at the next call.

Pipelines change their components while they run: processors are swapped, adapters attached, tiling switched on. A
:class:`Structure` is a shallow picture of a module tree, cheap enough to take during a generation; the twin is
built from it afterwards, whatever has become of the module by then.

Noticing a change must cost next to nothing, because it is asked at every call. Writes to module attributes are seen
as they happen (:class:`WriteWatch`); the few things that can change without such a write are compared.
"""

from __future__ import annotations

import collections
import gc
import threading
import types
import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

from .signature import _ATOMS, TensorSpec

#: attributes that every module has
_BASE_KEYS = frozenset(nn.Module().__dict__)
_HOOK_KEYS = ("_forward_hooks", "_forward_pre_hooks")
_NO_HOOKS: dict[str, dict[int, Any]] = {}
#: attributes that say that a forward is not simply the class's
_ALTERED_KEYS = ("forward", "_hf_hook", "_diffusers_hook")
_ATOM_TYPES = frozenset(_ATOMS)
#: configurations: shared with the twin, never written by a forward
_SHARED_KEYS = frozenset({"config", "_internal_dict", "generation_config"})
_UNINTERESTING = _BASE_KEYS | _SHARED_KEYS
#: torch's own layers: most of a model, and pictured only when one of them is about to be written to
_PLAIN_MODULES = frozenset(
    {nn.Linear, nn.LayerNorm, nn.GroupNorm, nn.SiLU, nn.GELU, nn.Dropout, nn.Conv2d, nn.ModuleList, nn.Sequential}
    | {nn.Conv1d, nn.Conv3d, nn.Embedding, nn.Identity, nn.RMSNorm, nn.ModuleDict}
)


class WriteWatch:
    """Notices writes of module attributes that change something, while anybody watches.

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
                _before_write(self)
            set_original(self, name, value)

        def __delattr__(self: nn.Module, name: str) -> None:
            _before_write(self)
            delete_original(self, name)

        nn.Module.__setattr__ = __setattr__  # type: ignore[method-assign]
        nn.Module.__delattr__ = __delattr__  # type: ignore[method-assign]


def _before_write(module: nn.Module) -> None:
    WriteWatch.count += 1
    if type(module) in _PLAIN_MODULES:
        for structure in list(_pictures):
            structure.keep(module)


class Part:
    """One module of the tree as it was: its class, its attributes and what they held."""

    __slots__ = ("attributes", "buffers", "cls", "hooks", "module", "modules", "parameters")

    def __init__(self, module: nn.Module, children: dict[str, nn.Module | None] | None = None) -> None:
        values = module.__dict__
        self.module = module
        self.cls = _public_class(type(module))
        self.attributes = values.copy()
        self.hooks = {key: dict(values[key]) for key in _HOOK_KEYS if values[key]} or _NO_HOOKS
        # an empty table is shared: it stays empty, or a write is seen
        self.modules = values["_modules"] and values["_modules"].copy() if children is None else children
        self.parameters = values["_parameters"] and values["_parameters"].copy()
        self.buffers = values["_buffers"] and values["_buffers"].copy()


def _public_class(cls: type) -> type:
    """The class of the user's module, under the interception that may lie over it."""
    return cls.__dict__.get("_diffmeter_original", cls)


class Structure:
    """A picture of a module tree. Take one with ``Structure(root)``; ``same()`` tells whether it still holds.

    Attributes:
        root: the module pictured.
        altered: parts with hooks, or with a ``forward`` of their own.
        helpers: objects in the modules' attributes that decide work (attention processors and the like), with a
            copy of their own attributes.
    """

    def __init__(self, root: nn.Module) -> None:
        self.root = root
        self.altered: list[Part] = []
        self.helpers: dict[int, tuple[Any, dict[str, Any]]] = {}
        self._writes = WriteWatch.count
        self._hooks_made = RemovableHandle.next_id
        self._nodes: dict[int, nn.Module] = {}
        self._kept: dict[int, Part] = {}
        self._children: dict[int, tuple[Any, dict[str, nn.Module | None]]] = {}
        self._forwards: dict[type, Any] = {}
        self.scripted: str | None = None
        self._containers: list[tuple[Any, Any]] = []
        collecting = gc.isenabled()
        gc.disable()  # thousands of small dictionaries, none of them garbage
        try:
            self._picture()
        finally:
            if collecting:
                gc.enable()
        _pictures.add(self)

    @property
    def parts(self) -> list[Part]:
        """Each module of the tree as it was, parents first."""
        return [
            self._kept.get(key) or Part(module, self._children[key][1] if key in self._children else None)
            for key, module in self._nodes.items()
        ]

    @property
    def parts_with_state(self) -> list[Part]:
        """Each module but the plain layers that nobody has touched."""
        return list(self._kept.values())

    def keep(self, module: nn.Module) -> None:
        """Picture a plain layer of this tree before it changes."""
        if id(module) in self._nodes and id(module) not in self._kept:
            children = self._children.get(id(module))
            self._kept[id(module)] = Part(module, children and children[1])

    def _picture(self) -> None:
        nodes, stack = self._nodes, [self.root]
        while stack:
            module = stack.pop()
            if id(module) in nodes:
                continue
            if isinstance(module, torch.jit.ScriptModule):
                self.scripted = type(module).__name__
                continue
            nodes[id(module)] = module
            cls: Any = _public_class(type(module))
            self._forwards[cls] = cls.forward
            values = module.__dict__
            children = values["_modules"]
            if children:
                self._children[id(module)] = children, children.copy()
                stack.extend(child for child in children.values() if child is not None)
            hooked = values["_forward_hooks"] or values["_forward_pre_hooks"]
            altered = hooked or any(key in values for key in _ALTERED_KEYS)
            if altered or type(module) not in _PLAIN_MODULES:
                part = self._kept[id(module)] = Part(module)
                if altered:
                    self.altered.append(part)
                self._look_into(part)

    def _look_into(self, part: Part) -> None:
        attributes = part.attributes
        for name in [n for n, v in attributes.items() if type(v) not in _ATOM_TYPES and n not in _UNINTERESTING]:
            value = attributes[name]
            if isinstance(value, torch.Tensor):  # a picture keeps no activation alive
                attributes[name] = TensorSpec.of(value)
            elif type(value) in _CONTAINERS:
                attributes[name] = copied = _copy_container(value)
                self._containers.append((value, copied))
            elif hasattr(value, "__dict__") and not callable(getattr(value, "__func__", None)):
                if id(value) not in self.helpers and not isinstance(value, (type, nn.Module, types.FunctionType)):
                    self.helpers[id(value)] = (value, _copy_container(value.__dict__))
                    self._forwards[type(value)] = vars(type(value)).get("__call__")

    def same(self) -> bool:
        """Whether the tree is, for all that decides its work, what it was when the picture was taken."""
        if WriteWatch.count != self._writes or RemovableHandle.next_id != self._hooks_made:
            fresh = Structure(self.root)
            if not self._equals(fresh):
                return False
            self._writes, self._hooks_made = fresh._writes, fresh._hooks_made
        if any(children != kept for children, kept in self._children.values()):
            return False
        for cls, forward in self._forwards.items():  # replaced on a class
            now = cls.forward if issubclass(cls, nn.Module) else vars(cls).get("__call__")
            if now is not forward:
                return False
        try:
            return all(value == kept for value, kept in self._containers) and all(
                value.__dict__ == kept for value, kept in self.helpers.values()
            )
        except Exception:  # something inside does not compare: a tensor, an array
            return False

    def _equals(self, other: Structure) -> bool:
        if self._nodes.keys() != other._nodes.keys() or self.helpers.keys() != other.helpers.keys():
            return False
        if other._kept.keys() - self._kept.keys():  # a plain layer that was altered since
            return False
        return all(
            _same_part(part, other._kept.get(key) or Part(part.module)) for key, part in self._kept.items()
        ) and all(_same_values(self.helpers[key][1], kept) for key, (_, kept) in other.helpers.items())


_CONTAINERS = frozenset({list, dict, set, collections.OrderedDict, collections.defaultdict, collections.deque})
_pictures: weakref.WeakSet[Structure] = weakref.WeakSet()


def _copy_container(value: Any) -> Any:
    if type(value) is dict:
        return {name: _copy_container(item) for name, item in value.items()}
    if type(value) is list:
        return [_copy_container(item) for item in value]
    return value.copy() if type(value) in _CONTAINERS else value


def _same_part(a: Part, b: Part) -> bool:
    if a.module is not b.module or a.cls is not b.cls or a.modules != b.modules or a.hooks != b.hooks:
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
    if isinstance(a, (*_ATOMS, set, collections.deque)):
        return bool(a == b)
    return False
