"""Counters of other packages beside diffmeter: answer, time and memory, on the same components.

    python benchmarks/counters.py            measure everything and write the page
    python benchmarks/counters.py --page     write the page again from the last results
    python benchmarks/counters.py --tools thop,fvcore --components clip --devices meta     show a part

Installs the other counters into a temporary folder, each into one of its own, since two of them have the same import
name; none of them becomes a dependency of diffmeter, and the folder is removed at the end. A counter that cannot be
installed or that fails is listed with its reason. Every measurement runs in a process of its own. Writes
docs/COUNTERS_COMPARED.md and benchmarks/results/counters.json.

The reference is PyTorch's FlopCounterMode on the meta device, where attention is decomposed into the products that it
is made of: every product is seen by the dispatcher.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.metadata
import io
import itertools
import json
import multiprocessing
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results" / "counters.json"
PAGE = HERE.parent / "docs" / "COUNTERS_COMPARED.md"
TIMEOUT = 240

#: what pip installs for each tool, without dependencies: torch and its kin are there already
PACKAGES: dict[str, list[str]] = {
    "thop": ["thop==0.1.1.post2209072238"],
    "ultralytics-thop": ["ultralytics-thop"],
    "fvcore": ["fvcore", "iopath", "yacs", "portalocker", "tabulate", "termcolor"],
    "ptflops": ["ptflops"],
    "ptflops (aten)": ["ptflops"],
    "calflops": ["calflops"],
    "torchinfo": ["torchinfo"],
    "FlopCounterMode": [],
    "torch.profiler": [],
    "diffmeter": [],
}
COMPONENTS = {
    "clip": "Text encoder of SD 1.5 (CLIP ViT-L/14), 77 tokens",
    "ddpm": "U-Net of DDPM CIFAR-10, 32 x 32",
    "bk-tiny": "U-Net of BK-SDM-Tiny, 256 x 256",
    "dit": "DiT-B/2, 256 x 256",
}
DEVICES = ("cpu", "meta")


# one measurement, in a process of its own ----------------------------------------------------------------------------


def build(component: str, device: str) -> tuple[Any, dict[str, Any]]:
    """A component with random weights, and the keyword arguments of one forward."""
    import torch

    from diffmeter.models import catalog
    from diffmeter.models.blueprint import component_type

    def from_catalog(model_id: str, name: str) -> Any:
        entry = catalog.find(model_id)
        assert entry is not None
        part = entry.components[name]
        cls: Any = component_type(part.library, part.class_name, model_id, name)
        if part.library == "transformers":
            return cls(cls.config_class.from_dict(dict(part.config)))
        return cls.from_config(dict(part.config))

    with torch.device(device):
        if component == "clip":
            model = from_catalog("CompVis/stable-diffusion-v1-4", "text_encoder")
            inputs = {"input_ids": torch.zeros(1, 77, dtype=torch.long)}
        elif component == "ddpm":
            model = from_catalog("google/ddpm-cifar10-32", "unet")
            inputs = {"sample": torch.zeros(1, 3, 32, 32), "timestep": torch.ones(1, dtype=torch.long)}
        elif component == "bk-tiny":
            model = from_catalog("nota-ai/bk-sdm-tiny", "unet")
            inputs = {
                "sample": torch.zeros(1, 4, 32, 32),
                "timestep": torch.ones(1, dtype=torch.long),
                "encoder_hidden_states": torch.zeros(1, 77, 768),
            }
        else:
            from diffusers import DiTTransformer2DModel

            model = DiTTransformer2DModel(
                sample_size=32,
                num_layers=12,
                num_attention_heads=12,
                attention_head_dim=64,
                out_channels=8,
                norm_type="ada_norm_zero",
                norm_elementwise_affine=False,
            )
            inputs = {
                "hidden_states": torch.zeros(1, 4, 32, 32),
                "timestep": torch.ones(1, dtype=torch.long),
                "class_labels": torch.ones(1, dtype=torch.long),
            }
    return model.eval(), inputs


def positional(model: Any, names: list[str]) -> Any:
    """The model behind positional arguments and a tuple of tensors, for counters that know nothing else."""
    import torch

    class Positional(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, *values: Any) -> Any:
            return self.model(**dict(zip(names, values, strict=True)), return_dict=False)[0]

    return Positional()


def counter(tool: str, model: Any, inputs: dict[str, Any]) -> Callable[[], int]:
    """A function that counts the MACs of one forward with a tool."""
    import torch

    values, wrapped = tuple(inputs.values()), positional(model, list(inputs))
    if tool in ("thop", "ultralytics-thop"):
        import thop

        return lambda: int(thop.profile(wrapped, inputs=values, verbose=False)[0])
    if tool == "fvcore":
        from fvcore.nn import FlopCountAnalysis

        return lambda: int(FlopCountAnalysis(wrapped, values).unsupported_ops_warnings(False).total())
    if tool.startswith("ptflops"):
        from ptflops import get_model_complexity_info

        backend = "aten" if "aten" in tool else "pytorch"
        names = dict(zip(("a", "b", "c"), values, strict=False))

        class Named(torch.nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.inner = wrapped

            def forward(self, **named: Any) -> Any:
                return self.inner(*named.values())

        def run() -> int:
            macs, _ = get_model_complexity_info(
                Named(),
                (1,),
                input_constructor=lambda shape: names,
                as_strings=False,
                print_per_layer_stat=False,
                backend=backend,
            )
            return int(macs)

        return run
    if tool == "calflops":
        from calflops import calculate_flops

        return lambda: int(
            calculate_flops(
                model, kwargs=dict(inputs), output_as_string=False, print_results=False, print_detailed=False
            )[1]
        )
    if tool == "torchinfo":
        from torchinfo import summary

        device = values[0].device
        return lambda: int(summary(wrapped, input_data=list(values), verbose=0, device=device).total_mult_adds)
    if tool == "FlopCounterMode":
        from torch.utils.flop_counter import FlopCounterMode

        def flop_counter() -> int:
            with FlopCounterMode(display=False) as found, torch.no_grad():
                model(**inputs)
            return int(found.get_total_flops()) // 2

        return flop_counter
    if tool == "torch.profiler":

        def profiler() -> int:
            activities = [torch.profiler.ProfilerActivity.CPU]
            with torch.profiler.profile(activities=activities, with_flops=True) as found, torch.no_grad():
                model(**inputs)
            return int(sum(event.flops for event in found.key_averages())) // 2

        return profiler

    from diffmeter.metering.twins.building import build_twin
    from diffmeter.metering.twins.counts import TwinCounts
    from diffmeter.metering.watching.signature import freeze
    from diffmeter.metering.watching.snapshot import ModuleSnapshot

    return lambda: TwinCounts(build_twin(ModuleSnapshot(model))).get("forward", freeze((), inputs)).count.matmul_macs


def measure(tool: str, model: Any, inputs: dict[str, Any]) -> dict[str, Any]:
    """Count once from fresh for the peak memory, then time plain forwards and further counts."""
    import torch

    before = start_of_peak()

    def plain() -> None:
        with torch.no_grad():
            model(**inputs)

    def timed(function: Callable[[], Any]) -> tuple[Any, float]:
        started = time.perf_counter()
        result = function()
        return result, time.perf_counter() - started

    macs: int | None = None
    if tool == "plain forward":
        run: Callable[[], Any] = plain
    else:
        run = counter(tool, model, inputs)
    with contextlib.redirect_stdout(io.StringIO()), torch.no_grad():
        macs, first = timed(run)
        peak = peak_memory()
        forwards = [timed(plain)[1] for _ in range(4)][1:]
        counts = [first, *(timed(run)[1] for _ in range(2))]
    forward = min(forwards)
    return {
        "macs": macs,
        "seconds_forward": forward,
        "seconds_count": min(counts),
        "time_ratio": min(counts) / forward,
        "peak_mib": peak,
        "peak_over_built_mib": peak - before,
    }


def start_of_peak() -> float:
    """Memory of this process in MiB, from which its peak is measured again (Linux; a fork inherits a peak)."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
    return peak_memory()


