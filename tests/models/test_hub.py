"""Models from the hub and from folders, against a local server that speaks the hub's protocol."""

from __future__ import annotations

import json
import time
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from diffmeter import model_manager
from diffmeter.errors import ModelLoadError, ModelNotFoundError
from diffmeter.models import hub, sources
from tests.hub_server import Fault, HubServer, Repository

MODEL = "acme/tiny-pipeline"
UNET_WEIGHTS = "unet/diffusion_pytorch_model.safetensors"


@pytest.fixture(scope="module")
def tiny_files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The files of a real but tiny unconditional pipeline, as ``save_pretrained`` writes them."""
    import torch
    from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel

    torch.manual_seed(0)
    unet = UNet2DModel(
        sample_size=8,
        in_channels=3,
        out_channels=3,
        layers_per_block=1,
        block_out_channels=(8, 8),
        norm_num_groups=4,
        down_block_types=("DownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "UpBlock2D"),
    )
    folder = tmp_path_factory.mktemp("tiny")
    DDPMPipeline(unet, DDPMScheduler(num_train_timesteps=10)).save_pretrained(folder)
    files = {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert UNET_WEIGHTS in files
    return files


@pytest.fixture
def server(tiny_files: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    from huggingface_hub import constants, file_download
    from huggingface_hub.utils import _http

    port = urlsplit(constants.ENDPOINT).port
    assert port is not None
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    # Waiting between tries proves nothing here.
    no_wait = types.SimpleNamespace(**{**vars(time), "sleep": lambda seconds: None})
    monkeypatch.setattr(_http, "time", no_wait)
    monkeypatch.setattr(file_download, "time", no_wait)
    monkeypatch.setattr(sources, "RETRY_DELAYS", (0.0, 0.0))
    with HubServer(port, {MODEL: Repository(dict(tiny_files))}) as running:
        yield running


def load(model: str = MODEL, **options: Any) -> Any:
    return model_manager.ModelManager().load_model(model, **options)


def cached_files(tmp_path: Path) -> list[str]:
    """Names of the snapshot's files and of anything that a download left unfinished."""
    cache = tmp_path / "cache"
    return sorted(path.name for path in cache.rglob("*") if path.is_file() and ".locks" not in path.parts)


# --- without weights ---------------------------------------------------------------------------------------------


def test_only_configurations_are_fetched(server: HubServer) -> None:
    pipeline = model_manager.build_pipeline_without_weights(MODEL)
    assert type(pipeline).__name__ == "DDPMPipeline"
    assert {parameter.device.type for parameter in pipeline.unet.parameters()} == {"meta"}
    fetched = {path.split("/main/")[-1] for method, path in server.log if method == "GET"}
    assert fetched == {"model_index.json", "unet/config.json", "scheduler/scheduler_config.json"}


def test_a_folder_gives_the_same_pipeline(tiny_files: dict[str, bytes], tmp_path: Path) -> None:
    for name, content in tiny_files.items():
        if not name.endswith(".safetensors"):
            (tmp_path / name).parent.mkdir(exist_ok=True)
            (tmp_path / name).write_bytes(content)
    pipeline = model_manager.build_pipeline_without_weights(tmp_path)
    header = tiny_files[UNET_WEIGHTS]
    entries = json.loads(header[8 : 8 + int.from_bytes(header[:8], "little")])
    shapes = {name: tuple(entry["shape"]) for name, entry in entries.items() if name != "__metadata__"}
    assert {name: tuple(p.shape) for name, p in pipeline.unet.state_dict().items()} == shapes


def test_second_time_offline(server: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    model_manager.build_pipeline_without_weights(MODEL)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    requests = len(server.log)
    model_manager.build_pipeline_without_weights(MODEL)
    assert len(server.log) == requests


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"model_index.json": b"{"}, "is not valid JSON"),
        ({"model_index.json": b"[]"}, "names no pipeline class"),
        ({"model_index.json": b'{"_class_name": ["mine", "MyPipeline"]}'}, "code of its own"),
        ({"model_index.json": b'{"_class_name": "MyPipeline"}'}, "not part of diffusers"),
        ({"model_index.json": b'{"_class_name": "DDPMPipeline", "unet": ["mine", "MyUNet"]}'}, "mine.MyUNet"),
        ({"model_index.json": b'{"_class_name": "DDPMPipeline", "unet": ["os", "system"]}'}, "os.system"),
        ({"model_index.json": b'{"_class_name": "DDPMPipeline", "unet": ["diffusers"]}'}, "malformed"),
        ({"model_index.json": b'{"_class_name": "DDPMPipeline", "../x": ["diffusers", "UNet2DModel"]}'}, "../x"),
        ({"model_index.json": None}, "has no model_index.json"),
        ({"unet/config.json": None}, "'unet'"),
        ({"unet/config.json": b"\xff\xfe"}, "is not valid JSON"),
        ({"unet/config.json": b"[" * 100_000}, "is not valid JSON"),
        ({"unet/config.json": b'{"block_out_channels": "wide"}'}, "could not be built"),
    ],
)
def test_malformed_models_are_named(server: HubServer, change: dict[str, bytes | None], expected: str) -> None:
    files = server.repositories[MODEL].files
    for name, content in change.items():
        if content is None:
            del files[name]
        else:
            files[name] = content
    with pytest.raises((ModelLoadError, ModelNotFoundError)) as caught:
        model_manager.build_pipeline_without_weights(MODEL)
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)


