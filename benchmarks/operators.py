"""Go through every operator that PyTorch's dispatcher knows, and say of each what a count does with it.

    python benchmarks/operators.py            # what the installed PyTorch has that the table does not know
    python benchmarks/operators.py --write    # write src/diffmeter/metering/counters/operators.json
    python benchmarks/operators.py --hidden   # run PyTorch's own samples of each operator and look inside

An operator has a formula, or is made of others that are looked into, or falls under the first rule below that fits.
The rules are the judgement; the table is their outcome for the operators that there are. What no rule fits ends the
script: a rule is missing. ``--hidden`` is the proof that "no product" is true: it runs the operators on sample inputs
under ``torch.profiler``, which also sees what an operator calls inside, and lists those that hide a product.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import torch.distributed._symmetric_memory
import torch.distributed.tensor

from diffmeter.compat import all_operators, schema_of
from diffmeter.metering.counters import operators
from diffmeter.metering.counters.op_level import OpCounter, has_formula, is_composite, op_name

TABLE = Path(operators.__file__).with_name("operators.json")

#: may hold products, of a number that neither the shapes nor a formula here gives
REPORTED = {
    "factorization, inverse or solver: blocked algorithms of products whose number no shape fixes": r"""
        (aten\.|prims\.)?(_?linalg_(det|eigh?|eigvals|slogdet|solve_ex|svd|cholesky_ex|inv_ex|ldl_\w+|lstsq|lu\w*|pinv
        |solve_triangular|matrix_exp|householder_product)|cholesky\w*|_cholesky_solve_helper|geqrf|ormqr
        |triangular_solve|_spsolve|svd|_compute_linear_combination)""",
    "product of sparse operands, whose number their elements decide": r"""
        aten\.(_cslt_sparse_mm\w*|_sparse_semi_structured_(addmm|linear|mm)|_sparse_sparse_matmul|hspmm
        |_sparse_mm_reduce_impl|sparse_sampled_addmm)""",
    "backward of a product": r"""
        aten\.(?!_?upsample)(\w*(conv|linear|matmul|rnn|lstm|attention|cdist|pdist|sparse_mm_reduce_impl)\w*_backward\w*
        |_cdist_backward|lstm_mps_backward)""",
    "fused kernel with products inside": r"""
        aten\.(_cudnn_attention_forward|_flash_attention_forward_no_dropout_inplace|_triton_\w+|_foreach_mm|_trilinear
        |_mixed_dtypes_linear|quantized_(gru|lstm))|_native\._foreach_mm\w*|inductor\._mm_plus_mm
        |symm_mem\.\w*(_mm|matmul)\w*|quantized\.quantized_\w+_cell_dynamic|mkldnn\._convolution_(transpose_)?pointwise_?
        |mkldnn_prepacked\.conv2d_run|onednn\.qconv\w*_pointwise|_?quantized\.conv_transpose[123]d(_dynamic)?""",
}

#: no product, and named in a profile all the same
LEFT_OUT = {
    "orthonormal basis by Householder reflections, one vector at a time: no product of two operands": r"""
        aten\.linalg_qr""",
}

#: no product; the first that fits
NO_PRODUCT = {
    "test of PyTorch's own": r"aten\.(_test_\w+|_foobar)",
    "communication between devices": r"(c10d|_c10d_functional|_c10d_functional_autograd|_dtensor|symm_mem)\.\w+",
    "bookkeeping: assertions, markers, records of a profiler": r"""
        aten\.(_assert\w*|_print|_make_dep_token|_functional_(assert|sym)\w*|sym_constrain_range\w*|record_stream
        |_linalg_check_errors|_validate_\w+|_has_same_storage_numel|is_\w+|allclose|equal|_is_(all|any)_true
        |_use_(cudnn|miopen)_ctc_loss|_fused_sdp_choice|_cudnn_init_dropout_state|from_file)
        |(profiler|debugprims|debug_mode_ops|export)\.\w+|prims\.(_make_token|_sink_tokens|item)|mkldnn\.(data_ptr|_\w*nbytes)
        |mkldnn\._get_mkldnn_serialized_md|inductor\.(accumulate_grad_|resize_storage_bytes_|_reinterpret_tensor)
        |inductor_prims\.\w+|static_runtime\.(VarTupleUnpack|create_owned_ref|dict_unpack)|aten\._local_scalar_dense""",
    "packing, quantizing or reordering of a weight": r"""
        \w+\.\w*(prepack|unpack|reorder|_pack_|_packed_|convert_weight)\w*|aten\.(_cslt_compress|_to_sparse_semi_structured
        |_sparse_semi_structured_(apply\w*|tile)|_cudnn_rnn_flatten_weight|_?quantize_per\w+|dequantize|int_repr|q_\w+
        |qscheme|_make_per_\w+|_?fake_quantize\w+|_fused_moving_avg_obs\w+|_?weight_norm_interface\w*|lu_unpack)
        |aten\._weight_norm_interface\w*|_?quantized\.\w*(pack|make_quantized_cell_params|rowwise_offsets)\w*
        |quantization\.\w+|onednn\.\w+_prepack\w*""",
    "elementwise": r"""
        aten\.(_foreach_(?!mm)\w+|_amp_\w+|(complex|polar|addr_?|__i\w+__|masked_(fill|scatter)\w*|fill_?|zero_?|_masked_scale
        |_prelu_kernel\w*|prelu|hardswish\w*|glu\w*|_add_relu_?|floor_divide_?|linalg_cross|renorm_?|rrelu\w*|bucketize
        |searchsorted|isin|_conj_copy|_neg_view_copy|affine|_transform_bias_rescale_qkv|_thnn_fused_\w+_cell\w*
        |_dirichlet_grad|_standard_gamma_grad|(hard\w+|elu|softplus|softshrink|leaky_relu|log_sigmoid|threshold)_(backward|forward)
        |hardtanh_backward|native_dropout\w*|_fused_dropout|_fused_(adagrad|adamw?|sgd)_?))
        |quantized\.(add|mul|celu|clamp|elu|hardswish|leaky_relu|prelu|relu6|sigmoid|threshold|dropout)\w*|_quantized\.add
        |onednn\.q(add|mul)\w*|rngprims\.\w+|static_runtime\.(clamp_nan_to_num|signed_log1p)""",
    "primitive of PyTorch's references: elementwise, copy or reduction": r"prims\.(?!svd|fft)\w+",
    "Fourier transform": r"aten\._fft_\w+|prims\.fft_\w+",
    "random numbers": r"""
        aten\.(\w*(bernoulli|binomial|cauchy|exponential|geometric|log_normal|multinomial|normal|poisson|random|randperm
        |randint|randn|rand|uniform|_philox|_sample_dirichlet|_standard_gamma)\w*|_fill_mem_eff_dropout_mask_)""",
    "creation of a tensor": r"""
        aten\.(new_\w+|_new_zeros\w*|empty\w*|_empty\w*|full\w*|ones\w*|zeros\w*|eye|arange|range|linspace|logspace
        |scalar_tensor|\w+_window|tr(il|iu)_indices|fft_r?fftfreq|_efficientzerotensor|affine_grid\w*_backward)""",
    "normalization": r"\w+\.\w*(batch_norm|group_norm|layer_norm|rms_norm|instance_norm)\w*",
    "softmax": r"\w+\.\w*(softmax|logsumexp|logcumsumexp)\w*",
    "pooling": r"\w+\.\w*pool\w*",
    "interpolation": r"aten\.(_?upsample\w+|\w*grid_sampler\w*|cudnn_affine_grid_generator\w*)",
    "loss": r"aten\.\w*(_loss|binary_cross_entropy)\w*",
    "reduction or scan": r"""
        aten\.(_?aminmax|a(ll|ny|max|min|rgmax|rgmin)|_?cum(max|min|prod|sum)\w*|count_nonzero|dist|hash_tensor|kthvalue
        |linalg_vector_norm|linalg__powsum|_?logcumsumexp|mean|median|mode|nan(median|sum)|norm|prod|std|std_mean|sum|trace|var
        |var_mean|max|min|native_norm|_?segment_reduce\w*|_sparse(_csr)?_(sum|prod)\w*|_nested_sum_backward|bincount|hist\w+
        |_histogram\w+|max_unpool[23]d)""",
    "sorting and searching": r"aten\.(sort|topk|_?unique\w*|nonzero\w*|msort|argsort)",
    "reading, writing or sorting by index": r"""
        \w+\.\w*(embedding\w*|index\w*|gather|scatter\w*|select\w*|put_?|take|im2col|col2im|lookup|_slow_\w*2col)|aten\.embedding\w*
        |aten\.(_unsafe_(masked_)?index\w*|index\w*|scatter\w*|masked_select)""",
    "copy, change of layout, padding": r"""
        aten\.(\w*_copy|copy\w*|_copy\w*|_to_\w+|to_\w+|_?lift\w*|\w*pad\w*|_pin_memory|_lazy_clone|_?stack|cat|_chunk_cat|block_diag|constant\w*
        |flip|roll|rot90|repeat\w*|tril_?|triu_?|trace|diag\w*|channel_shuffle|pixel_\w*shuffle|_?resize\w*|set_?|as_strided\w*
        |(unsafe_)?split\w*|unsafe_split\w*|\w*squeeze_|t_|transpose_|detach_|unfold_backward|(slice|diagonal|select)_(backward|scatter)
        |_spdiags|_?coalesced?_?|_?nnz|_dimI|_dimV|(sparse|dense)_dim|sparse_\w+|_sparse_\w+|_convert_indices\w*|_nested\w+|_?mkldnn_(reshape|transpose)_?
        |_unsafe_view|_mkldnn_transpose_?|narrow_copy|_resize_output_?|_coalesced_)|quantized\.cat\w*|static_runtime\.\w+""",
}  # fmt: skip


#: operators of libraries that quantize weights, which need not be installed: what unpacks is no product
OF_LIBRARIES = {
    "packing, quantizing or reordering of a weight": [
        *(f"quanto.{name}" for name in ("quantize_symmetric", "quantize_affine", "dequantize_symmetric", "unpack")),
        *(f"bitsandbytes.{name}_{bits}" for name in ("quantize", "dequantize") for bits in ("4bit", "blockwise")),
        *(f"bitsandbytes.int8_{name}" for name in ("vectorwise_quant", "vectorwise_dequant", "double_quant")),
        "bitsandbytes.int8_mm_dequant",
    ],
}


def packets() -> Iterator[tuple[str, list[Any]]]:
    """Every operator by name (``aten.add``), with its overloads."""
    found: dict[str, list[Any]] = defaultdict(list)
    for full in all_operators():
        namespace, _, rest = full.partition("::")
        name, _, overload = rest.partition(".")
        try:
            func = getattr(getattr(getattr(torch.ops, namespace), name), overload or "default")
        except (AttributeError, RuntimeError):  # without a schema: it cannot be called
            continue
        found[op_name(func)].append(func)
    yield from found.items()


def _overloads(name: str) -> list[Any]:
    namespace, _, short = name.partition(".")
    packet = getattr(getattr(torch.ops, namespace), short, None)
    return [] if packet is None else [getattr(packet, overload) for overload in packet.overloads()]


def _compiled(rules: dict[str, str]) -> list[tuple[str, re.Pattern[str]]]:
    return [(reason, re.compile(re.sub(r"\s+", "", pattern))) for reason, pattern in rules.items()]


_RULES = [(part, _compiled(rules)) for part, rules in
          (("left_out", LEFT_OUT), ("reported", REPORTED), ("no_product", NO_PRODUCT))]  # fmt: skip


def standing(name: str, overloads: list[Any]) -> tuple[str, str] | None:
    """Which part of the table an operator belongs to, and why; None if no rule fits."""
    if any(has_formula(func) for func in overloads):
        return "formula", ""
    if all(is_composite(func) for func in overloads):
        return "looked_into", ""
    by_name = next(
        ((part, reason) for part, rules in _RULES for reason, pattern in rules if pattern.fullmatch(name)), None
    )
    if by_name is not None and by_name[0] != "no_product":
        return by_name
    reason = _by_declaration(name, overloads) or (by_name[1] if by_name else None)
    return None if reason is None else ("no_product", reason)


def _by_declaration(name: str, overloads: list[Any]) -> str | None:
    """Why an operator is no product by what PyTorch declares of it; None where that does not say it."""
    if any(torch.Tag.pointwise in func.tags for func in (*overloads, *_overloads(name.rstrip("_")))):
        return "elementwise"
    schemas = [schema for schema in map(schema_of, overloads) if schema is not None]
    aliases = (result.alias_info for schema in schemas for result in schema.returns)
    if any(alias is not None and not alias.is_write for alias in aliases):
        return "view"
    if not any("Tensor" in str(argument.type) for schema in schemas for argument in schema.arguments):
        return "creation of a tensor, or none at all"
    return None


def table() -> tuple[dict[str, Any], list[str]]:
    """What ``operators.json`` holds for the installed PyTorch, and the operators that no rule fits."""
    parts: dict[str, dict[str, list[str]]] = {"no_product": {}, "left_out": {}, "reported": {}}
    others: dict[str, list[str]] = {"formula": [], "looked_into": []}
    missing = []
    for name, overloads in packets():
        found = standing(name, overloads)
        if found is None:
            missing.append(name)
        elif found[0] in others:
            others[found[0]].append(name)
        else:
            parts[found[0]].setdefault(found[1], []).append(name)
    for reason, names in OF_LIBRARIES.items():
        parts["no_product"].setdefault(reason, []).extend(names)
    return {"torch": str(torch.__version__), **parts, **others}, missing


def hidden_products() -> Iterator[str]:
    """Operators that run a product inside where the count finds none and reports nothing."""
    from torch.testing._internal.common_methods_invocations import op_db

    products = re.compile(
        r"aten::(mm|addmm|bmm|baddbmm|mv|dot|vdot|matmul|addmv|convolution|_convolution|linear|addbmm)"
    )
    for info in op_db:
        if torch.float32 not in info.dtypes:
            continue
        try:
            for sample in list(info.sample_inputs("cpu", torch.float32))[:12]:
                with torch.no_grad(), torch.profiler.profile() as profiler, OpCounter() as counter:
                    info.op(sample.input, *sample.args, **sample.kwargs)
                inside = Counter(event.name for event in profiler.events() if products.fullmatch(event.name))
                if inside and not counter.tally.macs and not counter.tally.unknown:
                    yield f"{info.name}: {dict(inside)}"
                    break
        except Exception as error:
            print(f"{info.name}: not tried: {type(error).__name__}", file=sys.stderr)


def main() -> int:
    """The command line; 1 if something is missing."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--hidden", action="store_true")
    options = parser.parse_args()
    if options.hidden:
        found = list(hidden_products())
        print("\n".join(found) or "no operator hides a product")
        return bool(found)
    data, missing = table()
    if missing:
        print("no rule fits:", *missing, sep="\n  ")
        return 1
    if options.write:
        TABLE.write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")
    print({part: sum(map(len, names.values())) if isinstance(names, dict) else len(names)
           for part, names in data.items() if part != "torch"})  # fmt: skip
    return 0


if __name__ == "__main__":
    sys.exit(main())
