"""Peak memory of a run: weights, plus what a call allocates and has not freed yet at its worst operator.

On the meta device Python allocates and frees tensors in the order of an eager run, so their lifetimes give the
allocated bytes at each operator. Two things are added: the allocator rounds each block up, and kernels take
workspaces that no tensor shows.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import accumulate

from .operators import CONVOLUTION, CallOperators, Operator

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


@dataclass(frozen=True)
class Allocator:
    """How a device hands out memory.

    Attributes:
        rounding: blocks are multiples of this many bytes.
        convolution_workspace: bytes that a convolution takes besides its result, per byte of what it reads and writes
            that is no weight.
        fixed: bytes that libraries take once.
        context: bytes of the device that no allocation can have.
    """

    rounding: int
    convolution_workspace: float
    fixed: int
    context: int

    def block(self, size: int) -> int:
        """Bytes that an allocation of ``size`` takes."""
        return -(-size // self.rounding) * self.rounding


#: PyTorch's caching allocator (blocks of 512 bytes), cuBLAS's workspace as PyTorch sets it for Hopper and later
#: (32 MiB), and cuDNN, which copies a convolution's operands into the layout that tensor cores read
CUDA = Allocator(rounding=512, convolution_workspace=1.0, fixed=32 << 20, context=600 << 20)
CPU = Allocator(rounding=1, convolution_workspace=0.0, fixed=0, context=0)


@dataclass(frozen=True)
class Footprint:
    """What one component needs.

    Attributes:
        weights: bytes of its parameters and buffers.
        largest_layer, largest_block: bytes of the weights of its largest layer, and of its largest repeated block.
        activations: bytes that its calls need besides, at the worst moment; what they are given included.
        calls: how often it is called.
    """

    weights: int
    largest_layer: int
    largest_block: int
    activations: int
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
    return max(a + workspace(operator, allocator) for a, operator in zip(alive, call.eager, strict=True))


def workspace(operator: Operator, allocator: Allocator) -> int:
    """Bytes that a kernel takes while it runs, besides its result."""
    if operator.kind != CONVOLUTION:
        return 0
    moved = operator.bytes - operator.weight_bytes
    return allocator.block(round(moved * allocator.convolution_workspace))


def peak(components: Iterable[Footprint], offload: str, allocator: Allocator) -> int:
    """Peak of allocated bytes of a run."""
    footprints = list(components)
    called = [f for f in footprints if f.calls]
    if offload == RESIDENT:
        return sum(f.weights for f in footprints) + max((f.activations for f in called), default=0) + allocator.fixed
    held = {
        MODEL: lambda f: f.weights,
        GROUP: lambda f: min(2 * f.largest_block, f.weights),
        SEQUENTIAL: lambda f: f.largest_layer,
    }[offload]
    return max((held(f) + f.activations for f in called), default=0) + allocator.fixed


def moved_over_the_bus(footprint: Footprint, offload: str) -> int:
    """Bytes of weights that go from the host to the GPU in one run."""
    if offload == RESIDENT or not footprint.calls:
        return 0
    return footprint.weights * (1 if offload == MODEL else footprint.calls)
