"""Read a batch spec (YAML, JSON or CSV) into the list of generations that it asks for.

Whatever is wrong with the file gives one ``InputError`` sentence that names the place and what is allowed there.
"""

from __future__ import annotations

import csv
import difflib
import io
import itertools
import json
import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from diffmeter.errors import InputError, one_line
from diffmeter.generation.request import GenerationRequest
from diffmeter.storage.files import explain_os_error

logger = logging.getLogger(__name__)

SCHEMAS = Path(__file__).parent / "schemas"
MAX_SPEC_BYTES = 64 * 2**20
MAX_YAML_BYTES = 4 * 2**20  # its reader takes seconds for each megabyte
MAX_GENERATIONS = 1_000_000

# The columns of a CSV file, with what each accepts as other names.
_CSV_COLUMNS = {
    "prompt": "prompt",
    "model": "model",
    "model_id": "model",
    "negative_prompt": "negative_prompt",
    "seed": "seed",
    "steps": "steps",
    "num_inference_steps": "steps",
    "width": "width",
    "height": "height",
    "guidance_scale": "guidance_scale",
}
_CSV_INTEGERS = ("seed", "steps", "width", "height")


@lru_cache
def load_schema(name: str) -> dict[str, Any]:
    """A JSON Schema of this package: ``spec``, ``run``, ``generation_config`` or ``batch``."""
    schema: dict[str, Any] = json.loads((SCHEMAS / f"{name}.schema.json").read_text(encoding="utf-8"))
    return schema


def load_spec(path: str | Path, models: Sequence[str] = ()) -> dict[str, Any]:
    """The spec in ``path``, checked against its schema, with CSV files read in.

    A file that ends in ``.csv`` is a list of generations, one a row; ``models`` are used where it names none.
    Raises ``InputError``.
    """
    path = Path(path)
    text = _read_text(path)
    if path.suffix.lower() == ".csv":
        spec: Any = {"generations": list(_csv_generations(text, path, models))}
    else:
        spec = _parse(text, path)
        if isinstance(spec, dict) and models and "generations" not in spec:
            spec.setdefault("models", list(models))
    check_spec(spec, str(path))
    checked: dict[str, Any] = spec
    prompts = spec.get("prompts")
    if isinstance(prompts, str) and prompts.lower().endswith(".csv"):
        file = path.parent / prompts
        spec["prompts"] = [row["prompt"] for row in _csv_rows(_read_text(file), file)]
    return checked


def check_spec(spec: Any, name: str) -> None:
    """Raise ``InputError`` if ``spec`` does not follow the schema; ``name`` is how the message calls it."""
    if not isinstance(spec, dict):
        raise InputError(f"{name}: a spec must be a mapping with lists such as models and prompts.")
    if "num_inference_steps" in spec and "steps" not in spec:  # the pipelines' own name, as generations have it too
        spec["steps"] = spec.pop("num_inference_steps")
    known = load_schema("spec")["properties"]
    for key in spec:
        if key not in known:
            raise InputError(f"{name}: unknown key {_short(key)}{_suggestion(str(key), known)}.")
    if "generations" in spec:
        others = [key for key in spec if key != "generations"]
        if others:
            raise InputError(f"{name}: use either generations or the lists, not both ({others[0]!r} is there too).")
    else:
        for key in ("models", "prompts"):
            if key not in spec:
                raise InputError(f"{name}: {key!r} is missing; a spec has models and prompts, or generations.")
    _check_against_schema(spec, name)


def _check_against_schema(spec: dict[str, Any], name: str) -> None:
    from jsonschema import Draft202012Validator
    from jsonschema.exceptions import best_match

    # Only the first error: a long list of wrong values is not worth going through.
    first = next(Draft202012Validator(load_schema("spec")).iter_errors(spec), None)
    error = best_match([first]) if first is not None else None
    if error is not None:
        place = ".".join(str(part) for part in error.absolute_path) or "the spec"
        hint = ""
        if error.validator == "additionalProperties":
            allowed = error.schema.get("properties", {})
            unknown = next((key for key in error.instance if key not in allowed), "")
            raise InputError(f"{name}: unknown key {_short(unknown)} in {place}{_suggestion(str(unknown), allowed)}.")
        if error.validator in ("not", "oneOf", "required") and isinstance(error.instance, dict):
            hint = "give model or model_id, prompt, and at most one of steps and num_inference_steps, size and width"
            raise InputError(f"{name}: {place} has keys that are missing or do not go together: {hint}.")
        raise InputError(f"{name}: {place} is {_short(error.instance)}, but {_reason(error)}.")
    _check_finite(spec, name)


