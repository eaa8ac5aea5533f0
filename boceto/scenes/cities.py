"""City skylines, modern or futuristic, at four times of day.

Facts: `time`; `style` (modern, futuristic); `neon` (the colour of a futuristic city's lights); `place` (street or
river); `disc` (whether sun or moon is seen: "yes" or "no").
"""

import math
from collections.abc import Iterator, Sequence
from itertools import product
from typing import Final

import numpy as np
from PIL import Image

from boceto.scenes.description import Scene
from boceto.scenes.kit import RGB, Pen, lighter, mix
from boceto.scenes.language import COLOURS_ES
from boceto.scenes.sky import TIMES, TIMES_EN, TIMES_ES, at, lit, sky

NEON: Final[dict[str, RGB]] = {"blue": (40, 214, 255), "purple": (232, 64, 255), "green": (64, 255, 140)}
PLACES: Final = ("street", "river")
GRID: Final[RGB] = (16, 18, 42)
"""The ground of a futuristic city's street."""
_FOOT: Final = {"street": 0.9, "river": 0.76}


def sample(rng: np.random.Generator) -> Scene:
    style = "futuristic" if rng.random() < 0.5 else "modern"
    neon = _pick(rng, tuple(NEON)) if style == "futuristic" else ""
    facts = {
        "time": _pick(rng, TIMES),
        "style": style,
        "neon": neon,
        "place": _pick(rng, PLACES),
        "disc": "yes" if rng.random() < 0.6 else "no",
    }
    detail = int(rng.integers(2**31))
    return Scene(family="cities", kind=style, background="", things=(), facts=tuple(facts.items()), detail=detail)


def combinations(scene: Scene) -> frozenset[str]:
    """All facts together."""
    return frozenset({"cities " + " ".join(value for _, value in scene.facts)})


def _pick(rng: np.random.Generator, names: Sequence[str]) -> str:
    return names[rng.integers(len(names))]


# --- picture ----------------------------------------------------------------------------------------------------------


def paint(scene: Scene, size: int) -> Image.Image:
    time, place = scene.fact("time"), scene.fact("place")
    rng = np.random.default_rng(scene.detail)
    foot = _FOOT[place]
    pen = Pen(size, (0, 0, 0))
    sky(pen, time, foot, rng, disc=scene.fact("disc") == "yes", low=False)
    futuristic = scene.kind == "futuristic"
    base: RGB = (34, 38, 70) if futuristic else (92, 112, 142)
    haze = at(time, 0.85)
    # at night the far towers stand out against the dark by being lighter than it
    if time == "night":
        haze = (92, 104, 168)
    for depth, share in ((0, 0.62), (1, 0.36)):
        _row(pen, rng, foot, mix(lit(base, time), haze, share), 0.3 + 0.06 * (1 - depth))
    if futuristic:
        _future(pen, scene, rng, foot)
    else:
        _modern(pen, time, rng, foot)
    if place == "river":
        _river(pen, time, foot)
    else:
        _street(pen, scene, foot)
    return pen.finish()


def _row(pen: Pen, rng: np.random.Generator, foot: float, colour: RGB, tallest: float) -> None:
    """Far buildings, without windows."""
    x = -0.02
    while x < 1:
        width = float(rng.uniform(0.06, 0.11))
        pen.box(x, foot - float(rng.uniform(0.14, tallest)), x + width, foot, colour)
        x += width


def _modern(pen: Pen, time: str, rng: np.random.Generator, foot: float) -> None:
    x = float(rng.uniform(-0.03, 0.02))
    tones: tuple[RGB, ...] = ((70, 92, 128), (104, 88, 104), (60, 104, 122), (120, 110, 112))
    while x < 0.98:
        width, height = float(rng.uniform(0.11, 0.17)), float(rng.uniform(0.2, 0.5))
        wall = lit(tones[rng.integers(len(tones))], time)
        top = foot - height
        pen.box(x, top, x + width, foot, wall)
        pen.box(x + 0.74 * width, top, x + width, foot, mix(wall, (0, 0, 0), 0.16))
        match int(rng.integers(4)):
            case 0:
                pen.line(((x + width / 2, top), (x + width / 2, top - 0.07)), wall, 0.008)
            case 1:
                pen.box(x + 0.25 * width, top - 0.03, x + 0.75 * width, top, wall)
            case 2:
                pen.polygon(((x, top), (x + width, top), (x + width, top - 0.05)), wall)
            case _:
                pass
        _windows(pen, time, rng, (x, top, width, height))
        x += width + float(rng.uniform(0.0, 0.05))


