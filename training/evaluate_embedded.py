"""Ask the embedded model for images it has never been trained on, and judge them by their pixels.

    python training/evaluate_embedded.py                          # 200 held-out prompts
    python training/evaluate_embedded.py --count 36 --grid grid.png

No trained network judges anything. A pixel belongs to the nearest of the eight colors or to the background (gray);
an object is a connected area of its color; its shape is the template that overlaps it best when placed and scaled to
fit; a relation is read off the centers of the two areas.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from shapes_data import COLORS, SHAPES, Scene, describe, sample_held_out_scene, shape_coverage

if TYPE_CHECKING:
    from PIL.Image import Image

MODEL = Path(__file__).resolve().parent.parent / "src" / "diffmeter" / "embedded" / "shapes"
STEPS = 25
GUIDANCE = 3.0

LEAST_AREA = 24  # pixels of an object
LEAST_PURITY = 0.8  # part of all colored pixels that the named colors must hold
LEAST_OVERLAP = 0.7  # intersection over union with the named shape
LEAST_DISTANCE = 4.0  # pixels between the centers, along the axis of the relation
TARGETS = {"color": 0.95, "shape": 0.85, "relation": 0.75}

_NAMES = tuple(COLORS)
_PALETTE = np.array(list(COLORS.values()), dtype=np.float32)
BACKGROUND, UNSURE = -1, -2


@dataclass(frozen=True)
class Verdict:
    """What one image shows of what its prompt named. ``relation`` is None for one object."""

    prompt: str
    colors: tuple[bool, ...]
    shapes: tuple[bool, ...]
    relation: bool | None
    seen: tuple[str, ...]

    @property
    def right(self) -> bool:
        """Everything named is there."""
        return all(self.colors) and all(self.shapes) and self.relation is not False


def nearest_colors(image: np.ndarray) -> np.ndarray:
    """Index into COLORS of each pixel of ``(h, w, 3)`` uint8, or BACKGROUND where a gray is nearer than any color."""
    pixels = image.astype(np.float32)
    to_colors = np.linalg.norm(pixels[:, :, None] - _PALETTE, axis=-1)
    to_gray = np.linalg.norm(pixels - pixels.mean(axis=-1, keepdims=True), axis=-1)
    return np.where(to_gray < to_colors.min(axis=-1), BACKGROUND, to_colors.argmin(axis=-1))


def solid_colors(labels: np.ndarray) -> np.ndarray:
    """Labels that at least five of the nine pixels around share; UNSURE elsewhere (the soft edges of objects)."""
    padded = np.pad(labels, 1, mode="edge")
    height, width = labels.shape
    same = sum((padded[dy : dy + height, dx : dx + width] == labels).astype(int) for dy in range(3) for dx in range(3))
    return np.where(same >= 5, labels, UNSURE)


def areas(mask: np.ndarray) -> list[np.ndarray]:
    """The 4-connected areas of a boolean mask, largest first."""
    number = np.where(mask, np.arange(1, mask.size + 1).reshape(mask.shape), 0)
    while True:
        # Every pixel takes the largest number among itself and its neighbors, until each area has one number.
        padded = np.pad(number, 1)
        spread = np.max([number, padded[:-2, 1:-1], padded[2:, 1:-1], padded[1:-1, :-2], padded[1:-1, 2:]], axis=0)
        spread = np.where(mask, spread, 0)
        if np.array_equal(spread, number):
            break
        number = spread
    found, sizes = np.unique(number[mask], return_counts=True)
    return [number == name for name in found[np.argsort(-sizes)]]


def box(mask: np.ndarray) -> tuple[int, int, int, int]:
    """Left, top, right, bottom (the last two exclusive) of a mask that is not empty."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


@lru_cache
def _unit_box(shape: str) -> tuple[float, float, float, float]:
    """The box around a shape of radius 1: center x, center y (downwards), width, height."""
    size, radius = 256, 100.0
    cover = shape_coverage(shape, np.array([size / 2]), np.array([size / 2]), np.array([radius]), size)[0] > 0.5
    left, top, right, bottom = (edge / radius for edge in box(cover))
    middle = size / 2 / radius
    return (left + right) / 2 - middle, (top + bottom) / 2 - middle, right - left, bottom - top


def overlap(mask: np.ndarray, shape: str) -> float:
    """The best intersection over union of a square mask with the shape, scaled and placed to fit the mask's box."""
    left, top, right, bottom = box(mask)
    center_x, center_y, width, height = _unit_box(shape)
    radius = ((right - left) / width + (bottom - top) / height) / 2
    tries = [(f * radius, dx, dy) for f in (0.92, 1.0, 1.08) for dx in (-1, 0, 1) for dy in (-1, 0, 1)]
    radii, shift_x, shift_y = (np.array(column) for column in zip(*tries, strict=True))
    x = (left + right) / 2 - center_x * radii + shift_x
    y = (top + bottom) / 2 - center_y * radii + shift_y
    template = shape_coverage(shape, x, y, radii, mask.shape[0]) > 0.5
    union = (template | mask).sum(axis=(1, 2))
    return float(((template & mask).sum(axis=(1, 2)) / union).max())


