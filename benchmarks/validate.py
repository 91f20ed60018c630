"""Hold diffmeter against published compute figures, and write the page that shows the outcome.

    python benchmarks/validate.py            count everything and write docs/VALIDATION.md
    python benchmarks/validate.py --check    count everything and fail if the page says something else

Needs no weights, no network and no accelerator: every model is built from its configuration on the meta device.
``data/published.json`` holds the figures as printed, with their sources. Each is either counted here in the
convention in which it was printed, or has a reason here why it cannot be. The script fails if a figure has neither,
if a difference of more than 1% has no explanation, or if a figure printed in full is not met to the last integer.
"""

from __future__ import annotations

import argparse
import functools
import json
import sys
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers

from diffmeter.compat import ConvNd
from diffmeter.metering.counters.module_rules import module_macs, thop_distribution
from diffmeter.metering.counters.tally import Count
from diffmeter.metering.twins.counts import TwinCounts
from diffmeter.metering.watching.signature import freeze
from diffmeter.models import catalog
from diffmeter.models.blueprint import component_type

HERE = Path(__file__).resolve().parent
DATA = HERE / "data" / "published.json"
PAGE = HERE.parent / "docs" / "VALIDATION.md"
TOLERANCE = 0.01

STEP = torch.tensor([1])


# counting ------------------------------------------------------------------------------------------------------------


def meta(*shape: int) -> torch.Tensor:
    """A tensor without memory."""
    return torch.zeros(shape, device="meta")


@dataclass(frozen=True)
class Counted:
    """One component's forward, counted by diffmeter.

    Attributes:
        params: number of parameters.
        count: both counters' result.
        modules: MACs of each convolution and linear layer by its path, for methods that skip some of them.
        by_deepcache: what DeepCache's own counter gives each module, by its path (see :func:`deepcache_operations`).
    """

    params: int
    count: Count
    modules: Mapping[str, int]
    by_deepcache: Mapping[str, int]

    @property
    def weights(self) -> int:
        """Convolutions and linear layers: what counters of modules see."""
        return self.count.matmul_macs_without_attention

    @property
    def thop(self) -> int:
        """What thop 0.1.1 alone counts in these models: linear, convolution and LayerNorm modules."""
        return sum(self.count.by_class.get(name, 0) for name in ("conv", "linear", "normalization"))

    @property
    def products(self) -> int:
        """Every product, attention included."""
        return self.count.matmul_macs

    def part(self, *prefixes: str) -> int:
        """MACs of the layers whose path starts with one of ``prefixes``."""
        return sum(macs for path, macs in self.modules.items() if path.startswith(prefixes))

    def deepcache(self, without_norms_in: tuple[str, ...] = ()) -> Counted:
        """The same forward as DeepCache's counter sees it, for :attr:`weights` and :meth:`part`.

        ``without_norms_in`` are parts of the paths of normalizations that the authors' network has in a class of its
        own, which their counter does not look up.
        """
        kept = {
            path: operations
            for path, operations in self.by_deepcache.items()
            if path in self.modules or not any(part in path for part in without_norms_in)
        }
        return _DeepCacheCounted(self.params, self.count, kept, kept)

    @property
    def cross_attention(self) -> int:
        """MACs of the linear layers of cross-attention."""
        return sum(macs for path, macs in self.modules.items() if ".attn2." in path)


class _DeepCacheCounted(Counted):
    """A forward in the convention of DeepCache's counter."""

    @property
    def weights(self) -> int:
        """Everything that their counter sees."""
        return sum(self.modules.values())


def deepcache_operations(module: Any, products: int, inputs: torch.Tensor, output: torch.Tensor) -> int:
    """What DeepCache's published counter (DeepCache/flops.py in horseee/DeepCache) adds up for one module.

    A convolution's bias counts once for each element of its output, a linear layer's once in all. A normalization
    counts twice its input's elements, once without weights. Nothing else of these networks is in its table.
    """
    if isinstance(module, torch.nn.Linear):
        return products + (module.out_features if module.bias is not None else 0)
    if isinstance(module, ConvNd):
        return products + (output.numel() if module.bias is not None else 0)
    return inputs.numel() * (2 if module.weight is not None else 1)


def build(library: str, class_name: str, config: Mapping[str, Any]) -> torch.nn.Module:
    """A model on the meta device."""
    cls: Any = component_type(library, class_name, "validation", class_name)
    with torch.device("meta"):
        if library == "transformers":
            return cls(cls.config_class.from_dict(dict(config))).eval()
        return cls.from_config(dict(config)).eval()


