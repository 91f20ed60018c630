"""A formula as a program in another language, without dependencies and exact: Python integers, JavaScript's BigInt.

The exported program knows the formula's domain and refuses the same calls. It gives ``matmul_macs``,
``matmul_macs_without_attention``, ``total_macs`` and the number of calls, by component and in total.
"""

from __future__ import annotations

import json
from typing import Any

from .evaluate import QUANTITIES, Case, Formula
from .polynomial import Polynomial


def python(formula: Formula) -> str:
    """The source of a Python module with one function, ``cost(**settings)``."""
    return _PYTHON.replace("__MODEL__", _one_line(formula.name)).replace(
        "__DATA__", json.dumps(json.dumps(_data(formula)))
    )


def javascript(formula: Formula) -> str:
    """The source of a JavaScript module that exports one function, ``cost(settings)``. Counts are BigInts."""
    return _JAVASCRIPT.replace("__MODEL__", _one_line(formula.name)).replace("__DATA__", json.dumps(_data(formula)))


def _one_line(text: str) -> str:
    return " ".join(text.replace("*/", "* /").split())


def _data(formula: Formula) -> dict[str, Any]:
    """What both programs interpret: whole coefficients as text, exponents by name."""
    return {
        "model": formula.name,
        "defaults": dict(formula.defaults),
        "scheduler": formula.scheduler,
        "cases": [_case(formula, case) for case in formula.cases if formula.scheduler in case.programs],
    }


def _case(formula: Formula, case: Case) -> dict[str, Any]:
    lengths = [*case.lengths, *case.repeats(formula.scheduler)]
    totals = {
        component: {
            quantity: _polynomial(case.total(quantity, formula.scheduler, component))
            for quantity in (*QUANTITIES, "calls")
        }
        for component in formula.parts
    }
    return {
        "guidance": None if case.guidance is None else list(case.guidance),
        "tokens": case.tokens,
        "ranges": {name: allowed.to_list() for name, allowed in case.ranges.items()},
        "sizes": None if case.sizes is None else case.sizes.to_list(),
        "lengths": [length.to_dict() for length in lengths],
        "components": totals,
    }


def _polynomial(polynomial: Polynomial) -> dict[str, Any]:
    whole, denominator = polynomial.whole()
    return {
        "terms": [[str(coefficient), dict(monomial)] for monomial, coefficient in whole.items()],
        "denominator": str(denominator),
    }


_PYTHON = '''"""What a generation with __MODEL__ costs, exactly. Needs nothing beside Python."""

import json

_FORMULA = json.loads(__DATA__)


def _value(polynomial, values):
    total = 0
    for coefficient, powers in polynomial["terms"]:
        term = int(coefficient)
        for name, power in powers.items():
            term *= values[name] ** power
        total += term
    return total // int(polynomial["denominator"])


def cost(**settings):
    """MACs of one generation: {"components": {name: {quantity: int}}, "total": {quantity: int}}.

    Settings that are not given have the model's defaults. Raises ValueError outside the formula's domain.
    """
    unknown = sorted(set(settings) - set(_FORMULA["defaults"]))
    if unknown:
        raise ValueError(f"There is no {unknown[0]!r}; there are {', '.join(_FORMULA['defaults'])}.")
    values = {**_FORMULA["defaults"], **{name: value for name, value in settings.items() if value is not None}}
    guidance, tokens = values.get("guidance_scale"), values.get("tokens") is not None
    for case in _FORMULA["cases"]:
        span = case["guidance"]
        if (span is None or span[0] <= guidance <= span[1]) and case["tokens"] in (None, tokens):
            break
    else:
        raise ValueError(f"The formula does not hold for a guidance scale of {guidance}.")
    for name, (low, high, modulus) in case["ranges"].items():
        value = values.get(name)
        if value is not None and (not isinstance(value, int) or not low <= value <= high or value % modulus):
            allowed = f"a whole number from {low} to {high} that {modulus} divides"
            raise ValueError(f"{name} must be {allowed}, not {value!r}.")
    if case["sizes"] is not None:
        asked = values["height"] / values["width"]
        _, values["height"], values["width"] = min(case["sizes"], key=lambda row: abs(row[0] - asked))
    for length in case["lengths"]:
        product = length["times"]
        for name in length["of"]:
            product *= values[name]
        values[length["name"]] = (product + length["shift"]) // length["divide"]
    components = {
        name: {quantity: _value(polynomial, values) for quantity, polynomial in quantities.items()}
        for name, quantities in case["components"].items()
    }
    total = {}
    for quantities in components.values():
        for quantity, value in quantities.items():
            total[quantity] = total.get(quantity, 0) + value
    return {"components": components, "total": total}
'''

