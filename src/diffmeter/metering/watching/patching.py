"""Replacing functions of other libraries for a while, together with everybody else who needs them replaced."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable
from typing import Any, ClassVar

#: functions of this package that stand, for a while, where another function stood before: own function -> the other
_originals: weakref.WeakKeyDictionary[Any, Any] = weakref.WeakKeyDictionary()


def own(function: Callable[..., Any], original: Any = None) -> Callable[..., Any]:
    """Note that ``function`` is put into a foreign place by this package, where ``original`` stood before."""
    _originals[function] = original
    return function


def is_own(value: Any) -> bool:
    """Whether this very function was put into its place by this package."""
    try:
        return value in _originals
    except TypeError:  # neither hashable nor a function
        return False


def unpatched(value: Any) -> Any:
    """What stood in a place before this package put ``value`` there; any other value as it is."""
    while is_own(value) and _originals[value] is not None:
        value = _originals[value]
    return value


class Patching:
    """A context whose replacements are in place while at least one of its kind is open; the last one puts all back.

    Subclasses say what is replaced, each in an ``_install`` that calls :meth:`_replace`.
    """

    _lock = threading.Lock()
    _open: ClassVar[int] = 0
    _replaced: ClassVar[list[tuple[Any, Any, Any, Any]]] = []

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        cls._open, cls._replaced = 0, []

    def __enter__(self) -> Any:
        cls = type(self)
        with Patching._lock:
            cls._open += 1
            if cls._open == 1:
                cls._install()
        return self

    def __exit__(self, *_: object) -> None:
        cls = type(self)
        with Patching._lock:
            cls._open -= 1
            while cls._open == 0 and cls._replaced:
                owner, name, value, original = cls._replaced.pop()
                table = owner if isinstance(owner, dict) else owner.__dict__
                if table.get(name) is not value:  # replaced by somebody else in the meantime
                    continue
                if isinstance(owner, dict):
                    owner[name] = original
                else:
                    setattr(owner, name, original)

    @classmethod
    def _install(cls) -> None:
        raise NotImplementedError

    @classmethod
    def _replace(cls, owner: Any, name: str, value: Any) -> None:
        original = owner.__dict__[name]
        cls._replaced.append((owner, name, value, original))
        setattr(owner, name, own(value, original))

    @classmethod
    def _replace_item(cls, table: dict[Any, Any], key: Any, value: Any) -> None:
        cls._replaced.append((table, key, value, table[key]))
        table[key] = own(value, table[key])
