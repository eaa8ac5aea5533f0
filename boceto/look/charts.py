"""Charts and dashboards: regions in the scheme's colour, and where they stand."""

from typing import Final

import numpy as np
from PIL import Image

from boceto.look.pixels import Mask, centre, eroded, ground_of, near, parts, pixels_of
from boceto.scenes import PALETTE, Scene
from boceto.scenes.dashboards import BANNER, PIE_COLOURS

SIDE: Final = 256
CLOSE: Final = 60.0
"""Distance within which a pixel has a colour of the palette."""
_RING: Final = 0.352
"""Radius of a gauge."""


def score(picture: Image.Image, scene: Scene) -> dict[str, bool]:
    """`background`; then `scheme` (or a pie's `colour`); then what the kind of chart tells: `count`, `trend`, `level`.

    Of a dashboard: the banner's colour (`alert`), and that both charts are there in the scheme's colour.
    """
    pixels = pixels_of(picture, SIDE)
    marks = {"background": (float(ground_of(pixels).mean()) > 128) == (scene.background == "white")}
    if scene.kind == "pie chart":
        wanted = scene.fact("slices").split()
        slices = {name: parts(eroded(near(pixels, PALETTE[name], CLOSE)), 0.01) for name in PIE_COLOURS}
        marks["colour"] = {name for name, found in slices.items() if found} == set(wanted)
        marks["count"] = sum(map(len, slices.values())) == len(wanted)
        return marks
    tint = near(pixels, PALETTE[scene.scheme], CLOSE)
    if scene.kind == "dashboard":
        alert = scene.fact("alert")
        left, top, right, bottom = (round(v * SIDE) for v in BANNER)
        banner = pixels[top:bottom, left:right]
        marks["alert"] = float(near(banner, PALETTE[alert], CLOSE).mean()) > 0.5
        lower = tint[round(0.35 * SIDE) :]
        marks["scheme"] = all(float(half.mean()) > 0.008 for half in np.array_split(lower, 2, axis=1))
        return marks
    marks["scheme"] = float(tint.mean()) > 0.008
    if scene.kind == "bar chart":
        bars = sorted(parts(eroded(tint), 0.0015), key=lambda bar: centre(bar)[0])
        marks["count"] = len(bars) == int(scene.fact("bars"))
        marks["trend"] = _bar_trend(bars) == scene.fact("trend")
    elif scene.kind == "line chart":
        marks["trend"] = _line_trend(tint) == scene.fact("trend")
    else:
        marks["level"] = _level(tint) == scene.fact("level")
    return marks


def _bar_trend(bars: list[Mask]) -> str:
    """Are the bars ever higher, or ever lower? A pixel or two do not matter."""
    steps = np.diff([int(bar.any(1).sum()) for bar in bars])
    if len(steps) == 0:
        return ""
    return "rising" if (steps > -3).all() else "falling" if (steps < 3).all() else ""


def _line_trend(tint: Mask) -> str:
    """The line's height on the left against that on the right."""
    columns = np.flatnonzero(tint.any(0))
    if len(columns) < SIDE / 4:
        return ""
    heights = tint[:, columns].argmax(0)
    part = len(columns) // 4
    climb = float(heights[:part].mean() - heights[-part:].mean())
    return "" if abs(climb) < 0.1 * SIDE else "rising" if climb > 0 else "falling"


def _level(tint: Mask) -> str:
    """How far a gauge is filled: how wide the coloured part of its ring is, in radii (0 to 2)."""
    region = next(iter(parts(tint, 0.004)), None)
    if region is None:
        return ""
    wide = float(region.any(0).sum()) / SIDE / _RING
    return "low" if wide < 0.72 else "half" if wide < 1.45 else "high"
