"""The training script, on a few steps of small batches."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import train_embedded as train
from diffusers import StableDiffusionPipeline
from diffusers.models.attention_processor import AttnProcessor
from shapes_data import render, sample_scene
from torch import nn

SIZES = {"--vae-steps": 2, "--decoder-steps": 2, "--vae-batch": 2, "--text-steps": 2, "--text-batch": 4}
SIZES |= {"--batch": 4, "--pool": 8, "--cooldown": 0}
SMALL = [str(word) for pair in SIZES.items() for word in pair] + ["--float32", "--device", "cpu"]


def run(folder: Path, unet_steps: int, *more: str) -> Path:
    train.main(["--run", str(folder), "--unet-steps", str(unet_steps), *SMALL, *more])
    return folder / "pipeline"


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two UNet steps without a break."""
    folder = tmp_path_factory.mktemp("straight")
    run(folder, 2)
    return folder


@pytest.fixture
def tokenizer(straight: Path) -> train.CLIPTokenizer:
    return train.CLIPTokenizer.from_pretrained(straight / "tokenizer")


def test_it_writes_a_pipeline_that_loads_and_draws(straight: Path) -> None:
    pipe = StableDiffusionPipeline.from_pretrained(straight / "pipeline", local_files_only=True)
    pipe.set_progress_bar_config(disable=True)
    assert {pipe.unet.dtype, pipe.vae.dtype, pipe.text_encoder.dtype} == {torch.float32}
    assert pipe("a red circle", num_inference_steps=2).images[0].size == (64, 64)
    assert json.loads((straight / "progress.json").read_text())["step"] == 2


@pytest.mark.slow
def test_a_resumed_run_ends_with_the_same_weights(straight: Path, tmp_path: Path) -> None:
    run(tmp_path, 1)
    run(tmp_path, 2)
    ends = [torch.load(folder / "diffusion.pt", weights_only=True) for folder in (straight, tmp_path)]
    for part in ("unet", "text_encoder"):
        for name, value in ends[0][part].items():
            assert torch.equal(value, ends[1][part][name]), name
    assert all(torch.equal(*pair) for pair in zip(ends[0]["average"], ends[1]["average"], strict=True))


def test_it_prints_its_own_compute(capsys: pytest.CaptureFixture[str], tokenizer: train.CLIPTokenizer) -> None:
    lines = list(train.compute_report(train.parse_options(["--unet-steps", "10"]), tokenizer))
    assert len(lines) == 6
    assert all("MACs" in line for line in lines)
    assert "FLOPs" in lines[-1]


def test_backward_products_are_counted_too() -> None:
    layer = nn.Linear(5, 7, bias=False)
    x = torch.ones(3, 5, requires_grad=True)
    # Forward 3 x 5 x 7, then one product of that size each for the input's and the weight's gradient.
    assert train.count_macs(lambda: layer(x).sum()) == 3 * 3 * 5 * 7


def test_the_tokenizer_knows_every_word_and_survives_any_other(tokenizer: train.CLIPTokenizer) -> None:
    prompt = "a red circle to the left of an orange star on a gradient background underneath"
    assert " ".join(tokenizer.decode([i]) for i in tokenizer(prompt).input_ids[1:-1]) == prompt
    assert tokenizer("RED Circle").input_ids == tokenizer("red circle").input_ids
    for text in ("", "zebra 42!", "\u732b \U0001f600 \u00fc", "x" * 500, "a\nb\tc"):
        ids = train.tokenize(tokenizer, [text])
        assert ids.shape == (1, 32)
        assert int(ids.max()) < len(tokenizer)


@pytest.mark.parametrize(("step", "rate"), [(0, 0.1), (4, 0.5), (9, 1.0), (50, 1.0), (80, 1.0), (90, 0.5), (99, 0.05)])
def test_learning_rate_rises_stays_and_falls(step: int, rate: float) -> None:
    assert train.learning_rate(step, steps=100, peak=1.0, warmup=10, cooldown=0.2) == pytest.approx(rate)


def test_standardized_latents_decode_to_the_same_image() -> None:
    torch.manual_seed(0)
    vae = train.build_vae().eval()
    rng = np.random.default_rng(0)
    images = torch.from_numpy(render([sample_scene(rng) for _ in range(8)]))
    with torch.no_grad():
        before = vae.encode(images).latent_dist
        image = vae.decode(before.mean).sample
        deviation = before.mean.std((0, 2, 3))
        train.standardize_latents(vae, images)
        after = vae.encode(images).latent_dist
        assert torch.allclose(vae.decode(after.mean).sample, image, atol=1e-4)
        assert torch.allclose(after.std * deviation[:, None, None], before.std, rtol=1e-3)
    assert torch.allclose(after.mean.mean((0, 2, 3)), torch.zeros(4), atol=1e-4)
    assert torch.allclose(after.mean.std((0, 2, 3)), torch.ones(4), atol=1e-4)


