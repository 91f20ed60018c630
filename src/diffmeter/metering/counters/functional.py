"""Products that a forward runs as functions: attention, ``matmul``, ``einsum``, ``F.linear`` and their kin.

thop looks at modules only. This counter looks at the functions that Python code calls, with a formula for each,
and leaves out those that run inside a module which thop's rules have already counted.
"""

from __future__ import annotations

import inspect
import logging
from collections import Counter
from collections.abc import Callable, Sequence
from math import prod
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from diffmeter.compat import NATIVE_ATTENTION, RECURRENT_FUNCTIONS, packet_of, qualified_name
from diffmeter.metering.watching.patching import own

from . import user_formulas
from .einsum import einsum_macs
from .kinds import Kind
from .past_pytorch import NAME as PAST_PYTORCH
from .past_pytorch import PastPyTorch
from .shapes import Shape, Sparse, shapes_of

logger = logging.getLogger(__name__)

# ---------------------------------------------------------------------------------------------------------------------
# Formulas. Every one has the same signature: the leading arguments of the function that its declaration names, with
# its shape in the place of each tensor, and the shape of the result as ``out``. It returns MACs. The op-level counter
# has formulas of its own, written separately; neither may call the other's.
# ---------------------------------------------------------------------------------------------------------------------

Formula = Callable[..., int]


class Entry(NamedTuple):
    """One declared formula: the function's parameters that it takes by name, and the kind of its MACs.

    Without names it takes every positional argument; without a kind its products are those of a linear layer where an
    operand is a parameter, else plain matrix products.
    """

    formula: Formula
    names: tuple[str, ...]
    kind: Kind | None


FORMULAS: dict[Any, list[Entry]] = {}


def function(names: str, *functions: Any, kind: Kind | None = None) -> Callable[[Formula], Formula]:
    """Declare a formula for functions that Python code calls; a function with several is their sum by kind.

    Args:
        names: the function's leading parameters, in its order; a method's ``self`` is its ``input``.
        functions: functions and methods; operators that Python code calls, as exported programs do, by name.
        kind: what its MACs belong to; see :class:`Entry`.
    """

    def declare(formula: Formula) -> Formula:
        for each in dict.fromkeys(functions):
            FORMULAS.setdefault(each, []).append(Entry(formula, tuple(names.split()), kind))
        return formula

    return declare


def _methods(*names: str) -> tuple[Any, ...]:
    return tuple(getattr(Tensor, name) for name in names)


def _existing(place: Any, *names: str) -> tuple[Any, ...]:
    """Functions that only some versions of PyTorch have."""
    return tuple(getattr(place, name) for name in names if hasattr(place, name))


_ATTENTION = (
    NATIVE_ATTENTION,
    "aten.scaled_dot_product_attention",
    "aten._scaled_dot_product_flash_attention_for_cpu",
    "aten._scaled_dot_product_flash_attention",
    "aten._scaled_dot_product_efficient_attention",
    "aten._scaled_dot_product_cudnn_attention",
)


@function("query key value", *_ATTENTION, kind=Kind.ATTENTION)
def attention(query: Shape, key: Shape, value: Shape, *, out: Shape) -> int:
    # query (..., H, N, D) against key (..., Hk, M, D): H*N rows meet M keys of size D
    scores = prod(query) * key[-2]
    # each of the H*N rows sums M values of size Dv
    sums = prod(query[:-1]) * key[-2] * value[-1]
    return scores + sums


@function("query key value", *_ATTENTION, kind=Kind.ATTENTION_SOFTMAX)
def attention_softmax(query: Shape, key: Shape, value: Shape, *, out: Shape) -> int:
    # one operation for each of the N x M scores of each head; the default convention only
    return prod(query[:-1]) * key[-2]


@function("input other", torch.matmul, torch.linalg.matmul, *_methods("matmul", "__matmul__"), "aten.matmul")
@function("input mat2", torch.mm, torch.bmm, *_methods("mm", "bmm"), "aten.mm", "aten.bmm")
@function("input mat2", *_existing(torch, "_int_mm", "_scaled_mm"), "aten._int_mm", "aten._scaled_mm")
@function("input vec", torch.mv, Tensor.mv, "aten.mv")
@function("input tensor", torch.dot, Tensor.dot, "aten.dot")
@function("input other", torch.vdot, Tensor.vdot, "aten.vdot")
@function("sparse dense", torch.sparse.mm)
def matrix_product(a: Shape, b: Shape, *, out: Shape) -> int:
    # (..., n, k) @ (..., k, m): every element of the result sums k products; every stored one of a sparse side meets
    # a row or a column of the other
    if isinstance(a, Sparse) or isinstance(b, Sparse):
        return _sparse_product(a, b)
    return prod(out) * a[-1]


