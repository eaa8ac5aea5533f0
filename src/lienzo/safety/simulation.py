"""A label for scenario pictures: mock-ups of phishing or malware, made so that people learn to see through them.

`label` burns a band with the word SIMULATION, in the language of those who are trained, across the middle of a picture. It is a
function of pixels and language alone, so the same request still gives the same picture. It comes after the checks and before
marks and signatures, which then are of the labelled pixels. Whoever means to can paint it over: it tells the honest reader, and
what is signed beside it tells the rest.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from PIL import Image, ImageDraw, ImageFont

from lienzo.errors import RequestError, nearest

WORDS: Final[Mapping[str, str]] = {
    "ca": "SIMULACIÓ",
    "de": "SIMULATION",
    "en": "SIMULATION",
    "es": "SIMULACIÓN",
    "fr": "SIMULATION",
    "it": "SIMULAZIONE",
    "nl": "SIMULATIE",
    "pl": "SYMULACJA",
    "pt": "SIMULAÇÃO",
}
"""Language (ISO 639) -> the word."""
SMALLEST: Final = 64
"""Pixels that a side needs: below, no word can be read."""
BAND: Final = (250, 220, 40)
INK: Final = (40, 48, 66)
"""The band of boceto's mock-ups; their contrast is 9:1 (WCAG asks for 7:1 of text)."""
TURNED_FROM: Final = 192
"""Pixels a side from which the band rises to the right; in smaller pictures turned letters would blur."""
ANGLE: Final = 18.0
"""Degrees by which it rises."""
MARKS: Final[Mapping[str, tuple[str, str]]] = {"Ó": ("O", "acute"), "Ã": ("A", "tilde"), "Ç": ("C", "cedilla")}
"""Pillow's own font has no accents: letter -> letter and the mark that is drawn on it."""


@dataclass(frozen=True, kw_only=True)
class Label:
    """What was burnt in, for whoever describes the picture.

    Attributes:
        text: the word.
        height: of the band, pixels.
        angle: by which it rises to the right, degrees.
    """

    text: str
    language: str
    height: int
    angle: float


def label(image: Image.Image, language: str = "en") -> tuple[Image.Image, Label]:
    """The picture in RGB with the band across its middle, and what it says; the given one stays as it is.

    Args:
        language: one of `WORDS`.

    Raises:
        RequestError: a language without a word, or a picture too small for one.
    """
    if language not in WORDS:
        raise RequestError(f"The simulation label has no word in {language!r}. {nearest(language, WORDS)}")
    if min(image.size) < SMALLEST:
        raise RequestError(
            f"The simulation label cannot be read in {image.width}x{image.height}; both sides need {SMALLEST} pixels or more."
        )
    angle = ANGLE if min(image.size) >= TURNED_FROM else 0.0
    turn = math.radians(angle)
    across = round(image.width / math.cos(turn))
    word = _word(WORDS[language], 0.92 * image.width, 0.16 * image.height)
    height = max(round(word.height * 1.5), word.height + 4)
    edge = max(1, height // 16)
    strip = Image.new("RGBA", (across + 2 * height, height + 2 * edge), (*INK, 255))
    strip.paste((*BAND, 255), (0, edge, strip.width, edge + height))
    strip.paste(INK, ((strip.width - word.width) // 2, edge + (height - word.height) // 2), word)
    if angle:
        strip = strip.rotate(angle, Image.Resampling.BICUBIC, expand=True)
    labelled = image.convert("RGB")
    labelled.paste(strip, ((image.width - strip.width) // 2, (image.height - strip.height) // 2), strip)
    return labelled, Label(text=WORDS[language], language=language, height=height + 2 * edge, angle=angle)


def _word(text: str, width: float, height: float) -> Image.Image:
    """A word as a mask, as large as fits: how much ink each pixel gets."""
    size = max(height, 8.0)
    drawn = _drawn(text, size)
    while drawn.width > width:  # letters do not grow evenly with the size, so it takes a few tries
        size *= min(0.97, width / drawn.width)
        drawn = _drawn(text, size)
    return drawn


def _drawn(text: str, size: float) -> Image.Image:
    """A word as a mask, without room around it."""
    font = ImageFont.load_default(size)  # Pillow's own: the same letters on every machine
    bold = round(size / 40)
    plain = "".join(MARKS.get(letter, (letter, ""))[0] for letter in text)
    left, top, right, bottom = font.getbbox(plain, anchor="ls", stroke_width=bold)
    room = math.ceil(size)
    mask = Image.new("L", (math.ceil(right - left) + 2 * room, math.ceil(bottom - top) + 2 * room))
    draw = ImageDraw.Draw(mask)
    x, base = room - left, room - top
    draw.text((x, base), plain, 255, font, anchor="ls", stroke_width=bold)
    for i, letter in enumerate(text):
        if letter in MARKS:
            begin, end = font.getlength(plain[:i]), font.getlength(plain[: i + 1])
            _mark(draw, MARKS[letter][1], x + (begin + end) / 2, base, base + top, size)
    return mask.crop(mask.getbbox())


def _mark(draw: ImageDraw.ImageDraw, mark: str, x: float, base: float, top: float, size: float) -> None:
    """A mark on the letter whose middle is at x, between the line of writing and the top of the letters."""
    thick, unit = max(1, round(size / 11)), size / 10
    above = top - 1.2 * unit
    points = {
        "acute": [(x - 0.6 * unit, above), (x + 0.9 * unit, above - 1.4 * unit)],
        "tilde": [
            (x + (i - 8) / 8 * 1.9 * unit, above - 0.5 * unit - 0.5 * unit * math.sin(i / 16 * 2 * math.pi))
            for i in range(17)
        ],
        "cedilla": [(x, base), (x + 0.1 * unit, base + 0.9 * unit), (x - 0.9 * unit, base + 1.5 * unit)],
    }[mark]
    draw.line(points, 255, thick, joint="curve")
