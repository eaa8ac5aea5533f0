"""Landscapes at four times of day: mountains, the sea or a meadow, with houses, cars and trees.

Facts: `time`, `place`. Sun or moon is always seen. What stands there, stands side by side in front.
"""

from collections.abc import Iterator, Sequence
from itertools import product
from typing import Final

import numpy as np
from PIL import Image

from boceto.scenes.description import Scene, Thing
from boceto.scenes.icons import car, house, tree
from boceto.scenes.kit import PALETTE, RGB, Pen, mix
from boceto.scenes.language import a, algunos, listed, some, un_thing
from boceto.scenes.sky import TIMES, TIMES_EN, TIMES_ES, at, lit, sky

PLACES: Final = ("mountains", "sea", "meadow")
HOUSES: Final = ("red", "yellow", "blue", "white", "orange")
CARS: Final = ("red", "yellow", "blue", "white", "black")
ROCK: Final[RGB] = (92, 104, 132)
_HAZE: Final = 0.12
TREE: Final[RGB] = (24, 120, 56)
HORIZONS: Final = {"mountains": 0.68, "sea": 0.54, "meadow": 0.62}
GROUND: Final = 0.88
"""How far down the things stand."""
_RADII: Final = {"house": 0.135, "car": 0.125, "tree": 0.115}
_WIDE: Final = {"house": 0.3, "car": 0.27, "tree": 0.185}


def sample(rng: np.random.Generator) -> Scene:
    facts = (("time", _pick(rng, TIMES)), ("place", _pick(rng, PLACES)))
    standing: list[tuple[str, str]] = []
    choice = int(rng.integers(8))
    if choice in (1, 4, 5, 7):
        standing.append(("house", _pick(rng, HOUSES)))
    if choice in (2, 4, 6, 7):
        standing.append(("car", _pick(rng, CARS)))
    if choice in (3, 5, 6):
        standing += [("tree", "green")] * int(rng.integers(1, 5 if choice == 3 else 3))
    order = [int(i) for i in rng.permutation(len(standing))]
    width = sum(_WIDE[name] for name, _ in standing)
    gap = min(0.12, (0.96 - width) / (len(standing) + 1))
    left = 0.5 - (width + gap * (len(standing) - 1)) / 2 + float(rng.uniform(-0.5, 0.5)) * gap
    things: dict[int, Thing] = {}
    for i in order:
        name, colour = standing[i]
        x = left + _WIDE[name] / 2
        left += _WIDE[name] + gap
        radius = _RADII[name] * float(rng.uniform(0.94, 1.04))
        foot = 0.62 if name == "car" else 1.0
        things[i] = Thing(name=name, colour=colour, x=x, y=GROUND - foot * radius, radius=radius)
    return Scene(
        family="landscapes",
        kind=facts[1][1],
        background="",
        things=tuple(things[i] for i in sorted(things)),
        facts=facts,
        detail=int(rng.integers(2**31)),
    )


def combinations(scene: Scene) -> frozenset[str]:
    """Place, time and each sort of thing; trees by their number."""
    where = f"landscapes {scene.kind} {scene.fact('time')}"
    trees = len(scene.named("tree"))
    with_what = [f"{thing.name} {thing.colour}" for thing in scene.named("house", "car")]
    with_what += [f"{trees} trees"] if trees else []
    return frozenset(f"{where} {what}" for what in with_what or ["empty"])


def _pick(rng: np.random.Generator, names: Sequence[str]) -> str:
    return names[rng.integers(len(names))]


# --- picture ----------------------------------------------------------------------------------------------------------


def paint(scene: Scene, size: int) -> Image.Image:
    time, rng = scene.fact("time"), np.random.default_rng(scene.detail)
    horizon = HORIZONS[scene.kind]
    pen = Pen(size, lit((124, 186, 92), time))
    sky(pen, time, horizon, rng, low=scene.kind != "mountains")
    if scene.kind == "mountains":
        _mountains(pen, time, rng, horizon)
    elif scene.kind == "sea":
        _sea(pen, time, rng, horizon)
    else:
        _meadow(pen, time, rng, horizon)
    if scene.named("car"):
        pen.box(0, GROUND - 0.035, 1, GROUND + 0.055, lit((104, 106, 116), time))
        for x in np.arange(0.03, 1, 0.17):
            pen.box(float(x), GROUND + 0.005, float(x) + 0.09, GROUND + 0.016, lit((240, 236, 220), time))
    lamps = time == "night"
    for thing in scene.things:
        x, y, radius, colour = thing.x, thing.y, thing.radius, PALETTE[thing.colour]
        if thing.name == "house":
            house(pen, colour, x, y, radius, lamps)
        elif thing.name == "car":
            car(pen, colour, x, y, radius, lamps)
        else:
            tree(pen, TREE, x, y, radius)
    return pen.finish()


def _mountains(pen: Pen, time: str, rng: np.random.Generator, horizon: float) -> None:
    haze = at(time, 0.9)
    for depth, (count, low, high, share) in enumerate(((3, 0.3, 0.4, 0.45), (2, 0.32, 0.46, _HAZE))):
        rock = mix(lit(ROCK, time), haze, share)
        snow = mix(lit((244, 248, 252), time), haze, share * 0.6)
        for i in range(count):
            x = (i + 0.5 + float(rng.uniform(-0.2, 0.2))) / count + (0.12 if depth else -0.04)
            tall, half = float(rng.uniform(low, high)), float(rng.uniform(0.3, 0.4))
            top = horizon + 0.02 - tall
            pen.polygon(((x, top), (x + half, horizon + 0.02), (x - half, horizon + 0.02)), rock)
            pen.polygon(((x, top), (x + half, horizon + 0.02), (x + 0.12, horizon + 0.02)), mix(rock, (0, 0, 0), 0.14))
            cap, edge = 0.3 * tall, 0.3 * half
            teeth = ((x + 0.45 * edge, top + 0.72 * cap), (x, top + cap), (x - 0.4 * edge, top + 0.75 * cap))
            pen.polygon(((x, top), (x + edge, top + cap), *teeth, (x - edge, top + cap)), snow)
    _hills(pen, time, rng, horizon)


