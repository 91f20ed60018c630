"""Loading, keeping and unloading pipelines, with the embedded model and with random weights."""

from __future__ import annotations

import gc
import shutil
import threading
import weakref
from pathlib import Path

import pytest
import torch

from diffmeter import config
from diffmeter.errors import InputError, ModelLoadError, ModelNotFoundError
from diffmeter.model_manager import ModelManager, get_model_manager
from diffmeter.models import catalog, loading

SHAPES = "diffmeter/shapes"


@pytest.fixture
def shapes_folder(tmp_path: Path) -> Path:
    entry = catalog.find(SHAPES)
    assert entry is not None
    assert entry.folder is not None
    return Path(shutil.copytree(entry.folder, tmp_path / "shapes"))


def test_embedded_model_generates_without_a_network() -> None:
    manager = ModelManager()
    pipe = manager.load_model(SHAPES, device="cpu")
    pipe.set_progress_bar_config(disable=True)
    generator = torch.Generator().manual_seed(0)
    image = pipe("a red circle", num_inference_steps=1, height=64, width=64, generator=generator).images[0]
    assert image.size == (64, 64)
    assert manager.info(SHAPES).weights == "pretrained"  # type: ignore[union-attr]


def test_one_manager_per_process() -> None:
    found: list[ModelManager] = []
    threads = [threading.Thread(target=lambda: found.append(get_model_manager())) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({id(manager) for manager in found}) == 1


def test_loaded_model_is_returned_again_under_any_of_its_names() -> None:
    manager = ModelManager()
    pipe = manager.load_model(SHAPES)
    assert manager.load_model(SHAPES) is pipe
    assert manager.load_model("shapes", weights="pretrained", device="cpu", dtype="float32") is pipe
    assert manager.get("Diffmeter/Shapes") is pipe
    assert manager.loaded_models() == [SHAPES]
    assert manager.get("sdxl") is None
    assert manager.info("sdxl") is None


def test_other_options_load_anew() -> None:
    manager = ModelManager()
    pipe = manager.load_model(SHAPES)
    half = manager.load_model(SHAPES, dtype=torch.bfloat16)
    assert half is not pipe
    assert half.unet.dtype == torch.bfloat16
    random = manager.load_model(SHAPES, weights="random", seed=3)
    assert manager.load_model(SHAPES) is random, "auto is the model as it is loaded"
    assert manager.load_model(SHAPES, weights="random", seed=3) is random
    assert manager.load_model(SHAPES, weights="random", seed=4) is not random
    assert manager.loaded_models() == [SHAPES]


def test_weights_of_each_kind() -> None:
    manager = ModelManager(max_models=3)
    random = manager.load_model("google/ddpm-cifar10-32", weights="random", seed=1)
    assert random.unet.device.type == "cpu"
    assert random(num_inference_steps=1, generator=torch.Generator().manual_seed(0)).images[0].size == (32, 32)
    none = manager.load_model("stabilityai/stable-diffusion-2-1-base", weights="none")
    assert {parameter.device.type for parameter in none.unet.parameters()} == {"meta"}
    assert manager.info("sd21-base").device == "meta"  # type: ignore[union-attr]


def test_memory_is_freed_when_a_model_is_unloaded() -> None:
    manager = ModelManager()
    watched = weakref.ref(manager.load_model(SHAPES).unet)
    assert watched() is not None
    assert manager.unload_model(SHAPES) is True
    gc.collect()
    assert watched() is None
    assert manager.unload_model(SHAPES) is False
    manager.load_model(SHAPES)
    manager.unload_all()
    assert manager.loaded_models() == []


def test_least_recently_used_model_makes_room(shapes_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    manager = ModelManager(max_models=2)
    copy = str(shapes_folder)
    manager.load_model(SHAPES)
    manager.load_model(copy)
    manager.load_model(SHAPES)
    manager.load_model("google/ddpm-cifar10-32", weights="none")
    assert manager.loaded_models() == [SHAPES, "google/ddpm-cifar10-32"]
    # Without a number of its own, a manager follows the setting at the time of the call.
    other = ModelManager()
    monkeypatch.setattr(config, "MAX_MODELS", 2)
    other.load_model(SHAPES)
    other.load_model(copy)
    monkeypatch.setattr(config, "MAX_MODELS", 1)
    other.load_model("google/ddpm-cifar10-32", weights="none")
    assert other.loaded_models() == ["google/ddpm-cifar10-32"]


def test_a_request_that_is_refused_costs_no_loaded_model() -> None:
    manager = ModelManager()
    pipe = manager.load_model(SHAPES)
    for bad in (
        lambda: manager.load_model(SHAPES, device="nowhere"),
        lambda: manager.load_model(SHAPES, dtype="int8"),
        lambda: manager.load_model("/no/such/folder"),
        lambda: manager.load_model("owner/not-cached"),
        lambda: manager.load_model("google/ddpm-cifar10-32", weights="some"),  # type: ignore[arg-type]
    ):
        with pytest.raises((InputError, ModelLoadError, ModelNotFoundError)):
            bad()
    assert manager.get(SHAPES) is pipe


def test_local_folder(shapes_folder: Path) -> None:
    manager = ModelManager()
    by_path = manager.load_model(shapes_folder)
    assert manager.load_model(str(shapes_folder)) is by_path
    assert manager.loaded_models() == [str(shapes_folder)]
    original = ModelManager().load_model(SHAPES).unet.state_dict()
    assert all(torch.equal(tensor, original[name]) for name, tensor in by_path.unet.state_dict().items())


def test_incomplete_weights_are_named(shapes_folder: Path) -> None:
    from safetensors.torch import load_file, save_file

    path = shapes_folder / "unet" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(path)
    tensors.pop("conv_in.weight")
    save_file(tensors, path)
    with pytest.raises(ModelLoadError, match=r"could not be loaded|are incomplete"):
        ModelManager().load_model(shapes_folder)


def test_weights_that_transformers_would_make_up_are_named(shapes_folder: Path) -> None:
    """Transformers initializes what a file lacks at random, and says so in a warning only."""
    from safetensors.torch import load_file, save_file

    path = shapes_folder / "text_encoder" / "model.safetensors"
    tensors = load_file(path)
    removed = next(name for name in tensors if name.endswith("fc1.weight"))
    tensors.pop(removed)
    save_file(tensors, path, metadata={"format": "pt"})
    with pytest.raises(ModelLoadError, match="are incomplete: text_encoder has"):
        ModelManager().load_model(shapes_folder)


def test_missing_weights_are_named(shapes_folder: Path) -> None:
    (shapes_folder / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    with pytest.raises(ModelLoadError, match="could not be loaded") as caught:
        ModelManager().load_model(shapes_folder)
    assert "\n" not in str(caught.value)


def test_catalogue_model_without_weights_says_what_works() -> None:
    with pytest.raises(ModelLoadError, match=r"HF_HUB_OFFLINE.*`diffmeter profile stabilityai/stable-diffusion-2-1"):
        ModelManager().load_model("stabilityai/stable-diffusion-2-1-base")


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"weights": "some"}, "weights 'some' is not usable: use one of auto, pretrained, random, none"),
        ({"device": "gpu"}, "device 'gpu' is not usable"),
        ({"device": "meta"}, "holds no weights"),
        ({"dtype": "float31"}, "dtype 'float31' is not usable"),
        ({"cpu_offload": "disk"}, "cpu_offload 'disk' is not usable"),
        ({"cpu_offload": True, "device": "cpu"}, "needs an accelerator, and the device is 'cpu'"),
        ({"cpu_offload": "model", "weights": "none"}, "nothing to offload"),
    ],
)
def test_unusable_options(options: dict[str, object], expected: str) -> None:
    with pytest.raises(InputError, match=expected):
        ModelManager().load_model(SHAPES, **options)  # type: ignore[arg-type]


