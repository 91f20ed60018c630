"""The judge of the images: right on true images, and not to be fooled by wrong ones."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import evaluate_embedded
import numpy as np
import pytest
from evaluate_embedded import areas, evaluate, grid, held_out_prompts, judge, main, relation_holds, summarize
from PIL import Image
from shapes_data import SHAPES, Item, Scene, is_held_out, render

BLACK = ("black", "black", True)


def drawn(scene: Scene) -> np.ndarray:
    return ((render([scene])[0].transpose(1, 2, 0) + 1) * 127.5).round().astype(np.uint8)


def pair(first: Item, second: Item, relation: str = "left of") -> Scene:
    return Scene((first, second), relation, None, BLACK)


CIRCLE = Item("red", "circle", None, 16.0, 32.0, 11.0)
SQUARE = Item("blue", "square", None, 46.0, 30.0, 11.0)


def test_true_images_are_right() -> None:
    asked = held_out_prompts(40, seed=3)
    assert all(is_held_out(scene) for scene, _ in asked)
    verdicts = [judge(drawn(scene), scene, prompt) for scene, prompt in asked]
    assert [verdict.prompt for verdict in verdicts if not verdict.right] == []


def test_images_of_other_prompts_are_wrong() -> None:
    asked = held_out_prompts(40, seed=3)
    verdicts = [judge(drawn(asked[i - 1][0]), scene, prompt) for i, (scene, prompt) in enumerate(asked)]
    assert summarize(verdicts)["all_right"] < 0.1


def test_each_kind_of_mistake_is_seen_alone() -> None:
    truth = pair(CIRCLE, SQUARE)
    assert judge(drawn(truth), truth).right
    recolored = judge(drawn(pair(CIRCLE, replace(SQUARE, color="green"))), truth)
    assert recolored.colors == (False, False)
    assert recolored.relation is False
    reshaped = judge(drawn(pair(CIRCLE, replace(SQUARE, shape="star"))), truth)
    assert reshaped.colors == (True, True)
    assert reshaped.shapes == (True, False)
    assert reshaped.relation is True
    swapped = judge(drawn(pair(replace(CIRCLE, x=46.0), replace(SQUARE, x=16.0))), truth)
    assert swapped.colors == (True, True)
    assert swapped.shapes == (True, True)
    assert swapped.relation is False
    exchanged = judge(drawn(pair(replace(CIRCLE, color="blue"), replace(SQUARE, color="red"))), truth)
    assert exchanged.shapes == (False, False)
    missing = judge(drawn(Scene((CIRCLE,), None, None, BLACK)), truth)
    assert missing.colors == (True, False)
    assert missing.relation is False


def test_a_third_object_of_another_color_spoils_the_color() -> None:
    truth = Scene((CIRCLE,), None, None, BLACK)
    assert judge(drawn(truth), truth).colors == (True,)
    assert judge(drawn(pair(CIRCLE, SQUARE)), truth).colors == (False,)


def test_noise_and_emptiness_are_wrong() -> None:
    truth = pair(CIRCLE, SQUARE)
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3)).astype(np.uint8)
    for image in (noise, np.zeros((64, 64, 3), np.uint8)):
        verdict = judge(image, truth)
        assert not any(verdict.colors)
        assert not any(verdict.shapes)
        assert verdict.relation is False


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("radius", [8.0, 23.0])
def test_every_shape_is_told_from_the_others_at_every_size(shape: str, radius: float) -> None:
    item = Item("green", shape, None, 31.3, 32.8, radius)
    scene = Scene((item,), None, None, BLACK)
    assert judge(drawn(scene), scene).shapes == (True,)
    for other in SHAPES:
        if other != shape:
            asked = Scene((replace(item, shape=other),), None, None, BLACK)
            assert judge(drawn(scene), asked).shapes == (False,)


def test_two_objects_of_one_color() -> None:
    truth = pair(CIRCLE, replace(SQUARE, color="red"))
    assert judge(drawn(truth), truth).right
    one = Scene((CIRCLE,), None, None, BLACK)
    assert judge(drawn(one), truth).colors == (True, False)
    swapped = pair(replace(CIRCLE, x=46.0), replace(SQUARE, x=16.0, color="red"))
    assert judge(drawn(swapped), truth).relation is False


def test_areas_are_connected_by_edges_only_and_sorted() -> None:
    mask = np.array([[1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 1, 1]], dtype=bool)
    assert [int(area.sum()) for area in areas(mask)] == [3, 2]
    assert areas(np.zeros((3, 3), dtype=bool)) == []


@pytest.mark.parametrize(
    ("second", "true"), [((30, 12), "left of"), ((-30, 12), "right of"), ((12, 30), "above"), ((12, -30), "below")]
)
def test_exactly_one_relation_is_true(second: tuple[int, int], true: str) -> None:
    held = [name for name in ("left of", "right of", "above", "below") if relation_holds((0, 0), second, name)]
    assert held == [true]
    assert not relation_holds((0, 0), (2, 0), "left of")


def test_each_object_and_each_relation_counts_once() -> None:
    truth, alone = pair(CIRCLE, SQUARE), Scene((CIRCLE,), None, None, BLACK)
    reshaped = judge(drawn(pair(CIRCLE, replace(SQUARE, shape="star"))), truth)
    figures = summarize([reshaped, judge(drawn(alone), alone)])
    assert figures["images"] == 2
    assert figures["color"] == 1
    assert figures["relation"] == 1
    assert figures["shape"] == pytest.approx(2 / 3)
    assert figures["all_right"] == 0.5


def true_painter(_model: object, _steps: int, _guidance: float) -> evaluate_embedded.Painter:
    scenes = {prompt: scene for scene, prompt in held_out_prompts(7, seed=5)}
    return lambda prompts, seeds: [Image.fromarray(drawn(scenes[prompt])) for prompt in prompts]


def test_evaluate_asks_each_prompt_once_with_its_own_seed() -> None:
    seen: list[tuple[str, int]] = []
    paint = true_painter(None, 1, 1.0)

    def noting(prompts: list[str], seeds: list[int]) -> list[Image.Image]:
        seen.extend(zip(prompts, seeds, strict=True))
        return paint(prompts, seeds)

    verdicts, images, _ = evaluate(noting, 7, 5, batch=3)
    assert [prompt for prompt, _ in seen] == [prompt for _, prompt in held_out_prompts(7, 5)]
    assert len({seed for _, seed in seen}) == 7 == len(images)
    assert all(verdict.right for verdict in verdicts)


def test_the_command_writes_figures_and_grid_and_checks_targets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(evaluate_embedded, "painter", true_painter)
    command = ["--model", str(tmp_path), "--count", "7", "--seed", "5", "--check"]
    assert main([*command, "--json", str(tmp_path / "f.json"), "--grid", str(tmp_path / "g.png")]) == 0
    document = json.loads((tmp_path / "f.json").read_text())
    assert document["figures"]["color"] == 1
    assert len(document["verdicts"]) == 7
    # Six columns and two rows of 128 pixels with 4 between and around them.
    assert Image.open(tmp_path / "g.png").size == (6 * 132 + 4, 2 * 132 + 4)
    assert "100.0%  (target 95%)" in capsys.readouterr().out

    def blank(*_: object) -> evaluate_embedded.Painter:
        return lambda prompts, seeds: [Image.new("RGB", (64, 64)) for _ in prompts]

    monkeypatch.setattr(evaluate_embedded, "painter", blank)
    assert main(command) == 1
    assert "below target: color, shape" in capsys.readouterr().out


def test_bad_options_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for options, words in (
        (["--model", str(tmp_path), "--count", "0"], "at least 1"),
        (["--model", str(tmp_path / "no")], "no is not a folder"),
    ):
        with pytest.raises(SystemExit) as stopped:
            main(options)
        assert stopped.value.code == 2
        assert words in capsys.readouterr().err


def test_grid_keeps_order() -> None:
    sheet = grid([Image.new("RGB", (2, 2), color) for color in ("red", "blue", "lime")], columns=2, scale=1, space=1)
    assert sheet.size == (7, 7)
    assert [sheet.getpixel(at) for at in ((1, 1), (4, 1), (1, 4), (4, 4))] == [
        (255, 0, 0), (0, 0, 255), (0, 255, 0), (255, 255, 255)
    ]  # fmt: skip