def from_catalog(model_id: str, component: str) -> torch.nn.Module:
    """A component of a model of the catalog."""
    entry = catalog.find(model_id)
    if entry is None:
        raise SystemExit(f"{model_id} is not in the catalog")
    part = entry.components[component]
    return build(part.library, part.class_name, part.config)


def counted(module: torch.nn.Module, *args: Any, **kwargs: Any) -> Counted:
    """Count one forward with both counters, and each layer by its path.

    Raises:
        SystemExit: the counters differ, or the layers do not add up to the count.
    """
    name = type(module).__name__
    modules: Counter[str] = Counter()
    deepcache: Counter[str] = Counter()
    handles = []
    for path, layer in module.named_modules():
        if isinstance(layer, (torch.nn.Linear, ConvNd, torch.nn.GroupNorm, torch.nn.LayerNorm)):

            def note(layer: Any, args: Any, kwargs: Any, output: Any, path: str = path) -> None:
                inputs = args or tuple(kwargs.values())
                found = module_macs(layer, inputs, output)
                products = found[1] if found is not None else 0
                if isinstance(layer, (torch.nn.Linear, ConvNd)):
                    modules[path] += products
                deepcache[path] += deepcache_operations(layer, products, inputs[0], output)

            handles.append(layer.register_forward_hook(note, with_kwargs=True))
    count = TwinCounts(module).get("forward", freeze(args, kwargs)).count
    for handle in handles:
        handle.remove()
    if count.differences or count.unknown:
        raise SystemExit(f"{name}: the two counters differ: {count.differences} {count.unknown}")
    if sum(modules.values()) != count.matmul_macs_without_attention:
        raise SystemExit(f"{name}: its layers do not add up to its count")
    return Counted(sum(p.numel() for p in module.parameters()), count, modules, deepcache)


# the models ----------------------------------------------------------------------------------------------------------

SD14 = "CompVis/stable-diffusion-v1-4"


@functools.cache
def sd_unet(model_id: str, latent: int = 64, width: int = 768) -> Counted:
    unet = from_catalog(model_id, "unet")
    return counted(unet, meta(1, 4, latent, latent), STEP, encoder_hidden_states=meta(1, 77, width))


@functools.cache
def sd_text_encoder() -> Counted:
    return counted(from_catalog(SD14, "text_encoder"), input_ids=torch.zeros(1, 77, dtype=torch.long))


@functools.cache
def sd_decoder() -> Counted:
    return counted(from_catalog(SD14, "vae").decoder, meta(1, 4, 64, 64))  # type: ignore[arg-type]


@functools.cache
def sdxl_unet() -> Counted:
    unet = from_catalog("stabilityai/stable-diffusion-xl-base-1.0", "unet")
    added = {"text_embeds": meta(1, 1280), "time_ids": meta(1, 6)}
    latents = meta(1, 4, 128, 128)
    return counted(unet, latents, STEP, encoder_hidden_states=meta(1, 77, 2048), added_cond_kwargs=added)


@functools.cache
def svd_unet(frames: int) -> Counted:
    unet = from_catalog("stabilityai/stable-video-diffusion-img2vid-xt", "unet")
    latents = meta(1, frames, 8, 72, 128)
    return counted(unet, latents, STEP, encoder_hidden_states=meta(1, 1, 1024), added_time_ids=meta(1, 3))


# CompVis/latent-diffusion, configs/latent-diffusion/cin256-v2.yaml: model_channels 192, mult 1-2-3-5, attention at
# factors 8, 4 and 2 with one head, class embedding of 512 as context
LDM4 = {
    "sample_size": 64,
    "in_channels": 3,
    "out_channels": 3,
    "block_out_channels": (192, 384, 576, 960),
    "layers_per_block": 2,
    "down_block_types": ("DownBlock2D", *("CrossAttnDownBlock2D",) * 3),
    "up_block_types": (*("CrossAttnUpBlock2D",) * 3, "UpBlock2D"),
    "cross_attention_dim": 512,
    "attention_head_dim": 1,
}


@functools.cache
def ldm4() -> Counted:
    unet = build("diffusers", "UNet2DConditionModel", LDM4)
    return counted(unet, meta(1, 3, 64, 64), STEP, encoder_hidden_states=meta(1, 1, 512))


