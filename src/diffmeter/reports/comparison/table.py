"""A comparison as a table: one row a case. What holds for every row stands in the title, what differs is a column."""

from __future__ import annotations

from dataclasses import replace

from diffmeter.profile import CONVENTIONS, checked_convention, checked_per
from diffmeter.reports.conditions import CONDITION_COLUMNS, conditions_of, sentence
from diffmeter.reports.profile_tables import CONVENTION_NAMES, PER_NAMES, bound
from diffmeter.reports.tables import Column, Kind, Table, Value
from diffmeter.reports.tables import Row as Line

from .rows import Comparison, Row

_RELATIONS = {
    "speedup": Column("speedup", "Speedup", Kind.RATIO, 3, "the first row's MACs divided by these"),
    "growth": Column("growth", "Growth", Kind.RATIO, 3, "these MACs divided by the first row's"),
}


_PREDICTED = (
    Column("predicted_seconds", "Predicted", Kind.SECONDS, 1, "of a warm call, on the GPU that was asked for"),
    Column("predicted_memory_gib", "Memory (GiB)", Kind.NUMBER, 2),
    Column("predicted_joules", "Energy (J)", Kind.NUMBER, 4),
    Column("predicted_usd_per_1000", "USD/1,000", Kind.NUMBER, 4),
)


def _predicted_cells(row: Row) -> dict[str, Value]:
    found = row.predicted
    if found is None:
        return {}
    return {
        "predicted_seconds": found.seconds,
        "predicted_memory_gib": found.peak_memory_bytes / 2**30,
        "predicted_joules": found.joules,
        "predicted_usd_per_1000": found.per_image("usd", 1000),
    }


def comparison_table(comparison: Comparison, convention: str | None = None, per: str | None = None) -> Table:
    """One row a case, in a convention and per a unit of work.

    Args:
        convention: ``total`` (the default convention), ``products`` or ``paper``.
        per: ``image``, ``step`` or ``forward``; None shows the whole generation, and its steps beside it.

    Raises:
        InputError: another convention or unit of work.
    """
    used = checked_convention(convention)
    checked_per(per)
    given = [_conditions(row) for row in comparison]
    same, differing = _same(comparison, given)
    timed = any(row.seconds is not None for row in comparison)
    columns = [
        *_condition_columns(comparison, differing, per),
        Column("params", "Params", Kind.PARAMS, 2, "of the denoiser"),
        *([Column("macs_per_step", "Per step", Kind.MACS, 4)] if per is None else []),
        Column("macs", "Total" if per is None else f"Per {per}", Kind.MACS, 0, f"MACs {_meaning(used, per)}"),
        *([Column("flops", "Total", Kind.FLOPS, 7)] if per is None else []),
        Column("attention", "Attention", Kind.PERCENT, 6, "products of two activations in all products"),
        _RELATIONS[comparison.relation],
        *([Column("seconds", "Time", Kind.SECONDS, 5), _TIME_SPEEDUP] if timed else []),
        *(_PREDICTED if any(row.predicted for row in comparison) else ()),
        *(_component_columns(comparison) if per is None else []),
    ]
    shown = {column.key for column in columns}
    title = ", ".join(text for text in (_count(comparison), sentence(same)) if text)
    return Table(
        columns=columns,
        rows=[
            Line(_cells(row, cells, used, per) | _predicted_cells(row), _note(row))
            for row, cells in zip(comparison, given, strict=True)
        ],
        title=title,
        warning=_warning(comparison),
        more=[column for column in _raw_columns(comparison) if column.key not in shown],
    )


_CONDITIONS = (
    CONDITION_COLUMNS[0],
    CONDITION_COLUMNS[1],
    Column("works_at", "Works at", Kind.TEXT, 1),
    *CONDITION_COLUMNS[2:],
)
_TIME_SPEEDUP = Column("time_speedup", "Speedup in time", Kind.RATIO, 5, "the first row's seconds divided by these")


#: conditions that change nothing about one forward, or one step
_WITHOUT_MEANING = {
    "forward": {"steps", "steps_run", "guidance", "batch", "scheduler"},
    "step": {"steps", "steps_run"},
}


def _condition_columns(comparison: Comparison, differing: set[str], per: str | None) -> list[Column]:
    """The conditions that differ. What tells two rows of one name apart is never left out."""
    named_once = len({row.name for row in comparison}) == len(comparison)
    columns = []
    for column in _CONDITIONS:
        if column.key in _WITHOUT_MEANING.get(per or "", ()):
            columns.append(replace(column, rank=9))
        else:
            columns.append(column if named_once or column.rank > 1 else replace(column, rank=0))
    return [column for column in columns if column.key == "model" or column.key in differing]


