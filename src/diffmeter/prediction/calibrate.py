"""Measure the device that this runs on, in about half a minute, as a file like those of the table of GPUs.

What is measured is what kernels really reach, so the rates of the file are shares of its own figures: one, but for
what is measured apart (attention, launches). The CPU is a device like any other.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from functools import partial
from statistics import median
from typing import Any

import torch
import torch.nn.functional as F

from diffmeter.devices import check_device, device_name, memory, synchronize

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
#: sides of matrix products, of which the best counts; a CPU takes seconds for the large ones
_SIDES = {"cpu": (256, 512), "accelerator": (2048, 4096, 8192)}
_REPEATS = 3


def calibrate(device: str = "auto") -> dict[str, Any]:
    """What a device reaches, as the content of a GPU file.

    Args:
        device: ``auto``, ``cpu``, ``cuda``, ``cuda:1``, ``mps``, ...

    Raises:
        InputError: there is no such device.
    """
    place = check_device(device)
    kind = "cpu" if place == "cpu" else "accelerator"
    side = _SIDES[kind][-1]
    figures = {f"{name}_tflops": flops / 1e12 for name, flops in _products(place, kind)}
    best = figures["float32_tflops"] if kind == "cpu" else max(figures.values())
    dtype = torch.float32 if kind == "cpu" else torch.float16
    figures["bandwidth_gb_s"] = _bandwidth(place, side) / 1e9
    total = _memory_bytes(place)
    if total is not None:
        figures["memory_gib"] = total / 2**30
    small = torch.ones(8, device=place)
    launch = _seconds(place, lambda: [small.add_(1) for _ in range(200)]) / 200
    return {
        "name": device_name(place).lower().replace(" ", "-"),
        "title": device_name(place),
        "vendor": "cpu" if kind == "cpu" else "calibrated",
        "generation": "calibrated",
        "figures": {
            name: {"value": float(f"{value:.4g}"), "source": "measured by diffmeter calibrate"}
            for name, value in figures.items()
        },
        "rates": {
            "reached": 1.0,
            "matmul": 1.0,
            "bandwidth": 1.0,
            "attention": min(_attention(place, kind, dtype) / 1e12 / best, 1.0),
            "kernel_seconds": launch / 2,
            "host_seconds": launch,
            "source": f"measured by diffmeter calibrate on {device_name(place)} with torch {torch.__version__}",
        },
    }


def _products(place: str, kind: str) -> Iterator[tuple[str, float]]:
    """FLOP/s of the best square matrix product of each dtype that the device has."""
    for name, dtype in _DTYPES.items():
        best = 0.0
        for side in _SIDES[kind]:
            try:
                a = torch.ones(side, side, device=place, dtype=dtype)
                best = max(best, 2 * side**3 / _seconds(place, partial(torch.matmul, a, a)))
            except (RuntimeError, TypeError):  # a dtype that the device lacks, or no room
                break
        if best:
            yield name, best


def _attention(place: str, kind: str, dtype: torch.dtype) -> float:
    """FLOP/s of attention over a sequence of usual length with heads of 64."""
    length = 1024 if kind == "cpu" else 4096
    q = torch.ones(1, 8, length, 64, device=place, dtype=dtype)
    return 4 * 8 * length**2 * 64 / _seconds(place, lambda: F.scaled_dot_product_attention(q, q, q))


def _bandwidth(place: str, side: int) -> float:
    """Bytes a second of an addition that reads and writes far more than a cache holds."""
    x = torch.ones(128 * side * 512, device=place)
    return 2 * x.numel() * x.itemsize / _seconds(place, lambda: x.add_(1))


def _memory_bytes(place: str) -> int | None:
    if place == "cpu":
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else None
    return memory(place).total


def _seconds(place: str, work: Callable[[], Any]) -> float:
    """Median time of some work, warm."""
    found = []
    for _ in range(_REPEATS + 1):
        synchronize(place)
        started = time.perf_counter()
        work()
        synchronize(place)
        found.append(time.perf_counter() - started)
    return median(found[1:])
