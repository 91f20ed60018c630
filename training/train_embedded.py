"""Train the embedded text-to-image model, from nothing to the folder that the package ships.

    python training/train_embedded.py                      # everything, resumes where the last run stopped
    python training/train_embedded.py --unet-steps 40000   # go on with a longer schedule

Four parts, one after the other: a word-piece tokenizer learned from the prompts; a VAE (64 x 64 x 3 pixels to
16 x 16 x 4 latents); the text encoder alone, taught to tell what a prompt says; then text encoder and UNet together on
the VAE's latents (v-prediction, a tenth of the prompts dropped so that guidance works). A run is decided by its
options: random numbers of step n come from (seed, n) alone, so a resumed run draws what an uninterrupted one would
have drawn. On a CPU that is busy with other work two processes of one thread each (``--workers 2``) waste less time
waiting than one process of two threads.
"""

from __future__ import annotations

import argparse
import json
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
import torch.nn.functional as F
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from shapes_data import FACTS, describe, render, sample_scene, sample_training_scene, scene_facts
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
from tqdm import tqdm
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from diffmeter.metering.counters.op_level import OpCounter
from diffmeter.units import format_count

ROOT = Path(__file__).resolve().parent.parent
PROMPT_TOKENS = 32
TRAIN_TIMESTEPS = 1000
TOKENIZER_FILES = ("vocab.json", "merges.txt", "tokenizer_config.json", "special_tokens_map.json")
START, END = "<|startoftext|>", "<|endoftext|>"
DROPPED_PROMPTS = 0.1
EMA_DECAY = 0.999
LATENT_ERROR = 0.05  # deviation of the noise on the latents while the decoder is trained alone
STREAMS = {"vae": 2, "decoder": 6, "text": 7}  # random scenes of each stage


# --- the parts of the model -------------------------------------------------------------------------------------


def build_tokenizer(folder: Path, seed: int) -> CLIPTokenizer:
    """Learn byte-pair merges from prompts; save a CLIP tokenizer. All 256 bytes are in: any text can be encoded."""
    rng = np.random.default_rng([seed, 1])
    prompts = [describe(rng, sample_scene(rng)) for _ in range(20000)]
    tokenizer = Tokenizer(models.BPE(end_of_word_suffix="</w>", unk_token=END))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    trainer = trainers.BpeTrainer(vocab_size=4000, end_of_word_suffix="</w>", show_progress=False)
    tokenizer.train_from_iterator(prompts, trainer)
    learned = json.loads(tokenizer.to_str())["model"]["merges"]  # pairs, or in older versions "left right"
    merges = [pair if isinstance(pair, list) else pair.split(" ") for pair in learned]
    bytes_in_print = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = bytes_in_print + [letter + "</w>" for letter in bytes_in_print] + ["".join(pair) for pair in merges]
    words = [*dict.fromkeys(words), START, END]
    folder.mkdir(parents=True, exist_ok=True)
    numbers = {word: i for i, word in enumerate(words)}
    (folder / "vocab.json").write_text(json.dumps(numbers, ensure_ascii=False) + "\n", "utf-8")
    lines = ["#version: 0.2", *(" ".join(pair) for pair in merges)]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n", "utf-8")
    special = {"bos_token": START, "eos_token": END, "pad_token": END, "unk_token": END}
    config = {"tokenizer_class": "CLIPTokenizer", "model_max_length": PROMPT_TOKENS, "do_lower_case": True, **special}
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n", "utf-8")
    (folder / "special_tokens_map.json").write_text(json.dumps(special, indent=2) + "\n", "utf-8")
    return CLIPTokenizer.from_pretrained(folder)


def build_vae() -> AutoencoderKL:
    """Pixels (3, 64, 64) to latents (4, 16, 16) and back."""
    vae = AutoencoderKL(
        block_out_channels=(16, 32, 64),
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        layers_per_block=1,
        norm_num_groups=4,
        latent_channels=4,
        sample_size=64,
        scaling_factor=1.0,
    )
    # Begin nearly without noise on the latents: at the usual deviation of 1 nothing would come through at first.
    with torch.no_grad():
        vae.quant_conv.bias[4:] = -6.0
    return vae


