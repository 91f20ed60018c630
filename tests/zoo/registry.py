"""The list of tiny pipelines: what a case is, and how one is added."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Case:
    """One tiny pipeline and one call of it.

    Attributes:
        name: the pipeline's class name, with the variant in brackets if there is one.
        family: the group of pipelines it belongs to.
        builder: makes the pipeline.
        caller: gives the keyword arguments of one call, for a pipeline that ``builder`` made.
        quick: whether the case belongs to the default selection of the test suite.
    """

    name: str
    family: str
    builder: Callable[[], Any]
    caller: Callable[[Any], dict[str, Any]]
    quick: bool = False

    @property
    def class_name(self) -> str:
        """The pipeline's class name, without the variant."""
        return self.name.partition("[")[0]

    def build(self) -> Any:
        """A fresh pipeline with seeded random weights, in evaluation mode, on the CPU in float32."""
        import torch

        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            pipe = self.builder()
        for component in pipe.components.values():
            if isinstance(component, torch.nn.Module):
                component.eval()
        pipe.set_progress_bar_config(disable=True)
        return pipe

    def arguments(self, pipe: Any) -> dict[str, Any]:
        """Fresh keyword arguments for one cheap call of ``pipe``."""
        import torch

        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return self.caller(pipe)


ZOO: dict[str, Case] = {}


def add(
    name: str,
    family: str,
    builder: Callable[[], Any],
    caller: Callable[[Any], dict[str, Any]],
    quick: bool = False,
) -> None:
    """Adds a case to ``ZOO``."""
    if name in ZOO:
        raise ValueError(f"two cases are named {name!r}")
    ZOO[name] = Case(name, family, builder, caller, quick)
