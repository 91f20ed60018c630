"""The op-level counter: MACs of every product that PyTorch really dispatches, from true shapes.

It extends the formula registry of ``torch.utils.flop_counter`` (which gives FLOPs, halved here) by what that
registry does not know: the CPU attention kernel, vector products, sparse operands, fused and composite operators.
An operator that is neither known to be a product nor known to be none is reported by name, never taken as zero.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterable
from math import prod
from typing import Any, NamedTuple

import torch
from torch.utils import flop_counter
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from diffmeter import compat
from diffmeter.compat import packet_of
from diffmeter.metering.watching.patching import own
from diffmeter.metering.watching.reachable import PACKING_LIBRARIES

from . import user_formulas
from .kinds import Kind, kind_of
from .operators import table
from .shapes import Ragged, Shape, Sparse, shapes_of
from .user_formulas import UserFormula

logger = logging.getLogger(__name__)

# ---------------------------------------------------------------------------------------------------------------------
# Formulas. Every one has the same signature: the operator's own arguments, in their order or by name, with its shape
# in the place of each tensor, and the shape of the result as ``out``. It returns MACs. The function counter has
# formulas of its own, written separately; neither may call the other's.
# ---------------------------------------------------------------------------------------------------------------------

Formula = Callable[..., int]


class _Entry(NamedTuple):
    formula: Formula
    kind: Kind
    takes_sparse: bool


_FORMULAS: dict[str, list[_Entry]] = {}


def operator(*names: str, kind: Kind | None = None, sparse: bool = False) -> Callable[[Formula], Formula]:
    """Declare a formula for operators, by name without overload; an operator with several is their sum.

    Args:
        names: such as ``aten.mv``.
        kind: what its MACs belong to; None: what the operator's name says.
        sparse: whether it holds for sparse operands.
    """

    def declare(formula: Formula) -> Formula:
        for name in names:
            _FORMULAS.setdefault(name, []).append(_Entry(formula, kind or kind_of(name), sparse))
        return formula

    return declare


@operator(
    "aten.matmul",
    "aten.mv",
    "aten.dot",
    "aten.vdot",
    "aten._int_mm",
    "aten._scaled_mm_v2",
    "quantized.matmul",
    kind=Kind.MATMUL,
)
def matrix_product(a: Shape, b: Shape, *_: Any, **__: Any) -> int:
    # (..., n, k) @ (..., k, m), either side possibly one vector; batch dimensions broadcast: batch * n * k * m
    a, b = (1, *a) if len(a) == 1 else a, (*b, 1) if len(b) == 1 else b
    batch = torch.broadcast_shapes(a[:-2], b[:-2])
    return prod(batch) * a[-2] * a[-1] * b[-1]


@operator(
    *("aten.addmv", "aten.addbmm", "aten.addmm_", "aten.addmv_", "aten.addbmm_", "aten.baddbmm_"),
    "aten._addmm_activation",
)
def matrix_product_added(_: Shape, a: Shape, b: Shape, *__: Any, **___: Any) -> int:
    # addend + a @ b
    return matrix_product(a, b)


def _sparse_product(a: Shape, b: Shape) -> int:
    # every stored element of the sparse side meets one row, or column, of the dense side
    if isinstance(a, Sparse):
        if isinstance(b, Sparse):
            raise LookupError("the product of two sparse operands depends on where their elements are")
        return a.stored * (b[-1] if len(b) > 1 else 1)
    assert isinstance(b, Sparse)
    return b.stored * (a[-2] if len(a) > 1 else 1)


@operator("aten.mm", "aten.bmm", "aten.mv", "aten.matmul", "aten._sparse_mm", sparse=True)
def sparse_product(a: Shape, b: Shape, *_: Any, **__: Any) -> int:
    # stored(a) * m for sparse (n, k) @ (k, m); n * stored(b) for (n, k) @ sparse (k, m)
    return _sparse_product(a, b)


@operator(
    *("aten.addmm", "aten.addmm_", "aten.addmv", "aten.addmv_", "aten.baddbmm", "aten.baddbmm_"),
    *("aten._sparse_addmm", "aten.sspaddmm"),
    sparse=True,
)
def sparse_product_added(_: Shape, a: Shape, b: Shape, *__: Any, **___: Any) -> int:
    # addend + a @ b
    return _sparse_product(a, b)


@operator("aten.linear", "aten.mkldnn_linear")
def linear(x: Shape, weight: Shape, *_: Any, **__: Any) -> int:
    # (..., in) x (out, in): every element of x meets one weight of each output
    return prod(x) * (weight[0] if len(weight) > 1 else 1)


@operator("aten.linear", sparse=True)
def sparse_linear(x: Shape, weight: Shape, *_: Any, **__: Any) -> int:
    # (..., in) x sparse (out, in): every row of x meets each stored weight
    if isinstance(x, Sparse) or not isinstance(weight, Sparse):
        raise LookupError("a linear layer of a sparse input")
    return prod(x[:-1]) * weight.stored


@operator(
    *("aten._weight_int8pack_mm", "aten._weight_int4pack_mm", "aten._weight_int4pack_mm_for_cpu"),
    *("aten._dyn_quant_matmul_4bit", "aten._weight_int4pack_mm_with_scales_and_zeros"),
    *("quantized.linear", "quantized.linear_relu", "quantized.linear_dynamic", "quantized.linear_relu_dynamic"),
    *("quantized.linear_dynamic_fp16", "quantized.linear_relu_dynamic_fp16", "quantized.linear_leaky_relu"),
    *("quantized.linear_tanh", "quantized.linear_with_input_q_dq_qweight_dq_output_fp32"),
    *(
        "quantized.linear_with_input_q_dq_qweight_dq_relu_output_fp32",
        "_quantized.linear",
        "_quantized.linear_dynamic",
    ),
    *("quantized.linear_dynamic_fp16_unpacked_weight", "quantized.int4mm_packed_weight_cpu"),
    *("_quantized.wrapped_fbgemm_linear_fp16_weight", "_quantized.wrapped_quantized_linear"),
    *("_quantized._wrapped_quantized_linear_prepacked", "mkl._mkl_linear", "mkldnn._linear_pointwise"),
    *("onednn.qlinear_pointwise", "onednn.linear_dynamic_fp16", "onednn.linear_relu_dynamic_fp16"),
    *("sparse.qlinear", "sparse.qlinear_relu", "sparse.qlinear_dynamic", "sparse.qlinear_relu_dynamic"),
    *("quanto.qbytes_mm", "quanto.udqmm", "quanto.gemm_f16i4_awq", "quanto.gemm_f16i4_marlin"),
    *("bitsandbytes.int8_linear_matmul", "bitsandbytes.int8_scaled_mm", "bitsandbytes.gemv_4bit"),
)
def packed_linear(x: Shape, *_: Any, out: Shape, **__: Any) -> int:
    # a packed weight does not show its sizes: every output element sums the width of x
    return prod(out) * x[-1]


@operator(
    *("aten.conv1d", "aten.conv2d", "aten.conv3d", "aten._convolution_mode", "aten.mkldnn_convolution"),
    *("aten.cudnn_convolution_relu", "aten.cudnn_convolution_add_relu", "aten.miopen_convolution"),
    *("aten.miopen_convolution_relu", "aten.miopen_convolution_add_relu", "aten.miopen_depthwise_convolution"),
    *("aten._conv_depthwise2d", "aten.conv_depthwise3d", "aten.slow_conv3d_forward"),
    *("aten._nnpack_spatial_convolution", "aten.slow_conv_dilated2d", "aten.slow_conv_dilated3d"),
    *("aten.thnn_conv2d", "aten.slow_conv3d", "aten._mps_convolution"),
)
def convolution(_: Shape, weight: Shape, *__: Any, out: Shape, **___: Any) -> int:
    # weight (out, in/groups, *kernel): every output element sums in/groups * kernel products
    return prod(out) * prod(weight[1:])


@operator(
    *("aten.conv_transpose1d", "aten.conv_transpose2d", "aten.conv_transpose3d", "aten.cudnn_convolution_transpose"),
    *(
        "aten._mps_convolution_transpose",
        "aten.miopen_convolution_transpose",
        "aten.slow_conv_transpose2d",
        "aten.slow_conv_transpose3d",
    ),
)
def convolution_transposed(x: Shape, weight: Shape, *_: Any, **__: Any) -> int:
    # weight (in, out/groups, *kernel): every input element is spread over out/groups * kernel
    return prod(x) * prod(weight[1:])


@operator("aten.conv_tbc")
def convolution_time_first(_: Shape, weight: Shape, *__: Any, out: Shape, **___: Any) -> int:
    # (time, batch, channels), weight (kernel, in, out): every output element sums kernel * in products
    return prod(out) * prod(weight[:2])


@operator(
    "aten._scaled_dot_product_flash_attention_for_cpu",
    "aten._scaled_dot_product_fused_attention_overrideable",
    "aten._scaled_dot_product_attention_math_for_mps",
    "aten.scaled_dot_product_attention",
)
def attention(query: Shape, key: Shape, value: Shape, *_: Any, **__: Any) -> int:
    # query (..., H, N, D), key (..., Hk, M, D), value (..., Hk, M, Dv), H a multiple of Hk: every head of the query
    # has its own scores (N*M*D) and sums (N*M*Dv)
    *heads, n, d = query
    return prod(heads) * n * key[-2] * (d + value[-1])


@operator("aten._grouped_mm", "aten._scaled_grouped_mm", "aten._scaled_grouped_mm_v2", kind=Kind.MATMUL)
def grouped_product(a: Shape, b: Shape, *_: Any, **__: Any) -> int:
    # rows, columns or widths are shared out among the groups: (t, k) x (g, k, n) gives each row one matrix,
    # (g, n, k) x (k, t) each column one, (n, t) x (t, m) each group its part of t; (g, n, k) x (g, k, m) is a bmm
    if len(a) == 3 and len(b) == 3:
        return a[0] * a[1] * a[2] * b[2]
    if len(a) == 3:
        return a[1] * a[2] * b[1]
    return a[0] * a[1] * b[-1]


@operator("aten._euclidean_dist", "aten._cdist_forward", "aten.cdist", kind=Kind.MATMUL)
def distances(a: Shape, b: Shape, p: float = 2.0, *_: Any, **__: Any) -> int:
    # (..., P, D) against (..., R, D): the distance of two vectors takes their product, D MACs; other norms have none
    if p != 2.0:
        return 0
    return prod(torch.broadcast_shapes(a[:-2], b[:-2])) * a[-2] * b[-2] * a[-1]


@operator("aten._pdist_forward", kind=Kind.MATMUL)
def distances_within(a: Shape, p: float = 2.0, *_: Any, **__: Any) -> int:
    # the distances of P vectors of size D from each other: P*(P-1)/2 pairs, D MACs each; other norms have none
    return a[0] * (a[0] - 1) // 2 * a[1] if p == 2.0 else 0


@operator("aten.affine_grid_generator", kind=Kind.MATMUL)
def affine_grid(theta: Shape, *_: Any, out: Shape, **__: Any) -> int:
    # theta (B, n, n + 1): every coordinate of the grid (B, ..., n) sums the n + 1 of its position
    return prod(out) * theta[-1]


@operator("aten._native_multi_head_attention", kind=Kind.LINEAR)
def fused_projections(query: Shape | Ragged, key: Shape, _v: Any, embed: int, *_: Any, **__: Any) -> int:
    # (B, N, E) against (B, M, E): E*E for each query, key and value, and E*E for each result
    if isinstance(query, Ragged):  # self-attention over sequences of different lengths
        return sum(4 * n * embed * embed for n, _ in query)
    return query[0] * (2 * query[1] + 2 * key[1]) * embed * embed


@operator("aten._native_multi_head_attention", kind=Kind.ATTENTION)
def fused_attention(query: Shape | Ragged, key: Shape, _v: Any, embed: int, *_: Any, **__: Any) -> int:
    # over all heads: N*M*E for the scores, N*M*E for the sums
    if isinstance(query, Ragged):
        return sum(2 * n * n * embed for n, _ in query)
    return 2 * query[0] * query[1] * key[1] * embed


# position of the first feed-forward weight among the operator's arguments that follow the packed projection's weight
_FEED_FORWARD_WEIGHT = [
    argument.name for argument in torch.ops.aten._transformer_encoder_layer_fwd.default._schema.arguments
].index("ffn_weight_1") - 2


@operator("aten._transformer_encoder_layer_fwd", kind=Kind.LINEAR)
def encoder_layer_projections(source: Shape | Ragged, embed: int, *rest: Any, **_: Any) -> int:
    # (B, N, E): four projections of E*E, and the two weights of the feed-forward part, each E*F
    rows = sum(n for n, _ in source) if isinstance(source, Ragged) else source[0] * source[1]
    return rows * (4 * embed * embed + 2 * prod(rest[_FEED_FORWARD_WEIGHT]))


@operator("aten._transformer_encoder_layer_fwd", kind=Kind.ATTENTION)
def encoder_layer_attention(source: Shape | Ragged, embed: int, *_: Any, **__: Any) -> int:
    # over all heads: N*N*E for the scores, N*N*E for the sums, of each sequence
    lengths = [n for n, _ in source] if isinstance(source, Ragged) else [source[1]] * source[0]
    return sum(2 * n * n * embed for n in lengths)


@operator("aten.mkldnn_rnn_layer")
def recurrent_layer(x: Shape, input_weight: Shape, hidden_weight: Shape, *_: Any, **__: Any) -> int:
    # (time, batch, in): each step multiplies the input and the hidden state by the stacked gate weights
    return x[0] * x[1] * (prod(input_weight) + prod(hidden_weight))


@operator("aten._cudnn_rnn", "aten.miopen_rnn")
def recurrent_network(x: Shape, weights: list[Shape], *_: Any, **__: Any) -> int:
    # (time, batch, in), or the rows of packed sequences (rows, in): every weight matrix meets every row once
    return prod(x[:-1]) * sum(prod(weight) for weight in weights if len(weight) == 2)


@operator("aten._lstm_mps", kind=Kind.LINEAR)
def recurrent_network_mps(x: Shape, _: Any, weights: list[Shape], *__: Any, **___: Any) -> int:
    # the same
    return recurrent_network(x, weights)


@operator(
    *(f"quantized.conv{n}d{variant}" for n in (1, 2, 3) for variant in ("", "_relu", "_dynamic")),
    *(f"_quantized.conv{n}d{variant}" for n in (2, 3) for variant in ("", "_relu")),
    "quantized.conv2d_add",
    "quantized.conv2d_add_relu",
)
def packed_convolution(_: Shape, packed: Any, *__: Any, out: Shape, **___: Any) -> int:
    # the packed weight is (out, in/groups, *kernel)
    return prod(out) * prod(packed.unpack()[0].shape[1:])


# ---------------------------------------------------------------------------------------------------------------------
# Counting one operator
# ---------------------------------------------------------------------------------------------------------------------


def op_name(func: Any) -> str:
    """``aten.addmm`` for the overload ``aten.addmm.default``; higher-order operators by their own name."""
    packet = packet_of(func)
    return f"{getattr(func, 'namespace', 'higher_order')}.{getattr(packet, '__name__', str(packet))}"


def has_formula(func: Any) -> bool:
    """Whether an operator's products are known here or in PyTorch's registry."""
    return op_name(func) in _FORMULAS or packet_of(func) in flop_registry


def op_products(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> dict[Kind, int] | None:
    """MACs of one dispatched operator by kind, or None if it is no product.

    Raises:
        LookupError: the operator may hold a product and has no formula.
    """
    name = op_name(func)
    entries = _FORMULAS.get(name, ())
    registered = flop_registry.get(packet_of(func))
    if not entries and registered is None:
        if name in table().no_product or name in table().left_out:
            return None
        raise LookupError(name)
    shapes, named, result = [shapes_of(a) for a in args], {k: shapes_of(v) for k, v in kwargs.items()}, shapes_of(out)
    named.pop("out", None)
    sparse = any(isinstance(shape, Sparse) for shape in (*shapes, *named.values()))
    fitting = [entry for entry in entries if entry.takes_sparse is sparse]
    if fitting:
        products: Counter[Kind] = Counter()
        for entry in fitting:
            products[entry.kind] += entry.formula(*shapes, **named, out=result)
        return dict(products)
    if registered is None or sparse:
        raise LookupError(f"{name} of sparse operands")
    if getattr(registered, "__code__", None) is not _ON_SHAPES:
        return {kind_of(name): registered(*args, **kwargs, out_val=out) // 2}
    return {kind_of(name): registered.__wrapped__(*shapes, **named, out_shape=result) // 2}


def op_macs(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> int | None:
    """MACs of one dispatched operator, or None if it is no product.

    Raises:
        LookupError: the operator may hold a product and has no formula.
    """
    products = op_products(func, args, kwargs, out)
    return None if products is None else sum(products.values())


#: the wrapper of the registry's formulas on shapes: its walk through trees of operands takes longer than the operator
_ON_SHAPES = getattr(flop_counter.shape_wrapper(lambda: 0), "__code__", None)


def is_composite(func: Any) -> bool:
    """Whether an operator is seen whole (as under inference mode) that should be looked into."""
    if has_formula(func) or user_formulas.of_operator(func) is not None or not hasattr(func, "_can_decompose"):
        return False
    return compat.is_composite(func)


class OpState(NamedTuple):
    """What a tally had seen at one moment."""

    total: int
    unknown: Counter[str]


class OpTally:
    """What one counted forward dispatched.

    Attributes:
        macs: MACs by operator; a user's formula by the name of its target.
        kinds: the same MACs by kind.
        of_user: the part that users' formulas gave, by target and kind.
        unknown: what may hold products and has no formula, with how often it ran.
        left_out: operators that are no product and are named all the same, with how often they ran.
    """

    def __init__(self) -> None:
        self.macs: Counter[str] = Counter()
        self.kinds: Counter[Kind] = Counter()
        self.of_user: Counter[tuple[str, Kind]] = Counter()
        self.unknown: Counter[str] = Counter()
        self.left_out: Counter[str] = Counter()
        self._silent: set[Any] = set()  # operators known to be no product: most of a forward

    @property
    def total(self) -> int:
        """MACs of every product."""
        return sum(self.macs.values())

    @property
    def kinds_of_user(self) -> Counter[Kind]:
        """The part of ``kinds`` that users' formulas gave."""
        kinds: Counter[Kind] = Counter()
        for (_, kind), macs in self.of_user.items():
            kinds[kind] += macs
        return kinds

    def state(self) -> OpState:
        """What was seen until now, for :meth:`explain`."""
        return OpState(self.total, self.unknown.copy())

    def explain(self, before: OpState, name: str, kind: Kind, macs: int) -> None:
        """Explain the kernels without a formula that ran since ``before``: together they made ``macs`` products.

        That holds if the others made none or just as many, in which case theirs stand; else they stay reported.
        """
        seen = self.total - before.total
        if self.unknown == before.unknown or seen not in (0, macs):
            return
        self.unknown = before.unknown
        if not seen:
            self.macs[name] += macs
            self.kinds[kind] += macs

    def add(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> int:
        """Note one dispatched operator; returns its MACs."""
        if func in self._silent or user_formulas.is_covered():
            return 0
        formula = user_formulas.of_operator(func) or _registered_with_torch(func)
        if formula is not None:
            return self.add_of_user(formula, args, kwargs, out)
        name = op_name(func)
        try:
            products = op_products(func, args, kwargs, out)
        except Exception:  # no formula, or one that does not fit: reported, and the run goes on
            self.unknown[name] += 1
            return 0
        if products is None:
            if name in table().left_out:
                self.left_out[name] += 1
            else:
                self._silent.add(func)
            return 0
        macs = sum(products.values())
        self.macs[name] += macs
        self.kinds.update(products)
        return macs

    def add_of_user(self, formula: UserFormula, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> int:
        """Note one call that a user's formula counts; returns its MACs."""
        try:
            macs = formula(*args, out=out, **{name: value for name, value in kwargs.items() if name != "out"})
        except Exception:
            logger.debug("the formula of %s failed", formula.name, exc_info=True)
            self.unknown[formula.name] += 1
            return 0
        self.macs[formula.name] += macs
        self.kinds[formula.kind] += macs
        self.of_user[formula.name, formula.kind] += macs
        return macs


def _registered_with_torch(func: Any) -> UserFormula | None:
    """A formula that somebody gave to PyTorch's registry for an operator of their own."""
    if getattr(func, "namespace", "aten") in ("aten", "higher_order"):
        return None
    registered = flop_registry.get(packet_of(func))
    if registered is None:
        return None
    name = op_name(func)
    return UserFormula(
        name, lambda *args, out, **kwargs: registered(*args, **kwargs, out_val=out) // 2, kind_of(name, Kind.MATMUL)
    )


class DispatchMode(TorchDispatchMode):
    """A dispatch mode that keeps out of ``torch.compile``'s way and does not import it.

    While one with a ``tally`` is entered, users' formulas for functions and modules count into it.
    """

    def __init__(self) -> None:
        super().__init__()

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        own(cls)  # a call under it is not a call under somebody's mode

    supports_higher_order_operators = True
    tally: OpTally | None = None

    def __enter__(self) -> DispatchMode:
        super().__enter__()
        user_formulas.start(self.tally)
        return self

    def __exit__(self, *exception: Any) -> None:
        user_formulas.stop(self.tally)
        super().__exit__(*exception)

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False

    @classmethod
    def ignore_compile_internals(cls) -> bool:
        return True

    def decomposed(self, func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        """What a composite operator returns, its parts seen by this mode; NotImplemented where it has none to show."""
        try:
            with self:
                return func.decompose(*args, **kwargs)
        except Exception:  # a mode cannot carry out everything that PyTorch can: left to PyTorch, and seen whole
            return NotImplemented


def has_own_way(types: Iterable[type]) -> bool:
    """Whether a tensor among the operands carries operators out in a way of its own, which is then what is counted."""
    return any(
        kind not in _PLAIN
        and kind.__module__.partition(".")[0] not in PACKING_LIBRARIES
        and not kind.__module__.startswith(_TRACING)
        for kind in types
    )


#: where PyTorch keeps tensors that a mode of its own, beneath all others, carries operators out for
_TRACING = "torch._subclasses."
_PLAIN = frozenset({torch.Tensor, torch.nn.Parameter})


class OpCounter(DispatchMode):
    """Counts every operator dispatched while it is entered, on any device.

    >>> with OpCounter() as counter:
    ...     model(x)
    >>> counter.tally.total      # MACs of every product
    """

    tally: OpTally

    def __init__(self) -> None:
        super().__init__()
        self.tally = OpTally()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if has_own_way(types):
            return NotImplemented
        kwargs = kwargs or {}
        if is_composite(func):
            out = self.decomposed(func, args, kwargs)
            if out is not NotImplemented:
                return out
        out = func(*args, **kwargs)
        self.tally.add(func, args, kwargs, out)
        return out
