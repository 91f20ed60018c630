"""Training cost against real training steps of small models on the CPU, counted by PyTorch's own counter."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from diffmeter.model_manager import build_pipeline_without_weights
from diffmeter.training.cost import LORA_TARGETS, ComponentCost, TrainingCost, add_lora, count_step, training_cost
from tests.zoo import ZOO

# Families with different denoisers: a UNet, a plain DiT, two joint transformers, one with pooled attention, a video.
PIPELINES = [
    "StableDiffusionPipeline", "PixArtAlphaPipeline", "StableDiffusion3Pipeline", "FluxPipeline",
    "HunyuanDiTPipeline", "WanPipeline",
]  # fmt: skip


@contextlib.contextmanager
def counting(attention: SDPBackend) -> Iterator[dict[str, int]]:
    """MACs by PyTorch's counter. Its registry lacks the CPU's fused attention, so that is unfused, or added here."""
    found: dict[str, int] = {}
    mapping = {
        # five products of B*H*N*M with the sizes D and Dv of query and value; two in the forward
        torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: lambda q, k, v, *a, **w: 2 * (
            q[0] * q[1] * q[2] * k[2] * (q[3] + v[3])
        ),
        torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: lambda g, q, k, v, *a, **w: 2 * (
            q[0] * q[1] * q[2] * k[2] * (3 * q[3] + 2 * v[3])
        ),
    }  # fmt: skip
    with sdpa_kernel(attention), FlopCounterMode(display=False, custom_mapping=mapping) as mode:
        yield found
    found["macs"] = mode.get_total_flops() // 2


def call_of_denoiser(pipe: Any, name: str, batch: int) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """What a real run of the tiny pipeline, without guidance, calls its denoiser with."""
    seen: list[Any] = []
    hook = pipe.components[name].register_forward_pre_hook(lambda m, a, k: seen.append((a, k)), with_kwargs=True)
    arguments = {k: v for k, v in ZOO[type(pipe).__name__].arguments(pipe).items() if "negative" not in k}
    with torch.no_grad():
        pipe(**{**arguments, "prompt": ["a photo"] * batch, "guidance_scale": 1.0})
    hook.remove()
    # tensors of the run were made without gradients in mind: fresh copies take part in a graph
    copied = torch.utils._pytree.tree_map(lambda t: t.clone() if isinstance(t, Tensor) else t, seen[0])
    assert isinstance(copied, tuple)
    return copied


def real_step(denoiser: Any, call: tuple[tuple[Any, ...], dict[str, Any]], attention: SDPBackend) -> tuple[int, int]:
    """MACs of the forward and of the backward of one real training step of the denoiser alone."""
    denoiser.train()
    args, kwargs = call
    with counting(attention) as forward:
        output = denoiser(*args, **kwargs)
    prediction = output[0] if isinstance(output, tuple) else output.sample
    with counting(attention) as backward:
        F.mse_loss(prediction, torch.zeros_like(prediction)).backward()
    return forward["macs"], backward["macs"]


def cost_and_real(name: str, method: str, checkpointing: bool, attention: SDPBackend) -> tuple[TrainingCost, Any]:
    pipe = ZOO[name].build()
    arguments = {k: v for k, v in ZOO[name].arguments(pipe).items() if k not in ("prompt", "num_inference_steps")}
    cost = training_cost(pipe, method=method, rank=4, batch_size=2, gradient_checkpointing=checkpointing, **arguments)  # type: ignore[arg-type]
    denoiser = cost.components[-1].name
    call = call_of_denoiser(pipe, denoiser, 2)
    module = pipe.components[denoiser].requires_grad_(True)
    if method == "lora":
        from peft import LoraConfig, inject_adapter_in_model

        module.requires_grad_(False)
        config = LoraConfig(r=4, lora_alpha=4, target_modules=list(LORA_TARGETS))
        if hasattr(module, "add_adapter"):  # not every denoiser of diffusers has it
            module.add_adapter(config)
        else:
            inject_adapter_in_model(config, module)
    if checkpointing:
        module.enable_gradient_checkpointing()
    trained = sum(p.numel() for p in module.parameters() if p.requires_grad)
    assert cost.trained_params == trained
    return cost, real_step(module, call, attention)


@pytest.mark.parametrize("name", PIPELINES)
@pytest.mark.parametrize("method", ["full", "lora"])
def test_products_equal_a_real_training_step(name: str, method: str) -> None:
    cost, (forward, backward) = cost_and_real(name, method, False, SDPBackend.MATH)
    denoiser = cost.components[-1]
    assert denoiser.role == "denoiser" and cost.complete and not cost.notes
    assert (denoiser.forward_macs, denoiser.backward_macs, denoiser.recomputed_macs) == (forward, backward, 0)


@pytest.mark.parametrize("name", ["StableDiffusionPipeline", "FluxPipeline"])
def test_checkpointing_equals_a_real_training_step(name: str) -> None:
    cost, (forward, backward) = cost_and_real(name, "full", True, SDPBackend.MATH)
    denoiser = cost.components[-1]
    assert denoiser.forward_macs == forward
    assert denoiser.backward_macs + denoiser.recomputed_macs == backward
    # blocks are computed again, what lies around them is not
    assert 0 < denoiser.recomputed_macs < forward


@pytest.mark.parametrize("name", ["StableDiffusionPipeline", "HunyuanDiTPipeline"])
def test_fused_attention_of_a_real_step_takes_the_extra_that_is_reported(name: str) -> None:
    cost, (forward, backward) = cost_and_real(name, "full", False, SDPBackend.FLASH_ATTENTION)
    denoiser = cost.components[-1]
    assert denoiser.forward_macs == forward
    assert denoiser.backward_macs + cost.fused_attention_extra_macs == backward
    assert cost.fused_attention_extra_macs > 0


def test_a_whole_step_of_text_encoder_vae_unet_and_loss() -> None:
    pipe = ZOO["StableDiffusionPipeline"].build()
    size = pipe.unet.config.sample_size * pipe.vae_scale_factor
    cost = training_cost(pipe, method="lora", rank=2, batch_size=3, height=size, width=size, steps=5)
    add_lora(pipe.unet, 2)
    pipe.vae.requires_grad_(False)
    pipe.text_encoder.requires_grad_(False)
    optimizer = torch.optim.AdamW([p for p in pipe.unet.parameters() if p.requires_grad])
    ids = pipe.tokenizer(["a photo"] * 3, padding="max_length", max_length=pipe.tokenizer.model_max_length,
                         truncation=True, return_tensors="pt").input_ids  # fmt: skip
    with counting(SDPBackend.MATH) as step:
        latents = pipe.vae.encode(torch.randn(3, 3, size, size)).latent_dist.sample()
        text = pipe.text_encoder(ids)[0]
        noise, times = torch.randn_like(latents), torch.tensor([1, 2, 3])
        noisy = pipe.scheduler.add_noise(latents, noise, times)
        F.mse_loss(pipe.unet(noisy, times, text).sample, noise).backward()
        optimizer.step()
    assert cost.step_macs == step["macs"]
    assert cost.step_flops == 2 * step["macs"] + 15 * sum(p.numel() for p in optimizer.param_groups[0]["params"])
    assert cost.total_flops == 5 * cost.step_flops and cost.total_macs == 5 * cost.step_macs


def test_caching_moves_the_encoders_out_of_the_steps() -> None:
    pipe = ZOO["StableDiffusionPipeline"].build()
    plain = training_cost(pipe, batch_size=2)
    cached = training_cost(pipe, batch_size=2, cache_text=True, cache_latents=True)
    assert {c.name for c in cached.components if c.cached} == {"text_encoder", "vae"}
    assert cached.step_macs == plain.components[-1].step_macs
    assert cached.cache_macs == plain.step_macs - cached.step_macs > 0
    text_only = training_cost(pipe, batch_size=2, cache_text=True)
    assert {c.name for c in text_only.components if c.cached} == {"text_encoder"}


def test_the_pipeline_is_not_touched() -> None:
    pipe = ZOO["StableDiffusionPipeline"].build()
    pipe.unet.requires_grad_(False)
    before = [(n, p.requires_grad, p.device.type, p.grad) for n, p in pipe.unet.named_parameters()]
    modules = [(n, type(m), m.training) for n, m in pipe.unet.named_modules()]
    random = torch.get_rng_state()
    training_cost(pipe, method="lora", gradient_checkpointing=True)
    training_cost(pipe, method="full")
    assert [(n, p.requires_grad, p.device.type, p.grad) for n, p in pipe.unet.named_parameters()] == before
    assert [(n, type(m), m.training) for n, m in pipe.unet.named_modules()] == modules
    assert not pipe.unet.is_gradient_checkpointing
    assert torch.equal(torch.get_rng_state(), random)


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.front, self.middle, self.end = nn.Linear(4, 6), nn.Conv1d(6, 6, 3, groups=3), nn.Linear(3, 5)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.end(self.middle(self.front(x).transpose(1, 2)))
        return result


def test_only_needed_gradients_are_counted_by_hand() -> None:
    model, x = Block(), torch.randn(2, 5, 4)
    front, middle, end = 2 * 5 * 4 * 6, 2 * 3 * 6 * 2 * 3, 2 * 6 * 3 * 5
    everything = count_step(model, (x,))
    assert everything.forward_macs == front + middle + end
    # the input needs no gradient, so the first layer has only its weight's
    assert everything.backward_macs == front + 2 * middle + 2 * end
    model.requires_grad_(False)
    model.end.requires_grad_(True)
    assert count_step(model, (x,)).backward_macs == end  # nothing lies in front of the trained layer
    model.end.requires_grad_(False)
    model.middle.requires_grad_(True)
    assert count_step(model, (x,)).backward_macs == middle + end  # weight of the middle, input of the end


def test_lora_on_a_published_model() -> None:
    # known: rank 4 on to_q, to_k, to_v, to_out of the UNet of SD 1.x trains 797,184 parameters
    unet = build_pipeline_without_weights("stable-diffusion-v1-5/stable-diffusion-v1-5").unet
    assert add_lora(unet, 4) == 797_184


def test_full_size_model_without_weights() -> None:
    # UNet of SD 1.5, 64 x 64 latents, 77 tokens, batch 1: 401,636,720,640 MACs
    cost = training_cost("stable-diffusion-v1-5/stable-diffusion-v1-5", method="full", batch_size=2)
    unet = cost.components[-1]
    assert unet.forward_macs == 2 * 401_636_720_640
    assert cost.trained_params == 859_520_964  # the published UNet
    text = next(c for c in cost.components if c.name == "text_encoder")
    assert text.forward_macs == 2 * 6_649_251_840  # CLIP-L, 77 tokens


def test_cost_survives_json() -> None:
    cost = training_cost(ZOO["StableDiffusionPipeline"].build(), batch_size=2, steps=7, cache_text=True)
    data = json.loads(json.dumps(cost.to_dict()))
    again = TrainingCost.from_dict(data)
    assert again == cost and again.to_dict() == data
    assert data["totals"]["total_macs"] == 7 * sum(c.step_macs for c in cost.components)


def test_what_cannot_be_counted_is_named() -> None:
    part = ComponentCost("x", "X", "encoder", 1, 0, None, reason="no formula")
    cost = TrainingCost("m", "full", None, (), 1, 1, False, "sgd", (part,))
    assert not cost.complete and cost.step_macs == 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"method": "dreambooth"}, "unknown method 'dreambooth': use one of full, lora"),
        ({"rank": 0}, "rank must be a whole number of at least 1, not 0"),
        ({"steps": -1}, "steps must be a whole number of at least 1, not -1"),
        ({"batch_size": 0}, "batch_size must be a whole number"),
        ({"optimizer": "lion"}, "unknown optimizer 'lion'"),
        ({"target_modules": ("nothing_like_this",)}, "no layer of UNet2DConditionModel can take an adapter"),
        ({"target_modules": ()}, "target_modules is empty"),
    ],
)
def test_bad_input_is_named(arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        training_cost(ZOO["StableDiffusionPipeline"].build(), **arguments)


def test_nothing_to_train_is_named() -> None:
    with pytest.raises(ValueError, match="no parameter of Linear requires a gradient"):
        count_step(nn.Linear(2, 2).requires_grad_(False), (torch.ones(1, 2),))
    with pytest.raises(ValueError, match="has no gradient checkpointing"):
        training_cost(ZOO["HunyuanDiTPipeline"].build(), gradient_checkpointing=True)
    with pytest.raises(ValueError, match="takes no argument 'colour'"):
        training_cost(ZOO["FluxPipeline"].build(), colour="red")
