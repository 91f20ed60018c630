"""What must hold of a batch folder at every moment, and the model that the batch tests generate with."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

from jsonschema import Draft202012Validator
from PIL import Image

import diffmeter
from diffmeter.generation.batch.spec import load_schema
from diffmeter.generation.request import GenerationRequest
from diffmeter.storage import png as images

SHAPES = str(Path(diffmeter.__file__).parent / "embedded" / "shapes")


def requests_for(seeds: range, *, steps: int = 1, prompt: str = "a red circle", model: str = SHAPES) -> list[Any]:
    return [GenerationRequest(model, prompt, seed=seed, num_inference_steps=steps) for seed in seeds]


def validate(value: Any, schema: str) -> None:
    Draft202012Validator(load_schema(schema)).validate(value)


def read_runs(folder: Path, name: str = "runs.jsonl") -> list[dict[str, Any]]:
    """Every line, each parsed and validated: no tolerance for broken ones."""
    path = folder / name
    if not path.exists():
        return []
    records = [json.loads(line) for line in path.read_text().splitlines()]
    for record in records:
        validate(record, "run")
    return records


def check_folder(folder: Path) -> list[dict[str, Any]]:
    """All JSON parses and validates, each image has its record and each finished record its image; the records."""
    records = [record for path in sorted(folder.glob("runs*.jsonl")) for record in read_runs(folder, path.name)]
    done = [record for record in records if record["status"] == "done"]
    keys = [record["key"] for record in done]
    assert len(keys) == len(set(keys)), "a generation is recorded twice"
    assert {record["image"] for record in done} == {path.name for path in folder.glob("*.png")}
    for record in done:
        with Image.open(folder / record["image"]) as image:
            image.load()
            assert image.size == (record["width"], record["height"])
        assert images.read_record(folder / record["image"]) == record
    if (folder / "generation_config.json").exists():
        config = json.loads((folder / "generation_config.json").read_text())
        validate(config, "generation_config")
        assert {entry["key"] for entry in config["models"]} <= set(keys)
    if (folder / "batch.json").exists():
        validate(json.loads((folder / "batch.json").read_text()), "batch")
    return records


def check_complete(folder: Path, requests: list[GenerationRequest]) -> None:
    """Exactly the planned generations are there, once each, in the summaries as well and in the plan's order."""
    records = check_folder(folder)
    order = [request.key for request in requests]
    assert sorted(record["key"] for record in records if record["status"] == "done") == sorted(order)
    config = json.loads((folder / "generation_config.json").read_text())
    assert [entry["key"] for entry in config["models"]] == order
    assert all(Path(entry["image_path"]).is_file() for entry in config["models"])
    with open(folder / "summary.csv", newline="", encoding="utf-8") as file:
        assert [row["key"] for row in csv.DictReader(file)] == order
    leftovers = [path.name for path in folder.iterdir() if path.name.startswith(".")]
    assert leftovers == []


def pixels(folder: Path) -> dict[str, bytes]:
    """The pixels of each image by its file name."""
    found = {}
    for path in folder.glob("*.png"):
        with Image.open(path) as image:
            found[path.name] = image.convert("RGB").tobytes()
    return found
