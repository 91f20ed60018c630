"""Specs: what they ask for, and one clear sentence for everything that is wrong with them."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from diffmeter.errors import InputError
from diffmeter.generation.batch import spec as specs
from diffmeter.generation.request import GenerationRequest


def requests_in(path: Path, models: tuple[str, ...] = ()) -> list[GenerationRequest]:
    return specs.requests_of(specs.load_spec(path, models), str(path))


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


FULL = """
models: [owner/a, owner/b]
prompts: ["a cat", "a dog"]
negative_prompts: [null, "blurry"]
seeds: [1, 2, 3]
steps: [4, 8]
sizes: [[64, 32], [128, 128]]
guidance_scale: [0, 7.5]
"""


def test_the_product_of_the_lists_in_yaml_and_json(tmp_path: Path) -> None:
    import yaml

    found = requests_in(write(tmp_path / "a.yaml", FULL))
    assert len(found) == 2 * 2 * 2 * 3 * 2 * 2 * 2 == len({request.key for request in found})
    assert found[0] == GenerationRequest("owner/a", "a cat", None, 32, 64, 4, 0, 1)
    assert [request.model_id for request in found] == ["owner/a"] * 96 + ["owner/b"] * 96
    assert requests_in(write(tmp_path / "a.json", json.dumps(yaml.safe_load(FULL)))) == found


def test_single_values_stand_for_lists_of_one_and_the_seed_is_0(tmp_path: Path) -> None:
    found = requests_in(write(tmp_path / "a.yaml", "models: o/a\nprompts: a cat\nsteps: 3\nguidance_scale: 2"))
    assert found == [GenerationRequest("o/a", "a cat", None, None, None, 3, 2, 0)]


def test_the_catalog_fills_in_defaults(tmp_path: Path) -> None:
    (one,) = requests_in(write(tmp_path / "a.yaml", "models: stabilityai/stable-diffusion-2-1-base\nprompts: x"))
    assert (one.width, one.height) == (512, 512)
    assert one.num_inference_steps is not None
    assert one.guidance_scale == 7.5


def test_explicit_generations(tmp_path: Path) -> None:
    text = """
generations:
  - {model: o/a, prompt: x, size: [64, 32], steps: 2, seed: 5}
  - {model_id: o/b, prompt: y, width: 8, height: 16, num_inference_steps: 3, guidance_scale: 1.5, negative_prompt: n}
