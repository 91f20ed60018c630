"""``diffmeter models``."""

from __future__ import annotations

import json

from typer.testing import CliRunner

from diffmeter.cli import build_app
from diffmeter.errors import InputError
from diffmeter.models import catalog


def run(*arguments: str) -> tuple[str, str]:
    result = CliRunner(env={"COLUMNS": "200"}).invoke(build_app(), ["models", *arguments], catch_exceptions=True)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.stdout, result.stderr


def test_json_is_a_list_of_objects() -> None:
    listed = json.loads(run("--json")[0])
    assert [item["model_id"] for item in listed] == [entry.model_id for entry in catalog.entries()]
    for item in listed:
        assert isinstance(item["params"], int) and item["params"] > 0
        assert isinstance(item["embedded"], bool)
        assert item["params"] == sum(part["params"] or 0 for part in item["components"].values())
        assert {"height", "width", "num_inference_steps", "guidance_scale", "source"} <= set(item["defaults"])
    assert [item["model_id"] for item in listed if item["embedded"]] == ["diffmeter/shapes"]


def test_filters() -> None:
    listed = json.loads(run("--json", "--family", "stable-diffusion-3")[0])
    assert listed and {item["family"] for item in listed} == {"stable-diffusion-3"}
    listed = json.loads(run("--json", "flux", "schnell")[0])
    assert [item["model_id"] for item in listed] == ["black-forest-labs/FLUX.1-schnell"]
    assert json.loads(run("--json", "no such words")[0]) == []


def test_table_shows_parameters_by_component_and_defaults() -> None:
    out, err = run("stable-diffusion-2-1-base")
    # 865,910,724 + 340,387,840 + 83,653,863 = 1,289,952,427
    for text in (
        "stabilityai/stable-diffusion-2-1-base",
        "1.29",
        "unet 865.91M",
        "vae 83.65M",
        "512 x 512",
    ):
        assert text in out
    assert "1 model;" in out and not err


def test_nothing_found_is_said_on_standard_error() -> None:
    out, err = run("zzz")
    assert out == "" and "No model matches 'zzz'" in err


def test_unknown_family() -> None:
    try:
        run("--family", "nope")
    except InputError as error:
        assert "family 'nope'" in str(error)
    else:
        raise AssertionError("an unknown family must be refused")
