"""Files of weights as they circulate: the names and shapes that the models' authors use, made from diffusers' models.

A test writes sparse files with them: a true header and a hole in place of the data.
"""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Callable, Mapping
from math import prod
from pathlib import Path
from typing import Any

from torch import nn

Shapes = dict[str, tuple[int, ...]]
_BYTES = {"F32": 4, "F16": 2, "BF16": 2, "F8_E4M3": 1, "U8": 1}


def shapes_of(model: nn.Module) -> Shapes:
    """Names and shapes of a model's tensors."""
    return {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}


def write_sparse(path: Path, shapes: Mapping[str, tuple[int, ...]], dtype: str = "F16", **metadata: str) -> Path:
    """A safetensors file of true length whose data is a hole: gigabytes that take a few blocks on the disk."""
    header: dict[str, object] = {"__metadata__": metadata} if metadata else {}
    end = 0
    for name, shape in shapes.items():
        size = prod(shape) * _BYTES[dtype]
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [end, end + size]}
        end += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(8 + len(text) + end)
    return path


def prefixed(shapes: Mapping[str, tuple[int, ...]], prefix: str) -> Shapes:
    """The same tensors with a prefix."""
    return {prefix + name: shape for name, shape in shapes.items()}


def _rename(shapes: Shapes, rules: list[tuple[str, str | Callable[[re.Match[str]], str]]]) -> Shapes:
    renamed: Shapes = {}
    for name, shape in shapes.items():
        new = name
        for pattern, replacement in rules:
            new = re.sub(pattern, replacement, new)
        renamed[new] = shape
    return renamed


def _fused(shapes: Shapes, parts: list[str], whole: str) -> Shapes:
    """One tensor in place of several that lie one below the other; ``parts`` and ``whole`` are regular expressions."""
    found: Shapes = {}
    for name, shape in shapes.items():
        index = next((i for i, part in enumerate(parts) if re.search(part, name)), None)
        if index is None:
            found[name] = shape
            continue
        joined = re.sub(parts[index], whole, name)
        rows = found[joined][0] if joined in found else 0
        found[joined] = (rows + shape[0], *shape[1:])
    return found


# Stable Diffusion ----------------------------------------------------------------------------------------------------

_RESNET: list[tuple[str, str]] = [
    (r"\.norm1\.", ".in_layers.0."),
    (r"\.conv1\.", ".in_layers.2."),
    (r"\.time_emb_proj\.", ".emb_layers.1."),
    (r"\.norm2\.", ".out_layers.0."),
    (r"\.conv2\.", ".out_layers.3."),
    (r"\.conv_shortcut\.", ".skip_connection."),
]


def ldm_unet(unet: nn.Module) -> Shapes:
    """The UNet of SD 1, SD 2 and SDXL in the layout of latent-diffusion and ComfyUI."""
    config: Any = unet.config
    layers: int = config.layers_per_block
    attends = {int(m[1]) for n in shapes_of(unet) if (m := re.match(r"up_blocks\.(\d+)\.attentions\.", n))}
    result: Shapes = {}
    for name, shape in shapes_of(unet).items():
        new, is_resnet = name, ".resnets." in name
        if m := re.match(r"down_blocks\.(\d+)\.(resnets|attentions|downsamplers)\.(\d+)\.(.*)", name):
            block, kind, j, rest = int(m[1]), m[2], int(m[3]), m[4]
            number = 1 + block * (layers + 1) + (layers if kind == "downsamplers" else j)
            rest = rest.replace("conv.", "op.") if kind == "downsamplers" else rest
            new = f"input_blocks.{number}.{1 if kind == 'attentions' else 0}.{rest}"
        elif m := re.match(r"up_blocks\.(\d+)\.(resnets|attentions|upsamplers)\.(\d+)\.(.*)", name):
            block, kind, j, rest = int(m[1]), m[2], int(m[3]), m[4]
            number = block * (layers + 1) + (layers if kind == "upsamplers" else j)
            place = {"resnets": 0, "attentions": 1, "upsamplers": 2 if block in attends else 1}[kind]
            new = f"output_blocks.{number}.{place}.{rest}"
        elif m := re.match(r"mid_block\.(resnets|attentions)\.(\d+)\.(.*)", name):
            new = f"middle_block.{1 if m[1] == 'attentions' else 2 * int(m[2])}.{m[3]}"
        if is_resnet:
            for pattern, replacement in _RESNET:
                new = re.sub(pattern, replacement, new)
        result[new] = shape
    result = _rename(
        result,
        [
            (r"^time_embedding\.linear_1", "time_embed.0"),
            (r"^time_embedding\.linear_2", "time_embed.2"),
            (r"^add_embedding\.linear_1", "label_emb.0.0"),
            (r"^add_embedding\.linear_2", "label_emb.0.2"),
            (r"^conv_in", "input_blocks.0.0"),
            (r"^conv_norm_out", "out.0"),
            (r"^conv_out", "out.2"),
        ],
    )
    return prefixed(result, "model.diffusion_model.")


