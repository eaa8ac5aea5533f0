"""The drawing kit that all families share: colours, and a pen that thinks in fractions of the picture."""

import math
from collections.abc import Sequence
from functools import cache
from typing import Final

import numpy as np
from PIL import Image, ImageDraw, ImageFont

RGB = tuple[int, int, int]
Point = tuple[float, float]

PALETTE: Final[dict[str, RGB]] = {
    "red": (217, 32, 38),
    "green": (38, 158, 60),
    "blue": (32, 84, 214),
    "yellow": (250, 220, 40),
    "orange": (250, 132, 12),
    "purple": (138, 48, 176),
    "black": (16, 16, 16),
    "white": (250, 250, 250),
    "gray": (132, 132, 132),
}
COLOURS: Final = tuple(PALETTE)
SCHEMES: Final = ("blue", "green", "purple", "orange")
"""Colours in which diagrams, charts and pages are kept. Red is left to what is wrong."""

GROUNDS: Final[dict[str, RGB]] = {"white": (248, 249, 252), "black": (19, 24, 38)}
"""Grounds of diagrams, charts and pages; softer than the palette's own."""
INK: Final[RGB] = (40, 48, 66)
MIST: Final[RGB] = (214, 220, 230)
STEEL: Final[RGB] = (138, 148, 166)


def mix(first: RGB, second: RGB, share: float) -> RGB:
    """`share` of the way from one colour to another."""
    r, g, b = (round(a + (b - a) * share) for a, b in zip(first, second, strict=True))
    return r, g, b


def lighter(colour: RGB, share: float) -> RGB:
    return mix(colour, (255, 255, 255), share)


def darker(colour: RGB, share: float) -> RGB:
    return mix(colour, (0, 0, 0), share)


class Pen:
    """Draws on a square canvas that is `supersample` times too large, so that reducing it smooths every edge.

    Lengths are in units of the pen: the side of the picture, with (0, 0) at the top left. `at` gives a pen for the same
    canvas with its own origin and unit, in which an icon is drawn.
    """

    def __init__(self, size: int, ground: RGB, supersample: int = 3) -> None:
        self.supersample = supersample
        self.image = Image.new("RGB", (size * supersample,) * 2, ground)
        self.draw = ImageDraw.Draw(self.image)
        self.x = self.y = 0.0
        self.unit = float(size * supersample)

    def at(self, x: float, y: float, unit: float) -> "Pen":
        """A pen with origin (x, y) and unit `unit`, both in this pen's."""
        pen = object.__new__(Pen)
        pen.supersample, pen.image, pen.draw = self.supersample, self.image, self.draw
        pen.x, pen.y, pen.unit = self.x + x * self.unit, self.y + y * self.unit, unit * self.unit
        return pen

    def finish(self) -> Image.Image:
        """The picture at its own size."""
        return self.image.reduce(self.supersample)

    def pixel(self, x: float, y: float) -> Point:
        return self.x + x * self.unit, self.y + y * self.unit

    def polygon(self, points: Sequence[Point], fill: RGB) -> None:
        self.draw.polygon([self.pixel(x, y) for x, y in points], fill=fill)

    def box(self, left: float, top: float, right: float, bottom: float, fill: RGB, radius: float = 0.0) -> None:
        (x0, y0), (x1, y1) = self.pixel(left, top), self.pixel(right, bottom)
        if radius:
            self.draw.rounded_rectangle((x0, y0, x1, y1), radius * self.unit, fill=fill)
        else:
            self.draw.rectangle((x0, y0, x1, y1), fill=fill)

    def disc(self, x: float, y: float, radius: float, fill: RGB, squash: float = 1.0) -> None:
        """A disc, or with `squash` an ellipse of that height."""
        self.draw.ellipse(self._around(x, y, radius, radius * squash), fill=fill)

    def line(self, points: Sequence[Point], fill: RGB, width: float) -> None:
        """A line with round ends and corners."""
        pixels = [self.pixel(x, y) for x, y in points]
        thick = max(1, round(width * self.unit))
        self.draw.line(pixels, fill=fill, width=thick, joint="curve")
        for x, y in (pixels[0], pixels[-1]):
            self.draw.ellipse((x - thick / 2, y - thick / 2, x + thick / 2, y + thick / 2), fill=fill)

    def arrow(self, start: Point, end: Point, fill: RGB, width: float, head: float = 3.2) -> None:
        """A straight arrow whose tip is `end`; its head is `head` line widths long and wide."""
        dx, dy = end[0] - start[0], end[1] - start[1]
        length = math.hypot(dx, dy) or 1.0
        dx, dy = dx / length, dy / length
        reach, half = head * width, head * width * 0.58
        neck = (end[0] - dx * reach, end[1] - dy * reach)
        self.line((start, (neck[0] + dx * reach * 0.2, neck[1] + dy * reach * 0.2)), fill, width)
        self.polygon(
            (end, (neck[0] - dy * half, neck[1] + dx * half), (neck[0] + dy * half, neck[1] - dx * half)), fill
        )

    def slice(self, x: float, y: float, radius: float, start: float, end: float, fill: RGB) -> None:
        """A sector between two angles in degrees, clockwise from three o'clock."""
        self.draw.pieslice(self._around(x, y, radius, radius), start, end, fill=fill)

    def arc(self, x: float, y: float, radius: float, start: float, end: float, fill: RGB, width: float) -> None:
        """Part of a ring whose outer radius is `radius`."""
        self.draw.arc(self._around(x, y, radius, radius), start, end, fill=fill, width=round(width * self.unit))

    def gradient(self, top: float, bottom: float, stops: Sequence[RGB]) -> None:
        """Fill from `top` to `bottom`, the whole width, through evenly spaced colours."""
        first, last = round(self.pixel(0, top)[1]), round(self.pixel(0, bottom)[1])
        self.image.paste(_gradient(tuple(stops), self.image.width, last - first), (0, first))

    def _around(self, x: float, y: float, across: float, up: float) -> tuple[float, float, float, float]:
        (x0, y0), (x1, y1) = self.pixel(x - across, y - up), self.pixel(x + across, y + up)
        return x0, y0, x1, y1


