"""Predictions as tables: one row a GPU and batch, or one row a component."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from diffmeter.units import format_bytes, format_seconds

from .tables import Column, Kind, Row, Table, Value

if TYPE_CHECKING:
    from diffmeter.prediction.result import Prediction

#: columns of the CSV files that diffusers' own benchmarks write, which are shown where they are asked for
_AS_DIFFUSERS = (
    Column("num_params_B", "Params (10^9)", Kind.NUMBER),
    Column("flops_G", "GFLOPs", Kind.NUMBER),
    Column("time_plain_s", "Eager (s)", Kind.NUMBER),
    Column("mem_plain_GB", "Eager (GB)", Kind.NUMBER),
    Column("time_compile_s", "Compiled (s)", Kind.NUMBER),
    Column("mem_compile_GB", "Compiled (GB)", Kind.NUMBER),
)


def predictions_table(found: Sequence[Prediction]) -> Table:
    """One row a prediction; for a single one, its components below."""
    first = found[0]
    return Table(
        columns=[
            Column("gpu", "GPU"),
            Column("images", "Images", Kind.INTEGER, 1),
            Column("seconds", "Time", Kind.SECONDS),
            Column("range", "Nine in ten", Kind.TEXT, 4),
            Column("memory_gib", "Memory (GiB)", Kind.NUMBER),
            Column("fits", "Fits"),
            Column("joules", "Energy (J)", Kind.NUMBER, 3),
            Column("usd_per_1000", "USD/1,000", Kind.NUMBER, 2),
            Column("mfu", "MFU", Kind.PERCENT, 5),
        ],
        rows=[Row(_cells(p)) for p in found],
        title=f"{first.model} ({first.pipeline}), {first.mode}, {first.dtype}",
        facts=list(_facts(found)),
        notes=list(dict.fromkeys(f"{p.gpu}: {estimate}" for p in found for estimate in p.estimates)),
        more=_AS_DIFFUSERS,
    )


def components_table(prediction: Prediction) -> Table:
    """One row a component."""
    rows = []
    for name, part in prediction.components.items():
        cells: dict[str, Value] = {
            "component": name,
            "calls": part.calls,
            "seconds": part.seconds,
            "bound": part.bound,
            "tflops": part.tflops_per_second,
            "mfu": part.mfu,
            "joules": part.joules,
            "weights_gib": part.weight_bytes / 2**30,
            "activations_gib": part.activation_bytes / 2**30,
        }
        rows.append(Row(cells))
    return Table(
        columns=[
            Column("component", "Component"),
            Column("calls", "Calls", Kind.INTEGER, 3),
            Column("seconds", "Time", Kind.SECONDS),
            Column("bound", "Bound by"),
            Column("tflops", "TFLOP/s", Kind.NUMBER, 4),
            Column("mfu", "MFU", Kind.PERCENT, 2),
            Column("joules", "Energy (J)", Kind.NUMBER, 5),
            Column("weights_gib", "Weights (GiB)", Kind.NUMBER, 1),
            Column("activations_gib", "Activations (GiB)", Kind.NUMBER, 1),
        ],
        rows=rows,
    )


def _cells(p: Prediction) -> dict[str, Value]:
    compiled = p.mode == "compiled"
    memory = p.peak_memory_bytes / 1e9
    return {
        "gpu": f"{p.gpus} x {p.gpu}" if p.gpus > 1 else p.gpu,
        "images": p.images,
        "seconds": p.seconds,
        "range": None if p.seconds_range is None else " to ".join(map(format_seconds, p.seconds_range)),
        "memory_gib": p.peak_memory_bytes / 2**30,
        "fits": fits_text(p),
        "joules": p.joules,
        "usd_per_1000": p.per_image("usd", 1000),
        "mfu": p.mfu,
        "num_params_B": sum(part.params for part in p.components.values()) / 1e9,
        "flops_G": sum(part.flops for part in p.components.values()) / 1e9,
        "time_compile_s" if compiled else "time_plain_s": p.seconds,
        "mem_compile_GB" if compiled else "mem_plain_GB": memory,
    }


def _facts(found: Sequence[Prediction]) -> Iterator[tuple[str, str]]:
    """What is to be known beside the table; the same line once."""
    lines = []
    for p in found:
        which = f"{p.gpu}, {p.images} images" if len(found) > 1 else p.gpu
        if p.advice_to_fit is not None:
            then = f"{format_bytes(p.advice_to_fit.peak_memory_bytes)}, {format_seconds(p.advice_to_fit.seconds)}"
            lines.append((f"To fit {which}", f"{p.advice_to_fit.change}: {then}"))
        if p.grams_co2 is not None:
            lines.append((f"CO2, {which}", f"{p.grams_co2:.3g} g, {p.kwh:.3g} kWh"))
        if p.usd_per_hour is not None:
            lines.append((f"Price, {p.gpu}", f"{p.usd_per_hour:g} USD an hour ({p.price_source})"))
    yield from dict.fromkeys(lines)


def fits_text(prediction: Prediction) -> str | None:
    """yes, no, or "only changed"; None where the memory is not known."""
    if prediction.fits is None:
        return None
    if prediction.fits:
        return "yes"
    return "no" if prediction.advice_to_fit is None else "only changed"
