"""One table for every result, and its forms: text for a terminal of any width, HTML, Markdown, LaTeX and CSV.

A table holds raw numbers. How they are shown is decided here, once: all counts of a table have one unit, which its
heads name; a lower bound carries ``>=``; and no figure is ever cut (see ``layout``).
"""

from __future__ import annotations

import csv
import difflib
import html
import io
import re
import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import TYPE_CHECKING

from diffmeter.errors import InputError
from diffmeter.rendering import printable
from diffmeter.units import UNKNOWN, format_count_in, format_integer, format_percent, format_ratio

if TYPE_CHECKING:
    from collections.abc import Mapping

    from rich.console import RenderableType


@dataclass(frozen=True, slots=True)
class AtLeast:
    """A lower bound, since not everything was counted: shown with ``>=``."""

    value: int | float


Value = int | float | str | AtLeast | None


class Kind(Enum):
    """What the values of a column are: it decides how they are shown."""

    TEXT = "text"
    INTEGER = "integer"
    NUMBER = "number"
    PERCENT = "percent"  # of a share from 0 to 1
    RATIO = "ratio"
    SECONDS = "s"
    MACS = "MACs"
    FLOPS = "FLOPs"
    PARAMS = "parameters"


#: kinds that share one prefix in a table, with their prefixes of a thousand each
_ONE_UNIT: tuple[tuple[tuple[Kind, ...], tuple[str, ...]], ...] = (
    ((Kind.MACS, Kind.FLOPS), ("", "K", "M", "G", "T", "P", "E", "Z")),
    ((Kind.PARAMS,), ("", "K", "M", "B", "T")),
)
_MOST_UNITS = 1_000_000  # a value of that many units gets the next prefix
_SI = ("", "K", "M", "G", "T", "P", "E", "Z")


@dataclass(frozen=True, slots=True)
class Column:
    """One column.

    Attributes:
        key: its name in rows, in ``--columns`` and in CSV files.
        head: its title for people, without the unit.
        kind: how its values are shown.
        rank: how soon it is left out where there is no room: 0 never, otherwise the highest first.
        meaning: what its numbers are, said below the table if it is shown.
    """

    key: str
    head: str
    kind: Kind = Kind.TEXT
    rank: int = 0
    meaning: str = ""

    @property
    def is_text(self) -> bool:
        """Whether it is aligned on the left and may be wrapped."""
        return self.kind is Kind.TEXT


@dataclass(frozen=True, slots=True)
class Row:
    """One line: values by the keys of columns, and why some are missing. A key that is not there is an empty cell."""

    cells: Mapping[str, Value]
    note: str | None = None


