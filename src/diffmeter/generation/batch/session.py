"""One batch from spec to summaries: plan, split, run, merge. ``diffmeter batch`` is a thin layer over this."""

from __future__ import annotations

import logging
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from diffmeter import config
from diffmeter.errors import FolderInUseError, InputError, StorageError, whole_number
from diffmeter.generation.request import GenerationRequest
from diffmeter.storage import files as store
from diffmeter.storage.run_folder import LOCK, MANIFEST, RECORDS, RunFolder, lock_path, part_name

from .plan import Costs, estimate_costs, split
from .processes import Processes, join_processes
from .runner import BatchOptions, Outcome, Progress, run_generations

logger = logging.getLogger(__name__)

MANIFEST_SCHEMA_VERSION = 1
# A terminal and a launcher may both pass on one Ctrl-C; only a later one counts as impatience.
_SECOND_SIGNAL_AFTER = 1.0


class Stop:
    """Whether someone asked the batch to end: the current generation is finished and recorded first.

    A second Ctrl-C ends at once (``KeyboardInterrupt``), which loses the current image and nothing else.
    """

    def __init__(self, on_first: Callable[[str], None] = lambda name: None) -> None:
        self.signal: int | None = None
        self._since = 0.0
        self._on_first = on_first

    def __call__(self) -> str | None:
        """Why to stop; None while there is no reason."""
        return None if self.signal is None else f"stopped by {signal.Signals(self.signal).name}"

    def _handle(self, number: int, frame: object) -> None:
        if self.signal is None:
            self.signal, self._since = number, time.monotonic()
            self._on_first(signal.Signals(number).name)
        elif number == signal.SIGINT and time.monotonic() - self._since > _SECOND_SIGNAL_AFTER:
            raise KeyboardInterrupt

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Catch SIGINT and SIGTERM inside the block. Only the main thread can; elsewhere nothing is caught."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.signal(number, self._handle) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


@dataclass
class BatchResult:
    """How a batch stands: ``finished`` and ``failed`` count this run, ``already`` what earlier runs had finished.

    Only the main process knows the figures of all; ``failures`` gives each failed model's first reason.
    """

    folder: Path
    planned: int
    finished: int = 0
    failed: int = 0
    already: int = 0
    stopped_by: str | None = None
    stop_signal: int | None = None
    processes_lost: bool = False
    storage_error: str | None = None
    failures: dict[str, str] = field(default_factory=dict)
    is_main: bool = True

    @property
    def remaining(self) -> int:
        """Generations that are neither finished nor failed."""
        return max(0, self.planned - self.already - self.finished - self.failed)

    @property
    def exit_code(self) -> int:
        """0 if every planned generation is there; 128 + signal where one ended the batch; otherwise 1."""
        if self.stop_signal is not None:
            return 128 + self.stop_signal
        return 1 if self.failed or self.remaining or self.storage_error is not None else 0


