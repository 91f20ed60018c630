"""The verbs of the command line, one module each: parser beside handler.

A verb is a function ``run``, whose docstring is its help and whose parameters are its arguments and options (those
that several verbs have stand in ``_options``), and a list ``EXAMPLES`` of commands for its help. To add one, write its
module and name it in :data:`COMMANDS`.
"""

from __future__ import annotations

#: verbs as they are typed, in the order that the help shows them; the module has ``_`` for ``-``
COMMANDS: tuple[str, ...] = (
    "generate",
    "profile",
    "count",
    "compare",
    "sweep",
    "diff",
    "formula",
    "predict",
    "calibrate",
    "batch",
    "show",
    "report",
    "trace",
    "models",
    "llm",
    "train-cost",
    "env",
)
