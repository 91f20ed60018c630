"""How a table fits a terminal: which columns are shown and how wide each is; blocks where columns have no room.

A figure is never wrapped and never cut. Texts may be wrapped; then the columns with the highest rank are left out, by
name; and where the rest has no room either, each row becomes a block with a line for every value.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from rich.box import Box
from rich.cells import cell_len
from rich.console import Group
from rich.table import Table as Grid
from rich.text import Text

if TYPE_CHECKING:
    from rich.console import RenderableType

    from .tables import Column, Row, Table

_GAP = 2  # between two columns
_NARROW_TEXT = 18  # to which a column of text may shrink before columns are left out
_WIDEST_REMARK = 120
# Lines under the heads and above the total, and nothing else.
_LINES = Box("    \n    \n ── \n    \n ── \n    \n    \n    \n")


def draw(table: Table, width: int | None) -> RenderableType:
    """The table within ``width`` columns; None: everything, however wide."""
    widths = {column: _widths(table, column) for column in table.columns}

    def least(columns: Sequence[Column]) -> int:
        return sum(widths[column][0] for column in columns) + _GAP * (len(columns) - 1)

    parts: list[RenderableType] = []
    if table.warning:
        parts.append(Text(table.warning, style="bold red"))
    if table.title:
        parts.append(Text(table.title, style="bold"))
    room = full_width(table) if width is None else width
    shown, left_out = fitting(table.columns, room, least)
    if least(shown) > room:
        shown = list(table.columns)
        parts += _blocks(table, room)
    else:
        parts.append(_grid(table, _assigned(shown, widths, room)))
        if left_out:
            names = ", ".join(column.key for column in left_out)
            whole = least(table.columns)
            parts.append(Text(f"No room at {room} columns for: {names} (--columns chooses; {whole} show all)."))
    parts += [Text(remark) for remark in table.remarks(shown)]
    return Group(*parts)


def full_width(table: Table) -> int:
    """How many columns the table takes with everything in it."""
    columns = [_widths(table, column)[1] for column in table.columns]
    texts = [len(line) for text in (table.warning, table.title, *table.remarks()) if text for line in text.split("\n")]
    return max(sum(columns) + _GAP * (len(columns) - 1), min(max(texts, default=0), _WIDEST_REMARK), 20)


def fitting(
    columns: Sequence[Column], room: float, width_of: Callable[[Sequence[Column]], float]
) -> tuple[list[Column], list[Column]]:
    """The columns that have room, and those left out: the highest rank first, of one rank the last."""
    shown = list(columns)
    while width_of(shown) > room and any(column.rank for column in shown):
        del shown[max(range(len(shown)), key=lambda i: (shown[i].rank, i))]
    return shown, [column for column in columns if column not in shown]


def _widths(table: Table, column: Column) -> tuple[int, int]:
    """The least and the full width of a column: heads wrap between words, figures never, texts do."""
    words = max((cell_len(word) for word in table.head(column).split()), default=1)
    cells = [cell_len(line) for row in table.lines for line in table.cell(row, column).split("\n")]
    widest = max(cells, default=0)
    full = max(widest, words)
    return (max(words, min(widest, _NARROW_TEXT)) if column.is_text else full), full


def _assigned(columns: Sequence[Column], widths: dict[Column, tuple[int, int]], room: int) -> dict[Column, int]:
    """The width of each column: the least, and what is left over goes to the first texts that are wrapped."""
    spare = room - sum(widths[column][0] for column in columns) - _GAP * (len(columns) - 1)
    assigned = {}
    for column in columns:
        least, full = widths[column]
        more = min(spare, full - least)
        assigned[column], spare = least + more, spare - more
    return assigned


def _grid(table: Table, widths: dict[Column, int]) -> Grid:
    grid = Grid(box=_LINES, pad_edge=False, padding=(0, _GAP - 1, 0, 0), show_edge=False, header_style="bold")
    for column, width in widths.items():
        head = Text(table.head(column), justify="left" if column.is_text else "right")
        grid.add_column(head, justify="left" if column.is_text else "right", width=width, overflow="fold")
    for row in table.rows:
        grid.add_row(*_line(table, row, widths), style="red" if row.note else "")
    if table.total is not None:
        grid.add_section()
        grid.add_row(*_line(table, table.total, widths), style="bold")
    return grid


def _line(table: Table, row: Row, widths: dict[Column, int]) -> list[Text]:
    cells = [(column, table.cell(row, column), width) for column, width in widths.items()]
    return [Text(wrapped(cell, width) if column.is_text else cell) for column, cell, width in cells]


# Where a name may be broken: behind a separator, and before a capital letter that begins a word; never in a figure.
_BREAKS = re.compile(r"(?<=[-/_\s])|(?<=\.)(?=[A-Za-z])|(?<=[A-Za-z0-9])(?=[A-Z][a-z])")


def wrapped(text: str, width: int) -> str:
    """Text in lines of at most ``width`` cells, broken where a name may be."""
    lines = [""]
    for part in (part for line in text.split("\n") for part in (*_BREAKS.split(line), "\n")):
        if part == "\n":
            lines.append("")
            continue
        if lines[-1] and cell_len(lines[-1] + part.rstrip()) > width:
            lines.append("")
        lines[-1] += part
    return "\n".join(line.rstrip() for line in lines[:-1])


def _blocks(table: Table, room: int) -> list[RenderableType]:
    """Each row as a block: its first value, and below it a line for each of the others."""
    first, *others = table.columns
    longest = min(max((cell_len(table.head(column)) for column in others), default=0), max(room // 2, 8))
    lines: list[RenderableType] = []
    for row in table.lines:
        lines.append(Text(table.cell(row, first), style="red bold" if row.note else "bold"))
        for column in others:
            value = table.cell(row, column)
            if value:
                lines += map(Text, _block_lines(table.head(column), value, longest, room))
    return lines


def _block_lines(head: str, value: str, longest: int, room: int) -> list[str]:
    indent = " " * (longest + 4)
    wide = max(room - len(indent), 1)
    pieces = [piece for line in value.split("\n") for piece in textwrap.wrap(line, wide) or [""]]
    return [f"  {head:<{longest}}  {pieces[0]}", *(indent + piece for piece in pieces[1:])]