def run_batch(
    requests: Sequence[GenerationRequest],
    output_dir: str | Path | None = None,
    *,
    resume: bool = False,
    profiling: bool | None = None,
    spec: Mapping[str, Any] | None = None,
    load_options: Mapping[str, Any] | None = None,
    trackers: Sequence[Any] = (),
    threads: int | None = None,
    make_progress: Callable[[Sequence[GenerationRequest], Costs], Progress] | None = None,
    on_stop: Callable[[str], None] = lambda name: None,
    processes: Processes | None = None,
) -> BatchResult:
    """Generate ``requests`` into ``output_dir`` (a new ``outputs/<timestamp>/`` if ``None``) and record each.

    ``resume`` goes on in a folder that has records already; without it such a folder is refused. Started by
    ``accelerate launch``, the processes share the work by its compute and the main one merges the records.
    ``threads`` is how many CPU threads each process computes with; ``None`` is one for small models and what is set
    for others. ``make_progress(todo, costs)`` gives the display of this process.

    Raises ``InputError`` for input that cannot be used, ``StorageError`` where the folder cannot be used.
    """
    if threads is not None:
        threads = whole_number(threads, "the number of threads")
    wanted = config.ENABLE_COMPUTE_PROFILING if profiling is None else profiling
    options = dict(load_options or {})
    team = processes if processes is not None else join_processes(options.get("device"))
    if team.device is not None and options.get("device") is None:
        options["device"] = team.device
    stop = Stop(on_stop)
    with ExitStack() as stack:
        stack.enter_context(stop.listening())
        job = _Job(requests=requests, output_dir=output_dir, resume=resume, spec=spec, trackers=trackers)
        plan = _prepare(job, team, stack, with_costs=make_progress is not None)
        order = [request.key for request in requests]
        todo = [requests[number] for number in plan.shares[team.index]]
        folder = RunFolder(plan.folder, RECORDS if team.count == 1 else part_name(team.index))
        result = BatchResult(plan.folder, len(requests), already=len(plan.before), is_main=team.is_main)
        tracking = _Tracking(trackers, plan.folder, requests, team, live=team.count == 1)
        outcome = Outcome()
        with ExitStack() as part:
            if team.count > 1:
                part.enter_context(store.FileLock(lock_path(folder.records_path)))
            batch_options = BatchOptions(
                profiling=wanted,
                load_options=options,
                stop=stop,
                order=order if team.count == 1 else None,
                on_record=tracking.record,
                process_index=team.index,
                threads=threads,
            )
            progress = make_progress(todo, plan.costs) if make_progress is not None else Progress()
            batch_options.progress = progress
            try:
                with progress:
                    outcome = run_generations(todo, folder, batch_options)
            except StorageError as error:
                result.storage_error = str(error)
            except KeyboardInterrupt:
                outcome.stopped_by = "stopped at once by a second Ctrl-C"
        result.stopped_by, result.stop_signal = outcome.stopped_by, stop.signal
        result.processes_lost = not team.wait_for_all(lambda: stop.signal is not None)
        if team.is_main:
            _finish(job, plan, result, tracking)
        if not result.processes_lost:
            team.leave()
    return result


