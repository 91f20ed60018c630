"""Give functions and objects of the user copies that see a stand-in where the original sees the user's pipeline.

A callback may reach the pipeline by a closure, a bound method, a partial function, an object, a default, or a global
name, and it may write into whatever it reaches. In a dry run it gets a copy of all that, in which the pipeline and its
parts are replaced: it finds what it expects, asks the stand-in, and writes into nothing of the user's.
"""

from __future__ import annotations

import collections
import contextlib
import copy
import functools
import io
import logging
import sys
import threading
import types
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from diffmeter.metering.watching.signature import ATOMS

#: objects that a copy may be made of before the attempt is given up
_LIMIT = 20_000
_SHARED = (*ATOMS, type(Ellipsis), logging.Logger, torch.Size, range, slice)
_LOCKS = {type(threading.Lock()): threading.Lock, type(threading.RLock()): threading.RLock}
_UNIQUE = (io.IOBase, types.GeneratorType, types.CoroutineType, types.AsyncGeneratorType, threading.Thread)


class CannotRebindError(Exception):
    """Something cannot be copied, so that a function that holds it cannot be bound to a stand-in."""


class Rebinder:
    """Makes copies in which some objects are replaced. Whatever is met twice is copied once.

    Args:
        replaced: the replacement of each object, by the object's ``id``; the objects must stay alive meanwhile.
        modules: modules and their replacements; what is inside one is replaced by what is there in the other.
        copy_tensor: makes the copy of a tensor.
    """

    def __init__(
        self,
        replaced: Mapping[int, Any],
        modules: Sequence[tuple[nn.Module, nn.Module]] = (),
        copy_tensor: Callable[[torch.Tensor], torch.Tensor] = torch.clone,
    ) -> None:
        self._replaced = replaced
        self._modules = modules
        self._inner: dict[int, nn.Module] | None = None
        self._copy_tensor = copy_tensor
        self._copies: dict[int, tuple[Any, Any]] = {}  # with their originals, so that no id is given out again
        self._globals: dict[int, tuple[dict[str, Any], dict[str, Any]]] = {}

    def bind(self, value: Any) -> Any:
        """The copy of a value.

        Raises:
            CannotRebindError: it holds something that cannot be copied; the message names it.
        """
        if id(value) in self._replaced:
            return self._replaced[id(value)]
        if isinstance(value, _SHARED) or value is sys.stdout or value is sys.stderr:
            return value
        if type(value) in weakref.ProxyTypes:
            return self._keep(value, weakref.proxy(self.bind(value.__repr__.__self__)))
        known = self._copies.get(id(value))
        if known is not None:
            return known[1]
        if len(self._copies) >= _LIMIT:
            raise CannotRebindError(f"more than {_LIMIT} objects")
        return self._copy(value)

    def _keep(self, value: Any, clone: Any) -> Any:
        self._copies[id(value)] = (value, clone)
        return clone

    def _copy(self, value: Any) -> Any:
        for kinds, make in _BY_TYPE:
            if isinstance(value, kinds):
                return make(self, value)
        if type(value) in _LOCKS:
            return self._keep(value, _LOCKS[type(value)]())
        return self._object(value)

    # functions

    def _function(self, function: types.FunctionType) -> types.FunctionType:
        own = not _of_library(function.__globals__.get("__name__"))
        if not own and not function.__closure__:
            return function
        names = self._globals_of(function) if own else function.__globals__
        cells = tuple(self._cell(cell) for cell in function.__closure__ or ())
        clone = types.FunctionType(function.__code__, names, function.__name__, None, cells or None)
        self._keep(function, clone)
        clone.__defaults__ = self.bind(function.__defaults__)
        clone.__kwdefaults__ = self.bind(function.__kwdefaults__)
        clone.__module__, clone.__qualname__ = function.__module__, function.__qualname__
        clone.__dict__.update({name: self.bind(item) for name, item in vars(function).items()})
        names_of_cells = function.__code__.co_freevars
        for name, cell, original in zip(names_of_cells, cells, function.__closure__ or (), strict=True):
            with contextlib.suppress(ValueError):  # an empty cell
                held = original.cell_contents
                cell.cell_contents = held if name == "__class__" else self.bind(held)  # super() looks from there
        if own:
            for name in _names_of(function.__code__) & function.__globals__.keys():
                names[name] = self.bind(function.__globals__[name])
        return clone

    def _globals_of(self, function: types.FunctionType) -> dict[str, Any]:
        """The copy of a module's names, one for all of its functions."""
        original = function.__globals__
        if id(original) not in self._globals:
            names = {name: self._replaced.get(id(value), value) for name, value in original.items()}
            self._globals[id(original)] = (original, names)
        return self._globals[id(original)][1]

    def _cell(self, cell: types.CellType) -> types.CellType:
        known = self._copies.get(id(cell))
        return known[1] if known is not None else self._keep(cell, types.CellType())

    def _method(self, method: types.MethodType) -> Any:
        owner = self.bind(method.__self__)
        found = getattr(owner, method.__name__, None)
        if isinstance(found, types.MethodType) and found.__self__ is owner:
            return self._keep(method, found)  # of a stand-in, or of a copy whose class has copies of the functions
        return self._keep(method, types.MethodType(self.bind(method.__func__), owner))

    def _builtin(self, method: types.BuiltinMethodType) -> Any:
        owner = method.__self__
        if owner is None or isinstance(owner, (types.ModuleType, type)):
            return method
        return self._keep(method, getattr(self.bind(owner), method.__name__))

    def _partial(self, value: functools.partial[Any]) -> Any:
        clone = functools.partial(
            self.bind(value.func), *map(self.bind, value.args), **{n: self.bind(v) for n, v in value.keywords.items()}
        )
        return self._keep(value, clone)

    # containers

    def _tuple(self, value: tuple[Any, ...]) -> Any:
        items = [self.bind(item) for item in value]
        return self._keep(value, type(value)(*items) if hasattr(value, "_fields") else type(value)(items))

    def _collection(self, value: Any) -> Any:
        try:
            clone = copy.copy(value)
            clone.clear()
        except Exception:  # a dictionary that is not to be changed
            return self._opaque(value)
        self._keep(value, clone)
        if isinstance(value, Mapping):
            for key, item in value.items():
                clone[self.bind(key)] = self.bind(item)
        elif isinstance(value, set):
            clone.update(map(self.bind, value))
        else:
            clone.extend(map(self.bind, value))
        return self._with_attributes(value, clone)

    def _frozen_set(self, value: frozenset[Any]) -> Any:
        return self._keep(value, frozenset(map(self.bind, value)))

    # torch, NumPy, references

    def _tensor(self, value: torch.Tensor) -> torch.Tensor:
        return self._keep(value, self._copy_tensor(value))

    def _generator(self, value: torch.Generator) -> torch.Generator:
        clone = torch.Generator("cpu")
        if value.device.type == "cpu":
            clone.set_state(value.get_state())
        return self._keep(value, clone)

    def _module(self, value: nn.Module) -> nn.Module:
        """What stands in for a part of a component; of any other module its twin, which computes nothing."""
        from diffmeter.metering.twins.building import build_twin
        from diffmeter.metering.watching.snapshot import ModuleSnapshot

        if self._inner is None:
            self._inner = {}
            for original, replacement in self._modules:
                there = dict(replacement.named_modules())
                parts = original.named_modules()
                self._inner.update({id(part): there[path] for path, part in parts if path in there})
        found = self._inner.get(id(value))
        if found is not None:
            return found
        try:
            return self._keep(value, build_twin(ModuleSnapshot(value)))
        except Exception as error:
            raise CannotRebindError(type(value).__name__) from error

    def _array(self, value: np.ndarray) -> np.ndarray:
        return self._keep(value, value.copy())

    def _weak(self, value: weakref.ref[Any]) -> Any:
        target = value()
        return value if target is None else self._keep(value, weakref.ref(self.bind(target)))

    # objects and classes

    def _python_module(self, module: types.ModuleType) -> types.ModuleType:
        return module if _of_library(module.__name__) else self._keep(module, _ReboundModule(module, self))

    def _class(self, cls: type) -> type:
        """The class itself, unless it is the user's own and holds what is replaced or may be written into."""
        if of_library(cls):
            return cls
        held = [item for base in cls.__mro__ if not of_library(base) for item in vars(base).values()]
        mutable = (dict, list, set, collections.deque)
        return self._own_class(cls) if any(id(i) in self._replaced or isinstance(i, mutable) for i in held) else cls

    def _object(self, value: Any) -> Any:
        if isinstance(value, _UNIQUE):
            raise CannotRebindError(type(value).__name__)
        if getattr(type(value), "__dictoffset__", 0) == 0 and not _slots(type(value)):
            return self._opaque(value)
        try:
            cls: Any = type(value)
            clone = cls.__new__(cls) if _written_in_c(cls) else object.__new__(cls)
        except TypeError:
            return self._opaque(value)
        self._keep(value, clone)
        self._with_attributes(value, clone)
        own = self._own_class(type(value))
        if own is not type(value):
            clone.__class__ = own
        return clone

    def _opaque(self, value: Any) -> Any:
        try:
            return self._keep(value, copy.deepcopy(value, dict(self._replaced)))
        except Exception as error:
            if of_library(type(value)):
                return value
            raise CannotRebindError(type(value).__name__) from error

    def _with_attributes(self, value: Any, clone: Any) -> Any:
        for name, item in getattr(value, "__dict__", {}).items():
            clone.__dict__[name] = self.bind(item)
        for name in _slots(type(value)):
            with contextlib.suppress(AttributeError):  # not set
                object.__setattr__(clone, name, self.bind(getattr(value, name)))
        return clone

    def _own_class(self, cls: type) -> type:
        """A subclass whose methods and attributes are copies, for a class of the user's own."""
        if of_library(cls):
            return cls
        known = self._copies.get(id(cls))
        if known is not None:
            return known[1]
        namespace: dict[str, Any] = {"__module__": cls.__module__, "__qualname__": cls.__qualname__, "__slots__": ()}
        # The bases' copies stand behind the class: there, ``super()`` in one of its methods finds them.
        bases = [own for base in cls.__bases__ if (own := self._own_class(base)) is not base]
        try:
            created = type(cls)(cls.__name__, (cls, *bases), namespace)
        except TypeError:  # a class that allows no subclass
            return cls
        self._keep(cls, created)
        for name, item in list(vars(cls).items()):
            if name.startswith("__") and not isinstance(item, types.FunctionType):
                continue
            changed = self._class_item(item)
            if changed is not item:
                setattr(created, name, changed)
        return created

    def _class_item(self, item: Any) -> Any:
        if isinstance(item, (staticmethod, classmethod)):
            return type(item)(self.bind(item.__func__))
        if isinstance(item, property):
            return property(*(None if part is None else self.bind(part) for part in (item.fget, item.fset, item.fdel)))
        if isinstance(item, (types.MemberDescriptorType, types.GetSetDescriptorType)):
            return item
        return self.bind(item)


