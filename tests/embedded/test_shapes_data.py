"""Scenes, prompts and images made by code."""

from __future__ import annotations

import numpy as np
import pytest
from shapes_data import (
    COLORS,
    FACTS,
    GRAYS,
    INVERSE,
    SHAPES,
    Item,
    Scene,
    combination,
    describe,
    is_held_out,
    render,
    sample_held_out_scene,
    sample_scene,
    sample_training_scene,
    scene_facts,
    shape_coverage,
)

PLAIN = ("white", "white", True)


def scene_of(relation: str, first: str, second: str) -> Scene:
    items = [Item(*words.split(), None, 32.0, 32.0, 10.0) for words in (first, second)]
    return Scene((items[0], items[1]), relation, None, PLAIN)


def test_the_same_seed_gives_the_same_scenes_words_and_pixels() -> None:
    def draw() -> tuple[list[Scene], list[str], np.ndarray]:
        rng = np.random.default_rng(4)
        scenes = [sample_scene(rng) for _ in range(8)]
        return scenes, [describe(rng, scene) for scene in scenes], render(scenes)

    first, second = draw(), draw()
    assert first[:2] == second[:2]
    assert np.array_equal(first[2], second[2])


def test_training_and_evaluation_share_no_combination() -> None:
    rng = np.random.default_rng(0)
    trained = {combination(sample_training_scene(rng)) for _ in range(3000)}
    asked = {combination(sample_held_out_scene(rng)) for _ in range(300)}
    assert trained
    assert asked
    assert not trained & asked


def test_about_a_tenth_is_held_out() -> None:
    rng = np.random.default_rng(1)
    combinations = {combination(scene): is_held_out(scene) for scene in (sample_scene(rng) for _ in range(6000))}
    # 10 percent of some thousands by a hash: three standard deviations are below 2 points.
    assert 0.08 < np.mean(list(combinations.values())) < 0.12


@pytest.mark.parametrize(("relation", "inverse"), INVERSE.items())
def test_a_relation_told_the_other_way_round_is_the_same_combination(relation: str, inverse: str) -> None:
    one = scene_of(relation, "red circle", "blue star")
    other = scene_of(inverse, "blue star", "red circle")
    assert combination(one) == combination(other)
    assert combination(one) != combination(scene_of(inverse, "red circle", "blue star"))


def test_objects_stay_inside_apart_and_in_their_relation() -> None:
    rng = np.random.default_rng(2)
    for _ in range(500):
        scene = sample_scene(rng)
        for item in scene.items:
            assert item.radius <= min(item.x, item.y)
            assert max(item.x, item.y) <= 64 - item.radius
        if scene.relation is None:
            continue
        a, b = scene.items
        dx, dy = b.x - a.x, b.y - a.y
        along, across = {"left of": (dx, dy), "right of": (-dx, dy), "above": (dy, dx), "below": (-dy, dx)}[
            scene.relation
        ]
        assert along >= a.radius + b.radius + 2 > abs(across)


def test_prompts_name_what_is_drawn() -> None:
    rng = np.random.default_rng(3)
    for _ in range(300):
        scene = sample_scene(rng)
        prompt = describe(rng, scene)
        for item in scene.items:
            assert f"{item.color} {item.shape}" in prompt
        assert "a orange" not in prompt


def test_a_circle_is_drawn_with_its_color_place_and_area() -> None:
    scene = Scene((Item("red", "circle", None, 20.0, 40.0, 10.0),), None, None, ("black", "black", True))
    image = (render([scene])[0] + 1) * 127.5
    assert np.allclose(image[:, 40, 20], COLORS["red"], atol=0.01)
    assert np.allclose(image[:, 5, 50], GRAYS["black"], atol=0.01)
    # Area of a circle of radius 0.95 x 10: pi x 9.5^2 = 283.5 pixels; anti-aliased coverage adds up to it.
    cover = shape_coverage("circle", np.array([20.0]), np.array([40.0]), np.array([10.0]))
    assert cover.sum() == pytest.approx(283.5, rel=0.005)


@pytest.mark.parametrize(
    ("shape", "area"),
    [
        ("square", 1.7**2),
        ("triangle", 1.9 * 1.65 / 2),
        ("cross", 2 * 1.9 * 0.68 - 0.68**2),
        # Ten triangles with sides 1 and 0.45 and 36 degrees between them: 10 x 0.5 x 0.45 x sin(36 degrees).
        ("star", 10 * 0.5 * 0.45 * np.sin(np.pi / 5)),
        # A square with diagonal 1.6, and two half circles on sides of 1.6 / sqrt(2): 1.28 + pi x 0.32.
        ("heart", 1.28 + np.pi * 0.32),
    ],
)
def test_areas_agree_with_geometry(shape: str, area: float) -> None:
    cover = shape_coverage(shape, np.array([50.0]), np.array([50.0]), np.array([40.0]), size=100)
    assert cover.sum() / 40**2 == pytest.approx(area, rel=0.01)


def test_the_facts_of_a_scene_do_not_depend_on_its_wording() -> None:
    left = scene_of("left of", "red circle", "blue square")
    right = Scene(left.items[::-1], "right of", None, PLAIN)
    # side by side, white; red (0) circle (0) without a size on the left, blue (2) square (1) on the right, each + 1
    assert scene_facts(left) == scene_facts(right) == [0, 1, 0, 0, 0, 3, 2, 1]
    above = scene_of("above", "red circle", "blue square")
    assert scene_facts(above)[0] == 1
    assert scene_facts(above)[2:] == scene_facts(left)[2:]
    alone = Scene(left.items[:1], None, "right", ("black", "white", False))
    assert scene_facts(alone) == [4, 0, 0, 0, 0, 0, 0, 0]  # the second place of nine; a gradient; nothing else there


def test_every_fact_is_one_of_its_answers() -> None:
    rng = np.random.default_rng(5)
    facts = np.array([scene_facts(sample_scene(rng)) for _ in range(3000)])
    assert facts.min(axis=0).tolist() == [0] * len(FACTS)
    assert (facts.max(axis=0) + 1).tolist() == list(FACTS.values())


def test_an_unknown_shape_is_refused() -> None:
    with pytest.raises(ValueError, match=r"'blob'.*circle"):
        shape_coverage("blob", np.array([1.0]), np.array([1.0]), np.array([1.0]))
    assert "blob" not in SHAPES
