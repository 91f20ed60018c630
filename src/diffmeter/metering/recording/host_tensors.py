"""The pipeline's own arithmetic in a dry run: on small CPU tensors, with a mark on those whose values mean nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch

from diffmeter.compat import base_of
from diffmeter.metering.counters.live import OutsideCalls
from diffmeter.metering.twins.replay import READS
from diffmeter.metering.watching.signature import map_leaves


class HostTensors(OutsideCalls):
    """Keeps the pipeline's own code on small CPU tensors, also where it reads a weight or enters a submodule.

    What a stand-in returned, and everything computed from it, has values that mean nothing: ``unknown`` is told when
    the pipeline looks at one.
    """

    def __init__(
        self, busy: Callable[[], bool], found: Callable[[str, int | None], None], unknown: Callable[[str], None]
    ) -> None:
        super().__init__(busy, found)
        self._unknown = unknown

    def run(self, func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        if not any(map(is_placeholder, _tensors((*args, *kwargs.values())))):
            return self._run(func, args, kwargs)
        if func in READS:
            self._unknown("the pipeline looks at a value that only a real run knows")
        out = self._run(func, args, kwargs)
        for tensor in _tensors((out,)):
            _mark(tensor)
        if func._schema.is_mutable and args and isinstance(args[0], torch.Tensor):
            _mark(args[0])
            base = base_of(args[0])
            if base is not None:
                _mark(base)
        return out

    def _run(self, func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        device = kwargs.get("device")
        if device is not None and torch.device(device).type == "meta":
            kwargs = {**kwargs, "device": torch.device("cpu")}
        if any(t.is_meta for t in _tensors(args)) or any(t.is_meta for t in _tensors(tuple(kwargs.values()))):
            if kwargs.get("device") is not None:
                kwargs = {**kwargs, "device": torch.device("meta")}
            args = map_leaves(args, torch.Tensor, _as_meta)
            kwargs = map_leaves(kwargs, torch.Tensor, _as_meta)
            return map_leaves(func(*args, **kwargs), torch.Tensor, placeholder)
        return func(*args, **kwargs)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten._local_scalar_dense.default and args[0].is_meta:
            return 0
        return super().__torch_dispatch__(func, types, args, kwargs)


def _tensors(values: tuple[Any, ...]) -> Iterator[torch.Tensor]:
    for value in values:
        if isinstance(value, torch.Tensor):
            yield value
        elif isinstance(value, (list, tuple)):
            yield from (item for item in value if isinstance(item, torch.Tensor))


def _as_meta(tensor: torch.Tensor) -> torch.Tensor:
    return tensor if tensor.is_meta else torch.empty_like(tensor, device="meta")


def placeholder(tensor: torch.Tensor) -> torch.Tensor:
    """What a pipeline gets for a tensor that a twin returned: zeros in the place of values that nobody knows."""
    if tensor.is_meta:
        return _mark(torch.zeros(tensor.shape, dtype=tensor.dtype))
    return tensor.clone()


#: elements above which the values of a tensor of the user's are not copied
_COPIED_ELEMENTS = 1 << 22


def on_cpu(tensor: torch.Tensor) -> torch.Tensor:
    """A copy of a tensor of the user's; of a large one, and of one without values, a placeholder."""
    if tensor.is_meta or tensor.numel() > _COPIED_ELEMENTS:
        return _mark(torch.zeros(tensor.shape, dtype=tensor.dtype))
    return tensor.detach().to("cpu", copy=True)


def as_pipeline_sees_it(value: Any) -> Any:
    """What a call returned, with placeholders for its tensors."""
    return map_leaves(value, torch.Tensor, placeholder)


def _mark(tensor: torch.Tensor) -> torch.Tensor:
    """Note that the values of a tensor mean nothing."""
    tensor._diffmeter_stand_in = True  # type: ignore[attr-defined]
    return tensor


def is_placeholder(tensor: torch.Tensor) -> bool:
    """Whether the values of a tensor mean nothing."""
    return hasattr(tensor, "_diffmeter_stand_in")


def holds_numbers(output: Any) -> bool:
    """Whether there is a number among what a call returned that is no tensor.

    A boolean is none: verdicts such as a safety checker's decide about images, not about work.
    """
    if isinstance(output, (int, float)):
        return not isinstance(output, bool)
    if isinstance(output, Mapping):
        return any(map(holds_numbers, output.values()))
    return isinstance(output, (list, tuple)) and any(map(holds_numbers, output))
