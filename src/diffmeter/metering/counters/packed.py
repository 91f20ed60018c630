"""Linear layers that pack their weight: which layer of plain numbers each stands for.

Quantized layers keep a weight in integers, several to a byte, in an opaque object or in a tensor class of their own.
Their products and parameters are those of the layer that was quantized, of ``in_features`` x ``out_features``.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import nn


class LogicalLinear(NamedTuple):
    """The linear layer that a packed one stands for."""

    in_features: int
    out_features: int
    bias: bool

    @property
    def parameters(self) -> int:
        """Elements of weight and bias."""
        return self.out_features * (self.in_features + self.bias)


def logical_linear(module: nn.Module) -> LogicalLinear | None:
    """The layer that ``module`` stands for; None where it is no linear layer, or one whose weight is not packed.

    A packed layer is known by what it has: a class that is named a linear layer, both sizes, and a weight that is no
    floating-point tensor of these sizes.
    """
    sizes = getattr(module, "in_features", None), getattr(module, "out_features", None)
    if type(module) is nn.Linear or "linear" not in type(module).__name__.lower():
        return None
    if not all(type(size) is int for size in sizes) or not _is_packed(module, (sizes[1], sizes[0])):
        return None
    bias = getattr(module, "bias", None)
    if callable(bias) and not isinstance(bias, torch.Tensor):  # a method, in torch.ao
        bias = bias()
    return LogicalLinear(*sizes, bias is not None)  # type: ignore[arg-type]


def is_packed_convolution(module: nn.Module) -> bool:
    """Whether ``module`` is a convolution of a class of its own that keeps its weight in a tensor of its own kind."""
    weight = dict(module.named_parameters(recurse=False)).get("weight")
    return isinstance(module, (nn.Conv1d, nn.Conv2d, nn.Conv3d)) and weight is not None and not _is_plain(weight)


def _is_plain(tensor: torch.Tensor) -> bool:
    return type(tensor) in (torch.Tensor, nn.Parameter)


def _is_packed(module: nn.Module, shape: tuple[object, object]) -> bool:
    weight = dict(module.named_parameters(recurse=False)).get("weight")
    if weight is not None and _is_plain(weight) and weight.is_floating_point() and tuple(weight.shape) == shape:
        return False
    own = (*module.parameters(recurse=False), *module.buffers(recurse=False))
    if any(not _is_plain(tensor) or not tensor.is_floating_point() for tensor in own):
        return True
    return any(isinstance(value, torch.ScriptObject) for holder in _holders(module) for value in vars(holder).values())


def _holders(module: nn.Module) -> Iterator[nn.Module]:
    """The module, and children that hold its packed weight and nothing else."""
    yield module
    for child in module.children():
        if "packed" in type(child).__name__.lower():
            yield child


def parameters_of(root: nn.Module) -> int:
    """Parameters of a module tree, each once, packed linear layers with those of the layers that they stand for."""
    return sum(parameters_by_module(root).values())


def parameters_by_module(root: nn.Module) -> dict[str, int]:
    """The parameters that each module of a tree has itself, by path; one that is shared belongs to the first."""
    layers = {path: layer for path, module in root.named_modules() if (layer := logical_linear(module)) is not None}
    packed = {id(p) for path in layers for p in root.get_submodule(path).parameters()}
    seen: set[int] = set()
    found = {}
    for path, module in root.named_modules():
        layer = layers.get(path)
        if layer is None:
            own = {id(p): _numel(p) for p in module.parameters(recurse=False) if id(p) not in packed}
        else:
            weights = list(module.parameters())
            # layers that share a packed weight are one, as layers that share a plain one are
            own = {id(weights[0]) if weights else id(module): layer.parameters}
        found[path] = sum(count for key, count in own.items() if key not in seen)
        seen.update(own)
    return found


def _numel(parameter: torch.Tensor) -> int:
    """Elements of a weight as the model knows it, also where bitsandbytes packs several into a byte."""
    shape = getattr(getattr(parameter, "quant_state", None), "shape", None)
    return int(parameter.numel()) if shape is None else int(torch.Size(shape).numel())
