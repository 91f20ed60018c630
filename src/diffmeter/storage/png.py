"""What a PNG file says about itself: writing and reading its text chunks.

Two keys are written. ``parameters`` is the line that most image tools read: prompt, negative prompt, then
``Steps: ..., Sampler: ..., CFG scale: ..., Seed: ..., Size: WxH, Model: ...``. ``diffmeter`` holds the generation's
whole record, compute profile included, as JSON. A key that a file already has is never overwritten.

Chunks are read and written without decoding a pixel. Format: https://www.w3.org/TR/png-3/#11textinfo.
"""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Iterator, Mapping
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diffmeter.errors import InputError, StorageError

from .files import explain_os_error

if TYPE_CHECKING:
    from PIL.Image import Image

PARAMETERS_KEY = "parameters"
RECORD_KEY = "diffmeter"

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_MAX_TEXT = 64 * 2**20  # bytes; a larger compressed text is taken for an attack and not unpacked
_COMPRESS_FROM = 2048  # bytes; below this a compressed chunk saves nothing worth having
# Pillow refuses to unpack a text chunk of more than a million bytes; larger texts stay uncompressed.
_COMPRESS_UP_TO = 900_000

# Names that image tools use for the schedulers of diffusers that have a settled one; others keep their class name.
_SAMPLER_NAMES = {
    "DDIMScheduler": "DDIM",
    "DPMSolverMultistepScheduler": "DPM++ 2M",
    "DPMSolverSDEScheduler": "DPM++ SDE",
    "EulerAncestralDiscreteScheduler": "Euler a",
    "EulerDiscreteScheduler": "Euler",
    "FlowMatchEulerDiscreteScheduler": "Euler",
    "HeunDiscreteScheduler": "Heun",
    "KDPM2AncestralDiscreteScheduler": "DPM2 a",
    "KDPM2DiscreteScheduler": "DPM2",
    "LCMScheduler": "LCM",
    "LMSDiscreteScheduler": "LMS",
    "PNDMScheduler": "PLMS",
    "UniPCMultistepScheduler": "UniPC",
}


def parameters_text(record: Mapping[str, Any]) -> str:
    """The ``parameters`` text for a generation's record.

    ``record`` has ``prompt``, and where known ``negative_prompt``, ``num_inference_steps``, ``scheduler``,
    ``guidance_scale``, ``seed``, ``width``, ``height``, ``model_name`` or ``model_id``.
    """
    lines = [str(record.get("prompt") or "")]
    if record.get("negative_prompt"):
        lines.append(f"Negative prompt: {record['negative_prompt']}")
    scheduler = record.get("scheduler")
    size = f"{record['width']}x{record['height']}" if record.get("width") and record.get("height") else None
    settings = {
        "Steps": record.get("num_inference_steps"),
        "Sampler": _SAMPLER_NAMES.get(scheduler, scheduler) if scheduler else None,
        "CFG scale": _plain_number(record.get("guidance_scale")),
        "Seed": record.get("seed"),
        "Size": size,
        "Model": record.get("model_id"),
    }
    lines.append(", ".join(f"{name}: {_quoted(value)}" for name, value in settings.items() if value is not None))
    return "\n".join(lines)


