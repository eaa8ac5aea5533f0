"""Coloured shapes: what differs from the background and hangs together is a thing.

Pixels go to the nearest colour of the palette; a thing's shape is the outline that, drawn with the same centre and
area, overlaps it best; what lies within a thing and has another colour is a thing inside it. On true renders it is
right in more than 99 per cent (`tests/boceto/test_look.py` holds it to that), so what it misses in a generated picture
is the picture's fault.
"""

from collections import Counter
from dataclasses import dataclass, replace
from functools import cache
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from boceto.look.pixels import RGBS, SMALLEST, Mask, Pixels, centre, distances, eroded, filled, grown, parts, pixels_of
from boceto.scenes import COLOURS, OUTLINES, SHAPES, Relation, Scene

FIT: Final = 0.6
"""Least overlap with an outline for a thing to have a shape at all."""


@dataclass(frozen=True, kw_only=True)
class Seen:
    """One thing in a picture. `x` and `y` are fractions of the side; `shape` is None if no outline fits.

    `inside` is the place, among the things of the view, of the one that holds it.
    """

    shape: str | None
    colour: str
    x: float
    y: float
    inside: int | None = None


@dataclass(frozen=True, kw_only=True)
class View:
    """What a picture shows: things from the largest down."""

    background: str
    things: tuple[Seen, ...]


def look(picture: Image.Image) -> View:
    """Say what a square RGB picture shows."""
    pixels = pixels_of(picture)
    away = distances(pixels)  # (H, W, colours)
    nearest = away.argmin(-1)
    frame = np.concatenate([nearest[:3].ravel(), nearest[-3:].ravel(), nearest[:, :3].ravel(), nearest[:, -3:].ravel()])
    background = int(np.bincount(frame).argmax())
    # antialiased edges belong to a thing from half way between the two colours on; 40 is less than half of any distance
    things: list[Seen] = []
    for part in parts(away[:, :, background] > 40, SMALLEST):
        outer = _identify(part, nearest, background, pixels)
        things.append(outer)
        holder, own = len(things) - 1, COLOURS.index(outer.colour)
        # what is inside must be well away from the edge, where colours blend
        within = eroded(filled(part), max(2, round(0.025 * len(part)))) & (away[:, :, own] > 40)
        for hole in parts(within, SMALLEST):
            if eroded(hole, 3).any():
                things.append(replace(_identify(hole, nearest, own, pixels), inside=holder))
    return View(background=COLOURS[background], things=tuple(things))


def score(picture: Image.Image, scene: Scene) -> dict[str, bool]:
    """Which parts of a scene a picture got right.

    * `colour`: every thing of the scene has a counterpart of its colour;
    * `shape`: likewise of its shape;
    * `count`: as many things as in the scene;
    * `relation`, where the scene has one: its two things, told apart by colour and shape, stand as the scene says.
    """
    view = look(picture)
    marks = {
        "background": view.background == scene.background,
        "colour": not Counter(t.colour for t in scene.things) - Counter(t.colour for t in view.things),
        "shape": not Counter(t.name for t in scene.things) - Counter(t.shape for t in view.things if t.shape),
        "count": len(view.things) == len(scene.things),
    }
    if scene.relation is not None:
        marks["relation"] = _related(view, scene, scene.relation)
    return marks


def _related(view: View, scene: Scene, relation: Relation) -> bool:
    """Do the pair's two things stand as said? Each is the seen thing that shares most of its colour and shape."""
    first, second = scene.things

    def likeness(seen: Seen, index: int) -> int:
        wanted = scene.things[index]
        # what the two have in common tells them apart no better than chance, so only differences count
        return (first.colour != second.colour) * (seen.colour == wanted.colour) + (first.name != second.name) * (
            seen.shape == wanted.name
        )

    ordered = [(a, b) for a in view.things for b in view.things if a is not b]
    if not ordered:
        return False
    a, b = max(ordered, key=lambda pair: likeness(pair[0], 0) + likeness(pair[1], 1))
    if not (likeness(a, 0) and likeness(b, 1)):
        return False
    if relation == "inside":
        return a.inside is not None and view.things[a.inside] is b
    dx, dy = b.x - a.x, b.y - a.y
    seen = ("left" if dx > 0 else "right") if abs(dx) > abs(dy) else ("above" if dy > 0 else "below")
    return seen == relation


def _identify(part: Mask, nearest: NDArray[np.intp], background: int, pixels: Pixels) -> Seen:
    inner = eroded(part, 2)
    votes = nearest[inner if inner.any() else part]
    colour = int(np.bincount(votes[votes != background] if (votes != background).any() else votes).argmax())
    # how much of each pixel is the thing: its place on the line from the background's colour to the thing's
    origin, line = RGBS[background], RGBS[colour] - RGBS[background]
    close = grown(part)
    amount = np.where(close, ((pixels - origin) @ line / max(float(line @ line), 1e-9)).clip(0, 1), 0.0)
    # whatever is seen through a hole or inside belongs to the outline
    amount = np.where(eroded(filled(part), 2), 1.0, amount)
    rows, columns = np.indices(part.shape) + 0.5
    side = part.shape[0]
    area = float(amount.sum())
    if area < 1:  # a tint of the background, which no true render has
        x, y = centre(part)
        return Seen(shape=None, colour=COLOURS[colour], x=x, y=y)
    x, y = float((columns * amount).sum() / area), float((rows * amount).sum() / area)
    fits = {shape: _overlap(amount, _drawn(shape, x, y, area, side)) for shape in SHAPES}
    shape = max(fits, key=lambda name: fits[name])
    return Seen(shape=shape if fits[shape] >= FIT else None, colour=COLOURS[colour], x=x / side, y=y / side)


def _overlap(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    return float(np.minimum(a, b).sum() / np.maximum(a, b).sum())


@cache
def _moments(shape: str) -> tuple[float, float, float]:
    """Area and centroid of a unit outline (the shoelace formula)."""
    x, y = np.array(OUTLINES[shape]).T
    cross = x * np.roll(y, -1) - np.roll(x, -1) * y
    area = cross.sum() / 2
    cx, cy = (((v + np.roll(v, -1)) * cross).sum() / (6 * area) for v in (x, y))
    return abs(float(area)), float(cx), float(cy)


def _drawn(shape: str, x: float, y: float, area: float, side: int, supersample: int = 4) -> NDArray[np.float64]:
    """An outline with the given centroid and area in pixels, (side, side), antialiased, 0 to 1."""
    unit, cx, cy = _moments(shape)
    radius = (area / unit) ** 0.5
    canvas = Image.new("L", (side * supersample, side * supersample), 0)
    corners = [
        ((x + radius * (dx - cx)) * supersample, (y + radius * (dy - cy)) * supersample) for dx, dy in OUTLINES[shape]
    ]
    ImageDraw.Draw(canvas).polygon(corners, fill=255)
    return np.asarray(canvas.reduce(supersample), dtype=np.float64) / 255
