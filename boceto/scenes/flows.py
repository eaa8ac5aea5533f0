"""Blockchains and data flow: chains of blocks, transactions into a block, steps one after the other.

Everything has the scheme's colour but for a tampered block, which is red, and transactions, which have their own.
"""

from collections.abc import Iterator, Sequence
from itertools import pairwise, product
from typing import Final

import numpy as np
from PIL import Image

from boceto.scenes.description import Link, Scene, Thing
from boceto.scenes.icons import WHITE, badge, cube
from boceto.scenes.kit import GROUNDS, MIST, PALETTE, SCHEMES, STEEL, Pen, mix
from boceto.scenes.language import NUMBERS_EN, NUMBERS_ES, a, algunos, some, style_en, style_es, un
from boceto.scenes.networks import join

KINDS: Final = ("chain", "transactions", "steps", "pipeline", "into")
_ODDS: Final = (0.32, 0.2, 0.2, 0.16, 0.12)
SOURCES: Final = ("database", "server", "cloud", "laptop", "phone", "user")
SINKS: Final = ("database", "cloud", "server")


def sample(rng: np.random.Generator) -> Scene:
    kind = KINDS[rng.choice(len(KINDS), p=_ODDS)]
    scheme = SCHEMES[rng.integers(len(SCHEMES))]
    background = "black" if rng.random() < 0.3 else "white"
    links: tuple[Link, ...] | None = None
    if kind == "chain":
        things = [_at("block", scheme, place) for place in _chain(int(rng.integers(2, 7)))]
        if len(things) > 2 and rng.random() < 0.35:
            i = int(rng.integers(len(things)))
            things[i] = _at("block", "red", (things[i].x, things[i].y, things[i].radius))
    elif kind == "transactions":
        count = int(rng.integers(2, 5))
        colour = _pick(rng, tuple(c for c in (*SCHEMES, "gray") if c != scheme))
        gap = {2: 0.36, 3: 0.29, 4: 0.235}[count]
        places = [(0.18, 0.5 + gap * (i - (count - 1) / 2), 0.1) for i in range(count)]
        things = [_at("block", scheme, (0.74, 0.5, 0.2)), *(_at("transaction", colour, place) for place in places)]
        links = tuple(Link(start=i, end=0) for i in range(1, count + 1))
    elif kind == "steps":
        count = int(rng.integers(2, 6))
        gap = {2: 0.38, 3: 0.3, 4: 0.235, 5: 0.187}[count]
        radius = {2: 0.1, 3: 0.09, 4: 0.07, 5: 0.055}[count]
        things = [_at("step", scheme, (0.5, 0.5 + gap * (i - (count - 1) / 2), radius)) for i in range(count)]
    elif kind == "pipeline":
        ends, count = _pick(rng, SOURCES), int(rng.integers(1, 3))
        names = [ends, *["step"] * count, _pick(rng, tuple(sink for sink in SINKS if sink != ends))]
        radius, gap = {3: (0.115, 0.335), 4: (0.088, 0.26)}[len(names)]
        things = [_at(name, scheme, (0.5 + gap * (i - (count + 1) / 2), 0.5, radius)) for i, name in enumerate(names)]
    else:
        things = [
            _at(_pick(rng, SOURCES), scheme, (0.5, 0.25, 0.13)),
            *(_at("block", scheme, (x, 0.72, 0.11)) for x in (0.17, 0.5, 0.83)),
        ]
        links = (Link(start=0, end=2), Link(start=1, end=2), Link(start=2, end=3))
    dx, dy = rng.uniform(-0.02, 0.02, 2)
    moved = tuple(_at(t.name, t.colour, (t.x + float(dx), t.y + float(dy), t.radius)) for t in things)
    if links is None:
        links = tuple(Link(start=i, end=j) for i, j in pairwise(range(len(moved))))
    return Scene(family="flows", kind=kind, background=background, things=moved, links=links, scheme=scheme)


def combinations(scene: Scene) -> frozenset[str]:
    """How many of what in which colour, on which background."""
    what = " ".join(f"{thing.name} {thing.colour}" for thing in sorted(scene.things, key=lambda t: (t.name, t.colour)))
    return frozenset({f"flows {scene.kind} {what} on {scene.background}"})


def paint(scene: Scene, size: int) -> Image.Image:
    pen = Pen(size, GROUNDS[scene.background])
    line = STEEL if scene.background == "white" else mix(MIST, STEEL, 0.6)
    for link in scene.links:
        join(pen, _reach(scene.things[link.start]), _reach(scene.things[link.end]), line, arrow=True, width=0.015)
    for thing in scene.things:
        x, y, radius = thing.x, thing.y, thing.radius
        if thing.name == "block":
            cube(pen, PALETTE[thing.colour], x, y, radius)
        elif thing.name == "step" and scene.kind == "steps":
            _bar(pen, thing)
        elif thing.name == "step":
            _card(pen, thing)
        else:
            badge(pen, "document" if thing.name == "transaction" else thing.name, thing.colour, x, y, radius)
    return pen.finish()


def _reach(thing: Thing) -> Thing:
    """The thing as large as an arrow should keep away from it."""
    radius = thing.radius * (0.92 if thing.name == "block" else 1.0)
    return _at(thing.name, thing.colour, (thing.x, thing.y, radius))


