"""Dry runs of one pipeline at chosen points, and what the derivation looks at in each."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from diffmeter.errors import DiffmeterError
from diffmeter.metering.pipelines.call import call_of
from diffmeter.metering.recording.dry_run import ModelDryRuns, run_dry
from diffmeter.models import catalog
from diffmeter.profile import CallProfile, ComputeProfile

from .domain import SizeTable
from .program import Folded, fold

#: values of the quantities at one point; those that are not given keep the model's defaults
Point = dict[str, Any]
#: which number of a call: kind ("macs_by_op", "op_level", "shapes", "output"), its name, its position
Key = tuple[str, str, int]


@dataclass(frozen=True)
class Seen:
    """One call as a dry run saw it: what it is, and its numbers."""

    component: str
    method: str
    dtypes: tuple[tuple[str, str], ...]
    numbers: tuple[tuple[Key, int], ...]

    @classmethod
    def of(cls, component: str, call: CallProfile) -> Seen:
        """From a profile's entry."""
        numbers: dict[Key, int] = {}
        for kind, counts in (("macs_by_op", call.macs_by_op), ("op_level", call.op_level)):
            numbers.update({(kind, name, 0): macs for name, macs in counts.items()})
        shapes = {**{("shapes", name): shape for name, shape in call.shapes.items()}}
        if call.output_shape is not None:
            shapes["output", ""] = call.output_shape
        for (kind, name), shape in shapes.items():
            numbers.update({(kind, name, position): size for position, size in enumerate(shape)})
        return cls(component, call.method, tuple(sorted(call.dtypes.items())), tuple(sorted(numbers.items())))

    @property
    def kind(self) -> tuple[Any, ...]:
        """What two calls of one formula have in common: everything but the numbers' values."""
        return self.component, self.method, self.dtypes, tuple(key for key, _ in self.numbers)


@dataclass(frozen=True)
class Observation:
    """A dry run: its calls in order, each with the increase of the step before it (None: it belongs to no step)."""

    profile: ComputeProfile
    sequence: tuple[tuple[Seen, int | None], ...]

    @classmethod
    def of(cls, profile: ComputeProfile) -> Observation:
        """From its profile.

        Raises:
            DiffmeterError: the profile is not complete, so that no formula can follow from it.
        """
        if not profile.complete:
            reason = next(iter(profile.uncounted), None)
            raise DiffmeterError(f"The dry run is not complete, so no formula can follow from it: {reason}.")
        seen = {name: [Seen.of(name, call) for call in c.calls] for name, c in profile.components.items()}
        sequence: list[tuple[Seen, int | None]] = []
        now = 0
        for entry in profile.timeline:
            change = None if entry.step is None else entry.step - now
            now = now if entry.step is None else entry.step
            sequence.append((seen[entry.component][entry.call], change))
        listed = {(entry.component, entry.call) for entry in profile.timeline}
        for name, component in profile.components.items():
            if any((name, index) not in listed for index in range(len(component.calls))):
                raise DiffmeterError(f"{name} is computed outside its calls, which no formula describes.")
        return cls(profile, tuple(sequence))

    @cached_property
    def folded(self) -> Folded[Seen]:
        """The sequence with its repetitions found."""
        return fold(self.sequence)

    @cached_property
    def by_component(self) -> dict[str, tuple[Seen, ...]]:
        """The calls of each component, repetitions left out."""
        found: dict[str, list[Seen]] = {}
        for seen in dict.fromkeys(seen for seen, _ in self.sequence):
            found.setdefault(seen.component, []).append(seen)
        return {name: tuple(calls) for name, calls in found.items()}


