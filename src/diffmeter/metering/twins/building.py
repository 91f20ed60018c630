"""Twins: copies of a component's structure whose tensors lie on the meta device.

A twin has the same layers, classes and flags, takes no memory, and shares nothing that can be changed with the
module it stands for. Hooks of the run (offloading, casting, caches, the user's) are left behind; attention that
runs through a special kernel is put back to PyTorch's own.
"""

from __future__ import annotations

import collections
import copy
import logging
from typing import Any

import torch
from torch import nn

from diffmeter.compat import (
    attention_implementation,
    own_buffers,
    own_parameters,
    set_attention_implementation,
    unseen,
    use_native_backend,
)
from diffmeter.metering.counters.packed import LogicalLinear, is_packed_convolution, logical_linear
from diffmeter.metering.watching.signature import ATOMS, INTEGER_VALUES_LIMIT, TensorSpec
from diffmeter.metering.watching.snapshot import BASE_KEYS, SHARED_KEYS, ModuleSnapshot, Part, no_garbage_collection
from diffmeter.metering.watching.trust import belongs_to_model

logger = logging.getLogger(__name__)

#: instance attributes that belong to the run, not to the model
_RUN_KEYS = frozenset({"forward", "_old_forward", "_hf_hook", "_diffusers_hook"})
_HOOK_TABLES = (
    "_forward_hooks",
    "_forward_pre_hooks",
    "_backward_hooks",
    "_backward_pre_hooks",
    "_state_dict_hooks",
    "_state_dict_pre_hooks",
    "_load_state_dict_pre_hooks",
    "_load_state_dict_post_hooks",
    "_forward_hooks_with_kwargs",
    "_forward_hooks_always_called",
    "_forward_pre_hooks_with_kwargs",
)


def build_twin(structure: ModuleSnapshot) -> nn.Module:
    """The twin of a structure.

    Raises:
        CountError: an attribute cannot be copied.
    """
    with no_garbage_collection(), unseen():
        return _build(structure, structure.parts)


def _build(structure: ModuleSnapshot, parts: list[Part]) -> nn.Module:
    memo: dict[int, Any] = {}
    for part in parts:
        memo[id(part.module)] = object.__new__(_class_of_twin(part))
    for part in parts:
        for tensor in (*part.parameters.values(), *part.buffers.values()):
            if tensor is not None and id(tensor) not in memo:
                memo[id(tensor)] = _meta_tensor(tensor)
    for value, attributes in structure.helpers.values():
        if not isinstance(value, _SHARED_TYPES):
            try:
                clone = copy.copy(value)
            except Exception:
                continue
            if clone is value:  # it cannot be copied, and must not be written to
                continue
            memo[id(value)] = clone
            clone.__dict__.clear()
            clone.__dict__.update({name: _copy(item, memo) for name, item in attributes.items()})
    for part in parts:
        _fill(memo[id(part.module)], part, memo)
    for part in structure.altered:
        _use_compute_dtype(memo[id(part.module)], part)
    root: nn.Module = memo[id(structure.root)]
    for part in parts:
        layer = logical_linear(part.module)
        if layer is not None:
            _use_plain_weight(memo[id(part.module)], layer)
    for module in root.modules():
        _use_native_attention(module)
    return root


_SHARED_TYPES = (torch.Generator, torch.nn.Module, torch.ScriptObject)


def _fill(twin: nn.Module, part: Part, memo: dict[int, Any]) -> None:
    values: dict[str, Any] = {}
    for name, value in part.attributes.items():
        if name in _RUN_KEYS or name in ("_modules", "_parameters", "_buffers"):
            continue
        if name in _HOOK_TABLES:
            values[name] = collections.OrderedDict()
        elif name in BASE_KEYS:
            values[name] = set(value) if isinstance(value, set) else value
        elif isinstance(value, ATOMS) or name in SHARED_KEYS:
            values[name] = value
        else:
            values[name] = _copy(value, memo)
    if "_compiled_call_impl" in values:
        values["_compiled_call_impl"] = None
    values["_modules"] = {name: None if m is None else memo[id(m)] for name, m in part.modules.items()}
    values["_parameters"] = {name: None if p is None else memo[id(p)] for name, p in part.parameters.items()}
    values["_buffers"] = {name: None if b is None else memo[id(b)] for name, b in part.buffers.items()}
    for key, hooks in part.hooks.items():
        for number, hook in hooks.items():
            if belongs_to_model(hook):
                values[key][number] = _copy(hook, memo)
                for flag in (f"{key}_with_kwargs", f"{key}_always_called"):
                    if number in part.attributes.get(flag, ()):
                        values[flag][number] = True
    twin.__dict__.update(values)


