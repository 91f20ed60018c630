"""Cases, and the rows that hold what they cost. Numbers and text only: nothing here needs a model."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, overload

from diffmeter.errors import whole_number
from diffmeter.profile import CONVENTIONS
from diffmeter.rendering import Rendered

if TYPE_CHECKING:
    from diffmeter.prediction.result import Prediction
    from diffmeter.profile import ComponentProfile, ComputeProfile

#: what the rows' numbers mean, for whoever reads them without their documentation
CONVENTION = (
    "MACs: the default convention (total_macs: thop's rules for modules plus attention); FLOPs: 2 x MACs; "
    "per step: the denoiser's MACs over its steps; attention: share of the products of two activations in all "
    "products; growth: MACs against the first row that was counted; speedup: the first row's MACs against these."
)


@dataclass(frozen=True)
class Case:
    """One generation that is asked for. None leaves an option to the model's own default; sizes are in pixels.

    ``model`` is what stands for the model in JSON: its id or folder, or the class of a loaded pipeline.

    Raises:
        InputError: a number below 1.
    """

    model: str
    height: int | None = None
    width: int | None = None
    steps: int | None = None
    guidance_scale: float | None = None
    batch: int | None = None
    num_frames: int | None = None

    @property
    def options(self) -> dict[str, Any]:
        """What was asked for, by the names of :func:`~diffmeter.dry_run`."""
        names = ("height", "width", "steps", "guidance_scale", "batch", "num_frames")
        return {name: value for name in names if (value := getattr(self, name)) is not None}

    def __post_init__(self) -> None:
        for name in ("height", "width", "steps", "batch", "num_frames"):
            if (value := getattr(self, name)) is not None:
                whole_number(value, f"The {'number of ' if name == 'steps' else ''}{name}")


@dataclass(frozen=True)
class Row:
    """What one case costs, or why it cannot be told.

    Attributes:
        case: what was asked for.
        name: short name of the model, for tables and plots.
        profile: what it costs; None where it could not be counted.
        error: why there is no profile.
        first: the profile of the first row that was counted, which the others are compared with.
        predicted: what it would take on a GPU; None unless that was asked for.
    """

    case: Case
    name: str
    profile: ComputeProfile | None = None
    error: str | None = None
    first: ComputeProfile | None = field(default=None, repr=False, compare=False)
    predicted: Prediction | None = field(default=None, repr=False)

    # the generation; what a profile does not tell is what was asked for

    @property
    def height(self) -> int | None:
        """Pixels of the images, as asked for, otherwise the model's own."""
        return self.case.height or (self.profile and self.profile.conditions.height) or None

    @property
    def width(self) -> int | None:
        """Pixels of the images, as asked for, otherwise the model's own."""
        return self.case.width or (self.profile and self.profile.conditions.width) or None

    @property
    def steps(self) -> int | None:
        """Steps that were asked for, defaults filled in."""
        return self.case.steps if self.profile is None else self.profile.conditions.num_inference_steps

    @property
    def guidance_scale(self) -> float | None:
        """As the generation has it, defaults filled in."""
        return self.case.guidance_scale if self.profile is None else self.profile.conditions.guidance_scale

    @property
    def batch(self) -> int | None:
        """Images made in one call; every total covers all of them."""
        return self.case.batch or (self.profile and self.profile.conditions.batch) or None

    # what it costs

    @property
    def components(self) -> Mapping[str, ComponentProfile]:
        """Each component, in the pipeline's order."""
        return {} if self.profile is None else self.profile.components

    @property
    def denoisers(self) -> tuple[str, ...]:
        """Names of the components that are called at each step."""
        return () if self.profile is None else self.profile.denoisers

    @property
    def complete(self) -> bool:
        """Whether everything was counted and both counters agree; otherwise totals are lower bounds."""
        return self.profile is not None and self.profile.complete

    @property
    def params(self) -> int | None:
        """Parameters of the denoisers, which tables of papers print."""
        return sum(self.components[name].params for name in self.denoisers) or None

    @property
    def pipeline_params(self) -> int | None:
        """Parameters of all components."""
        return sum(component.params for component in self.components.values()) or None

    def macs(self, convention: str = "total", per: str | None = None) -> int | None:
        """As :meth:`ComputeProfile.macs <diffmeter.ComputeProfile.macs>`; None where nothing was counted."""
        return None if self.profile is None else self.profile.macs(convention, per)

    @property
    def macs_per_step(self) -> int | None:
        """The denoisers' ``total_macs`` divided by the steps."""
        return self.macs("total", "step")

    @property
    def flops_per_step(self) -> int | None:
        """Twice ``macs_per_step``."""
        return None if self.macs_per_step is None else 2 * self.macs_per_step

    @property
    def total_macs(self) -> int | None:
        """Of the whole generation, in the default convention."""
        return self.macs()

    @property
    def total_flops(self) -> int | None:
        """Twice ``total_macs``."""
        return None if self.total_macs is None else 2 * self.total_macs

    @property
    def attention_share(self) -> float | None:
        """Products of two activations in all products, from 0 to 1; None if not everything was counted."""
        return None if self.profile is None else self.profile.attention_share

    @property
    def seconds(self) -> float | None:
        """Measured time of the generation; None for one that was not run."""
        return None if self.profile is None else self.profile.inference_time_seconds

    # against the first row

    def growth(self, convention: str = "total", per: str | None = None) -> float | None:
        """How many times the MACs of the first row these are; None if either is not complete."""
        if self.profile is None or self.first is None or not (self.complete and self.first.complete):
            return None
        mine, others = self.macs(convention, per), self.first.macs(convention, per)
        return mine / others if mine is not None and others else None

    def speedup(self, convention: str = "total", per: str | None = None) -> float | None:
        """How many times fewer MACs than the first row; None if either is not complete."""
        growth = self.growth(convention, per)
        return 1 / growth if growth else None

    @property
    def time_speedup(self) -> float | None:
        """How many times faster than the first row it ran; None unless both were measured."""
        reference = None if self.first is None else self.first.inference_time_seconds
        return reference / self.seconds if reference and self.seconds else None

    def to_dict(self) -> dict[str, Any]:
        """Raw numbers in base units."""
        conditions = None if self.profile is None else self.profile.conditions
        return {
            "model": self.case.model,
            "name": self.name,
            "error": self.error,
            "height": self.height,
            "width": self.width,
            "computed_height": None if conditions is None else conditions.height,
            "computed_width": None if conditions is None else conditions.width,
            "steps": self.steps,
            "steps_run": None if self.profile is None else self.profile.steps_run,
            "guidance_scale": self.guidance_scale,
            "batch": self.batch,
            "scheduler": None if conditions is None else conditions.scheduler,
            "dtype": None if conditions is None else conditions.dtype,
            "denoiser_params": self.params,
            "pipeline_params": self.pipeline_params,
            "macs_per_step": self.macs_per_step,
            "flops_per_step": self.flops_per_step,
            "macs_per_image": self.macs("total", "image"),
            **{key: self.macs(convention) for convention, key in CONVENTIONS.items()},
            "total_flops": self.total_flops,
            "attention_share": self.attention_share,
            "growth": self.growth(),
            "speedup": self.speedup(),
            "inference_time_seconds": self.seconds,
            "time_speedup": self.time_speedup,
            **({} if self.predicted is None else {"predicted": self.predicted.to_dict()}),
            "complete": None if self.profile is None else self.complete,
            "denoisers": list(self.denoisers),
            "components": {
                name: {
                    "params": component.params,
                    "calls": component.call_count,
                    "total_macs": component.total_macs,
                    "matmul_macs": component.matmul_macs,
                }
                for name, component in self.components.items()
            },
        }


