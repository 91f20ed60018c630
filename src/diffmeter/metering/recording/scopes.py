"""Which observed blocks and generations the current code runs inside, also in threads that were started there."""

from __future__ import annotations

import contextlib
import functools
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

from diffmeter.metering.pipelines.parts import is_pipeline
from diffmeter.metering.watching.patching import Patching

from .calls import Generation


@dataclass(frozen=True, eq=False, kw_only=True, slots=True)
class Scope:
    """An observed block, a generation inside it, or a recorded call inside that.

    Attributes:
        block: what all recorders of one block share.
        recorder: whose generation or call it is; None for the block itself.
        generation: None for the block itself, and for a call outside any generation.
        is_call: whether it is a recorded call, inside which nothing more is recorded.
        within: around what another thread does in this scope.
    """

    block: object
    recorder: object = None
    generation: Generation | None = None
    is_call: bool = False
    within: Callable[[], contextlib.AbstractContextManager[Any]] = contextlib.nullcontext


_scopes: ContextVar[tuple[Scope, ...]] = ContextVar("diffmeter_scopes", default=())


def current() -> tuple[Scope, ...]:
    """The scopes that the current code runs inside, the innermost last."""
    return _scopes.get()


def enter(scope: Scope) -> None:
    """Open a scope."""
    _scopes.set((*_scopes.get(), scope))


def innermost(block: object) -> Scope | None:
    """The innermost scope of a block that the current code runs inside; None if it runs in none."""
    for scope in reversed(_scopes.get()):
        if scope.block is block:
            return scope
    return None


def leave(scope: Scope) -> None:
    """Close a scope, wherever it stands: generators and tasks need not close theirs in the order of opening."""
    _scopes.set(tuple(known for known in _scopes.get() if known is not scope))


class ScopesInThreads(Patching):
    """While open, threads that are started and work that is handed to a pool run inside the scopes of who did so."""

    @classmethod
    def _install(cls) -> None:
        start_original, submit_original = threading.Thread.start, ThreadPoolExecutor.submit

        @functools.wraps(start_original)
        def start(self: threading.Thread) -> None:
            if _scopes.get():
                _start_inheriting(self, start_original)
            else:
                start_original(self)

        @functools.wraps(submit_original)  # type: ignore[arg-type]
        def submit(self: ThreadPoolExecutor, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
            return submit_original(self, _inheriting(fn) if _scopes.get() else fn, *args, **kwargs)

        cls._replace(threading.Thread, "start", start)
        cls._replace(ThreadPoolExecutor, "submit", submit)


def _start_inheriting(thread: threading.Thread, start: Callable[[threading.Thread], None]) -> None:
    attributes = thread.__dict__
    before = attributes.get("run")
    inheriting = _inheriting(thread.run)

    def put_back() -> None:
        attributes.pop("run", None)
        if before is not None:
            attributes["run"] = before

    def run() -> None:
        put_back()
        inheriting()

    attributes["run"] = run
    try:
        start(thread)
    except BaseException:
        put_back()
        raise


def _inheriting(function: Callable[..., Any]) -> Callable[..., Any]:
    scopes = _scopes.get()

    @functools.wraps(function)
    def run(*args: Any, **kwargs: Any) -> Any:
        with contextlib.ExitStack() as stack:
            stack.callback(_scopes.set, _scopes.get())
            _scopes.set(scopes)
            for scope in scopes:
                stack.enter_context(scope.within())
            return function(*args, **kwargs)

    return run


def pipelines_on_stack() -> Iterator[Any]:
    """The pipelines whose methods the current thread is inside, the innermost first."""
    frame = sys._getframe(1)
    while frame is not None:
        code = frame.f_code
        if code.co_argcount and code.co_varnames[0] == "self":
            owner = frame.f_locals.get("self")
            if owner is not None and is_pipeline(owner):
                yield owner
        frame = frame.f_back  # type: ignore[assignment]
