"""May a twin stand in for a call?

A twin repeats what a component's own code does with the component's structure and the call's arguments. That is the
run's work only if every function that the call runs belongs to a known library, is the one in place at that moment,
and decides its work by structure and arguments alone. :func:`judge` looks at a snapshot, :meth:`Judgement.of_call` at
a call; where they name a reason, the call is counted while it runs.

Looked at:

- the class of every module, with all its methods, and what modules hold in their attributes (attention processors);
- hooks, and ``forward`` methods that were replaced on an instance;
- layers whose work depends on values that the meta device does not have (padding left out of nested tensors).

May be missed: code that is only reached through names computed while it runs, and changes written into a module's
``__dict__`` past its own methods, until the next full comparison.
"""

from __future__ import annotations

import functools
import sys
import types
import weakref
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from . import intercept
from .signature import Frozen, TensorSpec
from .snapshot import ATOM_TYPES, PLAIN_MODULES, UNINTERESTING, ModuleSnapshot, Part, WriteWatch

#: libraries whose modules decide their work by their structure and their arguments alone
_KNOWN_LIBRARIES = frozenset({"torch", "diffusers", "transformers", "accelerate", "peft", "huggingface_hub"})
_STANDARD_LIBRARY = frozenset(sys.stdlib_module_names)
_HARMLESS = ATOM_TYPES | {TensorSpec, torch.Tensor, nn.Parameter}
#: what was found in a class, with the identities of all that it held then: a method may be replaced any time
_verdicts: weakref.WeakKeyDictionary[type, tuple[tuple[int, ...], str | None]] = weakref.WeakKeyDictionary()


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """What :func:`judge` found in a snapshot.

    Attributes:
        altered: names a hook or a replaced ``forward`` that may skip, repeat or change work; what it does shows only
            in a real run.
        foreign: names code of no known library. It can be repeated on a twin step by step (a dry run does), but it
            may depend on more than structure and arguments.
        values: why the work depends on values that a twin does not have.
        operators_only: whether counting in the run must leave the functions of Python code alone, because PyTorch
            leaves its fused layers while anybody looks at them, or because compiled code hides them.
    """

    altered: str | None = None
    foreign: str | None = None
    values: str | None = None
    operators_only: bool = False

    @property
    def reason(self) -> str | None:
        """Why calls of the component must be counted while they run; None where a twin may stand in."""
        return self.values or self.altered or self.foreign

    def of_call(self, arguments: Frozen) -> str | None:
        """Why this call must be counted while it runs; None where a twin may stand in. Ask when the call begins."""
        return self.reason

    def holds(self) -> bool:
        """Whether the code in place is what it was; asked at every call. If not, judge the snapshot again."""
        return True

    def changed(self) -> str | None:
        """Names code that was changed since, so that a replay would not repeat the call; None where nothing was.

        Asked before a replay.
        """
        return None


def judge(snapshot: ModuleSnapshot) -> Judgement:
    """What there is in a component that keeps a twin from standing in for it."""
    fused = (nn.TransformerEncoderLayer, nn.TransformerEncoder, nn.MultiheadAttention)
    return Judgement(
        altered=_altered(snapshot),
        foreign=_foreign_code(snapshot),
        values=_needed_values(snapshot),
        operators_only=snapshot.scripted is not None or snapshot.has_class(*fused),
    )


def _needed_values(snapshot: ModuleSnapshot) -> str | None:
    for part in snapshot.parts_with_state:
        if part.cls is nn.TransformerEncoder and part.attributes.get("enable_nested_tensor"):
            return "padding is left out of nested tensors"  # which the meta device does not have
    return None


# hooks and replaced forwards -----------------------------------------------------------------------------------------


