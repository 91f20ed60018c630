"""A wheel and a source distribution, built from a clean checkout, install offline elsewhere and run there."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tarfile
import venv
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.checkout import ROOT, dependencies, fresh_checkout

pytestmark = pytest.mark.slow


def _run(*command: str | Path, cwd: Path) -> str:
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME")}
    environment |= {"DIFFMETER_DEVICE": "cpu", "HF_HUB_OFFLINE": "1", "PIP_CONFIG_FILE": os.devnull}
    ran = subprocess.run(
        [str(part) for part in command], cwd=cwd, env=environment, capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return ran.stdout


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with both files, built by setuptools itself: nothing is fetched."""
    pytest.importorskip("setuptools", minversion="77", reason="building needs setuptools 77 or later")
    checkout = fresh_checkout(tmp_path_factory.mktemp("clean"))
    code = "from setuptools import build_meta as b; print(b.build_sdist('dist')); print(b.build_wheel('dist'))"
    _run(sys.executable, "-c", code, cwd=checkout)
    return checkout / "dist"


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Make a fresh environment that has the dependencies of this one, and nothing else of it."""

    def make(name: str) -> Path:
        pytest.importorskip("ensurepip", reason="this Python cannot make an environment with pip")
        folder = tmp_path_factory.mktemp(name) / "environment"
        venv.create(folder, with_pip=True, symlinks=os.name != "nt")
        (packages,) = [*folder.glob("lib/python*/site-packages"), *folder.glob("Lib/site-packages")]
        # Some versions of Python bring a setuptools that is older than the one that builds here.
        for old in [*packages.glob("setuptools*"), *packages.glob("pkg_resources")]:
            shutil.rmtree(old)
        (packages / "dependencies.pth").write_text("\n".join(dependencies()) + "\n")
        return folder / ("Scripts" if os.name == "nt" else "bin")

    return make


@pytest.mark.parametrize("pattern", ["*.whl", "*.tar.gz"])
def test_installs_and_runs_offline(built: Path, environment: Callable[[str], Path], pattern: str) -> None:
    (file,) = built.glob(pattern)
    scripts = environment(file.suffix.strip("."))
    elsewhere = scripts.parent
    pip: list[str | Path] = [
        scripts / "python",
        "-m",
        "pip",
        "install",
        "--quiet",
        "--no-index",
        "--no-deps",
        "--ignore-installed",
    ]
    _run(*pip, "--ignore-installed", "--no-build-isolation", file, cwd=elsewhere)
    where = _run(scripts / "python", "-c", "import diffmeter; print(diffmeter.__file__)", cwd=elsewhere)
    assert str(elsewhere.resolve()) in str(Path(where.strip()).resolve())
    profile = json.loads(_run(scripts / "diffmeter", "profile", "diffmeter/shapes", "--json", cwd=elsewhere))
    assert profile["complete"] is True
    assert "stable-diffusion" in _run(scripts / "diffmeter", "models", cwd=elsewhere)


def test_both_hold_every_file_of_the_package(built: Path) -> None:
    package = ROOT / "src" / "diffmeter"
    files = {p.relative_to(package).as_posix() for p in package.rglob("*") if p.is_file() and p.suffix != ".pyc"}
    (wheel,), (source,) = built.glob("*.whl"), built.glob("*.tar.gz")
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    assert {f"diffmeter/{file}" for file in files} <= names
    assert not any(name.startswith(("src/", "tests/")) for name in names)
    with tarfile.open(source) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {f"src/diffmeter/{file}" for file in files} | {"LICENSE", "README.md", "pyproject.toml"} <= names
