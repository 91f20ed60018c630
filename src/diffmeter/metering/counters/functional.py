"""Products that a forward runs as functions: attention, ``matmul``, ``einsum``, ``F.linear`` and their kin.

thop looks at modules only. This counter looks at the functions that Python code calls, with a formula for each,
and leaves out those that run inside a module which thop's rules have already counted.
"""

from __future__ import annotations

import inspect
import logging
from collections import Counter
from collections.abc import Callable
from math import prod
from typing import Any

import torch
import torch.nn.functional as F
from torch.overrides import TorchFunctionMode

from .op_level import _conv_transpose, _linear, _matmul, attention_product_macs

logger = logging.getLogger(__name__)

ATTENTION = "attention"
ATTENTION_SOFTMAX = "attention_softmax"
LINEAR = "linear"
MATMUL = "matmul"
CONV = "conv"

#: op classes whose MACs are products: their sum is ``matmul_macs``
PRODUCT_CLASSES = frozenset({CONV, LINEAR, ATTENTION, MATMUL})
#: op classes with a weight on one side: what tables without attention print
WEIGHT_CLASSES = frozenset({CONV, LINEAR})

Counts = dict[str, int]
Rule = Callable[[tuple[Any, ...], dict[str, Any], Any], Counts]


def _has_weight(*operands: Any) -> bool:
    return any(isinstance(operand, torch.nn.Parameter) for operand in operands)


def _product(macs: int, *operands: Any) -> Counts:
    return {LINEAR if _has_weight(*operands) else MATMUL: macs}


def _bound(names: str) -> Callable[[tuple[Any, ...], dict[str, Any]], tuple[Any, ...]]:
    """Arguments by name, whether they came by position or by keyword."""
    order = names.split()

    def bind(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, ...]:
        given = dict(zip(order, args, strict=False))
        given.update(kwargs)
        return tuple(given[name] for name in order)

    return bind


