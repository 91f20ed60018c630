"""Generate a list of requests in this process, model by model, and record each as soon as it is there."""

from __future__ import annotations

import ctypes
import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

from diffmeter.devices import best_device, memory
from diffmeter.errors import InputError, StorageError, one_line
from diffmeter.generation.request import GenerationRequest
from diffmeter.generation.run import RECORD_SCHEMA_VERSION, failed_profile, run_generation
from diffmeter.storage.run_folder import RunFolder, encode
from diffmeter.units import format_bytes

if TYPE_CHECKING:
    from PIL.Image import Image

logger = logging.getLogger(__name__)

# A model that fails this often in a row is not tried again: loading it each time would take hours for nothing.
MAX_FAILURES_IN_A_ROW = 3

#: The kind of failure of a generation that was not tried.
NOT_TRIED = "NotTried"


class Progress:
    """What the runner reports while it works, in a ``with`` block. This one shows nothing; subclasses show more."""

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *exception: object) -> None:
        """The display ends."""

    def loading(self, model_id: str) -> None:
        """A model is about to be loaded."""

    def started(self, request: GenerationRequest) -> None:
        """A generation begins."""

    def step(self, number: int) -> None:
        """A denoising step of the current generation has ended."""

    def finished(self, request: GenerationRequest, record: Mapping[str, Any]) -> None:
        """A generation is on the disk with its record."""

    def failed(self, request: GenerationRequest, reason: str) -> None:
        """A generation failed and is recorded as such."""


@dataclass
class BatchOptions:
    """How to run: ``load_options`` go to ``load_model``; ``stop`` gives a reason as soon as the run should end."""

    profiling: bool = True
    load_options: Mapping[str, Any] = field(default_factory=dict)
    progress: Progress = field(default_factory=Progress)
    stop: Callable[[], str | None] = lambda: None
    on_record: Callable[[dict[str, Any]], None] = lambda record: None
    order: Sequence[str] | None = None
    """Keys of the whole plan, for summaries written on the way; ``None`` writes none on the way."""
    process_index: int = 0
    prefetch: bool = True
    threads: int | None = None
    """CPU threads to compute with; ``None`` is one for small models, and what is set for others."""


@dataclass(frozen=True)
class ModelMemory:
    """Bytes that this process held before a model was loaded, with it, and after it was freed."""

    model_id: str
    before: int
    loaded: int
    after: int
    device_before: int = 0
    device_loaded: int = 0
    device_after: int = 0


@dataclass
class Outcome:
    """How a run of the runner ended. ``stopped_by`` is the reason if it ended before its list did."""

    finished: int = 0
    failed: int = 0
    stopped_by: str | None = None
    memory: list[ModelMemory] = field(default_factory=list)
    failures: dict[str, str] = field(default_factory=dict)
    """The first reason of each model that failed."""
    reasons: set[str] = field(default_factory=set)


def run_generations(requests: Sequence[GenerationRequest], folder: RunFolder, options: BatchOptions) -> Outcome:
    """Generate ``requests`` (those of one model in a row) into ``folder``.

    A model or generation that fails is recorded with its reason and the rest goes on. Raises ``StorageError`` where
    the results cannot be written; what was finished before is recorded.
    """
    outcome = Outcome()
    groups = [list(group) for _, group in groupby(requests, key=lambda request: request.model_id)]
    prefetch: _Prefetch | None = None
    try:
        for number, group in enumerate(groups):
            if prefetch is not None:
                prefetch.join()
            following = groups[number + 1][0].model_id if number + 1 < len(groups) else None
            prefetch = _Prefetch(following) if following is not None and options.prefetch else None
            _run_model(group, folder, options, outcome, prefetch)
            if outcome.stopped_by is not None:
                break
    finally:
        if prefetch is not None:
            prefetch.cancel()
    return outcome


