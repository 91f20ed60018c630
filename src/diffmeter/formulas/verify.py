"""A formula beside dry runs at random settings of its domain, with what is installed here."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

from diffmeter.errors import DiffmeterError

from .evaluate import Case, Formula

#: most pixels and frames of a random setting: what the dry run then converts stays small
_USUAL = {"height": 1024, "width": 1024, "num_frames": 17, "batch": 4, "steps": 12}


def random_settings(formula: Formula, rng: random.Random) -> dict[str, Any]:
    """A call inside the domain of one of the cases, chosen at random."""
    case: Case = rng.choice(formula.cases)
    found: dict[str, Any] = {}
    for name, allowed in case.ranges.items():
        low = -(-allowed.low // allowed.modulus)
        high = max(min(allowed.high, _USUAL.get(name, allowed.high)) // allowed.modulus, low)
        found[name] = rng.randint(low, high) * allowed.modulus
    if case.guidance is not None:
        low_scale, high_scale = case.guidance
        found["guidance_scale"] = round(rng.uniform(low_scale, min(high_scale, low_scale + 15)), 3)
        if not low_scale <= found["guidance_scale"] <= high_scale:
            found["guidance_scale"] = low_scale
    return found


def differences(formula: Formula, model: Any, settings: dict[str, Any]) -> Iterator[str]:
    """Where the formula and a dry run at the same settings differ, a line each. Nothing where they agree."""
    from diffmeter.metering.recording.dry_run import dry_run

    predicted = formula.profile(**settings)
    seen = dry_run(model, **{n: v for n, v in settings.items() if n != "tokens"}, token_count=settings.get("tokens"))
    if not seen.complete:
        yield f"the dry run at {settings} is not complete"
    if (predicted.steps_run, predicted.denoisers) != (seen.steps_run, seen.denoisers):
        yield f"steps run at {settings}: {predicted.steps_run}, not {seen.steps_run}"
    for name, component in seen.components.items():
        mine = predicted.components[name]
        for what in (
            "call_count",
            "matmul_macs",
            "matmul_macs_without_attention",
            "total_macs",
            "macs_by_op",
            "params",
        ):
            said, was = getattr(mine, what), getattr(component, what)
            if said != was:
                yield f"{what} of {name} at {settings}: {said}, not {was}"


def verify(formula: Formula, model: Any, count: int, seed: int | None = None) -> list[str]:
    """Compare at random settings; what differs, a line each.

    Raises:
        DiffmeterError: none of the settings could be run.
    """
    rng = random.Random(seed)
    wrong: list[str] = []
    done = 0
    for _ in range(4 * count):
        if done == count:
            break
        settings = random_settings(formula, rng)
        try:
            wrong += differences(formula, model, settings)
        except DiffmeterError:
            continue
        done += 1
    if not done:
        raise DiffmeterError(f"{formula.name} could not be run at any of {4 * count} random settings.")
    return wrong