def _plain_number(value: object) -> object:
    """7.0 as 7, as the tools that read the line write it."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _quoted(value: object) -> str:
    """Values that would break the line at a comma, colon or line break are written as JSON strings."""
    text = str(value)
    return json.dumps(text, ensure_ascii=False) if any(character in text for character in ',:"\n\r') else text


def encode_png(image: Image, texts: Mapping[str, str]) -> bytes:
    """``image`` as a PNG file with ``texts``; text that the image brought along (``image.info``) is kept."""
    from PIL.PngImagePlugin import PngInfo

    own = PngInfo()
    for key, value in image.info.items():
        if isinstance(key, str) and isinstance(value, str) and _is_valid_key(key):
            own.add_itxt(key, _storable(value))
    buffer = BytesIO()
    image.save(buffer, format="PNG", pnginfo=own)
    return add_texts(buffer.getvalue(), texts)


def add_texts(png: bytes, texts: Mapping[str, str]) -> bytes:
    """The PNG file ``png`` with one text chunk more per key in ``texts`` that it does not have yet.

    Raises ``InputError`` if ``png`` is no PNG file or a key is not 1 to 79 Latin-1 characters.
    """
    present = {_key_of(data) for kind, data, _, _ in _chunks(png) if kind in _TEXT_CHUNKS}
    return replace_texts(png, {key: value for key, value in texts.items() if key not in present})


def replace_texts(png: bytes, texts: Mapping[str, str]) -> bytes:
    """The PNG file ``png`` with exactly one text chunk per key in ``texts``; everything else stays as it is.

    Raises ``InputError`` if ``png`` is no PNG file or a key is not 1 to 79 Latin-1 characters.
    """
    kept: list[bytes] = []
    before_pixels = None
    for kind, data, start, end in _chunks(png):
        if kind == b"IDAT" and before_pixels is None:
            before_pixels = len(kept)
        if kind not in _TEXT_CHUNKS or _key_of(data) not in texts:
            kept.append(png[start:end])
    if before_pixels is None:
        raise InputError("the PNG file holds no image data.")
    kept.insert(before_pixels, b"".join(_text_chunk(key, value) for key, value in texts.items()))
    return _SIGNATURE + b"".join(kept)


_TEXT_CHUNKS = (b"tEXt", b"zTXt", b"iTXt")


def _key_of(data: bytes) -> str:
    return data.split(b"\0", 1)[0].decode("latin-1")


def read_texts(source: str | Path | bytes) -> dict[str, str]:
    """Every text chunk of a PNG file (a path, or the file's bytes) by its key; the first of a key counts.

    Raises ``InputError`` with one sentence if it is no whole PNG file, ``StorageError`` if it cannot be read.
    """
    if isinstance(source, bytes):
        png, name = source, "the data"
    else:
        name = repr(str(source))
        try:
            png = Path(source).read_bytes()
        except OSError as error:
            raise StorageError(f"cannot read {name}: {explain_os_error(error)}.") from error
        except ValueError as error:  # a NUL in the path
            raise InputError(f"cannot read {name}: {error}.") from None
    texts: dict[str, str] = {}
    for kind, data, _, _ in _chunks(png, name):
        decoded = _decode_text(kind, data)
        if decoded is not None:
            texts.setdefault(*decoded)
    return texts


def read_record(source: str | Path | bytes) -> dict[str, Any] | None:
    """Diffmeter's own record in a PNG file, or ``None`` if it has none that can be read. Raises as ``read_texts``."""
    text = read_texts(source).get(RECORD_KEY)
    if text is None:
        return None
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def is_whole_png(path: str | Path) -> bool:
    """Whether the file begins and ends as a PNG file does; a cheap look, no check of what lies between."""
    try:
        with open(path, "rb") as file:
            if file.read(8) != _SIGNATURE:
                return False
            file.seek(-12, 2)
            return file.read() == b"\0\0\0\0IEND\xaeB`\x82"
    except (OSError, ValueError):
        return False


def _chunks(png: bytes, name: str = "the data") -> Iterator[tuple[bytes, bytes, int, int]]:
    """Each chunk of a PNG file: type, data, where it begins and ends. Raises ``InputError`` for a damaged file."""
    if png[:8] != _SIGNATURE:
        raise InputError(f"{name} is no PNG file.")
    position = 8
    while position < len(png):
        if position + 12 > len(png):
            break
        length, kind = struct.unpack_from(">I4s", png, position)
        end = position + 12 + length
        if end > len(png):
            break
        data = png[position + 8 : end - 4]
        if zlib.crc32(kind + data) != struct.unpack_from(">I", png, end - 4)[0]:
            raise InputError(f"{name} is a damaged PNG file: a chunk's checksum is wrong.")
        yield kind, data, position, end
        if kind == b"IEND":
            return
        position = end
    raise InputError(f"{name} is a damaged PNG file: it ends in the middle.")


def _is_valid_key(key: str) -> bool:
    return 1 <= len(key) <= 79 and key == key.strip() and all(" " <= c <= "~" or "\xa1" <= c <= "\xff" for c in key)


def _storable(text: str) -> str:
    """``text`` without what a text chunk cannot hold: NUL and lone surrogates become the replacement character."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace").replace("\0", "\ufffd")


def _text_chunk(key: str, text: str) -> bytes:
    """One text chunk: Latin-1 where the text fits (zipped when long), else UTF-8."""
    if not _is_valid_key(key):
        raise InputError(f"a PNG text key must be 1 to 79 printable Latin-1 characters, not {key!r}.")
    text = _storable(text)
    name = key.encode("latin-1")
    try:
        plain = text.encode("latin-1")
    except UnicodeEncodeError:
        # Key, not compressed, no language tag, no translated key.
        return _chunk(b"iTXt", name + b"\0\0\0\0\0" + text.encode("utf-8"))
    if _COMPRESS_FROM <= len(plain) <= _COMPRESS_UP_TO:
        return _chunk(b"zTXt", name + b"\0\0" + zlib.compress(plain))
    return _chunk(b"tEXt", name + b"\0" + plain)


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def _decode_text(kind: bytes, data: bytes) -> tuple[str, str] | None:
    """Key and text of a text chunk; ``None`` for other chunks and for text that breaks the format."""
    if kind not in _TEXT_CHUNKS:
        return None
    name, _, rest = data.partition(b"\0")
    key = name.decode("latin-1")
    try:
        if kind == b"tEXt":
            return key, rest.decode("latin-1")
        if kind == b"zTXt":
            return key, _unpack(rest[1:]).decode("latin-1")
        zipped = rest[0] == 1
        _, _, text = rest[2:].split(b"\0", 2)
        return key, (_unpack(text) if zipped else text).decode("utf-8", "replace")
    except (zlib.error, ValueError, IndexError):
        return None


def _unpack(data: bytes) -> bytes:
    unpacker = zlib.decompressobj()
    text = unpacker.decompress(data, _MAX_TEXT)
    if unpacker.unconsumed_tail:
        raise ValueError("the text is too large")
    return text
