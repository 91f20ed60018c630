"""The wrapper that scripts put around the attention function."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from diffmeter import compute_profiler
from diffmeter.compute_profiler import _sdpa_macs_counter, _unwrap_sdpa, _wrap_sdpa_for_macs, sdpa_flops

ORIGINAL = F.scaled_dot_product_attention


@pytest.fixture(autouse=True)
def original_afterwards():
    yield
    _unwrap_sdpa()
    F.scaled_dot_product_attention = ORIGINAL


def qkv(
    heads: int = 3, queries: int = 5, keys: int = 7, depth: int = 4, values: int = 4, key_heads: int | None = None
):
    return (
        torch.zeros(2, heads, queries, depth),
        torch.zeros(2, key_heads or heads, keys, depth),
        torch.zeros(2, key_heads or heads, keys, values),
    )


def test_self_attention_is_the_familiar_formula() -> None:
    # 2 * B*H*N^2*D + B*H*N^2 with B = 2, H = 3, N = 5, D = 4
    assert sdpa_flops(*qkv(keys=5)) == 2 * 2 * 3 * 25 * 4 + 2 * 3 * 25


def test_cross_attention_multiplies_queries_with_keys() -> None:
    # B*H*N*M*D + B*H*N*M + B*H*N*M*Dv with N = 5, M = 7, D = 4, Dv = 6
    assert sdpa_flops(*qkv(values=6)) == 2 * 3 * 5 * 7 * (4 + 1 + 6)


def test_fewer_key_heads_change_no_product() -> None:
    assert sdpa_flops(*qkv(heads=4, key_heads=2)) == sdpa_flops(*qkv(heads=4))


def test_it_counts_positional_and_keyword_calls() -> None:
    q, k, v = qkv()
    _wrap_sdpa_for_macs()
    result = F.scaled_dot_product_attention(q, k, v)
    F.scaled_dot_product_attention(query=q, key=k, value=v, dropout_p=0.0)
    assert _sdpa_macs_counter["macs"] == 2 * sdpa_flops(q, k, v)
    assert result.shape == (2, 3, 5, 4)
    _unwrap_sdpa()
    assert F.scaled_dot_product_attention is ORIGINAL
    F.scaled_dot_product_attention(q, k, v)
    assert _sdpa_macs_counter["macs"] == 2 * sdpa_flops(q, k, v)


def test_wrapping_twice_counts_once_and_leaves_the_original_behind() -> None:
    _wrap_sdpa_for_macs()
    _wrap_sdpa_for_macs()
    F.scaled_dot_product_attention(*qkv())
    assert _sdpa_macs_counter["macs"] == sdpa_flops(*qkv())
    _unwrap_sdpa()
    assert F.scaled_dot_product_attention is ORIGINAL
    _unwrap_sdpa()
    assert F.scaled_dot_product_attention is ORIGINAL


def test_wrapping_resets_the_counter() -> None:
    _wrap_sdpa_for_macs()
    F.scaled_dot_product_attention(*qkv())
    _unwrap_sdpa()
    _wrap_sdpa_for_macs()
    assert _sdpa_macs_counter == {"macs": 0}


def test_a_wrapper_of_someone_else_stays() -> None:
    _wrap_sdpa_for_macs()
    ours = F.scaled_dot_product_attention

    def theirs(*args, **kwargs):
        return ours(*args, **kwargs)

    F.scaled_dot_product_attention = theirs
    _unwrap_sdpa()
    assert F.scaled_dot_product_attention is theirs
    F.scaled_dot_product_attention(*qkv())
    assert _sdpa_macs_counter["macs"] == 0


def test_the_promised_path_has_the_same_objects() -> None:
    from src import compute_profiler as promised

    assert promised is compute_profiler
    assert promised._sdpa_macs_counter is _sdpa_macs_counter
