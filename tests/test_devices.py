"""Devices that this machine lacks are played by modules put into torch: what is asked of them, and in which order."""

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from diffmeter import devices
from diffmeter.errors import InputError


class FakeEvent:
    """An event of a device on which an hour passes between two events."""

    now = 0.0

    def __init__(self, enable_timing: bool = False) -> None:
        assert enable_timing
        self.time: float | None = None
        self.stream: object = None
        self.waited = False

    def record(self, stream: object = None) -> None:
        FakeEvent.now += 3_600_000.0  # milliseconds
        self.time, self.stream = FakeEvent.now, stream

    def synchronize(self) -> None:
        self.waited = True

    def elapsed_time(self, end: FakeEvent) -> float:
        assert end.waited
        assert self.time is not None
        assert end.time is not None
        return end.time - self.time


class FakeModule(SimpleNamespace):
    """Stands for torch.cuda, torch.npu, ... and notes what is called."""

    def __init__(self, count: int = 1, **members: Any) -> None:
        self.calls: list[str] = []
        super().__init__(
            is_available=lambda: count > 0,
            device_count=lambda: count,
            synchronize=lambda *device: self.calls.append("synchronize"),
            empty_cache=lambda: self.calls.append("empty_cache"),
            **members,
        )


class _FakeDevice(SimpleNamespace):
    def __str__(self) -> str:
        return f"{self.type}:{self.index}"


@pytest.fixture(params=devices.ACCELERATORS)
def kind(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """A machine with two devices of one kind (one, for MPS), of which ``torch.accelerator`` knows nothing."""
    _install(monkeypatch, str(request.param), FakeModule(1 if request.param == "mps" else 2, Event=FakeEvent))
    return str(request.param)


def _install(monkeypatch: pytest.MonkeyPatch, kind: str, module: object) -> None:
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: False)
    for other in devices.ACCELERATORS:
        if hasattr(torch, other):
            monkeypatch.setattr(torch, other, FakeModule(0))
    monkeypatch.setattr(torch, kind, module, raising=False)


def _module(kind: str) -> FakeModule:
    module = getattr(torch, kind)
    assert isinstance(module, FakeModule)
    return module


def _device(kind: str) -> Any:
    """torch.device("npu") needs the plugin; what is asked of a device here is its type."""
    return _FakeDevice(type=kind, index=0)


@pytest.mark.parametrize("text", ["auto", "cpu", "CUDA", "cuda:1", "mps", "xpu:0", "npu", "hpu", " cpu "])
def test_names(text: str) -> None:
    assert devices.parse_device(text) == text.strip().lower()


@pytest.mark.parametrize("text", ["gpu", "cuda:", "cuda:x", "cuda:-1", "cuda:²", "auto:0", "", "cuda:1:2"])
def test_other_names_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"use auto, cpu, cuda, cuda:INDEX, mps, xpu, npu or hpu"):
        devices.parse_device(text)


def test_the_accelerator_of_the_machine_is_found(kind: str) -> None:
    assert devices.best_device() == kind
    assert devices.check_device("auto") == kind
    assert devices.check_device(kind) == kind
    expected = ["cpu", kind] if kind == "mps" else ["cpu", f"{kind}:0", f"{kind}:1"]
    assert devices.available_devices() == expected
    assert [devices.check_device(name) for name in expected] == expected


def test_a_missing_device_is_refused_in_one_sentence(kind: str) -> None:
    either = "cpu or mps" if kind == "mps" else f"cpu, {kind}:0 or {kind}:1"
    with pytest.raises(InputError, match=rf"^device '{kind}:7' is not on this machine: use {either}\.$"):
        devices.check_device(f"{kind}:7")


def test_without_an_accelerator_there_is_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    _install(monkeypatch, "cuda", FakeModule(0))
    assert devices.best_device() == "cpu"
    assert devices.check_device(torch.device("cpu")) == "cpu"
    for kind in devices.ACCELERATORS:
        with pytest.raises(InputError, match=rf"^device '{kind}' is not on this machine: use cpu\.$"):
            devices.check_device(kind)
    with pytest.raises(InputError, match=r"^device 'tpu' is not usable: use auto, cpu"):
        devices.check_device("tpu")
    with pytest.raises(InputError, match=r"^device 'cpu:1' is not on this machine"):
        devices.check_device("cpu:1")


def test_waiting_and_freeing_reach_the_device(kind: str) -> None:
    devices.synchronize(kind)
    devices.synchronize()
    devices.empty_cache()
    assert _module(kind).calls == ["synchronize", "synchronize", "empty_cache"]


def test_the_cpu_needs_no_waiting(kind: str) -> None:
    devices.synchronize("cpu")
    assert _module(kind).calls == []


def test_what_torch_accelerator_knows_is_asked_there(monkeypatch: pytest.MonkeyPatch) -> None:
    module = FakeModule(1)
    monkeypatch.setattr(torch, "cuda", module)
    asked: list[object] = []
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: torch.device("cuda"))
    monkeypatch.setattr(torch.accelerator, "synchronize", lambda *device: asked.append(device))
    devices.synchronize("cuda:0")
    devices.synchronize()
    assert asked == [("cuda:0",), ()]
    assert module.calls == []


