"""What a component is made of at one moment, and whether it is still the same at the next call.

Pipelines change their components while they run: processors are swapped, adapters attached, tiling switched on. A
:class:`ModuleSnapshot` is a shallow picture of a module tree, cheap enough to take during a generation; the twin is
built from it afterwards, whatever has become of the module by then.

Noticing a change must cost next to nothing, because it is asked at every call. Writes to module attributes are seen
as they happen (:class:`WriteWatch`); the few things that can change without such a write are compared.
"""

from __future__ import annotations

import collections
import contextlib
import functools
import gc
import sys
import types
import weakref
from collections.abc import Callable, Iterator, KeysView
from typing import Any

import torch
from torch import nn
from torch.nn.parameter import is_lazy
from torch.utils.hooks import RemovableHandle

from diffmeter.compat import unseen

from .patching import Patching
from .signature import ATOMS, TensorSpec

#: attributes that every module has
BASE_KEYS = frozenset(nn.Module().__dict__)
_HOOK_KEYS = ("_forward_hooks", "_forward_pre_hooks")
_NO_HOOKS: dict[str, dict[int, Any]] = {}
#: attributes that say that a forward is not simply the class's
_ALTERED_KEYS = ("forward", "_hf_hook", "_diffusers_hook")
ATOM_TYPES = frozenset(ATOMS)
#: configurations: shared with the twin, never written by a forward
SHARED_KEYS = frozenset({"config", "_internal_dict", "generation_config"})
UNINTERESTING = BASE_KEYS | SHARED_KEYS
#: in how many quick looks every table of children is compared once
_TURNS = 8
#: torch's own layers: most of a model, and pictured only when one of them is about to be written to
PLAIN_MODULES = frozenset(
    {nn.Linear, nn.LayerNorm, nn.GroupNorm, nn.SiLU, nn.GELU, nn.Dropout, nn.Conv2d, nn.ModuleList, nn.Sequential}
    | {nn.Conv1d, nn.Conv3d, nn.Embedding, nn.Identity, nn.RMSNorm, nn.ModuleDict}
)


@contextlib.contextmanager
def no_garbage_collection() -> Iterator[None]:
    """Around making thousands of small dictionaries, none of them garbage."""
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collecting:
            gc.enable()


#: methods that change what a module holds without setting an attribute of it
_TABLE_WRITERS: tuple[tuple[Any, str], ...] = (
    (nn.Module, "add_module"),
    (nn.ModuleList, "insert"),
    (nn.ModuleDict, "__delitem__"),
    (nn.ModuleDict, "clear"),
    (nn.Sequential, "insert"),
)


class WriteWatch(Patching):
    """Notices writes of module attributes that change something, while anybody watches.

    ``nn.Module.__setattr__`` and its like are replaced meanwhile. The counter is shared by all threads: a write
    elsewhere costs a comparison, never a wrong answer.
    """

    count = 0

    @classmethod
    def _install(cls) -> None:
        set_original = nn.Module.__setattr__
        missing = object()

        def __setattr__(self: nn.Module, name: str, value: Any) -> None:
            if self.__dict__.get(name, missing) is not value:
                _before_write(self)
            set_original(self, name, value)

        cls._replace(nn.Module, "__setattr__", __setattr__)
        for owner, name in ((nn.Module, "__delattr__"), *_TABLE_WRITERS):
            cls._replace(owner, name, _after_notice(getattr(owner, name)))


