"""Work of this package's own inside somebody's program: it neither sees the modes that are in force nor is seen."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch

from diffmeter.compat import without_dispatch_modes, without_function_modes


@contextlib.contextmanager
def undisturbed(*, gradients: bool = False) -> Iterator[None]:
    """Around building twins, replaying and reading.

    Inside, no inference mode, autocast or default dtype of the caller holds, and neither a dispatch mode nor a
    function mode (a ``FlopCounterMode``, a default device) of anybody is told of what runs. ``gradients`` says
    whether the gradient mode is on.
    """
    with contextlib.ExitStack() as stack:
        stack.enter_context(unseen())
        stack.enter_context(torch.set_grad_enabled(gradients))
        for device in ("cpu", *(("cuda",) if torch.cuda.is_available() else ())):
            if torch.is_autocast_enabled(device):
                stack.enter_context(torch.autocast(device, enabled=False))
        stack.callback(torch.set_default_dtype, torch.get_default_dtype())
        torch.set_default_dtype(torch.float32)
        yield


@contextlib.contextmanager
def unseen() -> Iterator[None]:
    """Around copying small tensors in a run: the part of :func:`undisturbed` that this needs, at every call."""
    with contextlib.ExitStack() as stack:
        if torch.is_inference_mode_enabled():
            stack.enter_context(torch.inference_mode(False))
        stack.enter_context(without_function_modes())
        stack.enter_context(without_dispatch_modes())
        yield
