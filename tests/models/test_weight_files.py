"""Headers of files of weights."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import pytest

from diffmeter.errors import ModelLoadError
from diffmeter.models.addresses import parse_address
from diffmeter.models.weight_files import read_header
from tests.weight_layouts import write_sparse


def test_shapes_bytes_and_dtypes(tmp_path: Path) -> None:
    path = write_sparse(tmp_path / "x.safetensors", {"a": (2, 3), "b": (5,), "c": ()}, "BF16", format="pt")
    found = read_header(parse_address(path))
    assert {name: tensor.shape for name, tensor in found.tensors.items()} == {"a": (2, 3), "b": (5,), "c": ()}
    assert found.stored_bytes == 2 * (6 + 5 + 1)
    assert found.dtypes == {"BF16": 12}
    assert found.metadata == {"format": "pt"}
    assert {name: tuple(t.shape) for name, t in found.as_meta_tensors().items()} == {"a": (2, 3), "b": (5,), "c": ()}


def test_a_large_file_is_not_read(tmp_path: Path) -> None:
    path = write_sparse(tmp_path / "x.safetensors", {f"layer.{i}": (4096, 4096) for i in range(300)})
    assert path.stat().st_size > 10**10
    assert path.stat().st_blocks * 512 < 10**6  # the test itself wrote a hole
    assert read_header(parse_address(path)).stored_bytes == 300 * 4096 * 4096 * 2


def write(path: Path, header: object, data: bytes = b"", length: int | None = None) -> Path:
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text) if length is None else length) + text + data)
    return path


def test_scales_and_tables_are_bytes_and_no_tensors(tmp_path: Path) -> None:
    """A 4-bit weight of 8 x 6 elements in 24 bytes; its true shape stands as JSON in a tensor beside it."""
    state = json.dumps({"quant_type": "nf4", "blocksize": 64, "shape": [8, 6]}).encode()
    sizes = {"w.weight": 24, "w.weight.absmax": 4, "w.weight.quant_state.bitsandbytes__nf4": len(state)}
    header, end = {}, 0
    for name, size in sizes.items():
        header[name] = {"dtype": "U8", "shape": [size], "data_offsets": [end, end + size]}
        end += size
    found = read_header(parse_address(write(tmp_path / "x.safetensors", header, b"\0" * 28 + state)))
    assert {name: tensor.shape for name, tensor in found.tensors.items()} == {"w.weight": (8, 6)}
    assert found.stored_bytes == end
    assert found.dtypes == {"4-bit": 48}


@pytest.mark.parametrize(
    ("header", "data", "length", "message"),
    [
        ({"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}, b"\0" * 4, None, "is truncated"),
        ({"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 4]}}, b"\0" * 8, None, "is corrupt"),
        ({"a": {"dtype": "F32", "shape": [-2], "data_offsets": [0, 8]}}, b"\0" * 8, None, "is corrupt"),
        ({"a": {"dtype": "F32", "shape": "x", "data_offsets": [0, 8]}}, b"\0" * 8, None, "is corrupt"),
        ({"a": 3}, b"", None, "is corrupt"),
        ([], b"", None, "is corrupt"),
        ({}, b"", 10**9, "truncated or no safetensors file"),
    ],
)
def test_damaged_files_are_named(
    tmp_path: Path, header: object, data: bytes, length: int | None, message: str
) -> None:
    path = write(tmp_path / "x.safetensors", header, data, length)
    with pytest.raises(ModelLoadError, match=message):
        read_header(parse_address(path))


@pytest.mark.parametrize("content", [b"", b"abc", b"\x05\0\0\0\0\0\0\0{{{{{", b"\x02\0\0\0\0\0\0\0\xff\xff"])
def test_what_is_no_safetensors_file(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(content)
    with pytest.raises(ModelLoadError, match=r"no safetensors file|header cannot be read"):
        read_header(parse_address(path))


def test_a_gguf_file(tmp_path: Path) -> None:
    gguf = pytest.importorskip("gguf")
    numpy = pytest.importorskip("numpy")
    path = tmp_path / "x.gguf"
    writer = gguf.GGUFWriter(path, "flux")
    writer.add_tensor("img_in.weight", numpy.zeros((6, 64), dtype=numpy.float32))
    packed = gguf.quantize(numpy.zeros((4, 32), dtype=numpy.float32), gguf.GGMLQuantizationType.Q8_0)
    writer.add_tensor("txt_in.weight", packed, raw_dtype=gguf.GGMLQuantizationType.Q8_0)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    found = read_header(parse_address(path))
    assert {name: tensor.shape for name, tensor in found.tensors.items()} == {
        "img_in.weight": (6, 64),
        "txt_in.weight": (4, 32),
    }
    # Q8_0 stores 32 elements in 34 bytes: 32 of one byte, and a scale of two.
    assert found.stored_bytes == 6 * 64 * 4 + 4 * 34
    assert found.dtypes == {"F32": 384, "Q8_0": 128}
