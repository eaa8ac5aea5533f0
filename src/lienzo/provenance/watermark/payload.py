"""What a watermark carries: a 48-bit record id, a 16-bit keyed tag, and check bits: 127 in all."""

import hashlib
import hmac
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from lienzo.provenance.watermark import bch

BITS: Final = bch.LENGTH
ID_BITS: Final = 48
TAG_BITS: Final = bch.MESSAGE - ID_BITS
UNTAGGED: Final = 7
"""Bits that may be wrong where no key vouches for the payload: fewer, so that chance alone hardly ever gives one."""


@dataclass(frozen=True)
class Found:
    """A watermark that was read.

    Attributes:
        record_id: 48 bits.
        tag_valid: whether one of the keys vouches for it; else it was marked with another key, or by somebody else.
        corrected: bits of 127 that were read wrongly.
    """

    record_id: int
    tag_valid: bool
    corrected: int


def codeword(record_id: int, key: bytes) -> int:
    """127 bits.

    Raises:
        ValueError: a record id of more than 48 bits.
    """
    if not 0 <= record_id < 1 << ID_BITS:
        raise ValueError(f"got a record id of {record_id.bit_length()} bits; at most {ID_BITS} are allowed.")
    return bch.encode(record_id << TAG_BITS | _tag(record_id, key))


def read(word: int, keys: Sequence[bytes]) -> Found | None:
    """The payload of 127 bits, some of them wrong; None where there is none.

    Random bits are taken for a payload with a probability of 1.0e-8 (within 7 bits of a code word: the sum of C(127, i) for i
    to 7, over 2^63), and of 3.8e-10 more for each key (within 10 bits, 2.5e-5, and the right tag, 2^-16).
    """
    decoded = bch.decode(word)
    if decoded is None:
        return None
    message, corrected = decoded
    record_id, tag = message >> TAG_BITS, message & ((1 << TAG_BITS) - 1)
    valid = any(hmac.compare_digest(tag.to_bytes(2), _tag(record_id, key).to_bytes(2)) for key in keys)
    return Found(record_id, valid, corrected) if valid or corrected <= UNTAGGED else None


def _tag(record_id: int, key: bytes) -> int:
    message = b"lienzo watermark v1\n" + record_id.to_bytes(ID_BITS // 8)
    return int.from_bytes(hmac.new(key, message, hashlib.sha256).digest()[: TAG_BITS // 8])
