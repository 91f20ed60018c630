"""What observing costs: generations with and without it, in turn, in one run.

    python benchmarks/overhead.py [--repeats 5] [--skip-full-size] [--json FILE]

Three measurements, each printed as a ratio or a time per call:

1. a Stable Diffusion 2.1 UNet of full size with random weights, on the CPU, a few steps at 256 x 256;
2. the embedded pipeline, 25 steps;
3. recording one call of a component of FLUX's size (about 1,300 modules), averaged over 30 steps, and a dry run of
   FLUX.1-dev at 1024 x 1024 with 28 steps against one plain forward of its transformer on the meta device.

Counting happens when the profile is read and is reported apart.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
from diffusers import DiffusionPipeline, FluxTransformer2DModel
from diffusers.utils import logging as diffusers_logging
from rich.console import Console
from rich.table import Table

from diffmeter import dry_run, get_model_manager, observe
from diffmeter.metering.twins import output_shape_cache as meta_results
from diffmeter.models import catalog

FLUX = "black-forest-labs/FLUX.1-dev"
SD21 = "stabilityai/stable-diffusion-2-1-base"


def timed(action: Callable[[], Any]) -> float:
    """Seconds of wall-clock time."""
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


def generation_overhead(pipe: Any, arguments: dict[str, Any], repeats: int) -> dict[str, float]:
    """Plain and observed generations in turn: the median of the pairs' ratios, and the time of counting."""
    pipe.set_progress_bar_config(disable=True)

    def plain() -> None:
        pipe(**arguments, generator=torch.Generator().manual_seed(0))

    plain()  # warm up
    ratios, plain_times, counting = [], [], []
    for number in range(repeats):
        if number % 2:  # each goes first in half of the pairs
            without = timed(plain)
        with observe(pipe) as run:
            observed = timed(plain)
        if not number % 2:
            without = timed(plain)
        counting.append(timed(lambda run=run: run.profile))  # type: ignore[misc]
        ratios.append(observed / without)
        plain_times.append(without)
    return {
        "ratio": statistics.median(ratios),
        "ratio_min": min(ratios),
        "ratio_max": max(ratios),
        "plain_seconds": statistics.median(plain_times),
        "counting_seconds": statistics.median(counting),
    }


def full_size_unet(repeats: int) -> dict[str, float]:
    """SD 2.1's UNet, with everything else of the pipeline left at work on small inputs."""
    pipe = get_model_manager().load_model(SD21, weights="random", device="cpu")
    arguments = {"prompt": "a photo", "num_inference_steps": 3, "height": 256, "width": 256, "output_type": "latent"}
    return generation_overhead(pipe, arguments, repeats)


def embedded(repeats: int) -> dict[str, float]:
    """The embedded pipeline as ``generate_image`` runs it: a model this small on one thread."""
    pipe = get_model_manager().load_model("diffmeter/shapes", device="cpu")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return generation_overhead(pipe, {"prompt": "a red circle", "num_inference_steps": 25}, 3 * repeats)
    finally:
        torch.set_num_threads(threads)


def recording_a_large_component(repeats: int) -> dict[str, float]:
    """Time that noting one call of FLUX's transformer takes, averaged over 30 calls of a generation.

    All of its modules are there, in small widths, so that the forward itself runs in no time on a CPU.
    """
    facts = catalog.find(FLUX)
    assert facts is not None
    config = dict(facts.components["transformer"].config)
    config |= {"attention_head_dim": 16, "num_attention_heads": 2, "axes_dims_rope": (4, 6, 6)}
    config |= {"joint_attention_dim": 32, "pooled_projection_dim": 16, "in_channels": 8}
    transformer = FluxTransformer2DModel.from_config(config).eval()

    class Loop(DiffusionPipeline):
        def __init__(self, transformer: Any) -> None:
            super().__init__()
            self.register_modules(transformer=transformer)

        @torch.no_grad()
        def __call__(self, calls: int, inputs: dict[str, Any]) -> None:
            for _ in range(calls):
                self.transformer(**inputs)

    inputs = {
        "hidden_states": torch.zeros(1, 4, 8),
        "encoder_hidden_states": torch.zeros(1, 4, 32),
        "pooled_projections": torch.zeros(1, 16),
        "timestep": torch.ones(1),
        "img_ids": torch.zeros(4, 3),
        "txt_ids": torch.zeros(4, 3),
        "guidance": torch.ones(1),
    }
    loop = Loop(transformer)
    averages, entering = [], []
    for _ in range(repeats):
        noting: list[float] = []
        block = observe(loop)
        start = time.perf_counter()
        with block as run:
            entering.append(time.perf_counter() - start)
            begin = run._begin

            def timed_begin(*call: Any, begin: Any = begin, noting: list[float] = noting) -> Any:
                start = time.perf_counter()
                record = begin(*call)
                noting.append(time.perf_counter() - start)
                return record

            run._begin = timed_begin
            loop(30, inputs)
        averages.append(sum(noting) / 30)
    modules = sum(1 for _ in transformer.modules())
    return {
        "milliseconds_per_call": 1000 * statistics.median(averages),
        "milliseconds_of_entering_the_block": 1000 * statistics.median(entering),
        "modules": modules,
    }


