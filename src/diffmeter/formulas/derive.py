"""From dry runs to a formula: points are chosen, observed, interpolated over the rationals, and proved elsewhere.

The quantities of a call (MACs by kind, sizes of its arguments) are polynomials in lengths such as
``height // 16``. Which lengths is found by looking where a call changes as one quantity grows. For each number the
simplest family of terms is taken that goes through every observed point. Then fresh points, among them the smallest
and the largest of the domain and the model's defaults, are dry-run at random steps and compared call by call: there
must be at least as many of them as the formula has coefficients, and a single difference ends the derivation.
"""

from __future__ import annotations

import dataclasses
import itertools
import logging
import math
import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from diffmeter.errors import DiffmeterError, InputError

from .domain import Length, Range
from .evaluate import CallFormula, Case, Formula, Part, Proof
from .fit import Interpolation
from .observations import Key, Observation, Observer, Point, Seen
from .polynomial import Monomial, Polynomial
from .program import Program, Segment, Slot, law

logger = logging.getLogger(__name__)

#: steps of the runs that are interpolated: the first number with which something is repeated
_STEPS = (8, 20, 40)
#: numbers of steps from which the number of calls is found; a formula holds up to the last one
_STEP_COUNTS = (1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 13, 16, 20, 25, 28, 30, 50, 100)
#: numbers of steps on which the order that was found is checked
_CHECKED_STEPS = (11, 37)
#: guidance scales that are told apart; a case begins or ends only at neighbors
_GUIDANCE = (0.0, math.nextafter(0.0, 1.0), 0.5, 1.0, math.nextafter(1.0, 2.0), 7.5, 100.0)
_SIDES = (4096, 3072, 2560, 2048, 1536, 1280, 1024, 768, 512, 256, 128, 96, 64, 32)
_BATCHES = (64, 16, 4, 3)


#: points beyond the coefficients that an interpolation is checked on before fresh ones prove it
_SLACK = 6


class _NoFitError(DiffmeterError):
    """No family of terms that the observed points can tell apart goes through them."""