_ONE_OR_LIST = {
    "models": "a model id",
    "prompts": "a string",
    "negative_prompts": "a string or null",
    "seeds": "a whole number of at least 0",
    "steps": "a whole number of at least 1",
    "guidance_scale": "a number of at least 0",
}


def _reason(error: Any) -> str:
    """What the schema asks for at the place of ``error``, in words."""
    value, rule = error.validator_value, error.validator
    words: dict[str, Callable[[], str]] = {
        "type": lambda: f"it must be of type {' or '.join(value) if isinstance(value, list) else value}",
        "minimum": lambda: f"the least is {value}",
        "maximum": lambda: f"the most is {value}",
        "minItems": lambda: f"it needs at least {value} entries" if value > 1 else "it needs at least one entry",
        "maxItems": lambda: f"it takes at most {value} entries",
        "minLength": lambda: "it must not be empty",
    }
    if rule in words:
        return words[rule]()
    what = _ONE_OR_LIST.get(str(error.absolute_path[0]) if error.absolute_path else "")
    return f"it must be {what}, or a list of such" if what else "that is not allowed there"


def _check_finite(spec: dict[str, Any], name: str) -> None:
    scales = spec.get("guidance_scale")
    values = [*(scales if isinstance(scales, list) else [scales])]
    values += [generation.get("guidance_scale") for generation in spec.get("generations", ())]
    for value in values:
        if isinstance(value, float) and not math.isfinite(value):
            raise InputError(f"{name}: guidance_scale is {value}, but it must be a finite number.")


def requests_of(spec: Mapping[str, Any], name: str = "spec") -> list[GenerationRequest]:
    """Every generation of a checked spec, each once, in order: by model, then size, steps, guidance, prompts, seeds.

    The catalog's defaults are filled in. Raises ``InputError``.
    """
    count = _size_of(spec)
    if count > MAX_GENERATIONS:
        raise InputError(f"{name}: asks for {count} generations; the most is {MAX_GENERATIONS}.")
    requests: dict[str, GenerationRequest] = {}
    for request in _explicit(spec) if "generations" in spec else _product(spec):
        request = request.validated().with_defaults()
        requests.setdefault(request.key, request)
    if len(requests) < count:
        logger.warning("%d generations are asked for more than once; each is made once", count - len(requests))
    return list(requests.values())


def _listed(value: Any, default: Any = None) -> list[Any]:
    if value is None:
        return [default]
    return value if isinstance(value, list) else [value]


_PRODUCT_KEYS = ("models", "sizes", "steps", "guidance_scale", "prompts", "negative_prompts", "seeds")


def _size_of(spec: Mapping[str, Any]) -> int:
    if "generations" in spec:
        return len(spec["generations"])
    return math.prod(len(_listed(spec.get(key))) for key in _PRODUCT_KEYS)


def _product(spec: Mapping[str, Any]) -> Iterator[GenerationRequest]:
    # Equal costs stay together, so that a run of them can share what was prepared for the first.
    lists = [_listed(spec.get(key), 0 if key == "seeds" else None) for key in _PRODUCT_KEYS]
    for model, size, steps, scale, prompt, negative, seed in itertools.product(*lists):
        width, height = size or (None, None)
        yield GenerationRequest(model, prompt, negative or None, height, width, steps, scale, seed)


def _explicit(spec: Mapping[str, Any]) -> Iterator[GenerationRequest]:
    for entry in spec["generations"]:
        width, height = entry.get("size") or (entry.get("width"), entry.get("height"))
        yield GenerationRequest(
            model_id=entry.get("model") or entry["model_id"],
            prompt=entry["prompt"],
            negative_prompt=entry.get("negative_prompt") or None,
            height=height,
            width=width,
            num_inference_steps=entry.get("steps", entry.get("num_inference_steps")),
            guidance_scale=entry.get("guidance_scale"),
            seed=entry.get("seed", 0),
        )


def _read_text(path: Path) -> str:
    try:
        if path.is_dir():
            raise InputError(f"{str(path)!r} is a folder; name a YAML, JSON or CSV file.")
        most = MAX_SPEC_BYTES if path.suffix.lower() in (".json", ".csv") else MAX_YAML_BYTES
        if path.stat().st_size > most:
            raise InputError(f"{str(path)!r} is larger than {most // 2**20} MiB, the most for such a file.")
        return path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{str(path)!r} is not UTF-8 text (byte {error.start}).") from None
    except OSError as error:
        raise InputError(f"cannot read {str(path)!r}: {explain_os_error(error)}.") from None
    except ValueError as error:  # a NUL in the path
        raise InputError(f"cannot read {str(path)!r}: {error}.") from None


