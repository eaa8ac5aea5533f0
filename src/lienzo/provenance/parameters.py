"""AUTOMATIC1111's text in a picture's file (see `infotext.py`), whoever wrote it, and its values. Knows no torch, so that the
process that reads strangers' files begins at once."""

import io
import json
import re
from dataclasses import dataclass
from typing import Any, Final

from PIL import Image
from PIL.PngImagePlugin import PngImageFile

from lienzo.errors import ImageError
from lienzo.images import DAMAGE
from lienzo.provenance import bounded

MAX_TEXT: Final = 1 << 20
"""Characters of a text that are read."""
_EXIF_IFD, _USER_COMMENT = 0x8769, 0x9286
_ENCODINGS = {b"UNICODE\0": "utf-16-be", b"ASCII\0\0\0": "ascii"}
# Whoever wrote the line: a key's length is bounded, so that the time grows only as the line does.
_PAIR = re.compile(r'(\w[\w /-]{0,60}):\s*("(?:[^"\\]|\\.)*"|[^,]*)(?:,|$)')


@dataclass(frozen=True)
class Parameters:
    """
    Attributes:
        text: "" where there is none.
        values: by their names there; the prompts as "Prompt" and "Negative prompt", sizes as "Size-1" and "Size-2".
    """

    text: str
    values: dict[str, str]


def read_parameters(data: bytes) -> Parameters:
    """Of a PNG, JPEG or WebP, read in a process of its own that a hostile file can hang or crash, and not this one.

    Raises:
        ImageError: not a picture, or a damaged one.
        UnreadableError: it cannot be read within bounds.
    """
    return Parameters(**bounded.run(_read, data, seconds=20, memory=2 << 30, most=16 * MAX_TEXT))


def _read(data: bytes) -> dict[str, Any]:
    try:
        with Image.open(io.BytesIO(data), formats=("PNG", "JPEG", "WEBP")) as image:
            text = image.text.get("parameters") if isinstance(image, PngImageFile) else None
            comment = image.getexif().get_ifd(_EXIF_IFD).get(_USER_COMMENT)
    except (*DAMAGE, Image.DecompressionBombWarning) as error:
        raise ImageError(f"the picture: not a PNG, JPEG or WebP, or a damaged one ({type(error).__name__}).") from None
    if text is None and isinstance(comment, bytes) and comment[:8] in _ENCODINGS:
        text = comment[8:].decode(_ENCODINGS[comment[:8]], errors="replace").strip("\0 ")
    text = str(text or "")[:MAX_TEXT]
    return {"text": text, "values": parsed(text) if text else {}}


def parsed(text: str) -> dict[str, str]:
    """The values of a text, read as far as it goes; a last line of fewer than three pairs is part of the prompt, as there."""
    *lines, last = text.strip().split("\n")
    pairs = _PAIR.findall(last)
    if len(pairs) < 3:
        lines, pairs = [*lines, last], []
    prompt, *negative = re.split(r"^Negative prompt:", "\n".join(lines), maxsplit=1, flags=re.M)
    values = {"Prompt": prompt.strip(), "Negative prompt": "".join(negative).strip()}
    for key, value in pairs:
        if size := re.fullmatch(r"(\d+)x(\d+)", value):
            values |= {f"{key}-1": size[1], f"{key}-2": size[2]}
        else:
            values[key] = _unquoted(value)
    return values


def _unquoted(value: str) -> str:
    if not value.startswith('"'):
        return value.strip()
    try:
        return str(json.loads(value))
    except ValueError:
        return value
