"""Icons, each drawn once: glyphs in the unit square from (-1, -1) to (1, 1), and the badge that carries one."""

from collections.abc import Callable
from typing import Final

from boceto.scenes.kit import INK, PALETTE, RGB, Pen, darker, lighter

Glyph = Callable[[Pen, RGB, RGB], None]
"""Draws with a pen whose unit is the icon's radius, in a colour, on a ground that shows through its openings."""

WHITE: Final[RGB] = (255, 255, 255)
MOON: Final[RGB] = (246, 240, 214)


def badge(pen: Pen, name: str, colour: str, x: float, y: float, radius: float) -> None:
    """A rounded tile (a disc for a bot) in a colour of the palette, with a white glyph."""
    tile = PALETTE[colour]
    if name == "bot":
        pen.disc(x, y, radius, tile)
        GLYPHS[name](pen.at(x, y, 0.62 * radius), WHITE, tile)
    else:
        pen.box(x - radius, y - radius, x + radius, y + radius, tile, 0.28 * radius)
        GLYPHS[name](pen.at(x, y, 0.68 * radius), WHITE, tile)


def server(pen: Pen, ink: RGB, ground: RGB) -> None:
    for y in (-0.66, 0.0, 0.66):
        pen.box(-0.85, y - 0.27, 0.85, y + 0.27, ink, 0.1)
        pen.disc(-0.55, y, 0.11, ground)
        pen.box(0.0, y - 0.06, 0.6, y + 0.06, ground)


def laptop(pen: Pen, ink: RGB, ground: RGB) -> None:
    pen.box(-0.74, -0.7, 0.74, 0.34, ink, 0.12)
    pen.box(-0.56, -0.52, 0.56, 0.18, ground)
    pen.polygon(((-0.8, 0.44), (0.8, 0.44), (1.0, 0.7), (-1.0, 0.7)), ink)


def phone(pen: Pen, ink: RGB, ground: RGB) -> None:
    pen.box(-0.52, -1.0, 0.52, 1.0, ink, 0.18)
    pen.box(-0.36, -0.74, 0.36, 0.56, ground)
    pen.disc(0, 0.78, 0.1, ground)


def router(pen: Pen, ink: RGB, ground: RGB) -> None:
    pen.box(-0.95, 0.2, 0.95, 0.78, ink, 0.16)
    for x in (-0.6, -0.25):
        pen.disc(x, 0.49, 0.1, ground)
    pen.line(((0.55, 0.2), (0.55, -0.1)), ink, 0.14)
    for radius in (0.42, 0.82):
        pen.arc(0.55, -0.1, radius, 205, 335, ink, 0.16)


def switch(pen: Pen, ink: RGB, ground: RGB) -> None:
    pen.arrow((-0.7, -0.7), (0.75, -0.7), ink, 0.15, 3.0)
    pen.arrow((0.7, -0.24), (-0.75, -0.24), ink, 0.15, 3.0)
    pen.box(-0.98, 0.12, 0.98, 0.8, ink, 0.12)
    for x in (-0.66, -0.22, 0.22, 0.66):
        pen.box(x - 0.14, 0.32, x + 0.14, 0.6, ground)


def firewall(pen: Pen, ink: RGB, ground: RGB) -> None:
    courses = (((-0.95, -0.36), (-0.28, 0.36), (0.44, 0.95)), ((-0.95, -0.04), (0.04, 0.95)))
    for row, y in enumerate((-0.86, -0.42, 0.02, 0.46)):
        for left, right in courses[row % 2]:
            pen.box(left, y, right, y + 0.36, ink, 0.05)


def database(pen: Pen, ink: RGB, ground: RGB) -> None:
    pen.box(-0.75, -0.62, 0.75, 0.66, ink)
    pen.disc(0, 0.66, 0.75, ink, 0.4)
    for y in (-0.12, 0.34):
        pen.draw.arc((*pen.pixel(-0.75, y - 0.3), *pen.pixel(0.75, y + 0.3)), 0, 180, ground, round(0.12 * pen.unit))
    pen.disc(0, -0.62, 0.75, ground, 0.42)
    pen.disc(0, -0.68, 0.75, ink, 0.4)


def cloud(pen: Pen, ink: RGB, ground: RGB) -> None:
    pen.disc(-0.5, 0.2, 0.42, ink)
    pen.disc(0.56, 0.24, 0.38, ink)
    pen.disc(0.02, -0.12, 0.56, ink)
    pen.box(-0.5, 0.1, 0.56, 0.62, ink)


def user(pen: Pen, ink: RGB, ground: RGB) -> None:
    pen.disc(0, -0.42, 0.44, ink)
    pen.slice(0, 0.94, 0.82, 180, 360, ink)


def attacker(pen: Pen, ink: RGB, ground: RGB) -> None:
    """A hooded figure."""
    pen.slice(0, 0.98, 0.95, 180, 360, ink)
    pen.polygon(((0, -1.0), (0.46, -0.72), (0.66, -0.1), (0.42, 0.4), (-0.42, 0.4), (-0.66, -0.1), (-0.46, -0.72)), ink)
    pen.disc(0, -0.16, 0.42, ground, 1.1)
    for x in (-0.17, 0.17):
        pen.disc(x, -0.16, 0.1, ink)


def bot(pen: Pen, ink: RGB, ground: RGB) -> None:
    pen.line(((0, -0.5), (0, -0.86)), ink, 0.14)
    pen.disc(0, -0.88, 0.15, ink)
    pen.box(-0.82, -0.5, 0.82, 0.72, ink, 0.26)
    for x in (-0.36, 0.36):
        pen.disc(x, -0.02, 0.18, ground)
    pen.box(-0.4, 0.36, 0.4, 0.5, ground)


