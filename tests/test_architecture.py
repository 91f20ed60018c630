"""The recipes of docs/ARCHITECTURE.md, each followed in a copy of the repository, and the paths that it names."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import pytest

from tests.checkout import ROOT, fresh_checkout, run_python

PAGE = (ROOT / "docs" / "ARCHITECTURE.md").read_text(encoding="utf-8")


def test_every_path_on_the_page_exists() -> None:
    places = (ROOT, ROOT / "src" / "diffmeter")
    named = [name for name in re.findall(r"`([\w./]+)`", PAGE) if "/" in name or name.endswith((".py", ".json"))]
    assert len(named) > 40
    missing = [name for name in named if not any((place / name).exists() for place in places)]
    assert missing == []


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One copy for all recipes: they do not meet."""
    return fresh_checkout(tmp_path_factory.mktemp("recipes"))


def _run(checkout: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    ran = run_python(*arguments, cwd=checkout, path=(checkout / "src", checkout), env={"HF_HUB_OFFLINE": "1"})
    assert ran.returncode == 0, ran.stderr
    return ran


def _edit(path: Path, old: str, new: str) -> None:
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new, 1), encoding="utf-8")


def test_an_operators_formula(checkout: Path) -> None:
    """A matrix product under a name of its own: unknown before, counted by both counters afterwards."""
    script = """
import torch, diffmeter
from torch import nn
@torch.library.custom_op("demo::product", mutates_args=())
def product(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return a @ b
@product.register_fake
def _(a, b):
    return a.new_empty(a.shape[0], b.shape[1])
class Net(nn.Module):
    def forward(self, a, b):
        return torch.ops.demo.product(a, b)
profile = diffmeter.count(Net(), torch.zeros(3, 5), torch.zeros(5, 7))
print(profile.complete, profile.matmul_macs)
"""
    assert _run(checkout, "-c", script).stdout.split()[0] == "False"
    counters = checkout / "src" / "diffmeter" / "metering" / "counters"
    body = "def demo_product(a: Shape, b: Shape, *, out: Shape) -> int:\n    return a[0] * a[1] * b[1]\n"
    for file, decorator in (
        ("op_level.py", '@operator("demo.product", kind=Kind.MATMUL)'),
        ("functional.py", '@function("a b", "demo.product", kind=Kind.MATMUL)'),
    ):
        path = counters / file
        path.write_text(f"{path.read_text(encoding='utf-8')}\n\n{decorator}\n{body}", encoding="utf-8")
    assert _run(checkout, "-c", script).stdout.split() == ["True", str(3 * 5 * 7)]


def test_a_model(checkout: Path) -> None:
    folder = checkout / "src" / "diffmeter" / "models" / "catalog" / "models"
    facts = json.loads((folder / "sd15.json").read_text(encoding="utf-8"))
    facts.update(model_id="demo/demo-diffusion", name="Demo Diffusion", aliases=["demo"])
    (folder / "demo.json").write_text(json.dumps(facts), encoding="utf-8")
    script = "from diffmeter.models import catalog; print(catalog.find('demo').model_id)"
    assert _run(checkout, "-c", script).stdout.strip() == "demo/demo-diffusion"


def test_a_gpu(checkout: Path) -> None:
    folder = checkout / "src" / "diffmeter" / "prediction" / "hardware"
    facts = json.loads((folder / "rtx-3090.json").read_text(encoding="utf-8"))
    facts.update(name="demo-gpu", title="Demo GPU", aliases=[], device_names=["Demo GPU"])
    (folder / "demo-gpu.json").write_text(json.dumps(facts), encoding="utf-8")
    script = "from diffmeter.prediction import hardware; print(hardware.find('demo-gpu').title)"
    assert _run(checkout, "-c", script).stdout.strip() == "Demo GPU"


def test_a_renderer(checkout: Path) -> None:
    path = checkout / "src" / "diffmeter" / "reports" / "renderers.py"
    function = 'def demo(result: object, **options: object) -> str:\n    return f"demo of {type(result).__name__}"\n'
    path.write_text(f"{path.read_text(encoding='utf-8')}\n\n{function}", encoding="utf-8")
    entry = '    "demo": "diffmeter.reports.renderers:demo",\n'
    _edit(checkout / "src" / "diffmeter" / "rendering.py", '    "json":', f'{entry}    "json":')
    script = "import diffmeter; print(diffmeter.dry_run('diffmeter/shapes', num_inference_steps=1).render('demo'))"
    assert _run(checkout, "-c", script).stdout.strip() == "demo of ComputeProfile"


def test_a_command(checkout: Path) -> None:
    module = (
        '"""``diffmeter hello``."""\n\nEXAMPLES = ("diffmeter hello",)\n\n\n'
        'def run() -> None:\n    """Greet."""\n    print("hello")\n'
    )
    commands = checkout / "src" / "diffmeter" / "commands"
    (commands / "hello.py").write_text(module, encoding="utf-8")
    _edit(commands / "__init__.py", '    "env",\n', '    "env",\n    "hello",\n')
    assert _run(checkout, "-m", "diffmeter", "hello").stdout == "hello\n"
    assert "Greet." in _run(checkout, "-m", "diffmeter", "--help").stdout


def test_a_device(checkout: Path) -> None:
    _edit(checkout / "src" / "diffmeter" / "devices.py", '"npu", "hpu")', '"npu", "hpu", "demo")')
    script = """
import types, torch
from diffmeter import config, devices
torch.demo = types.SimpleNamespace(is_available=lambda: True, device_count=lambda: 1)
print(config.load({"DIFFMETER_DEVICE": "demo"})["DEVICE"], devices.check_device("demo"), devices.available_devices())
"""
    assert _run(checkout, "-c", script).stdout.strip() == "demo demo ['cpu', 'demo']"


def test_a_pipeline_test(checkout: Path) -> None:
    path = checkout / "tests" / "zoo" / "pixels.py"
    script = 'from tests.zoo import ZOO\ncase = ZOO["DDPMPipeline"]\n'
    text = path.read_text(encoding="utf-8")
    path.write_text(
        f'{text}\n\nfrom .registry import ZOO\n_CASE = ZOO["DDPMPipeline"]\n'
        'add("DDPMPipeline[demo]", "demo", _CASE.builder, _CASE.caller, quick=True)\n',
        encoding="utf-8",
    )
    script = "from tests.metering.test_exactness import CASES; print([c.id for c in CASES if 'demo' in c.id])"
    assert _run(checkout, "-c", script).stdout.strip() == "['DDPMPipeline[demo]']"


def test_a_setting(checkout: Path) -> None:
    path = checkout / "src" / "diffmeter" / "config.py"
    entry = '    Setting("DEMO", ("DIFFMETER_DEMO",), False, parse_bool, "show how a setting is added"),\n'
    _edit(path, '    Setting("MAX_MODELS"', f'{entry}    Setting("MAX_MODELS"')
    path.write_text(f'{path.read_text(encoding="utf-8")}DEMO: bool = _values["DEMO"]\n', encoding="utf-8")
    script = (
        "from diffmeter import config; print(config.current()['DEMO'], config.load({'DIFFMETER_DEMO': '1'})['DEMO'])"
    )
    assert _run(checkout, "-c", script).stdout.strip() == "False True"