def peak_memory() -> float:
    """Peak resident memory of this process in MiB."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


# all of them ---------------------------------------------------------------------------------------------------------


def install(tool: str, folder: Path) -> tuple[Path | None, str | None, str]:
    """Install a tool's packages: the folder, why it failed, and its version."""
    if not PACKAGES[tool]:
        name = "diffmeter" if tool == "diffmeter" else "torch"
        return None, None, f"{name} {importlib.metadata.version(name)}"
    target = folder / tool.replace(" ", "-")
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"]
    done = subprocess.run([*command, "--target", str(target), *PACKAGES[tool]], capture_output=True, text=True)
    if done.returncode:
        return None, done.stderr.strip().splitlines()[-1] if done.stderr.strip() else "pip failed", ""
    name = PACKAGES[tool][0].split("==")[0]
    found = next(iter(importlib.metadata.distributions(name=name, path=[str(target)])), None)
    return target, None, f"{name} {found.version if found is not None else ''}".strip()


def in_process(tool: str, model: Any, inputs: dict[str, Any], packages: Path | None) -> dict[str, Any]:
    """One measurement in a fork of this process, where nothing was counted yet; ``error`` where it failed."""
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)

    def child() -> None:
        if packages is not None:
            sys.path.insert(0, str(packages))
        warnings.simplefilter("ignore")
        try:
            sender.send(measure(tool, model, inputs))
        except BaseException as error:  # whatever a counter does, the others go on
            lines = str(error).strip().splitlines()
            sender.send({"error": f"{type(error).__name__}: {lines[0][:180] if lines else ''}"})

    process = context.Process(target=child)
    process.start()
    sender.close()
    found: dict[str, Any] = {"error": f"did not finish within {TIMEOUT} s"}
    if receiver.poll(TIMEOUT):
        try:
            found = receiver.recv()
        except EOFError:
            process.join()
            found = {"error": f"the process ended with exit code {process.exitcode}"}
    else:
        process.kill()
    process.join()
    return found


