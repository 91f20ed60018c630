"""PyTorch's counters made exact: hand calculation, published tables, and the unfused mathematics as reference."""

from __future__ import annotations

import importlib.util
import json
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from diffmeter.metering.builtin import (
    AS_SHIPPED,
    CLOSED_FORM,
    EXACT,
    PROFILER,
    THOP,
    CounterComparison,
    FlopReport,
    ProfilerReport,
    compare_counters,
    count_flops,
    flop_report,
    profile_with_flops,
)


@pytest.fixture(scope="module")
def shapes() -> ModuleType:
    """The modules of the example: tests and users run the same code."""
    path = Path(__file__).parents[2] / "examples" / "builtin_counters.py"
    spec = importlib.util.spec_from_file_location("builtin_counters", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Attention(nn.Module):
    """Grouped-query attention with keys that are fewer than queries, if asked for."""

    def __init__(self, kv_heads: int = 4) -> None:
        super().__init__()
        self.kv_heads = kv_heads
        self.query, self.key_value = nn.Linear(32, 32), nn.Linear(32, 2 * 8 * kv_heads)

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        q = self.query(x).unflatten(-1, (4, 8)).transpose(1, 2)
        k, v = self.key_value(context).unflatten(-1, (2, self.kv_heads, 8)).permute(2, 0, 3, 1, 4)
        return F.scaled_dot_product_attention(q, k, v, enable_gqa=self.kv_heads != 4).transpose(1, 2).flatten(2)


def test_linear_by_hand() -> None:
    # 6 rows x 4 x 5, 2 FLOPs each; backward: weight's gradient, and none for an input that needs none
    model, x = nn.Linear(4, 5), torch.ones(2, 3, 4)
    assert count_flops(model, x) == 2 * 6 * 4 * 5
    assert count_flops(model, x, with_backward=True) == 2 * (2 * 6 * 4 * 5)
    assert count_flops(model, x.requires_grad_(), with_backward=True) == 3 * (2 * 6 * 4 * 5)


@pytest.mark.parametrize("device", ["cpu", "meta"])
@pytest.mark.parametrize("kv_heads", [4, 2])
def test_attention_by_hand(device: str, kv_heads: int) -> None:
    with torch.device(device):
        model, x, context = Attention(kv_heads), torch.ones(2, 6, 32), torch.ones(2, 9, 32)
    projections = 2 * (2 * 6 * 32 * 32) + 2 * (2 * 9 * 32 * 2 * 8 * kv_heads)
    one_product = 2 * (2 * 4 * 6 * 9 * 8)
    assert count_flops(model, (x, context)) == projections + 2 * one_product
    report = flop_report(model, (x, context), with_backward=True)
    # four products backward (gradients of weights, value, query, key); inputs need no gradient, weights do
    mathematics = 2 * projections + 6 * one_product
    assert report.total_flops - report.recomputed_attention_flops == mathematics
    # the fused kernel of the CPU computes the scores a second time; unfused attention keeps them
    assert report.recomputed_attention_flops == (one_product if device == "cpu" else 0)


def test_backward_of_cpu_attention_equals_the_unfused_mathematics() -> None:
    model, x = Attention(), torch.randn(2, 6, 32, requires_grad=True)
    fused = flop_report(model, (x, x), with_backward=True)
    with sdpa_kernel(SDPBackend.MATH):
        unfused = flop_report(model, (x, x), with_backward=True)
    assert "aten.bmm" in unfused.by_operator and unfused.recomputed_attention_flops == 0
    assert fused.total_flops - fused.recomputed_attention_flops == unfused.total_flops


@pytest.mark.parametrize("groups", [1, 2, 8])
@pytest.mark.parametrize("transposed", [False, True])
def test_convolution_backward_costs_twice_its_forward(groups: int, transposed: bool) -> None:
    kind = nn.ConvTranspose2d if transposed else nn.Conv2d
    model, x = kind(8, 16, 3, stride=2, groups=groups), torch.randn(3, 8, 9, 7, requires_grad=True)
    # each output (input, if transposed) position meets 16 x 8 / groups x 9 weights
    positions = 3 * (9 * 7 if transposed else 4 * 3)
    forward = 2 * positions * 16 * 8 // groups * 9
    assert count_flops(model, x) == forward
    assert count_flops(model, x, with_backward=True) == 3 * forward


def test_grouped_convolution_equals_its_groups_run_alone() -> None:
    # An independent count: the groups as separate ungrouped convolutions, by PyTorch's own formulas.
    x = torch.randn(2, 8, 10, 10, requires_grad=True)
    parts = [nn.Conv2d(2, 3, 3) for _ in range(4)]
    with FlopCounterMode(display=False) as mode:
        torch.cat([part(piece) for part, piece in zip(parts, x.split(2, 1), strict=True)], 1).sum().backward()
    assert count_flops(nn.Conv2d(8, 12, 3, groups=4), x, with_backward=True) == mode.get_total_flops()


def test_resnet18_meets_the_published_table(shapes: ModuleType) -> None:
    # torchvision's table of models: 11,689,512 parameters and 1.81 G multiply-adds at 224 x 224
    # (https://docs.pytorch.org/vision/stable/models.html)
    model = shapes.meta(shapes.ResNet18)
    assert sum(p.numel() for p in model.parameters()) == 11_689_512
    flops = count_flops(model, torch.empty(1, 3, 224, 224, device="meta"))
    # by hand: stem 64*147*112^2; stage 1: 4 convolutions of 36,864 weights on 56^2; then each stage has half the side:
    # one of half the inputs, three full ones, and the 1 x 1 shortcut; head 512 x 1000
    macs = 64 * 3 * 49 * 112**2 + 4 * 64 * 64 * 9 * 56**2
    for width, side in ((128, 28), (256, 14), (512, 7)):
        macs += side**2 * (width * width // 2 * 9 + 3 * width * width * 9 + width * width // 2)
    macs += 512 * 1000
    assert flops == 2 * macs
    assert round(macs / 1e9, 2) == 1.81


def test_vit_meets_the_published_table_and_its_closed_form(shapes: ModuleType) -> None:
    # torchvision: ViT-B/16 has 86,567,656 parameters and 17.56 G multiply-adds
    model = shapes.meta(shapes.VisionTransformer)
    assert sum(p.numel() for p in model.parameters()) == 86_567_656
    flops = count_flops(model, torch.empty(1, 3, 224, 224, device="meta"))
    assert flops == sum(shapes.vit_closed_form(224, 16, 768, 12, 1000).values())
    assert flops / 2e9 == pytest.approx(17.56, abs=0.01)


def test_unet_with_tuple_input_and_dictionary_output(shapes: ModuleType) -> None:
    torch.manual_seed(0)
    model, w = shapes.UNet(8), 8
    forward = 2 * (
        256 * 4 * w * 9 + 64 * w * 2 * w * 9 + 2 * w  # in, down, time
        + 64 * 2 * w * 8 * w + 2 * 64 * 64 * 2 * w  # attention: projections (3 + 1) x (2w)^2, two products
        + 64 * 2 * w * w * 4 + 256 * 2 * w * 4 * 9  # up (each input position to 2 x 2), out
    )  # fmt: skip
    inputs = (torch.randn(1, 4, 16, 16), torch.zeros(1))
    assert count_flops(model, inputs) == forward
    assert count_flops(model, {"sample": inputs[0], "timestep": inputs[1]}) == forward
    backward = flop_report(model, inputs, with_backward=True)
    # every product has two gradients, but the images and the time need none: those of "in" and "time" fall away
    skipped = 2 * (256 * 4 * w * 9 + 2 * w)
    assert backward.total_flops - backward.recomputed_attention_flops == 3 * forward - skipped


def test_scaling_with_sequence_length() -> None:
    model = Attention()

    def flops(n: int) -> int:
        x = torch.ones(1, n, 32)
        return count_flops(model, (x, x))

    linear, quadratic = 2 * 32 * 32 * 3, 2 * 2 * 32
    for n in (8, 16, 64):
        assert flops(n) == linear * n + quadratic * n * n


def test_scaling_with_image_size_and_batch(shapes: ModuleType) -> None:
    model = shapes.meta(shapes.ResNet18)

    def flops(batch: int, side: int) -> int:
        return count_flops(model, torch.empty(batch, 3, side, side, device="meta"))

    head = 2 * 512 * 1000  # the only layer after the image is pooled away
    assert flops(1, 448) - head == 4 * (flops(1, 224) - head)
    assert flops(8, 224) == 8 * flops(1, 224)


def test_windowed_attention_is_linear_where_global_attention_is_quadratic(shapes: ModuleType) -> None:
    with torch.device("meta"):
        whole, windowed = shapes.SelfAttention(64, 4), shapes.SelfAttention(64, 4, window=14)

    def attended(model: nn.Module, side: int) -> int:
        tokens = side * side
        return count_flops(model, torch.empty(1, tokens, 64, device="meta")) - 2 * tokens * 64 * 4 * 64

    # 70 x 70 tokens, all against all, or 25 windows of 14 x 14: 25 times fewer products
    assert attended(whole, 70) == 2 * 2 * (70 * 70) ** 2 * 64
    assert attended(windowed, 70) == 25 * 2 * 2 * (14 * 14) ** 2 * 64
    assert attended(whole, 70) == 25 * attended(windowed, 70)


def test_fused_inference_paths_are_counted() -> None:
    # nn.TransformerEncoderLayer in evaluation mode: packed projections 3*e*e, output e*e, feed-forward 2*e*f
    layer, x = nn.TransformerEncoderLayer(16, 4, 24, batch_first=True), torch.randn(2, 6, 16)
    assert count_flops(layer, x) == 2 * 12 * (4 * 16 * 16 + 2 * 16 * 24) + 2 * 2 * 2 * 6 * 6 * 16
    # an LSTM multiplies input and hidden state by four gates at each of 6 steps
    assert count_flops(nn.LSTM(8, 5, batch_first=True), torch.randn(2, 6, 8)) == 2 * 2 * 6 * 4 * 5 * (8 + 5)

    # matrix-vector and dot products
    class Vectors(nn.Module):
        def forward(self, a: Tensor, b: Tensor) -> Tensor:
            return torch.dot(torch.mv(a, b), torch.ones(3))

    assert count_flops(Vectors(), (torch.ones(3, 4), torch.ones(4))) == 2 * 3 * 4 + 2 * 3


@dataclass
class Out:
    hidden: list[Tensor]
    spectrum: Tensor
    index: Tensor


class ManyOutputs(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x: Tensor, flag: bool = True) -> Out:
        spectrum = torch.fft.fft(self.b(x)) if flag else self.b(x).detach()
        return Out([self.a(x), x], spectrum, x.argmax())


def test_backward_from_outputs_that_are_no_single_tensor() -> None:
    one = 2 * 3 * 4 * 4
    x = torch.randn(3, 4)
    assert count_flops(ManyOutputs(), x, with_backward=True) == 4 * one
    # a detached output has no backward, the others do
    assert count_flops(ManyOutputs(), {"x": x, "flag": False}, with_backward=True) == 3 * one


def test_nothing_is_left_behind() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout(), nn.Flatten(), nn.Linear(4 * 36, 2))
    model.train()
    model[1].eval()  # one module of the user's choice stays in evaluation mode
    x = torch.randn(2, 3, 8, 8)
    model(x).sum().backward()
    gradients = [p.grad for p in model.parameters()]
    copies = [p.grad.clone() for p in model.parameters() if p.grad is not None]
    state = {key: value.clone() for key, value in model.state_dict().items()}
    keys, random = list(model.state_dict()), torch.get_rng_state()

    def same() -> bool:
        return (
            [m.training for m in model.modules()] == [True, True, False, True, True, True]
            and all(p.grad is g for p, g in zip(model.parameters(), gradients, strict=True))
            and all(torch.equal(g, c) for g, c in zip(gradients, copies, strict=True) if g is not None)
            and list(model.state_dict()) == keys
            and all(torch.equal(v, state[k]) for k, v in model.state_dict().items())
            and torch.equal(torch.get_rng_state(), random)
            and not any(m._forward_hooks or m._forward_pre_hooks or m._backward_hooks for m in model.modules())
            and torch.backends.mha.get_fastpath_enabled()
            and torch.backends.mkldnn.enabled
        )

    assert same()
    count_flops(model, x, with_backward=True)
    profile_with_flops(model, x)
    compare_counters(model, x)
    assert same()
    with pytest.raises(RuntimeError):
        count_flops(model, torch.ones(2, 5, 8, 8), with_backward=True)
    assert same()


def test_profiler_report_has_both_counts(shapes: ModuleType) -> None:
    model, inputs = shapes.UNet(8), (torch.randn(1, 4, 16, 16), torch.zeros(1))
    report = profile_with_flops(model, inputs)
    assert report.total_flops == count_flops(model, inputs)
    rows = {row.name: row for row in report.rows}
    attention = rows["aten::_scaled_dot_product_flash_attention_for_cpu"]
    assert attention.profiler_flops == 0 and attention.counted_flops == 2 * 2 * 64 * 64 * 16
    assert rows["aten::mm"].profiler_flops == rows["aten::mm"].counted_flops > 0
    assert report.seconds > 0 and all(row.cpu_seconds >= 0 for row in report.rows)
    assert "aten::mm" in report.table()
    assert ProfilerReport.from_dict(json.loads(json.dumps(report.to_dict()))) == report
    backward = profile_with_flops(model, inputs, with_backward=True)
    assert backward.total_flops == count_flops(model, inputs, with_backward=True)


def test_profiler_prints_its_table(shapes: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    model, inputs = shapes.UNet(8), (torch.randn(1, 4, 16, 16), torch.zeros(1))
    report = profile_with_flops(model, inputs)
    assert capsys.readouterr().out == report.table() + "\n"
    profile_with_flops(model, inputs, display=False)
    assert capsys.readouterr().out == ""
    if not torch.cuda.is_available():
        assert "Device time" not in report.table()
    timed = replace(report, rows=tuple(replace(row, device_seconds=0.25) for row in report.rows))
    header, first = timed.table().splitlines()[:2]
    assert "Device time" in header
    assert "0.25s" in first.replace(" ", "")


def test_windows_of_a_padded_image(shapes: ModuleType) -> None:
    """64 x 64 tokens of 64 channels: all against all, and in 25 windows of 14 x 14, which pad the side to 70."""
    whole, windowed = shapes.SelfAttention(64, 4), shapes.SelfAttention(64, 4, window=14)
    tokens = torch.randn(1, 64 * 64, 64)
    all_tokens = 4 * 4096 * 64 * 64 + 2 * 4096 * 4096 * 64  # MACs: four projections, two attention products
    windows = 4 * 4900 * 64 * 64 + 2 * 25 * 196 * 196 * 64
    assert count_flops(whole, tokens) == 2 * all_tokens
    assert count_flops(windowed, tokens) == 2 * windows
    assert round(all_tokens / windows, 2) == 10.90
    assert windowed(tokens).shape == tokens.shape


def test_comparison_names_the_differences(shapes: ModuleType) -> None:
    model = shapes.VisionTransformer(32, 4, 64, 2, 4, 10)
    closed = shapes.vit_closed_form(32, 4, 64, 2, 10)
    result = compare_counters(model, torch.randn(1, 3, 32, 32), closed_form=closed)
    assert result.flops[EXACT] == result.flops[THOP] == result.flops[CLOSED_FORM] == closed
    if result.flops[AS_SHIPPED]["attention"] == 0:  # a later PyTorch may have the formula
        assert any(s.startswith(f"attention: {AS_SHIPPED} finds 0") for s in result.differences)
    assert result.flops[PROFILER]["convolution"] == closed["convolution"]
    assert CounterComparison.from_dict(json.loads(json.dumps(result.to_dict()))).totals() == result.totals()
    # a wrong formula is told apart from the right ones
    wrong = compare_counters(model, torch.randn(1, 3, 32, 32), closed_form={**closed, "convolution": 1})
    assert any(s.startswith(f"convolution: {CLOSED_FORM} finds 1 FLOPs") for s in wrong.differences)


def test_comparison_on_the_meta_device_has_no_profiler(shapes: ModuleType) -> None:
    result = compare_counters(shapes.meta(shapes.ResNet18), torch.empty(1, 3, 64, 64, device="meta"))
    assert PROFILER not in result.flops
    assert result.flops[EXACT] == result.flops[THOP] == result.flops[AS_SHIPPED]
    assert result.differences == ()


def test_report_survives_json_and_names_modules() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2))
    report = flop_report(model, torch.ones(3, 4))
    assert report.by_module["Sequential.0"] == 2 * 3 * 16
    assert report.total_macs == 3 * 16 + 3 * 8
    assert FlopReport.from_dict(json.loads(json.dumps(report.to_dict()))) == report