def build_unet() -> UNet2DConditionModel:
    """Convolutions at 16 x 16, self- and cross-attention at 8 x 8 and 4 x 4, and more channels there."""
    unet = UNet2DConditionModel(
        sample_size=16,
        in_channels=4,
        out_channels=4,
        block_out_channels=(48, 96, 96),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        layers_per_block=1,
        cross_attention_dim=128,
        attention_head_dim=4,  # for this class: the number of heads
        norm_num_groups=16,
        # The text, pooled, is added to the time embedding too: what concerns the whole image (background, place,
        # which of two relations) is learned much sooner than by cross-attention alone.
        addition_embed_type="text",
        addition_embed_type_num_heads=4,
    )
    torch.nn.init.constant_(unet.add_embedding.norm2.weight, 0.1)  # begin with little of it
    return unet


def build_text_encoder(tokenizer: CLIPTokenizer) -> CLIPTextModel:
    """Three causal transformer layers of width 128."""
    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=128,
        intermediate_size=512,
        projection_dim=128,
        num_hidden_layers=3,
        num_attention_heads=4,
        max_position_embeddings=PROMPT_TOKENS,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return CLIPTextModel(config)


def build_scheduler() -> DDIMScheduler:
    """The noise schedule of training and sampling: cosine, ending in pure noise, so that flat colors come out."""
    return DDIMScheduler(
        num_train_timesteps=TRAIN_TIMESTEPS,
        beta_schedule="squaredcos_cap_v2",
        prediction_type="v_prediction",
        timestep_spacing="trailing",
        clip_sample=False,
        set_alpha_to_one=True,
        steps_offset=1,  # diffusers asks for it; trailing spacing does not use it
    )


# --- training ---------------------------------------------------------------------------------------------------


def autocast(device: torch.device, enabled: bool) -> Any:
    """bfloat16 for the matrix products, float32 for the rest."""
    return torch.autocast(device.type, torch.bfloat16) if enabled else nullcontext()


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write beside the old file, then replace it: a run that is killed leaves a whole checkpoint."""
    partial = path.with_suffix(".partial")
    torch.save(state, partial)
    partial.replace(path)


def learning_rate(step: int, steps: int, peak: float, warmup: int, cooldown: float) -> float:
    """Linear warm-up, constant, then linear to zero over the last ``cooldown`` fraction of the steps."""
    rise = min(1.0, (step + 1) / max(1, warmup))
    fall = min(1.0, (steps - step) / max(1.0, steps * cooldown))
    return peak * min(rise, fall)


def set_learning_rate(optimizer: torch.optim.Optimizer, value: float) -> None:
    """Give every parameter group this learning rate."""
    for group in optimizer.param_groups:
        group["lr"] = value


@dataclass(frozen=True)
class Worker:
    """One of the processes that share each batch."""

    rank: int
    count: int
    device: torch.device

    def share(self, batch: int) -> int:
        """How much of a batch this process works on."""
        return batch // self.count

    def seed(self, options: argparse.Namespace, step: int) -> int:
        """What torch draws its random numbers of a step from."""
        return int((options.seed * 1_000_003 + step) * 64 + self.rank)

    def average_gradients(self, parameters: list[torch.nn.Parameter]) -> None:
        """Make every process's gradients the mean over all processes."""
        if self.count == 1:
            return
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        flat = torch.cat([gradient.reshape(-1) for gradient in gradients])
        dist.all_reduce(flat)
        flat /= self.count
        parts = flat.split([gradient.numel() for gradient in gradients])
        for gradient, part in zip(gradients, parts, strict=True):
            gradient.copy_(part.view_as(gradient))