def _run_model(
    group: Sequence[GenerationRequest],
    folder: RunFolder,
    options: BatchOptions,
    outcome: Outcome,
    prefetch: _Prefetch | None,
) -> None:
    """Load one model, generate its requests, free it."""
    from diffmeter.model_manager import get_model_manager

    manager = get_model_manager()
    model_id = group[0].model_id
    failures_in_a_row = 0
    give_up: str | None = None
    before = _memory_in_use()
    loaded = before
    try:
        for request in group:
            outcome.stopped_by = options.stop()
            if outcome.stopped_by is not None:
                return
            if give_up is not None:
                _record_failure(request, _not_tried(give_up), folder, options, outcome)
                continue
            failure, phase = None, "load"
            if manager.get(model_id) is None:
                options.progress.loading(model_id)
            pipe, failure = _load(request, options)
            if failure is None:
                loaded = max(loaded, _memory_in_use())
                if prefetch is not None:
                    prefetch.start()
                phase = "generation"
                failure = _generate(pipe, request, folder, options, outcome)
                del pipe
            if failure is None:
                failures_in_a_row = 0
                continue
            told = _Failure(kind=type(failure).__name__, phase=phase, reason=_reason(failure))
            _record_failure(request, told, folder, options, outcome)
            if isinstance(failure, InputError) and phase == "generation":
                continue  # the request does not fit the model: nothing is wrong with the model itself
            failures_in_a_row += 1
            give_up = _why_to_give_up(told, failures_in_a_row)
            # The exception holds the frames it came through, and with them tensors of the model.
            del failure
            _free(manager, model_id)
    finally:
        _free(manager, model_id)
        after = _memory_in_use()
        outcome.memory.append(ModelMemory(model_id, before[0], loaded[0], after[0], before[1], loaded[1], after[1]))
        logger.info(
            "memory for %s: %s before, %s with the model, %s after it was freed",
            model_id,
            *(format_bytes(used[0]) for used in (before, loaded, after)),
        )


def _load(request: GenerationRequest, options: BatchOptions) -> tuple[Any, Exception | None]:
    from diffmeter.model_manager import get_model_manager

    try:
        return get_model_manager().load_model(request.model_id, **options.load_options), None
    except Exception as error:
        return None, error


def _generate(
    pipe: Any, request: GenerationRequest, folder: RunFolder, options: BatchOptions, outcome: Outcome
) -> Exception | None:
    """One generation with its record; returns why it failed. ``StorageError`` is raised, not returned."""
    png: list[bytes] = []

    def save(image: Image, record: dict[str, Any]) -> None:
        record["process_index"] = options.process_index
        # Without counting, the image gets its name and record at once.
        png.append(folder.save_provisional(image, record) if options.profiling else encode(image, record))

    options.progress.started(request)
    try:
        finished = run_generation(
            pipe,
            request,
            profiling=options.profiling,
            on_image=save,
            on_step=options.progress.step,
            threads=options.threads,
        )
        record = finished.record
        record["memory"] = dict(zip(("process_bytes", "device_bytes"), _memory_in_use(), strict=True))
        _commit(folder, png[0], record)
    except StorageError:
        raise
    except Exception as error:
        return error
    finally:
        if options.profiling:
            folder.discard_provisional(request.key)
    outcome.finished += 1
    options.progress.finished(request, record)
    options.on_record(record)
    if options.order is not None:
        with suppress(StorageError):  # the summaries are written again at the end; the record is what counts
            folder.write_summaries_if_due(options.order)
    return None


def _commit(folder: RunFolder, png: bytes, record: dict[str, Any]) -> None:
    """Write image and record; a profile that JSON cannot hold is replaced by its reason, the image stays."""
    try:
        folder.commit(png, record)
    except (TypeError, ValueError) as error:
        if record.get("compute_profile") is None or isinstance(error, InputError):
            raise
        record["compute_profile"] = failed_profile(error)
        folder.commit(png, record)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Failure:
    """Why a generation is not there: the exception's name, what was being done, and one line for people."""

    kind: str
    phase: str
    reason: str


def _not_tried(reason: str) -> _Failure:
    return _Failure(kind=NOT_TRIED, phase="not tried", reason=reason)


