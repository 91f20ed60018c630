"""``diffmeter llm``: the table, the JSON, and one sentence for what cannot be."""

from __future__ import annotations

import json
from typing import Any

import pytest

from diffmeter.cli import main
from diffmeter.flops import QwenBreakdown, flops_for_experiment, qwen_breakdown, qwen_config


def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    monkeypatch.setattr("sys.argv", ["diffmeter", "llm", *arguments])
    with pytest.raises(SystemExit) as end:
        main()
        raise SystemExit(0)
    printed = capsys.readouterr()
    return int(end.value.code or 0), printed.out, printed.err


def test_table_by_part(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(monkeypatch, capsys, "qwen2.5-7b", "--seq-len", "64", "--batch", "2")
    assert code == 0
    breakdown = qwen_breakdown(qwen_config("7b"), 2, 64)
    for text in ("7.62B", "query-key product", "softmax", "LM head", f"{breakdown.total_flops:,}"):
        assert text in out
    for item in breakdown.items:
        assert f"{item.flops:,}" in out


def test_json_of_a_training_run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ("0.5b", "--seq-len", "32", "--training", "--steps", "10", "--lora-rank", "8", "--json")
    code, out, _ = run(monkeypatch, capsys, *arguments)
    assert code == 0
    data: dict[str, Any] = json.loads(out)
    forward = QwenBreakdown.from_dict(data["forward"])
    # less than three forwards a step, since frozen weights have no gradients
    assert data["total_flops"] == 10 * data["step_flops"]
    assert 2 * forward.total_flops < data["step_flops"] < 3 * forward.total_flops
    closed = flops_for_experiment(
        10,
        1,
        32,
        896,
        24,
        14,
        4864 / 896,
        8,
        num_kv_heads=2,
        vocab_size=151_936,
        final_norm=True,
        loss=True,
        exact_lora=True,
    )
    assert data["total_flops"] == closed
    assert any(item["operation"] == "LoRA on the projections" for item in data["forward"]["items"])


def test_inference_has_no_loss(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    _, out, _ = run(monkeypatch, capsys, "3b", "--seq-len", "16", "--json")
    data = json.loads(out)
    assert data["total_flops"] == data["forward"]["total_flops"]
    assert not any(item["part"] == "loss" for item in data["forward"]["items"])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("gpt-4",), "unknown model 'gpt-4'"),
        (("7b", "--seq-len", "0"), "seq_len must be a whole number of at least 1, not 0"),
        (("7b", "--batch", "-1"), "batch_size must be a whole number of at least 1, not -1"),
        (("7b", "--lora-rank", "-4"), "r must be a whole number of at least 0, not -4"),
        (("7b", "--steps", "0"), "--steps must be at least 1, got 0"),
    ],
)
def test_bad_input(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], words: str
) -> None:
    code, out, err = run(monkeypatch, capsys, *arguments)
    assert code == 2 and words in err and not out and "Traceback" not in err