def edges(image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Differences between neighboring pixels, to the right and downwards."""
    return image[..., :, 1:] - image[..., :, :-1], image[..., 1:, :] - image[..., :-1, :]


def image_loss(decoded: torch.Tensor, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Error of pixels and of edges, and the mean absolute pixel error alone.

    Colored pixels weigh more than the gray ones behind them, and squared errors are added to absolute ones: with
    absolute errors alone the colors of small objects are learned last.
    """
    decoded = decoded.float()
    weight = 1 + 3 * (images.amax(1, keepdim=True) - images.amin(1, keepdim=True))
    error = (decoded - images).abs()
    pixel = (weight * (error + 2 * error.square())).mean()
    edge = sum((a - b).abs().mean() for a, b in zip(edges(decoded), edges(images), strict=True))
    return pixel + edge, error.detach().mean()


def vae_loss(vae: AutoencoderKL, images: torch.Tensor, kl_weight: float) -> tuple[torch.Tensor, torch.Tensor]:
    """The image loss of the whole VAE plus a little KL divergence, and the mean absolute pixel error."""
    posterior = vae.encode(images).latent_dist
    loss, error = image_loss(vae.decode(posterior.sample()).sample, images)
    mean, logvar = posterior.mean.float(), posterior.logvar.float()
    kl = 0.5 * (mean.square() + logvar.exp() - 1 - logvar).mean()
    return loss + kl_weight * kl, error


def decoder_loss(vae: AutoencoderKL, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The image loss of the decoder alone, given latents that are a little wrong, as those of the UNet are."""
    with torch.no_grad():
        latents = vae.encode(images).latent_dist.mean.float()
    latents = latents + LATENT_ERROR * torch.randn_like(latents)
    return image_loss(vae.decode(latents).sample, images)


@torch.no_grad()
def standardize_latents(vae: AutoencoderKL, images: torch.Tensor) -> None:
    """Fold mean 0 and deviation 1 per channel into the two 1 x 1 convolutions around the latents."""
    latents = torch.cat([vae.encode(part).latent_dist.mean for part in images.split(64)])
    mean, deviation = latents.mean((0, 2, 3)), latents.std((0, 2, 3))
    channels = len(mean)
    vae.post_quant_conv.bias += vae.post_quant_conv.weight[:, :, 0, 0] @ mean
    vae.post_quant_conv.weight *= deviation[None, :, None, None]
    vae.quant_conv.weight[:channels] /= deviation[:, None, None, None]
    vae.quant_conv.bias[:channels] = (vae.quant_conv.bias[:channels] - mean) / deviation
    vae.quant_conv.bias[channels:] -= 2 * deviation.log()


def scene_images(seed: list[int], count: int, device: torch.device) -> torch.Tensor:
    """The images of one VAE batch."""
    rng = np.random.default_rng(seed)
    return torch.from_numpy(render([sample_training_scene(rng) for _ in range(count)])).to(device)


def train_stage(
    options: argparse.Namespace,
    worker: Worker,
    stage: str,
    model: torch.nn.Module,
    parameters: list[torch.nn.Parameter],
    steps: int,
    peak: float,
    loss_of: Callable[[int], tuple[torch.Tensor, torch.Tensor]],
) -> bool:
    """Train some of a model's parameters, or load them. Returns whether the stage was loaded as finished.

    ``loss_of`` takes the number of the step and gives its loss and the error to show.
    """
    path, device = options.run / f"{stage}.pt", worker.device
    optimizer = torch.optim.AdamW(parameters, lr=peak, weight_decay=0.0, betas=(0.9, 0.99))
    first, seconds = 0, 0.0
    if path.exists():
        state = torch.load(path, map_location=device, weights_only=True)
        model.load_state_dict(state["model"])
        if state["finished"]:
            return True
        optimizer.load_state_dict(state["optimizer"])
        first, seconds = state["step"], state["seconds"]
    started = time.perf_counter() - seconds
    bar = tqdm(range(first, steps), initial=first, total=steps, desc=stage, mininterval=5,
               disable=worker.rank > 0)  # fmt: skip
    for step in bar:
        torch.manual_seed(worker.seed(options, step))
        set_learning_rate(optimizer, learning_rate(step, steps, peak, 50, 0.5))
        with autocast(device, options.bf16):
            loss, error = loss_of(step)
        optimizer.zero_grad()
        loss.backward()
        worker.average_gradients(parameters)
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        if step % 20 == 0:
            bar.set_postfix(loss=f"{loss.item():.4f}", error=f"{error.item():.4f}", refresh=False)
        if step % 250 == 249 and worker.rank == 0:
            save_checkpoint(path, {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "step": step + 1,
                                   "seconds": time.perf_counter() - started, "finished": False})  # fmt: skip
    return False


def save_finished(options: argparse.Namespace, worker: Worker, stage: str, model: torch.nn.Module) -> None:
    """Note that a stage is done."""
    if worker.rank == 0:
        save_checkpoint(options.run / f"{stage}.pt", {"model": model.state_dict(), "finished": True})


def train_vae(options: argparse.Namespace, worker: Worker) -> AutoencoderKL:
    """Train the VAE, then its decoder alone; or load what this run has finished of that.

    The second stage leaves the latents as they are, so it may also follow the training of the UNet.
    """
    torch.manual_seed(options.seed)
    vae = build_vae().to(worker.device)
    vae.set_attn_processor(AttnProcessor())  # plain products: on a CPU their backward is faster than the fused one

    def images(stage: str, step: int) -> torch.Tensor:
        seed = [options.seed, STREAMS[stage], step, worker.rank]
        return scene_images(seed, worker.share(options.vae_batch), worker.device)

    parameters = list(vae.parameters())
    if not train_stage(options, worker, "vae", vae, parameters, options.vae_steps, options.vae_lr,
                       lambda step: vae_loss(vae, images("vae", step), options.kl_weight)):  # fmt: skip
        standardize_latents(vae, scene_images([options.seed, 3], 512, worker.device))
        save_finished(options, worker, "vae", vae)
    if options.decoder_steps:
        parameters = [*vae.decoder.parameters(), *vae.post_quant_conv.parameters()]
        if not train_stage(options, worker, "decoder", vae, parameters, options.decoder_steps, options.vae_lr,
                           lambda step: decoder_loss(vae, images("decoder", step))):  # fmt: skip
            save_finished(options, worker, "decoder", vae)
    return vae.eval()


class Reader(torch.nn.Module):
    """The text encoder with one linear layer that reads the facts of a scene from the states of the end tokens.

    A prompt says little by its words and much by their order, and from the error of noisy latents alone that order is
    learned last. So the text encoder is first taught to tell what the prompt says; the linear layer is then dropped.
    """

    def __init__(self, text_encoder: CLIPTextModel) -> None:
        super().__init__()
        self.text_encoder = text_encoder
        self.heads = torch.nn.Linear(text_encoder.config.hidden_size, sum(FACTS.values()))

    def forward(self, tokens: torch.Tensor, facts: torch.Tensor, end: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean cross-entropy of ``facts (n, len(FACTS))`` given ``tokens (n, 32)``, and the part of wrong answers."""
        is_end = tokens == end
        answers = self.heads(self.text_encoder(tokens)[0])[is_end].float().split(list(FACTS.values()), dim=-1)
        wanted = facts[:, None].expand(-1, tokens.shape[1], -1)[is_end].unbind(-1)
        pairs = list(zip(answers, wanted, strict=True))
        wrong = torch.stack([answer.argmax(-1) != right for answer, right in pairs]).float().mean()
        return torch.stack([F.cross_entropy(answer, right) for answer, right in pairs]).mean(), wrong


def train_text_encoder(options: argparse.Namespace, worker: Worker, tokenizer: CLIPTokenizer) -> dict[str, Any]:
    """Teach the text encoder to tell a scene's facts from its prompt; returns its weights."""
    torch.manual_seed(options.seed + 2)
    reader = Reader(build_text_encoder(tokenizer)).to(worker.device)
    reader.text_encoder.config._attn_implementation = "eager"

    def loss_of(step: int) -> tuple[torch.Tensor, torch.Tensor]:
        rng = np.random.default_rng([options.seed, STREAMS["text"], step, worker.rank])
        scenes = [sample_training_scene(rng) for _ in range(worker.share(options.text_batch))]
        tokens = tokenize(tokenizer, [describe(rng, scene) for scene in scenes]).to(worker.device)
        facts = torch.tensor([scene_facts(scene) for scene in scenes], device=worker.device)
        loss, wrong = reader(tokens, facts, tokenizer.eos_token_id)
        return loss, wrong

    if not train_stage(options, worker, "text", reader, list(reader.parameters()), options.text_steps, options.lr,
                       loss_of):  # fmt: skip
        save_finished(options, worker, "text", reader)
    return reader.text_encoder.state_dict()


class Pool:
    """Training scenes, encoded once: latents ``(n, 4, 16, 16)`` in half precision and four wordings of each.

    They are kept in a file of the run, so that a resumed run begins at once.
    """

    WORDINGS = 4

    def __init__(
        self, vae: AutoencoderKL, tokenizer: CLIPTokenizer, options: argparse.Namespace, worker: Worker
    ) -> None:
        size = worker.share(options.pool)
        path = options.run / f"pool-{worker.rank}-of-{worker.count}-{size}.pt"
        if path.exists():
            state = torch.load(path, weights_only=True)
        else:
            state = self._make(vae, tokenizer, options, worker, size)
            save_checkpoint(path, state)
        self.latents: torch.Tensor = state["latents"].to(worker.device)
        self.tokens: torch.Tensor = state["tokens"].to(worker.device)

    def _make(
        self, vae: AutoencoderKL, tokenizer: CLIPTokenizer, options: argparse.Namespace, worker: Worker, size: int
    ) -> dict[str, torch.Tensor]:
        parts, tokens = [], []
        for index in tqdm(range(0, size, 256), desc="scenes", mininterval=5, disable=worker.rank > 0):
            rng = np.random.default_rng([options.seed, 4, index, worker.rank])
            scenes = [sample_training_scene(rng) for _ in range(min(256, size - index))]
            with torch.no_grad(), autocast(worker.device, options.bf16):
                images = torch.from_numpy(render(scenes)).to(worker.device)
                parts += [vae.encode(part).latent_dist.mean.half().cpu() for part in images.split(64)]
            prompts = [describe(rng, scene) for scene in scenes for _ in range(self.WORDINGS)]
            tokens.append(tokenize(tokenizer, prompts).to(torch.int16))
        return {"latents": torch.cat(parts), "tokens": torch.cat(tokens).view(-1, self.WORDINGS, PROMPT_TOKENS)}

    def batch(self, rng: np.random.Generator, count: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Random scenes: latents ``(count, 4, 16, 16)`` float32 and token ids ``(count, 32)``."""
        chosen = torch.from_numpy(rng.integers(len(self.latents), size=count)).to(self.latents.device)
        wording = torch.from_numpy(rng.integers(self.WORDINGS, size=count)).to(self.latents.device)
        return self.latents[chosen].float(), self.tokens[chosen, wording].long()


def tokenize(tokenizer: CLIPTokenizer, prompts: list[str]) -> torch.Tensor:
    """Token ids ``(n, 32)``, padded as the pipeline pads them."""
    return tokenizer(
        prompts, padding="max_length", max_length=PROMPT_TOKENS, truncation=True, return_tensors="pt"
    ).input_ids


def noised(
    scheduler: DDIMScheduler, clean: torch.Tensor, noise: torch.Tensor, steps: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """The noised latents of training steps ``steps`` and their v-prediction target."""
    return scheduler.add_noise(clean, noise, steps), scheduler.get_velocity(clean, noise, steps)


class Average:
    """Exponential moving average of some modules' parameters."""

    def __init__(self, *modules: torch.nn.Module) -> None:
        self.live = [parameter for module in modules for parameter in module.parameters()]
        self.kept = [parameter.detach().clone() for parameter in self.live]

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Move towards the live values; faster in the first steps, when they still change a lot."""
        decay = min(EMA_DECAY, (step + 1) / (step + 10))
        torch._foreach_lerp_(self.kept, [parameter.detach() for parameter in self.live], 1 - decay)

    @torch.no_grad()
    def swap(self) -> None:
        """Exchange live and averaged values; twice restores both."""
        for live, kept in zip(self.live, self.kept, strict=True):
            value = live.detach().clone()
            live.copy_(kept)
            kept.copy_(value)


def noise_levels(rng: np.random.Generator, count: int) -> torch.Tensor:
    """Which steps of the noise schedule to train on, ``(count,)`` integers from 0 to 999.

    One from each of ``count`` equally likely parts, which makes the loss less noisy. Six of ten lie towards the noisy
    end (logit-normal around 0.79): images of large flat areas show through much noise, so background, number and
    place of the objects are decided within the last tenth, and their shapes soon after.
    """
    even = torch.from_numpy((np.arange(count) + rng.random(count)) / count)
    noisy = torch.sigmoid(1.3 + 1.2 * torch.special.ndtri(even))
    levels = torch.where(torch.from_numpy(rng.random(count) < 0.6), noisy, even)
    return (levels * TRAIN_TIMESTEPS).long().clamp(0, TRAIN_TIMESTEPS - 1)


def diffusion_step(
    unet: UNet2DConditionModel,
    text_encoder: CLIPTextModel,
    scheduler: DDIMScheduler,
    latents: torch.Tensor,
    tokens: torch.Tensor,
    steps: torch.Tensor,
    noise: torch.Tensor,
) -> torch.Tensor:
    """The loss of one batch: mean squared error of the predicted velocity."""
    inputs, target = noised(scheduler, latents, noise, steps)
    states = text_encoder(tokens)[0]
    return F.mse_loss(unet(inputs, steps, states).sample.float(), target)


def train_diffusion(
    options: argparse.Namespace,
    worker: Worker,
    vae: AutoencoderKL,
    tokenizer: CLIPTokenizer,
    export: Callable[[UNet2DConditionModel, CLIPTextModel, dict[str, Any]], None],
) -> None:
    """Train text encoder and UNet together, exporting the averaged weights now and then and at the end."""
    path, device = options.run / "diffusion.pt", worker.device
    torch.manual_seed(options.seed + 1)
    unet, text_encoder = build_unet().to(device), build_text_encoder(tokenizer).to(device)
    unet.set_attn_processor(AttnProcessor())
    text_encoder.config._attn_implementation = "eager"
    average = Average(unet, text_encoder)
    scheduler = build_scheduler()
    parameters = [*unet.parameters(), *text_encoder.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=options.lr, weight_decay=0.01, betas=(0.9, 0.99), fused=True)
    first, seconds = 0, 0.0
    if path.exists():
        state = torch.load(path, map_location=device, weights_only=True)
        unet.load_state_dict(state["unet"])
        text_encoder.load_state_dict(state["text_encoder"])
        optimizer.load_state_dict(state["optimizer"])
        average.kept = [value.to(device) for value in state["average"]]
        first, seconds = state["step"], state["seconds"]
    else:
        text_encoder.load_state_dict(train_text_encoder(options, worker, tokenizer))
        average = Average(unet, text_encoder)
    if first >= options.unet_steps:
        average.swap()
        if worker.rank == 0:
            export(unet, text_encoder, {"step": first, "seconds": seconds})
        return
    pool = Pool(vae, tokenizer, options, worker)
    empty = tokenize(tokenizer, [""]).to(device)
    started = time.perf_counter() - seconds
    running, batch = None, worker.share(options.batch)
    bar = tqdm(range(first, options.unet_steps), initial=first, total=options.unet_steps, desc="unet", mininterval=5,
               disable=worker.rank > 0)  # fmt: skip
    for step in bar:
        rng = np.random.default_rng([options.seed, 5, step, worker.rank])
        torch.manual_seed(worker.seed(options, step))
        set_learning_rate(optimizer, learning_rate(step, options.unet_steps, options.lr, 300, options.cooldown))
        latents, tokens = pool.batch(rng, batch)
        dropped = torch.from_numpy(rng.random(batch) < DROPPED_PROMPTS).to(device)
        tokens = torch.where(dropped[:, None], empty, tokens)
        steps = noise_levels(rng, batch).to(device)
        noise = torch.randn(latents.shape).to(device)
        with autocast(device, options.bf16):
            loss = diffusion_step(unet, text_encoder, scheduler, latents, tokens, steps, noise)
        optimizer.zero_grad()
        loss.backward()
        worker.average_gradients(parameters)
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        if worker.rank > 0:
            continue
        average.update(step)
        if step % 10 == 0:
            running = loss.item() if running is None else 0.95 * running + 0.05 * loss.item()
            bar.set_postfix(loss=f"{running:.4f}", refresh=False)
        done = step + 1
        if done % options.save_every == 0 or done == options.unet_steps:
            facts = {"step": done, "seconds": time.perf_counter() - started}
            save_checkpoint(path, {"unet": unet.state_dict(), "text_encoder": text_encoder.state_dict(),
                                   "optimizer": optimizer.state_dict(), "average": average.kept, **facts})  # fmt: skip
            average.swap()
            export(unet, text_encoder, facts)
            average.swap()


def export_pipeline(
    folder: Path,
    tokenizer_folder: Path,
    vae: AutoencoderKL,
    tokenizer: CLIPTokenizer,
    unet: UNet2DConditionModel,
    text_encoder: CLIPTextModel,
) -> None:
    """Write the pipeline in half precision. The folder's README.md (the model card) is left as it is."""
    parts: list[Any] = []
    for live, fresh in ((vae, build_vae()), (unet, build_unet()), (text_encoder, build_text_encoder(tokenizer))):
        fresh.load_state_dict({name: value.cpu() for name, value in live.state_dict().items()})
        parts.append(fresh.half().eval())
    pipe = StableDiffusionPipeline(
        vae=parts[0],
        unet=parts[1],
        text_encoder=parts[2],
        tokenizer=tokenizer,
        scheduler=build_scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipe.save_pretrained(folder, safe_serialization=True)
    # Word list and merges are read by every version of transformers; the one-file form only by some.
    (folder / "tokenizer" / "tokenizer.json").unlink(missing_ok=True)
    for file in TOKENIZER_FILES:
        shutil.copyfile(tokenizer_folder / file, folder / "tokenizer" / file)
    for file in folder.rglob("*.safetensors"):
        file.chmod(0o644)
    # transformers 5 loads the type that the configuration names: float32, as diffusers loads the other parts.
    path = folder / "text_encoder" / "config.json"
    config = json.loads(path.read_text("utf-8"))
    config.update({"dtype": "float32", "torch_dtype": "float32"})
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", "utf-8")


def count_macs(work: Callable[[], torch.Tensor]) -> int:
    """MACs of every matrix product and convolution of a computation and of its backward, by diffmeter's counter."""
    with OpCounter() as counter:
        work().backward()
    if counter.tally.unknown:
        raise RuntimeError(f"no formula for {', '.join(counter.tally.unknown)}")
    return counter.tally.total


def compute_report(options: argparse.Namespace, tokenizer: CLIPTokenizer) -> Iterator[str]:
    """What the whole training costs, as lines for people. Counted on one real step of batch 1 each."""
    vae, unet, text_encoder = build_vae(), build_unet(), build_text_encoder(tokenizer)
    for model in (vae, unet):
        model.set_attn_processor(AttnProcessor())
    text_encoder.config._attn_implementation = "eager"
    image, latents = torch.zeros(1, 3, 64, 64), torch.zeros(1, 4, 16, 16)
    tokens, step = tokenize(tokenizer, [""]), torch.tensor([500])
    vae_macs = count_macs(lambda: vae_loss(vae, image, 1.0)[0])
    reader, facts = Reader(text_encoder), torch.zeros(1, len(FACTS), dtype=torch.long)
    text_macs = count_macs(lambda: reader(tokens, facts, tokenizer.eos_token_id)[0])
    scheduler = build_scheduler()
    unet_macs = count_macs(lambda: diffusion_step(unet, text_encoder, scheduler, latents, tokens, step, latents))
    vae.encoder.requires_grad_(False)
    decoder_macs = count_macs(lambda: decoder_loss(vae, image)[0])
    with OpCounter() as counter, torch.no_grad():
        vae.encode(image)
    decoder_total = decoder_macs * options.vae_batch * options.decoder_steps
    vae_total = vae_macs * options.vae_batch * options.vae_steps
    pool_total = counter.tally.total * options.pool
    text_total = text_macs * options.text_batch * options.text_steps
    unet_total = unet_macs * options.batch * options.unet_steps
    for name, each, total in (
        ("VAE, one image forward and backward", vae_macs, vae_total),
        ("VAE decoder alone, one image", decoder_macs, decoder_total),
        ("scenes, one image encoded", counter.tally.total, pool_total),
        ("text encoder alone, one prompt forward and backward", text_macs, text_total),
        ("UNet + text encoder, one image forward and backward", unet_macs, unet_total),
    ):
        yield f"{name}: {format_count(each, 'MACs')}, all: {format_count(total, 'MACs')}"
    whole = vae_total + decoder_total + pool_total + text_total + unet_total
    yield f"whole training: {format_count(whole, 'MACs')} = {format_count(2 * whole, 'FLOPs')}"


def parse_options(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description="Train the embedded text-to-image model.")
    runs = ROOT / "training" / "runs"
    parser.add_argument("--run", type=Path, default=runs / "shapes", help="folder of the checkpoints; resumed")
    parser.add_argument("--export", type=Path, help="where the pipeline is written (default: RUN/pipeline)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--vae-steps", type=int, default=2000)
    parser.add_argument("--decoder-steps", type=int, default=1500, help="more steps of the VAE's decoder alone")
    parser.add_argument("--vae-batch", type=int, default=16)
    parser.add_argument("--vae-lr", type=float, default=1.5e-3)
    parser.add_argument("--kl-weight", type=float, default=1e-4)
    parser.add_argument("--text-steps", type=int, default=3000, help="of the text encoder, before the UNet joins it")
    parser.add_argument("--text-batch", type=int, default=256)
    parser.add_argument("--unet-steps", type=int, default=14000)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--cooldown", type=float, default=0.25, help="last part of the steps in which the rate falls")
    parser.add_argument("--pool", type=int, default=32768, help="training scenes, encoded once")
    parser.add_argument("--save-every", type=int, default=500)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads of each worker")
    parser.add_argument("--workers", type=int, default=1, help="processes that share each batch")
    parser.add_argument("--float32", dest="bf16", action="store_false", help="no bfloat16 anywhere")
    options = parser.parse_args(arguments)
    for name in ("vae_batch", "text_batch", "batch", "pool"):
        if options.workers < 1 or getattr(options, name) % options.workers or not getattr(options, name):
            parser.error(f"--{name.replace('_', '-')} must be a multiple of --workers {options.workers}")
    return options


def work(rank: int, options: argparse.Namespace) -> None:
    """Train in one process; process 0 writes the files."""
    torch.set_num_threads(options.threads)
    worker = Worker(rank, options.workers, torch.device(options.device))
    if worker.count > 1:
        meeting = f"file://{(options.run / 'workers').resolve()}"
        dist.init_process_group("gloo", init_method=meeting, rank=rank, world_size=worker.count)
    tokenizer = CLIPTokenizer.from_pretrained(options.run / "tokenizer")
    vae = train_vae(options, worker)

    def export(unet: UNet2DConditionModel, text_encoder: CLIPTextModel, facts: dict[str, Any]) -> None:
        folder = options.export or options.run / "pipeline"
        export_pipeline(folder, options.run / "tokenizer", vae, tokenizer, unet, text_encoder)
        (options.run / "progress.json").write_text(json.dumps(facts) + "\n", "utf-8")

    train_diffusion(options, worker, vae, tokenizer, export)
    if worker.count > 1:
        dist.destroy_process_group()


def main(arguments: list[str] | None = None) -> None:
    """Train, then write the pipeline."""
    options = parse_options(arguments)
    options.run.mkdir(parents=True, exist_ok=True)
    tokenizer = build_tokenizer(options.run / "tokenizer", options.seed)
    for line in compute_report(options, tokenizer):
        print(line)
    if options.workers == 1:
        work(0, options)
    else:
        (options.run / "workers").unlink(missing_ok=True)
        mp.spawn(work, args=(options,), nprocs=options.workers)


if __name__ == "__main__":
    main()
