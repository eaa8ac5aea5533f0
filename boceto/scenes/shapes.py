"""Coloured shapes on plain grounds: one, up to six alike, several unlike, or two in a relation.

Conventions that the captions rely on:

* a thing without a size word is of medium size; "small" and "large" are always said when they hold, except where one
  thing is inside another, which says it all;
* a caption that names no background belongs to a picture with a white one;
* counted things stand in a row (2) or in two (3 to 6); unlike things stand in a row (3) or in two (4), in order.
"""

import math
from collections.abc import Iterator
from itertools import product
from typing import Final

import numpy as np
from PIL import Image

from boceto.scenes.description import RELATIONS, Relation, Scene, Size, Thing
from boceto.scenes.kit import COLOURS, PALETTE, Pen
from boceto.scenes.language import COLOURS_ES, a, algunos, listed, some, un_thing

CONVERSE: Final[dict[Relation, str]] = {
    "left": "right",
    "right": "left",
    "above": "below",
    "below": "above",
    "inside": "around",
}


def _ring(corners: int, *, turn: float = 0.0, inner: float | None = None) -> tuple[tuple[float, float], ...]:
    """Corners of a regular polygon in the unit circle, the first at the top; with `inner`, of a star."""
    count = corners if inner is None else 2 * corners
    radii = [1.0 if inner is None or i % 2 == 0 else inner for i in range(count)]
    angles = [2 * math.pi * i / count + turn - math.pi / 2 for i in range(count)]
    return tuple((r * math.cos(a), r * math.sin(a)) for r, a in zip(radii, angles, strict=True))


_ARM: Final = 0.34  # half the width of the cross's arms
_CROSS_QUARTER: Final = ((_ARM, -1.0), (_ARM, -_ARM), (1.0, -_ARM))
# Every outline fits the unit circle around (0, 0), except the cross, whose arms end on it.
OUTLINES: Final[dict[str, tuple[tuple[float, float], ...]]] = {
    "circle": _ring(96),
    "square": tuple((0.9 * x, 0.9 * y) for x, y in ((-1, -1), (1, -1), (1, 1), (-1, 1))),
    "triangle": tuple((1.15 * x, 1.15 * y + 0.2) for x, y in _ring(3)),
    "star": tuple((1.15 * x, 1.15 * y + 0.08) for x, y in _ring(5, inner=0.42)),
    "hexagon": _ring(6, turn=math.pi / 6),
    "cross": tuple(
        (x * cos - y * sin, x * sin + y * cos)
        for cos, sin in ((1, 0), (0, 1), (-1, 0), (0, -1))
        for x, y in _CROSS_QUARTER
    ),
}
SHAPES: Final = tuple(OUTLINES)


# --- scenes at random -------------------------------------------------------------------------------------------------

_ALONE_RADIUS: Final[dict[Size, tuple[float, float]]] = {
    "small": (0.12, 0.15),
    "medium": (0.22, 0.27),
    "large": (0.34, 0.39),
}
_PAIR_RADIUS: Final[dict[Size, tuple[float, float]]] = {
    "small": (0.09, 0.11),
    "medium": (0.15, 0.18),
    "large": (0.2, 0.22),
}
_COUNT_PLACES: Final[dict[int, tuple[tuple[float, float], ...]]] = {
    2: ((0.28, 0.5), (0.72, 0.5)),
    3: ((0.5, 0.28), (0.27, 0.72), (0.73, 0.72)),
    4: ((0.28, 0.28), (0.72, 0.28), (0.28, 0.72), (0.72, 0.72)),
    5: ((0.2, 0.3), (0.5, 0.3), (0.8, 0.3), (0.35, 0.7), (0.65, 0.7)),
    6: ((0.2, 0.3), (0.5, 0.3), (0.8, 0.3), (0.2, 0.7), (0.5, 0.7), (0.8, 0.7)),
}
_UNLIKE_PLACES: Final = {3: ((0.2, 0.5), (0.5, 0.5), (0.8, 0.5)), 4: _COUNT_PLACES[4]}
_MIDDLE: Final = {"triangle": 0.2, "star": 0.08}  # how far below the origin of its outline a shape's middle lies
# Where the first thing of a pair stands; the second stands opposite.
_PAIR_PLACE: Final[dict[Relation, tuple[float, float]]] = {
    "left": (0.26, 0.5),
    "right": (0.74, 0.5),
    "above": (0.5, 0.26),
    "below": (0.5, 0.74),
}


