"""A model's cost as a formula: read from a file, evaluated exactly, without PyTorch.

A :class:`Formula` has a :class:`Case` for each way of running that changes which calls are made or what they get
(guidance on or off, the prompt's length given or not). A case says where it holds, which calls there are, what each
costs as polynomials, and in which order they are made.
"""

from __future__ import annotations

import difflib
import json
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any

from diffmeter.errors import InputError
from diffmeter.profile import CallProfile, ComponentProfile, ComputeProfile, Conditions, TimelineEntry

from .domain import WORDS, Length, Range, SizeTable, latex_name
from .polynomial import Polynomial
from .program import Program, Segment

SCHEMA_VERSION = "1.0"
#: names by which pipelines know the quantities of the vocabulary
OTHER_NAMES = {
    "num_inference_steps": "steps",
    "num_images_per_prompt": "batch",
    "num_videos_per_prompt": "batch",
    "batch_size": "batch",
    "true_cfg_scale": "guidance_scale",
    "max_guidance_scale": "guidance_scale",
    "video_length": "num_frames",
    "token_count": "tokens",
}
#: op classes that are products with a weight on one side
_WEIGHT_CLASSES = ("conv", "linear")
#: the sums that a formula is asked for
QUANTITIES = ("matmul_macs", "matmul_macs_without_attention", "total_macs")


@dataclass(frozen=True)
class CallFormula:
    """One kind of call of a component, as polynomials in the lengths of its case.

    Attributes:
        macs_by_op: by op class; their sum is ``total_macs``.
        op_level: by dispatched operator; their sum is ``matmul_macs``.
        shapes: sizes of each tensor argument; ``output_shape``: of the first tensor that comes back.
    """

    component: str
    method: str
    macs_by_op: Mapping[str, Polynomial]
    op_level: Mapping[str, Polynomial]
    shapes: Mapping[str, tuple[Polynomial, ...]]
    dtypes: Mapping[str, str]
    output_shape: tuple[Polynomial, ...] | None = None

    @cached_property
    def matmul_macs(self) -> Polynomial:
        """Convolutions, linear layers, matrix products and both attention products."""
        return sum(self.op_level.values(), Polynomial())

    @cached_property
    def matmul_macs_without_attention(self) -> Polynomial:
        """Convolutions and linear layers."""
        return sum((macs for name, macs in self.macs_by_op.items() if name in _WEIGHT_CLASSES), Polynomial())

    @cached_property
    def total_macs(self) -> Polynomial:
        """The default convention: thop's rules for modules plus attention with its softmax."""
        return sum(self.macs_by_op.values(), Polynomial())

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "component": self.component,
            "method": self.method,
            "macs_by_op": {name: macs.text() for name, macs in self.macs_by_op.items()},
            "op_level": {name: macs.text() for name, macs in self.op_level.items()},
            "shapes": {name: [size.text() for size in shape] for name, shape in self.shapes.items()},
            "dtypes": dict(self.dtypes),
            "output_shape": None if self.output_shape is None else [size.text() for size in self.output_shape],
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> CallFormula:
        """Read what :meth:`to_dict` wrote."""
        return cls(
            component=data["component"],
            method=data["method"],
            macs_by_op=_polynomials(data["macs_by_op"]),
            op_level=_polynomials(data["op_level"]),
            shapes={name: tuple(map(Polynomial.parse, shape)) for name, shape in data["shapes"].items()},
            dtypes=data["dtypes"],
            output_shape=None if data["output_shape"] is None else tuple(map(Polynomial.parse, data["output_shape"])),
        )


def _polynomials(data: Mapping[str, str]) -> dict[str, Polynomial]:
    return {name: Polynomial.parse(text) for name, text in data.items()}


@dataclass(frozen=True)
class Proof:
    """Where a case was interpolated, and where it was compared with dry runs that the interpolation did not use."""

    interpolated: tuple[Mapping[str, Any], ...]
    proved: tuple[Mapping[str, Any], ...]
    coefficients: int

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "coefficients": self.coefficients,
            "interpolated": [dict(point) for point in self.interpolated],
            "proved": [dict(point) for point in self.proved],
        }


