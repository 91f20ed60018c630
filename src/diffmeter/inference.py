"""Generate images, save them, and say what they cost.

``generate_image`` is one image, ``generate_images_sequential`` the same prompt through several models, one after the
other; ``diffmeter batch`` (the package ``batch``) builds on the same parts. An image is on the disk before its
counting begins, and a count that fails never loses it.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import logging
import re
import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from diffmeter import config
from diffmeter.errors import InputError, one_line
from diffmeter.profile import shapes_as_tuples
from diffmeter.reports.console_block import console_block
from diffmeter.storage import files as store

if TYPE_CHECKING:
    from PIL.Image import Image

logger = logging.getLogger(__name__)

RECORD_SCHEMA_VERSION = 1
MAX_SEED = 2**63 - 1  # the largest that every device's generator takes
MAX_STEPS = 1_000_000
MAX_SIDE = 65_536  # pixels
MAX_GUIDANCE_SCALE = 1_000_000
SMALL_MODEL_PARAMS = 50_000_000  # below this one CPU thread is about as fast as several


class GeneratedImage(NamedTuple):
    """What ``generate_image`` returns: a tuple of four, as ``image, filepath, seed, profiling_data``."""

    image: Image
    filepath: str
    seed: int
    profiling_data: dict[str, Any] | None


@dataclass(frozen=True)
class GenerationRequest:
    """One image to generate. ``None`` stands for the model's own default; without a seed it is 0.

    Sizes are in pixels. ``key`` names the request: equal requests have equal keys, on every machine.
    """

    model_id: str
    prompt: str
    negative_prompt: str | None = None
    height: int | None = None
    width: int | None = None
    num_inference_steps: int | None = None
    guidance_scale: float | None = None
    seed: int | None = None

    @property
    def key(self) -> str:
        """16 hexadecimal digits that stand for all values of the request."""
        values = [
            self.model_id,
            self.prompt,
            self.negative_prompt or None,
            self.height,
            self.width,
            self.num_inference_steps,
            None if self.guidance_scale is None else float(self.guidance_scale),
            self.seed,
        ]
        return hashlib.sha256(json.dumps(values).encode("ascii")).hexdigest()[:16]

    def validate(self) -> None:
        """Check every value that can be checked without the model. Raises ``InputError`` with one sentence."""
        if not isinstance(self.model_id, str) or not self.model_id.strip():
            raise InputError(f"the model must be a model id or a folder, not {_shown(self.model_id)}.")
        if not isinstance(self.prompt, str):
            raise InputError(f"the prompt must be a string, not {_shown(self.prompt)}.")
        if self.negative_prompt is not None and not isinstance(self.negative_prompt, str):
            raise InputError(f"the negative prompt must be a string, not {_shown(self.negative_prompt)}.")
        _check_integer("the number of steps", self.num_inference_steps, 1, MAX_STEPS)
        _check_integer("the height", self.height, 1, MAX_SIDE)
        _check_integer("the width", self.width, 1, MAX_SIDE)
        _check_integer("the seed", self.seed, 0, MAX_SEED)
        scale = self.guidance_scale
        if scale is not None and (
            isinstance(scale, bool) or not isinstance(scale, (int, float)) or not 0 <= scale <= MAX_GUIDANCE_SCALE
        ):
            raise InputError(
                f"the guidance scale must be a number from 0 to {MAX_GUIDANCE_SCALE}, not {_shown(scale)}."
            )

    def with_defaults(self) -> GenerationRequest:
        """The request with the catalogue's defaults in place of ``None``, where the catalogue knows the model."""
        from diffmeter.models import catalog

        entry = catalog.find(self.model_id)
        if entry is None:
            return self
        own = entry.defaults
        return replace(
            self,
            height=own.height if self.height is None else self.height,
            width=own.width if self.width is None else self.width,
            num_inference_steps=own.num_inference_steps
            if self.num_inference_steps is None
            else self.num_inference_steps,
            guidance_scale=own.guidance_scale if self.guidance_scale is None else self.guidance_scale,
        )


@dataclass(frozen=True)
class FinishedGeneration:
    """One image with its record (a JSON object: request, timing, ``compute_profile``; no file names yet)."""

    image: Image
    record: dict[str, Any]


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def _check_integer(what: str, value: object, least: int, most: int) -> None:
    if value is None:
        return
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise InputError(f"{what} must be a whole number from {least} to {most}, not {_shown(value)}.")


