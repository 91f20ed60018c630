"""The exceptions that diffmeter raises, and the checks that raise them.

    DiffmeterError                      whatever diffmeter itself raises
    ├── InputError        (ValueError)  a value from the caller is not usable
    │   └── ModelNotFoundError          a model id or folder names no pipeline that can be loaded here
    ├── ModelLoadError    (RuntimeError)  a pipeline was found, but loading it failed
    │   └── TemporaryHubError           the hub or the connection to it failed; trying again later may help
    ├── MissingPackageError (ImportError)  a package is not installed; the message says how to install it
    ├── MissingPackageError (ImportError) a package is not installed
    ├── CountError        (RuntimeError)  a call could not be counted
    └── StorageError      (OSError)     a file could not be written or read
        └── FolderInUseError            another run holds the folder

Each message is one sentence that names the value and what is allowed. The command line prints that sentence and
exits with code 2. Where a library's own exception is passed on as text, :func:`one_line` makes the text.
"""

from __future__ import annotations

import math
import operator
from typing import SupportsFloat


class DiffmeterError(Exception):
    """Base of every exception that diffmeter itself raises."""


class InputError(DiffmeterError, ValueError):
    """A value from the caller is not usable; also a ``ValueError`` for callers that do not know this package."""


class ModelNotFoundError(InputError):
    """A model id or folder does not name a pipeline that can be loaded here."""


class ModelLoadError(DiffmeterError, RuntimeError):
    """A pipeline was found, but loading it failed (missing weights, corrupt file, gated, offline, ...)."""


class TemporaryHubError(ModelLoadError):
    """The hub could not be reached or failed on its side; a later attempt may succeed."""


class MissingPackageError(DiffmeterError, ImportError):
    """A package is not installed; the message is the command that installs it."""


class CountError(DiffmeterError, RuntimeError):
    """A call could not be counted; the message is the reason that the profile reports."""


class StorageError(DiffmeterError, OSError):
    """A file or folder could not be written or read."""


class FolderInUseError(StorageError):
    """Another run is writing into the folder."""


def one_line(error: BaseException, *, with_type: bool = False, limit: int = 300) -> str:
    """The text of an error on one line of at most ``limit`` characters; the type's name where it has no text.

    ``with_type`` puts the type's name first, for errors of other libraries ("KeyError: 'unet'"). diffmeter's own
    errors are sentences that need none.
    """
    name = type(error).__name__
    text = " ".join(str(error).split())
    if not text:
        return name
    if with_type and not isinstance(error, DiffmeterError):
        text = f"{name}: {text}"
    return text if len(text) <= limit else f"{text[: limit - 3]}..."


def install_command(extra: str) -> str:
    """The command that installs an extra of this package: of the checkout that runs, or from the package index."""
    from pathlib import Path

    checkout = Path(__file__).parent.parent.parent
    if not (checkout / "pyproject.toml").is_file():
        return f'pip install "diffmeter[{extra}]"'
    here = "." if checkout == Path.cwd() else str(checkout)
    return f'pip install -e "{here}[{extra}]"'


def shown(value: object, limit: int = 100) -> str:
    """``repr(value)`` for a message, cut to ``limit`` characters; a value whose ``repr`` fails is named by type."""
    try:
        text = repr(value)
    except Exception:
        text = f"<{type(value).__name__}>"
    return text if len(text) <= limit else f"{text[: limit - 3]}..."


def whole_number(value: object, name: str, least: int = 1, most: int | None = None) -> int:
    """``value`` as an ``int``, if it is a whole number from ``least`` to ``most``.

    Whatever ``operator.index`` takes is a whole number, NumPy's integers included. A truth value is none, although
    Python's ``bool`` is an ``int``; neither is a float or a text.

    Raises:
        InputError: one sentence with ``name``, the value and what is allowed.
    """
    try:
        if isinstance(value, bool) or str(getattr(value, "dtype", "")).endswith("bool"):
            raise TypeError
        number = operator.index(value)  # type: ignore[arg-type]  # what has no __index__ raises TypeError
    except (TypeError, ValueError, RuntimeError):  # the last one: a tensor of several elements, or without data
        number = None
    if number is None or number < least or (most is not None and number > most):
        allowed = f"of at least {least}" if most is None else f"from {least} to {most}"
        raise InputError(f"{name} must be a whole number {allowed}, not {shown(value)}.") from None
    return number


def real_number(value: object, name: str, least: float = 0.0, most: float = math.inf, *, above: bool = False) -> float:
    """``value`` as a finite ``float`` from ``least`` to ``most``; with ``above``, ``least`` itself is refused too.

    NumPy's numbers are taken; truth values and texts are not.

    Raises:
        InputError: one sentence with ``name``, the value and what is allowed.
    """
    number = math.nan
    is_bool = isinstance(value, bool) or str(getattr(value, "dtype", "")).endswith("bool")
    if isinstance(value, SupportsFloat) and not is_bool:
        try:
            number = float(value)
        except (TypeError, ValueError, OverflowError, RuntimeError):
            number = math.nan
    if not math.isfinite(number) or number < least or number > most or (above and number == least):
        allowed = f"above {least:g}" if above else f"of at least {least:g}" if most == math.inf else f"from {least:g}"
        upper = "" if most == math.inf else f"{' up' if above else ''} to {most:g}"
        raise InputError(f"{name} must be a number {allowed}{upper}, not {shown(value)}.")
    return number
