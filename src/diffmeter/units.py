"""Turn numbers into text for people. Every figure that diffmeter shows goes through one of these functions.

Rules that hold for all of them: ``None`` reads "unknown", rounding is half up on the exact decimal value, a value
that rounds up to the next prefix is shown with it (999.999 G is "1.00 T"), and a negative or non-finite number is a
``ValueError``, since no quantity shown here can be one.
"""

from __future__ import annotations

import math
from decimal import ROUND_HALF_UP, Decimal, localcontext

UNKNOWN = "unknown"

_SI_PREFIXES = ("", "K", "M", "G", "T", "P", "E", "Z", "Y")
_PARAM_SUFFIXES = ("", "K", "M", "B", "T")
_BYTE_UNITS = ("bytes", "kB", "MB", "GB", "TB", "PB", "EB")
_BINARY_BYTE_UNITS = ("bytes", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB")

Number = int | float


def format_count(n: Number | None, unit: str) -> str:
    """Show a count of operations with its SI prefix: ``402128732160, "MACs"`` is "402.13 GMACs".

    Counts below 1,000 have no prefix and, being whole, no decimals: "12 MACs".
    """
    if n is None:
        return UNKNOWN
    return _prefixed(n, 1000, [f" {prefix}{unit}" for prefix in _SI_PREFIXES])


def format_count_in(n: Number | None, unit: str, prefix: str, decimals: int = 3) -> str:
    """Show a count in one fixed prefix, for columns that are compared: ``(n, "MACs", "G")`` is "339.224 GMACs"."""
    if n is None:
        return UNKNOWN
    if prefix not in _SI_PREFIXES:
        raise ValueError(f"unknown prefix {prefix!r}: use one of {', '.join(p or 'none' for p in _SI_PREFIXES)}")
    value = _checked(n) / Decimal(1000) ** _SI_PREFIXES.index(prefix)
    return f"{_rounded(value, decimals)} {prefix}{unit}"


def format_params(n: Number | None) -> str:
    """Show a number of parameters the way model cards do: 865910724 is "865.91M", 12.9 billion is "12.90B"."""
    if n is None:
        return UNKNOWN
    return _prefixed(n, 1000, _PARAM_SUFFIXES)


def format_seconds(seconds: Number | None) -> str:
    """Show a duration: "12.34s" up to a minute, then "2m 05s", "3h 02m 05s" and "2d 03h 02m".

    Durations from 10 ms are in seconds; shorter ones in milliseconds or microseconds, so that they do not read zero.
    """
    if seconds is None:
        return UNKNOWN
    value = _checked(seconds)
    if value == 0:
        return "0.00s"
    if value < Decimal("0.001"):
        micro = _rounded(value * 1_000_000, 2)
        return f"{micro}us" if Decimal(micro) < 1000 else "1.00ms"
    if value < Decimal("0.01"):
        milli = _rounded(value * 1000, 2)
        return f"{milli}ms" if Decimal(milli) < 10 else "0.01s"
    in_seconds = _rounded(value, 2)
    if Decimal(in_seconds) < 60:
        return f"{in_seconds}s"
    minutes, whole_seconds = divmod(int(_rounded(value, 0)), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    if days:
        return f"{days}d {hours:02d}h {minutes:02d}m"
    if hours:
        return f"{hours}h {minutes:02d}m {whole_seconds:02d}s"
    return f"{minutes}m {whole_seconds:02d}s"


def format_bytes(n: Number | None, *, binary: bool = True) -> str:
    """Show an amount of memory: "1.50 GiB" (powers of 1,024, the default), or "1.61 GB" with ``binary=False``."""
    if n is None:
        return UNKNOWN
    units = _BINARY_BYTE_UNITS if binary else _BYTE_UNITS
    return _prefixed(n, 1024 if binary else 1000, [f" {unit}" for unit in units])


def format_percent(share: Number | None, decimals: int = 2) -> str:
    """Show a share of one as a percentage: 0.9946 is "99.46%"."""
    if share is None:
        return UNKNOWN
    return f"{_rounded(_checked(share) * 100, decimals)}%"


def format_ratio(ratio: Number | None, decimals: int = 2) -> str:
    """Show how many times one number is another: 4 is "4.00x"."""
    if ratio is None:
        return UNKNOWN
    return f"{_rounded(_checked(ratio), decimals)}x"


def format_integer(n: int | None) -> str:
    """Show an exact whole number with thousands separators: "402,128,732,160"."""
    if n is None:
        return UNKNOWN
    value = _checked(n)
    if value != value.to_integral_value():
        raise ValueError(f"{n!r} is not a whole number")
    return f"{int(value):,}"


def _checked(n: Number) -> Decimal:
    if isinstance(n, float) and not math.isfinite(n):
        raise ValueError(f"cannot show {n!r}: the number must be finite")
    # A float is taken as the decimal that Python prints for it, which is what its author meant.
    value = Decimal(repr(n)) if isinstance(n, float) else Decimal(int(n))
    if value < 0:
        raise ValueError(f"cannot show {n!r}: the number must be 0 or more")
    return value


def _rounded(value: Decimal, decimals: int) -> str:
    # The default context refuses to quantize beyond 28 digits; 60 hold any count that can occur.
    with localcontext() as context:
        context.prec = 60
        return f"{value.quantize(Decimal(1).scaleb(-decimals), rounding=ROUND_HALF_UP):f}"


def _prefixed(n: Number, base: int, suffixes: tuple[str, ...] | list[str]) -> str:
    value = _checked(n)
    if value < base and value == value.to_integral_value():
        return f"{int(value)}{suffixes[0]}"
    power = 0
    while power < len(suffixes) - 1 and Decimal(_rounded(value / Decimal(base) ** power, 2)) >= base:
        power += 1
    return f"{_rounded(value / Decimal(base) ** power, 2)}{suffixes[power]}"
