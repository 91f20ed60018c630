"""Pictures of module trees: every change that decides work is noticed, nothing else is held or left behind."""

from __future__ import annotations

import gc
import weakref
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from diffmeter.metering.watching.snapshot import ModuleSnapshot, OwnHooks, WriteWatch
from diffmeter.metering.watching.trust import judge


class Processor:
    def __init__(self) -> None:
        self.scale = [1.0]
        self.skip = False

    def __call__(self, x):
        return x


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(3, 3), nn.Sequential(nn.Linear(3, 3))
        self.layers, self.table = nn.ModuleList([nn.Identity()]), nn.ModuleDict({"x": nn.Identity()})
        self.names: list[str] = []
        self.nested = {"x": [1, {"y": {2}}]}
        self.flag, self.processor = False, Processor()

    def forward(self, x):
        return self.b(self.a(x))


def swap_class(net):
    class Other(Net):
        pass

    net.__class__ = Other


CHANGES = {
    "attribute": lambda net: setattr(net, "flag", True),
    "attribute deleted": lambda net: delattr(net, "flag"),
    "list": lambda net: net.names.append("skip"),
    "nested container": lambda net: net.nested["x"][1]["y"].add(3),
    "attribute of a processor": lambda net: setattr(net.processor, "skip", True),
    "list of a processor": lambda net: net.processor.scale.__setitem__(0, 0.0),
    "another processor": lambda net: setattr(net, "processor", Processor()),
    "child replaced": lambda net: setattr(net, "a", nn.Identity()),
    "child of a plain container": lambda net: net.b.append(nn.Linear(3, 3)),
    "child taken from a table": lambda net: net.b._modules.pop("0"),
    "child added": lambda net: net.add_module("c", nn.Identity()),
    "child inserted": lambda net: net.layers.insert(0, nn.Identity()),
    "child deleted by name": lambda net: net.table.__delitem__("x"),
    "children cleared": lambda net: net.table.clear(),
    "child replaced in a container": lambda net: net.b.__setitem__(0, nn.Identity()),
    "class": swap_class,
    "training": lambda net: net.train(),
    "hook": lambda net: net.register_forward_hook(lambda *_: None),
    "hook on a plain layer": lambda net: net.a.register_forward_hook(lambda *_: None),
    "hook on a plain layer below": lambda net: net.b[0].register_forward_pre_hook(lambda *_: None),
    "forward": lambda net: setattr(net.a, "forward", lambda x: x),
    "weight": lambda net: setattr(net.a, "weight", nn.Parameter(torch.ones(2, 3))),
}


@pytest.mark.parametrize("quick", [False, True])
@pytest.mark.parametrize("change", CHANGES)
def test_a_change_is_noticed(change, quick) -> None:
    net = Net().eval()
    with WriteWatch():
        picture = ModuleSnapshot(net)
        quick = quick and change != "child taken from a table"  # past the module's methods: see below
        assert picture.same(quick)
        CHANGES[change](net)
        assert not picture.same(quick) and not picture.late
        assert ModuleSnapshot(net).same()


@pytest.mark.parametrize("before", range(10))
def test_a_table_written_past_its_module_is_noticed_within_some_quick_looks(before) -> None:
    net = Net()
    picture = ModuleSnapshot(net)
    for _ in range(before):
        assert picture.same(quick=True)
    net.b._modules["0"] = nn.Identity()
    wrong = 0
    while picture.same(quick=True):
        wrong += 1
    assert wrong <= picture.late <= before + wrong


def test_a_thorough_look_finds_at_once_what_quick_ones_missed() -> None:
    net = Net()
    picture = ModuleSnapshot(net)
    assert picture.same(quick=True) and picture.same() and picture.same(quick=True)
    net.b._modules["0"] = nn.Identity()
    assert not picture.same_contents() and picture.late == 1


def test_hooks_of_this_package_are_no_change(monkeypatch) -> None:
    net = Net()
    picture = ModuleSnapshot(net)
    with OwnHooks():
        handle = net.a.register_forward_hook(lambda *_: None)
    handle.remove()
    monkeypatch.setattr(ModuleSnapshot, "_equals", lambda *_: pytest.fail("looked at everything again"))
    assert picture.same()


