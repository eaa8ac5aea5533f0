"""The pictures boceto learns from: coloured shapes on plain backgrounds, and what English and Spanish call them.

A :class:`Scene` says everything about a picture: what a caption may mention (shapes, colours, size words, count,
relation, background) and the exact layout. So ``render`` and ``captions`` are pure functions of it.

Conventions that the captions rely on:

* a thing without a size word is of medium size; "small" and "large" are always said when they hold;
* a caption that names no background belongs to a picture with a white one;
* counted things stand in a row (2), one above two (3) or two above two (4).

About five per cent of the combinations (shape, colour, background) and (shape, colour, relation) are held out: they
never appear in training and are what the model is judged on. See :func:`held_out`.
"""

import hashlib
import math
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from typing import Final, Literal

import numpy as np
from PIL import Image, ImageDraw

Size = Literal["small", "medium", "large"]
Relation = Literal["left", "right", "above", "below"]
Language = Literal["en", "es"]

PALETTE: Final[dict[str, tuple[int, int, int]]] = {
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
RELATIONS: Final[tuple[Relation, ...]] = ("left", "right", "above", "below")
CONVERSE: Final[dict[Relation, Relation]] = {"left": "right", "right": "left", "above": "below", "below": "above"}


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


@dataclass(frozen=True, kw_only=True)
class Thing:
    """One shape: what it is, and where. `x`, `y` (centre) and `radius` are fractions of the picture's side."""

    shape: str
    colour: str
    size: Size = "medium"
    x: float
    y: float
    radius: float


@dataclass(frozen=True, kw_only=True)
class Scene:
    """A picture's whole content. One thing alone; two to four alike (a count); or two things in a `relation`."""

    background: str
    things: tuple[Thing, ...]
    relation: Relation | None = None


@dataclass(frozen=True, kw_only=True)
class Caption:
    """One way to say a scene."""

    language: Language
    text: str


# --- drawing scenes at random -----------------------------------------------------------------------------------------

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
}
# Where the first thing of a pair stands; the second stands opposite.
_PAIR_PLACE: Final[dict[Relation, tuple[float, float]]] = {
    "left": (0.26, 0.5),
    "right": (0.74, 0.5),
    "above": (0.5, 0.26),
    "below": (0.5, 0.74),
}


def sample_scene(rng: np.random.Generator, *, holdout: bool = False) -> Scene:
    """A scene at random: of the training combinations, or with `holdout` of those held out from training."""
    while held_out(scene := _any_scene(rng)) != holdout:
        pass
    return scene


def combinations(scene: Scene) -> frozenset[str]:
    """The combinations of attributes a scene shows: each thing with the background, and with its relation."""
    found = {f"{thing.shape} {thing.colour} on {scene.background}" for thing in scene.things}
    if scene.relation is not None:
        for thing, relation in zip(scene.things, (scene.relation, CONVERSE[scene.relation]), strict=True):
            found.add(f"{thing.shape} {thing.colour} {relation}")
    return frozenset(found)


def held_out(scene: Scene) -> bool:
    """True when the scene shows a combination that training must never see (a fixed hash: 13 in 256)."""
    return any(hashlib.sha256(name.encode()).digest()[0] < 13 for name in combinations(scene))


def _any_scene(rng: np.random.Generator) -> Scene:
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
    shape, colour = _look(rng, background)
    return Thing(shape=shape, colour=colour, size=size, x=float(x), y=float(y), radius=float(radius))


def _counted(rng: np.random.Generator, background: str) -> tuple[Thing, ...]:
    shape, colour = _look(rng, background)
    radius = float(rng.uniform(0.13, 0.165))
    places = np.array(_COUNT_PLACES[int(rng.integers(2, 5))])
    places = places + rng.uniform(-0.03, 0.03, 2) + rng.uniform(-0.015, 0.015, places.shape)
    return tuple(Thing(shape=shape, colour=colour, x=float(x), y=float(y), radius=radius) for x, y in places)


