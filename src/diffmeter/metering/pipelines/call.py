"""How a pipeline's ``__call__`` is asked: the names that it takes, and the words that stand for them everywhere.

One vocabulary holds for every pipeline: ``height``, ``width``, ``steps``, ``guidance_scale``, ``batch`` (images or
videos made by one call), ``num_frames``, ``prompt``. A pipeline's own names are understood beside it. A name that is
neither is refused, also where a ``**kwargs`` would swallow it.
"""

from __future__ import annotations

import ast
import functools
import inspect
import math
import textwrap
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from diffmeter.errors import InputError, shown, whole_number
from diffmeter.models.catalog import CatalogEntry

from .parts import is_pipeline
from .words import nearest

#: arguments for how many images or videos a prompt gets, or a call without prompts makes
BATCH_ARGUMENTS = (
    "num_images_per_prompt",
    "batch_size",
    "num_videos_per_prompt",
    "num_waveforms_per_prompt",
    "num_designs_per_prompt",
)
#: the words that are arguments of a call, with the names by which pipelines know them
WORDS: Mapping[str, tuple[str, ...]] = {
    "height": ("height",),
    "width": ("width",),
    "steps": ("num_inference_steps",),
    "guidance_scale": ("guidance_scale", "true_cfg_scale"),
    "batch": BATCH_ARGUMENTS,
    "num_frames": ("num_frames", "video_length"),
    "prompt": ("prompt",),
}
_SPOKEN = {"steps": "number of steps", "guidance_scale": "guidance scale", "num_frames": "number of frames"}
_WHOLE = {
    "height": "height",
    "width": "width",
    "steps": "number of steps",
    "num_inference_steps": "number of steps",
    "batch": "batch",
    "num_frames": "number of frames",
    "video_length": "number of frames",
    **{name: name for name in BATCH_ARGUMENTS},
}
#: words of the vocabulary that are no arguments of a call
_ELSEWHERE = {
    "gpu": "a count is the same on every GPU; diffmeter.predict takes one",
    "dtype": "it is how a model is loaded or built",
    "tokens": "diffmeter.dry_run takes them beside the call",
}
#: inputs of which a list makes one image or video for each of its items
_LISTS = ("prompt", "class_labels", "image", "video")


