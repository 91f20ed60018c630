"""What a generation costs: one model, several models, several resolutions.

    python example_profiling.py
    python example_profiling.py --model stabilityai/stable-diffusion-2-1-base --resolutions 512,768,1024

Runs offline: the image is made with the embedded model, full-size models are counted from their configuration.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parent / "src"))  # a checkout that is not installed works too

from diffmeter import dry_run, generate_image
from diffmeter.errors import DiffmeterError
from diffmeter.units import format_count, format_params

COMPARED = (
    "stabilityai/stable-diffusion-2-1-base",
    "PixArt-alpha/PixArt-XL-2-512x512",
    "stabilityai/stable-diffusion-xl-base-1.0",
)


def profile_one_generation(model: str, prompt: str, steps: int) -> None:
    """Generate an image for real and print what it cost."""
    print(f"1. One generation with {model}\n")
    image, filepath, seed, profiling_data = generate_image(
        model_id=model, prompt=prompt, num_inference_steps=steps, enable_profiling=True
    )
    print(f"   Image:          {filepath} ({image.width} x {image.height}, seed {seed})")
    if not profiling_data or not profiling_data.get("enabled"):
        print(f"   Not profiled:   {(profiling_data or {}).get('reason')}")
        return
    print(f"   Parameters:     {profiling_data['params_str']} in the {profiling_data['model_component']}")
    print(f"   FLOPs (total):  {profiling_data['total_flops_str']}")
    print(f"   MACs (total):   {profiling_data['total_macs_str']}")
    print(f"   MACs/step:      {profiling_data['macs_per_step_str']}, {profiling_data['num_inference_steps']} steps")
    print(f"   Inference time: {profiling_data['inference_time_str']}")
    print(f"   Throughput:     {profiling_data['throughput_tflops']:.3f} TFLOP/s")
    print(f"   Complete:       {profiling_data['complete']}\n")


def compare_models(models: list[str], steps: int) -> None:
    """Count several models at their default size, without their weights."""
    print(f"2. Several models, {steps} steps, each at its default size, without weights\n")
    print(f"   {'Model':<44}{'Size':>12}{'Params':>10}{'MACs/step':>16}{'MACs':>16}")
    for model in models:
        try:
            profile = dry_run(model, num_inference_steps=steps)
        except DiffmeterError as error:
            print(f"   {model:<44}{error}")
            continue
        size = f"{profile.conditions.width} x {profile.conditions.height}"
        print(
            f"   {model:<44}{size:>12}{format_params(profile.pipeline_params):>10}"
            f"{format_count(profile.macs_per_step, 'MACs'):>16}{format_count(profile.total_macs, 'MACs'):>16}"
        )
    print()


def resolution_impact(model: str, resolutions: list[int], steps: int) -> None:
    """Count one model at several resolutions."""
    print(f"3. The same model at several resolutions: {model}, {steps} steps\n")
    first: int | None = None
    for side in resolutions:
        profile = dry_run(model, height=side, width=side, num_inference_steps=steps)
        first = first or profile.total_macs
        growth = profile.total_macs / first
        print(f"   {side:>5} x {side:<5} {format_count(profile.total_macs, 'MACs'):>14}   {growth:6.2f} x")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--generate", default="diffmeter/shapes", help="model that makes the image")
    parser.add_argument("--prompt", default="a red circle left of a blue square")
    parser.add_argument("--models", default=",".join(COMPARED), help="models to compare, separated by commas")
    parser.add_argument("--model", default=COMPARED[0], help="model for the resolutions")
    parser.add_argument("--resolutions", default="512,768,1024")
    parser.add_argument("--steps", type=int, default=25)
    options = parser.parse_args()
    try:
        profile_one_generation(options.generate, options.prompt, options.steps)
        compare_models(options.models.split(","), options.steps)
        resolution_impact(options.model, [int(side) for side in options.resolutions.split(",")], options.steps)
    except (DiffmeterError, ValueError) as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
