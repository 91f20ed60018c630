"""The catalog: every file is sound, and says as many parameters as its configurations have."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from diffmeter.errors import InputError
from diffmeter.models import catalog

FILES = sorted((Path(catalog.__file__).parent / "models").glob("*.json"))
ENTRIES = {entry.model_id: entry for entry in catalog.entries()}
FULL_SIZE = [entry for entry in catalog.entries() if not entry.embedded]

# Exact numbers of parameters, from outside this project: the hub's safetensors metadata as listed in Unsloth's model
# catalog, BK-SDM issue 53, MLPerf Mobile pull request 917, and a printed inventory of SD 2.1's components.
PUBLISHED = {
    ("CompVis/stable-diffusion-v1-4", "unet"): 859_520_964,
    ("CompVis/stable-diffusion-v1-4", "text_encoder"): 123_060_480,
    ("stabilityai/stable-diffusion-2-1-base", "unet"): 865_910_724,
    ("stabilityai/stable-diffusion-2-1-base", "text_encoder"): 340_387_840,
    ("stabilityai/stable-diffusion-2-1-base", "vae"): 83_653_863,
    ("stabilityai/stable-diffusion-xl-base-1.0", "unet"): 2_567_463_684,
    ("stabilityai/stable-diffusion-xl-base-1.0", "text_encoder_2"): 694_659_840,
    ("PixArt-alpha/PixArt-XL-2-512x512", "transformer"): 610_856_096,
    ("PixArt-alpha/PixArt-XL-2-512x512", "text_encoder"): 4_762_310_656,
    ("stabilityai/stable-diffusion-3-medium-diffusers", "transformer"): 2_028_328_000,
    ("black-forest-labs/FLUX.1-dev", "transformer"): 11_901_408_320,
    ("black-forest-labs/FLUX.1-schnell", "transformer"): 11_891_178_560,
    ("Qwen/Qwen-Image", "transformer"): 20_430_401_088,
    ("Alpha-VLLM/Lumina-Image-2.0", "transformer"): 2_609_769_152,
    ("Wan-AI/Wan2.1-T2V-1.3B-Diffusers", "transformer"): 1_418_996_800,
    ("nota-ai/bk-sdm-base", "unet"): 579_384_964,
}


def test_the_five_models_are_there() -> None:
    for model_id in (
        "stabilityai/stable-diffusion-2-1-base",
        "stabilityai/stable-diffusion-xl-base-1.0",
        "PixArt-alpha/PixArt-XL-2-512x512",
        "stabilityai/stable-diffusion-3-medium-diffusers",
        "black-forest-labs/FLUX.1-dev",
    ):
        assert model_id in ENTRIES


def test_every_file_is_one_entry() -> None:
    assert len(FILES) == len(ENTRIES) == len(catalog.entries())


@pytest.mark.parametrize(("model_id", "component"), PUBLISHED)
def test_parameters_are_as_published(model_id: str, component: str) -> None:
    assert ENTRIES[model_id].components[component].params == PUBLISHED[model_id, component]


@pytest.mark.parametrize("entry", FULL_SIZE, ids=lambda entry: entry.model_id)
def test_configurations_have_the_parameters_that_the_file_says(entry: catalog.CatalogEntry) -> None:
    import torch

    from diffmeter.model_manager import build_pipeline_without_weights

    pipeline = build_pipeline_without_weights(entry.model_id)
    built = {name: part for name, part in pipeline.components.items() if isinstance(part, torch.nn.Module)}
    assert {name: sum(p.numel() for p in part.parameters()) for name, part in built.items()} == (
        entry.params_by_component
    )
    for part in built.values():
        assert {tensor.device.type for tensor in [*part.parameters(), *part.buffers()]} == {"meta"}
        assert not part.training


def test_embedded_entry_counts_what_its_weight_files_hold() -> None:
    import torch

    from diffmeter.model_manager import build_pipeline_without_weights

    entry = ENTRIES["diffmeter/shapes"]
    assert entry.embedded
    assert entry.folder is not None
    pipeline = build_pipeline_without_weights("diffmeter/shapes")
    built = {name: part for name, part in pipeline.components.items() if isinstance(part, torch.nn.Module)}
    assert {name: sum(p.numel() for p in part.parameters()) for name, part in built.items()} == (
        entry.params_by_component
    )


@pytest.mark.parametrize("entry", FULL_SIZE, ids=lambda entry: entry.model_id)
def test_facts_have_sources(entry: catalog.CatalogEntry) -> None:
    assert entry.defaults.source
    for name, part in entry.components.items():
        if part.params is not None:
            assert part.source or part.note, name
            assert part.verified or part.note or part.params_source, name


def test_names_and_aliases_are_unambiguous() -> None:
    seen: dict[str, str] = {}
    for entry in catalog.entries():
        for name in {entry.model_id.lower(), entry.name.lower(), *(alias.lower() for alias in entry.aliases)}:
            assert seen.setdefault(name, entry.model_id) == entry.model_id
            found = catalog.find(name)
            assert found is not None
            assert found.model_id == entry.model_id


def test_find_ignores_case_and_knows_nothing_else() -> None:
    assert catalog.find("SDXL") is ENTRIES["stabilityai/stable-diffusion-xl-base-1.0"]
    assert catalog.find("StabilityAI/Stable-Diffusion-2-1-Base") is ENTRIES["stabilityai/stable-diffusion-2-1-base"]
    assert catalog.find("no such model") is None
    assert catalog.find("") is None


def test_search_by_family_and_text() -> None:
    family = catalog.search(family="flux")
    assert {entry.model_id for entry in family} >= {"black-forest-labs/FLUX.1-dev", "black-forest-labs/FLUX.1-schnell"}
    assert {entry.family for entry in family} == {"flux"}
    assert [entry.model_id for entry in catalog.search("flux KONTEXT")] == ["black-forest-labs/FLUX.1-Kontext-dev"]
    assert {entry.family for entry in catalog.search("AutoencoderDC")} == {"sana"}
    assert catalog.search("nothing has this word") == ()
    assert catalog.search() == catalog.entries()
    with pytest.raises(InputError, match="family 'fluxx' is not in the catalog"):
        catalog.search(family="fluxx")


def test_embedded_models_come_first() -> None:
    assert [entry.embedded for entry in catalog.entries()] == sorted(
        (entry.embedded for entry in catalog.entries()), reverse=True
    )


def good_file() -> dict[str, Any]:
    return json.loads((Path(catalog.__file__).parent / "models" / "ddpm_cifar10_32.json").read_text())


@pytest.mark.parametrize(
    ("path", "value", "expected"),
    [
        (("model_id",), 5, "'model_id' must be of type str, not 5"),
        (("components",), [], "'components' must be of type dict"),
        (("components", "unet"), "x", "components.unet must be an object"),
        (("components", "unet", "verified"), "yes", "'verified' must be of type bool"),
        (("components", "unet", "params"), -1, "params must be a whole number of at least 0, not -1"),
        (("defaults", "hight"), 5, "unknown key 'hight'"),
        (("defaults", "inputs"), {"image": {"kind": "sound"}}, "kind is 'sound'"),
        (("defaults", "inputs"), {"image": {"kind": "tensor"}}, "has a shape"),
        (("aliases",), "x", "'aliases' must be a list of strings"),
    ],
)
def test_a_file_that_is_wrong_is_named_with_its_key(path: tuple[str, ...], value: object, expected: str) -> None:
    data = good_file()
    target = data
    for key in path[:-1]:
        target = target[key]
    target[path[-1]] = value
    with pytest.raises(InputError) as caught:
        catalog.parse_entry(data, "some.json")
    assert "some.json" in str(caught.value)
    assert expected in str(caught.value)


def test_adding_a_model_is_adding_a_file(tmp_path: Path) -> None:
    data = good_file() | {"model_id": "acme/new", "name": "New", "aliases": []}
    (tmp_path / "new.json").write_text(json.dumps(data))
    loaded = catalog._load(tmp_path, tmp_path / "embedded")
    assert [entry.model_id for entry in loaded] == ["acme/new"]
    (tmp_path / "bad.json").write_text("{")
    catalog._load.cache_clear()
    with pytest.raises(InputError, match=r"'bad.json' cannot be read"):
        catalog._load(tmp_path, tmp_path / "embedded")


def test_sources_are_public() -> None:
    """A source must be something that a reader can look up: no tool's ids, no paths of one machine."""
    for path in FILES:
        text = path.read_text(encoding="utf-8")
        for private in ("/tmp/", "/home/", "/root/", "file:"):
            assert private not in text, f"{path.name}: {private}"