def cpu_name() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or "unknown"


def run_all(tools: list[str], components: list[str], devices: list[str]) -> dict[str, Any]:
    """Measure every combination."""
    results: list[dict[str, Any]] = []
    versions: dict[str, str] = {}
    with tempfile.TemporaryDirectory(prefix="counters-") as folder:
        ready: dict[str, Path | None] = {}
        failed: dict[str, str] = {}
        for tool in tools:
            ready[tool], error, versions[tool] = install(tool, Path(folder))
            if error is not None:
                failed[tool] = f"could not be installed: {error}"
        for component, device in itertools.product(components, devices):
            model, inputs = build(component, device)
            reference = in_process("FlopCounterMode", *build(component, "meta"), None).get("macs")
            if not reference:
                raise SystemExit(f"no reference for {component}")
            for tool in ["plain forward", *tools]:
                error = failed.get(tool)
                found = {"error": error} if error else in_process(tool, model, inputs, ready.get(tool))
                entry = {"tool": tool, "component": component, "device": device, "reference": reference, **found}
                if tool == "plain forward":
                    entry["macs"] = None
                results.append(entry)
                print(json.dumps(entry), flush=True)
            del model, inputs
    import diffusers
    import torch
    import transformers

    return {
        "conditions": {
            "cpu": cpu_name(),
            "threads": 1,
            "cores": os.cpu_count(),
            "load_average": os.getloadavg()[0],
            "python": platform.python_version(),
            "torch": torch.__version__,
            "diffusers": diffusers.__version__,
            "transformers": transformers.__version__,
            "dtype": "float32",
            "batch": 1,
            "tools": versions,
        },
        "results": results,
    }


