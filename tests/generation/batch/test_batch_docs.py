"""What docs/BATCH.md shows works as it is written."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from diffmeter import config
from diffmeter.generation.batch.spec import load_spec, requests_of

PAGE = Path(__file__).parents[3] / "docs" / "BATCH.md"


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)


def test_the_specs_of_the_page_are_read(tmp_path: Path) -> None:
    counts = []
    for number, text in enumerate(blocks("yaml")):
        path = tmp_path / f"{number}.yaml"
        path.write_text(text, encoding="utf-8")
        counts.append(len(requests_of(load_spec(path))))
    # First: 1 model x 2 prompts x 2 negative prompts x 3 seeds x 2 step counts x 1 size x 2 guidance scales.
    assert counts == [1 * 2 * 2 * 3 * 2 * 1 * 2, 2]


def test_the_options_of_the_page_exist() -> None:
    from typer.main import get_command

    from diffmeter import cli

    batch = get_command(cli.build_app()).commands["batch"]  # type: ignore[attr-defined]
    known = {name for parameter in batch.params for name in (*parameter.opts, *parameter.secondary_opts)}
    text = PAGE.read_text(encoding="utf-8")
    commands = re.findall(r"diffmeter batch[^\n`]*(?:\\\n[^\n`]*)*", text)
    used = {option for command in commands for option in re.findall(r"--[a-z-]+", command)}
    assert {"--output", "--resume", "--dry-run"} <= used
    assert used <= known


def test_the_python_of_the_page_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(config, "OUTPUT_DIR", tmp_path)
    (code,) = blocks("python")
    exec(compile(code, str(PAGE), "exec"), {})
    assert len(list(tmp_path.glob("*/*.png"))) == 1
