"""Find, load, keep and unload pipelines.

``get_model_manager()`` is the one manager of a process. Where models come from and how one is loaded stands in
``models/``.
"""

from __future__ import annotations

import gc
import logging
import os
import threading
from collections import OrderedDict
from typing import TYPE_CHECKING, Any, Literal

from diffmeter import config
from diffmeter.devices import empty_cache
from diffmeter.errors import InputError, whole_number
from diffmeter.models.loading import (
    WEIGHTS,
    LoadedModel,
    LoadOptions,
    apply_memory_options,
    matches,
    offload_mode,
    plan_load,
)
from diffmeter.models.sources import build_pipeline_without_weights as build_pipeline_without_weights
from diffmeter.models.sources import source_of

if TYPE_CHECKING:
    import torch

logger = logging.getLogger(__name__)

Weights = Literal["auto", "pretrained", "random", "none"]


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
        config_from: str | os.PathLike[str] | None = None,
    ) -> Any:
        """Load a pipeline, or return it if it is loaded already, and return it ready to run.

        ``model_id`` is a hub id, a catalog id or alias, a local folder in the diffusers layout, or a ``.safetensors``
        file that holds a whole pipeline or its denoiser; ``config_from`` then names the folder or model that has the
        configuration and tokenizers, where they cannot be found out. ``weights``:

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
        options = LoadOptions(
            weights=weights,
            device=device,
            dtype=dtype,
            revision=revision,
            variant=variant,
            token=token,
            offload=None if cpu_offload is None else offload_mode(cpu_offload),
            seed=seed,
            config=None if config_from is None else os.fspath(config_from),
        )
        with self._lock:
            key = self._key(name)
            loaded = self._models.get(key)
            if loaded is None or not matches(loaded, options):
                # Everything that can be refused is refused before a model in memory is given up for the new one.
                plan = plan_load(name, options)
                if key in self._models:
                    self._drop(key)
                self._make_room()
                loaded = plan.load()
                given = (attention_slicing, vae_slicing, vae_tiling)
                defaults = (config.ATTENTION_SLICING, config.VAE_SLICING, config.VAE_TILING)
                apply_memory_options(loaded.pipeline, name, given, defaults)
                self._models[key] = loaded
            else:
                apply_memory_options(loaded.pipeline, name, (attention_slicing, vae_slicing, vae_tiling))
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
        return source_of(name).key

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
        gc.collect()
        empty_cache()


_manager: ModelManager | None = None
_manager_lock = threading.Lock()


def get_model_manager() -> ModelManager:
    """The manager of this process; the same one at each call."""
    global _manager
    with _manager_lock:
        if _manager is None:
            _manager = ModelManager()
        return _manager
