"""Devices: their names, which of them this machine has, waiting for them, timing on them, and their memory.

Every other module asks here. What PyTorch answers for any accelerator (``torch.accelerator``) is asked there; the
rest comes from the accelerator's own module (``torch.cuda``, ``torch.mps``, ``torch.npu``, ...). A new device is a
name in :data:`ACCELERATORS`; plugins such as ``torch_npu`` bring the module with them.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from diffmeter.errors import InputError, shown

if TYPE_CHECKING:
    import torch

#: Names of accelerators, in the order in which "auto" prefers them. AMD's are "cuda" to PyTorch.
ACCELERATORS = ("cuda", "xpu", "mps", "npu", "hpu")

ALLOWED = "auto, cpu, cuda, cuda:INDEX, mps, xpu, npu or hpu"


def parse_device(text: str) -> str:
    """Read a device's name: "auto", "cpu", "cuda", "cuda:1", "mps", ... in any case; PyTorch is not loaded.

    Raises:
        ValueError: with what is allowed.
    """
    name = text.strip().lower()
    kind, colon, index = name.partition(":")
    if kind not in ("auto", "cpu", *ACCELERATORS) or (colon and not (index.isascii() and index.isdigit())):
        raise ValueError(f"use {ALLOWED}")
    if kind == "auto" and colon:
        raise ValueError(f"use {ALLOWED}")
    return name


def device_count(kind: str) -> int:
    """How many devices of a kind ("cuda", "mps", ...) this machine has and PyTorch can use; 1 for "cpu"."""
    if kind == "cpu":
        return 1
    module = _module(kind)
    if module is None or not module.is_available():
        return 0
    count: Callable[[], int] | None = getattr(module, "device_count", None)
    return 1 if count is None else int(count())


def available_devices() -> list[str]:
    """Every device of this machine by its full name: ["cpu", "cuda:0", "cuda:1"], ["cpu", "mps"]."""
    names = ["cpu"]
    for kind in _kinds():
        count = device_count(kind)
        names += [kind] if count == 1 else [f"{kind}:{index}" for index in range(count)]
    return names


def best_device() -> str:
    """The kind of the accelerator that this machine has and PyTorch can use, otherwise "cpu"."""
    return next((kind for kind in _kinds() if device_count(kind)), "cpu")


def check_device(device: object) -> str:
    """The name of a device that this machine has; "auto" becomes :func:`best_device`.

    Args:
        device: a name or a ``torch.device``.

    Raises:
        InputError: it is no device's name, or this machine has no such device; the message lists what it has.
    """
    text = str(device)
    kind, _, index = text.strip().lower().partition(":")
    if kind not in _kinds():
        try:
            parse_device(text)
        except ValueError as error:
            raise InputError(f"device {shown(text)} is not usable: {error}.") from None
    if kind == "auto":
        return best_device()
    if (int(index) if index.isdigit() else 0) >= device_count(kind):
        raise InputError(f"device {shown(text)} is not on this machine: use {_either(available_devices())}.")
    return text.strip().lower()


def accelerator_of(tensors: Iterable[torch.Tensor]) -> torch.device | None:
    """The device of the first tensor that lies on an accelerator; None if none does."""
    return next((tensor.device for tensor in tensors if tensor.device.type not in ("cpu", "meta")), None)


def synchronize(device: torch.device | str | None = None) -> None:
    """Wait until a device has done all that it was given; every accelerator of this machine for None."""
    kinds = _kinds() if device is None else [str(device).partition(":")[0]]
    for kind in kinds:
        module = _module(kind)
        if kind in ("cpu", "meta") or module is None or not module.is_available():
            continue
        accelerator = _accelerator()
        if accelerator is not None and accelerator.type == kind:
            import torch

            torch.accelerator.synchronize(*(() if device is None else (device,)))
        else:
            module.synchronize()


def empty_cache() -> None:
    """Give the memory that PyTorch keeps for later back to every accelerator of this machine."""
    for kind in _kinds():
        module = _module(kind)
        if module is not None and module.is_available() and hasattr(module, "empty_cache"):
            module.empty_cache()


class Timer:
    """Seconds between :meth:`start` and :meth:`stop`, of a device's own work if it runs beside Python.

    An accelerator's events are recorded without waiting for it; the first reading of :attr:`seconds` waits. Where a
    device has no events, ``start`` and ``stop`` wait for it instead, so that the time is never that of a launch.

    >>> timer = Timer(None)
    >>> timer.start()
    >>> timer.stop()
    >>> timer.seconds >= 0
    True
    """

    def __init__(self, device: torch.device | None) -> None:
        #: The accelerator that is timed; None for the CPU.
        self.device = None if device is None or device.type in ("cpu", "meta") else device
        self._events: list[Any] = []
        self._started = 0.0
        self._seconds: float | None = None

    def start(self) -> None:
        """Begin; a second call begins again."""
        self._events, self._seconds = [], None
        self._mark()
        self._started = time.perf_counter()

    def stop(self) -> None:
        """End."""
        self._mark()
        if len(self._events) != 2:
            self._seconds = time.perf_counter() - self._started

    @property
    def waits(self) -> bool:
        """Whether reading :attr:`seconds` would wait for the device."""
        return self._seconds is None

    @property
    def seconds(self) -> float:
        """The time in seconds. Waits for the device until it has reached :meth:`stop`."""
        if self._seconds is None:
            start, end = self._events
            self._events = []
            end.synchronize()
            self._seconds = float(start.elapsed_time(end)) / 1000  # events tell milliseconds
        return self._seconds

    def _mark(self) -> None:
        if self.device is None:
            return
        module = _module(self.device.type)
        try:
            event = module.Event(enable_timing=True)  # type: ignore[union-attr]
            current_stream = getattr(module, "current_stream", None)
            # The stream of this device, which need not be the current device. MPS has one stream and does not ask.
            event.record(*(() if current_stream is None else (current_stream(self.device),)))
        except (AttributeError, TypeError, NotImplementedError, RuntimeError):
            synchronize(self.device)
        else:
            self._events.append(event)


@dataclass(frozen=True, kw_only=True, slots=True)
class DeviceMemory:
    """A device's memory in bytes. None stands for what the device does not tell."""

    allocated: int | None = None  # held by tensors
    peak: int | None = None  # the most that tensors held since the start or reset_peak_memory
    reserved: int | None = None  # held by PyTorch: tensors and what it keeps for later
    free: int | None = None
    total: int | None = None


