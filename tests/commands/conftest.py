"""What tests of several commands share."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from typer.testing import CliRunner

from diffmeter.cli import build_app
from tests.zoo import ZOO

Run = Callable[..., tuple[str, str]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A tiny Stable Diffusion in the diffusers layout."""
    path = tmp_path_factory.mktemp("models") / "tiny-sd"
    ZOO["StableDiffusionPipeline"].build().save_pretrained(path, safe_serialization=True)
    return str(path)


@pytest.fixture
def invoke() -> Run:
    """Runs a command that must succeed: standard output and standard error. What it raises is raised."""

    def run(*arguments: str) -> tuple[str, str]:
        result = CliRunner().invoke(build_app(), list(arguments), catch_exceptions=True)
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        assert result.exit_code == 0, result.output
        return result.stdout, result.stderr

    return run
