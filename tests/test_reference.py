"""The reference counter itself: against numbers worked out by hand, and against PyTorch's own counter."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from tests.reference import UnknownOperatorError, count_real_call


class Wrapped(nn.Module):
    """Runs one function inside a module's forward."""

    def __init__(self, function, **modules):
        super().__init__()
        self.function = function
        for name, module in modules.items():
            setattr(self, name, module)

    def forward(self, *inputs):
        return self.function(self, *inputs)


def count(function, *inputs, grad=False, **modules):
    module = Wrapped(function, **modules).eval()
    with torch.set_grad_enabled(grad):
        return count_real_call(lambda: module(*inputs), {"it": module})


HAND = {
    # linear 3 -> 5 on 2 x 7 rows: 2 * 7 * 3 * 5
    "linear": (lambda m, x: F.linear(x, torch.ones(5, 3)), [(2, 7, 3)], 210),
    # [2, 3] @ [3]: 6
    "mv": (lambda m, x, y: x @ y, [(2, 3), (3,)], 6),
    # [3] . [3]
    "dot": (lambda m, x, y: x @ y, [(3,), (3,)], 3),
    # [4, 2, 3] @ [4, 3, 5]: 4 * 2 * 3 * 5
    "bmm": (lambda m, x, y: x @ y, [(4, 2, 3), (4, 3, 5)], 120),
    "baddbmm": (lambda m, x, y: torch.baddbmm(torch.ones(4, 2, 5), x, y), [(4, 2, 3), (4, 3, 5)], 120),
    "einsum": (lambda m, x, y: torch.einsum("bnk,bkm->bnm", x, y), [(4, 2, 3), (4, 3, 5)], 120),
    # 3x3 convolution, 4 -> 6 channels, 5 x 5 outputs: 25 * 6 * 4 * 9
    "conv2d": (lambda m, x: F.conv2d(x, torch.ones(6, 4, 3, 3), padding=1), [(1, 4, 5, 5)], 5400),
    # the same in 2 groups: half
    "grouped": (lambda m, x: F.conv2d(x, torch.ones(6, 2, 3, 3), padding=1, groups=2), [(1, 4, 5, 5)], 2700),
    # transposed 4 -> 6, kernel 4, stride 2 on length 5: 5 * 4 * 6 * 4
    "transposed": (lambda m, x: F.conv_transpose1d(x, torch.ones(4, 6, 4), stride=2), [(1, 4, 5)], 480),
    "conv3d": (lambda m, x: F.conv3d(x, torch.ones(2, 3, 1, 2, 2)), [(1, 3, 2, 4, 4)], 2 * 2 * 9 * 3 * 4),
    # 2 heads, 5 queries, 7 keys, head size 4, value size 4: 2 * 5 * 7 * (4 + 4)
    "sdpa": (
        lambda m, q, k, v: F.scaled_dot_product_attention(q, k, v),
        [(1, 2, 5, 4), (1, 2, 7, 4), (1, 2, 7, 4)],
        560,
    ),
    # grouped queries: 4 query heads over 2 key heads: 4 * 5 * 7 * 8
    "gqa": (
        lambda m, q, k, v: F.scaled_dot_product_attention(q, k, v, enable_gqa=True),
        [(1, 4, 5, 4), (1, 2, 7, 4), (1, 2, 7, 4)],
        1120,
    ),
    # a value size that the fused kernel refuses: 2 * 5 * 7 * (4 + 6), through the maths path
    "unequal": (
        lambda m, q, k, v: F.scaled_dot_product_attention(q, k, v),
        [(1, 2, 5, 4), (1, 2, 7, 4), (1, 2, 7, 6)],
        700,
    ),
}


@pytest.mark.parametrize("name", HAND)
@pytest.mark.parametrize("mode", ["no_grad", "inference"])
def test_formulas_by_hand(name, mode):
    function, shapes, macs = HAND[name]
    with torch.inference_mode(mode == "inference"):
        assert count(function, *[torch.randn(s) for s in shapes]).total == macs


