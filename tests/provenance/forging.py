"""Forged files: other bytes where the hash of Content Credentials does not look."""

import io
import struct
import zlib
from typing import Any

import numpy as np
from PIL import Image


def picture(kind: str, size: int = 32, seed: int = 0, **options: Any) -> bytes:
    colours = np.random.default_rng(seed).integers(0, 256, (size, size, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(colours).save(buffer, kind, **{**({"lossless": True} if kind == "WEBP" else {}), **options})
    return buffer.getvalue()


def with_less_padding(store: bytes, less: int) -> bytes:
    """The manifest with some of the padding left out that its signature's unsigned header holds, and no word of it changed."""
    at = store.rindex(b"cpad") + 4
    assert store[at] == 0x59  # CBOR: bytes, their number in two bytes
    size = int.from_bytes(store[at + 1 : at + 3])
    made = bytearray(store)

    def shorten(begin: int, end: int) -> None:
        while begin < end:
            length = int.from_bytes(store[begin : begin + 4])
            if begin <= at < begin + length:
                made[begin : begin + 4] = (length - less).to_bytes(4)
                if store[begin + 4 : begin + 8] == b"jumb":
                    shorten(begin + 8, begin + length)
            begin += length

    shorten(0, len(store))
    return (
        bytes(made[: at + 1])
        + (size - less).to_bytes(2)
        + bytes(made[at + 3 : at + 3 + size - less])
        + made[at + 3 + size :]
    )


def where_the_manifest_is(signed: bytes) -> tuple[int, int]:
    """From its container's first byte to behind its last."""
    if signed.startswith(b"\xff\xd8"):
        first = signed.index(b"\xff\xeb")  # one segment: the manifest is short
        return first, first + 2 + int.from_bytes(signed[first + 2 : first + 4])
    order: Any = "big" if signed.startswith(b"\x89PNG") else "little"
    name = signed.index(b"caBX" if order == "big" else b"C2PA")
    size = int.from_bytes(signed[name - 4 : name] if order == "big" else signed[name + 4 : name + 8], order)
    return (name - 4, name + 8 + size) if order == "big" else (name, name + 8 + size + size % 2)


def chunk(name: bytes, body: bytes) -> bytes:
    """Of a PNG."""
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def segment(marker: int, body: bytes) -> bytes:
    """Of a JPEG."""
    return bytes([0xFF, marker]) + struct.pack(">H", len(body) + 2) + body


def with_another_manifest(signed: bytes, store: bytes) -> bytes:
    """The same PNG around another manifest store."""
    begin, end = where_the_manifest_is(signed)
    return signed[:begin] + chunk(b"caBX", store) + signed[end:]


def with_a_gap(signed: bytes, filler: bytes, least: int = 0) -> bytes:
    """A signed JPEG whose manifest was parted in two, one at either end of its place, with something else between.

    Args:
        least: bytes that the filler takes; what is missing is filled up with a comment.
    """
    begin, end = where_the_manifest_is(signed)
    head, store = signed[begin + 4 : begin + 8], signed[begin + 12 : end]
    room = max(len(filler) + 4, least)
    short = with_less_padding(store, room + 20)  # a second segment has a header of its own
    half = len(short) // 2
    parts = [short[:half], short[:8] + short[half:]]
    first, last = (segment(0xEB, head + struct.pack(">I", number) + part) for number, part in enumerate(parts, 1))
    forged = signed[:begin] + first + filler + segment(0xFE, bytes(room - len(filler) - 4)) + last + signed[end:]
    assert len(forged) == len(signed)
    return forged


def with_box(store: bytes, labels: list[str], box: bytes) -> bytes:
    """A manifest store with one more box at the end of what a superbox holds, and so much less padding."""
    short = with_less_padding(store, len(box))
    made, begin, end = bytearray(short), 0, len(short)
    for label in labels:
        at = begin
        while True:
            size, about = (int.from_bytes(short[i : i + 4]) for i in (at, at + 8))
            if short[at + 33 : at + 8 + about].partition(b"\0")[0].decode() == label:
                break
            at += size
        made[at : at + 4] = struct.pack(">I", size + len(box))
        begin, end = at + 8 + about, at + size
    return bytes(made[:end]) + box + bytes(made[end:])
