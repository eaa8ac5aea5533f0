"""Mock-ups of pages, for training people to see through false ones. Every one has the band "SIMULATION" drawn across.

Kinds: a login form, a mail client, a warning page. Facts: `icon` (above the form: user or lock), `suspicious` (whether
one message of the mail client is marked red: "yes" or "no").
"""

from collections.abc import Iterator, Sequence
from itertools import product
from typing import Final

import numpy as np
from PIL import Image

from boceto.scenes.description import Scene, Thing
from boceto.scenes.icons import GLYPHS, WHITE
from boceto.scenes.kit import GROUNDS, MIST, PALETTE, RGB, SCHEMES, STEEL, Pen, band, lighter, mix
from boceto.scenes.language import style_en, style_es

KINDS: Final = ("login", "mail", "warning")
ALARMS: Final = ("red", "orange", "purple")
WINDOW: Final = (0.07, 0.06, 0.93, 0.94)
"""Left, top, right, bottom of the page."""


def sample(rng: np.random.Generator) -> Scene:
    kind = _pick(rng, KINDS)
    background = "black" if rng.random() < 0.4 else "white"
    scheme = _pick(rng, ALARMS if kind == "warning" else SCHEMES)
    icon = {"login": _pick(rng, ("user", "lock")), "mail": "envelope", "warning": _pick(rng, ("warning", "lock"))}[kind]
    facts = [("icon", icon)]
    if kind == "mail":
        facts.append(("suspicious", "yes" if rng.random() < 0.5 else "no"))
    place = {"login": (0.5, 0.29, 0.105), "mail": (0.155, 0.255, 0.058), "warning": (0.5, 0.295, 0.125)}[kind]
    thing = Thing(name=icon, colour=scheme, x=place[0], y=place[1], radius=place[2])
    return Scene(
        family="interfaces",
        kind=kind,
        background=background,
        things=(thing,),
        scheme=scheme,
        facts=tuple(facts),
        detail=int(rng.integers(2**31)),
    )


def combinations(scene: Scene) -> frozenset[str]:
    """The page with everything that is told of it."""
    told = " ".join(value for _, value in scene.facts)
    return frozenset({f"interfaces {scene.kind} {told} {scene.scheme} on {scene.background}"})


def _pick(rng: np.random.Generator, names: Sequence[str]) -> str:
    return names[rng.integers(len(names))]


# --- picture ----------------------------------------------------------------------------------------------------------


def paint(scene: Scene, size: int) -> Image.Image:
    dark = scene.background == "black"
    colour = PALETTE[scene.scheme]
    pen = Pen(size, mix(GROUNDS["black"], colour, 0.22) if dark else lighter(colour, 0.78))
    page: RGB = mix(GROUNDS["black"], WHITE, 0.04) if dark else WHITE
    left, top, right, bottom = WINDOW
    bar = mix(page, STEEL, 0.3)
    pen.box(left, top, right, bottom, page, 0.03)
    pen.box(left, top, right, top + 0.075, bar, 0.03)
    pen.box(left, top + 0.045, right, top + 0.075, bar)
    for i in range(3):
        pen.disc(left + 0.045 + 0.042 * i, top + 0.038, 0.013, mix(bar, STEEL, 0.8))
    pen.box(left + 0.2, top + 0.018, right - 0.05, top + 0.057, mix(page, STEEL, 0.08), 0.018)
    rng = np.random.default_rng(scene.detail)
    {"login": _login, "mail": _mail, "warning": _warning}[scene.kind](pen, scene, page, rng)
    band(pen)
    return pen.finish()


def _login(pen: Pen, scene: Scene, page: RGB, rng: np.random.Generator) -> None:
    [icon] = scene.things
    colour = PALETTE[scene.scheme]
    pen.disc(icon.x, icon.y, icon.radius, colour)
    GLYPHS[icon.name](pen.at(icon.x, icon.y, 0.58 * icon.radius), WHITE, colour)
    for y in (0.49, 0.615):
        pen.box(0.22, y - 0.045, 0.78, y + 0.045, mix(page, STEEL, 0.55), 0.022)
        pen.box(0.226, y - 0.039, 0.774, y + 0.039, mix(page, STEEL, 0.06), 0.018)
        pen.box(0.26, y - 0.011, 0.26 + float(rng.uniform(0.14, 0.26)), y + 0.011, mix(page, STEEL, 0.6), 0.01)
    pen.box(0.22, 0.76, 0.78, 0.865, colour, 0.03)
    pen.box(0.41, 0.803, 0.59, 0.823, WHITE, 0.01)


