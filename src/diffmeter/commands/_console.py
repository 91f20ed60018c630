"""What the command line writes: results on standard output in the form asked for, all else on standard error."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from diffmeter.rendering import find_renderer

if TYPE_CHECKING:
    from rich.console import Console

    from diffmeter.reports.tables import Table

TABLE = "table"


@dataclass(frozen=True)
class Answer:
    """A result that only the command line has: a JSON value, and the table that shows it."""

    value: Any
    make_table: Callable[[], Table]

    def to_dict(self) -> Any:
        """The JSON value."""
        return self.value

    def table(self) -> Table:
        """The table."""
        return self.make_table()


@dataclass(frozen=True)
class Form:
    """The form in which a result is asked for.

    Raises:
        InputError: the form is not known. It is checked before anything is counted.
    """

    name: str
    options: dict[str, Any]

    @classmethod
    def of(cls, form: str, as_json: bool, **options: Any) -> Form:
        """From the values of the options; those that were not given are left out."""
        name = "json" if as_json else form
        find_renderer(name)
        given = {key: value for key, value in options.items() if value is not None}
        return cls(name, {} if name == "json" else given)

    def write(self, result: Any) -> None:
        """Write a result to standard output."""
        if self.name == TABLE:
            from diffmeter.reports.renderers import table_of

            print_table(table_of(result, **self.options))
            return
        sys.stdout.write(find_renderer(self.name)(result, **self.options).rstrip("\n") + "\n")


def print_table(table: Table) -> None:
    """Write a table as wide as the terminal, or as ``COLUMNS`` says; in a file or pipe as wide as it needs to be."""
    from rich.console import Console

    console = Console(highlight=False)
    if console.is_terminal:
        console.print(table.to_rich(console.width))
    else:
        columns = os.environ.get("COLUMNS", "")
        print(table.to_text(int(columns) if columns.isdigit() and int(columns) > 0 else None))


def error_console() -> Console:
    """A console on standard error, for progress and remarks."""
    from rich.console import Console

    return Console(stderr=True, highlight=False)


@contextlib.contextmanager
def progress(what: str) -> Iterator[Callable[[str], None]]:
    """Say on a terminal's standard error what is being done, elsewhere nothing; gives a function that says more."""
    if not sys.stderr.isatty():
        yield lambda text: None
        return
    from rich.text import Text

    with error_console().status(Text(what)) as status:
        yield lambda text: status.update(Text(text))
