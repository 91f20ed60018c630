"""What was seen of a run: plain data, without a model, a pipeline or a tensor of any size."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from diffmeter.metering.counters import user_formulas
from diffmeter.metering.counters.tally import Count
from diffmeter.metering.counters.user_formulas import UserFormula
from diffmeter.metering.twins.replay import Replay
from diffmeter.metering.watching.signature import Frozen

#: index of the generation of a call that was made outside any
NO_GENERATION = -1


@dataclass(kw_only=True, slots=True)
class CallRecord:
    """One call of a component.

    Attributes:
        component, method: what was entered, and by which of its methods; of a part of it, its path.
        path: of the part of the component that was entered; "" for the component itself.
        arguments: shapes and dtypes of tensors, values of the rest.
        parameter_names: names of the method's parameters, for the positional arguments.
        generation: index of the generation that it belongs to, or ``NO_GENERATION``.
        step: scheduler steps that the generation had made before it; None outside a generation.
        seconds: wall-clock time, on a GPU the time between two events on its stream; None in a dry run.
        output_shape: shape of the first tensor that came back.
        count: what it cost; None until it is counted, and where it cannot be.
        failure: why it could not be counted.
        reused: modules that a declared step cache did not run.
        in_run: whether it was counted while it ran, so that ``seconds`` includes the counting.
        formulas: the user's formulas in force when it was made.
    """

    component: str
    method: str
    arguments: Frozen
    path: str = ""
    parameter_names: tuple[str, ...] = ()
    generation: int = NO_GENERATION
    step: int | None = None
    seconds: float | None = None
    output_shape: tuple[int, ...] | None = None
    count: Count | None = None
    failure: str | None = None
    reused: tuple[str, ...] = ()
    in_run: bool = False
    formulas: Mapping[Any, UserFormula] = field(default_factory=user_formulas.current, repr=False)

    @property
    def settled(self) -> bool:
        """Whether it is known what the call cost, or why that cannot be known."""
        return self.count is not None or self.failure is not None

    def take(self, replayed: Replay) -> None:
        """Use what a replay found."""
        if replayed.problem is None:
            self.count = replayed.count
        else:
            self.failure = replayed.problem


@dataclass(kw_only=True, slots=True)
class Generation:
    """One call of a pipeline.

    Attributes:
        number: its index among the generations of the recording.
        pipeline_class: name of the pipeline's class.
        arguments: of the call, defaults included, as far as they are plain values.
        steps: scheduler steps that it made.
        images: images or videos that it returned; None where that cannot be told.
        seconds: wall-clock time; of an unfinished generation, 0.
    """

    number: int
    pipeline_class: str
    arguments: dict[str, Any]
    steps: int = 0
    images: int | None = None
    seconds: float = 0.0
    finished: bool = False


@dataclass(kw_only=True, slots=True)
class DirectProducts:
    """Products that ran in a submodule whose own call was not seen, by operator."""

    component: str
    path: str
    macs: Counter[str] = field(default_factory=Counter)
    unknown: Counter[str] = field(default_factory=Counter)


class Note(NamedTuple):
    """Why a profile is not complete, and which component that is about."""

    component: str
    reason: str


@dataclass(kw_only=True, slots=True)
class Recording:
    """Everything that was seen, in order.

    Attributes:
        direct: products of submodules, by component and path.
        last_before_step: how often each component was the last one called before a scheduler step.
        notes: what is missing besides calls that failed.
        non_components: modules that are no components of the pipeline, with their parameters.
        count_seconds: how long counting took.
    """

    calls: list[CallRecord] = field(default_factory=list)
    generations: list[Generation] = field(default_factory=list)
    direct: dict[tuple[str, str], DirectProducts] = field(default_factory=dict)
    last_before_step: Counter[str] = field(default_factory=Counter)
    notes: list[Note] = field(default_factory=list)
    non_components: dict[str, int] = field(default_factory=dict)
    count_seconds: float = 0.0

    def note(self, component: str, reason: str) -> None:
        """Note, once, why the profile is not complete."""
        if (component, reason) not in self.notes:
            self.notes.append(Note(component, reason))

    @property
    def empty(self) -> bool:
        """Whether no component was called."""
        return not self.calls and not self.direct
