"""``diffmeter count``."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from diffmeter import cli, dry_run
from tests.models.test_components import folder


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    monkeypatch.setattr("sys.argv", ["diffmeter", "count", *arguments])
    with pytest.raises(SystemExit) as exit_code:
        cli.main()
    assert exit_code.value.code == 0


def test_a_unet_alone_costs_what_it_costs_in_its_pipeline(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = str(folder(tmp_path, "sd15", "unet"))
    sizes = ("--height", "256", "--width", "256", "--steps", "2")
    run(monkeypatch, path, "--in", "sd15", *sizes, "--json")
    data = json.loads(capsys.readouterr().out)
    known = dry_run("sd15", height=256, width=256, steps=2)
    assert data["component"] == "unet"
    assert data["total_macs"] == known.components["unet"].total_macs
    assert data["params"] == 859_520_964  # as published