def _pair(rng: np.random.Generator, background: str, relation: Relation) -> tuple[Thing, Thing]:
    first = _look(rng, background)
    while (second := _look(rng, background)) == first:
        pass
    place = np.array(_PAIR_PLACE[relation])
    shift = rng.uniform(-0.03, 0.03, 2)
    made = []
    for (shape, colour), centre in ((first, place), (second, 1 - place)):
        size: Size = "medium" if rng.random() < 0.7 else _size(rng)
        x, y = centre + shift + rng.uniform(-0.02, 0.02, 2)
        radius = float(rng.uniform(*_PAIR_RADIUS[size]))
        made.append(Thing(shape=shape, colour=colour, size=size, x=float(x), y=float(y), radius=radius))
    return made[0], made[1]


def _look(rng: np.random.Generator, background: str) -> tuple[str, str]:
    return _pick(rng, SHAPES), _pick(rng, tuple(c for c in COLOURS if c != background))


def _size(rng: np.random.Generator) -> Size:
    sizes: tuple[Size, ...] = ("small", "medium", "large")
    return sizes[rng.choice(3, p=(0.25, 0.5, 0.25))]


def _pick(rng: np.random.Generator, names: tuple[str, ...]) -> str:
    return names[rng.integers(len(names))]


# --- pictures ---------------------------------------------------------------------------------------------------------


def render(scene: Scene, size: int = 128, *, supersample: int = 4) -> Image.Image:
    """The scene as an RGB picture of `size` x `size` pixels, antialiased by drawing `supersample` times as large."""
    side = size * supersample
    picture = Image.new("RGB", (side, side), PALETTE[scene.background])
    draw = ImageDraw.Draw(picture)
    for thing in scene.things:
        corners = [
            ((thing.x + thing.radius * dx) * side, (thing.y + thing.radius * dy) * side)
            for dx, dy in OUTLINES[thing.shape]
        ]
        draw.polygon(corners, fill=PALETTE[thing.colour])
    return picture.reduce(supersample)


# --- captions ---------------------------------------------------------------------------------------------------------

_PLURAL_EN: Final = {shape: shape + ("es" if shape == "cross" else "s") for shape in SHAPES}
_NUMBERS_EN: Final = {2: ("two", "2"), 3: ("three", "3"), 4: ("four", "4")}
_RELATIONS_EN: Final[dict[Relation, tuple[str, ...]]] = {
    "left": ("to the left of", "left of"),
    "right": ("to the right of", "right of"),
    "above": ("above",),
    "below": ("below", "under"),
}

# shape -> (singular, plural, feminine)
_SHAPES_ES: Final = {
    "circle": ("círculo", "círculos", False),
    "square": ("cuadrado", "cuadrados", False),
    "triangle": ("triángulo", "triángulos", False),
    "star": ("estrella", "estrellas", True),
    "hexagon": ("hexágono", "hexágonos", False),
    "cross": ("cruz", "cruces", True),
}
# (masculine, feminine, masculine plural, feminine plural)
_COLOURS_ES: Final = {
    "red": ("rojo", "roja", "rojos", "rojas"),
    "green": ("verde", "verde", "verdes", "verdes"),
    "blue": ("azul", "azul", "azules", "azules"),
    "yellow": ("amarillo", "amarilla", "amarillos", "amarillas"),
    "orange": ("naranja", "naranja", "naranjas", "naranjas"),
    "purple": ("morado", "morada", "morados", "moradas"),
    "black": ("negro", "negra", "negros", "negras"),
    "white": ("blanco", "blanca", "blancos", "blancas"),
    "gray": ("gris", "gris", "grises", "grises"),
}
_SIZES_ES: Final[dict[Size, tuple[str, str]]] = {"small": ("pequeño", "pequeña"), "large": ("grande", "grande")}
_NUMBERS_ES: Final = {2: ("dos", "2"), 3: ("tres", "3"), 4: ("cuatro", "4")}
_RELATIONS_ES: Final[dict[Relation, tuple[str, ...]]] = {
    "left": ("a la izquierda de",),
    "right": ("a la derecha de",),
    "above": ("encima de", "por encima de"),
    "below": ("debajo de", "por debajo de"),
}


