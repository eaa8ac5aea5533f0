"""Charts and dashboards, on a light or a dark ground, in a colour scheme.

A chart alone fills the picture; a dashboard has an alert banner above two charts. Facts: `bars` (how many), `trend`
(rising, falling or none), `slices` (the colours of a pie, clockwise from the top), `level` (low, half or high), `alert`.
"""

import math
from collections.abc import Iterator, Sequence
from itertools import product
from typing import Final

import numpy as np
from PIL import Image

from boceto.scenes.description import Scene, Thing
from boceto.scenes.icons import GLYPHS
from boceto.scenes.kit import GROUNDS, INK, MIST, PALETTE, RGB, SCHEMES, STEEL, Pen, lighter, mix
from boceto.scenes.language import COLOURS_ES, a, algunos, listed, some, style_en, style_es

CHARTS: Final = ("bar chart", "line chart", "pie chart", "gauge")
TRENDS: Final = ("", "rising", "falling")
LEVELS: Final[dict[str, float]] = {"low": 0.2, "half": 0.5, "high": 0.85}
ALERTS: Final = ("red", "orange", "green")
PIE_COLOURS: Final = ("red", "green", "blue", "yellow", "orange", "purple")
BANNER: Final = (0.06, 0.07, 0.94, 0.25)
"""Where a dashboard's alert stands: left, top, right, bottom."""
_TINTS: Final = (0.0, 0.45, 0.72)


def sample(rng: np.random.Generator) -> Scene:
    background = "black" if rng.random() < 0.4 else "white"
    scheme = _pick(rng, SCHEMES)
    kind = (*CHARTS, "dashboard")[rng.choice(5, p=(0.22, 0.18, 0.2, 0.14, 0.26))]
    facts: tuple[tuple[str, str], ...] = ()
    names = [kind]
    if kind == "bar chart":
        trend = _pick(rng, TRENDS)
        facts = (("bars", str(rng.integers(3, 7))), ("trend", trend))
    elif kind == "line chart":
        facts = (("trend", _pick(rng, TRENDS[1:])),)
    elif kind == "pie chart":
        count = int(rng.integers(2, 5))
        facts = (("slices", " ".join(PIE_COLOURS[i] for i in rng.permutation(len(PIE_COLOURS))[:count])),)
        scheme = ""
    elif kind == "gauge":
        facts = (("level", _pick(rng, tuple(LEVELS))),)
    else:
        facts = (("alert", _pick(rng, ALERTS)),)
        names = [CHARTS[i] for i in rng.permutation(len(CHARTS))[:2]]
    places = ((0.5, 0.5, 0.44),) if len(names) == 1 else ((0.27, 0.62, 0.21), (0.73, 0.62, 0.21))
    things = tuple(
        Thing(name=name, colour=scheme, x=x, y=y, radius=radius)
        for name, (x, y, radius) in zip(names, places, strict=True)
    )
    return Scene(
        family="dashboards",
        kind=kind,
        background=background,
        things=things,
        scheme=scheme,
        facts=facts,
        detail=int(rng.integers(2**31)),
    )


def combinations(scene: Scene) -> frozenset[str]:
    """The charts with all that is told of them; a pie's colours in any order."""
    told = " ".join(" ".join(sorted(value.split())) or "mixed" for _, value in scene.facts)
    charts = " ".join(thing.name for thing in scene.things)
    return frozenset({f"dashboards {charts} {told} {scene.scheme} on {scene.background}"})


def _pick(rng: np.random.Generator, names: Sequence[str]) -> str:
    return names[rng.integers(len(names))]


# --- picture ----------------------------------------------------------------------------------------------------------


