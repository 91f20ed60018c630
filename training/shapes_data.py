"""Images of colored shapes and the prompts that describe them, made by code.

A :class:`Scene` says what is in an image, :func:`render` draws it, and :func:`describe` words it. Nothing is read
from disk: the same seed gives the same scenes, prompts and pixels everywhere.

Some combinations are never drawn for training, see :func:`is_held_out`; the evaluation asks for exactly those.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

IMAGE_SIZE = 64

COLORS: dict[str, tuple[int, int, int]] = {
    "red": (220, 40, 40),
    "green": (40, 160, 70),
    "blue": (40, 80, 220),
    "yellow": (245, 215, 50),
    "orange": (245, 135, 30),
    "purple": (130, 50, 170),
    "cyan": (50, 200, 220),
    "pink": (245, 130, 190),
}
# Backgrounds are always neutral, so that no object can have the color of what lies behind it.
GRAYS: dict[str, int] = {"white": 245, "light gray": 200, "gray": 135, "dark gray": 70, "black": 15}
SHAPES = ("circle", "square", "triangle", "star", "heart", "cross")
SIZES = ("small", "large")
POSITIONS = ("left", "right", "top", "bottom", "center", "top left", "top right", "bottom left", "bottom right")
RELATIONS = ("left of", "right of", "above", "below")
INVERSE = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}
HELD_OUT_PERCENT = 10

# Radius in pixels (half the side of the box around the shape) by size word, for one object and for two.
_RADIUS_ONE = {None: (10.0, 18.0), "small": (8.0, 10.5), "large": (18.5, 24.0)}
_RADIUS_TWO = {None: (9.0, 13.0), "small": (8.0, 9.5), "large": (13.0, 14.5)}
_MARGIN = 2.0  # pixels between an object and the edge of the image
_GAP = 2.0  # pixels at least between two objects


@dataclass(frozen=True)
class Item:
    """One object of a scene: its words, its center and its radius in pixels (x to the right, y downwards)."""

    color: str
    shape: str
    size: str | None
    x: float
    y: float
    radius: float


@dataclass(frozen=True)
class Scene:
    """One or two objects on a background. ``relation`` reads "items[0] relation items[1]"; None for one object.

    ``background`` is ``(first gray, last gray, vertical)``: equal grays are a plain background, others a gradient.
    """

    items: tuple[Item, ...]
    relation: str | None
    position: str | None
    background: tuple[str, str, bool]


def combination(scene: Scene) -> str:
    """What the hold-out decision looks at. "A right of B" and "B left of A" are the same combination."""
    first = scene.items[0]
    if scene.relation is None:
        return f"{first.color} {first.shape}/{first.size}/{scene.position}"
    a, b = (f"{item.color} {item.shape}" for item in scene.items)
    if scene.relation in ("right of", "below"):
        return f"{b} {INVERSE[scene.relation]} {a}"
    return f"{a} {scene.relation} {b}"


def is_held_out(scene: Scene) -> bool:
    """Whether this combination is kept out of training: a fixed tenth of all, chosen by a hash of its words."""
    digest = hashlib.sha256(combination(scene).encode()).digest()
    return int.from_bytes(digest[:4], "big") % 100 < HELD_OUT_PERCENT


def _choose(rng: np.random.Generator, options: Sequence[str]) -> str:
    return options[int(rng.integers(len(options)))]


def _place_one(rng: np.random.Generator, radius: float, position: str | None) -> tuple[float, float]:
    low, high = radius + _MARGIN, IMAGE_SIZE - radius - _MARGIN
    middle = IMAGE_SIZE / 2
    slack = high - low

    def along(near: str, far: str) -> float:
        words = () if position is None else tuple(position.split())
        if near in words:
            return float(low + rng.uniform(0, 0.25) * slack)
        if far in words:
            return float(high - rng.uniform(0, 0.25) * slack)
        if position is None:
            return float(rng.uniform(low, high))
        return float(np.clip(middle + rng.uniform(-3, 3), low, high))

    return along("left", "right"), along("top", "bottom")


def _place_two(
    rng: np.random.Generator, radii: tuple[float, float], relation: str
) -> tuple[tuple[float, float], tuple[float, float]]:
    reverse = relation in ("right of", "below")
    first, second = (radii[1], radii[0]) if reverse else radii
    slack = IMAGE_SIZE - 2 * (first + second) - 2 * _MARGIN - _GAP
    before, between = np.sort(rng.uniform(0, slack, size=2))
    a = _MARGIN + before + first
    b = a + first + _GAP + (between - before) + second
    # The other axis: close to one line, so that only one relation is true of the image.
    shift = rng.uniform(-5, 5)
    largest = max(radii)
    line = rng.uniform(largest + _MARGIN + 5, IMAGE_SIZE - largest - _MARGIN - 5)
    pair = [(float(a), float(line + shift / 2)), (float(b), float(line - shift / 2))]
    if relation in ("above", "below"):
        pair = [(y, x) for x, y in pair]
    return (pair[1], pair[0]) if reverse else (pair[0], pair[1])


def sample_scene(rng: np.random.Generator, two_objects: float = 0.6) -> Scene:
    """A random scene; with probability ``two_objects`` it holds two objects of different color or shape."""
    grays = tuple(GRAYS)
    first_gray = last_gray = _choose(rng, grays)
    if rng.random() < 0.3:
        last_gray = _choose(rng, [gray for gray in grays if gray != first_gray])
    background = (first_gray, last_gray, bool(rng.random() < 0.5))
    names = tuple(COLORS)

    def size_word(chance: float) -> str | None:
        return _choose(rng, SIZES) if rng.random() < chance else None

    if rng.random() >= two_objects:
        size = size_word(0.4)
        radius = float(rng.uniform(*_RADIUS_ONE[size]))
        position = _choose(rng, POSITIONS) if rng.random() < 0.5 else None
        x, y = _place_one(rng, radius, position)
        item = Item(_choose(rng, names), _choose(rng, SHAPES), size, x, y, radius)
        return Scene((item,), None, position, background)

    sizes = (size_word(0.2), size_word(0.2))
    radii = (float(rng.uniform(*_RADIUS_TWO[sizes[0]])), float(rng.uniform(*_RADIUS_TWO[sizes[1]])))
    relation = _choose(rng, RELATIONS)
    words = [(_choose(rng, names), _choose(rng, SHAPES))]
    while len(words) < 2:
        other = (_choose(rng, names), _choose(rng, SHAPES))
        if other != words[0]:
            words.append(other)
    centers = _place_two(rng, radii, relation)
    items = tuple(
        Item(color, shape, size, x, y, radius)
        for (color, shape), size, (x, y), radius in zip(words, sizes, centers, radii, strict=True)
    )
    return Scene(items, relation, None, background)


def sample_training_scene(rng: np.random.Generator, two_objects: float = 0.6) -> Scene:
    """A random scene whose combination is not held out."""
    while True:
        scene = sample_scene(rng, two_objects)
        if not is_held_out(scene):
            return scene


def sample_held_out_scene(rng: np.random.Generator, two_objects: float = 0.5) -> Scene:
    """A random scene whose combination never occurs in training."""
    while True:
        scene = sample_scene(rng, two_objects)
        if is_held_out(scene):
            return scene


# What scene_facts() tells, and how many answers each has. The "near" object is the one to the left or above; answer 0
# of the "far" one's facts is that there is none.
FACTS = {
    "arrangement": 3 + len(POSITIONS),
    "background": 1 + len(GRAYS),
    "near color": len(COLORS),
    "near shape": len(SHAPES),
    "near size": 1 + len(SIZES),
    "far color": 1 + len(COLORS),
    "far shape": 1 + len(SHAPES),
    "far size": 2 + len(SIZES),
}


def scene_facts(scene: Scene) -> list[int]:
    """The number of the right answer to each of FACTS: the same for every wording of a scene."""
    grays = tuple(GRAYS)
    first, last, _ = scene.background
    background = 0 if first != last else 1 + grays.index(first)
    items = scene.items[::-1] if scene.relation in ("right of", "below") else scene.items
    known = [
        (
            tuple(COLORS).index(item.color),
            SHAPES.index(item.shape),
            SIZES.index(item.size) + 1 if item.size else 0,
        )
        for item in items
    ]
    if scene.relation is None:
        place = POSITIONS.index(scene.position) + 1 if scene.position else 0
        return [2 + place, background, *known[0], 0, 0, 0]
    arrangement = 0 if scene.relation in ("left of", "right of") else 1
    return [arrangement, background, *known[0], *(1 + answer for answer in known[1])]


_OPENINGS = ("", "", "", "", "a picture of ", "a drawing of ", "an image of ", "a photo of ")
_RELATION_WORDS = {
    "left of": ("left of", "left of", "to the left of", "on the left of"),
    "right of": ("right of", "right of", "to the right of", "on the right of"),
    "above": ("above", "above", "over", "on top of"),
    "below": ("below", "below", "under", "underneath"),
}
_GRADIENTS = ("on a gradient background", "on a gradient", "with a gradient background")
_PLAIN = ("on a {} background", "on {}", "with a {} background")


def _noun(rng: np.random.Generator, item: Item, article: bool) -> str:
    words = [word for word in (item.size, item.color, item.shape) if word]
    if not article:
        return " ".join(words)
    return f"{'an' if words[0] == 'orange' else 'a'} {' '.join(words)}"


def _where(rng: np.random.Generator, position: str) -> str:
    if position == "center":
        return _choose(rng, ("in the center", "in the middle"))
    if " " in position:
        return _choose(rng, ("in the {} corner", "at the {}", "in the {}")).format(position)
    return _choose(rng, ("on the {}", "at the {}")).format(position)


def describe(rng: np.random.Generator, scene: Scene, every_word: bool = False) -> str:
    """One of many ways to word a scene. ``every_word`` keeps the background and the relation in, always."""
    article = rng.random() < 0.85
    text = _choose(rng, _OPENINGS) if article else ""
    if scene.relation is None:
        text += _noun(rng, scene.items[0], article)
        if scene.position:
            text += " " + _where(rng, scene.position)
    else:
        first, second = scene.items
        relation = scene.relation
        if rng.random() < 0.5:
            first, second, relation = second, first, INVERSE[relation]
        if every_word or rng.random() < 0.9:
            joint = _choose(rng, _RELATION_WORDS[relation])
        else:
            joint = _choose(rng, ("and", "and", "next to", "with"))
        text += f"{_noun(rng, first, article)} {joint} {_noun(rng, second, article)}"
    if every_word or rng.random() < 0.4:
        top, bottom, _ = scene.background
        text += " " + (_choose(rng, _GRADIENTS) if top != bottom else _choose(rng, _PLAIN).format(top))
    return text


def _distance(shape: str, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Signed distance to a shape of radius 1 at the origin, y upwards: negative inside."""
    if shape == "circle":
        return np.hypot(x, y) - 0.95
    if shape == "square":
        return np.maximum(np.abs(x), np.abs(y)) - 0.85
    if shape == "triangle":
        # Corners (0, 0.9) and (+-0.95, -0.75): the slanted sides have the direction (0.95, -1.65).
        length = np.hypot(0.95, 1.65)
        slanted = (1.65 * np.abs(x) + 0.95 * (y - 0.9)) / length
        return np.maximum(slanted, -0.75 - y)
    if shape == "star":
        # Fold the plane into half of one of five arms, then measure to the line from tip (1) to notch (0.45).
        angle = np.abs((np.arctan2(x, y) + np.pi / 5) % (2 * np.pi / 5) - np.pi / 5)
        radius = np.hypot(x, y)
        along, across = radius * np.cos(angle), radius * np.sin(angle)
        notch_x, notch_y = 0.45 * np.cos(np.pi / 5), 0.45 * np.sin(np.pi / 5)
        dx, dy = notch_x - 1.0, notch_y
        return (across * -dx + (along - 1.0) * dy) / np.hypot(dx, dy)
    if shape == "heart":
        # A square standing on its corner, with a half circle on each of its upper sides.
        side = 0.8
        y = y + 0.08
        diamond = (np.abs(x) + np.abs(y) - side) / np.sqrt(2)
        lobe = np.hypot(np.abs(x) - side / 2, y - side / 2) - side / np.sqrt(2)
        return np.minimum(diamond, lobe)
    if shape == "cross":
        a, b = np.abs(x), np.abs(y)
        return np.minimum(np.maximum(a - 0.95, b - 0.34), np.maximum(a - 0.34, b - 0.95))
    raise ValueError(f"unknown shape {shape!r}: allowed are {', '.join(SHAPES)}")