@dataclass(frozen=True)
class Case:
    """One way of running, and where its polynomials hold.

    Attributes:
        guidance: lowest and highest guidance scale; None for a pipeline without one.
        tokens: whether the prompt's number of tokens is given; None where it does not matter.
        ranges: what each quantity may be.
        sizes: the sizes that the pipeline computes at, where it does not compute at every size that is asked for.
        programs: the order of the calls for each scheduler.
        steps_run: steps that the denoiser makes, of the number asked for, for each scheduler.
    """

    guidance: tuple[float, float] | None
    tokens: bool | None
    ranges: Mapping[str, Range]
    sizes: SizeTable | None
    lengths: tuple[Length, ...]
    calls: tuple[CallFormula, ...]
    programs: Mapping[str, Program]
    steps_run: Mapping[str, Length]
    input_shape: tuple[Polynomial, ...] | None
    latent_shape: tuple[Polynomial, ...] | None
    denoiser_batch: Polynomial | None
    proof: Proof

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "guidance": None if self.guidance is None else list(self.guidance),
            "tokens": self.tokens,
            "ranges": {name: allowed.to_list() for name, allowed in self.ranges.items()},
            "sizes": None if self.sizes is None else self.sizes.to_list(),
            "lengths": [length.to_dict() for length in self.lengths],
            "calls": [call.to_dict() for call in self.calls],
            "programs": {name: [s.to_dict() for s in program.segments] for name, program in self.programs.items()},
            "steps_run": {name: length.to_dict() for name, length in self.steps_run.items()},
            "input_shape": _texts(self.input_shape),
            "latent_shape": _texts(self.latent_shape),
            "denoiser_batch": None if self.denoiser_batch is None else self.denoiser_batch.text(),
            "proof": self.proof.to_dict(),
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Case:
        """Read what :meth:`to_dict` wrote.

        Raises:
            InputError: it was proved on fewer points than it has coefficients.
        """
        proof = Proof(
            tuple(data["proof"]["interpolated"]), tuple(data["proof"]["proved"]), data["proof"]["coefficients"]
        )
        if len(proof.proved) < proof.coefficients or _most_terms(data) > proof.coefficients:
            raise InputError(
                f"This formula has a broken proof: {len(proof.proved)} points for "
                f"{max(proof.coefficients, _most_terms(data))} coefficients."
            )
        guidance, batch = data["guidance"], data["denoiser_batch"]
        return cls(
            guidance=None if guidance is None else (guidance[0], guidance[1]),
            tokens=data["tokens"],
            ranges={name: Range(*allowed) for name, allowed in data["ranges"].items()},
            sizes=None if data["sizes"] is None else SizeTable.from_list(data["sizes"]),
            lengths=tuple(map(Length.from_dict, data["lengths"])),
            calls=tuple(map(CallFormula.from_dict, data["calls"])),
            programs={
                name: Program(tuple(map(Segment.from_dict, segments))) for name, segments in data["programs"].items()
            },
            steps_run={name: Length.from_dict(length) for name, length in data["steps_run"].items()},
            input_shape=_shape(data["input_shape"]),
            latent_shape=_shape(data["latent_shape"]),
            denoiser_batch=None if batch is None else Polynomial.parse(batch),
            proof=proof,
        )

    def holds_for(self, guidance: float | None, tokens_given: bool) -> bool:
        """Whether this is the case of a call."""
        if self.guidance is not None and (guidance is None or not self.guidance[0] <= guidance <= self.guidance[1]):
            return False
        return self.tokens is None or self.tokens == tokens_given

    def computed_size(self, values: Mapping[str, Any]) -> tuple[int | None, int | None]:
        """Height and width that the pipeline computes at."""
        height, width = values.get("height"), values.get("width")
        return (height, width) if self.sizes is None or height is None else self.sizes(height, values["width"])

    def lengths_at(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """The value of each length, and of each quantity that a polynomial may name."""
        found = {name: value for name, value in values.items() if name not in ("guidance_scale", "scheduler")}
        if self.sizes is not None:
            found["height"], found["width"] = _each_size(self.sizes, values["height"], values["width"])
        for length in self.lengths:
            found[length.name] = length(found)
        return found

    def calls_in_order(
        self, scheduler: str, steps: int
    ) -> tuple[list[int], dict[int, int], tuple[TimelineEntry, ...]]:
        """The calls that are made with so many steps, how often, and every one in its place."""
        key = (scheduler, steps)
        if key not in self._orders:
            program = self.programs[scheduler]
            counts = program.counts(steps)
            order = [index for index in range(len(self.calls)) if counts.get(index)]
            made: dict[str, int] = {}
            places: dict[int, int] = {}
            for index in order:
                component = self.calls[index].component
                places[index] = made[component] = made.get(component, -1) + 1
            timeline = tuple(
                TimelineEntry(self.calls[index].component, places[index], step, 0, None)
                for index, step in program.unrolled(steps)
            )
            self._orders[key] = order, counts, timeline
        return self._orders[key]

    @cached_property
    def _orders(self) -> dict[tuple[str, int], tuple[list[int], dict[int, int], tuple[TimelineEntry, ...]]]:
        return {}

    def repeats(self, scheduler: str) -> list[Length]:
        """The different numbers of repeats that are no polynomial in the number of steps, in order."""
        found: dict[str, Length] = {}
        for segment in self.programs[scheduler].segments:
            if segment.repeats.divide > 1:
                found[segment.repeats.name] = segment.repeats
        return list(found.values())

    def made(self, scheduler: str) -> dict[int, Polynomial]:
        """How often each call is made, as a polynomial in the steps, or in the repeats where they are rounded."""
        found: dict[int, Polynomial] = {}
        for segment in self.programs[scheduler].segments:
            repeats = segment.repeats
            if repeats.divide > 1:
                count = Polynomial.variable(repeats.name)
            else:
                count = repeats.times * Polynomial.variable("steps") + repeats.shift
            for slot in segment.slots:
                found[slot.call] = found.get(slot.call, Polynomial()) + count
        return found

    def total(self, quantity: str, scheduler: str, component: str | None = None) -> Polynomial:
        """``matmul_macs``, ... or ``calls`` of a whole generation, of one component or of all."""
        total = Polynomial()
        for index, count in self.made(scheduler).items():
            call = self.calls[index]
            if component in (None, call.component):
                total = total + (count if quantity == "calls" else count * getattr(call, quantity))
        return total


def _most_terms(data: Mapping[str, Any]) -> int:
    return max(
        (
            text.count(" + ") + text.count(" - ") + 1
            for call in data["calls"]
            for part in ("macs_by_op", "op_level")
            for text in call[part].values()
        ),
        default=0,
    )


def _each_size(sizes: SizeTable, height: Any, width: Any) -> tuple[Any, Any]:
    if isinstance(height, int) and isinstance(width, int):
        return sizes(height, width)
    import numpy as np

    found = np.vectorize(lambda h, w: sizes(int(h), int(w)), otypes=[np.int64, np.int64])(height, width)
    return found[0], found[1]


def _texts(shape: Iterable[Polynomial] | None) -> list[str] | None:
    return None if shape is None else [size.text() for size in shape]


def _shape(texts: Iterable[str] | None) -> tuple[Polynomial, ...] | None:
    return None if texts is None else tuple(map(Polynomial.parse, texts))


@dataclass(frozen=True)
class Part:
    """What is known of a component beside its calls."""

    class_name: str
    params: int
    dtype: str | None


class Cost:
    """One quantity of a generation (or of one component's part in it): a function of what a user sets.

    >>> formula.components["unet"].matmul_macs(height=768, width=768, steps=20)
    >>> formula.components["unet"].matmul_macs.latex()
    """

    def __init__(self, formula: Formula, quantity: str, component: str | None = None) -> None:
        self.formula = formula
        self.quantity = quantity
        self.component = component

    def __call__(self, **given: Any) -> Any:
        """Its exact value: an integer, or a NumPy array where an argument is one.

        Raises:
            InputError: a name that is unknown, or a value outside the formula's domain.
        """
        return self.formula.evaluate(self.quantity, given, self.component)

    def polynomial(self, **given: Any) -> Polynomial:
        """The polynomial of the case that holds for these settings (by default: the model's own)."""
        case, scheduler = self.formula.case_for(given)
        return case.total(self.quantity, scheduler, self.component)

    def where(self, **given: Any) -> tuple[Length, ...]:
        """The lengths that occur in :meth:`polynomial`, as functions of height, width, steps and so on."""
        case, scheduler = self.formula.case_for(given)
        needed = set(case.total(self.quantity, scheduler, self.component).variables)
        listed = [*case.lengths, *case.repeats(scheduler)]
        for length in reversed(listed):
            if length.name in needed:
                needed |= set(length.of)
        return tuple(length for length in listed if length.name in needed)

    def text(self, **given: Any) -> str:
        """The polynomial as text, with a line for each length."""
        lines = [self.polynomial(**given).text()]
        lines += [f"{length.name} = {length.text()}" for length in self.where(**given)]
        return "\n  ".join(lines)

    def latex(self, **given: Any) -> str:
        """The polynomial for a paper, followed by what its letters stand for."""
        polynomial, where = self.polynomial(**given), self.where(**given)
        names = {name: latex_name(name) for name in polynomial.variables}
        shown = polynomial.latex(names)
        if not where:
            return shown
        definitions = ",\\; ".join(f"{latex_name(length.name)} = {length.latex()}" for length in where)
        return rf"{shown} \quad\text{{where}}\quad {definitions}"

    def __str__(self) -> str:
        return self.text()


class ComponentFormula:
    """A component's part in a generation, each quantity a :class:`Cost`; ``calls`` is how often it is entered."""

    def __init__(self, formula: Formula, name: str) -> None:
        part = formula.parts[name]
        self.name, self.class_name, self.params, self.dtype = name, part.class_name, part.params, part.dtype
        self.matmul_macs = Cost(formula, "matmul_macs", name)
        self.matmul_macs_without_attention = Cost(formula, "matmul_macs_without_attention", name)
        self.total_macs = Cost(formula, "total_macs", name)
        self.calls = Cost(formula, "calls", name)


@dataclass(frozen=True)
class Formula:
    """The exact cost of one pipeline, at every size, number of steps, guidance and batch of its domain.

    Attributes:
        name: of the model, short, for tables and messages.
        defaults: value of each quantity where none is given; the quantities that are not in it are no arguments.
        guidance_argument: the argument of the pipeline's call that takes the guidance.
        parts: the components, those that are never called included.
        conditions: of the default run that it was derived from, as in a profile: model, pipeline, ...
    """

    name: str
    defaults: Mapping[str, Any]
    guidance_argument: str | None
    parts: Mapping[str, Part]
    denoisers: tuple[str, ...]
    cases: tuple[Case, ...]
    conditions: Mapping[str, Any]

    @property
    def scheduler(self) -> str:
        """The model's own scheduler; empty for a pipeline without one."""
        return self.conditions["scheduler"] or ""

    @property
    def versions(self) -> Mapping[str, str]:
        """Of diffmeter and the libraries that it was derived with."""
        found: Mapping[str, str] = self.conditions["versions"]
        return found

    # what is asked for

    @cached_property
    def components(self) -> dict[str, ComponentFormula]:
        """The components by name, those that are never called included."""
        return {name: ComponentFormula(self, name) for name in self.parts}

    @cached_property
    def matmul_macs(self) -> Cost:
        """Products of a whole generation, from true shapes."""
        return Cost(self, "matmul_macs")

    @cached_property
    def matmul_macs_without_attention(self) -> Cost:
        """Convolutions and linear layers of a whole generation."""
        return Cost(self, "matmul_macs_without_attention")

    @cached_property
    def total_macs(self) -> Cost:
        """A whole generation in the default convention."""
        return Cost(self, "total_macs")

    @property
    def params(self) -> int:
        """Parameters of all components."""
        return sum(part.params for part in self.parts.values())

    # from what is given to a case and its lengths

    def arguments_of(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """Every quantity by its name in the vocabulary, defaults filled in.

        Raises:
            InputError: a name that the formula does not have, with the nearest one.
        """
        values: dict[str, Any] = dict(self.defaults)
        for name, value in given.items():
            known = OTHER_NAMES.get(name, name)
            if known == "scheduler":
                continue
            if known not in self.defaults:
                near = difflib.get_close_matches(name, [*self.defaults, *OTHER_NAMES], n=1)
                hint = f"did you mean {near[0]!r}?" if near else f"it has {', '.join(self.defaults)}."
                if name in WORDS:
                    hint = f"it has {', '.join(self.defaults)}."
                raise InputError(f"The formula of {self.name} has no {name!r}; {hint}")
            if value is not None:
                values[known] = value
        return values

    def case_for(self, given: Mapping[str, Any]) -> tuple[Case, str]:
        """The case that holds for what is given, and the scheduler. Guidance is one number here.

        Raises:
            InputError: there is none.
        """
        values = self.arguments_of(given)
        guidance = _number(values.get("guidance_scale"))
        scheduler = self._scheduler(given.get("scheduler"))
        for case in self.cases:
            if case.holds_for(guidance, values.get("tokens") is not None) and scheduler in case.programs:
                return case, scheduler
        spans = sorted({case.guidance for case in self.cases if case.guidance is not None})
        allowed = " or ".join(f"from {low:g} to {high:g}" for low, high in spans)
        raise InputError(f"The formula of {self.name} holds for a guidance scale {allowed}, not for {guidance!r}.")

    def _scheduler(self, wanted: str | None) -> str:
        if wanted is None:
            return self.scheduler
        known = list(dict.fromkeys(name for case in self.cases for name in case.programs))
        for name in known:
            if wanted in (name, name.removesuffix("Scheduler")):
                return name
        raise InputError(f"The formula of {self.name} knows no scheduler {wanted!r}; it knows {', '.join(known)}.")

    def _checked(self, case: Case, values: Mapping[str, Any]) -> None:
        for name, allowed in case.ranges.items():
            if values.get(name) is not None:
                allowed.check(name, values[name], self.name)

    def evaluate(self, quantity: str, given: Mapping[str, Any], component: str | None = None) -> Any:
        """A quantity of :data:`QUANTITIES`, or ``calls``, of one component or of all.

        Raises:
            InputError: as :class:`Cost`.
        """
        if any(hasattr(value, "ravel") for value in given.values()):
            return self._on_arrays(quantity, given, component)
        values = _plain(self.arguments_of(given))
        case, scheduler = self.case_for({**values, "scheduler": given.get("scheduler")})
        self._checked(case, values)
        return self._sum(case, scheduler, values, quantity, component)

    def _sum(self, case: Case, scheduler: str, values: Mapping[str, Any], quantity: str, component: str | None) -> Any:
        found = case.lengths_at(values)
        for length in case.repeats(scheduler):
            found[length.name] = length(found)
        return _total(case, quantity, scheduler, component)(**found)

    def _on_arrays(self, quantity: str, given: Mapping[str, Any], component: str | None) -> Any:
        import numpy as np

        values = {name: value for name, value in self.arguments_of(given).items() if value is not None}
        shape = np.broadcast_shapes(*(np.shape(value) for value in values.values()))
        flat = {name: np.broadcast_to(np.asarray(value), shape).ravel() for name, value in values.items()}
        size = math.prod(shape)
        result: Any = np.zeros(size, dtype=object)
        guidance = flat.get("guidance_scale", np.zeros(size))
        for scale in np.unique(guidance):
            settings = {"scheduler": given.get("scheduler")}
            if "guidance_scale" in flat:
                settings["guidance_scale"] = scale.item()
            if "tokens" in flat:
                settings["tokens"] = 1
            case, scheduler = self.case_for(settings)
            chosen = guidance == scale
            part = {name: array[chosen] for name, array in flat.items() if name != "guidance_scale"}
            self._checked(case, part)
            result[chosen] = self._sum(case, scheduler, part, quantity, component)
        if all(abs(value) < 1 << 63 for value in result):
            result = result.astype(np.int64)
        return result.reshape(shape)

    # a whole profile

    def profile(self, **given: Any) -> ComputeProfile:
        """The profile of one generation, as a dry run would give it.

        Raises:
            InputError: a name that is unknown, or a value outside the formula's domain.
        """
        values = _plain(self.arguments_of(given))
        case, scheduler = self.case_for({**values, "scheduler": given.get("scheduler")})
        self._checked(case, values)
        lengths = case.lengths_at(values)
        order, counts, timeline = case.calls_in_order(scheduler, values["steps"])
        components: dict[str, ComponentProfile] = {}
        for name, part in self.parts.items():
            mine = [case.calls[index] for index in order if case.calls[index].component == name]
            counted = [counts[index] for index in order if case.calls[index].component == name]
            calls = tuple(_profiled(call, count, lengths) for call, count in zip(mine, counted, strict=True))
            components[name] = ComponentProfile(name, part.class_name, part.params, calls, part.dtype)
        return ComputeProfile(
            components=components,
            denoisers=self.denoisers,
            conditions=self._conditions(case, scheduler, values, lengths),
            steps_run=case.steps_run[scheduler](values) or None,
            input_shape=_sizes(case.input_shape, lengths),
            latent_shape=_sizes(case.latent_shape, lengths),
            timeline=timeline,
        )

    def _conditions(
        self, case: Case, scheduler: str, values: Mapping[str, Any], lengths: Mapping[str, Any]
    ) -> Conditions:
        arguments = dict(self.conditions["arguments"])
        for name, value in values.items():
            own = self.guidance_argument if name == "guidance_scale" else _own_name(name, arguments)
            if own in arguments and value is not None:
                arguments[own] = value
        height, width = case.computed_size(values)
        image = _sizes(case.input_shape, lengths)
        if image is not None and len(image) >= 4:
            height, width = image[-2:]
        known = {field.name for field in fields(Conditions)}
        kept = {name: value for name, value in self.conditions.items() if name in known}
        if values.get("tokens") is not None and "tokens" in kept.get("estimated", {}):
            kept["estimated"] = {what: how for what, how in kept["estimated"].items() if what != "tokens"}
        return Conditions(
            **{
                **kept,
                "height": height,
                "width": width,
                "num_inference_steps": values["steps"],
                "guidance_scale": values.get("guidance_scale"),
                "batch": None if case.denoiser_batch is None else case.denoiser_batch.at(lengths),
                "scheduler": scheduler or None,
                "arguments": arguments,
            }
        )

    # to and from JSON

    def to_dict(self) -> dict[str, Any]:
        """For JSON: coefficients as text, since they outgrow what most readers of JSON keep exactly."""
        return {
            "schema_version": SCHEMA_VERSION,
            "name": self.name,
            "defaults": dict(self.defaults),
            "guidance_argument": self.guidance_argument,
            "parts": {name: asdict(part) for name, part in self.parts.items()},
            "denoisers": list(self.denoisers),
            "conditions": dict(self.conditions),
            "cases": [case.to_dict() for case in self.cases],
        }

    @classmethod
    def from_dict(cls, data: Any) -> Formula:
        """Read what :meth:`to_dict` wrote.

        Raises:
            InputError: it is no formula, one of another schema, or one whose proof is broken.
        """
        version = str(data.get("schema_version")) if isinstance(data, Mapping) else None
        if version is None or version.split(".")[0] != SCHEMA_VERSION.split(".")[0]:
            raise InputError(f"This is no formula of schema {SCHEMA_VERSION}: its schema_version is {version!r}.")
        try:
            return cls(
                name=data["name"],
                defaults=data["defaults"],
                guidance_argument=data["guidance_argument"],
                parts={name: Part(**part) for name, part in data["parts"].items()},
                denoisers=tuple(data["denoisers"]),
                cases=tuple(map(Case.from_dict, data["cases"])),
                conditions=data["conditions"],
            )
        except (KeyError, TypeError, AttributeError, ValueError, IndexError) as error:
            if isinstance(error, InputError):
                raise
            raise InputError(f"This formula is not whole: {type(error).__name__} {error}.") from error

    @classmethod
    def load(cls, path: str | Path) -> Formula:
        """Read a file that :meth:`save` wrote.

        Raises:
            InputError: it cannot be read, or holds no formula.
        """
        try:
            data = json.loads(Path(path).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise InputError(f"The formula {str(path)!r} cannot be read: {error}.") from error
        return cls.from_dict(data)

    def save(self, path: str | Path) -> None:
        """Write it as JSON, replacing the file in one go."""
        from diffmeter.storage.files import write_text

        write_text(path, json.dumps(self.to_dict(), indent=1, ensure_ascii=False) + "\n")

    def to_javascript(self) -> str:
        """A JavaScript module without dependencies; see :mod:`diffmeter.formulas.export`."""
        from .export import javascript

        return javascript(self)

    def to_python(self) -> str:
        """A Python module without dependencies; see :mod:`diffmeter.formulas.export`."""
        from .export import python

        return python(self)

    def text(self) -> str:
        """The domain, and the generation's cost by component, as text."""
        from .describe import described

        return described(self)

    def __str__(self) -> str:
        return self.text()


_TOTALS: dict[tuple[int, str, str, str | None], tuple[Case, Polynomial]] = {}


def _total(case: Case, quantity: str, scheduler: str, component: str | None) -> Polynomial:
    key = (id(case), quantity, scheduler, component)
    found = _TOTALS.get(key)
    if found is None or found[0] is not case:
        found = _TOTALS[key] = (case, case.total(quantity, scheduler, component))
    return found[1]


def _profiled(call: CallFormula, count: int, lengths: Mapping[str, Any]) -> CallProfile:
    macs_by_op = {name: value for name, macs in call.macs_by_op.items() if (value := macs.at(lengths))}
    op_level = {name: macs.at(lengths) for name, macs in call.op_level.items()}
    shapes = {name: [size.at(lengths) for size in shape] for name, shape in call.shapes.items()}
    first = next(iter(shapes.values()), [])
    output = _sizes(call.output_shape, lengths)
    return CallProfile(
        method=call.method,
        count=count,
        batch=first[0] if first else None,
        shapes=shapes,
        dtypes=dict(call.dtypes),
        matmul_macs=sum(op_level.values()),
        matmul_macs_without_attention=sum(macs for name, macs in macs_by_op.items() if name in _WEIGHT_CLASSES),
        total_macs=sum(macs_by_op.values()),
        macs_by_op=macs_by_op,
        op_level=op_level,
        counted="formula",
        output_shape=None if output is None else list(output),
    )


def _sizes(shape: Iterable[Polynomial] | None, lengths: Mapping[str, Any]) -> tuple[int, ...] | None:
    return None if shape is None else tuple(size.at(lengths) for size in shape)


def _own_name(name: str, arguments: Mapping[str, Any]) -> str:
    return next((own for own, known in OTHER_NAMES.items() if known == name and own in arguments), name)


def _number(value: Any) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise InputError(f"The guidance scale must be a finite number, not {value!r}.")
    return float(value)


def _plain(values: Mapping[str, Any]) -> dict[str, Any]:
    """NumPy's numbers as Python's."""
    item: Callable[[Any], Any] = lambda value: value.item() if hasattr(value, "item") else value  # noqa: E731
    return {name: item(value) for name, value in values.items()}