class Observer:
    """Dry-runs one pipeline at points, each once.

    Args:
        source: a loaded pipeline, or the id or folder of a model.
        arguments: further arguments of the pipeline's call, the same at every point.
    """

    def __init__(self, source: Any, arguments: Mapping[str, Any] | None = None) -> None:
        self._arguments = dict(arguments or {})
        self._runs: ModelDryRuns | None = None
        if isinstance(source, (str, os.PathLike)):
            self._runs = ModelDryRuns(source)
            self.pipe, self.call = self._runs.pipe, self._runs.call
        else:
            self.pipe, self.call = source, call_of(source)
        self._known: dict[tuple[Any, ...], Observation | DiffmeterError] = {}
        self.made = 0

    @property
    def entry(self) -> catalog.CatalogEntry | None:
        """The model's entry in the catalog."""
        return self.call.entry

    def argument(self, name: str) -> str | None:
        """The argument of the pipeline's call for a quantity of the vocabulary; None where there is none."""
        return self.call.name_of(name) or (name if self.call.takes(name) else None)

    @property
    def can_set_tokens(self) -> bool:
        """Whether the prompt's number of tokens can be chosen."""
        return any(True for _ in self._tokenizers())

    def _tokenizers(self) -> Iterator[Any]:
        for part in self.pipe.components.values():
            for tokenizer in (part, getattr(part, "tokenizer", None)):
                if hasattr(tokenizer, "token_count"):
                    yield tokenizer

    def observe(self, **point: Any) -> Observation:
        """The dry run at a point.

        Raises:
            DiffmeterError: the pipeline does not run there.
        """
        key = tuple(sorted(point.items()))
        if key not in self._known:
            try:
                self._known[key] = self._observe(point)
            except DiffmeterError as error:
                self._known[key] = error
        found = self._known[key]
        if isinstance(found, DiffmeterError):
            raise found
        return found

    def accepts(self, **point: Any) -> bool:
        """Whether the pipeline runs at a point."""
        try:
            self.observe(**point)
        except DiffmeterError:
            return False
        return True

    def _observe(self, point: Mapping[str, Any]) -> Observation:
        self.made += 1
        for tokenizer in self._tokenizers():
            tokenizer.token_count = point.get("tokens")
        arguments = {**self._arguments, **{n: v for n, v in point.items() if n not in ("tokens", "scheduler")}}
        own = getattr(self.pipe, "scheduler", None)
        try:
            if point.get("scheduler") is not None:
                self.pipe.scheduler = _scheduler(point["scheduler"], own)
            profile = self._runs.dry_run(**arguments) if self._runs is not None else run_dry(self.pipe, arguments)
        except DiffmeterError:
            raise
        except Exception as error:
            raise DiffmeterError(f"{type(error).__name__}: {error}") from error
        finally:
            if point.get("scheduler") is not None:
                self.pipe.scheduler = own
            for tokenizer in self._tokenizers():
                tokenizer.token_count = None
        return Observation.of(profile)

    def size_table(self) -> SizeTable | None:
        """The sizes that the pipeline chooses from, if it does; found by watching it choose once."""
        processor = next(
            (p for p in vars(self.pipe).values() if hasattr(p, "classify_height_width_bin")),
            None,
        )
        if processor is None or self.argument("height") is None:
            return None
        found: list[Mapping[str, Any]] = []
        original = processor.classify_height_width_bin

        def watched(height: int, width: int, ratios: Mapping[str, Any]) -> Any:
            found.append(ratios)
            return original(height, width, ratios=ratios)

        processor.classify_height_width_bin = watched
        try:
            self.observe(steps=2)
        finally:
            del processor.classify_height_width_bin
        if not found:
            return None
        return SizeTable(tuple((float(ratio), int(size[0]), int(size[1])) for ratio, size in found[0].items()))


def _scheduler(class_name: str, own: Any) -> Any:
    """Another scheduler with the configuration of the pipeline's own.

    Raises:
        DiffmeterError: diffusers has none of this name, or it does not take that configuration.
    """
    import diffusers

    cls = getattr(diffusers, class_name, None)
    if not (isinstance(cls, type) and issubclass(cls, diffusers.SchedulerMixin)):
        raise DiffmeterError(f"diffusers {diffusers.__version__} has no scheduler {class_name!r}.")
    try:
        return cls.from_config(own.config)
    except Exception as error:
        raise DiffmeterError(f"{class_name} does not take this configuration: {error}") from error
