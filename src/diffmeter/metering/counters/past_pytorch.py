"""Work that runs past PyTorch: values that leave as NumPy arrays or addresses and come back changed or computed.

No operator shows it, so a forward that multiplies with NumPy, or launches a kernel of its own, would be taken for one
that does nothing. Reading values alone (saving attention maps, logging) is no such work.
"""

from __future__ import annotations

import hashlib
from typing import Any

import torch
from torch import Tensor

from diffmeter.compat import without_dispatch_modes

#: under which name a profile lists such work
NAME = "computed past PyTorch's operators (NumPy or a kernel of its own)"

_LEAVES = frozenset(
    getattr(Tensor, name)
    for name in ("numpy", "__array__", "tolist", "data_ptr", "__dlpack__")
    if hasattr(Tensor, name)
)
_MAKES = frozenset({torch.tensor, torch.as_tensor, torch.asarray, torch.utils.dlpack.from_dlpack})


class PastPyTorch:
    """Watches the functions that Python code calls in one counted call.

    Attributes:
        came_back: whether floating-point values were made from outside after others had left.
    """

    def __init__(self) -> None:
        self._left: list[tuple[Tensor, int, str | None]] = []
        self.came_back = False

    def see(self, func: Any, name: Any, args: tuple[Any, ...], out: Any) -> None:
        """Note one called function."""
        if func in _LEAVES:
            tensor = args[0]
            if isinstance(tensor, Tensor) and tensor.is_floating_point() and not tensor.is_meta and tensor.numel() > 1:
                self._left.append((tensor, tensor._version, _fingerprint(tensor)))
        elif self._left and (func in _MAKES or name == "aten.lift_fresh"):
            made_of = args[0] if args else None
            if isinstance(out, Tensor) and out.is_floating_point() and out.numel() > 1:
                self.came_back |= name == "aten.lift_fresh" or not isinstance(made_of, Tensor)

    def found(self) -> bool:
        """Whether work ran past PyTorch: values came back, or a tensor changed and no operator wrote it."""
        return self.came_back or any(
            tensor._version == version and _fingerprint(tensor) != before for tensor, version, before in self._left
        )


def _fingerprint(tensor: Tensor) -> str | None:
    """What the bytes of a tensor are; None where they cannot be read."""
    try:
        with without_dispatch_modes(), torch._C.DisableTorchFunction(), torch.no_grad():
            flat = tensor.detach().contiguous().reshape(-1).view(torch.uint8).cpu()
            return hashlib.blake2b(flat.numpy().tobytes(), digest_size=16).hexdigest()
    except Exception:  # a tensor class of its own
        return None
