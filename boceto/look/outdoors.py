"""Cities and landscapes: the sky tells the time, colours and regions tell what stands below it."""

from collections import Counter
from typing import Final

import numpy as np
from PIL import Image

from boceto.look.pixels import Pixels, eroded, near, parts, pixels_of
from boceto.scenes import PALETTE, Scene
from boceto.scenes.cities import GRID, NEON
from boceto.scenes.icons import MOON
from boceto.scenes.landscapes import HORIZONS, TREE, middle
from boceto.scenes.sky import SUNS, TIMES, at

SIDE: Final = 256


def time_of(pixels: Pixels) -> str:
    """The time whose sky the top of the picture looks like most."""
    rows = range(round(0.02 * SIDE), round(0.24 * SIDE))
    seen = np.median(pixels[rows.start : rows.stop], axis=1)  # (rows, 3): clouds and towers are narrower than the sky
    skies = {time: np.array([at(time, row / SIDE / 0.75) for row in rows]) for time in TIMES}
    return min(TIMES, key=lambda time: float(np.linalg.norm(seen - skies[time], axis=1).mean()))


def disc_seen(pixels: Pixels, time: str) -> bool:
    """Is there a sun or a moon?"""
    upper = pixels[: round(0.6 * SIDE)]
    return bool(parts(eroded(near(upper, MOON if time == "night" else SUNS[time], 30)), 0.002))


def score_city(picture: Image.Image, scene: Scene) -> dict[str, bool]:
    """`time` by the sky, `disc` (the sun or moon is there or not), `neon` (its colour, or none), `place`."""
    pixels = pixels_of(picture, SIDE)
    time = scene.fact("time")
    amounts = {name: float(near(pixels, glow, 45).mean()) for name, glow in NEON.items()}
    neon = max(amounts, key=lambda name: amounts[name])
    return {
        "time": time_of(pixels) == time,
        "disc": disc_seen(pixels, time) == (scene.fact("disc") == "yes"),
        "neon": (neon if amounts[neon] > 0.004 else "") == scene.fact("neon"),
        "place": _place(pixels) == scene.fact("place"),
    }


def _place(pixels: Pixels) -> str:
    """A street is even along its length, or a dark grid; a river mirrors the towers."""
    rows = pixels[round(0.915 * SIDE) : round(0.938 * SIDE)]
    even = float(rows.mean(-1).std(1).mean()) < 6
    grid = float(near(rows, GRID, 34).mean()) > 0.4
    return "street" if even or grid else "river"


def score_landscape(picture: Image.Image, scene: Scene) -> dict[str, bool]:
    """`time`, `disc`, `place`; where they stand there, `colour` of houses and cars and `count` of trees."""
    pixels = pixels_of(picture, SIDE)
    time = scene.fact("time")
    marks = {
        "time": time_of(pixels) == time,
        "disc": disc_seen(pixels, time),
        "place": _land(pixels, time) == scene.kind,
    }
    ground = pixels[round(0.58 * SIDE) :]
    if wanted := Counter(thing.colour for thing in scene.named("house", "car")):
        found = {name: len(parts(eroded(near(ground, PALETTE[name], 45)), 0.012)) for name in wanted}
        marks["colour"] = all(found[name] == number for name, number in wanted.items())
    if scene.things:
        trees = parts(eroded(near(ground, TREE, 36)), 0.012)
        marks["count"] = len(trees) == len(scene.named("tree"))
    return marks


def _land(pixels: Pixels, time: str) -> str:
    """The kind of land whose colour fits best a little below the horizon of each."""
    rows = pixels[round(0.57 * SIDE) : round(0.64 * SIDE)].reshape(-1, 3)
    return min(HORIZONS, key=lambda place: float(np.median(np.abs(rows - np.array(middle(place, time))).sum(-1))))
