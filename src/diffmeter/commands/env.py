"""``diffmeter env``: versions, device and settings, for bug reports."""

from __future__ import annotations

import os
import platform
import sys
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import _options
from ._console import Answer, Form, progress

if TYPE_CHECKING:
    from diffmeter.reports.tables import Table

# Distributions whose versions decide what diffmeter counts or how models are loaded.
_DISTRIBUTIONS = (
    "torch",
    "diffusers",
    "transformers",
    "accelerate",
    "huggingface_hub",
    "safetensors",
    "tokenizers",
    "peft",
    "numpy",
    "pillow",
)


EXAMPLES = ["diffmeter env", "diffmeter env --json"]


def run(output_format: _options.Format = "table", as_json: _options.AsJson = False) -> None:
    """Show versions, device and settings. Paste it into a bug report; it holds no token."""
    form = Form.of(output_format, as_json)
    with progress("Loading torch and looking for devices"):
        report = environment()
    form.write(Answer(report, lambda: _table(report)))


def _table(report: dict[str, dict[str, Any]]) -> Table:
    from diffmeter.reports.tables import Column, Row, Table

    rows = [
        Row({"part": part, "name": name, "value": _readable(value)})
        for part, values in report.items()
        for name, value in values.items()
    ]
    columns = [Column("part", "Part"), Column("name", "Name"), Column("value", "Value")]
    return Table(columns=columns, rows=rows, title=f"diffmeter {report['versions']['diffmeter']}")


def environment() -> dict[str, dict[str, Any]]:
    """What ``diffmeter env`` shows: versions, machine, device, settings and hub, each a flat dictionary."""
    return {
        "versions": _versions(),
        "machine": _machine(),
        "device": _device(),
        "settings": _settings(),
        "hub": _hub(),
    }


def _versions() -> dict[str, Any]:
    from diffmeter._version import __version__

    versions: dict[str, Any] = {"diffmeter": __version__, "python": platform.python_version()}
    for name in _DISTRIBUTIONS:
        versions[name] = _version(name)
    # Two distributions install a package named thop; which one it is changes the counts of normalization layers.
    for name in sorted(set(metadata.packages_distributions().get("thop", ["thop"]))):
        versions[name] = _version(name)
    return versions


def _version(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def _machine() -> dict[str, Any]:
    return {
        "platform": platform.platform(),
        "processor": platform.machine(),
        "cpus": os.cpu_count(),
        "memory_bytes": _memory_bytes(),
        "executable": sys.executable,
    }


def _memory_bytes() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # not on Windows
        return None


def _device() -> dict[str, Any]:
    import torch

    from diffmeter.devices import available_devices, best_device, device_name, memory

    device: dict[str, Any] = {"default": best_device(), "torch_threads": torch.get_num_threads()}
    for name in available_devices()[1:]:
        device[name] = device_name(name)
        device[f"{name}_memory_bytes"] = memory(name).total
    if torch.version.cuda is not None:
        device["cuda"] = torch.version.cuda
    return device


def _settings() -> dict[str, Any]:
    from diffmeter import config

    return {name: str(value) if isinstance(value, Path) else value for name, value in config.current().items()}


def _hub() -> dict[str, Any]:
    from huggingface_hub import constants, get_token

    return {
        "endpoint": constants.ENDPOINT,
        "cache": constants.HF_HUB_CACHE,
        "offline": bool(constants.HF_HUB_OFFLINE),
        "token_is_set": get_token() is not None,
    }


def _readable(value: Any) -> str:
    if value is None:
        return "not installed"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return str(value)
