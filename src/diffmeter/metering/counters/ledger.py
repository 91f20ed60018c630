"""Which module each MAC of a call belongs to: the innermost one whose forward runs when it is counted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from .functional import FunctionCounter
from .kinds import Kind
from .module_rules import ModuleCounter
from .op_level import OpTally

Kinds = Counter[Kind]


class ModuleLedger:
    """Splits what the counters of one call find by modules. It reads the counters, and changes nothing in them.

    Attributes:
        by_functions: MACs by kind of thop's rules, the functions and the user's formulas, by the path of the module.
        by_operators: MACs by kind of the operators, by the path of the module.
    """

    def __init__(self, root: nn.Module, modules: ModuleCounter, functions: FunctionCounter, tally: OpTally) -> None:
        self._paths = {id(module): path for path, module in root.named_modules()}
        self._read: tuple[Callable[[], Kinds], Callable[[], Kinds]] = (
            lambda: modules.macs + functions.macs + tally.kinds_of_user,
            lambda: Counter(tally.kinds),
        )
        self._seen: tuple[Kinds, Kinds] = (Counter(), Counter())
        self._inside = [""]
        self.by_functions: dict[str, Kinds] = {}
        self.by_operators: dict[str, Kinds] = {}

    def before(self, module: nn.Module, *_: object) -> None:
        """Forward pre-hook."""
        self.settle()
        self._inside.append(self._paths.get(id(module), self._inside[-1]))

    def after(self, module: nn.Module, *_: object) -> None:
        """Forward hook, which must run after those of the counters."""
        self.settle()
        if len(self._inside) > 1:
            self._inside.pop()

    def settle(self) -> None:
        """Give what was counted since the last time to the module that runs."""
        path = self._inside[-1]
        now = (self._read[0](), self._read[1]())
        for kept, new, old in zip((self.by_functions, self.by_operators), now, self._seen, strict=True):
            found = new - old
            if found:
                kept[path] = kept.get(path, Counter()) + found
        self._seen = now

    def attach(self, root: nn.Module) -> Callable[[], None]:
        """Hook every module below ``root``, after the counters have hooked theirs; undo by calling the result."""
        handles: list[Any] = []
        for module in root.modules():
            if isinstance(module, torch.jit.ScriptModule):  # which takes no hooks of Python
                continue
            handles.append(module.register_forward_pre_hook(self.before))
            handles.append(module.register_forward_hook(self.after))

        def detach() -> None:
            for handle in handles:
                handle.remove()

        return detach

    def split(self, kinds_of: Callable[[Kinds, Kinds], Kinds]) -> Mapping[str, tuple[int, int, int]]:
        """``total_macs``, ``matmul_macs`` and ``matmul_macs_without_attention`` of every module that has some itself.

        ``kinds_of`` makes of both views the one that the call's count uses, so that the sums are those of the call.
        """
        self.settle()
        found = {}
        for path in dict.fromkeys((*self.by_functions, *self.by_operators)):
            operators = self.by_operators.get(path, Counter())
            kinds = kinds_of(self.by_functions.get(path, Counter()), operators)
            weights = sum(macs for kind, macs in kinds.items() if kind.has_weight)
            found[path] = (sum(kinds.values()), sum(operators.values()), weights)
        return found
