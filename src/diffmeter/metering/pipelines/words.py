"""The vocabulary by which generations are asked for, and the refusal of names that are not in it. Loads no torch."""

from __future__ import annotations

import difflib
import functools
import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import ParamSpec, TypeVar

from diffmeter.errors import InputError, shown

P = ParamSpec("P")
R = TypeVar("R")

#: the pipelines' own names for words of the vocabulary, and older names for them
OTHER_NAMES: Mapping[str, str] = {
    "num_inference_steps": "steps",
    "num_images_per_prompt": "batch",
    "num_videos_per_prompt": "batch",
    "batch_size": "batch",
    "true_cfg_scale": "guidance_scale",
    "video_length": "num_frames",
    "token_count": "tokens",
}


_VOCABULARY = ("height", "width", "guidance_scale", "batch", "num_frames", "tokens", "prompt", "dtype", "gpu")


def nearest(name: str, known: Iterable[str]) -> str:
    """The end of a message about a name that is not known: the nearest one, or all."""
    listed = list(dict.fromkeys(known))
    near = difflib.get_close_matches(name, listed, n=1)
    return f": did you mean {near[0]!r}" if near else f"; it takes {', '.join(listed)}"


def understanding_own_names(function: Callable[P, R]) -> Callable[P, R]:
    """Let a function that takes words of the vocabulary take the pipelines' own names too.

    The function then raises ``InputError`` for a name that is neither, with the nearest one.
    """
    taken = inspect.signature(function).parameters

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        found: dict[str, object] = {}
        for name, value in kwargs.items():
            word = OTHER_NAMES.get(name, name) if name not in taken else name
            if word in _VOCABULARY and word not in taken:  # a function of several heights, batches, ...
                word = next((plural for plural in (f"{word}s", f"{word}es") if plural in taken), word)
            if word not in taken:
                raise InputError(f"{function.__name__} takes no argument {name!r}{nearest(name, taken)}.")
            if word in found or (word in kwargs and word != name):
                raise InputError(f"{word} and {name}={shown(value)} are the same argument: give one.")
            found[word] = value
        return function(*args, **found)  # type: ignore[arg-type]  # the names were looked up in its signature

    return call
