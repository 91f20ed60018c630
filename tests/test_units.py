"""Number formatting. The expected texts are worked out by hand from the rules in the module's docstring."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from diffmeter import units


@pytest.mark.parametrize(
    ("count", "unit", "expected"),
    [
        (0, "MACs", "0 MACs"),
        (1, "MACs", "1 MACs"),
        (999, "MACs", "999 MACs"),
        (1000, "MACs", "1.00 KMACs"),
        (402_128_732_160, "MACs", "402.13 GMACs"),
        (123_456_789_000, "FLOPs", "123.46 GFLOPs"),
        (6_172_839_450_000, "FLOPs", "6.17 TFLOPs"),
        (3_086_419_725_000, "MACs", "3.09 TMACs"),
        # half up on the exact value: 1.005 G is 1.01 G, and 999.995 G is 1,000.00 G, shown as 1.00 T
        (1_005_000_000, "MACs", "1.01 GMACs"),
        (999_994_999_999, "MACs", "999.99 GMACs"),
        (999_995_000_000, "MACs", "1.00 TMACs"),
        (999_999_999_999, "MACs", "1.00 TMACs"),
        (10**24, "FLOPs", "1.00 YFLOPs"),
        (10**28, "FLOPs", "10000.00 YFLOPs"),
        (0.5, "TFLOP/s", "0.50 TFLOP/s"),
        (None, "MACs", "unknown"),
    ],
)
def test_format_count(count: int | None, unit: str, expected: str) -> None:
    assert units.format_count(count, unit) == expected


@pytest.mark.parametrize(
    ("count", "expected"),
    [
        (0, "0"),
        (999, "999"),
        (1_000, "1.00K"),
        (865_909_733, "865.91M"),
        (865_910_724, "865.91M"),
        (12_900_000_000, "12.90B"),
        (999_995_000, "1.00B"),
        (1_200_000_000_000, "1.20T"),
        (None, "unknown"),
    ],
)
def test_format_params(count: int | None, expected: str) -> None:
    assert units.format_params(count) == expected


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        (0, "0.00s"),
        (0.000001, "1.00us"),
        (0.0009999999, "1.00ms"),
        (0.001, "1.00ms"),
        (0.0034567, "3.46ms"),
        (0.009999, "0.01s"),
        (0.01, "0.01s"),
        (0.5, "0.50s"),
        (12.34, "12.34s"),
        (59.994, "59.99s"),
        (59.995, "1m 00s"),
        (60, "1m 00s"),
        (125.4, "2m 05s"),
        (3599.5, "1h 00m 00s"),
        (7325, "2h 02m 05s"),
        (86_400 + 3 * 3600 + 4 * 60 + 59, "1d 03h 04m"),
        (None, "unknown"),
    ],
)
def test_format_seconds(seconds: float | None, expected: str) -> None:
    assert units.format_seconds(seconds) == expected


def test_format_bytes_names_its_base() -> None:
    assert units.format_bytes(1_610_612_736) == "1.50 GiB"  # 1.5 x 1,024^3
    assert units.format_bytes(1_610_612_736, binary=False) == "1.61 GB"
    assert units.format_bytes(1023) == "1023 bytes"
    assert units.format_bytes(1024) == "1.00 KiB"
    assert units.format_bytes(1024**2 - 1) == "1.00 MiB"
    assert units.format_bytes(None) == "unknown"


def test_format_count_in_a_fixed_prefix() -> None:
    assert units.format_count_in(339_224_000_000, "MACs", "G") == "339.224 GMACs"
    assert units.format_count_in(10_232_300_000_000, "MACs", "G") == "10232.300 GMACs"
    assert units.format_count_in(1, "MACs", "G") == "0.000 GMACs"
    assert units.format_count_in(None, "MACs", "G") == "unknown"
    with pytest.raises(ValueError, match="unknown prefix 'X'"):
        units.format_count_in(1, "MACs", "X")


def test_shares_ratios_and_whole_numbers() -> None:
    assert units.format_percent(0.9946) == "99.46%"
    assert units.format_percent(0) == "0.00%"
    assert units.format_percent(1, decimals=0) == "100%"
    assert units.format_percent(None) == "unknown"
    assert units.format_ratio(4) == "4.00x"
    assert units.format_ratio(None) == "unknown"
    assert units.format_integer(402_128_732_160) == "402,128,732,160"
    assert units.format_integer(None) == "unknown"
    with pytest.raises(ValueError, match="not a whole number"):
        units.format_integer(1.5)  # type: ignore[arg-type]


@pytest.mark.parametrize("bad", [-1, -0.5, float("nan"), float("inf"), float("-inf")])
def test_what_is_no_quantity_is_refused(bad: float) -> None:
    for show in (
        lambda: units.format_count(bad, "MACs"),
        lambda: units.format_params(bad),
        lambda: units.format_seconds(bad),
        lambda: units.format_bytes(bad),
        lambda: units.format_percent(bad),
        lambda: units.format_ratio(bad),
    ):
        with pytest.raises(ValueError, match="cannot show"):
            show()


@given(st.integers(min_value=0, max_value=10**26))
def test_what_is_shown_is_within_half_of_its_last_digit(count: int) -> None:
    text = units.format_count(count, "MACs")
    match = re.fullmatch(r"(\d+(?:\.\d\d)?) ([KMGTPEZY]?)MACs", text)
    assert match is not None
    scale = 1000 ** " KMGTPEZY".index(match.group(2) or " ")
    whole, _, fraction = match.group(1).partition(".")
    hundredths = int(whole) * 100 + int(fraction or 0)
    assert abs(hundredths * scale - count * 100) * 2 <= scale
    assert hundredths < 100_000 or scale == 1000**8
