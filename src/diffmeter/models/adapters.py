"""What people put onto a model before they ask for its cost: LoRAs, ControlNets, adapters, another VAE or scheduler.

diffusers itself does the work, on a pipeline whose models lie on the meta device; of each file only the header is
read. So the result has the very layers that the user's pipeline has.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from diffmeter import compat
from diffmeter.errors import InputError, MissingPackageError, ModelLoadError, one_line, real_number, shown

from . import blueprint as blueprints
from .addresses import Address, parse_address
from .components import read_component
from .weight_files import read_header

if TYPE_CHECKING:
    import torch
    from torch import nn

logger = logging.getLogger(__name__)

#: the vision encoders that IP-Adapters read, by the length of their embedding: h94/IP-Adapter, models/image_encoder
#: (OpenCLIP ViT-H/14) and sdxl_models/image_encoder (OpenCLIP ViT-bigG/14)
_IMAGE_ENCODERS: dict[int, dict[str, Any]] = {
    1024: {"hidden_size": 1280, "intermediate_size": 5120, "num_hidden_layers": 32, "num_attention_heads": 16},
    1280: {"hidden_size": 1664, "intermediate_size": 8192, "num_hidden_layers": 48, "num_attention_heads": 16},
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Changes:
    """What is put onto a model.

    Attributes:
        loras: files or hub addresses, each with its scale.
        fuse_loras: whether they are added into the weights, after which they cost nothing.
        controlnets, t2i_adapter: folders or hub addresses of one component each.
        ip_adapters: files or hub addresses.
        vae: folder or hub address of an autoencoder.
        scheduler: name of a scheduler class of diffusers.
    """

    loras: tuple[tuple[str, float], ...] = ()
    fuse_loras: bool = False
    controlnets: tuple[str, ...] = ()
    t2i_adapter: str | None = None
    ip_adapters: tuple[str, ...] = ()
    vae: str | None = None
    scheduler: str | None = None

    def apply(self, pipe: Any) -> Any:
        """The pipeline with the changes: the same one, or one of another class around its components.

        Raises:
            InputError: the pipeline takes no such part.
            ModelNotFoundError, ModelLoadError: a part cannot be had, or does not fit the model.
            MissingPackageError: a LoRA, and peft is not installed.
        """
        if self.vae is not None:
            _replace(pipe, "vae", _build(self.vae, pipe))
        if self.scheduler is not None:
            pipe.scheduler = scheduler_named(self.scheduler, pipe)
        for number, (lora, scale) in enumerate(self.loras):
            _add_lora(pipe, lora, f"lora_{number}", scale)
        if self.loras:
            names = [f"lora_{number}" for number in range(len(self.loras))]
            pipe.set_adapters(names, adapter_weights=[scale for _, scale in self.loras])
            if self.fuse_loras:
                pipe.fuse_lora()
                pipe.unload_lora_weights()
        if self.ip_adapters:
            _add_ip_adapters(pipe, self.ip_adapters)
        if self.controlnets:
            nets = [_build(net, pipe) for net in self.controlnets]
            pipe = _with_part(pipe, "controlnet", nets[0] if len(nets) == 1 else nets)
        if self.t2i_adapter is not None:
            pipe = _with_part(pipe, "adapter", _build(self.t2i_adapter, pipe))
        return pipe


def active_adapters(component: str, module: nn.Module) -> list[dict[str, Any]]:
    """The adapters that are at work in a component, as plain JSON values.

    Each has ``component``, ``name``, ``kind`` ("LoRA" and its like by peft, or "IP-Adapter"), ``rank`` (of the first
    layer; None where there is none) and ``params``, the parameters that it adds.
    """
    found = []
    configs: dict[str, Any] = getattr(module, "peft_config", None) or {}
    for name in _active_names(module) if configs else ():
        config = configs.get(name)
        added = sum(p.numel() for n, p in module.named_parameters() if f".{name}." in n and ".lora_" in n)
        kind = getattr(getattr(config, "peft_type", None), "value", "LoRA")
        rank = getattr(config, "r", None)
        found.append({"component": component, "name": name, "kind": kind, "rank": rank, "params": added})
    projection = getattr(module, "encoder_hid_proj", None)
    if projection is not None and type(projection).__name__ == "MultiIPAdapterImageProjection":
        own = [p for n, p in module.named_parameters() if n.startswith("encoder_hid_proj.") or "_ip." in n]
        params = sum(p.numel() for p in own)
        found.append(
            {"component": component, "name": "ip_adapter", "kind": "IP-Adapter", "rank": None, "params": params}
        )
    return found


def _active_names(module: nn.Module) -> list[str]:
    """The names of the adapters that peft's layers use now."""
    for part in module.modules():
        active = getattr(part, "active_adapters", None)
        if isinstance(active, list) and hasattr(part, "merged_adapters"):
            if getattr(part, "disable_adapters", False):
                return []
            merged: Any = part.merged_adapters
            return [name for name in active if name not in merged]
    return []


