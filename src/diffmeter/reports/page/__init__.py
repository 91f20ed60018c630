"""A report for the browser: one self-contained file that asks for nothing and opens from disk.

Charts are SVG written here, which needs no library, prints, and can be read by a screen reader; the only script sorts
tables. The page may load nothing from anywhere (``Content-Security-Policy``), and its own style and script are named
by their hash. Whatever comes from a profile is escaped.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

from diffmeter.errors import InputError
from diffmeter.reports.conditions import assumptions_of, conditions_of, sentence
from diffmeter.reports.profile_tables import completeness, warning_of
from diffmeter.storage.files import write_bytes
from diffmeter.units import format_count, format_params, format_seconds

if TYPE_CHECKING:
    from diffmeter.profile import ComputeProfile, TimelineEntry

#: kinds of operation as the page shows them, with the classes of ``macs_by_op`` that each stands for
KINDS = {
    "conv": ("Convolutions", ("conv",)),
    "linear": ("Linear layers", ("linear",)),
    "attention": ("Attention products", ("attention",)),
    "matmul": ("Other matrix products", ("matmul",)),
    "softmax": ("Softmax of attention", ("attention_softmax",)),
}
_OTHER = "Normalization and others"
_WIDTH = 1000  # of charts, in their own units
_MOST_SLICES = 4000


def report(profiles: Mapping[str, ComputeProfile]) -> str:
    """The page: one profile in full, or several side by side and then each in full.

    Args:
        profiles: by the names that the page shows.

    Raises:
        InputError: there is no profile.
    """
    if not profiles:
        raise InputError("a report needs at least one profile.")
    title = next(iter(profiles)) if len(profiles) == 1 else f"{len(profiles)} compute profiles"
    body = [f"<h1>{_text(title)}</h1>"]
    if len(profiles) > 1:
        body.append(_side_by_side(profiles))
    for name, profile in profiles.items():
        body.append(_one(name, profile, heading=len(profiles) > 1))
    data = {name: profile.to_dict() for name, profile in profiles.items()}
    return _document(title, "\n".join(body), data)


def save_report(profiles: Mapping[str, ComputeProfile], path: str | Path) -> Path:
    """Write the page to an ``.html`` file.

    Raises:
        InputError: there is no profile, or the file has another ending.
        StorageError: the file cannot be written.
    """
    target = Path(path)
    if target.suffix.lower() not in (".html", ".htm"):
        raise InputError(f"a report is written to an .html file, not to {str(path)!r}.")
    return write_bytes(target, report(profiles).encode("utf-8"))


# the document --------------------------------------------------------------------------------------------------------


def _document(title: str, body: str, data: object) -> str:
    style, script = _own_file("page.css"), _own_file("page.js")
    # Inside a script element only "<" can end it or begin a comment, and JSON may spell it as an escape.
    values = json.dumps(data, allow_nan=False).replace("<", "\\u003c")
    policy = (
        f"default-src 'none'; style-src 'sha256-{_hash(style)}'; script-src 'sha256-{_hash(script)}'; "
        "img-src data:; base-uri 'none'; form-action 'none'"
    )
    return (
        "<!doctype html>\n"
        f'<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{_text(title)}</title><style>{style}</style></head>\n"
        f"<body>\n{body}\n"
        f'<script type="application/json" id="data">{values}</script>\n<script>{script}</script>\n</body></html>\n'
    )


@cache
def _own_file(name: str) -> str:
    return files(__package__).joinpath(name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode("utf-8")).digest()).decode("ascii")


def _text(value: object) -> str:
    return html.escape(str(value), quote=True)


# several -------------------------------------------------------------------------------------------------------------


def _side_by_side(profiles: Mapping[str, ComputeProfile]) -> str:
    heads = ("Name", "Size", "Steps", "Denoiser's parameters", "MACs", "MACs per step", "FLOPs", "Time", "Complete")
    rows = []
    for name, profile in profiles.items():
        given = conditions_of(profile)
        rows.append(
            _row(
                [
                    (name, None),
                    (given.get("size", ""), None),
                    (given.get("steps", ""), given.get("steps")),
                    (format_params(profile.denoiser_params), profile.denoiser_params),
                    (_bound(profile, profile.total_macs, "MACs"), profile.total_macs),
                    (_bound(profile, profile.macs_per_step, "MACs"), profile.macs_per_step),
                    (_bound(profile, profile.total_flops, "FLOPs"), profile.total_flops),
                    (format_seconds(profile.inference_time_seconds), profile.inference_time_seconds),
                    ("yes" if profile.complete else "no", None),
                ]
            )
        )
    return "<h2>Side by side</h2>" + _table(heads, rows, numeric=range(2, 8))


def _bound(profile: ComputeProfile, value: int | None, unit: str) -> str:
    return ("" if profile.complete or value is None else ">= ") + format_count(value, unit)


_Cell = tuple[object, object]  # what is shown, and the number to sort by


def _row(cells: list[_Cell]) -> str:
    inside = "".join(
        f"<td>{_text(shown)}</td>"
        if not isinstance(value, (int, float))
        else f'<td class="number" data-value="{value}">{_text(shown)}</td>'
        for shown, value in cells
    )
    return f"<tr>{inside}</tr>"


def _table(heads: tuple[str, ...], rows: list[str], numeric: range | tuple[int, ...] = ()) -> str:
    head = "".join(
        f'<th scope="col"{" class=number" if i in numeric else ""}>{_text(name)}</th>' for i, name in enumerate(heads)
    )
    return (
        f'<div class="scroll"><table class="sortable"><thead><tr>{head}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )


# one -----------------------------------------------------------------------------------------------------------------


def _one(name: str, profile: ComputeProfile, *, heading: bool) -> str:
    warning = warning_of(profile)
    parts = [f"<h2>{_text(name)}</h2>"] if heading else []
    if warning is not None:
        parts.append(f'<p class="warning">{_text(warning)}</p>')
    model = profile.conditions.model_id or profile.conditions.pipeline
    parts.append(f'<p class="dim">{_text(model)}: {_text(sentence(conditions_of(profile)))}</p>')
    parts += [_figures(profile), _facts(profile), _components(profile), _timeline(profile), _modules(profile)]
    return f"<section>{''.join(parts)}</section>"


def _figures(profile: ComputeProfile) -> str:
    shown = [
        ("MACs", _bound(profile, profile.total_macs, "MACs")),
        ("FLOPs", _bound(profile, profile.total_flops, "FLOPs")),
        ("Products alone", _bound(profile, profile.matmul_macs, "MACs")),
        ("MACs per step", _bound(profile, profile.macs_per_step, "MACs")),
        ("Parameters", format_params(profile.pipeline_params)),
    ]
    if profile.inference_time_seconds is not None:
        shown.append(("Time, measured", format_seconds(profile.inference_time_seconds)))
    return (
        "<dl class=figures>"
        + "".join(f"<div><dt>{_text(k)}</dt><dd>{_text(v)}</dd></div>" for k, v in shown)
        + "</dl>"
    )


def _facts(profile: ComputeProfile) -> str:
    facts = [*assumptions_of(profile), ("Complete", completeness(profile))]
    return "".join(f"<p><strong>{_text(name)}:</strong> {_text(value)}</p>" for name, value in facts)


def _by_kind(macs_by_op: Mapping[str, int]) -> dict[str, int]:
    """MACs of each kind that the page shows, in its order; what is in none of them is "other"."""
    found = {kind: sum(macs_by_op.get(name, 0) for name in names) for kind, (_, names) in KINDS.items()}
    found["other"] = sum(macs_by_op.values()) - sum(found.values())
    return found


def _components(profile: ComputeProfile) -> str:
    largest = max((c.total_macs or 0 for c in profile.components.values()), default=0) or 1
    heads = ("Component", "Class", "Parameters", "Calls", "MACs", "Products", "Share")
    rows, bars = [], []
    for number, (name, part) in enumerate(profile.components.items()):
        share = (
            part.total_macs / profile.total_macs
            if profile.complete and part.total_macs and profile.total_macs
            else None
        )
        cells: list[_Cell] = [
            (name, None),
            (part.class_name, None),
            (format_params(part.params), part.params),
            (part.call_count, part.call_count),
            (format_count(part.total_macs, "MACs"), part.total_macs),
            (format_count(part.matmul_macs, "MACs"), part.matmul_macs),
            ("" if share is None else f"{share:.2%}", share),
        ]
        rows.append(_row(cells))
        bars.append(_bar(number, name, _by_kind(part.macs_by_op), largest))
    height = 26 * len(bars) + 4
    named = [(kind, title) for kind, (title, _) in KINDS.items()] + [("other", _OTHER)]
    legend = "".join(f'<li><span class="{kind}"></span>{_text(title)}</li>' for kind, title in named)
    return (
        "<h2>Where the compute goes</h2>"
        f'<svg viewBox="0 0 {_WIDTH} {height}" role="img" aria-label="MACs by component and kind of operation; the '
        f'table below has the numbers">{"".join(bars)}</svg><ul class="legend">{legend}</ul>'
        + _table(heads, rows, numeric=range(2, 7))
    )


def _bar(number: int, name: str, kinds: Mapping[str, int], largest: int) -> str:
    left, top, room = 190.0, 26 * number + 4, _WIDTH - 200
    drawn = [f'<text x="0" y="{top + 14}">{_text(name[:28])}</text>']
    for kind, macs in kinds.items():
        width = room * macs / largest
        if macs > 0:
            title = KINDS[kind][0] if kind in KINDS else _OTHER
            said = f"{name}, {title}: {format_count(macs, 'MACs')}"
            # A bar thinner than this would not be seen.
            drawn.append(
                f'<rect class="{kind}" x="{left:.2f}" y="{top}" width="{max(width, 0.8):.2f}" height="18">'
                f"<title>{_text(said)}</title></rect>"
            )
        left += width
    return "".join(drawn)


def _timeline(profile: ComputeProfile) -> str:
    """Every call in its order, as wide as the time or the MACs that it took."""
    entries = list(profile.timeline)
    if not entries:
        return ""
    timed = all(entry.seconds is not None for entry in entries)
    if len(entries) > _MOST_SLICES:
        many = f"{len(entries):,} calls, more than the {_MOST_SLICES:,} that are drawn."
        return f'<h2>Timeline</h2><p class="dim">{many}</p>'
    weights = [float(entry.seconds or 0) if timed else float(_macs(profile, entry)) for entry in entries]
    whole = sum(weights) or 1.0
    tracks = {name: number for number, name in enumerate(dict.fromkeys(entry.component for entry in entries))}
    drawn = [f'<text x="0" y="{26 * n + 18}">{_text(name[:28])}</text>' for name, n in tracks.items()]
    left, room = 190.0, _WIDTH - 200
    for entry, weight in zip(entries, weights, strict=True):
        width = room * weight / whole
        call = profile.components[entry.component].calls[entry.call]
        step = "" if entry.step is None else f", step {entry.step}"
        took = f", {format_seconds(entry.seconds)}" if timed else ""
        said = f"{entry.component}.{call.method}{step}: {format_count(call.total_macs, 'MACs')}{took}"
        drawn.append(
            f'<rect class="{"linear" if entry.component in profile.denoisers else "conv"}" x="{left:.2f}" '
            f'y="{26 * tracks[entry.component] + 4}" width="{max(width - 0.3, 0.5):.2f}" height="18">'
            f"<title>{_text(said)}</title></rect>"
        )
        left += width
    what = "time" if timed else "MACs; this generation was not timed"
    return (
        f'<h2>Timeline</h2><p class="dim">{len(entries)} calls in their order, as wide as their {what}.</p>'
        f'<svg viewBox="0 0 {_WIDTH} {26 * len(tracks) + 4}" role="img" '
        f'aria-label="{len(entries)} calls in their order">'
        f"{''.join(drawn)}</svg>"
    )


def _macs(profile: ComputeProfile, entry: TimelineEntry) -> int:
    return profile.components[entry.component].calls[entry.call].total_macs or 0


def _modules(profile: ComputeProfile) -> str:
    rows = profile.by_module(depth=2)
    if len(rows) <= len(profile.components):
        return ""
    cells: list[str] = []
    for row in rows:
        share = row["share"]
        shown: list[_Cell] = [
            (row["path"], None),
            (row["class"], None),
            (format_params(row["params"]), row["params"]),
            (format_count(row["macs"], "MACs"), row["macs"]),
            ("" if share is None else f"{share:.2%}", share),
        ]
        cells.append(_row(shown))
    heads = ("Module", "Class", "Parameters", "MACs", "Share")
    table = _table(heads, cells, numeric=range(2, 5))
    return f"<details><summary>By module, two levels deep ({len(rows)} rows)</summary>{table}</details>"