@dataclass(frozen=True)
class Table:
    """Rows of raw numbers, with everything that is said around them.

    Attributes:
        columns: those that are shown, in order.
        rows: one line each.
        total: the last line, apart from the others.
        title: what the table is about, and the conditions that hold for all of it.
        warning: what must be read before the numbers; the first line of every form.
        facts: names and texts that stand below.
        notes: sentences that stand below.
        more: columns that are only shown where they are asked for, and in CSV files.
    """

    columns: Sequence[Column]
    rows: Sequence[Row]
    total: Row | None = None
    title: str = ""
    warning: str | None = None
    facts: Sequence[tuple[str, str]] = ()
    notes: Sequence[str] = ()
    more: Sequence[Column] = ()
    _powers: dict[Kind, int] = field(init=False, repr=False, compare=False, default_factory=dict)
    _second_decimals: int = field(init=False, repr=False, compare=False, default=2)

    def __post_init__(self) -> None:
        for kinds, prefixes in _ONE_UNIT:
            found = (self._raw(row, c) for c in self.columns if c.kind in kinds for row in self.lines)
            power = _power([value for value in found if value], len(prefixes))
            self._powers.update(dict.fromkeys(kinds, power))
        times = [t for c in self.columns if c.kind is Kind.SECONDS for row in self.lines if (t := self._raw(row, c))]
        object.__setattr__(self, "_second_decimals", 2 if min(times, default=1) >= 0.1 else 4)

    @property
    def lines(self) -> list[Row]:
        """The rows, and the total if there is one."""
        return [*self.rows, *([self.total] if self.total is not None else [])]

    def choose(self, columns: str | Sequence[str] | None = None, sort: str | None = None) -> Table:
        """The table with only some columns, in the order given, and with its rows sorted.

        Args:
            columns: keys, as a sequence or with commas between them; None leaves all as they are.
            sort: the key of a column; with ``-`` in front the largest come first. Missing values come last.

        Raises:
            InputError: a key is not known.
        """
        known = {column.key: column for column in (*self.columns, *self.more)}
        table = self
        if sort is not None:
            column = known[_known(sort.removeprefix("-"), known)]
            table = replace(table, rows=_sorted(table.rows, column, sort.startswith("-")))
        if columns is None:
            return table
        names = columns.split(",") if isinstance(columns, str) else columns
        chosen = [known[_known(name.strip(), known)] for name in names]
        return replace(table, columns=tuple(replace(column, rank=0) for column in chosen), more=())

    # cells as text

    def unit(self, column: Column) -> str:
        """The unit of a column with its prefix, such as ``GMACs``; empty if its values need none."""
        if column.kind is Kind.SECONDS:
            return "s"
        for kinds, prefixes in _ONE_UNIT:
            if column.kind in kinds:
                prefix = prefixes[self._powers[column.kind]]
                return prefix if column.kind is Kind.PARAMS else prefix + column.kind.value
        return ""

    def head(self, column: Column) -> str:
        """The title of a column with its unit."""
        unit = self.unit(column)
        return f"{column.head} ({unit})" if unit else column.head

    def cell(self, row: Row, column: Column) -> str:
        """One value as text: empty where the row has none, "unknown" where it could not be told."""
        if column.key not in row.cells:
            return ""
        value = row.cells[column.key]
        if isinstance(value, AtLeast):
            return f">= {self._shown(value.value, column.kind)}"
        return self._shown(value, column.kind)

    def _shown(self, value: int | float | str | None, kind: Kind) -> str:
        if value is None:
            return UNKNOWN
        if isinstance(value, str):
            return printable(value)
        if kind is Kind.PERCENT:
            return format_percent(value)
        if kind is Kind.RATIO:
            return format_ratio(value)
        if kind is Kind.SECONDS:
            return _with_separators(value, 0, self._second_decimals)
        if kind in self._powers:
            return _with_separators(value, self._powers[kind], 2)
        return format_integer(value) if isinstance(value, int) else f"{value:g}"

    @staticmethod
    def _raw(row: Row, column: Column) -> int | float | None:
        value = row.cells.get(column.key)
        value = value.value if isinstance(value, AtLeast) else value
        return None if isinstance(value, str) else value

    def remarks(self, shown: Sequence[Column] | None = None) -> list[str]:
        """Everything that stands below: notes of rows, facts, sentences, and what the columns shown mean."""
        notes = [f"{self.cell(row, self.columns[0])}: {row.note}" for row in self.rows if row.note]
        columns = self.columns if shown is None else shown
        meanings = "; ".join(f"{column.head}: {column.meaning}" for column in columns if column.meaning)
        texts = (*notes, *(f"{name}: {value}" for name, value in self.facts), *self.notes)
        return [printable(text) for text in (*texts, *([meanings + "."] if meanings else []))]

    # forms

    def to_rich(self, width: int | None = None) -> RenderableType:
        """What rich draws within ``width`` columns; None: everything, however wide."""
        from .layout import draw

        return draw(self, width)

    def to_text(self, width: int | None = None) -> str:
        """Plain text of at most ``width`` columns; None: as wide as it needs to be."""
        from rich.console import Console

        from .layout import full_width

        out = io.StringIO()
        console = Console(file=out, width=width or full_width(self), highlight=False, color_system=None)
        console.print(self.to_rich(width))
        return "\n".join(line.rstrip() for line in out.getvalue().rstrip("\n").split("\n"))

    def to_csv(self) -> str:
        """One line a row with raw numbers in base units; what is not shown as a column follows those that are.

        A missing number is empty. ``lower_bound`` says which rows hold lower bounds, ``note`` why numbers are missing.
        """
        columns = [*self.columns, *self.more]
        out = io.StringIO()
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow([*(column.key for column in columns), "lower_bound", "note"])
        for row in self.rows:
            values = [row.cells.get(column.key) for column in columns]
            bound = any(isinstance(value, AtLeast) for value in values)
            raw = [value.value if isinstance(value, AtLeast) else value for value in values]
            writer.writerow([*raw, bound, row.note])
        return out.getvalue()

    def to_markdown(self) -> str:
        """A table in GitHub's Markdown: what must be known stands above it, remarks below."""
        heads = [self.head(c) for c in self.columns]
        lines = [[escape_markdown(head) for head in heads], ["---" if c.is_text else "---:" for c in self.columns]]
        lines += [[escape_markdown(self.cell(row, c)) for c in self.columns] for row in self.lines]
        above = [f"**{escape_markdown(self.warning)}**"] if self.warning else []
        above += [escape_markdown(self.title)] if self.title else []
        below = "\n".join(f"- {escape_markdown(text)}" for text in self.remarks())
        table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
        return "\n\n".join([*above, table, *([below] if below else [])]) + "\n"

    def to_html(self) -> str:
        """A table for a notebook; everything is escaped."""

        def line(tag: str, texts: Iterable[str]) -> str:
            sides = ["left" if column.is_text else "right" for column in self.columns]
            cells = zip(sides, texts, strict=True)
            return (
                f"<tr>{''.join(f'<{tag} style=text-align:{side}>{_html(text)}</{tag}>' for side, text in cells)}</tr>"
            )

        body = "".join(line("td", [self.cell(row, c) for c in self.columns]) for row in self.rows)
        if self.total is not None:
            body += line("th", [self.cell(self.total, c) for c in self.columns])
        above = f"<p><strong>{_html(self.warning)}</strong></p>" if self.warning else ""
        above += f"<p>{_html(self.title)}</p>" if self.title else ""
        remarks = "".join(f"<li>{_html(text)}</li>" for text in self.remarks())
        head = line("th", [self.head(column) for column in self.columns])
        below = f"<ul>{remarks}</ul>" if remarks else ""
        return f"{above}<table><thead>{head}</thead><tbody>{body}</tbody></table>{below}"

    def to_latex(self, caption: str | None = None, label: str | None = None) -> str:
        """A ``table`` with the rules of booktabs, at most as wide as a column of a two-column paper.

        The least important columns are left out until it fits; a comment names them, and others hold the remarks.

        Raises:
            InputError: ``label`` is not one that LaTeX takes.
        """
        from .layout import fitting

        shown, left_out = fitting(self.columns, _COLUMN_POINTS, self._points)
        comments = [self.warning] if self.warning else []
        if left_out:
            comments.append(f"left out, since a column has no room: {', '.join(c.key for c in left_out)}")
        title = " ".join(text for text in (self.warning, self.title) if text) if caption is None else caption
        sides = "".join("l" if column.is_text else "r" for column in shown)
        too_wide = self._points(shown) > _COLUMN_POINTS  # chosen columns are kept, and the table is scaled
        opening, closing = (r"\resizebox{\columnwidth}{!}{%" + "\n", "}") if too_wide else ("", "")
        packages = "booktabs,graphicx" if too_wide else "booktabs"
        body = [
            *(f"% {_one_line(text)}" for text in (f"needs \\usepackage{{{packages}}}", *comments)),
            r"\begin{table}[t]",
            r"\centering\small",
            rf"\setlength{{\tabcolsep}}{{{_PADDING_POINTS}pt}}",
            *([rf"\caption{{{escape_latex(title)}}}"] if title else []),
            *([rf"\label{{{_checked_label(label)}}}"] if label else []),
            rf"{opening}\begin{{tabular}}{{@{{}}{sides}@{{}}}}",
            r"\toprule",
            *(_latex_line(line) for line in _stacked([self._latex_head(column) for column in shown])),
            r"\midrule",
            *(_latex_line(self._latex_cell(row, column) for column in shown) for row in self.rows),
        ]
        if self.total is not None:
            total = self.total
            body += [r"\midrule", _latex_line(self._latex_cell(total, column) for column in shown)]
        body += [r"\bottomrule", r"\end{tabular}" + closing, r"\end{table}"]
        body += [f"% {_one_line(text)}" for text in self.remarks(shown)]
        return "\n".join(body) + "\n"

    def _latex_head(self, column: Column) -> list[str]:
        """The lines of a head: short ones, so that it is no wider than its figures, and the unit last."""
        words = textwrap.wrap(column.head, _HEAD_LETTERS, break_long_words=False)
        return [escape_latex(line) for line in (*words, *([f"({self.unit(column)})"] if self.unit(column) else []))]

    def _latex_cell(self, row: Row, column: Column) -> str:
        text = self.cell(row, column)
        if text == UNKNOWN or (row.note and not text):
            return "--"
        bound, text = text.startswith(">= "), text.removeprefix(">= ")
        return (r"$\geq$" if bound else "") + escape_latex(text)

    def _points(self, columns: Sequence[Column]) -> float:
        """About how wide a ``tabular`` of these columns is, in points."""
        texts = [[*self._latex_head(c), *(self.cell(row, c) for row in self.lines)] for c in columns]
        letters = sum(max(map(len, column)) for column in texts)
        return letters * _LETTER_POINTS + 2 * _PADDING_POINTS * (len(columns) - 1)