def dry_run_of_flux(repeats: int) -> dict[str, float]:
    """A dry run of the whole pipeline against plain meta forwards of its transformer, encoders and decoder.

    Results of operators that earlier dry runs met are forgotten before each.
    """
    pipe = get_model_manager().load_model(FLUX, weights="none")
    with torch.device("meta"):
        transformer_inputs = {
            "hidden_states": torch.empty(1, 4096, 64),
            "encoder_hidden_states": torch.empty(1, 512, 4096),
            "pooled_projections": torch.empty(1, 768),
            "timestep": torch.empty(1),
            "img_ids": torch.empty(4096, 3),
            "txt_ids": torch.empty(512, 3),
            "guidance": torch.empty(1),
        }
        clip_ids = torch.empty(1, 77, dtype=torch.long)
        t5_ids = torch.empty(1, 512, dtype=torch.long)
        latents = torch.empty(1, 16, 128, 128)

    def transformer() -> None:
        pipe.transformer(**transformer_inputs)

    def rest() -> None:
        pipe.text_encoder(clip_ids)
        pipe.text_encoder_2(t5_ids)
        pipe.vae.decode(latents)

    ratios, dry_times = [], []
    with torch.no_grad():
        transformer(), rest()  # warm up
        for _ in range(repeats):
            one, others = timed(transformer), timed(rest)
            meta_results.forget()
            dry = timed(lambda: dry_run(pipe, prompt="a photo", height=1024, width=1024, num_inference_steps=28))
            ratios.append((dry - others) / one)
            dry_times.append(dry)
    return {
        "ratio_to_one_transformer_forward": statistics.median(ratios),
        "dry_run_seconds": statistics.median(dry_times),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--skip-full-size", action="store_true", help="leave the full-size UNet out (3.5 GB, minutes)")
    parser.add_argument("--json", help="write the results with their conditions to this file")
    options = parser.parse_args()
    diffusers_logging.set_verbosity_error()

    results: dict[str, Any] = {
        "conditions": {
            "torch": torch.__version__,
            "python": platform.python_version(),
            "processor": platform.machine(),
            "threads": torch.get_num_threads(),
            "repeats": options.repeats,
        }
    }
    results["embedded pipeline"] = embedded(options.repeats)
    results["recording a FLUX-size component"] = recording_a_large_component(options.repeats)
    results["dry run of FLUX.1-dev"] = dry_run_of_flux(options.repeats)
    if not options.skip_full_size:
        results["SD 2.1 UNet, 256 x 256"] = full_size_unet(options.repeats)

    table = Table(title="What observing costs")
    for column in ("Measurement", "Figure", "Value"):
        table.add_column(column)
    for name, figures in results.items():
        for figure, value in figures.items():
            table.add_row(name, figure, f"{value:.4f}" if isinstance(value, float) else str(value))
    Console().print(table)
    if options.json:
        with open(options.json, "w") as file:
            json.dump(results, file, indent=2)
            file.write("\n")
        print(f"Written to {options.json}", file=sys.stderr)


if __name__ == "__main__":
    main()