def test_an_operator_without_a_formula_is_named() -> None:
    class Solve(nn.Module):
        def forward(self, a: Tensor) -> Tensor:
            return torch.linalg.solve(a, a)

    report = flop_report(Solve(), torch.eye(3))
    assert any("linalg" in name for name in report.uncounted)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: count_flops(nn.Linear(2, 2), ()), "the input is empty"),
        (lambda: count_flops(nn.Linear(2, 2), {}), "empty dictionary"),
        (lambda: count_flops(nn.Linear(2, 2), torch.empty(0, 2)), "the input tensor is empty"),
        (lambda: count_flops(nn.Linear(2, 2), 3), "must be a tensor, a tuple"),  # type: ignore[arg-type]
        (lambda: count_flops("model", torch.ones(2)), "must be a torch.nn.Module"),  # type: ignore[arg-type]
        (lambda: count_flops(nn.ReLU(), torch.ones(2), True), "no output of the model requires a gradient"),
        (lambda: profile_with_flops(nn.ReLU(), torch.ones(2, device="meta")), "nothing runs on the meta device"),
        (lambda: compare_counters(nn.ReLU(), torch.ones(2), closed_form={"conv": 1}), "unknown operator class 'conv'"),
    ],
)
def test_bad_input_is_named(call: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        call()