# a column of a two-column paper, in points ---------------------------------------------------------------------------

#: 3.25 inches of 72.27 points: the column of the common two-column classes (IEEE 3.5, ACM 3.33, CVPR 3.25)
_COLUMN_POINTS = 234
#: a digit of a 9-point Roman font; letters are narrower on average
_LETTER_POINTS = 4.6
_PADDING_POINTS = 3
_HEAD_LETTERS = 9


def _stacked(heads: Sequence[list[str]]) -> list[tuple[str, ...]]:
    """Heads of several lines as lines of a table, aligned at the bottom."""
    height = max(map(len, heads), default=0)
    return list(zip(*([""] * (height - len(head)) + head for head in heads), strict=True))


def _latex_line(cells: Iterable[str]) -> str:
    return " & ".join(cells) + r" \\"


def _checked_label(label: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9:._/-]+", label):
        raise InputError(f"The label {label!r} is not usable: use letters, digits and any of : . _ / -")
    return label


# details -------------------------------------------------------------------------------------------------------------


def _power(values: Sequence[int | float], prefixes: int) -> int:
    """The prefix in which the smallest value has at least one digit in front, and the largest not too many."""
    if not values:
        return 0
    power = 0
    while power + 1 < prefixes and min(values) >= 1000 ** (power + 1):
        power += 1
    while power + 1 < prefixes and max(values) >= _MOST_UNITS * 1000**power:
        power += 1
    return power


