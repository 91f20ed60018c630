"""Timelines for trace viewers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from diffmeter import cli, dry_run, observe
from diffmeter.errors import InputError
from diffmeter.reports.trace import PIPELINE_TRACK, trace_events
from tests.zoo import ZOO


@pytest.fixture(scope="module")
def profile() -> Any:
    pipe = ZOO["StableDiffusionPipeline"].build()
    pipe.set_progress_bar_config(disable=True)
    with observe(pipe) as run:
        pipe("x", num_inference_steps=3, height=32, width=32)
    return run.profile


def slices(profile: Any) -> list[dict[str, Any]]:
    return [event for event in trace_events(profile) if event["ph"] == "X"]


def test_slices_of_a_track_nest(profile: Any) -> None:
    tracks: dict[int, list[tuple[float, float]]] = {}
    for event in slices(profile):
        tracks.setdefault(event["tid"], []).append((event["ts"], event["ts"] + event["dur"]))
    for spans in tracks.values():
        for begin, end in spans:
            assert begin <= end
            for other_begin, other_end in spans:
                apart = end <= other_begin + 1e-6 or other_end <= begin + 1e-6
                inside = (begin <= other_begin + 1e-6 and other_end <= end + 1e-6) or (
                    other_begin <= begin + 1e-6 and end <= other_end + 1e-6
                )
                assert apart or inside


def test_every_call_is_a_slice_with_its_time(profile: Any) -> None:
    names = [event["name"] for event in slices(profile)]
    assert names.count("unet_forward") == profile.components["unet"].call_count
    assert names.count("vae_decode") == 1
    assert [name for name in names if name.startswith("step ")] == ["step 0", "step 1", "step 2"]
    took = sum(event["dur"] for event in slices(profile) if event["tid"] != PIPELINE_TRACK)
    assert took == pytest.approx(1e6 * sum(entry.seconds or 0 for entry in profile.timeline))


def test_the_counter_ends_at_the_total(profile: Any) -> None:
    counters = [event["args"]["FLOPs"] for event in trace_events(profile) if event["ph"] == "C"]
    assert counters == sorted(counters)
    assert counters[-1] == profile.total_flops


def test_tracks_are_named(profile: Any) -> None:
    named = {event["args"]["name"] for event in trace_events(profile) if event["name"] == "thread_name"}
    assert named == {"pipeline", *profile.components}


def test_the_command_reads_a_profile(
    profile: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    profile.save(tmp_path / "cost.json")
    monkeypatch.setattr("sys.argv", ["diffmeter", "trace", str(tmp_path / "cost.json")])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert not ended.value.code
    written = Path(capsys.readouterr().out.strip())
    document = json.loads(written.read_text())
    assert written == tmp_path / "cost.trace.json"
    assert document["traceEvents"] == json.loads(json.dumps(trace_events(profile)))


def test_a_profile_without_times_is_refused(tmp_path: Path) -> None:
    planned = dry_run(ZOO["StableDiffusionPipeline"].build(), prompt="x", num_inference_steps=1)
    with pytest.raises(InputError, match="was not timed"):
        trace_events(planned)
    with pytest.raises(InputError, match=r"to a \.json file"):
        planned.save_trace(tmp_path / "x.txt")
