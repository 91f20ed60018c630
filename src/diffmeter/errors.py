"""Exceptions that diffmeter raises for input it cannot use.

Each message is one sentence that names the value and what is allowed. The command line prints that sentence and
exits with code 2.
"""

from __future__ import annotations


class DiffmeterError(Exception):
    """Base of every exception that diffmeter itself raises."""


class InputError(DiffmeterError, ValueError):
    """A value from the caller is not usable; also a ``ValueError`` for callers that do not know this package."""


class ModelNotFoundError(InputError):
    """A model id or folder does not name a pipeline that can be loaded here."""


class ModelLoadError(DiffmeterError, RuntimeError):
    """A pipeline was found, but loading it failed (missing weights, corrupt file, gated, offline, ...)."""


class CountError(DiffmeterError, RuntimeError):
    """A call could not be counted; the message is the reason that the profile reports."""
