"""What the user's own functions can write to, put back after they ran in a dry run.

In a dry run a user's function (a registered attention, a forward, a callback) runs on stand-ins. What it keeps of them
in a list, a global, a closure or an object of its own must not stay there, and a counter must not have moved.
"""

from __future__ import annotations

import collections
import contextlib
import types
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any

import torch

from diffmeter.compat import unseen
from diffmeter.metering.watching.reachable import is_known, is_library_function, names_in, unwrapped
from diffmeter.metering.watching.signature import ATOMS, unusual_kind

_CONTAINERS = (list, dict, set, collections.deque)
#: objects looked into at most, nearest first: what lies further away is a library's or the pipeline's
_LIMIT = 20_000
#: tensors up to this many elements are kept by value
_TENSOR_LIMIT = 1 << 20
_ABSENT = object()


class UserState:
    """What can be reached from some functions, classes and objects at this moment; ``restore()`` puts it back."""

    def __init__(self, roots: Iterable[Any]) -> None:
        self._restorers: list[Callable[[], None]] = []
        self._seen: set[int] = set()
        self._kept: list[Any] = []
        self._waiting: collections.deque[Any] = collections.deque(roots)
        with unseen():
            while self._waiting and len(self._seen) < _LIMIT:
                self._look(unwrapped(self._waiting.popleft()))

    def restore(self) -> None:
        """Put everything back."""
        with unseen():
            for restore in self._restorers:
                restore()

    def _look(self, value: Any) -> None:
        if isinstance(value, (*ATOMS, types.ModuleType)) or id(value) in self._seen:
            return
        self._seen.add(id(value))
        self._kept.append(value)
        if isinstance(value, types.FunctionType):
            if not is_library_function(value) or value.__closure__:
                self._look_into_function(value)
        elif isinstance(value, types.MethodType):
            self._waiting += (value.__func__, value.__self__)
        elif isinstance(value, type):
            if not is_known(value.__module__) and value.__module__ != "builtins":
                self._keep_names(vars(value), list(vars(value)), lambda n, v: setattr(value, n, v), value)
        elif isinstance(value, torch.Tensor):
            self._keep_tensor(value)
        elif isinstance(value, (tuple, frozenset)):
            self._waiting += value
        elif isinstance(value, _CONTAINERS):
            self._keep_container(value)
        elif isinstance(getattr(value, "__dict__", None), dict):
            self._keep_container(value.__dict__)
            self._waiting.append(type(value))

    def _look_into_function(self, function: types.FunctionType) -> None:
        names = [name for name in names_in(function.__code__) if name in function.__globals__]
        if not is_library_function(function):
            self._keep_names(function.__globals__, names, function.__globals__.__setitem__)
        self._waiting += function.__defaults__ or ()
        self._waiting += (function.__kwdefaults__ or {}).values()
        self._keep_container(function.__dict__)
        for cell in function.__closure__ or ():
            content = getattr(cell, "cell_contents", _ABSENT)  # an empty cell has none
            if content is not _ABSENT:
                self._restorers.append(partial(setattr, cell, "cell_contents", content))
                self._waiting.append(content)

    def _keep_names(self, table: Any, names: list[str], write: Callable[[str, Any], Any], owner: Any = None) -> None:
        before = {name: table[name] for name in names}

        def restore() -> None:
            for name, value in before.items():
                if table.get(name, _ABSENT) is not value:
                    write(name, value)
            if owner is not None:  # a class: what it did not have
                for name in [name for name in table if name not in before]:
                    delattr(owner, name)

        self._restorers.append(restore)
        self._waiting += before.values()

    def _keep_container(self, value: Any) -> None:
        before = value.copy()

        def restore() -> None:
            if _same(value, before):
                return
            value.clear()
            if isinstance(value, (list, collections.deque)):
                value.extend(before)
            else:
                value.update(before)

        self._restorers.append(restore)
        self._waiting += before.values() if isinstance(before, dict) else before

    def _keep_tensor(self, tensor: torch.Tensor) -> None:
        if isinstance(tensor, torch.nn.Parameter) or tensor.is_meta or tensor.is_inference():
            return
        if tensor.numel() > _TENSOR_LIMIT or unusual_kind(tensor) is not None:
            return
        version, values = tensor._version, tensor.detach().clone()

        def restore() -> None:
            if tensor._version != version:
                tensor.detach().copy_(values)

        self._restorers.append(restore)


def _same(a: Any, b: Any) -> bool:
    """Whether two containers of one kind hold the same objects."""
    if len(a) != len(b):
        return False
    if isinstance(a, dict):
        return all(b.get(name, _ABSENT) is value for name, value in a.items()) and list(a) == list(b)
    if isinstance(a, set):
        return a == b
    return all(mine is theirs for mine, theirs in zip(a, b, strict=True))


@contextlib.contextmanager
def user_state_kept(*roots: Any) -> Iterator[None]:
    """Put back, after the block, what the user's functions among ``roots`` and what they reach wrote meanwhile."""
    state = UserState(roots)
    try:
        yield
    finally:
        state.restore()