def _windows(pen: Pen, time: str, rng: np.random.Generator, tower: tuple[float, float, float, float]) -> None:
    x, top, width, height = tower
    columns, rows = 3, max(2, int(height / 0.058))
    bright = rng.random((rows, columns)) < {"dawn": 0.4, "noon": 0.75, "sunset": 0.6, "night": 0.72}[time]
    pane: RGB = (206, 230, 244) if time == "noon" else (255, 222, 132)
    gap, wide = 0.94 * width / columns, 0.5 * width / columns
    for row, column in np.argwhere(bright):
        left = x + 0.03 * width + gap * (column + 0.5) - wide / 2
        y = top + 0.026 + row * (height - 0.03) / rows
        pen.box(left, y, left + wide, y + 0.027, pane)


def _future(pen: Pen, scene: Scene, rng: np.random.Generator, foot: float) -> None:
    time, glow = scene.fact("time"), NEON[scene.fact("neon")]
    wall = mix((34, 34, 84), lit((60, 70, 120), time), 0.3)
    if time == "night":
        wall = lighter(wall, 0.1)
    xs = np.linspace(0.1, 0.9, 5) + rng.uniform(-0.025, 0.025, 5)
    order = rng.permutation(5)
    for i in order:
        x, half, height = float(xs[i]), float(rng.uniform(0.055, 0.08)), float(rng.uniform(0.3, 0.58))
        top = foot - height
        side = mix(wall, (255, 255, 255), 0.06)
        match int(rng.integers(4)):
            case 0:  # a needle
                pen.polygon(((x - half, foot), (x - 0.35 * half, top), (x + 0.35 * half, top), (x + half, foot)), wall)
                pen.line(((x, top), (x, top - 0.1)), glow, 0.008)
                pen.disc(x, top - 0.1, 0.013, glow)
            case 1:  # a dome
                pen.box(x - half, top + half, x + half, foot, wall)
                pen.slice(x, top + half, half, 180, 360, wall)
            case 2:  # a slanted roof
                pen.polygon(((x - half, foot), (x - half, top + 0.08), (x + half, top), (x + half, foot)), wall)
                pen.line(((x - half, top + 0.08), (x + half, top)), glow, 0.01)
            case _:  # steps
                for step in range(3):
                    wide = half * (1 - 0.28 * step)
                    pen.box(x - wide, top + 0.34 * height * (2 - step) / 2, x + wide, foot, mix(wall, side, step / 2))
                pen.line(((x, top), (x, top - 0.06)), glow, 0.008)
        for edge in (-0.92, 0.92):
            pen.line(((x + edge * half, foot), (x + edge * half, top + 0.55 * height)), glow, 0.007)
        for stripe in np.linspace(foot - 0.05, top + 0.5 * height, int(rng.integers(3, 6))):
            pen.box(x - 0.62 * half, float(stripe) - 0.007, x + 0.62 * half, float(stripe) + 0.007, glow)
        if rng.random() < 0.6:
            pen.box(x - 0.06 * half, top + 0.3 * height, x + 0.06 * half, foot, lighter(glow, 0.45))
    _ring(pen, float(rng.uniform(0.2, 0.8)), foot - 0.5, glow)
    for _ in range(2):  # flying cars with their trails
        x, y = float(rng.uniform(0.15, 0.85)), float(rng.uniform(0.16, 0.3))
        way = 1 if rng.random() < 0.5 else -1
        pen.line(((x, y), (x - way * 0.13, y)), mix(at(time, y), glow, 0.6), 0.008)
        pen.disc(x, y, 0.02, lighter(glow, 0.7), 0.6)


