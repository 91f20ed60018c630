"""Whether a twin may stand in: for a snapshot, and for a call."""

from __future__ import annotations

import types

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.overrides import TorchFunctionMode
from torch.utils.flop_counter import FlopCounterMode

from diffmeter.metering.watching.patching import Patching, is_own, own, unpatched
from diffmeter.metering.watching.signature import freeze
from diffmeter.metering.watching.snapshot import ModuleSnapshot
from diffmeter.metering.watching.trust import judge
from tests.zoo import ZOO

x = torch.ones(1, 4, 4)


def layers() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 4), nn.GroupNorm(2, 4), nn.Conv1d(4, 4, 1))


@pytest.fixture(scope="module")
def pipe():
    return ZOO["StableDiffusionPipeline"].build()


class TestCodeInPlace:
    def test_a_library_model_runs_its_librarys_code(self, pipe) -> None:
        for name in ("unet", "vae", "text_encoder"):
            judgement = judge(ModuleSnapshot(getattr(pipe, name)))
            assert judgement.reason is None
            assert judgement.unseen is None
            assert judgement.holds()

    @pytest.mark.parametrize(
        ("owner", "name"),
        [
            (F, "scaled_dot_product_attention"),
            (F, "conv2d"),
            (F, "group_norm"),
            (nn.Linear, "forward"),
            (nn.Conv2d, "_conv_forward"),
            (nn.Module, "_call_impl"),
        ],
    )
    def test_whatever_is_replaced_is_noticed(self, pipe, monkeypatch, owner, name) -> None:
        judgement = judge(ModuleSnapshot(pipe.unet))
        before = getattr(owner, name)
        monkeypatch.setattr(owner, name, lambda *args, **kwargs: before(*args, **kwargs))
        assert not judgement.holds()
        with judgement.as_it_was():
            assert getattr(owner, name) is before
        assert getattr(owner, name) is not before
        assert judge(ModuleSnapshot(pipe.unet)).foreign is not None
        monkeypatch.undo()
        assert judgement.holds()

    def test_names_in_library_modules_and_their_classes_count(self, pipe, monkeypatch) -> None:
        from diffusers.models import attention, resnet

        snapshot = ModuleSnapshot(pipe.unet)
        for owner, name in ((attention.FeedForward, "forward"), (resnet, "Upsample2D")):
            with monkeypatch.context() as patch:
                patch.setattr(owner, name, lambda *args, **kwargs: None)
                found = judge(snapshot).foreign
            assert found is not None or name == "Upsample2D"  # a class that is only made when the model is

    def test_a_registered_attention_is_somebodys_own(self, pipe) -> None:
        from transformers import AttentionInterface

        AttentionInterface.register("of a test", lambda *args, **kwargs: None)
        try:
            assert "lambda" in str(judge(ModuleSnapshot(pipe.text_encoder)).foreign)
        finally:
            AttentionInterface._global_mapping.pop("of a test")
        assert judge(ModuleSnapshot(pipe.text_encoder)).foreign is None

    def test_a_changed_constant_is_put_back_for_a_replay(self, pipe, monkeypatch) -> None:
        from diffusers.models import attention_dispatch

        flux = ZOO["FluxPipeline"].build()
        judgement = judge(ModuleSnapshot(flux.transformer))
        registry = attention_dispatch._AttentionBackendRegistry
        before = registry._checks_enabled
        monkeypatch.setattr(registry, "_checks_enabled", not before)
        assert not judgement.holds()
        with judgement.as_it_was():
            assert registry._checks_enabled is before
        assert registry._checks_enabled is not before

    def test_a_method_on_an_instance_is_noticed(self) -> None:
        net = layers()
        net[2]._conv_forward = types.MethodType(lambda self, *args: args[0], net[2])
        assert "_conv_forward" in str(judge(ModuleSnapshot(net)).foreign)

    def test_a_function_behind_a_librarys_wrapper_is_found(self, monkeypatch) -> None:
        monkeypatch.setattr(nn.Linear, "forward", torch.no_grad()(lambda self, x: x))
        assert judge(ModuleSnapshot(layers())).foreign is not None

    def test_foreign_code_that_may_run_kernels_past_the_operators_is_named(self, monkeypatch) -> None:
        import ctypes

        namespace = {"ctypes": ctypes, "__name__": "somewhere"}
        exec("def linear(x, weight, bias=None):\n    return ctypes.CDLL(None).product(x.data_ptr())", namespace)
        monkeypatch.setattr(F, "linear", namespace["linear"])
        assert judge(ModuleSnapshot(layers())).unseen == "ctypes"

    def test_what_is_not_reached_is_nobodys_business(self, monkeypatch) -> None:
        monkeypatch.setattr(F, "scaled_dot_product_attention", lambda *args: None)
        assert judge(ModuleSnapshot(layers())).reason is None


