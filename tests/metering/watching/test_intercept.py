"""Interception: calls are reported, and the object is what it was before and after."""

from __future__ import annotations

import copy
import inspect
import pickle

import pytest
import torch
from torch import nn

from diffmeter.metering.watching import intercept


class Watcher:
    def __init__(self, near: int = 1) -> None:
        self.near, self.seen = near, []

    def priority(self) -> int:
        return self.near

    def on_call(self, target, method, proceed, args, kwargs):
        self.seen.append(method)
        return proceed(*args, **kwargs)


class Model(nn.Module):
    """A model."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 3)

    def forward(self, x, scale: float = 1.0):
        return self.layer(x) * scale

    def decode(self, z, num_frames: int = 1):
        return self.layer(z)

    def _private(self):
        return None


@pytest.fixture
def watched():
    model, watcher = Model(), Watcher()
    intercept.watch(model, watcher)
    yield model, watcher
    if intercept.watchers_of(model):
        intercept.unwatch(model, watcher)


def test_calls_are_reported(watched) -> None:
    model, watcher = watched
    x = torch.ones(2, 3)
    assert torch.equal(model(x, scale=2.0), model.layer(x) * 2)
    model.forward(x)
    model.decode(z=x)
    # a call by `()` reaches `forward` as well; a recorder takes the outermost
    assert watcher.seen == ["forward", "forward", "forward", "decode"]


def test_the_object_answers_as_before(watched) -> None:
    model, _ = watched
    assert isinstance(model, Model) and model.__class__ is Model and type(model) == Model  # noqa: E721
    assert str(type(model)) == str(Model) and type(model).__name__ == "Model" and hash(type(model)) == hash(Model)
    assert inspect.signature(model.decode) == inspect.signature(Model().decode)
    assert "num_frames" in inspect.signature(model.decode).parameters
    assert vars(model).keys() == vars(Model()).keys()
    assert type(copy.deepcopy(model)) is Model and type(pickle.loads(pickle.dumps(model))) is Model
    assert type(model).__doc__ == "A model."


def test_the_class_is_put_back(watched) -> None:
    model, watcher = watched
    intercept.unwatch(model, watcher)
    assert type(model) is Model and intercept.watchers_of(model) == []
    model(torch.ones(2, 3))
    assert watcher.seen == []


def test_two_watchers_of_one_object() -> None:
    model, far, near, nearer = Model(), Watcher(0), Watcher(1), Watcher(1)
    for watcher in (far, near, nearer):
        intercept.watch(model, watcher)
    model.decode(torch.ones(2, 3))
    assert (far.seen, near.seen, nearer.seen) == ([], ["decode"], ["decode"])
    intercept.unwatch(model, near)
    assert type(model) is not Model
    intercept.unwatch(model, far)
    intercept.unwatch(model, nearer)
    assert type(model) is Model


def test_a_method_patched_on_the_class_is_the_one_that_runs(watched, monkeypatch) -> None:
    model, watcher = watched
    monkeypatch.setattr(Model, "forward", lambda self, x: "patched")
    assert model(torch.ones(2, 3)) == "patched"
    assert "forward" in watcher.seen


def test_another_class_given_meanwhile_stays(watched) -> None:
    model, watcher = watched

    class Other(Model):
        def forward(self, x):
            return "other"

    model.__class__ = Other
    assert model(torch.ones(2, 3)) == "other" and watcher.seen
    intercept.unwatch(model, watcher)
    assert type(model) is Other


def test_a_method_of_the_instance_is_reported_and_stays() -> None:
    model, watcher = Model(), Watcher()
    model.decode = mine = lambda z: "mine"
    intercept.watch(model, watcher)
    assert model.decode(torch.ones(2, 3)) == "mine" and watcher.seen == ["decode"]
    intercept.unwatch(model, watcher)
    assert vars(model)["decode"] is mine


def test_a_method_given_to_the_instance_meanwhile_stays() -> None:
    model, watcher = Model(), Watcher()
    model.decode = lambda z: "before"
    intercept.watch(model, watcher)
    model.decode = mine = lambda z: "mine"
    intercept.unwatch(model, watcher)
    assert vars(model)["decode"] is mine


def test_exceptions_pass_unchanged(watched) -> None:
    model, _ = watched
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        model(torch.ones(2, 4))


def test_which_methods_are_entries() -> None:
    diffusers = pytest.importorskip("diffusers")
    assert intercept.public_methods(Model) == ["decode"]
    vae = intercept.public_methods(diffusers.AutoencoderKL)
    assert {"encode", "decode"} <= set(vae) and not {"forward", "save_pretrained", "to"} & set(vae)
    transformers = pytest.importorskip("transformers")
    assert "generate" not in intercept.public_methods(transformers.Qwen2ForCausalLM)


def test_a_compiled_method_costs_no_tracing_of_ours() -> None:
    model, watcher = Model(), Watcher()
    intercept.watch(model, watcher)
    graphs = []

    def backend(graph, inputs):
        graphs.append(graph)
        return graph.forward

    compiled = torch.compile(model, backend=backend)
    compiled(torch.ones(2, 3))
    intercept.unwatch(model, watcher)
    torch._dynamo.reset()
    assert watcher.seen[0] == "forward" and len(graphs) == 1
