"""What all looking begins with: colours, and regions that hang together."""

from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from boceto.scenes.kit import COLOURS, PALETTE, RGB

Mask = NDArray[np.bool_]
Pixels = NDArray[np.float64]
"""(H, W, 3), 0 to 255."""

RGBS: Final = np.array([PALETTE[name] for name in COLOURS], dtype=np.float64)
SMALLEST: Final = 0.003
"""Least part of the picture that counts as a thing; below it is noise."""


def pixels_of(picture: Image.Image, side: int | None = None) -> Pixels:
    """As floats, scaled to `side` x `side` if given."""
    picture = picture.convert("RGB")
    if side is not None and picture.size != (side, side):
        picture = picture.resize((side, side), Image.Resampling.LANCZOS)
    return np.asarray(picture, dtype=np.float64)


def distances(pixels: Pixels) -> NDArray[np.float64]:
    """(H, W, colours) to every colour of the palette."""
    return np.linalg.norm(pixels[:, :, None] - RGBS, axis=-1)


def near(pixels: Pixels, colour: RGB, within: float) -> Mask:
    """Where the pixels are at most that far from a colour."""
    distance = np.linalg.norm(pixels - np.array(colour, dtype=np.float64), axis=-1)
    return np.asarray(distance <= within)


def ground_of(pixels: Pixels) -> Pixels:
    """(3,) the colour of the picture's edge."""
    edge = np.concatenate([pixels[:3].reshape(-1, 3), pixels[-3:].reshape(-1, 3)])
    edge = np.concatenate([edge, pixels[:, :3].reshape(-1, 3), pixels[:, -3:].reshape(-1, 3)])
    return np.asarray(np.median(edge, axis=0))


def parts(mask: Mask, least: float = 0.0) -> list[Mask]:
    """Connected regions (4-neighbours) larger than `least` of the picture, from the largest down.

    The largest label spreads until nothing changes.
    """
    labels = np.where(mask, np.arange(1, mask.size + 1).reshape(mask.shape), 0)
    while True:
        padded = np.pad(labels, 1)
        spread = np.max([labels, padded[:-2, 1:-1], padded[2:, 1:-1], padded[1:-1, :-2], padded[1:-1, 2:]], axis=0)
        # pointer jumping: a label is the index of a pixel, so it can take that pixel's own label at once
        spread = np.where(mask, np.append(0, spread.ravel())[spread], 0)
        if np.array_equal(spread, labels):
            break
        labels = spread
    names, areas = np.unique(labels[mask], return_counts=True)
    order = np.argsort(-areas, kind="stable")
    return [labels == names[i] for i in order if areas[i] > least * mask.size]


def eroded(mask: Mask, times: int = 1) -> Mask:
    for _ in range(times):
        padded = np.pad(mask, 1, constant_values=True)
        mask = mask & padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    return mask


def grown(mask: Mask, times: int = 1) -> Mask:
    return ~eroded(~mask, times)


def filled(mask: Mask) -> Mask:
    """The mask with its holes: what the edge of the picture cannot reach."""
    outside = np.pad(~mask, 1, constant_values=True)
    [reached, *_] = [part for part in parts(outside) if part[0, 0]]
    return ~reached[1:-1, 1:-1]


def centre(mask: Mask) -> tuple[float, float]:
    """x and y of its middle, as fractions of the sides."""
    rows, columns = np.nonzero(mask)
    return (float(columns.mean()) + 0.5) / mask.shape[1], (float(rows.mean()) + 0.5) / mask.shape[0]
