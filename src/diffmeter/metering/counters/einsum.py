"""``torch.einsum`` from its equation: which pairs are contracted, in which order, and what each takes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from math import prod

import torch

from .shapes import Shape

Sizes = dict[str, int]  # of one operand, by index; the k-th index from the right of an ellipsis is named ".k"


def einsum_macs(equation: str, shapes: list[Shape]) -> int:
    """MACs of an einsum, contracted pairwise in the order in which PyTorch does it.

    A pair with no common summed index is an elementwise product and counts nothing; otherwise each distinct index of
    the pair contributes its size once, after indices that only one side has and nobody needs are summed away.
    """
    inputs, arrow, result = equation.replace(" ", "").partition("->")
    operands = [_sizes(term, shape) for term, shape in zip(inputs.split(","), shapes, strict=True)]
    output = _named(result, operands) if arrow else _implied(inputs, operands)
    total = 0
    for first, second in _path(equation, shapes):
        # the pair leaves the list; with a path the result goes to its end, without one back to the front
        a, b = operands[first], operands[second]
        rest = [sizes for i, sizes in enumerate(operands) if i not in (first, second)]
        needed = output.union(*({index for index, size in sizes.items() if size != 1} for sizes in rest))
        merged = {index: max(a.get(index, 1), b.get(index, 1)) for index in a.keys() | b.keys()}
        summed = {i for i in a.keys() & b.keys() if i not in needed and a[i] != 1 and b[i] != 1}
        kept = {index: size for index, size in merged.items() if index in needed}
        if summed:
            total += prod(kept.values()) * prod(merged[index] for index in summed)
        operands = [*rest, kept] if _has_path(shapes) else [kept, *rest]
    return total


def _sizes(term: str, shape: Shape) -> Sizes:
    head, dots, tail = term.partition("...")
    hidden = len(shape) - len(head) - len(tail)
    return dict(zip([*head, *(f".{k}" for k in range(hidden, 0, -1)), *tail] if dots else term, shape, strict=True))


def _hidden(operands: Iterable[Sizes]) -> set[str]:
    return {index for sizes in operands for index in sizes if index.startswith(".")}


def _named(result: str, operands: list[Sizes]) -> set[str]:
    return set(result.replace("...", "")) | (_hidden(operands) if "..." in result else set())


def _implied(inputs: str, operands: list[Sizes]) -> set[str]:
    """Without an arrow: every index that occurs once, and the ellipsis."""
    letters = inputs.replace("...", "").replace(",", "")
    return {letter for letter in letters if letters.count(letter) == 1} | _hidden(operands)


def _has_path(shapes: list[Shape]) -> bool:
    optimizer = torch.backends.opt_einsum
    return len(shapes) > 2 and bool(optimizer.enabled) and optimizer.is_available()


def _path(equation: str, shapes: list[Shape]) -> Iterator[tuple[int, int]]:
    """Positions of each pair in the list of what is left: the first two, or as ``opt_einsum`` finds if installed."""
    if not _has_path(shapes):
        yield from ((0, 1) for _ in shapes[1:])
        return
    optimizer = torch.backends.opt_einsum
    found = optimizer.get_opt_einsum().contract_path(equation, *shapes, optimize=optimizer.strategy, shapes=True)[0]
    yield from ((first, second) for first, second in found)
