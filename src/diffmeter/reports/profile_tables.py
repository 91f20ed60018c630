"""Profiles for people: text, rich tables, HTML."""

from __future__ import annotations

import html
from typing import TYPE_CHECKING, Any

from diffmeter.units import format_count, format_params, format_seconds

if TYPE_CHECKING:
    from rich.table import Table

    from diffmeter.profile import ComputeProfile

_COLUMNS = ("Component", "Class", "Params", "Calls", "MACs", "MACs (products)", "Share")


def profile_rows(profile: ComputeProfile) -> list[tuple[str, ...]]:
    """One row a component, and the total: the columns of :data:`_COLUMNS`."""
    total = profile.total_macs
    rows: list[tuple[str, ...]] = []
    for name, component in profile.components.items():
        share = "" if component.total_macs is None or not total else f"{100 * component.total_macs / total:.2f}%"
        rows.append(
            (
                name,
                component.class_name,
                format_params(component.params),
                str(component.call_count),
                format_count(component.total_macs, "MACs"),
                format_count(component.matmul_macs, "MACs"),
                share,
            )
        )
    rows.append(
        (
            "total",
            profile.conditions.pipeline,
            format_params(profile.total_params),
            str(sum(c.call_count for c in profile.components.values())),
            format_count(total, "MACs"),
            format_count(profile.matmul_macs, "MACs"),
            "100.00%" if total else "",
        )
    )
    return rows


def profile_facts(profile: ComputeProfile) -> list[tuple[str, str]]:
    """What stands under the table: steps, size, time, and whether the count is complete."""
    conditions = profile.conditions
    size = f"{conditions.width} x {conditions.height}" if conditions.width and conditions.height else "unknown"
    facts = [
        ("Size", size),
        ("Steps", str(conditions.num_inference_steps) if conditions.num_inference_steps else "unknown"),
        ("MACs per step", format_count(profile.macs_per_step, "MACs")),
        ("Total FLOPs", format_count(profile.total_flops, "FLOPs")),
        ("Products without attention", format_count(profile.matmul_macs_without_attention, "MACs")),
    ]
    if profile.inference_time_seconds is not None:
        facts.append(("Inference time", format_seconds(profile.inference_time_seconds)))
        if profile.throughput_tflops is not None:
            facts.append(("Throughput", f"{profile.throughput_tflops:.3f} TFLOP/s"))
    facts.append(("Complete", completeness(profile)))
    return facts


def completeness(profile: ComputeProfile) -> str:
    """One line: complete and cross-checked, or what is missing."""
    if profile.complete:
        return "yes: every call counted, both counters agree"
    missing = [
        f"{entry['component']}: {entry.get('op') or entry.get('reason')} ({entry['calls']} x)"
        for entry in profile.uncounted
    ]
    missing += [
        f"{entry['component']}.{entry['method']}: counters differ on {entry['op']} "
        f"({entry['thop']} against {entry['op_level']})"
        for entry in profile.differences
    ]
    return "no: " + "; ".join(missing)


def profile_table(profile: ComputeProfile) -> Table:
    """A rich table, one row a component."""
    from rich.table import Table
    from rich.text import Text

    title = profile.conditions.model_id or profile.conditions.pipeline
    table = Table(title=Text(f"Compute profile of {title}"))
    for column in _COLUMNS:
        table.add_column(column, justify="left" if column in ("Component", "Class") else "right")
    rows = profile_rows(profile)
    for row in rows[:-1]:
        table.add_row(*map(Text, row))
    table.add_section()
    table.add_row(*map(Text, rows[-1]), style="bold")
    return table


def profile_text(profile: ComputeProfile) -> str:
    """The table as plain text."""
    rows = [_COLUMNS, *profile_rows(profile)]
    widths = [max(len(row[i]) for row in rows) for i in range(len(_COLUMNS))]
    lines = ["  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=False)).rstrip() for row in rows]
    lines += [f"{name}: {value}" for name, value in profile_facts(profile)]
    return "\n".join(lines)


def profile_html(profile: ComputeProfile) -> str:
    """The table for a notebook."""

    def cells(tag: str, values: Any) -> str:
        return "".join(f"<{tag}>{html.escape(str(value))}</{tag}>" for value in values)

    rows = "".join(f"<tr>{cells('td', row)}</tr>" for row in profile_rows(profile))
    facts = "".join(f"<li>{html.escape(n)}: {html.escape(v)}</li>" for n, v in profile_facts(profile))
    return f"<table><thead><tr>{cells('th', _COLUMNS)}</tr></thead><tbody>{rows}</tbody></table><ul>{facts}</ul>"