class _ReboundModule(types.ModuleType):
    """A module of the user's, whose contents are bound when they are asked for."""

    def __init__(self, original: types.ModuleType, rebinder: Rebinder) -> None:
        super().__init__(original.__name__)
        self.__dict__.update(_original=original, _rebinder=rebinder)

    def __getattr__(self, name: str) -> Any:
        value = self.__dict__["_rebinder"].bind(getattr(self.__dict__["_original"], name))
        self.__dict__[name] = value
        return value


_BY_TYPE: tuple[tuple[Any, Callable[[Rebinder, Any], Any]], ...] = (
    (types.FunctionType, Rebinder._function),
    (types.MethodType, Rebinder._method),
    (types.BuiltinMethodType, Rebinder._builtin),
    (functools.partial, Rebinder._partial),
    (types.ModuleType, Rebinder._python_module),
    (type, Rebinder._class),
    (tuple, Rebinder._tuple),
    ((dict, list, set, collections.deque), Rebinder._collection),
    (frozenset, Rebinder._frozen_set),
    (torch.Tensor, Rebinder._tensor),
    (torch.Generator, Rebinder._generator),
    (nn.Module, Rebinder._module),
    (np.ndarray, Rebinder._array),
    (weakref.ref, Rebinder._weak),
)


def of_library(cls: type) -> bool:
    """Whether a class belongs to an installed library or to Python itself, and not to the user's own code."""
    return _of_library(cls.__module__)


