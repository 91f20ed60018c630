"""A formula in words and mathematics."""

from __future__ import annotations

from typing import Any

from diffmeter.units import format_count, format_percent

from .domain import WORDS
from .evaluate import Case, Formula
from .questions import attention_share, crossover, marginals


def described(formula: Formula, **settings: Any) -> str:
    """Domain, polynomials by component, and what follows from them, for one way of running."""
    case, scheduler = formula.case_for(settings)
    lines = [f"{formula.name} ({formula.conditions['pipeline']}, {scheduler})", "", "Holds for"]
    lines += [f"  {line}" for line in domain_lines(case)]
    lines += ["", "matmul_macs of a generation"]
    for name, component in formula.components.items():
        polynomial = component.matmul_macs.polynomial(**settings)
        if polynomial:
            lines.append(
                f"  {name}, called {component.calls.polynomial(**settings).text()} times: {polynomial.text()}"
            )
    where = formula.matmul_macs.where(**settings)
    if where:
        lines.append("with")
        lines += [f"  {length.name} = {length.text()}" for length in where]
    lines += ["", *answers(formula, **settings), "", *provenance(formula, case)]
    return "\n".join(lines)


def domain_lines(case: Case) -> list[str]:
    """Where a case holds, a line for each quantity."""
    lines = [f"{WORDS.get(name, name)} {allowed.text()}" for name, allowed in case.ranges.items()]
    if case.guidance is not None:
        lines.append(f"guidance scale from {case.guidance[0]:g} to {case.guidance[1]:g}")
    if case.sizes is not None:
        lines.append(f"computed at the nearest of {len(case.sizes.rows)} sizes that the model was trained for")
    if case.tokens is False:
        lines.append("the default prompt (give the number of tokens for any other)")
    return lines


def answers(formula: Formula, **settings: Any) -> list[str]:
    """Attention's share, where it overtakes the rest, and marginal costs."""
    lines = [f"Attention: {format_percent(attention_share(formula, **settings))} of the products at these settings."]
    case, _ = formula.case_for(settings)
    if "height" in case.ranges and case.sizes is None:
        side = crossover(formula, **settings)
        high = case.ranges["height"].high
        lines.append(
            f"Attention overtakes the rest at {side} x {side}."
            if side is not None
            else f"Attention stays below half of the products up to {high} x {high}."
        )
    for marginal in marginals(formula, **settings):
        what = WORDS.get(marginal.of, marginal.of)
        lines.append(
            f"From {marginal.from_value} to {marginal.to_value} ({what}): {format_count(marginal.macs, 'MACs')} more."
        )
    return lines


def provenance(formula: Formula, case: Case) -> list[str]:
    """What it was derived with, and how it was proved."""
    proof = case.proof
    versions = ", ".join(f"{name} {version}" for name, version in formula.versions.items())
    return [
        f"Interpolated from {len(proof.interpolated)} dry runs, proved on {len(proof.proved)} others "
        f"({proof.coefficients} coefficients at most).",
        f"Derived with {versions}.",
    ]
