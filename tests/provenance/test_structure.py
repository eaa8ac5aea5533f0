"""Files that programs read in several ways: none of them proves anything. Each forgery is a real one: something else is shown,
and the library that checks credentials finds nothing wrong."""

import io
import struct
import zlib
from typing import Any

import numpy as np
import pytest
from forging import (
    chunk,
    picture,
    segment,
    where_the_manifest_is,
    with_a_gap,
    with_another_manifest,
    with_box,
    with_less_padding,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms
from PIL.PngImagePlugin import PngInfo

from lienzo.provenance import credentials
from lienzo.provenance.certificates import Issuer
from lienzo.provenance.credentials import STRUCTURE, Parent, add, read
from lienzo.provenance.structure import structure

RECEIPT = {"digest": "ab"}


def must_be_refused(forged: bytes, trusted: str, monkeypatch: pytest.MonkeyPatch) -> None:
    found = read(forged, trust_anchors=trusted)
    assert found.state == "Invalid" and found.failures[-1].startswith(STRUCTURE), found
    with monkeypatch.context() as patch:
        patch.setattr(credentials, "_flaw", lambda *_: None)
        assert read(forged, trust_anchors=trusted).state == "Trusted", "the attack is a real one"


# What honest programs write


EXIF = Image.Exif()
EXIF[0x0131] = "a program"
HONEST: dict[str, tuple[str, dict[str, Any]]] = {
    "png": ("PNG", {}),
    "png, optimised": ("PNG", {"optimize": True}),
    "jpeg": ("JPEG", {"quality": 95, "subsampling": 0}),
    "jpeg, progressive": ("JPEG", {"progressive": True, "quality": 80}),
    "jpeg, restarts": ("JPEG", {"restart_marker_blocks": 1}),
    "jpeg, optimised": ("JPEG", {"optimize": True, "exif": EXIF, "comment": b"hello", "dpi": (72, 72)}),
    "webp": ("WEBP", {"lossless": True}),
    "webp, lossy": ("WEBP", {"lossless": False, "quality": 50}),
    "webp, more": ("WEBP", {"lossless": True, "exif": EXIF, "xmp": b"<x:xmpmeta/>"}),
}


@pytest.mark.parametrize("name", HONEST)
def test_what_honest_programs_write_has_no_flaw(name: str, own: Issuer, trusted: str) -> None:
    kind, options = HONEST[name]
    for size in (15, 64):
        plain = picture(kind, size, **options)
        found = structure(plain)
        assert (found.flaw, found.place, found.store) == (None, None, b"")
    signed = add(plain, kind, issuer=own, title="x", receipt=RECEIPT).data  # type: ignore[arg-type]
    assert read(signed, trust_anchors=trusted).state == "Trusted"
    assert structure(signed).place == where_the_manifest_is(signed) or kind == "WEBP"


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_a_long_manifest_takes_several_segments(kind: Any, own: Issuer, trusted: str) -> None:
    data = picture("JPEG", 16)
    for number in range(6):
        last = number == 5
        data = add(
            picture(kind if last else "JPEG", 16), kind if last else "JPEG", issuer=own, title=f"{number}",
            receipt=RECEIPT, parent=Parent(data, "before"), trust_anchors=trusted,
        ).data  # fmt: skip
    found = read(data, trust_anchors=trusted)
    assert (found.state, found.failures, found.parent) == ("Trusted", (), ("before", "Trusted"))
    assert len(structure(data).store) > 65_536


# What forgers write


@pytest.mark.parametrize("bare", [0xD0, 0xD7])
def test_no_other_jpeg_hides_behind_a_marker_without_a_length(
    bare: int, own: Issuer, trusted: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To the library it is a segment that it passes over, to decoders a bare marker, behind which a picture begins."""
    shown = Image.new("RGB", (40, 24), "red")
    file = io.BytesIO()
    shown.save(file, "JPEG", quality=90)
    inner = file.getvalue()[2:]
    signed = add(picture("JPEG"), "JPEG", issuer=own, title="x", receipt=RECEIPT).data
    forged = with_a_gap(signed, segment(bare, inner))
    with Image.open(io.BytesIO(forged)) as seen:
        assert seen.size == shown.size
    must_be_refused(forged, trusted, monkeypatch)


def profile() -> bytes:
    return b"ICC_PROFILE\0\1\1" + ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


@pytest.mark.parametrize("what", ["profile", "exif", "comment"])
def test_nothing_else_hides_between_the_manifests_parts(
    what: str, own: Issuer, trusted: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    turned = Image.Exif()
    turned[0x0112] = 6
    filler = {
        "profile": segment(0xE2, profile()),
        "exif": segment(0xE1, b"Exif\0\0" + turned.tobytes().removeprefix(b"Exif\0\0")),
        "comment": segment(0xFE, b"<script>"),
    }[what]
    signed = add(picture("JPEG"), "JPEG", issuer=own, title="x", receipt=RECEIPT).data
    forged = with_a_gap(signed, filler)
    must_be_refused(forged, trusted, monkeypatch)


@pytest.mark.parametrize("place", ["c2pa.signature", "c2pa.hash.data"])
def test_no_box_that_nobody_signed(place: str, own: Issuer, trusted: str, monkeypatch: pytest.MonkeyPatch) -> None:
    signed = add(picture("PNG"), "PNG", issuer=own, title="x", receipt=RECEIPT).data
    manifest = structure(signed).store
    label = label_of(manifest)
    inside = [place] if place == "c2pa.signature" else ["c2pa.assertions", place]
    free = struct.pack(">I", 8 + 1000) + b"free" + b"<script>".ljust(1000)
    forged = with_another_manifest(signed, with_box(manifest, ["c2pa", label, *inside], free))
    must_be_refused(forged, trusted, monkeypatch)


def test_no_word_in_the_padding(own: Issuer, trusted: str, monkeypatch: pytest.MonkeyPatch) -> None:
    signed = add(picture("PNG"), "PNG", issuer=own, title="x", receipt=RECEIPT).data
    manifest = structure(signed).store
    at = manifest.rindex(b"cpad") + 7
    forged = with_another_manifest(signed, manifest[:at] + b"<script>" + manifest[at + 8 :])
    must_be_refused(forged, trusted, monkeypatch)


def label_of(manifest: bytes) -> str:
    return "urn:" + manifest.partition(b"urn:")[2].partition(b"\0")[0].decode()


WORDS = b"<script>" * 20


@pytest.mark.parametrize("first", [b"\xa1\x00", b"\xa1\x60", b"list"])
def test_no_words_in_padding_of_another_type(
    first: bytes, own: Issuer, trusted: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A map whose only key is 0 or the empty text, or a list of 0 and false: all that can be asked of them looks like zeros."""
    signed = add(picture("PNG"), "PNG", issuer=own, title="x", receipt=RECEIPT).data
    manifest = structure(signed).store
    at = manifest.rindex(b"cpad") + 4
    size = int.from_bytes(manifest[at + 1 : at + 3])
    if first == b"list":
        body = (
            b"\x99" + size.to_bytes(2) + bytes(0xF4 if bit else 0 for bit in np.unpackbits(bytearray(WORDS * 9))[:size])
        )
    else:
        body = first + b"\x59" + (size - len(first)).to_bytes(2) + WORDS.ljust(size - len(first))
    body = body.ljust(size + 3)
    must_be_refused(
        with_another_manifest(signed, manifest[:at] + body + manifest[at + size + 3 :]), trusted, monkeypatch
    )


def test_no_words_for_the_signatures_content(own: Issuer, trusted: str, monkeypatch: pytest.MonkeyPatch) -> None:
    signed = add(picture("PNG"), "PNG", issuer=own, title="x", receipt=RECEIPT).data
    words = b"\x58" + bytes([len(WORDS)]) + WORDS
    manifest = structure(signed).store
    at = manifest.rindex(b"cpad") + 4
    behind = at + 3 + int.from_bytes(manifest[at + 1 : at + 3])
    assert manifest[behind] == 0xF6, "nil"
    short = with_less_padding(manifest, len(words) - 1)
    grown = bytearray(short[: behind - len(words) + 1] + words + short[behind - len(words) + 2 :])
    assert len(grown) == len(manifest)
    begin = 0
    for label in ("c2pa", label_of(manifest), "c2pa.signature", None):  # the boxes around it are as long as they were
        while label is not None and manifest[begin + 33 :].partition(b"\0")[0].decode() != label:
            begin += int.from_bytes(manifest[begin : begin + 4])
        grown[begin : begin + 4] = manifest[begin : begin + 4]
        begin += 8 + int.from_bytes(manifest[begin + 8 : begin + 12])
    must_be_refused(with_another_manifest(signed, bytes(grown)), trusted, monkeypatch)


def test_no_superbox_that_nothing_refers_to(own: Issuer, trusted: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def box(name: bytes, body: bytes) -> bytes:
        return (8 + len(body)).to_bytes(4) + name + body

    def superbox(kind: bytes, label: bytes, inner: bytes) -> bytes:
        about = kind + bytes.fromhex("00110010800000aa00389b71") + b"\x03" + label + b"\0"
        return box(b"jumb", box(b"jumd", about) + inner)

    data = b"\xa2\x69dc:format\x6atext/plain\x64data\x58" + bytes([len(WORDS)]) + WORDS
    boxes = superbox(b"c2db", b"c2pa.databoxes", superbox(b"cbor", b"c2pa.data", box(b"cbor", data)))
    signed = add(picture("PNG"), "PNG", issuer=own, title="x", receipt=RECEIPT).data
    manifest = structure(signed).store
    forged = with_box(manifest, ["c2pa", label_of(manifest)], boxes)
    must_be_refused(with_another_manifest(signed, forged), trusted, monkeypatch)


def test_a_forged_parents_credentials_are_not_kept(own: Issuer, trusted: str) -> None:
    signed = add(picture("JPEG"), "JPEG", issuer=own, title="x", receipt=RECEIPT).data
    forged = with_a_gap(signed, segment(0xE2, profile()))
    made = add(picture("PNG"), "PNG", issuer=own, title="y", parent=Parent(forged, "in"), trust_anchors=trusted)
    assert read(made.data, trust_anchors=trusted).parent == ("in", None)
    assert STRUCTURE in made.warnings[0]


def test_credentials_of_others_are_not_called_forged(own: Issuer, trusted: str) -> None:
    """Without a receipt of lienzo's it may be an honest file that another program wrote in its own way."""
    signed = add(picture("JPEG"), "JPEG", issuer=own, title="x").data
    found = read(with_a_gap(signed, segment(0xE2, profile())), trust_anchors=trusted)
    assert found.state == "Valid" and found.failures[0].startswith(STRUCTURE)


JPEG, PNG = picture("JPEG", 16), picture("PNG", 16)
WEBP = picture("WEBP", 16, exif=EXIF)


@pytest.mark.parametrize(
    "data",
    [
        JPEG + b"x", JPEG + JPEG, JPEG[:-2], JPEG[:300], JPEG[:2] + JPEG[-2:],
        JPEG[:2] + b"\xff" + JPEG[2:],  # a fill byte
        *(JPEG[:2] + bytes([0xFF, marker]) + JPEG[2:] for marker in (0x01, 0xD0, 0xD7, 0xD8)),
        JPEG[:2] + segment(0xC1, JPEG[JPEG.index(b"\xff\xc0") + 4 :][:15]) + JPEG[2:],  # two frames
        JPEG[:-2] + segment(0xE1, b"Exif\0\0") + JPEG[-2:],
        JPEG[:2] + segment(0xEB, b"JP\0\1\0\0\0\1" + struct.pack(">I", 99) + b"jumb") + JPEG[2:],
        PNG + b"x", PNG + PNG, PNG[:-12], PNG[:-1], PNG[:40] + b"\0" + PNG[41:],
        PNG[:33] + chunk(b"JUNK", b"") + PNG[33:], PNG[:33] + PNG[8:33] + PNG[33:],
        PNG[:33] + chunk(b"caBX", b"") * 2 + PNG[33:], PNG[:-12] + chunk(b"caBX", b"") + PNG[-12:],
        PNG[:-12] + chunk(b"tEXt", b"a\0b") + chunk(b"IDAT", b"") + PNG[-12:], PNG[:8], PNG[:33] + PNG[-12:],
        WEBP + b"xx", WEBP[:-2], WEBP[:4] + struct.pack("<I", len(WEBP) - 4) + WEBP[8:] + b"JUNK",
        WEBP[:12] + WEBP[30:], b"", b"GIF89a",
    ],
)  # fmt: skip
def test_flaws(data: bytes) -> None:
    assert structure(data).flaw is not None


def plain_with(*chunks: bytes) -> bytes:
    return PNG[:33] + b"".join(chunks) + PNG[33:]


def webp(**options: Any) -> bytes:
    return picture("WEBP", 16, **options)


def saved(mode: str, kind: str = "PNG", **options: Any) -> bytes:
    file = io.BytesIO()
    image = Image.open(io.BytesIO(PNG)).convert(mode)
    if mode == "LA":
        image.putalpha(Image.linear_gradient("L").resize(image.size))
    image.save(file, kind, **options)
    return file.getvalue()


@pytest.mark.parametrize(
    "data",
    [
        saved("RGBA"), saved("LA"), saved("P"), saved("1"), saved("I;16"), saved("RGB", transparency=(1, 2, 3)),
        plain_with(chunk(b"acTL", bytes(8))), plain_with(chunk(b"acTL", bytes(8)), chunk(b"acTL", bytes(8))),
        plain_with(chunk(b"fcTL", bytes(26))), plain_with(chunk(b"fdAT", bytes(4))),
        *(plain_with(chunk(name, bytes(4))) for name in (b"gAMA", b"cHRM", b"iCCP", b"cICP", b"eXIf", b"pHYs", b"prVt")),
        plain_with(chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0<x/>")),
        plain_with(chunk(b"zTXt", b"Raw profile type exif\0\0x")),
        saved("LA", "WEBP", lossless=True), webp(exif=EXIF), webp(xmp=b"<x/>"), webp(icc_profile=profile()),
        saved("RGB", "WEBP", quality=80), JPEG,
    ],
)  # fmt: skip
def test_what_is_shown_differently_is_told(data: bytes) -> None:
    found = structure(data)
    assert found.flaw is None and found.views


@pytest.mark.parametrize(
    "word",
    ["colorspace", "type", "exif:Orientation", "orientation", "gamma", "compose", "Colorspace", "alpha", "parameters ",
     "comment", "x" * 200, "", "XML:com.adobe.xmp", "Raw profile type exif", "\xff"],
)  # fmt: skip
@pytest.mark.parametrize("kind", [b"tEXt", b"zTXt", b"iTXt"])
def test_texts_that_steer_programs_are_told(word: str, kind: bytes) -> None:
    """ImageMagick takes the first ones for settings of its own: a picture in inverted colours, or upside down."""
    more = {b"tEXt": b"", b"zTXt": b"\0", b"iTXt": bytes(4)}[kind]
    found = structure(plain_with(chunk(kind, word.encode("latin-1") + b"\0" + more + b"CMY")))
    (told,) = found.views
    assert found.flaw is None and "some programs go by texts" in told and len(told) < 250


def test_what_is_shown_alike() -> None:
    texts = PngInfo()
    texts.add_text("parameters", "a circle")
    texts.add_text("parameters", "ein Kreis, \u4e00", zip=True)
    texts.add_itxt("lienzo", "{}")
    for word in ("Software", "Comment", "Creation Time", "prompt", "workflow"):
        texts.add_text(word, "colorspace")
    for data in (PNG, saved("L"), saved("RGB", pnginfo=texts), plain_with(chunk(b"sRGB", b"\0")), webp()):
        assert structure(data).views == ()


# Compressed pixels


@pytest.mark.parametrize("options", [*({"compress_level": level} for level in range(10)), {"optimize": True}])
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_pixels_as_pillow_writes_them(mode: str, options: dict[str, Any]) -> None:
    for size in ((1, 1), (200, 150), (3, 700)):
        for image in (Image.effect_noise(size, 60), Image.linear_gradient("L").resize(size), Image.new("L", size)):
            file = io.BytesIO()
            image.convert(mode).save(file, "PNG", **options)
            assert structure(file.getvalue(), pixels=True) == structure(file.getvalue())


def test_pixels_in_signed_pictures(own: Issuer) -> None:
    signed = add(picture("PNG"), "PNG", issuer=own, title="x", receipt=RECEIPT).data
    assert structure(signed, pixels=True).views == ()


WIDTH, HEIGHT = 90, 60
ROWS = b"".join(
    b"\0" + row.tobytes() for row in np.random.default_rng(0).integers(0, 256, (HEIGHT, 3 * WIDTH), np.uint8)
)


def png(stream: bytes, *more: bytes, interlaced: int = 0, head: bytes = b"\0\0") -> bytes:
    """An RGB picture of WIDTH and HEIGHT, its stream in many chunks."""
    header = struct.pack(">IIBB", WIDTH, HEIGHT, 8, 2) + head + bytes([interlaced])
    parts = (chunk(b"IDAT", stream[at : at + 999]) for at in range(0, len(stream), 999))
    return PNG[:8] + chunk(b"IHDR", header) + b"".join([*more, *parts]) + chunk(b"IEND", b"")


def seen(data: bytes) -> bytes:
    with Image.open(io.BytesIO(data)) as image:
        return image.convert("RGB").tobytes()


def small_window() -> bytes:
    """The lower half repeats the upper one, from further back than the header says that anyone has to remember."""
    half = ROWS[: len(ROWS) // 2]
    return b"\x08\x1d" + zlib.compress(half * 2, 9)[2:]


def only_an_end() -> bytes:
    """Between two blocks one of a code that has but one symbol, the block's end: zlib goes on, others stop."""
    packer = zlib.compressobj(wbits=-15)
    first = packer.compress(ROWS[:5000]) + packer.flush(zlib.Z_FULL_FLUSH)
    order = (16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1)
    lengths = [{18: 1, 0: 2, 1: 2}.get(symbol, 0) for symbol in order]
    bits = [
        0,
        0,
        1,
        *[0] * 10,
        *(14 >> i & 1 for i in range(4)),
    ]  # a block with codes of its own: 257, 1, and 18 lengths
    bits += [one >> i & 1 for one in lengths for i in range(3)]
    for zeros in (138, 118):  # codes: 18 is 0, 0 is 10, 1 is 11
        bits += [0, *(zeros - 11 >> i & 1 for i in range(7))]
    bits += [1, 1, 1, 0, 0]  # of the end 1, of distances none; the end
    bits += [0, 0, 0]  # an empty block that is not compressed ends on a byte
    middle = np.packbits(np.array(bits, np.uint8), bitorder="little").tobytes() + b"\0\0\xff\xff"
    packer = zlib.compressobj(wbits=-15)
    return b"\x78\x9c" + first + middle + packer.compress(ROWS[5000:]) + packer.flush() + zlib.adler32(ROWS).to_bytes(4)


STREAMS = {
    "a smaller window than it uses": (small_window(), "bytes back"),
    "a code with bits that mean nothing": (only_an_end(), "mean nothing"),
    "too few rows": (zlib.compress(ROWS[:5000] + bytes(271)), "are expected"),
    "a row too many": (zlib.compress(ROWS + bytes(271)), "are expected"),
    "a wrong checksum": (zlib.compress(ROWS)[:-4] + b"abcd", "incorrect data check"),
    "no checksum": (zlib.compress(ROWS)[:-4], "checksum"),
    "something behind it": (zlib.compress(ROWS) + b"x", "checksum"),
    "a filter that nobody knows": (zlib.compress(ROWS[:-271] + b"\5" + ROWS[-270:]), "filter"),
}


@pytest.mark.parametrize("name", STREAMS)
def test_compressed_pixels_that_others_read_differently(name: str) -> None:
    stream, why = STREAMS[name]
    found = structure(png(stream), pixels=True)
    assert found.flaw is None and len(found.views) == 1 and why in found.views[0]
    assert structure(png(stream)).views == ()


@pytest.mark.parametrize("name", ["a smaller window than it uses", "a code with bits that mean nothing"])
def test_pillow_takes_them_for_whole(name: str) -> None:
    """Which is what makes them forgeries."""
    stream, _ = STREAMS[name]
    assert seen(png(stream)) == seen(png(zlib.compress(zlib.decompress(stream))))


def test_a_smaller_window_that_is_enough() -> None:
    """As Photoshop and libpng write it."""
    for window in range(9, 15):
        packer = zlib.compressobj(9, wbits=window)
        assert structure(png(packer.compress(ROWS) + packer.flush()), pixels=True).views == ()


def test_interlaced_pixels() -> None:
    passes = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
    pixels = np.frombuffer(ROWS, np.uint8).reshape(HEIGHT, -1)[:, 1:].reshape(HEIGHT, WIDTH, 3)
    rows = b"".join(b"\0" + row.tobytes() for x, y, right, down in passes for row in pixels[y::down, x::right])
    data = png(zlib.compress(rows), interlaced=1)
    assert seen(data) == pixels.tobytes()
    assert structure(data, pixels=True).views == ()
    assert structure(png(zlib.compress(ROWS), interlaced=1), pixels=True).views


@pytest.mark.parametrize(
    "data",
    [
        png(zlib.compress(ROWS), interlaced=2), png(zlib.compress(ROWS), head=b"\0\1"), png(zlib.compress(ROWS), head=b"\1\0"),
        png(zlib.compress(ROWS), chunk(b"PLTE", b"x" * 800)), png(zlib.compress(ROWS), chunk(b"PLTE", bytes(3))),
    ],
)  # fmt: skip
def test_what_goes_with_no_such_pixels(data: bytes) -> None:
    assert structure(data).flaw is None and len(structure(data).views) == 1


def test_a_header_of_any_size() -> None:
    for sides in ((2**31 - 1, 2**31 - 1), (0, 0), (1, 2**32 - 1)):
        header = struct.pack(">IIBBBBB", *sides, 8, 2, 0, 0, 0)
        data = PNG[:8] + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(ROWS)) + chunk(b"IEND", b"")
        assert structure(data, pixels=True).views


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_anything_at_all_is_taken_apart(data: st.DataObject) -> None:
    """Whatever was changed, cut or put in: it is told or found whole, and never an error."""
    of = bytearray(data.draw(st.sampled_from([JPEG, PNG, WEBP])))
    at = data.draw(st.integers(0, len(of) - 1))
    of[at : data.draw(st.integers(at, at + 4))] = data.draw(st.binary(max_size=6))
    found = structure(bytes(of), pixels=True)
    assert found.place is None or found.store


@pytest.mark.parametrize("extended", [False, True])
def test_transparency_that_the_header_hides_is_told(extended: bool) -> None:
    """Pillow shows such a picture opaque, browsers do not."""
    image = Image.effect_noise((64, 48), 80).convert("RGBA")
    image.putalpha(Image.linear_gradient("L").resize((64, 48)))
    file = io.BytesIO()
    image.save(file, "WEBP", lossless=True, exact=True)
    data = file.getvalue()
    begin = data.index(b"VP8L")
    chunk = bytearray(data[begin:])
    chunk[12] &= 0xEF
    canvas = b"VP8X" + (10).to_bytes(4, "little") + bytes(4) + (63).to_bytes(3, "little") + (47).to_bytes(3, "little")
    body = b"WEBP" + (canvas if extended else b"") + bytes(chunk)
    forged = b"RIFF" + len(body).to_bytes(4, "little") + body
    assert Image.open(io.BytesIO(forged)).mode == "RGB"
    assert "it has transparency" in structure(forged).views


def test_an_opaque_lossless_webp_is_shown_alike() -> None:
    file = io.BytesIO()
    Image.effect_noise((64, 48), 80).convert("RGB").save(file, "WEBP", lossless=True)
    assert structure(file.getvalue()).views == ()
