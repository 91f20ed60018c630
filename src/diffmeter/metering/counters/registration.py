"""``register_formula``: teach both counters an operator, a function or a module class that diffmeter does not know."""

from __future__ import annotations

import inspect
import types
import warnings
from collections.abc import Callable, Hashable, Mapping
from typing import Any

import torch
from torch import nn

from diffmeter.errors import InputError

from . import user_formulas
from .functional import FORMULAS, Formula
from .kinds import Kind
from .module_rules import rule_for
from .op_level import has_formula, op_name
from .user_formulas import Macs, UserFormula

_KINDS = tuple(kind.value for kind in Kind if kind.is_product)
#: functions that report their calls, with the code that they had
_reporting: dict[types.FunctionType, types.CodeType] = {}


class Registration:
    """One registered formula. :meth:`unregister` takes it back, and so does leaving it as a context manager."""

    def __init__(self, target: Any, formula: UserFormula) -> None:
        self.target = target
        self.formula = formula

    def unregister(self) -> None:
        """Forget the formula; what was counted with it keeps its number. A second time does nothing."""
        table = dict(user_formulas.current())
        if table.get(self.target) is self.formula:
            del table[self.target]
            user_formulas.replace(table)
            if isinstance(self.target, types.FunctionType):
                self.target.__code__ = _reporting.pop(self.target)

    def __enter__(self) -> Registration:
        return self

    def __exit__(self, *_: object) -> None:
        self.unregister()


def register_formula(target: Any, macs: Macs, kind: str = "matmul") -> Registration:
    """Say how many multiply-accumulates a call of ``target`` takes.

    Both counters use the number, so that the profile stays complete; it lists the number under ``user_formulas``,
    since nothing checks it. Whatever runs inside such a call counts in neither. The formula holds until
    :meth:`Registration.unregister`, or to the end of the block::

        with register_formula(torch.ops.lib.op, lambda x, w, out: x.numel() * w.shape[0], kind="linear"):
            with observe(pipe) as run:
                pipe(prompt)

    Args:
        target: an operator (``torch.ops.lib.op``, or one overload of it), a Python function, or a class of modules.
        macs: called as ``macs(*args, out=result, **kwargs)`` with the arguments of each call (tensors without memory
            where a twin is counted) and its result; returns a whole number of MACs. For a class of modules, a first
            parameter named ``module`` or ``self`` gets the module.
        kind: the key in ``macs_by_op`` that the number belongs to: ``conv``, ``linear``, ``attention`` or ``matmul``.

    Raises:
        InputError: the target is nothing of these or has a formula already, or the kind is no kind of product.
    """
    if kind not in _KINDS:
        raise InputError(f"kind must be one of {', '.join(_KINDS)}, got {kind!r}")
    if not callable(macs):
        raise InputError(f"macs must be a function that returns a number of MACs, got {type(macs).__name__}")
    if _is_known(target):
        name = getattr(target, "__name__", str(target))
        raise InputError(f"{name} has a formula already: diffmeter counts it, or it was registered before")
    name = _name_of(target)
    formula = UserFormula(name, macs, Kind(kind), inspect.isclass(target) and _takes_module(macs))
    user_formulas.replace({**user_formulas.current(), target: formula})
    if isinstance(target, types.FunctionType):
        _report_calls(target)
    return Registration(target, formula)


def _name_of(target: Any) -> str:
    if isinstance(target, torch._ops.OpOverload):
        return str(target)
    if isinstance(target, torch._ops.OpOverloadPacket):
        return op_name(target.default) if hasattr(target, "default") else str(target)
    if isinstance(target, types.FunctionType) or (inspect.isclass(target) and issubclass(target, nn.Module)):
        return f"{target.__module__}.{target.__qualname__}"
    raise InputError(
        f"a formula is registered for an operator of torch.ops, a Python function or a class of modules, "
        f"not for {target!r}"
    )


def _takes_module(macs: Macs) -> bool:
    try:
        return next(iter(inspect.signature(macs).parameters), None) in ("module", "self")
    except (TypeError, ValueError):
        return False


def _is_known(target: Any) -> bool:
    if isinstance(target, Hashable) and (target in user_formulas.current() or target in FORMULAS):
        return not isinstance(target, str)
    if isinstance(target, torch._ops.OpOverloadPacket):
        return any(has_formula(getattr(target, overload)) for overload in target.overloads())
    if isinstance(target, torch._ops.OpOverload):
        return has_formula(target) or target.overloadpacket in user_formulas.current()
    cls: Any = target
    return inspect.isclass(target) and rule_for(cls) is not None


def _report_calls(function: types.FunctionType) -> None:
    """Have every call of ``function`` counted, by whatever name it is reached.

    It keeps its identity and gets other code, which hands each call to :func:`_counted_call`.
    """
    code = _reporting[function] = function.__code__
    original = types.FunctionType(
        code, function.__globals__, function.__name__, function.__defaults__, function.__closure__
    )
    original.__kwdefaults__ = function.__kwdefaults__
    original.__dict__.update(function.__dict__)

    def counted_call(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        return _counted_call(function, original, args, kwargs)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a text is no function: it becomes one
        template = compile("lambda *args, **kwargs: 'counted_call'(args, kwargs)", code.co_filename, "eval")
    inner: types.CodeType = next(each for each in template.co_consts if isinstance(each, types.CodeType))
    function.__code__ = inner.replace(
        co_consts=tuple(counted_call if each == "counted_call" else each for each in inner.co_consts),
        co_name=code.co_name,
        co_firstlineno=code.co_firstlineno,
        co_freevars=code.co_freevars,
    )


def _counted_call(
    function: types.FunctionType, original: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> Any:
    formula = user_formulas.current().get(function)
    tally = user_formulas.tally_here()
    if formula is None or tally is None:
        return original(*args, **kwargs)
    with user_formulas.covered():
        out = original(*args, **kwargs)
    tally.add_of_user(formula, args, dict(kwargs), out)
    return out


__all__ = ["Formula", "Registration", "register_formula"]
