"""The one table: units, lower bounds, choosing and sorting, every form, and layouts in which no figure is cut."""

from __future__ import annotations

import csv
import io
import re

import pytest

from diffmeter.errors import InputError
from diffmeter.reports.layout import wrapped
from diffmeter.reports.tables import AtLeast, Column, Kind, Row, Table, escape_latex

WIDTHS = (20, 40, 60, 80, 100, 120, 160)
NASTY = r"<b>a|b</b> & 50% $x_1$ {#} \cmd ~^ `c` *d*"


def table(**more: object) -> Table:
    columns = [
        Column("model", "Model"),
        Column("params", "Params", Kind.PARAMS, 2),
        Column("macs", "Total", Kind.MACS),
        Column("flops", "Total", Kind.FLOPS, 1),
        Column("share", "Share of all", Kind.PERCENT, 3),
        Column("seconds", "Time", Kind.SECONDS, 4),
    ]
    rows = [
        Row(
            {
                "model": "one",
                "params": 860_000_000,
                "macs": 677_000_000_000,
                "flops": 2 * 677_000_000_000,
                "share": 0.25,
            }
        ),
        Row({"model": "two", "params": 12_000_000_000, "macs": AtLeast(6 * 10**12), "flops": None, "seconds": 12.5}),
        Row({"model": "three"}, "not counted: it takes no height"),
    ]
    return Table(**{"columns": columns, "rows": rows, "title": "A title", **more})  # type: ignore[arg-type]


def columns_of(made: Table, row: int) -> list[str]:
    return [made.cell(made.rows[row], column) for column in made.columns]


def test_one_unit_holds_for_all_counts_of_a_table() -> None:
    made = table()
    # the smallest count is 677 x 10^9, so the unit is 10^9; of the parameters it is 860 x 10^6, so 10^6
    assert [made.head(c) for c in made.columns][1:4] == ["Params (M)", "Total (GMACs)", "Total (GFLOPs)"]
    assert columns_of(made, 0) == ["one", "860.00", "677.00", "1,354.00", "25.00%", ""]
    assert columns_of(made, 1) == ["two", "12,000.00", ">= 6,000.00", "unknown", "", "12.50"]


@pytest.mark.parametrize(
    ("values", "heads", "cells"),
    [
        ([12], "MACs", ["12"]),
        ([1_500, 999], "MACs", ["1,500", "999"]),
        ([2_000, 1_500_000], "KMACs", ["2.00", "1,500.00"]),
        # 10^6 units or more get the next prefix, and what is too small for it is not shown as nothing
        ([5 * 10**6, 3 * 10**15], "TMACs", ["< 0.01", "3,000.00"]),
        ([0, 10**9], "GMACs", ["0.00", "1.00"]),
    ],
)
def test_units_by_hand(values: list[int], heads: str, cells: list[str]) -> None:
    column = Column("macs", "MACs", Kind.MACS)
    made = Table(columns=[column], rows=[Row({"macs": value}) for value in values])
    assert made.unit(column) == heads
    assert [made.cell(line, column) for line in made.rows] == cells


def test_columns_are_chosen_and_rows_sorted() -> None:
    made = table().choose("macs, model", "-macs")
    assert [column.key for column in made.columns] == ["macs", "model"]
    assert [line.cells["model"] for line in made.rows] == ["two", "one", "three"]
    assert [line.cells["model"] for line in table().choose(sort="model").rows] == ["one", "three", "two"]
    for bad in ({"columns": "model,mcas"}, {"sort": "-mcas"}):
        with pytest.raises(InputError, match=r"no column 'mcas': did you mean 'macs'\? use model, params"):
            table().choose(**bad)


@pytest.mark.parametrize("width", WIDTHS)
def test_no_figure_is_cut_and_nothing_is_wider_than_asked(width: int) -> None:
    text = table(total=Row({"model": "total", "macs": AtLeast(6_677 * 10**9)})).to_text(width)
    assert max(map(len, text.splitlines())) <= width
    figures = ["677.00", ">= 6,000.00", ">= 6,677.00"]
    for figure in figures:
        assert figure in text, f"{figure} is not whole at {width} columns"
    named = " ".join(text.split())
    for column in ("params", "flops", "share", "seconds"):  # shown, or said to be left out
        shown = {"params": "860.00", "flops": "1,354.00", "share": "25.00%", "seconds": "12.50"}[column]
        assert shown in text or re.search(rf"No room at {width} columns for:[^(]*\b{column}\b", named)