def model_name(model_id: str) -> str:
    """The catalogue's short name of a model, or the last part of its id or path."""
    from diffmeter.models import catalog

    entry = catalog.find(model_id)
    return entry.name if entry is not None else re.split(r"[/\\]+", model_id.rstrip("/\\"))[-1] or model_id


def size_multiple(pipe: Any) -> int:
    """The number that height and width must be a multiple of: the VAE's reduction times the denoiser's patch."""
    scale = getattr(pipe, "vae_scale_factor", None) or getattr(pipe, "vae_scale_factor_spatial", None) or 1
    transformer = getattr(pipe, "transformer", None)
    patch: Any = 1
    if transformer is not None:
        patch = getattr(getattr(transformer, "config", None), "patch_size", None) or 1
        patch = patch[-1] if isinstance(patch, (tuple, list)) else patch
        if hasattr(pipe, "_pack_latents"):  # pipelines that pack 2 x 2 latents into one token before the transformer
            patch = max(int(patch), 2)
    return int(scale) * int(patch) if isinstance(scale, int) and isinstance(patch, int) else 1


def check_size(pipe: Any, request: GenerationRequest) -> None:
    """Raise ``InputError`` if the model cannot make an image of the size that was asked for."""
    multiple = size_multiple(pipe)
    for what, value in (("height", request.height), ("width", request.width)):
        if value is not None and value % multiple:
            below = value - value % multiple
            nearest = f"{below} or {below + multiple}" if below else f"{multiple}"
            raise InputError(
                f"{what} {value} does not fit {request.model_id!r}: use a multiple of {multiple}, such as {nearest}."
            )


def complete_size(pipe: Any, request: GenerationRequest) -> GenerationRequest:
    """The request with both sides where only one was given: pipelines ignore one side without the other.

    The missing side is the model's default. Raises ``InputError`` where the pipeline does not tell it.
    """
    if (request.height is None) == (request.width is None):
        return request
    denoiser = getattr(pipe, "unet", None) or getattr(pipe, "transformer", None)
    sample = getattr(pipe, "default_sample_size", None) or getattr(
        getattr(denoiser, "config", None), "sample_size", None
    )
    scale = getattr(pipe, "vae_scale_factor", None)
    if isinstance(sample, int) and isinstance(scale, int):
        sides = (sample * scale, sample * scale)
    elif isinstance(sample, (tuple, list)) and len(sample) == 2 and isinstance(scale, int):
        sides = (sample[0] * scale, sample[1] * scale)
    else:
        raise InputError(f"{request.model_id!r} does not tell its default size: give both height and width.")
    height = sides[0] if request.height is None else request.height
    return replace(request, height=height, width=sides[1] if request.width is None else request.width)


