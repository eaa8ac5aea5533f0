"""A watermark in the pixels, by dither modulation.

The picture is looked at in luma at 128x128, in 64 blocks of 16x16. In each block two directions are fixed, each a sum of
six or so low cosine coefficients with signs; along a direction the block's value is moved to the nearest point of a lattice,
of which there are two, one for 0 and one for 1 (quantisation index modulation with spread transform: Chen and Wornell, IEEE
Trans. Inf. Theory 47(4), 2001). The change is as small at a bright edge as on a plain wall: what the picture itself has
in those directions does not disturb the reading, as it does where a pattern is only added.

It depends on the picture, the payload and nothing else: no chance, no weights. Reading tries brightness factors, blurs and
the eight ways to turn and mirror a picture; how well values sit on the lattice tells which is right, whatever the bits.
"""

import hashlib
import math
from collections.abc import Iterator, Sequence
from typing import Final

import numpy as np
import numpy.typing as npt
from PIL import Image

from lienzo.errors import ImageError
from lienzo.provenance.watermark.payload import BITS, Found, codeword, read

Array = npt.NDArray[np.float64]

MIN_SIDE: Final = 64
"""Pixels. Smaller pictures have no room for a mark."""
STEP: Final = 80.0
"""Between two points for the same bit, in levels; a reading may be off by a quarter of it."""

_SIDE, _BLOCK, _EACH = 128, 16, 2
_BLOCKS = _SIDE // _BLOCK
_BAND = (
    2.0,
    5.0,
)  # of a block's frequencies: below, the picture is strongest; above, JPEG and a smaller size take most
_LUMA = np.array([0.299, 0.587, 0.114])  # ITU-R BT.601
_ROUNDS = 12
_NEAR = 0.04  # of a step: near enough to a lattice point
_GAINS = np.append(1.0, np.geomspace(0.6, 1.6, 99))
_BLURS = tuple(np.arange(0, 2.6, 0.25))  # standard deviations in pixels of 128
_TRIED = 3  # readings of the best fit that are decoded


def mark(image: Image.Image, record_id: int, key: bytes) -> Image.Image:
    """Put a record's id into a picture. The same three give the same pixels.

    A mark that is there already is replaced.

    Args:
        image: RGB, 64 pixels a side or more.
        record_id: 48 bits.
        key: makes the tag by which its owner knows the mark.

    Raises:
        ImageError: too small.
    """
    if not can_carry(image):
        raise ImageError(f"{image.width}x{image.height}: a watermark needs {MIN_SIDE} pixels a side.")
    word = codeword(record_id, key)
    pixels = np.asarray(image.convert("RGB"), np.float64)
    halves = np.array([word >> i & 1 for i in range(BITS)]) / 2 + _DITHER
    target = (np.rint(_values(_luma(image)) / STEP - halves) + halves) * STEP
    change, marked = np.zeros((_SIDE, _SIDE)), image.convert("RGB")
    for _ in range(_ROUNDS):  # black, white and the way back from 128 pixels take some of each change
        missing = target - _values(_luma(marked))
        if np.abs(missing).max() < _NEAR * STEP:
            break
        change += _change(missing)
        whole = pixels + _resized(change, image.size)[..., None]
        marked = Image.fromarray(np.clip(np.rint(whole), 0, 255).astype(np.uint8))
    return marked


def can_carry(image: Image.Image) -> bool:
    """Whether a picture has room for a mark."""
    return min(image.size) >= MIN_SIDE


def find(image: Image.Image, keys: Sequence[bytes] = ()) -> Found | None:
    """Read a mark. Of unmarked pictures, fewer than one in a million is taken for marked (see `payload.read`).

    Args:
        keys: whose tags are known.
    """
    if not can_carry(image):
        return None
    turned = list(_turned(_luma(image)))
    for luma in turned:  # as it stands: noise can make another brightness seem to fit better
        found = _read(np.cos(2 * math.pi * (_values(luma) / STEP - _DITHER)) < 0, keys)
        if found is not None:
            return found
    for blurs in (_BLURS[:1], _BLURS[1:]):
        fits = sorted((fit for luma in turned for fit in _fits(luma, blurs)), key=lambda fit: -fit[0])
        for _, bits in fits[:_TRIED]:
            found = _read(bits, keys)
            if found is not None:
                return found
    return None


def _read(bits: npt.NDArray[np.bool_], keys: Sequence[bytes]) -> Found | None:
    return read(sum(1 << i for i in np.flatnonzero(bits).tolist()), keys)


