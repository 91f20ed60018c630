"""Predictions for the rows of a comparison: time, memory, energy and money on one GPU."""

from __future__ import annotations

import os
from dataclasses import replace

from diffmeter.errors import DiffmeterError
from diffmeter.prediction.predict import Options, device_for, dtype_for, on
from diffmeter.prediction.workload import Workloads

from .rows import Comparison, Row


def with_predictions(comparison: Comparison, gpu: str | os.PathLike[str], tokens: int | None = None) -> Comparison:
    """The same rows with what they would take on a GPU.

    Only models that are named are predicted: a saved profile holds no operators, and a loaded pipeline is not kept.
    The cells of a row that cannot be predicted stay empty.

    Raises:
        InputError: an unknown GPU.
    """
    device = device_for(gpu)
    dtype = dtype_for(device, None)
    workloads: dict[str, Workloads] = {}

    def predicted(row: Row) -> Row:
        if row.profile is None or row.profile.conditions.kind == "observed":
            return row
        try:
            if row.case.model not in workloads:
                workloads[row.case.model] = Workloads(row.case.model, dtype=dtype, tokens=tokens)
            return replace(row, predicted=on(workloads[row.case.model], device, Options(), **row.case.options))
        except DiffmeterError:
            return row  # its cells stay empty

    return Comparison(map(predicted, comparison), comparison.relation)