@functools.cache
def _of_library(module_name: str | None) -> bool:
    root = str(module_name).partition(".")[0]
    if (root in sys.stdlib_module_names and root != "__main__") or root == __name__.partition(".")[0]:
        return True
    file = getattr(sys.modules.get(str(module_name)), "__file__", None)
    return file is not None and bool({"site-packages", "dist-packages"}.intersection(Path(file).parts))


def _written_in_c(cls: Any) -> bool:
    """Whether instances of a class are made by more than ``object.__new__``."""
    return cls.__new__ is not object.__new__ and not isinstance(cls.__new__, types.FunctionType)


def _slots(cls: type) -> list[str]:
    found = []
    for base in cls.__mro__:
        names = base.__dict__.get("__slots__", ())
        found += [names] if isinstance(names, str) else list(names)
    return [name for name in found if name not in ("__dict__", "__weakref__")]


def _names_of(code: types.CodeType) -> set[str]:
    """The names that code may look up among the module's, that of functions inside it included."""
    inner = [constant for constant in code.co_consts if isinstance(constant, types.CodeType)]
    return set(code.co_names).union(*map(_names_of, inner))


def holds_code(value: Any) -> bool:
    """Whether an argument is a function or an object that can be called, or a container that holds one."""
    if isinstance(value, (list, tuple, set)):
        return any(map(holds_code, value))
    if isinstance(value, Mapping):
        return any(map(holds_code, value.values()))
    return callable(value) and not isinstance(value, (type, nn.Module))


@contextlib.contextmanager
def left_as_it_was(objects: list[Any], changed: Callable[[Any], None]) -> Iterator[None]:
    """Put the attributes of some objects back after the block, and tell ``changed`` of each that was written."""
    before = [(each, dict(vars(each))) for each in objects]
    try:
        yield
    finally:
        for each, attributes in before:
            now = vars(each)
            if now.keys() != attributes.keys() or any(now[name] is not item for name, item in attributes.items()):
                now.clear()
                now.update(attributes)
                changed(each)
