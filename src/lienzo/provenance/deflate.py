"""Compressed pixels, followed symbol by symbol, by every rule of their format (zlib, RFC 1950; deflate, RFC 1951).

zlib lets some things pass that other decoders stop at, and then they show half a picture: a distance that reaches further
back than the header's window, which is the memory that others take; a code with bits that mean nothing. Python's zlib does not say that
it met one. `walk` does; the bytes themselves it leaves to zlib.

How: where in a stream the symbols begin is not known before each one's predecessor is read. So at *every* bit of a piece the next
symbol's length is looked up, as if one began there, at once in numpy; then the few true places are followed from one to the next.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

MOST: Final = 24_000_000
"""Bytes of a stream that are followed: fourteen seconds or so."""
_MOST_BLOCKS: Final = 10_000
"""Blocks with Huffman codes, of which small ones take the longest for their bytes: sixteen seconds or so. Encoders make far fewer."""
_PIECE, _FIRST_PIECE = 4096, 512
"""Bytes of a block that are looked at together, at most and at first, as it could be a small one. Most have some ten thousand."""
_AHEAD: Final = 16
"""Bytes behind a piece that its last symbols reach into."""

_LONGEST: Final = 15
"""Bits of a code."""
_END: Final = 256
_FIRST_LENGTH: Final = 257

# RFC 1951, section 3.2.5, both tables: how many more bits follow a code, and the least length or distance that it stands for
_LENGTH_BITS: Final = np.array([0] * 8 + [n for n in range(1, 6) for _ in range(4)] + [0])
_LENGTHS: Final = np.array([*(3 + np.cumsum([0, *(1 << _LENGTH_BITS[:27])])), 258])
_DISTANCE_BITS: Final = np.array([0, 0] + [n for n in range(14) for _ in range(2)])
_DISTANCES: Final = 1 + np.cumsum([0, *(1 << _DISTANCE_BITS[:-1])])

_ORDER: Final = (16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15)
"""In which the code that codes' lengths are written in has its own lengths (section 3.2.7)."""
_REPEATS: Final = {16: (2, 3), 17: (3, 3), 18: (7, 11)}
"""Symbols of it that repeat: how many more bits follow, and the least number of repetitions."""

_STOP: Final = 1 << 40
"""Added to the place behind a block's end."""
_NOWHERE: Final = 1 << 50
"""Where the next symbol is after one that has no meaning."""


class DeflateError(Exception):
    """What breaks the format's rules, in words."""


@dataclass(frozen=True, kw_only=True)
class Walked:
    """What a stream was found to hold.

    Attributes:
        size: bytes that it unpacks to.
        reach: the longest distance back in it; 0 where there is none.
        window: what its header says that distances keep to.
        end: of its last block; the checksum follows.
    """

    size: int
    reach: int
    window: int
    end: int


