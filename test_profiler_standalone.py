"""What a pipeline costs, measured by hand: thop on each component, and a wrapper that adds the attention.

    python test_profiler_standalone.py
    python test_profiler_standalone.py --model path/to/a/pipeline --size 512 --steps 30

It needs torch, thop, diffusers and transformers, and nothing of diffmeter: it is the independent calculation that
``summarize_macs`` can be held against. The formula is ``UNet x steps + text encoder + VAE decoder``. The embedded
model (``src/diffmeter/embedded/shapes``) is measured unless another folder or model id is given.

The formula holds for pipelines like Stable Diffusion with a scheduler that calls the UNet once a step. It knows
nothing of a second text encoder, a ControlNet, or a transformer, which is what diffmeter is for.
"""

from __future__ import annotations

import argparse
import sys
import types
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

try:
    import distutils.version  # noqa: F401
except ModuleNotFoundError:  # thop 0.1.1 compares versions with it, and Python 3.12 took it out
    from packaging.version import Version

    stand_in = types.ModuleType("distutils.version")
    stand_in.LooseVersion = Version
    sys.modules["distutils"] = types.ModuleType("distutils")
    sys.modules["distutils.version"] = stand_in

try:
    from thop import profile
except ModuleNotFoundError:
    sys.exit("thop is not installed. Install with: pip install thop")

EMBEDDED = Path(__file__).resolve().parent / "src" / "diffmeter" / "embedded" / "shapes"


# attention, which thop does not see ----------------------------------------------------------------------------------

_sdpa_macs_counter = {"macs": 0}
_original_sdpa = F.scaled_dot_product_attention


def sdpa_flops(q, k, v):
    """MACs of one attention: query-key product, softmax, attention-value product."""
    batch, heads, queries, depth = q.shape
    keys, value_depth = v.shape[-2:]
    mac_qk = batch * heads * queries * keys * depth
    mac_softmax = batch * heads * queries * keys
    mac_av = batch * heads * queries * keys * value_depth
    return mac_qk + mac_softmax + mac_av


def _wrap_sdpa_for_macs():
    def counting(query, key, value, *args, **kwargs):
        _sdpa_macs_counter["macs"] += sdpa_flops(query, key, value)
        return _original_sdpa(query, key, value, *args, **kwargs)

    F.scaled_dot_product_attention = counting


def _unwrap_sdpa():
    F.scaled_dot_product_attention = _original_sdpa


# one component -------------------------------------------------------------------------------------------------------


class Wrapped(nn.Module):
    """thop calls a module with positional tensors; this one turns them into the call that a pipeline makes."""

    def __init__(self, module, call):
        super().__init__()
        self.module = module
        self.call = call

    def forward(self, *inputs):
        return self.call(self.module, *inputs)


def measure(module, call, *inputs):
    """MACs of one call: what thop counts, and the attention."""
    _sdpa_macs_counter["macs"] = 0
    _wrap_sdpa_for_macs()
    try:
        with torch.no_grad():
            macs, _ = profile(Wrapped(module, call), inputs=inputs, verbose=False)
    finally:
        _unwrap_sdpa()
    return int(macs) + _sdpa_macs_counter["macs"]


def measure_unet_macs(pipe, height, width, guidance):
    """One step of the UNet; with guidance it gets a batch of two."""
    scale = 2 ** (len(pipe.vae.config.block_out_channels) - 1)
    batch = 2 if guidance else 1
    latents = torch.randn(batch, pipe.unet.config.in_channels, height // scale, width // scale)
    tokens = pipe.tokenizer.model_max_length
    prompt = torch.randn(batch, tokens, pipe.unet.config.cross_attention_dim)
    return measure(
        pipe.unet,
        lambda unet, x, t, p: unet(x, t, encoder_hidden_states=p).sample,
        latents,
        torch.tensor(1),
        prompt,
    )


def measure_text_encoder_macs(pipe, prompt, guidance):
    """The prompt, and with guidance the empty prompt in a call of its own."""
    ids = pipe.tokenizer(
        prompt, padding="max_length", max_length=pipe.tokenizer.model_max_length, truncation=True, return_tensors="pt"
    ).input_ids
    once = measure(pipe.text_encoder, lambda encoder, x: encoder(x)[0], ids)
    return 2 * once if guidance else once


def measure_vae_decode_macs(pipe, height, width):
    """Latents to an image."""
    scale = 2 ** (len(pipe.vae.config.block_out_channels) - 1)
    latents = torch.randn(1, pipe.vae.config.latent_channels, height // scale, width // scale)
    return measure(pipe.vae, lambda vae, z: vae.decode(z).sample, latents)


def summarize_macs(pipe, height, width, steps, prompt, guidance_scale):
    """MACs by component and in total."""
    guidance = guidance_scale > 1
    unet = measure_unet_macs(pipe, height, width, guidance)
    text = measure_text_encoder_macs(pipe, prompt, guidance)
    decoder = measure_vae_decode_macs(pipe, height, width)
    return {
        "unet_macs_per_step": unet,
        "text_encoder_macs": text,
        "vae_decoder_macs": decoder,
        "total_macs": unet * steps + text + decoder,
        "steps": steps,
    }


def print_summary(summary):
    """The component table."""
    unet = summary["unet_macs_per_step"] * summary["steps"]
    total = summary["total_macs"]
    rule = "-" * 70
    print("Component-wise MACs Breakdown:")
    print(rule)
    print(f"  {'UNet (per step):':<24}{summary['unet_macs_per_step'] / 1e9:>9.3f} GMACs")
    print(f"  {'Text Encoder (once):':<24}{summary['text_encoder_macs'] / 1e9:>9.3f} GMACs")
    print(f"  {'VAE Decoder (once):':<24}{summary['vae_decoder_macs'] / 1e9:>9.3f} GMACs")
    print(rule)
    label = f"Total ({summary['steps']} steps):"
    print(f"  {label:<24}{total / 1e9:>10.3f} GMACs")
    print()
    print("Percentage Breakdown:")
    print(rule)
    print(f"  {'UNet:':<15}{100 * unet / total:6.2f}%")
    print(f"  {'Text Encoder:':<15}{100 * summary['text_encoder_macs'] / total:6.2f}%")
    print(f"  {'VAE Decoder:':<15}{100 * summary['vae_decoder_macs'] / total:6.2f}%")
    print(rule)


def main():
    from diffusers import DiffusionPipeline

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default=str(EMBEDDED), help="a folder or model id of a Stable Diffusion pipeline")
    parser.add_argument("--size", type=int, default=64, help="pixels on each side")
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--prompt", default="a red circle left of a blue square")
    parser.add_argument("--guidance-scale", type=float, default=7.5)
    options = parser.parse_args()
    pipe = DiffusionPipeline.from_pretrained(options.model)
    print_summary(
        summarize_macs(pipe, options.size, options.size, options.steps, options.prompt, options.guidance_scale)
    )


if __name__ == "__main__":
    main()
