"""What libraries and users do to a pipeline: ``CHANGES`` by name."""

from __future__ import annotations

import pytest
import torch

from tests.zoo import ZOO

ones = torch.ones


def add_lora(pipe, name="default"):
    peft = pytest.importorskip("peft")
    config = peft.LoraConfig(r=4, target_modules=["to_q", "to_v"], init_lora_weights="gaussian")
    pipe.unet.add_adapter(config, adapter_name=name)


def fused_lora(pipe):
    add_lora(pipe)
    pipe.unet.fuse_lora()


def multiply(module, args, output):
    return output + torch.einsum("bchw,cd->bdhw", output, ones(output.shape[1], output.shape[1])) * 0


def user_hook(pipe):
    pipe.unet.conv_in.register_forward_hook(multiply)


def skip_middle(pipe):
    pipe.unet.mid_block.forward = lambda sample, *args, **kwargs: sample


def deep_cache(pipe):
    """Every second call returns what the one before it did."""
    forward, state = pipe.unet.forward, {"calls": 0}

    def cached_forward(*args, **kwargs):
        state["calls"] += 1
        if state["calls"] % 2:
            state["output"] = forward(*args, **kwargs)
        return state["output"]

    pipe.unet.forward = cached_forward


def merge_tokens(pipe):
    from diffusers.models.attention import BasicTransformerBlock

    class Merged(BasicTransformerBlock):
        def forward(self, hidden_states, *args, **kwargs):
            half = super().forward(hidden_states[:, ::2], *args, **kwargs)
            return half.repeat_interleave(2, 1)[:, : hidden_states.shape[1]]

    for module in pipe.unet.modules():
        if type(module) is BasicTransformerBlock:
            module.__class__ = Merged


class PlainProcessor:
    def __call__(self, attn, hidden_states, encoder_hidden_states=None, **kwargs):
        context = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        q, k, v = attn.to_q(hidden_states), attn.to_k(context), attn.to_v(context)
        return attn.to_out[0]((q @ k.transpose(1, 2)).softmax(-1) @ v)


def tile(pipe):
    pipe.vae.enable_tiling()
    pipe.vae.tile_sample_min_size, pipe.vae.tile_latent_min_size = 16, 8


def align_devices(pipe):
    hooks = pytest.importorskip("accelerate.hooks")
    for component_ in (pipe.unet, pipe.vae, pipe.text_encoder):
        hooks.add_hook_to_module(component_, hooks.AlignDevicesHook(execution_device="cpu", io_same_device=True))


def offload_models(pipe):
    accelerate = pytest.importorskip("accelerate")
    hook = None
    for component_ in (pipe.text_encoder, pipe.unet, pipe.vae):
        _, hook = accelerate.cpu_offload_with_hook(component_, "cpu", hook)


def offload_layers(pipe):
    accelerate = pytest.importorskip("accelerate")
    for component_ in (pipe.text_encoder, pipe.unet, pipe.vae):
        accelerate.cpu_offload(component_, "cpu", offload_buffers=True)


def offload_groups(pipe):
    pipe.unet.enable_group_offload(torch.device("cpu"), torch.device("cpu"), offload_type="leaf_level")


def cast_layers(pipe):
    pipe.unet.enable_layerwise_casting(torch.float8_e4m3fn, torch.float32)


CHANGES = {
    "adapter": add_lora,
    "fused adapter": fused_lora,
    "hook": user_hook,
    "replaced forward": skip_middle,
    "step cache of one's own": deep_cache,
    "other class": merge_tokens,
    "processor": lambda pipe: pipe.unet.set_attn_processor(PlainProcessor()),
    "fused projections": lambda pipe: pipe.fuse_qkv_projections(),
    "free lunch": lambda pipe: pipe.enable_freeu(0.9, 0.2, 1.2, 1.4),
    "attention slicing": lambda pipe: pipe.enable_attention_slicing(1),
    "tiles": tile,
    "device hooks": align_devices,
    "model offload": offload_models,
    "layer offload": offload_layers,
    "group offload": offload_groups,
    "layer casting": cast_layers,
    "training mode": lambda pipe: pipe.unet.train(),
    "another component": lambda pipe: pipe.register_modules(unet=ZOO["StableDiffusionPipeline"].build().unet),
}


def stable_diffusion():
    case = ZOO["StableDiffusionPipeline"]
    pipe = case.build()
    return pipe, case.arguments(pipe)
