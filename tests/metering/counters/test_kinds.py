"""Names of operators and of module classes tell their kind."""

from __future__ import annotations

import json

import pytest

from diffmeter.metering.counters.kinds import CONVOLUTION, MATRIX_PRODUCT, Kind, kind_of


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("aten._scaled_dot_product_flash_attention", Kind.ATTENTION),
        ("aten.convolution", Kind.CONV),
        ("aten.mkldnn_convolution", Kind.CONV),
        ("aten.addmm", Kind.LINEAR),
        ("aten.mm", Kind.LINEAR),
        ("quantized.linear_dynamic", Kind.LINEAR),
        ("aten.mkldnn_rnn_layer", Kind.LINEAR),
        ("aten.bmm", Kind.MATMUL),
        ("aten.upsample_linear1d", Kind.UPSAMPLING),
        ("GroupNorm", Kind.NORMALIZATION),
        ("AdaptiveAvgPool2d", Kind.POOLING),
        ("Softmax", Kind.SOFTMAX),
        ("PReLU", Kind.ACTIVATION),
    ],
)
def test_kinds_by_name(name, kind) -> None:
    assert kind_of(name) is kind


def test_a_name_that_says_nothing() -> None:
    assert kind_of("lib.op") is Kind.MATMUL and kind_of("Thing", Kind.OTHER) is Kind.OTHER


def test_products_are_the_first_four() -> None:
    assert tuple(kind.value for kind in Kind if kind.is_product) == ("conv", "linear", "attention", "matmul")
    assert [kind.value for kind in Kind if kind.has_weight] == ["conv", "linear"]
    assert {kind.group for kind in Kind if kind.is_product and kind is not Kind.CONV} == {MATRIX_PRODUCT}
    assert Kind.CONV.group == CONVOLUTION


def test_a_kind_is_its_text() -> None:
    assert f"{Kind.CONV}" == "conv" and json.dumps({Kind.CONV: 1}) == '{"conv": 1}'