def _text_for_model(text: str) -> str:
    """Lone surrogates, which no tokenizer can read, become the replacement character; all else stays."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _call_arguments(pipe: Any, request: GenerationRequest) -> dict[str, Any]:
    """The arguments for ``pipe(...)``. Raises ``InputError`` for one that this pipeline does not take."""
    from diffmeter.models import catalog

    taken = inspect.signature(type(pipe).__call__).parameters
    entry = catalog.find(request.model_id)
    guidance_argument = entry.defaults.guidance_argument if entry is not None else "guidance_scale"
    wanted: list[tuple[str, str, Any]] = [
        ("prompt", "prompt", _text_for_model(request.prompt)),
        ("negative prompt", "negative_prompt", _text_for_model(request.negative_prompt or "") or None),
        ("height", "height", request.height),
        ("width", "width", request.width),
        ("number of steps", "num_inference_steps", request.num_inference_steps),
        ("guidance scale", guidance_argument, request.guidance_scale),
    ]
    arguments = {}
    for what, name, value in wanted:
        if value is None:
            continue
        if name not in taken:
            raise InputError(f"{request.model_id!r} ({type(pipe).__name__}) takes no {what}.")
        arguments[name] = value
    return arguments


def run_generation(
    pipe: Any,
    request: GenerationRequest,
    *,
    profiling: bool,
    on_image: Callable[[Image, dict[str, Any]], None],
    on_step: Callable[[int], None] | None = None,
    threads: int | None = None,
) -> FinishedGeneration:
    """Generate one image with a loaded pipeline and record what it cost.

    ``on_image(image, record)`` is called as soon as the image is there and before anything is counted, so that it can
    be saved; ``on_step(n)`` after each step, for pipelines that report steps. ``threads`` is how many CPU threads to
    compute with (see :func:`_computing_with`). Raises ``InputError`` for a request that
    does not fit the pipeline, and whatever the pipeline or ``on_image`` raises.
    """
    import torch

    key = request.key
    request = complete_size(pipe, request)
    check_size(pipe, request)
    arguments = _call_arguments(pipe, request)
    seed = 0 if request.seed is None else request.seed
    parameters = inspect.signature(type(pipe).__call__).parameters
    if "generator" in parameters:
        # A CPU generator gives the same noise whatever device the model is on.
        arguments["generator"] = torch.Generator("cpu").manual_seed(seed)
    if on_step is not None and "callback_on_step_end" in parameters:

        def report_step(_pipe: Any, step: int, _timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
            on_step(step + 1)
            return tensors

        arguments["callback_on_step_end"] = report_step

    record: dict[str, Any] = {}

    def generate() -> Image:
        started = time.perf_counter()
        with _computing_with(threads, pipe):
            image = _first_image(_call_quietly(pipe, arguments, request), pipe)
        record.update(_describe(pipe, request, key, seed, image, time.perf_counter() - started))
        on_image(image, record)
        return image

    if profiling:
        image, record["compute_profile"] = _observed(pipe, generate)
    else:
        image, record["compute_profile"] = generate(), None
    return FinishedGeneration(image, record)


@contextmanager
def _computing_with(threads: int | None, pipe: Any) -> Iterator[None]:
    """Compute with a number of CPU threads that does not depend on how the program was started.

    The last bits of some CPU kernels (1 x 1 convolutions, vectorized activations) depend on the number of threads,
    and launchers set that number by how many processes they start. ``None`` is one thread for small models, which
    more do not make faster: they give the same pixels in one process and in many. Larger models keep what is set.
    """
    import torch

    if threads is None and _is_small_cpu_model(pipe):
        threads = 1
    before = torch.get_num_threads()
    if threads is None or threads == before:
        yield
        return
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _is_small_cpu_model(pipe: Any) -> bool:
    import torch

    if str(getattr(pipe, "device", "")) != "cpu":
        return False
    modules = [part for part in pipe.components.values() if isinstance(part, torch.nn.Module)]
    return sum(tensor.numel() for module in modules for tensor in module.parameters()) < SMALL_MODEL_PARAMS


def _call_quietly(pipe: Any, arguments: dict[str, Any], request: GenerationRequest) -> Any:
    """Call the pipeline without its progress bar; its own complaint about a size becomes an ``InputError``."""
    before = getattr(pipe, "_progress_bar_config", None)
    if hasattr(pipe, "set_progress_bar_config"):
        pipe.set_progress_bar_config(**{**(before or {}), "disable": True})
    try:
        return pipe(**arguments)
    except ValueError as error:
        found = re.search(r"divisible by (\d+)", str(error))
        if found is None:
            raise
        raise InputError(
            f"size {request.width} x {request.height} does not fit {request.model_id!r}: height and width must be "
            f"multiples of {found.group(1)}."
        ) from error
    finally:
        if hasattr(pipe, "set_progress_bar_config"):
            if before is None:
                vars(pipe).pop("_progress_bar_config", None)
            else:
                pipe._progress_bar_config = before


def _first_image(output: Any, pipe: Any) -> Image:
    images = getattr(output, "images", None)
    if images is None or len(images) == 0 or not hasattr(images[0], "save"):
        raise InputError(f"{type(pipe).__name__} makes no image: only pipelines that return images can be used here.")
    return images[0]


def _describe(
    pipe: Any, request: GenerationRequest, key: str, seed: int, image: Image, seconds: float
) -> dict[str, Any]:
    """The record of one image, in plain JSON values, without the compute profile."""
    scheduler = getattr(pipe, "scheduler", None)
    return {
        "schema_version": RECORD_SCHEMA_VERSION,
        "key": key,
        "status": "done",
        "timestamp": datetime.now().isoformat(timespec="seconds"),
        "model_id": request.model_id,
        "model_name": model_name(request.model_id),
        "prompt": request.prompt,
        "negative_prompt": request.negative_prompt,
        "seed": seed,
        "width": image.width,
        "height": image.height,
        "num_inference_steps": _or_default(pipe, "num_inference_steps", request.num_inference_steps),
        "guidance_scale": _or_default(pipe, "guidance_scale", request.guidance_scale),
        "scheduler": None if scheduler is None else type(scheduler).__name__,
        "device": str(getattr(pipe, "device", "cpu")),
        "dtype": str(getattr(pipe, "dtype", "")).removeprefix("torch.") or None,
        "inference_time_seconds": seconds,
    }


def _or_default(pipe: Any, argument: str, value: Any) -> Any:
    """``value``, or the number that the pipeline's call has as its default for ``argument``."""
    if value is not None:
        return value
    parameter = inspect.signature(type(pipe).__call__).parameters.get(argument)
    default = None if parameter is None else parameter.default
    return default if isinstance(default, (int, float)) and not isinstance(default, bool) else None


