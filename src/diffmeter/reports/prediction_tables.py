"""Predictions as tables for a terminal."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from diffmeter.units import UNKNOWN, format_bytes, format_count, format_percent, format_seconds

if TYPE_CHECKING:
    from rich.table import Table

    from diffmeter.prediction.result import Prediction


def predictions_table(found: Sequence[Prediction]) -> Table:
    """One row a prediction."""
    from rich.table import Table

    table = Table(title=f"{found[0].model} ({found[0].pipeline})" if found else None)
    heads = ("GPU", "images", "time", "nine in ten", "peak memory", "fits", "energy", "price", "1,000 images", "MFU")
    for index, head in enumerate(heads):
        table.add_column(head, justify="left" if index in (0, 5) else "right")
    for p in found:
        gpu = f"{p.gpus} x {p.gpu}" if p.gpus > 1 else p.gpu
        table.add_row(
            gpu,
            str(p.images),
            format_seconds(p.seconds),
            UNKNOWN if p.seconds_range is None else " - ".join(map(format_seconds, p.seconds_range)),
            format_bytes(p.peak_memory_bytes),
            fits_text(p),
            format_count(p.joules, "J"),
            usd_text(p.usd),
            usd_text(p.per_image("usd", 1000)),
            format_percent(p.mfu, 1),
        )
    return table


def components_table(prediction: Prediction) -> Table:
    """One row a component."""
    from rich.table import Table

    table = Table()
    heads = ("component", "calls", "time", "bound by", "FLOP/s", "MFU", "energy", "weights", "activations")
    for index, head in enumerate(heads):
        table.add_column(head, justify="left" if index in (0, 3) else "right")
    for name, part in prediction.components.items():
        rate = None if part.tflops_per_second is None else part.tflops_per_second * 1e12
        table.add_row(
            name,
            str(part.calls),
            format_seconds(part.seconds),
            part.bound or "",
            format_count(rate, "FLOP/s"),
            format_percent(part.mfu, 1),
            format_count(part.joules, "J"),
            format_bytes(part.weight_bytes),
            format_bytes(part.activation_bytes),
        )
    return table


def prediction_facts(found: Sequence[Prediction]) -> Iterator[str]:
    """What is to be known beside the table, a line each, the same line once."""
    lines = []
    for p in found:
        if p.advice_to_fit is not None:
            advice = p.advice_to_fit
            lines.append(
                f"{p.gpu}, {p.images} images: {advice.change} to fit: {format_bytes(advice.peak_memory_bytes)}, "
                f"{format_seconds(advice.seconds)}"
            )
        if p.grams_co2 is not None:
            lines.append(f"{p.gpu}, {p.images} images: {p.grams_co2:.3g} g of CO2, {p.kwh:.3g} kWh")
        if p.usd_per_hour is not None:
            lines.append(f"{p.gpu}: {usd_text(p.usd_per_hour)} an hour ({p.price_source})")
        lines += [f"{p.gpu}: {estimate}" for estimate in p.estimates]
    yield from dict.fromkeys(lines)


def fits_text(prediction: Prediction) -> str:
    """yes, no, or "only if changed"."""
    if prediction.fits is None:
        return UNKNOWN
    if prediction.fits:
        return "yes"
    return "no" if prediction.advice_to_fit is None else "only with a change"


def usd_text(usd: float | None) -> str:
    """Dollars with two significant decimals: $0.0031, $2.46."""
    if usd is None:
        return UNKNOWN
    return f"${usd:.2f}" if usd >= 0.1 or usd == 0 else f"${usd:.2g}"
