"""The paths that were promised before the package had a name: aliases of modules of ``src/diffmeter/``.

``from src.compute_profiler import create_profiler`` gives the very module that ``diffmeter.compute_profiler`` is, in
either import order and from a bare checkout, where nothing but the dependencies is installed. Each alias has two
lines: one for type checkers and editors, and one that puts the module itself in the place of the alias.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from pathlib import Path

_HERE = Path(__file__).resolve().parent


def alias(name: str, target: str) -> None:
    """Make the module ``name``, which is being imported, the same object as the module ``target``."""
    sys.modules[name] = importlib.import_module(target)


def _use_this_checkout() -> None:
    """Make ``import diffmeter`` find this checkout's package.

    Raises:
        ImportError: another copy is loaded already, or comes first on the path; the message names both.
    """
    loaded = sys.modules.get("diffmeter")
    if loaded is None and str(_HERE) not in sys.path:
        sys.path.insert(0, str(_HERE))
    spec = importlib.util.find_spec("diffmeter") if loaded is None else loaded.__spec__
    found = Path(spec.origin).resolve().parent if spec is not None and spec.origin is not None else None
    if found != _HERE / "diffmeter":
        raise ImportError(
            f"{__name__} belongs to the checkout {_HERE.parent}, but diffmeter is taken from {found}: "
            f"use one of the two, or install this checkout with `pip install -e {_HERE.parent}`."
        )


_use_this_checkout()