class TestOwnPatches:
    def test_a_function_of_this_package_counts_as_what_it_stands_for(self) -> None:
        class Here(Patching):
            @classmethod
            def _install(cls) -> None:
                before = F.linear
                cls._replace(F, "linear", lambda *args: before(*args))

        before, judgement = F.linear, judge(ModuleSnapshot(layers()))
        with Here():
            assert is_own(F.linear)
            assert unpatched(F.linear) is before
            assert judge(ModuleSnapshot(layers())).reason is None
        assert F.linear is before
        assert judgement.holds()

    def test_a_name_is_no_passport(self, monkeypatch) -> None:
        namespace = {"__name__": own.__module__}
        exec("def linear(*args): return args[0]", namespace)
        monkeypatch.setattr(F, "linear", namespace["linear"])
        assert judge(ModuleSnapshot(layers())).foreign is not None

    def test_what_somebody_else_put_there_meanwhile_stays(self) -> None:
        class Here(Patching):
            @classmethod
            def _install(cls) -> None:
                cls._replace(Place, "f", lambda: 2)

        with Here():
            Place.f = mine = lambda: 3
        assert Place.f is mine


class Place:
    f = staticmethod(lambda: 1)


class Mode(TorchFunctionMode):
    def __torch_function__(self, func, types, args=(), kwargs=None):
        return func(*args, **(kwargs or {}))


class Own(torch.Tensor):
    pass


class TestOfACall:
    judgement = judge(ModuleSnapshot(layers()))

    def reason(self, *args: object) -> str | None:
        return self.judgement.of_call(freeze(args, {}))

    def test_a_plain_call_is_repeated(self) -> None:
        assert self.reason(x, 3, "text") is None

    def test_transforms_are_no_part_of_a_signature(self) -> None:
        found = []
        torch.vmap(lambda t: found.append(self.reason(t)) or t)(torch.ones(3, 4))
        torch.func.grad(lambda t: found.append(self.reason(t)) or t.sum())(torch.ones(3))
        torch.func.jvp(lambda t: found.append(self.reason(t)) or t, (torch.ones(3),), (torch.ones(3),))
        assert len(found) == 3
        assert all("the call is made under" in str(reason) for reason in found)

    def test_somebodys_mode_may_do_anything_and_a_librarys_does_not(self) -> None:
        with FlopCounterMode(display=False):
            assert self.reason(x) is None
        with Mode():
            assert self.reason(x) == "the call is made under Mode"

    @pytest.mark.parametrize(
        ("value", "words"),
        [
            (torch.ones(2, 2).as_subclass(Own), "Own"),
            (torch.eye(2).to_sparse(), "sparse"),
            (torch.nested.nested_tensor([torch.ones(2), torch.ones(3)], layout=torch.jagged), "nested"),
        ],
    )
    def test_tensors_that_are_not_plain_are_named(self, value, words) -> None:
        assert words in str(self.reason([value]))

    def test_weights_that_are_not_plain_are_named(self) -> None:
        net = layers()
        net[0].weight = nn.Parameter(net[0].weight.detach().as_subclass(Own))
        assert "Own" in str(judge(ModuleSnapshot(net)).reason)
        net = layers()
        weight = net[0].weight.detach().as_subclass(Own)
        del net[0].weight
        net[0].weight = weight  # a plain attribute
        assert "Own" in str(judge(ModuleSnapshot(net)).reason)
