"""How a picture's file is built, read strictly: whether every program that opens it reads the same picture out of it.

Formats leave room, and programs fill it in differently. One takes the bytes after `FF D0` for a segment, another for a
bare marker; one shows the first of two frames, another plays both; one knows what transparency is laid over, another does
not. Whoever forges looks for such places: the verifier sees one picture there, and people another. So a file is taken
apart here once more, by rules that are narrower than the formats' own, and what does not keep to them is no proof:

* JPEG (ITU T.81, annex B): SOI; segments with a length, one frame header among them; scans, each with its tables before
  it; EOI; nothing after it. No fill bytes, no marker without a length before the first scan, no other process than
  baseline, extended and progressive by Huffman codes. The manifest lies in APP11 segments that follow each other
  without a gap and make one whole box (ISO 19566-5, annex D); there is no other APP11.
* PNG (third edition): chunks with right checksums, IHDR first, IDAT in one run, IEND last and nothing after it. The
  manifest is one caBX before the pixels. Where pixels alone are to prove something, the IDAT stream too is followed to
  its end, by all of its rules: decoders disagree about where they give up on one that breaks them, and show half a picture.
* WebP (RFC 9649): the RIFF's size is the file's, each known chunk at most once, padding zero. The manifest is one chunk
  C2PA at the end.

`flaw` says what breaks these rules. `views` says for what reasons honest programs show a file that keeps to them
differently; it matters where pixels alone are to prove something.
"""

import functools
import io
import re
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
from PIL import Image

from lienzo.images import MAX_PIXELS
from lienzo.provenance.deflate import DeflateError, walk
from lienzo.provenance.files import Kind, kind_of_data

_SOI, _EOI, _SOS, _APP11 = 0xD8, 0xD9, 0xDA, 0xEB
_FRAMES: Final = (0xC0, 0xC1, 0xC2)
"""Frame headers: baseline, extended and progressive, with Huffman codes."""
_TABLES: Final = (0xC4, 0xDB, 0xDD, 0xFE)
"""DHT, DQT, DRI, COM: what may stand before any scan."""
_APPS: Final = range(0xE0, 0xF0)
_IN_SCAN: Final = re.compile(rb"\xff[^\x00\xd0-\xd7]")
"""What ends a scan's data: a marker that is neither a stuffed byte nor a restart."""

_CRITICAL: Final = (b"IHDR", b"PLTE", b"IDAT", b"IEND")
_PLAIN: Final = (b"IHDR", b"IDAT", b"IEND", b"caBX", b"tEXt", b"zTXt", b"iTXt", b"tIME", b"sRGB")
"""Chunks that change nothing of how a PNG is shown; sRGB says what is assumed without it."""
_TEXT: Final = (b"tEXt", b"zTXt", b"iTXt")
_WORDS: Final = (
    # of the PNG specification, section 11.3.3.1
    b"Title", b"Author", b"Description", b"Copyright", b"Creation Time", b"Software", b"Disclaimer", b"Warning", b"Source", b"Comment",
    b"lienzo", b"parameters",  # of lienzo's own pictures, the second also of AUTOMATIC1111's and those who follow it
    b"prompt", b"workflow",  # ComfyUI
    b"Dream", b"sd-metadata", b"invokeai_metadata", b"invokeai_graph", b"invokeai_workflow",  # InvokeAI
    b"date:create", b"date:modify", b"date:timestamp",  # ImageMagick
)  # fmt: skip
"""Keywords of texts that no program goes by. Others steer some: ImageMagick takes `colorspace`, `type`, `exif:Orientation` and
more for its own settings, others look into `Raw profile type exif` and `XML:com.adobe.xmp`."""
_CHANNELS: Final = {0: 1, 2: 3}
"""By the colour types that are shown alike everywhere: grey and RGB."""
_ONE_PASS: Final = ((0, 0, 1, 1),)
_ADAM7: Final = (
    (0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2),
)  # fmt: skip
"""The first column and row of each pass, and the steps to the next ones (section 8.1)."""
_MOST_RASTER: Final = 4 * MAX_PIXELS
"""Bytes of pixels, filters included, of the thinnest picture that is read at all."""
_WEBP: Final = (b"VP8X", b"ICCP", b"ANIM", b"ANMF", b"ALPH", b"VP8 ", b"VP8L", b"EXIF", b"XMP ", b"C2PA")
_LOSSY: Final = "it is lossy, and programs decode it to slightly other pixels"