@dataclass(frozen=True, slots=True, kw_only=True)
class PipelineCall:
    """What is to be known of a pipeline's ``__call__``.

    Attributes:
        class_name: of the pipeline.
        model: what messages call it: the id or folder that it was built from, otherwise its class.
        parameters: named ones, in order, without ``self``; those that a ``**kwargs`` is handed on to are among them.
        open_ended: whether arguments of any other name may reach code that cannot be looked into.
        entry: the catalog's entry of the model, if it has one.
    """

    class_name: str
    model: str
    parameters: Mapping[str, inspect.Parameter] = field(repr=False)
    open_ended: bool = False
    entry: CatalogEntry | None = field(default=None, repr=False)

    def takes(self, name: str) -> bool:
        """Whether the call has a parameter of this name."""
        return name in self.parameters

    def understands(self, name: str) -> bool:
        """Whether :meth:`arguments` accepts this name, as the pipeline's own or as a word."""
        return self.takes(name) or self.name_of(name) is not None or self.open_ended

    def default(self, name: str) -> Any:
        """The default of a parameter; None where there is no such parameter, or it must be given."""
        parameter = self.parameters.get(name)
        return None if parameter is None or parameter.default is parameter.empty else parameter.default

    @property
    def required(self) -> list[str]:
        """The parameters that must be given."""
        return [name for name, parameter in self.parameters.items() if parameter.default is parameter.empty]

    def name_of(self, word: str) -> str | None:
        """The parameter that a word of the vocabulary stands for; None where the call has none.

        For a model of the catalog, ``guidance_scale`` is the guidance that the model was published with.
        """
        if word == "guidance_scale" and self.entry is not None and self.takes(self.entry.defaults.guidance_argument):
            return self.entry.defaults.guidance_argument
        return next((name for name in WORDS.get(word, ()) if self.takes(name)), None)

    def arguments(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """The arguments of the call: words in the pipeline's own names, every name and number checked.

        None for a word leaves it out. Numbers of NumPy become Python's.

        Raises:
            InputError: a name that the call does not document (the nearest one is in the message), a word that it has
                no parameter for, a value that no pipeline could take, or a word and its name with different values.
        """
        words = {name: value for name, value in given.items() if self._is_word(name, given)}
        found = {name: self._checked(name, value) for name, value in given.items() if name not in words}
        for word, value in words.items():
            if value is not None and word != "batch":
                self._add(found, word, self._name_for(word), self._checked(word, value))
        batch = words.get("batch")
        if batch is not None:
            self._add_batch(found, whole_number(batch, "batch"))
        return found

    def _is_word(self, name: str, given: Mapping[str, Any]) -> bool:
        """Whether a name is to be read as a word of the vocabulary rather than as the pipeline's own."""
        if name not in WORDS:
            return False
        own = self.name_of(name)
        return not self.takes(name) or (own != name and own is not None and own not in given)

    def _name_for(self, word: str) -> str:
        name = self.name_of(word)
        if name is None:
            raise InputError(f"{self._who()} takes no {_SPOKEN.get(word, word)}.")
        return name

    def _add(self, found: dict[str, Any], word: str, name: str, value: Any) -> None:
        if name in found and found[name] is not None and found[name] != value:
            raise InputError(f"{word}={shown(value)} and {name}={shown(found[name])} are the same argument: give one.")
        found[name] = value

    def _add_batch(self, found: dict[str, Any], batch: int) -> None:
        """So many images or videos in one call, those of a list of prompts included."""
        lists = [value for name in _LISTS if isinstance(value := found.get(name), (list, tuple)) and value]
        inputs = len(lists[0]) if lists else 1
        each, rest = divmod(batch, inputs)
        name = self.name_of("batch")
        if rest or (name is None and each > 1 and (lists or not self.takes("class_labels"))):
            if rest:
                raise InputError(
                    f"batch {batch} is no multiple of the {inputs} inputs that are given: each gets as many."
                )
            raise InputError(f"{self._who()} makes one image of an input: batch {batch} is not possible this way.")
        if name is not None:
            if each > 1 or name in found:
                self._add(found, "batch", name, each)
        elif each > 1:
            found["class_labels"] = [0] * each

    def _checked(self, name: str, value: Any) -> Any:
        if name not in WORDS and not self.understands(name):
            raise InputError(f"{self._who()} takes no argument {name!r}{self._nearest(name)}.")
        if name in _WHOLE and value is not None and not isinstance(value, (list, tuple)):
            return whole_number(value, f"the {_WHOLE[name]}" if _WHOLE[name] != name else name)
        if isinstance(value, float) and not math.isfinite(value):
            raise InputError(f"{name} must be a finite number, not {value}.")
        return value

    def _nearest(self, name: str) -> str:
        if name in _ELSEWHERE:
            return f": {_ELSEWHERE[name]}"
        return nearest(name, [*self.parameters, *(word for word in WORDS if self.name_of(word) is not None)])

    def _who(self) -> str:
        return self.class_name if self.model == self.class_name else f"{self.model} ({self.class_name})"

    def plain(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """The arguments of a call that was made, by name, defaults included, as far as they are plain values."""
        named = {name: parameter.default for name, parameter in self.parameters.items()}
        named |= dict(zip(named, args, strict=False)) | dict(kwargs)
        result: dict[str, Any] = {}
        for name, value in named.items():
            if isinstance(value, _PLAIN):
                result[name] = value
            elif isinstance(value, (list, tuple)) and all(isinstance(item, _PLAIN) for item in value):
                result[name] = list(value)
        return result


_PLAIN = (int, float, str, bool, type(None))


def call_of(pipe: Any, model: str | None = None, entry: CatalogEntry | None = None) -> PipelineCall:
    """How the call of a pipeline is asked. ``model`` and ``entry`` say what it was built from.

    Raises:
        InputError: ``pipe`` is no pipeline.
    """
    if not is_pipeline(pipe):
        raise InputError(f"{type(pipe).__name__} is no diffusers pipeline: pass a loaded DiffusionPipeline.")
    parameters, open_ended = _parameters(pipe, frozenset())
    name = type(pipe).__name__
    return PipelineCall(
        class_name=name, model=model or name, parameters=parameters, open_ended=open_ended, entry=entry
    )


def _parameters(pipe: Any, seen: frozenset[int]) -> tuple[dict[str, inspect.Parameter], bool]:
    """The named parameters of a pipeline's call, and whether there may be others."""
    blocks = getattr(pipe, "blocks", None)
    inputs = getattr(blocks, "inputs", None)
    if isinstance(inputs, Iterable) and not isinstance(inputs, (str, Mapping)):  # a modular pipeline lists its own
        return {item.name: _keyword(item.name, getattr(item, "default", None)) for item in inputs if item.name}, False
    calls = [base.__dict__["__call__"] for base in type(pipe).__mro__ if "__call__" in base.__dict__]
    return _merged(pipe, calls, seen | {id(pipe)})


def _merged(
    pipe: Any, calls: list[Callable[..., Any]], seen: frozenset[int]
) -> tuple[dict[str, inspect.Parameter], bool]:
    """The parameters of the first of ``calls``, and of what its ``**kwargs`` is handed on to."""
    found, swallows = _signature(calls[0])
    if not swallows:
        return dict(found), False
    reads = _reads_of_kwargs(calls[0])
    if reads is None:
        return dict(found), True
    merged = {**found, **{name: _keyword(name, None) for name in reads.names if name not in found}}
    open_ended = False
    for target in reads.handed_on:
        value = None if target == _SUPER else getattr(pipe, target, None)
        if target == _SUPER and len(calls) > 1:
            more, unknown = _merged(pipe, calls[1:], seen)
        elif is_pipeline(value) and id(value) not in seen:
            more, unknown = _parameters(value, seen)
        else:
            more, unknown = {}, True
        merged = {**more, **merged}
        open_ended |= unknown
    return merged, open_ended


def _keyword(name: str, default: Any) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default)


@functools.cache
def _signature(function: Callable[..., Any]) -> tuple[dict[str, inspect.Parameter], bool]:
    """The named parameters of a method without ``self``, and whether there is a ``**kwargs``."""
    parameters = list(inspect.signature(function).parameters.values())[1:]
    variadic = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return (
        {parameter.name: parameter for parameter in parameters if parameter.kind not in variadic},
        any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters),
    )


