"""May a twin stand in for a call?

A twin repeats what a component's own code does with the component's structure and the call's arguments. That is the
run's work only if every function that the call runs belongs to a known library, is the one in place at that moment,
and decides its work by structure and arguments alone. :func:`judge` looks at a snapshot, :meth:`Judgement.of_call` at
a call; where they name a reason, the call is counted while it runs.

Looked at:

- the code that the component's methods can reach (:mod:`.reachable`): methods of its classes, functions, constants and
  registries of library modules, functions and objects that modules hold in their attributes;
- hooks, and methods that were replaced on an instance;
- weights and arguments that are no plain dense tensors, function transforms, and modes that somebody has entered;
- layers whose work depends on values that the meta device does not have (padding left out of nested tensors).

What this package itself puts in the place of functions for a while is told apart by the very functions, not by a name.

May be missed: code that is only reached through names computed while it runs, what lies outside the parts of a library
that hold forwards (``reachable._FORWARD_CODE``) and is not called from them by name, and changes written into a
module's ``__dict__`` past its own methods, until the next full comparison.
"""

from __future__ import annotations

import contextlib
import functools
import types
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from diffmeter.compat import active_modes, active_transform, uncompiled_function

from . import intercept
from .nested import leaves
from .patching import is_own
from .reachable import PACKING_LIBRARIES, ReachableCode, is_known, root_of
from .signature import Frozen, TensorSpec, unusual_kind
from .snapshot import ATOM_TYPES, UNINTERESTING, ModuleSnapshot, Part

_HARMLESS = ATOM_TYPES | {TensorSpec, torch.Tensor, nn.Parameter}


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """What :func:`judge` found in a snapshot.

    Attributes:
        code: what the component can reach.
        altered: names a hook or a replaced ``forward`` that may skip, repeat or change work; what it does shows only
            in a real run.
        values: why the work depends on values that a twin does not have.
        operators_only: whether counting in the run must leave the functions of Python code alone, because PyTorch
            leaves its fused layers while anybody looks at them, because compiled code hides them, or because a
            replaced function would run twice.
    """

    code: ReachableCode
    altered: str | None = None
    values: str | None = None
    operators_only: bool = False

    @property
    def foreign(self) -> str | None:
        """Names code of no known library: on a twin it can be repeated call by call, as a dry run does.

        It may depend on more than structure and arguments, so that a single call cannot be repeated alone.
        """
        return self.code.foreign

    @property
    def own_code(self) -> list[Any]:
        """The functions and classes of no known library, in the order in which they were met."""
        return self.code.own_code

    @property
    def unseen(self) -> str | None:
        """Names compiled code that foreign code may run, whose products counting in the run would not see."""
        return self.code.unseen

    @property
    def reason(self) -> str | None:
        """Why calls of the component must be counted while they run; None where a twin may stand in."""
        return self.values or self.altered or self.foreign

    def of_call(self, arguments: Frozen) -> str | None:
        """Why this call must be counted while it runs; None where a twin may stand in. Ask when the call begins."""
        return self.reason or unusual_call(arguments)

    def holds(self) -> bool:
        """Whether the code in place is what it was; asked at every call. If not, judge the snapshot again."""
        return self.code.same()

    def as_it_was(self) -> contextlib.AbstractContextManager[None]:
        """Around a replay: the code in place is what it was at the call, whatever was replaced since."""
        return self.code.as_it_was()


def judge(snapshot: ModuleSnapshot) -> Judgement:
    """What there is in a component that keeps a twin from standing in for it."""
    fused = (nn.TransformerEncoderLayer, nn.TransformerEncoder, nn.MultiheadAttention)
    code = _reachable(snapshot)
    return Judgement(
        code=code,
        altered=_altered(snapshot),
        values=_needed_values(snapshot) or _unusual_weight(snapshot),
        operators_only=snapshot.scripted is not None or snapshot.has_class(*fused) or code.reenters,
    )


def unusual_call(arguments: Frozen) -> str | None:
    """Why a call that begins now is not what its signature says: a transform, a mode, a tensor that is not plain."""
    transform = active_transform()
    if transform is not None:
        return f"the call is made under {transform}"
    for mode in active_modes():
        if not is_known(type(mode).__module__) and not is_own(type(mode)):
            return f"the call is made under {type(mode).__qualname__}"
    return None if arguments.unusual is None else f"an argument is {arguments.unusual}"


def _needed_values(snapshot: ModuleSnapshot) -> str | None:
    if snapshot.scripted is not None:
        return f"compiled code of {snapshot.scripted}"
    for part in snapshot.parts_with_state:
        if part.cls is nn.TransformerEncoder and part.attributes.get("enable_nested_tensor"):
            return "padding is left out of nested tensors"  # which the meta device does not have
    return None


def _unusual_weight(snapshot: ModuleSnapshot) -> str | None:
    """Names a weight that a twin's plain dense one does not stand for."""
    for weight in snapshot.weights():
        kind = unusual_kind(weight)
        packed = root_of(type(weight).__module__) in PACKING_LIBRARIES and weight.layout == torch.strided
        if kind is not None and not packed:
            return f"a weight is {kind}"
    for part in snapshot.parts_with_state:
        for value in part.attributes.values():
            if type(value) is TensorSpec and value.kind is not None:
                return f"an attribute is {value.kind}"
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
    function = uncompiled_function(function)
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


def _reachable(snapshot: ModuleSnapshot) -> ReachableCode:
    """The code that the component's modules, the helpers in their attributes and functions among those can reach."""
    holders = [(part.cls, part.attributes) for part in snapshot.parts_with_state]
    holders += [(type(helper), attributes) for helper, attributes in snapshot.helpers.values()]
    values = {
        (id(item)): (item, f"{cls.__name__}.{name}")
        for cls, attributes in holders
        for name, value in attributes.items()
        if type(value) not in _HARMLESS and name not in UNINTERESTING
        for item in leaves(value)
        if type(item) not in _HARMLESS and not isinstance(item, nn.Module)
    }
    return ReachableCode.of(snapshot.classes, values.values(), _entries(snapshot.root))


def _entries(root: nn.Module) -> tuple[str, ...]:
    return ("forward", *intercept.public_methods(type(root)))


__all__ = ["Judgement", "belongs_to_model", "judge"]
