"""PyTorch's own counters, made exact: ``FlopCounterMode`` with the formulas it lacks, and ``torch.profiler``.

All numbers are FLOPs, 2 for each multiply-add, as both of PyTorch's counters give them. Three gaps are closed here:

- The fused attention kernel of the CPU has no formula in PyTorch and counts as 0. It has one here, forward and
  backward.
- The backward of a grouped convolution is counted by PyTorch as if it had one group: the weight's gradient comes out
  too large by the number of groups. Here it costs what the forward costs.
- Fused inference paths of ``nn.TransformerEncoderLayer`` and ``nn.MultiheadAttention``, and the CPU's fused LSTM,
  hide their products. They are switched off while counting, which changes no product.

A fused attention backward computes the query-key product a second time instead of keeping it: five products where
the mathematics has four. As in PyTorch's registry they are all counted; the fifth is also reported alone, in
:attr:`FlopReport.recomputed_attention_flops`. The kernel computes all three gradients at once, wanted or not: where a
part of query, key and value is frozen, unfused attention leaves the products for its gradient out.
"""

from __future__ import annotations

import contextlib
import logging
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from math import prod
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from diffmeter.devices import best_device
from diffmeter.errors import InputError
from diffmeter.metering.counters.kinds import CONVOLUTION, MATRIX_PRODUCT, Kind, kind_of
from diffmeter.metering.counters.op_level import OpCounter, op_macs
from diffmeter.units import format_count, format_seconds

logger = logging.getLogger(__name__)

Inputs = Tensor | Sequence[Any] | Mapping[str, Any]

aten = torch.ops.aten

ATTENTION = "attention"
OP_CLASSES = (CONVOLUTION, MATRIX_PRODUCT, ATTENTION)

# Operators with products that FlopCounterMode does not know; the op-level counter has their formulas.
_FORWARD_EXTRAS = (
    "_scaled_dot_product_flash_attention_for_cpu",
    "_scaled_dot_product_fused_attention_overrideable",
    "mv", "dot", "vdot", "addmv", "addbmm", "_addmm_activation", "_int_mm", "_grouped_mm",
)  # fmt: skip
FUSED_ATTENTION_BACKWARDS = (
    "_scaled_dot_product_flash_attention_backward",
    "_scaled_dot_product_efficient_attention_backward",
    "_scaled_dot_product_cudnn_attention_backward",
    "_scaled_dot_product_flash_attention_for_cpu_backward",
    "_scaled_dot_product_fused_attention_overrideable_backward",
)


class _Formulas:
    """The formulas that one count adds to PyTorch's, and what it saw of recomputed attention scores."""

    def __init__(self) -> None:
        self.recomputed_flops = 0
        self.mapping: dict[Any, Callable[..., int]] = {
            packet: _raw(_forward_formula(packet)) for packet in _packets(_FORWARD_EXTRAS)
        }
        self.mapping[aten.convolution_backward] = _raw(_twice(convolution_backward_macs))
        for packet in _packets(FUSED_ATTENTION_BACKWARDS):
            self.mapping[packet] = _raw(self._attention_backward)

    def _attention_backward(self, *args: Any, **kwargs: Any) -> int:
        _, query, key, *_ = args
        self.recomputed_flops += 2 * query.numel() * key.shape[-2]  # B*H*N*D x M
        return 2 * fused_attention_backward_macs(*args, **kwargs)


def _packets(names: Sequence[str]) -> list[Any]:
    return [getattr(aten, name) for name in names if hasattr(aten, name)]


def _raw(formula: Callable[..., int]) -> Callable[..., int]:
    """Mark a formula as taking tensors; FlopCounterMode hands shapes to others."""

    def wrapped(*args: Any, out_val: Any = None, **kwargs: Any) -> int:
        return formula(*args, out=out_val, **kwargs)

    wrapped._get_raw = True  # type: ignore[attr-defined]
    return wrapped


