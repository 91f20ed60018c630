"""See the operators of a call while it is replayed on a twin: shapes, dtypes, bytes, lifetimes of every tensor.

:class:`OperatorWatch` stands innermost around the twin's forward, so that it sees what the model's own code asked
for, before anything is decomposed for the sake of counting. Python allocates and frees tensors there in the order
of an eager run, which gives the memory that is alive at each operator.
"""

from __future__ import annotations

import weakref
from math import prod
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from diffmeter.compat import base_of, storage_identity
from diffmeter.metering.counters.kinds import Kind
from diffmeter.metering.counters.op_level import DispatchMode, is_composite, op_name, op_products
from diffmeter.metering.counters.tally import Count
from diffmeter.metering.twins.replay import replay_watcher
from diffmeter.metering.watching.signature import iter_tensors

from .fusion import Key, Step, fuse
from .operators import (
    ATTENTION,
    CONVOLUTION,
    MATMUL,
    NORM,
    POINTWISE,
    STRIDED,
    CallOperators,
    Convolution,
    Lifetime,
    Operator,
)

aten = torch.ops.aten
#: a view whose schema does not say so
_UNSAFE_VIEW = getattr(aten, "_unsafe_view").default  # noqa: B009 - a name of PyTorch that looks private

_NORMS = frozenset(
    [
        "native_layer_norm", "native_group_norm", "native_batch_norm", "_softmax", "_log_softmax", "_safe_softmax",
        "mean", "sum", "var", "std", "var_mean", "std_mean", "amax", "amin", "max", "min", "argmax", "argmin",
        "prod", "cumsum",
        "linalg_vector_norm", "norm", "_fused_rms_norm", "logsumexp", "any", "all", "topk", "sort",
        "_native_batch_norm_legit_no_training", "avg_pool1d", "avg_pool2d", "avg_pool3d", "max_pool2d_with_indices",
        "adaptive_avg_pool2d", "_adaptive_avg_pool2d",
    ]
)  # fmt: skip
#: operators that read only the rows that they are asked for
_GATHERS = frozenset({"index", "index_select", "embedding", "gather", "_unsafe_index", "index_put_", "scatter"})
#: operators that make a tensor and write nothing into it
_NO_KERNEL = frozenset(
    {"empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided", "_local_scalar_dense"}
)


