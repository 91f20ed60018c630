"""One call of one module."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import diffmeter
from diffmeter import count
from diffmeter.errors import InputError
from tests.zoo import ZOO


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.Linear(8, 24)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = self.qkv(x).unflatten(-1, (3, 2, 4)).permute(2, 0, 3, 1, 4)
        return F.scaled_dot_product_attention(q, k, v)


def test_by_hand() -> None:
    profile = count(Attention(), torch.randn(3, 5, 8))
    linear, attention, softmax = 3 * 5 * 8 * 24, 2 * 3 * 2 * 5 * 5 * 4, 3 * 2 * 5 * 5
    assert profile.matmul_macs == linear + attention
    assert profile.total_macs == linear + attention + softmax
    assert profile.complete
    assert profile.components["module"].class_name == "Attention"
    assert profile.components["module"].params == 8 * 24 + 24


def test_it_takes_keywords_and_methods() -> None:
    vae = ZOO["StableDiffusionPipeline"].build().vae
    decoded = count(vae, z=torch.randn(1, 4, 8, 8), method="decode")
    assert decoded.complete
    assert decoded.components["module"].calls[0].method == "decode"
    assert decoded.matmul_macs > count(vae.decoder, torch.randn(1, 4, 8, 8)).matmul_macs  # post_quant_conv


def test_a_module_on_the_meta_device() -> None:
    with torch.device("meta"):
        module = nn.Conv2d(3, 4, 3, padding=1)
    assert count(module, torch.empty(2, 3, 10, 12, device="meta")).matmul_macs == 2 * 4 * 10 * 12 * 3 * 9


def test_foreign_hooks_are_counted_in_a_run() -> None:
    """A hook that runs the layer twice: a copy of the layer alone would not."""
    layer = nn.Linear(6, 6)
    layer.register_forward_hook(lambda module, inputs, output: F.linear(output, module.weight))
    profile = count(layer, torch.randn(4, 6))
    assert profile.matmul_macs == 2 * 4 * 6 * 6
    assert profile.conditions.kind == "observed"


def test_nothing_is_left_behind() -> None:
    module, state = Attention(), torch.get_rng_state()
    before = {name: dict(vars(part)) for name, part in module.named_modules()}
    count(module, torch.randn(3, 5, 8, generator=torch.Generator().manual_seed(0)))
    assert {name: dict(vars(part)) for name, part in module.named_modules()} == before
    assert torch.equal(torch.get_rng_state(), state)


def test_bad_input() -> None:
    with pytest.raises(InputError, match="not int"):
        count(3)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="no method 'decode'"):
        count(nn.Linear(2, 2), method="decode")
    assert diffmeter.count is count
