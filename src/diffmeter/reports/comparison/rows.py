"""Cases, and the rows that hold what they cost. Numbers and text only: nothing here needs a model."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, overload

from diffmeter.errors import InputError

if TYPE_CHECKING:
    from diffmeter.profile import ComputeProfile

#: what the rows' numbers mean, for whoever reads a table without its documentation
CONVENTION = (
    "MACs: diffmeter's convention (total_macs: thop's rules for modules plus attention); FLOPs: 2 x MACs; "
    "per step: the denoiser's MACs over its steps; attention: share of the products of two activations in all "
    "products; growth: MACs against the first row that was counted."
)


@dataclass(frozen=True)
class Case:
    """One generation that is asked for. None leaves an option to the model's own default; sizes are in pixels.

    Raises:
        InputError: a number below 1.
    """

    model: str
    height: int | None = None
    width: int | None = None
    steps: int | None = None
    guidance_scale: float | None = None
    batch: int = 1

    def __post_init__(self) -> None:
        object.__setattr__(self, "model", os.fspath(self.model))
        for what, value in (
            ("height", self.height),
            ("width", self.width),
            ("number of steps", self.steps),
            ("batch", self.batch),
        ):
            if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < 1):
                raise InputError(f"The {what} must be a whole number of at least 1, not {value!r}.")


@dataclass(frozen=True)
class ComponentCost:
    """One component over a whole generation. A count that could not be made is None, never 0."""

    params: int
    calls: int
    total_macs: int | None
    matmul_macs: int | None


@dataclass(frozen=True)
class Row:
    """What one case costs, or why it cannot be told.

    Attributes:
        case: what was asked for.
        name: short name of the model, for tables and plots.
        error: why there are no numbers; None where there are.
        height, width: of the pictures, as asked for, otherwise the model's own.
        computed_height, computed_width: the size at which the model works. Some pipelines work at the nearest size
            that the model was trained for and resize the pictures afterwards.
        steps, guidance_scale: as the generation has them, defaults filled in.
        batch: pictures made in one call; every total covers all of them.
        params: parameters of all components.
        components: cost of each component, in the pipeline's order.
        denoisers: names of the components that are called at each step.
        macs_per_step: the denoisers' ``total_macs`` divided by the steps.
        total_macs, matmul_macs, matmul_macs_without_attention: of the generation, as in ``ComputeProfile``.
        complete: whether everything was counted and both counters agree; otherwise totals are lower bounds.
        growth: ``total_macs`` divided by that of the first row that was counted.
        profile: the full profile.
    """

    case: Case
    name: str
    error: str | None = None
    height: int | None = None
    width: int | None = None
    computed_height: int | None = None
    computed_width: int | None = None
    steps: int | None = None
    guidance_scale: float | None = None
    batch: int = 1
    params: int | None = None
    components: Mapping[str, ComponentCost] = field(default_factory=dict)
    denoisers: tuple[str, ...] = ()
    macs_per_step: int | None = None
    total_macs: int | None = None
    matmul_macs: int | None = None
    matmul_macs_without_attention: int | None = None
    complete: bool = False
    growth: float | None = None
    profile: ComputeProfile | None = field(default=None, repr=False, compare=False)

    @classmethod
    def of(cls, case: Case, name: str, profile: ComputeProfile) -> Row:
        """The row of a case that was profiled."""
        conditions = profile.conditions
        return cls(
            case=case,
            name=name,
            height=case.height or conditions.height,
            width=case.width or conditions.width,
            computed_height=conditions.height,
            computed_width=conditions.width,
            steps=conditions.num_inference_steps,
            guidance_scale=conditions.guidance_scale,
            batch=case.batch,
            params=profile.total_params,
            components={
                component.name: ComponentCost(
                    component.params, component.call_count, component.total_macs, component.matmul_macs
                )
                for component in profile.components.values()
            },
            denoisers=profile.denoisers,
            macs_per_step=profile.macs_per_step,
            total_macs=profile.total_macs,
            matmul_macs=profile.matmul_macs,
            matmul_macs_without_attention=profile.matmul_macs_without_attention,
            complete=profile.complete,
            profile=profile,
        )

    @classmethod
    def failed(cls, case: Case, name: str, error: str) -> Row:
        """The row of a case that the model cannot do; the options are those that were asked for."""
        return cls(
            case=case,
            name=name,
            error=error,
            height=case.height,
            width=case.width,
            steps=case.steps,
            guidance_scale=case.guidance_scale,
            batch=case.batch,
        )

    @property
    def flops_per_step(self) -> int | None:
        """Twice ``macs_per_step``."""
        return None if self.macs_per_step is None else 2 * self.macs_per_step

    @property
    def total_flops(self) -> int | None:
        """Twice ``total_macs``."""
        return None if self.total_macs is None else 2 * self.total_macs

    @property
    def attention_macs(self) -> int | None:
        """Products of two activations: attention, whichever way it is written."""
        if self.matmul_macs is None or self.matmul_macs_without_attention is None:
            return None
        return self.matmul_macs - self.matmul_macs_without_attention

    @property
    def attention_share(self) -> float | None:
        """``attention_macs`` in ``matmul_macs``, from 0 to 1."""
        if self.attention_macs is None or not self.matmul_macs:
            return None
        return self.attention_macs / self.matmul_macs

    def to_dict(self) -> dict[str, Any]:
        """Raw numbers in base units."""
        return {
            "model": self.case.model,
            "name": self.name,
            "error": self.error,
            "height": self.height,
            "width": self.width,
            "computed_height": self.computed_height,
            "computed_width": self.computed_width,
            "steps": self.steps,
            "guidance_scale": self.guidance_scale,
            "batch": self.batch,
            "params": self.params,
            "macs_per_step": self.macs_per_step,
            "flops_per_step": self.flops_per_step,
            "total_macs": self.total_macs,
            "total_flops": self.total_flops,
            "matmul_macs": self.matmul_macs,
            "matmul_macs_without_attention": self.matmul_macs_without_attention,
            "attention_share": self.attention_share,
            "growth": self.growth,
            "complete": self.complete if self.error is None else None,
            "denoisers": list(self.denoisers),
            "components": {name: dataclasses.asdict(cost) for name, cost in self.components.items()},
        }


class Comparison(Sequence[Row]):
    """Rows in the order of their cases; prints as a table, and shows as one in a notebook.

    Growth against the first counted row is filled in here.
    """

    def __init__(self, rows: Iterable[Row], versions: Mapping[str, str] | None = None) -> None:
        listed = list(rows)
        first = next((row.total_macs for row in listed if row.total_macs), None)
        if first is not None:
            listed = [
                row if row.total_macs is None else dataclasses.replace(row, growth=row.total_macs / first)
                for row in listed
            ]
        self.rows = tuple(listed)
        found = next((row.profile.conditions.versions for row in listed if row.profile is not None), {})
        self.versions = dict(versions if versions is not None else found)

    @overload
    def __getitem__(self, index: int) -> Row: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[Row, ...]: ...
    def __getitem__(self, index: int | slice) -> Row | tuple[Row, ...]:
        return self.rows[index]

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[Row]:
        return iter(self.rows)

    @property
    def counted(self) -> tuple[Row, ...]:
        """The rows that have numbers."""
        return tuple(row for row in self.rows if row.error is None)

    @property
    def component_names(self) -> list[str]:
        """Every component of any row, denoisers first, then in the order of first appearance."""
        names = dict.fromkeys(name for row in self.rows for name in row.denoisers)
        names.update(dict.fromkeys(name for row in self.rows for name in row.components))
        return list(names)

    def to_dict(self) -> dict[str, Any]:
        """``convention``, ``versions`` and ``rows`` (see :meth:`Row.to_dict`)."""
        return {
            "convention": CONVENTION,
            "versions": self.versions,
            "rows": [row.to_dict() for row in self.rows],
        }

    def to_json(self) -> str:
        """:meth:`to_dict` as JSON text."""
        from .render import to_json

        return to_json(self)

    def to_csv(self) -> str:
        """One line a row, raw integers; a column each for the MACs and the parameters of every component."""
        from .render import to_csv

        return to_csv(self)

    def to_markdown(self) -> str:
        """A table in GitHub's Markdown."""
        from .render import to_markdown

        return to_markdown(self)

    def to_latex(self) -> str:
        """A ``tabular`` in the style of the booktabs package."""
        from .render import to_latex

        return to_latex(self)

    def __str__(self) -> str:
        from .render import to_text

        return to_text(self)

    def _repr_html_(self) -> str:
        from .render import to_html

        return to_html(self)
