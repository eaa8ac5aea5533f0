"""Compressed streams, followed symbol by symbol: what zlib writes passes, and what bends the format does not."""

import re
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lienzo.provenance import deflate
from lienzo.provenance.deflate import DeflateError, walk

ORDER = (16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15)


class Bits:
    """A stream, written bit by bit."""

    def __init__(self) -> None:
        self.bits: list[int] = []

    def number(self, value: int, size: int) -> "Bits":
        self.bits += [value >> i & 1 for i in range(size)]
        return self

    def code(self, *codes: str) -> "Bits":
        self.bits += [int(bit) for code in codes for bit in code]
        return self

    def stream(self, unpacked: bytes, head: bytes = b"\x78\x9c") -> bytes:
        body = np.packbits(np.array(self.bits, np.uint8), bitorder="little").tobytes()
        return head + body + zlib.adler32(unpacked).to_bytes(4)


def block(lengths: dict[int, int], distances: dict[int, int]) -> Bits:
    """The last block, up to its first symbol. All lengths are written in codes of 4 bits, for 0 to 15."""
    bits = Bits().number(1, 1).number(2, 2).number(max(*lengths, 256) - 256, 5)
    bits.number(max(distances, default=0), 5).number(15, 4)
    for symbol in ORDER:
        bits.number(4 if symbol < 16 else 0, 3)
    for of, least in ((lengths, 257), (distances, 1)):
        for symbol in range(max(least, *(one + 1 for one in of), 1)):
            bits.code(f"{of.get(symbol, 0):04b}")
    return bits


A, B = ord("A"), ord("B")


def strict(stream: bytes) -> bytes:
    """What a stream unpacks to, where `walk` and zlib agree about it."""
    found = walk(stream)
    unpacked = zlib.decompress(stream)
    assert (found.size, found.end + 4) == (len(unpacked), len(stream))
    assert found.reach <= min(found.window, len(unpacked))
    return unpacked


contents = st.one_of(
    st.binary(max_size=3000),
    st.builds(
        lambda size, colours, seed: np.random.default_rng(seed).integers(0, colours, size, np.uint8).tobytes(),
        st.integers(0, 60_000), st.sampled_from([1, 2, 5, 200]), st.integers(0, 99),
    ),
    st.builds(lambda part, times: part * times, st.binary(min_size=1, max_size=500), st.integers(1, 100)),
)  # fmt: skip


@settings(max_examples=200, deadline=None)
@given(
    content=contents,
    level=st.integers(0, 9),
    window=st.integers(9, 15),
    memory=st.integers(1, 9),
    strategy=st.sampled_from([zlib.Z_DEFAULT_STRATEGY, zlib.Z_FILTERED, zlib.Z_HUFFMAN_ONLY, zlib.Z_RLE, zlib.Z_FIXED]),
    flush=st.sampled_from([zlib.Z_NO_FLUSH, zlib.Z_SYNC_FLUSH, zlib.Z_FULL_FLUSH, zlib.Z_PARTIAL_FLUSH]),
)
def test_what_zlib_writes(content: bytes, level: int, window: int, memory: int, strategy: int, flush: int) -> None:
    packer = zlib.compressobj(level, zlib.DEFLATED, window, memory, strategy)
    half = len(content) // 2
    stream = packer.compress(content[:half]) + packer.flush(flush) + packer.compress(content[half:]) + packer.flush()
    assert strict(stream) == content


