"""From a workload and a GPU to a prediction."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from diffmeter.errors import InputError, real_number, shown, whole_number

from . import energy, hardware, memory, money, parallel, roofline
from .hardware import Gpu
from .operators import MATMUL, Operator, counted
from .result import Advice, ComponentPrediction, Prediction, Range
from .workload import WEIGHT_BYTES, ComponentWork, Workload, Workloads, check_dtype

#: options of a run that are no arguments of the pipeline's call
EAGER, COMPILED = "eager", "compiled"


@dataclass(frozen=True, kw_only=True)
class Options:
    """How a pipeline is run.

    Attributes:
        compile: the components are compiled (fused kernels, launched from graphs).
        offload: where the weights are: a key of :data:`diffmeter.prediction.memory.OFFLOADS`.
        tiling: the decoder works in tiles, one image after the other.
        weight_dtype: ``float8``, ``int8`` or ``nf4`` for the denoiser's linear layers; None leaves them alone.
        ulysses, ring: how a run is shared out among GPUs.
        usd_per_hour: price of one GPU; None takes the table's.
        grams_per_kwh: carbon intensity of the grid; None leaves CO2 out.
    """

    compile: bool = False
    offload: str = memory.RESIDENT
    tiling: bool = False
    weight_dtype: str | None = None
    ulysses: int = 1
    ring: int = 1
    usd_per_hour: float | None = None
    grams_per_kwh: float | None = None

    def __post_init__(self) -> None:
        if self.offload not in memory.OFFLOADS:
            raise InputError(f"Unknown offload {shown(self.offload)}: use one of {', '.join(memory.OFFLOADS)}.")
        if self.weight_dtype is not None and self.weight_dtype not in WEIGHT_BYTES:
            known = ", ".join(WEIGHT_BYTES)
            raise InputError(f"Unknown weight dtype {shown(self.weight_dtype)}: use one of {known}.")
        if self.usd_per_hour is not None:
            money.check_price(self.usd_per_hour)
        if self.grams_per_kwh is not None:
            real_number(self.grams_per_kwh, "carbon intensity in grams per kWh")

    @property
    def split(self) -> parallel.Degrees:
        """How the run is shared out."""
        return parallel.Degrees(self.ulysses, self.ring)


def predict(
    model: Any,
    *,
    gpu: str | os.PathLike[str] | Gpu | None = None,
    vram: float | None = None,
    dtype: str | None = None,
    compile: bool = False,
    offload: str | None = None,
    tiling: bool = False,
    weight_dtype: str | None = None,
    gpus: int = 1,
    ulysses: int | None = None,
    ring: int | None = None,
    usd_per_hour: float | None = None,
    grams_per_kwh: float | None = None,
    tokens: int | None = None,
    **arguments: Any,
) -> Prediction:
    """How long a call of a pipeline takes, what it needs and what it costs, without a device and without weights.

    >>> prediction = predict("sdxl", gpu="h100-sxm", dtype="bfloat16", steps=30, batch=4)
    >>> prediction.seconds, prediction.peak_memory_bytes, prediction.joules

    Args:
        model: an id of the catalog or the hub, a local folder, or a loaded pipeline (which is not touched).
        gpu: name in the table, torch's device name, a file like those of the table, or a :class:`Gpu`.
        vram: memory in GiB: of a GPU that is not named, or instead of the table's figure.
        dtype: bfloat16 unless given (float16 on a GPU that has no bfloat16); a loaded pipeline has its own.
        compile, offload, tiling, weight_dtype, usd_per_hour, grams_per_kwh: see :class:`Options`.
        gpus, ulysses, ring: GPUs that share the run, and how.
        tokens: tokens that a prompt is taken to have where the tokenizer is not there.
        arguments: of the pipeline's call: ``height``, ``width``, ``steps``, ``guidance_scale``, ``batch``,
            ``num_frames``, ``prompt``, and the pipeline's own.

    Raises:
        InputError: an unknown GPU or argument, a dtype that the GPU lacks, or an impossible number.
        DiffmeterError: the pipeline cannot be run without its weights' values.
    """
    devices = [] if gpu is None else [gpu]
    [found] = predictions(
        model,
        gpu=devices,
        vram=vram,
        dtype=dtype,
        gpus=gpus,
        ulysses=ulysses,
        ring=ring,
        tokens=tokens,
        compile=compile,
        offload=offload,
        tiling=tiling,
        weight_dtype=weight_dtype,
        usd_per_hour=usd_per_hour,
        grams_per_kwh=grams_per_kwh,
        **arguments,
    )
    return found


def predictions(
    model: Any,
    *,
    gpu: Sequence[str | os.PathLike[str] | Gpu],
    vram: float | None = None,
    batches: Sequence[int | None] = (None,),
    peak: float | None = None,
    bandwidth: float | None = None,
    dtype: str | None = None,
    gpus: int = 1,
    ulysses: int | None = None,
    ring: int | None = None,
    tokens: int | None = None,
    compile: bool = False,
    offload: str | None = None,
    tiling: bool = False,
    weight_dtype: str | None = None,
    usd_per_hour: float | None = None,
    grams_per_kwh: float | None = None,
    **arguments: Any,
) -> list[Prediction]:
    """:func:`predict` for several GPUs and batches; each run is rehearsed once.

    Args:
        model, vram, dtype, gpus, ulysses, ring, tokens, arguments: see :func:`predict`.
        gpu: none is needed where ``vram`` is given.
        batches: images or videos made by one call.
        peak: dense peak at the dtype in 10^12 FLOP/s, instead of the table's.
        bandwidth: memory bandwidth in 10^9 bytes a second, instead of the table's.
        compile, offload, tiling, weight_dtype, usd_per_hour, grams_per_kwh: see :class:`Options`.
    """
    split = parallel.degrees(whole_number(gpus, "number of GPUs"), ulysses, ring)
    options = Options(
        compile=compile,
        offload=offload or memory.RESIDENT,
        tiling=tiling,
        weight_dtype=weight_dtype,
        ulysses=split.ulysses,
        ring=split.ring,
        usd_per_hour=usd_per_hour,
        grams_per_kwh=grams_per_kwh,
    )
    devices = [device_for(name, vram, bandwidth_gb_s=bandwidth) for name in gpu] or [device_for(None, vram)]
    known: dict[str | None, Workloads] = {}
    found = []
    for device in devices:
        run_dtype = dtype_for(device, dtype, model)
        device = device.with_figures(**{f"{run_dtype or 'bfloat16'}_tflops": peak})
        if run_dtype not in known:
            known[run_dtype] = Workloads(model, dtype=run_dtype, tokens=tokens)
        for batch in batches:
            call = arguments if batch is None else {**arguments, "batch": batch}
            found.append(on(known[run_dtype], device, options, **call))
    return found


def device_for(gpu: str | os.PathLike[str] | Gpu | None, vram: float | None = None, **figures: float | None) -> Gpu:
    """The GPU that was asked for, with the user's own figures.

    Raises:
        InputError: neither a GPU nor its memory is given, or one of them is not usable.
    """
    if gpu is None:
        if vram is None:
            raise InputError("Name a GPU, or say with vram how many GiB of memory it has.")
        return hardware.from_memory(vram)
    return hardware.find(gpu).with_figures(memory_gib=vram, **figures)


def dtype_for(gpu: Gpu, dtype: str | None, model: Any = "") -> str | None:
    """The dtype of a run: what was asked for, else the best that the GPU has; None for a loaded pipeline's own.

    Raises:
        InputError: the GPU lacks it, or pipelines do not run in it.
    """
    if dtype is not None:
        name = check_dtype(dtype)
        if gpu.generation != "unknown":
            gpu.peak_flops(name)
        return name
    if not isinstance(model, (str, os.PathLike)):
        return None
    lacks = "float16_tflops" in gpu.figures and "bfloat16_tflops" not in gpu.figures
    return "float16" if lacks else "bfloat16"


def on(workloads: Workloads, gpu: Gpu, options: Options, **arguments: Any) -> Prediction:
    """The prediction of one call on one GPU, with advice where it does not fit.

    Exceptions are those of :func:`predict`.
    """
    workload = workloads.of(tiling=options.tiling, **arguments)
    prediction = estimate(workload, gpu, options)
    if prediction.fits is not False:
        return prediction
    return replace(prediction, advice_to_fit=_advice(workloads, gpu, options, arguments))


def estimate(workload: Workload, gpu: Gpu, options: Options) -> Prediction:
    """The prediction of a workload; needs no torch."""
    known = "bandwidth_gb_s" in gpu.figures
    times = (
        {name: _time(work, workload.dtype, gpu, options) for name, work in workload.components.items()}
        if known
        else {}
    )
    seconds = _total_seconds(workload, times, gpu, options) if known else None
    total = sum(times.values(), roofline.NOTHING)
    watts = "power_watts" in gpu.figures
    joules = None
    if seconds is not None and watts:
        joules = options.split.gpus * energy.joules(replace(total, seconds=seconds), gpu, workload.dtype)
    price, price_source = money.price_of(gpu, options.usd_per_hour)
    allocator = memory.CPU if gpu.vendor == "cpu" else memory.CUDA
    peak = _peak(workload, options, allocator)
    room = None if gpu.memory_bytes is None else gpu.memory_bytes - allocator.context
    return Prediction(
        model=workload.model,
        pipeline=workload.pipeline,
        gpu=gpu.title,
        gpu_name=gpu.name,
        gpus=options.split.gpus,
        dtype=workload.dtype,
        mode=COMPILED if options.compile else EAGER,
        offload=options.offload,
        weight_dtype=options.weight_dtype,
        images=workload.images,
        seconds=seconds,
        seconds_range=_range(seconds, gpu.rates.spread),
        joules=joules,
        joules_range=_range(joules, gpu.rates.energy_spread),
        usd=None if seconds is None or price is None else money.usd(seconds, price, options.split.gpus),
        usd_per_hour=price,
        price_source=price_source,
        grams_co2=None
        if joules is None or options.grams_per_kwh is None
        else energy.grams_of_co2(joules, options.grams_per_kwh),
        tflops_per_second=_rate(total.flops, seconds),
        mfu=_mfu(total.flops, seconds, gpu, workload.dtype),
        peak_memory_bytes=peak,
        memory_bytes=room,
        fits=None if room is None else peak <= room,
        advice_to_fit=None,
        components={
            name: _component(work, times.get(name), gpu, workload.dtype, options)
            for name, work in workload.components.items()
        },
        conditions=dict(workload.conditions),
        hardware={name: {"value": value, "source": gpu.sources[name]} for name, value in gpu.figures.items()},
        estimates=workload.estimates + tuple(_rests_on(gpu)),
    )


# time ----------------------------------------------------------------------------------------------------------------


def _time(work: ComponentWork, dtype: str, gpu: Gpu, options: Options) -> roofline.Time:
    total = roofline.NOTHING
    for call, count in work.calls:
        operators = [
            (_quantized(operator, options) if work.denoiser else operator, times)
            for operator, times in counted(call.fused if options.compile else call.eager)
        ]
        split = options.split if work.denoiser else parallel.Degrees()
        time = roofline.time_of(list(parallel.share(operators, split)), gpu, graphs=options.compile)
        exchange = parallel.exchange_seconds(operators, split, gpu)
        time = replace(time, seconds=time.seconds + exchange)
        total += time * count
    return total


def _quantized(operator: Operator, options: Options) -> Operator:
    """A product whose weights are held in fewer bits: less traffic, and 8-bit products unless they are unpacked."""
    if options.weight_dtype is None or operator.kind != MATMUL or not operator.weight_bytes:
        return operator
    ratio = WEIGHT_BYTES[options.weight_dtype] / 2
    held = round(operator.weight_bytes * ratio)
    dtype = operator.dtype if options.weight_dtype == "nf4" else options.weight_dtype
    return replace(operator, dtype=dtype, bytes_in=operator.bytes_in - operator.weight_bytes + held, weight_bytes=held)


def _total_seconds(workload: Workload, times: Mapping[str, roofline.Time], gpu: Gpu, options: Options) -> float:
    rates = gpu.rates
    steps = max((sum(n for _, n in w.calls) for w in workload.components.values() if w.denoiser), default=0)
    seconds = sum(time.seconds for time in times.values())
    seconds += rates.run_seconds + steps * rates.step_seconds + workload.pixels * rates.pixel_seconds
    return seconds + _bus_seconds(workload, times, gpu, options)


def _bus_seconds(workload: Workload, times: Mapping[str, roofline.Time], gpu: Gpu, options: Options) -> float:
    """Time that offloaded weights add: all of their transfer, or with a stream what the work does not hide."""
    if options.offload == memory.RESIDENT:
        return 0.0
    added = 0.0
    for name, work in workload.components.items():
        footprint = work.footprint(memory.CUDA, options.weight_dtype)
        moved = memory.moved_over_the_bus(footprint, options.offload)
        seconds = moved / (gpu.figure("host_link_gb_s") * 1e9 * rates_of_bus(options.offload))
        added += max(seconds - times[name].seconds, 0.0) if options.offload == memory.GROUP else seconds
    return added


def rates_of_bus(offload: str) -> float:
    """Share of the bus's bandwidth that transfers reach: weights that are not pinned are copied twice on the host."""
    return 0.8 if offload == memory.GROUP else 0.4


