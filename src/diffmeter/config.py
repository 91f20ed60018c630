"""Settings, each with a default, an environment variable, and a module attribute that may be assigned at run time.

``ENABLE_COMPUTE_PROFILING = False`` in a program (``src.config.ENABLE_COMPUTE_PROFILING = False``) takes effect at
the next call: other modules read settings as ``config.NAME`` when they need them and keep no copy.

| attribute | environment variable | default |
| --- | --- | --- |
| ENABLE_COMPUTE_PROFILING | ENABLE_COMPUTE_PROFILING or DIFFMETER_ENABLE_COMPUTE_PROFILING | true |
| PRINT_COMPUTE_PROFILE | DIFFMETER_PRINT_COMPUTE_PROFILE | true |
| OUTPUT_DIR | DIFFMETER_OUTPUT_DIR | outputs |
| DEVICE | DIFFMETER_DEVICE | auto |
| DTYPE | DIFFMETER_DTYPE | auto |
| ATTENTION_SLICING | DIFFMETER_ATTENTION_SLICING | false |
| VAE_SLICING | DIFFMETER_VAE_SLICING | false |
| VAE_TILING | DIFFMETER_VAE_TILING | false |
| CPU_OFFLOAD | DIFFMETER_CPU_OFFLOAD | none |
| MAX_MODELS | DIFFMETER_MAX_MODELS | 1 |
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diffmeter.devices import parse_device
from diffmeter.errors import InputError

_TRUE = frozenset({"1", "true", "yes", "on"})
_FALSE = frozenset({"0", "false", "no", "off"})

DTYPES = ("auto", "float32", "float16", "bfloat16")
OFFLOADS = ("none", "model", "sequential")


def parse_bool(value: str) -> bool:
    """Read a truth value. Raises ``ValueError`` that says what is allowed."""
    text = value.strip().lower()
    if text in _TRUE:
        return True
    if text in _FALSE:
        return False
    raise ValueError("use 1, true, yes or on; or 0, false, no or off")


def _one_of(allowed: tuple[str, ...]) -> Callable[[str], str]:
    def parse(value: str) -> str:
        text = value.strip().lower()
        if text not in allowed:
            raise ValueError(f"use one of {', '.join(allowed)}")
        return text

    return parse


def _path(value: str) -> Path:
    if not value.strip() or "\0" in value:
        raise ValueError("use the path of a folder")
    return Path(value).expanduser()


def _positive(value: str) -> int:
    if not (value.strip().isascii() and value.strip().isdigit()) or int(value) < 1:
        raise ValueError("use a whole number of at least 1")
    return int(value)


@dataclass(frozen=True)
class Setting:
    """One setting: the module attribute's name, the environment variables that set it, its default and its reader."""

    name: str
    variables: tuple[str, ...]
    default: Any
    parse: Callable[[str], Any]
    help: str

    def from_environment(self, environment: Mapping[str, str]) -> Any:
        """The value that the environment gives, or the default. An empty variable counts as unset.

        Raises ``InputError`` with the variable, its value and what is allowed.
        """
        for variable in self.variables:
            value = environment.get(variable)
            if value is None or value == "":
                continue
            try:
                return self.parse(value)
            except ValueError as error:
                raise InputError(f"environment variable {variable}={value!r} is not usable: {error}.") from None
        return self.default


SETTINGS: tuple[Setting, ...] = (
    Setting(
        "ENABLE_COMPUTE_PROFILING",
        ("ENABLE_COMPUTE_PROFILING", "DIFFMETER_ENABLE_COMPUTE_PROFILING"),
        True,
        parse_bool,
        "profile every generation unless a call says otherwise",
    ),
    Setting(
        "PRINT_COMPUTE_PROFILE",
        ("DIFFMETER_PRINT_COMPUTE_PROFILE",),
        True,
        parse_bool,
        "print what a generation cost when generate_image is called from Python",
    ),
    Setting("OUTPUT_DIR", ("DIFFMETER_OUTPUT_DIR",), Path("outputs"), _path, "folder that generations are written to"),
    Setting("DEVICE", ("DIFFMETER_DEVICE",), "auto", parse_device, "device models are loaded on"),
    Setting("DTYPE", ("DIFFMETER_DTYPE",), "auto", _one_of(DTYPES), "dtype models are loaded in"),
    Setting(
        "ATTENTION_SLICING", ("DIFFMETER_ATTENTION_SLICING",), False, parse_bool, "compute attention slice by slice"
    ),
    Setting("VAE_SLICING", ("DIFFMETER_VAE_SLICING",), False, parse_bool, "decode a batch image by image"),
    Setting("VAE_TILING", ("DIFFMETER_VAE_TILING",), False, parse_bool, "decode an image tile by tile"),
    Setting(
        "CPU_OFFLOAD",
        ("DIFFMETER_CPU_OFFLOAD",),
        "none",
        _one_of(OFFLOADS),
        "keep components on the CPU until they are needed (accelerator only)",
    ),
    Setting("MAX_MODELS", ("DIFFMETER_MAX_MODELS",), 1, _positive, "how many models to keep in memory"),
)


def load(environment: Mapping[str, str]) -> dict[str, Any]:
    """Read every setting from ``environment``: attribute name to value. Raises ``InputError`` for an unusable one."""
    return {setting.name: setting.from_environment(environment) for setting in SETTINGS}


def current() -> dict[str, Any]:
    """Every setting as it is now, run-time assignments included."""
    return {setting.name: globals()[setting.name] for setting in SETTINGS}


_values = load(os.environ)

ENABLE_COMPUTE_PROFILING: bool = _values["ENABLE_COMPUTE_PROFILING"]
PRINT_COMPUTE_PROFILE: bool = _values["PRINT_COMPUTE_PROFILE"]
OUTPUT_DIR: Path = _values["OUTPUT_DIR"]
DEVICE: str = _values["DEVICE"]
DTYPE: str = _values["DTYPE"]
ATTENTION_SLICING: bool = _values["ATTENTION_SLICING"]
VAE_SLICING: bool = _values["VAE_SLICING"]
VAE_TILING: bool = _values["VAE_TILING"]
CPU_OFFLOAD: str = _values["CPU_OFFLOAD"]
MAX_MODELS: int = _values["MAX_MODELS"]