def test_missing_model(server: HubServer) -> None:
    with pytest.raises(ModelNotFoundError, match="'acme/none' is not on the hub, or is private"):
        model_manager.build_pipeline_without_weights("acme/none")


def test_missing_revision(server: HubServer) -> None:
    with pytest.raises(ModelNotFoundError, match="has no revision 'v9'"):
        model_manager.build_pipeline_without_weights(MODEL, revision="v9")


def test_named_revision(server: HubServer) -> None:
    server.repositories[MODEL].revisions = ("main", "v2")
    model_manager.build_pipeline_without_weights(MODEL, revision="v2")
    assert any("/resolve/v2/" in path for _, path in server.log)


def test_private_model_needs_its_token(server: HubServer) -> None:
    server.repositories[MODEL].private = True
    with pytest.raises(ModelNotFoundError, match="or is private"):
        model_manager.build_pipeline_without_weights(MODEL)
    assert model_manager.build_pipeline_without_weights(MODEL, token="hf_right") is not None


def test_gated_model_needs_its_token(server: HubServer) -> None:
    server.repositories[MODEL].gated = True
    with pytest.raises(ModelLoadError, match="is gated"):
        model_manager.build_pipeline_without_weights(MODEL)
    with pytest.raises(ModelLoadError, match="is gated"):
        model_manager.build_pipeline_without_weights(MODEL, token="hf_wrong")
    assert model_manager.build_pipeline_without_weights(MODEL, token="hf_right") is not None


