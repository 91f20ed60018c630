"""The ``diffmeter`` command. Its verbs are the modules of ``commands``, which lists them.

Nothing here, nor at the top of a verb's module, imports torch, diffusers or rich, so that ``diffmeter --help`` is
instant. Results go to standard output; progress, warnings and errors to standard error.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import logging
import os
import sys
from collections.abc import Callable, Sequence
from typing import Annotated, get_type_hints

import typer

from diffmeter._version import __version__
from diffmeter.commands import COMMANDS
from diffmeter.errors import DiffmeterError, one_line

EXIT_BAD_INPUT = 2
EXIT_INTERRUPTED = 130


def _set_verbosity(verbose: bool) -> None:
    if verbose:
        logging.getLogger(__package__).setLevel(logging.INFO)


def _show_version(value: bool) -> None:
    if value:
        typer.echo(f"diffmeter {__version__}")
        raise typer.Exit()


Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Say on standard error what is being done.")]


def _with_verbose(run: Callable[..., None]) -> Callable[..., None]:
    """A verb that takes ``-v`` as well, so that it may stand behind the verb."""

    @functools.wraps(run)
    def verb(*, verbose: bool, **options: object) -> None:
        _set_verbosity(verbose)
        run(**options)

    hints = get_type_hints(run, include_extras=True)
    given = [p.replace(annotation=hints[p.name]) for p in inspect.signature(run).parameters.values()]
    option = inspect.Parameter("verbose", inspect.Parameter.KEYWORD_ONLY, default=False, annotation=Verbose)
    verb.__signature__ = inspect.Signature([*given, option])  # type: ignore[attr-defined]
    verb.__annotations__ = {**hints, "verbose": Verbose}
    return verb


def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit.")
    ] = False,
    verbose: Verbose = False,
) -> None:
    """The compute meter for Hugging Face diffusers pipelines: MACs, FLOPs, parameters and time, call by call."""
    logging.getLogger(__package__).setLevel(logging.WARNING)
    _set_verbosity(verbose)


def build_app() -> typer.Typer:
    """The application with every verb of :data:`~diffmeter.commands.COMMANDS`."""
    # The help is plain text: boxes would cut the names of options at 80 columns.
    app = typer.Typer(
        name="diffmeter",
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
        context_settings={
            "help_option_names": ["-h", "--help"],
            "token_normalize_func": lambda name: name.replace("_", "-"),
            "max_content_width": 100,
        },
    )
    app.callback()(_options)
    for verb in COMMANDS:
        module = importlib.import_module(f".commands.{verb.replace('-', '_')}", __package__)
        first, _, _ = (inspect.getdoc(module.run) or "").partition("\n\n")  # whole: the list of verbs would cut it
        register = app.command(verb, short_help=" ".join(first.split()), epilog=_epilog(module.EXAMPLES))
        register(_with_verbose(module.run))
    return app


def _epilog(examples: Sequence[str]) -> str:
    return "\n".join(["\b", "Examples:", *(f"  {example}" for example in examples)])


def main() -> None:
    """Run the command line. Bad input ends with one sentence on standard error and exit code 2."""
    # The libraries' advice about their own configuration is not what was asked for; errors still show.
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("DIFFUSERS_VERBOSITY", "error")
    logging.basicConfig(stream=sys.stderr, level=logging.WARNING, format="%(message)s")
    try:
        build_app()(prog_name="diffmeter")
    except DiffmeterError as error:
        print(f"diffmeter: {one_line(error, limit=2000)}", file=sys.stderr)
        raise SystemExit(EXIT_BAD_INPUT) from None
    except BrokenPipeError:
        # The reader of a pipe (head, less) has left; there is nobody to tell. Python would complain at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(0) from None
    except KeyboardInterrupt:
        raise SystemExit(EXIT_INTERRUPTED) from None


if __name__ == "__main__":
    main()
