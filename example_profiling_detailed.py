"""Where the compute of a generation goes: components, percentages, steps, resolutions.

    python example_profiling_detailed.py
    python example_profiling_detailed.py --model stabilityai/stable-diffusion-xl-base-1.0 --size 1024

Runs offline: one image is made with the embedded model, the rest is counted without weights.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parent / "src"))  # a checkout that is not installed works too

from diffmeter import create_profiler, dry_run, get_model_manager, observe
from diffmeter.compute_profiler import MacsSummary
from diffmeter.errors import DiffmeterError
from diffmeter.units import format_count


def real_generation(prompt: str, steps: int) -> None:
    """Observe a real generation with the embedded model, call by call."""
    print("A real generation with the embedded model, call by call\n")
    pipe = get_model_manager().load_model("diffmeter/shapes")
    pipe.set_progress_bar_config(disable=True)
    with observe(pipe) as run:
        pipe(prompt, num_inference_steps=steps)
    profile = run.profile
    print(f"  {'Component':<15}{'Method':<10}{'Calls':>6}{'Batch':>7}{'MACs per call':>18}{'Time':>12}")
    for name, component in profile.components.items():
        for call in component.calls:
            print(
                f"  {name:<15}{call.method:<10}{call.count:>6}{call.batch or '':>7}"
                f"{format_count(call.total_macs, 'MACs'):>18}{call.seconds or 0:>10.3f} s"
            )
    print(f"  Total: {format_count(profile.total_macs, 'MACs')}, complete: {profile.complete}\n")


def component_breakdown(model: str, size: int, steps: int) -> MacsSummary:
    """The component table, with percentages."""
    print(f"{model} at {size} x {size}, {steps} steps, without its weights\n")
    pipe = get_model_manager().load_model(model, weights="none")
    summary = create_profiler(enabled=True).summarize_macs(pipe=pipe, height=size, width=size, steps=steps)
    print(summary, "\n")
    return summary


def steps_scaling(model: str, size: int, steps: list[int]) -> None:
    """What more steps cost."""
    print("Steps scaling\n")
    for count in steps:
        profile = dry_run(model, height=size, width=size, num_inference_steps=count)
        print(f"  {count:>4} steps {format_count(profile.total_macs, 'MACs'):>14}")
    print()


def resolution_scaling(model: str, sizes: list[int], steps: int) -> None:
    """What a larger image costs, against the first size."""
    print(f"Resolution scaling, {steps} steps\n")
    first: int | None = None
    for side in sizes:
        profile = dry_run(model, height=side, width=side, num_inference_steps=steps)
        first = first or profile.total_macs
        attention = sum(c.macs_by_op.get("attention", 0) for c in profile.components.values())
        print(
            f"  {side:>5} x {side:<5} {format_count(profile.total_macs, 'MACs'):>14}  relative cost "
            f"{profile.total_macs / first:6.2f} x   attention {100 * attention / profile.total_macs:5.1f}%"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="stabilityai/stable-diffusion-2-1-base")
    parser.add_argument("--prompt", default="a red circle left of a blue square")
    parser.add_argument("--size", type=int, default=512, help="pixels on each side")
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--sizes", default="256,512,768,1024", help="sizes to compare, separated by commas")
    parser.add_argument("--step-counts", default="10,20,30,50")
    options = parser.parse_args()
    try:
        real_generation(options.prompt, options.steps)
        component_breakdown(options.model, options.size, options.steps)
        steps_scaling(options.model, options.size, [int(count) for count in options.step_counts.split(",")])
        resolution_scaling(options.model, [int(side) for side in options.sizes.split(",")], options.steps)
    except (DiffmeterError, ValueError) as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