def best_shape(mask: np.ndarray) -> tuple[str, float]:
    """The shape that overlaps the mask best, and by how much."""
    return max(((shape, overlap(mask, shape)) for shape in SHAPES), key=lambda pair: pair[1])


def center(mask: np.ndarray) -> tuple[float, float]:
    """Mean x and y of a mask that is not empty."""
    rows, columns = np.nonzero(mask)
    return float(columns.mean()), float(rows.mean())


def relation_holds(first: tuple[float, float], second: tuple[float, float], relation: str) -> bool:
    """Whether "first relation second" is true of two centers, and more true than any relation along the other axis."""
    dx, dy = second[0] - first[0], second[1] - first[1]
    along, across = {"left of": (dx, dy), "right of": (-dx, dy), "above": (dy, dx), "below": (-dy, dx)}[relation]
    return along >= LEAST_DISTANCE and along > abs(across)


def _find(labels: np.ndarray, solid: np.ndarray, colors: Sequence[int], index: int) -> np.ndarray | None:
    """The area of object ``index``: where its color is solid, with its soft edges. None if there is no such area."""
    color = colors[index]
    same = [area for area in areas(solid == color) if area.sum() >= LEAST_AREA]
    rank = colors[:index].count(color)  # of two objects of one color, the second is the next largest area
    if len(same) <= rank:
        return None
    others = np.isin(solid, [other for other in colors if other != color])
    if colors.count(color) > 1:
        others = others | np.any([area for i, area in enumerate(same) if i != rank] or [others], axis=0)
    for area in areas((labels != BACKGROUND) & ~others):
        if (area & same[rank]).any():
            return area
    return same[rank]


def judge(image: np.ndarray, scene: Scene, prompt: str = "") -> Verdict:
    """Compare an image ``(64, 64, 3)`` uint8 with the scene that its prompt describes."""
    labels = nearest_colors(image)
    solid = solid_colors(labels)
    colors = [_NAMES.index(item.color) for item in scene.items]
    colored = int((solid >= 0).sum())
    pure = colored > 0 and int(np.isin(solid, colors).sum()) >= LEAST_PURITY * colored
    masks = [_find(labels, solid, colors, index) for index in range(len(colors))]
    fits = [best_shape(mask) if mask is not None else ("nothing", 0.0) for mask in masks]
    wanted = [item.shape for item in scene.items]
    # Two objects of one color carry no name: the order that fits the prompt's shapes is the one meant.
    if len(set(colors)) == 1 < len(colors) and [fit[0] for fit in fits[::-1]] == wanted:
        masks, fits = masks[::-1], fits[::-1]
    relation = None
    if scene.relation is not None:
        first, second = masks
        both = first is not None and second is not None
        relation = both and relation_holds(center(first), center(second), scene.relation)
    return Verdict(
        prompt,
        tuple(pure and mask is not None for mask in masks),
        tuple(fit[0] == shape and fit[1] >= LEAST_OVERLAP for fit, shape in zip(fits, wanted, strict=True)),
        relation,
        tuple(f"{item.color} {fit[0]} {fit[1]:.2f}" for item, fit in zip(scene.items, fits, strict=True)),
    )


def held_out_prompts(count: int, seed: int) -> list[tuple[Scene, str]]:
    """Scenes of combinations that training never saw, half of them with two objects, each with a prompt."""
    rng = np.random.default_rng([seed, 77])
    scenes = [sample_held_out_scene(rng) for _ in range(count)]
    return [(scene, describe(rng, scene, every_word=scene.relation is not None)) for scene in scenes]


def summarize(verdicts: Sequence[Verdict]) -> dict[str, float]:
    """Parts of 1: objects of the named color, objects of the named shape, true relations, wholly right images."""
    relations = [verdict.relation for verdict in verdicts if verdict.relation is not None]
    figures = {
        "images": len(verdicts),
        "color": float(np.mean([right for verdict in verdicts for right in verdict.colors])),
        "shape": float(np.mean([right for verdict in verdicts for right in verdict.shapes])),
        "all_right": float(np.mean([verdict.right for verdict in verdicts])),
    }
    for name, chosen in (("one_object", False), ("two_objects", True)):
        part = [verdict for verdict in verdicts if (verdict.relation is not None) == chosen]
        if part:
            figures[f"all_right_{name}"] = float(np.mean([verdict.right for verdict in part]))
    if relations:
        figures["relation"] = float(np.mean(relations))
    return figures


