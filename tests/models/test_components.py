"""One component alone, in the pipeline of a family that takes such a component."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from diffmeter.errors import ModelLoadError, ModelNotFoundError
from diffmeter.models import catalog
from diffmeter.models.components import in_family


def folder(tmp_path: Path, model: str, component: str, **changes: Any) -> Path:
    entry = catalog.find(model)
    assert entry is not None
    part = entry.components[component]
    names = {"_class_name": part.class_name} if part.library == "diffusers" else {"architectures": [part.class_name]}
    (tmp_path / "config.json").write_text(json.dumps({**part.config, **names, **changes}))
    return tmp_path


@pytest.mark.parametrize(
    ("model", "component"),
    [("sd15", "unet"), ("sdxl", "unet"), ("flux", "transformer"), ("pixart-sigma", "transformer"), ("sd3", "vae")],
)
def test_its_family_is_found(tmp_path: Path, model: str, component: str) -> None:
    found, name = in_family(str(folder(tmp_path, model, component)))
    known = catalog.find(model)
    assert known is not None
    assert name == component
    assert found.pipeline_class == known.pipeline_class or component == "vae"
    assert found.origin is not None
    assert found.origin["from_file"] == [component]


def test_a_pruned_one_is_put_into_the_same_pipeline(tmp_path: Path) -> None:
    path = folder(tmp_path, "sd15", "unet", layers_per_block=1, block_out_channels=[160, 320, 640, 640])
    found, name = in_family(str(path))
    assert name == "unet"
    assert found.components["unet"].config["layers_per_block"] == 1
    assert found.components["text_encoder"].config["hidden_size"] == 768  # what a cross_attention_dim of 768 reads


def test_another_family_by_name(tmp_path: Path) -> None:
    path = str(folder(tmp_path, "sd15", "unet"))
    assert in_family(path, "bk-sdm-small")[0].model_id == "nota-ai/bk-sdm-small"
    with pytest.raises(ModelLoadError, match="has no component of the class UNet2DConditionModel"):
        in_family(path, "flux")


@pytest.mark.parametrize(
    ("content", "error", "message"),
    [
        ("{", ModelLoadError, "not valid JSON"),
        ("[]", ModelLoadError, "must hold an object"),
        ("{}", ModelLoadError, "names no class"),
        ('{"_class_name": "UNet9D"}', ModelLoadError, "no model of the catalog takes a UNet9D"),
        (None, ModelNotFoundError, "has no config.json"),
    ],
)
def test_what_cannot_be_read(tmp_path: Path, content: str | None, error: type[Exception], message: str) -> None:
    if content is not None:
        (tmp_path / "config.json").write_text(content)
    with pytest.raises(error, match=message):
        in_family(str(tmp_path))


def test_a_whole_pipeline_is_no_component(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model_index.json").write_text("{}")
    with pytest.raises(ModelNotFoundError, match="use diffmeter profile"):
        in_family(str(tmp_path))