def _observed(pipe: Any, generate: Callable[[], Image]) -> tuple[Image, dict[str, Any]]:
    """Run ``generate`` under ``observe``; whatever goes wrong in counting becomes the profile's reason."""
    from diffmeter.metering.recording.recorder import observe

    image: Image | None = None
    entered = False
    try:
        with observe(pipe) as run:
            entered = True
            image = generate()
        profile: dict[str, Any] = run.profile.to_dict()
    except Exception as error:
        if image is None and entered:
            raise
        logger.warning("the generation could not be profiled: %s", error)
        if image is None:
            image = generate()
        profile = failed_profile(error)
    return image, profile


def failed_profile(error: BaseException) -> dict[str, Any]:
    """The profile of a generation that could not be counted: ``enabled`` is false and ``reason`` says why."""
    from diffmeter.profile import disabled_profile

    return disabled_profile(one_line(error, with_type=True))


def profiling_wanted(enable_profiling: bool | None) -> bool:
    """``enable_profiling``, or for ``None`` what ``config.ENABLE_COMPUTE_PROFILING`` says now."""
    return config.ENABLE_COMPUTE_PROFILING if enable_profiling is None else bool(enable_profiling)


def generate_image(
    model_id: str,
    prompt: str,
    negative_prompt: str | None = None,
    height: int | None = None,
    width: int | None = None,
    num_inference_steps: int | None = None,
    guidance_scale: float | None = None,
    seed: int | None = None,
    output_dir: str | Path | None = None,
    enable_profiling: bool | None = None,
    on_step: Callable[[int], None] | None = None,
    print_profile: bool | None = None,
    **load_options: Any,
) -> GeneratedImage:
    """Generate one image, save it with its record, and return ``(image, filepath, seed, profiling_data)``.

    Sizes are in pixels; ``None`` is the model's default, a random seed, and for ``enable_profiling`` what
    ``ENABLE_COMPUTE_PROFILING`` says. Without ``output_dir`` the files go to a new folder ``outputs/<timestamp>/``;
    an ``output_dir`` that has images already gets one more. Beside the image are ``generation_config.json``,
    ``runs.jsonl`` and ``summary.csv``. ``load_options`` go to ``get_model_manager().load_model``.

    ``profiling_data`` is the ``compute_profile`` object of the JSON file with its shapes as tuples, or ``None``
    without profiling; where the generation could not be counted its ``enabled`` is false and ``reason`` says why.
    ``print_profile`` says whether a short block about it goes to standard output; ``None`` is what
    ``PRINT_COMPUTE_PROFILE`` says, which is on.

    Raises ``InputError`` (a ``ValueError``) for values that cannot be used, ``ModelLoadError`` for a model that does
    not load, ``StorageError`` (an ``OSError``) where the image cannot be written.
    """
    from diffmeter.model_manager import get_model_manager
    from diffmeter.storage.run_folder import RunFolder

    request = GenerationRequest(
        model_id, prompt, negative_prompt, height, width, num_inference_steps, guidance_scale, seed
    )
    request.validate()
    base = Path(output_dir) if output_dir is not None else Path(config.OUTPUT_DIR)
    store.check_writable(base)
    pipe = get_model_manager().load_model(model_id, **load_options)
    if seed is None:
        request = replace(request, seed=secrets.randbelow(2**32))
    request = request.with_defaults()
    check_size(pipe, request)

    saved: list[tuple[RunFolder, Path]] = []

    def save(image: Image, record: dict[str, Any]) -> None:
        folder = RunFolder(store.new_run_folder(base) if output_dir is None else store.make_folder(base))
        saved.append((folder, folder.save_image(image, record)))

    finished = run_generation(
        pipe, request, profiling=profiling_wanted(enable_profiling), on_image=save, on_step=on_step
    )
    folder, path = saved[0]
    folder.record_saved_image(path, finished.record)
    folder.write_summaries()
    record = finished.record
    profile = None if record["compute_profile"] is None else shapes_as_tuples(record["compute_profile"])
    _print_block(record["model_name"], profile, print_profile)
    return GeneratedImage(finished.image, str(path), record["seed"], profile)