def sample(rng: np.random.Generator) -> Scene:
    """Any scene of the family."""
    draw = rng.random()
    if draw < 0.55:
        return sample_plain(rng)
    background = "white" if rng.random() < 0.25 else _pick(rng, COLOURS)
    if draw < 0.7:
        return Scene(background=background, things=_inside(rng, background), relation="inside")
    if draw < 0.85:
        return Scene(background=background, things=_counted(rng, background, int(rng.integers(3, 7))))
    return Scene(background=background, things=_unlike(rng, background))


def combinations(scene: Scene) -> frozenset[str]:
    """Each thing with the background, and with its relation."""
    found = {f"{thing.name} {thing.colour} on {scene.background}" for thing in scene.things}
    if scene.relation is not None:
        for thing, relation in zip(scene.things, (scene.relation, CONVERSE[scene.relation]), strict=True):
            found.add(f"{thing.name} {thing.colour} {relation}")
    return frozenset(found)


def sample_plain(rng: np.random.Generator) -> Scene:
    """The first boceto's world: one shape, two to four alike, or two beside or above each other."""
    # White is drawn more often: captions without a background belong to it.
    background = "white" if rng.random() < 0.25 else _pick(rng, COLOURS)
    kind = rng.choice(3, p=(0.3, 0.25, 0.45))
    if kind == 0:
        return Scene(background=background, things=(_alone(rng, background),))
    if kind == 1:
        return Scene(background=background, things=_counted(rng, background))
    relation = RELATIONS[rng.integers(4)]
    return Scene(background=background, things=_pair(rng, background, relation), relation=relation)


def _alone(rng: np.random.Generator, background: str) -> Thing:
    size = _size(rng)
    radius = rng.uniform(*_ALONE_RADIUS[size])
    slack = min(0.1, 0.44 - radius)
    x, y = 0.5 + rng.uniform(-slack, slack, 2)
    shape, colour = _kind(rng, background)
    return Thing(name=shape, colour=colour, size=size, x=float(x), y=float(y), radius=float(radius))


def _counted(rng: np.random.Generator, background: str, count: int = 0) -> tuple[Thing, ...]:
    shape, colour = _kind(rng, background)
    radius = float(rng.uniform(0.13, 0.165)) if count < 5 else float(rng.uniform(0.105, 0.125))
    places = np.array(_COUNT_PLACES[count or int(rng.integers(2, 5))])
    places = places + rng.uniform(-0.03, 0.03, 2) + rng.uniform(-0.015, 0.015, places.shape)
    return tuple(Thing(name=shape, colour=colour, x=float(x), y=float(y), radius=radius) for x, y in places)


def _pair(rng: np.random.Generator, background: str, relation: Relation) -> tuple[Thing, Thing]:
    first = _kind(rng, background)
    while (second := _kind(rng, background)) == first:
        pass
    place = np.array(_PAIR_PLACE[relation])
    shift = rng.uniform(-0.03, 0.03, 2)
    made = []
    for (shape, colour), centre in ((first, place), (second, 1 - place)):
        size: Size = "medium" if rng.random() < 0.7 else _size(rng)
        x, y = centre + shift + rng.uniform(-0.02, 0.02, 2)
        radius = float(rng.uniform(*_PAIR_RADIUS[size]))
        made.append(Thing(name=shape, colour=colour, size=size, x=float(x), y=float(y), radius=radius))
    return made[0], made[1]


def _inside(rng: np.random.Generator, background: str) -> tuple[Thing, Thing]:
    shape, colour = _kind(rng, background)
    outer = _pick(rng, tuple(c for c in COLOURS if c not in (background, colour)))
    x, y = (float(v) for v in 0.5 + rng.uniform(-0.04, 0.04, 2))
    radius = float(rng.uniform(0.35, 0.4))
    around = Thing(name=_pick(rng, SHAPES), colour=outer, x=x, y=y, radius=radius)
    radius *= float(rng.uniform(0.31, 0.36))
    y += _MIDDLE.get(around.name, 0) * around.radius - _MIDDLE.get(shape, 0) * radius
    return Thing(name=shape, colour=colour, x=x, y=y, radius=radius), around


def _unlike(rng: np.random.Generator, background: str) -> tuple[Thing, ...]:
    count = int(rng.integers(3, 5))
    things: list[Thing] = []
    shift = rng.uniform(-0.02, 0.02, 2)
    while len(things) < count:
        shape, colour = _kind(rng, background)
        if all((shape, colour) != (thing.name, thing.colour) for thing in things):
            x, y = np.array(_UNLIKE_PLACES[count][len(things)]) + shift + rng.uniform(-0.012, 0.012, 2)
            radius = float(rng.uniform(0.115, 0.13) if count == 3 else rng.uniform(0.14, 0.165))
            things.append(Thing(name=shape, colour=colour, x=float(x), y=float(y), radius=radius))
    return tuple(things)