def memory(device: torch.device | str) -> DeviceMemory:
    """The memory figures of an accelerator; for "cpu", where PyTorch keeps no account, all are None."""
    kind, _, index = str(device).partition(":")
    module = _module(kind)
    if kind in ("cpu", "meta") or module is None or not module.is_available():
        return DeviceMemory()
    if kind == "mps":
        return DeviceMemory(
            allocated=_figure(module, "current_allocated_memory"),
            reserved=_figure(module, "driver_allocated_memory"),
            total=_figure(module, "recommended_max_memory"),
        )
    place = (int(index),) if index else ()
    free, total = None, None
    with suppress(AttributeError, TypeError, RuntimeError, NotImplementedError):
        free, total = (int(figure) for figure in module.mem_get_info(*place))
    if total is None:
        with suppress(AttributeError, TypeError, RuntimeError, NotImplementedError):
            total = int(module.get_device_properties(*(place or (0,))).total_memory)
    return DeviceMemory(
        allocated=_figure(module, "memory_allocated", *place),
        peak=_figure(module, "max_memory_allocated", *place),
        reserved=_figure(module, "memory_reserved", *place),
        free=free,
        total=total,
    )


def reset_peak_memory(device: torch.device | str) -> None:
    """Let :attr:`DeviceMemory.peak` begin anew, where the device keeps one."""
    kind, _, index = str(device).partition(":")
    module = _module(kind)
    if module is not None and kind != "cpu" and hasattr(module, "reset_peak_memory_stats") and module.is_available():
        module.reset_peak_memory_stats(*((int(index),) if index else ()))


def device_name(device: torch.device | str) -> str:
    """What the maker calls a device ("NVIDIA H100 80GB HBM3"), or PyTorch's name where it does not tell."""
    kind, _, index = str(device).partition(":")
    module = _module(kind)
    with suppress(AttributeError, TypeError, RuntimeError, NotImplementedError):
        if module is not None and kind != "cpu":
            return str(module.get_device_name(int(index) if index else 0))
    return str(device)


def _module(kind: str) -> Any | None:
    """PyTorch's module for a kind of device; None where this PyTorch has none (a plugin is not installed)."""
    import torch

    return getattr(torch, kind, None) if kind in _kinds() or kind == "cpu" else None


def _accelerator() -> torch.device | None:
    """The accelerator that ``torch.accelerator`` speaks for; None if this machine has none."""
    import torch

    return torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None


def _kinds() -> list[str]:
    """The accelerators' names, that of a device which only PyTorch's plugins know included."""
    accelerator = _accelerator()
    known = list(ACCELERATORS)
    return known if accelerator is None or accelerator.type in known else [accelerator.type, *known]


def _figure(module: Any, name: str, *place: int) -> int | None:
    with suppress(AttributeError, TypeError, RuntimeError, NotImplementedError):
        return int(getattr(module, name)(*place))
    return None


def _either(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} or {names[-1]}"