def _forward_formula(packet: Any) -> Callable[..., int]:
    def formula(*args: Any, out: Any, **kwargs: Any) -> int:
        return 2 * (op_macs(packet.default, args, kwargs, out) or 0)

    return formula


def _twice(macs: Callable[..., int]) -> Callable[..., int]:
    return lambda *args, **kwargs: 2 * macs(*args, **kwargs)


def convolution_backward_macs(grad: Tensor, x: Tensor, weight: Tensor, *args: Any, **_: Any) -> int:
    """MACs of ``aten.convolution_backward``: those of the forward, for each of the two gradients that is wanted."""
    # args: bias_sizes, stride, padding, dilation, transposed, output_padding, groups, output_mask. Every product of
    # the forward has one partner in each gradient: grad x weight in the input's, grad x input in the weight's.
    transposed, wanted = args[4], args[7]
    forward = (x if transposed else grad).numel() * prod(weight.shape[1:])
    return forward * (int(wanted[0]) + int(wanted[1]))


def fused_attention_backward_macs(_grad: Tensor, query: Tensor, key: Tensor, value: Tensor, *_: Any, **__: Any) -> int:
    """MACs of a fused attention backward: ``B*H*N*M*(3*D + 2*Dv)``, five products.

    The scores again (width D), the gradients of attention weights and value (Dv), and of query and key (D). Grouped
    queries share key and value heads, but each query head has its own scores.
    """
    *batch, n, d = query.shape
    return prod(batch) * n * key.shape[-2] * (3 * d + 2 * value.shape[-1])


