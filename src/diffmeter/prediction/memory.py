"""Peak memory of a run: weights, plus what a call allocates and has not freed yet at its worst operator.

On the meta device Python allocates and frees tensors in the order of an eager run, so their lifetimes give the
allocated bytes at each operator. Two things are added: the allocator rounds each block up, and kernels take
workspaces that no tensor shows.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import accumulate
from math import prod
from typing import Protocol

from .operators import ATTENTION, CallOperators, Convolution, Operator

RESIDENT = "none"
MODEL = "model"
GROUP = "group"
SEQUENTIAL = "sequential"
#: where the weights are while the pipeline runs
OFFLOADS: Mapping[str, str] = {
    RESIDENT: "every component stays on the GPU",
    MODEL: "one component at a time is on the GPU (enable_model_cpu_offload)",
    GROUP: "one block at a time, the next one on its way (group offloading with a stream)",
    SEQUENTIAL: "one layer at a time (enable_sequential_cpu_offload)",
}


class Allocator(Protocol):
    """How a device hands out memory, and what its kernels take besides their results.

    Attributes:
        fixed: bytes that libraries take once.
        context: bytes of the device that no allocation can have.
    """

    fixed: int
    context: int

    def block(self, size: int) -> int:
        """Bytes that an allocation of ``size`` takes."""

    def convolution(self, sizes: Convolution) -> int:
        """Bytes that a convolution takes while it runs."""

    def attention(self, operator: Operator) -> int:
        """Bytes that attention takes while it runs."""


class Cuda:
    """PyTorch's caching allocator: blocks are multiples of 512 bytes (c10/cuda/CUDACachingAllocator.h).

    cuBLAS has the workspace of 32 MiB that PyTorch gives it on Hopper and later. cuDNN copies what a convolution
    reads, then what it writes, into and out of the order that tensor cores take. Attention keeps one float32 a query
    and head.
    """

    fixed = 32 << 20
    context = 600 << 20

    def block(self, size: int) -> int:
        """Bytes that an allocation of ``size`` takes."""
        return -(-size // 512) * 512

    def convolution(self, sizes: Convolution) -> int:
        """A copy of the larger of input and result in another order of dimensions."""
        return self.block(max(prod(sizes.input), prod(sizes.output)) * sizes.itemsize)

    def attention(self, operator: Operator) -> int:
        """The logarithms of the softmax's sums."""
        return self.block(4 * prod(operator.shape[:3]))


class Cpu:
    """PyTorch on a CPU: blocks as asked for, convolutions by oneDNN or by unfolding the input.

    The rules are those of ATen/native/Convolution.cpp (``use_mkldnn``), NaiveConvolutionTranspose2d and
    cpu/FlashAttentionKernel.cpp, for float32 and for one thread; oneDNN's order of dimensions pads channels to 8.
    """

    fixed = 0
    context = 0

    def block(self, size: int) -> int:
        """Bytes that an allocation of ``size`` takes."""
        return size

    def convolution(self, sizes: Convolution) -> int:
        """The unfolded input, or operands in oneDNN's order of dimensions: input and weights, then the result."""
        if not self._by_onednn(sizes):
            kernel = sizes.weight[2:]
            if all(size == 1 for size in kernel) and sizes.plain:
                return 0
            return prod(sizes.weight[1:]) * prod(sizes.output[2:]) * sizes.itemsize
        weight = _padded(sizes.weight[0]) * prod(sizes.weight[1:]) if sizes.groups == 1 else prod(sizes.weight)
        result = _in_blocks(sizes.output)  # copied into the tensor that was asked for once the rest is gone
        return max(_in_blocks(sizes.input) + weight + result - prod(sizes.output), result) * sizes.itemsize

    def attention(self, operator: Operator) -> int:
        """Sums of the softmax, and one thread's part of the scores."""
        batch, heads, queries, keys, size, _ = operator.shape
        rows = 256 if queries >= 768 else 64 if queries >= 192 else 32
        rows, columns = min(rows, queries), min(512, keys)
        return 4 * (batch * heads * queries + rows * (columns + 2 + size))

    @staticmethod
    def _by_onednn(sizes: Convolution) -> bool:
        if sizes.itemsize != 4:
            return False
        kernel = sizes.weight[2:]
        wide = not sizes.plain or sizes.input[0] >= 16 or any(size != 1 for size in kernel[-2:])
        large = sizes.groups > 1 or all(size > 3 for size in kernel[-2:]) or sizes.input[0] > 1
        return wide and (large or prod(sizes.input[:4]) > 20480)


def _in_blocks(shape: tuple[int, ...]) -> int:
    return shape[0] * _padded(shape[1]) * prod(shape[2:])


def _padded(channels: int) -> int:
    return -(-channels // 8) * 8


CUDA = Cuda()
CPU = Cpu()


@dataclass(frozen=True)
class Footprint:
    """What one component needs.

    Attributes:
        weights: bytes of its parameters and buffers.
        largest_layer, largest_block: bytes of the weights of its largest layer, and of its largest repeated block.
        activations: bytes that its calls allocate, at the worst moment.
        inputs: bytes of what a call is given, which the pipeline holds until it returns.
        calls: how often it is called.
    """

    weights: int
    largest_layer: int
    largest_block: int
    activations: int
    inputs: int
    calls: int


def activations(call: CallOperators, allocator: Allocator) -> int:
    """Bytes that a call has allocated at its worst operator, besides weights and arguments."""
    if not call.eager:
        return 0
    change = [0] * (len(call.eager) + 1)
    for life in call.lifetimes:
        size = allocator.block(life.bytes)
        change[life.first] += size
        change[life.last + 1] -= size
    alive = list(accumulate(change[:-1]))
    return max(size + workspace(call, index, allocator) for index, size in enumerate(alive))


def workspace(call: CallOperators, index: int, allocator: Allocator) -> int:
    """Bytes that the kernel of one operator takes while it runs, besides its result."""
    if index in call.convolutions:
        return allocator.convolution(call.convolutions[index])
    operator = call.eager[index]
    return allocator.attention(operator) if operator.kind == ATTENTION else 0


def peak(components: Iterable[Footprint], offload: str, allocator: Allocator) -> int:
    """Peak of allocated bytes of a run."""
    footprints = list(components)
    called = [f for f in footprints if f.calls]
    always = allocator.fixed + sum(f.inputs for f in called)
    if offload == RESIDENT:
        return sum(f.weights for f in footprints) + max((f.activations for f in called), default=0) + always
    held = max((_held(f, offload) + f.activations for f in called), default=0)
    return held + always


def _held(footprint: Footprint, offload: str) -> int:
    """Bytes of weights of an offloaded component that are on the GPU at a time."""
    if offload == MODEL:
        return footprint.weights
    return min(2 * footprint.largest_block, footprint.weights) if offload == GROUP else footprint.largest_layer


def moved_over_the_bus(footprint: Footprint, offload: str) -> int:
    """Bytes of weights that go from the host to the GPU in one run."""
    if offload == RESIDENT or not footprint.calls:
        return 0
    return footprint.weights * (1 if offload == MODEL else footprint.calls)
