"""How results are shown: each form is a function found by its name, or by an import path if it is the user's.

A renderer takes a result (a profile, a comparison, a training cost, ...) and options, and returns text. Results know
none of them: they only have names to look up. This module holds the names, so that nothing here loads what renders.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

from diffmeter.errors import InputError

Renderer = Callable[..., str]
#: what a form can be told: a convention, columns, a caption, a width, ...
Option = str | int | Sequence[str] | None


class HasDict(Protocol):
    """Whatever gives itself as a JSON value."""

    def to_dict(self) -> object:
        """The JSON value."""


#: every form by name, and where its renderer is: ``module:function``
RENDERERS: Mapping[str, str] = {
    "table": "diffmeter.reports.renderers:text",
    "json": "diffmeter.rendering:to_json",
    "csv": "diffmeter.reports.renderers:csv",
    "markdown": "diffmeter.reports.renderers:markdown",
    "latex": "diffmeter.reports.renderers:latex",
    "html": "diffmeter.reports.renderers:html",
}


#: every kind of file by name, and where its writer is: it takes the result and the path, and returns the path
WRITERS: Mapping[str, str] = {
    "page": "diffmeter.reports.page:save_report",
    "trace": "diffmeter.reports.trace:save_trace",
}


def find_writer(name: str) -> Callable[..., Path]:
    """The function that writes a kind of file, one of :data:`WRITERS`."""
    module_name, _, function_name = WRITERS[name].partition(":")
    writer: Callable[..., Path] = getattr(importlib.import_module(module_name), function_name)
    return writer


def find_renderer(name: str) -> Renderer:
    """The renderer of a form: one of :data:`RENDERERS`, or the function at ``package.module:function``.

    Raises:
        InputError: the name is not known, or there is no such function.
    """
    path = RENDERERS.get(name, name)
    module_name, colon, function_name = path.partition(":")
    if not colon:
        raise InputError(
            f"The format {name!r} is not known: use {', '.join(RENDERERS)}, or your own as package.module:function."
        )
    try:
        renderer = getattr(importlib.import_module(module_name), function_name)
    except (ImportError, AttributeError, ValueError) as error:
        raise InputError(f"The format {name!r} cannot be imported: {error}.") from error
    if not callable(renderer):
        raise InputError(f"The format {name!r} is no function.")
    found: Renderer = renderer
    return found


def to_json(result: HasDict) -> str:
    """The result's ``to_dict()`` as JSON text."""
    return json.dumps(result.to_dict(), indent=2, ensure_ascii=False)


class Rendered:
    """A result that shows itself in every form: it only needs ``to_dict()`` and a table in ``diffmeter.reports``."""

    __slots__ = ()

    def render(self, form: str = "table", **options: Option) -> str:
        """The result as text: ``form`` is a name of :data:`RENDERERS` or ``package.module:function``.

        Raises:
            InputError: the form, or one of its options, is not known.
        """
        return find_renderer(form)(self, **options)

    def to_json(self) -> str:
        """``to_dict()`` as JSON text."""
        return self.render("json")

    def to_csv(self, **options: Option) -> str:
        """One line a row, with raw numbers in base units. ``columns`` and ``sort`` choose and order."""
        return self.render("csv", **options)

    def to_markdown(self, **options: Option) -> str:
        """A table in GitHub's Markdown, with one unit for all of its counts. ``columns`` and ``sort`` choose."""
        return self.render("markdown", **options)

    def to_latex(self, **options: Option) -> str:
        """A table in the style of booktabs, at most as wide as a column of a two-column paper.

        ``caption`` and ``label`` are the table's; ``columns`` and ``sort`` choose and order.
        """
        return self.render("latex", **options)

    def __str__(self) -> str:
        return self.render("table")

    def _repr_html_(self) -> str:
        return self.render("html")


def printable(text: str, longest: int | None = None) -> str:
    """``text`` with everything a terminal could obey or hide (escapes, marks of direction, NUL) spelled out.

    Line breaks stay unless ``longest`` is given: then the text is one line of at most that many characters.
    """
    if longest is not None and len(text) > longest:
        text = text[: longest - 3] + "..."
    keep = "" if longest is not None else "\n"
    return "".join(
        character
        if character.isprintable() or character in keep
        else character.encode("unicode_escape", "surrogatepass").decode("ascii")
        for character in text
    )
