"""What a scene is: everything that a caption may say of it, that its picture shows and that a judge looks for."""

from dataclasses import dataclass
from typing import Final, Literal

Size = Literal["small", "medium", "large"]
Relation = Literal["left", "right", "above", "below", "inside"]
Language = Literal["en", "es"]

RELATIONS: Final[tuple[Relation, ...]] = ("left", "right", "above", "below", "inside")


@dataclass(frozen=True, kw_only=True)
class Thing:
    """One object: what it is, and where. `x`, `y` (centre) and `radius` are fractions of the picture's side."""

    name: str
    colour: str
    size: Size = "medium"
    x: float
    y: float
    radius: float


@dataclass(frozen=True, kw_only=True)
class Link:
    """A line between two things, given by their places in `Scene.things`; with `arrow` it points to `end`."""

    start: int
    end: int
    arrow: bool = True


@dataclass(frozen=True, kw_only=True)
class Scene:
    """A picture's whole content.

    Attributes:
        family: which family of scenes it belongs to, and so who draws and words it.
        kind: the family's own word for what sort of picture this is.
        background: a colour's name.
        things: in the order in which a caption names them.
        relation: of the first thing to the second, where the caption tells it.
        scheme: the colour in which a diagram or a page is kept.
        facts: whatever else holds of the whole picture, by name: ("time", "sunset").
        detail: seed of what no caption mentions: the windows of a city, the waves of the sea.
    """

    family: str = "shapes"
    kind: str = ""
    background: str
    things: tuple[Thing, ...]
    links: tuple[Link, ...] = ()
    relation: Relation | None = None
    scheme: str = ""
    facts: tuple[tuple[str, str], ...] = ()
    detail: int = 0

    def fact(self, name: str) -> str:
        """The fact of that name, "" where there is none."""
        return dict(self.facts).get(name, "")

    def named(self, *names: str) -> tuple[Thing, ...]:
        """The things that are one of `names`."""
        return tuple(thing for thing in self.things if thing.name in names)


@dataclass(frozen=True, kw_only=True)
class Caption:
    """One way to say a scene."""

    language: Language
    text: str
