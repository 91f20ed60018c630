"""Find, load, keep and unload pipelines.

``get_model_manager()`` is the one manager of a process. Weights come from the hub or its cache, from a folder in the
diffusers layout, or from this package (the embedded model): safetensors only, and no code that comes with a model is
run. A model can also be built from its configuration alone, with random weights or on the meta device with none.
"""

from __future__ import annotations

import gc
import inspect
import logging
import os
import threading
import time
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from diffmeter import config
from diffmeter.errors import InputError, ModelLoadError, TemporaryHubError, whole_number
from diffmeter.models import blueprint as _blueprint
from diffmeter.models import catalog, hub
from diffmeter.models import weights as weights_check

if TYPE_CHECKING:
    import torch

logger = logging.getLogger(__name__)

Weights = Literal["auto", "pretrained", "random", "none"]
Offload = Literal["none", "model", "sequential"]

WEIGHTS = ("auto", "pretrained", "random", "none")

# Seconds before each new try of a download that failed for a reason that may pass. huggingface_hub retries single
# requests itself; these tries are for what it gives up on.
RETRY_DELAYS: tuple[float, ...] = (1.0, 4.0)


@dataclass(frozen=True)
class LoadedModel:
    """A pipeline that the manager keeps, and how it was loaded."""

    model_id: str
    pipeline: Any
    weights: str
    device: str
    dtype: str
    revision: str | None
    variant: str | None
    cpu_offload: str
    seed: int


class ModelManager:
    """Loads pipelines and keeps the most recently used ones in memory.

    ``max_models`` is how many; None means the setting ``config.MAX_MODELS``. Loading one more unloads the least
    recently used first, so that both are never in memory together.
    """

    def __init__(self, max_models: int | None = None) -> None:
        self._max_models = None if max_models is None else whole_number(max_models, "max_models")
        self._models: OrderedDict[str, LoadedModel] = OrderedDict()
        self._lock = threading.RLock()

    def load_model(
        self,
        model_id: str | os.PathLike[str],
        *,
        weights: Weights = "auto",
        device: str | torch.device | None = None,
        dtype: str | torch.dtype | None = None,
        revision: str | None = None,
        variant: str | None = None,
        token: str | bool | None = None,
        attention_slicing: bool | None = None,
        vae_slicing: bool | None = None,
        vae_tiling: bool | None = None,
        cpu_offload: bool | str | None = None,
        seed: int | None = None,
    ) -> Any:
        """Load a pipeline, or return it if it is loaded already, and return it ready to run.

        ``model_id`` is a hub id, a catalogue id or alias, or a local folder in the diffusers layout. ``weights``:

        - "pretrained": the model's own weights, from the folder, the hub's cache or the hub;
        - "random": built from its configuration, with weights drawn from ``seed`` (0 unless given);
        - "none": built from its configuration on the meta device; it can be counted but not run;
        - "auto": the model as it is loaded now, otherwise "pretrained".

        ``device`` and ``dtype`` are as torch names them, or "auto": the accelerator if there is one, and half
        precision there, otherwise float32. ``cpu_offload`` is "model" (or True), "sequential" or "none", and needs an
        accelerator. Options left at None are as in the loaded model, otherwise as in the settings (``config``).

        Raises ``InputError`` for an unusable option, ``ModelNotFoundError`` for a model that does not exist, and
        ``ModelLoadError`` for one that cannot be loaded; each with one sentence.
        """
        name = os.fspath(model_id)
        if weights not in WEIGHTS:
            raise InputError(f"weights {weights!r} is not usable: use one of {', '.join(WEIGHTS)}.")
        offload = None if cpu_offload is None else _offload_mode(cpu_offload)
        with self._lock:
            key = self._key(name)
            loaded = self._models.get(key)
            if loaded is None or not _matches(loaded, weights, device, dtype, revision, variant, offload, seed):
                # Everything that can be refused is refused before a model in memory is given up for the new one.
                plan = _plan(name, weights, device, dtype, revision, variant, token, offload, seed)
                if key in self._models:
                    self._drop(key)
                self._make_room()
                loaded = plan.load()
                given = (attention_slicing, vae_slicing, vae_tiling)
                defaults = (config.ATTENTION_SLICING, config.VAE_SLICING, config.VAE_TILING)
                _apply_memory_options(loaded.pipeline, name, given, defaults)
                self._models[key] = loaded
            else:
                _apply_memory_options(loaded.pipeline, name, (attention_slicing, vae_slicing, vae_tiling))
            self._models.move_to_end(key)
            return loaded.pipeline

    def get(self, model_id: str | os.PathLike[str]) -> Any:
        """The pipeline that is loaded under this id (or an alias of it), or None. Loads nothing."""
        with self._lock:
            loaded = self._models.get(self._key(os.fspath(model_id)))
            return None if loaded is None else loaded.pipeline

    def info(self, model_id: str | os.PathLike[str]) -> LoadedModel | None:
        """How a model was loaded, or None if it is not loaded."""
        with self._lock:
            return self._models.get(self._key(os.fspath(model_id)))

    def loaded_models(self) -> list[str]:
        """The ids of the models in memory, the least recently used first."""
        with self._lock:
            return [loaded.model_id for loaded in self._models.values()]

    def unload_model(self, model_id: str | os.PathLike[str]) -> bool:
        """Forget a model and free its memory. Returns whether it was loaded.

        Memory is freed as soon as nothing else refers to the pipeline or its components.
        """
        with self._lock:
            key = self._key(os.fspath(model_id))
            if key not in self._models:
                return False
            self._drop(key)
            return True

    def unload_all(self) -> None:
        """Forget every model and free their memory."""
        with self._lock:
            for key in list(self._models):
                self._drop(key)

    def _key(self, name: str) -> str:
        """One key for all the names of a model: its folder, its catalogue id, or its hub id."""
        if os.path.isdir(os.path.expanduser(name)):
            return str(Path(name).expanduser().resolve())
        entry = catalog.find(name)
        return entry.model_id if entry is not None else name

    def _make_room(self) -> None:
        limit = self._max_models if self._max_models is not None else config.MAX_MODELS
        while len(self._models) >= limit:
            self._drop(next(iter(self._models)))

    def _drop(self, key: str) -> None:
        loaded = self._models.pop(key)
        logger.info("unloading %s", loaded.model_id)
        if loaded.cpu_offload != "none" and hasattr(loaded.pipeline, "remove_all_hooks"):
            loaded.pipeline.remove_all_hooks()
        del loaded
        free_memory()


