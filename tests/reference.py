"""An independent counter of what a real run computes, to hold diffmeter's numbers against.

It shares no code with the package. ``count_real_run`` runs a pipeline for real on the CPU under a
``TorchDispatchMode`` and sums the multiply-accumulates (MACs) of every product operator that is executed while a
module's forward, or another public method of a pipeline component, is on the call stack. Formulas are written by
hand from the operators' shapes below; an operator that could hide products and has no formula stops the run with
``UnknownOperatorError`` instead of being taken for free.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from math import prod
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

OUTSIDE = "(outside any component)"


class UnknownOperatorError(RuntimeError):
    """An operator ran that may contain products, and no formula for it is known here."""


# ---------------------------------------------------------------------------------------------------------------
# Formulas: (args, kwargs, result) -> MACs, from shapes alone.
# ---------------------------------------------------------------------------------------------------------------


def _mm(a: torch.Tensor, b: torch.Tensor) -> int:
    # [N, K] @ [K, M]: N * M dot products of length K.
    return a.shape[0] * a.shape[1] * b.shape[1]


def _bmm(a: torch.Tensor, b: torch.Tensor) -> int:
    # [B, N, K] @ [B, K, M].
    return a.shape[0] * a.shape[1] * a.shape[2] * b.shape[2]


def _matmul(a: torch.Tensor, b: torch.Tensor, result: torch.Tensor) -> int:
    # Every element of the result is one dot product along the last dimension of a.
    return result.numel() * a.shape[-1]


def _linear(x: torch.Tensor, weight: torch.Tensor) -> int:
    # x [..., K], weight [M, K] (or [K]).
    return x.numel() * (weight.shape[0] if weight.dim() == 2 else 1)


def _convolution(x: torch.Tensor, weight: torch.Tensor, result: torch.Tensor, transposed: bool) -> int:
    # Plain: weight [Cout, Cin / groups, *k]; each output element reads Cin / groups * prod(k) inputs.
    # Transposed: weight [Cin, Cout / groups, *k]; each input element is spread over Cout / groups * prod(k) outputs.
    return (x if transposed else result).numel() * prod(weight.shape[1:])


def _attention(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> int:
    # q [B, H, N, D], k [B, Hk, M, D], v [B, Hk, M, Dv], H a multiple of Hk: H heads of N x M scores and N x Dv sums.
    batch_and_heads = prod(q.shape[:-2])
    return batch_and_heads * q.shape[-2] * k.shape[-2] * (q.shape[-1] + v.shape[-1])


def _fused_self_attention(x_shape: torch.Size, m: int, d: int) -> int:
    # x [B, N, D]; packed query, key and value projection (3 D*D), scores and sums over all heads (2 N*M*D), output.
    b, n = x_shape[0], x_shape[1]
    return b * (n * d * d + 2 * m * d * d + 2 * n * m * d + n * d * d)


def _native_multi_head_attention(args: tuple, kwargs: dict, result: Any) -> int:
    # (query, key, value, embed_dim, num_heads, qkv_weight, qkv_bias, proj_weight, proj_bias, mask, ...)
    query, key, embed_dim = args[0], args[1], args[3]
    if query.is_nested:
        return sum(_fused_self_attention((1, *t.shape), t.shape[0], embed_dim) for t in query.unbind())
    return _fused_self_attention(query.shape, key.shape[1], embed_dim)


def _transformer_encoder_layer(args: tuple, kwargs: dict, result: Any) -> int:
    # (src, embed_dim, num_heads, qkv_weight, qkv_bias, proj_weight, proj_bias, use_gelu, norm_first, eps,
    #  norm_weight_1, norm_bias_1, norm_weight_2, norm_bias_2, ffn_weight_1 [F, D], ffn_bias_1, ffn_weight_2 [D, F])
    src, embed_dim, ffn = args[0], args[1], args[14]
    samples = [(1, *t.shape) for t in src.unbind()] if src.is_nested else [tuple(src.shape)]
    return sum(_fused_self_attention(s, s[1], embed_dim) + 2 * s[0] * s[1] * embed_dim * ffn.shape[0] for s in samples)


def _recurrent(gates: int) -> Callable[[tuple, dict, Any], int]:
    def count(args: tuple, kwargs: dict, result: Any) -> int:
        # (input [T, B, I] or [B, T, I], hx, params, has_biases, num_layers, dropout, train, bidirectional, ...)
        # Each step of each layer and direction multiplies by weight_ih [gates * H, I] and weight_hh [gates * H, H];
        # a third two-dimensional weight, if any, projects the hidden state.
        if not isinstance(args[2], (list, tuple)):
            raise UnknownOperatorError("recurrent layer over a packed sequence")
        steps = args[0].numel() // args[0].shape[-1]
        return steps * sum(p.numel() for p in args[2] if p.dim() == 2)

    return count


def _mkldnn_rnn_layer(args: tuple, kwargs: dict, result: Any) -> int:
    # (input [T, B, I], weight_ih, weight_hh, ...): one layer, one direction.
    return args[0].numel() // args[0].shape[-1] * (args[1].numel() + args[2].numel())


def _grouped_mm(args: tuple, kwargs: dict, result: Any) -> int:
    # [T, K] x [G, K, N] with offsets over T: each of the T rows meets one group's [K, N].
    # [G, M, K] x [G, K, N]: a bmm. [M, T] x [T, N] with offsets over T: the groups' K add up to T.
    # [G, M, K] x [K, T] with offsets over T: each of the T columns meets one group's [M, K].
    a, b = args[0], args[1]
    if a.dim() == 2 and b.dim() == 3:
        return a.shape[0] * a.shape[1] * b.shape[2]
    if a.dim() == 3 and b.dim() == 3:
        return _bmm(a, b)
    if a.dim() == 3 and b.dim() == 2:
        return a.shape[1] * a.shape[2] * b.shape[1]
    return a.shape[0] * a.shape[1] * b.shape[1]


def _transposed_flag(args: tuple, kwargs: dict) -> bool:
    return bool(kwargs["transposed"] if "transposed" in kwargs else args[6])


FORMULAS: dict[str, Callable[[tuple, dict, Any], int]] = {
    "aten::mm": lambda a, k, r: _mm(a[0], a[1]),
    "aten::_int_mm": lambda a, k, r: _mm(a[0], a[1]),
    "aten::_scaled_mm": lambda a, k, r: _mm(a[0], a[1]),
    "aten::addmm": lambda a, k, r: _mm(a[1], a[2]),
    "aten::addmm_": lambda a, k, r: _mm(a[1], a[2]),
    "aten::_addmm_activation": lambda a, k, r: _mm(a[1], a[2]),
    "aten::bmm": lambda a, k, r: _bmm(a[0], a[1]),
    "aten::baddbmm": lambda a, k, r: _bmm(a[1], a[2]),
    "aten::baddbmm_": lambda a, k, r: _bmm(a[1], a[2]),
    "aten::addbmm": lambda a, k, r: _bmm(a[1], a[2]),
    "aten::addbmm_": lambda a, k, r: _bmm(a[1], a[2]),
    "aten::mv": lambda a, k, r: a[0].numel(),  # [N, K] @ [K]
    "aten::addmv": lambda a, k, r: a[1].numel(),
    "aten::addmv_": lambda a, k, r: a[1].numel(),
    "aten::dot": lambda a, k, r: a[0].numel(),
    "aten::vdot": lambda a, k, r: a[0].numel(),
    "aten::matmul": lambda a, k, r: _matmul(a[0], a[1], r),
    "aten::linear": lambda a, k, r: _linear(a[0], a[1]),
    # distances of all rows of a [.., P, D] to all of b [.., R, D]: D products each, for the Euclidean norm
    "aten::_euclidean_dist": lambda a, k, r: r.numel() * a[0].shape[-1],
    "aten::_cdist_forward": lambda a, k, r: r.numel() * a[0].shape[-1] if a[2] == 2 else 0,
    "aten::_grouped_mm": _grouped_mm,
    "aten::convolution": lambda a, k, r: _convolution(a[0], a[1], r, _transposed_flag(a, k)),
    "aten::_convolution": lambda a, k, r: _convolution(a[0], a[1], r, _transposed_flag(a, k)),
    "aten::mkldnn_convolution": lambda a, k, r: _convolution(a[0], a[1], r, False),
    "aten::_scaled_dot_product_flash_attention_for_cpu": lambda a, k, r: _attention(a[0], a[1], a[2]),
    "aten::_scaled_dot_product_flash_attention": lambda a, k, r: _attention(a[0], a[1], a[2]),
    "aten::_scaled_dot_product_efficient_attention": lambda a, k, r: _attention(a[0], a[1], a[2]),
    "aten::_scaled_dot_product_cudnn_attention": lambda a, k, r: _attention(a[0], a[1], a[2]),
    "aten::_scaled_dot_product_fused_attention_overrideable": lambda a, k, r: _attention(a[0], a[1], a[2]),
    "aten::_native_multi_head_attention": _native_multi_head_attention,
    "aten::_transformer_encoder_layer_fwd": _transformer_encoder_layer,
    "aten::lstm": _recurrent(4),
    "aten::gru": _recurrent(3),
    "aten::rnn_tanh": _recurrent(1),
    "aten::rnn_relu": _recurrent(1),
    "aten::mkldnn_rnn_layer": _mkldnn_rnn_layer,
}

# Names that may hide products. What matches here has a formula above, is listed below as free, or stops the count.
_SUSPICIOUS = re.compile(
    r"mm|matmul|conv|attention|linear|lstm|gru|rnn|einsum|dot|mv|outer|inner|dist|kron|multi_head|encoder_layer"
    r"|matrix|solve|svd|inverse|orgqr|ormqr|geqrf|_qr$|embedding_bag|chain|fbgemm|pack"
)
# Not products in the sense counted here: interpolation, elementwise maths whose names contain the letters, rotations
# of a vector by scalars, and the
# small factorizations that schedulers do.
_FREE = {
    "aten::upsample_linear1d",
    "aten::upsample_bilinear2d",
    "aten::_upsample_bilinear2d_aa",
    "aten::upsample_trilinear3d",
    "aten::lgamma",
    "aten::digamma",
    "aten::cummax",
    "aten::cummin",
    "aten::linalg_vector_norm",
    "aten::_compute_linear_combination",
    "aten::is_distributed",
    "aten::resolve_conj",
    "aten::linalg_inv_ex",
    "aten::linalg_solve_ex",
    "aten::_linalg_solve_ex",
    "aten::hamming_window",
    "aten::slice_inverse",
    "aten::_nested_tensor_from_mask",
    "aten::_pack_padded_sequence",
    "aten::_pad_packed_sequence",
}
_KNOWN_NAMESPACES = {"aten", "prim", "prims"}


@dataclass
class ReferenceCount:
    """What one real run computed: exact integers.

    Attributes:
        total: MACs inside module forwards and other public methods of components.
        by_component: the same, by the component whose call was the outermost one.
        by_op: the same, by operator.
        in_methods_only: the part of ``total`` that ran in a public method but in no module's forward.
        outside: MACs of operators that ran in no component at all (a scheduler, guidance, post-processing).
        result: what the pipeline returned.
    """

    total: int = 0
    by_component: Counter = field(default_factory=Counter)
    by_op: Counter = field(default_factory=Counter)
    in_methods_only: int = 0
    outside: int = 0
    outside_ops: Counter = field(default_factory=Counter)
    result: Any = None


class _Counter(TorchDispatchMode):
    """Adds the MACs of each operator to the component that is entered at that moment."""

    def __init__(self, components: dict[str, torch.nn.Module]) -> None:
        super().__init__()
        self.count = ReferenceCount()
        self._owner: dict[int, str] = {}
        for name, component in components.items():
            for module in component.modules():
                self._owner.setdefault(id(module), name)
        self._stack: list[str] = []
        self._forwards = 0

    def enter(self, module: torch.nn.Module) -> None:
        # Nested modules belong to the outermost entry; a module made during the run belongs to no component's list.
        self._stack.append(self._stack[0] if self._stack else self._owner.get(id(module), type(module).__name__))

    def leave(self) -> None:
        self._stack.pop()

    def enter_forward(self, module: torch.nn.Module, *_: Any) -> None:
        self._forwards += 1
        self.enter(module)

    def leave_forward(self, module: torch.nn.Module, *_: Any) -> None:
        self._forwards -= 1
        self.leave()

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = kwargs or {}
        name = func._schema.name if hasattr(func, "_schema") else str(func)
        formula = FORMULAS.get(name)
        if formula is None:
            if name.split("::")[0] not in _KNOWN_NAMESPACES:
                raise UnknownOperatorError(f"operator {name} is not one of PyTorch's own")
            if func is not torch.ops.prim.device.default:
                # Composite operators arrive whole under inference mode: count what they are made of.
                with self:
                    result = func.decompose(*args, **kwargs)
                if result is not NotImplemented:
                    return result
            if name not in _FREE and _SUSPICIOUS.search(name):
                raise UnknownOperatorError(f"operator {name} may contain products and has no formula")
            return func(*args, **kwargs)
        result = func(*args, **kwargs)
        macs = int(formula(args, kwargs, result))
        if not self._stack:
            self.count.outside += macs
            self.count.outside_ops[name] += macs
            return result
        self.count.total += macs
        self.count.by_component[self._stack[0]] += macs
        self.count.by_op[name] += macs
        if not self._forwards:
            self.count.in_methods_only += macs
        return result


# Methods of these bases manage a module (move it, save it, list it); they are no way into its computation.
_BASES = ("torch.nn.modules.module", "diffusers.models.modeling_utils", "diffusers.configuration_utils",
          "transformers.modeling_utils", "diffusers.loaders", "diffusers.utils", "transformers.utils",
          "transformers.integrations", "huggingface_hub")  # fmt: skip


def _public_methods(component: torch.nn.Module) -> Iterator[str]:
    for name in dir(type(component)):
        if name.startswith("_") or name == "forward":
            continue
        for base in type(component).__mro__:
            if name in vars(base):
                if inspect.isfunction(vars(base)[name]) and not base.__module__.startswith(_BASES):
                    yield name
                break


@contextlib.contextmanager
def _entered_methods(component: torch.nn.Module, counter: _Counter) -> Iterator[None]:
    """Notes the component as entered while one of its public methods other than ``forward`` runs."""
    wrapped = []
    for name in _public_methods(component):
        if name in vars(component):
            continue
        method = getattr(component, name)

        def call(*args: Any, _method: Callable = method, **kwargs: Any) -> Any:
            counter.enter(component)
            try:
                return _method(*args, **kwargs)
            finally:
                counter.leave()

        functools.update_wrapper(call, method)
        object.__setattr__(component, name, call)
        wrapped.append(name)
    try:
        yield
    finally:
        for name in wrapped:
            vars(component).pop(name, None)


def pipeline_modules(pipe: Any) -> dict[str, torch.nn.Module]:
    """The pipeline's components that are modules, by name; components of nested pipelines by dotted name."""
    modules: dict[str, torch.nn.Module] = {}
    for name, value in pipe.components.items():
        if isinstance(value, torch.nn.Module):
            modules[name] = value
        elif hasattr(value, "components"):
            modules.update({f"{name}.{key}": module for key, module in pipeline_modules(value).items()})
    return modules


def count_real_call(
    function: Callable[..., Any], components: dict[str, torch.nn.Module], **arguments: Any
) -> ReferenceCount:
    """Runs ``function(**arguments)`` for real and counts the products inside forwards and methods of components."""
    counter = _Counter(components)
    before = torch.nn.modules.module.register_module_forward_pre_hook(counter.enter_forward)
    after = torch.nn.modules.module.register_module_forward_hook(counter.leave_forward, always_call=True)
    try:
        with contextlib.ExitStack() as stack:
            for component in components.values():
                stack.enter_context(_entered_methods(component, counter))
            stack.enter_context(counter)
            counter.count.result = function(**arguments)
    finally:
        before.remove()
        after.remove()
    return counter.count


def count_real_run(pipe: Any, **arguments: Any) -> ReferenceCount:
    """Runs ``pipe(**arguments)`` for real on the CPU and counts it.

    Raises:
        UnknownOperatorError: an operator ran that may contain products and has no formula here.
    """
    return count_real_call(pipe, pipeline_modules(pipe), **arguments)
