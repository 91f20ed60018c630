"""With ``ultralytics-thop`` in thop's place the products are the same, and the profile names who counted.

The distribution is installed into a throw-away folder that stands first on the import path of another process.
"""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.network, pytest.mark.slow]

SCRIPT = """
import json, sys, torch
from torch import nn
sys.path.insert(0, sys.argv[1])
from diffmeter import observe
from diffmeter.metering.counters.module_rules import thop_distribution
import thop

class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = nn.Linear(8, 8); self.m = nn.MultiheadAttention(8, 2, batch_first=True); self.n = nn.LayerNorm(8)
        self.c = nn.Conv1d(4, 4, 3, padding=1); self.t = nn.ConvTranspose1d(4, 4, 1); self.r = nn.GRU(8, 8)
    def forward(self, x):
        x = self.n(self.a(x)); x = self.c(self.t(x)); x = self.r(x)[0]
        x = nn.functional.scaled_dot_product_attention(x, x, x)
        return self.m(x, x, x)[0] @ x.transpose(1, 2)

class Pipe:
    def __init__(self): self.components = {"net": Attention()}
    def __call__(self): return self.components["net"](torch.ones(2, 4, 8))

pipe = Pipe()
with observe(pipe) as run: pipe()
p = run.profile
print(json.dumps({"thop": thop_distribution(), "version": getattr(thop, "__version__", None), "file": thop.__file__,
    "matmul": p.matmul_macs, "complete": p.complete, "by_op": p.components["net"].macs_by_op,
    "named": p.conditions.versions["thop"], "counters": p.to_dict()["cross_check"]["counters"]}))
"""


@functools.lru_cache
def count(folder: Path | None) -> dict:
    root = str(Path(__file__).parents[3])
    environment = {**os.environ, "PYTHONPATH": str(folder) if folder else ""}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, root], env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def ultralytics(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("ultralytics")
    pip = [sys.executable, "-m", "pip", "install", "-q", "--target", str(folder), "--no-deps", "ultralytics-thop"]
    try:
        done = subprocess.run(pip, capture_output=True, text=True, timeout=120)
    except (OSError, subprocess.TimeoutExpired) as error:
        pytest.skip(f"ultralytics-thop cannot be installed here: {error}")
    if done.returncode or not (folder / "thop").is_dir():
        pytest.skip(f"ultralytics-thop cannot be installed here: {done.stderr.strip()[-200:]}")
    return folder


def test_both_distributions_give_the_same_products(ultralytics: Path) -> None:
    ours, theirs = count(None), count(ultralytics)
    assert Path(theirs["file"]).is_relative_to(ultralytics)  # both distributions' metadata are there now
    assert theirs["thop"].startswith("ultralytics-thop ") and theirs["thop"].endswith(theirs["version"])
    assert theirs["named"] == theirs["thop"] and theirs["counters"][0].startswith("ultralytics-thop")
    assert ours["complete"] and theirs["complete"]
    assert ours["matmul"] == theirs["matmul"]
    products = ("conv", "linear", "attention", "matmul", "attention_softmax")
    assert {k: ours["by_op"].get(k) for k in products} == {k: theirs["by_op"].get(k) for k in products}


def test_the_mit_distribution_alone_is_named(ultralytics: Path) -> None:
    import importlib.metadata

    try:
        importlib.metadata.version("ultralytics-thop")
    except importlib.metadata.PackageNotFoundError:
        assert count(None)["thop"] == f"thop {importlib.metadata.version('thop')}"
    else:
        pytest.skip("ultralytics-thop is installed in this environment")


def test_ultralytics_alone_is_named(ultralytics: Path, monkeypatch) -> None:
    """Without the MIT distribution's metadata (only one of the two installed)."""
    import importlib.metadata

    from diffmeter.metering.counters import module_rules

    version = next(ultralytics.glob("ultralytics_thop-*.dist-info")).name.split("-")[1]

    def only_ultralytics(name: str) -> str:
        if name == "ultralytics-thop":
            return version
        raise importlib.metadata.PackageNotFoundError(name)

    class Package:
        __version__ = version

    monkeypatch.setattr(module_rules.importlib.metadata, "version", only_ultralytics)
    monkeypatch.setattr(module_rules.importlib, "import_module", lambda name: Package)
    assert module_rules.thop_distribution.__wrapped__() == f"ultralytics-thop {version}"
