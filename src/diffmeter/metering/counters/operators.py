"""Which operators are no product: a table of every operator that PyTorch's dispatcher knows.

``benchmarks/operators.py`` goes through the dispatcher and writes ``operators.json``. An operator that has no formula
and does not stand in the table as no product is reported, never taken as zero; so is one that only a newer PyTorch
has.
"""

from __future__ import annotations

import functools
import json
from importlib import resources
from typing import NamedTuple


class Table(NamedTuple):
    """What ``operators.json`` says, by operator name (``aten.add``).

    Attributes:
        no_product: operators without a product, with the reason.
        left_out: operators without a product that a profile names, with the reason.
        reported: operators that may hold products of an unknown number, with the reason.
    """

    no_product: dict[str, str]
    left_out: dict[str, str]
    reported: dict[str, str]


@functools.cache
def table() -> Table:
    """The committed table."""
    data = json.loads(resources.files(__package__).joinpath("operators.json").read_text("utf-8"))
    return Table(*({name: reason for reason, names in data[part].items() for name in names} for part in Table._fields))