def _sparse_product(a: Shape, b: Shape) -> int:
    if isinstance(a, Sparse) and isinstance(b, Sparse):
        raise LookupError("the product of two sparse operands depends on where their elements are")
    if isinstance(a, Sparse):
        return a.stored * (b[-1] if len(b) > 1 else 1)
    assert isinstance(b, Sparse)
    return prod(a[:-1]) * b.stored


@function("mat vec", Tensor.__rmatmul__)
def matrix_product_reversed(b: Shape, a: Shape, *, out: Shape) -> int:
    # b.__rmatmul__(a) is a @ b
    return matrix_product(a, b, out=out)


@function("input mat1 mat2", torch.addmm, *_methods("addmm", "addmm_"), "aten.addmm")
@function("input batch1 batch2", torch.baddbmm, *_methods("baddbmm", "baddbmm_"), "aten.baddbmm")
@function("input mat vec", torch.addmv, *_methods("addmv", "addmv_"), "aten.addmv")
@function("mat mat1 mat2", torch.sparse.addmm)
def matrix_product_added(addend: Shape, a: Shape, b: Shape, *, out: Shape) -> int:
    # addend + a @ b
    return matrix_product(a, b, out=out)


@function("input batch1 batch2", torch.addbmm, *_methods("addbmm", "addbmm_"), "aten.addbmm")
def batches_summed(addend: Shape, a: Shape, b: Shape, *, out: Shape) -> int:
    # addend + sum over b of (b, n, k) @ (b, k, m): every element of the result sums b * k products
    return prod(out) * a[0] * a[2]


@function("input weight", F.linear, "aten.linear", kind=Kind.LINEAR)
def linear(x: Shape, weight: Shape, *, out: Shape) -> int:
    # (..., in) x (out, in): every element of the result sums in products; a sparse weight meets every row of x
    return prod(x[:-1]) * weight.stored if isinstance(weight, Sparse) else prod(out) * x[-1]


@function(
    "input",
    *("aten._weight_int8pack_mm", "aten._weight_int4pack_mm", "aten._weight_int4pack_mm_for_cpu"),
    *_existing(torch, "_weight_int8pack_mm", "_weight_int4pack_mm", "_weight_int4pack_mm_for_cpu"),
    *("aten._dyn_quant_matmul_4bit", "quantized.linear", "quantized.linear_relu", "quantized.linear_dynamic"),
    *("quantized.linear_relu_dynamic", "quantized.linear_dynamic_fp16", "quantized.linear_relu_dynamic_fp16"),
    *("sparse.qlinear", "sparse.qlinear_relu", "sparse.qlinear_dynamic", "sparse.qlinear_relu_dynamic"),
    *("quanto.qbytes_mm", "quanto.udqmm", "quanto.gemm_f16i4_awq", "quanto.gemm_f16i4_marlin"),
    *("bitsandbytes.int8_linear_matmul", "bitsandbytes.int8_scaled_mm", "bitsandbytes.gemv_4bit"),
    kind=Kind.LINEAR,
)
def packed_linear(x: Shape, *, out: Shape) -> int:
    # a packed weight hides its sizes: each row of x meets in * out of them, and the last sizes are in and out
    return prod(x[:-1]) * x[-1] * out[-1]


@function("a b", *_existing(torch, "_grouped_mm"), *_existing(F, "grouped_mm"), "aten._grouped_mm")
def grouped_product(a: Shape, b: Shape, *, out: Shape) -> int:
    # groups of rows (t, k) or of columns (k, t) share out the three-dimensional side's matrices: each element of
    # the result sums k; groups of the summed dimension itself, (n, t) x (t, m), make g results of (n, m) from t
    return a[0] * a[1] * b[1] if len(a) == len(b) == 2 else prod(out) * a[-1]


_CONVOLUTIONS = [f for n in (1, 2, 3) for f in (getattr(torch, f"conv{n}d"), f"aten.conv{n}d")]
_TRANSPOSED = [f for n in (1, 2, 3) for f in (getattr(torch, f"conv_transpose{n}d"), f"aten.conv_transpose{n}d")]


@function("input weight", *_CONVOLUTIONS, kind=Kind.CONV)
def convolution(x: Shape, weight: Shape, *, out: Shape) -> int:
    # weight (out, in/groups, *kernel): every output position, of every output channel, sums in/groups * kernel
    positions = prod(out) // out[-len(weight) + 1]
    return positions * prod(weight)


@function("input weight", *_TRANSPOSED, kind=Kind.CONV)
def convolution_transposed(x: Shape, weight: Shape, *, out: Shape) -> int:
    # weight (in, out/groups, *kernel): every input position meets all the weights once
    positions = prod(x) // x[-len(weight) + 1]
    return positions * prod(weight)


