"""Work that depends on more than structure and arguments: ``STATES`` makes pairs of a pipeline and its MACs."""

from __future__ import annotations

import collections
import itertools
from types import SimpleNamespace

import torch
from torch import nn

from tests.custom import CustomPipeline, component

ones = torch.ones
BOTH = 128  # MACs of one default call: two rows through 8 -> 8


GLOBALS = {"calls": 0}


def every_second(state, advance):
    def forward(self, x):
        return self.a(x) if advance(self) % 2 else x

    return CustomPipeline(component(forward, **state)), 2 * BOTH  # four calls, two of them work


class Slotted:
    __slots__ = ("n",)

    def __init__(self) -> None:
        self.n = 0


def bump(holder, name="n"):
    setattr(holder, name, getattr(holder, name) + 1)
    return getattr(holder, name)


def bump_item(table, key="n"):
    table[key] += 1
    return table[key]


def grow(items):
    items.append(1)
    return len(items)


def bump_buffer(self):
    self.n.add_(1)
    return int(self.n)


def cached(self, x):
    if "y" not in self.table:
        self.table["y"] = self.a(x)
    return self.table["y"]


def list_changed_between(pipe):
    for skip in ([], ["a"], []):
        pipe.net.skip[:] = skip
        pipe.net(ones(2, 8))


def forward_patched_between(pipe):
    cls = type(pipe.net).__mro__[1]
    before = cls.forward
    pipe.net(ones(2, 8))
    cls.forward = lambda self, x: x
    try:
        pipe.net(ones(2, 8))
    finally:
        cls.forward = before


def closure():
    net = component(lambda self, x: self.f(x))
    layer = net.a
    net.f = lambda x: layer(layer(x))
    return CustomPipeline(net), 4 * 2 * BOTH


def state_reset(pipe):
    for n in (2, 3, 4):
        pipe.net.kept = None
        pipe.net(ones(n, 8))
        pipe.net(ones(n, 8))


def keep(self, x):
    if self.kept is None:
        self.kept = self.a(x)
    return x + self.kept.sum()


def with_gradients(self, x):
    return self.a(self.a(x)) if torch.is_grad_enabled() else self.a(x)


def mixture_of_experts():
    def forward(self, x):
        out = torch.zeros_like(x)
        for index, expert in enumerate(self.experts):
            rows = (x[:, 0].long() == index).nonzero()[:, 0]
            if len(rows):
                out[rows] = expert(x[rows])
        return out

    net = component(forward, experts=nn.ModuleList(nn.Linear(8, 8) for _ in range(3)))
    return CustomPipeline(net, lambda pipe: pipe.net(torch.arange(5.0)[:, None].expand(5, 8))), 3 * 64


STATES = {
    "an attribute": lambda: every_second({"n": 0}, bump),
    "a dictionary": lambda: every_second({"table": {"n": 0}}, lambda self: bump_item(self.table)),
    "a list": lambda: every_second({"items": []}, lambda self: grow(self.items)),
    "a deque": lambda: every_second({"items": collections.deque()}, lambda self: grow(self.items)),
    "an object": lambda: every_second({"o": SimpleNamespace(p=SimpleNamespace(n=0))}, lambda self: bump(self.o.p)),
    "slots": lambda: every_second({"o": Slotted()}, lambda self: bump(self.o)),
    "an iterator": lambda: every_second({"it": itertools.count(1)}, lambda self: next(self.it)),
    "the class": lambda: every_second({}, lambda self, table={"n": 0}: bump_item(table)),
    "a global": lambda: every_second({}, lambda self: bump_item(GLOBALS, "calls")),
    "around setattr": lambda: every_second({"n": 0}, lambda self: bump_item(self.__dict__)),
    "a buffer": lambda: every_second({"n": nn.Buffer(torch.tensor(0))}, bump_buffer),
    "a cache": lambda: (CustomPipeline(component(cached, table={})), BOTH),
    "a list changed between calls": lambda: (
        CustomPipeline(component(lambda self, x: x if "a" in self.skip else self.a(x), skip=[]), list_changed_between),
        2 * BOTH,
    ),
    "a class patched between calls": lambda: (
        CustomPipeline(component(lambda self, x: self.a(x)), forward_patched_between),
        BOTH,
    ),
    "a closure over a layer": closure,
    "layers in a plain list": lambda: (
        CustomPipeline(component(lambda self, x: self.hidden[1](self.hidden[0](x)), hidden=[nn.Linear(8, 8)] * 2)),
        4 * 2 * BOTH,
    ),
    "state that is reset": lambda: (CustomPipeline(component(keep, kept=None), state_reset), (2 + 3 + 4) * 64),
    "the gradient mode": lambda: (CustomPipeline(component(with_gradients)), 4 * 2 * BOTH),
    "autocast": lambda: (
        CustomPipeline(
            component(lambda self, x: self.a(self.a(x)) if torch.is_autocast_enabled("cpu") else self.a(x)),
            lambda pipe: torch.autocast("cpu", torch.bfloat16)(pipe.net)(ones(2, 8)),
        ),
        2 * BOTH,
    ),
    "a replaced method": lambda: (
        CustomPipeline(component(lambda self, x: self.extra(x), extra=lambda x: x)),
        0,
    ),
    "routing": mixture_of_experts,
    "how many are above a threshold": lambda: (
        CustomPipeline(
            component(lambda self, x: self.a(x[: max(int((x > 0.5).sum()) // 8, 4)])),
            lambda pipe: pipe.net(torch.linspace(0, 1, 320).view(40, 8)),
        ),
        20 * 64,
    ),
}
