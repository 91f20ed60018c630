"""PyTorch's built-in FLOP counters on three shapes of model: a ResNet-18, a vision transformer and a UNet.

Run it with ``python examples/builtin_counters.py``; it needs no weights and no network, and takes a few seconds.
The models are small modules of the well-known shapes, with random weights.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

sys.path.append(str(Path(__file__).resolve().parent.parent / "src"))  # a checkout that is not installed works too

from diffmeter.metering.builtin import compare_counters, count_flops, profile_with_flops
from diffmeter.units import format_count, format_params, format_ratio


class ResidualBlock(nn.Module):
    """Two 3 x 3 convolutions with a shortcut."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(outputs)
        self.second = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(outputs)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm2(self.second(F.relu(self.norm1(self.first(x)))))
        return F.relu(y + self.shortcut(x))


class ResNet18(nn.Module):
    """The layers of ResNet-18 (He et al. 2015, table 1): 11,689,512 parameters."""

    def __init__(self, classes: int = 1000) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64), nn.ReLU(),
                                  nn.MaxPool2d(3, 2, 1))  # fmt: skip
        blocks, width = [], 64
        for stage, outputs in enumerate((64, 128, 256, 512)):
            blocks += [ResidualBlock(width, outputs, 2 if stage else 1), ResidualBlock(outputs, outputs, 1)]
            width = outputs
        self.blocks = nn.Sequential(*blocks)
        self.head = nn.Linear(512, classes)

    def forward(self, image: Tensor) -> Tensor:
        logits: Tensor = self.head(self.blocks(self.stem(image)).mean((2, 3)))
        return logits


