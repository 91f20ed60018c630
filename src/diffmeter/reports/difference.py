"""Two profiles beside each other: by component, and the conditions that differ."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diffmeter.profile import CONVENTIONS, ComputeProfile, checked_convention
from diffmeter.rendering import Rendered

from .conditions import conditions_of, sentence
from .profile_tables import CONVENTION_NAMES, PER_NAMES, bound, warning_of
from .tables import Column, Kind, Row, Table, Value


@dataclass(frozen=True)
class ProfileDifference(Rendered):
    """How a second profile differs from a first one. ``names`` are what they are called."""

    first: ComputeProfile
    second: ComputeProfile
    names: tuple[str, str] = ("first", "second")

    @property
    def conditions(self) -> dict[str, tuple[Value, Value]]:
        """The conditions that differ, versions of libraries included: the first's value and the second's."""
        mine, others = ({**conditions_of(p), **p.conditions.versions} for p in (self.first, self.second))
        keys = dict.fromkeys((*mine, *others))
        return {key: (mine.get(key), others.get(key)) for key in keys if mine.get(key) != others.get(key)}

    def rows(self, convention: str = "total", per: str | None = None) -> list[dict[str, Any]]:
        """One row a component of either: ``component``, ``first`` and ``second`` (MACs), ``ratio``, and the calls.

        ``ratio`` is the second's MACs divided by the first's; None unless both are fully counted.

        Raises:
            InputError: the convention or the unit of work is not known.
        """
        mine, others = (
            {row["component"]: row for row in profile.by_component(convention, per)}
            for profile in (self.first, self.second)
        )
        rows = []
        for name in dict.fromkeys((*mine, *others)):
            first, second = mine.get(name, {}), others.get(name, {})
            sure = self.first.is_counted(name) and self.second.is_counted(name)
            rows.append(
                {
                    "component": name,
                    "first": first.get("macs"),
                    "second": second.get("macs"),
                    "ratio": _ratio(first.get("macs"), second.get("macs")) if sure else None,
                    "first_calls": first.get("calls"),
                    "second_calls": second.get("calls"),
                }
            )
        return rows

    def to_dict(self) -> dict[str, Any]:
        """The names, the conditions that differ, the rows in the default convention, and the totals in each."""
        return {
            "first": self.names[0],
            "second": self.names[1],
            "complete": self.first.complete and self.second.complete,
            "conditions": {key: list(pair) for key, pair in self.conditions.items()},
            "components": self.rows(),
            "totals": {key: [self.first.macs(name), self.second.macs(name)] for name, key in CONVENTIONS.items()},
        }

    def table(self, convention: str | None = None, per: str | None = None) -> Table:
        """One row a component, and the totals."""
        used = checked_convention(convention)
        pair = (self.first, self.second)
        total: dict[str, Value] = {"component": "total"}
        macs = [profile.macs(used, per) for profile in pair]
        total |= {key: bound(m, p.complete) for key, m, p in zip(("first", "second"), macs, pair, strict=True)}
        if all(profile.complete for profile in pair) and (ratio := _ratio(*macs)) is not None:
            total["ratio"] = ratio
        return Table(
            columns=[
                Column("component", "Component"),
                Column("first", "First", Kind.MACS),
                Column("second", "Second", Kind.MACS),
                Column("ratio", "Ratio", Kind.RATIO, 1),
                Column("first_calls", "Calls, first", Kind.INTEGER, 2),
                Column("second_calls", "Calls, second", Kind.INTEGER, 2),
            ],
            rows=[Row(self._cells(row)) for row in self.rows(used, per)],
            total=Row(total),
            title=self._title(),
            warning=next((text for profile in pair if (text := warning_of(profile))), None),
            facts=[
                ("MACs", f"{'of the whole run' if per is None else PER_NAMES[per]}, {CONVENTION_NAMES[used]}"),
                *((key, f"{_shown(a)} -> {_shown(b)}") for key, (a, b) in self.conditions.items()),
            ],
        )

    def _title(self) -> str:
        differing = self.conditions
        same = {key: value for key, value in conditions_of(self.first).items() if key not in differing}
        shared = sentence(same)
        return f"{self.names[0]} against {self.names[1]}" + (f": {shared}" if shared else "")

    def _cells(self, row: dict[str, Any]) -> dict[str, Value]:
        name = row["component"]
        cells: dict[str, Value] = {key: value for key, value in row.items() if value is not None}
        for key, profile in (("first", self.first), ("second", self.second)):
            if key in cells:
                cells[key] = bound(row[key], profile.is_counted(name))
        return cells

    def __repr__(self) -> str:
        return f"<ProfileDifference of {self.names[0]} and {self.names[1]}>"


def read_or_count(source: str) -> ComputeProfile:
    """A saved profile, or what a model costs by its defaults, without its weights.

    Raises:
        InputError: there is no profile in the file, and no model of that name.
    """
    path = Path(source)
    if path.is_file() or (path / "generation_config.json").is_file():
        return ComputeProfile.load(path)
    from diffmeter.metering.recording.dry_run import profile_model

    return profile_model(source)


def _ratio(first: int | None, second: int | None) -> float | None:
    return second / first if first and second is not None else None


def _shown(value: Value) -> str:
    return "none" if value is None else f"{value:g}" if isinstance(value, float) else str(value)
