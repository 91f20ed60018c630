"""The paths that the default convention's documents promise: aliases of modules of ``src/diffmeter/``.

``from src.compute_profiler import create_profiler`` gives the very module that ``diffmeter.compute_profiler`` is, in
either import order and from a bare checkout, where nothing but the dependencies is installed.
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

_HERE = Path(__file__).resolve().parent


def alias(name: str, target: str) -> None:
    """Make the module ``name``, which is being imported, the same object as the module ``target``.

    Raises:
        ImportError: another copy of diffmeter than this checkout's is loaded or installed first on the path.
    """
    if str(_HERE) not in sys.path:
        sys.path.insert(0, str(_HERE))
    module = importlib.import_module(target)
    found = Path(importlib.import_module("diffmeter").__file__ or "").resolve()
    if found.parent != _HERE / "diffmeter":
        raise ImportError(
            f"{name} belongs to the checkout {_HERE.parent}, but the diffmeter that is loaded comes from "
            f"{found.parent}: use one of the two, or install this checkout with pip install -e ."
        )
    sys.modules[name] = module
