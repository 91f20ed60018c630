"""The consoles of the command line: results on standard output, everything else on standard error."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

# Wide enough for every table of diffmeter; a pipe or a file has no width of its own.
_WIDTH_WITHOUT_TERMINAL = 160


def output_console() -> Console:
    """A console on standard output, as wide as the terminal, or wide enough where there is none."""
    from rich.console import Console

    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=_WIDTH_WITHOUT_TERMINAL)


def error_console() -> Console:
    """A console on standard error, for progress and remarks."""
    from rich.console import Console

    return Console(stderr=True, highlight=False)
