"""Exported programs say what the formula says, to the last digit, and refuse the same calls."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from .toy import toy

FORMULA = toy()
SETTINGS: list[dict[str, Any]] = [
    {},
    {"height": 512, "width": 8, "steps": 100, "batch": 16},
    {"guidance_scale": 1.0, "steps": 2},
    {"height": 512, "width": 512, "steps": 99, "batch": 13, "guidance_scale": 20.0},
]
REFUSED: list[dict[str, Any]] = [{"height": 60}, {"steps": 1}, {"guidance_scale": 30.0}, {"hight": 64}, {"batch": 1.5}]


def expected(settings: dict[str, Any]) -> dict[str, str]:
    """The three sums and the calls, as text."""
    return {
        name: str(FORMULA.evaluate(name, settings))
        for name in ("matmul_macs", "matmul_macs_without_attention", "total_macs", "calls")
    }


def test_python(tmp_path: Path) -> None:
    (tmp_path / "exported.py").write_text(FORMULA.to_python())
    code = (
        "import json, sys, exported\n"
        "for settings in json.loads(sys.argv[1]):\n"
        "    print(json.dumps(exported.cost(**settings)))\n"
        "for settings in json.loads(sys.argv[2]):\n"
        "    try: exported.cost(**settings); print('accepted')\n"
        "    except ValueError as error: print(error)\n"
        "assert not {'diffmeter', 'torch', 'numpy'} & set(sys.modules)\n"
    )
    command = [sys.executable, "-S", "-c", code, json.dumps(SETTINGS), json.dumps(REFUSED)]
    result = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path)
    lines = result.stdout.splitlines()
    for settings, line in zip(SETTINGS, lines, strict=False):
        found = json.loads(line)
        assert {name: str(value) for name, value in found["total"].items()} == expected(settings)
        unet = found["components"]["unet"]["matmul_macs"]
        assert unet == FORMULA.components["unet"].matmul_macs(**settings)
    assert len(lines) == len(SETTINGS) + len(REFUSED)
    assert "accepted" not in lines


@pytest.mark.skipif(shutil.which("node") is None, reason="needs Node.js to run JavaScript")
def test_javascript(tmp_path: Path) -> None:
    (tmp_path / "exported.mjs").write_text(FORMULA.to_javascript())
    (tmp_path / "main.mjs").write_text(
        "import {cost} from './exported.mjs';\n"
        "const [settings, refused] = process.argv.slice(2).map((text) => JSON.parse(text));\n"
        "const plain = (key, value) => typeof value === 'bigint' ? value.toString() : value;\n"
        "for (const s of settings) console.log(JSON.stringify(cost(s), plain));\n"
        "for (const s of refused) { try { cost(s); console.log('accepted'); } "
        "catch (error) { console.log(error.message); } }\n"
    )
    command = ["node", "main.mjs", json.dumps(SETTINGS), json.dumps(REFUSED)]
    result = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path)
    lines = result.stdout.splitlines()
    for settings, line in zip(SETTINGS, lines, strict=False):
        assert json.loads(line)["total"] == expected(settings)
    assert len(lines) == len(SETTINGS) + len(REFUSED)
    assert "accepted" not in lines
