"""Whose code a component runs: a known library's, or somebody's own.

A twin repeats what a module's own code does with its own attributes. Code of the known libraries keeps to that;
code of anybody else may also look at globals, closures, clocks or Python's random numbers, which no twin has. Calls
of such a component are counted while they run.
"""

from __future__ import annotations

import functools
import sys
import types
import weakref
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from . import intercept
from .signature import TensorSpec
from .snapshot import ATOM_TYPES, PLAIN_MODULES, UNINTERESTING, ModuleSnapshot, WriteWatch

#: libraries whose modules decide their work by their structure and their arguments alone
_KNOWN_LIBRARIES = frozenset({"torch", "diffusers", "transformers", "accelerate", "peft", "huggingface_hub"})
_STANDARD_LIBRARY = frozenset(sys.stdlib_module_names)
_HARMLESS = ATOM_TYPES | {TensorSpec, torch.Tensor, nn.Parameter}
#: what was found in a class, with the identities of all that it held then: a method may be replaced any time
_verdicts: weakref.WeakKeyDictionary[type, tuple[tuple[int, ...], str | None]] = weakref.WeakKeyDictionary()


def foreign_code(structure: ModuleSnapshot) -> str | None:
    """Names the first piece of code in a structure that belongs to no known library; None where there is none.

    Looked at: the class of every module with all its methods (a method may be replaced on the class), and the
    functions and objects that modules hold in their attributes, such as attention processors.
    """
    if structure.scripted is not None:
        return f"compiled code of {structure.scripted}"
    checked: set[type] = set()
    holders = [(part.cls, part.attributes) for part in structure.parts_with_state]
    for cls in (*PLAIN_MODULES, *(cls for cls, _ in holders)):
        name = _foreign_class(cls, checked)
        if name is not None:
            return name
    holders += [(type(helper), attributes) for helper, attributes in structure.helpers.values()]
    for cls, attributes in holders:
        for attribute, value in attributes.items():
            if type(value) in _HARMLESS or attribute in UNINTERESTING:
                continue
            for item in _held(value):
                name = _foreign_value(item, checked)
                if name is not None:
                    return f"{name} in {cls.__name__}.{attribute}"
    return None


def _is_known(module_name: Any) -> bool:
    root = str(module_name).partition(".")[0]
    return root in _KNOWN_LIBRARIES or root in _STANDARD_LIBRARY


def _foreign_class(cls: type, checked: set[type]) -> str | None:
    if cls in checked:
        return None
    for base in cls.__mro__:
        if base in checked:
            continue
        checked.add(base)
        contents = tuple(map(id, base.__dict__.values()))
        verdict = _verdicts.get(base)
        if verdict is None or verdict[0] != contents:
            verdict = _verdicts[base] = (contents, _foreign_method(base))
        if verdict[1] is not None:
            return verdict[1]
    return None


def _foreign_method(cls: type) -> str | None:
    """The class itself, or a method of it that was replaced by somebody."""
    if issubclass(cls, torch.jit.ScriptModule):
        return f"compiled code of {cls.__name__}"
    if not _is_known(cls.__module__):
        return cls.__qualname__
    for name, value in cls.__dict__.items():
        if isinstance(value, types.FunctionType) and (name == "__call__" or not name.startswith("__")):
            if _origin(value) != WriteWatch.__module__ and not _is_known(_origin(value)):
                return f"{cls.__qualname__}.{name}"
    return None


def _origin(function: types.FunctionType) -> Any:
    return function.__globals__.get("__name__")


def _held(value: Any) -> Iterator[Any]:
    """A value, or what a plain container holds."""
    if isinstance(value, (list, tuple, set)):
        for item in value:
            yield from _held(item)
    elif isinstance(value, dict):
        for item in value.values():
            yield from _held(item)
    else:
        yield value


def _foreign_value(value: Any, checked: set[type]) -> str | None:
    if type(value) in _HARMLESS:
        return None
    if isinstance(value, types.FunctionType) and _origin(value) == intercept.__name__:
        value = getattr(value, "__wrapped__", value)  # what is watched at the moment
    value = getattr(value, "_torchdynamo_orig_callable", value)  # what was compiled
    if isinstance(value, functools.partial):
        return _foreign_value(value.func, checked)
    if isinstance(value, types.MethodType):
        return _foreign_value(value.__func__, checked)
    if isinstance(value, types.FunctionType):
        return None if _is_known(_origin(value)) else value.__qualname__
    if isinstance(value, (type, nn.Module)):  # modules of the tree are parts of their own
        return None
    return _foreign_class(type(value), checked)


__all__ = ["foreign_code"]