def _meaning(convention: str, per: str | None) -> str:
    of = "of the whole generation" if per is None else PER_NAMES[per]
    return f"{of}, {CONVENTION_NAMES[convention]}"


def _count(comparison: Comparison) -> str:
    models = len({row.name for row in comparison})
    return f"{models} model{'' if models == 1 else 's'}" if models != 1 else comparison[0].name


def _warning(comparison: Comparison) -> str | None:
    names = [row.name for row in comparison.counted if not row.complete]
    if not names:
        return None
    return (
        f"INCOMPLETE: not everything was counted of {', '.join(dict.fromkeys(names))}; those totals are lower bounds."
    )


def _conditions(row: Row) -> dict[str, Value]:
    """The conditions of a row by the keys of its columns; of one without numbers, what was asked for."""
    if row.profile is not None:
        given = conditions_of(row.profile)
        if row.width and row.height:
            size, works_at = f"{row.width} x {row.height}", given.get("size")
            given |= {"size": size} | ({"works_at": works_at} if works_at not in (None, size) else {})
    else:
        asked = {
            "size": f"{row.width} x {row.height}" if row.width and row.height else None,
            "steps": row.steps,
            "guidance": row.guidance_scale,
            "batch": row.batch,
        }
        given = {key: value for key, value in asked.items() if value is not None}
    if row.batch is not None:
        given["batch"] = row.batch
    return {**given, "model": row.name}


def _same(comparison: Comparison, given: list[dict[str, Value]]) -> tuple[dict[str, Value], set[str]]:
    """Conditions that hold for every row that was counted, and the keys of those that differ."""
    counted = [cells for row, cells in zip(comparison, given, strict=True) if row.profile is not None] or given
    keys = dict.fromkeys(key for cells in counted for key in cells if key != "model")
    same = {
        key: counted[0][key] for key in keys if all(cells.get(key, ...) == counted[0].get(key) for cells in counted)
    }
    differing = {key for key in keys if key not in same}
    if all(cells.get("steps_run") == cells.get("steps") for cells in counted):
        differing.discard("steps_run")  # then it says nothing that the steps do not say
    return same, differing


def _component_columns(comparison: Comparison) -> list[Column]:
    """MACs of every component that some row called."""
    called = [
        n for n in comparison.component_names if any(n in r.components and r.components[n].calls for r in comparison)
    ]
    return [Column(f"macs.{name}", name, Kind.MACS, 10) for name in called]


def _raw_columns(comparison: Comparison) -> list[Column]:
    """What only CSV files and ``--columns`` show."""
    names = comparison.component_names
    return [
        *_CONDITIONS,
        Column("macs_per_step", "MACs per step", Kind.MACS),
        Column("flops", "FLOPs", Kind.FLOPS),
        *(Column(key, key, Kind.MACS) for key in CONVENTIONS.values()),
        Column("pipeline_params", "Pipeline params", Kind.PARAMS),
        *_RELATIONS.values(),
        Column("seconds", "Time", Kind.SECONDS),
        _TIME_SPEEDUP,
        Column("id", "Id"),
        *_component_columns(comparison),
        *(Column(f"params.{name}", f"{name} params", Kind.PARAMS) for name in names),
    ]


def _cells(row: Row, conditions: dict[str, Value], convention: str, per: str | None) -> dict[str, Value]:
    cells: dict[str, Value] = {**conditions, "id": row.case.model}
    profile = row.profile
    if profile is None:
        return cells
    macs = row.macs(convention, per)
    cells |= {
        "params": row.params,
        "pipeline_params": row.pipeline_params,
        "macs": bound(macs, row.complete),
        "macs_per_step": bound(row.macs(convention, "step"), row.complete),
        "flops": bound(None if macs is None else 2 * macs, row.complete),
        **{key: bound(row.macs(name), row.complete) for name, key in CONVENTIONS.items()},
    }
    for name, component in row.components.items():
        cells[f"params.{name}"] = component.params
        if component.calls:
            cells[f"macs.{name}"] = bound(getattr(component, CONVENTIONS[convention]), profile.is_counted(name))
    known = {
        "attention": row.attention_share,
        "speedup": row.speedup(convention, per),
        "growth": row.growth(convention, per),
        "seconds": row.seconds,
        "time_speedup": row.time_speedup,
    }
    return cells | {key: value for key, value in known.items() if value is not None}


def _note(row: Row) -> str | None:
    return None if row.error is None else f"not counted: {row.error}"
