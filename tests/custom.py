"""Small pipelines around one component of one's own, for what no library model does."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn


class CustomPipeline:
    """A pipeline of one component ``net``: ``script(pipe)`` is what a call does."""

    def __init__(self, net: nn.Module, script: Callable[[Any], Any] | None = None, **more: Any) -> None:
        self.components = {"net": net, **more}
        self.net = net
        self.script = script or (lambda pipe: [pipe.net(torch.ones(2, 8)) for _ in range(4)])

    def __call__(self) -> Any:
        return self.script(self)


class Custom(nn.Module):
    """Has one layer ``a``, 8 -> 8: 64 MACs a row, 128 for the two rows of the default call."""

    def __init__(self, **attributes: Any) -> None:
        super().__init__()
        self.a = nn.Linear(8, 8)
        for name, value in attributes.items():
            setattr(self, name, value)


def component(forward: Callable[..., Any], **attributes: Any) -> Custom:
    """A :class:`Custom` of a class of its own with this ``forward``."""
    return type("Custom", (Custom,), {"forward": forward})(**attributes)
