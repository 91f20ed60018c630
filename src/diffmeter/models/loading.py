"""Load a pipeline: options are checked and resolved first; then come weights, from a folder or random.

Weights come from the hub or its cache, from a folder in the diffusers layout, or from this package (the embedded
model): safetensors only, and no code that comes with a model is run.
"""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diffmeter import config
from diffmeter.compat import quiet_libraries
from diffmeter.devices import best_device, check_device
from diffmeter.errors import InputError, ModelLoadError

from . import blueprint as blueprints
from . import hub
from . import weights as weights_check
from .addresses import parse_address
from .sources import Source, find_blueprint, find_weights, source_of

if TYPE_CHECKING:
    import torch

logger = logging.getLogger(__name__)

WEIGHTS = ("auto", "pretrained", "random", "none")


@dataclass(frozen=True, slots=True, kw_only=True)
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


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadOptions:
    """What was asked for; None asks for nothing. See ``ModelManager.load_model``."""

    weights: str = "auto"
    device: Any = None
    dtype: Any = None
    revision: str | None = None
    variant: str | None = None
    token: str | bool | None = None
    offload: str | None = None
    seed: int | None = None
    config: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadPlan:
    """A model that was found, with every option resolved: what is left is to load it."""

    name: str
    weights: str
    blueprint: blueprints.Blueprint
    folder: Path | None
    file: Path | None
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
        with quiet_libraries():
            if self.folder is not None:
                pipeline = self._from_folder(self.folder, target)
            elif self.file is not None:
                pipeline = self._from_file(self.file, target)
            else:
                pipeline = blueprints.build(self.blueprint, device=target, dtype=self.dtype, seed=self.seed)
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

    def _from_file(self, file: Path, target: str) -> Any:
        """A pipeline from one file of weights; configuration and tokenizers come from its family."""
        origin = dict(self.blueprint.origin or {})
        cls = blueprints.pipeline_type(self.blueprint.pipeline_class, self.name)
        try:
            pipeline = cls.from_single_file(str(file), config=origin.get("family"), **{_dtype_argument(): self.dtype})
            pipeline = pipeline.to(target)
        except MemoryError as error:
            raise ModelLoadError(f"{self.name!r} does not fit into memory.") from error
        except Exception as error:
            raise ModelLoadError(
                f"{self.name!r} could not be loaded with the configuration of {origin.get('family')}: "
                f"{weights_check.reason(error)}; give a folder with its configuration and tokenizers with --config."
            ) from error
        pipeline.register_to_config(_name_or_path=self.name)
        blueprints.note_origin(pipeline, origin)
        return pipeline


def _dtype_argument() -> str:
    """The argument of ``from_pretrained`` that takes the dtype: diffusers 0.42 renamed it."""
    import diffusers
    from packaging.version import Version

    return "dtype" if Version(diffusers.__version__) >= Version("0.42") else "torch_dtype"


def plan_load(name: str, options: LoadOptions) -> LoadPlan:
    """Find a model and resolve every option, without loading anything.

    Raises:
        InputError: an option that cannot be used.
        ModelNotFoundError, ModelLoadError: there is no such model, or it cannot be loaded.
    """
    weights, offload = options.weights, options.offload
    find = partial(find_blueprint, revision=options.revision, variant=options.variant, token=options.token)
    kind = "pretrained" if weights == "auto" else weights
    target = _device(options.device, kind)
    if offload is None:
        offload = "none" if kind == "none" else config.CPU_OFFLOAD
    if offload != "none":
        _check_offload(offload, target, kind)
    _dtype(options.dtype, target, False)
    source = source_of(name)
    folder, file = None, _weight_file(source)
    if file is not None:
        blueprint = find(name, config=options.config)
    elif kind == "pretrained":
        folder = find_weights(name, revision=options.revision, variant=options.variant, token=options.token)
        # Refuses malformed indexes and code that comes with the model before anything is built from them.
        blueprint = hub.read_blueprint(folder)
    else:
        blueprint = find(name)
    return LoadPlan(
        name=source.model_id,
        weights=kind,
        blueprint=blueprint,
        folder=folder,
        file=file if kind == "pretrained" else None,
        device=target,
        dtype=_dtype(options.dtype, target, "transformer" in blueprint.components),
        revision=options.revision,
        variant=options.variant,
        offload=offload,
        seed=0 if options.seed is None else options.seed,
    )


def _weight_file(source: Source) -> Path | None:
    """The single file of weights on this machine that a name means, if it means one."""
    if source.folder is not None or source.entry is not None:
        return None
    address = parse_address(source.name)
    return address.path if address.is_file else None


def matches(loaded: LoadedModel, wanted: LoadOptions) -> bool:
    """Whether a loaded model is what the options ask for; an option that was not given asks for nothing."""
    if wanted.weights not in ("auto", loaded.weights):
        return False
    if wanted.device is not None and loaded.weights != "none":
        if _device(wanted.device, wanted.weights) != loaded.device:
            return False
    if wanted.dtype not in (None, "auto") and _dtype_text(wanted.dtype) != loaded.dtype:
        return False
    pairs = (
        (wanted.revision, loaded.revision),
        (wanted.variant, loaded.variant),
        (wanted.offload, loaded.cpu_offload),
        (wanted.seed if loaded.weights == "random" else None, loaded.seed),
    )
    return all(asked is None or asked == there for asked, there in pairs)


def _device(device: Any, weights: str) -> str:
    """The device as text, "auto" resolved. Raises ``InputError`` for one that torch does not know or have."""
    text = str(device) if device is not None else config.DEVICE
    if weights == "none" and text in ("auto", "meta"):
        return "meta"
    if text == "meta":
        raise InputError("device 'meta' holds no weights: use weights=\"none\" with it.")
    return check_device(text)


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


def offload_mode(value: Any) -> str:
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


def apply_memory_options(
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
