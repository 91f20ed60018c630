"""What stands in for inputs that a dry run is not given: a prompt, and images and videos of a stated size."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from diffmeter.errors import InputError, whole_number
from diffmeter.models.catalog import Input

from .call import PipelineCall
from .sizes import default_size

PROMPT = "a photo"
_PROMPTS = ("prompt", "prompt_embeds", "caption", "text_embeddings")
_PLAIN = (bool, int, float, str, type(None))
#: words in the name of an argument that say that it is no image or video, but about one
_ABOUT = (
    "embed",
    "latent",
    "attention",
    "scale",
    "feature",
    "size",
    "noise",
    "ip_adapter",
    "negative",
    "crop",
    "token",
)
_DEFAULT_SIDE = 512
_DEFAULT_FRAMES = 9  # 8 k + 1, which the VAEs of video models ask for


@dataclass(frozen=True, slots=True)
class StandIns:
    """Stand-ins for one call.

    Attributes:
        size: (width, height) of images and video frames.
        frames: frames of a video.
        notes: what was stood in for, in words, by the name of the argument.
    """

    pipe: Any
    call: PipelineCall
    size: tuple[int, int]
    frames: int = _DEFAULT_FRAMES
    notes: dict[str, str] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        pipe: Any,
        call: PipelineCall,
        arguments: Mapping[str, Any],
        image_size: int | tuple[int, int] | None,
        frames: int | None = None,
    ) -> StandIns:
        """Stand-ins of ``image_size`` (one side, or width and height), otherwise of the size of what is made.

        Videos have ``frames`` frames, otherwise as many as what is made.
        """
        own = (call.entry.defaults.height, call.entry.defaults.width) if call.entry is not None else (None, None)
        own = own if all(own) else default_size(pipe) or (_DEFAULT_SIDE, _DEFAULT_SIDE)
        size = (arguments.get("width") or own[1], arguments.get("height") or own[0])
        made = next((arguments[n] for n in ("num_frames", "video_length") if arguments.get(n)), None)
        frames = frames or made or call.default("num_frames") or _DEFAULT_FRAMES
        chosen = (int(size[0] or 0), int(size[1] or 0)) if image_size is None else checked_size(image_size)
        return cls(pipe, call, chosen, int(frames))

    def with_published(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """The arguments, with those that a model of the catalog has been published with where none are given.

        Size, steps, guidance, frames and text length, and stand-ins for the images or embeddings that the model
        cannot do without.
        """
        if self.call.entry is None:
            return dict(arguments)
        own = self.call.entry.defaults
        published: dict[str, Any] = {
            "height": own.height,
            "width": own.width,
            "num_inference_steps": own.num_inference_steps,
            own.guidance_argument: own.guidance_scale,
            "num_frames": own.num_frames,
            "max_sequence_length": own.max_sequence_length,
        }
        found = {name: value for name, value in published.items() if value is not None and self.call.takes(name)}
        found |= arguments
        for name, needed in own.inputs.items():
            if self.call.takes(name) and name not in arguments:
                found[name] = self._published_input(name, needed)
        return found

    def _published_input(self, name: str, needed: Input) -> Any:
        if needed.kind == "image":
            self.notes[name] = f"image of {self.size[0]} x {self.size[1]}"
            return self._image(name)
        if needed.shape is None:
            return needed.value
        import torch

        shape = [1 if length == -1 else length for length in needed.shape]
        self.notes[name] = f"zeros of {' x '.join(map(str, shape))}"
        return torch.zeros(shape)

    def with_required(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """The arguments with a stand-in for each that the call must be given and is not.

        Raises:
            InputError: nothing stands in for one.
        """
        found = self.with_prompt(arguments)
        for name in self.call.required:
            if name not in found:
                self._add(found, name)
            if name not in found:
                raise InputError(f"{self.call.class_name} needs {name!r}: pass it as an argument.")
        return found

    def with_prompt(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """The arguments, with a prompt where none is given, nor an image that makes one unnecessary."""
        found = dict(arguments)
        optional = self.call.default("prompt") is None and "prompt" not in self.call.required
        if not self.call.takes("prompt") or any(found.get(name) is not None for name in _PROMPTS):
            return found
        inputs = [name for name, value in found.items() if not isinstance(value, _PLAIN) and name not in self.notes]
        if not (optional and any(kind in name for name in inputs for kind in ("image", "video", "audio"))):
            found["prompt"] = PROMPT
            self.notes["prompt"] = repr(PROMPT)
        return found

    def fuller(self, arguments: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        """The arguments with one more image or video that the call takes and was not given, again and again."""
        found = dict(arguments)
        for name in self.call.parameters:
            if found.get(name) is None and _kind(name) is not None:
                found.pop(name, None)
                self._add(found, name)
                yield dict(found)

    def _add(self, found: dict[str, Any], name: str) -> None:
        """A stand-in for one argument, noted, if there is one for its name."""
        kind = _kind(name)
        width, height = self.size
        if kind == "video":
            found[name] = [self._image(name) for _ in range(self.frames)]
            self.notes[name] = f"{self.frames} frames of {width} x {height}"
        elif kind == "image":
            found[name] = self._one_for_each_net(name, self._image(name))
            self.notes[name] = f"image of {width} x {height}"
        elif name == "class_labels":
            found[name], self.notes[name] = [0], "[0]"
        elif "embed" in name and (length := self._embedding()) is not None:
            import torch

            found[name], self.notes[name] = torch.zeros(1, length), f"zeros of 1 x {length}"
        elif name == "hint":
            import torch

            found[name], self.notes[name] = torch.zeros(1, 3, height, width), f"image of {width} x {height}"

    def _image(self, name: str) -> Any:
        from PIL import Image

        if "mask" in name:
            return Image.new("L", self.size, 255)
        config = getattr(getattr(self.pipe, "vae", None), "config", None)
        channels = getattr(config, "in_channels", None) or getattr(config, "input_channels", None)
        return Image.new("RGBA" if channels == 4 and name == "image" else "RGB", self.size)

    def _one_for_each_net(self, name: str, image: Any) -> Any:
        """The image, or with several ControlNets one for each."""
        nets = getattr(getattr(self.pipe, "controlnet", None), "nets", None)
        controls = name == "control_image" or (name == "image" and not self.call.takes("control_image"))
        return [image] * len(nets) if nets is not None and controls else image

    def _embedding(self) -> int | None:
        """The length of an image's embedding that the denoiser reads."""
        config = getattr(getattr(self.pipe, "unet", None), "config", None)
        length = getattr(config, "encoder_hid_dim", None)
        return length if isinstance(length, int) else None