_ANY_CONVOLUTION = "input weight bias stride padding dilation transposed"


@function(_ANY_CONVOLUTION, torch.convolution, "aten.convolution", kind=Kind.CONV)
def convolution_any(
    x: Shape, weight: Shape, bias: Any, stride: Any, padding: Any, dilation: Any, transposed: bool, *, out: Shape
) -> int:
    return (convolution_transposed if transposed else convolution)(x, weight, out=out)


@function("input weight", torch.conv_tbc, kind=Kind.CONV)
def convolution_time_first(x: Shape, weight: Shape, *, out: Shape) -> int:
    # (time, batch, channels), weight (kernel, in, out): every output step meets all the weights once
    return out[0] * out[1] * prod(weight)


@function("", torch.einsum, "aten.einsum")
def einsum(*args: Any, out: Shape) -> int:
    # the equation, then the operands, alone or in one list; einsum itself turns lists of indices into an equation
    equation, *operands = args
    return einsum_macs(equation, _flat(operands))


def _flat(operands: Sequence[Any]) -> list[Shape]:
    return list(operands[0] if operands[0] and isinstance(operands[0][0], tuple) else operands)


@function("a b dims", torch.tensordot)
def tensordot(a: Shape, b: Shape, dims: Any = 2, *, out: Shape) -> int:
    # every element of the result sums over the contracted dimensions of a
    contracted = range(len(a) - dims, len(a)) if isinstance(dims, int) else dims[0]
    return prod(out) * prod(a[d] for d in contracted)


@function("input other", torch.inner, Tensor.inner)
def inner(a: Shape, b: Shape, *, out: Shape) -> int:
    # every element of the result sums along the last dimension; a scalar times a tensor is no product
    return prod(out) * a[-1] if a and b else 0


@function("", torch.linalg.multi_dot, torch.chain_matmul)
def chain(*args: Any, out: Shape) -> int:
    # the products in the cheapest order: best[i][j] is what matrices i to j take
    matrices = _flat(args)
    sizes = [matrices[0][0] if len(matrices[0]) > 1 else 1]
    sizes += [m[0] for m in matrices[1:]]
    sizes.append(matrices[-1][1] if len(matrices[-1]) > 1 else 1)
    n = len(matrices)
    best = [[0] * n for _ in range(n)]
    for span in range(1, n):
        for i in range(n - span):
            j = i + span
            best[i][j] = min(best[i][k] + best[k + 1][j] + sizes[i] * sizes[k + 1] * sizes[j + 1] for k in range(i, j))
    return best[0][-1]


@function("input n", torch.linalg.matrix_power, torch.matrix_power, Tensor.matrix_power)
def matrix_power(a: Shape, n: int, *, out: Shape) -> int:
    # by repeated squaring, of (..., k, k): one product for each bit of n after the first, and one more for each set
    if n < 0:
        raise LookupError("an inverse has no fixed number of products")
    products = max(n.bit_length() - 1, 0) + max(n.bit_count() - 1, 0)
    *batch, k, _ = a
    return products * prod(batch) * k**3


@function("x1 x2 p", torch.cdist, "aten.cdist")
def distances(a: Shape, b: Shape, p: float = 2.0, *, out: Shape) -> int:
    # every distance of two vectors takes their product, D MACs; other norms have none
    return prod(out) * a[-1] if p == 2.0 else 0


@function("input p", F.pdist, torch.pdist)
def distances_within(a: Shape, p: float = 2.0, *, out: Shape) -> int:
    # out has a distance for each pair, D MACs each; other norms have none
    return prod(out) * a[-1] if p == 2.0 else 0


@function("theta size", F.affine_grid, torch.affine_grid_generator)
def affine_grid(theta: Shape, size: Any, *, out: Shape) -> int:
    # every position of the grid meets the n x (n + 1) matrix of its sample
    return prod(out[:-1]) * prod(theta[1:])


_MHA = " ".join(inspect.signature(F.multi_head_attention_forward).parameters)


@function(_MHA, F.multi_head_attention_forward, kind=Kind.LINEAR)
def multi_head_projections(query: Shape, key: Shape, value: Shape, embed: int, *rest: Any, out: Any) -> int:
    # (N, B, E), (M, B, Ek), (M, B, Ev), or without B: each is projected to E, and the N results once more
    out_weight = rest[_OUT_WEIGHT]
    return embed * (prod(query) + prod(key) + prod(value)) + prod(query[:-1]) * prod(out_weight)


