"""The result of counting one call: MACs by op class from thop + functions, and the op-level count beside it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from .functional import CONV, PRODUCT_CLASSES, WEIGHT_CLASSES
from .op_level import CONVOLUTION, MATRIX_PRODUCT, OpTally


@dataclass(frozen=True)
class Count:
    """MACs of one call, counted by two counters.

    Attributes:
        by_class: thop's rules and the function counter: MACs by op class (``conv``, ``linear``, ``attention``,
            ``matmul``, ``attention_softmax``, ``normalization``, ...).
        op_level: the op-level counter: MACs by dispatched operator, such as ``aten.addmm``.
        op_level_by_group: the same by the groups that are compared.
        unknown: operators that may hold products and have no formula, with how often they ran.
    """

    by_class: Mapping[str, int]
    op_level: Mapping[str, int]
    op_level_by_group: Mapping[str, int]
    unknown: Mapping[str, int]

    @classmethod
    def of(cls, by_class: Mapping[str, int], tally: OpTally) -> Count:
        return cls(
            {name: macs for name, macs in sorted(by_class.items()) if macs},
            dict(sorted(tally.macs.items())),
            tally.by_class(),
            dict(sorted(tally.unknown.items())),
        )

    @property
    def matmul_macs(self) -> int:
        """Products by the op-level counter, which decides where the two differ."""
        return sum(self.op_level.values())

    @property
    def matmul_macs_without_attention(self) -> int:
        """Products with a weight on one side: convolutions and linear layers."""
        return sum(macs for name, macs in self.by_class.items() if name in WEIGHT_CLASSES)

    @property
    def total_macs(self) -> int:
        """The design's convention: thop's rules plus attention with its softmax."""
        return sum(self.by_class.values())

    @property
    def differences(self) -> dict[str, tuple[int, int]]:
        """Groups in which the counters differ: (thop + functions, op level). Empty when they agree."""
        conv = self.by_class.get(CONV, 0)
        products = sum(macs for name, macs in self.by_class.items() if name in PRODUCT_CLASSES) - conv
        pairs = {
            CONVOLUTION: (conv, self.op_level_by_group[CONVOLUTION]),
            MATRIX_PRODUCT: (products, self.op_level_by_group[MATRIX_PRODUCT]),
        }
        return {group: pair for group, pair in pairs.items() if pair[0] != pair[1]}