@dataclass
class Axis:
    """One quantity: what it may be, and the lengths that calls depend on. ``usual`` bounds the cheap points."""

    name: str
    allowed: Range
    lengths: list[Length]
    usual: int

    def draw(self, rng: random.Random, most: int | None = None) -> int:
        """A random value that is cheap to run."""
        modulus = self.allowed.modulus
        high = max(self.allowed.low, min(self.allowed.high, most or self.usual))
        return rng.randint(-(-self.allowed.low // modulus), high // modulus) * modulus


def derive(
    source: Any,
    *,
    name: str | None = None,
    schedulers: Sequence[str] = (),
    seed: int = 0,
    largest: int = 4096,
    **arguments: Any,
) -> Formula:
    """The formula of a pipeline.

    Args:
        source: a loaded pipeline, or the id or folder of a model; nothing heavy is computed and no weight is read.
        name: what it is called in messages and tables.
        schedulers: classes of diffusers, beside the model's own, for which the number of calls is wanted as well. One
            that makes other calls than the model's own, or cannot do as few steps, is left out.
        seed: of the random points.
        largest: side in pixels that the formula need not go beyond; smaller is quicker.
        arguments: further arguments of the pipeline's call, the same at every point.

    Raises:
        DiffmeterError: the pipeline does not run, is not counted whole, or no polynomial of the known families fits.
    """
    observer = Observer(source, arguments)
    default = observer.observe()
    axes = _Axes(observer, default, largest, schedulers)
    cases: list[Case] = []
    spans = _guidance_cases(observer, axes)
    for tokens in axes.token_cases():
        tried: list[Point] = []
        first = 1
        for guidance, scale in spans:
            logger.info("%s: guidance %s, tokens %s, %d dry runs so far", name, guidance, tokens, observer.made)
            fixed = {} if scale is None else {"guidance_scale": scale}
            share = axes.denoiser_batch(**fixed)
            # With guidance, the denoiser mostly gets the batch twice: points are chosen where it was counted before.
            again = [{**point, "batch": first * point["batch"] // share} for point in tried]
            derivation = _Derivation(observer, axes, guidance, scale, tokens, random.Random(seed), again)
            cases.append(derivation.case())
            if not tried:
                tried, first = derivation.drawn, share
    profile, entry = default.profile, observer.entry
    conditions = dataclasses.asdict(profile.conditions)
    del conditions["versions"]["python"]
    conditions["kind"] = "formula"
    if entry is not None:
        conditions["model_id"], name = entry.model_id, name or entry.name
    return Formula(
        name=name or conditions["model_id"] or conditions["pipeline"],
        defaults=axes.defaults,
        guidance_argument=observer.argument("guidance_scale"),
        parts={n: Part(c.class_name, c.params, c.dtype) for n, c in profile.components.items()},
        denoisers=profile.denoisers,
        cases=tuple(cases),
        conditions=conditions,
    )


# the quantities and their lengths ------------------------------------------------------------------------------------


class _Axes:
    """What a pipeline can be asked for, where it accepts it, and at which values its calls change."""

    def __init__(self, observer: Observer, default: Observation, largest: int, schedulers: Sequence[str] = ()) -> None:
        self.observer = observer
        self.schedulers = tuple(schedulers)
        self._largest = largest
        conditions = default.profile.conditions
        self.defaults: dict[str, Any] = {"steps": conditions.num_inference_steps}
        if observer.argument("guidance_scale") is not None and conditions.guidance_scale is not None:
            self.defaults["guidance_scale"] = conditions.guidance_scale
        self.sizes = observer.size_table()
        self.base: Point = {"steps": 1}
        self.axes: dict[str, Axis] = {}
        self.token_axis: Axis | None = None
        given = conditions.arguments
        if observer.argument("height") is not None:
            self._start_size(given, conditions.height, conditions.width)
        self.base["steps"] = next(n for n in _STEPS if n == _STEPS[-1] or self._repeats(n))
        if "height" in self.defaults:
            self._add_size()
        frames = observer.argument("num_frames")
        if frames is not None and isinstance(given.get(frames), int):
            self._add_frames(given[frames])
        self._add_batch()
        self._add_text(given)

    def denoiser_batch(self, **point: Any) -> int:
        """How many images the denoiser gets for one."""
        return self.observer.observe(**{**self.base, **point}).profile.conditions.denoiser_batch or 1

    def token_cases(self) -> list[bool | None]:
        """Whether tokens are given, as far as it matters."""
        return [None] if self.token_axis is None else [False, True]

    # sizes

    def _repeats(self, steps: int) -> bool:
        return any(repeats > 1 for _, repeats in self.observer.observe(**{**self.base, "steps": steps}).folded.parts)

    def _start_size(self, given: Mapping[str, Any], height: int | None, width: int | None) -> None:
        height, width = given.get("height") or height, given.get("width") or width
        if isinstance(height, int) and isinstance(width, int):
            self.defaults |= {"height": height, "width": width}
            self.base |= {"height": height, "width": width}

    def _add_size(self) -> None:
        height, width = self.defaults["height"], self.defaults["width"]
        if self.sizes is not None:
            rows = self.sizes.rows
            unit = math.gcd(*(side for row in rows for side in row[1:]))
            modulus = self._modulus(height, width)
            for side, short in (("height", "y"), ("width", "x")):
                length = Length(short, (side,), 1, 0, unit)
                self.axes[side] = Axis(side, Range(64, 4096, modulus), [length], 2048)
            self.base |= {"height": height, "width": width}
            return
        start = next((s for s in (256, 512) if s <= max(height, width) and self._runs(s, s)), None)
        base_height, base_width = (start, start) if start else (height, width)
        modulus, length = self._stride(base_height, base_width)
        self.base |= {"height": base_height, "width": base_width}
        usual_calls = self._program_at(height=base_height, width=base_width)
        # An eighth of the model's own size: nobody asks for less, and at single cells other kernels are dispatched.
        cell = math.lcm(modulus, length.divide)
        low = -(-min(height, width) // (8 * cell)) * cell
        while low < base_height and self._program_at(height=low, width=low) != usual_calls:
            low *= 2
        sides = [side for side in (*_SIDES, base_height) if side % modulus == 0 and side <= max(self._largest, low)]
        high = next((side for side in sides if self._runs(side, side)), base_height)
        usual = min(high, 1024 if self.observer.argument("num_frames") is None else 384)
        for side, short in (("height", "y"), ("width", "x")):
            unit = length.divide
            coarser = [unit << level for level in range(1, 5)]  # of a U-Net, whose levels round up
            levels = [Length(short, (side,), 1, length.shift, unit)]
            levels += [Length(f"{short}{i}", (side,), 1, cell - 1, cell) for i, cell in enumerate(coarser, 1)]
            self.axes[side] = Axis(side, Range(low, high, modulus), levels, usual)

    def _runs(self, height: int, width: int, **point: Any) -> bool:
        return self.observer.accepts(**{**self.base, "height": height, "width": width, **point})

    def _modulus(self, height: int, width: int) -> int:
        return next((d for d in (1, 2, 4, 8, 16, 32, 64) if self._runs(height + d, width)), 1)

    def _stride(self, height: int, width: int) -> tuple[int, Length]:
        """What must divide a height, and how the size that is computed follows from it."""
        seen = {0: self._at(height=height, width=width)}
        accepted: list[int] = []
        for d in (1, 2, 4, 8, 16, 32, 64, 128):
            seen[d] = self._at(height=height + d, width=width)
            if seen[d] is None:
                continue
            accepted.append(d)
            if seen[d] != seen[0]:
                break
        else:
            raise DiffmeterError("The pipeline computes the same at every height.")
        modulus, unit = accepted[0], accepted[-1]
        if unit > modulus:
            return modulus, Length("y", ("height",), 1, 0, unit)
        up = unit  # where the next pixel already takes a whole cell more: the size of that cell
        while up < 128 and self._at(height=height + 2 * up, width=width) == seen[unit]:
            up *= 2
        return modulus, Length("y", ("height",), 1, up - 1 if up > unit else 0, up)

    def _at(self, **point: Any) -> dict[str, tuple[Seen, ...]] | None:
        try:
            return self.observer.observe(**{**self.base, **point}).by_component
        except DiffmeterError:
            return None

    # frames, batch, text

    def _add_frames(self, default: int) -> None:
        self.defaults["num_frames"] = default
        first = next(f for f in (9, 8, 5, 4, 2, default) if self._at(num_frames=f) is not None)
        self.base["num_frames"] = first
        scan = {f: self._at(num_frames=f) for f in range(first, first + 9)}
        modulus = _step_of([f for f, calls in scan.items() if calls is not None])
        lengths = _lengths_of(scan, "num_frames", "f", doubled=True)
        low = next(f for f in range(1, first + 1) if f % modulus == first % modulus and self._at(num_frames=f))
        high = next(f for f in (241, 161, 121, 81, 49, 25, default, first) if f >= default and self._at(num_frames=f))
        self.axes["num_frames"] = Axis("num_frames", Range(low, high), lengths, min(high, first + 16))

    def _add_batch(self) -> None:
        self.defaults["batch"] = 1
        low = self._program_at(batch=1)
        high = 1
        if self._program_at(batch=2) == low and self._program_at(batch=3) == low:
            high = next(b for b in _BATCHES if self._program_at(batch=b) == low)
        self.axes["batch"] = Axis("batch", Range(1, high), [Length("b", ("batch",))], min(high, 3))

    def _program_at(self, **point: Any) -> Any:
        try:
            found = self.observer.observe(**{**self.base, **point})
        except DiffmeterError:
            return None
        return _program_shape(found)

    def _add_text(self, given: Mapping[str, Any]) -> None:
        limit = given.get("max_sequence_length")
        base = self._at()
        if self.observer.can_set_tokens:
            low, high = self._token_range(limit)
            if low is not None:
                self.defaults["tokens"] = None
                first = max(low, 4)
                lengths = _lengths_of(self._scan("tokens", first), "tokens", "t")
                self.token_axis = Axis("tokens", Range(low, high), lengths, min(high, first + 200))
        if isinstance(limit, int) and limit > 16:
            shorter = self._at(max_sequence_length=limit // 2)
            if shorter is not None and shorter != base:
                high = next(t for t in (512, limit) if self._at(max_sequence_length=t) is not None)
                self.defaults["max_sequence_length"] = limit
                self.axes["max_sequence_length"] = Axis(
                    "max_sequence_length",
                    Range(16, high),
                    _lengths_of(self._scan("max_sequence_length", 16), "max_sequence_length", "m"),
                    high,
                )

    def _scan(self, name: str, first: int) -> dict[int, dict[str, tuple[Seen, ...]] | None]:
        """The calls at consecutive values; over two whole blocks where something does not change with each value."""
        short = {v: self._at(**{name: v}) for v in range(first, first + 4)}
        moving = [name for name, calls in (short[first] or {}).items() if calls != (short[first + 3] or {}).get(name)]
        if all(len({(calls or {}).get(part) for calls in short.values()}) == 4 for part in moving) and moving:
            far = self._at(**{name: first + 40}) or {}
            if all(far.get(part) == calls or part in moving for part, calls in (short[first] or {}).items()):
                return short
        return {v: self._at(**{name: v}) for v in range(first, first + 70)}

    def _token_range(self, limit: Any) -> tuple[int | None, int]:
        """From the fewest to the most tokens that make a difference; None where none do."""
        top = limit if isinstance(limit, int) else 512
        usable = [t for t in (1, 2, 4, 8, 16, 36, 40, 64) if self._at(tokens=t) is not None]
        if not usable or self._at(tokens=64) == self._at(tokens=usable[0]):
            return None, 0
        low = usable[0]
        before = max((t for t in (0, 1, 2, 4, 8, 16, 36) if t < low), default=0)
        low = next(t for t in range(before + 1, low + 1) if self._at(tokens=t) is not None)
        # Where longer prompts are cut, one more token makes no difference any more.
        high, refused = top, 4 * top
        if self._at(tokens=top) == self._at(tokens=top + 1) or self._at(tokens=top + 1) is None:
            high, refused = 64, top + 1
            while refused - high > 1:
                middle = (high + refused) // 2
                if self._at(tokens=middle) is None or self._at(tokens=middle) == self._at(tokens=middle - 1):
                    refused = middle
                else:
                    high = middle
        return low, high


def _step_of(values: Sequence[int]) -> int:
    return math.gcd(*(b - a for a, b in itertools.pairwise(values))) if len(values) > 1 else 1


def _lengths_of(
    scan: Mapping[int, dict[str, tuple[Seen, ...]] | None], quantity: str, short: str, doubled: bool = False
) -> list[Length]:
    """The lengths of a quantity that components follow, from where their calls change as it grows by one."""
    found: dict[tuple[int, int], None] = {}
    values = [value for value, calls in scan.items() if calls is not None]
    for component in {name for calls in scan.values() if calls is not None for name in calls}:
        at = [(v, (scan[v] or {}).get(component)) for v in values]
        changes = [v for (_, before), (v, after) in itertools.pairwise(at) if before != after]
        if changes:
            period = _step_of(changes) if len(changes) > 1 else 1
            found[period, (-changes[0]) % period] = None
    ordered = sorted(found)
    if doubled:  # networks that halve the frames treat odd numbers of them differently
        ordered += [(2 * period, shift + extra) for period, shift in ordered for extra in (0, period)]
    return [
        Length(short if i == 0 else f"{short}{i}", (quantity,), 1, shift, period)
        for i, (period, shift) in enumerate(dict.fromkeys(ordered))
    ]


def _guidance_cases(observer: Observer, axes: _Axes) -> list[tuple[tuple[float, float] | None, float | None]]:
    """Spans of guidance scales in which the same calls are made, each with a scale inside."""
    default = axes.defaults.get("guidance_scale")
    if default is None:
        return [(None, None)]
    spans: list[tuple[float, float, Any]] = []
    for scale in sorted({*_GUIDANCE, default}):
        try:
            seen = observer.observe(**{**axes.base, "guidance_scale": scale}).sequence
        except DiffmeterError:
            continue
        if spans and spans[-1][2] == seen:
            spans[-1] = (spans[-1][0], scale, seen)
        else:
            spans.append((scale, scale, seen))
    return [((low, high), default if low <= default <= high else (low + high) / 2) for low, high, _ in spans]


# one case ------------------------------------------------------------------------------------------------------------


@dataclass
class _Family:
    """Terms to try for a number, with the lengths that they are made of."""

    lengths: list[Length]
    terms: list[Monomial]


class _Derivation:
    """Finds one case."""

    def __init__(
        self,
        observer: Observer,
        axes: _Axes,
        guidance: tuple[float, float] | None,
        scale: float | None,
        tokens: bool | None,
        rng: random.Random,
        tried: Sequence[Point] = (),
    ) -> None:
        self._tried = list(tried)
        self._even = 1 if tried else 2
        self.drawn: list[Point] = []
        self.observer = observer
        self.axes = axes
        self.guidance = guidance
        self.tokens = tokens
        self.rng = rng
        self.fixed: Point = {} if scale is None else {"guidance_scale": scale}
        self.scales = guidance
        self.active = dict(axes.axes)
        if tokens:
            assert axes.token_axis is not None
            self.active["tokens"] = axes.token_axis

    def case(self) -> Case:
        """Interpolate, prove, and retry with what contradicted."""
        families = list(self._families())
        pool: list[Point] = []
        wrong: list[Point] = []
        for size in sorted({len(family.terms) for family in families}):
            pool += self._pool(size + _SLACK - len(pool), pool)
            try:
                found = self._interpolated(pool, families)
            except _NoFitError as error:
                logger.info("%s", error)
                reason = str(error)
                continue
            for _ in range(3):
                wrong, proved = self._proved(found, pool)
                if not wrong:
                    return self._finished(found, pool, proved)
                pool += [point for point in wrong if point not in pool]
                try:
                    found = self._interpolated(pool, families)
                except _NoFitError as error:
                    reason = str(error)
                    break
        if wrong:
            raise DiffmeterError(f"No polynomial of a known family holds at {wrong[0]}.")
        raise DiffmeterError(reason)

    # points

    def _pool(self, count: int, known: Sequence[Point] = ()) -> list[Point]:
        """So many more random points, with the program of those that are known."""
        shape = _program_shape(self.observer.observe(**known[0])) if known else None
        found: list[Point] = []
        for _ in range(20 * count):
            if len(found) == count:
                break
            point = {**self.fixed, "steps": self.axes.base["steps"], **self._random_point()}
            if point in found or point in known:
                continue
            try:
                observation = self.observer.observe(**point)
            except DiffmeterError as error:
                logger.debug("no dry run at %s: %s", point, error)
                continue
            shape = shape or _program_shape(observation)
            if _program_shape(observation) == shape:
                found.append(point)
        return found

    def _random_point(self) -> Point:
        if self._tried:
            return self._tried.pop(0)
        point = {name: axis.draw(self.rng) for name, axis in self.active.items()}
        if point["batch"] * self._even <= self.active["batch"].allowed.high:
            point["batch"] *= self._even
        self.drawn.append(point)
        return point

    # families of terms, the simplest first

    def _families(self) -> Iterator[_Family]:
        sides = [self.active[side].lengths for side in ("height", "width")] if "height" in self.active else []
        rest = {n: axis.lengths for n, axis in self.active.items() if n not in ("height", "width")}
        frames, texts = rest.get("num_frames", []), [*rest.get("tokens", []), *rest.get("max_sequence_length", [])]
        plain = [[(y, x)] for y, x in zip(*sides, strict=True)][:1] if sides else [[]]
        first_frames = frames[:1]
        yield self._family(plain[0], first_frames, texts[:1])
        if len(texts) > 1:
            yield self._family(plain[0], first_frames, texts)
        if len(frames) > 1:
            yield self._family(plain[0], frames, texts)
        if sides:
            levels = list(zip(*sides, strict=True))
            for count in range(2, len(levels) + 1):
                yield self._family(levels[:count], first_frames, texts)
            y, x = sides[0][0], sides[1][0]
            for block in (32, 2, 4, 8, 16, 64, 128, 256):  # tokens that are padded in blocks
                padded = Length("s", (y.name, x.name), 1, block - 1, block)
                yield self._family(plain[0], first_frames, texts, padded)

    def _family(
        self,
        areas: Sequence[tuple[Length, Length]],
        frames: Sequence[Length],
        texts: Sequence[Length],
        padded: Length | None = None,
    ) -> _Family:
        sides = list(dict.fromkeys(length for pair in areas for length in pair))
        lengths = [*sides, *([padded] if padded else []), *frames, *texts]
        spaces = [_product(y.name, x.name) for y, x in areas] + ([_product(padded.name)] if padded else [])
        times, flat = [_product(length.name) for length in frames], [_product(length.name) for length in texts]
        volumes = [_times(space, time) for space in spaces for time in times] if times else spaces
        outer = [_product(length.name) for length in sides[:2]]  # of the tensors that calls get
        small = [(), *outer, *times, *dict.fromkeys([*spaces, *volumes]), *flat]
        # Attention is quadratic in what it spans: an area, all areas of a video, a pixel's frames, a text, or both.
        squares = [_times(space, space) for space in spaces]
        squares += [_times(text, text) for text in flat]
        joint = [_times(space, space, time) for space in spaces for time in times]
        joint += [_times(space, time, time) for space in spaces for time in times]
        joint += [_times(a, b) for a, b in itertools.combinations_with_replacement(volumes, 2)] if times else []
        joint += [_times(a, b) for a, b in itertools.combinations(spaces, 2) if padded is not None]
        joint += [_times(volume, text) for volume in volumes for text in flat]
        listed = list(dict.fromkeys([*small, *squares[:1], *(_times(text, text) for text in flat)]))
        if self.active["batch"].allowed.high > 1:
            batch = _product(self.active["batch"].lengths[0].name)
            each = dict.fromkeys([*small, *squares, *joint])
            listed += [_times(term, batch) for term in each if term not in outer]
        else:
            listed = list(dict.fromkeys([*listed, *squares, *joint]))
        return _Family([*lengths, *self.active["batch"].lengths], listed)

    # interpolation

    def _interpolated(self, pool: Sequence[Point], families: Sequence[_Family]) -> _Found:
        observations = [self.observer.observe(**point) for point in pool]
        fitter = _Fitter(families, [self._values(point) for point in pool])
        slots = [_slots(observation) for observation in observations]
        calls: dict[tuple[Seen, ...], int] = {}
        order = []
        for together in zip(*slots, strict=True):
            calls.setdefault(together, len(calls))
            order.append(calls[together])
        formulas = tuple(_call_formula(together, fitter) for together in calls)
        profiles = [observation.profile for observation in observations]
        return _Found(
            calls=formulas,
            slots=order,
            shape=_program_shape(observations[0]),
            input_shape=_shape_of([p.input_shape for p in profiles], fitter),
            latent_shape=_shape_of([p.latent_shape for p in profiles], fitter),
            denoiser_batch=_fit_all([p.conditions.denoiser_batch for p in profiles], fitter),
            fitter=fitter,
        )

    def _values(self, point: Point) -> dict[str, int]:
        values = {name: value for name, value in point.items() if isinstance(value, int)}
        if self.axes.sizes is not None:
            values["height"], values["width"] = self.axes.sizes(values["height"], values["width"])
        return values

    # proof

    def _proved(self, found: _Found, pool: Sequence[Point]) -> tuple[list[Point], list[Point]]:
        """Compare fresh points with what the formula says: those that contradict, and those that agree."""
        case = self._finished(found, [], [])
        needed = found.coefficients
        wrong: list[Point] = []
        proved: list[Point] = []
        for point in itertools.chain(self._corners(found), self._fresh(found)):
            if point.pop("_extra", False) and len(proved) >= needed:
                break
            if point in pool or point in proved:
                continue
            try:
                observation = self.observer.observe(**point)
            except DiffmeterError as error:
                logger.debug("no dry run at %s: %s", point, error)
                continue
            if _predicts(case, point, observation):
                proved.append(point)
            else:
                logger.info("contradicted at %s", point)
                wrong.append({**point, "steps": self.axes.base["steps"]})
                if len(wrong) > 3:
                    break
        return wrong, proved

    def _corners(self, found: _Found) -> Iterator[Point]:
        """The smallest and the largest of each quantity, and the model's own defaults."""
        ranges = {name: axis.allowed for name, axis in self.active.items()}
        low = {name: allowed.low for name, allowed in ranges.items()}
        defaults = {n: v for n, v in self.axes.defaults.items() if v is not None and n not in ("guidance_scale",)}
        if self.tokens:
            defaults["tokens"] = low["tokens"]
        own = {**self.fixed, **{n: v for n, v in defaults.items() if n in ranges}}
        yield {**own, "steps": self.axes.base["steps"]}
        fewest, _ = self._programs(found)[2]
        yield {**self.fixed, **low, "steps": fewest}
        if "height" in ranges:
            narrow = {**low, **{n: v for n, v in self.axes.base.items() if n in ranges}}
            yield {**self.fixed, **narrow, "height": low["height"], "steps": fewest}
            yield {**self.fixed, **narrow, "width": low["width"], "steps": fewest}
        for name, allowed in ranges.items():
            if name == "width":
                continue
            high = {"height": ranges["height"].high, "width": ranges["width"].high} if name == "height" else None
            base = {**low, **self.axes.base} if name != "height" else low
            base = {n: v for n, v in base.items() if n in ranges}
            yield {**self.fixed, **base, **(high or {name: allowed.high}), "steps": 5}
        if self.guidance is not None:
            for scale in dict.fromkeys(self.guidance):
                yield {
                    **low,
                    **{n: v for n, v in self.axes.base.items() if n in ranges},
                    "guidance_scale": scale,
                    "steps": 4,
                }

    def _fresh(self, found: _Found) -> Iterator[Point]:
        fewest, _ = self._programs(found)[2]
        while True:
            yield {**self.fixed, **self._random_point(), "steps": self.rng.randint(fewest, 20), "_extra": True}

    # result

    def _finished(self, found: _Found, pool: Sequence[Point], proved: Sequence[Point]) -> Case:
        programs, steps_run, span = self._programs(found)
        ranges = {name: axis.allowed for name, axis in self.active.items()}
        ranges["steps"] = Range(*span)
        used = {name for polynomial in found.polynomials() for name in polynomial.variables}
        lengths = [length for length in found.fitter.lengths() if length.name in used]
        return Case(
            guidance=self.guidance,
            tokens=self.tokens,
            ranges=ranges,
            sizes=self.axes.sizes,
            lengths=tuple(_with_sources(lengths, found.fitter.lengths())),
            calls=found.calls,
            programs=programs,
            steps_run=steps_run,
            input_shape=found.input_shape,
            latent_shape=found.latent_shape,
            denoiser_batch=found.denoiser_batch,
            proof=Proof(tuple(pool), tuple(proved), found.coefficients),
        )

    def _programs(self, found: _Found) -> tuple[dict[str, Program], dict[str, Length], tuple[int, int]]:
        if found.programs is None:
            found.programs = self._find_programs(found)
        return found.programs

    def _find_programs(self, found: _Found) -> tuple[dict[str, Program], dict[str, Length], tuple[int, int]]:
        base = {**{n: v for n, v in self.axes.base.items() if n != "steps"}, **self.fixed}
        if self.tokens:
            base["tokens"] = self.active["tokens"].draw(self.rng)
        own = self.observer.observe(**base, steps=self.axes.base["steps"])
        calls: dict[Seen, set[int]] = {}
        for call, seen in zip(found.slots, _slots(own), strict=True):
            calls.setdefault(seen, set()).add(call)
        name = own.profile.conditions.scheduler or ""
        first = _program_of(self._by_steps(base), found.slots, calls)
        programs, steps_run = {name: first.program}, {name: first.steps_run}
        for scheduler in self.axes.schedulers:
            try:
                other = _program_of(self._by_steps({**base, "scheduler": scheduler}), None, calls)
            except DiffmeterError as error:
                logger.info("no program with %s: %s", scheduler, error)
                continue
            if other.span[0] <= first.span[0] and other.span[1] >= first.span[1]:
                programs[scheduler], steps_run[scheduler] = other.program, other.steps_run
        return programs, steps_run, first.span

    def _by_steps(self, base: Point) -> dict[int, Observation]:
        seen: dict[int, Observation] = {}
        for steps in (*_STEP_COUNTS, *_CHECKED_STEPS):
            try:
                seen[steps] = self.observer.observe(**base, steps=steps)
            except DiffmeterError as error:
                logger.debug("no dry run of %d steps: %s", steps, error)
        return seen


@dataclass
class _Order:
    """The order of calls with one scheduler, and the numbers of steps between which it holds."""

    program: Program
    steps_run: Length
    span: tuple[int, int]


def _program_of(
    seen: Mapping[int, Observation], own_slots: Sequence[int] | None, calls: Mapping[Seen, set[int]]
) -> _Order:
    """How the calls follow from the steps. ``own_slots`` are the calls in the model's own program, where it is that.

    Raises:
        DiffmeterError: they follow in no way that is known.
    """
    unknown = DiffmeterError("The number of calls follows from the number of steps in no way that is known.")
    if len(seen) < 4:
        raise unknown
    shape = _program_shape(seen[max(n for n in seen if n in _STEP_COUNTS)])
    same = {n: o for n, o in seen.items() if _program_shape(o) == shape and n in _STEP_COUNTS}
    example = next(iter(same.values()))
    slots = _slots(example)
    if own_slots is None:
        if any(len(calls.get(call, ())) != 1 for call in slots):
            raise unknown  # a call that the model's own scheduler does not make
        own_slots = [next(iter(calls[call])) for call in slots]
    if len(own_slots) != len(slots) or len(same) < 4:
        raise unknown
    segments, place = [], 0
    for index, (part, _) in enumerate(example.folded.parts):
        repeats = law({n: o.folded.parts[index][1] for n, o in same.items()}, f"r{index}")
        if repeats is None:
            raise unknown
        segments.append(Segment(tuple(Slot(own_slots[place + i], s) for i, (_, s) in enumerate(part)), repeats))
        place += len(part)
    steps_run = law({n: o.profile.steps_run or 0 for n, o in seen.items() if n in _STEP_COUNTS}, "steps_run")
    if steps_run is None:
        raise unknown
    order = _Order(Program(tuple(segments)), steps_run, (0, max(seen)))
    fewest = _fewest(order, seen, dict(zip(own_slots, slots, strict=True)))
    if fewest is None or fewest > 10:
        raise unknown
    return dataclasses.replace(order, span=(fewest, max(seen)))


def _fewest(order: _Order, seen: Mapping[int, Observation], calls: Mapping[int, Seen]) -> int | None:
    """The number of steps from which on an order says everything that was seen."""
    fewest = None
    for steps in sorted(seen, reverse=True):
        said = [(calls[call], step) for call, step in order.program.unrolled(steps)]
        run = order.steps_run({"steps": steps})
        if said != _with_steps(seen[steps]) or run != (seen[steps].profile.steps_run or 0):
            break
        fewest = steps
    return fewest


@dataclass
class _Found:
    """What one round of interpolation found."""

    calls: tuple[CallFormula, ...]
    slots: list[int]
    shape: Any
    input_shape: tuple[Polynomial, ...] | None
    latent_shape: tuple[Polynomial, ...] | None
    denoiser_batch: Polynomial | None
    fitter: _Fitter
    programs: tuple[dict[str, Program], dict[str, Length], tuple[int, int]] | None = None

    def polynomials(self) -> Iterator[Polynomial]:
        """Every polynomial of the case."""
        for call in self.calls:
            yield from (*call.macs_by_op.values(), *call.op_level.values())
            for sizes in (*call.shapes.values(), call.output_shape or ()):
                yield from sizes
        for shape in (self.input_shape, self.latent_shape):
            yield from shape or ()
        if self.denoiser_batch is not None:
            yield self.denoiser_batch

    @property
    def coefficients(self) -> int:
        """Coefficients of the largest family that was needed."""
        return max(self.fitter.used.values(), default=1)


class _Fitter:
    """Tries families of terms in order; interpolations are made when they are first needed."""

    def __init__(self, families: Sequence[_Family], points: Sequence[Mapping[str, int]]) -> None:
        self._families = families
        self._points = points
        self._made: dict[int, Interpolation | None] = {}
        self._known: dict[tuple[int, ...], Polynomial] = {}
        self.used: dict[int, int] = {}  # family -> coefficients

    def fit(self, observed: Sequence[int], what: Callable[[], str]) -> Polynomial:
        """The polynomial of the simplest family that goes through all points.

        Raises:
            _NoFitError: there is none.
        """
        key = tuple(observed)
        if key not in self._known:
            self._known[key] = self._fit(key, what)
        return self._known[key]

    def _fit(self, observed: tuple[int, ...], what: Callable[[], str]) -> Polynomial:
        if len(set(observed)) == 1:
            return Polynomial.constant(observed[0])
        for index in range(len(self._families)):
            interpolation = self._interpolation(index)
            if interpolation is None:
                continue
            found = interpolation.fit(observed)
            if found is not None:
                self.used[index] = len(interpolation.terms)
                return found
        raise _NoFitError(f"{what()} is no polynomial of a known family over the points that were run.")

    def _interpolation(self, index: int) -> Interpolation | None:
        """None where there are too few points for the family to mean anything."""
        if index not in self._made:
            family = self._families[index]
            made = Interpolation(family.terms, [_with_lengths(family.lengths, point) for point in self._points])
            self._made[index] = made if len(made.left) >= 4 else None
        return self._made[index]

    def lengths(self) -> list[Length]:
        """All lengths of the families that were used."""
        return list(dict.fromkeys(length for index in sorted(self.used) for length in self._families[index].lengths))


def _with_lengths(lengths: Iterable[Length], point: Mapping[str, int]) -> dict[str, int]:
    found = dict(point)
    for length in lengths:
        found[length.name] = length(found)
    return found


def _with_sources(used: Sequence[Length], known: Sequence[Length]) -> list[Length]:
    """Lengths in use and those that they are made of, in the order of their definition."""
    needed = {length.name for length in used} | {name for length in used for name in length.of}
    return [length for length in known if length.name in needed]


def _product(*names: str) -> Monomial:
    return _times(*(((name, 1),) for name in names))


def _times(*monomials: Monomial) -> Monomial:
    powers: dict[str, int] = {}
    for monomial in monomials:
        for name, power in monomial:
            powers[name] = powers.get(name, 0) + power
    return tuple(sorted(powers.items()))


def _program_shape(observation: Observation) -> Any:
    """What two runs of one program have in common: the parts and what their calls are."""
    return tuple(
        (repeats > 1, tuple((seen.kind, step) for seen, step in part)) for part, repeats in observation.folded.parts
    )


def _slots(observation: Observation) -> list[Seen]:
    return [seen for part, _ in observation.folded.parts for seen, _ in part]


def _call_formula(together: Sequence[Seen], fitter: _Fitter) -> CallFormula:
    """One call from what it was at each point."""
    first = together[0]
    numbers: list[dict[Key, int]] = [dict(seen.numbers) for seen in together]

    def fitted(key: Key) -> Polynomial:
        return fitter.fit([at[key] for at in numbers], lambda: f"{first.component}.{first.method} {key}")

    parts: dict[str, dict[str, list[Polynomial]]] = {}
    for key, _ in first.numbers:
        parts.setdefault(key[0], {}).setdefault(key[1], []).append(fitted(key))
    return CallFormula(
        component=first.component,
        method=first.method,
        macs_by_op={name: found[0] for name, found in parts.get("macs_by_op", {}).items()},
        op_level={name: found[0] for name, found in parts.get("op_level", {}).items()},
        shapes={name: tuple(found) for name, found in parts.get("shapes", {}).items()},
        dtypes=dict(first.dtypes),
        output_shape=tuple(parts["output"][""]) if "output" in parts else None,
    )


def _shape_of(shapes: Sequence[tuple[int, ...] | None], fitter: _Fitter) -> tuple[Polynomial, ...] | None:
    if any(shape is None for shape in shapes):
        return None
    return tuple(
        fitter.fit(sizes, lambda: "the image's size")
        for sizes in zip(*(s for s in shapes if s is not None), strict=True)
    )


def _fit_all(numbers: Sequence[int | None], fitter: _Fitter) -> Polynomial | None:
    known = [number for number in numbers if number is not None]
    return fitter.fit(known, lambda: "the batch") if len(known) == len(numbers) else None


def _predicts(case: Case, point: Point, observation: Observation) -> bool:
    """Whether a case says, call by call and number by number, what a dry run saw."""
    values = {name: value for name, value in point.items() if name != "guidance_scale"}
    lengths = case.lengths_at(values)
    scheduler = observation.profile.conditions.scheduler or ""
    known: dict[int, Seen] = {}
    predicted: list[tuple[Seen, int | None]] = []
    try:
        for call, step in case.programs[scheduler].unrolled(point["steps"]):
            if call not in known:
                known[call] = _predicted(case.calls[call], lengths)
            predicted.append((known[call], step))
    except InputError:
        return False
    seen = _with_steps(observation)
    profile = observation.profile
    facts: tuple[tuple[tuple[Polynomial, ...] | None, Any], ...] = (
        (case.input_shape, profile.input_shape),
        (case.latent_shape, profile.latent_shape),
        (None if case.denoiser_batch is None else (case.denoiser_batch,), (profile.conditions.denoiser_batch,)),
    )
    shapes = all(said is None or tuple(p(**lengths) for p in said) == was for said, was in facts)
    return predicted == seen and shapes and case.steps_run[scheduler](values) == (profile.steps_run or 0)


def _with_steps(observation: Observation) -> list[tuple[Seen, int | None]]:
    """The calls in order, each with its step."""
    now = 0
    seen = []
    for call, change in observation.sequence:
        now += change or 0
        seen.append((call, None if change is None else now))
    return seen


def _predicted(call: CallFormula, lengths: Mapping[str, int]) -> Seen:
    numbers: dict[Key, int] = {}
    for kind, counts in (("macs_by_op", call.macs_by_op), ("op_level", call.op_level)):
        numbers.update({(kind, name, 0): value for name, macs in counts.items() if (value := macs(**lengths))})
    for name, shape in call.shapes.items():
        numbers.update({("shapes", name, position): size(**lengths) for position, size in enumerate(shape)})
    for position, size in enumerate(call.output_shape or ()):
        numbers["output", "", position] = size(**lengths)
    return Seen(call.component, call.method, tuple(sorted(call.dtypes.items())), tuple(sorted(numbers.items())))