@dataclass(frozen=True, kw_only=True)
class Structure:
    """What a file was found to be.

    Attributes:
        flaw: why programs may read other pictures out of it; None: it keeps to the rules.
        views: why it may be shown differently all the same.
        place: of the manifest's container in the file, begin and end; None where there is none.
        store: the manifest store in it.
    """

    flaw: str | None = None
    views: tuple[str, ...] = ()
    place: tuple[int, int] | None = None
    store: bytes = b""


class _FlawError(Exception):
    """What breaks the rules, in words."""


def structure(data: bytes, *, pixels: bool = False) -> Structure:
    """Take a PNG, JPEG or WebP apart, told by content. Never raises.

    Args:
        pixels: also follow the compressed pixels of a PNG, which takes half a second for each megabyte; what is wrong there is
            one of the `views`.
    """
    png = functools.partial(_png, pixels=pixels)
    readers: dict[Kind, Callable[[bytes], Structure]] = {"PNG": png, "JPEG": _jpeg, "WEBP": _webp}
    kind = kind_of_data(data)
    try:
        return readers[kind](data) if kind is not None else Structure(flaw="it is no PNG, JPEG or WebP")
    except _FlawError as flaw:
        return Structure(flaw=str(flaw))


def _jpeg(data: bytes) -> Structure:
    parts = list(_segments(data))
    markers = [marker for marker, _, _ in parts]
    first = markers.index(_SOS)
    frames = [marker for marker in markers if marker not in (_SOS, _APP11, *_TABLES, *_APPS)]
    _must(
        len(frames) == 1 and frames[0] in _FRAMES and markers.index(frames[0]) < first,
        f"its frame headers are {_hex(frames)}; one of {_hex(_FRAMES)} is expected",
    )
    _must(
        all(marker in (_SOS, *_TABLES) for marker in markers[first:]),
        "there are other segments than tables among its scans",
    )
    ours = [i for i, marker in enumerate(markers) if marker == _APP11]
    if not ours:
        return Structure(views=(_LOSSY,))
    _must(ours[-1] - ours[0] + 1 == len(ours) and ours[-1] < first, "its APP11 segments do not follow each other")
    place = parts[ours[0]][1], parts[ours[-1]][2]
    return Structure(views=(_LOSSY,), place=place, store=_joined([data[parts[i][1] + 4 : parts[i][2]] for i in ours]))


def _segments(data: bytes) -> Iterator[tuple[int, int, int]]:
    """(marker, begin, end) of each segment up to EOI, which ends the file; a scan's data belong to no segment."""
    at, scanned = 2, False
    while data[at : at + 2] != b"\xff\xd9":
        _must(data[at : at + 1] == b"\xff" and at + 4 <= len(data), "it has bytes that belong to no segment, or no end")
        marker, size = data[at + 1], int.from_bytes(data[at + 2 : at + 4])
        end = at + 2 + size
        # before anything is said of a length: a marker that others know as bare has none
        _must(marker >= 0xC0 and not 0xD0 <= marker <= _EOI and marker != 0xFF, f"a marker {marker:02x} out of place")
        _must(size >= 2 and end <= len(data), "a segment is cut off")
        yield marker, at, end
        if marker == _SOS:
            scanned = True
            found = _IN_SCAN.search(data, end)
            _must(found is not None, "it does not end")
            assert found is not None
            end = found.start()
        at = end
    _must(scanned, "it has no scan")
    _must(at + 2 == len(data), f"{len(data) - at - 2:,} bytes follow its end")


