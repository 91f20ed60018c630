"""The result: what a generation cost, by component and call, with the conditions under which it was counted.

A profile is numbers and text only. ``to_dict`` gives the JSON object ``compute_profile`` that is described by
``schema.json``; ``from_dict`` reads it back without loss. A profile gives rows; what renders them reads a profile and
never a model.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from diffmeter.errors import InputError, whole_number
from diffmeter.rendering import Rendered, find_writer
from diffmeter.units import format_count, format_params, format_seconds

if TYPE_CHECKING:
    from pandas import DataFrame

SCHEMA_VERSION = "1.1"
CONVENTION = (
    "total_macs: thop's rules for modules plus B*H*N*M*D + B*H*N*M + B*H*N*M*Dv for each scaled-dot-product "
    "attention call. matmul_macs: convolutions, linear layers, matrix products and both attention products, from "
    "true shapes. FLOPs = 2 x MACs."
)
#: conventions by name, and the attribute that holds MACs in each; ``paper`` is what many published tables print
CONVENTIONS = {"total": "total_macs", "products": "matmul_macs", "paper": "matmul_macs_without_attention"}
#: what MACs can be given per: an image, a step of the denoiser, or a forward of one sample
PER = ("image", "step", "forward")


@dataclass(frozen=True)
class CallProfile:
    """Calls of one signature.

    Attributes:
        method: ``forward``, ``decode``, ...; for products found outside any call, the path of the submodule.
        count: how many such calls were made.
        batch: leading dimension of the first tensor argument.
        shapes: shape of each tensor argument by name.
        dtypes: dtype of each tensor argument by name.
        matmul_macs, matmul_macs_without_attention, total_macs: of one call; None if it could not be counted.
        macs_by_op: of one call, by op class; sums up to ``total_macs``.
        op_level: of one call, by dispatched operator; sums up to ``matmul_macs``.
        counted: ``"twin"`` (replayed) or ``"run"`` (counted while it ran, since its work depends on more than its
            signature).
        seconds: wall-clock time of all of them together; None without a real run.
        output_shape: shape of the first tensor that came back.
        reason: why it could not be counted.
        reused: modules that a declared step cache did not run.
        macs_by_module: of one call, what each module has itself, without those below it, by its path in the component:
            ``total_macs``, ``matmul_macs`` and ``matmul_macs_without_attention``. Empty where that is not known.
    """

    method: str
    count: int
    batch: int | None
    shapes: dict[str, list[int]]
    dtypes: dict[str, str]
    matmul_macs: int | None
    matmul_macs_without_attention: int | None
    total_macs: int | None
    macs_by_op: dict[str, int]
    op_level: dict[str, int]
    counted: str = "twin"
    seconds: float | None = None
    output_shape: list[int] | None = None
    reason: str | None = None
    reused: list[str] = field(default_factory=list)
    macs_by_module: dict[str, tuple[int, int, int]] = field(default_factory=dict)

    def times(self, name: str) -> int | None:
        """A per-call number times the number of calls."""
        value = getattr(self, name)
        return None if value is None else value * self.count


@dataclass(frozen=True)
class ModuleFacts:
    """A module of a component: its class, and the parameters that it has itself, without those below it."""

    class_name: str
    params: int


@dataclass(frozen=True)
class ComponentProfile:
    """One component: its parameters and its calls, in order of first use. Totals cover all of its calls.

    ``modules`` are those of the component by path; the component itself has the empty path.
    """

    name: str
    class_name: str
    params: int
    calls: tuple[CallProfile, ...] = ()
    dtype: str | None = None
    modules: dict[str, ModuleFacts] = field(default_factory=dict, repr=False)

    def _sum(self, name: str) -> int | None:
        counted = [value for value in (call.times(name) for call in self.calls) if value is not None]
        return sum(counted) if counted or not self.calls else None

    @property
    def matmul_macs(self) -> int | None:
        """Exact products of every counted call; None if none could be counted."""
        return self._sum("matmul_macs")

    @property
    def matmul_macs_without_attention(self) -> int | None:
        """Convolutions and linear layers of every counted call."""
        return self._sum("matmul_macs_without_attention")

    @property
    def total_macs(self) -> int | None:
        """The default convention, over every counted call."""
        return self._sum("total_macs")

    @property
    def total_flops(self) -> int | None:
        """Twice ``total_macs``."""
        return None if self.total_macs is None else 2 * self.total_macs

    def macs_per_forward(self, convention: str = "total") -> int | None:
        """MACs of one call for one sample: over all calls, divided by the samples in them; None if not known.

        A sample is an item of the leading dimension of a call's first tensor: guidance gives each image two.

        Raises:
            InputError: the convention is not known.
        """
        name = CONVENTIONS[checked_convention(convention)]
        macs = [call.times(name) for call in self.calls]
        samples = [None if not call.batch else call.batch * call.count for call in self.calls]
        if not macs or None in macs or None in samples:
            return None
        return _divided(sum(m for m in macs if m is not None), sum(n for n in samples if n is not None))

    def own_by_module(self, convention: str = "total") -> dict[str, tuple[int, int]]:
        """Parameters and MACs (over all calls) that each module has itself, by path; they sum up to the component's.

        What cannot be told apart belongs to the component, whose path is empty.

        Raises:
            InputError: the convention is not known.
        """
        name = CONVENTIONS[checked_convention(convention)]
        place = list(CONVENTIONS).index(checked_convention(convention))
        macs: Counter[str] = Counter()
        for call in self.calls:
            for path, found in call.macs_by_module.items():
                macs[path] += found[place] * call.count
            known = sum(found[place] for found in call.macs_by_module.values())
            macs[""] += ((getattr(call, name) or 0) - known) * call.count
        params = {path: facts.params for path, facts in self.modules.items()}
        params[""] = params.get("", 0) + self.params - sum(params.values())
        paths = [*self.modules, *(path for path in macs if path not in self.modules)]
        return {path: (params.get(path, 0), macs[path]) for path in dict.fromkeys(("", *paths))}

    @property
    def call_count(self) -> int:
        """How often the component was entered."""
        return sum(call.count for call in self.calls)

    @property
    def macs_by_op(self) -> dict[str, int]:
        """MACs by op class over all calls."""
        total: Counter[str] = Counter()
        for call in self.calls:
            total.update({name: macs * call.count for name, macs in call.macs_by_op.items()})
        return dict(total)

    @property
    def seconds(self) -> float | None:
        """Wall-clock time inside the component; None without a real run."""
        known = [call.seconds for call in self.calls if call.seconds is not None]
        return sum(known) if known else None

    @property
    def time_includes_counting(self) -> bool:
        """Whether calls were counted while they ran: ``seconds`` is then longer than without."""
        return any(call.counted == "run" and call.seconds is not None for call in self.calls)


@dataclass(frozen=True)
class Conditions:
    """Under which conditions a profile holds.

    Attributes:
        batch: images or videos that one call of the pipeline made.
        denoiser_batch: of the denoiser's first call, guidance included: 2 for one guided image.
        stand_ins: what stood in for arguments that a dry run was not given, in words, by argument.
    """

    pipeline: str
    kind: str
    model_id: str | None = None
    height: int | None = None
    width: int | None = None
    num_inference_steps: int | None = None
    guidance_scale: float | None = None
    batch: int | None = None
    denoiser_batch: int | None = None
    scheduler: str | None = None
    dtype: str | None = None
    attention_backend: str | None = None
    device: str | None = None
    arguments: dict[str, Any] = field(default_factory=dict)
    stand_ins: dict[str, str] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    scope: str = "every call of every component"
    #: of a single file of weights: its name and stored bytes, what it holds, and what was taken from elsewhere
    origin: dict[str, Any] | None = None
    #: what the number rests on that was not known: "tokens" and how many were assumed
    estimated: dict[str, str] = field(default_factory=dict)
    #: step caches at work, by component
    caches: dict[str, str] = field(default_factory=dict)
    #: LoRAs and IP-Adapters at work: component, name, kind, rank, and the parameters that each adds
    adapters: list[dict[str, Any]] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class RunConditions:
    """One call of a pipeline: what it was asked for, and what it made.

    Attributes:
        pipeline: name of the pipeline's class.
        steps_run: steps that it really made; image-to-image makes fewer than it is asked for.
        batch: images or videos that it returned; None where that cannot be told.
        seconds: wall-clock time; None in a dry run.
        input_shape, latent_shape: of the image and of the latents that it was decoded from.
        arguments: of the call, as far as they are plain values.
    """

    pipeline: str
    height: int | None = None
    width: int | None = None
    num_inference_steps: int | None = None
    steps_run: int | None = None
    guidance_scale: float | None = None
    batch: int | None = None
    seconds: float | None = None
    input_shape: tuple[int, ...] | None = None
    latent_shape: tuple[int, ...] | None = None
    arguments: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class TimelineEntry:
    """One call in order: its component, the index of its entry there, its step, generation and seconds."""

    component: str
    call: int
    step: int | None
    generation: int
    seconds: float | None


@dataclass(frozen=True, repr=False)
class ComputeProfile(Rendered):
    """What one or more generations cost.

    ``profile + other`` is the cost of both.

    Attributes:
        components: by name.
        denoisers: names of the components that are called at each step.
        steps_run: steps that the denoiser really made over all generations.
        generations: how often the pipeline was called.
        uncounted: what is missing from the totals: ``{"component", "op" or "reason", "calls"}``.
        differences: where the two counters do not agree: ``{"component", "method", "op", "thop", "op_level"}``.
        left_out: what is no product and named all the same: ``{"component", "op", "reason", "calls"}``. It does not
            make the profile incomplete.
        user_formulas: MACs in the totals that rest on a formula of the user's (``register_formula``), which no second
            counter checks: ``{"component", "target", "kind", "macs"}``.
        inference_time_seconds: wall-clock time of the pipeline calls; None without a real run.
        timeline: every call in order.
        runs: the conditions of each call of a pipeline. ``conditions`` has what all of them have in common, and None
            for what differs.
    """

    components: dict[str, ComponentProfile]
    denoisers: tuple[str, ...]
    conditions: Conditions
    steps_run: int | None = None
    generations: int = 1
    uncounted: tuple[dict[str, Any], ...] = ()
    differences: tuple[dict[str, Any], ...] = ()
    left_out: tuple[dict[str, Any], ...] = ()
    user_formulas: tuple[dict[str, Any], ...] = ()
    inference_time_seconds: float | None = None
    count_seconds: float | None = None
    input_shape: tuple[int, ...] | None = None
    latent_shape: tuple[int, ...] | None = None
    timeline: tuple[TimelineEntry, ...] = ()
    runs: tuple[RunConditions, ...] = ()

    # totals

    def _sum(self, name: str) -> int:
        return sum(value for c in self.components.values() if (value := getattr(c, name)) is not None)

    @property
    def matmul_macs(self) -> int:
        """Exact products of the whole run; a lower bound where ``complete`` is false."""
        return self._sum("matmul_macs")

    @property
    def matmul_macs_without_attention(self) -> int:
        """Convolutions and linear layers of the whole run."""
        return self._sum("matmul_macs_without_attention")

    @property
    def total_macs(self) -> int:
        """The whole run in the default convention; a lower bound where ``complete`` is false."""
        return self._sum("total_macs")

    @property
    def total_flops(self) -> int:
        """Twice ``total_macs``."""
        return 2 * self.total_macs

    @property
    def pipeline_params(self) -> int:
        """Parameters of all components."""
        return sum(c.params for c in self.components.values())

    @property
    def denoiser_params(self) -> int:
        """Parameters of the components that are called at each step, which papers print; 0 without a denoiser."""
        return sum(self.components[name].params for name in self.denoisers)

    @property
    def total_params(self) -> int:
        """What the key of this name has always meant: ``denoiser_params``, or the pipeline's if it has no denoiser."""
        return self.denoiser_params or self.pipeline_params

    @property
    def complete(self) -> bool:
        """Whether everything that ran was counted, and both counters agree to the last integer."""
        return not self.uncounted and not self.differences

    @property
    def denoiser(self) -> ComponentProfile | None:
        """The (first) denoiser."""
        return self.components[self.denoisers[0]] if self.denoisers else None

    @property
    def macs_per_step(self) -> int | None:
        """The denoisers' ``total_macs`` over the run, divided by their steps."""
        return self.macs("total", per="step")

    @property
    def flops_per_step(self) -> int | None:
        """Twice ``macs_per_step``."""
        return None if self.macs_per_step is None else 2 * self.macs_per_step

    @property
    def images(self) -> int | None:
        """Images (or videos) that the run made; None if the batch is not known."""
        return None if self.conditions.batch is None else self.conditions.batch * self.generations

    @property
    def attention_share(self) -> float | None:
        """Products of two activations in all products, from 0 to 1; None if not everything was counted."""
        if not self.complete or not self.matmul_macs:
            return None
        return (self.matmul_macs - self.matmul_macs_without_attention) / self.matmul_macs

    @property
    def macs_by_op(self) -> dict[str, int]:
        """MACs of the whole run by op class; sums up to ``total_macs``."""
        total: Counter[str] = Counter()
        for component in self.components.values():
            total.update(component.macs_by_op)
        return dict(total)

    def macs(self, convention: str = "total", per: str | None = None) -> int | None:
        """MACs in a convention, of the whole run or per unit of work; a lower bound where ``complete`` is false.

        Args:
            convention: ``total`` (the default convention), ``products`` or ``paper`` (products without attention).
            per: None for the whole run, ``image``, ``step`` (the denoisers' MACs divided by their steps), or
                ``forward`` (one call of the denoiser for one sample, which is what papers print).

        Returns:
            MACs, rounded to a whole number; None where what it is divided by is not known.

        Raises:
            InputError: the convention or the unit of work is not known.
        """
        name = CONVENTIONS[checked_convention(convention)]
        if checked_per(per) is None:
            return self._sum(name)
        if per == "image":
            return _divided(self._sum(name), self.images)
        if per == "forward":
            forwards = [self.components[d].macs_per_forward(convention) for d in self.denoisers]
            return forwards[0] if len(forwards) == 1 else None
        known = [m for d in self.denoisers if (m := getattr(self.components[d], name)) is not None]
        return _divided(sum(known), self.steps_run) if known else None

    def by_component(self, convention: str = "total", per: str | None = None) -> list[dict[str, Any]]:
        """One row a component: ``component``, ``class``, ``params``, ``calls``, ``macs``, ``share`` and ``seconds``.

        ``macs`` is what :meth:`macs` says for that component; per step only denoisers have rows. ``share`` (0 to 1) is
        None where not everything was counted. Rows of the whole run sum up to it.

        Raises:
            InputError: the convention or the unit of work is not known.
        """
        whole = self.macs(convention, per)
        rows = []
        for name, component in self.components.items():
            if checked_per(per) == "step" and name not in self.denoisers:
                continue
            macs = self._macs_of(component, convention, per)
            shared = self.complete and per != "forward" and macs is not None and whole
            rows.append(
                {
                    "component": name,
                    "class": component.class_name,
                    "params": component.params,
                    "calls": component.call_count,
                    "macs": macs,
                    "share": macs / whole if shared and macs is not None and whole else None,
                    "seconds": component.seconds,
                }
            )
        return rows

    def _macs_of(self, component: ComponentProfile, convention: str, per: str | None) -> int | None:
        if per == "forward":
            return component.macs_per_forward(convention)
        macs: int | None = getattr(component, CONVENTIONS[checked_convention(convention)])
        if per is None or macs is None:
            return macs
        return _divided(macs, self.images if per == "image" else self.steps_run)

    def by_module(
        self,
        depth: int = 3,
        convention: str = "total",
        *,
        ignore: Iterable[str] = (),
        names: Mapping[str, str] | None = None,
    ) -> list[dict[str, Any]]:
        """One row a module: ``path``, ``class``, ``params``, ``macs``, ``share`` and ``seconds``.

        A module ``depth`` levels below its component stands for everything in it; one above has only what it does
        itself. So the rows of a component sum up to it, in parameters and in MACs.

        Args:
            depth: levels below the component; 0 gives the components.
            convention: as in :meth:`macs`.
            ignore: paths that get no row, with all below them, such as ``"safety_checker"``.
            names: a path, such as ``"unet.mid_block"``, and the name of the one row that stands for all of it.

        Returns:
            Rows in the order of the modules. ``share`` (0 to 1) is that of the whole run, None where not everything
            was counted; ``seconds`` are known of whole components that ran, and None elsewhere.

        Raises:
            InputError: the depth is below 0, or the convention is not known.
        """
        whole_number(depth, "The depth", 0)
        whole = self.macs(convention) if self.complete else None
        rows: dict[str, dict[str, Any]] = {}
        for component in self.components.values():
            for path, (params, macs) in component.own_by_module(convention).items():
                full = f"{component.name}.{path}" if path else component.name
                if any(_is_below(full, ignored) for ignored in ignore):
                    continue
                named = next((given for given in names or {} if _is_below(full, given)), None)
                shown = (names or {})[named] if named is not None else _cut(component.name, path, depth)
                place = named if named is not None else shown
                facts = component.modules.get(place.removeprefix(component.name).removeprefix("."))
                row = rows.setdefault(
                    shown,
                    {
                        "path": shown,
                        "class": component.class_name if facts is None else facts.class_name,
                        "params": 0,
                        "macs": 0,
                        "share": None,
                        "seconds": component.seconds if shown == component.name and depth == 0 else None,
                    },
                )
                row["params"] += params
                row["macs"] += macs
        for row in rows.values():
            row["share"] = row["macs"] / whole if whole else None
        return [row for row in rows.values() if row["macs"] or row["params"]]

    def is_counted(self, component: str) -> bool:
        """Whether nothing of a component is missing, and the counters agree on it."""
        return not any(entry["component"] == component for entry in (*self.uncounted, *self.differences))

    def to_pandas(self, convention: str = "total", per: str | None = None) -> DataFrame:
        """:meth:`by_component` as a pandas table.

        Raises:
            InputError: pandas is not installed.
        """
        try:
            import pandas
        except ImportError:
            raise InputError("to_pandas needs pandas: pip install pandas.") from None
        return pandas.DataFrame(self.by_component(convention, per))

    @property
    def cached_steps(self) -> list[int]:
        """The steps, counted from 0, at which a step cache spared a denoiser work (of all generations).

        Those at which a declared cache reused modules, and those that cost less than another step with the same shapes
        where the denoiser's calls were counted one by one because of a cache at work.
        """
        found = set()
        for name in self.denoisers:
            calls = self.components[name].calls
            most: dict[Any, int] = {}
            for call in calls:
                key = (call.method, repr(call.shapes))
                most[key] = max(most.get(key, 0), call.matmul_macs or 0)
            spared = [
                bool(call.reused)
                or (name in self.conditions.caches and (call.matmul_macs or 0) < most[call.method, repr(call.shapes)])
                for call in calls
            ]
            found |= {e.step for e in self.timeline if e.component == name and e.step is not None and spared[e.call]}
        return sorted(found)

    @property
    def time_includes_counting(self) -> bool:
        """Whether calls were counted while they ran, so that seconds are longer than those of a run without."""
        return any(component.time_includes_counting for component in self.components.values())

    @property
    def varied(self) -> dict[str, list[Any]]:
        """What differs between the generations: names of :class:`RunConditions` with the values, in order."""
        names = ("pipeline", "height", "width", "num_inference_steps", "steps_run", "guidance_scale", "batch")
        values = {name: [getattr(run, name) for run in self.runs] for name in names}
        return {name: each for name, each in values.items() if any(value != each[0] for value in each)}

    @property
    def throughput_tflops(self) -> float | None:
        """``total_flops`` per second of inference, in units of 10^12; None where the time is not the run's own."""
        if not self.inference_time_seconds or self.time_includes_counting:
            return None
        return self.total_flops / self.inference_time_seconds / 1e12

    # to and from JSON

    def to_dict(self, modules: bool = True) -> dict[str, Any]:
        """The ``compute_profile`` object: every promised key, and everything needed to read it back.

        ``modules=False`` leaves the counts by module out, which are most of the text: records of images go without.
        """
        per_step = self.macs_per_step
        flops_per_step = self.flops_per_step
        bound = "" if self.complete else ">= "  # what is shown of an incomplete profile never looks finished
        return {
            "schema_version": SCHEMA_VERSION,
            "enabled": True,
            "model_component": " + ".join(self.denoisers) or None,
            "total_params": self.total_params,
            "params_str": format_params(self.total_params),
            "flops_per_step": flops_per_step,
            "flops_per_step_str": bound + format_count(flops_per_step, "FLOPs"),
            "macs_per_step": per_step,
            "macs_per_step_str": bound + format_count(per_step, "MACs"),
            "total_flops": self.total_flops,
            "total_flops_str": bound + format_count(self.total_flops, "FLOPs"),
            "total_macs": self.total_macs,
            "total_macs_str": bound + format_count(self.total_macs, "MACs"),
            "matmul_macs": self.matmul_macs,
            "matmul_macs_without_attention": self.matmul_macs_without_attention,
            "num_inference_steps": self.conditions.num_inference_steps,
            "steps_run": self.steps_run,
            "generations": self.generations,
            "inference_time_seconds": self.inference_time_seconds,
            "inference_time_str": format_seconds(self.inference_time_seconds),
            "time_includes_counting": self.time_includes_counting,
            "throughput_tflops": self.throughput_tflops,
            "cached_steps": self.cached_steps,
            "input_shape": None if self.input_shape is None else list(self.input_shape),
            "latent_shape": None if self.latent_shape is None else list(self.latent_shape),
            "pipeline_params": self.pipeline_params,
            "denoiser_params": self.denoiser_params,
            "convention": CONVENTION,
            "complete": self.complete,
            "uncounted": [dict(entry) for entry in self.uncounted],
            "left_out": [dict(entry) for entry in self.left_out],
            "user_formulas": [dict(entry) for entry in self.user_formulas],
            "denoisers": list(self.denoisers),
            "components": {
                name: _component_to_dict(part, self.is_counted(name), modules)
                for name, part in self.components.items()
            },
            "cross_check": {
                "counters": [self.conditions.versions.get("thop", "thop") + " + attention", "op level"],
                "agree": not self.differences,
                "differences": [dict(entry) for entry in self.differences],
            },
            "conditions": asdict(self.conditions),
            "count_seconds": self.count_seconds,
            "timeline": [[e.component, e.call, e.step, e.generation, e.seconds] for e in self.timeline],
            "runs": [_run_to_dict(run) for run in self.runs],
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> ComputeProfile:
        """Read what :meth:`to_dict` wrote.

        Raises:
            InputError: it is no profile, damaged, or of a newer schema.
        """
        version = str(data.get("schema_version", ""))
        if version.split(".")[0] != SCHEMA_VERSION.split(".")[0] or "components" not in data:
            raise InputError(f"Not a compute profile of schema {SCHEMA_VERSION}: schema_version is {version!r}.")
        try:
            return cls._read(data)
        except (KeyError, TypeError, AttributeError) as error:
            raise InputError(f"The compute profile is damaged: {type(error).__name__}: {error}.") from error

    @classmethod
    def _read(cls, data: Mapping[str, Any]) -> ComputeProfile:
        return cls(
            components={name: _component_from_dict(name, c) for name, c in data["components"].items()},
            denoisers=tuple(data["denoisers"]),
            conditions=_conditions_from_dict(data["conditions"], str(data["schema_version"])),
            steps_run=data["steps_run"],
            generations=data["generations"],
            uncounted=tuple(dict(entry) for entry in data["uncounted"]),
            left_out=tuple(dict(entry) for entry in data.get("left_out", ())),
            user_formulas=tuple(dict(entry) for entry in data.get("user_formulas", ())),
            differences=tuple(dict(entry) for entry in data["cross_check"]["differences"]),
            inference_time_seconds=data["inference_time_seconds"],
            count_seconds=data["count_seconds"],
            input_shape=None if data["input_shape"] is None else tuple(data["input_shape"]),
            latent_shape=None if data["latent_shape"] is None else tuple(data["latent_shape"]),
            timeline=tuple(TimelineEntry(*entry) for entry in data["timeline"]),
            runs=tuple(_run_from_dict(run) for run in data.get("runs", ())),
        )

    def save(self, path: str | Path) -> Path:
        """Write the profile to a ``.json`` file, or into a ``.png`` image that is there.

        The image keeps its pixels and its other texts; a profile that it held before is replaced.

        Raises:
            InputError: another ending, or an image that is not there or damaged.
            StorageError: the file cannot be written.
        """
        from diffmeter.storage.profiles import save_profile

        return save_profile(path, self.to_dict())

    def save_html(self, path: str | Path) -> Path:
        """Write a report for the browser to an ``.html`` file that opens from disk.

        Raises:
            InputError: the file has another ending.
            StorageError: the file cannot be written.
        """
        return find_writer("page")({self.conditions.model_id or self.conditions.pipeline: self}, path)

    def save_trace(self, path: str | Path) -> Path:
        """Write the timeline of a timed run to a ``.json`` file that trace viewers open.

        Raises:
            InputError: the profile has no times, or the file has another ending.
            StorageError: the file cannot be written.
        """
        return find_writer("trace")(self, path)

    @classmethod
    def load(cls, path: str | Path) -> ComputeProfile:
        """Read the profile that a ``.json`` file, a ``.png`` image or a folder holds.

        Raises:
            InputError: there is no profile in it, more than one, or one that cannot be read.
            StorageError: the file cannot be read.
        """
        from diffmeter.storage.profiles import one_profile

        return cls.from_dict(one_profile(path))

    # sums

    def __add__(self, other: object) -> ComputeProfile:
        return _sum_of(self, other) if isinstance(other, ComputeProfile) else NotImplemented

    def __radd__(self, other: object) -> ComputeProfile:
        return self if other == 0 else NotImplemented  # the start of ``sum(profiles)``

    def __repr__(self) -> str:
        of = self.conditions.model_id or self.conditions.pipeline
        macs = format_count(self.total_macs, "MACs")
        bound = "" if self.complete else ">= "
        return f"<ComputeProfile of {of}: {bound}{macs}, {len(self.components)} components, complete={self.complete}>"


def checked_convention(convention: str | None) -> str:
    """A convention's name; None is the default one. Raises ``InputError`` for another."""
    if convention is None:
        return "total"
    if convention not in CONVENTIONS:
        raise InputError(f"The convention {convention!r} is not known: use {', '.join(CONVENTIONS)}.")
    return convention


def checked_per(per: str | None) -> str | None:
    """A unit of work, or None for the whole run. Raises ``InputError`` for another."""
    if per is not None and per not in PER:
        raise InputError(f"Nothing can be given per {per!r}: use {', '.join(PER)}.")
    return per


def _is_below(path: str, above: str) -> bool:
    return path == above or path.startswith(f"{above}.")


def _cut(component: str, path: str, depth: int) -> str:
    """The path of the module that a row stands for."""
    return ".".join([component, *(path.split(".") if path else [])[:depth]])


def _divided(macs: int, by: int | None) -> int | None:
    """MACs divided by a whole number, exact where they can be."""
    if not by:
        return None
    return macs // by if macs % by == 0 else round(macs / by)


def _sum_of(first: ComputeProfile, second: ComputeProfile) -> ComputeProfile:
    """The cost of both. A component of the same name, class and size is taken for the same one."""
    components = dict(first.components)
    names: dict[str, str] = {}  # of the second's components in the sum
    moved: dict[str, list[int]] = {}  # where its calls are there
    for name, component in second.components.items():
        mine = components.get(name)
        same = mine is not None and (mine.class_name, mine.params) == (component.class_name, component.params)
        names[name] = name if mine is None or same else _free_name(name, second.conditions.pipeline, components)
        calls = list(mine.calls) if mine is not None and same else []
        moved[name] = [_place(calls, call) for call in component.calls]
        components[names[name]] = replace(component, name=names[name], calls=tuple(calls))
    shifted = (
        replace(
            entry,
            component=names[entry.component],
            call=moved[entry.component][entry.call],
            generation=entry.generation + first.generations if entry.generation >= 0 else entry.generation,
        )
        for entry in second.timeline
    )
    return ComputeProfile(
        components=components,
        denoisers=tuple(dict.fromkeys((*first.denoisers, *(names[name] for name in second.denoisers)))),
        conditions=_common(first.conditions, second.conditions),
        steps_run=_both(first.steps_run, second.steps_run),
        generations=first.generations + second.generations,
        uncounted=(*first.uncounted, *_renamed(second.uncounted, names)),
        differences=(*first.differences, *_renamed(second.differences, names)),
        inference_time_seconds=_both(first.inference_time_seconds, second.inference_time_seconds),
        count_seconds=_both(first.count_seconds, second.count_seconds),
        input_shape=first.input_shape if first.input_shape == second.input_shape else None,
        latent_shape=first.latent_shape if first.latent_shape == second.latent_shape else None,
        timeline=(*first.timeline, *shifted),
        runs=(*first.runs, *second.runs),
    )


def _free_name(name: str, pipeline: str, taken: Mapping[str, Any]) -> str:
    found, number = f"{pipeline}.{name}", 2
    while found in taken:
        found, number = f"{pipeline}.{name} {number}", number + 1
    return found


def _place(calls: list[CallProfile], call: CallProfile) -> int:
    """Add a call to those of the same signature and count; where it is then."""
    for index, known in enumerate(calls):
        if replace(known, count=0, seconds=None) == replace(call, count=0, seconds=None):
            seconds = _both(known.seconds, call.seconds)
            calls[index] = replace(known, count=known.count + call.count, seconds=seconds)
            return index
    calls.append(call)
    return len(calls) - 1


def _both(first: Any, second: Any) -> Any:
    return None if first is None or second is None else first + second


def _common(first: Conditions, second: Conditions) -> Conditions:
    """What holds for both; the pipelines are named side by side where they differ."""
    values: dict[str, Any] = {
        f.name: getattr(first, f.name) if getattr(first, f.name) == getattr(second, f.name) else None
        for f in fields(Conditions)
    }
    for name in ("arguments", "versions", "stand_ins", "estimated", "caches"):
        mine, other = getattr(first, name), getattr(second, name)
        values[name] = {key: value for key, value in mine.items() if other.get(key, ...) == value}
    for name in ("pipeline", "kind"):
        values[name] = " + ".join(dict.fromkeys((getattr(first, name), getattr(second, name))))
    values["scope"] = first.scope
    values["adapters"] = [adapter for adapter in first.adapters if adapter in second.adapters]
    return Conditions(**values)


def _renamed(entries: Iterable[dict[str, Any]], names: Mapping[str, str]) -> list[dict[str, Any]]:
    return [{**entry, "component": names.get(entry["component"], entry["component"])} for entry in entries]


def images_asked(arguments: Mapping[str, Any]) -> int | None:
    """Images or videos that a call with these arguments makes, where they tell: prompts times images for each."""
    each = next((arguments[name] for name in _PER_INPUT if isinstance(arguments.get(name), int)), None)
    inputs = next((arguments[name] for name in ("prompt", "class_labels") if arguments.get(name) is not None), None)
    if inputs is None:
        return None
    return (len(inputs) if isinstance(inputs, list) else 1) * (1 if each is None else each)


_PER_INPUT = ("num_images_per_prompt", "num_videos_per_prompt", "num_waveforms_per_prompt", "num_designs_per_prompt")


def _conditions_from_dict(data: Mapping[str, Any], version: str) -> Conditions:
    if version == "1.0":  # there, "batch" was the denoiser's
        data = {**data, "batch": images_asked(data["arguments"]), "denoiser_batch": data["batch"]}
    found: Conditions = _from(Conditions, data)
    return found


def disabled_profile(reason: str) -> dict[str, Any]:
    """The ``compute_profile`` object of a generation whose profile failed."""
    return {"schema_version": SCHEMA_VERSION, "enabled": False, "reason": reason}


def shapes_as_tuples(data: Mapping[str, Any]) -> dict[str, Any]:
    """A ``compute_profile`` as programs read it: ``input_shape`` and ``latent_shape`` are tuples, as in PyTorch.

    JSON, and so the dictionary that files are made from, has only lists.
    """
    shapes = ("input_shape", "latent_shape")
    return {name: tuple(value) if name in shapes and value is not None else value for name, value in data.items()}


def _component_to_dict(component: ComponentProfile, counted: bool, modules: bool) -> dict[str, Any]:
    bound = "" if counted or component.total_macs is None else ">= "
    calls = [asdict(call) for call in component.calls]
    for call in calls:
        found = call.pop("macs_by_module")
        if modules and found:
            call["macs_by_module"] = {path: list(macs) for path, macs in found.items()}
    listed = {path: [module.class_name, module.params] for path, module in component.modules.items()}
    return {
        "class_name": component.class_name,
        "params": component.params,
        "params_str": format_params(component.params),
        "dtype": component.dtype,
        "call_count": component.call_count,
        "total_macs": component.total_macs,
        "total_macs_str": bound + format_count(component.total_macs, "MACs"),
        "total_flops": component.total_flops,
        "matmul_macs": component.matmul_macs,
        "matmul_macs_without_attention": component.matmul_macs_without_attention,
        "macs_by_op": component.macs_by_op,
        "seconds": component.seconds,
        **({"modules": listed} if modules and listed else {}),
        "calls": calls,
    }


def _component_from_dict(name: str, data: Mapping[str, Any]) -> ComponentProfile:
    calls = tuple(_from(CallProfile, {**call, "macs_by_module": _triples(call)}) for call in data["calls"])
    modules = {path: ModuleFacts(*facts) for path, facts in data.get("modules", {}).items()}
    return ComponentProfile(name, data["class_name"], data["params"], calls, data["dtype"], modules)


def _triples(call: Mapping[str, Any]) -> dict[str, tuple[int, int, int]]:
    found = call.get("macs_by_module", {})
    return {path: (total, products, weights) for path, (total, products, weights) in found.items()}


def _run_to_dict(run: RunConditions) -> dict[str, Any]:
    return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(run).items()}


def _run_from_dict(data: Mapping[str, Any]) -> RunConditions:
    return RunConditions(
        **shapes_as_tuples({name: data.get(name) for name in (f.name for f in fields(RunConditions))})
    )


Value = TypeVar("Value")


def common(values: Sequence[Value]) -> Value | None:
    """What all values are, if they are all the same."""
    return values[0] if values and all(value == values[0] for value in values) else None


def common_items(values: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The items that all mappings have in common."""
    return {name: item for name, item in values[0].items() if all(v.get(name, ...) == item for v in values)}


def _from(kind: Any, data: Mapping[str, Any]) -> Any:
    names = {f.name for f in fields(kind)}
    return kind(**{name: value for name, value in data.items() if name in names})
