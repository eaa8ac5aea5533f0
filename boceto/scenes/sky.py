"""The four times of day that cities and landscapes share: skies, and how each is called."""

from typing import Final

import numpy as np

from boceto.scenes.icons import moon, sun
from boceto.scenes.kit import RGB, Pen, mix

TIMES: Final = ("dawn", "noon", "sunset", "night")
SKIES: Final[dict[str, tuple[RGB, ...]]] = {
    "dawn": ((116, 134, 196), (196, 168, 208), (250, 200, 190), (255, 226, 190)),
    "noon": ((44, 132, 222), (104, 180, 240), (178, 220, 250), (214, 238, 252)),
    "sunset": ((70, 42, 116), (176, 62, 112), (244, 120, 78), (255, 196, 104)),
    "night": ((8, 12, 34), (16, 26, 62), (32, 46, 94), (56, 70, 122)),
}
"""Colours from the top of the picture to the horizon."""
SUNS: Final[dict[str, RGB]] = {"dawn": (255, 240, 208), "noon": (255, 236, 130), "sunset": (255, 226, 150)}
SHADES: Final[dict[str, tuple[RGB, float]]] = {
    "dawn": ((176, 150, 190), 0.32),
    "noon": ((255, 255, 255), 0.0),
    "sunset": ((120, 48, 84), 0.42),
    "night": ((10, 16, 44), 0.66),
}
"""What the light makes of the land: a colour and how much of it."""

TIMES_EN: Final = {
    "dawn": ("at dawn", "at sunrise"),
    "noon": ("at noon", "in daylight"),
    "sunset": ("at sunset", "at dusk"),
    "night": ("at night", "by night"),
}
TIMES_ES: Final = {
    "dawn": ("al amanecer", "al alba"),
    "noon": ("al mediodía", "de día"),
    "sunset": ("al atardecer", "a la puesta de sol"),
    "night": ("de noche", "por la noche"),
}


def sky(pen: Pen, time: str, horizon: float, rng: np.random.Generator, *, disc: bool = True, low: bool = True) -> None:
    """Sky down to the horizon, with its stars or clouds, and with `disc` its sun or moon.

    In the morning and evening the sun stands `low`, or where something would hide it there, higher.
    """
    stops = SKIES[time]
    pen.gradient(0.0, horizon, stops)
    x = float(rng.uniform(0.16, 0.84))
    if time == "night":
        for star_x, star_y in rng.uniform((0.0, 0.0), (1.0, 0.75 * horizon), (34, 2)):
            pen.disc(star_x, star_y, float(rng.uniform(0.002, 0.0045)), mix(stops[0], (255, 255, 255), 0.8))
        if disc:
            moon(pen, x, float(rng.uniform(0.13, 0.18)), 0.075, mix(stops[0], stops[1], 0.55))
        return
    if disc:
        y = 0.15 if time == "noon" else 0.66 * horizon if low else 0.2
        sun(pen, x, y, {"dawn": 0.07, "noon": 0.065, "sunset": 0.1}[time], SUNS[time], at(time, y / horizon))
    for _ in range(2 if time == "noon" else 1):
        left, top = float(rng.uniform(0.05, 0.7)), float(rng.uniform(0.08, 0.34)) * horizon
        tone = mix(at(time, top / horizon), (255, 255, 255), 0.75 if time == "noon" else 0.26)
        for dx, dy, reach in ((0.0, 0.0, 0.028), (0.05, -0.016, 0.038), (0.105, 0.0, 0.03)):
            pen.disc(left + dx, top + dy, reach, tone)
        pen.box(left, top, left + 0.105, top + 0.028, tone, 0.012)


def at(time: str, share: float) -> RGB:
    """The sky's colour at a share of the way from the top to the horizon."""
    stops = SKIES[time]
    place = min(max(share, 0.0), 1.0) * (len(stops) - 1)
    first = min(int(place), len(stops) - 2)
    return mix(stops[first], stops[first + 1], place - first)


def lit(colour: RGB, time: str) -> RGB:
    """A colour of the land in that light."""
    shade, share = SHADES[time]
    return mix(colour, shade, share)
