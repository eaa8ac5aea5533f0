"""Network and security diagrams: badges joined by links and arrows.

Every badge has the scheme's colour but for three: a firewall is orange; attackers, bots and whatever is compromised are
red. Things stand from left to right in the order in which they are named; where several hang on one, it is in the
middle.
"""

import math
from collections.abc import Iterator, Sequence
from itertools import product
from typing import Final

import numpy as np
from PIL import Image

from boceto.scenes.description import Link, Scene, Thing
from boceto.scenes.icons import badge
from boceto.scenes.kit import GROUNDS, MIST, PALETTE, STEEL, Pen, mix
from boceto.scenes.language import (
    NOUNS_ES,
    a,
    algunos,
    conectado,
    listed,
    some,
    style_en,
    style_es,
    un,
)

SCHEMES: Final = ("blue", "green", "purple", "gray")
DEVICES: Final = ("server", "laptop", "phone", "router", "switch", "database", "cloud", "user")
HUBS: Final = ("switch", "router", "server", "cloud")
ENDS: Final = ("laptop", "phone", "server", "user", "database")
TARGETS: Final = ("server", "database", "router", "cloud", "laptop")
ICONS: Final = (*DEVICES, "firewall", "attacker", "bot")
KINDS: Final = ("alone", "link", "firewall", "row", "hub", "ddos", "attack")
_ODDS: Final = (0.16, 0.2, 0.16, 0.12, 0.16, 0.1, 0.1)


def sample(rng: np.random.Generator) -> Scene:
    kind = KINDS[rng.choice(len(KINDS), p=_ODDS)]
    scheme = _pick(rng, SCHEMES)
    background = "black" if rng.random() < 0.3 else "white"
    links: tuple[Link, ...]
    if kind == "alone":
        names, links = [_pick(rng, ICONS)], ()
    elif kind == "link":
        names, links = _different(rng, DEVICES, 2), (Link(start=0, end=1, arrow=bool(rng.random() < 0.5)),)
    elif kind == "firewall":
        one, other = _different(rng, DEVICES, 2)
        names, links = [_pick(rng, (one, "attacker", "cloud")), "firewall", other], _row_links(3)
        if names[0] == other:
            names[0] = one
    elif kind == "row":
        names, links = _different(rng, DEVICES, 3), _row_links(3)
    elif kind == "hub":
        hub, end = _pick(rng, HUBS), _pick(rng, ENDS)
        end = "laptop" if end == hub else end
        names = [hub, *[end] * int(rng.integers(3, 6))]
        links = tuple(Link(start=i, end=0, arrow=False) for i in range(1, len(names)))
    elif kind == "ddos":
        names = [_pick(rng, TARGETS), *["bot"] * int(rng.integers(6, 9))]
        links = tuple(Link(start=i, end=0) for i in range(1, len(names)))
    else:
        names, links = ["attacker", _pick(rng, TARGETS)], (Link(start=0, end=1),)
    colours = [_colour(name, scheme) for name in names]
    if kind in ("link", "row", "hub") and rng.random() < 0.35:
        colours[int(rng.integers(1 if kind == "hub" else 0, len(names)))] = "red"
    places, radii = _layout(kind, len(names))
    centre = rng.uniform(-0.02, 0.02, 2)
    jitter = rng.uniform(-0.008, 0.008, (len(names), 2))
    things = tuple(
        Thing(name=name, colour=colour, x=float(x), y=float(y), radius=radius)
        for name, colour, (x, y), radius in zip(names, colours, np.array(places) + centre + jitter, radii, strict=True)
    )
    return Scene(family="networks", kind=kind, background=background, things=things, links=links, scheme=scheme)


def combinations(scene: Scene) -> frozenset[str]:
    """Who with whom, in which colours; and the same on which background."""
    names = [thing.name for thing in scene.things]
    who = names[0] if scene.kind == "ddos" else " ".join(names)
    hurt = " hurt" if _hurt(scene) is not None else ""
    return frozenset(
        {f"networks {scene.kind} {who} {scene.scheme}{hurt}", f"networks {scene.kind} {who} on {scene.background}"}
    )


def paint(scene: Scene, size: int) -> Image.Image:
    ground = GROUNDS[scene.background]
    pen = Pen(size, ground)
    for link in scene.links:
        one, other = scene.things[link.start], scene.things[link.end]
        hostile = one.name in ("attacker", "bot")
        join(pen, one, other, mix(PALETTE["red"], ground, 0.25) if hostile else _line(scene), arrow=link.arrow)
    for thing in scene.things:
        badge(pen, thing.name, thing.colour, thing.x, thing.y, thing.radius)
    return pen.finish()


def join(
    pen: Pen, one: Thing, other: Thing, colour: tuple[int, int, int], *, arrow: bool, width: float = 0.016
) -> None:
    """A line from the edge of one thing to the edge of another."""
    dx, dy = other.x - one.x, other.y - one.y
    length = math.hypot(dx, dy)
    dx, dy = dx / length, dy / length
    # how far a square's edge is in that direction; a disc's would be the radius
    edges = [t.radius if t.name == "bot" else t.radius / max(abs(dx), abs(dy)) for t in (one, other)]
    leave, arrive = (edge + 0.028 for edge in edges)
    start = (one.x + dx * leave, one.y + dy * leave)
    end = (other.x - dx * arrive, other.y - dy * arrive)
    if arrow:
        pen.arrow(start, end, colour, width)
    else:
        pen.line((start, end), colour, width)


def _line(scene: Scene) -> tuple[int, int, int]:
    return STEEL if scene.background == "white" else mix(MIST, STEEL, 0.6)


