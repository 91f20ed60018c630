"""Time of operators on a GPU: for each the largest of compute, traffic and launch.

A product's compute time is its FLOPs over the rate that the GPU reaches at that kind, dtype and shape: what the best
large matrix product reaches (measured where a source says so, else a share of the published peak), times how well
its tiles fill the multiprocessors. Kernels of attention and of convolutions have limits of their own for each
multiprocessor, which no faster matrix unit lifts, and attention adds its softmax, which other units compute. Traffic
is every byte read and written at its own dtype over the bandwidth that kernels reach.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from math import ceil, inf, prod

from .hardware import Gpu
from .operators import ATTENTION, CONVOLUTION, PRODUCTS, STRIDED, Operator

COMPUTE = "compute"
MEMORY = "memory"
LAUNCH = "launch"

#: tiles of matrix products (rows, columns), with the share of the best rate that each reaches: a smaller tile reuses
#: its operands less. Shapes as in CUTLASS's default list; shares from the ratio of work to operands read per tile.
_TILES = ((256, 128, 1.0), (128, 128, 0.95), (128, 64, 0.8), (64, 64, 0.65))

#: a convolution in the order of dimensions that PyTorch has by default copies its operands into the one that matrix
#: units read, and its result back: three times the traffic
_LAYOUTS = 3
#: a group with fewer output channels than this (a depthwise convolution) cannot use matrix units, ...
_NARROW = 8
#: ... and reaches about this share of the rate without them
_WITHOUT_MATRIX_UNITS = 0.25
_ITEMSIZES = {"bfloat16": 2, "float16": 2, "float32": 4, "float64": 8, "float8": 1, "int8": 1}
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
    """Seconds of one kernel on the device, and what bounds it.

    Raises:
        InputError: the GPU has no rate for a dtype that products have.
    """
    rates = gpu.rates
    compute = _compute_seconds(operator, gpu) if operator.kind in PRODUCTS else 0.0
    moved = operator.bytes * (_LAYOUTS if _is_spatial(operator) else 1)
    traffic = moved / (gpu.figure("bandwidth_gb_s") * 1e9 * rates.bandwidth)
    if operator.kind == STRIDED and gpu.multiprocessors:
        traffic = max(traffic, operator.shape[0] / (gpu.multiprocessors * rates.strided_elements))
    return max((compute, COMPUTE), (traffic, MEMORY), (rates.kernel_seconds, LAUNCH))


def _compute_seconds(operator: Operator, gpu: Gpu) -> float:
    rates, processors = gpu.rates, gpu.multiprocessors or inf
    reached = gpu.reached_flops(operator.dtype, operator.kind)
    if operator.kind == ATTENTION:
        rate = min(reached * rates.attention, processors * rates.attention_limit)
        softmax = prod(operator.shape[:4]) / (processors * rates.softmax_elements)
        return operator.flops * padding(operator.shape[4]) / rate + softmax
    if operator.kind == CONVOLUTION and operator.shape[2] < _NARROW:
        return operator.flops / (gpu.peak_flops("float32") * _WITHOUT_MATRIX_UNITS)
    rate = reached * rates.matmul
    if _is_spatial(operator):
        rate = min(rate, processors * rates.convolution_limit)
    return operator.flops / (rate * filling(operator.shape, gpu.multiprocessors))


def _is_spatial(operator: Operator) -> bool:
    """Whether it is a convolution that looks around: one that does not is a matrix product of its input."""
    if operator.kind != CONVOLUTION or operator.shape[2] < _NARROW:
        return False
    groups, rows, _, depth = operator.shape
    unfolded = groups * rows * depth * _ITEMSIZES.get(operator.dtype, 4)
    return operator.bytes_in - operator.weight_bytes < 0.9 * unfolded


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