@function(_MHA, F.multi_head_attention_forward, kind=Kind.ATTENTION)
def multi_head_attention(query: Shape, key: Shape, value: Shape, embed: int, *rest: Any, out: Any) -> int:
    # over all heads: N*M*E for the scores, N*M*E for the sums, with M keys and those that are added
    return 2 * prod(query[:-1]) * _keys(key, rest) * embed


@function(_MHA, F.multi_head_attention_forward, kind=Kind.ATTENTION_SOFTMAX)
def multi_head_softmax(query: Shape, key: Shape, value: Shape, embed: int, heads: int, *rest: Any, out: Any) -> int:
    # one operation for each of the N x M scores of each head
    return heads * prod(query[:-1]) * _keys(key, (heads, *rest))


# positions among the arguments that follow embed_dim_to_check
_BIAS_K, _ZERO_ATTENTION, _OUT_WEIGHT = (
    _MHA.split().index(name) - 4 for name in ("bias_k", "add_zero_attn", "out_proj_weight")
)


def _keys(key: Shape, rest: tuple[Any, ...]) -> int:
    return key[0] + (rest[_BIAS_K] is not None) + bool(rest[_ZERO_ATTENTION])


_RECURRENCES = ("lstm", "gru", "rnn_tanh", "rnn_relu")


@function("", *(getattr(RECURRENT_FUNCTIONS, name) for name in _RECURRENCES), kind=Kind.LINEAR)
def recurrence(x: Shape, *args: Any, out: Any) -> int:
    # (input, hx, weights, ...), or of packed sequences (data, batch_sizes, hx, weights, ...): every weight matrix
    # meets every time step of every sequence once
    weights = args[2] if isinstance(args[2], list) else args[1]
    return prod(x[:-1]) * sum(prod(weight) for weight in weights if len(weight) == 2)


@function("", *(getattr(RECURRENT_FUNCTIONS, f"{name}_cell") for name in _RECURRENCES), kind=Kind.LINEAR)
def recurrent_cell(x: Shape, hx: Any, w_ih: Shape, w_hh: Shape, *_: Any, out: Any) -> int:
    # one step: both weight matrices meet every row
    return prod(x[:-1]) * (prod(w_ih) + prod(w_hh))


# ---------------------------------------------------------------------------------------------------------------------
# Counting one call
# ---------------------------------------------------------------------------------------------------------------------


def function_macs(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> Counter[Kind]:
    """MACs of one called function by kind; empty if it has no formula."""
    found: Counter[Kind] = Counter()
    for entry in FORMULAS.get(_key(func), ()):
        operands = _operands(entry, args, kwargs)
        found[entry.kind or _kind(operands)] += entry.formula(*map(shapes_of, operands), out=shapes_of(out))
    return found


def _key(func: Any) -> Any:
    """What a formula is declared for: the function itself, or the name of an operator without its overload."""
    return qualified_name(packet_of(func)) or func


def _operands(entry: Entry, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Any]:
    """The arguments that a formula takes, whether they came by position or by keyword."""
    if not entry.names:
        return list(args)
    given = dict(zip(entry.names, args, strict=False))
    given.update((entry.names[0] if name == "self" else name, value) for name, value in kwargs.items())
    return [given[name] for name in entry.names if name in given]


def _kind(operands: list[Any]) -> Kind:
    flat = [item for each in operands for item in (each if isinstance(each, (list, tuple)) else (each,))]
    return Kind.LINEAR if any(isinstance(item, torch.nn.Parameter) for item in flat) else Kind.MATMUL


def attention_is_replaced() -> bool:
    """Whether somebody put a function of their own in the place of ``F.scaled_dot_product_attention``."""
    return F.scaled_dot_product_attention is not NATIVE_ATTENTION


class FunctionCounter(TorchFunctionMode):
    """Counts the products that Python code calls as functions, unless ``covered`` says that a module rule does.

    ``macs`` holds MACs by kind.
    """

    def __init__(self, covered: Callable[[], bool] = lambda: False) -> None:
        super().__init__()
        self.macs: Counter[Kind] = Counter()
        self._covered = covered
        self._past = PastPyTorch()

    def __exit__(self, *exception: Any) -> None:
        super().__exit__(*exception)
        tally = user_formulas.tally_here()
        if tally is not None and self._past.found():
            tally.unknown[PAST_PYTORCH] += 1

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        if user_formulas.is_covered():
            return out
        name = _key(func)
        self._past.see(func, name, args, out)
        if name in FORMULAS and not self._covered():
            try:
                self.macs.update(function_macs(func, args, kwargs, out))
            except Exception:  # an unusual way to call it: the op-level count will show the difference
                logger.debug("no count for this call of %s", func, exc_info=True)
        return out


own(FunctionCounter)  # a call under it is not a call under somebody's mode