def test_the_least_important_columns_go_first() -> None:
    dropped = []
    for width in range(80, 20, -1):
        found = re.search(r"for: ([^(]*) \(", " ".join(table().to_text(width).split()))
        if found and found[1] not in dropped:
            dropped.append(found[1])
    assert dropped == ["seconds", "share, seconds", "params, share, seconds", "params, flops, share, seconds"]


def test_where_columns_have_no_room_each_row_is_a_block() -> None:
    figures = [Column(f"macs_{n}", f"Part {n}", Kind.MACS) for n in range(4)]
    values = {f"macs_{n}": 1_234_567 * 10**6 for n in range(4)}
    made = Table(columns=[Column("model", "Model"), *figures], rows=[Row({"model": "one", **values})])
    assert made.to_text(30).splitlines() == ["one", *(f"  Part {n} (TMACs)  1.23" for n in range(4))]


def test_the_warning_is_the_first_line_of_every_form() -> None:
    made = table(warning="INCOMPLETE: x")
    assert made.to_text().splitlines()[0] == "INCOMPLETE: x"
    assert made.to_markdown().startswith("**INCOMPLETE: x**")
    assert made.to_html().startswith("<p><strong>INCOMPLETE: x</strong></p>")
    latex = made.to_latex().splitlines()
    assert latex[1] == "% INCOMPLETE: x" and "\\caption{INCOMPLETE: x A title}" in latex


def test_csv_holds_raw_numbers_and_says_which_are_bounds() -> None:
    rows = list(csv.DictReader(io.StringIO(table(more=[Column("id", "Id")]).to_csv())))
    assert rows[0]["macs"] == "677000000000" and rows[0]["share"] == "0.25" and rows[0]["lower_bound"] == "False"
    assert rows[1]["macs"] == "6000000000000" and rows[1]["lower_bound"] == "True" and rows[1]["flops"] == ""
    assert rows[2]["note"] == "not counted: it takes no height" and "id" in rows[0]


def test_markdown_is_one_table_and_escaped() -> None:
    text = table(
        rows=[Row({"model": NASTY, "macs": 10**9}), Row({"model": "b", "macs": AtLeast(10**9)})]
    ).to_markdown()
    lines = [line for line in text.splitlines() if line.startswith("|")]
    assert len(lines) == 4 and len({line.replace("\\|", "").count("|") for line in lines}) == 1
    assert "<b>" not in text.replace("\\<b\\>", "") and "\\>= 1.00" in lines[3]


def test_html_is_escaped() -> None:
    text = table(rows=[Row({"model": NASTY, "macs": 1})], facts=[("<i>", "&")]).to_html()
    assert "<b>" not in text and "&lt;b&gt;a|b" in text and "&lt;i&gt;: &amp;" in text


def test_latex_is_balanced_escaped_and_fits_a_column() -> None:
    made = table(rows=[Row({"model": NASTY, "macs": AtLeast(10**12)}), *table().rows])
    text = made.to_latex(caption="50% of _x_", label="tab:cost_1")
    sides = text.split("\\begin{tabular}{@{}")[1].split("@{}")[0]
    body = text.split("\\toprule")[1].split("\\bottomrule")[0].replace("\\midrule", "").strip().splitlines()
    assert {line.replace("\\&", "").count("&") + 1 for line in body if line} == {len(sides)}
    assert "\\caption{50\\% of \\_x\\_}" in text and "\\label{tab:cost_1}" in text and "$\\geq$1" in text
    assert "\\textbackslash{}cmd" in text and "% left out" in text
    assert text.count("\\begin{") == text.count("\\end{") == 2
    with pytest.raises(InputError, match="label"):
        made.to_latex(label="a}b")


def test_text_cannot_command_a_terminal() -> None:
    made = Table(columns=[Column("a", "A")], rows=[Row({"a": "x\x1b[31m\u202e"})], facts=[("b", "\x1b[2J")])
    assert "\x1b" not in made.to_text() and "\u202e" not in made.to_text()
    assert "\x1b" not in made.to_markdown() + made.to_html() + made.to_latex()


def test_names_break_where_they_may() -> None:
    assert wrapped("UNet2DConditionModel", 12).split("\n") == ["UNet2D", "Condition", "Model"]
    assert wrapped("stabilityai/stable-diffusion", 14).split("\n") == ["stabilityai/", "stable-", "diffusion"]
    assert wrapped("short", 10) == "short"


def test_escaping_for_latex() -> None:
    assert escape_latex("a\nb  c_d") == "a b c\\_d"
