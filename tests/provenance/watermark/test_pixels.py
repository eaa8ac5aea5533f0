"""Marks are found after what happens to pictures, and nowhere else."""

import hashlib
import os
import subprocess
import sys
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image, ImageOps

from lienzo.errors import ImageError
from lienzo.provenance.watermark import MIN_SIDE, Found, can_carry, find, mark
from provenance.watermark.pictures import extremes, jpeg, noisy, psnr, scaled, scenes, textures

KEY, OTHER = b"k" * 32, b"o" * 32
RECORD = 0xBEEF_CAFE_0042
CHANGES: dict[str, Callable[[Image.Image], Image.Image]] = {
    "nothing": lambda image: image,
    "JPEG 50": lambda image: jpeg(image, 50),
    "half the size": lambda image: scaled(image, 0.5),
    "noise": lambda image: noisy(image, 5),
    "mirrored": ImageOps.mirror,
    "upside down": lambda image: image.rotate(180),
    "a quarter turn": lambda image: image.transpose(Image.Transpose.ROTATE_90),
    "turned and mirrored": lambda image: ImageOps.mirror(image.transpose(Image.Transpose.ROTATE_270)),
}


def pictures() -> list[Image.Image]:
    return [*scenes(7), *textures(3)]


@pytest.mark.parametrize("change", CHANGES)
def test_found_after(change: str) -> None:
    for number, picture in enumerate(pictures()):
        found = find(CHANGES[change](mark(picture, RECORD + number, KEY)), [KEY])
        assert found is not None, number
        assert (found.record_id, found.tag_valid) == (RECORD + number, True)


@pytest.mark.parametrize("size", [(64, 64), (65, 64), (96, 160), (127, 129), (64, 512), (777, 333)])
def test_sizes_and_shapes(size: tuple[int, int]) -> None:
    (picture,) = textures(1, size)
    marked = mark(picture, RECORD, KEY)
    assert (marked.size, marked.mode) == (size, "RGB")
    assert find(marked, [KEY]) == Found(RECORD, True, 0)


@pytest.mark.parametrize("name", extremes())
def test_extremes_are_marked_too(name: str) -> None:
    found = find(mark(extremes()[name], RECORD, KEY), [KEY])
    assert found is not None and found.record_id == RECORD


def test_change_is_hardly_seen() -> None:
    for picture in pictures():
        assert psnr(picture, mark(picture, RECORD, KEY)) >= 38


def test_unmarked_pictures_hold_nothing() -> None:
    for picture in [*scenes(16, seed=1), *textures(4, (128, 128), seed=1), *extremes().values()]:
        assert find(picture, [KEY]) is None


def test_the_key_tells_own_marks() -> None:
    (picture,) = scenes(1)
    assert find(mark(picture, RECORD, KEY), [OTHER]) == Found(RECORD, False, 0)
    assert find(mark(picture, RECORD, KEY)) == Found(RECORD, False, 0)
    assert find(mark(picture, RECORD, KEY), [OTHER, KEY]) == Found(RECORD, True, 0)


def test_the_last_mark_wins() -> None:
    for picture in pictures():
        assert find(mark(mark(picture, 1, OTHER), RECORD, KEY), [KEY, OTHER]) == Found(RECORD, True, 0)


def test_too_small() -> None:
    small = Image.new("RGB", (MIN_SIDE, MIN_SIDE - 1), "white")
    assert not can_carry(small)
    assert find(small, [KEY]) is None
    with pytest.raises(ImageError, match="64x63: a watermark needs 64"):
        mark(small, RECORD, KEY)


def test_the_picture_given_stays_as_it_is() -> None:
    (picture,) = textures(1)
    before = picture.tobytes()
    mark(picture, RECORD, KEY)
    assert picture.tobytes() == before


DIGEST = """
import hashlib
from provenance.watermark.pictures import scenes, textures
from lienzo.provenance.watermark import mark
marked = [mark(picture, 12345, b"k" * 32) for picture in [*scenes(3), *textures(1)]]
print(hashlib.sha256(b"".join(picture.tobytes() for picture in marked)).hexdigest())
"""


def test_pixels_do_not_depend_on_threads() -> None:
    marked = [mark(picture, 12345, KEY) for picture in [*scenes(3), *textures(1)]]
    here = hashlib.sha256(b"".join(picture.tobytes() for picture in marked)).hexdigest()
    for threads in ("1", "3"):
        variables = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), threads)
        path = os.pathsep.join(["tests", ".", "src"])
        run = subprocess.run(
            [sys.executable, "-c", DIGEST],
            env={**os.environ, **variables, "PYTHONPATH": path},
            capture_output=True,
            text=True,
            check=True,
        )
        assert run.stdout.strip() == here


def test_grey_pictures_become_rgb() -> None:
    grey = Image.fromarray(np.full((128, 128), 90, np.uint8))
    assert find(mark(grey, RECORD, KEY), [KEY]) == Found(RECORD, True, 0)