def _fits(luma: Array, blurs: Sequence[float]) -> Iterator[tuple[float, npt.NDArray[np.bool_]]]:
    """How well the values sit on the lattice at the best brightness, -1 to 1, and the bits there, for each blur undone."""
    spectrum = _COSINES @ luma @ _COSINES.T
    for blur in blurs:
        # the inverse of a Gaussian's response, as far as that does not blow up noise
        sharper = np.minimum(np.exp((math.pi * _RADIUS * blur / _SIDE) ** 2 / 2), 8.0)
        values = _values(_COSINES.T @ (spectrum * sharper) @ _COSINES)
        turns = 2 * math.pi * (np.outer(_GAINS, values) / STEP - _DITHER)  # (gains, 127)
        fit = np.cos(2 * turns).mean(axis=1)
        best = int(fit.argmax())
        yield float(fit[best]), np.cos(turns[best]) < 0


def _turned(luma: Array) -> Iterator[Array]:
    for quarter in range(4):
        yield np.rot90(luma, quarter)
        yield np.rot90(luma, quarter)[:, ::-1]


def _luma(image: Image.Image) -> Array:
    """(128, 128) in levels."""
    small = image.convert("RGB").resize((_SIDE, _SIDE), Image.Resampling.BICUBIC)
    luma: Array = np.asarray(small, np.float64) @ _LUMA
    return luma


def _resized(change: Array, size: tuple[int, int]) -> Array:
    if size == (_SIDE, _SIDE):
        return change
    return np.asarray(Image.fromarray(change.astype(np.float32)).resize(size, Image.Resampling.BICUBIC), np.float64)


def _values(luma: Array) -> Array:
    """(127,): of each direction. Summed without BLAS, whose threads change the last bits."""
    blocks = luma.reshape(_BLOCKS, _BLOCK, _BLOCKS, _BLOCK)
    values: Array = np.einsum("iajb,ijkab->ijk", blocks, _DIRECTIONS)
    return values.ravel()[:BITS]


def _change(values: Array) -> Array:
    """(128, 128): the smallest change of luma that moves the directions so far."""
    whole = np.zeros(_BLOCKS * _BLOCKS * _EACH)
    whole[:BITS] = values
    each = whole.reshape(_BLOCKS, _BLOCKS, _EACH)
    change: Array = np.einsum("ijk,ijkab->iajb", each, _DIRECTIONS)
    return change.reshape(_SIDE, _SIDE)


def _cosines(size: int) -> Array:
    """The orthonormal DCT-II: (size, size), a row a frequency."""
    k, n = np.mgrid[0:size, 0:size]
    rows: Array = np.cos(math.pi * (2 * n + 1) * k / (2 * size)) * math.sqrt(2 / size)
    rows[0] /= math.sqrt(2)
    return rows


def _directions() -> Array:
    """(8, 8, 2, 16, 16), orthonormal: each block's two share no coefficient."""
    cosines = _cosines(_BLOCK)
    band = [
        (u, v) for u in range(_BLOCK) for v in range(_BLOCK) if _BAND[0] <= math.hypot(u, v) < _BAND[1]
    ]  # by frequency, so that both directions have low and high ones
    band.sort(key=lambda at: (math.hypot(*at), at))
    made = np.zeros((_BLOCKS, _BLOCKS, _EACH, _BLOCK, _BLOCK))
    for i, j in np.ndindex(_BLOCKS, _BLOCKS):
        for k in range(_EACH):
            members = band[k::_EACH]
            signs = _fixed(f"signs {i} {j} {k}", len(members)) >= 0.5
            for (u, v), sign in zip(members, signs, strict=True):
                made[i, j, k] += (1 if sign else -1) * np.outer(cosines[u], cosines[v]) / math.sqrt(len(members))
    return made


def _fixed(name: str, count: int) -> Array:
    """Numbers in [0, 1) that are the same everywhere and for ever."""
    stream = hashlib.shake_256(f"lienzo watermark v1 {name}".encode()).digest(4 * count)
    return np.frombuffer(stream, ">u4") / 2.0**32


_COSINES: Final = _cosines(_SIDE)
_RADIUS: Final = np.hypot(*np.mgrid[0:_SIDE, 0:_SIDE])
_DIRECTIONS: Final = _directions()
_DITHER: Final = _fixed("dither", BITS)
"""Where each lattice begins, in steps: without it a plain picture would read as a payload of zeros."""