def takes_images(call: PipelineCall) -> bool:
    """Whether a call takes an image or a video."""
    return any(_kind(name) is not None for name in call.parameters)


def takes_videos(call: PipelineCall) -> bool:
    """Whether a call takes a video."""
    return any(_kind(name) == "video" for name in call.parameters)


def give_token_count(pipelines: Iterable[Any], count: int) -> None:
    """Put tokenizers that find so many tokens in every prompt in the place of those of some pipelines.

    Raises:
        InputError: they have none.
    """
    from transformers import PreTrainedTokenizerBase

    from diffmeter.models.tokenizers import make_standin_tokenizer

    found = False
    for pipeline in pipelines:
        for name, value in list(vars(pipeline).items()):
            if isinstance(value, PreTrainedTokenizerBase):
                encoder = getattr(pipeline, name.replace("tokenizer", "text_encoder"), None)
                settings = {**value.init_kwargs, "model_max_length": value.model_max_length}
                vars(pipeline)[name] = make_standin_tokenizer(
                    type(value).__name__,
                    settings,
                    encoder_config=getattr(encoder, "config", None),
                    token_count=count,
                )
                found = True
    if not found:
        raise InputError(f"tokens={count}: the pipeline has no tokenizer that could be told a number of tokens.")


def checked_size(size: int | tuple[int, int]) -> tuple[int, int]:
    """(width, height) from one side or both.

    Raises:
        InputError: it is neither.
    """
    sides = tuple(size) if isinstance(size, (list, tuple)) else (size, size)
    if len(sides) != 2:
        raise InputError(f"image_size must be one side or (width, height), not {size!r}.")
    return whole_number(sides[0], "the width of image_size"), whole_number(sides[1], "the height of image_size")


def _kind(name: str) -> str | None:
    """Whether an argument of this name holds an image or a video."""
    words = name.split("_")
    if any(word in name for word in _ABOUT):
        return None
    if words[-1] == "video" or name == "conditioning_frames":
        return "video"
    if words[-1] in ("image", "images") or name in ("mask", "depth_map"):
        return "image"
    return None