# google/ddpm-ema-church-256 and google/ddpm-ema-bedroom-256, unet/config.json
CHURCH = {
    "sample_size": 256,
    "block_out_channels": (128, 128, 256, 256, 512, 512),
    "down_block_types": (*("DownBlock2D",) * 4, "AttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "AttnUpBlock2D", *("UpBlock2D",) * 4),
    "attention_head_dim": None,
    "downsample_padding": 0,
    "flip_sin_to_cos": False,
    "freq_shift": 1,
    "norm_eps": 1e-6,
}


@functools.cache
def ddpm(name: str, quarters: int = 4) -> Counted:
    """A DDPM U-Net, with ``quarters`` quarters of its channels."""
    entry = catalog.find("google/ddpm-cifar10-32")
    config = CHURCH if name == "church" or entry is None else entry.components["unet"].config
    channels = tuple(channels * quarters // 4 for channels in config["block_out_channels"])  # type: ignore[attr-defined]
    size = int(config["sample_size"])  # type: ignore[call-overload]
    unet = build("diffusers", "UNet2DModel", {**config, "block_out_channels": channels})
    return counted(unet, meta(1, 3, size, size), STEP)


# openai/guided-diffusion, README, 256x256_diffusion: attention_resolutions 32,16,8, class_cond, learn_sigma,
# num_channels 256, num_head_channels 64, num_res_blocks 2, resblock_updown, use_scale_shift_norm; the block types are
# those of diffusers' scripts/convert_consistency_to_diffusers.py for the same network
ADM = {
    "sample_size": 256,
    "out_channels": 6,
    "layers_per_block": 2,
    "block_out_channels": (256, 256, 512, 512, 1024, 1024),
    "down_block_types": (*("ResnetDownsampleBlock2D",) * 3, *("AttnDownBlock2D",) * 3),
    "up_block_types": (*("AttnUpBlock2D",) * 3, *("ResnetUpsampleBlock2D",) * 3),
    "attention_head_dim": 64,
    "resnet_time_scale_shift": "scale_shift",
    "downsample_type": "resnet",
    "upsample_type": "resnet",
    "num_class_embeds": 1000,
}


@functools.cache
def adm_with_classifier() -> int:
    """ADM's U-Net and the forward of its classifier, which is the encoder half of such a U-Net at half the width."""
    all_norms = ("",)  # all of guided-diffusion's are of its class GroupNorm32
    unet = counted(build("diffusers", "UNet2DModel", ADM), meta(1, 3, 256, 256), STEP, class_labels=STEP)
    unet = unet.deepcache(all_norms)
    half = {**ADM, "block_out_channels": (128, 128, 256, 256, 512, 512), "num_class_embeds": None, "out_channels": 3}
    classifier = counted(build("diffusers", "UNet2DModel", half), meta(1, 3, 256, 256), STEP).deepcache(all_norms)
    return unet.weights + classifier.part("conv_in", "time_embedding", "down_blocks", "mid_block")


# DiT, arXiv:2212.09748, table 1: layers, heads, width of a head; the rest as in diffusers'
# scripts/convert_dit_to_diffusers.py
DIT = {"S": (12, 6, 64), "B": (12, 12, 64), "L": (24, 16, 64), "XL": (28, 16, 72)}


@functools.cache
def dit(size: str, patch: int) -> Counted:
    layers, heads, width = DIT[size]
    config = {
        "sample_size": 32,
        "num_layers": layers,
        "num_attention_heads": heads,
        "attention_head_dim": width,
        "patch_size": patch,
        "in_channels": 4,
        "out_channels": 8,
        "attention_bias": True,
        "activation_fn": "gelu-approximate",
        "num_embeds_ada_norm": 1000,
        "norm_type": "ada_norm_zero",
        "norm_elementwise_affine": False,
    }
    model = build("diffusers", "DiTTransformer2DModel", config)
    return counted(model, meta(1, 4, 32, 32), timestep=STEP, class_labels=STEP)


@functools.cache
def pixart(model_id: str, tokens: int) -> Counted:
    transformer = from_catalog(model_id, "transformer")
    return counted(
        transformer,
        meta(1, 4, 128, 128),
        encoder_hidden_states=meta(1, tokens, 4096),
        timestep=STEP,
        encoder_attention_mask=torch.ones(1, tokens),
        added_cond_kwargs={"resolution": meta(1, 2), "aspect_ratio": meta(1, 1)},
    )


@functools.cache
def flux() -> Counted:
    return counted(
        from_catalog("black-forest-labs/FLUX.1-dev", "transformer"),
        hidden_states=meta(1, 4096, 64),
        encoder_hidden_states=meta(1, 512, 4096),
        pooled_projections=meta(1, 768),
        timestep=meta(1),
        img_ids=torch.zeros(4096, 3),
        txt_ids=torch.zeros(512, 3),
        guidance=meta(1),
    )


@functools.cache
def sana(model_id: str) -> Counted:
    transformer = from_catalog(model_id, "transformer")
    return counted(transformer, meta(1, 32, 32, 32), encoder_hidden_states=meta(1, 300, 2304), timestep=STEP)


# schedules of methods that skip work ---------------------------------------------------------------------------------


#: the different schedules that figures rest on, for the page's summary
SCHEDULES: set[tuple[str, int, int, int]] = set()


def shallow(unet: Counted, down: int, up: int, blocks: int) -> int:
    """A forward of DeepCache that reuses its cache: of a U-Net of ``blocks`` levels only the outermost level runs,
    with its first ``down`` pairs of residual block and attention on the way down and its last ``up`` of three on the
    way up, and what comes before and after all levels.
    """
    last = f"up_blocks.{blocks - 1}"
    return (
        unet.part("conv_in", "time_embedding", "add_embedding", "conv_norm_out", "conv_out", "time_proj")
        + sum(unet.part(f"down_blocks.0.{kind}.{i}.") for kind in ("resnets", "attentions") for i in range(down))
        + sum(unet.part(f"{last}.{kind}.{2 - i}.") for kind in ("resnets", "attentions") for i in range(up))
    )


def cached_average(unet: Counted, calls: int, interval: int, down: int, up: int, blocks: int) -> int:
    """Average forward over ``calls`` calls of which every ``interval``-th, from the first on, is a full one."""
    SCHEDULES.add(("cache", unet.params, calls, interval))
    full = -(-calls // interval)
    return round((full * unet.weights + (calls - full) * shallow(unet, down, up, blocks)) / calls)


def tgate(unet: Counted, steps: int, gate: int) -> int:
    """T-GATE over a whole image: ``gate`` guided steps, then steps without guidance and without cross-attention."""
    SCHEDULES.add(("tgate", unet.params, steps, gate))
    return gate * 2 * unet.weights + (steps - gate) * (unet.weights - unet.cross_attention)


def deepcache_and_tgate(unet: Counted, steps: int, interval: int, gate: int) -> int:
    """Both over a whole image: every ``interval``-th step is full, and after ``gate`` steps guidance and
    cross-attention are left out. The cached branch of SDXL has no cross-attention.
    """
    SCHEDULES.add(("cache and tgate", unet.params, steps, gate))
    light, total = shallow(unet, 1, 2, 3), 0
    for step in range(steps):
        full, guided = step % interval == 0, step < gate
        once = unet.weights if full else light
        total += 2 * once if guided else once - (unet.cross_attention if full else 0)
    return total


def mlperf_cut(model_id: str) -> tuple[int, int]:
    """All products of SD 1.5's U-Net in the two parts that MLPerf Mobile runs.

    The first part's 447,042,560 parameters are those up to the second residual block of the first level on the way up.

    Raises:
        SystemExit: they are not, or attention does not add up to what both counters found.
    """
    first = (
        "conv_in",
        "time_embedding",
        "down_blocks",
        "mid_block",
        "up_blocks.0.resnets.0.",
        "up_blocks.0.resnets.1.",
    )
    unet = from_catalog(model_id, "unet")
    attention: Counter[bool] = Counter()
    for path, module in unet.named_modules():
        if path.endswith((".attn1", ".attn2")):

            def note(module: Any, args: Any, kwargs: Any, early: bool = path.startswith(first)) -> None:
                queries, context = args[0], kwargs.get("encoder_hidden_states")
                keys = queries if context is None else context
                attention[early] += 2 * queries.shape[1] * keys.shape[1] * module.inner_dim

            module.register_forward_pre_hook(note, with_kwargs=True)
    arguments = freeze((meta(1, 4, 64, 64), STEP), {"encoder_hidden_states": meta(1, 77, 768)})
    TwinCounts(unet).get("forward", arguments)
    whole = sd_unet(model_id)
    params = sum(p.numel() for name, p in unet.named_parameters() if name.startswith(first))
    if params != 447_042_560 or attention.total() != whole.count.by_class["attention"]:
        raise SystemExit("MLPerf's cut of the U-Net is somewhere else")
    early = whole.part(*first) + attention[True]
    return early, whole.products - early


# figure by figure ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Answer:
    """What diffmeter says to a figure.

    Attributes:
        value: in the figure's unit and convention.
        remark: what was counted where that is not plain, and why the figures differ where they do.
        nearest: the model behind the figure is not public; ``value`` is that of the nearest one that is, which
            validates nothing.
        fitted: an input that is not published was chosen so that the figure is met, which validates nothing either.
        unexplained: why the figures differ is not known.
    """

    value: int
    remark: str = ""
    nearest: bool = False
    fitted: bool = False
    unexplained: bool = False


LDM_CACHE = "cached steps run only the last residual block of the outermost level and the first and last convolution"
DDPM_CACHE = "cached steps run the outermost level without its resampling"
PRUNED = (
    "the pruned checkpoint's layer widths are not published as a configuration; shown is the same U-Net with three "
    "quarters of the channels, which is close and proves nothing"
)
REPEATED = "diffusers repeats the small timestep embedder in every block, DiT's own code has it once"
#: latent-diffusion has the normalizations of its residual blocks in a class of its own, GroupNorm32
LDM_NORMS = (".resnets.", "conv_norm_out")
MLPERF = (
    "the tool is not stated, and the figure is above all products of this network (shown), so it "
    "counts more than products, or another graph (the networks were converted for phones); which, is not known"
)


def answers() -> dict[str, Callable[[], Answer]]:
    """How each figure is counted, by its id."""
    sd15 = "stable-diffusion-v1-5/stable-diffusion-v1-5"
    base, small, tiny = (f"nota-ai/bk-sdm-{size}" for size in ("base", "small", "tiny"))
    rest = lambda: sd_text_encoder().thop + sd_decoder().thop  # noqa: E731
    found: dict[str, Callable[[], Answer]] = {
        "bk-sd14-unet": lambda: Answer(sd_unet(SD14).thop),
        "bk-sd14-text": lambda: Answer(sd_text_encoder().thop),
        "bk-sd14-decoder": lambda: Answer(sd_decoder().thop),
        "bk-sd14-total": lambda: Answer(sd_unet(SD14).thop + rest()),
        "bk-base-unet": lambda: Answer(sd_unet(base).thop),
        "bk-base-total": lambda: Answer(sd_unet(base).thop + rest()),
        "dc-sd15-50": lambda: Answer(sd_unet(sd15).deepcache().weights),
        "dc-sd15-25": lambda: Answer(
            round(sd_unet(sd15).deepcache().weights * 25 / 50), "25 forwards divided by the 50 steps of the other rows"
        ),
        "dc-bk-base": lambda: Answer(sd_unet(base).deepcache().weights),
        "dc-bk-small": lambda: Answer(sd_unet(small).deepcache().weights),
        "dc-bk-tiny": lambda: Answer(sd_unet(tiny).deepcache().weights),
        "dc-sd15-n5": lambda: Answer(
            cached_average(sd_unet(sd15).deepcache(), calls=51, interval=5, down=2, up=2, blocks=4),
            "51 calls of PLMS, 11 of them full. The branch is not identified: the one shown comes nearest, two pairs "
            "of the outermost level down and two up, and the published code cannot reach it",
            fitted=True,
        ),
        "dc-ldm4": lambda: Answer(ldm4().deepcache(LDM_NORMS).weights),
        "dc-adm-g": lambda: Answer(adm_with_classifier(), "ADM's U-Net and one forward of its classifier"),
        "dc-cifar": lambda: Answer(ddpm("cifar").deepcache().weights),
        "dc-church": lambda: Answer(ddpm("church").deepcache().weights),
        "dc-diffpruning-cifar": lambda: Answer(ddpm("cifar", 3).deepcache().weights, PRUNED, nearest=True),
        "dc-diffpruning-church": lambda: Answer(ddpm("church", 3).deepcache().weights, PRUNED, nearest=True),
        "2ndm-ldm4": lambda: Answer(ldm4().weights),
        "l2c-dit-user": lambda: Answer(50 * 2 * dit("XL", 2).thop, "50 steps, each with and without the class"),
        "l2c-dit-paper": lambda: Answer(50 * dit("XL", 2).thop, "input: 50 forwards, guidance left out"),
        "tg-sd15": lambda: Answer(25 * 2 * sd_unet(sd15).weights),
        "tg-sdxl": lambda: Answer(25 * 2 * sdxl_unet().weights),
        "tg-pixart-alpha": lambda: Answer(25 * 2 * pixart("PixArt-alpha/PixArt-XL-2-1024-MS", 120).weights),
        "tg-pixart-sigma": lambda: Answer(25 * 2 * pixart("PixArt-alpha/PixArt-Sigma-XL-2-1024-MS", 300).weights),
        "tg-deepcache-sdxl": lambda: Answer(
            25 * 2 * cached_average(sdxl_unet(), calls=25, interval=3, down=1, up=2, blocks=3),
            "9 of 25 steps full; cached ones run one pair of the outermost level down and two up",
        ),
        "tg-sd15-m5": lambda: Answer(tgate(sd_unet(sd15), 25, 5), "20 steps without guidance and cross-attention"),
        "tg-sd21-m5": lambda: Answer(
            tgate(sd_unet("stabilityai/stable-diffusion-2-1", latent=96, width=1024), 25, 5),
            "20 steps without guidance and cross-attention, at 768 x 768 (the model's own size; none is printed)",
        ),
        "tg-sdxl-m5": lambda: Answer(tgate(sdxl_unet(), 25, 5), "20 steps without guidance and cross-attention"),
        "tg-svd": lambda: Answer(25 * 2 * svd_unet(25).weights, "25 frames of 1024 x 576 (none is printed)"),
        "sana-f32": lambda: Answer(
            sana("Efficient-Large-Model/Sana_600M_1024px_diffusers").products,
            "input: the ablation's depth and width are not published; shown is Sana-0.6B (all products). Sana-1.6B "
            f"takes {tera(sana('Efficient-Large-Model/Sana_1600M_1024px_diffusers').products)} T: "
            "the figure lies between",
            nearest=True,
        ),
        "tgd-sd21": lambda: Answer(25 * 2 * sd_unet("stabilityai/stable-diffusion-2-1", 96, 1024).weights),
        "tgd-pixart-gate": lambda: Answer(
            tgate(pixart("PixArt-alpha/PixArt-XL-2-1024-MS", 120), 25, 8),
            "8 guided steps, as the page's example has it",
        ),
        "tgd-lcm-sdxl": lambda: Answer(4 * sdxl_unet().weights, "4 steps, one forward each"),
        "tgd-lcm-pixart": lambda: Answer(
            4 * pixart("PixArt-alpha/PixArt-XL-2-1024-MS", 120).weights, "4 steps, one forward each"
        ),
        "tgd-deepcache-gate": lambda: Answer(
            deepcache_and_tgate(sdxl_unet(), steps=25, interval=3, gate=13),
            "every third step full; the page's example has 10 guided steps, which gives "
            f"{tera(deepcache_and_tgate(sdxl_unet(), steps=25, interval=3, gate=10))} T: the 13 of the answer are "
            "read off the figure",
            fitted=True,
        ),
        "cd-flux": lambda: Answer(2 * 50 * flux().products, "50 forwards with attention; the page names no counter"),
        "mlperf-text": lambda: Answer(sd_text_encoder().products, MLPERF, unexplained=True),
        "mlperf-decoder": lambda: Answer(
            sd_decoder().products + 4 * 4 * 64 * 64,
            unexplained=True,
            remark=MLPERF
            + ". The 20 parameters more than in BK-SDM's decoder are the convolution before it, counted here too",
        ),
    }
    for size in DIT:
        for patch in (8, 4, 2):
            found[f"dit-{size.lower()}-{patch}"] = functools.partial(
                lambda size, patch: Answer(dit(size, patch).products, REPEATED if patch == 8 else ""), size, patch
            )
    for interval in (2, 3, 5, 10, 20):
        found[f"dc-ldm4-n{interval}"] = functools.partial(
            lambda n: Answer(cached_average(ldm4().deepcache(LDM_NORMS), 250, n, down=0, up=1, blocks=4), LDM_CACHE),
            interval,
        )
    for name, blocks, intervals in (("cifar", 4, (2, 3, 5, 10)), ("church", 6, (2, 3, 5))):
        for interval in intervals:
            found[f"dc-{name}-n{interval}"] = functools.partial(
                lambda name, blocks, n: Answer(
                    cached_average(ddpm(name).deepcache(), 100, n, 2, 3, blocks), DDPM_CACHE
                ),
                name,
                blocks,
                interval,
            )
    for steps in (50, 25, 20, 15, 10):
        found[f"flux-{steps}"] = functools.partial(lambda steps: Answer(2 * steps * flux().weights), steps)
    # The two parts' parameters say where the network was cut; see mlperf_cut.
    found["mlperf-unet1"] = lambda: Answer(mlperf_cut(sd15)[0], MLPERF, unexplained=True)
    found["mlperf-unet2"] = lambda: Answer(mlperf_cut(sd15)[1], MLPERF, unexplained=True)
    return found


NOT_COUNTED = {
    "dc-iddpm": "The paper does not say which network this is, and improved-diffusion publishes none for ImageNet at "
    "256 x 256, so there is no configuration to build.",
    "dc-spectral": "Spectral Diffusion's network is its authors' own and not published as a configuration.",
    "dc-diffpruning-ldm4": "A pruned checkpoint: its layer widths are not published. The same method at the same "
    "resolution is printed as 43.2 G elsewhere on this page, so there are at least two such checkpoints.",
    "2ndm-diffpruning-ldm4": "A pruned checkpoint: its layer widths are not published.",
    "sana-full": "The ablation's model (depth, width, attention over F8C4P2 latents) is not published.",
    "sana-linear": "The ablation's model is not published.",
    "sana-mix": "The ablation's model is not published.",
}


def tera(value: int) -> str:
    return f"{value / 1e12:.2f}"


# the page ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Outcome:
    """A figure with diffmeter's answer; ``answer`` is None where it cannot be counted."""

    figure: Mapping[str, Any]
    answer: Answer | None
    reason: str = ""

    @property
    def difference(self) -> float:
        """Ours against theirs, relative."""
        return 0.0 if self.answer is None else self.answer.value / self.figure["value"] - 1

    @property
    def verdict(self) -> str:
        if self.answer is None:
            return "not counted"
        if self.answer.nearest:
            return "nearest"
        if self.answer.fitted:
            return "not identified"
        if self.answer.unexplained:
            return "not explained"
        if self.answer.value == self.figure["value"] and self.figure["rounded_to"] == 1:
            return "exact"
        if abs(self.answer.value - self.figure["value"]) * 2 <= self.figure["rounded_to"]:
            return "as printed"
        return "within 1%" if abs(self.difference) <= TOLERANCE else "explained"


def outcomes(figures: list[Mapping[str, Any]]) -> list[Outcome]:
    """Count every figure. Raises SystemExit where one is neither counted nor excused, or off without a reason."""
    known = answers()
    unknown = {*known, *NOT_COUNTED} - {figure["id"] for figure in figures}
    if unknown:
        raise SystemExit(f"answers to no figure: {', '.join(sorted(unknown))}")
    found = []
    for figure in figures:
        if figure["id"] in NOT_COUNTED:
            found.append(Outcome(figure, None, NOT_COUNTED[figure["id"]]))
            continue
        if figure["id"] not in known:
            raise SystemExit(f"{figure['id']} has neither an answer nor a reason")
        outcome = Outcome(figure, known[figure["id"]]())
        if outcome.verdict == "explained" and not outcome.answer.remark:  # type: ignore[union-attr]
            raise SystemExit(f"{figure['id']} is off by {outcome.difference:.2%} without a reason")
        if figure["rounded_to"] == 1 and outcome.verdict != "exact":
            raise SystemExit(f"{figure['id']} was printed in full and is not met: {outcome.answer}")
        found.append(outcome)
    return found


def in_unit(value: int, figure: Mapping[str, Any]) -> str:
    """A number the way the figure is printed, with one more digit."""
    if figure["rounded_to"] == 1:
        return f"{value:,}"
    size, prefix = (10**12, "T") if "T" in figure["printed"] else (10**9, "G")
    digits = len(str(size // figure["rounded_to"]))
    return f"{value / size:,.{digits}f} {prefix}"


def forwards() -> int:
    """How many different forwards were counted."""
    counters = (sd_unet, sd_text_encoder, sd_decoder, sdxl_unet, svd_unet, ldm4, ddpm, dit, pixart, flux, sana)
    return sum(each.cache_info().currsize for each in counters) + 2  # ADM's U-Net and classifier


def page(found: list[Outcome], silent: list[str]) -> str:
    """The page, as Markdown."""
    verdicts = Counter(outcome.verdict for outcome in found)
    agreeing = [o for o in found if o.verdict in ("exact", "as printed", "within 1%")]
    lines = [
        "# Published figures, and diffmeter's",
        "",
        "Written by `python benchmarks/validate.py`; do not edit. The figures and their sources are in "
        "`benchmarks/data/published.json`.",
        "",
        "Papers count in different ways, so each figure is compared in the convention in which it was printed: with "
        "or without the attention products, MACs or 2 x MACs, one forward or a whole guided image. No "
        "count is adjusted: models are built from their published configurations, without weights, and every forward "
        "is counted by both of diffmeter's counters, which must agree to the last integer.",
        "",
        "Inputs that a source does not print are stated in the remark. DeepCache's rows are compared in the "
        "convention of the counter that its authors published: biases and normalizations are in it, attention "
        "products are not. "
        "Which branch of the U-Net their cached steps run is published for LDM-4 (layer 0, block 0) and for DDPM "
        "(branch 2).",
        "",
        f"{len(found)} figures: {verdicts['exact']} met to the last integer, {verdicts['as printed']} equal to "
        f"every digit printed, {verdicts['within 1%']} within 1%, {verdicts['explained']} further off with the reason "
        f"given, {verdicts['not explained']} further off for a reason that is not known, {verdicts['not identified']} "
        f"met only with an input that was chosen for it, {verdicts['nearest']} whose model is not public and of which "
        f"the nearest public one is shown, and {verdicts['not counted']} that cannot be counted. "
        f"The largest difference of the {len(agreeing)} that agree is {max(abs(o.difference) for o in agreeing):.2%}.",
        "",
        f"The figures are not independent of each other: all of them rest on {forwards()} different forwards and "
        f"{len(SCHEDULES)} different schedules of methods that skip work. Most rows of a table repeat a forward with "
        "another number of steps.",
        "",
        "Difference is ours against the printed one. Verdicts: *exact*: equal to the last integer; *as printed*: "
        "equal when rounded as printed; *within 1%*; *explained*: more than 1%, see the remark; *not explained*: more "
        "than 1%, and why is not known; *not identified*: an input that the source does not print was chosen so that "
        "the figure is met; *nearest*: another model, shown for orientation only; *not counted*: see the remark.",
    ]
    groups: dict[tuple[str, str | None], list[Outcome]] = {}
    for outcome in found:
        groups.setdefault((outcome.figure["source"], outcome.figure["url"]), []).append(outcome)
    for (source, url), members in groups.items():
        lines += ["", f"## {source}", ""]
        if url:
            lines += [f"<{url}>", ""]
        conventions = list(dict.fromkeys(m.figure["convention"] for m in members))
        lines += ["Convention: " + "; or: ".join(conventions) + ".", ""]
        lines += ["| Figure | Input | Printed | Ours | Difference | Verdict | Remark |"]
        lines += ["| --- | --- | ---: | ---: | ---: | --- | --- |"]
        for outcome in members:
            lines.append("| " + " | ".join(cells(outcome)) + " |")
    lines += [
        "",
        "## Models for which no compute figure was found",
        "",
        "Searched, and either only parameters or times are printed or the table could not be reached: "
        + "; ".join(silent)
        + ".",
        "",
        "## Conditions",
        "",
        f"torch {torch.__version__}, diffusers {diffusers.__version__}, transformers {transformers.__version__}, "
        f"{thop_distribution()}; meta device, batch 1.",
        "",
    ]
    return "\n".join(lines)


def cells(outcome: Outcome) -> list[str]:
    figure, answer = outcome.figure, outcome.answer
    resolution, steps = figure["resolution"], figure["steps"]
    size = f"{resolution} x {resolution}" if str(resolution).isdigit() else resolution
    parts = [size, f"{steps} steps" if steps not in ("1", "-", None) else None, figure["batch"]]
    remark = outcome.reason if answer is None else answer.remark
    note = figure["note"]
    return [
        escaped(text)
        for text in (
            figure["model"],
            ", ".join(part for part in parts if part and part != "-"),
            figure["printed"],
            "" if answer is None else in_unit(answer.value, figure),
            "" if answer is None else f"{outcome.difference:+.2%}" if outcome.verdict != "exact" else "0",
            outcome.verdict,
            "; ".join(text for text in (remark, note) if text),
        )
    ]


def escaped(text: str) -> str:
    return text.replace("|", "\\|").replace("*", "\\*").replace("_", "\\_")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; fail if the page is not up to date")
    check = parser.parse_args().check
    data = json.loads(DATA.read_text(encoding="utf-8"))
    found = outcomes(data["figures"])
    text = page(found, data["no_figure_found"])
    for outcome in found:
        ours = "" if outcome.answer is None else in_unit(outcome.answer.value, outcome.figure)
        off = "" if outcome.answer is None else f"{outcome.difference:+.3%}"
        print(f"{outcome.figure['id']:24} {outcome.figure['printed']:>28} {ours:>24} {off:>9}  {outcome.verdict}")
    if not check:
        PAGE.parent.mkdir(exist_ok=True)
        PAGE.write_text(text, encoding="utf-8")
        print(f"written: {PAGE}")
    elif not PAGE.is_file() or PAGE.read_text(encoding="utf-8") != text:
        sys.exit(f"{PAGE} is not what this script writes now: run it without --check.")


if __name__ == "__main__":
    main()