def shape_coverage(shape: str, x: np.ndarray, y: np.ndarray, radius: np.ndarray, size: int = IMAGE_SIZE) -> np.ndarray:
    """How much of each pixel the shape covers, 0 to 1: ``(n, size, size)`` for n centers and radii in pixels."""
    centers = np.arange(size, dtype=np.float32) + 0.5
    radius = np.asarray(radius, dtype=np.float32)[:, None, None]
    dx = (centers[None, None, :] - np.asarray(x, dtype=np.float32)[:, None, None]) / radius
    dy = (np.asarray(y, dtype=np.float32)[:, None, None] - centers[None, :, None]) / radius
    dx, dy = np.broadcast_arrays(dx, dy)
    return np.clip(0.5 - _distance(shape, dx, dy) * radius, 0.0, 1.0)


def render(scenes: Sequence[Scene]) -> np.ndarray:
    """Draw the scenes: float32 ``(n, 3, 64, 64)`` in -1..1, anti-aliased."""
    n = len(scenes)
    ramp = (np.arange(IMAGE_SIZE, dtype=np.float32) + 0.5) / IMAGE_SIZE
    first = np.array([GRAYS[scene.background[0]] for scene in scenes], dtype=np.float32)[:, None]
    last = np.array([GRAYS[scene.background[1]] for scene in scenes], dtype=np.float32)[:, None]
    line = first + (last - first) * ramp
    vertical = np.array([scene.background[2] for scene in scenes])[:, None, None]
    gray = np.where(vertical, line[:, :, None], line[:, None, :])
    image = np.repeat(gray[:, None], 3, axis=1).astype(np.float32)
    for layer in range(2):
        for shape in SHAPES:
            chosen = [i for i in range(n) if layer < len(scenes[i].items) and scenes[i].items[layer].shape == shape]
            if not chosen:
                continue
            items = [scenes[i].items[layer] for i in chosen]
            cover = shape_coverage(
                shape,
                np.array([item.x for item in items]),
                np.array([item.y for item in items]),
                np.array([item.radius for item in items]),
            )[:, None]
            color = np.array([COLORS[item.color] for item in items], dtype=np.float32)[:, :, None, None]
            image[chosen] = image[chosen] * (1 - cover) + color * cover
    return image / 127.5 - 1.0
