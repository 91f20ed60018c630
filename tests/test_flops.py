"""Closed-form FLOPs of Qwen2.5: by hand on small sizes, and against the op-level count of the real architectures."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode

from diffmeter.flops import (
    QWEN2_5,
    QWEN_VOCAB_SIZE,
    QwenBreakdown,
    QwenConfig,
    flops_attention,
    flops_cross_entropy_loss,
    flops_embedding,
    flops_feedforward,
    flops_for_experiment,
    flops_norm,
    flops_qwen_model,
    flops_transformer_block,
    qwen_breakdown,
    qwen_config,
)
from diffmeter.models import catalog

small = st.integers(1, 8)


def test_embedding_is_one_addition_per_element() -> None:
    assert flops_embedding(2, 3, 8) == 2 * 3 * 8


def test_norm_is_four_operations_per_element() -> None:
    assert flops_norm(2, 3, 8) == 4 * 48


def test_attention_by_hand() -> None:
    # B=2 sequences of S=3 tokens, H=8, 2 heads of 4: 6 tokens, 2*2*3*3 = 36 scores
    projections = 4 * (2 * 6 * 8 * 8)  # 3072
    products = 2 * (2 * 2 * 2 * 3 * 3 * 4)  # B * heads * S * S * d, twice, two FLOPs each: 576
    softmax = 3 * 36
    assert flops_attention(2, 3, 8, 2) == projections + products + softmax == 3072 + 576 + 108


def test_attention_with_grouped_queries_and_own_head_size_by_hand() -> None:
    # 4 query heads and 2 key/value heads of size 5 on width 8: query width 20, key width 10
    tokens = 6
    projections = 2 * tokens * 8 * 20 + 2 * (2 * tokens * 8 * 10) + 2 * tokens * 20 * 8
    products = 2 * (2 * 2 * 4 * 3 * 3 * 5)
    softmax = 3 * 2 * 4 * 3 * 3
    assert flops_attention(2, 3, 8, 4, num_kv_heads=2, head_dim=5) == projections + products + softmax


@given(b=small, s=small, heads=small, d=small, r=st.integers(0, 8))
def test_lora_adds_two_thin_products_per_projection(b: int, s: int, heads: int, d: int, r: int) -> None:
    h = heads * d
    # down 2*B*S*H*r and up 2*B*S*r*H for each of the four projections
    assert flops_attention(b, s, h, heads, r) - flops_attention(b, s, h, heads) == 16 * b * s * h * r


def test_feedforward_has_the_three_matrices_of_swiglu() -> None:
    assert flops_feedforward(2, 3, 8) == 3 * (2 * 6 * 8 * 32) + 5 * 6 * 32
    assert flops_feedforward(2, 3, 8, intermediate_size=11) == 3 * (2 * 6 * 8 * 11) + 5 * 6 * 11
    # the ratio of Qwen2.5-7B is no finite decimal: the size is rounded to the whole number it stands for
    assert flops_feedforward(1, 1, 3584, 18944 / 3584) == flops_feedforward(1, 1, 3584, intermediate_size=18944)


def test_block_and_model_are_the_sum_of_their_parts() -> None:
    block = flops_attention(2, 3, 8, 2) + flops_feedforward(2, 3, 8) + 2 * flops_norm(2, 3, 8)
    assert flops_transformer_block(2, 3, 8, 2) == block
    head = 2 * 2 * 3 * 8 * QWEN_VOCAB_SIZE
    model = flops_embedding(2, 3, 8) + 5 * block + head
    assert flops_qwen_model(2, 3, 8, 5, 2, 4.0) == model
    assert flops_qwen_model(2, 3, 8, 5, 2, 4.0, tied_embeddings=True) == model
    assert flops_qwen_model(2, 3, 8, 5, 2, 4.0, final_norm=True) == model + flops_norm(2, 3, 8)
    assert flops_qwen_model(2, 3, 8, 5, 2, 4.0, vocab_size=10) == model - head + 2 * 6 * 8 * 10


def test_cross_entropy_by_hand() -> None:
    # 6 tokens; shift, exponential and sum for each of 10 logits, then log, difference and mean
    assert flops_cross_entropy_loss(2, 3, vocab_size=10) == 6 * 33
    assert flops_cross_entropy_loss(2, 3) == 6 * (3 * 151_936 + 3)


def test_experiment_is_three_forwards_per_training_step() -> None:
    forward = flops_qwen_model(2, 3, 8, 5, 2, 4.0, 4)
    assert flops_for_experiment(7, 2, 3, 8, 5, 2, 4.0, 4) == 7 * 3 * forward
    assert flops_for_experiment(7, 2, 3, 8, 5, 2, 4.0, 4, training=False) == 7 * forward
    loss = flops_cross_entropy_loss(2, 3)
    assert flops_for_experiment(7, 2, 3, 8, 5, 2, 4.0, 4, loss=True) == 7 * 3 * (forward + loss)


@given(b=small, s=small, heads=small, d=small, layers=small)
def test_results_are_integers_and_linear_in_batch(b: int, s: int, heads: int, d: int, layers: int) -> None:
    one = flops_qwen_model(1, s, heads * d, layers, heads, 2.5)
    assert isinstance(one, int)
    assert flops_qwen_model(b, s, heads * d, layers, heads, 2.5) == b * one


def meta_qwen(config: QwenConfig) -> Any:
    from transformers import Qwen2Config, Qwen2ForCausalLM

    with torch.device("meta"):
        return Qwen2ForCausalLM(
            Qwen2Config(
                hidden_size=config.hidden_size,
                num_hidden_layers=config.num_hidden_layers,
                num_attention_heads=config.num_attention_heads,
                num_key_value_heads=config.num_key_value_heads,
                intermediate_size=config.intermediate_size,
                vocab_size=config.vocab_size,
                tie_word_embeddings=config.tie_word_embeddings,
            )
        ).eval()


def op_level_flops(model: Any, batch: int, seq: int, **inputs: Any) -> int:
    """FLOPs that torch.utils.flop_counter finds in a meta forward, without the rotary angles.

    The angles are a matrix product in some versions of transformers and an elementwise one in others.
    """
    ids = torch.zeros(batch, seq, dtype=torch.long, device="meta")
    # a mask of four dimensions is taken as it is; transformers reads the values of any other, which meta has not
    mask = torch.zeros(batch, 1, seq, seq, device="meta")
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(input_ids=ids, attention_mask=mask, use_cache=False, **inputs)
    rotary = sum(sum(ops.values()) for name, ops in counter.get_flop_counts().items() if name.endswith("rotary_emb"))
    return counter.get_total_flops() - rotary


@pytest.mark.parametrize("name", list(QWEN2_5))
def test_products_equal_the_op_level_count(name: str) -> None:
    config = qwen_config(name)
    model = meta_qwen(config)
    assert sum(p.numel() for p in model.parameters()) == config.params
    breakdown = qwen_breakdown(config, 2, 24)
    assert breakdown.product_flops == op_level_flops(model, 2, 24)
    # the closed form of the design gives the same, with the rest itemised
    closed = flops_qwen_model(
        2,
        24,
        config.hidden_size,
        config.num_hidden_layers,
        config.num_attention_heads,
        1.0,
        num_kv_heads=config.num_key_value_heads,
        intermediate_size=config.intermediate_size,
        vocab_size=config.vocab_size,
        tied_embeddings=config.tie_word_embeddings,
        final_norm=True,
    )
    assert closed == breakdown.total_flops == breakdown.product_flops + breakdown.elementwise_flops


def test_lora_products_equal_the_op_level_count() -> None:
    peft = pytest.importorskip("peft")
    config = QwenConfig("tiny", 32, 3, 4, 2, 48, 100, True, "made up")
    targets = ["q_proj", "k_proj", "v_proj", "o_proj"]
    with torch.device("meta"):
        model = peft.get_peft_model(meta_qwen(config), peft.LoraConfig(r=4, target_modules=targets))
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert trained == config.lora_params(4)
    assert qwen_breakdown(config, 2, 5, r=4).product_flops == op_level_flops(model, 2, 5)


# Parameters in billions as the model cards print them: https://huggingface.co/Qwen/Qwen2.5-7B-Instruct and siblings
PUBLISHED_PARAMS = {"0.5b": 0.49, "1.5b": 1.54, "3b": 3.09, "7b": 7.61, "14b": 14.7, "32b": 32.5, "72b": 72.7}


@pytest.mark.parametrize(("size", "billions"), PUBLISHED_PARAMS.items())
def test_parameters_meet_the_model_cards(size: str, billions: float) -> None:
    # within 1%: the cards round, and the 32B card prints 32.5 for 32.76
    assert qwen_config(size).params / 1e9 == pytest.approx(billions, rel=0.01)


def qwen_vl_text_config() -> dict[str, Any]:
    """The text encoder of Qwen-Image from the catalogue: Qwen2.5-VL-7B."""
    entry = catalog.find("Qwen/Qwen-Image")
    assert entry is not None
    return dict(entry.components["text_encoder"].config)


def test_text_encoder_of_a_diffusion_pipeline() -> None:
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

    raw = qwen_vl_text_config()
    text = raw["text_config"]
    config = QwenConfig(
        "text encoder of Qwen-Image",
        text["hidden_size"],
        text["num_hidden_layers"],
        text["num_attention_heads"],
        text["num_key_value_heads"],
        text["intermediate_size"],
        text["vocab_size"],
        False,
        "catalogue",
    )
    with torch.device("meta"):
        encoder = Qwen2_5_VLForConditionalGeneration(Qwen2_5_VLConfig(**raw)).eval()
    # a prompt goes through the text model alone, whose sizes are those of Qwen2.5-7B
    sizes = qwen_config("7b")
    assert (config.hidden_size, config.num_hidden_layers) == (sizes.hidden_size, sizes.num_hidden_layers)
    positions = torch.zeros(3, 1, 40, dtype=torch.long, device="meta")
    counted = op_level_flops(encoder, 1, 40, position_ids=positions)
    assert counted == qwen_breakdown(config, 1, 40).product_flops == qwen_breakdown(sizes, 1, 40).product_flops
    bare = op_level_flops(encoder.model.language_model, 1, 40, position_ids=positions)
    assert bare == qwen_breakdown(config, 1, 40, lm_head=False).product_flops


def test_profile_of_a_diffusion_pipeline_has_the_text_encoder_of_the_formula() -> None:
    from diffmeter import dry_run

    profile = dry_run("Qwen/Qwen-Image", height=64, width=64, num_inference_steps=1, true_cfg_scale=1.0)
    calls = profile.components["text_encoder"].calls
    assert sum(call.count for call in calls) == 1
    batch, tokens = calls[0].shapes["input_ids"]
    assert calls[0].matmul_macs == qwen_breakdown(qwen_config("7b"), batch, tokens).matmul_macs


def test_breakdown_itemises_and_survives_json() -> None:
    breakdown = qwen_breakdown(qwen_config("Qwen/Qwen2.5-7B-Instruct"), 1, 16, r=8, loss=True)
    assert {"softmax", "SwiGLU activation", "RMSNorm of the blocks", "final RMSNorm", "cross-entropy"} <= {
        item.operation for item in breakdown.items if item.kind == "elementwise"
    }
    assert sum(breakdown.by_part().values()) == breakdown.total_flops
    assert all(item.flops == 2 * item.macs for item in breakdown.items if item.kind == "product")
    assert QwenBreakdown.from_dict(json.loads(json.dumps(breakdown.to_dict()))) == breakdown


@pytest.mark.parametrize("name", ["qwen2.5-7b", "7B", "Qwen/Qwen2.5-7B-Instruct", "Qwen2.5-7B"])
def test_names_of_one_model(name: str) -> None:
    assert qwen_config(name) is QWEN2_5["qwen2.5-7b"]


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: flops_attention(1, 1, 10, 3), "num_heads must divide hidden_dim"),
        (lambda: flops_attention(1, 1, 8, 4, num_kv_heads=3), "num_kv_heads must divide num_heads"),
        (lambda: flops_attention(-1, 1, 8, 4), "batch_size must be a whole number of at least 1, not -1"),
        (lambda: flops_attention(1, 1, 8, 4, -2), "r must be a whole number of at least 0, not -2"),
        (lambda: flops_embedding(1, 0, 8), "seq_len must be a whole number of at least 1, not 0"),
        (lambda: flops_embedding(1, 2.0, 8), "seq_len must be a whole number"),  # type: ignore[arg-type]
        (lambda: flops_feedforward(1, 1, 8, 0.0), "ffn_ratio must be a finite number above 0"),
        (lambda: flops_feedforward(1, 1, 8, float("nan")), "ffn_ratio must be a finite number above 0"),
        (
            lambda: flops_feedforward(1, 1, 8, intermediate_size=0),
            "intermediate_size must be a whole number",
        ),
        (lambda: flops_qwen_model(1, 1, 8, 0, 2, 4.0), "num_layers must be a whole number of at least 1, not 0"),
        (
            lambda: flops_qwen_model(1, 1, 8, 1, 2, 4.0, vocab_size=-5),
            "vocab_size must be a whole number",
        ),
        (
            lambda: flops_for_experiment(0, 1, 1, 8, 1, 2, 4.0, 0),
            "num_steps must be a whole number of at least 1",
        ),
        (lambda: qwen_config("llama-3"), "unknown model 'llama-3': use one of qwen2.5-0.5b"),
    ],
)
def test_bad_input_is_named(call: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        call()


def test_numpy_integers_do_not_overflow() -> None:
    """65,536 tokens of width 65,536 are 2^32 elements: more than 32 bits hold."""
    sizes = [np.int32(n) for n in (1, 65_536, 65_536)]
    assert flops_embedding(*sizes) == 2**32  # type: ignore[arg-type]
    assert flops_attention(*sizes, np.int32(64), np.int32(2)) == flops_attention(1, 65_536, 65_536, 64, 2)  # type: ignore
    assert flops_feedforward(*sizes) == flops_feedforward(1, 65_536, 65_536)  # type: ignore[arg-type]
    assert isinstance(flops_attention(*sizes, np.int32(64)), int)  # type: ignore[arg-type]


def test_a_step_with_lora_is_the_step_that_really_runs() -> None:
    """Against the operators of a forward and backward of transformers' Qwen2 with peft's adapters."""
    from peft import LoraConfig, get_peft_model
    from transformers import Qwen2Config, Qwen2ForCausalLM

    from diffmeter.metering.builtin import flop_report

    h, layers, heads, kv, inter, vocab, r, b, n = 16, 2, 4, 2, 24, 40, 3, 2, 5
    model = Qwen2ForCausalLM(
        Qwen2Config(
            vocab_size=vocab, hidden_size=h, intermediate_size=inter, num_hidden_layers=layers,
            num_attention_heads=heads, num_key_value_heads=kv, attn_implementation="eager", use_cache=False,
        )
    )  # fmt: skip
    targets = ["q_proj", "k_proj", "v_proj", "o_proj"]
    model = get_peft_model(model, LoraConfig(r=r, target_modules=targets, init_lora_weights="gaussian"))
    report = flop_report(model, {"input_ids": torch.zeros(b, n, dtype=torch.int64)}, with_backward=True)

    def experiment(rank: int, training: bool) -> int:
        return flops_for_experiment(
            1,
            b,
            n,
            h,
            layers,
            heads,
            1.0,
            rank,
            training,
            num_kv_heads=kv,
            intermediate_size=inter,
            vocab_size=vocab,
            exact_lora=True,
        )

    # the rotary embedding's own product is no formula here: (2 frequencies x 1) x (1 x tokens), in the forward alone
    rotary = sum(f for name, f in report.by_operator.items() if name.startswith("aten.bmm")) - 3 * layers * 2 * (
        2 * b * heads * n * n * (h // heads)
    )
    elementwise = 3 * layers * (3 * b * heads * n * n + 5 * b * n * inter + 2 * 4 * b * n * h) + 3 * b * n * h
    assert 0 <= rotary <= 2 * 2 * b * n
    assert experiment(r, True) - elementwise == report.total_flops - rotary
    assert experiment(0, True) == 3 * experiment(0, False)
