"""``diffmeter train-cost``: the table, the JSON, and one sentence for what cannot be."""

from __future__ import annotations

import json

import pytest

from diffmeter.cli import main
from diffmeter.training.cost import TrainingCost


def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    monkeypatch.setattr("sys.argv", ["diffmeter", "train-cost", *arguments])
    with pytest.raises(SystemExit) as end:
        main()
        raise SystemExit(0)
    printed = capsys.readouterr()
    return int(end.value.code or 0), printed.out, printed.err


@pytest.fixture(scope="module")
def embedded() -> str:
    from diffmeter.models import catalog

    model = next((entry.model_id for entry in catalog.entries() if entry.embedded), None)
    if model is None:
        pytest.skip("there is no embedded model")
    return model


def test_json(embedded: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    options = ("--method", "lora", "--rank", "4", "--steps", "10", "--batch", "2", "--cache-text", "--json")
    code, out, _ = run(monkeypatch, capsys, embedded, *options)
    assert code == 0
    data = json.loads(out)
    cost = TrainingCost.from_dict(data)
    assert (cost.method, cost.rank, cost.steps, cost.batch_size) == ("lora", 4, 10, 2)
    assert cost.complete and cost.total_flops == data["totals"]["total_flops"] > 0
    assert [c.cached for c in cost.components if c.name == "text_encoder"] == [True]


def test_table(embedded: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(monkeypatch, capsys, embedded, "--method", "full", "--steps", "3", "--gradient-checkpointing")
    assert code == 0
    for text in ("full fine-tuning", "gradient checkpointing", "unet", "vae", "text_encoder", "One step:", "3 steps:"):
        assert text in " ".join(out.split())


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--method", "dreambooth"), "unknown method 'dreambooth'"),
        (("--rank", "0"), "rank must be a whole number of at least 1, not 0"),
        (("--batch", "-2"), "batch_size must be a whole number of at least 1"),
        (("--optimizer", "lion"), "unknown optimizer 'lion'"),
        (("--resolution", "0"), "--resolution must be at least 1, got 0"),
        (("--resolution", "64", "--height", "64"), "give either --resolution or --height and --width"),
    ],
)
def test_bad_input(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], words: str
) -> None:
    code, out, err = run(monkeypatch, capsys, "stable-diffusion-v1-5/stable-diffusion-v1-5", *arguments)
    assert code == 2 and words in err and not out and "Traceback" not in err
