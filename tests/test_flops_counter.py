"""The ResNet-BK counter: the design's formulas by hand, its sample figures, and the op-level count of a real step."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from diffmeter.errors import InputError
from diffmeter.resnet_bk.counter import OPTIMIZER_OPS, FLOPsCount, FLOPsCounter, compare_models
from diffmeter.resnet_bk.model import BASELINE_CONFIG, STEP2_CONFIG, ConfigurableResNetBK, ResNetBKConfig

SMALL = ResNetBKConfig(d_model=8, n_layers=3, n_seq=16, vocab_size=50, num_experts=4, top_k=2)


def meta_model(config: ResNetBKConfig) -> ConfigurableResNetBK:
    with torch.device("meta"):
        return ConfigurableResNetBK(config)


@pytest.fixture(scope="module")
def small() -> FLOPsCounter:
    return FLOPsCounter(ConfigurableResNetBK(SMALL), batch_size=5, seq_len=16)


def test_counts_add_and_scale() -> None:
    count = FLOPsCount(1, 2, 3) + FLOPsCount(10, 20, 30)
    assert count == FLOPsCount(11, 22, 33)
    assert count.total == 66
    assert count * 2 == 2 * count == FLOPsCount(22, 44, 66)
    assert count * 0.5 == FLOPsCount(6, 11, 16)  # rounded half to even
    assert sum([count, count]) == count * 2
    # a factor beyond the 53 bits of a float stays exact
    assert FLOPsCount(10**30 + 1) * 3 == FLOPsCount(3 * 10**30 + 3)
    assert FLOPsCount.from_dict(json.loads(json.dumps(count.to_dict()))) == count
    with pytest.raises(ValueError, match="at least 0, got -1"):
        count * -1
    with pytest.raises(TypeError):
        count + 1  # type: ignore[operator]


def test_parts_by_hand(small: FLOPsCounter) -> None:
    tokens, d, e, k = 5 * 16, 8, 4, 2
    assert small.count_bk_core_flops() == FLOPsCount(34 * tokens, 26 * tokens)
    moe = tokens * (2 * d * e + 3 * e + k * (8 * d * d + 2 * d))
    assert small.count_moe_flops() == FLOPsCount(moe, 2 * moe)
    assert small.count_linear_flops(3, 7) == FLOPsCount(2 * tokens * 21, 4 * tokens * 21)
    assert small.count_layernorm_flops() == FLOPsCount(5 * tokens * d, 10 * tokens * d)
    assert small.count_embedding_flops() == FLOPsCount(tokens * d, 2 * tokens * d)


def test_totals_are_the_sum_of_the_breakdown(small: FLOPsCounter) -> None:
    total, rows = small.count_total_flops(), small.get_breakdown()
    assert list(rows) == ["embedding", "layer_0", "layer_1", "layer_2", "final_layernorm", "lm_head"]
    for key in ("forward", "backward", "optimizer", "total"):
        assert sum(row[key] for row in rows.values()) == total.to_dict()[key]
    assert small.count_forward_flops() == FLOPsCount(forward=total.forward)
    assert small.count_backward_flops() == FLOPsCount(backward=total.backward)
    assert sum(item.flops for item in small.forward_items()) == total.forward


@pytest.mark.parametrize(("name", "ops"), [("sgd", 2), ("momentum", 4), ("adam", 14), ("adamw", 15)])
def test_optimizers(small: FLOPsCounter, name: str, ops: int) -> None:
    params = sum(p.numel() for p in small.model.parameters())
    assert OPTIMIZER_OPS[name] == ops
    assert small.count_optimizer_flops(name) == FLOPsCount(optimizer=ops * params)
    assert FLOPsCounter(small.model, 5, 16, optimizer=name.upper()).count_total_flops().optimizer == ops * params


def test_frozen_parameters_are_not_updated() -> None:
    model = ConfigurableResNetBK(SMALL)
    model.token_embedding.requires_grad_(False)
    params = sum(p.numel() for p in model.parameters()) - 50 * 8
    counter = FLOPsCounter(model, 1, 4)
    assert counter.count_optimizer_flops().optimizer == 15 * params
    assert sum(row["optimizer"] for row in counter.get_breakdown().values()) == 15 * params


@pytest.mark.parametrize("top_k", [1, 2])
@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_products_equal_the_op_level_count_of_a_real_training_step(device: str, top_k: int) -> None:
    with torch.device(device):
        model = ConfigurableResNetBK(replace(SMALL, top_k=top_k))
        tokens = torch.randint(0, 50, (5, 16))
    products = FLOPsCounter(model, 5, 16).product_flops()
    with FlopCounterMode(display=False) as forward:
        logits = model(tokens)
    assert forward.get_total_flops() == products.forward
    with FlopCounterMode(display=False) as backward:
        nn.functional.cross_entropy(logits.flatten(0, 1), tokens.flatten()).backward()
    assert backward.get_total_flops() == products.backward


def test_baseline_meets_the_design_table() -> None:
    counter = FLOPsCounter(meta_model(BASELINE_CONFIG), batch_size=32, seq_len=128)
    forward = counter.count_forward_flops().forward
    rows = counter.get_breakdown()
    # LM head 15.7 GFLOPs = 2 * 32 * 128 * 64 * 30000, 96.6%; each layer 0.14 GFLOPs, 0.9%; LayerNorm 1.3 M; 0.3 M
    assert rows["lm_head"]["forward"] == 15_728_640_000
    assert round(100 * rows["lm_head"]["forward"] / forward, 1) == pytest.approx(96.6, abs=0.051)
    for i in range(4):
        assert round(rows[f"layer_{i}"]["forward"] / 1e9, 2) == 0.14
        assert round(100 * rows[f"layer_{i}"]["forward"] / forward, 1) == 0.9
    assert round(rows["final_layernorm"]["forward"] / 1e6, 1) == 1.3
    assert round(rows["embedding"]["forward"] / 1e6, 1) == 0.3


# The design's samples, GFLOPs of one training step: width, tokens, batch. docs/COUNTERS.md derives the differences:
# 782.4 is 16 x 48.9 and 1.5 is 48.9 / 32, both as if the optimizer's work grew with the batch.
@pytest.mark.parametrize(
    ("d", "n", "batch", "sample", "tolerance"),
    [
        (64, 128, 32, 48.9, 0.05),
        (128, 128, 32, 101.1, 0.05),
        (256, 128, 32, 215.0, 0.1),
        (64, 2048, 32, 782.4, 0.5),
        (64, 128, 1, 1.5, 0.1),
    ],
)
def test_totals_are_near_the_design_samples(d: int, n: int, batch: int, sample: float, tolerance: float) -> None:
    model = meta_model(replace(BASELINE_CONFIG, d_model=d, n_seq=n))
    assert FLOPsCounter(model, batch, n).count_total_flops().total / 1e9 == pytest.approx(sample, abs=tolerance)


def test_counter_is_linear_in_sequence_batch_and_layers() -> None:
    def forward(batch: int, seq: int) -> int:
        return FLOPsCounter(meta_model(SMALL), batch, seq).count_forward_flops().forward

    assert forward(1, 16 * 16) == 16 * forward(1, 16)
    assert forward(32, 16) == 32 * forward(1, 16)
    steps = [
        FLOPsCounter(meta_model(replace(SMALL, n_layers=layers)), 2, 16).count_forward_flops().forward
        for layers in (1, 2, 3, 4)
    ]
    assert len({b - a for a, b in pairwise(steps)}) == 1


def test_clock_is_linear_in_the_sequence() -> None:
    model = ConfigurableResNetBK(replace(SMALL, n_seq=2048, n_layers=2, vocab_size=10)).eval()

    def seconds(seq: int) -> float:
        tokens = torch.zeros(1, seq, dtype=torch.long)
        times = []
        with torch.no_grad():
            for _ in range(4):
                start = time.process_time()
                model(tokens)
                times.append(time.process_time() - start)
        return min(times)

    # 8 times the tokens: about 8 times the time, where attention's products would take 64 times. Wide limits.
    assert 2 < seconds(2048) / seconds(256) < 24


def test_compare_models_gives_speedups() -> None:
    result = compare_models(
        meta_model(BASELINE_CONFIG), meta_model(STEP2_CONFIG), 32, 128, model1_name="Baseline", model2_name="Step 2"
    )
    assert result["Baseline"]["forward"] == result["Step 2"]["forward"]
    # tying saves the LM head's 30000 x 64 matrix, and 15 operations on each of its entries
    assert result["Baseline"]["optimizer"] - result["Step 2"]["optimizer"] == 15 * 30_000 * 64
    assert result["speedup"]["forward"] == 1.0
    assert result["speedup"]["total"] == pytest.approx(result["Baseline"]["total"] / result["Step 2"]["total"])
    assert json.loads(json.dumps(result)) == result


def test_summary_and_json(small: FLOPsCounter, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    small.print_summary()
    printed = capsys.readouterr().out
    assert f"{small.count_total_flops().total:,}" in printed
    assert "lm_head" in printed
    saved = json.loads(small.save_to_json(tmp_path / "flops.json").read_text(encoding="utf-8"))
    assert saved == small.to_dict()
    assert FLOPsCount.from_dict(saved["total_flops"]) == small.count_total_flops()


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda m: FLOPsCounter(m, 0, 16), "batch_size must be a whole number of at least 1, not 0"),
        (lambda m: FLOPsCounter(m, 1, -3), "seq_len must be a whole number of at least 1, not -3"),
        (lambda m: FLOPsCounter(m, 1, 16, "lion"), "unknown optimizer 'lion': use one of sgd, momentum, adam, adamw"),
        (lambda m: FLOPsCounter(m, 1, 16).count_linear_flops(0, 4), "in_features must be a whole number"),
        (lambda m: FLOPsCounter(nn.Linear(2, 2), 1, 16), "counts ResNet-BK models, got Linear"),
        (lambda m: compare_models(m, m, 1, 16, "a", "a"), "the names must differ"),
    ],
)
def test_bad_input_is_named(call: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        call(meta_model(SMALL))


def test_a_count_can_be_changed() -> None:
    count = FLOPsCount()
    count.forward += 1000
    count.backward = 2000
    count.optimizer += 15
    assert count.total == 3015
    assert count == FLOPsCount(1000, 2000, 15)


def test_a_resnet_bk_beside_a_transformer() -> None:
    """H = 8, one block of 2 heads, I = 12, V = 20; one sequence of 4 tokens, SGD (2 operations a parameter)."""
    from transformers import Qwen2Config, Qwen2ForCausalLM

    sizes: dict[str, Any] = {
        "hidden_size": 8,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 12,
    }
    transformer = Qwen2ForCausalLM(Qwen2Config(vocab_size=20, num_key_value_heads=2, **sizes))
    ours = ConfigurableResNetBK(replace(SMALL, vocab_size=20))
    found = compare_models(ours, transformer, 1, 4, "BK", "Transformer", optimizer="sgd")
    # products: 4 projections 8 x 8, scores and sums 4 x 8 each a token, 3 matrices 8 x 12, head 8 x 20, 2 FLOPs each
    products = 2 * 4 * (4 * 64 + 2 * 4 * 8 + 3 * 96 + 160)
    # softmax 3 of 2 heads, SwiGLU 5, three norms 4, the embedding 1
    elementwise = 3 * 2 * 16 + 5 * 4 * 12 + 3 * 4 * 32 + 32
    count = found["Transformer"]
    assert count["forward"] == products + elementwise
    assert count["backward"] == 2 * count["forward"]
    assert count["optimizer"] == 2 * sum(p.numel() for p in transformer.parameters())
    assert found["BK"] == FLOPsCounter(ours, 1, 4, "sgd").count_total_flops().to_dict()
    assert found["speedup"]["total"] == found["BK"]["total"] / count["total"]
    turned = compare_models(transformer, ours, 1, 4)
    assert turned["speedup"]["forward"] == count["forward"] / found["BK"]["forward"]


def test_a_model_with_other_blocks_is_refused() -> None:
    with pytest.raises(InputError, match="not Linear"):
        compare_models(nn.Linear(2, 2), nn.Linear(2, 2), 1, 4, "a", "b")