def _layout(kind: str, count: int) -> tuple[list[tuple[float, float]], list[float]]:
    """Places and radii."""
    if kind in ("hub", "ddos"):
        turn = 45 if count == 5 else -90
        angles = [math.radians(turn + 360 * i / (count - 1)) for i in range(count - 1)]
        reach, centre, outer = (0.37, 0.13, 0.1) if kind == "hub" else (0.385, 0.14, 0.078)
        places = [(0.5 + reach * math.cos(angle), 0.5 + reach * math.sin(angle)) for angle in angles]
        return [(0.5, 0.5), *places], [centre, *[outer] * (count - 1)]
    radius = {1: 0.3, 2: 0.18, 3: 0.12}[count]
    xs = {1: (0.5,), 2: (0.25, 0.75), 3: (0.16, 0.5, 0.84)}[count]
    return [(x, 0.5) for x in xs], [radius] * count


def _row_links(count: int) -> tuple[Link, ...]:
    return tuple(Link(start=i, end=i + 1, arrow=False) for i in range(count - 1))


def _colour(name: str, scheme: str) -> str:
    return "red" if name in ("attacker", "bot") else "orange" if name == "firewall" else scheme


def _hurt(scene: Scene) -> Thing | None:
    """The compromised thing, if there is one."""
    return next((t for t in scene.things if t.colour == "red" and t.name in DEVICES), None)


def _different(rng: np.random.Generator, names: Sequence[str], count: int) -> list[str]:
    return [names[i] for i in rng.permutation(len(names))[:count]]


def _pick(rng: np.random.Generator, names: Sequence[str]) -> str:
    return names[rng.integers(len(names))]


# --- words ------------------------------------------------------------------------------------------------------------


def english(scene: Scene) -> Iterator[str]:
    before = ("", "an icon of ") if scene.kind == "alone" else ("", "a network diagram: ")
    for subject, start, style in product(_subjects_en(scene), before, style_en(scene.scheme, scene.background)):
        yield start + subject + style


def spanish(scene: Scene) -> Iterator[str]:
    before = ("", "un icono de ") if scene.kind == "alone" else ("", "un diagrama de red: ")
    for subject, start, style in product(_subjects_es(scene), before, style_es(scene.scheme, scene.background)):
        yield start + subject + style


def _subjects_en(scene: Scene) -> Iterator[str]:
    first, *others = (
        a(f"compromised {thing.name} in red") if thing is _hurt(scene) else a(thing.name) for thing in scene.things
    )
    count = len(others)
    match scene.kind:
        case "alone":
            yield first
        case "link" if scene.links[0].arrow:
            yield f"{first} sending data to {others[0]}"
            yield f"an arrow from {first} to {others[0]}"
        case "link":
            yield f"{first} connected to {others[0]}"
            yield f"{first} linked to {others[0]}"
        case "firewall":
            yield f"a firewall between {first} and {others[1]}"
            yield f"{first}, a firewall and {others[1]}"
        case "row":
            yield f"{listed([first, *others], 'and')} connected in a row"
            yield f"{first} connected to {others[0]} connected to {others[1]}"
        case "hub":
            end = scene.things[1].name
            for number in some(count, end):
                if _hurt(scene) is None:
                    yield f"{number} connected to {first}"
                    yield f"{first} with {number}"
                else:
                    yield f"{number} connected to {first}, one of them compromised in red"
                    yield f"{first} with {number}, one compromised {end} in red"
        case "ddos":
            yield f"a DDoS attack: many red bots sending traffic to {first}"
            yield f"a DDoS attack on {first}"
            yield f"many red bots attacking {first}"
            yield f"a botnet of red bots around {first}"
        case "attack":
            yield f"an attacker attacking {others[0]}"
            yield f"an attack by an attacker on {others[0]}"
            yield f"a red attacker and {others[0]}, an arrow from the attacker"


def _subjects_es(scene: Scene) -> Iterator[str]:
    first, *others = (
        f"{un(thing.name)} {conectado(thing.name, 'comprometido')} en rojo" if thing is _hurt(scene) else un(thing.name)
        for thing in scene.things
    )
    name, count = scene.things[0].name, len(others)
    match scene.kind:
        case "alone":
            yield first
        case "link" if scene.links[0].arrow:
            yield f"{first} enviando datos a {others[0]}"
            yield f"una flecha de {first} a {others[0]}"
        case "link":
            yield f"{first} {conectado(name)} a {others[0]}"
            yield f"{first} {conectado(name, 'enlazado')} con {others[0]}"
        case "firewall":
            yield f"un cortafuegos entre {first} y {others[1]}"
            yield f"{first}, un cortafuegos y {others[1]}"
        case "row":
            yield f"{listed([first, *others], 'y')} conectados en fila"
            yield f"{first} {conectado(name)} a {others[0]} {conectado(scene.things[1].name)} a {others[1]}"
        case "hub":
            end = scene.things[1].name
            one = "una" if NOUNS_ES[end][2] else "uno"
            for number in algunos(count, end):
                if _hurt(scene) is None:
                    yield f"{number} {conectado(end, count=2)} a {first}"
                    yield f"{first} con {number}"
                else:
                    hurt = conectado(end, "comprometido")
                    yield f"{number} {conectado(end, count=2)} a {first}, {one} {hurt} en rojo"
                    yield f"{first} con {number}, {un(end)} {hurt} en rojo"
        case "ddos":
            yield f"un ataque DDoS: muchos bots rojos enviando tráfico a {first}"
            yield f"un ataque DDoS contra {first}"
            yield f"muchos bots rojos atacando {first}"
            yield f"una botnet de bots rojos alrededor de {first}"
        case "attack":
            yield f"un atacante atacando {others[0]}"
            yield f"un ataque de un atacante contra {others[0]}"
            yield f"un atacante rojo y {others[0]}, una flecha desde el atacante"
