"""Input pictures: everything a camera, an editor or an attacker may hand over."""

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from lienzo.errors import ImageError
from lienzo.images import mask_tensor, normalize, open_image, png, to_image, to_tensor, transparency


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


@given(st.integers(1, 9), st.integers(1, 9), st.integers(0, 2**32 - 1))
def test_pixels_survive_the_round_trip(width: int, height: int, seed: int) -> None:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    image = Image.fromarray(pixels)
    assert to_image(to_tensor(image)).tobytes() == image.tobytes()
    assert to_tensor(image).shape == (3, height, width)


def test_tensors_are_clamped() -> None:
    image = to_image(torch.tensor([-3.0, 0.0, 3.0])[:, None, None].expand(3, 1, 1))
    assert image.getpixel((0, 0)) == (0, 128, 255)


def test_rotation_is_applied() -> None:
    image = Image.new("RGB", (40, 20), "red")
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter turn
    assert open_image(encoded(image, "JPEG", exif=exif.tobytes())).size == (20, 40)


def test_sixteen_bits_keep_their_grey() -> None:
    grey = Image.fromarray(np.full((4, 4), 32768, np.uint16))
    opened = open_image(encoded(grey, "PNG"))
    assert opened.mode == "L"
    assert opened.getpixel((0, 0)) == 128


@pytest.mark.parametrize("mode", ["CMYK", "P", "1", "L", "LA", "RGBA", "YCbCr", "LAB", "HSV", "F", "I"])
def test_every_mode_becomes_rgb_or_grey(mode: str) -> None:
    image = Image.new("RGB", (6, 4), (200, 30, 40)).convert("L" if mode in "FI" else "RGB")
    image = image.convert(mode) if mode != "LAB" else Image.new("LAB", (6, 4))
    opened = normalize(image)
    assert opened.mode in ("RGB", "L")
    assert opened.size == (6, 4)


def test_transparency_is_laid_over_white() -> None:
    assert open_image(encoded(Image.new("RGBA", (2, 2), (255, 0, 0, 0)), "PNG")).getpixel((0, 0)) == (255, 255, 255)


def test_animation_is_refused() -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue", "green")]
    data = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    with pytest.raises(ImageError, match="animated, with 3 frames"):
        open_image(data)


def claims(width: int, height: int) -> bytes:
    """A PNG of a few bytes that claims a size."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 100)) + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize("size", [(8001, 8001), (10_000, 10_000), (60_000, 60_000), (2**31 - 1, 2**31 - 1)])
def test_huge_pictures_are_refused_before_decoding(size: tuple[int, int]) -> None:
    with pytest.raises(ImageError, match="more than 64,000,000 pixels"):
        open_image(claims(*size))


@pytest.mark.filterwarnings("default::PIL.Image.DecompressionBombWarning")
def test_where_pil_only_warns_lienzo_refuses() -> None:
    with (
        pytest.warns(Image.DecompressionBombWarning),
        pytest.raises(ImageError, match="10000x10000 is more than 64,000,000 pixels"),
    ):
        open_image(claims(10_000, 10_000))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_greys_that_are_no_numbers_are_refused(value: float) -> None:
    with pytest.raises(ImageError, match="NaN or infinity"):
        normalize(Image.fromarray(np.array([[0.5, value]], np.float32)))


def test_a_cut_off_picture_of_pils_is_refused() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    data = encoded(Image.fromarray(noise), "PNG")
    with pytest.raises(ImageError, match="damaged"):
        normalize(Image.open(io.BytesIO(data[: len(data) // 2])))


def test_what_is_no_picture_is_said_to_be_none(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="not a picture"):
        open_image(b"hello")
    with pytest.raises(ImageError, match="no such file"):
        open_image(tmp_path / "none.png")
    with pytest.raises(ImageError, match=r"damaged|unreadable"):
        open_image(tmp_path)


@given(st.integers(0, 400), st.binary(max_size=4), st.integers(0, 400))
def test_damaged_files_are_errors_or_pictures(start: int, junk: bytes, cut: int) -> None:
    data = encoded(Image.fromarray(np.arange(300, dtype=np.uint8).reshape(10, 10, 3)), "PNG")
    start, cut = start % len(data), cut % len(data)
    try:
        opened = open_image(data[:start] + junk + data[start + len(junk) : len(data) - cut])
    except ImageError:
        return
    assert opened.mode in ("RGB", "L")


def test_masks_are_split_at_one_half_or_kept_soft() -> None:
    ramp = Image.fromarray(np.arange(256, dtype=np.uint8)[None])
    hard, soft = mask_tensor(ramp, 256, 1, soft=False), mask_tensor(ramp, 256, 1, soft=True)
    assert set(hard.unique().tolist()) == {0.0, 1.0}
    assert hard[0, 0, 127] == 0
    assert hard[0, 0, 128] == 1
    assert soft[0, 0, 64] == pytest.approx(64 / 255)


def test_transparency_is_white_where_nothing_is_seen() -> None:
    area = Image.new("L", (8, 6), 255)
    area.paste(0, (0, 0, 4, 6))
    for mode in ("RGBA", "LA"):
        hole = Image.new("RGB", (8, 6), "red").convert(mode)
        hole.putalpha(area)
        seen = transparency(png(hole))
        assert seen is not None and np.array_equal(seen, 255 - np.asarray(area))
    palette = Image.new("P", (2, 1))
    palette.putpalette([0, 0, 0, 255, 0, 0])
    palette.putpixel((1, 0), 1)
    file = io.BytesIO()
    palette.save(file, "PNG", transparency=1)
    seen = transparency(file.getvalue())
    assert seen is not None and seen.tobytes() == b"\0\xff"


@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA"])
def test_an_opaque_picture_has_none(mode: str) -> None:
    assert transparency(png(Image.new(mode, (8, 8), "red"))) is None
    with pytest.raises(ImageError, match=r"^mask: "):
        transparency(b"no picture", "mask")