@pytest.mark.skipif(torch.cuda.is_available(), reason="the machine has the device that must be missing")
def test_device_that_is_not_there() -> None:
    with pytest.raises(InputError, match="device 'cuda' is not on this machine: use cpu"):
        ModelManager().load_model(SHAPES, device="cuda")


@pytest.mark.parametrize("bad", [0, -1, 1.5, True, "2"])
def test_unusable_max_models(bad: object) -> None:
    with pytest.raises(InputError, match="max_models"):
        ModelManager(max_models=bad)  # type: ignore[arg-type]


def test_memory_options() -> None:
    manager = ModelManager()
    pipe = manager.load_model(SHAPES, attention_slicing=True, vae_slicing=True, vae_tiling=True)
    assert pipe.vae.use_slicing
    assert pipe.vae.use_tiling
    sliced = [type(p).__name__ for p in pipe.unet.attn_processors.values()]
    assert sliced
    assert all(name.startswith("Sliced") for name in sliced)
    same = manager.load_model(SHAPES, vae_slicing=False, vae_tiling=False, attention_slicing=False)
    assert same is pipe
    assert not pipe.vae.use_slicing
    assert not pipe.vae.use_tiling
    assert not any(type(p).__name__.startswith("Sliced") for p in pipe.unet.attn_processors.values())


def test_memory_options_from_the_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(config, "VAE_TILING", True)
    assert ModelManager().load_model(SHAPES).vae.use_tiling
    assert not ModelManager().load_model(SHAPES, vae_tiling=False).vae.use_tiling
    # A pipeline without a VAE ignores the setting, and refuses the option.
    manager = ModelManager()
    manager.load_model("google/ddpm-cifar10-32", weights="none")
    with pytest.raises(InputError, match="vae_tiling is not possible"):
        manager.load_model("google/ddpm-cifar10-32", vae_tiling=True)


def test_default_device_and_dtype(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(config, "DEVICE", "cpu")
    monkeypatch.setattr(config, "DTYPE", "bfloat16")
    assert ModelManager().load_model(SHAPES).unet.dtype == torch.bfloat16
    monkeypatch.setattr(config, "DTYPE", "auto")
    assert ModelManager().load_model(SHAPES).unet.dtype == torch.float32


def test_half_precision_on_an_accelerator() -> None:
    """UNets are published for float16, transformer pipelines for bfloat16."""
    assert loading._dtype(None, "cuda", False) == torch.float16
    assert loading._dtype("auto", "cuda:1", True) == torch.bfloat16
    assert loading._dtype(None, "mps", True) == torch.float32


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no accelerator on this machine")
@pytest.mark.parametrize("offload", ["model", "sequential"])
def test_cpu_offload(offload: str) -> None:
    manager = ModelManager()
    pipe = manager.load_model(SHAPES, cpu_offload=offload, device="cuda")
    image = pipe("a red circle", num_inference_steps=1, height=64, width=64).images[0]
    assert image.size == (64, 64)
    manager.unload_all()
    assert torch.cuda.memory_allocated() < 2**20