def _ring(pen: Pen, x: float, y: float, glow: RGB) -> None:
    """A hologram: a ring around a node with three spokes, as in a network."""
    pen.arc(x, y, 0.085, 0, 360, glow, 0.012)
    for turn in (90, 210, 330):
        end = (x + 0.055 * math.cos(math.radians(turn)), y + 0.055 * math.sin(math.radians(turn)))
        pen.line(((x, y), end), glow, 0.009)
        pen.disc(*end, 0.016, glow)
    pen.disc(x, y, 0.022, lighter(glow, 0.5))


def _river(pen: Pen, time: str, foot: float) -> None:
    """The city upside down, tinted and darker."""
    side, line = pen.image.width, round(foot * pen.image.width)
    mirror = pen.image.crop((0, 2 * line - side, side, line)).transpose(Image.Transpose.FLIP_TOP_BOTTOM)
    water = Image.new("RGB", mirror.size, mix(at(time, 0.4), (8, 32, 70), 0.55))
    pen.image.paste(Image.blend(mirror, water, 0.5), (0, line))
    shine = at(time, 1.0)
    for x, y, length in ((0.12, 0.83, 0.2), (0.55, 0.87, 0.26), (0.26, 0.93, 0.24), (0.7, 0.96, 0.16)):
        pen.box(x, y, x + length, y + 0.007, mix(shine, (255, 255, 255), 0.2))


def _street(pen: Pen, scene: Scene, foot: float) -> None:
    road = lit((74, 78, 92), scene.fact("time"))
    pen.box(0, foot, 1, 1.01, road)
    if scene.kind == "modern":
        for x in np.arange(0.04, 1, 0.2):
            pen.box(float(x), 0.945, float(x) + 0.1, 0.957, (240, 236, 216))
        return
    glow = NEON[scene.fact("neon")]
    pen.box(0, foot, 1, 1.01, GRID)
    pen.box(0, foot, 1, foot + 0.009, glow)
    for x in np.linspace(-0.9, 1.9, 15):  # a grid of light that runs to the horizon
        pen.line(((0.5 + (float(x) - 0.5) * 0.45, foot), (float(x), 1.02)), mix(GRID, glow, 0.7), 0.006)
    pen.box(0, 0.945, 1, 0.951, mix(GRID, glow, 0.7))


# --- words ------------------------------------------------------------------------------------------------------------


def english(scene: Scene) -> Iterator[str]:
    ends = [" by a river", " with a river"] if scene.fact("place") == "river" else [""]
    for time, end, seen in product(
        TIMES_EN[scene.fact("time")], ends, _discs(scene, "with the moon", "with the sun", ", ")
    ):
        if scene.kind == "modern":
            yield f"a city skyline {time}{end}{seen}"
            yield f"a city {time}{end}{seen}"
            yield f"skyscrapers{end} {time}{seen}"
        else:
            neon = scene.fact("neon")
            yield f"a futuristic city {time}{end} with {neon} neon lights{seen}"
            yield f"a futuristic cityscape {time}{end} with cyber elements, {neon} neon{seen}"
            yield f"a cyberpunk city{end} {time}, {neon} neon{seen}"
            yield f"a futuristic city {time}{end} with neon and cyber elements{seen}"


def spanish(scene: Scene) -> Iterator[str]:
    ends = [" junto a un río", " con un río"] if scene.fact("place") == "river" else [""]
    for time, end, seen in product(
        TIMES_ES[scene.fact("time")], ends, _discs(scene, "con la luna", "con el sol", ", ")
    ):
        if scene.kind == "modern":
            yield f"el perfil de una ciudad {time}{end}{seen}"
            yield f"una ciudad {time}{end}{seen}"
            yield f"rascacielos{end} {time}{seen}"
        else:
            neon = COLOURS_ES[scene.fact("neon")][0]
            yield f"un paisaje urbano futurista {time}{end} con elementos cibernéticos{seen}"
            yield f"una ciudad futurista {time}{end} con luces de neón en {neon}{seen}"
            yield f"una ciudad ciberpunk{end} {time}, neón {neon}{seen}"
            yield f"un paisaje urbano futurista {time}{end} con elementos cibernéticos y neón {neon}{seen}"


def _discs(scene: Scene, moon: str, sun: str, before: str) -> tuple[str, ...]:
    if scene.fact("disc") == "no":
        return ("",)
    return "", before + (moon if scene.fact("time") == "night" else sun)
