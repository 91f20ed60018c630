"""Every pipeline class of the installed diffusers that can be built tiny: diffmeter against an independent counter.

    python benchmarks/pipelines.py [--only NAME ...] [--json FILE] [--write-docs]

For each case of ``tests/zoo`` the same call is made three times: for real under the operator counter of
``tests/reference.py`` (which shares no code with the package), under ``observe``, and as a ``dry_run``. Outcomes:

exact       both totals equal the reference to the last integer, and both made the same calls
incomplete  a total differs or is missing an operator, and the profile says that it is not complete
WRONG       a total differs from the reference although the profile calls itself complete
failed      the pipeline cannot be built or run here, or observing it raised (with the reason)

``--write-docs`` puts the table into docs/PIPELINES.md. The exit code is 1 if anything is WRONG.
"""

from __future__ import annotations

import argparse
import json
import logging
import platform
import sys
import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers
from rich.console import Console
from rich.progress import track
from rich.table import Table

from diffmeter import dry_run, observe

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # the tests are not part of the installed package
from tests.reference import count_real_run  # noqa: E402
from tests.zoo import ZOO, Case  # noqa: E402

DOCS = ROOT / "docs" / "PIPELINES.md"
BEGIN, END = "<!-- pipelines:begin -->", "<!-- pipelines:end -->"
EXACT, INCOMPLETE, WRONG, FAILED = "exact", "incomplete (said so)", "WRONG", "failed"
PACKAGES = ("diffmeter", "torch", "diffusers", "transformers")


@dataclass
class Outcome:
    """What one case gave. MACs are those of the whole call; ``reasons`` says why it is not exact."""

    name: str
    family: str
    components: list[str] = field(default_factory=list)
    calls: int | None = None
    reference_macs: int | None = None
    observed_macs: int | None = None
    dry_run_macs: int | None = None
    complete: bool | None = None
    outcome: str = FAILED
    reasons: list[str] = field(default_factory=list)

    @property
    def class_name(self) -> str:
        """The pipeline's class, without the variant."""
        return self.name.partition("[")[0]


def signature_counts(profile: Any) -> dict[str, list[tuple[Any, ...]]]:
    """How often each signature of each component was called."""
    return {
        name: [(call.method, call.count, call.shapes, call.matmul_macs) for call in component.calls]
        for name, component in profile.components.items()
        if component.calls
    }


def judge(what: str, profile: Any, truth: int) -> tuple[str, list[str]]:
    """The outcome of one profile against the reference, with the reasons if it is not exact."""
    if profile.complete:
        if profile.matmul_macs == truth:
            return EXACT, []
        return WRONG, [f"{what}: {profile.matmul_macs:,} instead of {truth:,} MACs"]
    missing = sorted({str(entry.get("reason") or entry.get("op")) for entry in profile.uncounted})
    return INCOMPLETE, [f"{what}: {'; '.join(missing) or 'the two counters do not agree'}"]


def one_line(error: BaseException) -> str:
    """The error's class and the first line of its text."""
    text = (str(error).strip().splitlines() or [""])[0]
    return f"{type(error).__name__}: {text[:160]}"


def attempt(result: Outcome, what: str, action: Callable[[], Any]) -> Any:
    """The action's value, or None with the reason noted. One case that fails leaves the others alone."""
    try:
        return action()
    except Exception as error:
        result.reasons.append(f"{what}: {one_line(error)}")
        return None


def real_run(case: Case) -> int:
    """MACs of the reference run."""
    pipe = case.build()
    arguments = case.arguments(pipe)
    torch.manual_seed(0)
    return count_real_run(pipe, **arguments).total


def observed_run(case: Case) -> Any:
    """Profile of the observed run."""
    pipe = case.build()
    arguments = case.arguments(pipe)
    torch.manual_seed(0)
    with observe(pipe) as run:
        pipe(**arguments)
    return run.profile


def rehearsed_run(case: Case) -> Any:
    """Profile of the dry run."""
    pipe = case.build()
    torch.manual_seed(0)
    return dry_run(pipe, **case.arguments(pipe))


def examine(case: Case) -> Outcome:
    """Runs one case three times and judges it."""
    result = Outcome(case.name, case.family)
    truth = attempt(result, "real run", lambda: real_run(case))
    if truth is None:
        return result
    result.reference_macs = truth
    seen = attempt(result, "observe", lambda: observed_run(case))
    dry = attempt(result, "dry run", lambda: rehearsed_run(case))
    verdicts = []
    for what, profile in (("observe", seen), ("dry run", dry)):
        if profile is not None:
            verdict, reasons = judge(what, profile, truth)
            verdicts.append(verdict)
            result.reasons += reasons
    if seen is not None:
        called = {name: part.call_count for name, part in seen.components.items() if part.call_count}
        result.components, result.calls = list(called), sum(called.values())
        result.observed_macs, result.complete = seen.matmul_macs, seen.complete
    if dry is not None:
        result.dry_run_macs = dry.matmul_macs
    if seen is not None and dry is not None and dry.complete and signature_counts(seen) != signature_counts(dry):
        verdicts.append(WRONG)
        result.reasons.append("dry run: other calls than the real run")
    if WRONG in verdicts:
        result.outcome = WRONG
    elif seen is None or dry is None:
        result.outcome = FAILED
    else:
        result.outcome = INCOMPLETE if INCOMPLETE in verdicts else EXACT
    return result