def _range(value: float | None, spread: float) -> Range | None:
    return None if value is None else (value * math.exp(-spread), value * math.exp(spread))


def _rate(flops: float, seconds: float | None) -> float | None:
    return flops / seconds / 1e12 if seconds else None


def _mfu(flops: float, seconds: float | None, gpu: Gpu, dtype: str) -> float | None:
    return flops / seconds / gpu.peak_flops(dtype) if seconds else None


def _component(
    work: ComponentWork, time: roofline.Time | None, gpu: Gpu, dtype: str, options: Options
) -> ComponentPrediction:
    footprint = work.footprint(memory.CUDA, options.weight_dtype)
    seconds = None if time is None else time.seconds
    joules = None
    if time is not None and seconds and "power_watts" in gpu.figures:
        joules = energy.joules(time, gpu, dtype)
    flops = sum(call.flops * count for call, count in work.calls)
    done = 0.0 if time is None else time.flops
    return ComponentPrediction(
        class_name=work.class_name,
        params=work.params,
        calls=footprint.calls,
        seconds=seconds,
        bound=time.bound if time is not None and seconds else None,
        flops=flops,
        tflops_per_second=_rate(done, seconds),
        mfu=_mfu(done, seconds, gpu, dtype),
        joules=joules,
        weight_bytes=footprint.weights,
        activation_bytes=footprint.activations,
    )