def _mail(pen: Pen, scene: Scene, page: RGB, rng: np.random.Generator) -> None:
    left, top, _, bottom = WINDOW
    [icon] = scene.things
    colour = PALETTE[scene.scheme]
    pen.box(left, top + 0.075, 0.26, bottom, colour, 0.03)
    pen.box(left, top + 0.075, 0.26, top + 0.12, colour)
    pen.box(0.23, top + 0.075, 0.26, bottom, colour)
    GLYPHS[icon.name](pen.at(icon.x + 0.01, icon.y, icon.radius), WHITE, colour)
    for y in (0.38, 0.46, 0.74, 0.82):
        pen.box(0.11, y, 0.11 + float(rng.uniform(0.07, 0.11)), y + 0.022, lighter(colour, 0.55), 0.01)
    marked = (0, 4)[rng.integers(2)] if scene.fact("suspicious") == "yes" else None
    for i in range(5):
        y = 0.222 + 0.148 * i
        mine = PALETTE["red"] if i == marked else None
        if mine:
            pen.box(0.275, y - 0.066, 0.918, y + 0.066, mix(page, mine, 0.16), 0.02)
        pen.disc(0.345, y, 0.04, mine or mix(page, STEEL, 0.5))
        pen.box(0.42, y - 0.036, 0.42 + float(rng.uniform(0.2, 0.3)), y - 0.012, mine or mix(page, STEEL, 0.95), 0.01)
        pen.box(0.42, y + 0.014, 0.42 + float(rng.uniform(0.34, 0.46)), y + 0.034, mix(page, STEEL, 0.42), 0.01)
        if i < 4:
            pen.box(0.29, y + 0.072, 0.905, y + 0.076, mix(page, MIST, 0.5))


def _warning(pen: Pen, scene: Scene, page: RGB, rng: np.random.Generator) -> None:
    [icon] = scene.things
    colour = PALETTE[scene.scheme]
    pen.box(WINDOW[0], 0.135, WINDOW[2], 0.47, colour)
    GLYPHS[icon.name](pen.at(icon.x, icon.y, icon.radius), WHITE, colour)
    for y, half in ((0.53, 0.3), (0.6, 0.26), (0.67, 0.18)):
        half *= float(rng.uniform(0.85, 1.05))
        pen.box(0.5 - half, y - 0.013, 0.5 + half, y + 0.013, mix(page, STEEL, 0.6), 0.012)
    pen.box(0.32, 0.77, 0.68, 0.87, colour, 0.03)
    pen.box(0.42, 0.811, 0.58, 0.829, WHITE, 0.009)


# --- words ------------------------------------------------------------------------------------------------------------

_ICONS_EN: Final = {
    "user": "a user icon",
    "lock": "a padlock",
    "warning": "a warning sign",
}
_ICONS_ES: Final = {
    "user": "un icono de usuario",
    "lock": "un candado",
    "warning": "una señal de advertencia",
}
_PAGES_EN: Final = {
    "login": ("a login form", "a sign-in page"),
    "mail": ("a mail client", "an email inbox"),
    "warning": ("a warning page", "a security warning page"),
}
_PAGES_ES: Final = {
    "login": ("un formulario de inicio de sesión", "una página de acceso"),
    "mail": ("un cliente de correo", "una bandeja de entrada"),
    "warning": ("una página de advertencia", "una página de aviso de seguridad"),
}


def english(scene: Scene) -> Iterator[str]:
    bands = ("", ", marked SIMULATION", ", with the band SIMULATION across")
    if scene.kind == "mail":
        extra = " with a suspicious message in red" if scene.fact("suspicious") == "yes" else ""
    else:
        extra = f" with {_ICONS_EN[scene.fact('icon')]}"
    for page, style, mark in product(_PAGES_EN[scene.kind], style_en(scene.scheme, scene.background), bands):
        yield f"{page}{extra}{style}{mark}"


def spanish(scene: Scene) -> Iterator[str]:
    bands = ("", ", marcado como SIMULATION", ", con la banda SIMULATION")
    if scene.kind == "mail":
        extra = " con un mensaje sospechoso en rojo" if scene.fact("suspicious") == "yes" else ""
    else:
        extra = f" con {_ICONS_ES[scene.fact('icon')]}"
    for page, style, mark in product(_PAGES_ES[scene.kind], style_es(scene.scheme, scene.background), bands):
        agreed = mark.replace("marcado", "marcada") if page.startswith("una") else mark
        yield f"{page}{extra}{style}{agreed}"
