"""A profile as a timeline for trace viewers: Chrome's trace format, which Perfetto and chrome://tracing open.

The format is JSON (https://docs.google.com/document/d/1CvAClvFfyA5R-PhYUmn5OOQtYMH4h6I0nSsKchNAySU, "Trace Event
Format"): ``X`` are slices with a begin and a duration in microseconds, ``M`` name processes and tracks, ``C`` are
counters.

A profile knows how long each call took and how long all generations took, not when each call began. The calls lie one
behind the other, in their order; what a generation took beside them (its scheduler, its own code) stands at its end.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diffmeter.errors import InputError
from diffmeter.storage.files import write_bytes

if TYPE_CHECKING:
    from diffmeter.profile import ComputeProfile, TimelineEntry

PROCESS = 1
#: the track of generations and steps; the components' tracks follow
PIPELINE_TRACK = 0
_MICROSECONDS = 1_000_000


def trace_events(profile: ComputeProfile) -> list[dict[str, Any]]:
    """The events of a profile's timeline.

    Returns:
        Slices for each generation, each step and each call (``transformer_forward``, ``vae_decode``), a track a
        component; a counter of the FLOPs done so far (2 x ``total_macs``); names of process and tracks.

    Raises:
        InputError: the profile has no times, as that of a dry run.
    """
    if not profile.timeline or all(entry.seconds is None for entry in profile.timeline):
        model = profile.conditions.model_id or profile.conditions.pipeline
        raise InputError(f"{model} was not timed: a timeline needs the profile of a real run.")
    tracks = {name: number for number, name in enumerate(profile.components, start=PIPELINE_TRACK + 1)}
    calls = list(_laid_out(profile))
    return [
        *_names(profile, tracks),
        *(_slice(_label(profile, entry), tracks[entry.component], begin, end, _facts(profile, entry))
          for entry, begin, end in calls),
        *_generations(profile, calls),
        *_flops_so_far(profile, calls),
    ]  # fmt: skip


def save_trace(profile: ComputeProfile, path: str | Path) -> Path:
    """Write the timeline to a JSON file that trace viewers open.

    Raises:
        InputError: the profile has no times, or the file has another ending than ``.json``.
        StorageError: the file cannot be written.
    """
    target = Path(path)
    if target.suffix.lower() != ".json":
        raise InputError(f"a timeline is written to a .json file, not to {str(path)!r}.")
    document = {"traceEvents": trace_events(profile), "displayTimeUnit": "ms"}
    write_bytes(target, json.dumps(document, allow_nan=False).encode("ascii"))
    return target


def _laid_out(profile: ComputeProfile) -> Iterator[tuple[TimelineEntry, float, float]]:
    """Each call with its begin and end in seconds."""
    now = 0.0
    for entry in profile.timeline:
        end = now + (entry.seconds or 0.0)
        yield entry, now, end
        now = end


def _label(profile: ComputeProfile, entry: TimelineEntry) -> str:
    """How diffusers' guide to profiling calls such work: ``transformer_forward``, ``vae_decode``."""
    return f"{entry.component}_{profile.components[entry.component].calls[entry.call].method}"


def _facts(profile: ComputeProfile, entry: TimelineEntry) -> dict[str, Any]:
    call = profile.components[entry.component].calls[entry.call]
    return {"step": entry.step, "batch": call.batch, "total_macs": call.total_macs, "matmul_macs": call.matmul_macs}


def _slice(name: str, track: int, begin: float, end: float, facts: dict[str, Any] | None = None) -> dict[str, Any]:
    event = {"ph": "X", "pid": PROCESS, "tid": track, "name": name, "ts": begin * _MICROSECONDS}
    event["dur"] = (end - begin) * _MICROSECONDS
    return {**event, "args": facts} if facts else event


_Calls = list[tuple["TimelineEntry", float, float]]


def _generations(profile: ComputeProfile, calls: _Calls) -> Iterator[dict[str, Any]]:
    """A slice for each generation, and inside it one for each step."""
    numbers = list(dict.fromkeys(entry.generation for entry, _, _ in calls))
    for number in numbers:
        own = [(entry, begin, end) for entry, begin, end in calls if entry.generation == number]
        begin, end = own[0][1], own[-1][2]
        if number == numbers[-1] and profile.inference_time_seconds is not None:
            end = max(end, profile.inference_time_seconds)
        name = profile.conditions.pipeline if number >= 0 else "calls outside of a generation"
        yield _slice(name, PIPELINE_TRACK, begin, end)
        steps = list(
            dict.fromkeys(e.step for e, _, _ in own if e.step is not None and e.component in profile.denoisers)
        )
        for step in steps:
            inside = [(b, e) for each, b, e in own if each.step == step and each.component in profile.denoisers]
            yield _slice(f"step {step}", PIPELINE_TRACK, inside[0][0], inside[-1][1])


def _flops_so_far(profile: ComputeProfile, calls: _Calls) -> Iterator[dict[str, Any]]:
    total = 0
    for entry, _, end in calls:
        total += 2 * (profile.components[entry.component].calls[entry.call].total_macs or 0)
        yield {"ph": "C", "pid": PROCESS, "name": "FLOPs so far", "ts": end * _MICROSECONDS, "args": {"FLOPs": total}}


def _names(profile: ComputeProfile, tracks: dict[str, int]) -> Iterator[dict[str, Any]]:
    model = profile.conditions.model_id or profile.conditions.pipeline
    named = {"process_name": (PIPELINE_TRACK, f"{model}, measured on {profile.conditions.device or 'unknown device'}")}
    for kind, (track, name) in named.items():
        yield {"ph": "M", "pid": PROCESS, "tid": track, "name": kind, "args": {"name": name}}
    for name, track in {"pipeline": PIPELINE_TRACK, **tracks}.items():
        yield {"ph": "M", "pid": PROCESS, "tid": track, "name": "thread_name", "args": {"name": name}}
        yield {"ph": "M", "pid": PROCESS, "tid": track, "name": "thread_sort_index", "args": {"sort_index": track}}
