"""The op-level counter: MACs of every product that PyTorch really dispatches, from true shapes.

It extends the formula registry of ``torch.utils.flop_counter`` (which gives FLOPs, halved here) by what that
registry does not know: the CPU attention kernel, vector products, fused and composite operators. An operator that
may hide a product and has no formula is reported by name, never taken as zero.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from math import prod
from typing import Any

import torch
from torch.utils import flop_counter
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

aten = torch.ops.aten

CONVOLUTION = "convolution"
MATRIX_PRODUCT = "matrix product"

Formula = Callable[..., int]


def attention_product_macs(query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
    """Both attention products of one call: ``B*H*N*M*D + B*H*N*M*Dv``.

    Args:
        query: tensor of shape (..., H, N, D); its batch dimensions and heads decide.
        key: tensor of shape (..., Hk, M, D), where Hk may be smaller than H (grouped queries).
        value: tensor of shape (..., Hk, M, Dv).
    """
    *batch, n, d = query.shape
    m, dv = key.shape[-2], value.shape[-1]
    return prod(batch) * n * m * (d + dv)


def _matmul(a: Any, b: Any, *_: Any, **__: Any) -> int:
    # (..., n, k) @ (..., k, m), either side possibly one vector; batch dimensions broadcast
    a_shape = (1, *a.shape) if a.dim() == 1 else tuple(a.shape)
    b_shape = (*b.shape, 1) if b.dim() == 1 else tuple(b.shape)
    batch = torch.broadcast_shapes(a_shape[:-2], b_shape[:-2])
    return prod(batch) * a_shape[-2] * a_shape[-1] * b_shape[-1]


def _linear(x: Any, weight: Any, *_: Any, **__: Any) -> int:
    # (..., in) x (out, in)
    return x.numel() * (weight.shape[0] if weight.dim() > 1 else 1)


def _first_two(a: Any, b: Any, *_: Any, **__: Any) -> int:
    return _matmul(a, b)


def _second_two(_: Any, a: Any, b: Any, *__: Any, **___: Any) -> int:
    return _matmul(a, b)


def _conv(x: Any, weight: Any, *_: Any, out: Any, **__: Any) -> int:
    # every output element sums in_channels/groups * kernel products; weight is (out, in/groups, *kernel)
    return out.numel() * prod(weight.shape[1:])


def _conv_transpose(x: Any, weight: Any, *_: Any, **__: Any) -> int:
    # every input element spreads to out_channels/groups * kernel; weight is (in, out/groups, *kernel)
    return x.numel() * prod(weight.shape[1:])


def _conv_tbc(x: Any, weight: Any, *_: Any, out: Any, **__: Any) -> int:
    # time x batch x channels; weight is (kernel, in, out)
    return out.numel() * prod(weight.shape[:2])


def _packed_linear(x: Any, _weight: Any, *_: Any, out: Any, **__: Any) -> int:
    # weight-only quantised kernels pack the weight: the output tells its width
    return out.numel() * x.shape[-1]


def _grouped_mm(a: Any, b: Any, offs: Any = None, *_: Any, **__: Any) -> int:
    # 2D x 3D: rows are shared out among the groups (each row meets one (k, n) matrix); 3D x 3D: plain bmm
    if a.dim() == 2 and b.dim() == 3:
        return a.shape[0] * a.shape[1] * b.shape[2]
    if a.dim() == 3 and b.dim() == 2:
        return a.shape[1] * a.shape[2] * b.shape[1]
    return _matmul(a, b)


def _native_multi_head_attention(
    query: Any, key: Any, value: Any, embed_dim: int, _heads: int, qkv_weight: Any, *_: Any, **__: Any
) -> int:
    # (B, N, E) against (B, M, E): packed projections, two products, output projection
    if query.is_nested:  # self-attention over sequences of different lengths
        return sum(_native_multi_head_attention(*[t[None]] * 3, embed_dim, _heads, qkv_weight) for t in query.unbind())
    b, n, e = query.shape
    m = key.shape[1]
    return b * (n * e * e + 2 * m * e * e) + 2 * b * n * m * e + b * n * e * e


# position of the first feed-forward weight among the operator's arguments that follow the packed projection's weight
_FEED_FORWARD_WEIGHT = [
    argument.name for argument in torch.ops.aten._transformer_encoder_layer_fwd.default._schema.arguments
].index("ffn_weight_1") - 4


def _transformer_encoder_layer(src: Any, embed_dim: int, num_heads: int, qkv_weight: Any, *args: Any, **_: Any) -> int:
    # nn.TransformerEncoderLayer's fused path; src is (B, N, E), two feed-forward weights of E x hidden
    if src.is_nested:  # sequences of different lengths, their padding left out
        return sum(_transformer_encoder_layer(t[None], embed_dim, num_heads, qkv_weight, *args) for t in src.unbind())
    b, n, e = src.shape
    feed_forward = args[_FEED_FORWARD_WEIGHT]
    return b * n * 4 * e * e + 2 * b * n * n * e + 2 * b * n * feed_forward.numel()


def _mkldnn_rnn_layer(x: Any, w_ih: Any, w_hh: Any, *_: Any, **__: Any) -> int:
    # (time, batch, in): each step multiplies the input and the hidden state by the stacked gate weights
    return x.shape[0] * x.shape[1] * (w_ih.numel() + w_hh.numel())


_EXTRA: dict[str, Formula] = {
    "_scaled_dot_product_flash_attention_for_cpu": attention_product_macs,
    "_scaled_dot_product_fused_attention_overrideable": attention_product_macs,
    "_scaled_dot_product_attention_math_for_mps": attention_product_macs,
    "scaled_dot_product_attention": attention_product_macs,
    "linear": _linear,
    "matmul": _first_two,
    "mv": _first_two,
    "dot": _first_two,
    "vdot": _first_two,
    "addmv": _second_two,
    "addbmm": _second_two,
    "addmm_": _second_two,
    "addmv_": _second_two,
    "addbmm_": _second_two,
    "baddbmm_": _second_two,
    "_addmm_activation": _second_two,
    "_int_mm": _first_two,
    "_scaled_mm_v2": _first_two,
    "_grouped_mm": _grouped_mm,
    "_scaled_grouped_mm": _grouped_mm,
    "_weight_int8pack_mm": _packed_linear,
    "_weight_int4pack_mm": _packed_linear,
    "_weight_int4pack_mm_for_cpu": _packed_linear,
    "_dyn_quant_matmul_4bit": _packed_linear,
    "conv1d": _conv,
    "conv2d": _conv,
    "conv3d": _conv,
    "_convolution_mode": _conv,
    "mkldnn_convolution": _conv,
    "cudnn_convolution_relu": _conv,
    "conv_tbc": _conv_tbc,
    "conv_transpose1d": _conv_transpose,
    "conv_transpose2d": _conv_transpose,
    "conv_transpose3d": _conv_transpose,
    "_native_multi_head_attention": _native_multi_head_attention,
    "_transformer_encoder_layer_fwd": _transformer_encoder_layer,
    "mkldnn_rnn_layer": _mkldnn_rnn_layer,
}

#: aten operators with products inside and no formula here: seen, they are reported instead of taken as zero
_UNKNOWN_PRODUCTS = frozenset(
    [
        "_cudnn_rnn",
        "miopen_rnn",
        "_thnn_differentiable_lstm_cell_backward",
        "_trilinear",
        "ormqr",
        "cholesky_solve",
        "linalg_solve_ex",
        "_linalg_solve_ex",
        "linalg_lu_factor_ex",
        "linalg_lu_solve",
        "linalg_inv_ex",
        "linalg_qr",
        "_linalg_svd",
        "_linalg_eigh",
        "linalg_eig",
        "linalg_cholesky_ex",
        "linalg_lstsq",
        "linalg_matrix_exp",
        "matrix_exp",
        "linalg_ldl_factor_ex",
        "linalg_householder_product",
        "triangular_solve",
        "linalg_solve_triangular",
        "_sparse_mm",
        "sparse_sampled_addmm",
        "_linalg_det",
        "_linalg_slogdet",
        "_padded_dense_to_jagged_forward",
        "_scaled_grouped_mm_v2",
        "_foreach_mm",
        "_mixed_dtypes_linear",
        "_lstm_mps",
        "_cslt_sparse_mm",
        "_sparse_addmm",
        "_sparse_mm_reduce_impl",
        "_sparse_semi_structured_addmm",
        "_sparse_semi_structured_linear",
        "_sparse_semi_structured_mm",
        "_sparse_sparse_matmul",
        "_spsolve",
        "hspmm",
        "sspaddmm",
        "linalg_ldl_solve",
        "mkldnn_linear",
        "quantized_gru",
        "quantized_lstm",
        "_cudnn_attention_forward",
        "_flash_attention_forward_no_dropout_inplace",
        "_triton_multi_head_attention",
        "_triton_scaled_dot_attention",
    ]
)

_EXTRA_PACKETS: dict[Any, Formula] = {getattr(aten, name): f for name, f in _EXTRA.items() if hasattr(aten, name)}
_CONVOLUTIONS = frozenset(
    name
    for name in (*_EXTRA, "convolution", "_convolution", "cudnn_convolution", "_slow_conv2d_forward")
    if "conv" in name
)
#: operator namespaces whose operators are known: the rest are somebody's kernels
_KNOWN_NAMESPACES = frozenset({"aten", "prim", "prims", "profiler", "debugprims"})


def op_name(func: Any) -> str:
    """``aten.addmm`` for the overload ``aten.addmm.default``; higher-order operators by their own name."""
    packet = getattr(func, "_overloadpacket", func)
    return f"{getattr(func, 'namespace', 'higher_order')}.{getattr(packet, '__name__', str(packet))}"


def op_class(name: str) -> str:
    """The group in which both counters are compared: convolutions, or everything that is a matrix product."""
    return CONVOLUTION if name.partition(".")[2] in _CONVOLUTIONS else MATRIX_PRODUCT


def op_macs(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> int | None:
    """MACs of one dispatched operator, or None if it is no product.

    Raises:
        LookupError: the operator may hold a product and has no formula.
    """
    packet = getattr(func, "_overloadpacket", func)
    formula = _EXTRA_PACKETS.get(packet)
    if formula is not None:
        if formula in (_conv, _conv_tbc, _packed_linear):
            kwargs = {**kwargs, "out": out}
        return formula(*args, **kwargs)
    registered = flop_registry.get(packet)
    if registered is not None:
        if getattr(registered, "__code__", None) is not _ON_SHAPES:
            return registered(*args, **kwargs, out_val=out) // 2
        shapes = {name: _shapes(value) for name, value in kwargs.items()}
        return registered.__wrapped__(*map(_shapes, args), **shapes, out_shape=_shapes(out)) // 2
    if getattr(func, "namespace", None) not in _KNOWN_NAMESPACES or packet.__name__ in _UNKNOWN_PRODUCTS:
        raise LookupError(op_name(func))
    return None


#: the wrapper of the registry's formulas on shapes: its walk through trees of operands takes longer than the operator
_ON_SHAPES = getattr(flop_counter.shape_wrapper(lambda: 0), "__code__", None)


def _shapes(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return value.shape
    if isinstance(value, (list, tuple)):
        return type(value)(map(_shapes, value)) if type(value) in (list, tuple) else value
    return value


def is_composite(func: Any) -> bool:
    """Whether an operator is seen whole (as under inference mode) that should be looked into."""
    packet = getattr(func, "_overloadpacket", func)
    if packet in _EXTRA_PACKETS or packet in flop_registry or not hasattr(func, "_can_decompose"):
        return False
    return bool(torch._C._dispatch_has_kernel_for_dispatch_key(func.name(), "CompositeImplicitAutograd"))


class OpTally:
    """What one counted forward dispatched: MACs by operator, and the operators without a formula."""

    def __init__(self) -> None:
        self.macs: Counter[str] = Counter()
        self.unknown: Counter[str] = Counter()
        self._silent: set[Any] = set()  # operators known to be no product: most of a forward

    @property
    def total(self) -> int:
        return sum(self.macs.values())

    def by_class(self) -> dict[str, int]:
        """MACs by comparison group (convolution, matrix product)."""
        groups = {CONVOLUTION: 0, MATRIX_PRODUCT: 0}
        for name, macs in self.macs.items():
            groups[op_class(name)] += macs
        return groups

    def add(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> int:
        """Note one dispatched operator; returns its MACs."""
        if func in self._silent:
            return 0
        try:
            macs = op_macs(func, args, kwargs, out)
        except Exception:  # no formula, or one that does not fit: reported, and the run goes on
            self.unknown[op_name(func)] += 1
            return 0
        if macs is None:
            self._silent.add(func)
            return 0
        self.macs[op_name(func)] += macs
        return macs


class DispatchMode(TorchDispatchMode):
    """A dispatch mode that keeps out of ``torch.compile``'s way and does not import it."""

    supports_higher_order_operators = True

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False

    @classmethod
    def ignore_compile_internals(cls) -> bool:
        return True


class OpCounter(DispatchMode):
    """Counts every operator dispatched while it is entered, on any device.

    >>> with OpCounter() as counter:
    ...     model(x)
    >>> counter.tally.total      # MACs of every product
    """

    def __init__(self) -> None:
        super().__init__()
        self.tally = OpTally()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if is_composite(func):
            with self:
                out = func.decompose(*args, **kwargs)
            if out is not NotImplemented:
                return out
        out = func(*args, **kwargs)
        self.tally.add(func, args, kwargs, out)
        return out
