"""Diagrams: nodes (badges, blocks, steps) are what is left when thin lines are worn away; links are those lines."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from PIL import Image

from boceto.look.pixels import Mask, distances, eroded, filled, ground_of, grown, near, parts, pixels_of
from boceto.scenes import COLOURS, Scene
from boceto.scenes.kit import RGB

SIDE: Final = 256
WEAR: Final = 3
"""Pixels by which everything is worn away: lines are thinner than twice that, nodes are thicker."""


@dataclass(frozen=True, kw_only=True)
class Node:
    """A node in a picture: its colour, its middle and half its longer side, as fractions of the side."""

    colour: str
    x: float
    y: float
    radius: float


@dataclass(frozen=True, kw_only=True)
class Diagram:
    """What a diagram shows; nodes from left to right."""

    background: str
    nodes: tuple[Node, ...]
    links: int


def look_at_diagram(picture: Image.Image) -> Diagram:
    pixels = pixels_of(picture, SIDE)
    ground = ground_of(pixels)
    r, g, b = (round(float(v)) for v in ground)
    colour: RGB = (r, g, b)
    drawn = filled(~near(pixels, colour, 40))
    solid = parts(eroded(drawn, WEAR), 0.004)
    nearest = distances(pixels).argmin(-1)
    covered = grown(np.any(solid, axis=0), WEAR + 2) if solid else np.zeros_like(drawn)
    links = parts(drawn & ~covered, 0.0002)
    nodes = sorted((_node(part, nearest) for part in solid), key=lambda node: node.x)
    background = "white" if float(ground.mean()) > 128 else "black"
    return Diagram(background=background, nodes=tuple(nodes), links=len(links))


def _node(part: Mask, nearest: np.ndarray) -> Node:
    votes = np.bincount(nearest[part], minlength=len(COLOURS))
    votes[[COLOURS.index("white"), COLOURS.index("black")]] = 0  # glyphs and shades
    rows, columns = np.nonzero(part)
    left, right, top, bottom = columns.min(), columns.max() + 1, rows.min(), rows.max() + 1
    return Node(
        colour=COLOURS[int(votes.argmax())],
        x=float(left + right) / 2 / SIDE,
        y=float(top + bottom) / 2 / SIDE,
        radius=float(max(right - left, bottom - top) / 2 + WEAR) / SIDE,
    )


def score_network(picture: Image.Image, scene: Scene) -> dict[str, bool]:
    """`count` of nodes and `links` of lines (a DDoS attack needs five bots or more), `colour`, and who is where."""
    seen = look_at_diagram(picture)
    wanted = Counter(thing.colour for thing in scene.things)
    colours = Counter(node.colour for node in seen.nodes)
    others = [node for node in seen.nodes if node.colour != "red"]
    if scene.kind == "ddos":
        bots = [node for node in seen.nodes if node.colour == "red"]
        return {
            "background": seen.background == scene.background,
            "colour": [node.colour for node in others] == [scene.scheme],
            "count": len(bots) >= 5,
            "links": seen.links >= 5,
            "relation": bool(bots and others) and _surrounded(others[0], bots),
        }
    marks = {
        "background": seen.background == scene.background,
        "colour": colours == wanted,
        "count": len(seen.nodes) == len(scene.things),
        "links": seen.links == len(scene.links),
    }
    if scene.kind == "firewall":
        marks["relation"] = len(seen.nodes) == 3 and seen.nodes[1].colour == "orange"
    elif scene.kind == "attack":
        marks["relation"] = len(seen.nodes) == 2 and seen.nodes[0].colour == "red"
    elif scene.kind == "hub":
        inner = min(seen.nodes, key=lambda node: abs(node.x - 0.5) + abs(node.y - 0.5), default=None)
        marks["relation"] = inner is not None and _surrounded(inner, [n for n in seen.nodes if n is not inner])
    return marks


def _surrounded(inner: Node, outer: Sequence[Node]) -> bool:
    """Does one node stand in the middle of the others?"""
    x, y = [node.x for node in outer], [node.y for node in outer]
    return bool(outer) and min(x) < inner.x < max(x) and min(y) < inner.y < max(y)


def score_flow(picture: Image.Image, scene: Scene) -> dict[str, bool]:
    """`count` of blocks, steps and the rest, `links` of arrows where they are long, `colour`, and what goes into what."""
    seen = look_at_diagram(picture)
    marks = {
        "background": seen.background == scene.background,
        "colour": Counter(node.colour for node in seen.nodes) == Counter(thing.colour for thing in scene.things),
        "count": len(seen.nodes) == len(scene.things),
    }
    if scene.kind not in ("steps", "pipeline"):  # whose arrows are too short to be told from the nodes
        marks["links"] = seen.links == len(scene.links)
    if scene.kind == "transactions":
        *cards, block = seen.nodes or [None]
        marks["relation"] = block is not None and all(card and card.radius < 0.8 * block.radius for card in cards)
    elif scene.kind == "steps":
        marks["relation"] = max((abs(node.x - 0.5) for node in seen.nodes), default=1.0) < 0.1
    elif scene.kind == "into":
        top = min(seen.nodes, key=lambda node: node.y, default=None)
        marks["relation"] = top is not None and all(node is top or node.y > top.y + 0.2 for node in seen.nodes)
    return marks
