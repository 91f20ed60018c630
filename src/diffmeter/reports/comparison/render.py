"""Comparisons as text: tables for the terminal, notebooks, Markdown and LaTeX, and CSV and JSON for programs."""

from __future__ import annotations

import csv
import html
import io
import json
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from diffmeter.units import format_count, format_count_in, format_params, format_percent, format_ratio

from .rows import CONVENTION, Comparison, Row

if TYPE_CHECKING:
    from rich.table import Table

_COLUMNS = (
    "Model",
    "Size",
    "Steps",
    "Guidance",
    "Batch",
    "Params",
    "Per step",
    "Total",
    "By component",
    "Attention",
    "Growth",
)
_LEFT = ("Model", "By component")


def _size(row: Row) -> str:
    if not (row.width and row.height):
        return "default"
    size = f"{row.width} x {row.height}"
    if (row.computed_width or row.width, row.computed_height or row.height) == (row.width, row.height):
        return size
    return f"{size}\nworks at {row.computed_width} x {row.computed_height}"


def _conditions(row: Row) -> list[str]:
    guidance = "" if row.guidance_scale is None else f"{row.guidance_scale:g}"
    return [row.name, _size(row), "" if row.steps is None else str(row.steps), guidance, str(row.batch)]


def _bound(row: Row) -> str:
    return "" if row.complete else ">= "


def _component_lines(row: Row) -> list[str]:
    """Every component that was called, denoisers first."""
    lines = []
    for name in sorted(row.components, key=lambda name: name not in row.denoisers):
        cost = row.components[name]
        if not cost.calls:
            continue
        share = ""
        if cost.total_macs is not None and row.total_macs:
            share = f" {format_percent(cost.total_macs / row.total_macs)}"
        lines.append(f"{name} {format_count(cost.total_macs, 'MACs')}{share}")
    return lines


def _macs_and_flops(macs: int | None, flops: int | None, bound: str = "") -> str:
    return f"{bound}{format_count(macs, 'MACs')}\n{bound}{format_count(flops, 'FLOPs')}"


def table_cells(row: Row) -> list[str]:
    """The cells of :data:`_COLUMNS`; a row without numbers has its error where the components would be."""
    if row.error is not None:
        return [*_conditions(row), "", "", "", f"not counted: {row.error}", "", ""]
    return [
        *_conditions(row),
        format_params(row.params),
        _macs_and_flops(row.macs_per_step, row.flops_per_step),
        _macs_and_flops(row.total_macs, row.total_flops, _bound(row)),
        "\n".join(_component_lines(row)),
        format_percent(row.attention_share),
        format_ratio(row.growth),
    ]


