"""Settings: defaults, environment variables, run-time assignment, and unusable values."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from diffmeter import config
from diffmeter.errors import InputError


def test_defaults() -> None:
    assert config.load({}) == {
        "ENABLE_COMPUTE_PROFILING": True,
        "PRINT_COMPUTE_PROFILE": True,
        "OUTPUT_DIR": Path("outputs"),
        "DEVICE": "auto",
        "DTYPE": "auto",
        "ATTENTION_SLICING": False,
        "VAE_SLICING": False,
        "VAE_TILING": False,
        "CPU_OFFLOAD": "none",
        "MAX_MODELS": 1,
    }


@pytest.mark.parametrize(
    ("variable", "text", "setting", "value"),
    [
        ("ENABLE_COMPUTE_PROFILING", "false", "ENABLE_COMPUTE_PROFILING", False),
        ("ENABLE_COMPUTE_PROFILING", "0", "ENABLE_COMPUTE_PROFILING", False),
        ("ENABLE_COMPUTE_PROFILING", " ON ", "ENABLE_COMPUTE_PROFILING", True),
        ("ENABLE_COMPUTE_PROFILING", "", "ENABLE_COMPUTE_PROFILING", True),
        ("DIFFMETER_ENABLE_COMPUTE_PROFILING", "no", "ENABLE_COMPUTE_PROFILING", False),
        ("DIFFMETER_OUTPUT_DIR", "/tmp/x", "OUTPUT_DIR", Path("/tmp/x")),
        ("DIFFMETER_OUTPUT_DIR", "~/x", "OUTPUT_DIR", Path.home() / "x"),
        ("DIFFMETER_DEVICE", "cuda:1", "DEVICE", "cuda:1"),
        ("DIFFMETER_DTYPE", "bfloat16", "DTYPE", "bfloat16"),
        ("DIFFMETER_ATTENTION_SLICING", "1", "ATTENTION_SLICING", True),
        ("DIFFMETER_VAE_SLICING", "yes", "VAE_SLICING", True),
        ("DIFFMETER_VAE_TILING", "true", "VAE_TILING", True),
        ("DIFFMETER_CPU_OFFLOAD", "sequential", "CPU_OFFLOAD", "sequential"),
        ("DIFFMETER_MAX_MODELS", "3", "MAX_MODELS", 3),
    ],
)
def test_environment_variables(variable: str, text: str, setting: str, value: object) -> None:
    assert config.load({variable: text})[setting] == value


@pytest.mark.parametrize(
    ("variable", "text", "allowed"),
    [
        ("ENABLE_COMPUTE_PROFILING", "maybe", "1, true, yes or on"),
        ("DIFFMETER_DEVICE", "gpu", "cuda"),
        ("DIFFMETER_DEVICE", "cuda:x", "cuda:INDEX"),
        ("DIFFMETER_DTYPE", "int8", "float32"),
        ("DIFFMETER_CPU_OFFLOAD", "disk", "model, sequential"),
        ("DIFFMETER_MAX_MODELS", "0", "at least 1"),
        ("DIFFMETER_MAX_MODELS", "many", "at least 1"),
        ("DIFFMETER_OUTPUT_DIR", "  ", "path"),
    ],
)
def test_unusable_values_name_the_variable_and_what_is_allowed(variable: str, text: str, allowed: str) -> None:
    with pytest.raises(InputError) as caught:
        config.load({variable: text})
    message = str(caught.value)
    assert variable in message
    assert repr(text) in message
    assert allowed in message


def test_each_setting_is_documented() -> None:
    for setting in config.SETTINGS:
        assert hasattr(config, setting.name)
        for variable in setting.variables:
            assert variable in (config.__doc__ or "")


def test_run_time_assignment_is_what_current_shows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(config, "ENABLE_COMPUTE_PROFILING", False)
    assert config.current()["ENABLE_COMPUTE_PROFILING"] is False


def test_bad_environment_ends_the_command_with_one_sentence() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "diffmeter", "env"],
        env={"PATH": "/usr/bin:/bin", "DIFFMETER_DEVICE": "gpu"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1
    assert "DIFFMETER_DEVICE='gpu'" in done.stderr