def without_a_case() -> tuple[list[str], list[str]]:
    """Pipeline classes of the installed diffusers that the zoo lacks, and those that need a package not installed."""
    tried = {case.class_name for case in ZOO.values()}
    lacking, unavailable = [], []
    for name in sorted(set(dir(diffusers)) - tried):
        if not name.endswith("Pipeline") or name == "DiffusionPipeline":
            continue
        try:
            value = getattr(diffusers, name)
        except Exception:
            unavailable.append(name)
            continue
        if isinstance(value, type) and issubclass(value, diffusers.DiffusionPipeline):
            lacking.append(name)
        elif hasattr(value, "_backends"):  # diffusers' placeholder for a class whose requirements are missing
            unavailable.append(name)
    return lacking, unavailable


def by_class(results: list[Outcome]) -> dict[str, str]:
    """The worst outcome of each class over its variants."""
    order = (EXACT, INCOMPLETE, FAILED, WRONG)
    worst: dict[str, str] = {}
    for result in results:
        before = worst.get(result.class_name, EXACT)
        worst[result.class_name] = max(before, result.outcome, key=order.index)
    return worst


def summary(results: list[Outcome]) -> str:
    """One sentence: how many classes and calls were tried, and how they came out."""
    classes = Counter(by_class(results).values())
    calls = Counter(result.outcome for result in results)
    return (
        f"{sum(classes.values())} pipeline classes in {len(results)} calls: {classes[EXACT]} classes "
        f"({calls[EXACT]} calls) exact, {classes[INCOMPLETE]} ({calls[INCOMPLETE]}) incomplete and marked so, "
        f"{classes[FAILED]} ({calls[FAILED]}) failed, {classes[WRONG]} ({calls[WRONG]}) wrong."
    )


def outcome_text(result: Outcome) -> str:
    """The outcome with its reasons."""
    return f"{result.outcome}: {'; '.join(result.reasons)}" if result.reasons else result.outcome


def rich_table(results: list[Outcome]) -> Table:
    """The table for the terminal."""
    table = Table(title="Pipelines of diffusers: MACs of one call")
    for header in ("pipeline", "components called"):
        table.add_column(header, overflow="fold")
    for header in ("calls", "reference", "observed", "dry run"):
        table.add_column(header, justify="right")
    table.add_column("complete")
    table.add_column("outcome", overflow="fold")

    def number(value: int | None) -> str:
        return "" if value is None else f"{value:,}"

    for result in results:
        complete = "" if result.complete is None else ("yes" if result.complete else "no")
        table.add_row(
            result.name.replace("[", r"\["), ", ".join(result.components), number(result.calls),
            number(result.reference_macs), number(result.observed_macs), number(result.dry_run_macs), complete,
            outcome_text(result).replace("[", r"\["), style="red" if result.outcome == WRONG else None,
        )  # fmt: skip
    return table


def versions() -> dict[str, str]:
    """Of the packages that decide what is counted."""
    return {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}}


def markdown(results: list[Outcome], lacking: list[str], unavailable: list[str]) -> str:
    """The section of docs/PIPELINES.md."""

    def cell(text: str) -> str:
        return text.replace("|", r"\|")

    lines = [summary(results), "", ", ".join(f"{name} {number}" for name, number in versions().items()) + ".", ""]
    lines += ["| pipeline | components called | calls | outcome |", "| --- | --- | ---: | --- |"]
    lines += [
        f"| {cell(r.name)} | {cell(', '.join(r.components))} | {'' if r.calls is None else r.calls} "
        f"| {cell(outcome_text(r))} |"
        for r in results
    ]
    for title, names in (
        ("Not tried", lacking),
        ("Not tried, since a package they need is not installed", unavailable),
    ):
        if names:
            lines += ["", f"{title} ({len(names)}): {', '.join(names)}."]
    return "\n".join(lines)


def write_docs(text: str) -> None:
    """Replaces what stands between the two markers in docs/PIPELINES.md.

    Raises:
        ValueError: the markers are not there.
    """
    page = DOCS.read_text(encoding="utf-8")
    head, begin, rest = page.partition(BEGIN)
    _, end, tail = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"{DOCS} lacks the markers {BEGIN} and {END}")
    DOCS.write_text(f"{head}{BEGIN}\n{text}\n{END}{tail}", encoding="utf-8")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="diffmeter against an independent counter, pipeline by pipeline")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="cases or classes; default: all")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results here as JSON")
    parser.add_argument("--write-docs", action="store_true", help="replace the table in docs/PIPELINES.md")
    options = parser.parse_args()
    if options.only and options.write_docs:
        parser.error("--write-docs needs every case; leave --only out")
    known = {*ZOO, *(case.class_name for case in ZOO.values())}
    unknown = [name for name in options.only or () if name not in known]
    if unknown:
        parser.error(f"no such case: {', '.join(unknown)}")
    return options


def main() -> int:
    options = parse_arguments()
    warnings.simplefilter("ignore")
    diffusers.logging.set_verbosity_error()
    transformers.logging.set_verbosity_error()
    logging.disable(logging.WARNING)
    console = Console()
    cases = [
        case
        for name, case in sorted(ZOO.items())
        if not options.only or name in options.only or case.class_name in options.only
    ]
    results = [examine(case) for case in track(cases, "pipelines", console=Console(stderr=True))]
    lacking, unavailable = without_a_case()
    console.print(rich_table(results))
    console.print(f"Without a case ({len(lacking)}): {', '.join(lacking)}")
    console.print(f"Need a package that is not installed ({len(unavailable)}): {', '.join(unavailable)}")
    console.print(summary(results))
    if options.json:
        report = {
            "versions": versions(), "summary": summary(results), "pipelines": [asdict(r) for r in results],
            "without_a_case": lacking, "unavailable": unavailable,
        }  # fmt: skip
        options.json.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    if options.write_docs:
        write_docs(markdown(results, lacking, unavailable))
    return int(any(result.outcome == WRONG for result in results))


if __name__ == "__main__":
    sys.exit(main())
