"""What a run costs in dollars, from the time that it holds a GPU and the price of an hour."""

from __future__ import annotations

import math

from diffmeter.errors import InputError

from .hardware import Gpu

SECONDS_PER_HOUR = 3600


def price_of(gpu: Gpu, usd_per_hour: float | None = None) -> tuple[float | None, str | None]:
    """Dollars an hour, the user's or the table's, and where the price is from; (None, None) if there is none.

    Raises:
        InputError: a price that is negative or not finite.
    """
    if usd_per_hour is not None:
        return check_price(usd_per_hour), "given by the user"
    if gpu.price is None:
        return None, None
    dated = f" of {gpu.price.date}" if gpu.price.date else ""
    return gpu.price.usd_per_hour, gpu.price.source + dated


def check_price(usd_per_hour: float) -> float:
    """The price itself.

    Raises:
        InputError: it is negative or not finite.
    """
    if not math.isfinite(usd_per_hour) or usd_per_hour < 0:
        raise InputError(f"A price must be a finite number of dollars an hour of at least 0, not {usd_per_hour!r}.")
    return usd_per_hour


def usd(seconds: float, usd_per_hour: float, gpus: int = 1) -> float:
    """Dollars for holding GPUs that long."""
    return seconds / SECONDS_PER_HOUR * usd_per_hour * gpus
