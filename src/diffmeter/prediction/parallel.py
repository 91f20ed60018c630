"""A run shared out among several GPUs of one machine: sequence parallelism by Ulysses and by rings.

Each GPU holds the whole model and a share of the denoiser's sequence. Attention needs all of it: Ulysses exchanges
queries, keys, values and results so that each GPU has some heads of the whole sequence (four all-to-alls a layer);
a ring passes keys and values around, one neighbor's part at a time. What is not the denoiser runs on every GPU.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from math import ceil

from diffmeter.errors import InputError

from .hardware import Gpu
from .operators import ATTENTION, Operator, scaled

#: all-to-alls of one layer by Ulysses: of queries, keys, values and the result
_EXCHANGES = 4


@dataclass(frozen=True)
class Degrees:
    """How many GPUs share the heads (``ulysses``) and how many pass keys and values around (``ring``)."""

    ulysses: int = 1
    ring: int = 1

    @property
    def gpus(self) -> int:
        """GPUs altogether."""
        return self.ulysses * self.ring


def degrees(gpus: int, ulysses: int | None, ring: int | None) -> Degrees:
    """The degrees for a number of GPUs; Ulysses takes what the ring leaves.

    Raises:
        InputError: their product is not the number of GPUs.
    """
    ring = ring if ring is not None else gpus // (ulysses or gpus) or 1
    ulysses = ulysses if ulysses is not None else gpus // ring
    if min(gpus, ulysses, ring) < 1 or ulysses * ring != gpus:
        raise InputError(f"Ulysses degree {ulysses} times ring degree {ring} must be the number of GPUs, {gpus}.")
    return Degrees(ulysses, ring)


def share(operators: Iterable[tuple[Operator, int]], split: Degrees) -> Iterator[tuple[Operator, int]]:
    """What one GPU does of a denoiser's call."""
    for operator, times in operators:
        if _needs_all(operator):
            yield _attention(operator, split), times * split.ring
        else:
            yield scaled(operator, 1 / split.gpus), times


def _needs_all(operator: Operator) -> bool:
    """Whether it is attention over what is shared out; every GPU has all of a text that is attended to."""
    return operator.kind == ATTENTION and operator.shape[2] == operator.shape[3]


def _attention(operator: Operator, split: Degrees) -> Operator:
    """One step of the ring: some heads, a part of the queries, and a part of the keys."""
    batch, heads, queries, keys, d, dv = operator.shape
    shape = (batch, ceil(heads / split.ulysses), ceil(queries / split.ring), ceil(keys / split.ring), d, dv)
    part = split.gpus * split.ring
    return replace(
        operator,
        shape=shape,
        flops=2 * shape[0] * shape[1] * shape[2] * shape[3] * (d + dv),
        bytes_in=operator.bytes_in // part,
        bytes_out=operator.bytes_out // part,
    )


def exchange_seconds(operators: Iterable[tuple[Operator, int]], split: Degrees, gpu: Gpu) -> float:
    """Seconds that one call of the denoiser spends on the links between GPUs.

    Raises:
        InputError: the bandwidth between GPUs is not known.
    """
    if split.gpus == 1:
        return 0.0
    link = gpu.figure("link_gb_s") * 1e9 * gpu.rates.link
    total = 0.0
    for operator, times in operators:
        if not _needs_all(operator):
            continue
        held = operator.bytes / split.gpus  # queries, keys, values and result: what one GPU has of them
        if split.ulysses > 1:
            away = held * (split.ulysses - 1) / split.ulysses
            total += times * (away / link + _EXCHANGES * gpu.rates.exchange_seconds)
        if split.ring > 1:
            total += times * (split.ring - 1) * (held / 2 / link + gpu.rates.exchange_seconds)
    return total