def envelope(pen: Pen, ink: RGB, ground: RGB) -> None:
    pen.box(-0.95, -0.66, 0.95, 0.66, ink, 0.12)
    pen.line(((-0.82, -0.5), (0, 0.12), (0.82, -0.5)), ground, 0.15)


def lock(pen: Pen, ink: RGB, ground: RGB) -> None:
    pen.arc(0, -0.26, 0.54, 180, 360, ink, 0.2)
    pen.box(-0.54, -0.3, -0.34, 0.0, ink)
    pen.box(0.34, -0.3, 0.54, 0.0, ink)
    pen.box(-0.78, -0.1, 0.78, 0.92, ink, 0.16)
    pen.disc(0, 0.34, 0.17, ground)
    pen.box(-0.07, 0.34, 0.07, 0.66, ground)


def warning(pen: Pen, ink: RGB, ground: RGB) -> None:
    pen.polygon(((0, -0.92), (1.0, 0.8), (-1.0, 0.8)), ink)
    pen.box(-0.11, -0.34, 0.11, 0.26, ground, 0.08)
    pen.disc(0, 0.5, 0.13, ground)


def document(pen: Pen, ink: RGB, ground: RGB) -> None:
    pen.box(-0.68, -0.9, 0.68, 0.9, ink, 0.12)
    for y, right in ((-0.45, 0.4), (0.0, 0.4), (0.45, 0.05)):
        pen.box(-0.4, y - 0.08, right, y + 0.08, ground)


GLYPHS: Final[dict[str, Glyph]] = {
    "server": server,
    "laptop": laptop,
    "phone": phone,
    "router": router,
    "switch": switch,
    "firewall": firewall,
    "database": database,
    "cloud": cloud,
    "user": user,
    "attacker": attacker,
    "bot": bot,
    "envelope": envelope,
    "lock": lock,
    "warning": warning,
    "document": document,
}

# --- pictures in several tones ----------------------------------------------------------------------------------------


def cube(pen: Pen, colour: RGB, x: float, y: float, radius: float) -> None:
    """A block of a chain, seen from above one of its edges. The left face has the colour itself."""
    at = pen.at(x, y, radius)
    middle, left, right = (0.0, -0.1), (-0.88, -0.56), (0.88, -0.56)
    at.polygon(((0, -1.0), right, middle, left), lighter(colour, 0.38))
    at.polygon((left, middle, (0, 0.98), (-0.88, 0.5)), colour)
    at.polygon((middle, right, (0.88, 0.5), (0, 0.98)), darker(colour, 0.26))


def house(pen: Pen, colour: RGB, x: float, y: float, radius: float, lit: bool) -> None:
    """Walls in the colour, standing on y + radius."""
    at = pen.at(x, y, radius)
    at.box(0.34, -0.86, 0.58, -0.3, (126, 84, 70))
    at.box(-0.82, -0.2, 0.82, 1.0, colour)
    at.polygon(((-1.06, -0.16), (0, -0.98), (1.06, -0.16)), (96, 62, 58))
    pane = (255, 226, 130) if lit else (226, 240, 250)
    for left in (-0.62, 0.22):
        at.box(left, 0.08, left + 0.4, 0.46, pane)
        at.box(left + 0.17, 0.08, left + 0.23, 0.46, INK)
    at.box(-0.2, 0.42, 0.12, 1.0, (88, 58, 50))


def car(pen: Pen, colour: RGB, x: float, y: float, radius: float, lit: bool) -> None:
    """A body in the colour, two wheels on y + 0.62 radius."""
    at = pen.at(x, y, radius)
    at.polygon(((-0.6, -0.05), (-0.34, -0.5), (0.3, -0.5), (0.62, -0.05)), colour)
    at.box(-1.0, -0.08, 1.0, 0.42, colour, 0.18)
    glass = (250, 232, 160) if lit else (214, 232, 244)
    at.polygon(((-0.44, -0.06), (-0.28, -0.38), (-0.06, -0.38), (-0.06, -0.06)), glass)
    at.polygon(((0.06, -0.06), (0.06, -0.38), (0.25, -0.38), (0.46, -0.06)), glass)
    for wheel in (-0.52, 0.52):
        at.disc(wheel, 0.4, 0.24, (30, 32, 40))
        at.disc(wheel, 0.4, 0.11, (196, 200, 208))
    at.box(0.84, 0.04, 1.0, 0.18, (255, 240, 180))


def tree(pen: Pen, colour: RGB, x: float, y: float, radius: float) -> None:
    """A round crown in the colour, a trunk standing on y + radius."""
    at = pen.at(x, y, radius)
    at.box(-0.11, 0.1, 0.11, 1.0, (104, 70, 48))
    for dx, dy, r in ((-0.32, 0.02, 0.38), (0.32, 0.02, 0.38), (0.0, -0.42, 0.46), (0.0, -0.05, 0.42)):
        at.disc(dx, dy, r, colour)


def sun(pen: Pen, x: float, y: float, radius: float, colour: RGB, sky: RGB) -> None:
    """A disc in a soft halo."""
    for share, reach in ((0.22, 1.9), (0.45, 1.4)):
        pen.disc(x, y, radius * reach, tuple(round(s + (c - s) * share) for s, c in zip(sky, colour, strict=True)))  # type: ignore[arg-type]
    pen.disc(x, y, radius, colour)


def moon(pen: Pen, x: float, y: float, radius: float, sky: RGB) -> None:
    """A crescent."""
    pen.disc(x, y, radius, MOON)
    pen.disc(x + 0.42 * radius, y - 0.24 * radius, 0.82 * radius, sky)
