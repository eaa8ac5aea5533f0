"""Reading a stranger's picture: pixels and credentials, in a process of its own that cannot harm this one.

`examine` asks that process; `look` is what runs in it. A picture that hangs, crashes or blows up its reader is an error here.
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


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """What was found in a picture's file; see `examine`.

    Attributes:
        lossless: whether the file keeps every pixel.
        credentials: their state: "Trusted", "Valid" (by a stranger), "Invalid" or "absent".
        failures: what of the credentials fails, in their specification's words.
        signer: who signed them.
        key_id: of the key that signed them; None where it cannot be told.
        document: the assertion that holds receipt and log proof; None where there is none.
    """

    image: Image.Image
    lossless: bool
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
    if len(data) > MOST_BYTES:
        raise ImageError(f"{name}: {len(data):,} bytes, more than the {MOST_BYTES:,} allowed.")
    asked = {
        "name": name,
        "trust_anchors": trust_anchors,
        "timestamp_roots": timestamp_roots,
        "revoked": sorted(revoked),
    }
    answer = bounded.run(
        "lienzo.provenance.examine:look",
        json.dumps(asked).encode() + b"\n" + data,
        seconds=_SECONDS,
        memory=_MEMORY,
        most=3 * MAX_PIXELS + bounded.MOST_RESULT,
        what=name,
    )
    head, _, pixels = answer.partition(b"\n")
    told: dict[str, Any] = json.loads(head)
    receipt = told["credentials"].pop("receipt")
    return Evidence(
        image=Image.frombytes("RGB", tuple(told["size"]), pixels),
        lossless=told["lossless"],
        credentials=told["credentials"]["state"],
        failures=tuple(told["credentials"]["failures"]),
        signer=told["credentials"]["signer"],
        key_id=told["credentials"]["key_id"],
        document=receipt,
    )


def look(order: bytes) -> bytes:
    """A line of JSON, then the pixels: what `examine` asks for, without any limit of its own."""
    from lienzo.provenance.credentials import read

    head, _, data = order.partition(b"\n")
    asked = json.loads(head)
    image = _pixels(data, asked.pop("name"))
    found = read(data, **asked)
    wanted = ("state", "failures", "signer", "key_id")
    credentials = {name: value for name, value in asdict(found).items() if name in wanted}
    told = {
        "size": image.size,
        "lossless": _lossless(data),
        "credentials": {**credentials, "receipt": _document(found.receipt)},
    }
    return json.dumps(told).encode() + b"\n" + image.tobytes()


def _document(receipt: str | None) -> Any:
    """What the assertion holds; a text that is no JSON is left to `verify`, which says that it cannot be read."""
    if receipt is None:
        return None
    try:
        return json.loads(receipt)
    except (ValueError, RecursionError):
        return receipt[:1000]


def _pixels(data: bytes, name: str) -> Image.Image:
    """What is seen: one still picture, upright, with transparency laid over white. Else another one could hide in the file."""
    return open_image(data, name, formats=("PNG", "JPEG", "WEBP")).convert("RGB")


def _lossless(data: bytes) -> bool:
    kind = kind_of_data(data)
    return kind == "PNG" or (kind == "WEBP" and b"VP8L" in data[:64])
