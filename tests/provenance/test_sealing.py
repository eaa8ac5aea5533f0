"""Envelopes: every bit counts, nothing opens anywhere else, and keys can be changed without touching what they keep."""

import contextlib
import dataclasses
import itertools
from collections.abc import Iterator, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lienzo.errors import KeystoreError, SealingError
from lienzo.provenance.sealing import (
    MOST_CHARACTERS,
    DataKey,
    KeyRing,
    LocalKey,
    Place,
    Rewrapped,
    rewrap,
    wrapped_by,
)

PLACE = Place("local", "record-1", 1)
OLD, NEW = (LocalKey(bytes([number]) * 32) for number in (1, 2))
RING = KeyRing(OLD)
WORDS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=20)
PLACES = st.builds(Place, WORDS, WORDS, st.integers(1, 9))


def flipped(data: bytes, bit: int) -> bytes:
    changed = bytearray(data)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


@given(plain=st.binary(max_size=300), place=PLACES, column=WORDS)
def test_what_was_sealed_opens_in_its_place(plain: bytes, place: Place, column: str) -> None:
    key = DataKey.fresh()
    cell, wrapped = key.seal(plain, place, column), RING.wrap(key, place)
    assert RING.unwrap(wrapped, place) == key
    assert RING.unwrap(wrapped, place).open(cell, place, column) == plain
    assert len(cell) == 1 + 16 + 12 + len(plain) + 16
    assert wrapped_by(wrapped) == OLD.id


def test_every_bit_of_cell_and_wrapped_key_counts() -> None:
    key = DataKey.fresh()
    cell, wrapped = key.seal(b"a red circle", PLACE, "request"), RING.wrap(key, PLACE)
    for bit in range(8 * len(cell)):
        with pytest.raises(SealingError):
            key.open(flipped(cell, bit), PLACE, "request")
    for bit in range(8 * len(wrapped)):
        with pytest.raises((SealingError, KeystoreError)):  # a flipped key id names a key that nobody has
            RING.unwrap(flipped(wrapped, bit), PLACE)
    for cut in range(len(cell)):
        with pytest.raises(SealingError):
            key.open(cell[:cut], PLACE, "request")
    for cut in range(len(wrapped)):
        with pytest.raises((SealingError, KeystoreError)):
            RING.unwrap(wrapped[:cut], PLACE)
    for longer in (cell + b"\0", cell + cell):
        with pytest.raises(SealingError):
            key.open(longer, PLACE, "request")


@given(data=st.binary(max_size=200))
def test_no_bytes_open_by_chance_or_crash(data: bytes) -> None:
    for prefix in (b"", b"\x01"):
        with pytest.raises(SealingError):
            DataKey.fresh().open(prefix + data, PLACE, "request")
        with pytest.raises((SealingError, KeystoreError)):
            RING.unwrap(prefix + data, PLACE)


def test_nothing_opens_in_another_place() -> None:
    """All pairs of two tenants, records, schemas and columns, under one data key and under one each."""
    places = [Place(*each) for each in itertools.product(("a", "b"), ("1", "2"), (1, 2))]
    spots = list(itertools.product(places, ("request", "salt")))
    shared = DataKey.fresh()
    for own in (dict.fromkeys(places, shared), {place: DataKey.fresh() for place in places}):
        cells = {(place, column): own[place].seal(b"plain", place, column) for place, column in spots}
        wrapped = {place: RING.wrap(own[place], place) for place in places}
        for here, there in itertools.permutations(spots, 2):
            with pytest.raises(SealingError):
                own[there[0]].open(cells[here], *there)
        for here, there in itertools.permutations(places, 2):
            with pytest.raises(SealingError):
                RING.unwrap(wrapped[here], there)


@given(
    first=st.tuples(WORDS, WORDS, st.integers(1, 99), WORDS), second=st.tuples(WORDS, WORDS, st.integers(1, 99), WORDS)
)
def test_no_two_places_are_written_alike(first: tuple[str, str, int, str], second: tuple[str, str, int, str]) -> None:
    """Where a name ends and the next begins is part of what is authenticated."""
    key = DataKey.fresh()
    cell = key.seal(b"plain", Place(*first[:3]), first[3])
    if first == second:
        assert key.open(cell, Place(*second[:3]), second[3]) == b"plain"
    else:
        with pytest.raises(SealingError):
            key.open(cell, Place(*second[:3]), second[3])


@pytest.mark.parametrize("name", ["", "x" * (MOST_CHARACTERS + 1), "a\0b", "\ud800", None, b"bytes"])
def test_places_that_cannot_be_written_are_refused(name: str) -> None:
    for field in ("tenant", "record"):
        with pytest.raises(SealingError, match=f"{field}: got"):
            dataclasses.replace(PLACE, **{field: name})


def test_the_wrong_key_opens_nothing() -> None:
    key, wrong = DataKey.fresh(), DataKey.fresh()
    with pytest.raises(SealingError, match="another data key"):
        wrong.open(key.seal(b"plain", PLACE, "request"), PLACE, "request")
    wrapped = RING.wrap(key, PLACE)
    with pytest.raises(KeystoreError, match=rf"{OLD.id}, which is not here.*{NEW.id}"):
        KeyRing(NEW).unwrap(wrapped, PLACE)

    @dataclasses.dataclass(frozen=True)
    class Impostor(LocalKey):
        """Another key of the same name."""

        @property
        def id(self) -> str:
            return OLD.id

    with pytest.raises(SealingError, match="its data key: it was changed"):
        KeyRing(Impostor(NEW.key)).unwrap(wrapped, PLACE)


