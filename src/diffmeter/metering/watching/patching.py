"""Replacing functions of other libraries for a while, together with everybody else who needs them replaced."""

from __future__ import annotations

import threading
from typing import Any, ClassVar


class Replacing:
    """A context whose replacements are in place while at least one of its kind is open; the last one puts all back.

    Subclasses say what is replaced, each in a ``_install`` that calls :meth:`_replace`.
    """

    _lock = threading.Lock()
    _open: ClassVar[int] = 0
    _originals: ClassVar[list[tuple[Any, str, Any]]] = []

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        cls._open, cls._originals = 0, []

    def __enter__(self) -> Any:
        cls = type(self)
        with Replacing._lock:
            cls._open += 1
            if cls._open == 1:
                cls._install()
        return self

    def __exit__(self, *_: object) -> None:
        cls = type(self)
        with Replacing._lock:
            cls._open -= 1
            while cls._open == 0 and cls._originals:
                owner, name, original = cls._originals.pop()
                setattr(owner, name, original)

    @classmethod
    def _install(cls) -> None:
        raise NotImplementedError

    @classmethod
    def _replace(cls, owner: Any, name: str, value: Any) -> None:
        cls._originals.append((owner, name, owner.__dict__[name]))
        setattr(owner, name, value)