def training_op_macs(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> int | None:
    """MACs of one operator of a training step, forward or backward; None if it is no product.

    Raises:
        LookupError: the operator may hold a product and has no formula.
    """
    packet = getattr(func, "_overloadpacket", func)
    if packet is aten.convolution_backward:
        return convolution_backward_macs(*args, **kwargs)
    if getattr(packet, "__name__", "") in FUSED_ATTENTION_BACKWARDS:
        return fused_attention_backward_macs(*args, **kwargs)
    return op_macs(func, args, kwargs, out)


@dataclass(frozen=True)
class FlopReport:
    """FLOPs of one forward pass, or of forward and backward.

    Attributes:
        total_flops: everything counted.
        by_operator: FLOPs by dispatched operator, such as ``aten.addmm``.
        by_module: FLOPs by module, inner ones contained in outer ones, as ``FlopCounterMode`` names them.
        recomputed_attention_flops: the part of the total in which fused attention backwards repeat the query-key
            product. Without it the total is what unfused attention takes, if query, key and value all need
            gradients; of partly frozen attention, unfused attention takes still less.
        uncounted: operators that may hold products and have no formula, with how often they ran.
    """

    total_flops: int
    by_operator: Mapping[str, int]
    by_module: Mapping[str, int] = field(default_factory=dict)
    recomputed_attention_flops: int = 0
    uncounted: Mapping[str, int] = field(default_factory=dict)

    @property
    def total_macs(self) -> int:
        """Multiply-accumulates: half the FLOPs."""
        return self.total_flops // 2

    def by_class(self) -> dict[str, int]:
        """FLOPs by operator class: convolution, matrix product, attention (fused kernels only)."""
        return _by_class(self.by_operator)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> FlopReport:
        """The report that :meth:`to_dict` wrote."""
        return cls(**{f.name: data[f.name] for f in fields(cls)})


def _by_class(by_operator: Mapping[str, int]) -> dict[str, int]:
    classes = dict.fromkeys(OP_CLASSES, 0)
    for name, flops in by_operator.items():
        kind = kind_of(name)
        classes[ATTENTION if kind is Kind.ATTENTION else kind.group] += flops
    return classes


def count_flops(model: nn.Module, inp: Inputs, with_backward: bool = False) -> int:
    """Total FLOPs of a model on one input, by ``torch.utils.flop_counter``.

    The model runs in evaluation mode; its train flags, gradients and the random state are as before afterwards, also
    if the forward raises. Attention is counted on every device. On the meta device nothing is computed.

    Args:
        model: any module.
        inp: a tensor, a tuple or list of positional arguments, or a dictionary of keyword arguments.
        with_backward: also run and count the backward of the sum of all differentiable outputs, for the parameters
            (and inputs) that require gradients.

    Returns:
        FLOPs, 2 for each multiply-add. Elementwise operations, norms and softmax are not counted.

    Raises:
        InputError: no input, or nothing in the output to go backward from.
    """
    report = flop_report(model, inp, with_backward)
    if report.uncounted:
        logger.warning("not counted, for lack of a formula: %s", ", ".join(sorted(report.uncounted)))
    return report.total_flops


def flop_report(model: nn.Module, inp: Inputs, with_backward: bool = False) -> FlopReport:
    """The count of :func:`count_flops` with its parts: by operator, by module, recomputed, uncounted."""
    args, kwargs = _arguments(model, inp)
    formulas = _Formulas()
    mode = FlopCounterMode(display=False, custom_mapping=formulas.mapping)
    with _prepared(model, (args, kwargs)), mode, OpCounter() as watcher:
        _run(model, args, kwargs, with_backward)
    by_operator = {str(op): int(flops) for op, flops in mode.get_flop_counts().get("Global", {}).items()}
    by_module = {name: sum(ops.values()) for name, ops in mode.get_flop_counts().items() if name != "Global"}
    assert watcher.tally is not None
    return FlopReport(
        total_flops=sum(by_operator.values()),
        by_operator=by_operator,
        by_module=by_module,
        recomputed_attention_flops=formulas.recomputed_flops,
        uncounted=dict(watcher.tally.unknown),
    )


def _arguments(model: Any, inp: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    if not isinstance(model, nn.Module):
        raise InputError(f"model must be a torch.nn.Module, got {type(model).__name__}")
    if isinstance(inp, Tensor):
        if not inp.numel():
            raise InputError(f"the input tensor is empty: its shape is {tuple(inp.shape)}")
        return (inp,), {}
    if isinstance(inp, Mapping):
        if not inp:
            raise InputError("the input is an empty dictionary: give at least one keyword argument")
        return (), dict(inp)
    if isinstance(inp, Sequence) and not isinstance(inp, str | bytes):
        if not inp:
            raise InputError("the input is empty: give at least one argument")
        return tuple(inp), {}
    raise InputError(f"the input must be a tensor, a tuple of arguments or a dictionary, got {type(inp).__name__}")


@contextlib.contextmanager
def _prepared(model: nn.Module, inputs: Any) -> Iterator[None]:
    """Evaluation mode without fused inference paths; everything put back at the end."""
    training = {module: module.training for module in model.modules()}
    leaves = {id(t): t for t in (*model.parameters(), *_tensors(inputs)) if t.requires_grad and t.is_leaf}
    gradients = {key: tensor.grad for key, tensor in leaves.items()}
    devices = {t.device for t in (*model.parameters(), *model.buffers(), *_tensors(inputs)) if t.is_cuda}
    fast_path = torch.backends.mha.get_fastpath_enabled()
    recurrent = any(isinstance(module, nn.RNNBase) for module in training)
    with contextlib.ExitStack() as stack:
        stack.enter_context(torch.random.fork_rng(devices=sorted(devices, key=str)))
        if recurrent:
            # PyTorch warns of settings for other devices whenever these flags are set
            stack.enter_context(warnings.catch_warnings())
            warnings.simplefilter("ignore")
            stack.enter_context(torch.backends.mkldnn.flags(enabled=False))
            stack.enter_context(torch.backends.cudnn.flags(enabled=False))
        try:
            torch.backends.mha.set_fastpath_enabled(False)
            for module in training:
                module.training = False
            for tensor in leaves.values():
                tensor.grad = None
            yield
        finally:
            torch.backends.mha.set_fastpath_enabled(fast_path)
            for module, flag in training.items():
                module.training = flag
            for key, tensor in leaves.items():
                tensor.grad = gradients[key]


def _run(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], with_backward: bool) -> None:
    if not with_backward:
        with torch.no_grad():
            model(*args, **kwargs)
        return
    with torch.enable_grad():
        outputs = [t for t in _tensors(model(*args, **kwargs)) if t.requires_grad]
        if not outputs:
            raise InputError("no output of the model requires a gradient, so there is no backward to count")
        # A sum has no products of its own; a complex output goes backward through both of its parts.
        torch.autograd.backward([(torch.view_as_real(t) if t.is_complex() else t).sum() for t in outputs])


def _tensors(value: Any) -> list[Tensor]:
    """Every tensor inside nested containers, dataclasses and output objects, each once."""
    found: dict[int, Tensor] = {}
    seen: set[int] = set()

    def visit(item: Any) -> None:
        if isinstance(item, Tensor):
            found[id(item)] = item
        elif id(item) in seen:
            return
        elif isinstance(item, Mapping):
            seen.add(id(item))
            for each in item.values():
                visit(each)
        elif isinstance(item, list | tuple | set | frozenset):
            seen.add(id(item))
            for each in item:
                visit(each)
        elif is_dataclass(item) and not isinstance(item, type):
            seen.add(id(item))
            for each in fields(item):
                visit(getattr(item, each.name))

    visit(value)
    return list(found.values())


@dataclass(frozen=True)
class OperatorRow:
    """One operator of a profiled run.

    Attributes:
        name: as the profiler names it, such as ``aten::addmm``.
        calls: how often it ran.
        cpu_seconds: its own time on the CPU, without the operators that it calls.
        profiler_flops: what ``torch.profiler`` reports; it has formulas for ``mm``, ``addmm``, ``bmm``, ``baddbmm``,
            ``conv2d``, and for elementwise ``add`` and ``mul``, and gives 0 for all others.
        counted_flops: what :func:`flop_report` counts.
        device_seconds: its kernels' time on the accelerator; None where there is none.
    """

    name: str
    calls: int
    cpu_seconds: float
    profiler_flops: int
    counted_flops: int
    device_seconds: float | None = None


@dataclass(frozen=True)
class ProfilerReport:
    """A run under ``torch.profiler``, operator by operator, beside the exact count of the same run."""

    rows: tuple[OperatorRow, ...]
    seconds: float
    with_backward: bool
    uncounted: Mapping[str, int] = field(default_factory=dict)

    @property
    def total_flops(self) -> int:
        """FLOPs of all products, from true shapes: equal to :func:`count_flops`."""
        return sum(row.counted_flops for row in self.rows)

    @property
    def profiler_flops(self) -> int:
        """What ``torch.profiler`` reports in total, elementwise additions and products included."""
        return sum(row.profiler_flops for row in self.rows)

    def table(self, limit: int = 20) -> str:
        """The operators with the most FLOPs, then the most time, as text."""
        ordered = sorted(self.rows, key=lambda r: (-r.counted_flops, -r.profiler_flops, -r.cpu_seconds))[:limit]
        width = max([len(row.name) for row in ordered] + [8])
        on_device = any(row.device_seconds is not None for row in self.rows)
        device_title = f"  {'Device time':>11s}" if on_device else ""
        titles = f"{'Operator':{width}s}  {'Calls':>6s}  {'CPU time':>10s}{device_title}"
        lines = [f"{titles}  {'Profiler':>14s}  {'Counted':>14s}"]
        for row in ordered:
            device = f"  {format_seconds(row.device_seconds):>11s}" if on_device else ""
            lines.append(
                f"{row.name:{width}s}  {row.calls:6d}  {format_seconds(row.cpu_seconds):>10s}{device}  "
                f"{format_count(row.profiler_flops, 'FLOPs'):>14s}  {format_count(row.counted_flops, 'FLOPs'):>14s}"
            )
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values, with the totals."""
        return {**asdict(self), "total_flops": self.total_flops, "profiler_flops": self.profiler_flops}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> ProfilerReport:
        """The report that :meth:`to_dict` wrote."""
        rows = tuple(OperatorRow(**row) for row in data["rows"])
        return cls(rows, data["seconds"], data["with_backward"], data["uncounted"])


def profile_with_flops(
    model: nn.Module, inp: Inputs, *, with_backward: bool = False, display: bool = True
) -> ProfilerReport:
    """Print and return time and FLOPs by operator, by ``torch.profiler`` and by :func:`flop_report`.

    The model runs twice, first counted, then profiled (and so warmed up), with the same restoring of its state as in
    :func:`count_flops`.

    Args:
        model: any module.
        inp: a tensor, a tuple or list of positional arguments, or a dictionary of keyword arguments.
        with_backward: also profile and count the backward.
        display: print the report's table, the 20 operators with the most FLOPs.

    Raises:
        InputError: no input, an input on the meta device (nothing runs there that could be timed), or nothing in the
            output to go backward from.
    """
    args, kwargs = _arguments(model, inp)
    if any(t.is_meta for t in (*model.parameters(), *_tensors((args, kwargs)))):
        raise InputError("nothing runs on the meta device, so there is no time to profile: use count_flops there")
    report = flop_report(model, inp, with_backward)
    activities = torch.profiler.supported_activities()
    on_device = len(activities) > 1 and best_device() != "cpu"
    with _prepared(model, (args, kwargs)):
        start = time.perf_counter()
        with torch.profiler.profile(activities=activities, record_shapes=True, with_flops=True) as profiler:
            _run(model, args, kwargs, with_backward)
        seconds = time.perf_counter() - start
    counted = {name.replace(".", "::", 1): flops for name, flops in report.by_operator.items()}
    rows = [
        OperatorRow(
            e.key,
            e.count,
            e.self_cpu_time_total / 1e6,
            int(e.flops or 0),
            counted.pop(e.key, 0),
            e.self_device_time_total / 1e6 if on_device else None,
        )
        for e in profiler.key_averages()
        if e.key.startswith("aten::")
    ]
    # Operators that only the dispatcher names (none on the CPU) still belong to the total.
    rows += [OperatorRow(name, 0, 0.0, 0, flops) for name, flops in counted.items()]
    result = ProfilerReport(tuple(rows), seconds, with_backward, report.uncounted)
    if display:
        print(result.table())
    return result


AS_SHIPPED = "FlopCounterMode as shipped"
EXACT = "count_flops"
PROFILER = "torch.profiler"
THOP = "thop + attention"
CLOSED_FORM = "closed form"

_PROFILER_PRODUCTS = ("aten::mm", "aten::addmm", "aten::bmm", "aten::baddbmm", "aten::conv2d")
_REASONS = {
    (AS_SHIPPED, ATTENTION): "it has no formula for this device's attention kernel",
    (AS_SHIPPED, MATRIX_PRODUCT): "it has no formula for matrix-vector and dot products",
    (PROFILER, ATTENTION): "it has no formula for attention kernels",
    (PROFILER, CONVOLUTION): "it has a formula for conv2d only",
    (PROFILER, MATRIX_PRODUCT): "it has formulas for mm, addmm, bmm and baddbmm only",
    (CLOSED_FORM, CONVOLUTION): "the formula describes other work than this forward",
    (CLOSED_FORM, MATRIX_PRODUCT): "the formula describes other work than this forward",
    (CLOSED_FORM, ATTENTION): "the formula describes other work than this forward",
}


@dataclass(frozen=True)
class CounterComparison:
    """What several counters say about one forward pass.

    Attributes:
        flops: for each counter, FLOPs by operator class.
        differences: one sentence for each class in which a counter differs from :func:`count_flops`.
    """

    flops: Mapping[str, Mapping[str, int]]
    differences: tuple[str, ...]

    def totals(self) -> dict[str, int]:
        """FLOPs of each counter over all classes."""
        return {counter: sum(classes.values()) for counter, classes in self.flops.items()}

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values, with the totals."""
        return {"flops": {k: dict(v) for k, v in self.flops.items()}, "totals": self.totals(),
                "differences": list(self.differences)}  # fmt: skip

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> CounterComparison:
        """The comparison that :meth:`to_dict` wrote."""
        return cls(data["flops"], tuple(data["differences"]))


def compare_counters(
    model: nn.Module, inp: Inputs, *, closed_form: Mapping[str, int] | None = None
) -> CounterComparison:
    """Count one forward with every counter there is, and name the differences.

    The counters: ``FlopCounterMode`` as PyTorch ships it, :func:`count_flops`, ``torch.profiler`` (not on the meta
    device), thop with attention as this package counts pipelines, and a formula of the caller's.

    Args:
        model: any module.
        inp: a tensor, a tuple or list of positional arguments, or a dictionary of keyword arguments.
        closed_form: FLOPs by operator class (``convolution``, ``matrix product``, ``attention``).

    Raises:
        InputError: no input, or a class in ``closed_form`` that is none of the three.
    """
    from diffmeter.metering.counters.live import LiveCount

    unknown = set(closed_form or ()) - set(OP_CLASSES)
    if unknown:
        raise InputError(f"unknown operator class {sorted(unknown)[0]!r}: use {', '.join(OP_CLASSES)}")
    args, kwargs = _arguments(model, inp)
    plain = FlopCounterMode(display=False)
    with _prepared(model, (args, kwargs)), plain:
        _run(model, args, kwargs, with_backward=False)
    live = LiveCount()
    with _prepared(model, (args, kwargs)), live.running():
        _run(model, args, kwargs, with_backward=False)
    exact = flop_report(model, inp)
    shipped = {str(op): int(n) for op, n in plain.get_flop_counts().get("Global", {}).items()}
    flops = {AS_SHIPPED: _by_class(shipped), EXACT: exact.by_class()}
    if not any(t.is_meta for t in (*model.parameters(), *_tensors((args, kwargs)))):
        rows = profile_with_flops(model, inp).rows
        flops[PROFILER] = _by_class({r.name: r.profiler_flops for r in rows if r.name in _PROFILER_PRODUCTS})
    if live.count is not None:
        flops[THOP] = _thop_classes(live.count.by_class, attention_is_fused=exact.by_class()[ATTENTION] > 0)
    if closed_form is not None:
        flops[CLOSED_FORM] = {name: int(closed_form.get(name, 0)) for name in OP_CLASSES}
    return CounterComparison(flops, tuple(_differences(flops)))


def _thop_classes(macs: Mapping[str, int], attention_is_fused: bool) -> dict[str, int]:
    classes = dict.fromkeys(OP_CLASSES, 0)
    for kind in filter(lambda kind: kind.is_product, Kind):
        # Where no fused kernel runs, attention reaches the other counters as plain matrix products.
        name = ATTENTION if kind is Kind.ATTENTION and attention_is_fused else kind.group
        classes[name] += 2 * macs.get(kind.value, 0)
    return classes


def _differences(flops: Mapping[str, Mapping[str, int]]) -> Iterator[str]:
    for counter, classes in flops.items():
        for name in OP_CLASSES:
            found, expected = classes[name], flops[EXACT][name]
            if found != expected:
                reason = _REASONS.get((counter, name), "no known reason: please report this model")
                yield f"{name}: {counter} finds {found:,} FLOPs, {EXACT} {expected:,}; {reason}"