def parse_lora(text: str) -> tuple[str, float]:
    """A LoRA as it is written on the command line, ``FILE_OR_ID`` or ``FILE_OR_ID:SCALE``.

    Raises:
        InputError: the scale is no finite number.
    """
    head, colon, tail = text.rpartition(":")
    try:
        scale = float(tail)
    except ValueError:
        return text, 1.0
    if not colon or not head:
        return text, 1.0
    return head, real_number(scale, f"the scale of the LoRA {shown(head)}", least=-100, most=100)


def scheduler_named(name: str, pipe: Any) -> Any:
    """A scheduler of the class ``name`` with the settings of the pipeline's own.

    Raises:
        InputError: diffusers has no such scheduler; the nearest names are in the message.
    """
    import difflib

    import diffusers

    names = [n for n in dir(diffusers) if n.endswith("Scheduler") and hasattr(getattr(diffusers, n), "from_config")]
    lower = {n.lower(): n for n in names} | {n.lower().removesuffix("scheduler"): n for n in names}
    known = lower.get(name.lower())
    if known is None:
        near = difflib.get_close_matches(name.lower(), lower, n=3, cutoff=0.4)
        raise InputError(
            f"{name!r} is no scheduler of diffusers; the nearest are {', '.join(sorted({lower[n] for n in near}))}."
        )
    return getattr(diffusers, known).from_config(pipe.scheduler.config)


def _replace(pipe: Any, name: str, part: Any) -> None:
    if name not in pipe.components:
        raise InputError(f"{type(pipe).__name__} has no {name}.")
    pipe.register_modules(**{name: part})


def _build(address: str, pipe: Any) -> Any:
    """One component without its weights, in the dtype of the pipeline."""
    part = read_component(parse_address(address))
    return blueprints.build_component(part, address, getattr(pipe, "dtype", None))


def _with_part(pipe: Any, name: str, part: Any) -> Any:
    """A pipeline around the same components that takes one more, where diffusers has one.

    Raises:
        InputError: diffusers has no such pipeline.
    """
    import diffusers

    own = type(pipe).__name__
    word = {"controlnet": "ControlNet", "adapter": "Adapter"}[name]
    stem = own.removesuffix("Pipeline")
    for family in (stem, stem.removesuffix("Img2Img").removesuffix("Inpaint")):
        ending = own.removesuffix("Pipeline").removeprefix(family)
        cls = getattr(diffusers, f"{family}{word}{ending}Pipeline", None)
        if cls is not None and name in inspect.signature(cls.__init__).parameters:
            accepted = inspect.signature(cls.__init__).parameters
            parts = {key: value for key, value in pipe.components.items() if key in accepted}
            settings = {"requires_safety_checker": False} if "requires_safety_checker" in accepted else {}
            found = cls(**parts, **settings, **{name: part})
            found.register_to_config(_name_or_path=compat.name_or_path(pipe.config))
            return found
    raise InputError(f"diffusers has no pipeline that takes a {word} beside the parts of {own}.")


# files of adapters ---------------------------------------------------------------------------------------------------