def _joined(segments: list[bytes]) -> bytes:
    """The one box that APP11 segments hold: of each "JP", the box's number, its own number, and the box's head again."""
    head = segments[0][:4], segments[0][8:16]
    for number, one in enumerate(segments, 1):
        _must(
            len(one) > 16 and one[:2] == b"JP" and (one[:4], one[8:16]) == head and int.from_bytes(one[4:8]) == number,
            "its APP11 segments do not make one box",
        )
    store = segments[0][8:16] + b"".join(one[16:] for one in segments)
    _must(int.from_bytes(store[:4]) == len(store), "its APP11 segments do not make one whole box")
    return store


def _png(data: bytes, *, pixels: bool) -> Structure:
    names, views, place, store = list[bytes](), list[str](), None, b""
    header, stream = b"", list[bytes]()
    for name, at, end in _chunks(data):
        body = data[at + 8 : end - 4]
        names.append(name)
        if name == b"IHDR":
            _must(len(body) == 13, "a header of another size")
            header = body
            if body[8] != 8 or body[9] not in _CHANNELS:
                views.append("it is neither RGB nor grey of 8 bits, without transparency")
            elif body[10:12] != bytes(2) or body[12] > 1:
                views.append("its pixels are kept in a way that is not known")
        elif name == b"IDAT":
            stream.append(body)
        elif name == b"PLTE":
            views.append("it has a palette")
        elif name == b"caBX":
            place, store = (at, end), body
        elif name in _TEXT and (word := body.partition(b"\0")[0]) not in _WORDS:
            views.append(f"it has a text {word[:40].decode('latin-1')!a}, and some programs go by texts")
        elif name not in (*_PLAIN, *_CRITICAL):
            views.append(f"it has a chunk {name.decode()}")
    first = names.index(b"IDAT") if b"IDAT" in names else 0
    count = names.count(b"IDAT")
    _must(names[:1] == [b"IHDR"] and names.count(b"IHDR") == 1, "IHDR is not its first chunk, once")
    _must(names[-1] == b"IEND" and names.count(b"IEND") == 1, "IEND is not its last chunk, once")
    _must(count > 0 and names[first : first + count] == [b"IDAT"] * count, "its IDAT chunks do not follow each other")
    _must(names.count(b"PLTE") <= 1, "more than one palette")
    _must(b"caBX" not in names[first:] and names.count(b"caBX") <= 1, "its manifest is not one chunk before the pixels")
    if pixels and not views:
        try:
            _follow(header, b"".join(stream))
        except (_FlawError, DeflateError, zlib.error) as error:
            views.append(f"its compressed pixels are not surely read alike everywhere: {error}")
    return Structure(views=tuple(dict.fromkeys(views)), place=place, store=store)