def _altered(snapshot: ModuleSnapshot) -> str | None:
    """Names a hook or replaced forward with which a twin's forward differs from the component's own.

    Trusted: hooks of accelerate and diffusers that move or cast tensors, and hooks of torch and transformers that
    are part of the model. Not trusted: step caches, layer skipping, hooks and replaced ``forward`` methods of anybody
    else, because they can skip, repeat or change work.
    """
    for part in snapshot.altered:
        reason = _altered_part(part)
        if reason is not None:
            return f"{reason} of {part.cls.__name__}"
    return None


def _altered_part(part: Part) -> str | None:
    attributes = part.attributes
    registry = attributes.get("_diffusers_hook")
    forwards = [attributes.get("forward"), attributes.get("_old_forward")]
    if registry is not None:
        forwards += [reference.forward for reference in registry._fn_refs[:1]]
        for name, hook in registry.hooks.items():
            if type(hook).__name__ not in _TRUSTED_DIFFUSERS_HOOKS:
                return f"hook {name!r}"
    if "_hf_hook" in attributes and not _trusted_accelerate_hook(attributes["_hf_hook"]):
        return f"hook {type(attributes['_hf_hook']).__name__}"
    if not all(forward is None or _is_own_forward(forward, part) for forward in forwards):
        return "replaced forward"
    for hooks in part.hooks.values():
        for hook in hooks.values():
            if not belongs_to_model(hook):
                return f"forward hook {getattr(hook, '__qualname__', type(hook).__name__)}"
    return None


_TRUSTED_DIFFUSERS_HOOKS = frozenset(
    {
        "LayerwiseCastingHook",
        "PeftInputAutocastDisableHook",
        "GroupOffloadingHook",
        "LazyPrefetchGroupOffloadingHook",
        "LayerExecutionTrackerHook",
    }
)


def _trusted_accelerate_hook(hook: Any) -> bool:
    if type(hook).__name__ == "SequentialHook":
        return all(_trusted_accelerate_hook(each) for each in hook.hooks)
    return type(hook).__module__ == "accelerate.hooks" and type(hook).__name__ in (
        "AlignDevicesHook",
        "CpuOffload",
        "LayerwiseCastingHook",
    )


def _is_own_forward(function: Any, part: Part) -> bool:
    """Whether a ``forward`` found on a module is its class's, possibly compiled or with a hook around it."""
    function = getattr(function, "_torchdynamo_orig_callable", function)
    if isinstance(function, functools.partial):
        function = function.func
    if isinstance(function, types.MethodType):
        cls: Any = part.cls
        own = cls.forward
        inside = getattr(function.__func__, "__wrapped__", None)  # of a method that is watched
        return function.__self__ is part.module and (function.__func__ is own or inside is own)
    origin = getattr(function, "__globals__", {}).get("__name__", "")
    return origin.startswith(("accelerate.hooks", "diffusers.hooks"))  # which hook it is was looked at


def belongs_to_model(hook: Any) -> bool:
    """Hooks that torch and transformers themselves put on a model, as part of what it computes and returns.

    Weight normalization is one, transformers' capture of hidden states another. They hold no module of their own,
    so a twin uses them as they are.
    """
    module = (getattr(hook, "__module__", None) if callable(hook) else None) or type(hook).__module__
    return str(module).startswith(("torch.nn.utils.", "transformers."))


# whose code it is ----------------------------------------------------------------------------------------------------


def _foreign_code(snapshot: ModuleSnapshot) -> str | None:
    """Names the first piece of code in a snapshot that belongs to no known library; None where there is none."""
    if snapshot.scripted is not None:
        return f"compiled code of {snapshot.scripted}"
    checked: set[type] = set()
    holders = [(part.cls, part.attributes) for part in snapshot.parts_with_state]
    for cls in (*PLAIN_MODULES, *(cls for cls, _ in holders)):
        name = _foreign_class(cls, checked)
        if name is not None:
            return name
    holders += [(type(helper), attributes) for helper, attributes in snapshot.helpers.values()]
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


__all__ = ["Judgement", "belongs_to_model", "judge"]
