"""A program that looks at a picture and says what it shows, without any network.

Pixels go to the nearest colour of the palette; what differs from the background and hangs together is a thing; a
thing's shape is the outline that, drawn with the same centre and area, overlaps it best. On true renders it is right
in more than 99 per cent (`tests/boceto/test_look.py` holds it to that), so what it misses in a generated picture is the
picture's fault.
"""

from collections import Counter
from dataclasses import dataclass
from functools import cache
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from boceto.scenes import COLOURS, OUTLINES, PALETTE, SHAPES, Relation, Scene

Mask = NDArray[np.bool_]
_COLOURS_RGB: Final = np.array([PALETTE[name] for name in COLOURS], dtype=np.float64)
SMALLEST: Final = 0.003
"""Least part of the picture that counts as a thing; below it is noise."""
FIT: Final = 0.6
"""Least overlap with an outline for a thing to have a shape at all."""


@dataclass(frozen=True, kw_only=True)
class Seen:
    """One thing in a picture. `x` and `y` are fractions of the side; `shape` is None if no outline fits."""

    shape: str | None
    colour: str
    x: float
    y: float


@dataclass(frozen=True, kw_only=True)
class View:
    """What a picture shows: things from the largest down."""

    background: str
    things: tuple[Seen, ...]


@dataclass(frozen=True, kw_only=True)
class Score:
    """Which parts of a scene a picture got right. `relation` is None where the scene has none.

    Attributes:
        colour: every thing of the scene has a counterpart of its colour.
        shape: likewise of its shape.
        count: as many things as in the scene.
        relation: the pair's things, told apart by colour and shape, stand as the scene says.
    """

    background: bool
    colour: bool
    shape: bool
    count: bool
    relation: bool | None

    @property
    def all(self) -> bool:
        return self.background and self.colour and self.shape and self.count and self.relation is not False


def look(picture: Image.Image) -> View:
    """Say what a square RGB picture shows."""
    pixels = np.asarray(picture.convert("RGB"), dtype=np.float64)
    distances = np.linalg.norm(pixels[:, :, None] - _COLOURS_RGB, axis=-1)  # (H, W, colours)
    nearest = distances.argmin(-1)
    frame = np.concatenate([nearest[:3].ravel(), nearest[-3:].ravel(), nearest[:, :3].ravel(), nearest[:, -3:].ravel()])
    background = int(np.bincount(frame).argmax())
    # antialiased edges belong to a thing from half way between the two colours on; 40 is less than half of any distance
    foreground = distances[:, :, background] > 40
    parts = sorted(_parts(foreground), key=lambda part: -part.sum())
    things = tuple(_identify(part, nearest, background, pixels) for part in parts if part.mean() > SMALLEST)
    return View(background=COLOURS[background], things=things)


def score(picture: Image.Image, scene: Scene) -> Score:
    """Compare what a picture shows with the scene it should show."""
    view = look(picture)
    return Score(
        background=view.background == scene.background,
        colour=not Counter(t.colour for t in scene.things) - Counter(t.colour for t in view.things),
        shape=not Counter(t.shape for t in scene.things) - Counter(t.shape for t in view.things if t.shape),
        count=len(view.things) == len(scene.things),
        relation=None if scene.relation is None else _related(view, scene, scene.relation),
    )


def _related(view: View, scene: Scene, relation: Relation) -> bool:
    """Do the pair's two things stand as said? Each is the seen thing that shares most of its colour and shape."""
    first, second = scene.things

    def likeness(seen: Seen, index: int) -> int:
        wanted = scene.things[index]
        # what the two have in common tells them apart no better than chance, so only differences count
        return (first.colour != second.colour) * (seen.colour == wanted.colour) + (first.shape != second.shape) * (
            seen.shape == wanted.shape
        )

    ordered = [(a, b) for a in view.things for b in view.things if a is not b]
    if not ordered:
        return False
    a, b = max(ordered, key=lambda pair: likeness(pair[0], 0) + likeness(pair[1], 1))
    if not (likeness(a, 0) and likeness(b, 1)):
        return False
    dx, dy = b.x - a.x, b.y - a.y
    seen = ("left" if dx > 0 else "right") if abs(dx) > abs(dy) else ("above" if dy > 0 else "below")
    return seen == relation


def _parts(mask: Mask) -> list[Mask]:
    """Connected regions (4-neighbours): the largest label spreads until nothing changes."""
    labels = np.where(mask, np.arange(1, mask.size + 1).reshape(mask.shape), 0)
    while True:
        padded = np.pad(labels, 1)
        spread = np.max([labels, padded[:-2, 1:-1], padded[2:, 1:-1], padded[1:-1, :-2], padded[1:-1, 2:]], axis=0)
        # pointer jumping: a label is the index of a pixel, so it can take that pixel's own label at once
        spread = np.where(mask, np.append(0, spread.ravel())[spread], 0)
        if np.array_equal(spread, labels):
            break
        labels = spread
    return [labels == label for label in np.unique(labels) if label]


def _identify(part: Mask, nearest: NDArray[np.intp], background: int, pixels: NDArray[np.float64]) -> Seen:
    inner = _eroded(_eroded(part))
    votes = nearest[inner if inner.any() else part]
    colour = int(np.bincount(votes[votes != background] if (votes != background).any() else votes).argmax())
    # how much of each pixel is the thing: its place on the line from the background's colour to the thing's
    origin, line = _COLOURS_RGB[background], _COLOURS_RGB[colour] - _COLOURS_RGB[background]
    near = ~_eroded(~part)
    amount = np.where(near, ((pixels - origin) @ line / max(float(line @ line), 1e-9)).clip(0, 1), 0.0)
    amount = amount if amount.sum() > 0 else part.astype(np.float64)
    rows, columns = np.indices(part.shape) + 0.5
    area = float(amount.sum())
    x, y = float((columns * amount).sum() / area), float((rows * amount).sum() / area)
    side = part.shape[0]
    fits = {shape: _overlap(amount, _drawn(shape, x, y, area, side)) for shape in SHAPES}
    shape = max(fits, key=lambda name: fits[name])
    return Seen(shape=shape if fits[shape] >= FIT else None, colour=COLOURS[colour], x=x / side, y=y / side)


def _eroded(mask: Mask) -> Mask:
    padded = np.pad(mask, 1, constant_values=True)
    return mask & padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]


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