def _after_notice(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def writes(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        _before_write(self)
        return original(self, *args, **kwargs)

    return writes


class OwnHooks:
    """Around registering hooks of this package: they are taken off again, and are no change of anybody's component."""

    made = 0

    def __enter__(self) -> None:
        self._before = RemovableHandle.next_id

    def __exit__(self, *_: object) -> None:
        OwnHooks.made += RemovableHandle.next_id - self._before


def _hooks_made() -> int:
    """How many hooks others have put on anything so far: the handles of PyTorch's hooks are numbered."""
    return RemovableHandle.next_id - OwnHooks.made


def _before_write(module: nn.Module) -> None:
    pictured = [structure for structure in list(_pictures) if id(module) in structure.module_ids]
    if not pictured:  # a module that a forward makes for itself
        return
    WriteWatch.count += 1
    if type(module) in PLAIN_MODULES:
        for structure in pictured:
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


_methods: weakref.WeakKeyDictionary[type, frozenset[str]] = weakref.WeakKeyDictionary()


def _methods_of(cls: type) -> frozenset[str]:
    """Names of a class's methods: an attribute of that name on an instance takes a method's place."""
    found = _methods.get(cls)
    if found is None:
        names = {name for base in cls.__mro__ for name, v in vars(base).items() if isinstance(v, types.FunctionType)}
        found = _methods[cls] = frozenset(names)
    return found


def _public_class(cls: type) -> type:
    """The class of the user's module, under the interception that may lie over it."""
    return cls.__dict__.get("_diffmeter_original", cls)


class ModuleSnapshot:
    """A picture of a module tree. Take one with ``ModuleSnapshot(root)``; ``same()`` tells whether it still holds.

    Attributes:
        root: the module pictured.
        altered: parts with hooks, or with a ``forward`` of their own.
        helpers: objects in the modules' attributes that decide work (attention processors and the like), with a
            copy of their own attributes.
        late: after ``same()`` found a difference: to how many quick looks before it may have been there already.
    """

    def __init__(self, root: nn.Module) -> None:
        self.root = root
        self.altered: list[Part] = []
        self.helpers: dict[int, tuple[Any, dict[str, Any]]] = {}
        self._writes = WriteWatch.count
        self._hooks_made = _hooks_made()
        self._nodes: dict[int, nn.Module] = {}
        self._kept: dict[int, Part] = {}
        self._children: dict[int, dict[str, nn.Module | None]] = {}
        self._child_tables: list[dict[str, nn.Module | None]] = []  # the modules' own, not copies
        self._child_values: list[tuple[nn.Module | None, ...]] = []
        self._weight_tables: list[dict[str, torch.Tensor | None]] = []  # the tables: weights themselves may go
        self._quick_looks = 0  # since all tables were compared at once
        self._forwards: dict[type, Any] = {}
        self.scripted: str | None = None
        self.late = 0
        self._containers: list[tuple[Any, Any]] = []
        with no_garbage_collection(), unseen():
            self._picture()
            self._shapes = _shapes_in(self._weight_tables)
        _pictures.add(self)

    @property
    def parts(self) -> list[Part]:
        """Each module of the tree as it was, parents first."""
        return [self._kept.get(key) or Part(module, self._children.get(key)) for key, module in self._nodes.items()]

    @property
    def parts_with_state(self) -> list[Part]:
        """Each module but the plain layers that nobody has touched."""
        return list(self._kept.values())

    @property
    def module_ids(self) -> KeysView[int]:
        """The ``id`` of each module of the tree."""
        return self._nodes.keys()

    @property
    def classes(self) -> list[type]:
        """The classes of the tree's modules and of their helpers."""
        return list(self._forwards)

    def weights(self) -> Iterator[torch.Tensor]:
        """Every parameter of the tree, and the buffers of its parts with state."""
        tables = [*self._weight_tables, *(part.buffers for part in self.parts_with_state)]
        return (weight for table in tables for weight in table.values() if weight is not None)

    def has_class(self, *kinds: type) -> bool:
        """Whether a module of the tree is of one of these classes."""
        return any(issubclass(cls, kinds) for cls in self._forwards)

    def keep(self, module: nn.Module) -> None:
        """Picture a plain layer of this tree before it changes."""
        if id(module) in self._nodes and id(module) not in self._kept:
            self._kept[id(module)] = Part(module, self._children.get(id(module)))

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
            if values["_parameters"]:
                self._weight_tables.append(values["_parameters"])
            children = values["_modules"]
            if children:
                self._children[id(module)] = children.copy()
                self._child_tables.append(children)
                self._child_values.append(tuple(children.values()))
                stack.extend(child for child in children.values() if child is not None)
            hooked = values["_forward_hooks"] or values["_forward_pre_hooks"]
            altered = hooked or any(key in values for key in _ALTERED_KEYS)
            altered = altered or not values.keys().isdisjoint(_methods_of(cls)) or "weight" in values
            if altered or type(module) not in PLAIN_MODULES:
                part = self._kept[id(module)] = Part(module)
                if altered:
                    self.altered.append(part)
                self._look_into(part)

    def _look_into(self, part: Part) -> None:
        attributes = part.attributes
        for name in [n for n, v in attributes.items() if type(v) not in ATOM_TYPES and n not in UNINTERESTING]:
            value = attributes[name]
            if isinstance(value, torch.Tensor):  # a picture keeps no activation alive
                attributes[name] = TensorSpec.of(value)
            elif type(value) in CONTAINERS:
                attributes[name] = copied = _copy_container(value)
                self._containers.append((value, copied))
            elif hasattr(value, "__dict__") and not callable(getattr(value, "__func__", None)):
                if id(value) not in self.helpers and not isinstance(value, (type, nn.Module, types.FunctionType)):
                    self.helpers[id(value)] = (value, _copy_container(value.__dict__))
                    self._forwards[type(value)] = vars(type(value)).get("__call__")

    def same(self, quick: bool = False) -> bool:
        """Whether the tree is, for all that decides its work, what it was when the picture was taken.

        ``quick`` leaves most of the tables of children for the next times. They only change unseen where somebody
        writes into a table past the module's own methods; :attr:`late` then tells how many answers were wrong.
        """
        self.late = 0
        if WriteWatch.count != self._writes or self._hooks_made != _hooks_made():
            fresh = ModuleSnapshot(self.root)
            if not self._equals(fresh):
                return False
            self._writes, self._hooks_made = fresh._writes, fresh._hooks_made
        if not self.same_contents(quick):
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

    def same_contents(self, quick: bool = False) -> bool:
        """Whether every module has the children and every weight the shape that it had."""
        start, end, step = 0, len(self._children), 1
        if quick:
            self._quick_looks += 1
            start, step = self._quick_looks % _TURNS, _TURNS
        tables, kept = self._child_tables[start:end:step], self._child_values[start:end:step]
        if list(map(tuple, map(dict.values, tables))) != kept:  # which there are, and in which order
            self.late = min(self._quick_looks - quick, _TURNS - 1)
            return False
        if not quick:
            if _shapes_in(self._weight_tables) != self._shapes:  # ``weight.data = ...``: what it was before is gone
                self.late = sys.maxsize
                return False
            self._quick_looks = 0
        return True

    def _equals(self, other: ModuleSnapshot) -> bool:
        if self._nodes.keys() != other._nodes.keys() or self.helpers.keys() != other.helpers.keys():
            return False
        if other._kept.keys() - self._kept.keys():  # a plain layer that was altered since
            return False
        return all(
            _same_part(part, other._kept.get(key) or Part(part.module)) for key, part in self._kept.items()
        ) and all(_same_values(self.helpers[key][1], kept) for key, (_, kept) in other.helpers.items())


def _shapes_in(tables: list[dict[str, torch.Tensor | None]]) -> list[Any]:
    weights = [weight for table in tables for weight in table.values() if weight is not None]
    try:
        return [weight.shape for weight in weights]
    except RuntimeError:  # one that has no shape yet
        return [None if is_lazy(weight) else weight.shape for weight in weights]


CONTAINERS = frozenset({list, dict, set, collections.OrderedDict, collections.defaultdict, collections.deque})
_pictures: weakref.WeakSet[ModuleSnapshot] = weakref.WeakSet()


def _copy_container(value: Any) -> Any:
    if type(value) is dict:
        return {name: _copy_container(item) for name, item in value.items()}
    if type(value) is list:
        return [_copy_container(item) for item in value]
    return value.copy() if type(value) in CONTAINERS else value


def _same_part(a: Part, b: Part) -> bool:
    if a.module is not b.module or a.cls is not b.cls or a.modules != b.modules or a.hooks != b.hooks:
        return False
    return _same_values(a.attributes, b.attributes, skip=BASE_KEYS - {"training"}) and all(
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
    if isinstance(a, (*ATOMS, set, collections.deque)):
        return bool(a == b)
    return False