def _copy(value: Any, memo: dict[int, Any]) -> Any:
    if isinstance(value, (*ATOMS, torch.ScriptObject)):  # a packed weight: nothing on a twin reads it
        return value
    value = getattr(value, "_torchdynamo_orig_callable", value)  # what was compiled: a method is bound to the twin
    known = memo.get(id(value))
    if known is not None:
        return known
    if isinstance(value, TensorSpec):
        return torch.empty(value.shape, dtype=value.dtype, device="meta")
    if isinstance(value, torch.Tensor):
        return _meta_tensor(value)
    if type(value) in (list, tuple):
        return type(value)(_copy(item, memo) for item in value)
    if type(value) is dict:
        return {name: _copy(item, memo) for name, item in value.items()}
    try:
        return copy.deepcopy(value, memo)
    except Exception:  # a lock, a stream, a file: nothing that decides the count
        logger.debug("shared with the twin, since it cannot be copied: %r", type(value))
        return value


def _meta_tensor(tensor: torch.Tensor) -> torch.Tensor:
    if not tensor.is_floating_point() and not tensor.is_complex() and not tensor.is_meta:
        if tensor.numel() <= INTEGER_VALUES_LIMIT and type(tensor) is torch.Tensor:
            return tensor.detach().to("cpu", copy=True)  # positions and index tables may decide a shape
    meta = torch.empty(tensor.shape, dtype=tensor.dtype, device="meta")
    if isinstance(tensor, nn.Parameter):
        return nn.Parameter(meta, requires_grad=False)
    return meta


def _use_compute_dtype(twin: nn.Module, part: Part) -> None:
    """Weights that a hook casts for each call have the type that they are computed in."""
    registry = part.attributes.get("_diffusers_hook")
    hooks = [*(registry.hooks.values() if registry is not None else ()), part.attributes.get("_hf_hook")]
    dtype = next((h.compute_dtype for h in hooks if type(h).__name__ == "LayerwiseCastingHook"), None)
    if dtype is None:
        return
    tables: Any = (own_parameters(twin), own_buffers(twin))
    for tensors in tables:
        for name, tensor in tensors.items():
            if tensor is not None and tensor.is_floating_point():
                cast = torch.empty(tensor.shape, dtype=dtype, device="meta")
                tensors[name] = nn.Parameter(cast, requires_grad=False) if isinstance(tensor, nn.Parameter) else cast


def _class_of_twin(part: Part) -> type[nn.Module]:
    """A quantized layer packs its weight; its products are those of a plain one of the same size."""
    if is_packed_convolution(part.module):
        return next(kind for kind in (nn.Conv1d, nn.Conv2d, nn.Conv3d) if issubclass(part.cls, kind))
    return part.cls if logical_linear(part.module) is None else nn.Linear


def _use_plain_weight(twin: nn.Module, layer: LogicalLinear) -> None:
    dtype = next((p.dtype for p in twin.parameters() if p.is_floating_point()), torch.get_default_dtype())

    def weight(*shape: int) -> nn.Parameter:
        return nn.Parameter(torch.empty(shape, dtype=dtype, device="meta"), requires_grad=False)

    for name in [name for name, _ in twin.named_children()]:
        delattr(twin, name)
    table = own_parameters(twin)
    table.clear()
    table["weight"] = weight(layer.out_features, layer.in_features)
    table["bias"] = weight(layer.out_features) if layer.bias else None


def _use_native_attention(module: nn.Module) -> None:
    """Whatever kernel attention used in the run, its products are those of PyTorch's own implementation."""
    processor: Any = getattr(module, "processor", None)
    use_native_backend(processor)
    if "XFormers" in type(processor).__name__ and hasattr(module, "set_use_memory_efficient_attention_xformers"):
        module.set_use_memory_efficient_attention_xformers(False)  # type: ignore[operator]
    config: Any = getattr(module, "config", None)
    if "flash" in str(attention_implementation(config)):
        config = copy.copy(config)
        set_attention_implementation(config, "sdpa")
        module.config = config
