"""A profile as a table: one row a component, in the convention and per the unit of work that is asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from diffmeter.errors import InputError
from diffmeter.profile import CONVENTIONS, checked_convention
from diffmeter.units import format_count, format_seconds

from .conditions import CONDITION_COLUMNS, assumptions_of, conditions_of, sentence
from .tables import AtLeast, Column, Kind, Row, Table, Value

if TYPE_CHECKING:
    from diffmeter.metering.recording.observe import Observation
    from diffmeter.profile import ComputeProfile, RunConditions

#: what a number of a convention covers, for heads and captions
CONVENTION_NAMES = {
    "total": "the default convention (thop's rules and attention with its softmax)",
    "products": "convolutions, linear layers, matrix products and attention products",
    "paper": "convolutions and linear layers, without attention products",
}
PER_NAMES = {
    "image": "per image",
    "step": "per step of the denoiser",
    "forward": "per forward of one sample",
}


def bound(value: int | float | None, complete: bool) -> Value:
    """A number as it may be shown: a lower bound where something was not counted."""
    return value if complete or value is None else AtLeast(value)


def profile_table(
    profile: ComputeProfile, convention: str | None = None, per: str | None = None, depth: int | None = None
) -> Table:
    """One row a component, and their sum.

    Args:
        convention: ``total`` (the default), ``products`` or ``paper``; None shows ``total`` and ``products``.
        per: ``image``, ``step`` or ``forward``; None shows the whole run.
        depth: one row a module instead, so many levels below its component.

    Raises:
        InputError: another convention or unit of work, or one together with a depth.
    """
    if depth is not None:
        if per is not None:
            raise InputError("Modules are shown for the whole run: give a depth or a unit of work, not both.")
        return module_table(profile, depth, checked_convention(convention))
    first = checked_convention(convention)
    heads = {"total": "MACs", "products": "Products", "paper": "Without attention"}
    macs = {name: Column(CONVENTIONS[name], heads[name], Kind.MACS, 5) for name in CONVENTIONS}
    shown = ["products"] if convention is None and per is None else []
    measured = per is None and any(c.seconds is not None for c in profile.components.values())
    columns = [
        Column("component", "Component"),
        Column("class", "Class", Kind.TEXT, 9),
        Column("params", "Params", Kind.PARAMS, 4),
        Column("calls", "Calls", Kind.INTEGER, 6),
        Column("macs", "MACs", Kind.MACS),
        *(macs[name] for name in shown),
        *([Column("share", "Share", Kind.PERCENT, 2)] if profile.complete and per != "forward" else []),
        *([Column("seconds", "Time", Kind.SECONDS, 3)] if measured else []),
    ]
    names = [row["component"] for row in profile.by_component(first, per)]
    return Table(
        columns=columns,
        rows=[Row(_cells(profile, name, first, per)) for name in names],
        total=None if per == "forward" else Row(_total(profile, first, per)),
        title=title_of(profile),
        warning=warning_of(profile),
        facts=facts_of(profile, first, per),
        more=[*(macs[name] for name in CONVENTIONS if name not in shown), *CONDITION_COLUMNS],
    )


def observation_table(run: Observation, **options: Any) -> Table:
    """The table of what was observed: that of its profile, with its options."""
    return profile_table(run.profile, **options)


def module_table(profile: ComputeProfile, depth: int, convention: str = "total") -> Table:
    """One row a module, and their sum."""
    rows = profile.by_module(depth, convention)
    total = {
        "module": "total",
        "params": profile.pipeline_params,
        "macs": bound(profile.macs(convention), profile.complete),
        **({"share": 1.0} if profile.complete and profile.total_macs else {}),
    }
    measured = any(row["seconds"] is not None for row in rows)
    return Table(
        columns=[
            Column("module", "Module"),
            Column("class", "Class", Kind.TEXT, 5),
            Column("params", "Params", Kind.PARAMS, 3),
            Column("macs", "MACs", Kind.MACS),
            *([Column("share", "Share", Kind.PERCENT, 2)] if profile.complete else []),
            *([Column("seconds", "Time", Kind.SECONDS, 4)] if measured else []),
        ],
        rows=[Row(_module_cells(profile, row)) for row in rows],
        total=Row(total),
        title=title_of(profile),
        warning=warning_of(profile),
        facts=[("MACs", f"of the whole run, {CONVENTION_NAMES[convention]}"), *_missing(profile)],
        notes=["A module that other rows lie in has only what it does itself."],
    )


def _module_cells(profile: ComputeProfile, row: dict[str, Any]) -> dict[str, Value]:
    counted = profile.is_counted(row["path"].split(".")[0])
    cells: dict[str, Value] = {"module": row["path"], "class": row["class"], "params": row["params"]}
    cells["macs"] = bound(row["macs"], counted)
    return cells | {key: row[key] for key in ("share", "seconds") if row[key] is not None}


def _cells(profile: ComputeProfile, name: str, first: str, per: str | None) -> dict[str, Value]:
    """One component in every convention, with the conditions that hold for it."""
    cells: dict[str, Value] = dict(conditions_of(profile))
    counted = profile.is_counted(name)
    for convention, key in CONVENTIONS.items():
        row = next(row for row in profile.by_component(convention, per) if row["component"] == name)
        cells[key] = bound(row["macs"], counted)
        if convention == first:
            cells["macs"] = cells[key]
            cells |= {key: row[key] for key in ("component", "class", "params", "calls")}
            cells |= {key: row[key] for key in ("share", "seconds") if row[key] is not None}
    return cells


def _total(profile: ComputeProfile, first: str, per: str | None) -> dict[str, Value]:
    names = {row["component"] for row in profile.by_component("total", per)}
    components = [component for name, component in profile.components.items() if name in names]
    cells: dict[str, Value] = {
        "component": "total",
        "class": profile.conditions.pipeline,
        "params": sum(component.params for component in components),
        "calls": sum(component.call_count for component in components),
    }
    cells |= {key: bound(profile.macs(name, per), profile.complete) for name, key in CONVENTIONS.items()}
    cells["macs"] = cells[CONVENTIONS[first]]
    if profile.complete and profile.total_macs:
        cells["share"] = 1.0
    if profile.inference_time_seconds is not None:
        cells["seconds"] = profile.inference_time_seconds
    return cells


def facts_of(profile: ComputeProfile, convention: str = "total", per: str | None = None) -> list[tuple[str, str]]:
    """What stands under the table: steps, FLOPs, time, and whether the count is complete."""
    sign = "" if profile.complete else ">= "

    def counted(macs: int | None, unit: str = "MACs") -> str:
        return format_count(macs, unit) if macs is None else sign + format_count(macs, unit)

    facts = [("MACs", f"{PER_NAMES[per]}, {CONVENTION_NAMES[convention]}")] if per is not None else []
    if per is None:
        facts.append(("MACs per step of the denoiser", counted(profile.macs(convention, "step"))))
        whole = profile.macs(convention)
        facts.append(("FLOPs (2 x MACs)", counted(None if whole is None else 2 * whole, "FLOPs")))
        facts.append(("Products without attention", counted(profile.matmul_macs_without_attention)))
    if profile.inference_time_seconds is not None and per is None:
        note = " (time includes counting)" if profile.time_includes_counting else ""
        facts.append(("Inference time", format_seconds(profile.inference_time_seconds) + note))
        if profile.throughput_tflops is not None:
            facts.append(("Throughput", f"{sign}{profile.throughput_tflops:.3f} TFLOP/s"))
    return [*facts, *generations_of(profile), *assumptions_of(profile), *_missing(profile)]


def _missing(profile: ComputeProfile) -> list[tuple[str, str]]:
    """That the count is complete, or what is missing."""
    if profile.complete:
        return [("Complete", completeness(profile))]
    return [("Not counted", gap) for gap in gaps(profile)]


def generations_of(profile: ComputeProfile) -> list[tuple[str, str]]:
    """Steps that ran of those that were asked for, how many generations there were and what differs between them."""
    found = []
    short = [f"{run.steps_run} of {run.num_inference_steps}" for run in profile.runs if _is_short(run)]
    if short:
        found.append(("Steps that ran", ", ".join(dict.fromkeys(short))))
    if profile.generations > 1:
        differing = [f"{name} {', '.join(map(str, values))}" for name, values in profile.varied.items()]
        found.append(("Generations", "; ".join([str(profile.generations), *differing])))
    return found


def _is_short(run: RunConditions) -> bool:
    return bool(run.steps_run and run.num_inference_steps and run.steps_run != run.num_inference_steps)


def title_of(profile: ComputeProfile) -> str:
    """Model and conditions in one line."""
    conditions = profile.conditions
    model = conditions.model_id or conditions.pipeline
    count = f", {profile.generations} generations" if profile.generations > 1 else ""
    return f"{model}: {sentence(conditions_of(profile))}{count}"


def warning_of(profile: ComputeProfile) -> str | None:
    """The first line of an incomplete profile."""
    if profile.complete:
        return None
    return "INCOMPLETE: not everything was counted, so every total is a lower bound."


def gaps(profile: ComputeProfile) -> list[str]:
    """What is missing from the totals, or where the two counters differ: one line each."""
    missing = [
        f"{entry['component']}: {entry.get('op') or entry.get('reason')} ({entry['calls']} x)"
        for entry in profile.uncounted
    ]
    return missing + [
        f"{entry['component']}.{entry['method']}: counters differ on {entry['op']} "
        f"({entry['thop']} against {entry['op_level']})"
        for entry in profile.differences
    ]


def completeness(profile: ComputeProfile) -> str:
    """One line: complete and cross-checked, or what is missing."""
    if not profile.complete:
        return "no: " + "; ".join(gaps(profile))
    for_what = f", for estimated {' and '.join(profile.conditions.estimated)}" if profile.conditions.estimated else ""
    if profile.conditions.kind == "formula":
        versions = profile.conditions.versions
        derived = ", ".join(f"{name} {versions[name]}" for name in ("diffusers", "transformers") if name in versions)
        return f"yes{for_what}: from a formula that was proved against dry runs with {derived}"
    return f"yes{for_what}: every call counted, both counters agree"
