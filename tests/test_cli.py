"""The command line as a whole: help, versions, exit codes, and what it does not import."""

from __future__ import annotations

import subprocess
import sys

import pytest

from diffmeter import __version__, cli
from diffmeter.errors import InputError


def run(*arguments: str, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "diffmeter", *arguments], capture_output=True, text=True, check=False, input=stdin
    )


@pytest.mark.parametrize("arguments", [["--help"], ["models", "--help"], ["--version"], ["models", "--json"]])
def test_no_heavy_import(arguments: list[str]) -> None:
    code = (
        "import sys; sys.argv = ['diffmeter', *sys.argv[1:]]\n"
        "from diffmeter.cli import main\n"
        "try:\n    main()\nexcept SystemExit as end:\n    assert not end.code, end.code\n"
        "heavy = {'torch', 'diffusers', 'transformers', 'thop', 'numpy'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_version() -> None:
    assert run("--version").stdout.strip() == f"diffmeter {__version__}"


def test_unknown_verb_is_bad_input() -> None:
    done = run("measure")
    assert done.returncode == 2
    assert "measure" in done.stderr
    assert "Traceback" not in done.stderr


def test_every_verb_has_help() -> None:
    app = cli.build_app()
    names = [command.name for command in app.registered_commands]
    assert {"generate", "profile", "models", "env"} <= set(names)
    for command in app.registered_commands:
        assert (command.callback.__doc__ or "").strip(), command.name  # type: ignore[union-attr]


def test_error_is_one_sentence_on_standard_error(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuses(**_: object) -> None:
        raise InputError("first line\nsecond line")

    monkeypatch.setattr(cli, "build_app", lambda: refuses)
    with pytest.raises(SystemExit) as end:
        cli.main()
    captured = capsys.readouterr()
    assert end.value.code == 2
    assert captured.out == ""
    assert captured.err == "diffmeter: first line second line\n"


def test_interrupt_has_its_own_exit_code(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(**_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "build_app", lambda: interrupted)
    with pytest.raises(SystemExit) as end:
        cli.main()
    assert end.value.code == 130


def test_reader_that_leaves_early_causes_no_traceback() -> None:
    done = subprocess.run(
        f"{sys.executable} -m diffmeter models --json | head -c 10",
        shell=True,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout
    assert "Traceback" not in done.stderr
    assert "BrokenPipe" not in done.stderr