def test_token_from_the_environment(server: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    server.repositories[MODEL].private = True
    monkeypatch.setenv("HF_TOKEN", "hf_right")
    assert model_manager.build_pipeline_without_weights(MODEL) is not None


def test_unknown_variant(server: HubServer) -> None:
    with pytest.raises(ModelLoadError, match="no weights of the variant 'fp16'"):
        model_manager.build_pipeline_without_weights(MODEL, variant="fp16")
    server.repositories[MODEL].files["unet/diffusion_pytorch_model.fp16.safetensors"] = b""
    assert model_manager.build_pipeline_without_weights(MODEL, variant="fp16") is not None


def test_offline_and_never_fetched(server: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ModelLoadError, match="HF_HUB_OFFLINE"):
        model_manager.build_pipeline_without_weights(MODEL)
    assert server.log == []


def test_host_without_address(server: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    # The top-level domain "invalid" never resolves (RFC 2606).
    monkeypatch.setattr(constants, "ENDPOINT", "http://hub.invalid")
    monkeypatch.setattr(hub, "getproxies", dict)
    started = time.perf_counter()
    with pytest.raises(ModelLoadError, match="cannot be reached"):
        model_manager.build_pipeline_without_weights(MODEL)
    assert time.perf_counter() - started < 20


@pytest.mark.parametrize(
    "name",
    [
        "",
        " ",
        "../../x",
        "/nowhere/at/all",
        "./x",
        "~/nothing",
        "a b",
        "a/b/c",
        "a\0b",
        "x" * 10_000,
        "owner/na\nme",
        "\u202ex/y",
    ],
)
def test_names_that_are_neither_folder_nor_id(name: str) -> None:
    with pytest.raises(ModelNotFoundError) as caught:
        hub.local_folder(name)
    assert len(str(caught.value)) < 300
    assert "\n" not in str(caught.value)


def test_folder_that_is_no_pipeline(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFoundError, match="is no diffusers pipeline"):
        hub.read_blueprint(tmp_path)


# --- with weights ------------------------------------------------------------------------------------------------


def test_download_cache_and_offline_reuse(server: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch
    from huggingface_hub import constants

    first = load()
    assert server.fetched(UNET_WEIGHTS) == 1
    sample = torch.zeros(1, 3, 8, 8)
    expected = first.unet(sample, 1).sample
    second = load()
    assert server.fetched(UNET_WEIGHTS) == 1
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    requests = len(server.log)
    third = load()
    assert len(server.log) == requests
    for again in (second, third):
        assert torch.equal(again.unet(sample, 1).sample, expected)


def test_folder_loads_without_the_hub(server: HubServer, tiny_files: dict[str, bytes], tmp_path: Path) -> None:
    for name, content in tiny_files.items():
        (tmp_path / "model" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "model" / name).write_bytes(content)
    pipeline = load(str(tmp_path / "model"))
    assert pipeline(num_inference_steps=1, batch_size=1).images[0].size == (8, 8)
    assert server.log == []


def test_pickled_weights_are_refused(server: HubServer) -> None:
    files = server.repositories[MODEL].files
    files["unet/diffusion_pytorch_model.bin"] = files.pop(UNET_WEIGHTS)
    with pytest.raises(ModelLoadError, match="lacks weights in the safetensors format"):
        load()
    assert server.fetched(".bin") == 0


def test_missing_weight_file(server: HubServer) -> None:
    del server.repositories[MODEL].files[UNET_WEIGHTS]
    with pytest.raises(ModelLoadError, match=r"acme/tiny-pipeline.* lacks weights"):
        load()


def test_variant_that_is_not_there(server: HubServer) -> None:
    with pytest.raises(ModelLoadError, match="no weights of the variant"):
        load(variant="fp16")


def test_weight_file_that_is_truncated_at_the_source(server: HubServer) -> None:
    files = server.repositories[MODEL].files
    files[UNET_WEIGHTS] = files[UNET_WEIGHTS][:-100]
    with pytest.raises(ModelLoadError, match=r"unet/diffusion_pytorch_model.safetensors .* is truncated"):
        load()


def test_weight_file_with_a_broken_header(server: HubServer) -> None:
    files = server.repositories[MODEL].files
    files[UNET_WEIGHTS] = files[UNET_WEIGHTS][:8] + b"!" + files[UNET_WEIGHTS][9:]
    with pytest.raises(ModelLoadError, match="is corrupt: its header cannot be read"):
        load()


def test_weights_of_another_shape(server: HubServer) -> None:
    files = server.repositories[MODEL].files
    config = json.loads(files["unet/config.json"])
    config["block_out_channels"] = [8, 16]
    files["unet/config.json"] = json.dumps(config).encode()
    with pytest.raises(ModelLoadError, match="could not be loaded"):
        load()


@pytest.mark.parametrize("kind", [429, 500, 503, "drop", "refuse", "slow"])
def test_a_passing_fault_is_survived(server: HubServer, tmp_path: Path, kind: int | str) -> None:
    server.faults.append(Fault(UNET_WEIGHTS, kind, times=1, method="GET", seconds=1.5))
    assert load().unet is not None
    assert not [name for name in cached_files(tmp_path) if name.endswith(".incomplete")]


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        (401, "401"),
        (403, "403"),
        (429, "429"),
        (500, "500"),
        ("refuse", "broke off"),
        ("drop", "broke off"),
        ("truncate", "incomplete"),
        ("corrupt", "hash"),
    ],
)
def test_a_lasting_fault_is_named(server: HubServer, tmp_path: Path, kind: int | str, expected: str) -> None:
    server.faults.append(Fault(UNET_WEIGHTS, kind, method="GET"))
    with pytest.raises(ModelLoadError, match=expected) as caught:
        load()
    assert "\n" not in str(caught.value)
    # Nothing that looks finished is left: the next try, without the fault, fetches the file and works.
    server.faults.clear()
    assert load().unet is not None


def test_a_hub_that_is_down_is_named(server: HubServer) -> None:
    server.faults.append(Fault("/", 503))
    with pytest.raises(ModelLoadError, match="503"):
        load()


def test_a_hub_that_is_slow_is_named(server: HubServer) -> None:
    server.faults.append(Fault(f"/{MODEL}/resolve/main/model_index.json", "slow", seconds=1.4))
    with pytest.raises(ModelLoadError, match="did not answer in time"):
        model_manager.build_pipeline_without_weights(MODEL)


def test_wrong_hash_is_fetched_again(server: HubServer, tmp_path: Path) -> None:
    server.faults.append(Fault(UNET_WEIGHTS, "corrupt", times=1, method="GET"))
    assert load().unet is not None
    assert server.fetched(UNET_WEIGHTS) == 2


def test_catalog_model_without_weights_says_what_works(server: HubServer) -> None:
    with pytest.raises(ModelNotFoundError):
        load("stabilityai/stable-diffusion-2-1-base")
