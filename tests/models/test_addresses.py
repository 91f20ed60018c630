"""What users write to name a model is reduced to a folder, a file, or a place on the hub."""

from __future__ import annotations

from pathlib import Path

import pytest

from diffmeter.errors import ModelNotFoundError
from diffmeter.models.addresses import Address, parse_address

HUB = "https://huggingface.co"


@pytest.mark.parametrize(
    ("text", "repository", "revision", "inside"),
    [
        ("black-forest-labs/FLUX.1-dev", "black-forest-labs/FLUX.1-dev", None, ""),
        ("gpt2", "gpt2", None, ""),
        ("owner/name/", "owner/name", None, ""),
        ("owner/name@refs/pr/3", "owner/name", "refs/pr/3", ""),
        ("owner/name@v1.0", "owner/name", "v1.0", ""),
        ("owner/name/decoder", "owner/name", None, "decoder"),
        ("owner/name/folder/file.safetensors", "owner/name", None, "folder/file.safetensors"),
        (f"{HUB}/owner/name", "owner/name", None, ""),
        (f"{HUB}/owner/name/", "owner/name", None, ""),
        (f"{HUB}/owner/name?library=diffusers#usage", "owner/name", None, ""),
        ("huggingface.co/owner/name", "owner/name", None, ""),
        ("hf.co/owner/name", "owner/name", None, ""),
        (f"{HUB}/owner/name/tree/main", "owner/name", None, ""),
        (f"{HUB}/owner/name/tree/main/unet", "owner/name", None, "unet"),
        (f"{HUB}/owner/name/tree/refs/pr/3/unet", "owner/name", "refs/pr/3", "unet"),
        (f"{HUB}/owner/name/blob/main/a%20b.safetensors", "owner/name", None, "a b.safetensors"),
        (f"{HUB}/owner/name/resolve/88bb1a46/x/y.gguf?download=true", "owner/name", "88bb1a46", "x/y.gguf"),
        (f"{HUB}/gpt2/blob/main/model.safetensors", "gpt2", None, "model.safetensors"),
    ],
)
def test_what_is_on_the_hub(text: str, repository: str, revision: str | None, inside: str) -> None:
    assert parse_address(text) == Address(repository=repository, revision=revision, inside=inside)


def test_what_is_on_this_machine_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "owner" / "name").mkdir(parents=True)
    file = tmp_path / "model.safetensors"
    file.touch()
    assert parse_address("owner/name") == Address(path=Path("owner/name"))
    assert parse_address(file) == Address(path=file)
    assert parse_address(file).is_file
    assert not parse_address("owner/name").is_file


def test_an_own_endpoint_is_a_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:8080")
    assert parse_address("http://127.0.0.1:8080/owner/name").repository == "owner/name"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is not usable"),
        ("../x", "there is no folder"),
        ("/nowhere/model.safetensors", "there is no file"),
        ("https://example.org/models/1", "is no page of the hub"),
        (f"{HUB}/spaces/owner/name", "is a space, not a model"),
        (f"{HUB}/datasets/owner/name", "is a dataset, not a model"),
        ("owner/name@", "is neither an existing"),
        ("owner/na me", "is neither an existing"),
        ("a..b/c", "is neither an existing"),
        ("owner/name/../../x", "is neither an existing"),
        ("owner/name//x", "is neither an existing"),
        ("\0", "is neither an existing"),
        ("x" * 200, "is neither an existing"),
    ],
)
def test_what_names_nothing_is_refused(text: str, message: str) -> None:
    with pytest.raises(ModelNotFoundError, match=message):
        parse_address(text)


@pytest.mark.parametrize(("name", "message"), [("model.ckpt", "pickle"), ("notes.txt", "give the folder")])
def test_files_that_are_not_read(tmp_path: Path, name: str, message: str) -> None:
    (tmp_path / name).touch()
    with pytest.raises(ModelNotFoundError, match=message):
        parse_address(tmp_path / name)
