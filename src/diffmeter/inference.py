"""Generate images, save them, and say what they cost.

``generate_image`` is one image, ``generate_images_sequential`` the same prompt through several models, one after the
other. What is asked and how it is carried out stands in ``generation/``, on which ``diffmeter batch`` builds too. An
image is on the disk before its counting begins, and a count that fails never loses it.
"""

from __future__ import annotations

import inspect
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from diffmeter import config
from diffmeter.errors import InputError, shown
from diffmeter.generation.request import ALIASES, GenerationRequest, under_own_names
from diffmeter.generation.run import run_generation
from diffmeter.metering.pipelines.words import nearest
from diffmeter.profile import shapes_as_tuples
from diffmeter.reports.console_block import console_block
from diffmeter.storage import files as store

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline
    from PIL.Image import Image


class GeneratedImage(NamedTuple):
    """What ``generate_image`` returns: a tuple of four, as ``image, filepath, seed, profiling_data``."""

    image: Image
    filepath: str
    seed: int
    profiling_data: dict[str, Any] | None


def profiling_wanted(enable_profiling: bool | None) -> bool:
    """``enable_profiling``, or for ``None`` what ``config.ENABLE_COMPUTE_PROFILING`` says now."""
    return config.ENABLE_COMPUTE_PROFILING if enable_profiling is None else bool(enable_profiling)


def generate_image(
    model_id: str | DiffusionPipeline,
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
    **options: Any,
) -> GeneratedImage:
    """Generate one image, save it with its record, and return ``(image, filepath, seed, profiling_data)``.

    ``model_id`` is a model's id or folder, or a loaded pipeline, which is used as it is.

    Sizes are in pixels; ``None`` is the model's default, a random seed, and for ``enable_profiling`` what
    ``ENABLE_COMPUTE_PROFILING`` says. Without ``output_dir`` the files go to a new folder ``outputs/<timestamp>/``;
    an ``output_dir`` that has images already gets one more. Beside the image are ``generation_config.json``,
    ``runs.jsonl`` and ``summary.csv``. ``options`` are ``steps``, the short name of ``num_inference_steps``, and those
    of ``get_model_manager().load_model``.

    ``profiling_data`` is the ``compute_profile`` object of the JSON file with its shapes as tuples, or ``None``
    without profiling; where the generation could not be counted its ``enabled`` is false and ``reason`` says why.
    ``print_profile`` says whether a short block about it goes to standard output; ``None`` is what
    ``PRINT_COMPUTE_PROFILE`` says, which is on.

    Raises ``InputError`` (a ``ValueError``) for values that cannot be used, ``ModelLoadError`` for a model that does
    not load, ``StorageError`` (an ``OSError``) where the image cannot be written.
    """
    from diffmeter.model_manager import get_model_manager
    from diffmeter.storage.run_folder import RunFolder

    values, load_options = _sorted_options({"num_inference_steps": num_inference_steps, **options})
    loaded = None if isinstance(model_id, str) else _loaded(model_id, load_options)
    name = model_id if isinstance(model_id, str) else _name_of(model_id)
    request = GenerationRequest(
        name, prompt, negative_prompt, height, width, guidance_scale=guidance_scale, seed=seed, **values
    ).validated()
    base = Path(output_dir) if output_dir is not None else Path(config.OUTPUT_DIR)
    store.check_writable(base)
    pipe = get_model_manager().load_model(name, **load_options) if loaded is None else loaded
    if seed is None:
        request = replace(request, seed=secrets.randbelow(2**32))
    request = request.with_defaults()

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


def _loaded(pipe: DiffusionPipeline, load_options: Mapping[str, Any]) -> DiffusionPipeline:
    """A pipeline that was given instead of a name.

    Raises:
        InputError: it is none, or options say how to load it.
    """
    from diffmeter.metering.pipelines.parts import is_pipeline

    if not is_pipeline(pipe):
        raise InputError(f"the model must be a model id, a folder or a loaded pipeline, not {shown(pipe)}.")
    if load_options:
        raise InputError(f"{', '.join(load_options)}: a pipeline that is loaded already takes no options of loading.")
    return pipe


def _name_of(pipe: DiffusionPipeline) -> str:
    """What a loaded pipeline was loaded from, or its class where it does not say."""
    origin = getattr(pipe, "config", {}).get("_name_or_path")
    return str(origin) if origin else type(pipe).__name__


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
    **options: Any,
) -> list[dict[str, Any]]:
    """Generate the same prompt with each model, one after the other; only one model is in memory at a time.

    The images and ``generation_config.json`` go to a new folder ``outputs/<timestamp>/`` (or to ``output_dir``).
    Returns one dictionary per model, in the order given: ``model_id``, ``model_name``, ``image`` (a PIL image),
    ``image_path``, ``seed``, ``compute_profile`` and the rest of its record. A model that fails does not end the run:
    its ``image`` and ``image_path`` are ``None`` and ``error`` says why.

    ``print_profile`` is that of :func:`generate_image`: a block after each model.

    All models get the same seed; ``None`` draws one. ``options`` are those of ``generate_image``, and so are the
    exceptions.
    """
    import PIL.Image

    from diffmeter.generation.batch.runner import BatchOptions, run_generations
    from diffmeter.storage.run_folder import RunFolder

    if isinstance(model_ids, str) or not isinstance(model_ids, Sequence) or not model_ids:
        raise InputError(f"model_ids must be a list of at least one model id, not {shown(model_ids)}.")
    values, load_options = _sorted_options({"num_inference_steps": num_inference_steps, **options})
    asked = GenerationRequest(
        "", prompt, negative_prompt, height, width, guidance_scale=guidance_scale, **values,
        seed=secrets.randbelow(2**32) if seed is None else seed,
    )  # fmt: skip
    requests = [replace(asked, model_id=name).validated().with_defaults() for name in dict.fromkeys(model_ids)]
    base = Path(output_dir) if output_dir is not None else Path(config.OUTPUT_DIR)
    store.check_writable(base)
    folder = RunFolder(store.new_run_folder(base) if output_dir is None else store.make_folder(base))
    batch = BatchOptions(
        profiling=profiling_wanted(enable_profiling),
        load_options=load_options,
        on_record=lambda record: _print_block(record["model_name"], record.get("compute_profile"), print_profile),
    )
    outcome = run_generations(requests, folder, batch)
    folder.write_summaries([request.key for request in requests])

    results = []
    for request in requests:
        record = folder.record(request.key) or {"model_id": request.model_id, "error": outcome.stopped_by}
        path = folder.path / record["image"] if record.get("image") else None
        image = None
        if path is not None:
            with PIL.Image.open(path) as opened:
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


def _sorted_options(options: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Options of a generation that are a request's (under their own names), and those of ``load_model``.

    Raises:
        InputError: an option that is neither, with the nearest one.
    """
    from diffmeter.model_manager import ModelManager

    found = under_own_names(options)
    of_request = {name: found.pop(name) for name in ALIASES.values() if name in found}
    of_loading = list(inspect.signature(ModelManager.load_model).parameters)[2:]
    for name in found:
        if name not in of_loading:
            known = [*inspect.signature(generate_image).parameters, *ALIASES, *of_loading]
            hint = nearest(name, [option for option in known if option != "options"])
            raise InputError(f"A generation takes no option {name!r}{hint}.")
    return of_request, found
