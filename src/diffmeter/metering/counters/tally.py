"""The result of counting one call: MACs by kind from thop + functions, and the op-level count beside it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from .kinds import GROUPS, Kind
from .ledger import ModuleLedger
from .op_level import OpTally


@dataclass(frozen=True)
class OfUser:
    """What a formula of the user's gave: its target, the kind of its MACs and how many."""

    name: str
    kind: Kind
    macs: int


@dataclass(frozen=True)
class Count:
    """MACs of one call, counted by two counters.

    Attributes:
        by_class: MACs by kind (``conv``, ``linear``, ``attention``, ``matmul``, ``attention_softmax``,
            ``normalization``, ...): thop's rules and the function counter. In a group where the counters differ and
            the operators are all known, the operators' own kinds stand instead.
        op_level: the op-level counter: MACs by dispatched operator, such as ``aten.addmm``.
        differences: groups in which the counters differ: (thop + functions, op level). Empty when they agree.
        unknown: what may hold products and has no formula, with how often it ran.
        left_out: operators that are no product and are named all the same, with how often they ran.
        of_user: the part that users' formulas gave; it is in both views.
        by_module: ``total_macs``, ``matmul_macs`` and ``matmul_macs_without_attention`` that each module has itself,
            without those below it, by its path in the component; they sum up to those of the call.
    """

    by_class: Mapping[str, int]
    op_level: Mapping[str, int]
    differences: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    unknown: Mapping[str, int] = field(default_factory=dict)
    left_out: Mapping[str, int] = field(default_factory=dict)
    of_user: tuple[OfUser, ...] = ()
    by_module: Mapping[str, tuple[int, int, int]] = field(default_factory=dict, compare=False, repr=False)

    @classmethod
    def of(cls, by_kind: Mapping[Kind, int], tally: OpTally, ledger: ModuleLedger | None = None) -> Count:
        """Put the two views together: ``by_kind`` from thop and the functions, ``tally`` from the operators.

        ``ledger`` knows which module each belongs to.
        """
        kinds = Counter(by_kind) + tally.kinds_of_user
        mine, theirs = _by_group(kinds), _by_group(tally.kinds)
        differences = {group: (mine[group], theirs[group]) for group in GROUPS if mine[group] != theirs[group]}
        replaced = () if tally.unknown else tuple(differences)

        def settled(by_functions: Counter[Kind], by_operators: Counter[Kind]) -> Counter[Kind]:
            for group in replaced:
                by_functions = _with_group_of(by_functions, by_operators, group)
            return by_functions

        kinds = settled(kinds, tally.kinds)
        return cls(
            {kind.value: macs for kind, macs in sorted(kinds.items()) if macs},
            dict(sorted(tally.macs.items())),
            differences,
            dict(sorted(tally.unknown.items())),
            dict(sorted(tally.left_out.items())),
            tuple(OfUser(name, kind, macs) for (name, kind), macs in sorted(tally.of_user.items())),
            {} if ledger is None else ledger.split(settled),
        )

    def __add__(self, other: Count) -> Count:
        """Both together."""
        differences = {
            group: (mine[0] + theirs[0], mine[1] + theirs[1])
            for group in sorted({*self.differences, *other.differences})
            for mine, theirs in [(self.differences.get(group, (0, 0)), other.differences.get(group, (0, 0)))]
        }
        return Count(
            dict(Counter(self.by_class) + Counter(other.by_class)),
            dict(Counter(self.op_level) + Counter(other.op_level)),
            differences,
            dict(Counter(self.unknown) + Counter(other.unknown)),
            dict(Counter(self.left_out) + Counter(other.left_out)),
            (*self.of_user, *other.of_user),
        )

    @property
    def matmul_macs(self) -> int:
        """Products by the op-level counter, which decides where the two differ."""
        return sum(self.op_level.values())

    @property
    def matmul_macs_without_attention(self) -> int:
        """Products with a weight on one side: convolutions and linear layers."""
        return sum(macs for name, macs in self.by_class.items() if Kind(name).has_weight)

    @property
    def total_macs(self) -> int:
        """The default convention: thop's rules plus attention with its softmax."""
        return sum(self.by_class.values())


def _by_group(kinds: Mapping[Kind, int]) -> dict[str, int]:
    groups = dict.fromkeys(GROUPS, 0)
    for kind, macs in kinds.items():
        if kind.is_product:
            groups[kind.group] += macs
    return groups


def _with_group_of(kinds: Counter[Kind], other: Mapping[Kind, int], group: str) -> Counter[Kind]:
    """``kinds`` with the products of one group taken from ``other``."""
    kept = {kind: macs for kind, macs in kinds.items() if not (kind.is_product and kind.group == group)}
    return Counter(kept | {kind: macs for kind, macs in other.items() if kind.group == group})