def captions(scene: Scene) -> tuple[Caption, ...]:
    """Every wording of the scene, without repeats. The first of each language is the plainest."""
    english = (Caption(language="en", text=text) for text in _english(scene))
    spanish = (Caption(language="es", text=text) for text in _spanish(scene))
    return tuple(dict.fromkeys((*english, *spanish)))


def _english(scene: Scene) -> Iterator[str]:
    place = f"on {_a(scene.background)} background"
    for subject in _subjects_en(scene):
        yield f"{subject} {place}"
        yield f"{subject}, {scene.background} background"
        yield f"{subject}, {scene.background} background"
        yield f"a drawing of {subject} {place}"
        yield f"{_a(scene.background)} background with {subject}"
        if scene.background == "white":
            yield subject
            yield f"a picture of {subject}"
    if len(scene.things) == 1:
        name = _name_en(scene.things[0])
        yield f"{name} {place}"
        yield f"{name}, {scene.background} background"
        if scene.background == "white":
            yield name


def _subjects_en(scene: Scene) -> Iterator[str]:
    first = scene.things[0]
    if scene.relation is not None:
        one, other = scene.things
        for words in _RELATIONS_EN[scene.relation]:
            yield f"{_a(_name_en(one))} {words} {_a(_name_en(other))}"
    elif len(scene.things) == 1:
        yield _a(_name_en(first))
        yield f"one {_name_en(first)}"
    else:
        for number in _NUMBERS_EN[len(scene.things)]:
            yield f"{number} {first.colour} {_PLURAL_EN[first.shape]}"


def _name_en(thing: Thing) -> str:
    size = "" if thing.size == "medium" else f"{thing.size} "
    return f"{size}{thing.colour} {thing.shape}"


def _a(noun: str) -> str:
    return f"an {noun}" if noun[0] in "aeio" else f"a {noun}"


def _spanish(scene: Scene) -> Iterator[str]:
    for text in _accented(scene):
        yield text
        yield unaccented(text)


def _accented(scene: Scene) -> Iterator[str]:
    background = _COLOURS_ES[scene.background][0]
    for subject in _subjects_es(scene):
        yield f"{subject} sobre fondo {background}"
        yield f"{subject} sobre un fondo {background}"
        yield f"{subject}, fondo {background}"
        yield f"un dibujo de {subject} sobre fondo {background}"
        if scene.background == "white":
            yield subject
            yield f"una imagen de {subject}"
    if len(scene.things) == 1:
        for name in _names_es(scene.things[0]):
            bare = name.split(" ", 1)[1]
            yield f"{bare} sobre fondo {background}"
            yield f"{bare}, fondo {background}"
            if scene.background == "white":
                yield bare


def _subjects_es(scene: Scene) -> Iterator[str]:
    first = scene.things[0]
    if scene.relation is not None:
        for one, words, other in product(
            _names_es(scene.things[0]), _RELATIONS_ES[scene.relation], _names_es(scene.things[1])
        ):
            yield f"{one} {words} {other}"
    elif len(scene.things) == 1:
        yield from _names_es(first)
    else:
        _, plural, feminine = _SHAPES_ES[first.shape]
        for number in _NUMBERS_ES[len(scene.things)]:
            yield f"{number} {plural} {_COLOURS_ES[first.colour][2 + feminine]}"


def _names_es(thing: Thing) -> tuple[str, ...]:
    """The thing with its article: "una estrella roja", and with a size "una estrella roja grande" and its variants."""
    noun, _, feminine = _SHAPES_ES[thing.shape]
    article, colour = ("una" if feminine else "un"), _COLOURS_ES[thing.colour][feminine]
    if thing.size == "medium":
        return (f"{article} {noun} {colour}",)
    size = _SIZES_ES[thing.size][feminine]
    before = "gran" if thing.size == "large" else size
    return (
        f"{article} {noun} {colour} {size}",
        f"{article} {noun} {size} {colour}",
        f"{article} {before} {noun} {colour}",
    )


def unaccented(text: str) -> str:
    """The text without accents, as people often type it; the tilde of ñ stays."""
    kept = (unicodedata.normalize("NFD", char)[0] if char in "áéíóúü" else char for char in text)
    return "".join(kept)
