"""Counting inside the real run: for work that a twin would not repeat, and for products outside recorded calls."""

from __future__ import annotations

import contextlib
import threading
from collections import Counter
from collections.abc import Callable, Collection, Container, Iterator
from typing import Any, ClassVar

from torch import nn

from diffmeter.compat import (
    active_transform,
    beneath_other_modes,
    caller_frame,
    on_every_forward,
    paused_dispatch_mode,
    top_dispatch_mode,
    uncompiled_here,
)
from diffmeter.metering.watching import intercept
from diffmeter.metering.watching.patching import own
from diffmeter.metering.watching.snapshot import OwnHooks
from diffmeter.metering.watching.trust import Judgement

from .functional import FunctionCounter
from .ledger import ModuleLedger
from .module_rules import ModuleCounter
from .op_level import DispatchMode, OpCounter, has_own_way, is_composite, op_macs, op_name
from .tally import Count


class LiveCount:
    """Both counters around a real call; ``count`` is there after the block.

    Args:
        modules: the ``id`` of each module of the component that is called, to notice its work in other threads.
        judgement: what there is in the component, if that is known; it decides what can be looked at.
        root: the component, to tell which of its modules each MAC belongs to.

    Attributes:
        failure: why the count does not hold, if it does not.
    """

    def __init__(
        self, modules: Collection[int] = (), judgement: Judgement | None = None, root: nn.Module | None = None
    ) -> None:
        self.count: Count | None = None
        self.failure: str | None = None
        self._own = modules
        self._root = root if isinstance(root, nn.Module) else None
        # Functions are called with logical shapes: where operators run on others, only these decide.
        operators_only = judgement is not None and judgement.operators_only
        self._by_functions = not operators_only and active_transform() is None
        self._unseen = None if judgement is None else judgement.unseen

        self._before: Callable[[nn.Module, Any], None] = lambda module, args: None

    def entered(self, module: nn.Module) -> None:
        """Tell of a module whose hooks were being called already when counting began."""
        self._before(module, ())

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        modules = ModuleCounter()
        functions = FunctionCounter(modules.covered)
        operators = OpCounter()
        counters = (modules, functions, operators.tally)
        ledger = None if self._root is None or not self._by_functions else ModuleLedger(self._root, *counters)
        with contextlib.ExitStack() as stack:
            stack.enter_context(uncompiled_here())
            self._hook_modules(modules, ledger, stack)
            stack.enter_context(beneath_other_modes(operators))
            if self._by_functions:
                stack.enter_context(beneath_other_modes(functions))
            stack.enter_context(_marked_as_running())
            yield
        macs = modules.macs + functions.macs
        if not self._by_functions:
            macs = Counter({kind: n for kind, n in modules.macs.items() if not kind.is_product})
            macs += operators.tally.kinds - operators.tally.kinds_of_user
        if self._unseen is not None and self.failure is None:
            self.failure = f"{self._unseen} runs past PyTorch's operators, and its products are not seen"
        self.count = Count.of(macs, operators.tally, ledger)

    def _hook_modules(self, modules: ModuleCounter, ledger: ModuleLedger | None, stack: contextlib.ExitStack) -> None:
        thread = threading.get_ident()

        def before(module: nn.Module, args: Any) -> None:
            if threading.get_ident() == thread:
                modules.before(module)
                if ledger is not None:
                    ledger.before(module)
            elif id(module) in self._own and not getattr(_live, "running", False):
                self.failure = "part of the work ran in another thread, where it is not seen"

        def after(module: nn.Module, args: Any, *values: Any) -> None:
            if threading.get_ident() == thread and len(values) == 2:  # one, if the hook has been taken off meanwhile
                modules.after(module, args, *values)
                if ledger is not None:
                    ledger.after(module)

        self._before = before
        with OwnHooks():
            stack.callback(on_every_forward(own(before), own(after)))


_live = threading.local()


@contextlib.contextmanager
def _marked_as_running() -> Iterator[None]:
    outer, _live.running = getattr(_live, "running", False), True
    try:
        yield
    finally:
        _live.running = outer


class OutsideCalls(DispatchMode):
    """Sees products that run between recorded calls: a pipeline that enters a component by one of its submodules.

    Args:
        busy: whether a recorded call is under way in this thread.
        found: told of each product outside: (operator name, MACs or None if unknown).
    """

    _silent: ClassVar[set[Any]] = set()  # operators known to be no product

    def __init__(self, busy: Callable[[], bool], found: Callable[[str, int | None], None]) -> None:
        super().__init__()
        self._busy = busy
        self._found = found

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if not has_own_way(types) and (func in self._silent or self._busy()):
            return self.run(func, args, kwargs or {})
        if has_own_way(types):
            return NotImplemented
        return self.look(func, args, kwargs or {})

    def run(self, func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        """Do what the operator does."""
        return func(*args, **kwargs)

    def look(self, func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        """Run one operator that may be a product, and report it if it is one inside a module."""
        if is_composite(func):
            out = self.decomposed(func, args, kwargs)
            if out is not NotImplemented:
                return out
        out = self.run(func, args, kwargs)
        try:
            macs = op_macs(func, args, kwargs, out)
        except LookupError:
            macs = None
        else:
            if macs is None:
                self._silent.add(func)
                return out
        self._found(op_name(func), macs)
        return out

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Take the mode off the stack while it lies on top, so that a call inside costs nothing and compiles.

        Modes of this kind that lie over it, of other observers, are taken off with it.
        """
        with contextlib.ExitStack() as stack:
            while isinstance(top := top_dispatch_mode(), OutsideCalls):
                stack.enter_context(paused_dispatch_mode(top))
            yield


def outermost_module(
    belongs: Callable[[nn.Module], bool], entries: Callable[[nn.Module], Container[str]], *, strangers: bool
) -> nn.Module | None:
    """The outermost module on the Python stack that ``belongs``; None in plain pipeline or scheduler code.

    Only a forward counts, or a method by which a pipeline may enter the module: merging an adapter is no inference.
    With ``strangers``, a module that does not belong is the second choice: a pipeline may hold or make modules that
    are no components. What called the pipeline is none of them.
    """
    frame = caller_frame(1)
    found = stranger = None
    calls_pipeline = False
    while frame is not None:
        calls_pipeline = calls_pipeline or frame.f_globals.get("__name__") == intercept.__name__
        names = frame.f_code.co_varnames
        if names and names[0] == "self" and frame.f_code.co_argcount:
            owner = frame.f_locals.get("self")
            if isinstance(owner, nn.Module) and frame.f_code.co_name in entries(owner):
                if belongs(owner):
                    found = owner
                elif strangers and not calls_pipeline:
                    stranger = owner
        frame = frame.f_back
    return found or stranger