_manager: ModelManager | None = None
_manager_lock = threading.Lock()


def get_model_manager() -> ModelManager:
    """The manager of this process; the same one at each call."""
    global _manager
    with _manager_lock:
        if _manager is None:
            _manager = ModelManager()
        return _manager


def free_memory() -> None:
    """Collect what nothing refers to any more, and give the accelerator's cached memory back."""
    gc.collect()
    import torch

    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    if torch.backends.mps.is_available():
        torch.mps.empty_cache()
    xpu = getattr(torch, "xpu", None)
    if xpu is not None and xpu.is_available():
        xpu.empty_cache()


def best_device() -> str:
    """The accelerator of this machine if it has one that torch can use, otherwise "cpu"."""
    import torch

    if torch.cuda.is_available():
        return "cuda"
    xpu = getattr(torch, "xpu", None)
    if xpu is not None and xpu.is_available():
        return "xpu"
    if torch.backends.mps.is_available():
        return "mps"
    return "cpu"


def find_blueprint(
    model: str | os.PathLike[str],
    *,
    revision: str | None = None,
    variant: str | None = None,
    token: str | bool | None = None,
) -> _blueprint.Blueprint:
    """The blueprint of a model: a local folder first, then the catalogue, then the hub.

    A ``revision`` is always asked of the hub, since the catalogue holds one state of each model.
    Raises ``ModelNotFoundError`` or ``ModelLoadError`` with one sentence.
    """
    entry = catalog.find(model) if isinstance(model, str) else None
    if entry is not None and revision is None and not os.path.isdir(model):
        if entry.folder is not None:
            return hub.read_blueprint(entry.folder)
        return entry_blueprint(entry)
    return hub.read_blueprint(model, revision=revision, variant=variant, token=token)


