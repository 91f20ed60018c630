"""Stand between a pipeline and its components for a while, without leaving a trace.

An object is watched by giving it, for the time being, a subclass of its own class (same name, same module) whose
``__call__`` and public methods report to the watchers first. No attribute of the object changes, whatever hooks
others add or remove meanwhile stay in force, and ``isinstance``, signatures and ``str(type(...))`` answer as before.
Where a changed class would make ``torch.compile`` compile again, the object's own compiled entry is wrapped.
"""

from __future__ import annotations

import functools
import inspect
import logging
import threading
import types
import weakref
from collections.abc import Callable, Iterable
from typing import Any, Protocol

import torch
from torch import nn

from diffmeter.compat import never_compile, set_frame_evaluation

from .patching import own

logger = logging.getLogger(__name__)

Proceed = Callable[..., Any]


class Watcher(Protocol):
    """Gets every reported call, and decides how to go on with it."""

    def priority(self) -> int:
        """How near this watcher is to the current thread: 0 not at all; of several, the highest get the call."""

    def on_call(
        self, target: Any, method: str, proceed: Proceed, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """Handle a call of ``target``; ``proceed(*args, **kwargs)`` does what would have happened."""

    def on_assignment(self, target: Any) -> None:
        """Something that can be called was assigned to an attribute of ``target``, which is no module."""


_lock = threading.RLock()
_watchers: dict[int, list[Watcher]] = {}
_classes: weakref.WeakKeyDictionary[type, type] = weakref.WeakKeyDictionary()
_instance_wraps: dict[int, dict[str, tuple[Any, Any]]] = {}


def watchers_of(target: Any) -> list[Watcher]:
    """Those that watch ``target`` now, in any thread."""
    return list(_watchers.get(id(target), ()))


def watch(target: Any, watcher: Watcher) -> bool:
    """Report the calls of ``target`` to ``watcher`` until :func:`unwatch`; False where they cannot be reported."""
    with _lock:
        known = _watchers.setdefault(id(target), [])
        known.append(watcher)
        if len(known) == 1:
            try:
                _install(target)
            except Exception as error:  # what runs inside is still seen, product by product
                logger.debug("calls of %s are not reported one by one: %s", type(target).__name__, error)
                _restore(target)
        return "_diffmeter_original" in type(target).__dict__ or id(target) in _instance_wraps


def unwatch(target: Any, watcher: Watcher) -> None:
    """Undo :func:`watch`."""
    with _lock:
        known = _watchers.get(id(target), [])
        known.remove(watcher)
        if not known:
            del _watchers[id(target)]
            _restore(target)


def public_methods(cls: type) -> list[str]:
    """Names of the methods of a component's class that a pipeline may enter it by.

    What every model inherits (loading, saving, switching options on) is left out, and so is ``generate`` of
    language models: a generation loop enters ``forward`` once per token, and each of those is a call of its own.
    """
    names: dict[str, None] = {}
    for base in cls.__mro__:
        if base in (object, nn.Module) or base.__name__ in _GENERIC_BASES or base.__name__.endswith("Mixin"):
            continue
        for name, value in base.__dict__.items():
            if not name.startswith("_") and isinstance(value, types.FunctionType):
                names[name] = None
    names.pop("forward", None)
    return list(names)


_GENERIC_BASES = frozenset({"PreTrainedModel", "DiffusionPipeline", "Generic", "Protocol"})


def _install(target: Any) -> None:
    if isinstance(target, torch.jit.ScriptModule):
        _wrap_instance(target, ["forward"])
        return
    if getattr(target, "_compiled_call_impl", None) is not None:
        _wrap_instance(target, ["_compiled_call_impl", *public_methods(type(target))])
        return
    attributes = getattr(target, "__dict__", {})
    own = [name for name in _entry_names(type(target)) if name in attributes and name != "forward"]
    if own:  # a method replaced on the instance, by torch.compile for example, hides the class's
        _wrap_instance(target, own)
    _set_class(target, watched_class(type(target)))


def _restore(target: Any) -> None:
    for name, (wrap, original) in _instance_wraps.pop(id(target), {}).items():
        if target.__dict__.get(name) is not wrap:  # replaced by somebody in the meantime
            continue
        if original is _ABSENT:
            target.__dict__.pop(name, None)
        else:
            target.__dict__[name] = original
    original_class = type(target).__dict__.get("_diffmeter_original")
    if original_class is not None:
        _set_class(target, original_class)


_set_class = object.__dict__["__class__"].__set__  # also where a class hides itself
_ABSENT = object()


def _wrap_instance(target: Any, names: Iterable[str]) -> None:
    wraps = _instance_wraps.setdefault(id(target), {})
    for name in names:
        original = target.__dict__.get(name, _ABSENT)
        inner = getattr(target, name)
        method = "forward" if name == "_compiled_call_impl" else name

        def entry(*args: Any, _inner: Proceed = inner, _method: str = method, **kwargs: Any) -> Any:
            return _report(target, _method, _inner, args, kwargs)

        target.__dict__[name] = wrap = own(_looking_like(inner, entry), inner)
        wraps[name] = wrap, original


def _entry_names(cls: type) -> list[str]:
    """What to intercept on instances of ``cls``: a module's entries, a pipeline's ``__call__``, a scheduler's step.

    Of anything else, which may be an engine in a component's place, every public method.
    """
    if issubclass(cls, nn.Module):
        return ["__call__", "forward", *public_methods(cls)]
    entries = [name for name in ("__call__", "step") if callable(getattr(cls, name, None))]
    known = "step" in entries or hasattr(cls, "components")
    return entries if known else list(dict.fromkeys([*entries, *public_methods(cls)]))


def watched_class(cls: type) -> type:
    """The subclass that instances of ``cls`` have while they are watched."""
    known = _classes.get(cls)
    if known is not None:
        return known
    namespace: dict[str, Any] = {
        "_diffmeter_original": cls,
        "__module__": cls.__module__,
        "__qualname__": cls.__qualname__,
        "__doc__": cls.__doc__,
        "__class__": property(lambda self: cls, lambda self, new: _set_class(self, watched_class(new))),
        "__reduce_ex__": _reduce_as_original,
    }
    for name in _entry_names(cls):
        namespace[name] = _entry(cls, name)
    if not issubclass(cls, nn.Module):
        namespace["__slots__"] = ()  # so that objects without a __dict__ can be of this class too
        namespace["__setattr__"] = _assignment(cls)
    if cls.__name__ == "OptimizedModule":
        namespace["__getattr__"] = _compiled_attribute
    created = _disguise(type(cls))(cls.__name__, (cls,), namespace)
    _classes[cls] = created
    return created


@functools.cache
def _disguise(metaclass: type) -> type:
    """A metaclass whose classes equal the class they stand for, since code compares with ``type(x) == X``."""

    def __eq__(cls: Any, other: object) -> bool:
        return cls is other or cls.__dict__.get("_diffmeter_original") is other

    def __hash__(cls: Any) -> int:
        return hash(cls.__dict__.get("_diffmeter_original", cls.__name__))

    return type(metaclass.__name__, (metaclass,), {"__eq__": __eq__, "__hash__": __hash__})


def _entry(cls: type, name: str) -> Callable[..., Any]:
    original = getattr(cls, name)
    method = "forward" if name == "__call__" and issubclass(cls, nn.Module) else name

    def entry(self: Any, *args: Any, **kwargs: Any) -> Any:
        current = getattr(cls, name)  # which may have been replaced since
        if id(self) not in _watchers:
            return current(self, *args, **kwargs)
        return _report(self, method, functools.partial(current, self), args, kwargs)

    never_compile(entry)
    return own(_looking_like(original, entry), original)


def _assignment(cls: Any) -> Callable[..., None]:
    def assign(self: Any, name: str, value: Any) -> None:
        cls.__setattr__(self, name, value)
        if callable(value):
            for watcher in list(_watchers.get(id(self), ())):
                watcher.on_assignment(self)

    return assign


def _looking_like(original: Callable[..., Any], entry: Callable[..., Any]) -> Callable[..., Any]:
    try:
        return functools.wraps(original)(entry)
    except (AttributeError, TypeError, RuntimeError):
        return entry


def _compiled_attribute(self: Any, name: str) -> Any:
    """Methods of the module inside a compiled one: reported as the compiled module's."""
    value = type(self).__dict__["_diffmeter_original"].__getattr__(self, name)
    inside = self.__dict__.get("_modules", {}).get("_orig_mod")
    if inside is None or not inspect.ismethod(value) or name not in public_methods(type(inside)):
        return value

    @functools.wraps(value)
    def entry(*args: Any, **kwargs: Any) -> Any:
        return _report(self, name, value, args, kwargs)

    return entry


def _reduce_as_original(self: Any, protocol: Any) -> Any:
    """Copies and pickles are of the user's class."""
    cls = type(self).__dict__["_diffmeter_original"]
    reduced = cls.__reduce_ex__(self, protocol)
    if isinstance(reduced, tuple) and len(reduced) > 1 and isinstance(reduced[1], tuple):
        arguments = tuple(cls if item is type(self) else item for item in reduced[1])
        return (reduced[0], arguments, *reduced[2:])
    return reduced


def _report(target: Any, method: str, proceed: Proceed, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    known = _watchers.get(id(target))
    if not known:
        return proceed(*args, **kwargs)
    compiling = set_frame_evaluation(None)  # torch.compile is to see the model's code, not this package's
    try:
        if compiling is not None:
            proceed = functools.partial(_proceed_compiling, compiling, proceed)
        if len(known) == 1:
            return known[0].on_call(target, method, proceed, args, kwargs)
        nearest = max(watcher.priority() for watcher in known)
        for watcher in known:
            if watcher.priority() == nearest:
                proceed = functools.partial(_pass, watcher, target, method, proceed)
        return proceed(*args, **kwargs)
    finally:
        set_frame_evaluation(compiling)


def _proceed_compiling(compiling: Any, proceed: Proceed, *args: Any, **kwargs: Any) -> Any:
    set_frame_evaluation(compiling)
    try:
        return proceed(*args, **kwargs)
    finally:
        set_frame_evaluation(None)


never_compile(_report)
never_compile(_proceed_compiling)


def _pass(watcher: Watcher, target: Any, method: str, proceed: Proceed, *args: Any, **kwargs: Any) -> Any:
    return watcher.on_call(target, method, proceed, args, kwargs)
