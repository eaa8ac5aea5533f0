"""A perceptual hash: near for pictures that look alike, whatever their size and file format.

It is public and tells little: 63 signs. Two pictures within `NEAR` look alike to it; that is weaker than any digest.
"""

import math
from typing import Final

import numpy as np
import numpy.typing as npt
from PIL import Image

NEAR: Final = 14
"""Differing bits up to which two pictures count as alike; see `docs/explanation/threat-model.md` for what was measured."""

_GRID, _LOW = 32, 8


def perceptual_hash(image: Image.Image) -> str:
    """63 bits in hex: signs of the luma's lowest cosine coefficients against their median.

    The picture is brought to 32x32; of its two-dimensional cosine transform the 8x8 lowest frequencies are taken, less
    the mean (Zauner, Implementation and benchmarking of perceptual image hash functions, 2010, section 3.2.1).
    """
    small = image.convert("L").resize((_GRID, _GRID), Image.Resampling.BOX)
    low = _COSINES @ np.asarray(small, np.float64) @ _COSINES.T  # (8, 8)
    values = low.ravel()[1:]  # the first is the mean
    bits = values > np.median(values)
    return f"{int(''.join('1' if bit else '0' for bit in bits), 2):016x}"


def distance(one: str, other: str) -> int:
    """Bits in which two hashes differ, 0 to 63; around 31 for unrelated pictures."""
    return (int(one, 16) ^ int(other, 16)).bit_count()


def _cosines() -> npt.NDArray[np.float64]:
    """The first rows of the orthonormal DCT-II of 32 points: (8, 32)."""
    k, n = np.mgrid[0:_LOW, 0:_GRID]
    rows: npt.NDArray[np.float64] = np.cos(math.pi * (2 * n + 1) * k / (2 * _GRID)) * math.sqrt(2 / _GRID)
    rows[0] /= math.sqrt(2)
    return rows


_COSINES: Final = _cosines()