@settings(max_examples=500, deadline=None)
@given(content=contents.filter(len), strategy=st.sampled_from([zlib.Z_DEFAULT_STRATEGY, zlib.Z_FIXED]), data=st.data())
def test_a_changed_bit(content: bytes, strategy: int, data: st.DataObject) -> None:
    """What zlib refuses is refused, and where both go on they come to the same end. The checksum is zlib's business."""
    packer = zlib.compressobj(9, strategy=strategy)
    stream = bytearray(packer.compress(content) + packer.flush())
    bit = data.draw(st.integers(0, min(8 * len(stream), 4000) - 1))
    stream[bit // 8] ^= 1 << bit % 8
    try:
        found = walk(bytes(stream))
    except DeflateError:
        return
    unpacker = zlib.decompressobj(-15)
    unpacked = unpacker.decompress(stream[2:])
    assert unpacker.eof and len(unpacked) == found.size
    assert len(stream) - len(unpacker.unused_data) == found.end
    try:
        assert zlib.decompress(stream) == content
    except zlib.error:
        assert unpacked != content or bit < 16 or bit >= 8 * found.end


@given(st.binary(max_size=300), st.binary(max_size=2))
def test_anything_for_a_stream(data: bytes, head: bytes) -> None:
    for stream in (data, b"\x78\x9c" + data, b"\x78\x9c" + b"\x05" + data):
        try:
            found = walk(stream)
        except DeflateError:
            continue
        assert len(zlib.decompressobj(-15).decompress(stream[2:])) == found.size


def test_how_far_it_reaches() -> None:
    noise = np.random.default_rng(0).integers(0, 256, 30_000, np.uint8).tobytes()
    for distance in (300, 8_000, 30_000):
        found = walk(zlib.compress(noise[:distance] + noise[:100], 9))
        assert (found.reach, found.window) == (distance, 32_768)
    assert walk(zlib.compress(noise)).reach == 0
    assert walk(b"\x08\x1d" + zlib.compress(noise[:300] * 2)[2:]).window == 256


def test_a_single_distance_takes_one_bit() -> None:
    """Which leaves a bit that means nothing, and is how RFC 1951 wants it (section 3.2.7)."""
    lengths = {A: 2, 256: 2, 257: 1}  # codes: 257 0, A 10, 256 11
    assert strict(block(lengths, {0: 1}).code("10", "0", "0", "11").stream(b"AAAA")) == b"AAAA"
    with pytest.raises(DeflateError, match="means nothing"):
        walk(block(lengths, {0: 1}).code("10", "0", "1", "11").stream(b"AAAA"))
    assert strict(block({A: 1, 256: 1}, {}).code("0", "1").stream(b"A")) == b"A"
    with pytest.raises(DeflateError, match="means nothing"):
        walk(block(lengths, {}).code("10", "0", "0", "11").stream(b"AAAA"))


@pytest.mark.parametrize(
    ("stream", "why"),
    [
        # what zlib takes: it goes on to give whole pictures, where others show half
        (block({256: 1}, {}).code("0").stream(b""), "mean nothing"),
        (Bits().number(1, 1).number(0, 2).number(1, 5).number(0, 16).number(65535, 16).stream(b""), "between blocks"),
        (Bits().number(1, 1).number(1, 2).number(0, 7).number(1, 6).stream(b""), "between blocks"),
        # what it does not take either
        (block({A: 1, 256: 2}, {}).code("0", "10").stream(b"A"), "mean nothing"),
        (block({A: 1, B: 1, 256: 1}, {}).code("0").stream(b"A"), "two things"),
        (block({A: 1, B: 1}, {}).code("0").stream(b"A"), "without an end"),
        (block({A: 1, 256: 1}, {0: 2, 1: 1}).code("0", "1").stream(b"A"), "mean nothing"),
        (block({A: 1, 256: 1}, {0: 2}).code("0", "1").stream(b"A"), "mean nothing"),
        (block({A: 2, 256: 2, 257: 1}, {1: 1}).code("10", "0", "0", "11").stream(b"AAAA"), "before the beginning"),
        (block({A: 1, 286: 2, 256: 2}, {}).code("0", "10").stream(b"A"), "what there is not"),
        (block({A: 1, 256: 1}, {0: 1, 30: 1}).code("0", "1").stream(b"A"), "what there is not"),
        (Bits().number(1, 1).number(1, 2).code("11000110").stream(b""), "means nothing"),  # the length 286
        (Bits().number(1, 1).number(1, 2).code("10000000", "0000001", "11110").stream(b""), "means nothing"),
        (Bits().number(1, 1).number(3, 2).stream(b""), "unknown kind"),
        (Bits().number(1, 1).number(0, 2).number(0, 5).number(3, 16).number(3, 16).stream(b""), "told twice"),
        (zlib.compress(bytes(99), 0)[:-20], "cut off"),
        (zlib.compress(bytes(range(99)))[:-20], "cut off"),
        (b"", "no header"), (b"\x78\x9d", "no header"), (b"\x77\x09", "another method"), (b"\x88\x1c", "window"),
        (b"\x78\xbb", "dictionary"),
    ],
)  # fmt: skip
def test_what_breaks_the_rules(stream: bytes, why: str) -> None:
    with pytest.raises(DeflateError, match=re.escape(why)):
        walk(stream)


def test_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    small = zlib.compressobj(9, memLevel=1)  # blocks of 128 symbols
    stream = small.compress(np.random.default_rng(0).integers(0, 99, 9000, np.uint8).tobytes()) + small.flush()
    monkeypatch.setattr(deflate, "_MOST_BLOCKS", 50)
    with pytest.raises(DeflateError, match="more than the 50 blocks"):
        walk(stream)
    monkeypatch.setattr(deflate, "MOST", 1000)
    with pytest.raises(DeflateError, match="more than the 1,000 that are followed"):
        walk(stream)
