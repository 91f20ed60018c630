"""Packed weights: products and parameters are those of the layer that was packed."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from diffmeter import count
from diffmeter.metering.counters.live import LiveCount
from diffmeter.metering.counters.packed import LogicalLinear, logical_linear, parameters_of


class Packed4bitLinear(nn.Linear):
    """Two weights in a byte, as bitsandbytes and GGUF keep them."""

    def __init__(self) -> None:
        super().__init__(8, 6)
        self.weight = nn.Parameter(torch.zeros(24, 1, dtype=torch.uint8), requires_grad=False)

    def forward(self, x):
        low, high = self.weight & 15, self.weight >> 4
        return F.linear(x, torch.cat([low, high]).reshape(6, 8).to(x.dtype), self.bias)


@torch.library.custom_op("packed_tests::kernel", mutates_args=())
def kernel(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    return x.new_zeros(*x.shape[:-1], 6)


class KernelLinear(nn.Module):
    """An opaque kernel on integers, and no class of PyTorch's."""

    def __init__(self) -> None:
        super().__init__()
        self.in_features, self.out_features, self.bias = 8, 6, None
        self.register_buffer("qweight", torch.zeros(1, 6, dtype=torch.int32))

    def forward(self, x):
        return torch.ops.packed_tests.kernel(x, self.qweight)


def dynamic() -> nn.Module:
    return torch.ao.quantization.quantize_dynamic(nn.Sequential(nn.Linear(8, 6)), {nn.Linear}, dtype=torch.qint8)[0]


LAYERS = {"4 bit": (Packed4bitLinear, True), "kernel": (KernelLinear, False), "torch.ao": (dynamic, True)}


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.filterwarnings("ignore")
def test_the_layer_that_is_packed(name) -> None:
    make, bias = LAYERS[name]
    assert logical_linear(make()) == LogicalLinear(8, 6, bias)
    net = nn.Sequential(make(), nn.Linear(6, 4))
    assert parameters_of(net) == 8 * 6 + 6 * bias + 6 * 4 + 4
    profile = count(net, torch.ones(2, 8))  # on a twin, or in the run where the code is somebody's own
    assert profile.complete
    assert profile.matmul_macs == 2 * (8 * 6 + 6 * 4)
    assert profile.macs_by_op == {"linear": 2 * (8 * 6 + 6 * 4)}
    live = LiveCount()
    with torch.no_grad(), live.running():
        net(torch.ones(2, 8))
    assert live.count.matmul_macs == 2 * (8 * 6 + 6 * 4)
    assert not live.count.unknown and not live.count.differences


def test_what_is_not_packed() -> None:
    assert logical_linear(nn.Linear(8, 6)) is None
    assert logical_linear(nn.utils.parametrizations.weight_norm(nn.Linear(8, 6))) is None
    masked = type("MaskedLinear", (nn.Linear,), {})(8, 6)
    masked.register_buffer("mask", torch.ones(6, 8, dtype=torch.bool))
    assert logical_linear(masked) is None
    shared = nn.Linear(8, 8)
    assert parameters_of(nn.Sequential(shared, shared)) == 72


@pytest.mark.filterwarnings("ignore:Sparse CSR")
@pytest.mark.parametrize("layout", ["coo", "csr", "csc"])
def test_sparse_weights_count_by_their_elements(layout) -> None:
    weight = torch.zeros(6, 8)
    weight[0, :3] = weight[4, 2] = 1  # 4 elements
    weight = {"coo": weight.to_sparse, "csr": weight.to_sparse_csr, "csc": weight.to_sparse_csc}[layout]()

    class Sparse(nn.Module):
        def forward(self, x):
            return (weight @ x.T).T

    profile = count(Sparse(), torch.ones(5, 8))
    assert profile.complete and profile.matmul_macs == 5 * 4


def test_the_product_of_two_sparse_operands_is_reported() -> None:
    class Both(nn.Module):
        def forward(self, x):
            return torch.sparse.mm(x.to_sparse(), x.to_sparse())

    assert not count(Both(), torch.ones(3, 3)).complete


def test_pruned_layers_count_their_weight() -> None:
    layer = nn.Linear(8, 6)
    layer.weight = nn.Parameter(torch.ones(5, 3))
    layer.bias = None
    profile = count(nn.Sequential(layer), torch.ones(2, 3))
    assert profile.complete and profile.total_macs == 2 * 5 * 3