def _kind(rng: np.random.Generator, background: str) -> tuple[str, str]:
    return _pick(rng, SHAPES), _pick(rng, tuple(c for c in COLOURS if c != background))


def _size(rng: np.random.Generator) -> Size:
    sizes: tuple[Size, ...] = ("small", "medium", "large")
    return sizes[rng.choice(3, p=(0.25, 0.5, 0.25))]


def _pick(rng: np.random.Generator, names: tuple[str, ...]) -> str:
    return names[rng.integers(len(names))]


# --- picture ----------------------------------------------------------------------------------------------------------


def paint(scene: Scene, size: int) -> Image.Image:
    pen = Pen(size, PALETTE[scene.background], supersample=4)
    # what is inside another thing is drawn over it
    for thing in reversed(scene.things) if scene.relation == "inside" else scene.things:
        outline = OUTLINES[thing.name]
        pen.polygon(
            [(thing.x + thing.radius * x, thing.y + thing.radius * y) for x, y in outline], PALETTE[thing.colour]
        )
    return pen.finish()


# --- words ------------------------------------------------------------------------------------------------------------

_RELATIONS_EN: Final[dict[Relation, tuple[str, ...]]] = {
    "left": ("to the left of", "left of"),
    "right": ("to the right of", "right of"),
    "above": ("above",),
    "below": ("below", "under"),
    "inside": ("inside",),
}
_RELATIONS_ES: Final[dict[Relation, tuple[str, ...]]] = {
    "left": ("a la izquierda de",),
    "right": ("a la derecha de",),
    "above": ("encima de", "por encima de"),
    "below": ("debajo de", "por debajo de"),
    "inside": ("dentro de",),
}


def english(scene: Scene) -> Iterator[str]:
    place = f"on {a(scene.background)} background"
    for subject in _subjects_en(scene):
        yield f"{subject} {place}"
        yield f"{subject}, {scene.background} background"
        yield f"a drawing of {subject} {place}"
        yield f"{a(scene.background)} background with {subject}"
        if scene.background == "white":
            yield subject
            yield f"a picture of {subject}"
    if len(scene.things) == 1:
        name = _name(scene.things[0])
        yield f"{name} {place}"
        yield f"{name}, {scene.background} background"
        if scene.background == "white":
            yield name


def spanish(scene: Scene) -> Iterator[str]:
    background = COLOURS_ES[scene.background][0]
    for subject in _subjects_es(scene):
        yield f"{subject} sobre fondo {background}"
        yield f"{subject} sobre un fondo {background}"
        yield f"{subject}, fondo {background}"
        yield f"un dibujo de {subject} sobre fondo {background}"
        if scene.background == "white":
            yield subject
            yield f"una imagen de {subject}"
    if len(scene.things) == 1:
        for name in _nombres(scene.things[0]):
            bare = name.split(" ", 1)[1]
            yield f"{bare} sobre fondo {background}"
            yield f"{bare}, fondo {background}"
            if scene.background == "white":
                yield bare


def _subjects_en(scene: Scene) -> Iterator[str]:
    first = scene.things[0]
    if scene.relation is not None:
        one, other = scene.things
        for words in _RELATIONS_EN[scene.relation]:
            yield f"{a(_name(one))} {words} {a(_name(other))}"
    elif len(scene.things) == 1:
        yield a(_name(first))
        yield f"one {_name(first)}"
    elif _alike(scene):
        yield from some(len(scene.things), first.name, first.colour)
    else:
        yield listed([a(_name(thing)) for thing in scene.things], "and")


def _subjects_es(scene: Scene) -> Iterator[str]:
    first = scene.things[0]
    if scene.relation is not None:
        one, other = scene.things
        for before, words, after in product(_nombres(one), _RELATIONS_ES[scene.relation], _nombres(other)):
            yield f"{before} {words} {after}"
    elif len(scene.things) == 1:
        yield from _nombres(first)
    elif _alike(scene):
        yield from algunos(len(scene.things), first.name, first.colour)
    else:
        yield listed([_nombres(thing)[0] for thing in scene.things], "y")


def _alike(scene: Scene) -> bool:
    return len({(thing.name, thing.colour) for thing in scene.things}) == 1


def _name(thing: Thing) -> str:
    size = "" if thing.size == "medium" else f"{thing.size} "
    return f"{size}{thing.colour} {thing.name}"


def _nombres(thing: Thing) -> tuple[str, ...]:
    return un_thing(thing.name, thing.colour, thing.size)