def _bar(pen: Pen, step: Thing) -> None:
    x, y, half = step.x, step.y, step.radius
    pen.box(x - 0.33, y - half, x + 0.33, y + half, PALETTE[step.colour], 0.4 * half)
    pen.disc(x - 0.24, y, 0.42 * half, WHITE)
    pen.box(x - 0.14, y - 0.14 * half, x + 0.24, y + 0.14 * half, WHITE, 0.1 * half)


def _card(pen: Pen, step: Thing) -> None:
    at = pen.at(step.x, step.y, step.radius)
    at.box(-1, -0.72, 1, 0.72, PALETTE[step.colour], 0.24)
    for y, right in ((-0.26, 0.6), (0.26, 0.2)):
        at.box(-0.6, y - 0.11, right, y + 0.11, WHITE, 0.1)


def _chain(count: int) -> list[tuple[float, float, float]]:
    """Places and radius of a chain's blocks: in a row, or from four on in two, the second of which turns back."""
    if count < 4:
        gap, radius = {2: (0.46, 0.18), 3: (0.325, 0.125)}[count]
        return [(0.5 + gap * (i - (count - 1) / 2), 0.5, radius) for i in range(count)]
    if count == 4:
        return [(x, y, 0.16) for x, y in ((0.27, 0.28), (0.73, 0.28), (0.73, 0.72), (0.27, 0.72))]
    upper = [(x, 0.29, 0.115) for x in (0.18, 0.5, 0.82)]
    return upper + [(x, 0.71, 0.115) for x in (0.82, 0.5, 0.18)[: count - 3]]


def _at(name: str, colour: str, place: tuple[float, float, float]) -> Thing:
    x, y, radius = place
    return Thing(name=name, colour=colour, x=x, y=y, radius=radius)


def _pick(rng: np.random.Generator, names: Sequence[str]) -> str:
    return names[rng.integers(len(names))]


# --- words ------------------------------------------------------------------------------------------------------------


def english(scene: Scene) -> Iterator[str]:
    for subject, style in product(_subjects_en(scene), style_en(scene.scheme, scene.background)):
        yield subject + style


def spanish(scene: Scene) -> Iterator[str]:
    for subject, style in product(_subjects_es(scene), style_es(scene.scheme, scene.background)):
        yield subject + style


def _subjects_en(scene: Scene) -> Iterator[str]:
    blocks, steps = len(scene.named("block")), len(scene.named("step"))
    first, last = scene.things[0], scene.things[-1]
    match scene.kind:
        case "chain":
            bad = any(thing.colour == "red" for thing in scene.things)
            for count in some(blocks, "block"):
                for end in (", one tampered block in red", ", one of them red") if bad else ("",):
                    yield f"a blockchain of {count}{end}"
                    yield f"a chain of {count} joined by arrows{end}"
                    yield f"{count} in a chain{end}"
        case "transactions":
            for count in some(len(scene.things) - 1, "transaction", last.colour):
                yield f"{count} going into a block"
                yield f"{count} added to a block of a blockchain"
        case "steps":
            for number in NUMBERS_EN[steps]:
                yield f"a data-flow diagram of {number} steps"
                yield f"a flow chart with {number} steps"
                yield f"{number} steps joined by arrows"
        case "pipeline":
            for count in some(steps, "step"):
                yield f"a data flow from {a(first.name)} through {count} to {a(last.name)}"
                yield f"{a(first.name)}, {count} and {a(last.name)} joined by arrows"
        case "into":
            yield f"a data flow from {a(first.name)} into a blockchain"
            yield f"a data-flow diagram of a blockchain fed by {a(first.name)}"
            yield f"{a(first.name)} writing to a blockchain"


def _subjects_es(scene: Scene) -> Iterator[str]:
    blocks, steps = len(scene.named("block")), len(scene.named("step"))
    first, last = scene.things[0], scene.things[-1]
    match scene.kind:
        case "chain":
            bad = any(thing.colour == "red" for thing in scene.things)
            for count in algunos(blocks, "block"):
                for end in (", un bloque manipulado en rojo", ", uno de ellos rojo") if bad else ("",):
                    yield f"una blockchain de {count}{end}"
                    yield f"una cadena de {count} unidos por flechas{end}"
                    yield f"una cadena de bloques con {count}{end}"
        case "transactions":
            for count in algunos(len(scene.things) - 1, "transaction", last.colour):
                yield f"{count} entrando en un bloque"
                yield f"{count} añadidas a un bloque de una blockchain"
        case "steps":
            for number in NUMBERS_ES[steps]:
                yield f"un diagrama de flujo de datos de {number} pasos"
                yield f"un diagrama de flujo con {number} pasos"
                yield f"{number} pasos unidos por flechas"
        case "pipeline":
            for count in algunos(steps, "step"):
                yield f"un flujo de datos de {un(first.name)} por {count} a {un(last.name)}"
                yield f"{un(first.name)}, {count} y {un(last.name)} unidos por flechas"
        case "into":
            yield f"un diagrama de flujo de datos en blockchain desde {un(first.name)}"
            yield f"un flujo de datos de {un(first.name)} a una blockchain"
            yield f"{un(first.name)} escribiendo en una blockchain"