def to_table(comparison: Comparison) -> Table:
    """A rich table."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1), show_lines=False)
    for column in _COLUMNS:
        left = column in _LEFT
        table.add_column(
            column,
            justify="left" if left else "right",
            overflow="fold",
            min_width=32 if column == "By component" else None,
            max_width=26 if column == "Model" else None,
        )
    for row in comparison:
        table.add_row(*map(Text, table_cells(row)), style="" if row.error is None else "red")
    return table


def to_text(comparison: Comparison) -> str:
    """The table as plain text, as wide as it needs to be."""
    from rich.console import Console

    console = Console(file=io.StringIO(), width=200, highlight=False, color_system=None)
    console.print(to_table(comparison))
    output: Any = console.file
    return "\n".join(line.rstrip() for line in output.getvalue().splitlines())


def to_html(comparison: Comparison) -> str:
    """The table for a notebook; everything is escaped."""

    def cells(tag: str, values: Iterable[str]) -> str:
        return "".join(f"<{tag}>{html.escape(value).replace(chr(10), '<br>')}</{tag}>" for value in values)

    body = "".join(f"<tr>{cells('td', table_cells(row))}</tr>" for row in comparison)
    return (
        f"<table><thead><tr>{cells('th', _COLUMNS)}</tr></thead><tbody>{body}</tbody></table>"
        f"<p>{html.escape(CONVENTION)}</p>"
    )


def to_json(comparison: Comparison) -> str:
    """The whole comparison, with nothing but the raw numbers in it."""
    return json.dumps(comparison.to_dict(), indent=2, ensure_ascii=False)


def to_csv(comparison: Comparison) -> str:
    """Raw numbers, one line a row. Missing numbers are empty."""
    names = comparison.component_names
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    first = [key for key in comparison[0].to_dict() if key not in ("denoisers", "components")] if comparison else []
    writer.writerow([*first, *(f"macs.{name}" for name in names), *(f"params.{name}" for name in names)])
    for row in comparison:
        values = row.to_dict()
        macs = [row.components[name].total_macs if name in row.components else None for name in names]
        params = [row.components[name].params if name in row.components else None for name in names]
        writer.writerow([*(values[key] for key in first), *macs, *params])
    return out.getvalue()


# one unit a column: Markdown and LaTeX ---------------------------------------------------------------------------


def _unit_of(values: Iterable[int | None]) -> str:
    """The SI prefix in which the smallest value of a column still shows a digit that is not zero."""
    known = [value for value in values if value]
    smallest = min(known, default=10**9)
    return next((prefix for prefix, size in (("T", 10**12), ("G", 10**9), ("M", 10**6)) if smallest >= size / 10), "")


def _in_unit(value: int | None, prefix: str) -> str:
    return "" if value is None else format_count_in(value, "", prefix, 2).rsplit(" ", 1)[0]


Column = tuple[str, Callable[[Row], str]]


def _columns(comparison: Comparison) -> list[Column]:
    """Heads and cells of the numeric columns, one unit a column."""

    def counts(head: str, unit: str, get: Callable[[Row], int | None]) -> Column:
        prefix = _unit_of(get(row) for row in comparison)
        return f"{head} ({prefix}{unit})", lambda row: _in_unit(get(row), prefix)

    def of_component(name: str) -> Callable[[Row], int | None]:
        return lambda row: row.components[name].total_macs if name in row.components else None

    called = [
        name
        for name in comparison.component_names
        if any(name in row.components and row.components[name].calls for row in comparison)
    ]
    return [
        ("Params", lambda row: "" if row.params is None else format_params(row.params)),
        counts("Per step", "MACs", lambda row: row.macs_per_step),
        counts("Per step", "FLOPs", lambda row: row.flops_per_step),
        counts("Total", "MACs", lambda row: row.total_macs),
        counts("Total", "FLOPs", lambda row: row.total_flops),
        *(counts(name, "MACs", of_component(name)) for name in called),
        ("Attention", lambda row: "" if row.attention_share is None else format_percent(row.attention_share)),
        ("Growth", lambda row: "" if row.growth is None else format_ratio(row.growth)),
    ]


_CONDITION_HEADS = ("Model", "Size", "Steps", "Guidance", "Batch")


def _note(row: Row) -> str:
    if row.error is not None:
        return f"not counted: {row.error}"
    return "" if row.complete else "lower bound: not everything was counted"


def to_markdown(comparison: Comparison) -> str:
    """A Markdown table; a last column says why a row has no numbers, if any has none."""
    columns = _columns(comparison)
    notes = any(_note(row) for row in comparison)
    heads = [*_CONDITION_HEADS, *(head for head, _ in columns), *(["Note"] if notes else [])]
    rules = ["---", *["---:"] * (len(_CONDITION_HEADS) - 1 + len(columns)), *(["---"] if notes else [])]
    lines = [heads, rules]
    for row in comparison:
        cells = [*_conditions(row), *(cell(row) for _, cell in columns), *([_note(row)] if notes else [])]
        lines.append([escape_markdown(cell) for cell in cells])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def escape_markdown(text: str) -> str:
    """Text that Markdown shows as it is, also inside a table."""
    escaped = "".join(f"\\{char}" if char in "\\`*_[]<>|" else char for char in text)
    return " ".join(escaped.split())


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
    return "".join(_LATEX.get(char, char) for char in " ".join(text.split()))


def to_latex(comparison: Comparison) -> str:
    """A ``tabular`` with the rules of booktabs. Errors span the numbers' columns."""
    columns = _columns(comparison)
    heads = [*_CONDITION_HEADS, *(head for head, _ in columns)]
    lines = [
        "% needs \\usepackage{booktabs}",
        *(f"% {line}" for line in CONVENTION.split("; ")),
        f"\\begin{{tabular}}{{l{'r' * (len(heads) - 1)}}}",
        "\\toprule",
        " & ".join(map(escape_latex, heads)) + r" \\",
        "\\midrule",
    ]
    for row in comparison:
        start = " & ".join(map(escape_latex, _conditions(row)))
        if row.error is not None:
            rest = f"\\multicolumn{{{len(columns)}}}{{l}}{{{escape_latex(_note(row))}}}"
        else:
            rest = " & ".join(escape_latex(cell(row)) for _, cell in columns)
        lines.append(f"{start} & {rest}" + r" \\" + ("" if row.complete or row.error else " % lower bound"))
    return "\n".join([*lines, "\\bottomrule", "\\end{tabular}"]) + "\n"


FORMATS: dict[str, Callable[[Comparison], str]] = {
    "json": to_json,
    "csv": to_csv,
    "markdown": to_markdown,
    "latex": to_latex,
}
