"""What a call wrote into objects that it was given, such as a cache of keys and values.

A replay works on copies of the arguments. A pipeline that goes on with an object which the call filled must find in it
what a real call would have left there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from diffmeter.metering.watching.signature import ATOMS

_DEPTH = 6  # objects and containers inside each other
_GONE = object()

#: steps: ("attribute", name), ("item", key or position); as the last also ("append", None) and ("cut", length)
Path = tuple[tuple[str, Any], ...]


@dataclass(frozen=True)
class Written:
    """One thing that was written: where, counted from ``(args, kwargs)``, and what; or that it was taken away."""

    path: Path
    value: Any


class Given:
    """The arguments of a call before it: ``written()`` afterwards tells what it changed in them."""

    def __init__(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        self._before: list[tuple[Path, Any, Any]] = []
        self._seen: set[int] = set()
        for number, value in enumerate(args):
            self._note((("item", 0), ("item", number)), value)
        for name, value in kwargs.items():
            self._note((("item", 1), ("item", name)), value)

    def _note(self, path: Path, value: Any) -> None:
        contents = _contents(value)
        if contents is None or id(value) in self._seen or len(path) > _DEPTH:
            return
        self._seen.add(id(value))
        self._before.append((path, value, contents.copy()))
        kind = "item" if contents is value else "attribute"
        for name, item in contents.items() if isinstance(contents, dict) else enumerate(contents):
            self._note((*path, (kind, name)), item)

    def written(self) -> tuple[Written, ...]:
        """Everything that is now another object than it was."""
        return tuple(change for entry in self._before for change in _changes(*entry))


def _contents(value: Any) -> Any:
    """The table to look into: a dictionary or list itself, the attributes of a plain object, else None."""
    if type(value) in (dict, list):
        return value
    if isinstance(value, (*ATOMS, torch.nn.Module, torch.Tensor, torch.Generator, type)) or callable(value):
        return None
    return getattr(value, "__dict__", None)


def _changes(path: Path, value: Any, before: Any) -> list[Written]:
    now = _contents(value)
    if isinstance(before, list):
        kept = zip(now, before, strict=False)
        changed = [Written((*path, ("item", i)), item) for i, (item, was) in enumerate(kept) if item is not was]
        changed += [Written((*path, ("append", None)), item) for item in now[len(before) :]]
        return changed + [Written((*path, ("cut", len(now))), _GONE)] * (len(now) < len(before))
    kind = "item" if now is value else "attribute"
    found = [Written((*path, (kind, name)), item) for name, item in now.items() if before.get(name, _GONE) is not item]
    return found + [Written((*path, (kind, name)), _GONE) for name in before if name not in now]


def hand_back(
    written: tuple[Written, ...], args: tuple[Any, ...], kwargs: Mapping[str, Any], convert: Callable[[Any], Any]
) -> None:
    """Write what a call on copies wrote into the caller's own objects; ``convert`` changes each value before."""
    for change in written:
        holder: Any = (args, kwargs)
        for kind, name in change.path[:-1]:
            holder = holder[name] if kind == "item" else holder.__dict__[name]
        kind, name = change.path[-1]
        if kind == "append":
            holder.append(convert(change.value))
        elif kind == "cut":
            del holder[name:]
        else:
            table = holder if kind == "item" else holder.__dict__
            if change.value is _GONE:
                table.pop(name, None)
            else:
                table[name] = convert(change.value)
