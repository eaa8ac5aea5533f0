"""Digests of pictures: SHA-256 of the pixels for equal ones, a difference hash for near ones."""

import hashlib
from collections.abc import Sequence

import numpy as np
from PIL import Image

HASH_BITS = 128
SIDE = 8
BLOCK = 1024
"""Pictures compared at once."""


def pixels_digest(image: Image.Image) -> str:
    """SHA-256 in hex of size and RGB pixels: equal for the same picture in two file formats."""
    image = image.convert("RGB")
    return hashlib.sha256(f"RGB {image.width}x{image.height}\n".encode() + image.tobytes()).hexdigest()


def difference_hash(image: Image.Image) -> int:
    """128 bits: whether each of 8x8 places is brighter than its neighbour to the left, and than the one above.

    The dHash of N. Krawetz ("Kind of like that", hackerfactor.com, 2013), here in both directions. It hardly changes
    with size, format, contrast and quality; it does with crops, mirroring and turning.
    """
    grey = image.convert("L")
    across = np.asarray(grey.resize((SIDE + 1, SIDE), Image.Resampling.BOX), dtype=np.int16)
    down = np.asarray(grey.resize((SIDE, SIDE + 1), Image.Resampling.BOX), dtype=np.int16)
    bits = np.concatenate([(np.diff(across, axis=1) > 0).ravel(), (np.diff(down, axis=0) > 0).ravel()])
    return int.from_bytes(np.packbits(bits).tobytes(), "big")


def near_copies(hashes: Sequence[int], distance: int) -> dict[int, int]:
    """Index of a picture -> index of the first one that it nearly repeats, which is no such copy itself.

    Exact: all pairs are compared, as products of rows of +1 and -1, of which two that differ in d bits have 128 - 2 d.
    """
    raw = np.frombuffer(b"".join(value.to_bytes(HASH_BITS // 8, "big") for value in hashes), dtype=np.uint8)
    bits = np.unpackbits(raw).reshape(-1, HASH_BITS).astype(np.float32) * 2 - 1  # (n, 128)
    enough = HASH_BITS - 2 * distance
    copies: dict[int, int] = {}
    originals: list[int] = []
    for begin in range(0, len(bits), BLOCK):
        block = bits[begin : begin + BLOCK]
        for chunk in range(0, len(originals), 16 * BLOCK):
            some = originals[chunk : chunk + 16 * BLOCK]
            near = bits[some] @ block.T >= enough  # (some, block)
            for j in np.flatnonzero(near.any(axis=0)).tolist():
                copies.setdefault(begin + j, some[int(near[:, j].argmax())])
        within = block @ block.T >= enough
        for j in range(len(block)):
            if begin + j in copies:
                within[j] = False  # a copy is nobody's original
                continue
            first = int(within[: j + 1, j].argmax())
            if first < j:
                copies[begin + j] = begin + first
                within[j] = False
            else:
                originals.append(begin + j)
    return copies
