"""Text chunks of PNG files: what is written is what Pillow and diffmeter read back."""

from __future__ import annotations

import json
import struct
import zlib
from contextlib import suppress
from io import BytesIO
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from diffmeter.errors import InputError, StorageError
from diffmeter.storage import png as images

RECORD = {
    "prompt": "a red circle",
    "negative_prompt": "blurry, dark",
    "num_inference_steps": 25,
    "scheduler": "EulerAncestralDiscreteScheduler",
    "guidance_scale": 7.0,
    "seed": 12345,
    "width": 64,
    "height": 48,
    "model_id": "diffmeter/shapes",
}


def red() -> Image.Image:
    return Image.new("RGB", (8, 6), (255, 0, 0))


def with_pillow(png: bytes) -> dict[str, str]:
    with Image.open(BytesIO(png)) as image:
        image.load()
        return dict(image.text)


def test_the_parameters_line_is_as_image_tools_write_it() -> None:
    # The format: prompt, "Negative prompt:" line, then "Steps: ..., Sampler: ..., CFG scale: ..." in one line.
    assert images.parameters_text(RECORD) == (
        "a red circle\n"
        "Negative prompt: blurry, dark\n"
        "Steps: 25, Sampler: Euler a, CFG scale: 7, Seed: 12345, Size: 64x48, Model: diffmeter/shapes"
    )


def test_unknown_schedulers_and_odd_model_names_keep_the_line_whole() -> None:
    text = images.parameters_text({**RECORD, "negative_prompt": None, "scheduler": "New", "model_id": "a, b: c\nd"})
    assert text.splitlines()[1].endswith('Sampler: New, CFG scale: 7, Seed: 12345, Size: 64x48, Model: "a, b: c\\nd"')
    assert len(text.splitlines()) == 2


TEXTS = [
    "plain",
    "ünïcödé in Latin-1",
    "日本語 \u202e right to left",
    "line\nbreaks\r\nand\ttabs",
    "x" * 10_000,
    "日" * 10_000,
    "y" * 1_000_000,
    "",
]


@pytest.mark.parametrize("text", TEXTS, ids=range(len(TEXTS)))
def test_texts_come_back_from_pillow_and_from_us(text: str) -> None:
    png = images.encode_png(red(), {"parameters": text, "diffmeter": json.dumps({"prompt": text})})
    assert with_pillow(png)["parameters"] == text
    assert images.read_texts(png)["parameters"] == text
    assert images.read_record(png) == {"prompt": text}


@given(st.text(st.characters(), max_size=200))
@settings(deadline=None)
def test_any_prompt_is_kept_faithfully_in_the_record(prompt: str) -> None:
    png = images.encode_png(
        red(), {"parameters": images.parameters_text({**RECORD, "prompt": prompt}), "diffmeter": json.dumps([prompt])}
    )
    assert json.loads(images.read_texts(png)["diffmeter"]) == [prompt]
    # NUL and lone surrogates have no place in a text chunk; everything else is there word for word.
    expected = "".join("\ufffd" if c == "\0" or "\ud800" <= c <= "\udfff" else c for c in prompt)
    assert with_pillow(png)["parameters"].startswith(expected)


def test_surrogates_survive_in_the_record() -> None:
    png = images.encode_png(red(), {"diffmeter": json.dumps({"prompt": "\ud800\0"}), "parameters": "\ud800\0"})
    assert images.read_record(png) == {"prompt": "\ud800\0"}
    assert images.read_texts(png)["parameters"] == "\ufffd\ufffd"


def test_existing_keys_are_never_overwritten() -> None:
    info = PngInfo()
    info.add_text("parameters", "theirs")
    info.add_text("Comment", "kept")
    buffer = BytesIO()
    red().save(buffer, "PNG", pnginfo=info)
    added = images.add_texts(buffer.getvalue(), {"parameters": "ours", "diffmeter": "{}"})
    assert with_pillow(added) == {"parameters": "theirs", "Comment": "kept", "diffmeter": "{}"}
    with Image.open(BytesIO(added)) as image:
        assert image.tobytes() == red().tobytes()
        again = images.encode_png(image, {"parameters": "ours", "diffmeter": "[]"})
    assert with_pillow(again)["parameters"] == "theirs"
    assert with_pillow(again)["diffmeter"] == "{}"


def test_adding_text_keeps_the_pixels_of_every_mode() -> None:
    for mode in ("1", "L", "P", "RGB", "RGBA", "I;16"):
        image = Image.new(mode, (5, 7), 1 if mode != "RGB" else (1, 2, 3))
        png = images.encode_png(image, {"parameters": "x"})
        with Image.open(BytesIO(png)) as opened:
            assert opened.size == (5, 7)
            assert opened.tobytes() == image.tobytes()


def test_damaged_files_are_one_sentence(tmp_path: Path) -> None:
    png = images.encode_png(red(), {"parameters": "x"})
    flipped = bytearray(png)
    flipped[40] ^= 1
    for data, reason in ((b"no png", "no PNG"), (png[:-5], "ends in the middle"), (bytes(flipped), "checksum")):
        path = tmp_path / "a.png"
        path.write_bytes(data)
        with pytest.raises(InputError, match=reason):
            images.read_texts(path)
        assert not images.is_whole_png(path) or reason == "checksum"
    with pytest.raises(StorageError):
        images.read_texts(tmp_path / "missing.png")
    with pytest.raises(InputError):
        images.add_texts(png, {"": "x"})
    with pytest.raises(InputError):
        images.add_texts(png, {"k" * 80: "x"})


@given(st.binary(max_size=200), st.integers(0, 200))
@settings(deadline=None, max_examples=200)
def test_any_bytes_give_a_sentence_or_texts(data: bytes, at: int) -> None:
    png = images.encode_png(red(), {"parameters": "x"})
    for candidate in (data, png[:at] + data + png[at:], b"\x89PNG\r\n\x1a\n" + data):
        with suppress(InputError):
            assert isinstance(images.read_texts(candidate), dict)


def test_a_zip_bomb_in_a_text_chunk_is_not_unpacked() -> None:
    bomb = zlib.compress(b"\0" * (200 * 2**20))
    data = b"diffmeter\0\0" + bomb
    chunk = struct.pack(">I", len(data)) + b"zTXt" + data + struct.pack(">I", zlib.crc32(b"zTXt" + data))
    png = images.encode_png(red(), {"parameters": "fine"})
    assert images.read_texts(png[:33] + chunk + png[33:]) == {"parameters": "fine"}
