"""Programs that look at a picture and say what it shows, without any network.

`score` compares a picture with the scene it should show: mark -> right or wrong. What a program cannot tell honestly,
which glyph a badge carries, is left to a network; `icon_crops` cuts out what it is to look at.
"""

from collections.abc import Callable
from typing import Final

from PIL import Image

from boceto.look import charts, nodes, outdoors, pages, shapes
from boceto.look.shapes import Seen, View, look
from boceto.scenes import Scene
from boceto.scenes.icons import GLYPHS

__all__ = ["Seen", "View", "icon_crops", "look", "score"]

_SCORES: Final[dict[str, Callable[[Image.Image, Scene], dict[str, bool]]]] = {
    "shapes": shapes.score,
    "networks": nodes.score_network,
    "flows": nodes.score_flow,
    "dashboards": charts.score,
    "cities": outdoors.score_city,
    "landscapes": outdoors.score_landscape,
    "interfaces": pages.score,
}


def score(picture: Image.Image, scene: Scene) -> dict[str, bool]:
    """Which parts of a scene a picture got right, by name. The names differ from family to family."""
    return _SCORES[scene.family](picture, scene)


def icon_crops(picture: Image.Image, scene: Scene, side: int = 64) -> list[tuple[str, Image.Image]]:
    """The boxes in which a scene's icons stand, cut out of its picture and scaled: (the icon's name, `side` x `side`).

    Where the picture was rendered from the scene, the names are true; so they measure whoever tells icons apart.
    """
    crops = []
    for thing in scene.things:
        name = "document" if thing.name == "transaction" else thing.name
        if name in GLYPHS:
            reach = 1.1 * thing.radius
            box = [(v + d) * picture.width for d in (-reach, reach) for v in (thing.x, thing.y)]
            crops.append((name, picture.crop(tuple(round(v) for v in box)).resize((side, side))))  # type: ignore[arg-type]
    return crops