def _follow(header: bytes, stream: bytes) -> None:
    """A PNG's pixels, of a header that is known: exactly its rows, by every rule of zlib's format."""
    width, height = int.from_bytes(header[:4]), int.from_bytes(header[4:8])
    steps = _ADAM7 if header[12] else _ONE_PASS
    passes = [(-(-(height - y) // down), -(-(width - x) // right)) for x, y, right, down in steps]
    rasters = [(rows, 1 + _CHANNELS[header[9]] * columns) for rows, columns in passes if rows > 0 and columns > 0]
    size = sum(rows * row for rows, row in rasters)
    _must(size <= _MOST_RASTER, f"{size:,} bytes of pixels, more than the {_MOST_RASTER:,} that are read")
    found = walk(stream)
    _must(found.size == size, f"{found.size:,} bytes of pixels, {size:,} are expected")
    _must(
        found.reach <= found.window, f"they reach {found.reach:,} bytes back, the header says {found.window:,} at most"
    )
    _must(found.end + 4 == len(stream), "they do not end with the checksum, or something follows it")
    raw = np.frombuffer(zlib.decompress(stream), np.uint8)  # raises where the checksum is wrong
    for rows, row in rasters:
        _must(bool((raw[: rows * row : row] <= 4).all()), "a filter that nobody knows")
        raw = raw[rows * row :]


def _chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """(name, begin, end) of each chunk of a PNG, to the end of the file."""
    at = 8
    while at < len(data):
        end = at + 12 + int.from_bytes(data[at : at + 4])
        _must(end <= len(data), "a chunk is cut off, or bytes follow its end")
        name = data[at + 4 : at + 8]
        _must(name.isalpha() and (name[0] & 32 > 0 or name in _CRITICAL), "a chunk that nobody knows")
        _must(zlib.crc32(data[at + 4 : end - 4]) == int.from_bytes(data[end - 4 : end]), "a chunk's checksum is wrong")
        yield name, at, end
        at = end
    _must(at > 8, "it has no chunk")


def _webp(data: bytes) -> Structure:
    _must(int.from_bytes(data[4:8], "little") == len(data) - 8, "its size is not the one that it states")
    found = dict[bytes, tuple[int, int]]()
    at = 12
    while at < len(data):
        name, size = data[at : at + 4], int.from_bytes(data[at + 4 : at + 8], "little")
        end = at + 8 + size + size % 2
        _must(end <= len(data) and not any(data[at + 8 + size : end]), "a chunk is cut off, or its padding is not zero")
        _must(name in _WEBP and (name not in found or name == b"ANMF"), "a chunk that nobody knows, or one twice")
        found[name] = at, at + 8 + size
        at = end
    names = list(found)
    pixels = [name for name in names if name in (b"VP8 ", b"VP8L")]
    extended = names[:1] == [b"VP8X"]
    _must(extended or names[1:] in ([], [b"C2PA"]), "its first chunk is not VP8X, and there are more than the pixels")
    _must(b"VP8X" not in names[1:] and len(pixels) == (b"ANMF" not in found), "it does not hold one picture")
    _must(b"C2PA" not in names[:-1], "its manifest is not its last chunk")
    views = [
        f"it has a chunk {name.decode().strip()}" for name in names if name not in (b"VP8X", b"VP8 ", b"VP8L", b"C2PA")
    ]
    if pixels == [b"VP8L"]:
        begin = found[b"VP8L"][0] + 8
        head = data[begin : begin + 5]
        bits = int.from_bytes(head[1:], "little")  # width - 1 and height - 1 in 14 bits each, whether alpha is used
        _must(len(head) == 5 and head[0] == 0x2F, "its pixels have no header")
        if bits >> 28 & 1 or _transparent(data[begin - 8 : found[b"VP8L"][1]]):
            views.append("it has transparency")
        if extended:
            canvas = data[found[b"VP8X"][0] + 8 : found[b"VP8X"][1]]
            sides = (bits & 0x3FFF).to_bytes(3, "little") + (bits >> 14 & 0x3FFF).to_bytes(3, "little")
            _must(len(canvas) == 10 and canvas[4:] == sides, "its canvas is not of the picture's size")
            if canvas[0] & 0x10 and "it has transparency" not in views:
                views.append("it says that it has transparency")
            if canvas[0] & 0x02:
                views.append("it says that it is animated")
    else:
        views.append(_LOSSY)
    if b"C2PA" not in found:
        return Structure(views=tuple(views))
    begin, end = found[b"C2PA"]
    return Structure(views=tuple(views), place=(begin, end), store=data[begin + 8 : end])


def _must(holds: bool, flaw: str) -> None:
    if not holds:
        raise _FlawError(flaw)


def _hex(markers: tuple[int, ...] | list[int]) -> str:
    return " ".join(f"{marker:02x}" for marker in markers) or "none"


def _transparent(chunk: bytes) -> bool:
    """Whether the pixels of a VP8L chunk have transparency that its header does not tell of: the bit there is a hint, which some
    programs believe and others do not. The pixels are read once more, with the hint set."""
    hinted = bytearray(chunk)
    hinted[12] |= 0x10
    padded = bytes(hinted) + bytes(len(hinted) % 2)
    file = b"RIFF" + (4 + len(padded)).to_bytes(4, "little") + b"WEBP" + padded
    try:
        with Image.open(io.BytesIO(file), formats=("WEBP",)) as image:
            return image.mode == "RGBA" and image.getchannel("A").getextrema() != (255, 255)
    except (OSError, ValueError, SyntaxError):
        return True  # nobody can tell