"""
    assert requests_in(write(tmp_path / "a.yaml", text)) == [
        GenerationRequest("o/a", "x", None, 32, 64, 2, None, 5),
        GenerationRequest("o/b", "y", "n", 16, 8, 3, 1.5, 0),
    ]


def test_prompts_from_csv_beside_the_spec_and_as_the_spec(tmp_path: Path) -> None:
    write(tmp_path / "p.csv", 'prompt,note\n"a, b",1\n\n"two\nlines",2\n')
    found = requests_in(write(tmp_path / "a.yaml", "models: o/a\nprompts: p.csv"))
    assert [request.prompt for request in found] == ["a, b", "two\nlines"]
    path = write(
        tmp_path / "all.csv", "Prompt,model,seed,width,height,steps,guidance_scale\nx,o/a,3,64,32,2,1.5\ny,,,,,,\n"
    )
    assert requests_in(path, ("o/b",)) == [
        GenerationRequest("o/a", "x", None, 32, 64, 2, 1.5, 3),
        GenerationRequest("o/b", "y", None, None, None, None, None, 0),
    ]


def test_equal_generations_are_made_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    found = requests_in(write(tmp_path / "a.yaml", "models: [o/a, o/a]\nprompts: [x, x]\nseeds: [1, 1]"))
    assert len(found) == 1
    assert "7 generations are asked for more than once" in caplog.text


def test_keys_do_not_change_between_versions() -> None:
    # sha256 of the JSON text ["o/a", "x", null, 32, 64, 2, 1.0, 3]; a changed key would repeat finished work.
    import hashlib

    expected = hashlib.sha256(b'["o/a", "x", null, 32, 64, 2, 1.0, 3]').hexdigest()[:16]
    assert GenerationRequest("o/a", "x", "", 32, 64, 2, 1, 3).key == expected


BAD = {
    "empty": ("", "must be a mapping"),
    "list": ("[1, 2]", "must be a mapping"),
    "misspelled": ("models: o/a\npromts: x", "did you mean 'prompts'"),
    "no prompts": ("models: o/a", "'prompts' is missing"),
    "both": ("generations: [{model: a, prompt: x}]\nmodels: a", "either generations or the lists"),
    "empty list": ("models: []\nprompts: x", "models"),
    "prompt that is no string": ("models: o/a\nprompts: [x, 3]", "prompts"),
    "date": ("models: o/a\nprompts: 2020-01-01", "prompts"),
    "steps 0": ("models: o/a\nprompts: x\nsteps: [4, 0]", "the least is 1"),
    "negative seed": ("models: o/a\nprompts: x\nseeds: [-1]", "the least is 0"),
    "seed too large": ("models: o/a\nprompts: x\nseeds: 99999999999999999999999", "the most is 9223372036854775807"),
    "fraction": ("models: o/a\nprompts: x\nseeds: 1.5", "it must be a whole number of at least 0, or a list of such"),
    "true": ("models: o/a\nprompts: x\nsteps: true", "steps"),
    "size of one": ("models: o/a\nprompts: x\nsizes: [[64]]", "at least 2 entries"),
    "flat sizes": ("models: o/a\nprompts: x\nsizes: [64, 64]", "must be of type array"),
    "nan": ("models: o/a\nprompts: x\nguidance_scale: .nan", "finite"),
    "infinite": ("models: o/a\nprompts: x\nguidance_scale: .inf", "the most is"),
    "key twice": ("models: o/a\nmodels: o/b\nprompts: x", "is there twice"),
    "aliases": ("a: &a [x]\nmodels: *a", "aliases"),
    "tag": ("models: !!python/object/apply:os.system ['true']\nprompts: x", "cannot be parsed"),
    "broken": ("models: [", "cannot be parsed"),
    "two documents": ("models: a\n---\nmodels: b", "cannot be parsed"),
    "too many": (
        f"models: a\nprompts: x\nseeds: {list(range(2000))}\nsteps: {list(range(1, 2000))}",
        "the most is 1000000",
    ),
    "generation without model": ("generations: [{prompt: x}]", "missing or do not go together"),
    "generation with two sizes": ("generations: [{model: a, prompt: x, size: [1, 1], width: 3}]", "go together"),
    "generation with a misspelled key": ("generations: [{model: a, prompt: x, sede: 3}]", "did you mean 'seed'"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_specs_are_one_sentence(tmp_path: Path, name: str) -> None:
    text, reason = BAD[name]
    path = write(tmp_path / "spec.yaml", text)
    with pytest.raises(InputError) as caught:
        requests_in(path)
    assert reason in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500


def test_files_that_are_no_spec(tmp_path: Path) -> None:
    binary = tmp_path / "a.yaml"
    binary.write_bytes(b"\xff\xfe\x00")
    deep = write(tmp_path / "deep.json", "[" * 200_000)
    deep_yaml = write(tmp_path / "deep.yaml", "[" * 20_000)
    for path in (binary, deep, deep_yaml, tmp_path, tmp_path / "missing.yaml", Path("a\0b")):
        with pytest.raises(InputError):
            specs.load_spec(path)


BAD_CSV = {
    "no header": ("", "column names"),
    "no prompt column": ("text\nx\n", "one of them prompt"),
    "column twice": ("prompt,prompt\nx,y\n", "twice"),
    "row too long": ("prompt\nx,y\n", "2 cells"),
    "unknown column": ("prompt,sede\nx,1\n", "did you mean 'seed'"),
    "no number": ("prompt,seed\nx,one\n", "must be a number"),
    "no model": ("prompt\nx\n", "--model"),
    "open quote": ('prompt\n"x\n', "no valid CSV"),
    "only a header": ("prompt\n", "generations"),
}


@pytest.mark.parametrize("name", BAD_CSV)
def test_bad_csv_files_are_one_sentence(tmp_path: Path, name: str) -> None:
    text, reason = BAD_CSV[name]
    with pytest.raises(InputError, match=reason):
        requests_in(write(tmp_path / "spec.csv", text), () if name == "no model" else ("o/a",))


def test_the_shipped_schemas_are_valid_schemas() -> None:
    for name in ("spec", "run", "generation_config", "batch"):
        Draft202012Validator.check_schema(specs.load_schema(name))


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
spec_like = st.fixed_dictionaries(
    {},
    optional={
        name: json_values | st.lists(st.integers(-2, 5) | st.text(max_size=4), max_size=3)
        for name in (
            "models",
            "prompts",
            "seeds",
            "steps",
            "sizes",
            "guidance_scale",
            "negative_prompts",
            "generations",
        )
    },
)


@given(json_values | spec_like)
@settings(deadline=None, max_examples=300)
def test_any_json_value_gives_requests_or_one_sentence(tmp_path_factory: pytest.TempPathFactory, value: Any) -> None:
    _requests_or_sentence(tmp_path_factory.getbasetemp() / "fuzz.json", json.dumps(value).encode())


@given(st.text(max_size=120) | st.sampled_from([FULL]).flatmap(lambda t: st.integers(0, len(t)).map(lambda n: t[n:])))
@settings(deadline=None, max_examples=300)
def test_any_yaml_text_gives_requests_or_one_sentence(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    _requests_or_sentence(tmp_path_factory.getbasetemp() / "fuzz.yaml", text.encode("utf-8", "surrogatepass"))


@given(st.text(max_size=120).map(lambda text: "prompt,seed,steps\n" + text) | st.text(max_size=120))
@settings(deadline=None, max_examples=150)
def test_any_csv_text_gives_requests_or_one_sentence(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    _requests_or_sentence(tmp_path_factory.getbasetemp() / "fuzz.csv", text.encode("utf-8", "surrogatepass"))


def _requests_or_sentence(path: Path, data: bytes) -> None:
    path.write_bytes(data)
    began = time.monotonic()
    sentence, requests = "", []
    try:
        requests = requests_in(path, ("o/a",))
    except InputError as error:
        sentence = str(error)
    assert "\n" not in sentence
    assert all(isinstance(request, GenerationRequest) for request in requests)
    assert time.monotonic() - began < 5


def test_the_pipelines_own_name_of_the_steps(tmp_path: Path) -> None:
    text = '{"models": ["o/a"], "prompts": ["x"], "num_inference_steps": [2, 3]}'
    assert [request.num_inference_steps for request in requests_in(write(tmp_path / "s.json", text))] == [2, 3]


def test_one_side_alone_is_a_square(tmp_path: Path) -> None:
    text = '{"generations": [{"model": "o/a", "prompt": "x", "height": 96}]}'
    (request,) = requests_in(write(tmp_path / "s.json", text))
    assert (request.width, request.height) == (96, 96)
