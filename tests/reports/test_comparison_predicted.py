"""``compare`` and ``sweep`` with a GPU: what each row would take there."""

from __future__ import annotations

import pytest

from diffmeter.errors import InputError
from diffmeter.reports.comparison import sweep
from diffmeter.reports.renderers import table_of


def test_rows_get_columns_and_sort_by_them() -> None:
    """On an RTX 3060 (float16 or bfloat16), a second image takes longer and costs less than twice the time."""
    found = sweep("sd15", batches=[1, 2], steps=[2], heights=[256], gpu="rtx-3060")
    one, two = (row.predicted for row in found)
    assert one is not None
    assert two is not None
    assert one.seconds is not None
    assert two.seconds is not None
    assert one.seconds < two.seconds < 2 * one.seconds
    text = table_of(found, columns="batch,predicted_seconds,predicted_memory_gib", sort="-predicted_seconds").to_csv()
    assert [line.split(",")[0] for line in text.splitlines()] == ["batch", "2", "1"]
    assert found.to_dict()["rows"][0]["predicted"]["gpu_name"] == "rtx-3060"


def test_an_unknown_gpu_is_refused() -> None:
    with pytest.raises(InputError, match="Unknown GPU"):
        sweep("sd15", steps=[1], gpu="rtx-3061")