def walk(stream: bytes) -> Walked:
    """Follow a zlib stream to the end of its last block.

    Raises:
        DeflateError: it breaks a rule, or is more than is followed.
    """
    _must(len(stream) <= MOST, f"{len(stream):,} bytes, more than the {MOST:,} that are followed")
    _must(len(stream) >= 2 and int.from_bytes(stream[:2]) % 31 == 0, "no header of zlib's")
    _must(stream[0] & 15 == 8 and stream[0] >> 4 <= 7, "another method than deflate, or a window of more than 32,768")
    _must(not stream[1] & 32, "a dictionary that is not in it")
    reader = _Reader(stream, 16)
    last, size, reach, blocks = 0, 0, 0, 0
    while not last:
        last, kind = reader.number(1), reader.number(2)
        _must(kind < 3, "a block of an unknown kind")
        if kind == 0:
            size += reader.stored()
            continue
        blocks += 1
        _must(blocks <= _MOST_BLOCKS, f"more than the {_MOST_BLOCKS:,} blocks that are followed")
        more, far = reader.block(_FIXED if kind == 1 else reader.codes(), size)
        size, reach = size + more, max(reach, far)
    reader.align()
    return Walked(size=size, reach=reach, window=1 << (stream[0] >> 4) + 8, end=reader.at // 8)


@dataclass(frozen=True)
class _Codes:
    """Two Huffman codes as tables, by the next 15 bits: the symbol of literals and lengths, and all bits that it takes, more bits
    included; the same of distances. No bits: no symbol, or the block's end."""

    symbol: NDArray[np.int64]
    bits: NDArray[np.int64]
    distance: NDArray[np.int64]
    distance_bits: NDArray[np.int64]


def _codes(lengths: list[int], distances: list[int]) -> _Codes:
    _must(lengths[_END] > 0, "a block without an end")
    symbol, bits = _table(lengths)
    distance, distance_bits = _table(distances, lone=True)
    more, far = np.zeros(_FIRST_LENGTH + 31, np.int64), np.zeros(32, np.int64)
    more[_FIRST_LENGTH:-2] = _LENGTH_BITS
    far[:30] = _DISTANCE_BITS
    return _Codes(
        symbol, np.where(symbol < _FIRST_LENGTH + 29, bits + more[symbol], 0),
        distance, np.where((distance < 30) & (distance_bits > 0), distance_bits + far[distance], 0),
    )  # fmt: skip


def _table(lengths: list[int], *, lone: bool = False) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Symbol and length of code by the next 15 bits, the first one highest: codes of one length follow each other in their symbols'
    order, after all shorter ones (section 3.2.2), so that the table is each symbol repeated.

    Args:
        lone: whether a single code of one bit, or none, will do: for distances, of which a block may have no two.
    """
    of = np.array(lengths)
    symbols = np.argsort(of, kind="stable")[np.count_nonzero(of == 0) :]
    shares = 1 << (_LONGEST - of[symbols])
    left = (1 << _LONGEST) - int(shares.sum())
    alone = lone and (len(symbols) == 0 or (len(symbols) == 1 and of[symbols[0]] == 1))
    _must(left == 0 or alone, "a code with bits that mean nothing, or two things")
    filled = np.repeat([*symbols, 0], [*shares, left])
    return filled, np.repeat([*of[symbols], 0], [*shares, left])


class _Reader:
    """A stream with a place in it, in bits, the lowest bit of a byte first."""

    def __init__(self, stream: bytes, at: int) -> None:
        self._stream, self.at, self._padded = stream, at, stream + bytes(_PIECE + _AHEAD)

    def number(self, bits: int) -> int:
        """The next number, its lowest bit first."""
        begin, self.at = self.at, self.at + bits
        _must(self.at <= 8 * len(self._stream), "cut off")
        whole = int.from_bytes(self._stream[begin // 8 : begin // 8 + 4], "little")
        return whole >> begin % 8 & (1 << bits) - 1

    def align(self) -> None:
        _must(self.number(-self.at % 8) == 0, "bits between blocks and bytes")

    def stored(self) -> int:
        """Pass over a block that is not compressed (section 3.2.4): how many bytes it has."""
        self.align()
        size, inverse = self.number(16), self.number(16)
        _must(size ^ inverse == 0xFFFF, "a block whose length is not told twice")
        self.at += 8 * size
        _must(self.at <= 8 * len(self._stream), "cut off")
        return size

    def codes(self) -> _Codes:
        """Those that a block begins with (section 3.2.7)."""
        count, far, own = self.number(5) + _FIRST_LENGTH, self.number(5) + 1, self.number(4) + 4
        _must(count <= 286 and far <= 30, "codes for what there is not")
        first = [0] * 19
        for symbol in _ORDER[:own]:
            first[symbol] = self.number(3)
        symbols, bits = (table.tolist() for table in _table(first))
        lengths = list[int]()
        while len(lengths) < count + far:
            place = self._ahead()
            self.at += bits[place]
            symbol = symbols[place]
            if symbol < 16:
                lengths.append(symbol)
                continue
            _must(symbol != 16 or len(lengths) > 0, "a repetition of nothing")
            more, least = _REPEATS[symbol]
            lengths += [lengths[-1] if symbol == 16 else 0] * (least + self.number(more))
        _must(len(lengths) == count + far, "more lengths of codes than there are codes")
        return _codes(lengths[:count], lengths[count:])

    def _ahead(self) -> int:
        """The next 15 bits, the first one highest."""
        whole = int.from_bytes(self._padded[self.at // 8 : self.at // 8 + 3], "little") >> self.at % 8
        return _REVERSED[whole & 0x7FFF]

    def block(self, codes: _Codes, before: int) -> tuple[int, int]:
        """Follow one to its end: how many bytes it unpacks to, and its longest distance.

        Args:
            before: bytes that all earlier blocks unpack to.
        """
        size, reach, end, length = 0, 0, 8 * len(self._stream), _FIRST_PIECE
        while True:
            start = self.at // 8
            piece = np.frombuffer(self._padded, np.uint8, length + _AHEAD, start)
            bits = np.unpackbits(piece, bitorder="little")
            ahead = _windows(bits)
            places, then = _follow(ahead[: 8 * length], ahead, codes, self.at - 8 * start)
            _must(then < _NOWHERE, "a symbol that means nothing")
            more, far = _unpacked(bits, ahead, places, codes, before + size)
            size, reach = size + more, max(reach, far)
            self.at = 8 * start + then % _STOP
            _must(self.at <= end, "cut off")
            if then >= _STOP:
                return size, reach
            length = min(2 * length, _PIECE)


def _windows(bits: NDArray[np.uint8]) -> NDArray[np.int64]:
    """At each bit the 15 that begin there, the first one highest."""
    one = bits.astype(np.uint16)
    two = one[:-1] << 1 | one[1:]
    four = two[:-2] << 2 | two[2:]
    eight = four[:-4] << 4 | four[4:]
    return (eight[:-7] << 7 | eight[7:] & 0x7F).astype(np.int64)


def _follow(
    looked: NDArray[np.int64], ahead: NDArray[np.int64], codes: _Codes, begin: int
) -> tuple[NDArray[np.int64], int]:
    """Where in a piece symbols begin, and the place after the last one: in the next piece, `_STOP` and more, or `_NOWHERE`."""
    symbols, bits = codes.symbol[looked], codes.bits[looked]
    after = np.arange(len(looked)) + bits
    matches = np.flatnonzero(symbols >= _FIRST_LENGTH)
    distances = codes.distance_bits[ahead[after[matches]]]
    after[matches] += np.where(distances > 0, distances, _NOWHERE)
    after[symbols == _END] += _STOP
    after[bits == 0] = _NOWHERE
    place, places, beyond, behind = begin, list[int](), after.data, len(looked)
    while place < behind:
        places.append(place)
        place = beyond[place]
    return np.array(places, np.int64), place


def _unpacked(
    bits: NDArray[np.uint8], ahead: NDArray[np.int64], places: NDArray[np.int64], codes: _Codes, before: int
) -> tuple[int, int]:
    """How many bytes the symbols of a piece stand for, and the longest distance among them."""
    symbols = codes.symbol[ahead[places]]
    sizes = (symbols < _END).astype(np.int64)
    matches = np.flatnonzero(symbols > _END)
    if len(matches) == 0:
        return int(sizes.sum()), 0
    kind = symbols[matches] - _FIRST_LENGTH
    behind = places[matches] + codes.bits[ahead[places[matches]]]
    sizes[matches] = _LENGTHS[kind] + _number(bits, behind - _LENGTH_BITS[kind], _LENGTH_BITS[kind])
    far = codes.distance[ahead[behind]]
    after = behind + codes.distance_bits[ahead[behind]]
    reach = _DISTANCES[far] + _number(bits, after - _DISTANCE_BITS[far], _DISTANCE_BITS[far])
    written = before + np.cumsum(sizes) - sizes
    _must(bool((reach <= written[matches]).all()), "a distance that reaches back before the beginning")
    return int(sizes.sum()), int(reach.max())


def _number(bits: NDArray[np.uint8], begin: NDArray[np.int64], count: NDArray[np.int64]) -> NDArray[np.int64]:
    """The numbers that begin at some bits, their lowest bit first."""
    steps = np.arange(13)
    read = bits[begin[:, None] + steps].astype(np.int64) << steps  # (number, bit)
    numbers: NDArray[np.int64] = np.where(steps < count[:, None], read, 0).sum(1)
    return numbers


def _must(holds: bool, flaw: str) -> None:
    if not holds:
        raise DeflateError(flaw)


_REVERSED: Final = [int(f"{n:015b}"[::-1], 2) for n in range(1 << _LONGEST)]
_FIXED: Final = _codes([8] * 144 + [9] * 112 + [7] * 24 + [8] * 8, [5] * 32)
"""Section 3.2.6."""
