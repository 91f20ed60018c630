"""Remembered results of operators on the meta device are those that PyTorch would find again."""

from __future__ import annotations

import pytest
import torch

from diffmeter.metering.twins import output_shape_cache as meta_results
from diffmeter.metering.twins.output_shape_cache import call_on_meta

aten = torch.ops.aten


@pytest.fixture(autouse=True)
def nothing_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(meta_results, "_known", {})


def meta(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.empty(shape, dtype=dtype, device="meta")


def form(result: object) -> list[tuple[object, ...]]:
    tensors = result if isinstance(result, tuple) else (result,)
    return [(t.shape, t.stride(), t.dtype, t.device.type) for t in tensors]


CALLS = {
    "product": (aten.addmm.default, lambda: (meta(4), meta(2, 3), meta(3, 4)), {}),
    "another dtype": (aten.mul.Tensor, lambda: (meta(3, dtype=torch.int64), meta(3)), {}),
    "integer by integer": (aten.mul.Tensor, lambda: (meta(3, dtype=torch.int64), 2), {}),
    "integer by float": (aten.mul.Tensor, lambda: (meta(3, dtype=torch.int64), 2.0), {}),
    "integer by truth": (aten.add.Tensor, lambda: (meta(3, dtype=torch.bool), True), {}),
    "integer by one": (aten.add.Tensor, lambda: (meta(3, dtype=torch.bool), 1), {}),
    "transposed": (aten.silu.default, lambda: (meta(3, 5).t(),), {}),
    "as it lies": (aten.silu.default, lambda: (meta(5, 3),), {}),
    "several results": (aten.native_layer_norm.default, lambda: (meta(2, 8), [8], meta(8), meta(8), 1e-5), {}),
    "a list": (aten.cat.default, lambda: ([meta(2, 3), meta(4, 3)],), {}),
    "a list along another dimension": (aten.cat.default, lambda: ([meta(2, 3), meta(2, 3)], 1), {}),
    "keywords": (aten._to_copy.default, lambda: (meta(2, 3),), {"dtype": torch.float16}),
    "channels last": (aten.clone.default, lambda: (meta(1, 2, 3, 3),), {"memory_format": torch.channels_last}),
}


@pytest.mark.parametrize("order", [list(CALLS), list(CALLS)[::-1]], ids=["forwards", "backwards"])
def test_results_are_as_if_computed_again(order: list[str]) -> None:
    for _ in range(2):  # the second time from memory
        for name in order:
            function, operands, keywords = CALLS[name]
            assert form(call_on_meta(function, operands(), dict(keywords))) == form(function(*operands(), **keywords))
    assert len(meta_results._known) == len(CALLS)


def test_the_default_dtype_belongs_to_the_question() -> None:
    numbers = meta(3, dtype=torch.int64)
    assert call_on_meta(aten.mul.Tensor, (numbers, 0.5), {}).dtype == torch.float32
    torch.set_default_dtype(torch.float64)
    try:
        assert call_on_meta(aten.mul.Tensor, (numbers, 0.5), {}).dtype == torch.float64
    finally:
        torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize(
    ("function", "operands"),
    [
        (aten.view.default, lambda: (meta(2, 3), [6])),  # returns what it got
        (aten.add_.Tensor, lambda: (meta(3), meta(3))),  # writes
        (aten.mul.Tensor, lambda: (meta(3, dtype=torch.complex64), 2)),  # may be conjugated lazily
        (aten.mul.Tensor, lambda: (torch.ones(3), 2)),  # has values
        (aten.mul.Tensor, lambda: (meta(3), torch.tensor(2.0))),
    ],
)
def test_what_is_not_remembered(function, operands) -> None:
    for _ in range(2):
        out = call_on_meta(function, operands(), {})
        assert isinstance(out, torch.Tensor)
    assert not meta_results._known


def test_views_still_share_and_writes_still_return_their_target() -> None:
    x = meta(2, 3)
    assert call_on_meta(aten.add_.Tensor, (x, 1), {}) is x
    assert call_on_meta(aten.view.default, (x, [6]), {})._base is x


def test_errors_are_raised_every_time() -> None:
    for _ in range(2):
        with pytest.raises(RuntimeError):
            call_on_meta(aten.mm.default, (meta(2, 3), meta(4, 5)), {})


def test_other_peoples_operators_are_asked_every_time() -> None:
    asked = []

    @torch.library.custom_op("diffmeter_test::asked", mutates_args=())
    def asked_op(x: torch.Tensor) -> torch.Tensor:
        return x.clone()

    @asked_op.register_fake
    def _(x: torch.Tensor) -> torch.Tensor:
        asked.append(x)
        return torch.empty_like(x)

    for _ in range(2):
        call_on_meta(torch.ops.diffmeter_test.asked.default, (meta(2),), {})
    assert len(asked) == 2


def test_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(meta_results, "_LIMIT", 4)
    for size in range(1, 12):
        assert call_on_meta(aten.silu.default, (meta(size),), {}).shape == (size,)
    assert len(meta_results._known) <= 4