def test_multi_head_attention_fast_path_equals_its_parts():
    attention = nn.MultiheadAttention(8, 2, batch_first=True)
    x = torch.randn(3, 5, 8)
    fast = count(lambda m, x: m.attention(x, x, x, need_weights=False), x, attention=attention)
    assert set(fast.by_op) == {"aten::_native_multi_head_attention"}
    # 3 samples: projections 4 * 5 * 8 * 8, scores and sums 2 * 5 * 5 * 8
    assert fast.total == 3 * (4 * 5 * 64 + 2 * 25 * 8)
    slow = count(lambda m, x: m.attention(x, x, x, need_weights=False), x, attention=attention, grad=True)
    assert slow.total == fast.total


def test_encoder_layer_fast_path_equals_its_parts():
    layer = nn.TransformerEncoderLayer(8, 2, 12, batch_first=True, dropout=0.0)
    x = torch.randn(3, 5, 8)
    fast = count(lambda m, x: m.layer(x), x, layer=layer)
    assert set(fast.by_op) == {"aten::_transformer_encoder_layer_fwd"}
    assert fast.total == 3 * (4 * 5 * 64 + 2 * 25 * 8 + 2 * 5 * 8 * 12)
    assert count(lambda m, x: m.layer(x), x, layer=layer, grad=True).total == fast.total


def test_recurrent_layers():
    # LSTM, 3 -> 4, 2 layers, 7 steps, batch 2: 14 * 4 * (4 * 3 + 4 * 4 + 4 * 4 + 4 * 4)
    lstm = nn.LSTM(3, 4, num_layers=2)
    assert count(lambda m, x: m.lstm(x), torch.randn(7, 2, 3), lstm=lstm).total == 14 * 4 * (12 + 16 + 16 + 16)
    gru = nn.GRU(3, 4, bidirectional=True)
    assert count(lambda m, x: m.gru(x), torch.randn(7, 2, 3), gru=gru).total == 14 * 3 * (12 + 16) * 2


@pytest.mark.parametrize("seed", range(3))
def test_against_flop_counter_mode(seed):
    """PyTorch's own counter has no formula for the fused CPU kernel, so attention is forced onto the maths path."""
    torch.manual_seed(seed)
    heads = 2 + seed
    block = nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2, padding=1),
        nn.ConvTranspose2d(8, 4, 4, stride=2, groups=2),
        nn.Flatten(2),
        nn.LazyLinear(8 * heads),
        nn.TransformerEncoderLayer(8 * heads, heads, 16, batch_first=True),
    )
    x = torch.randn(1 + seed, 3, 6, 6)
    with torch.enable_grad():
        block(x)
        block.eval()
        with (
            torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH),
            FlopCounterMode(display=False) as flops,
        ):
            block(x)
        reference = count_real_call(lambda: block(x), {"block": block})
    assert "aten::_scaled_dot_product_flash_attention_for_cpu" in reference.by_op
    assert 2 * reference.total == flops.get_total_flops()


def test_products_outside_modules_are_kept_apart():
    module = nn.Linear(3, 5)

    def run():
        torch.ones(2, 3) @ torch.ones(3, 4)
        return module(torch.ones(2, 3))

    with torch.no_grad():
        reference = count_real_call(run, {"linear": module})
    assert (reference.total, reference.outside) == (30, 24)
    assert reference.by_component == {"linear": 30}


def test_public_methods_are_entries_of_a_component():
    class Codec(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = nn.Linear(3, 5)

        def decode(self, x):
            return self.inner(x) @ torch.ones(5, 2)

    codec = Codec()
    with torch.no_grad():
        reference = count_real_call(lambda: codec.decode(torch.ones(1, 3)), {"vae": codec})
    assert reference.total == 15 + 10
    assert reference.in_methods_only == 10
    assert "decode" not in vars(codec)


def test_an_operator_without_a_formula_stops_the_count():
    bilinear = nn.Bilinear(2, 3, 4)
    with pytest.raises(UnknownOperatorError, match="trilinear"):
        count(lambda m, x, y: m.bilinear(x, y), torch.ones(1, 2), torch.ones(1, 3), bilinear=bilinear)


def test_hooks_and_wrappers_are_gone_after_an_exception():
    def fail(m):
        raise KeyError("inside")

    def hooks():
        module = torch.nn.modules.module
        return dict(module._global_forward_pre_hooks), dict(module._global_forward_hooks)

    module, before = Wrapped(fail), hooks()
    with pytest.raises(KeyError):
        count_real_call(lambda: module(), {"it": module})
    assert hooks() == before
