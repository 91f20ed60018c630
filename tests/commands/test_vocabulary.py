"""One vocabulary: an option has the same names and the same meaning wherever it stands, and help shows it whole."""

from __future__ import annotations

import shlex
import subprocess
import sys

import pytest
import typer
from typer.testing import CliRunner

from diffmeter.cli import build_app
from diffmeter.commands import COMMANDS

APP = build_app()
CLICK = typer.main.get_command(APP)
VERBS = CLICK.commands  # type: ignore[attr-defined]
#: verbs that write a file of their own form
WRITE_FILES = ("report", "trace", "calibrate")
#: verbs whose own work gives the words another meaning: several values, or a language model
OTHER_MEANING = {("sweep", "--height"), ("sweep", "--width"), ("sweep", "--steps"), ("sweep", "--batch")}
OTHER_MEANING |= {(verb, name) for verb in ("llm", "train-cost") for name in ("--steps", "--batch")}
OTHER_MEANING |= {("predict", "--batch"), ("predict", "--dtype"), ("report", "--output"), ("trace", "--output")}
OTHER_MEANING |= {("calibrate", "--output"), ("predict", "--gpu")}
OTHER_MEANING |= {
    ("formula", "--format"),
    ("batch", "--dry-run"),
    ("generate", "--prompt"),
    ("generate", "--model"),
    ("batch", "--model"),
}


def options(verb: str) -> dict[str, tuple[tuple[str, ...], str | None]]:
    """The options of a verb by their first name: every name, and the help."""
    return {p.opts[0]: (tuple(p.opts), p.help) for p in VERBS[verb].params if p.param_type_name == "option"}


def test_the_list_of_commands_is_what_there_is() -> None:
    assert tuple(VERBS) == COMMANDS


def test_an_option_has_the_same_names_and_meaning_everywhere() -> None:
    seen: dict[str, tuple[str, tuple[tuple[str, ...], str | None]]] = {}
    for verb in COMMANDS:
        for name, described in options(verb).items():
            if (verb, name) not in OTHER_MEANING:
                first, expected = seen.setdefault(name, (verb, described))
                assert described == expected, f"{name} differs between {first} and {verb}"
    names = {verb: {name for names, _ in options(verb).values() for name in names} for verb in COMMANDS}
    assert all({"--verbose", "-v"} <= names[verb] for verb in COMMANDS)
    assert all({"--json", "--format", "-f"} <= names[verb] for verb in COMMANDS if verb not in WRITE_FILES)
    for verb in ("generate", "profile", "compare", "sweep"):
        wanted = {"--height", "--width", "--steps", "--num-inference-steps", "--guidance-scale", "--guidance"}
        assert wanted <= names[verb], verb
    for verb in ("profile", "compare", "sweep", "show"):
        assert {"--convention", "--per", "--columns", "--sort"} <= names[verb], verb


@pytest.mark.parametrize("verb", COMMANDS)
def test_help_is_whole_at_80_columns_and_has_examples(verb: str) -> None:
    shown = CliRunner().invoke(APP, [verb, "--help"], env={"COLUMNS": "80"}).output
    body, _, examples = shown.partition("Examples:")
    assert max(map(len, body.splitlines())) <= 80 and "<bool>" not in shown and "\u2026" not in shown
    for names, text in options(verb).values():
        for name in names:
            assert name in body
        assert text, f"{names} of {verb} has no help"
    assert f"diffmeter {verb}" in examples


@pytest.mark.parametrize("verb", COMMANDS)
def test_examples_of_the_help_can_be_typed(verb: str) -> None:
    for example in VERBS[verb].epilog.splitlines()[2:]:
        words = shlex.split(example)
        arguments = words[words.index(verb) + 1 :]
        VERBS[verb].make_context(verb, arguments)  # parses them, and does nothing else


def test_the_verbose_switch_stands_before_and_behind_the_verb(invoke) -> None:
    import logging

    logger = logging.getLogger("diffmeter")
    try:
        for arguments in (("-v", "models", "sdxl"), ("models", "sdxl", "-v")):
            invoke(*arguments)
            assert logger.level == logging.INFO
            invoke("models", "sdxl")
            assert logger.level == logging.WARNING
    finally:
        logger.setLevel(logging.NOTSET)


def test_names_may_be_typed_with_underscores(invoke) -> None:
    assert "Qwen2.5-0.5B" in invoke("llm", "0.5b", "--seq_len", "16")[0]


def test_columns_of_a_pipe_are_honored() -> None:
    def widest(columns: str | None) -> int:
        import os

        given = (
            {**os.environ, "COLUMNS": columns} if columns else {k: v for k, v in os.environ.items() if k != "COLUMNS"}
        )
        done = subprocess.run(
            [sys.executable, "-m", "diffmeter", "models", "sdxl"],
            capture_output=True,
            text=True,
            env=given,
            check=True,
        )
        return max(map(len, done.stdout.splitlines()))

    assert widest("60") <= 60 < widest(None)


def test_json_needs_no_rich() -> None:
    code = (
        "import sys; sys.argv = ['diffmeter', 'models', 'sdxl', '--json']\n"
        "from diffmeter.cli import main\n"
        "try: main()\n"
        "except SystemExit as end: assert not end.code\n"
        "assert not {'torch', 'rich.console', 'rich.table'} & set(sys.modules), set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_completion_of_models() -> None:
    from diffmeter.commands._options import complete_model

    assert "stabilityai/sdxl-turbo" in list(complete_model("stabilityai/sdxl"))
    assert list(complete_model("no such")) == []