def entry_blueprint(entry: catalog.CatalogEntry) -> _blueprint.Blueprint:
    """What a catalogue entry says of its pipeline, in the form that ``blueprint.build`` takes."""
    return _blueprint.Blueprint(
        model_id=entry.model_id,
        pipeline_class=entry.pipeline_class,
        components={
            name: _blueprint.ComponentBlueprint(part.library, part.class_name, part.config)
            for name, part in entry.components.items()
        },
        arguments=entry.arguments,
    )


def build_pipeline_without_weights(
    model: str | os.PathLike[str],
    *,
    token_count: int | None = None,
    revision: str | None = None,
    variant: str | None = None,
    token: str | bool | None = None,
    dtype: torch.dtype | None = None,
) -> Any:
    """Build a pipeline whose models lie on the meta device: its structure, without its weights or their memory.

    ``model`` is a catalogue id or alias, a local folder in the diffusers layout, or a hub id, of which only the
    configuration files are fetched. ``token_count`` is how many tokens a prompt is taken to have (special tokens not
    included); None counts the prompt's words and punctuation.

    Raises ``ModelNotFoundError`` or ``ModelLoadError`` with one sentence.
    """
    found = find_blueprint(model, revision=revision, variant=variant, token=token)
    return _blueprint.build(found, device="meta", dtype=dtype, token_count=token_count)