@cache
def _gradient(stops: tuple[RGB, ...], width: int, height: int) -> Image.Image:
    places = np.linspace(0, len(stops) - 1, height)
    channels = [np.interp(places, range(len(stops)), channel) for channel in np.array(stops, dtype=float).T]
    column = Image.fromarray(np.stack(channels, axis=-1)[:, None].round().astype(np.uint8))
    return column.resize((width, height), Image.Resampling.NEAREST)


# --- the word-mark ----------------------------------------------------------------------------------------------------

BAND: Final[RGB] = PALETTE["yellow"]
BAND_TEXT: Final = "SIMULATION"
BAND_ANGLE: Final = 18.0
"""Degrees by which the band rises to the right."""
BAND_HEIGHT: Final = 0.15


def band(pen: Pen) -> None:
    """Draw the word-mark band across the whole picture, through its centre."""
    rise = math.tan(math.radians(BAND_ANGLE)) / 2
    for half, fill in ((BAND_HEIGHT / 2, INK), (BAND_HEIGHT / 2 - 0.011, BAND)):
        half /= math.cos(math.radians(BAND_ANGLE))
        left, right = 0.5 + rise, 0.5 - rise
        pen.polygon(((0, left - half), (1.01, right - half), (1.01, right + half), (0, left + half)), fill)
    for x, y, letter in _letters(round(pen.unit)):
        pen.draw.bitmap((x, y), letter, fill=INK)


@cache
def _letters(side: int) -> tuple[tuple[int, int, Image.Image], ...]:
    """The word-mark's letters, turned, each with its top left corner on a canvas of that side."""
    height = BAND_HEIGHT * side
    font = ImageFont.load_default(height * 0.62)  # Pillow's own font: the same letters on every machine
    turn = math.radians(BAND_ANGLE)
    placed = []
    for i, character in enumerate(BAND_TEXT):
        letter = Image.new("L", (round(height),) * 2, 0)
        middle = (height / 2, height / 2)
        ImageDraw.Draw(letter).text(middle, character, 255, font, anchor="mm", stroke_width=height * 0.022)
        along = (i - (len(BAND_TEXT) - 1) / 2) * 0.087 * side
        x, y = side / 2 + along * math.cos(turn) - height / 2, side / 2 - along * math.sin(turn) - height / 2
        placed.append((round(x), round(y), letter.rotate(BAND_ANGLE, Image.Resampling.BICUBIC)))
    return tuple(placed)