def test_keys_have_32_bytes_and_are_not_shown() -> None:
    with pytest.raises(KeystoreError, match="got a key-encryption key of 16 bytes; expected 32"):
        LocalKey(bytes(16))
    for shown in (repr(OLD), repr(RING), repr(DataKey(OLD.key)), OLD.id):
        assert OLD.key.hex() not in shown
        assert repr(OLD.key) not in shown


def test_seals_are_fresh_each_time() -> None:
    key = DataKey.fresh()
    assert len({key.seal(b"plain", PLACE, "request") for _ in range(100)}) == 100
    assert len({RING.wrap(key, PLACE) for _ in range(100)}) == 100
    assert len({DataKey.fresh().key for _ in range(100)}) == 100


def test_the_layout_is_what_is_documented() -> None:
    """The bytes are what the module's docstring says, opened here without its code."""
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    key = DataKey.fresh()
    cell = key.seal(b"plain", PLACE, "request")
    parts = (b"lienzo sealing", b"\x01", b"cell", cell[1:17], b"local", b"record-1", b"1", b"request")
    aad = b"".join(len(part).to_bytes(4) + part for part in parts)
    assert AESGCM(key.key).decrypt(cell[17:29], cell[29:], aad) == b"plain"


# A key service


class Service:
    """A key that is never given out, behind the three names that lienzo asks for."""

    id = "arn:aws:kms:eu-west-1:111122223333:key/ñ"

    def __init__(self) -> None:
        self._key, self.down = LocalKey(bytes(32)), False

    def wrap(self, data_key: bytes, aad: bytes) -> bytes:
        return self._key.wrap(data_key, aad)

    def unwrap(self, wrapped: bytes, aad: bytes) -> bytes:
        if self.down:
            raise KeystoreError("the key service does not answer.")
        return self._key.unwrap(wrapped, aad)


def test_a_key_service_may_hold_the_key() -> None:
    service, key = Service(), DataKey.fresh()
    ring = KeyRing(service)
    wrapped = ring.wrap(key, PLACE)
    assert ring.unwrap(wrapped, PLACE) == key
    assert wrapped_by(wrapped) == service.id
    service.down = True
    with pytest.raises(KeystoreError, match="does not answer"):
        ring.unwrap(wrapped, PLACE)
    service.id = "x" * 256
    with pytest.raises(KeystoreError, match="key id of 256 bytes"):
        ring.wrap(key, PLACE)


# Changing keys


class Store(dict[Place, bytes]):
    """Wrapped data keys, in memory."""

    stop_after: int | None = None

    def all(self) -> Iterator[tuple[Place, bytes]]:
        yield from list(self.items())

    def replace(self, changes: Sequence[Rewrapped]) -> int:
        done = 0
        for change in changes:
            if self.stop_after is not None:
                if self.stop_after == 0:
                    raise KeyboardInterrupt
                self.stop_after -= 1
            if self.get(change.place) == change.old:
                self[change.place] = change.new
                done += 1
        return done


def filled(count: int) -> tuple[Store, dict[Place, DataKey]]:
    keys = {Place("t", f"{i:03}", 1): DataKey.fresh() for i in range(count)}
    return Store({place: RING.wrap(key, place) for place, key in keys.items()}), keys


@given(count=st.integers(0, 25), batch=st.integers(1, 10), stops=st.lists(st.integers(0, 10), max_size=5))
def test_rewrapping_can_be_stopped_anywhere_and_run_again(count: int, batch: int, stops: list[int]) -> None:
    store, keys = filled(count)
    both = KeyRing(NEW, (OLD,))
    for stop in stops:
        store.stop_after = stop
        with contextlib.suppress(KeyboardInterrupt):
            rewrap(both, store.all(), store.replace, batch=batch)
        assert {place: both.unwrap(wrapped, place) for place, wrapped in store.items()} == keys
    store.stop_after = None
    left = sum(wrapped_by(wrapped) == OLD.id for wrapped in store.values())
    done = rewrap(both, store.all(), store.replace, batch=batch)
    assert (done.replaced, done.failed) == (left, ())
    assert {place: KeyRing(NEW).unwrap(wrapped, place) for place, wrapped in store.items()} == keys
    assert rewrap(both, store.all(), store.replace).replaced == 0


def test_what_cannot_be_unwrapped_is_told_and_stops_nothing() -> None:
    store, keys = filled(5)
    damaged, foreign, empty = list(store)[:3]
    store[damaged] = flipped(store[damaged], 8 * 60)
    store[foreign] = KeyRing(LocalKey(bytes(32))).wrap(keys[foreign], foreign)
    store[empty] = b""
    before = dict(store)
    done = rewrap(KeyRing(NEW, (OLD,)), store.all(), store.replace)
    assert done.replaced == 2
    reasons = dict(done.failed)
    assert reasons.keys() == {damaged, foreign, empty}
    assert "it was changed" in reasons[damaged]
    assert "which is not here" in reasons[foreign]
    assert "got format none" in reasons[empty]
    assert all(store[place] == before[place] for place in reasons)


def test_what_changed_in_between_is_left_alone() -> None:
    store, _ = filled(3)
    erased, put_anew, _ = store
    stored = list(store.items())
    del store[erased]
    store[put_anew] = fresh = KeyRing(NEW).wrap(DataKey.fresh(), put_anew)
    assert rewrap(KeyRing(NEW, (OLD,)), stored, store.replace).replaced == 1
    assert erased not in store
    assert store[put_anew] == fresh