def default_call_arguments(
    model: str | os.PathLike[str], pipeline: Any, given: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """What a call of ``pipeline`` is unless the user says otherwise, for a model of the catalogue; otherwise nothing.

    Size, steps, guidance, frames and text length as published, and stand-ins for the images or embeddings that the
    pipeline cannot do without. Only arguments that the pipeline takes and that ``given`` does not hold are returned.
    """
    entry = catalog.find(model) if isinstance(model, str) else None
    if entry is None:
        return {}
    own = entry.defaults
    given = given or {}
    published = {
        "height": own.height,
        "width": own.width,
        "num_inference_steps": own.num_inference_steps,
        own.guidance_argument: own.guidance_scale,
        "num_frames": own.num_frames,
        "max_sequence_length": own.max_sequence_length,
    }
    arguments = {name: value for name, value in published.items() if value is not None}
    size = (given.get("width") or own.width or 512, given.get("height") or own.height or 512)
    for name, needed in own.inputs.items():
        arguments[name] = _stand_in_input(needed, size)
    accepted = inspect.signature(type(pipeline).__call__).parameters
    return {name: value for name, value in arguments.items() if name in accepted and name not in given}


def _stand_in_input(needed: catalog.Input, size: tuple[int, int]) -> Any:
    if needed.kind == "image":
        from PIL import Image

        return Image.new("RGB", size)
    if needed.shape is not None:
        import torch

        return torch.zeros([1 if length == -1 else length for length in needed.shape])
    return needed.value


@dataclass(frozen=True)
class _Plan:
    """A model that was found, with every option resolved: what is left is to load it."""

    name: str
    weights: str
    blueprint: _blueprint.Blueprint
    folder: Path | None
    device: str
    dtype: torch.dtype
    revision: str | None
    variant: str | None
    offload: str
    seed: int

    def load(self) -> LoadedModel:
        started = time.perf_counter()
        # With offload the pipeline itself moves each component to the accelerator when it is needed.
        target = self.device if self.offload == "none" else "cpu"
        if self.folder is not None:
            pipeline = self._from_folder(self.folder, target)
        else:
            pipeline = _blueprint.build(self.blueprint, device=target, dtype=self.dtype, seed=self.seed)
        if self.offload == "model":
            pipeline.enable_model_cpu_offload(device=self.device)
        elif self.offload == "sequential":
            pipeline.enable_sequential_cpu_offload(device=self.device)
        logger.info("loaded %s (%s weights) in %.1f s", self.name, self.weights, time.perf_counter() - started)
        return LoadedModel(
            model_id=self.name,
            pipeline=pipeline,
            weights=self.weights,
            device=self.device,
            dtype=_dtype_text(self.dtype),
            revision=self.revision,
            variant=self.variant,
            cpu_offload=self.offload,
            seed=self.seed,
        )

    def _from_folder(self, folder: Path, target: str) -> Any:
        from diffusers import DiffusionPipeline

        weights_check.check_folder(folder, self.name, list(self.blueprint.components), self.variant)
        try:
            pipeline = DiffusionPipeline.from_pretrained(
                str(folder),
                **{_dtype_argument(): self.dtype},
                use_safetensors=True,
                variant=self.variant,
                local_files_only=True,
                trust_remote_code=False,
            )
            weights_check.check_complete(pipeline, self.name, folder, self.variant)
            pipeline = pipeline.to(target)
        except ModelLoadError:
            raise
        except MemoryError as error:
            raise ModelLoadError(f"{self.name!r} does not fit into memory.") from error
        except Exception as error:
            raise ModelLoadError(f"{self.name!r} could not be loaded: {weights_check.reason(error)}.") from error
        pipeline.register_to_config(_name_or_path=self.name)
        return pipeline


def _dtype_argument() -> str:
    """The argument of ``from_pretrained`` that takes the dtype: diffusers 0.42 renamed it."""
    import diffusers
    from packaging.version import Version

    return "dtype" if Version(diffusers.__version__) >= Version("0.42") else "torch_dtype"


def _plan(
    name: str,
    weights: str,
    device: Any,
    dtype: Any,
    revision: str | None,
    variant: str | None,
    token: str | bool | None,
    offload: str | None,
    seed: int | None,
) -> _Plan:
    kind = "pretrained" if weights == "auto" else weights
    target = _device(device, kind)
    if offload is None:
        offload = "none" if kind == "none" else config.CPU_OFFLOAD
    if offload != "none":
        _check_offload(offload, target, kind)
    _dtype(dtype, target, False)
    entry = catalog.find(name)
    folder = None
    if kind == "pretrained":
        folder = find_weights(name, revision=revision, variant=variant, token=token)
        # Refuses malformed indexes and code that comes with the model before anything is built from them.
        blueprint = hub.read_blueprint(folder)
    else:
        blueprint = find_blueprint(name, revision=revision, variant=variant, token=token)
    return _Plan(
        name=entry.model_id if entry is not None and not os.path.isdir(name) else name,
        weights=kind,
        blueprint=blueprint,
        folder=folder,
        device=target,
        dtype=_dtype(dtype, target, "transformer" in blueprint.components),
        revision=revision,
        variant=variant,
        offload=offload,
        seed=0 if seed is None else seed,
    )


def find_weights(
    name: str,
    *,
    revision: str | None = None,
    variant: str | None = None,
    token: str | bool | None = None,
) -> Path:
    """The local folder with a model's weights, fetched from the hub if they are not here.

    Raises ``ModelNotFoundError`` or ``ModelLoadError`` with one sentence.
    """
    entry = catalog.find(name)
    if not os.path.isdir(os.path.expanduser(name)) and entry is not None:
        if entry.folder is not None:
            return entry.folder
        name = entry.model_id
    folder = hub.local_folder(name)
    if folder is not None:
        return folder
    for delay in (*RETRY_DELAYS, None):
        try:
            return hub.download_weights(name, revision=revision, variant=variant, token=token)
        except TemporaryHubError as error:
            if delay is None:
                raise _with_hint(error, entry) from error
            logger.warning("%s Trying again in %g s.", error, delay)
            time.sleep(delay)
        except ModelLoadError as error:
            raise _with_hint(error, entry) from error
    raise AssertionError("unreachable")


def _with_hint(error: ModelLoadError, entry: catalog.CatalogEntry | None) -> ModelLoadError:
    """Say what still works without the weights, for a model that the catalogue knows."""
    if entry is None:
        return ModelLoadError(str(error))
    return ModelLoadError(f"{str(error).rstrip('.')}; `diffmeter profile {entry.model_id}` needs no weights.")


def _matches(
    loaded: LoadedModel,
    weights: str,
    device: Any,
    dtype: Any,
    revision: str | None,
    variant: str | None,
    offload: str | None,
    seed: int | None,
) -> bool:
    """Whether a loaded model is what these options ask for; an option that was not given asks for nothing."""
    if weights not in ("auto", loaded.weights):
        return False
    if device is not None and loaded.weights != "none" and _device(device, weights) != loaded.device:
        return False
    if dtype is not None and dtype != "auto" and _dtype_text(dtype) != loaded.dtype:
        return False
    if revision is not None and revision != loaded.revision:
        return False
    if variant is not None and variant != loaded.variant:
        return False
    if offload is not None and offload != loaded.cpu_offload:
        return False
    return seed is None or loaded.weights != "random" or seed == loaded.seed


def _device(device: Any, weights: str) -> str:
    """The device as text, "auto" resolved. Raises ``InputError`` for one that torch does not know or have."""
    import torch

    text = str(device) if device is not None else config.DEVICE
    if text == "auto":
        return best_device() if weights != "none" else "meta"
    try:
        found = torch.device(text)
    except RuntimeError:
        raise InputError(f"device {text!r} is not usable: use auto, cpu, cuda, cuda:INDEX, mps or xpu.") from None
    if found.type == "meta" and weights != "none":
        raise InputError("device 'meta' holds no weights: use weights=\"none\" with it.")
    available = {
        "cuda": lambda: found.index is None or found.index < torch.cuda.device_count(),
        "xpu": lambda: torch.xpu.is_available(),
        "mps": lambda: torch.backends.mps.is_available(),
    }
    if (found.type == "cuda" and not torch.cuda.is_available()) or not available.get(found.type, lambda: True)():
        raise InputError(f"device {text!r} is not on this machine: use cpu{_or_best()}.")
    return text


def _or_best() -> str:
    best = best_device()
    return "" if best == "cpu" else f" or {best}"


def _dtype(dtype: Any, device: str, is_transformer: bool) -> torch.dtype:
    """The dtype to load in. Raises ``InputError`` for a name that is not allowed."""
    import torch

    text = _dtype_text(dtype) if dtype is not None else config.DTYPE
    if text == "auto":
        if not device.startswith(("cuda", "xpu")):
            return torch.float32
        # Transformer pipelines are published for bfloat16 and overflow in float16.
        return torch.bfloat16 if is_transformer else torch.float16
    found = getattr(torch, text, None)
    if not isinstance(found, torch.dtype) or not found.is_floating_point:
        raise InputError(f"dtype {text!r} is not usable: use {', '.join(config.DTYPES)}.")
    return found


def _dtype_text(dtype: Any) -> str:
    return str(dtype).removeprefix("torch.")


def _offload_mode(value: Any) -> str:
    if isinstance(value, bool):
        return "model" if value else "none"
    if value not in config.OFFLOADS:
        raise InputError(f"cpu_offload {value!r} is not usable: use {', '.join(config.OFFLOADS)}, True or False.")
    return str(value)


def _check_offload(offload: str, device: str, weights: str) -> None:
    if weights == "none":
        raise InputError(f"cpu_offload {offload!r} is not usable with weights 'none': there is nothing to offload.")
    if device.split(":")[0] in ("cpu", "meta"):
        raise InputError(
            f"cpu_offload {offload!r} needs an accelerator, and the device is {device!r}: "
            f"use cpu_offload='none'{_or_device()}."
        )


def _or_device() -> str:
    best = best_device()
    return "" if best == "cpu" else f" or device={best!r}"


def _apply_memory_options(
    pipeline: Any,
    name: str,
    given: tuple[bool | None, bool | None, bool | None],
    defaults: tuple[bool, bool, bool] | None = None,
) -> None:
    """Switch attention slicing, VAE slicing and VAE tiling on or off.

    One that was given must be possible. The ``defaults`` of a new pipeline apply where nothing was given and are
    skipped where the pipeline lacks them. None leaves the pipeline as it is: switching attention slicing off would
    replace its attention processors for nothing.
    """
    vae = getattr(pipeline, "vae", None)
    owners = ((pipeline, "attention_slicing"), (vae, "slicing"), (vae, "tiling"))
    names = ("attention_slicing", "vae_slicing", "vae_tiling")
    for i, (owner, method) in enumerate(owners):
        wanted = given[i]
        if defaults is not None:
            wanted = True if wanted or (wanted is None and defaults[i]) else None
        if wanted is None:
            continue
        try:
            getattr(owner, f"{'enable' if wanted else 'disable'}_{method}")()
        except (AttributeError, NotImplementedError):
            if given[i]:
                raise InputError(f"{names[i]} is not possible for {name!r}: it has no part that offers it.") from None
            logger.info("%s offers no %s; the setting is ignored", name, names[i])
