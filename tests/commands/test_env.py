"""``diffmeter env``."""

from __future__ import annotations

import json
import sys
from importlib import metadata

import pytest
from typer.testing import CliRunner

from diffmeter import __version__
from diffmeter.cli import build_app


def run(*arguments: str) -> str:
    result = CliRunner().invoke(build_app(), ["env", *arguments])
    assert result.exit_code == 0, result.output
    return result.stdout


def test_json_report() -> None:
    report = json.loads(run("--json"))
    assert set(report) == {"versions", "machine", "device", "settings", "hub"}
    versions = report["versions"]
    assert versions["diffmeter"] == __version__
    assert versions["python"] == sys.version.split()[0]
    for name in ("torch", "diffusers", "transformers", "accelerate"):
        assert versions[name] == metadata.version(name)
    assert {"thop", "ultralytics-thop"} & set(versions)
    assert report["device"]["default"] in ("cpu", "cuda", "mps", "xpu")
    assert report["settings"]["ENABLE_COMPUTE_PROFILING"] is True


def test_text_report_has_the_same_facts() -> None:
    text = run()
    for word in ("versions", "torch", metadata.version("torch"), "settings", "ENABLE_COMPUTE_PROFILING", "device"):
        assert word in text


def test_token_is_never_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret_value")
    for out in (run(), run("--json")):
        assert "hf_secret_value" not in out
    assert json.loads(run("--json"))["hub"]["token_is_set"] is True
