"""ResNet-BK: shapes, routing, training on a toy task, and the errors that name what is wrong."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

from diffmeter.resnet_bk.model import (
    BASELINE_CONFIG,
    STEP2_CONFIG,
    ConfigurableResNetBK,
    MixtureOfExperts,
    ResNetBKConfig,
)

SMALL = ResNetBKConfig(d_model=16, n_layers=2, n_seq=12, vocab_size=20, num_experts=3)


def test_defaults_are_those_of_the_design() -> None:
    assert (BASELINE_CONFIG.d_model, BASELINE_CONFIG.n_layers, BASELINE_CONFIG.n_seq) == (64, 4, 128)
    assert BASELINE_CONFIG.vocab_size == STEP2_CONFIG.vocab_size == 30_000


def test_forward_gives_logits_for_every_position() -> None:
    model = ConfigurableResNetBK(SMALL)
    assert model(torch.zeros(3, 7, dtype=torch.long)).shape == (3, 7, 20)


def test_the_model_keeps_its_own_copy_of_the_config() -> None:
    config = replace(SMALL)
    model = ConfigurableResNetBK(config)
    config.d_model = 99
    assert model.config.d_model == 16


def test_tied_embeddings_share_one_matrix() -> None:
    tied = ConfigurableResNetBK(replace(SMALL, tie_embeddings=True))
    free = ConfigurableResNetBK(SMALL)
    assert tied.lm_head.weight is tied.token_embedding.weight
    saved = sum(p.numel() for p in free.parameters()) - sum(p.numel() for p in tied.parameters())
    assert saved == 20 * 16


@pytest.mark.parametrize("top_k", [1, 2, 3])
def test_experts_equal_a_dense_sum_over_the_chosen(top_k: int) -> None:
    torch.manual_seed(0)
    layer = MixtureOfExperts(8, 3, top_k).double()
    x = torch.randn(2, 5, 8, dtype=torch.float64)
    weights = layer.gate(x).softmax(-1)
    kept = torch.where(weights >= weights.topk(top_k, -1).values[..., -1:], weights, 0.0)
    dense = sum(kept[..., i : i + 1] * expert(x) for i, expert in enumerate(layer.experts))
    assert torch.allclose(layer(x), dense)  # type: ignore[arg-type]


def test_every_token_reaches_every_other() -> None:
    # The resolvent couples neighbors, so a change at the first token moves the logits of the last, slightly.
    torch.manual_seed(0)
    model = ConfigurableResNetBK(replace(SMALL, n_layers=1)).double()
    one = torch.randint(0, 20, (1, 6))
    other = one.clone()
    other[0, 0] = (other[0, 0] + 1) % 20
    difference = (model(one) - model(other)).abs().amax(-1)[0]
    assert difference[-1] > 0
    assert difference[0] > difference[-1]


def test_backward_by_hand_and_by_autograd_agree_in_the_model() -> None:
    tokens = torch.randint(0, 20, (2, 12), generator=torch.Generator().manual_seed(3))
    gradients = []
    for analytic in (True, False):
        torch.manual_seed(1)
        model = ConfigurableResNetBK(replace(SMALL, analytic_backward=analytic)).double()
        model(tokens).square().sum().backward()
        gradients.append(torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]))
    assert torch.allclose(gradients[0], gradients[1], rtol=1e-9)


def test_a_small_model_learns_a_task_that_needs_the_neighbors() -> None:
    # Target of each position: how many of its two neighbors hold token 1. The position itself knows nothing of it:
    # without mixing the loss stays at the entropy of (1/4, 1/2, 1/4), which is 1.04.
    torch.manual_seed(0)
    model = ConfigurableResNetBK(ResNetBKConfig(d_model=16, n_layers=2, n_seq=16, vocab_size=3, num_experts=2))
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-2)
    losses = []
    for _ in range(300):
        tokens = torch.randint(0, 2, (32, 16))
        target = (tokens.roll(1, 1) + tokens.roll(-1, 1))[:, 1:-1]
        loss = nn.functional.cross_entropy(model(tokens)[:, 1:-1].flatten(0, 1), target.flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    thirds = [sum(losses[i : i + 100]) / 100 for i in (0, 100, 200)]
    assert thirds[0] > thirds[1] > thirds[2], thirds
    assert thirds[2] < 0.1, thirds


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: ConfigurableResNetBK(replace(SMALL, d_model=0)), "d_model must be a whole number of at least 1"),
        (lambda: ConfigurableResNetBK(replace(SMALL, n_layers=-1)), "n_layers must be a whole number"),
        (lambda: ConfigurableResNetBK(replace(SMALL, top_k=4)), "top_k must not exceed num_experts, got 4 of 3"),
        (lambda: ConfigurableResNetBK(replace(SMALL, z=2.0)), "z needs an imaginary part"),
        (lambda: ConfigurableResNetBK(replace(SMALL, v_max=0.0)), "v_max must be above 0"),
        (lambda: ConfigurableResNetBK(SMALL)(torch.zeros(1, 13, dtype=torch.long)), "up to 12 tokens, got 13"),
        (lambda: ConfigurableResNetBK(SMALL)(torch.zeros(0, 3, dtype=torch.long)), "not be empty"),
        (lambda: ConfigurableResNetBK(SMALL)(torch.zeros(3, dtype=torch.long)), "shape \\(batch, sequence\\)"),
    ],
)
def test_bad_input_is_named(call: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        call()
