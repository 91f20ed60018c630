"""Every model of the catalog in one go: what a generation with its defaults costs, and what finding that out takes.

    python benchmarks/catalog.py [--json FILE]

Prints MACs, whether both counters agree on everything, and the seconds of each dry run; at the end the time of all and
the peak of the process's memory. Needs no weights and no network. Exits with 1 if a profile is not complete.
"""

from __future__ import annotations

import argparse
import json
import platform
import resource
import sys
import time
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from diffmeter import dry_run
from diffmeter.models import catalog
from diffmeter.units import format_bytes, format_count, format_seconds


def peak_memory() -> int:
    """Bytes that this process held at most."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", help="write the results with their conditions to this file")
    options = parser.parse_args()

    rows: list[dict[str, Any]] = []
    table = Table("Model", "MACs", "Complete", "Seconds", title="One generation with each model's defaults")
    begin = time.perf_counter()
    for entry in catalog.entries():
        start = time.perf_counter()
        profile = dry_run(entry.model_id)
        seconds = time.perf_counter() - start
        rows.append(
            {
                "model_id": entry.model_id,
                "total_macs": profile.total_macs,
                "complete": profile.complete,
                "seconds": round(seconds, 2),
            }
        )
        complete = "yes" if profile.complete else "no"
        table.add_row(entry.model_id, format_count(profile.total_macs, "MACs"), complete, f"{seconds:.1f}")
    total = time.perf_counter() - begin
    Console().print(table)
    print(f"{len(rows)} models in {format_seconds(total)}, peak memory {format_bytes(peak_memory())}")
    if options.json:
        conditions = {
            "torch": torch.__version__,
            "python": platform.python_version(),
            "processor": platform.machine(),
            "threads": torch.get_num_threads(),
        }
        result = {"conditions": conditions, "seconds": total, "peak_memory_bytes": peak_memory(), "models": rows}
        with open(options.json, "w") as file:
            json.dump(result, file, indent=2)
            file.write("\n")
    return 0 if all(row["complete"] for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
