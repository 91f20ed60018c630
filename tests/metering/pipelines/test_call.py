"""How a pipeline's call is asked: the vocabulary, the nearest name, and what a ``**kwargs`` takes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from torch import nn

from diffmeter.errors import InputError
from diffmeter.metering.pipelines.call import call_of
from diffmeter.metering.pipelines.sizes import with_both_sides
from diffmeter.metering.pipelines.words import understanding_own_names
from diffmeter.models import catalog


class Pipeline:
    """The least that is a pipeline."""

    def __init__(self) -> None:
        self.components = {"unet": nn.Linear(1, 1)}


class Image(Pipeline):
    def __call__(
        self,
        prompt: Any = None,
        height: Any = None,
        width: Any = None,
        num_inference_steps: int = 50,
        guidance_scale: float = 7.5,
        num_images_per_prompt: int = 1,
        **kwargs: Any,
    ) -> Any:
        return kwargs.pop("callback", None), kwargs.get("callback_steps"), "mask_feature" in kwargs, kwargs["old"]


class Video(Pipeline):
    def __call__(self, prompt: str, num_frames: int = 16, num_videos_per_prompt: int = 1) -> Any: ...


class Labels(Pipeline):
    def __call__(self, class_labels: list[int], guidance_scale: float = 4.0, num_inference_steps: int = 50) -> Any: ...


class Guided(Pipeline):
    def __call__(self, prompt: str, guidance_scale: float = 1.0, true_cfg_scale: float = 4.0) -> Any: ...


class Forwarding(Image):
    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return super().__call__(*args, **kwargs)


class Combined(Pipeline):
    def __init__(self) -> None:
        super().__init__()
        self.decoder = Image()

    def __call__(self, prior_steps: int = 25, **kwargs: Any) -> Any:
        return self.decoder(**kwargs)


class Unknowable(Pipeline):
    def __call__(self, **kwargs: Any) -> Any:
        return dict(kwargs)


def refused(pipe: Any, **given: Any) -> str:
    with pytest.raises(InputError) as caught:
        call_of(pipe).arguments(given)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_words_become_the_pipelines_own_names() -> None:
    words = {"height": 64, "width": 32, "steps": 4, "guidance_scale": 1.5, "batch": 3, "prompt": "x"}
    assert call_of(Image()).arguments(words) == {
        "height": 64,
        "width": 32,
        "num_inference_steps": 4,
        "guidance_scale": 1.5,
        "num_images_per_prompt": 3,
        "prompt": "x",
    }
    assert call_of(Video()).arguments({"batch": 2, "num_frames": 8}) == {"num_videos_per_prompt": 2, "num_frames": 8}
    assert call_of(Labels()).arguments({"batch": 3, "steps": 2}) == {
        "class_labels": [0, 0, 0],
        "num_inference_steps": 2,
    }


def test_own_names_are_understood_beside_the_words() -> None:
    given = {"num_inference_steps": 4, "num_images_per_prompt": 2, "steps": 4}
    assert call_of(Image()).arguments(given) == {"num_inference_steps": 4, "num_images_per_prompt": 2}
    assert "are the same argument: give one" in refused(Image(), steps=3, num_inference_steps=4)
    assert "are the same argument" in refused(Image(), batch=4, num_images_per_prompt=2)


@pytest.mark.parametrize(
    ("given", "near"),
    [
        ({"heigth": 32}, "height"),
        ({"hight": 32}, "height"),
        ({"step": 4}, "steps"),
        ({"num_inference_step": 4}, "num_inference_steps"),
        ({"guidance": 3.0}, "guidance_scale"),
        ({"num_images": 4}, "num_images_per_prompt"),
        ({"promt": "x"}, "prompt"),
        ({"batchs": 4}, "batch"),
        ({"calback": None}, "callback"),
    ],
)
@pytest.mark.parametrize("kind", [Image, Forwarding, Combined])
def test_a_name_that_is_not_documented_gets_the_nearest(given: dict[str, Any], near: str, kind: type) -> None:
    assert refused(kind(), **given).endswith(f"did you mean {near!r}.")


def test_a_name_like_no_other_gets_the_list() -> None:
    assert refused(Video(), zzz=1) == (
        "Video takes no argument 'zzz'; it takes prompt, num_frames, num_videos_per_prompt, batch."
    )


def test_names_that_a_pipeline_reads_from_its_kwargs() -> None:
    given = {"callback": print, "callback_steps": 2, "mask_feature": True, "old": 1}
    assert call_of(Image()).arguments(given) == given
    assert call_of(Combined()).arguments({**given, "prior_steps": 3, "steps": 2}) == {
        **given,
        "prior_steps": 3,
        "num_inference_steps": 2,
    }


def test_what_happens_to_kwargs_cannot_always_be_known() -> None:
    call = call_of(Unknowable())
    assert call.open_ended
    assert call.arguments({"anything": 1}) == {"anything": 1}
    assert not call_of(Image()).open_ended


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({"steps": 0}, "the number of steps must be a whole number of at least 1, not 0."),
        ({"num_inference_steps": 0}, "the number of steps must be a whole number of at least 1, not 0."),
        ({"num_inference_steps": 2.5}, "not 2.5"),
        ({"steps": True}, "not True"),
        ({"height": -8}, "height must be a whole number of at least 1, not -8."),
        ({"batch": 0}, "batch must be a whole number of at least 1, not 0"),
        ({"num_images_per_prompt": 0}, "num_images_per_prompt must be a whole number"),
        ({"guidance_scale": float("nan")}, "guidance_scale must be a finite number, not nan."),
        ({"guidance_scale": float("inf")}, "guidance_scale must be a finite number, not inf."),
        ({"guidance_scale": -float("inf")}, "must be a finite number"),
        ({"guidance_scale": np.float64("nan")}, "must be a finite number"),
        ({"prompt": ["a", "b"], "batch": 3}, "batch 3 is no multiple of the 2 inputs that are given"),
    ],
)
def test_values_that_no_pipeline_could_take(given: dict[str, Any], reason: str) -> None:
    assert reason in refused(Image(), **given)


def test_numpys_integers_become_pythons() -> None:
    found = call_of(Image()).arguments({"steps": np.int32(4), "height": np.uint16(64), "batch": np.int64(2)})
    assert found == {"num_inference_steps": 4, "height": 64, "num_images_per_prompt": 2}
    assert {type(value) for value in found.values()} == {int}


def test_batch_counts_images_those_of_each_prompt_included() -> None:
    assert call_of(Image()).arguments({"prompt": ["a", "b"], "batch": 4})["num_images_per_prompt"] == 2
    assert "batch" not in call_of(Guided()).arguments({"prompt": ["a", "b"], "batch": 2})
    assert "makes one image of an input: batch 2" in refused(Guided(), prompt="a", batch=2)


def test_words_that_a_pipeline_has_no_parameter_for() -> None:
    assert refused(Video(), height=64) == "Video takes no height."
    assert refused(Labels(), prompt="x") == "Labels takes no prompt."
    assert refused(Guided(), steps=4) == "Guided takes no number of steps."


def test_guidance_is_the_one_that_a_model_was_published_with() -> None:
    entry = catalog.find("Qwen/Qwen-Image")
    assert entry is not None
    named = call_of(Guided(), "Qwen/Qwen-Image", entry)
    assert named.arguments({"guidance_scale": 3.0}) == {"true_cfg_scale": 3.0}
    assert named.arguments({"guidance_scale": 3.0, "true_cfg_scale": 2.0}) == {
        "guidance_scale": 3.0,
        "true_cfg_scale": 2.0,
    }
    assert call_of(Guided()).arguments({"guidance_scale": 3.0}) == {"guidance_scale": 3.0}


def test_plain_values_of_a_call_that_was_made() -> None:
    plain = call_of(Image()).plain(("a cat",), {"height": 64, "callback": print, "width": [1, 2]})
    assert plain["prompt"] == "a cat"
    assert (plain["height"], plain["width"], plain["num_inference_steps"]) == (64, [1, 2], 50)
    assert "callback" not in plain or plain["callback"] is None


@pytest.mark.parametrize("thing", [None, 3, nn.Linear(1, 1), object(), Image])
def test_no_pipeline(thing: Any) -> None:
    with pytest.raises(InputError, match="is no diffusers pipeline"):
        call_of(thing)


def test_one_side_is_a_square() -> None:
    assert with_both_sides({"height": 64}) == {"height": 64, "width": 64}
    assert with_both_sides({"width": 32, "x": 1}) == {"height": 32, "width": 32, "x": 1}
    assert with_both_sides({"height": 64, "width": 32}) == {"height": 64, "width": 32}
    assert with_both_sides({}) == {}


@pytest.mark.parametrize(("name", "where"), [("gpu", "predict"), ("dtype", "loaded or built"), ("tokens", "dry_run")])
def test_words_that_belong_elsewhere_say_where(name: str, where: str) -> None:
    assert where in refused(Image(), **{name: 1})


def test_a_function_of_words_takes_own_names_too() -> None:
    @understanding_own_names
    def compare(models: Any, *, steps: Any = None, batch: Any = 1, tokens: Any = None) -> Any:
        return models, steps, batch, tokens

    @understanding_own_names
    def sweep(models: Any, *, steps: Any = None, batches: Any = None) -> Any:
        return models, steps, batches

    assert compare("m", num_inference_steps=4, num_images_per_prompt=2, token_count=7) == ("m", 4, 2, 7)
    assert sweep("m", num_inference_steps=[4, 5], num_images_per_prompt=[1, 2]) == ("m", [4, 5], [1, 2])
    assert sweep("m", batch=[3]) == ("m", None, [3])
    with pytest.raises(InputError, match=r"compare takes no argument 'step': did you mean 'steps'\.$"):
        compare("m", step=4)
    with pytest.raises(InputError, match="are the same argument"):
        compare("m", steps=4, num_inference_steps=5)