class SelfAttention(nn.Module):
    """Multi-head attention over all tokens, or over square windows of them."""

    def __init__(self, width: int, heads: int, window: int | None = None) -> None:
        super().__init__()
        self.heads, self.window = heads, window
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        if self.window is None:
            return self.attend(x)
        # (B, S*S, C) -> (B * windows, w*w, C) and back; the last windows of a side are padded, as in Segment Anything
        batch, tokens, width = x.shape
        side, w = round(tokens**0.5), self.window
        n = -(-side // w)
        padded = F.pad(x.view(batch, side, side, width), (0, 0, 0, n * w - side, 0, n * w - side))
        grid = padded.view(batch, n, w, n, w, width).transpose(2, 3)
        seen = self.attend(grid.reshape(-1, w * w, width))
        whole = seen.view(batch, n, n, w, w, width).transpose(2, 3).reshape(batch, n * w, n * w, width)
        return whole[:, :side, :side].reshape(batch, tokens, width)

    def attend(self, x: Tensor) -> Tensor:
        batch, tokens, width = x.shape
        q, k, v = self.qkv(x).view(batch, tokens, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        seen = F.scaled_dot_product_attention(q, k, v)
        result: Tensor = self.out(seen.transpose(1, 2).reshape(batch, tokens, width))
        return result


class EncoderBlock(nn.Module):
    """Attention and a feed-forward network of four times the width."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1, self.attention = nn.LayerNorm(width), SelfAttention(width, heads)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.norm1(x))
        result: Tensor = x + self.mlp(self.norm2(x))
        return result


class VisionTransformer(nn.Module):
    """The layers of ViT-B/16 by default (Dosovitskiy et al. 2020): 86,567,656 parameters."""

    def __init__(self, size: int = 224, patch: int = 16, width: int = 768, depth: int = 12, heads: int = 12,
                 classes: int = 1000) -> None:  # fmt: skip
        super().__init__()
        self.patches = nn.Conv2d(3, width, patch, patch)
        self.class_token = nn.Parameter(torch.zeros(1, 1, width))
        self.positions = nn.Parameter(torch.zeros(1, (size // patch) ** 2 + 1, width))
        self.blocks = nn.Sequential(*(EncoderBlock(width, heads) for _ in range(depth)))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, classes)

    def forward(self, image: Tensor) -> Tensor:
        tokens = self.patches(image).flatten(2).transpose(1, 2)
        x = torch.cat((self.class_token.expand(len(tokens), -1, -1), tokens), 1) + self.positions
        logits: Tensor = self.head(self.norm(self.blocks(x))[:, 0])
        return logits


def vit_closed_form(size: int, patch: int, width: int, depth: int, classes: int) -> dict[str, int]:
    """FLOPs of :class:`VisionTransformer` by operator class, for one image, from its sizes alone."""
    patches = (size // patch) ** 2
    tokens = patches + 1
    layer = 2 * tokens * width * (3 * width + width + 8 * width)  # packed projections, output, feed-forward network
    return {
        "convolution": 2 * patches * width * 3 * patch * patch,
        "matrix product": depth * layer + 2 * width * classes,
        "attention": depth * 2 * (2 * tokens * tokens * width),
    }


class UNet(nn.Module):
    """Convolutions down and up with skip connections, attention at the bottom; a tuple goes in, a dictionary out."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.enter = nn.Conv2d(4, width, 3, padding=1)
        self.down = nn.Conv2d(width, 2 * width, 3, 2, 1)
        self.attention = SelfAttention(2 * width, 4)
        self.time = nn.Linear(1, 2 * width)
        self.up = nn.ConvTranspose2d(2 * width, width, 2, 2)
        self.leave = nn.Conv2d(2 * width, 4, 3, padding=1)

    def forward(self, sample: Tensor, timestep: Tensor) -> dict[str, Tensor]:
        top = F.silu(self.enter(sample))
        bottom = F.silu(self.down(top)) + self.time(timestep[:, None])[:, :, None, None]
        tokens = bottom.flatten(2).transpose(1, 2)
        bottom = bottom + self.attention(tokens).transpose(1, 2).view_as(bottom)
        return {"sample": self.leave(torch.cat((self.up(bottom), top), 1))}


def meta(build: type[nn.Module], *args: int) -> nn.Module:
    """A model without memory: enough for counting."""
    with torch.device("meta"):
        return build(*args)


def main() -> None:
    image = torch.empty(1, 3, 224, 224, device="meta")
    sample = (torch.randn(1, 4, 32, 32), torch.zeros(1))
    print("== Forward, and forward + backward, of one input")
    shapes = (
        ("ResNet-18, 224 x 224", meta(ResNet18), image),
        ("ViT-B/16, 224 x 224", meta(VisionTransformer), image),
        ("UNet, 4 x 32 x 32", UNet(), sample),
    )
    for name, model, inputs in shapes:
        params = format_params(sum(p.numel() for p in model.parameters()))
        forward, both = count_flops(model, inputs), count_flops(model, inputs, with_backward=True)
        print(f"  {name:22s}{params:>9s} params  {format_count(forward, 'FLOPs'):>14s}  "
              f"{format_count(both, 'FLOPs'):>14s}  ({format_ratio(both / forward)})")  # fmt: skip

    print("\n== Every counter on one vision transformer (32 x 32 image, patches of 4, width 64, 2 layers)")
    small = VisionTransformer(32, 4, 64, 2, 4, 10)
    result = compare_counters(small, torch.randn(1, 3, 32, 32), closed_form=vit_closed_form(32, 4, 64, 2, 10))
    for counter, classes in result.flops.items():
        print(f"  {counter:28s}" + "".join(f"{k} {v:>10,}   " for k, v in classes.items()))
    for sentence in result.differences:
        print(f"  - {sentence}")

    print("\n== Where the FLOPs and the time of the UNet go (torch.profiler beside the exact count)")
    print(profile_with_flops(UNet(), sample, display=False).table(8))

    print("\n== Scaling: attention over all tokens against windows of 14 x 14")
    for side in (14, 28, 56, 64, 70):  # 64 x 64 takes 25 windows
        tokens = torch.empty(1, side * side, 64, device="meta")
        with torch.device("meta"):
            whole, windowed = SelfAttention(64, 4), SelfAttention(64, 4, window=14)
        a, b = count_flops(whole, tokens), count_flops(windowed, tokens)
        print(f"  {side:3d} x {side:<3d} tokens  all {format_count(a, 'FLOPs'):>14s}  windows "
              f"{format_count(b, 'FLOPs'):>14s}  {format_ratio(a / b)}")  # fmt: skip


if __name__ == "__main__":
    main()
