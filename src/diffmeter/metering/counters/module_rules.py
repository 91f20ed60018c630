"""thop's rules for modules, applied one module call at a time.

The rules are thop's own (``thop.profile.register_hooks``), whichever distribution is installed: the MIT ``thop``
or the AGPL ``ultralytics-thop``, which takes the same import name. Two things differ from ``thop.profile()``:
nothing is left in a module, and only rules whose products are exact are used for products. What thop gets wrong or
what one distribution counts and the other does not (transposed convolutions, recurrent layers, multi-head
attention) is left to the function counter, so that both distributions give the same ``matmul_macs``.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import importlib.metadata
import logging
import sys
import types
from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from packaging.version import Version
from torch import nn

from diffmeter.compat import ConvNd, without_dispatch_modes
from diffmeter.errors import MissingPackageError

from . import user_formulas
from .kinds import Kind, kind_of
from .packed import logical_linear

if TYPE_CHECKING:
    from .op_level import OpState, OpTally

logger = logging.getLogger(__name__)

Rule = Callable[[nn.Module, tuple[Any, ...], Any], Any]

#: module types whose products thop counts exactly; exact types only, since a subclass may do anything
_PRODUCT_TYPES: dict[type[nn.Module], Kind] = {
    nn.Linear: Kind.LINEAR,
    nn.Conv1d: Kind.CONV,
    nn.Conv2d: Kind.CONV,
    nn.Conv3d: Kind.CONV,
}
#: module types with products that thop's rules do not give exactly: never taken from thop
_NOT_FROM_THOP: tuple[type[nn.Module], ...] = (
    ConvNd,
    nn.Linear,
    nn.Bilinear,
    nn.RNNBase,
    nn.RNNCellBase,
    nn.MultiheadAttention,
)


def _import_thop() -> Any:
    """The module ``thop.profile``.

    The MIT one compares versions with ``distutils``, which Python 3.12 took out and which costs a third of a second
    to import where setuptools brings it: a stand-in that can do just that serves for the time of the import.

    Raises:
        MissingPackageError: thop is not installed.
    """
    stand_ins: dict[str, types.ModuleType] = {}
    if "distutils" not in sys.modules:
        for name in ("distutils", "distutils.version"):
            stand_ins[name] = sys.modules[name] = types.ModuleType(name)
        stand_ins["distutils.version"].LooseVersion = Version  # type: ignore[attr-defined]
    try:
        importlib.import_module("thop")
        return importlib.import_module("thop.profile")
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "thop":
            raise
        raise MissingPackageError("thop is not installed. Install with: pip install thop") from error
    finally:
        for name in stand_ins:
            sys.modules.pop(name, None)


@functools.cache
def thop_distribution() -> str:
    """Which distribution answers to ``import thop``, with its version: ``"thop 0.1.1-2209072238"``.

    Both may be installed one over the other; the files that are there decide.
    """
    _import_thop()
    thop = importlib.import_module("thop")
    for name in ("ultralytics-thop", "thop"):
        try:
            version = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
        if name == "thop" or getattr(thop, "__version__", None) == version:
            return f"{name} {version}"
    return f"thop {getattr(thop, '__version__', 'of unknown version')}"


@functools.cache
def _thop_rules() -> dict[type[nn.Module], Rule]:
    return dict(_import_thop().register_hooks)


@functools.cache
def rule_for(module_type: Any) -> tuple[Kind, Rule] | None:
    """The kind and thop's rule for a module type, or None where thop has none that is used here."""
    rules = _thop_rules()
    if module_type in _PRODUCT_TYPES:
        return _PRODUCT_TYPES[module_type], rules[module_type]
    if issubclass(module_type, _NOT_FROM_THOP) or issubclass(module_type, (nn.Sequential, nn.ModuleList)):
        return None
    rule = rules.get(module_type)
    if rule is None:  # ultralytics-thop registers norms by their base classes
        rule = next((rules[t] for t in module_type.__mro__ if t in rules and t.__name__ == "_NormBase"), None)
    if rule is None or rule.__name__ == "zero_ops":
        return None
    return kind_of(module_type.__name__, Kind.OTHER), rule


class _Shadow:
    """Stands for a module in a thop rule: reads go to the module, ``total_ops`` stays here.

    Sizes are those of the weight that is there: a pruned layer may still name the sizes that it was made with.
    """

    def __init__(self, module: nn.Module) -> None:
        self.__dict__["_module"] = module
        self.__dict__["total_ops"] = 0
        weight = getattr(module, "weight", None) if type(module) in _PRODUCT_TYPES else None
        if weight is not None:  # (out, in/groups, *kernel)
            outputs, inputs, *kernel = weight.shape
            groups = getattr(module, "groups", 1)
            self.__dict__.update(out_features=outputs, in_features=inputs, kernel_size=tuple(kernel))
            self.__dict__.update(out_channels=outputs, in_channels=inputs * groups)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._module, name)


