"""The ``diffmeter`` command. Each verb is a module of ``commands`` with a function ``run``.

Nothing here, nor at the top of a verb's module, imports torch or diffusers, so that ``diffmeter --help`` is instant.
Results go to standard output; progress, warnings and errors to standard error.
"""

from __future__ import annotations

import importlib
import importlib.util
import logging
import os
import sys
from typing import Annotated

import typer

from diffmeter._version import __version__
from diffmeter.errors import DiffmeterError

# Verb on the command line and the module that implements it, in the order that the help shows them.
VERBS: tuple[tuple[str, str], ...] = (
    ("generate", "generate"),
    ("profile", "profile"),
    ("count", "count"),
    ("compare", "compare"),
    ("sweep", "sweep"),
    ("formula", "formula"),
    ("batch", "batch"),
    ("show", "show"),
    ("models", "models"),
    ("llm", "llm"),
    ("train-cost", "train_cost"),
    ("env", "env"),
)

EXIT_BAD_INPUT = 2
EXIT_INTERRUPTED = 130


def _show_version(value: bool) -> None:
    if value:
        typer.echo(f"diffmeter {__version__}")
        raise typer.Exit()


def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit.")
    ] = False,
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="Say on standard error what is being done.")
    ] = False,
) -> None:
    """The compute meter for Hugging Face diffusers pipelines: MACs, FLOPs, parameters and time, call by call."""
    logging.getLogger(__package__).setLevel(logging.INFO if verbose else logging.WARNING)


def build_app() -> typer.Typer:
    """The application with every verb whose module is part of this installation."""
    app = typer.Typer(
        name="diffmeter",
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback()(_options)
    for verb, module_name in VERBS:
        if importlib.util.find_spec(f"{__package__}.commands.{module_name}") is not None:
            module = importlib.import_module(f".commands.{module_name}", __package__)
            app.command(verb)(module.run)
    return app


def main() -> None:
    """Run the command line. Bad input ends with one sentence on standard error and exit code 2."""
    # The libraries' advice about their own configuration is not what was asked for; errors still show.
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("DIFFUSERS_VERBOSITY", "error")
    logging.basicConfig(stream=sys.stderr, level=logging.WARNING, format="%(message)s")
    try:
        build_app()()
    except DiffmeterError as error:
        _complain(error)
        raise SystemExit(EXIT_BAD_INPUT) from None
    except BrokenPipeError:
        # The reader of a pipe (head, less) has left; there is nobody to tell. Python would complain at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(0) from None
    except KeyboardInterrupt:
        raise SystemExit(EXIT_INTERRUPTED) from None


def _complain(error: DiffmeterError) -> None:
    sentence = " ".join(str(error).split())
    print(f"diffmeter: {sentence}", file=sys.stderr)


if __name__ == "__main__":
    main()