def ldm_vae(vae: nn.Module, prefix: str = "first_stage_model.") -> Shapes:
    """The autoencoder of Stable Diffusion and FLUX in the layout of latent-diffusion."""
    config: Any = vae.config
    last = len(config.block_out_channels) - 1
    result: Shapes = {}
    for name, shape in shapes_of(vae).items():
        new = re.sub(r"down_blocks\.(\d+)\.resnets\.(\d+)", r"down.\1.block.\2", name)
        new = re.sub(r"down_blocks\.(\d+)\.downsamplers\.0", r"down.\1.downsample", new)
        new = re.sub(r"up_blocks\.(\d+)\.resnets\.(\d+)", lambda m: f"up.{last - int(m[1])}.block.{m[2]}", new)
        new = re.sub(r"up_blocks\.(\d+)\.upsamplers\.0", lambda m: f"up.{last - int(m[1])}.upsample", new)
        new = re.sub(r"mid_block\.resnets\.(\d+)", lambda m: f"mid.block_{int(m[1]) + 1}", new)
        if "mid_block.attentions.0." in new:
            new = new.replace("mid_block.attentions.0.", "mid.attn_1.").replace("group_norm", "norm")
            new = re.sub(r"to_([qkv])\.", r"\1.", new).replace("to_out.0", "proj_out")
            shape = (*shape, 1, 1) if len(shape) == 2 else shape
        new = new.replace("conv_shortcut", "nin_shortcut").replace("conv_norm_out", "norm_out")
        result[new] = shape
    return prefixed(result, prefix)


def ldm_clip(text_encoder: nn.Module) -> Shapes:
    """SD 1's text encoder inside a checkpoint."""
    names = shapes_of(text_encoder)
    wrapped = {n if n.startswith("text_model.") else f"text_model.{n}": s for n, s in names.items()}
    return prefixed(wrapped, "cond_stage_model.transformer.")


# FLUX ----------------------------------------------------------------------------------------------------------------


def flux(transformer: nn.Module) -> Shapes:
    """The transformer of FLUX.1 as its authors lay it out."""
    shapes = shapes_of(transformer)
    for kind in ("weight", "bias"):
        shapes = _fused(shapes, [rf"\.attn\.add_{c}_proj\.{kind}" for c in "qkv"], f".txt_attn.qkv.{kind}")
        double = [rf"^(transformer_blocks\.\d+)\.attn\.to_{c}\.{kind}" for c in "qkv"]
        shapes = _fused(shapes, double, rf"\1.img_attn.qkv.{kind}")
        single = [rf"^(single_transformer_blocks\.\d+)\.attn\.to_{c}\.{kind}" for c in "qkv"]
        single.append(rf"^(single_transformer_blocks\.\d+)\.proj_mlp\.{kind}")
        shapes = _fused(shapes, single, rf"\1.linear1.{kind}")
    return _rename(
        shapes,
        [
            (r"^single_transformer_blocks\.(\d+)\.norm\.linear", r"single_blocks.\1.modulation.lin"),
            (r"^single_transformer_blocks\.(\d+)\.attn\.norm_q\.weight", r"single_blocks.\1.norm.query_norm.scale"),
            (r"^single_transformer_blocks\.(\d+)\.attn\.norm_k\.weight", r"single_blocks.\1.norm.key_norm.scale"),
            (r"^single_transformer_blocks\.(\d+)\.proj_out", r"single_blocks.\1.linear2"),
            (r"^single_transformer_blocks\.", "single_blocks."),
            (r"^transformer_blocks\.", "double_blocks."),
            (r"\.norm1\.linear", ".img_mod.lin"),
            (r"\.norm1_context\.linear", ".txt_mod.lin"),
            (r"\.attn\.norm_q\.weight", ".img_attn.norm.query_norm.scale"),
            (r"\.attn\.norm_k\.weight", ".img_attn.norm.key_norm.scale"),
            (r"\.attn\.norm_added_q\.weight", ".txt_attn.norm.query_norm.scale"),
            (r"\.attn\.norm_added_k\.weight", ".txt_attn.norm.key_norm.scale"),
            (r"\.ff\.net\.0\.proj", ".img_mlp.0"),
            (r"\.ff\.net\.2", ".img_mlp.2"),
            (r"\.ff_context\.net\.0\.proj", ".txt_mlp.0"),
            (r"\.ff_context\.net\.2", ".txt_mlp.2"),
            (r"\.attn\.to_out\.0", ".img_attn.proj"),
            (r"\.attn\.to_add_out", ".txt_attn.proj"),
            (r"^time_text_embed\.timestep_embedder\.linear_1", "time_in.in_layer"),
            (r"^time_text_embed\.timestep_embedder\.linear_2", "time_in.out_layer"),
            (r"^time_text_embed\.text_embedder\.linear_1", "vector_in.in_layer"),
            (r"^time_text_embed\.text_embedder\.linear_2", "vector_in.out_layer"),
            (r"^time_text_embed\.guidance_embedder\.linear_1", "guidance_in.in_layer"),
            (r"^time_text_embed\.guidance_embedder\.linear_2", "guidance_in.out_layer"),
            (r"^context_embedder", "txt_in"),
            (r"^x_embedder", "img_in"),
            (r"^norm_out\.linear", "final_layer.adaLN_modulation.1"),
            (r"^proj_out", "final_layer.linear"),
        ],
    )