def test_a_forward_replaced_on_the_class_is_noticed(monkeypatch) -> None:
    net = Net()
    picture = ModuleSnapshot(net)
    monkeypatch.setattr(Net, "forward", lambda self, x: x)
    assert not picture.same()
    monkeypatch.undo()
    assert picture.same()


def test_writes_that_change_nothing_are_no_change() -> None:
    net = Net().eval()
    with WriteWatch():
        picture = ModuleSnapshot(net)
        net.flag = False
        net.eval()
        net.flag, net.names = True, []
        net.flag = False
        assert picture.same()


def test_a_picture_shows_what_was() -> None:
    net = Net()
    with WriteWatch():
        picture = ModuleSnapshot(net)
        net.names.append("late")
        net.b.append(nn.Identity())
        net.a.weight = nn.Parameter(torch.ones(2, 3))
    was = {id(part.module): part for part in picture.parts}
    assert was[id(net)].attributes["names"] == []
    assert list(was[id(net.b)].modules) == ["0"]
    assert was[id(net.a)].parameters["weight"].shape == (3, 3)


def test_module_setattr_is_put_back() -> None:
    before = [dict(vars(cls)) for cls in (nn.Module, nn.ModuleList, nn.ModuleDict, nn.Sequential)]

    def now():
        return [dict(vars(cls)) for cls in (nn.Module, nn.ModuleList, nn.ModuleDict, nn.Sequential)]

    with WriteWatch():
        with WriteWatch():
            assert nn.Module.__setattr__ is not before[0]["__setattr__"]
        assert nn.Module.__setattr__ is not before[0]["__setattr__"]
    assert now() == before
    with pytest.raises(KeyError), WriteWatch():
        raise KeyError
    assert now() == before


def test_activations_are_not_kept_alive() -> None:
    net = Net()
    net.last = torch.ones(1000)
    gone = weakref.ref(net.last)
    picture = ModuleSnapshot(net)
    net.last = None
    gc.collect()
    assert gone() is None and picture.parts


class TestForeignCode:
    """Whose code a component runs decides whether a twin may stand for it."""

    def test_library_code_is_trusted(self) -> None:
        pytest.importorskip("diffusers")
        from tests.zoo import ZOO

        for component in ZOO["StableDiffusionPipeline"].build().components.values():
            if isinstance(component, nn.Module):
                assert judge(ModuleSnapshot(component)).foreign is None
        assert judge(ModuleSnapshot(nn.Sequential(nn.Linear(3, 3), nn.TransformerEncoderLayer(8, 2)))).foreign is None

    def test_own_code_is_named(self) -> None:
        assert judge(ModuleSnapshot(nn.Sequential(Net()))).foreign == "Processor in Net.processor"

    @pytest.mark.parametrize(
        "held", [lambda x: x, Processor(), [lambda x: x], {"f": Processor().__call__}, Processor().__call__]
    )
    def test_own_functions_and_objects_are_named(self, held) -> None:
        block = nn.TransformerEncoderLayer(8, 2)
        assert judge(ModuleSnapshot(block)).foreign is None
        block.activation = held
        assert "TransformerEncoderLayer.activation" in str(judge(ModuleSnapshot(block)).foreign)

    def test_plain_data_is_harmless(self) -> None:
        block = nn.TransformerEncoderLayer(8, 2)
        block.held = {"a": [1, torch.ones(2), "x"], "b": SimpleNamespace(c=3)}
        assert judge(ModuleSnapshot(block)).foreign is None

    def test_a_patched_library_class_is_named(self, monkeypatch) -> None:
        monkeypatch.setattr(nn.Conv2d, "forward", lambda self, x: x)
        assert judge(ModuleSnapshot(nn.Conv2d(3, 3, 1))).foreign is not None
        assert judge(ModuleSnapshot(nn.Linear(3, 3))).foreign is None
        monkeypatch.undo()
        assert judge(ModuleSnapshot(nn.Conv2d(3, 3, 1))).foreign is None

    def test_compiled_code_is_named(self) -> None:
        traced = torch.jit.trace(nn.Linear(3, 3), torch.ones(1, 3))
        assert "compiled code" in str(judge(ModuleSnapshot(nn.Sequential(traced))).reason)