class OperatorWatch(DispatchMode):
    """Notes every operator dispatched while it is entered. Read :meth:`result` afterwards."""

    def __init__(self) -> None:
        super().__init__()
        self._steps: list[Step] = []
        self._serials: dict[int, int] = {}  # address of a storage -> its serial number
        self._versions: list[int] = []  # serial number -> times written
        self._born: dict[int, tuple[int, int]] = {}  # serial number -> bytes, first operator
        self._dead: list[Lifetime] = []
        self._convolutions: dict[int, Convolution] = {}
        self._held: list[torch.UntypedStorage] = []
        self.inside = False
        self._functions = _Functions(self)

    def __enter__(self) -> Any:
        entered = super().__enter__()
        self._functions.__enter__()  # type: ignore[no-untyped-call]
        return entered

    def __exit__(self, *error: Any) -> None:
        self._functions.__exit__(*error)  # type: ignore[no-untyped-call]
        super().__exit__(*error)

    def result(self, input_bytes: int) -> CallOperators:
        """What was seen. Tensors that are still alive last until the end."""
        end = max(len(self._steps) - 1, 0)
        alive = [Lifetime(size, first, end) for size, first in self._born.values()]
        eager = tuple(step.operator for step in self._steps)
        return CallOperators(eager, tuple(fuse(self._steps)), (*self._dead, *alive), input_bytes, self._convolutions)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if self.inside:
            return func(*args, **kwargs)
        if func is _UNSAFE_VIEW:
            func = aten.view.default
        if is_composite(func):
            with self:
                out = func.decompose(*args, **kwargs)
            if out is not NotImplemented:
                return out
        out = func(*args, **kwargs)
        self._note(func, args, kwargs, out)
        return out

    # what an operator is -----------------------------------------------------------------------------------------

    def _note(self, func: Any, args: Any, kwargs: Any, out: Any) -> None:
        packet = getattr(getattr(func, "_overloadpacket", func), "__name__", str(func))
        inputs, outputs = _tensors((*args, *kwargs.values())), _tensors((out,))
        self._meet(inputs)
        written = _written(func, args, kwargs)
        if packet in _NO_KERNEL or not outputs or (not written and _share_memory(outputs, inputs)):
            self._place(outputs, len(self._steps))  # a view, or memory without a kernel
            return
        products = _products(func, args, kwargs, out)
        if not products:
            kind = NORM if packet in _NORMS else POINTWISE if _is_dense([*inputs, *outputs]) else STRIDED
            self._append(op_name(func), kind, inputs, outputs, written, gathers=packet in _GATHERS)
            return
        macs = sum(products.values())
        shape: tuple[int, ...]
        if Kind.CONV in products:
            convolution = _convolution(args, inputs, outputs[0])
            self._convolutions[len(self._steps)] = convolution
            kind, shape = CONVOLUTION, _convolution_shape(convolution, macs)
        elif products.keys() == {Kind.ATTENTION}:
            kind, shape = ATTENTION, _attention_shape(*inputs[:3])
        else:
            kind, shape = MATMUL, _matmul_shape(outputs[0], macs)
        self._append(op_name(func), kind, inputs, outputs, written, flops=2 * macs, shape=shape)

    def function(self, name: str, kind: str, func: Any, args: Any, kwargs: Any) -> Any:
        """A function that is one kernel, whatever the meta device makes of it."""
        self.inside = True
        try:
            out = func(*args, **kwargs)
        finally:
            self.inside = False
        inputs, outputs = _tensors((*args, *kwargs.values())), _tensors((out,))
        self._meet(inputs)
        if kind == ATTENTION:
            shape = _attention_shape(*_first_three(args, kwargs))
            batch, heads, n, m, d, dv = shape
            flops = 2 * batch * heads * n * m * (d + dv)
            masked = "_masked" if len(inputs) > 3 else ""
            self._append(name + masked, kind, inputs, outputs, [], flops=flops, shape=shape)
        else:
            self._append(name, kind, inputs, outputs, [])
        return out

    def _append(
        self,
        name: str,
        kind: str,
        inputs: list[torch.Tensor],
        outputs: list[torch.Tensor],
        written: list[torch.Tensor],
        *,
        gathers: bool = False,
        flops: int = 0,
        shape: tuple[int, ...] | None = None,
    ) -> None:
        made_bytes = sum(map(_bytes, outputs))
        read: dict[Key, tuple[int, bool]] = {}
        for tensor in inputs:
            size = min(_bytes(tensor), made_bytes) if gathers else _bytes(tensor)
            key = self._key(tensor)
            read[key] = max(read.get(key, (0, False)), (size, _is_weight(tensor)))
        for tensor in written:
            self._versions[self._serial(tensor)] += 1
        self._place(outputs, len(self._steps))
        made = {self._key(tensor): _bytes(tensor) for tensor in outputs}
        floats = [t.dtype for t in (*inputs, *outputs) if t.dtype.is_floating_point]
        operator = Operator(
            name=name,
            kind=kind,
            dtype=str(floats[0] if floats else outputs[0].dtype).removeprefix("torch."),
            shape=shape or (max(t.numel() for t in (outputs if gathers else (*inputs[:1], *outputs))),),
            flops=flops,
            bytes_in=sum(size for size, _ in read.values()),
            bytes_out=made_bytes,
            weight_bytes=sum(size for size, weight in read.values() if weight),
        )
        self._steps.append(Step(operator, {key: size for key, (size, _) in read.items()}, made))

    # which memory it touches -------------------------------------------------------------------------------------

    def _serial(self, tensor: torch.Tensor) -> int:
        return self._serials[storage_identity(tensor)]

    def _key(self, tensor: torch.Tensor) -> Key:
        serial = self._serial(tensor)
        return serial, self._versions[serial]

    def _meet(self, inputs: list[torch.Tensor]) -> None:
        """Memory that was there before: weights, arguments, what the module holds."""
        for tensor in inputs:
            if storage_identity(tensor) not in self._serials:
                self._number(tensor)
                self._held.append(tensor.untyped_storage())  # so that its address is not given to another

    def _place(self, outputs: list[torch.Tensor], index: int) -> None:
        """Memory that an operator allocated, followed until it is freed."""
        for tensor in outputs:
            address = storage_identity(tensor)
            if address not in self._serials:
                serial, storage = self._number(tensor), tensor.untyped_storage()
                self._born[serial] = (storage.nbytes(), index)
                weakref.finalize(storage, self._freed, address, serial)

    def _number(self, tensor: torch.Tensor) -> int:
        serial = self._serials[storage_identity(tensor)] = len(self._versions)
        self._versions.append(0)
        return serial

    def _freed(self, address: int, serial: int) -> None:
        if self._serials.get(address) == serial:
            del self._serials[address]
        size, first = self._born.pop(serial)
        self._dead.append(Lifetime(size, first, max(len(self._steps) - 1, first)))


class Captures:
    """The operators of every replay made inside ``with Captures() as captures:``, by the count that came of it."""

    def __init__(self) -> None:
        self._found: dict[int, tuple[Count, CallOperators]] = {}
        self._watch: OperatorWatch | None = None
        self._input_bytes = 0

    def __enter__(self) -> Captures:
        self._token = replay_watcher.set(self)
        return self

    def __exit__(self, *_: object) -> None:
        replay_watcher.reset(self._token)

    def around(self, args: Any, kwargs: Any) -> OperatorWatch:
        """See :class:`diffmeter.metering.twins.replay.ReplayWatcher`."""
        storages = {storage_identity(t): t.untyped_storage().nbytes() for t in iter_tensors((args, kwargs))}
        self._input_bytes = sum(storages.values())
        self._watch = OperatorWatch()
        return self._watch

    def counted(self, count: Count) -> None:
        """See :class:`diffmeter.metering.twins.replay.ReplayWatcher`."""
        if self._watch is not None:
            self._found[id(count)] = (count, self._watch.result(self._input_bytes))
            self._watch = None

    def of(self, count: Count) -> CallOperators | None:
        """The operators behind a count; None if it was not made from a replay in this block."""
        found = self._found.get(id(count))
        return None if found is None else found[1]


