"""The pictures boceto learns from: families of scenes, and what English and Spanish call them.

A :class:`Scene` says everything about a picture: what a caption may mention and the exact layout. So ``render`` and
``captions`` are pure functions of it, and a scene is a pure function of a seed.

A few per cent of the combinations of attributes are held out: they never appear in training and are what the model is
judged on. See :func:`held_out`.
"""

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
from PIL import Image

from boceto.scenes import cities, dashboards, flows, interfaces, landscapes, networks, shapes
from boceto.scenes.description import RELATIONS, Caption, Language, Link, Relation, Scene, Size, Thing
from boceto.scenes.kit import COLOURS, PALETTE
from boceto.scenes.language import unaccented
from boceto.scenes.shapes import OUTLINES, SHAPES

__all__ = [
    "COLOURS",
    "FAMILIES",
    "OUTLINES",
    "PALETTE",
    "PLAIN",
    "RELATIONS",
    "SHAPES",
    "Caption",
    "Language",
    "Link",
    "Relation",
    "Scene",
    "Size",
    "Thing",
    "captions",
    "combinations",
    "held_out",
    "render",
    "sample_scene",
    "unaccented",
]


@dataclass(frozen=True, kw_only=True)
class Family:
    """What a family of scenes is made of.

    Attributes:
        sample: any scene, held out or not.
        paint: the picture of a scene, of that many pixels a side.
        english: wordings, the plainest first.
        spanish: likewise, with every accent in its place.
        combinations: the combinations of attributes that a scene shows.
        held_out: how many in 256 combinations are held out; more where there are few.
    """

    sample: Callable[[np.random.Generator], Scene]
    paint: Callable[[Scene, int], Image.Image]
    english: Callable[[Scene], Iterator[str]]
    spanish: Callable[[Scene], Iterator[str]]
    combinations: Callable[[Scene], frozenset[str]]
    held_out: int


FAMILIES: Final[dict[str, Family]] = {
    module.__name__.rpartition(".")[2]: Family(
        sample=module.sample,
        paint=module.paint,
        english=module.english,
        spanish=module.spanish,
        combinations=module.combinations,
        held_out=held_out,
    )
    for module, held_out in (
        (shapes, 13),
        (networks, 13),
        (flows, 20),
        (dashboards, 20),
        (cities, 31),
        (landscapes, 26),
        (interfaces, 31),
    )
}
PLAIN: Final = "plain"
"""The world of the first boceto, a part of the shapes; to be sampled only."""
_SAMPLERS: Final = {PLAIN: shapes.sample_plain, **{name: family.sample for name, family in FAMILIES.items()}}


def sample_scene(rng: np.random.Generator, family: str = PLAIN, *, holdout: bool = False) -> Scene:
    """A scene at random: of the training combinations, or with `holdout` of those held out from training."""
    while held_out(scene := _SAMPLERS[family](rng)) != holdout:
        pass
    return scene


def combinations(scene: Scene) -> frozenset[str]:
    """The combinations of attributes a scene shows."""
    return FAMILIES[scene.family].combinations(scene)


def held_out(scene: Scene) -> bool:
    """True when the scene shows a combination that training must never see: a fixed hash of its name decides."""
    share = FAMILIES[scene.family].held_out
    return any(hashlib.sha256(name.encode()).digest()[0] < share for name in combinations(scene))


def render(scene: Scene, size: int = 128) -> Image.Image:
    """The scene as an RGB picture of `size` x `size` pixels."""
    return FAMILIES[scene.family].paint(scene, size)


def captions(scene: Scene) -> tuple[Caption, ...]:
    """Every wording of the scene, without repeats. The first of each language is the plainest."""
    family = FAMILIES[scene.family]
    english = (Caption(language="en", text=text) for text in family.english(scene))
    spanish = (
        Caption(language="es", text=text)
        for accented in family.spanish(scene)
        for text in (accented, unaccented(accented))
    )
    return tuple(dict.fromkeys((*english, *spanish)))
