"""Modules that a pipeline enters past its components, by hooks that are only there while nothing else runs.

A pipeline may call ``vae.decoder``, a layer in a list, or a module that it has just made. PyTorch has hooks for the
call of any module; they are in place while a watched thread runs outside recorded calls, and cost these nothing.
"""

from __future__ import annotations

import contextlib
import logging
import sys
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any, NamedTuple, Protocol

from torch import nn

from diffmeter.compat import GLOBAL_HOOKS, GLOBAL_PRE_HOOKS, caller_frame, keywords_of_call, set_global_hook

from .patching import own

#: told how the call ended: with what it returned, or with the exception that it raised
Finish = Callable[[Any, BaseException | None], None]


class Listener(Protocol):
    """Wants to know of modules that are entered."""

    def listens(self) -> bool:
        """Whether what this thread enters now may concern it; asked first, since the rest costs more."""

    def entered(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any] | None) -> Finish | None:
        """``module`` begins its forward; ``kwargs`` is None where they are not known. None: it is of no interest."""


class _Entry(NamedTuple):
    module: nn.Module
    frame: FrameType  # of the call, which is there as long as the call lasts
    raised_before: BaseException | None
    finishes: list[Finish]


logger = logging.getLogger(__name__)
_KEY = "diffmeter"
_lock = threading.Lock()
_listeners: list[Listener] = []
_counts = {"between": 0, "entries": 0}
_local = threading.local()


@contextlib.contextmanager
def told(listener: Listener) -> Iterator[None]:
    """Tell ``listener`` of modules that any thread enters, as long as a thread is :func:`between_calls`."""
    _listeners.append(listener)
    try:
        yield
    finally:
        _listeners.remove(listener)


@contextlib.contextmanager
def between_calls() -> Iterator[None]:
    """This thread runs outside of recorded calls: what is entered now is to be told."""
    _count(between=1)
    try:
        yield
    finally:
        end_interrupted()
        _count(between=-1)


@contextlib.contextmanager
def paused() -> Iterator[None]:
    """Inside :func:`between_calls`, around a recorded call."""
    _count(between=-1)
    try:
        yield
    finally:
        _count(between=1)


@contextlib.contextmanager
def hidden() -> Iterator[None]:
    """What this thread enters here is work of this package, and told to nobody."""
    before = getattr(_local, "hidden", False)
    _local.hidden = True
    try:
        yield
    finally:
        _local.hidden = before


def end_interrupted() -> None:
    """End entries whose forward is over without its hook: PyTorch calls none on a keyboard interrupt."""
    entries = _entries()
    while entries and not _is_running(entries[-1].frame):
        _finish(entries.pop(), None, KeyboardInterrupt())


def _entries() -> list[_Entry]:
    entries: list[_Entry] | None = getattr(_local, "entries", None)
    if entries is None:
        entries = _local.entries = []
    return entries


def _count(between: int = 0, entries: int = 0) -> None:
    with _lock:
        _counts["between"] += between
        _counts["entries"] += entries
        if _counts["between"] > 0:
            GLOBAL_PRE_HOOKS[_KEY] = own(_before)
        else:
            GLOBAL_PRE_HOOKS.pop(_KEY, None)
        set_global_hook(_KEY, own(_after) if _counts["between"] + _counts["entries"] > 0 else None)


def _before(module: nn.Module, args: tuple[Any, ...]) -> None:
    if _entries():
        end_interrupted()
    if getattr(_local, "hidden", False):
        return
    listening = [listener for listener in list(_listeners) if listener.listens()]
    if not listening:
        return
    kwargs = keywords_of_call(module, 1)
    raised = sys.exc_info()[1]
    finishes = [finish for listener in listening if (finish := listener.entered(module, args, kwargs))]
    if finishes:
        _entries().append(_Entry(module, _frame_of_call(), raised, finishes))
        _count(entries=1)
        with _lock:
            GLOBAL_HOOKS.move_to_end(_KEY)  # after those of a counting that has just begun


def _after(module: nn.Module, *values: Any) -> None:  # without the keywords where the forward raised
    entries = _entries()
    if not entries or entries[-1].module is not module:
        return
    if not _is_running(entries[-1].frame):  # it is another call of the same module that ends
        end_interrupted()
        return
    entry = entries.pop()
    output = values[-1]
    raised = sys.exc_info()[1] if output is None else None
    _finish(entry, output, None if raised is entry.raised_before else raised)


def _finish(entry: _Entry, output: Any, error: BaseException | None) -> None:
    for finish in reversed(entry.finishes):
        try:
            finish(output, error)
        except Exception:  # what is watched never breaks
            logger.warning("the end of a call of %s was not noted", type(entry.module).__name__, exc_info=True)
    _count(entries=-1)


def _frame_of_call() -> FrameType:
    """The frame that the hooks of a module are called from: it lasts until they all have been called."""
    frame = caller_frame(2)
    while frame.f_code.co_name != "_call_impl" and frame.f_back is not None:
        frame = frame.f_back
    return frame


def _is_running(call: FrameType) -> bool:
    frame = caller_frame(1)
    while frame is not None:
        if frame is call:
            return True
        frame = frame.f_back
    return False
