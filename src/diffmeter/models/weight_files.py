"""The header of one file of weights: which tensors it holds, without reading them.

A safetensors file begins with a JSON header, so a file of 20 GB is described by its first kilobytes, and one on the
hub by a range request. A GGUF file has the same at its beginning (read with the ``gguf`` package, an extra).
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING

from diffmeter.errors import MissingPackageError, ModelLoadError, shown

from .addresses import Address

if TYPE_CHECKING:
    import torch
    from gguf import GGUFReader
    from gguf.gguf_reader import ReaderTensor

#: a header larger than this is none: FLUX.1's, with 780 tensors, has 75 kB
_MAX_HEADER_BYTES = 100 << 20
#: tensors that say how others are stored: scales of fp8, lookup tables of 4-bit formats
_STORAGE_SUFFIXES = (
    ".scale_weight",
    ".scale_input",
    ".weight_scale",
    ".weight_scale_2",
    ".input_scale",
    ".comfy_quant",
    ".absmax",
    ".quant_map",
    ".nested_absmax",
    ".nested_quant_map",
)
_BITS = {"F64": 64, "I64": 64, "U64": 64, "F32": 32, "I32": 32, "U32": 32, "F16": 16, "BF16": 16, "I16": 16, "U16": 16}


@dataclass(frozen=True, kw_only=True, slots=True)
class StoredTensor:
    """One tensor of a file: its logical shape, the dtype that it is stored in, and the bytes that it takes."""

    shape: tuple[int, ...]
    dtype: str
    stored_bytes: int


@dataclass(frozen=True, kw_only=True)
class WeightFile:
    """What the header of a file says.

    Attributes:
        name: how messages call the file.
        tensors: by the name that the file gives them, in its order. Helper tensors that only say how another one is
            stored are counted in ``stored_bytes`` and left out here.
        stored_bytes: bytes of all tensors.
        metadata: texts that its writer added.
    """

    name: str
    tensors: Mapping[str, StoredTensor]
    stored_bytes: int
    metadata: Mapping[str, str] = field(default_factory=dict)

    @property
    def dtypes(self) -> dict[str, int]:
        """Elements by the dtype that they are stored in, the most frequent first."""
        elements: Counter[str] = Counter()
        for tensor in self.tensors.values():
            elements[tensor.dtype] += prod(tensor.shape)
        return dict(elements.most_common())

    def as_meta_tensors(self) -> dict[str, torch.Tensor]:
        """The tensors in their logical shapes on the meta device, for functions that rename and split weights."""
        import torch

        return {name: torch.empty(tensor.shape, device="meta") for name, tensor in self.tensors.items()}


def read_header(address: Address, token: str | bool | None = None) -> WeightFile:
    """The header of the file that ``address`` names, on this machine or on the hub.

    Raises:
        ModelLoadError: the file is damaged, or is not what its name says.
        ModelNotFoundError: the hub has no such file.
        MissingPackageError: a GGUF file, and the package that reads it is not installed.
    """
    if address.path is not None:
        if address.path.suffix.lower() == ".gguf":
            return _read_gguf(address.path)
        return _read_safetensors(address.path)
    return _read_remote(address, token)


class HeaderError(Exception):
    """What is wrong with a file, in words that follow its name: "is truncated"."""


_Entry = tuple[str, tuple[int, ...], tuple[int, int]]
_Content = Callable[[str], bytes] | None  # reads one tensor; None where that would be a request of its own


def safetensors_header(path: Path) -> tuple[dict[str, _Entry], dict[str, str], int]:
    """The entries of a safetensors file, its metadata, and the byte at which its data begins.

    An entry is (dtype, shape, (first byte, end)), counted from where the data begins. The format is 8 bytes with the
    header's length, the header as JSON, and the tensors' bytes (https://github.com/huggingface/safetensors#format).

    Raises:
        HeaderError: the file cannot be read, is no safetensors file, or is not as long as its header says.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if size < 8 or length > min(_MAX_HEADER_BYTES, size - 8):
                raise HeaderError("is truncated or no safetensors file")
            header = json.loads(file.read(length))
    except (ValueError, RecursionError) as error:
        raise HeaderError("is corrupt: its header cannot be read") from error
    except OSError as error:
        raise HeaderError(f"cannot be read: {error.strerror}") from error
    if not isinstance(header, dict):
        raise HeaderError("is corrupt: its header is no object")
    metadata = header.pop("__metadata__", {})
    entries = {key: _entry(key, value) for key, value in header.items()}
    end = 8 + length + max((stop for _, _, (_, stop) in entries.values()), default=0)
    if size != end:
        raise HeaderError(f"is {'truncated' if size < end else 'corrupt'}: {size} bytes instead of {end}")
    texts = {str(k): str(v) for k, v in metadata.items()} if isinstance(metadata, dict) else {}
    return entries, texts, 8 + length


def _entry(key: str, value: object) -> _Entry:
    try:
        if not isinstance(value, dict):
            raise TypeError
        begin, end = value["data_offsets"]
        shape = tuple(value["shape"])
        whole = all(isinstance(n, int) and not isinstance(n, bool) and n >= 0 for n in (*shape, begin, end))
        if not whole or begin > end or not isinstance(value["dtype"], str):
            raise ValueError
        bits = _BITS.get(value["dtype"])
        if bits is not None and prod(shape) * bits != (end - begin) * 8:
            raise ValueError
        return value["dtype"], shape, (begin, end)
    except (KeyError, TypeError, ValueError):
        raise HeaderError(f"is corrupt: its header says {shown(value)} of the tensor {shown(key)}") from None


def _read_safetensors(path: Path) -> WeightFile:
    try:
        entries, metadata, start = safetensors_header(path)
    except HeaderError as problem:
        raise ModelLoadError(f"{shown(str(path))} {problem}.") from problem

    def content(key: str) -> bytes:
        begin, stop = entries[key][2]
        with path.open("rb") as file:
            file.seek(start + begin)
            return file.read(stop - begin)

    return _weight_file(str(path), entries, metadata, content)


def _weight_file(
    name: str, entries: Mapping[str, _Entry], metadata: Mapping[str, str], content: _Content
) -> WeightFile:
    packed = _packed_shapes(entries, content)
    tensors = {
        key: StoredTensor(
            shape=packed.get(key, shape), dtype=_stored_dtype(key, dtype, packed), stored_bytes=end - begin
        )
        for key, (dtype, shape, (begin, end)) in entries.items()
        if not _is_storage(key)
    }
    total = sum(end - begin for _, _, (begin, end) in entries.values())
    return WeightFile(name=name, tensors=tensors, stored_bytes=total, metadata=metadata)


def _is_storage(key: str) -> bool:
    return key.endswith(_STORAGE_SUFFIXES) or ".quant_state." in key or key.rpartition(".")[2] == "scaled_fp8"


def _stored_dtype(key: str, dtype: str, packed: Mapping[str, tuple[int, ...]]) -> str:
    return "4-bit" if key in packed else dtype


def _packed_shapes(entries: Mapping[str, _Entry], content: _Content) -> dict[str, tuple[int, ...]]:
    """The logical shapes of 4-bit weights of bitsandbytes, which each keep theirs as JSON in a small tensor."""
    shapes = {}
    for key in entries:
        weight, mark, _ = key.partition(".quant_state.")
        if mark and content is not None and entries[key][2][1] - entries[key][2][0] < 4096:
            try:
                shapes[weight] = tuple(int(side) for side in json.loads(content(key))["shape"])
            except (ValueError, KeyError, TypeError):
                continue
    return shapes


def _read_gguf(path: Path) -> WeightFile:
    try:
        from gguf import GGUFReader
    except ImportError as error:
        raise MissingPackageError(
            f"{shown(path.name)} needs the package gguf to be read. Install with: pip install gguf"
        ) from error
    try:
        reader = GGUFReader(str(path))
        tensors = {
            # GGUF writes the fastest dimension first
            tensor.name: StoredTensor(
                shape=_gguf_shape(reader, tensor),
                dtype=tensor.tensor_type.name,
                stored_bytes=int(tensor.n_bytes),
            )
            for tensor in reader.tensors
        }
    except Exception as error:
        raise ModelLoadError(f"{shown(str(path))} is no GGUF file, or is damaged.") from error
    total = sum(tensor.stored_bytes for tensor in tensors.values())
    return WeightFile(name=str(path), tensors=tensors, stored_bytes=total)


def _gguf_shape(reader: GGUFReader, tensor: ReaderTensor) -> tuple[int, ...]:
    """The logical shape: some writers flatten convolutions and note the original shape beside them."""
    noted = reader.get_field(f"comfy.gguf.orig_shape.{tensor.name}")
    if noted is not None:
        return tuple(int(noted.parts[index][0]) for index in noted.data)
    return tuple(int(side) for side in reversed(tensor.shape))


def _read_remote(address: Address, token: str | bool | None) -> WeightFile:
    from huggingface_hub import HfApi

    from .hub import hub_error

    name = f"{address.repository}/{address.inside}"
    if not address.inside.lower().endswith(".safetensors"):
        raise ModelLoadError(f"{shown(name)} can only be read from this machine: download it and give its path.")
    try:
        found = HfApi(token=token).parse_safetensors_file_metadata(
            str(address.repository), address.inside, revision=address.revision
        )
    except Exception as error:
        raise hub_error(error, str(address.repository), address.revision) from error
    entries: dict[str, _Entry] = {
        key: (str(info.dtype), tuple(info.shape), (info.data_offsets[0], info.data_offsets[1]))
        for key, info in found.tensors.items()
    }
    return _weight_file(name, entries, dict(found.metadata), None)
