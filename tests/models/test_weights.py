"""Weight files are checked against the safetensors format before they are loaded."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from diffmeter.errors import ModelLoadError
from diffmeter.models.weights import check_folder, file_problem, reason, weight_files


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    path = tmp_path / "unet" / "model.safetensors"
    path.parent.mkdir()
    save_file({"a": torch.ones(3, 5), "b": torch.zeros(7)}, path, metadata={"format": "pt"})
    return path


def test_a_sound_file(weights: Path) -> None:
    assert file_problem(weights) is None
    check_folder(weights.parent.parent, "acme/x", ["unet", "vae"])


def test_every_shorter_file_is_found(weights: Path) -> None:
    content = weights.read_bytes()
    for length in range(len(content)):
        weights.write_bytes(content[:length])
        assert "truncated" in (file_problem(weights) or ""), length


def test_longer_file(weights: Path) -> None:
    weights.write_bytes(weights.read_bytes() + b"\0")
    assert "corrupt" in (file_problem(weights) or "")


@pytest.mark.parametrize(
    "header", [b"[]", b"{", b"\xff\xff", b'{"a": 1}', b'{"a": {"data_offsets": []}}', b"[" * 5000]
)
def test_broken_headers(tmp_path: Path, header: bytes) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header)
    assert "corrupt" in (file_problem(path) or "")


@given(st.binary(max_size=200))
@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_bytes_are_judged_without_a_traceback(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(content)
    problem = file_problem(path)
    assert problem is None or problem.startswith(("is ", "cannot "))


def test_missing_shard_is_named(tmp_path: Path) -> None:
    (tmp_path / "unet").mkdir()
    index = {"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}
    (tmp_path / "unet" / "model.safetensors.index.json").write_text(json.dumps(index))
    save_file({"a": torch.ones(1)}, tmp_path / "unet" / "model-00001-of-00002.safetensors")
    with pytest.raises(ModelLoadError, match=r"lacks the weight file unet/model-00002-of-00002.safetensors"):
        check_folder(tmp_path, "acme/x", ["unet"])
    (tmp_path / "unet" / "model.safetensors.index.json").write_text("{}")
    with pytest.raises(ModelLoadError, match="weight index"):
        check_folder(tmp_path, "acme/x", ["unet"])


def test_only_the_files_of_the_variant_are_checked(tmp_path: Path) -> None:
    folder = tmp_path / "unet"
    folder.mkdir()
    for name in ("model.safetensors", "model.fp16-00001-of-00001.safetensors", "model.non_ema.safetensors"):
        save_file({"a": torch.ones(1)}, folder / name)
    assert [path.name for path in weight_files(folder)] == ["model.safetensors"]
    assert [path.name for path in weight_files(folder, "fp16")] == ["model.fp16-00001-of-00001.safetensors"]
    assert [path.name for path in weight_files(folder, "bf16")] == ["model.safetensors"]
    (folder / "model.non_ema.safetensors").write_bytes(b"broken")
    check_folder(tmp_path, "acme/x", ["unet"])
    with pytest.raises(ModelLoadError, match=r"model\.non_ema\.safetensors"):
        check_folder(tmp_path, "acme/x", ["unet"], "non_ema")


def test_reason_is_one_sentence() -> None:
    assert reason(ValueError("One thing. Another thing.\nA third")) == "One thing"
    assert reason(ValueError()) == "ValueError"
    assert len(reason(ValueError("x" * 1000))) == 300