def _hills(pen: Pen, time: str, rng: np.random.Generator, horizon: float) -> None:
    for y, tone in ((horizon + 0.02, (108, 172, 96)), (horizon + 0.12, (132, 192, 92))):
        x = float(rng.uniform(0.1, 0.9))
        pen.disc(x, y + 0.32, 0.95, lit(tone, time), 0.37)
        pen.box(0, y + 0.14, 1, 1.01, lit(tone, time))


def _meadow(pen: Pen, time: str, rng: np.random.Generator, horizon: float) -> None:
    haze = at(time, 1.0)
    pen.disc(float(rng.uniform(0.0, 0.3)), horizon + 0.1, 0.5, mix(lit((96, 160, 110), time), haze, 0.35), 0.42)
    pen.disc(float(rng.uniform(0.7, 1.0)), horizon + 0.1, 0.5, mix(lit((104, 168, 104), time), haze, 0.22), 0.36)
    _hills(pen, time, rng, horizon)
    for x, y in rng.uniform((0.02, 0.9), (0.98, 0.98), (9, 2)):
        pen.disc(float(x), float(y), 0.009, lit((250, 240, 200), time))


def sea_colours(time: str) -> tuple[RGB, RGB]:
    """At the horizon and at the shore."""
    far = lit((60, 110, 170), time) if time == "night" else mix((74, 164, 206), at(time, 0.9), 0.75)
    return far, mix(lit((30, 110, 168), time), at(time, 0.3), 0.3)


def middle(place: str, time: str) -> RGB:
    """The colour a little above the middle of the land's height: of rock, water or far hills."""
    if place == "mountains":
        return mix(lit(ROCK, time), at(time, 0.9), _HAZE)
    if place == "sea":
        far, near = sea_colours(time)
        return mix(far, near, 0.26)
    return mix(lit((100, 164, 107), time), at(time, 1.0), 0.28)


def _sea(pen: Pen, time: str, rng: np.random.Generator, horizon: float) -> None:
    shore = 0.79
    far, near = sea_colours(time)
    pen.gradient(horizon, shore, (far, near))
    crest = mix(near, (255, 255, 255), 0.4)
    for x, y in rng.uniform((0.0, horizon + 0.02), (0.9, shore - 0.03), (9, 2)):
        pen.box(float(x), float(y), float(x + rng.uniform(0.05, 0.12)), float(y) + 0.007, crest)
    sand = lit((238, 212, 160), time)
    middle = float(rng.uniform(0.2, 0.8))
    pen.disc(middle, shore + 0.26, 0.95, mix(sand, (255, 255, 255), 0.45), 0.3)
    pen.disc(middle, shore + 0.275, 0.95, sand, 0.3)
    pen.box(0, shore + 0.16, 1, 1.01, sand)


# --- words ------------------------------------------------------------------------------------------------------------

_PLACES_EN: Final = {
    "mountains": ("mountains", "a mountain landscape"),
    "sea": ("the sea", "a beach by the sea"),
    "meadow": ("a green meadow", "hills and meadows"),
}
_IN_EN: Final = {
    "mountains": ("in front of mountains", "in the mountains"),
    "sea": ("by the sea", "on the beach"),
    "meadow": ("in a meadow", "in front of green hills"),
}
_PLACES_ES: Final = {
    "mountains": ("montañas", "un paisaje de montañas"),
    "sea": ("el mar", "una playa junto al mar"),
    "meadow": ("un prado verde", "colinas y prados"),
}
_IN_ES: Final = {
    "mountains": ("delante de unas montañas", "en las montañas"),
    "sea": ("junto al mar", "en la playa"),
    "meadow": ("en un prado", "delante de unas colinas verdes"),
}


def english(scene: Scene) -> Iterator[str]:
    night = scene.fact("time") == "night"
    for time, sun in product(TIMES_EN[scene.fact("time")], ("", ", with the moon" if night else ", with the sun")):
        if not scene.things:
            for place in _PLACES_EN[scene.kind]:
                yield f"{place} {time}{sun}"
        for trees, place in product(_trees_en(scene), _IN_EN[scene.kind] if scene.things else ()):
            houses = [a(f"{thing.colour} {thing.name}") for thing in scene.named("house", "car")]
            yield f"{listed([*houses, *trees], 'and')} {place} {time}{sun}"


def spanish(scene: Scene) -> Iterator[str]:
    night = scene.fact("time") == "night"
    for time, sun in product(TIMES_ES[scene.fact("time")], ("", ", con la luna" if night else ", con el sol")):
        if not scene.things:
            for place in _PLACES_ES[scene.kind]:
                yield f"{place} {time}{sun}"
        for trees, place in product(_trees_es(scene), _IN_ES[scene.kind] if scene.things else ()):
            houses = [un_thing(thing.name, thing.colour)[0] for thing in scene.named("house", "car")]
            yield f"{listed([*houses, *trees], 'y')} {place} {time}{sun}"


def _trees_en(scene: Scene) -> list[list[str]]:
    trees = len(scene.named("tree"))
    return [[words] for words in some(trees, "tree")] if trees else [[]]


def _trees_es(scene: Scene) -> list[list[str]]:
    trees = len(scene.named("tree"))
    return [[words] for words in algunos(trees, "tree")] if trees else [[]]