def paint(scene: Scene, size: int) -> Image.Image:
    dark = scene.background == "black"
    ground = GROUNDS[scene.background]
    pen = Pen(size, ground)
    rng = np.random.default_rng(scene.detail)
    if alert := scene.fact("alert"):
        left, top, right, bottom = BANNER
        tile = PALETTE[alert]
        pen.box(left, top, right, bottom, tile, 0.03)
        GLYPHS["warning"](pen.at(left + 0.1, (top + bottom) / 2, 0.058), (255, 255, 255), tile)
        for y, end in ((0.13, 0.62), (0.19, 0.46)):
            pen.box(left + 0.2, y - 0.014, left + end, y + 0.014, lighter(tile, 0.82), 0.014)
    for thing in scene.things:
        tall = 0.3 if alert else thing.radius
        card = mix(ground, (255, 255, 255), 0.07) if dark else (255, 255, 255)
        edge = mix(ground, (255, 255, 255), 0.16) if dark else MIST
        x, y, half = thing.x, thing.y, thing.radius
        pen.box(x - half, y - tall, x + half, y + tall, edge, 0.04)
        pen.box(x - half + 0.006, y - tall + 0.006, x + half - 0.006, y + tall - 0.006, card, 0.036)
        quiet = mix(card, STEEL, 0.55)
        pen.box(x - 0.8 * half, y - tall + 0.05, x - 0.25 * half, y - tall + 0.078, quiet, 0.012)
        _DRAW[thing.name](pen.at(x, y + 0.03, half), scene, rng, card)
    return pen.finish()


def _bars(pen: Pen, scene: Scene, rng: np.random.Generator, card: RGB) -> None:
    count = int(scene.fact("bars") or 4)
    heights = _values(rng, count, scene.fact("trend"))
    colour = PALETTE[scene.scheme]
    _frame(pen, card)
    pitch = 1.5 / count
    for i, height in enumerate(heights):
        x = -0.75 + pitch * (i + 0.5)
        pen.box(x - 0.31 * pitch, 0.7 - 1.35 * height, x + 0.31 * pitch, 0.7, colour, 0.04)
    pen.box(-0.8, 0.7, 0.8, 0.735, mix(card, STEEL, 0.9))


def _lines(pen: Pen, scene: Scene, rng: np.random.Generator, card: RGB) -> None:
    heights = _values(rng, 6, scene.fact("trend") or TRENDS[1 + rng.integers(2)])
    colour = PALETTE[scene.scheme]
    points = [(-0.75 + 1.5 * i / 5, 0.66 - 1.25 * height) for i, height in enumerate(heights)]
    pen.polygon((*points, (0.75, 0.7), (-0.75, 0.7)), mix(card, colour, 0.16))
    _frame(pen, card)
    pen.line(points, colour, 0.075)
    for x, y in points:
        pen.disc(x, y, 0.075, colour)
        pen.disc(x, y, 0.035, card)
    pen.box(-0.8, 0.7, 0.8, 0.735, mix(card, STEEL, 0.9))


def _pie(pen: Pen, scene: Scene, rng: np.random.Generator, card: RGB) -> None:
    named = scene.fact("slices").split()
    colours = [PALETTE[name] for name in named] or [mix(PALETTE[scene.scheme], (255, 255, 255), t) for t in _TINTS]
    shares = rng.uniform(0.7, 1.5, len(colours))
    angle, radius = -90.0, 0.68 if named else 0.72
    edges = [angle]
    for share, colour in zip(shares / shares.sum(), colours, strict=True):
        pen.slice(0, 0.04, radius, angle, angle + 360 * share, colour)
        angle += 360 * share
        edges.append(angle)
    for edge in edges[:-1]:
        turn = math.radians(edge)
        pen.line(((0, 0.04), (radius * 1.03 * math.cos(turn), 0.04 + radius * 1.03 * math.sin(turn))), card, 0.035)


def _gauge(pen: Pen, scene: Scene, rng: np.random.Generator, card: RGB) -> None:
    level = LEVELS[scene.fact("level") or tuple(LEVELS)[rng.integers(3)]] + rng.uniform(-0.05, 0.05)
    track = mix(card, STEEL, 0.35)
    angle = 180 + 180 * level
    pen.arc(0, 0.38, 0.8, 180, 360, track, 0.24)
    pen.arc(0, 0.38, 0.8, 180, angle, PALETTE[scene.scheme], 0.24)
    turn = math.radians(angle)
    needle = INK if scene.background == "white" else (236, 240, 246)
    pen.line(((0, 0.38), (0.46 * math.cos(turn), 0.38 + 0.46 * math.sin(turn))), needle, 0.06)
    pen.disc(0, 0.38, 0.09, needle)
    pen.box(-0.24, 0.6, 0.24, 0.68, mix(card, STEEL, 0.55), 0.03)


_DRAW: Final = dict(zip(CHARTS, (_bars, _lines, _pie, _gauge), strict=True))


def _frame(pen: Pen, card: RGB) -> None:
    """Faint lines across a chart."""
    for y in (-0.55, -0.13, 0.29):
        pen.box(-0.8, y, 0.8, y + 0.016, mix(card, STEEL, 0.28))


