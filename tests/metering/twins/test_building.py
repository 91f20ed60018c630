"""Twins: the same structure without memory, cut off from the module they stand for."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from diffmeter.metering.twins.building import build_twin
from diffmeter.metering.watching.snapshot import ModuleSnapshot
from diffmeter.metering.watching.trust import judge
from tests.zoo import ZOO


def twin_of(module: nn.Module) -> nn.Module:
    return build_twin(ModuleSnapshot(module))


class Helper:
    def __init__(self) -> None:
        self.scale = [1.0]

    def __call__(self, module):
        return module


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(3, 3)
        self.tied = nn.Linear(3, 3)
        self.tied.weight = self.a.weight
        self.register_buffer("mask", torch.tensor([1, 0, 1]))
        self.register_buffer("scales", torch.ones(3))
        self.helper, self.names, self.me = Helper(), ["x"], [self.a]

    def forward(self, x):
        return self.tied(self.a(x))


def test_a_twin_has_the_same_parts_and_no_memory() -> None:
    net = Net().eval()
    net.a.train()
    twin = twin_of(net)
    assert type(twin) is Net and list(twin.state_dict()) == list(net.state_dict())
    assert all(p.is_meta for p in twin.parameters())
    shapes = [{name: p.shape for name, p in module.named_parameters()} for module in (twin, net)]
    assert shapes[0] == shapes[1]
    assert [m.training for m in twin.modules()] == [m.training for m in net.modules()]
    assert twin.tied.weight is twin.a.weight and twin.me[0] is twin.a


def test_small_integer_buffers_keep_their_values() -> None:
    net = Net()
    twin = twin_of(net)
    assert twin.mask.tolist() == [1, 0, 1] and twin.scales.is_meta
    twin.mask.zero_()
    assert net.mask.tolist() == [1, 0, 1]


def test_nothing_that_can_change_is_shared() -> None:
    net = Net()
    twin = twin_of(net)
    twin.names.append("y")
    twin.helper.scale.append(2.0)
    twin.a.out_features = 7
    assert net.names == ["x"] and net.helper.scale == [1.0] and net.a.out_features == 3
    originals = {id(m) for m in net.modules()}
    assert not any(id(m) in originals for m in twin.modules())
    assert twin.helper is not net.helper and type(twin.helper) is Helper


def test_a_compiled_method_is_the_twins_own_method() -> None:
    net = Net()
    net.extra = compiled = torch.compile(net.forward, backend="eager")
    attributes = dict(vars(compiled))
    twin = twin_of(net)
    assert twin.extra.__self__ is twin
    assert vars(compiled) == attributes and vars(net)["extra"] is compiled


def test_hooks_of_the_run_are_left_behind() -> None:
    net = Net()
    net.a.register_forward_hook(lambda *_: 1 / 0)
    net.a.forward = lambda x: 1 / 0
    assert twin_of(net)(torch.ones(2, 3, device="meta")).shape == (2, 3)


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_hooks_of_the_model_stay() -> None:
    layer = nn.utils.weight_norm(nn.Linear(3, 5))
    assert judge(ModuleSnapshot(layer)).altered is None
    assert twin_of(nn.Sequential(layer))(torch.ones(2, 3, device="meta")).shape == (2, 5)


def test_what_makes_a_component_untrusted() -> None:
    net = Net()
    assert judge(ModuleSnapshot(net)).altered is None
    handle = net.a.register_forward_hook(lambda *_: None)
    assert "forward hook" in str(judge(ModuleSnapshot(net)).altered)
    handle.remove()
    net.a.forward = lambda x: x
    assert "replaced forward" in str(judge(ModuleSnapshot(net)).altered)


def test_hooks_that_only_move_tensors_are_trusted() -> None:
    hooks = pytest.importorskip("accelerate.hooks")
    net = Net()
    hooks.add_hook_to_module(net, hooks.AlignDevicesHook(execution_device="cpu"))
    assert judge(ModuleSnapshot(net)).altered is None

    class Skip(hooks.ModelHook):
        pass

    hooks.add_hook_to_module(net, Skip())
    assert "Skip" in str(judge(ModuleSnapshot(net)).altered)


def test_a_packed_linear_layer_stands_as_a_plain_one() -> None:
    class Linear4Bit(nn.Linear):
        """Holds two 4-bit weights in a byte."""

        def __init__(self) -> None:
            super().__init__(8, 6)
            self.weight = nn.Parameter(torch.zeros(24, 1, dtype=torch.uint8), requires_grad=False)

        def forward(self, x):
            raise RuntimeError("a kernel for one kind of GPU")

    assert twin_of(nn.Sequential(Linear4Bit()))(torch.ones(2, 8, device="meta")).shape == (2, 6)


def test_cast_weights_have_the_type_they_are_computed_in() -> None:
    pipe = ZOO["StableDiffusionPipeline"].build()
    pipe.unet.enable_layerwise_casting(torch.float8_e4m3fn, torch.float32)
    assert pipe.unet.conv_in.weight.dtype == torch.float8_e4m3fn
    structure = ModuleSnapshot(pipe.unet)
    assert judge(structure).altered is None
    assert build_twin(structure).down_blocks[0].resnets[0].conv1.weight.dtype == torch.float32


def test_a_special_attention_kernel_is_put_back_to_the_native_one() -> None:
    flux = ZOO["FluxPipeline"].build().transformer
    before = flux.transformer_blocks[0].attn.processor._attention_backend
    flux.transformer_blocks[0].attn.processor._attention_backend = "flash"
    twin = twin_of(flux)
    assert str(getattr(twin.transformer_blocks[0].attn.processor._attention_backend, "value", "native")) == "native"
    assert flux.transformer_blocks[0].attn.processor._attention_backend == "flash"
    flux.transformer_blocks[0].attn.processor._attention_backend = before
