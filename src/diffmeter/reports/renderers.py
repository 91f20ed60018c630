"""The renderers of every result, and the list of what has a table. Each makes the table and gives one form of it."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from diffmeter.errors import InputError

if TYPE_CHECKING:
    from .tables import Table

#: results that do not make their table themselves, by the name of their class: ``module:function``
TABLES = {
    "ComputeProfile": "diffmeter.reports.profile_tables:profile_table",
    "Observation": "diffmeter.reports.profile_tables:observation_table",
    "Comparison": "diffmeter.reports.comparison.table:comparison_table",
    "TrainingCost": "diffmeter.reports.training_table:training_table",
}


def table_of(result: Any, columns: str | None = None, sort: str | None = None, **options: Any) -> Table:
    """The table of a result, with the columns and the order that are asked for.

    Raises:
        InputError: a column or another option is not known, or the result has no table.
    """
    try:
        table: Table = _maker(result)(**options)
    except TypeError as error:
        raise InputError(f"The table of {type(result).__name__} does not take these options: {error}.") from error
    return table.choose(columns, sort)


def _maker(result: Any) -> Callable[..., Table]:
    """What makes the table of a result: its own ``table``, or the function that :data:`TABLES` names for its class."""
    own: Callable[..., Table] | None = getattr(result, "table", None)
    if own is not None:
        return own
    path = next((TABLES[kind.__name__] for kind in type(result).__mro__ if kind.__name__ in TABLES), None)
    if path is None:
        raise InputError(f"{type(result).__name__} has no table.")
    module_name, _, function_name = path.partition(":")
    return partial(getattr(importlib.import_module(module_name), function_name), result)


def text(result: Any, width: int | None = None, **options: Any) -> str:
    """Plain text, at most ``width`` columns wide if that is given."""
    return table_of(result, **options).to_text(width)


def csv(result: Any, **options: Any) -> str:
    """Raw numbers, one line a row."""
    return table_of(result, **options).to_csv()


def markdown(result: Any, **options: Any) -> str:
    """GitHub's Markdown."""
    return table_of(result, **options).to_markdown()


def latex(result: Any, caption: str | None = None, label: str | None = None, **options: Any) -> str:
    """A booktabs table."""
    return table_of(result, **options).to_latex(caption, label)


def html(result: Any, **options: Any) -> str:
    """HTML for a notebook."""
    return table_of(result, **options).to_html()