def _parse(text: str, path: Path) -> Any:
    try:
        if path.suffix.lower() == ".json":
            return json.loads(text, object_pairs_hook=_without_duplicates)
        return _parse_yaml(text)
    except RecursionError:
        raise InputError(f"{str(path)!r} is nested too deeply.") from None
    except ValueError as error:
        raise InputError(f"{str(path)!r} cannot be parsed: {one_line(error)}.") from None


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise ValueError(f"the key {_short(key)} is there twice")
        found[key] = value
    return found


def _parse_yaml(text: str) -> Any:
    """YAML without aliases (a few lines of them can stand for more than fits in memory) or repeated keys.

    Raises ``ValueError`` whatever is wrong.
    """
    import yaml

    class Loader(yaml.SafeLoader):
        def compose_node(self, parent: Any, index: Any) -> Any:
            if self.check_event(yaml.events.AliasEvent):
                event = self.peek_event()  # type: ignore[no-untyped-call]  # PyYAML's stubs give it no types
                raise ValueError(f"aliases (*) are not read here, line {event.start_mark.line + 1}")
            return super().compose_node(parent, index)

        def construct_mapping(self, node: Any, deep: bool = False) -> Any:
            seen = set()
            for key, _ in node.value:
                if isinstance(key.value, str) and key.value in seen:
                    raise ValueError(f"the key {_short(key.value)} is there twice, line {key.start_mark.line + 1}")
                seen.add(key.value if isinstance(key.value, str) else None)
            return super().construct_mapping(node, deep)

    try:
        return yaml.load(text, Loader)
    except yaml.YAMLError as error:
        raise ValueError(str(error)) from None
    except (TypeError, AttributeError, KeyError, IndexError) as error:
        # Some malformed dates and keys make the YAML reader itself stumble.
        raise ValueError(f"{type(error).__name__}: {error}") from None


def _csv_rows(text: str, path: Path) -> Iterator[dict[str, str]]:
    """The rows of a CSV file with a header line that has ``prompt``; empty cells are left out."""
    try:
        rows = list(csv.reader(io.StringIO(text, newline=""), strict=True))
    except csv.Error as error:
        raise InputError(f"{str(path)!r} is no valid CSV file: {error}.") from None
    header = [name.strip().lower() for name in rows[0]] if rows else []
    if "prompt" not in header:
        raise InputError(f"{str(path)!r} needs a first line with column names, one of them prompt.")
    if len(set(header)) < len(header):
        raise InputError(f"{str(path)!r} has a column name twice.")
    for number, row in enumerate(rows[1:], start=2):
        if not any(cell.strip() for cell in row):
            continue
        if len(row) > len(header):
            raise InputError(f"{str(path)!r}: row {number} has {len(row)} cells, but there are {len(header)} columns.")
        cells = {name: cell for name, cell in zip(header, row, strict=False) if name == "prompt" or cell.strip()}
        cells.setdefault("prompt", "")
        yield cells


def _csv_generations(text: str, path: Path, models: Sequence[str]) -> Iterator[dict[str, Any]]:
    for number, row in enumerate(_csv_rows(text, path), start=1):
        for column in row:
            if column not in _CSV_COLUMNS:
                raise InputError(f"{str(path)!r}: unknown column {_short(column)}{_suggestion(column, _CSV_COLUMNS)}.")
        entry: dict[str, Any] = {}
        for column, cell in row.items():
            name = _CSV_COLUMNS[column]
            entry[name] = _csv_value(name, cell, f"{str(path)!r}: {column} of prompt {number}")
        if "model" in entry:
            yield entry
        elif models:
            yield from ({"model": model, **entry} for model in models)
        else:
            raise InputError(f"{str(path)!r} names no model for prompt {number}: add a column model, or use --model.")


def _csv_value(name: str, cell: str, place: str) -> Any:
    try:
        if name in _CSV_INTEGERS:
            return int(cell)
        if name == "guidance_scale":
            return float(cell)
    except ValueError:
        raise InputError(f"{place} is {_short(cell)}, but it must be a number.") from None
    return cell


def _suggestion(key: str, known: Any) -> str:
    near = difflib.get_close_matches(key, list(known), n=1)
    return f"; did you mean {near[0]!r}?" if near else f"; the keys are {', '.join(known)}"


def _short(value: Any) -> str:
    text = ascii(value)
    return text if len(text) <= 60 else text[:57] + "..."
