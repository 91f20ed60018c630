"""Carry one generation out with a loaded pipeline, and record what it was and what it cost."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from diffmeter.errors import InputError, one_line
from diffmeter.profile import disabled_profile

from .request import GenerationRequest

if TYPE_CHECKING:
    from PIL.Image import Image

    from diffmeter.metering.pipelines.call import PipelineCall

logger = logging.getLogger(__name__)

RECORD_SCHEMA_VERSION = 1
SMALL_MODEL_PARAMS = 50_000_000  # below this one CPU thread is about as fast as several


@dataclass(frozen=True)
class FinishedGeneration:
    """One image with its record (a JSON object: request, timing, ``compute_profile``; no file names yet)."""

    image: Image
    record: dict[str, Any]


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

    from diffmeter.metering.pipelines.call import call_of
    from diffmeter.metering.pipelines.sizes import check_multiple

    key = request.key
    request = request.with_defaults()
    source = request.source
    check_multiple(pipe, request.model_id, {"height": request.height, "width": request.width})
    call = call_of(pipe, repr(request.model_id), source.entry)
    arguments = request.arguments(call)
    seed = 0 if request.seed is None else request.seed
    if call.takes("generator"):
        # A CPU generator gives the same noise whatever device the model is on.
        arguments["generator"] = torch.Generator("cpu").manual_seed(seed)
    if on_step is not None and call.takes("callback_on_step_end"):

        def report_step(_pipe: Any, step: int, _timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
            on_step(step + 1)
            return tensors

        arguments["callback_on_step_end"] = report_step

    record: dict[str, Any] = {}

    def generate() -> Image:
        started = time.perf_counter()
        with _computing_with(threads, pipe):
            image = _first_image(_call_quietly(pipe, arguments, request), pipe)
        seconds = time.perf_counter() - started
        made = {"key": key, "seed": seed, "model_name": source.short_name, "inference_time_seconds": seconds}
        record.update(_describe(pipe, call, request, image, made))
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
    from diffmeter.metering.pipelines.parts import parts_of

    if str(getattr(pipe, "device", "")) != "cpu":
        return False
    modules = parts_of(pipe).components.values()
    return sum(tensor.numel() for module in modules for tensor in module.parameters()) < SMALL_MODEL_PARAMS


def _call_quietly(pipe: Any, arguments: dict[str, Any], request: GenerationRequest) -> Any:
    """Call the pipeline without its progress bar; its own complaint about a size becomes an ``InputError``."""
    from diffmeter.compat import progress_bar_settings, restore_progress_bar

    before = progress_bar_settings(pipe)
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
            restore_progress_bar(pipe, before)


def _first_image(output: Any, pipe: Any) -> Image:
    images = getattr(output, "images", None)
    if images is None or len(images) == 0 or not hasattr(images[0], "save"):
        raise InputError(f"{type(pipe).__name__} makes no image: only pipelines that return images can be used here.")
    image: Image = images[0]
    return image


def _describe(
    pipe: Any, call: PipelineCall, request: GenerationRequest, image: Image, made: dict[str, Any]
) -> dict[str, Any]:
    """The record of one image, in plain JSON values, without the compute profile."""
    scheduler = getattr(pipe, "scheduler", None)
    return {
        "schema_version": RECORD_SCHEMA_VERSION,
        "key": made["key"],
        "status": "done",
        "timestamp": datetime.now().isoformat(timespec="seconds"),
        "model_id": request.model_id,
        "model_name": made["model_name"],
        "prompt": request.prompt,
        "negative_prompt": request.negative_prompt,
        "seed": made["seed"],
        "width": image.width,
        "height": image.height,
        "num_inference_steps": _or_default(call, "num_inference_steps", request.num_inference_steps),
        "guidance_scale": _or_default(call, "guidance_scale", request.guidance_scale),
        "scheduler": None if scheduler is None else type(scheduler).__name__,
        "device": str(getattr(pipe, "device", "cpu")),
        "dtype": str(getattr(pipe, "dtype", "")).removeprefix("torch.") or None,
        "inference_time_seconds": made["inference_time_seconds"],
    }


def _or_default(call: PipelineCall, argument: str, value: Any) -> Any:
    """``value``, or the number that the pipeline's call has as its default for ``argument``."""
    default = call.default(argument) if value is None else value
    return default if isinstance(default, (int, float)) and not isinstance(default, bool) else None


def _observed(pipe: Any, generate: Callable[[], Image]) -> tuple[Image, dict[str, Any]]:
    """Run ``generate`` under ``observe``; whatever goes wrong in counting becomes the profile's reason."""
    from diffmeter.metering.recording.observe import observe

    image: Image | None = None
    entered = False
    try:
        with observe(pipe) as run:
            entered = True
            image = generate()
        profile: dict[str, Any] = run.profile.to_dict(modules=False)
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
    return disabled_profile(one_line(error, with_type=True))
