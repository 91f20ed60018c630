"""What a compiler makes of a list of operators: chains of element-wise operators become one kernel each.

The rule is that of ``torch.compile``'s default mode: element-wise operators and reductions that hand tensors to each
other run as one kernel, which reads what comes from outside and writes what is used outside. Products stay kernels
of their own.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from .operators import NORM, POINTWISE, PRODUCTS, STRIDED, Operator

#: memory of a tensor: a serial number, and how often it was written
Key = tuple[int, int]


@dataclass(frozen=True)
class Step:
    """An operator with the memory that it reads and writes, in bytes by key."""

    operator: Operator
    reads: dict[Key, int]
    writes: dict[Key, int]


def fuse(steps: Sequence[Step]) -> Iterator[Operator]:
    """The kernels of a compiled run, in order."""
    group_of, members = _groups(steps)
    readers: dict[Key, set[int]] = {}
    for index, step in enumerate(steps):
        for key in step.reads:
            readers.setdefault(key, set()).add(group_of[index])
    for group, indices in members.items():
        if len(indices) == 1:
            operator = steps[indices[0]].operator
            yield replace(operator, kind=POINTWISE) if operator.kind == STRIDED else operator
            continue
        made: dict[Key, int] = {}
        read: dict[Key, int] = {}
        for index in indices:
            for key, size in steps[index].reads.items():
                if key not in made:
                    read[key] = max(read.get(key, 0), size)
            made.update(steps[index].writes)
        last = set(steps[indices[-1]].writes)
        kept = sum(size for key, size in made.items() if key in last or readers.get(key, set()) - {group})
        largest = max((steps[index].operator for index in indices), key=lambda operator: operator.bytes)
        yield replace(
            largest,
            name="fused",
            kind=NORM if any(steps[index].operator.kind == NORM for index in indices) else POINTWISE,
            bytes_in=sum(read.values()),
            bytes_out=kept,
            weight_bytes=min(sum(steps[index].operator.weight_bytes for index in indices), sum(read.values())),
            host_calls=1,
        )


def _groups(steps: Sequence[Step]) -> tuple[list[int], dict[int, list[int]]]:
    """Number of the group of each step, and the steps of each group.

    A group takes no more members once a kernel outside it has read from it: what came after might depend on that.
    """
    group_of: list[int] = []
    members: dict[int, list[int]] = {}
    maker: dict[Key, int] = {}
    closed: set[int] = set()
    for index, step in enumerate(steps):
        group = index
        if step.operator.kind not in PRODUCTS:
            joined = {maker[key] for key in step.reads if key in maker} - closed
            group = max((g for g in joined if steps[g].operator.kind not in PRODUCTS), default=index)
        for key in step.reads:
            if key in maker and maker[key] != group:
                closed.add(maker[key])
        group_of.append(group)
        members.setdefault(group, []).append(index)
        maker.update(dict.fromkeys(step.writes, group))
    return group_of, members
