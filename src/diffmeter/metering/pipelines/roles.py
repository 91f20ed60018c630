"""Which component does what: the denoiser, the encoders, the decoder, and what a call of the pipeline made."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

#: names of denoisers, in the order in which they are looked for
DENOISERS = ("unet", "transformer", "prior", "decoder")
#: parts of the names of components that are called before or after the steps, never at them
_NO_DENOISERS = ("encoder", "tokenizer", "vae", "vqvae", "vqgan", "safety_checker", "vocoder", "feature_extractor")


def denoisers(before_steps: Mapping[str, int], work: Mapping[str, tuple[int, int]]) -> tuple[str, ...]:
    """The components that are called at each step, in the order of ``work``.

    Args:
        before_steps: how often each component was the last one called before a scheduler's step.
        work: how often each component was called, and its MACs: they decide where a pipeline's scheduler is its own.
    """
    stepped = tuple(name for name in work if before_steps.get(name) and may_denoise(name))
    if stepped or before_steps:
        return stepped
    called = [name for name, (calls, _) in work.items() if calls and may_denoise(name)]
    named = [name for name in called if last_name(name) in DENOISERS]
    return (max(named or called, key=lambda name: work[name]),) if called else ()


def may_denoise(name: str) -> bool:
    """Whether a component of this name may be a denoiser; encoders and decoders are none, however often called."""
    short = last_name(name)
    return not any(part in short for part in _NO_DENOISERS)


def is_text_encoder(name: str) -> bool:
    """Whether a component of this name reads the prompt."""
    return "text_encoder" in last_name(name)


def decodes(method: str) -> bool:
    """Whether an autoencoder's method turns latents into pixels."""
    return "decode" in method


def last_name(name: str) -> str:
    """The name of a component without that of the pipeline in the pipeline that it belongs to."""
    return name.rpartition(".")[2]


def denoiser_module(pipe: Any) -> Any:
    """The denoiser of a pipeline that has not run, for what its configuration says; None where none has the name."""
    return next((part for name in DENOISERS if (part := getattr(pipe, name, None)) is not None), None)


def images_made(output: Any) -> int | None:
    """How many images, videos or recordings a call of a pipeline returned; None where that cannot be told.

    The first field of what it returned holds them: a list, or an array whose first dimension counts them.
    """
    if isinstance(output, Mapping):
        output = next(iter(output.values()), None)
    elif type(output) is tuple:
        output = output[0] if output else None
    shape = getattr(output, "shape", None)
    if isinstance(shape, Sequence):
        return int(shape[0]) if len(shape) else None
    if isinstance(output, list):
        return len(output) or None
    return None


def batch_of(shapes: Iterable[tuple[str, Sequence[int]]]) -> int | None:
    """The batch of a call from its tensors in order: the leading dimension of the first one that has one.

    A list of tensors is one input of which each tensor is an item: ``x.0``, ``x.1``, ... are a batch of two.

    Args:
        shapes: name and shape of each tensor argument, as :attr:`CallProfile.shapes` has them.
    """
    named = [(name.split("."), shape) for name, shape in shapes]
    for path, shape in named:
        if len(path) > 1 and path[1].isdigit():
            return len({other[1] for other, _ in named if other[0] == path[0] and len(other) > 1})
        if len(shape):
            return int(shape[0])
    return None