# memory --------------------------------------------------------------------------------------------------------------


def _peak(workload: Workload, options: Options, allocator: memory.Allocator) -> int:
    footprints = [work.footprint(allocator, options.weight_dtype) for work in workload.components.values()]
    return memory.peak(footprints, options.offload, allocator)


def _advice(workloads: Workloads, gpu: Gpu, options: Options, arguments: Mapping[str, Any]) -> Advice | None:
    """The first change that makes a run fit, in the order of how much it changes."""
    for change, options_then in _changes(options):
        try:
            then = estimate(workloads.of(tiling=options_then.tiling, **arguments), gpu, options_then)
        except InputError:  # a decoder that cannot tile, a dtype that the GPU lacks
            continue
        if then.fits:
            fields = ("offload", "tiling", "weight_dtype")
            new = {f: getattr(options_then, f) for f in fields if getattr(options_then, f) != getattr(options, f)}
            return Advice(change, new, then.peak_memory_bytes, then.seconds)
    return None


def _changes(options: Options) -> Iterator[tuple[str, Options]]:
    """Changes from the least to the most intrusive: first what leaves the result alone, then what rounds weights."""
    tiles = "decode in tiles"
    ladder: Iterable[tuple[str, dict[str, Any]]] = (
        (tiles, {"tiling": True}),
        ("offload components", {"offload": memory.MODEL}),
        (f"offload components, {tiles}", {"offload": memory.MODEL, "tiling": True}),
        ("offload blocks with a stream", {"offload": memory.GROUP}),
        (f"offload blocks with a stream, {tiles}", {"offload": memory.GROUP, "tiling": True}),
        (f"offload layer by layer, {tiles}", {"offload": memory.SEQUENTIAL, "tiling": True}),
        (
            f"weights of the denoiser in float8, offload components, {tiles}",
            {"offload": memory.MODEL, "tiling": True, "weight_dtype": "float8"},
        ),
        (
            f"weights of the denoiser in nf4, offload components, {tiles}",
            {"offload": memory.MODEL, "tiling": True, "weight_dtype": "nf4"},
        ),
    )
    for change, new in ladder:
        then = replace(options, **new)
        if then != options:
            yield change, then


def _rests_on(gpu: Gpu) -> Iterator[str]:
    if gpu.overridden:
        yield f"figures given by the user: {', '.join(gpu.overridden)}"
    if gpu.generation not in hardware.fitted_generations() and gpu.generation != "unknown":
        yield f"no measurement of this generation of GPUs: {gpu.rates.source}"