def test_an_accelerator_that_only_a_plugin_knows(monkeypatch: pytest.MonkeyPatch) -> None:
    module = FakeModule(1)
    monkeypatch.setattr(torch, "novel", module, raising=False)
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: SimpleNamespace(type="novel"))
    assert devices.best_device() == "novel"
    assert devices.check_device("novel:0") == "novel:0"
    devices.empty_cache()
    assert module.calls == ["empty_cache"]


def test_time_comes_from_the_events_of_the_device(kind: str) -> None:
    timer = devices.Timer(_device(kind))
    timer.start()
    timer.stop()
    assert timer.waits
    assert timer.seconds == 3600.0
    assert not timer.waits
    assert timer.seconds == 3600.0  # read again
    assert _module(kind).calls == []


def test_events_are_recorded_on_the_stream_of_the_tensors_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """The current device may be another one than the component's."""
    events: list[FakeEvent] = []

    def event(enable_timing: bool) -> FakeEvent:
        events.append(FakeEvent(enable_timing))
        return events[-1]

    streams = {"cuda:1": "the stream of cuda:1"}
    _install(monkeypatch, "cuda", FakeModule(2, Event=event, current_stream=lambda device: streams[str(device)]))
    timer = devices.Timer(torch.device("cuda:1"))
    timer.start()
    timer.stop()
    assert [e.stream for e in events] == ["the stream of cuda:1"] * 2


def test_a_device_without_events_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    module = FakeModule(1)
    _install(monkeypatch, "hpu", module)
    timer = devices.Timer(_device("hpu"))
    timer.start()
    timer.stop()
    assert module.calls == ["synchronize", "synchronize"]
    assert not timer.waits
    assert 0 <= timer.seconds < 10


@pytest.mark.parametrize("device", [None, torch.device("cpu"), torch.device("meta")])
def test_the_clock_times_the_cpu(device: torch.device | None, monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = iter([10.0, 12.5])
    monkeypatch.setattr(time, "perf_counter", lambda: next(ticks))
    timer = devices.Timer(device)
    timer.start()
    timer.stop()
    assert timer.seconds == 2.5


def test_the_accelerator_among_tensors() -> None:
    cpu, meta = torch.zeros(1), torch.zeros(1, device="meta")
    other: Any = SimpleNamespace(device=torch.device("cuda:1"))
    assert devices.accelerator_of([cpu, meta]) is None
    assert devices.accelerator_of([cpu, other]) == torch.device("cuda:1")


def test_memory_of_a_device_with_the_usual_functions(monkeypatch: pytest.MonkeyPatch) -> None:
    figures = {"memory_allocated": 1, "max_memory_allocated": 2, "memory_reserved": 3}
    members: dict[str, Any] = {name: (lambda index=0, f=figure: f + 10 * index) for name, figure in figures.items()}
    module = FakeModule(2, mem_get_info=lambda index=0: (4 + 10 * index, 5 + 10 * index), **members)
    _install(monkeypatch, "npu", module)
    assert devices.memory("npu") == devices.DeviceMemory(allocated=1, peak=2, reserved=3, free=4, total=5)
    assert devices.memory("npu:1") == devices.DeviceMemory(allocated=11, peak=12, reserved=13, free=14, total=15)


def test_memory_of_mps(monkeypatch: pytest.MonkeyPatch) -> None:
    names = ("current_allocated_memory", "driver_allocated_memory", "recommended_max_memory")
    members: dict[str, Any] = {name: (lambda f=figure: f) for figure, name in enumerate(names, start=1)}
    _install(monkeypatch, "mps", FakeModule(1, **members))
    assert devices.memory("mps") == devices.DeviceMemory(allocated=1, reserved=2, total=3)


def test_a_figure_that_a_device_does_not_tell_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*place: int) -> int:
        raise NotImplementedError

    properties = SimpleNamespace(total_memory=7)
    module = FakeModule(1, memory_allocated=refuse, get_device_properties=lambda index: properties)
    _install(monkeypatch, "xpu", module)
    assert devices.memory("xpu") == devices.DeviceMemory(total=7)
    assert devices.memory("cpu") == devices.DeviceMemory()


def test_the_name_of_a_device(monkeypatch: pytest.MonkeyPatch) -> None:
    _install(monkeypatch, "cuda", FakeModule(2, get_device_name=lambda index: f"Maker {index}"))
    assert devices.device_name("cuda:1") == "Maker 1"
    assert devices.device_name("cuda") == "Maker 0"
    assert devices.device_name("hpu") == "hpu"
    assert devices.device_name("cpu") == "cpu"


def test_the_peak_begins_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    module = FakeModule(1)
    module.reset_peak_memory_stats = lambda *place: module.calls.append(f"reset {place}")
    _install(monkeypatch, "cuda", module)
    devices.reset_peak_memory("cuda:0")
    devices.reset_peak_memory("cpu")
    assert module.calls == ["reset (0,)"]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_real_device() -> None:
    """Ten products of 4096 x 4096 take longer than their launches, and the figures are of this device."""
    a = torch.randn(4096, 4096, device="cuda")
    timer = devices.Timer(a.device)
    timer.start()
    for _ in range(10):
        a @ a
    timer.stop()
    assert timer.seconds > 1e-4
    figures = devices.memory("cuda")
    assert figures.allocated is not None
    assert figures.total is not None
    assert 4096 * 4096 * 4 <= figures.allocated <= figures.total
    devices.synchronize()
    devices.empty_cache()
