"""``src`` and ``diffmeter`` are one package under two names, in a bare checkout too."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.checkout import ROOT, fresh_checkout, run_python

#: The promised path of each module, and the module itself.
PROMISED = {
    "src.config": "diffmeter.config",
    "src.compute_profiler": "diffmeter.compute_profiler",
    "src.inference": "diffmeter.inference",
    "src.model_manager": "diffmeter.model_manager",
    "src.flops": "diffmeter.flops",
    "src.benchmarks.flops_counter": "diffmeter.resnet_bk.counter",
    "src.models.bk_core": "diffmeter.resnet_bk.bk_core",
    "src.models.configurable_resnet_bk": "diffmeter.resnet_bk.model",
}


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fresh_checkout(tmp_path_factory.mktemp("bare"))


def test_every_file_beside_the_package_is_a_promised_path() -> None:
    files = [path for path in (ROOT / "src").rglob("*.py") if "diffmeter" not in path.relative_to(ROOT / "src").parts]
    modules = {".".join(path.relative_to(ROOT).with_suffix("").parts) for path in files if path.name != "__init__.py"}
    assert modules == set(PROMISED)


@pytest.mark.parametrize("first", ["src", "diffmeter"])
def test_the_same_objects_in_either_import_order(checkout: Path, first: str) -> None:
    pairs = [(a, b) if first == "src" else (b, a) for a, b in PROMISED.items()]
    if first == "diffmeter":
        pairs.insert(0, ("diffmeter.errors", "diffmeter.errors"))
    code = f"""
import importlib, sys
for one, other in {pairs}:
    assert importlib.import_module(one) is importlib.import_module(other), one
    package, _, name = one.rpartition(".")
    assert getattr(sys.modules[package], name) is sys.modules[one], one
import diffmeter, diffmeter.config, diffmeter.errors
from src import config
from src.inference import generate_image
from src.model_manager import get_model_manager
assert get_model_manager is diffmeter.get_model_manager and get_model_manager() is diffmeter.get_model_manager()
assert generate_image is diffmeter.generate_image
config.ENABLE_COMPUTE_PROFILING = False
assert diffmeter.config.ENABLE_COMPUTE_PROFILING is False
try:
    get_model_manager().load_model("no/such model")
except diffmeter.errors.InputError:
    pass
twice = [n for n in sys.modules if n.startswith("src.diffmeter")]
assert not twice, twice
"""
    # the package itself is on the path only where it is imported first: src puts it there
    ran = run_python("-c", code, cwd=checkout, path=(checkout / "src",) if first == "diffmeter" else ())
    assert ran.returncode == 0, ran.stderr


def test_a_diffmeter_from_elsewhere_is_named(checkout: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere" / "diffmeter"
    elsewhere.mkdir(parents=True)
    (elsewhere / "__init__.py").write_text("")
    for code, path in (
        ("import diffmeter, src.config", (elsewhere.parent,)),  # it was loaded before
        ("import src.config", (elsewhere.parent, checkout / "src")),  # it comes first on the path
    ):
        ran = run_python("-c", code, cwd=checkout, path=path)
        assert ran.returncode == 1
        last = ran.stderr.strip().splitlines()[-1]
        assert last.startswith("ImportError: src belongs to the checkout")
        assert str(checkout) in last
        assert str(elsewhere) in last


def test_the_checkout_serves_where_another_diffmeter_is_installed(checkout: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere" / "diffmeter"
    elsewhere.mkdir(parents=True)
    (elsewhere / "__init__.py").write_text("")
    code = "import src.config, diffmeter; print(diffmeter.__file__)"
    ran = run_python("-c", code, cwd=checkout, path=(elsewhere.parent,))
    assert ran.stdout.strip() == str(checkout / "src" / "diffmeter" / "__init__.py"), ran.stderr


def test_the_package_has_no_third_name(checkout: Path) -> None:
    ran = run_python("-c", "import src.diffmeter", cwd=checkout)
    assert ran.stderr.strip().endswith("src.diffmeter is no name of this package: use `import diffmeter`.")


def test_importing_the_names_loads_neither_torch_nor_diffusers(checkout: Path) -> None:
    code = "import sys, src, diffmeter, src.config, src.flops; print({'torch', 'diffusers'} & set(sys.modules))"
    ran = run_python("-c", code, cwd=checkout)
    assert ran.stdout.strip() == "set()", ran.stderr


@pytest.mark.parametrize(
    ("script", "arguments", "expected"),
    [
        ("example_profiling.py", "--steps 2 --resolutions 512", "MACs/step"),
        ("example_profiling_detailed.py", "--steps 2 --sizes 512 --step-counts 2", "Percentage Breakdown"),
        ("examples/flops_counter_demo.py", "", "FLOPs"),
        ("examples/builtin_counters.py", "", "FlopCounterMode"),
    ],
)
def test_examples_run_in_a_fresh_checkout(checkout: Path, script: str, arguments: str, expected: str) -> None:
    """As a newcomer runs them: nothing is installed but the dependencies, and there is no network."""
    ran = run_python(script, *arguments.split(), cwd=checkout, env={"HF_HUB_OFFLINE": "1"})
    assert ran.returncode == 0, ran.stderr
    assert expected in ran.stdout


def test_type_checkers_see_the_types(tmp_path: Path) -> None:
    """Through the package's own name and through the aliases."""
    code = (
        "import diffmeter\n"
        "from src.compute_profiler import create_profiler\n"
        "from src.config import ENABLE_COMPUTE_PROFILING\n"
        "from src.inference import generate_image\n"
        "reveal_type(diffmeter.create_profiler)\n"
        "reveal_type(create_profiler)\n"
        "reveal_type(ENABLE_COMPUTE_PROFILING)\n"
        "reveal_type(generate_image)\n"
    )
    pytest.importorskip("mypy")
    script = tmp_path / "script.py"
    script.write_text(code)
    command = [sys.executable, "-m", "mypy", str(script)]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stdout
    lines = [line for line in ran.stdout.splitlines() if "Revealed type is" in line]
    assert len(lines) == 4
    assert lines[0].partition("note:")[2] == lines[1].partition("note:")[2]
    assert "diffmeter.compute_profiler.ComputeProfiler" in lines[1]
    assert "bool" in lines[2]
    assert "Any" not in lines[2]
    assert "diffmeter.inference" in lines[3] or "GenerationResult" in lines[3]