def _print_block(name: str, profile: dict[str, Any] | None, wanted: bool | None) -> None:
    """Print what a generation cost, unless there is no profile or it is not wanted."""
    if profile is not None and (config.PRINT_COMPUTE_PROFILE if wanted is None else wanted):
        print(console_block(name, profile))


def generate_images_sequential(
    model_ids: Sequence[str],
    prompt: str,
    negative_prompt: str | None = None,
    height: int | None = None,
    width: int | None = None,
    num_inference_steps: int | None = None,
    guidance_scale: float | None = None,
    seed: int | None = None,
    output_dir: str | Path | None = None,
    enable_profiling: bool | None = None,
    print_profile: bool | None = None,
    **load_options: Any,
) -> list[dict[str, Any]]:
    """Generate the same prompt with each model, one after the other; only one model is in memory at a time.

    The images and ``generation_config.json`` go to a new folder ``outputs/<timestamp>/`` (or to ``output_dir``).
    Returns one dictionary per model, in the order given: ``model_id``, ``model_name``, ``image`` (a PIL image),
    ``image_path``, ``seed``, ``compute_profile`` and the rest of its record. A model that fails does not end the run:
    its ``image`` and ``image_path`` are ``None`` and ``error`` says why.

    ``print_profile`` is that of :func:`generate_image`: a block after each model.

    All models get the same seed; ``None`` draws one. Raises ``InputError`` and ``StorageError`` as
    ``generate_image`` does.
    """
    from PIL import Image as images

    from diffmeter.generation.batch.runner import BatchOptions, run_generations
    from diffmeter.storage.run_folder import RunFolder

    if isinstance(model_ids, str) or not isinstance(model_ids, Sequence) or not model_ids:
        raise InputError(f"model_ids must be a list of at least one model id, not {_shown(model_ids)}.")
    if seed is None:
        seed = secrets.randbelow(2**32)
    requests = []
    for model_id in dict.fromkeys(model_ids):
        request = GenerationRequest(
            model_id, prompt, negative_prompt, height, width, num_inference_steps, guidance_scale, seed
        )
        request.validate()
        requests.append(request.with_defaults())
    base = Path(output_dir) if output_dir is not None else Path(config.OUTPUT_DIR)
    store.check_writable(base)
    folder = RunFolder(store.new_run_folder(base) if output_dir is None else store.make_folder(base))
    options = BatchOptions(
        profiling=profiling_wanted(enable_profiling),
        load_options=load_options,
        on_record=lambda record: _print_block(record["model_name"], record.get("compute_profile"), print_profile),
    )
    outcome = run_generations(requests, folder, options)
    folder.write_summaries([request.key for request in requests])

    results = []
    for request in requests:
        record = folder.record(request.key) or {"model_id": request.model_id, "error": outcome.stopped_by}
        path = folder.path / record["image"] if record.get("image") else None
        image = None
        if path is not None:
            with images.open(path) as opened:
                image = opened.copy()
        profile = record.get("compute_profile")
        results.append(
            {
                **record,
                "compute_profile": None if profile is None else shapes_as_tuples(profile),
                "image": image,
                "image_path": None if path is None else str(path),
            }
        )
    return results
