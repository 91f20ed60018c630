"""The verb ``predict``: JSON of a list, tables, and one sentence for bad input."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from diffmeter.cli import build_app
from diffmeter.errors import InputError

COMMAND = ["predict", "google/ddpm-cifar10-32", "--dtype", "float32", "--steps", "3"]


def run(*arguments: str) -> str:
    result = CliRunner().invoke(build_app(), [*COMMAND, *arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


def test_json_is_a_list_of_predictions() -> None:
    found = json.loads(run("--gpu", "h100", "--gpu", "l4", "--batch", "1,2", "--json"))
    assert [(p["gpu_name"], p["images"]) for p in found] == [("h100-sxm", 1), ("h100-sxm", 2), ("l4", 1), ("l4", 2)]
    assert all(p["seconds"] > 0 and p["fits"] for p in found)


def test_a_table_and_the_columns_of_diffusers_benchmarks() -> None:
    text = run("--gpu", "h100")
    assert "H100" in text
    assert "unet" in text
    heads = run("--gpu", "h100", "--format", "csv").splitlines()[0]
    assert {"num_params_B", "flops_G", "time_plain_s", "mem_plain_GB", "time_compile_s"} <= set(heads.split(","))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--gpu", "h1000"), "Unknown GPU"),
        (("--gpu", "h100", "--batch", "1,x"), "no list of whole numbers"),
        (("--gpu", "h100", "--usd-per-hour", "inf"), "price"),
        ((), "Name a GPU"),
    ],
)
def test_bad_input(arguments: tuple[str, ...], message: str) -> None:
    with pytest.raises(InputError, match=message):
        run(*arguments)