def module_macs(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> tuple[Kind, int] | None:
    """Kind and operations that thop's rule gives for one call of ``module``; None without a rule."""
    kind: Any = type(module)
    found = rule_for(kind)
    if found is None:
        return None
    operation, rule = found
    shadow = _Shadow(module)
    with without_dispatch_modes():  # thop computes with tensors of its own
        rule(shadow, inputs, output)  # type: ignore[arg-type]
        return operation, int(shadow.total_ops)


_METHODS: dict[type, Any] = {
    kind: {name: getattr(kind, name) for name in ("forward", "_conv_forward") if hasattr(kind, name)}
    for kind in _PRODUCT_TYPES
}


def _is_itself(module: nn.Module) -> bool:
    """Whether a layer does what its class says: a replaced method may skip the product, or make others."""
    kind = type(module)
    methods = _METHODS.get(kind)
    if methods is None:
        return False
    if any(name in module.__dict__ or getattr(kind, name) is not method for name, method in methods.items()):
        return False
    weight = module._parameters.get("weight")
    return weight is None or weight.layout is torch.strided  # thop's rules are for dense weights


class ModuleCounter:
    """Applies thop's rules through forward hooks; ``covered()`` tells whether a product rule is in charge now."""

    def __init__(self) -> None:
        self.macs: Counter[Kind] = Counter()
        self._depth = 0
        self._of_user: list[tuple[nn.Module, contextlib.ExitStack, OpTally | None]] = []
        self._packed: list[tuple[nn.Module, int, OpTally | None, OpState | None]] = []

    def covered(self) -> bool:
        return self._depth > 0

    def before(self, module: nn.Module, *_: Any) -> None:
        """Forward pre-hook."""
        if _is_itself(module):
            self._depth += 1
        if (layer := logical_linear(module)) is not None:
            self._depth += 1
            tally = user_formulas.tally_here()
            self._packed.append((module, layer.in_features, tally, None if tally is None else tally.state()))
        if user_formulas.of_module(type(module)) is not None:
            tally = user_formulas.tally_here()
            stack = contextlib.ExitStack()
            stack.enter_context(user_formulas.covered())
            self._of_user.append((module, stack, tally))

    def after(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        """Forward hook (``with_kwargs=True``)."""
        if self._of_user and self._of_user[-1][0] is module:
            _, stack, tally = self._of_user.pop()
            stack.close()
            formula = user_formulas.of_module(type(module))
            if formula is not None and tally is not None:
                tally.add_of_user(formula, (module, *args) if formula.takes_module else args, kwargs, output)
            return
        if self._packed and self._packed[-1][0] is module:
            self._after_packed(output)
            return
        if type(module) in _PRODUCT_TYPES:
            if not _is_itself(module):
                return
            self._depth -= 1
        if user_formulas.is_covered():
            return
        inputs = args if args else tuple(kwargs.values())
        try:
            counted = module_macs(module, inputs, output)
        except Exception:  # a rule that does not fit must not break a run; of a product, the other counter tells
            logger.debug("thop's rule for %s failed", type(module).__name__, exc_info=True)
            return
        if counted is not None:
            self.macs[counted[0]] += counted[1]

    def _after_packed(self, output: Any) -> None:
        """A layer with a packed weight: the products of the layer that it stands for, whichever kernel runs them."""
        module, inputs, tally, before = self._packed.pop()
        self._depth -= 1
        if user_formulas.is_covered() or not isinstance(output, torch.Tensor):
            return
        macs = output.numel() * inputs
        self.macs[Kind.LINEAR] += macs
        if tally is not None and before is not None:
            tally.explain(before, f"packed.{type(module).__name__}", Kind.LINEAR, macs)

    def attach(self, root: nn.Module) -> Callable[[], None]:
        """Hook every module below ``root`` that has a rule (a twin: it is not restored on errors); undo by calling."""
        handles = []
        for module in root.modules():
            kind: Any = type(module)
            of_user = user_formulas.of_module(kind) is not None
            if rule_for(kind) is None and not of_user:
                continue
            handles.append(module.register_forward_hook(self.after, with_kwargs=True))
            if kind in _PRODUCT_TYPES or of_user:
                handles.append(module.register_forward_pre_hook(self.before))

        def detach() -> None:
            for handle in handles:
                handle.remove()

        return detach


__all__ = ["ModuleCounter", "module_macs", "rule_for", "thop_distribution"]
