"""Time of operators on a GPU: for each the largest of compute, traffic and launch.

A product's compute time is its FLOPs over the rate that the GPU reaches at that kind, dtype and shape: the published
dense peak, times the share that large products of the kind reach (:class:`~diffmeter.prediction.hardware.Rates`),
times how well its tiles fill the multiprocessors. Attention adds the time of its softmax, which runs on other units
than the products. Traffic is every byte read and written at its own dtype over the bandwidth that kernels reach.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from math import ceil, inf, prod

from .hardware import Gpu
from .operators import ATTENTION, MATMUL, PRODUCTS, STRIDED, Operator

COMPUTE = "compute"
MEMORY = "memory"
LAUNCH = "launch"

#: tiles of matrix products (rows, columns), with the share of the best rate that each reaches: a smaller tile reuses
#: its operands less. Shapes as in CUTLASS's default list; shares from the ratio of work to operands read per tile.
_TILES = ((256, 128, 1.0), (128, 128, 0.95), (128, 64, 0.8), (64, 64, 0.65))

#: head sizes that FlashAttention's kernels are built for (csrc/flash_attn/src/static_switch.h)
_HEAD_SIZES = (32, 64, 96, 128, 192, 256)


@dataclass(frozen=True)
class Time:
    """Seconds of a call or of a whole component, and what they are made of.

    Attributes:
        seconds: how long it takes.
        device: time that the device is busy; less than ``seconds`` where the host cannot keep up.
        by_bound: device seconds by what bounds each kernel.
        flops, bytes: work of those seconds.
    """

    seconds: float
    device: float
    by_bound: dict[str, float]
    flops: float
    bytes: float

    @property
    def bound(self) -> str:
        """``compute``, ``memory`` or ``launch``: what most of the time goes into."""
        if self.device < 0.5 * self.seconds:
            return LAUNCH
        return max(self.by_bound, key=self.by_bound.__getitem__, default=LAUNCH)

    def __add__(self, other: Time) -> Time:
        by_bound = {
            name: self.by_bound.get(name, 0) + other.by_bound.get(name, 0) for name in (COMPUTE, MEMORY, LAUNCH)
        }
        return Time(
            self.seconds + other.seconds,
            self.device + other.device,
            by_bound,
            self.flops + other.flops,
            self.bytes + other.bytes,
        )

    def __mul__(self, times: float) -> Time:
        by_bound = {name: seconds * times for name, seconds in self.by_bound.items()}
        return Time(self.seconds * times, self.device * times, by_bound, self.flops * times, self.bytes * times)


NOTHING = Time(0.0, 0.0, dict.fromkeys((COMPUTE, MEMORY, LAUNCH), 0.0), 0.0, 0.0)


def time_of(operators: Iterable[tuple[Operator, int]], gpu: Gpu, *, graphs: bool = False) -> Time:
    """Time of one call, made of operators with how often each runs.

    Args:
        operators: as :func:`diffmeter.prediction.operators.counted` gives them.
        gpu: where it runs.
        graphs: kernels are launched from a recorded graph, so that the host's time does not count.

    Raises:
        InputError: the GPU has no rate for a dtype that products have.
    """
    by_bound = dict.fromkeys((COMPUTE, MEMORY, LAUNCH), 0.0)
    host, flops, moved = 0.0, 0.0, 0.0
    for operator, times in operators:
        seconds, bound = kernel_seconds(operator, gpu)
        by_bound[bound] += seconds * times
        host += operator.host_calls * gpu.rates.host_seconds * times
        flops += operator.flops * times
        moved += operator.bytes * times
    device = sum(by_bound.values())
    return Time(device if graphs else max(device, host), device, by_bound, flops, moved)


def kernel_seconds(operator: Operator, gpu: Gpu) -> tuple[float, str]:
    """Seconds of one kernel on the device, and what bounds it."""
    rates = gpu.rates
    compute = 0.0
    if operator.kind in PRODUCTS:
        peak = gpu.peak_flops(operator.dtype, operator.kind)
        if operator.kind == ATTENTION:
            elements = prod(operator.shape[:4])
            compute = operator.flops * padding(operator.shape[4]) / (peak * rates.attention)
            compute += elements / (rates.softmax_elements * gpu.figures.get("multiprocessors", inf))
        else:
            share = rates.matmul if operator.kind == MATMUL else rates.convolution
            compute = operator.flops / (peak * share * filling(operator.shape, gpu.figures.get("multiprocessors")))
    traffic = operator.bytes / (gpu.figure("bandwidth_gb_s") * 1e9 * rates.bandwidth)
    if operator.kind == STRIDED and "multiprocessors" in gpu.figures:
        traffic = max(traffic, operator.shape[0] / (gpu.figures["multiprocessors"] * rates.strided_elements))
    return max((compute, COMPUTE), (traffic, MEMORY), (rates.kernel_seconds, LAUNCH))


def padding(head_size: int) -> float:
    """How much more an attention kernel computes, since it is built for the next larger of the usual head sizes."""
    return next((built / head_size for built in _HEAD_SIZES if built >= head_size), 1.0)


def filling(shape: tuple[int, ...], multiprocessors: float | None) -> float:
    """Share of a GPU's rate that a product of shape (batch, m, n, k) can use, for the best of the usual tiles.

    Whole tiles are computed, and whole waves of one tile a multiprocessor: what does not fill them is lost.
    """
    batch, m, n, _ = shape
    if not multiprocessors or not batch * m * n:
        return 1.0
    best = 0.0
    for rows, columns, share in _TILES:
        tiles = batch * ceil(m / rows) * ceil(n / columns)
        waves = ceil(tiles / multiprocessors)
        best = max(best, share * batch * m * n / (waves * multiprocessors * rows * columns))
    return best