Painter = Callable[[list[str], list[int]], "list[Image]"]


def painter(model: str | Path, steps: int, guidance: float) -> Painter:
    """A function from prompts and seeds to images; each image depends on its own prompt and seed alone."""
    import torch
    from diffusers import StableDiffusionPipeline

    pipe = StableDiffusionPipeline.from_pretrained(model, local_files_only=True)
    pipe.set_progress_bar_config(disable=True)

    def paint(prompts: list[str], seeds: list[int]) -> list[Image]:
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        images: list[Image] = pipe(
            prompts, num_inference_steps=steps, guidance_scale=guidance, generator=generators
        ).images
        return images

    return paint


def grid(images: Sequence[Image], columns: int = 6, scale: int = 2, space: int = 4) -> Image:
    """The images side by side, each pixel drawn ``scale`` times as wide and high."""
    from PIL import Image as PILImage

    side = images[0].width * scale
    rows = -(-len(images) // columns)
    sheet = PILImage.new("RGB", (columns * (side + space) + space, rows * (side + space) + space), "white")
    for index, image in enumerate(images):
        row, column = divmod(index, columns)
        enlarged = image.resize((side, side), PILImage.Resampling.NEAREST)
        sheet.paste(enlarged, (space + column * (side + space), space + row * (side + space)))
    return sheet


def evaluate(paint: Painter, count: int, seed: int, batch: int = 20) -> tuple[list[Verdict], list[Image], float]:
    """Paint and judge ``count`` held-out prompts: verdicts, images, seconds spent painting."""
    asked = held_out_prompts(count, seed)
    images: list[Image] = []
    started = time.perf_counter()
    for start in range(0, count, batch):
        prompts = [prompt for _, prompt in asked[start : start + batch]]
        images += paint(prompts, [seed * 100_000 + start + i for i in range(len(prompts))])
    seconds = time.perf_counter() - started
    verdicts = [judge(np.asarray(image), *pair) for image, pair in zip(images, asked, strict=True)]
    return verdicts, images, seconds


def parse_options(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description="Judge the embedded model's images by their pixels.")
    parser.add_argument("--model", type=Path, default=MODEL, help="folder of the pipeline")
    parser.add_argument("--count", type=int, default=200, help="held-out prompts")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--guidance", type=float, default=GUIDANCE)
    parser.add_argument("--batch", type=int, default=20, help="images painted at once")
    parser.add_argument("--json", type=Path, help="write figures and verdicts here")
    parser.add_argument("--grid", type=Path, help="write the first 36 images here, as one PNG")
    parser.add_argument("--wrong", action="store_true", help="list the images that are not wholly right")
    parser.add_argument("--check", action="store_true", help="exit with status 1 if a target is missed")
    options = parser.parse_args(arguments)
    if options.count < 1 or options.steps < 1 or options.batch < 1:
        parser.error("--count, --steps and --batch must be at least 1")
    if not options.model.is_dir():
        parser.error(f"--model {options.model} is not a folder")
    return options


def main(arguments: list[str] | None = None) -> int:
    """Evaluate and print the figures."""
    options = parse_options(arguments)
    paint = painter(options.model, options.steps, options.guidance)
    verdicts, images, seconds = evaluate(paint, options.count, options.seed, options.batch)
    figures = summarize(verdicts)
    print(f"{options.count} held-out prompts, seed {options.seed}, {options.steps} steps, guidance {options.guidance}")
    for name, value in figures.items():
        if name != "images":
            target = f"  (target {TARGETS[name]:.0%})" if name in TARGETS else ""
            print(f"  {name:<22}{value:7.1%}{target}")
    print(f"  painted in {seconds:.1f} s, {seconds / options.count:.2f} s an image")
    if options.wrong:
        for index, verdict in enumerate(verdicts):
            if not verdict.right:
                print(f"  {index:3d} {verdict.prompt!r}: {', '.join(verdict.seen)}, relation {verdict.relation}")
    if options.grid:
        options.grid.parent.mkdir(parents=True, exist_ok=True)
        grid(images[:36]).save(options.grid)
    if options.json:
        document: dict[str, Any] = {
            "settings": {"seed": options.seed, "steps": options.steps, "guidance": options.guidance},
            "figures": figures,
            "targets": TARGETS,
            "verdicts": [asdict(verdict) | {"right": verdict.right} for verdict in verdicts],
        }
        options.json.write_text(json.dumps(document, indent=2) + "\n", "utf-8")
    missed = [name for name, target in TARGETS.items() if figures.get(name, 1.0) < target]
    if missed:
        print(f"  below target: {', '.join(missed)}")
    return 1 if missed and options.check else 0


if __name__ == "__main__":
    sys.exit(main())