class _Functions(TorchFunctionMode):
    """Hands functions that are one kernel on a GPU to the watch."""

    def __init__(self, watch: OperatorWatch) -> None:
        super().__init__()
        self._watch = watch

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = _FUSED_FUNCTIONS.get(func)
        if found is None or self._watch.inside:
            return func(*args, **(kwargs or {}))
        return self._watch.function(*found, func, args, kwargs or {})


def _tensors(values: tuple[Any, ...]) -> list[torch.Tensor]:
    found: list[torch.Tensor] = []
    for value in values:
        if isinstance(value, torch.Tensor):
            if value.layout == torch.strided:
                found.append(value)
        elif isinstance(value, (list, tuple)):
            found += [item for item in value if isinstance(item, torch.Tensor) and item.layout == torch.strided]
    return found


def _bytes(tensor: torch.Tensor) -> int:
    """Bytes that reading a tensor moves: what is expanded is read once."""
    return prod(n for n, stride in zip(tensor.shape, tensor.stride(), strict=True) if stride) * tensor.itemsize


def _is_weight(tensor: torch.Tensor) -> bool:
    return isinstance(tensor if (base := base_of(tensor)) is None else base, torch.nn.Parameter)


def _is_dense(operands: list[torch.Tensor]) -> bool:
    """Whether element-wise work on these can go through memory in order, several elements at a time."""
    large = [t for t in operands if t.numel() > 1]
    if len({t.dtype for t in large}) > 1 or len({t.shape for t in large}) > 1:
        return False
    return all(t.is_contiguous() for t in large) or len({t.stride() for t in large}) == 1


def _share_memory(outputs: list[torch.Tensor], inputs: list[torch.Tensor]) -> bool:
    addresses = {storage_identity(t) for t in inputs}
    return all(storage_identity(t) in addresses for t in outputs)


def _written(func: Any, args: Any, kwargs: Any) -> list[torch.Tensor]:
    """The tensors that an operator writes into."""
    schema = getattr(func, "_schema", None)
    if schema is None or not schema.is_mutable:
        return []
    found = []
    for index, argument in enumerate(schema.arguments):
        if argument.alias_info is not None and argument.alias_info.is_write:
            value = kwargs.get(argument.name, args[index] if index < len(args) else None)
            found += _tensors((value,))
    return found


def _products(func: Any, args: Any, kwargs: Any, out: Any) -> dict[Kind, int]:
    try:
        return op_products(func, args, kwargs, out) or {}
    except Exception:  # an operator without a formula: the count reports it by name
        return {}


def _matmul_shape(out: torch.Tensor, macs: int) -> tuple[int, int, int, int]:
    """(batch, m, n, k) of a product, from its output and its MACs."""
    n = out.shape[-1] if out.dim() else 1
    m = out.shape[-2] if out.dim() > 1 else 1
    k = max(macs // max(out.numel(), 1), 1)
    return max(out.numel() // max(m * n, 1), 1), m, n, k


def _convolution(args: Any, inputs: list[torch.Tensor], out: torch.Tensor) -> Convolution:
    x, weight = inputs[:2]
    numbers = [a for a in args if isinstance(a, (list, tuple)) and a and all(type(i) is int for i in a)]
    stride, dilation = (numbers[0], numbers[2]) if len(numbers) > 2 else ((1,), (1,))
    groups = next((a for a in reversed(args) if type(a) is int), 1)
    plain = all(i == 1 for i in (*stride, *dilation))
    return Convolution(tuple(x.shape), tuple(weight.shape), tuple(out.shape), groups, plain, x.itemsize)


def _convolution_shape(convolution: Convolution, macs: int) -> tuple[int, int, int, int]:
    """(groups, m, n, k): one row for each output position, one column for each output channel of a group."""
    channels, groups = convolution.output[1], convolution.groups
    groups = groups if channels % groups == 0 else 1
    m, n = prod(convolution.output) // channels, channels // groups
    return groups, m, n, max(macs // max(groups * m * n, 1), 1)


def _attention_shape(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> tuple[int, ...]:
    """(batch, heads, queries, keys, head size, value head size)."""
    *batch, n, d = query.shape
    heads = batch.pop() if batch else 1
    return prod(batch), heads, n, key.shape[-2], d, value.shape[-1]


def _first_three(args: Any, kwargs: Any) -> list[torch.Tensor]:
    named = dict(zip(("query", "key", "value"), args, strict=False)) | kwargs
    return [named["query"], named["key"], named["value"]]


#: functions that a GPU runs as one kernel, and that the meta device takes apart
_FUSED_FUNCTIONS: dict[Any, tuple[str, str]] = {
    torch.nn.functional.scaled_dot_product_attention: ("aten.scaled_dot_product_attention", ATTENTION),
    torch.rms_norm: ("aten.rms_norm", NORM),
    torch.nn.functional.rms_norm: ("aten.rms_norm", NORM),
}