def page(data: dict[str, Any]) -> str:
    """The results as Markdown."""
    conditions = data["conditions"]
    lines = [
        "# Counters side by side",
        "",
        "Written by `python benchmarks/counters.py`; do not edit. Raw numbers: `benchmarks/results/counters.json`.",
        "",
        "Each counter counts one forward of the same component, with random weights, on the CPU and on the meta "
        "device (where tensors have shapes and no values). The reference is PyTorch's `FlopCounterMode` on the meta "
        "device: there the dispatcher sees every product, those of attention included.",
        "",
        "- *MACs*: the tool's answer. Some tools say FLOPs and mean MACs; `FlopCounterMode` and `torch.profiler` "
        "count 2 x MACs and are halved here.",
        "- *Ratio*: answer divided by the reference. 1.0000 is every product; less is work that was not seen; some "
        "tools also add work that is no product, by conventions of their own.",
        "- *Time*: the fastest of three counts, in plain forwards of the same component on the same device, measured "
        "in the same process (the fastest forward of three).",
        "- *Peak*: peak memory of the process during the first count, above what it held with the component built. On "
        "the CPU it holds the activations of one forward.",
    ]
    for component in dict.fromkeys(entry["component"] for entry in data["results"]):
        mine = [entry for entry in data["results"] if entry["component"] == component]
        lines += ["", f"## {COMPONENTS[component]}", "", f"Reference: {mine[0]['reference']:,} MACs.", ""]
        lines += [
            "| Counter | Device | MACs | Ratio | Time | Peak (MiB) |",
            "| --- | --- | ---: | ---: | ---: | ---: |",
        ]
        failures = []
        for entry in mine:
            if "error" in entry:
                failures.append(f"- {entry['tool']} on {entry['device']}: `{entry['error'].replace('`', '')}`")
                lines.append(f"| {entry['tool']} | {entry['device']} | failed | | | |")
                continue
            macs = entry["macs"]
            answer = ("", "") if macs is None else (f"{macs:,}", f"{macs / entry['reference']:.4f}")
            ratio = "1 forward" if macs is None else f"{entry['time_ratio']:.2f}"
            lines.append(
                f"| {entry['tool']} | {entry['device']} | {answer[0]} | {answer[1]} | {ratio} | "
                f"{entry['peak_over_built_mib']:.0f} |"
            )
        if failures:
            lines += ["", "Failed:", "", *failures]
    lines += [
        "",
        "## Conditions",
        "",
        f"{conditions['cpu']}, 1 thread of {conditions['cores']} cores, load average {conditions['load_average']:.1f} "
        f"(other work ran on the machine, so times are rough; they are compared only within one process). "
        f"Python {conditions['python']}, torch {conditions['torch']}, diffusers {conditions['diffusers']}, "
        f"transformers {conditions['transformers']}, {conditions['dtype']}, batch {conditions['batch']}.",
        "",
        "Counters: " + ", ".join(f"{tool} ({version})" for tool, version in conditions["tools"].items()) + ".",
        "",
    ]
    return "\n".join(lines)


def chosen(text: str | None, known: list[str]) -> list[str]:
    """The entries of a comma-separated list. Raises SystemExit for one that is not known."""
    names = known if text is None else [name.strip() for name in text.split(",")]
    unknown = [name for name in names if name not in known]
    if unknown:
        sys.exit(f"{unknown[0]!r} is not known: use {', '.join(known)}")
    return names


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tools")
    parser.add_argument("--components")
    parser.add_argument("--devices")
    parser.add_argument("--page", action="store_true")
    options = parser.parse_args()
    if options.page:
        PAGE.write_text(page(json.loads(RESULTS.read_text(encoding="utf-8"))), encoding="utf-8")
        return
    import torch

    torch.set_num_threads(1)
    data = run_all(
        chosen(options.tools, list(PACKAGES)),
        chosen(options.components, list(COMPONENTS)),
        chosen(options.devices, list(DEVICES)),
    )
    if options.tools or options.components or options.devices:
        return  # a part is shown, and the page keeps the whole
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")
    PAGE.parent.mkdir(exist_ok=True)
    PAGE.write_text(page(data), encoding="utf-8")
    print(f"written: {PAGE}")


if __name__ == "__main__":
    main()
