"""Derive the formulas that the package ships, one file a model of the catalog in ``src/diffmeter/formulas/data/``.

    python benchmarks/formulas.py                  every model that has no file yet
    python benchmarks/formulas.py sdxl flux-dev    these
    python benchmarks/formulas.py --again          every model, also those that have one

Each takes from half a minute to some minutes on one core. A model is written as soon as it is done, so that a run
that was cut off goes on where it stopped. A model whose cost is no polynomial of a known family gets no file: it is
dry-run.
"""

from __future__ import annotations

import argparse
import logging
import sys
import time

from diffmeter.errors import DiffmeterError
from diffmeter.formulas.derive import derive
from diffmeter.formulas.library import FOLDER, path_of
from diffmeter.models import catalog


def main() -> int:
    """Derive what is asked for; the number of models that failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", help="catalog ids or aliases")
    parser.add_argument("--again", action="store_true", help="also those that have a file")
    parser.add_argument("--verbose", action="store_true")
    options = parser.parse_args()
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    logging.getLogger("diffmeter.formulas").setLevel(logging.INFO if options.verbose else logging.WARNING)
    FOLDER.mkdir(exist_ok=True)
    names = options.models or [entry.model_id for entry in catalog.entries()]
    return sum(not _derived(name, options.again or bool(options.models)) for name in names)


def _derived(name: str, again: bool) -> bool:
    entry = catalog.find(name)
    if entry is None:
        print(f"{name}: not in the catalog", flush=True)
        return False
    path = path_of(entry.model_id)
    if path.is_file() and not again:
        return True
    started = time.perf_counter()
    try:
        formula = derive(entry.model_id)
    except DiffmeterError as error:
        print(f"{entry.name}: no formula: {error}", flush=True)
        return False
    formula.save(path)
    points = sum(len(case.proof.proved) for case in formula.cases)
    seconds = time.perf_counter() - started
    print(f"{entry.name}: {len(formula.cases)} cases, proved at {points} points, {seconds:.0f} s", flush=True)
    return True


if __name__ == "__main__":
    sys.exit(main())