class Comparison(Rendered, Sequence[Row]):
    """Rows in the order of their cases; prints as a table, and shows as one in a notebook.

    ``relation`` says how rows are compared with the first that was counted: ``"speedup"`` or ``"growth"``.
    """

    def __init__(self, rows: Iterable[Row], relation: str = "speedup") -> None:
        listed = list(rows)
        first = next((row.profile for row in listed if row.profile is not None), None)
        self.rows = tuple(replace(row, first=first) for row in listed)
        self.relation = relation
        self.versions = {} if first is None else dict(first.conditions.versions)

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
        return tuple(row for row in self.rows if row.profile is not None)

    @property
    def component_names(self) -> list[str]:
        """Every component of any row, denoisers first, then in the order of first appearance."""
        names = dict.fromkeys(name for row in self.rows for name in row.denoisers)
        names.update(dict.fromkeys(name for row in self.rows for name in row.components))
        return list(names)

    def to_dict(self) -> dict[str, Any]:
        """``convention``, ``versions`` and ``rows`` (see :meth:`Row.to_dict`)."""
        return {"convention": CONVENTION, "versions": self.versions, "rows": [row.to_dict() for row in self.rows]}

    def __repr__(self) -> str:
        return f"<Comparison of {len(self.rows)} rows, {len(self.counted)} of them counted>"
