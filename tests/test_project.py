"""The project's own files agree with each other."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

if sys.version_info >= (3, 11):
    import tomllib
else:  # pragma: no cover
    tomllib = pytest.importorskip("tomli")

ROOT = Path(__file__).resolve().parent.parent
PYPROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
PROJECT = PYPROJECT["project"]


def constraints(file: str = "constraints.txt") -> dict[str, Version]:
    pins: dict[str, Version] = {}
    for line in (ROOT / file).read_text().splitlines():
        if line and not line.startswith("#"):
            requirement = Requirement(line)
            (specifier,) = requirement.specifier
            assert specifier.operator == "==", line
            pins[canonicalize_name(requirement.name)] = Version(specifier.version)
    return pins


def test_every_data_file_is_packaged() -> None:
    patterns = PYPROJECT["tool"]["setuptools"]["package-data"]
    packaged: set[Path] = set()
    for package, globs in patterns.items():
        folder = ROOT / "src" / Path(*package.split("."))
        for pattern in globs:
            packaged.update(path for path in folder.glob(pattern) if path.is_file())
    for path in (ROOT / "src" / "diffmeter").rglob("*"):  # beside it an editable install leaves its egg-info
        if path.is_file() and path.suffix not in (".py", ".pyc"):
            assert path in packaged, f"{path} is in no package-data pattern"


def test_conda_environment_has_the_same_dependencies() -> None:
    environment = yaml.safe_load((ROOT / "environment.yaml").read_text())
    (pip,) = [item["pip"] for item in environment["dependencies"] if isinstance(item, dict)]
    assert pip == [*PROJECT["dependencies"], "-e ."]
    assert f"python{PROJECT['requires-python']}" in environment["dependencies"]


def test_constraints_pin_every_dependency_within_its_range() -> None:
    pins = constraints()
    groups = [PROJECT["dependencies"], *PROJECT["optional-dependencies"].values()]
    for requirement in (Requirement(line) for group in groups for line in group):
        if requirement.name == "diffmeter":  # an extra that holds another
            continue
        pin = pins.get(canonicalize_name(requirement.name))
        assert pin is not None, f"{requirement.name} is not pinned"
        assert requirement.specifier.contains(pin, prereleases=True), f"{requirement} does not allow {pin}"


def test_the_lowest_versions_are_tried() -> None:
    """``make test-oldest`` takes, of each dependency, the very version that the range begins with."""
    pins = constraints("constraints-oldest.txt")
    for requirement in map(Requirement, PROJECT["dependencies"]):
        (specifier,) = requirement.specifier
        assert specifier.operator in (">=", "==")
        assert pins[canonicalize_name(requirement.name)] == Version(specifier.version), requirement.name


def test_torch_is_pinned_without_a_build() -> None:
    """A local version such as +cpu exists on few indexes, so the file would not install elsewhere."""
    assert constraints()["torch"].local is None


def test_the_mit_thop_is_the_dependency() -> None:
    names = [Requirement(line).name for line in PROJECT["dependencies"]]
    assert "thop" in names
    assert "ultralytics-thop" not in names


def test_license_is_the_whole_apache_text() -> None:
    text = (ROOT / "LICENSE").read_text()
    assert "Apache License" in text
    assert "Version 2.0, January 2004" in text
    assert "END OF TERMS AND CONDITIONS" in text
    assert PROJECT["license"] == "Apache-2.0"


def test_changelog_names_the_version() -> None:
    from diffmeter import __version__

    assert f"## [{__version__}]" in (ROOT / "CHANGELOG.md").read_text()


def test_console_command() -> None:
    assert PROJECT["scripts"] == {"diffmeter": "diffmeter.cli:main"}


def test_ci_runs_the_test_command() -> None:
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    assert "make test" in script.read_text()
    assert "make test" in (ROOT / "README.md").read_text()


@pytest.mark.parametrize("target", ["demo", "test", "test-all", "lint", "evaluate"])
def test_make_targets_set_up_what_they_need(target: str) -> None:
    plan = subprocess.run(
        ["make", "--dry-run", "--always-make", target], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    assert "-m venv .venv" in plan
    assert "-c constraints.txt torch" in plan


def test_make_test_lints_checks_types_and_tests() -> None:
    plan = subprocess.run(
        ["make", "--dry-run", "--always-make", "test"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    for command in ("ruff check .", "ruff format --check .", "bin/mypy", "-m pytest"):
        assert command in plan


def test_make_test_oldest_uses_an_environment_of_its_own() -> None:
    plan = subprocess.run(
        ["make", "--dry-run", "--always-make", "test-oldest"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    assert "-m venv .venv-oldest" in plan
    assert "-c constraints-oldest.txt" in plan
    assert ".venv/" not in plan


def test_the_workflow_tries_every_promised_python_with_the_commands_of_the_readme() -> None:
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "test.yml").read_text())
    job = workflow["jobs"]["test"]
    promised = {
        c.rpartition(" ")[2] for c in PROJECT["classifiers"] if c.startswith("Programming Language :: Python :: 3.")
    }
    assert set(job["strategy"]["matrix"]["python"]) == promised
    assert min(promised, key=Version) == PROJECT["requires-python"].removeprefix(">=")
    assert {name.partition("-")[0] for name in job["strategy"]["matrix"]["os"]} == {"ubuntu", "macos", "windows"}
    commands = [step["run"] for step in job["steps"] if "run" in step]
    assert commands == ["make PYTHON=python demo", "make PYTHON=python test"]


def test_citation_and_templates_can_be_read() -> None:
    from diffmeter import __version__

    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == __version__
    assert citation["license"] == PROJECT["license"]
    for path in [*(ROOT / ".github").rglob("*.yml"), ROOT / ".pre-commit-config.yaml"]:
        assert yaml.safe_load(path.read_text())


def test_generated_files_are_not_tracked() -> None:
    ignored = (ROOT / ".gitignore").read_text().splitlines()
    assert {".venv/", "outputs/*", "!outputs/.gitkeep"} <= set(ignored)
    assert (ROOT / "outputs" / ".gitkeep").is_file()


def test_both_names_import() -> None:
    code = (
        "import src, sys; import diffmeter; assert not {'torch', 'diffusers'} & set(sys.modules)\n"
        "from src.config import ENABLE_COMPUTE_PROFILING\n"
        "assert ENABLE_COMPUTE_PROFILING is True\n"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