@dataclass(frozen=True, kw_only=True, slots=True)
class _Job:
    """What the batch was asked for, as far as its plan depends on it."""

    requests: Sequence[GenerationRequest]
    output_dir: str | Path | None
    resume: bool
    spec: Mapping[str, Any] | None
    trackers: Sequence[Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class _Plan:
    """What the main process decided, in every process."""

    folder: Path
    shares: list[list[int]]  # of each process: indices of its requests
    costs: Costs
    before: frozenset[str]  # keys of the requests that earlier runs have finished


@dataclass(frozen=True, kw_only=True, slots=True)
class _NoPlan:
    """Why there is no plan, in every process: the kind of the exception and its text."""

    kind: str
    text: str

    def as_exception(self) -> Exception:
        """The exception that the main process met, or ``RuntimeError`` for one that is not diffmeter's."""
        known: dict[str, type[Exception]] = {cls.__name__: cls for cls in (InputError, StorageError, FolderInUseError)}
        return known.get(self.kind, RuntimeError)(self.text)


def _prepare(job: _Job, team: Processes, stack: ExitStack, *, with_costs: bool) -> _Plan:
    """Let the main process claim the folder and split the work; every process gets the same plan or error."""
    decided: _Plan | _NoPlan | None = None
    if team.is_main:
        try:
            decided = _decide(job, team, stack, with_costs=with_costs or team.count > 1)
        except Exception as error:
            team.send_to_all(_NoPlan(kind=type(error).__name__, text=str(error)))
            raise
    decided = team.send_to_all(decided)
    if not isinstance(decided, _Plan):
        assert decided is not None  # the main process sends a plan or why there is none
        raise decided.as_exception()
    return decided


def _decide(job: _Job, team: Processes, stack: ExitStack, *, with_costs: bool) -> _Plan:
    """The main process's part of :func:`_prepare`."""
    if job.trackers:
        from .trackers import check_trackers

        check_trackers(job.trackers)
    folder = _claim(job, stack)
    done = RunFolder(folder).finished_keys() if job.resume else set()
    number_of = {request.key: number for number, request in enumerate(job.requests) if request.key not in done}
    todo = [job.requests[number] for number in number_of.values()]
    costs = estimate_costs(todo) if with_costs else Costs()
    _write_manifest(folder, job, team)
    shares = [[number_of[r.key] for r in share] for share in split(todo, costs.weights(todo), team.count)]
    before = frozenset(request.key for request in job.requests) & done
    return _Plan(folder=folder, shares=shares, costs=costs, before=before)


def _claim(job: _Job, stack: ExitStack) -> Path:
    """The output folder, locked for this batch until ``stack`` closes and put in order if a run was cut off."""
    if not job.requests:
        raise InputError("there is nothing to generate: the plan is empty.")
    if job.output_dir is None:
        if job.resume:
            raise InputError("--resume needs --output: the folder of the batch to go on with.")
        folder = store.new_run_folder(config.OUTPUT_DIR)
        stack.enter_context(store.FileLock(folder / LOCK))
        return folder
    folder = store.make_folder(job.output_dir)
    stack.enter_context(store.FileLock(folder / LOCK))
    run = RunFolder(folder)
    if run.has_records():
        if not job.resume:
            raise InputError(
                f"{str(folder)!r} already holds the records of a run: add --resume to go on with it, or name another "
                "folder."
            )
        run.recover([request.key for request in job.requests])
    return folder


def _write_manifest(folder: Path, job: _Job, team: Processes) -> None:
    from diffmeter._version import __version__

    manifest = {
        "schema_version": MANIFEST_SCHEMA_VERSION,
        "diffmeter_version": __version__,
        "started": datetime.now().isoformat(timespec="seconds"),
        "planned": len(job.requests),
        "processes": team.count,
        "spec": dict(job.spec) if job.spec is not None else None,
    }
    store.write_json(folder / MANIFEST, manifest)


def _finish(job: _Job, plan: _Plan, result: BatchResult, tracking: _Tracking) -> None:
    """The main process's last part: merge the records of all, write the summaries, count what there is."""
    run, order, before = RunFolder(plan.folder), [request.key for request in job.requests], plan.before
    try:
        if len(plan.shares) > 1:
            run.merge_parts(order, skip_busy=True)
        run.write_summaries(order)
    except StorageError as error:
        result.storage_error = result.storage_error or str(error)
    finished = run.finished_keys()
    result.finished = sum(key in finished and key not in before for key in order)
    for record in run.records([key for key in order if key not in finished]):
        if record["status"] == "failed":
            result.failed += 1
            result.failures.setdefault(record["model_id"], str(record.get("error")))
    tracking.finish(run, [key for key in order if key not in before])


class _Tracking:
    """Report to trackers from the main process: at once when it works alone, else when the records are merged."""

    def __init__(
        self,
        names: Sequence[Any],
        folder: Path,
        requests: Sequence[GenerationRequest],
        team: Processes,
        *,
        live: bool,
    ) -> None:
        self._folder = folder
        self._live = live
        self._trackers: Any = None
        if names and team.is_main:
            from .trackers import Trackers

            models = sorted({request.model_id for request in requests})
            settings = {"generations": len(requests), "models": ", ".join(models), "processes": team.count}
            on_cpu = team.device == "cpu"
            self._trackers = Trackers(names, folder / "trackers", settings, cpu=on_cpu)

    def record(self, record: dict[str, Any]) -> None:
        """Report a record at once, if this process works alone."""
        if self._live:
            self._log(record)

    def _log(self, record: Mapping[str, Any]) -> None:
        if self._trackers is not None:
            image = self._folder / record["image"] if record.get("image") else None
            self._trackers.log(record, image)

    def finish(self, run: RunFolder, keys: Sequence[str]) -> None:
        """Report what has not been reported, and end."""
        if self._trackers is None:
            return
        if not self._live:
            for record in run.records(keys):
                self._log(record)
        self._trackers.finish()