def _values(rng: np.random.Generator, count: int, trend: str) -> list[float]:
    """Heights between 0.15 and 1. A mixed row does not look like one that rises or falls."""
    if trend:
        steps = rng.uniform(0.6, 1.4, count - 1).cumsum()
        values = 0.2 + 0.74 * np.concatenate([[0], steps / steps[-1]])
        return [float(v) for v in (values if trend == "rising" else values[::-1])]
    values = rng.uniform(0.3, 0.85, count)
    high = int(rng.integers(1, count - 1))
    values[high] = 1.0
    values[0], values[-1] = rng.uniform(0.3, 0.5, 2)
    return [float(v) for v in values]


# --- words ------------------------------------------------------------------------------------------------------------

_ALERTS_EN: Final = {"red": "a red alert", "orange": "an orange alert", "green": "a green all-clear"}
_ALERTS_ES: Final = {"red": "una alerta roja", "orange": "una alerta naranja", "green": "un aviso verde"}
_CHARTS_ES: Final = {
    "bar chart": "un gráfico de barras",
    "line chart": "un gráfico de líneas",
    "pie chart": "un gráfico circular",
    "gauge": "un indicador",
}
_TRENDS_ES: Final = {"rising": "ascendente", "falling": "descendente"}
_LEVELS_EN: Final = {"low": ("low", "a quarter full"), "half": ("half", "half full"), "high": ("high", "almost full")}
_LEVELS_ES: Final = {"low": ("bajo", "casi vacío"), "half": ("medio", "a la mitad"), "high": ("alto", "casi lleno")}


def english(scene: Scene) -> Iterator[str]:
    for subject, style in product(_subjects_en(scene), style_en(scene.scheme, scene.background)):
        yield subject + style


def spanish(scene: Scene) -> Iterator[str]:
    for subject, style in product(_subjects_es(scene), style_es(scene.scheme, scene.background)):
        yield subject + style


def _subjects_en(scene: Scene) -> Iterator[str]:
    trend = scene.fact("trend")
    match scene.kind:
        case "bar chart":
            for count in some(int(scene.fact("bars")), "bar", trend):
                yield f"a bar chart with {count}"
                yield f"a bar graph of {count}"
        case "line chart":
            yield f"a {trend} line chart"
            yield f"a line chart with a {trend} line"
            yield f"a line graph, {trend}"
        case "pie chart":
            colours = scene.fact("slices").split()
            for count in some(len(colours), "slice"):
                yield f"a pie chart with {count}: {listed(colours, 'and')}"
            yield f"a pie chart in {listed(colours, 'and')}"
        case "gauge":
            word, amount = _LEVELS_EN[scene.fact("level")]
            yield f"a gauge at {word} level"
            yield f"a gauge, {amount}"
        case "dashboard":
            first, second = (a(thing.name) for thing in scene.things)
            alert = _ALERTS_EN[scene.fact("alert")]
            yield f"a dashboard with {alert} banner above {first} and {second}"
            yield f"a security dashboard: {alert} banner, {first}, {second}"


def _subjects_es(scene: Scene) -> Iterator[str]:
    trend = scene.fact("trend")
    match scene.kind:
        case "bar chart":
            many = f" {_TRENDS_ES[trend]}s" if trend else ""
            for count in algunos(int(scene.fact("bars")), "bar"):
                yield f"un gráfico de barras con {count}{many}"
                yield f"un diagrama de {count}{many}"
        case "line chart":
            yield f"un gráfico de líneas {_TRENDS_ES[trend]}"
            yield f"un gráfico con una línea {_TRENDS_ES[trend]}"
        case "pie chart":
            colours = [COLOURS_ES[name][0] for name in scene.fact("slices").split()]
            for count in algunos(len(colours), "slice"):
                yield f"un gráfico circular con {count}: {listed(colours, 'y')}"
            yield f"un gráfico de tarta en {listed(colours, 'y')}"
        case "gauge":
            word, amount = _LEVELS_ES[scene.fact("level")]
            yield f"un indicador en nivel {word}"
            yield f"un indicador {amount}"
        case "dashboard":
            first, second = (_CHARTS_ES[thing.name] for thing in scene.things)
            alert = _ALERTS_ES[scene.fact("alert")]
            yield f"un panel con {alert} sobre {first} y {second}"
            yield f"un panel de seguridad: {alert}, {first} y {second}"