_JAVASCRIPT = """/* What a generation with __MODEL__ costs, exactly. Counts are BigInts. Needs nothing. */

const FORMULA = __DATA__;

function floorDivide(a, b) {
  const quotient = a / b;
  return a % b !== 0n && a < 0n !== b < 0n ? quotient - 1n : quotient;
}

function evaluate(polynomial, values) {
  let total = 0n;
  for (const [coefficient, powers] of polynomial.terms) {
    let term = BigInt(coefficient);
    for (const [name, power] of Object.entries(powers)) term *= values[name] ** BigInt(power);
    total += term;
  }
  return floorDivide(total, BigInt(polynomial.denominator));
}

/* MACs of one generation: {components: {name: {quantity: BigInt}}, total: {quantity: BigInt}}.
   Settings that are not given have the model's defaults. Throws RangeError outside the formula's domain. */
export function cost(settings = {}) {
  const given = {...FORMULA.defaults};
  for (const [name, value] of Object.entries(settings)) {
    const known = Object.keys(FORMULA.defaults);
    if (!known.includes(name)) throw new RangeError(`There is no ${name}; there are ${known}.`);
    if (value !== null && value !== undefined) given[name] = value;
  }
  const guidance = given.guidance_scale;
  const tokens = given.tokens !== null && given.tokens !== undefined;
  const found = FORMULA.cases.find((c) =>
    (c.guidance === null || (c.guidance[0] <= guidance && guidance <= c.guidance[1])) &&
    (c.tokens === null || c.tokens === tokens));
  if (!found) throw new RangeError(`The formula does not hold for a guidance scale of ${guidance}.`);
  const values = {};
  for (const [name, value] of Object.entries(given)) {
    if (name === "guidance_scale" || value === null || value === undefined) continue;
    const range = found.ranges[name];
    if (range) {
      const [low, high, modulus] = range;
      if (!(Number.isSafeInteger(value) && low <= value && value <= high && value % modulus === 0)) {
        const allowed = `a whole number from ${low} to ${high} that ${modulus} divides`;
        throw new RangeError(`${name} must be ${allowed}, not ${value}.`);
      }
    }
    if (Number.isSafeInteger(value)) values[name] = BigInt(value);
  }
  if (found.sizes !== null) {
    const asked = given.height / given.width;
    let best = found.sizes[0];
    for (const row of found.sizes) if (Math.abs(row[0] - asked) < Math.abs(best[0] - asked)) best = row;
    values.height = BigInt(best[1]);
    values.width = BigInt(best[2]);
  }
  for (const length of found.lengths) {
    let product = BigInt(length.times);
    for (const name of length.of) product *= values[name];
    values[length.name] = floorDivide(product + BigInt(length.shift), BigInt(length.divide));
  }
  const components = {};
  const total = {};
  for (const [name, quantities] of Object.entries(found.components)) {
    components[name] = {};
    for (const [quantity, polynomial] of Object.entries(quantities)) {
      const value = evaluate(polynomial, values);
      components[name][quantity] = value;
      total[quantity] = (total[quantity] ?? 0n) + value;
    }
  }
  return {components, total};
}
"""