def _why_to_give_up(failure: _Failure, in_a_row: int) -> str | None:
    """Why the rest of a model's generations is not tried; None while it is."""
    if failure.phase == "load":
        return f"not tried, since the model could not be loaded: {failure.reason}"
    if in_a_row >= MAX_FAILURES_IN_A_ROW:
        return f"not tried, since the model failed {in_a_row} times in a row: {failure.reason}"
    return None


def _record_failure(
    request: GenerationRequest, failure: _Failure, folder: RunFolder, options: BatchOptions, outcome: Outcome
) -> None:
    kind, phase, reason = failure.kind, failure.phase, failure.reason
    record = {
        "schema_version": RECORD_SCHEMA_VERSION,
        "key": request.key,
        "status": "failed",
        "timestamp": datetime.now().isoformat(timespec="seconds"),
        "model_id": request.model_id,
        "model_name": request.source.short_name,
        "prompt": request.prompt,
        "negative_prompt": request.negative_prompt,
        "seed": request.seed,
        "width": request.width,
        "height": request.height,
        "num_inference_steps": request.num_inference_steps,
        "guidance_scale": request.guidance_scale,
        "image": None,
        "compute_profile": None,
        "error": reason,
        "error_type": kind,
        "error_phase": phase,
        "process_index": options.process_index,
    }
    folder.add_failure(record)
    outcome.failed += 1
    # The same reason for a hundred generations is one warning; the record has them all.
    level = logging.INFO if reason in outcome.reasons or kind == NOT_TRIED else logging.WARNING
    outcome.reasons.add(reason)
    outcome.failures.setdefault(request.model_id, reason)
    logger.log(level, "%s failed (%s): %s", request.model_id, phase, reason)
    options.progress.failed(request, reason)
    options.on_record(record)


def _reason(error: BaseException) -> str:
    """Why a generation failed, in one line, with what helps where memory ran out."""
    text = one_line(error, limit=1000)
    if is_out_of_memory(error):
        text = f"out of memory; a smaller size, cpu offload or VAE tiling may help ({text})"
    return text


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception says that main or device memory ran out."""
    import torch

    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    words = ("out of memory", "can't allocate memory", "not enough memory")
    return isinstance(error, RuntimeError) and any(word in str(error).lower() for word in words)


def _free(manager: Any, model_id: str) -> None:
    """Unload a model and give its memory back to the system."""
    manager.unload_model(model_id)
    # The C library keeps freed blocks for later; a model's worth of them is better given back.
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


def _memory_in_use() -> tuple[int, int]:
    """Bytes of main memory that this process holds, and of device memory that torch has allocated."""
    return int(psutil.Process().memory_info().rss), memory(best_device()).allocated or 0


class _Prefetch:
    """Get the next model's files ready while the current one works: fetched from the hub, read into the file cache.

    Only files are touched: building a model in a second thread would change torch's global state under the running
    generation. Files are read ahead only while they take less than half of the memory that is free.
    """

    def __init__(self, model_id: str) -> None:
        self.model_id = model_id
        self._cancelled = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="diffmeter-prefetch", daemon=True)
            self._thread.start()

    def join(self) -> None:
        if self._thread is not None:
            self._thread.join()

    def cancel(self) -> None:
        self._cancelled.set()

    def _run(self) -> None:
        from diffmeter.models.sources import find_weights

        try:
            folder = Path(find_weights(self.model_id))
            files = sorted(folder.rglob("*.safetensors"))
            size = sum(path.stat().st_size for path in files)
            if size > _free_memory() // 2:
                logger.info("%s is not read ahead: it takes %s", self.model_id, format_bytes(size))
                return
            for path in files:
                self._read(path)
        except Exception as error:
            # Loading the model will meet the same problem and record it.
            logger.debug("could not prefetch %s: %s", self.model_id, error)

    def _read(self, path: Path) -> None:
        with open(path, "rb", buffering=0) as file:
            while not self._cancelled.is_set() and file.read(2**23):
                pass


def _free_memory() -> int:
    return int(psutil.virtual_memory().available)
