"""The code against another implementation of it, and what a payload survives."""

import random

import galois
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lienzo.provenance.watermark import bch
from lienzo.provenance.watermark.payload import BITS, ID_BITS, UNTAGGED, codeword, read

KEY, OTHER = b"k" * 32, b"o" * 32
words = st.integers(0, 2**bch.LENGTH - 1)
ids = st.integers(0, 2**ID_BITS - 1)


@st.composite
def errors(draw: st.DrawFn, most: int) -> int:
    places = draw(st.sets(st.integers(0, BITS - 1), max_size=most))
    return sum(1 << place for place in places)


def test_code_equals_that_of_galois() -> None:
    theirs = galois.BCH(bch.LENGTH, bch.MESSAGE)
    assert (theirs.t, theirs.extension_field.irreducible_poly) == (bch.ERRORS, galois.Poly.Int(0b1000_1001))
    assert int(theirs.generator_poly) == bch.GENERATOR
    rng = random.Random(0)
    messages = [rng.getrandbits(64) for _ in range(3)]
    bits = np.array([[m >> i & 1 for i in reversed(range(64))] for m in messages])
    encoded = [int("".join(map(str, row)), 2) for row in np.asarray(theirs.encode(bits)).tolist()]
    assert encoded == [bch.encode(m) for m in messages]


@given(st.integers(0, 2**64 - 1), errors(bch.ERRORS))
def test_ten_errors_are_corrected(message: int, wrong: int) -> None:
    assert bch.decode(bch.encode(message) ^ wrong) == (message, wrong.bit_count())


@given(words)
def test_what_is_decoded_is_near(word: int) -> None:
    decoded = bch.decode(word)
    if decoded is not None:
        assert (bch.encode(decoded[0]) ^ word).bit_count() == decoded[1] <= bch.ERRORS


def test_random_words_are_near_a_code_word_as_rarely_as_counted() -> None:
    rng = random.Random(1)
    near = sum(bch.decode(rng.getrandbits(bch.LENGTH)) is not None for _ in range(1000))
    assert near <= 2  # 0.025 are expected


@pytest.mark.parametrize("message", [-1, 2**64])
def test_messages_that_do_not_fit(message: int) -> None:
    with pytest.raises(ValueError, match="at most 64"):
        bch.encode(message)


@pytest.mark.parametrize("record", [-1, 2**48])
def test_record_ids_that_do_not_fit(record: int) -> None:
    with pytest.raises(ValueError, match="at most 48"):
        codeword(record, KEY)


@given(ids, errors(bch.ERRORS))
def test_ten_wrong_bits_with_the_key(record: int, wrong: int) -> None:
    found = read(codeword(record, KEY) ^ wrong, [OTHER, KEY])
    assert found is not None
    assert (found.record_id, found.tag_valid, found.corrected) == (record, True, wrong.bit_count())


@given(ids, errors(bch.ERRORS))
def test_seven_wrong_bits_without(record: int, wrong: int) -> None:
    found = read(codeword(record, KEY) ^ wrong, [])
    assert (found is not None) == (wrong.bit_count() <= UNTAGGED)
    assert found is None or (found.record_id, found.tag_valid) == (record, False)


def test_another_key_gives_another_tag() -> None:
    valid = [read(codeword(record, KEY), [OTHER]).tag_valid for record in range(300)]  # type: ignore[union-attr]
    assert not any(valid)