def test_training_the_decoder_alone_leaves_the_latents() -> None:
    torch.manual_seed(0)
    vae = train.build_vae()
    images = torch.zeros(1, 3, 64, 64)
    train.decoder_loss(vae, images)[0].backward()
    assert all(parameter.grad is None for parameter in [*vae.encoder.parameters(), *vae.quant_conv.parameters()])
    assert all(parameter.grad is not None for parameter in vae.decoder.parameters())


def test_the_average_is_swapped_in_and_out() -> None:
    layer = nn.Linear(1, 1, bias=False)
    nn.init.constant_(layer.weight, 1.0)
    average = train.Average(layer)
    nn.init.constant_(layer.weight, 2.0)
    average.update(step=10)  # decay 11 / 20: 1 + (2 - 1) x 9 / 20
    average.swap()
    assert layer.weight.item() == pytest.approx(1.45)
    average.swap()
    assert layer.weight.item() == 2.0


def test_the_last_training_step_is_pure_noise() -> None:
    scheduler = train.build_scheduler()
    clean, noise = torch.ones(1, 4, 16, 16), torch.randn(1, 4, 16, 16)
    noised, velocity = train.noised(scheduler, clean, noise, torch.tensor([999]))
    # v = sqrt(alpha) noise - sqrt(1 - alpha) clean, which is -clean where alpha is 0.
    assert torch.allclose(noised, noise, atol=1e-3)
    assert torch.allclose(velocity, -clean, atol=1e-3)


def test_the_reader_asks_every_end_token_and_no_other(tokenizer: train.CLIPTokenizer) -> None:
    torch.manual_seed(0)
    reader = train.Reader(train.build_text_encoder(tokenizer))
    tokens = train.tokenize(tokenizer, ["a red circle"])
    facts = torch.zeros(1, len(train.FACTS), dtype=torch.long)
    with torch.no_grad():
        reader.heads.weight.zero_()
        reader.heads.bias.zero_()
        loss, wrong = reader(tokens, facts, tokenizer.eos_token_id)
    # Nothing known: the cross-entropy of n equally likely answers is log n; the first answer is chosen, and right.
    assert loss.item() == pytest.approx(np.mean([np.log(n) for n in train.FACTS.values()]))
    assert wrong.item() == 0
    states = reader.text_encoder(tokens)[0]
    states.retain_grad()
    reader.text_encoder.forward = lambda _: (states,)
    torch.nn.init.normal_(reader.heads.weight)
    reader(tokens, facts, tokenizer.eos_token_id)[0].backward()
    read = (states.grad[0].abs().amax(-1) > 0).tolist()
    assert read == [token == tokenizer.eos_token_id for token in tokens[0].tolist()]


def test_the_whole_text_reaches_every_block(tokenizer: train.CLIPTokenizer) -> None:
    torch.manual_seed(0)
    unet = train.build_unet()
    states = torch.randn(1, 32, 128, requires_grad=True)
    (unet.add_embedding(states) @ torch.randn(192)).sum().backward()
    assert states.grad is not None
    assert bool((states.grad.abs().amax(-1) > 0).all())


def test_noise_levels_cover_the_schedule_and_prefer_its_noisy_end() -> None:
    levels = train.noise_levels(np.random.default_rng(0), 20000)
    assert levels.dtype == torch.int64
    assert int(levels.min()) < 5
    assert int(levels.max()) > 994
    # Above 0.9 where 1.3 + 1.2 z > log 9, z > 0.7477, which is 22.73%; evenly spread: 10%. Six to four: 17.64%.
    assert (levels >= 900).double().mean().item() == pytest.approx(0.1764, abs=0.01)


@pytest.mark.slow
def test_two_workers_have_the_mean_gradient(tmp_path: Path) -> None:
    torch.multiprocessing.spawn(_average_in_worker, args=(str(tmp_path / "meeting"),), nprocs=2)


def _average_in_worker(rank: int, meeting: str) -> None:
    import torch.distributed as dist

    dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=2)
    worker = train.Worker(rank, 2, torch.device("cpu"))
    weights = [nn.Parameter(torch.zeros(2)), nn.Parameter(torch.zeros(3, 1))]
    for weight in weights:
        weight.grad = torch.full_like(weight, rank + 1.0)
    worker.average_gradients(weights)
    for weight in weights:
        assert weight.grad is not None
        assert torch.equal(weight.grad, torch.full_like(weight, 1.5))
    assert worker.share(64) == 32
    dist.destroy_process_group()


@pytest.mark.parametrize("options", [["--batch", "63", "--workers", "2"], ["--workers", "0"], ["--pool", "0"]])
def test_batches_that_cannot_be_shared_are_refused(options: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        train.parse_options(options)
    assert stopped.value.code == 2
    assert "must be a multiple of --workers" in capsys.readouterr().err


def test_attention_of_training_and_of_the_shipped_model_agree() -> None:
    torch.manual_seed(0)
    unet = train.build_unet().eval()
    x, states, step = torch.randn(1, 4, 16, 16), torch.randn(1, 32, 128), torch.tensor([500])
    with torch.no_grad():
        fused = unet(x, step, states).sample
        unet.set_attn_processor(AttnProcessor())
        assert torch.allclose(unet(x, step, states).sample, fused, atol=1e-4)