def _with_separators(value: int | float, power: int, decimals: int) -> str:
    """``value`` in units of ``1000 ** power``; one that would be rounded to nothing is shown as below a last digit."""
    if not power and isinstance(value, int):
        return format_integer(value)
    text = format_count_in(value, "", _SI[power], decimals).split(" ")[0]
    if value and not text.strip("0."):
        return f"< {10**-decimals:.{decimals}f}"
    whole, _, rest = text.partition(".")
    return f"{int(whole):,}.{rest}"


def _known(key: str, known: Mapping[str, Column]) -> str:
    if key not in known:
        near = difflib.get_close_matches(key, known, 1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise InputError(f"There is no column {key!r}: {hint}use {', '.join(known)}.")
    return key


def _sorted(rows: Sequence[Row], column: Column, largest_first: bool) -> list[Row]:
    def value(row: Row) -> int | float | str | None:
        found = row.cells.get(column.key)
        return found.value if isinstance(found, AtLeast) else found

    present = [row for row in rows if value(row) is not None]
    ordered = sorted(present, key=lambda row: _order(value(row)), reverse=largest_first)
    return [*ordered, *(row for row in rows if value(row) is None)]


def _order(value: int | float | str | None) -> tuple[bool, float, str]:
    """Numbers first, by size; then texts by the alphabet."""
    return (True, 0.0, value.casefold()) if isinstance(value, str) else (False, float(value or 0), "")


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _html(text: str) -> str:
    return html.escape(text).replace("\n", "<br>")


def escape_markdown(text: str) -> str:
    """Text that Markdown shows as it is, also inside a table."""
    escaped = "".join(f"\\{char}" if char in "\\`*_[]<>|" else char for char in text)
    return _one_line(escaped)


_LATEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': "''",
    **{char: f"\\{char}" for char in "&%$#_{}"},
}


def escape_latex(text: str) -> str:
    """Text that LaTeX shows as it is."""
    return "".join(_LATEX.get(char, char) for char in _one_line(text))
