"""Reading a stranger's picture: pixels and credentials, in a process of its own that cannot harm this one.

`examine` asks that process for all that `lienzo verify` needs, `see` for the pixels alone; `look` and `pixels` are what runs
in it. A picture that hangs, crashes or blows up its reader is an error here.
"""

import json
from collections.abc import Collection
from dataclasses import asdict, dataclass
from typing import Any, Final

from PIL import Image

from lienzo.errors import ImageError
from lienzo.images import MAX_PIXELS, open_image
from lienzo.provenance import bounded
from lienzo.provenance.files import kind_of_data

MOST_BYTES: Final = 200_000_000
"""Of a file."""
_SECONDS, _MEMORY = 60.0, 3 << 30
_FORMATS = ("PNG", "JPEG", "WEBP")


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """What was found in a picture's file; see `examine`.

    Attributes:
        lossless: whether the file keeps every pixel.
        doubts: why other programs may show another picture than `image`: see `lienzo.provenance.structure`.
        credentials: their state: "Trusted", "Valid" (by a stranger), "Invalid" or "absent".
        failures: what of the credentials fails, in their specification's words.
        signer: who signed them.
        key_id: of the key that signed them; None where it cannot be told.
        document: the assertion that holds receipt and log proof; None where there is none.
    """

    image: Image.Image
    lossless: bool
    doubts: tuple[str, ...] = ()
    credentials: str
    failures: tuple[str, ...] = ()
    signer: str | None = None
    key_id: str | None = None
    document: Any = None


def examine(
    data: bytes,
    *,
    trust_anchors: str,
    timestamp_roots: str = "",
    revoked: Collection[str] = (),
    name: str = "the picture",
) -> Evidence:
    """What a picture's file holds.

    Args:
        data: a PNG, JPEG or WebP, told by content.
        name: for error messages.
        trust_anchors, timestamp_roots, revoked: see `lienzo.provenance.credentials.read`.

    Raises:
        InputError: no such picture, a damaged one, or one that is too large or cannot be read within bounds.
    """
    asked = {
        "name": name,
        "trust_anchors": trust_anchors,
        "timestamp_roots": timestamp_roots,
        "revoked": sorted(revoked),
    }
    told, image = _ask("look", data, asked)
    receipt = told["credentials"].pop("receipt")
    return Evidence(
        image=image.convert("RGB"),
        lossless=told["lossless"],
        doubts=tuple(told["doubts"]),
        credentials=told["credentials"]["state"],
        failures=tuple(told["credentials"]["failures"]),
        signer=told["credentials"]["signer"],
        key_id=told["credentials"]["key_id"],
        document=receipt,
    )


def see(data: bytes, name: str = "the picture", *, most: int = MAX_PIXELS) -> Image.Image:
    """A stranger's picture, upright, RGB, or L where it is grey. See `lienzo.images.open_image`, which this process is spared.

    Args:
        data: a PNG, JPEG or WebP, told by content.
        most: pixels that it may have.

    Raises:
        InputError: as `examine`.
    """
    return _ask("pixels", data, {"name": name, "most": most})[1]


def _ask(function: str, data: bytes, asked: dict[str, Any]) -> tuple[dict[str, Any], Image.Image]:
    name = asked["name"]
    if len(data) > MOST_BYTES:
        raise ImageError(f"{name}: {len(data):,} bytes, more than the {MOST_BYTES:,} allowed.")
    answer = bounded.run(
        f"lienzo.provenance.examine:{function}",
        json.dumps(asked).encode() + b"\n" + data,
        seconds=_SECONDS,
        memory=_MEMORY,
        most=3 * MAX_PIXELS + bounded.MOST_RESULT,
        what=name,
    )
    head, _, raw = answer.partition(b"\n")
    told: dict[str, Any] = json.loads(head)
    return told, Image.frombytes(told["mode"], tuple(told["size"]), raw)


def pixels(order: bytes) -> bytes:
    """A line of JSON, then the pixels: what `see` asks for, without any limit on time or memory of its own."""
    head, _, data = order.partition(b"\n")
    asked = json.loads(head)
    return _answer(_pixels(data, asked["name"], asked["most"]))


def look(order: bytes) -> bytes:
    """The same with what else `examine` asks for."""
    from lienzo.provenance.credentials import read
    from lienzo.provenance.structure import structure

    head, _, data = order.partition(b"\n")
    asked = json.loads(head)
    image = _pixels(data, asked.pop("name"), MAX_PIXELS)
    found = read(data, **asked)
    alone = found.state != "Trusted" or found.receipt is None  # else the signer wrote all of the file
    built = structure(data, pixels=alone)
    wanted = ("state", "failures", "signer", "key_id")
    credentials = {name: value for name, value in asdict(found).items() if name in wanted}
    return _answer(
        image,
        lossless=_lossless(data),
        doubts=built.views if built.flaw is None else [built.flaw],
        credentials={**credentials, "receipt": _document(found.receipt)},
    )


def _answer(image: Image.Image, **told: Any) -> bytes:
    return json.dumps({"mode": image.mode, "size": image.size, **told}).encode() + b"\n" + image.tobytes()


def _document(receipt: str | None) -> Any:
    """What the assertion holds; a text that is no JSON is left to `verify`, which says that it cannot be read."""
    if receipt is None:
        return None
    try:
        return json.loads(receipt)
    except (ValueError, RecursionError):
        return receipt[:1000]


def _pixels(data: bytes, name: str, most: int) -> Image.Image:
    """As PIL reads it: upright, transparency laid over white, colour profiles passed over. Other programs do otherwise, so a
    file where that matters proves nothing by these pixels: `Evidence.doubts`."""
    return open_image(data, name, formats=_FORMATS, most=most)


def _lossless(data: bytes) -> bool:
    kind = kind_of_data(data)
    return kind == "PNG" or (kind == "WEBP" and (data[12:16] == b"VP8L" or data[12:16] + data[30:34] == b"VP8XVP8L"))