_SUPER = "super()"


@dataclass(frozen=True, slots=True)
class _Reads:
    """What a function does with its ``**kwargs``: names it reads, and attributes of ``self`` that get them all."""

    names: tuple[str, ...]
    handed_on: tuple[str, ...]


@functools.cache
def _reads_of_kwargs(function: Callable[..., Any]) -> _Reads | None:
    """None where the source is not there, or does something else with them than reading names or handing them on."""
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(inspect.unwrap(function))))
    except (OSError, TypeError, SyntaxError):
        return None
    definition = tree.body[0]
    if not isinstance(definition, ast.FunctionDef) or definition.args.kwarg is None:
        return None
    variable = definition.args.kwarg.arg
    names: list[str] = []
    handed_on: list[str] = []
    understood = 0
    for node in ast.walk(definition):
        name = _name_read(node, variable)
        if name is not None:
            names.append(name)
            understood += 1
        for keyword in node.keywords if isinstance(node, ast.Call) else ():
            if keyword.arg is None and isinstance(keyword.value, ast.Name) and keyword.value.id == variable:
                target = _receiver(node)  # type: ignore[arg-type]  # a call, as the line above has it
                if target is None:
                    return None
                handed_on.append(target)
                understood += 1
    uses = sum(isinstance(node, ast.Name) and node.id == variable for node in ast.walk(definition))
    return _Reads(tuple(names), tuple(handed_on)) if uses == understood else None


def _name_read(node: ast.AST, variable: str) -> str | None:
    """The name in ``kwargs.pop("name")``, ``kwargs.get("name")``, ``kwargs["name"]`` or ``"name" in kwargs``."""
    match node:
        case ast.Call(
            func=ast.Attribute(value=ast.Name(id=found), attr="pop" | "get"), args=[ast.Constant(value=str(name)), *_]
        ) if found == variable:
            return name
        case ast.Subscript(value=ast.Name(id=found), slice=ast.Constant(value=str(name))) if found == variable:
            return name
        case ast.Compare(
            left=ast.Constant(value=str(name)), ops=[ast.In() | ast.NotIn()], comparators=[ast.Name(id=found)]
        ) if found == variable:
            return name
    return None


def _receiver(call: ast.Call) -> str | None:
    """The attribute of ``self`` that is called, or :data:`_SUPER` for the next class's; None for anything else."""
    match call.func:
        case ast.Attribute(value=ast.Call(func=ast.Name(id="super")), attr="__call__"):
            return _SUPER
        case ast.Attribute(value=ast.Name(id="self"), attr=name):
            return name
    return None