def _stand_in_tensors(address: Address) -> dict[str, torch.Tensor]:
    """A file's tensors in their shapes, all zeros that share one element: no memory, no download."""
    import torch

    header = read_header(address)
    return {name: torch.zeros(()).expand(tensor.shape) for name, tensor in header.tensors.items()}


def _adapter_file(text: str) -> Address:
    """The file that an adapter's address names: of a repository, its usual one."""
    address = parse_address(text)
    if address.is_file:
        return address
    names = ("pytorch_lora_weights.safetensors", "adapter_model.safetensors")
    if address.path is not None:
        found = next((address.path / name for name in names if (address.path / name).is_file()), None)
        if found is None:
            files = sorted(address.path.glob("*.safetensors"))
            if len(files) != 1:
                raise ModelLoadError(f"{shown(text)} has {len(files)} .safetensors files: name the one that is meant.")
            found = files[0]
        return Address(path=found)
    inside = f"{address.inside}/{names[0]}".lstrip("/")
    return Address(repository=address.repository, revision=address.revision, inside=inside)


def _add_lora(pipe: Any, text: str, name: str, scale: float) -> None:
    if not hasattr(pipe, "load_lora_weights"):
        raise InputError(f"{type(pipe).__name__} takes no LoRA.")
    try:
        import peft  # noqa: F401  # diffusers needs it for LoRAs, and says so less plainly
    except ImportError as error:
        raise MissingPackageError("peft is not installed. Install with: pip install peft") from error
    tensors = _stand_in_tensors(_adapter_file(text))
    try:
        pipe.load_lora_weights(tensors, adapter_name=name)
    except Exception as error:
        raise ModelLoadError(
            f"the LoRA {shown(text)} does not fit {type(pipe).__name__}: {one_line(error, limit=200)}"
        ) from error
    if not any(name in adapters for adapters in pipe.get_list_adapters().values()):
        raise ModelLoadError(f"the LoRA {shown(text)} has no layer for {type(pipe).__name__}.")
    pipe.to("meta")


def _add_ip_adapters(pipe: Any, texts: Sequence[str]) -> None:
    if not hasattr(pipe, "load_ip_adapter"):
        raise InputError(f"{type(pipe).__name__} takes no IP-Adapter.")
    states = []
    for text in texts:
        state: dict[str, dict[str, torch.Tensor]] = {"image_proj": {}, "ip_adapter": {}}
        for key, tensor in _stand_in_tensors(parse_address(text)).items():
            part, _, rest = key.partition(".")
            if part in state:
                state[part][rest] = tensor
        if not all(state.values()):
            raise ModelLoadError(f"{shown(text)} is no IP-Adapter: it has no image_proj and ip_adapter tensors.")
        states.append(state)
    if pipe.components.get("image_encoder") is None:
        pipe.register_modules(image_encoder=_image_encoder(states[0]["image_proj"], texts[0]))
    try:
        pipe.load_ip_adapter(states, subfolder="", weight_name="", image_encoder_folder=None)
    except Exception as error:
        raise ModelLoadError(
            f"the IP-Adapter {shown(texts[0])} does not fit {type(pipe).__name__}: {one_line(error, limit=200)}"
        ) from error
    pipe.to("meta")


def _image_encoder(projection: dict[str, torch.Tensor], text: str) -> Any:
    """The vision encoder whose embedding an IP-Adapter's projection reads."""
    import torch
    from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

    first = projection.get("proj.weight", projection.get("proj.0.weight"))
    length = None if first is None else int(first.shape[-1])
    if "proj_in.weight" in projection:  # the "plus" adapters read the hidden states of the next to last layer
        hidden = int(projection["proj_in.weight"].shape[-1])
        length = next((n for n, known in _IMAGE_ENCODERS.items() if known["hidden_size"] == hidden), None)
    if length not in _IMAGE_ENCODERS:
        raise ModelLoadError(f"the IP-Adapter {shown(text)} reads an image encoder that is not known here.")
    config = CLIPVisionConfig(
        **_IMAGE_ENCODERS[length], patch_size=14, image_size=224, projection_dim=length, hidden_act="gelu"
    )
    with torch.device("meta"):
        return CLIPVisionModelWithProjection(config).eval()
