"""The table of GPUs: sources, names, files of the user's own, and what is refused."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from diffmeter.errors import InputError
from diffmeter.prediction import hardware


def test_every_figure_has_a_source_and_every_price_a_date() -> None:
    for gpu in hardware.table().values():
        assert set(gpu.sources) == set(gpu.figures)
        assert all(len(source) > 10 for source in gpu.sources.values())
        assert gpu.price is None or gpu.price.date is not None


def test_the_table_has_the_gpus_that_it_promises() -> None:
    promised = "a100-sxm-80gb a100-sxm-40gb a100-pcie-80gb h100-sxm h100-pcie h100-nvl h200-sxm b200 l4 l40s a10g t4"
    promised += " v100-sxm rtx-3090 rtx-4090 rtx-5090 mi300x apple-m1"
    assert set(promised.split()) <= set(hardware.table())


def test_published_figures() -> None:
    """Data sheets: H100 SXM 989 TFLOP/s of bfloat16 and 3.35 TB/s; L40S 362 without sparsity, not 733."""
    h100 = hardware.find("h100-sxm")
    assert (h100.peak_flops("bfloat16"), h100.figure("bandwidth_gb_s")) == (989e12, 3350)
    assert h100.memory_bytes == 80 * 2**30
    assert hardware.find("l40s").peak_flops("float16") == 362e12


@pytest.mark.parametrize("name", ["H100", "h100 sxm", "NVIDIA H100 80GB HBM3", "h100-80gb"])
def test_a_gpu_is_found_by_its_names(name: str) -> None:
    assert hardware.find(name).name == "h100-sxm"


def test_an_unknown_gpu_is_never_another_one() -> None:
    """Tables that look for 'l4' in a name give an L40S the figures of an L4."""
    assert hardware.match("NVIDIA L40S").name == "l40s"  # type: ignore[union-attr]
    assert hardware.match("NVIDIA L40") is None
    with pytest.raises(InputError, match=r"Unknown GPU 'rtx-4080'.*rtx-4090"):
        hardware.find("rtx-4080")


def test_devices_of_one_name_are_told_apart_by_memory() -> None:
    assert hardware.match("Tesla V100-SXM2-16GB", 32 * 2**30) is None
    assert hardware.match("Tesla V100-SXM2-16GB", 16 * 2**30).name == "v100-sxm"  # type: ignore[union-attr]


def test_a_rate_that_a_gpu_lacks_is_refused_with_those_it_has() -> None:
    with pytest.raises(InputError, match="no known rate for bfloat16: it has float16, float32"):
        hardware.find("t4").peak_flops("bfloat16")


def test_convolutions_of_float32_use_tf32_and_matrix_products_do_not() -> None:
    """PyTorch allows TF32 in cuDNN and not in cuBLAS unless told otherwise."""
    a100 = hardware.find("a100")
    assert a100.peak_flops("float32", "convolution") == 156e12
    assert a100.peak_flops("float32") == 19.5e12


OWN: dict[str, Any] = {"name": "mine", "figures": {"float32_tflops": 10, "bandwidth_gb_s": {"value": 500}}}


def _file(folder: Path, data: object) -> str:
    path = folder / "gpu.json"
    path.write_text(data if isinstance(data, str) else json.dumps(data))
    return str(path)


def test_a_file_of_the_users_own(tmp_path: Path) -> None:
    gpu = hardware.find(_file(tmp_path, OWN))
    assert (gpu.name, gpu.peak_flops("float32"), gpu.memory_bytes) == ("mine", 10e12, None)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"figures": {"float32_tflops": 10}}, "bandwidth_gb_s is missing"),
        ({"figures": {**OWN["figures"], "power_watts": -3}}, "power_watts must be a number between"),
        ({"figures": {**OWN["figures"], "memory_gib": "24"}}, "memory_gib must be a number"),
        ({"figures": {**OWN["figures"], "speed": 3}}, "'speed' is no figure"),
        ({"usd_per_hour": -1}, "price must be"),
        ({"rates": {"matmul": -1}}, "rate matmul"),
        ({"rates": {"luck": 1}}, "'luck' is no rate"),
    ],
)
def test_a_file_with_a_missing_or_impossible_figure_is_refused(
    tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        hardware.find(_file(tmp_path, {**OWN, **change}))


@pytest.mark.parametrize("text", ["[]", "{", '{"figures": {}}'])
def test_a_file_that_is_no_gpu_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(InputError):
        hardware.read(_file(tmp_path, text))
    with pytest.raises(InputError, match="cannot be read"):
        hardware.read(tmp_path / "none.json")


@pytest.mark.parametrize("vram", [0, -1, math.inf, math.nan])
def test_impossible_memory_is_refused(vram: float) -> None:
    with pytest.raises(InputError):
        hardware.from_memory(vram)


def test_own_figures_replace_those_of_the_table_and_are_named() -> None:
    gpu = hardware.find("rtx-4090").with_figures(bandwidth_gb_s=900, memory_gib=None)
    assert gpu.figure("bandwidth_gb_s") == 900
    assert gpu.figure("memory_gib") == 24
    assert gpu.overridden == ("bandwidth_gb_s",)


def test_a_generation_without_measurements_has_a_wider_range() -> None:
    assert hardware.rates_of("turing").spread > hardware.rates_of("hopper").spread