def _two(names: str) -> Rule:
    bind = _bound(names)

    def rule(args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> Counts:
        a, b = bind(args, kwargs)
        return _product(_matmul(a, b), a, b)

    return rule


def _with_addend(names: str) -> Rule:
    bind = _bound(names)

    def rule(args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> Counts:
        _, a, b = bind(args, kwargs)
        return _product(_matmul(a, b), a, b)

    return rule


def _reversed_matmul(args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> Counts:
    b, a = args
    return _product(_matmul(a, b), a, b)


_bind_linear = _bound("input weight")


def _linear_rule(args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> Counts:
    x, weight = _bind_linear(args, kwargs)
    return {LINEAR: _linear(x, weight)}


_bind_sdpa = _bound("query key value")


def attention_macs(query: Any, key: Any, value: Any) -> Counts:
    """One scaled-dot-product call: both products, and the softmax over N queries x M keys of each head.

    ``B*H*N*M*D + B*H*N*M*Dv`` under ``attention`` and ``B*H*N*M`` under ``attention_softmax``; shapes as in
    :func:`attention_product_macs`.
    """
    softmax = prod(query.shape[:-1]) * key.shape[-2]
    return {ATTENTION: attention_product_macs(query, key, value), ATTENTION_SOFTMAX: softmax}


def _attention_rule(args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> Counts:
    return attention_macs(*_bind_sdpa(args, kwargs))


def _conv_rule(args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> Counts:
    _, weight = _bind_linear(args, kwargs)
    return {CONV: out.numel() * prod(weight.shape[1:])}


def _conv_tbc_rule(args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> Counts:
    _, weight = _bind_linear(args, kwargs)
    return {CONV: out.numel() * prod(weight.shape[:2])}


def _conv_transpose_rule(args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> Counts:
    return {CONV: _conv_transpose(*_bind_linear(args, kwargs))}


def einsum_macs(equation: str, shapes: list[tuple[int, ...]]) -> int:
    """MACs of an einsum contracted pairwise from the left, as PyTorch lowers it.

    A pair with no common summed index is an elementwise product and counts nothing; otherwise each distinct index
    of the pair contributes its size once, after indices that only one side has and nobody needs are summed away.
    """
    left, arrow, right = equation.replace(" ", "").partition("->")
    terms = left.split(",")
    sizes: list[dict[str, int]] = []
    for term, shape in zip(terms, shapes, strict=False):
        head, dots, tail = term.partition("...")
        rest = len(shape) - len(head) - len(tail)
        labels = [*head, *(f".{i}" for i in range(rest, 0, -1)), *tail] if dots else list(term)
        sizes.append(dict(zip(labels, shape, strict=False)))
    if arrow:
        ellipsis = {label for size in sizes for label in size if label.startswith(".")}
        output = set(right.replace("...", "")) | (ellipsis if "..." in right else set())
    else:
        flat = left.replace("...", "").replace(",", "")
        output = {c for c in flat if flat.count(c) == 1} | {k for s in sizes for k in s if k.startswith(".")}

    total, current = 0, sizes[0]
    for index, following in enumerate(sizes[1:], start=1):
        later = sizes[index + 1 :]
        needed = output.union(*({k for k, size in s.items() if size != 1} for s in later))
        summed = {
            k for k in current.keys() & following.keys() if k not in needed and current[k] != 1 and following[k] != 1
        }
        merged = {k: max(current.get(k, 1), following.get(k, 1)) for k in current.keys() | following.keys()}
        if summed:
            # indices of one side alone (or of size 1 on the other) that nobody needs are summed before the product
            involved = summed | {k for k in merged if k in needed}
            total += prod(merged[k] for k in involved)
        current = {k: v for k, v in merged.items() if k in needed}
    return total


def _einsum_rule(args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> Counts:
    equation, *operands = args
    if not isinstance(equation, str):  # the sublist form: einsum(a, [0, 1], b, [1, 2], [0, 2])
        return {}
    if len(operands) == 1 and isinstance(operands[0], (list, tuple)):
        operands = list(operands[0])
    return _product(einsum_macs(equation, [tuple(t.shape) for t in operands]), *operands)


def _tensordot_rule(args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> Counts:
    a, b = args[:2]
    dims = args[2] if len(args) > 2 else kwargs.get("dims", 2)
    if isinstance(dims, torch.Tensor):
        dims = dims.tolist()
    left = range(a.dim() - dims, a.dim()) if isinstance(dims, int) else dims[0]
    left = [left] if isinstance(left, int) else left
    return _product(out.numel() * prod(a.shape[d] for d in left), a, b)


def _inner_rule(args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> Counts:
    a, b = args[0], args[1] if len(args) > 1 else kwargs["other"]
    if not a.dim() or not b.dim():
        return {}  # a scalar times a tensor
    return _product(out.numel() * a.shape[-1], a, b)


def _chain_rule(args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> Counts:
    """``torch.linalg.multi_dot`` and ``chain_matmul``: products in the cheapest order."""
    matrices = list(args[0] if isinstance(args[0], (list, tuple)) else args)
    sizes = [matrices[0].shape[0] if matrices[0].dim() > 1 else 1]
    sizes += [m.shape[0] if m.dim() == 1 else m.shape[-2] for m in matrices[1:]]
    sizes.append(matrices[-1].shape[-1] if matrices[-1].dim() > 1 else 1)
    n = len(matrices)
    best = [[0] * n for _ in range(n)]
    for span in range(1, n):
        for i in range(n - span):
            j = i + span
            best[i][j] = min(best[i][k] + best[k + 1][j] + sizes[i] * sizes[k + 1] * sizes[j + 1] for k in range(i, j))
    return _product(best[0][-1], *matrices)


_MHA = inspect.signature(F.multi_head_attention_forward)


def _multi_head_attention_rule(args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> Counts:
    """``nn.MultiheadAttention``: three input projections, both products, softmax, output projection."""
    a = _MHA.bind(*args, **kwargs).arguments
    query, key, value, embed = a["query"], a["key"], a["value"], a["embed_dim_to_check"]
    n, b = (query.shape[0], query.shape[1]) if query.dim() == 3 else (query.shape[0], 1)
    m = key.shape[0]
    projections = b * embed * (n * query.shape[-1] + m * key.shape[-1] + m * value.shape[-1])
    projections += b * n * a["out_proj_weight"].numel()
    m += (a.get("bias_k") is not None) + bool(a.get("add_zero_attn"))
    return {
        LINEAR: projections,
        ATTENTION: 2 * b * n * m * embed,
        ATTENTION_SOFTMAX: b * a["num_heads"] * n * m,
    }


def _bilinear_rule(args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> Counts:
    return {}  # runs elementwise; the op-level counter reports it as unknown


def _recurrent_rule(args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> Counts:
    """LSTM, GRU and plain recurrences: every weight matrix meets every time step of every sequence once."""
    # (input, hx, weights, ...), or for packed sequences (data, batch_sizes, hx, weights, ...)
    x, weights = args[0], args[3] if isinstance(args[3], (list, tuple)) else args[2]
    steps = prod(x.shape[:-1])
    return {LINEAR: sum(steps * w.numel() for w in weights if w.dim() == 2)}


def _cell_rule(args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> Counts:
    x, _, w_ih, w_hh = args[:4]
    return {LINEAR: prod(x.shape[:-1]) * (w_ih.numel() + w_hh.numel())}


RULES: dict[Any, Rule] = {
    torch._C._nn.scaled_dot_product_attention: _attention_rule,
    F.multi_head_attention_forward: _multi_head_attention_rule,
    F.linear: _linear_rule,
    F.bilinear: _bilinear_rule,
    torch.einsum: _einsum_rule,
    torch.tensordot: _tensordot_rule,
    torch.Tensor.__rmatmul__: _reversed_matmul,
}
for _owner, _names in (
    (torch, "input other"),
    (torch.Tensor, "self other"),
):
    RULES[_owner.matmul] = _two(_names)
RULES[torch.linalg.multi_dot] = RULES[torch.chain_matmul] = _chain_rule
RULES[torch.inner] = _inner_rule
RULES[torch.Tensor.inner] = _inner_rule
for _function in (torch.Tensor.__matmul__,):
    RULES[_function] = _two("self other")
RULES[torch.linalg.matmul] = _two("input other")
for _name, _operand in (("mm", "mat2"), ("bmm", "mat2"), ("mv", "vec"), ("dot", "tensor"), ("vdot", "other")):
    RULES[getattr(torch, _name)] = _two(f"input {_operand}")
    RULES[getattr(torch.Tensor, _name)] = _two(f"self {_operand}")
for _name, _operands in (
    ("addmm", "mat1 mat2"),
    ("baddbmm", "batch1 batch2"),
    ("addbmm", "batch1 batch2"),
    ("addmv", "mat vec"),
):
    RULES[getattr(torch, _name)] = _with_addend(f"input {_operands}")
    for _method in (_name, f"{_name}_"):
        RULES[getattr(torch.Tensor, _method)] = _with_addend(f"self {_operands}")
for _n in (1, 2, 3):
    for _module in (F, torch):
        RULES[getattr(_module, f"conv{_n}d")] = _conv_rule
        RULES[getattr(_module, f"conv_transpose{_n}d")] = _conv_transpose_rule
for _module in (F, torch):
    RULES[_module.conv_tbc] = _conv_tbc_rule
for _name in ("lstm", "gru", "rnn_tanh", "rnn_relu"):
    RULES[getattr(torch._VF, _name)] = _recurrent_rule
for _name in ("lstm_cell", "gru_cell", "rnn_tanh_cell", "rnn_relu_cell"):
    RULES[getattr(torch._VF, _name)] = _cell_rule


NATIVE_ATTENTION: Any = torch._C._nn.scaled_dot_product_attention


def attention_is_replaced() -> bool:
    """Whether somebody put a function of their own in the place of ``F.scaled_dot_product_attention``."""
    return F.scaled_dot_product_attention is not NATIVE_ATTENTION


class FunctionCounter(TorchFunctionMode):
    """Counts the products that Python code calls as functions, unless ``covered`` says that a module rule does.

    ``macs`` holds MACs by op class.
    """

    def __init__(self, covered: Callable[[], bool] = lambda: False) -> None:
        super().__init__()
        self.macs: Counter[str] = Counter()
        self._covered = covered

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        rule = RULES.get(func)
        if rule is not None and not self._covered():
            try:
                self.macs.update(rule(args, kwargs, out))
            except Exception:  # an unusual way to call it: the op-level count will show the difference
                logger.debug("no count for this call of %s", func, exc_info=True)
        return out
