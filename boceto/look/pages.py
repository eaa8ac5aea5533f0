"""Mock-ups of pages: the word-mark band, the scheme's colour, and the blocks by which the pages differ."""

from functools import cache
from typing import Final

import numpy as np
from PIL import Image

from boceto.look.pixels import Mask, Pixels, near, pixels_of
from boceto.scenes import PALETTE, Scene
from boceto.scenes.kit import BAND, Pen, band

SIDE: Final = 256


def score(picture: Image.Image, scene: Scene) -> dict[str, bool]:
    """`band` (yellow, across), `letters` (they look like the word-mark's), `page`, `scheme`, `background`, `marked`."""
    pixels = pixels_of(picture, SIDE)
    where, letters = _band()
    free = ~where
    tints = {name: near(pixels, PALETTE[name], 55) & free for name in ("red", "green", "blue", "orange", "purple")}
    marked = float(tints["red"].mean())
    if scene.kind == "mail":
        del tints["red"]  # a suspicious message's
    scheme = max(tints, key=lambda name: int(tints[name].sum()))
    marks = {
        "band": float(near(pixels, BAND, 70)[where].mean()) > 0.4 and float(near(pixels, BAND, 70)[free].mean()) < 0.05,
        "letters": _alike(pixels[where].mean(-1), letters) > 0.6,
        "page": _page(tints[scheme]) == scene.kind,
        "scheme": scheme == scene.scheme,
        "background": _bright(pixels) == (scene.background == "white"),
    }
    if scene.kind == "mail":
        marks["marked"] = (marked > 0.002) == (scene.fact("suspicious") == "yes")
    return marks


def _page(tint: Mask) -> str:
    """A mail client has a bar on the left, a warning a banner above, a login form neither but a button."""

    def share(left: float, top: float, right: float, bottom: float) -> float:
        return float(tint[round(top * SIDE) : round(bottom * SIDE), round(left * SIDE) : round(right * SIDE)].mean())

    if share(0.09, 0.2, 0.24, 0.45) > 0.4:
        return "warning" if share(0.7, 0.16, 0.9, 0.3) > 0.4 else "mail"
    return "login" if share(0.25, 0.78, 0.75, 0.85) > 0.4 else ""


def _alike(one: np.ndarray, other: np.ndarray) -> float:
    """Correlation; 0 where one of them is flat."""
    if not (one.std() and other.std()):
        return 0.0
    return float(np.corrcoef(one, other)[0, 1])


def _bright(pixels: Pixels) -> bool:
    """Is the page light? Seen at its lower edge, where little is drawn."""
    return (
        float(np.median(pixels[round(0.89 * SIDE) : round(0.92 * SIDE), round(0.3 * SIDE) : round(0.9 * SIDE)])) > 128
    )


@cache
def _band() -> tuple[Mask, np.ndarray]:
    """Where the band lies, and its brightness there."""
    drawn = []
    for ground in ((0, 0, 0), (255, 255, 255)):
        pen = Pen(SIDE, ground)
        band(pen)
        drawn.append(pixels_of(pen.finish()))
    where = np.abs(drawn[0] - drawn[1]).sum(-1) < 1
    return np.asarray(where), np.asarray(drawn[0][where].mean(-1))
