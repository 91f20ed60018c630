"""What is asked of one generation: its values, checked, and the arguments that a pipeline gets for them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from diffmeter.errors import InputError, real_number, shown, whole_number
from diffmeter.models.sources import Source, source_of

if TYPE_CHECKING:
    from diffmeter.metering.pipelines.call import PipelineCall

MAX_SEED = 2**63 - 1  # the largest that every device's generator takes
MAX_STEPS = 1_000_000
MAX_SIDE = 65_536  # pixels
MAX_GUIDANCE_SCALE = 1_000_000

#: other names of a request's fields: the vocabulary's, beside the pipelines' own
ALIASES = {"steps": "num_inference_steps"}


@dataclass(frozen=True)
class GenerationRequest:
    """One image to generate. ``None`` stands for the model's own default; without a seed it is 0.

    Sizes are in pixels. ``key`` names the request: equal requests have equal keys, on every machine.
    """

    model_id: str
    prompt: str
    negative_prompt: str | None = None
    height: int | None = None
    width: int | None = None
    num_inference_steps: int | None = None
    guidance_scale: float | None = None
    seed: int | None = None

    @property
    def key(self) -> str:
        """16 hexadecimal digits that stand for all values of the request."""
        values = [
            self.model_id,
            self.prompt,
            self.negative_prompt or None,
            self.height,
            self.width,
            self.num_inference_steps,
            None if self.guidance_scale is None else float(self.guidance_scale),
            self.seed,
        ]
        return hashlib.sha256(json.dumps(values).encode("ascii")).hexdigest()[:16]

    @property
    def source(self) -> Source:
        """What the model's name means."""
        return source_of(self.model_id)

    def validated(self) -> GenerationRequest:
        """The request with every value checked that can be without the model; NumPy's integers become Python's.

        Raises:
            InputError: one sentence about the first value that cannot be used.
        """
        if not isinstance(self.model_id, str) or not self.model_id.strip():
            raise InputError(f"the model must be a model id or a folder, not {shown(self.model_id)}.")
        if not isinstance(self.prompt, str):
            raise InputError(f"the prompt must be a string, not {shown(self.prompt)}.")
        if self.negative_prompt is not None and not isinstance(self.negative_prompt, str):
            raise InputError(f"the negative prompt must be a string, not {shown(self.negative_prompt)}.")
        scale = self.guidance_scale
        if scale is not None:
            real_number(scale, "the guidance scale", 0, MAX_GUIDANCE_SCALE)
        return replace(
            self,
            num_inference_steps=_whole(self.num_inference_steps, "the number of steps", 1, MAX_STEPS),
            height=_whole(self.height, "the height", 1, MAX_SIDE),
            width=_whole(self.width, "the width", 1, MAX_SIDE),
            seed=_whole(self.seed, "the seed", 0, MAX_SEED),
        )

    def with_defaults(self) -> GenerationRequest:
        """The request with the catalog's defaults in place of ``None``, where the catalog knows the model.

        One side alone stands for a square.
        """
        sides = (self.height or self.width, self.width or self.height)
        entry = self.source.entry
        if entry is None:
            return replace(self, height=sides[0], width=sides[1])
        own = entry.defaults
        return replace(
            self,
            height=sides[0] or own.height,
            width=sides[1] or own.width,
            num_inference_steps=self.num_inference_steps or own.num_inference_steps,
            guidance_scale=own.guidance_scale if self.guidance_scale is None else self.guidance_scale,
        )

    def arguments(self, call: PipelineCall) -> dict[str, Any]:
        """The arguments for ``pipe(...)``, without the generator.

        Raises:
            InputError: the pipeline does not take one of them.
        """
        wanted = {
            "prompt": text_for_model(self.prompt),
            "negative_prompt": text_for_model(self.negative_prompt or "") or None,
            "height": self.height,
            "width": self.width,
            "steps": self.num_inference_steps,
            "guidance_scale": self.guidance_scale,
        }
        given = {name: value for name, value in wanted.items() if value is not None}
        if "negative_prompt" in given and not call.takes("negative_prompt"):
            raise InputError(f"{self.model_id!r} ({call.class_name}) takes no negative prompt.")
        return call.arguments(given)


def text_for_model(text: str) -> str:
    """Lone surrogates, which no tokenizer can read, become the replacement character; all else stays."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def under_own_names(options: Mapping[str, Any]) -> dict[str, Any]:
    """Options with the vocabulary's words replaced by the names that a request has for them.

    Raises:
        InputError: the same value is given twice, or several images are asked for.
    """
    found = dict(options)
    for word, name in ALIASES.items():
        value = found.pop(word, None)
        if value is not None:
            if found.get(name) not in (None, value):
                raise InputError(f"{word}={shown(value)} and {name}={shown(found[name])} are the same: give one.")
            found[name] = value
    for name in ("batch", "num_images_per_prompt"):
        if found.pop(name, 1) not in (1, None):
            raise InputError(f"{name}={shown(options[name])}: one image is generated at a time; ask once for each.")
    return found


def _whole(value: object, what: str, least: int, most: int) -> int | None:
    return None if value is None else whole_number(value, what, least, most)
