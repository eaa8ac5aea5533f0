"""Encryption of what is kept: envelopes of AES-256-GCM, bound to the place where they lie.

Each record has a data key of its own, which encrypts its cells. The data key is kept beside them, wrapped by a
key-encryption key that is kept elsewhere: in a file, in the environment, in a key service. So:

- whoever has the database alone has nothing;
- a change of the key-encryption key wraps the data keys anew (`rewrap`) and leaves the cells alone;
- whoever destroys a record's data key has erased the record, wherever copies of its cells lie.

What is authenticated but not encrypted (the AAD of NIST SP 800-38D) names the place, so a cell or key that was moved to
another column, record, tenant, schema or key does not open. Layouts, whose first byte is the format's version:

    cell         version (1) | data key id (16) | nonce (12) | ciphertext | tag (16)
    wrapped key  version (1) | length of the id (1) | key-encryption key id | what the key-encryption key made of it
"""

import hashlib
import hmac
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol, Self

from lienzo.errors import KeystoreError, SealingError

VERSION: Final = b"\x01"
KEY_BYTES: Final = 32
MOST_CHARACTERS: Final = 200
"""Of a tenant's name and of a record's id."""

_ID = 16  # bytes
_NONCE = 12  # bytes; random, which allows 2^32 messages a key (SP 800-38D, section 8.3): a data key seals a few cells
_TAG = 16  # bytes


@dataclass(frozen=True)
class Place:
    """Where a record lies.

    Attributes:
        tenant: whose it is.
        record: its id.
        schema: version of the table's layout.
    """

    tenant: str
    record: str
    schema: int

    def __post_init__(self) -> None:
        for name in ("tenant", "record"):
            value = getattr(self, name)
            if not (
                isinstance(value, str) and 0 < len(value) <= MOST_CHARACTERS and "\0" not in value and _encodable(value)
            ):
                raise SealingError(
                    f"{name}: got {str(value)[:40]!r}; expected 1 to {MOST_CHARACTERS} characters of Unicode, none of them NUL."
                )


class WrappingKey(Protocol):
    """A key-encryption key: in this process, or in a key service that never gives it out.

    Both methods raise `SealingError` for what the key refuses, and `KeystoreError` where the key cannot be reached.
    """

    @property
    def id(self) -> str:
        """At most 255 bytes of UTF-8. Nothing secret: it stands beside what it wrapped."""
        ...

    def wrap(self, data_key: bytes, aad: bytes) -> bytes: ...

    def unwrap(self, wrapped: bytes, aad: bytes) -> bytes: ...


@dataclass(frozen=True)
class LocalKey:
    """A key-encryption key in this process's memory.

    Args:
        key: 32 bytes.

    Raises:
        KeystoreError: a key of another length.
    """

    key: bytes = field(repr=False)

    def __post_init__(self) -> None:
        if len(self.key) != KEY_BYTES:
            raise KeystoreError(f"got a key-encryption key of {len(self.key)} bytes; expected {KEY_BYTES}.")

    @property
    def id(self) -> str:
        return _key_id(self.key, b"lienzo key-encryption key").hex()

    def wrap(self, data_key: bytes, aad: bytes) -> bytes:
        """nonce (12) | ciphertext (32) | tag (16)"""
        return _encrypt(self.key, data_key, aad)

    def unwrap(self, wrapped: bytes, aad: bytes) -> bytes:
        return _decrypt(self.key, wrapped, aad)


@dataclass(frozen=True)
class DataKey:
    """What encrypts the cells of one record."""

    key: bytes = field(repr=False)

    @classmethod
    def fresh(cls) -> Self:
        return cls(os.urandom(KEY_BYTES))

    @property
    def id(self) -> bytes:
        """Stands in each cell: AES-GCM alone does not commit to its key, and two keys could open one ciphertext."""
        return _key_id(self.key, b"lienzo data key")

    def seal(self, plain: bytes, place: Place, column: str) -> bytes:
        return VERSION + self.id + _encrypt(self.key, plain, _bound(b"cell", place, self.id, column))

    def open(self, cell: bytes, place: Place, column: str) -> bytes:
        """
        Raises:
            SealingError: changed, cut, moved, or of another key.
        """
        body = _after_version(cell)
        if not hmac.compare_digest(body[:_ID], self.id):
            raise SealingError(
                f"{place.record}, {column}: sealed with another data key. The cell was moved or changed."
            )
        try:
            return _decrypt(self.key, body[_ID:], _bound(b"cell", place, self.id, column))
        except SealingError as error:
            raise SealingError(f"{place.record}, {column}: {error}") from None


@dataclass(frozen=True)
class KeyRing:
    """The key-encryption key that wraps, and older ones that only unwrap.

    It is a `KeySource` of its own: somebody else makes and destroys its keys, as with a key service.
    """

    current: WrappingKey
    older: tuple[WrappingKey, ...] = ()

    def wrap(self, data_key: DataKey, place: Place) -> bytes:
        name = self.current.id.encode()
        if len(name) > 255:
            raise KeystoreError(f"got a key id of {len(name)} bytes, {name[:40]!r} ...; at most 255 are allowed.")
        wrapped = self.current.wrap(data_key.key, _bound(b"key", place, name))
        return VERSION + bytes([len(name)]) + name + wrapped

    def unwrap(self, wrapped: bytes, place: Place) -> DataKey:
        """
        Raises:
            SealingError: changed, cut or moved.
            KeystoreError: the key that wrapped it is not here.
        """
        name, body = _parted(wrapped)
        for key in (self.current, *self.older):
            if key.id.encode() == name:
                try:
                    return DataKey(key.unwrap(body, _bound(b"key", place, name)))
                except SealingError as error:
                    raise SealingError(f"{place.record}, its data key: {error}") from None
        there = ", ".join(key.id for key in (self.current, *self.older))
        raise KeystoreError(
            f"{place.record}: its data key is wrapped by the key {name.decode(errors='replace')}, which is not here. "
            f"There are: {there}. Restore its file, or set LIENZO_HOME to the folder above that; or put the key itself into "
            "LIENZO_KEK, behind the first one, with a comma between."
        )

    def ring(self) -> Self:
        return self

    def renew(self) -> Self:
        return self

    def retire(self, key_id: str) -> None:
        """Nothing is wrapped by that key any more; whoever manages it may destroy it."""


class KeySource(Protocol):
    """Where key-encryption keys come from."""

    def ring(self) -> KeyRing:
        """As things are now: another process may have changed keys since."""
        ...

    def renew(self) -> KeyRing:
        """Make the next key, where this source makes keys."""
        ...

    def retire(self, key_id: str) -> None:
        """Destroy a key by which nothing is wrapped any more, where this source destroys keys."""
        ...


@dataclass(frozen=True)
class Rewrapped:
    """A data key that was wrapped anew: `new` belongs where `old` was, if `old` is still there."""

    place: Place
    old: bytes
    new: bytes


@dataclass(frozen=True)
class Rewrapping:
    """What became of it: how many were replaced, and which could not be unwrapped and why."""

    replaced: int
    failed: tuple[tuple[Place, str], ...]


def rewrap(
    ring: KeyRing,
    stored: Iterable[tuple[Place, bytes]],
    replace: Callable[[Sequence[Rewrapped]], int],
    *,
    batch: int = 100,
) -> Rewrapping:
    """Wrap data keys by the ring's current key; the cells that they encrypt stay as they are.

    It can be stopped at any time, even by a power cut, and run again: what is wrapped by the current key is left alone.

    Args:
        stored: places and wrapped data keys. It is read as `replace` writes, so let it tell of each place once.
        replace: writes some at once, durably, each only where `old` is still there (compare and swap: a record may have been
            erased or wrapped anew by somebody else in between); returns how many it wrote.
        batch: most that `replace` gets at once.
    """
    replaced, failed, waiting = 0, [], list[Rewrapped]()
    current = ring.current.id.encode()
    for place, old in stored:
        try:
            if _parted(old)[0] == current:
                continue
            waiting.append(Rewrapped(place, old, ring.wrap(ring.unwrap(old, place), place)))
        except (SealingError, KeystoreError) as error:
            failed.append((place, str(error)))
        if len(waiting) == batch:
            replaced += replace(waiting)
            waiting = []
    replaced += replace(waiting) if waiting else 0
    return Rewrapping(replaced, tuple(failed))


def wrapped_by(wrapped: bytes) -> str:
    """Id of the key that wrapped a data key, as it says itself; nothing is checked by this.

    Raises:
        SealingError: not a wrapped key.
    """
    return _parted(wrapped)[0].decode(errors="replace")


def _bound(what: bytes, place: Place, key_id: bytes, column: str = "") -> bytes:
    """What is authenticated with a ciphertext. Each part stands behind its length, so no two places give the same bytes."""
    texts = (place.tenant, place.record, str(place.schema), column)
    parts = (b"lienzo sealing", VERSION, what, key_id, *(text.encode() for text in texts))
    return b"".join(len(part).to_bytes(4) + part for part in parts)


def _key_id(key: bytes, label: bytes) -> bytes:
    """Tells nothing of the key, and no two keys have the same (HMAC-SHA-256, cut to 128 bits)."""
    return hmac.new(key, label + b" id", hashlib.sha256).digest()[:_ID]


def _encrypt(key: bytes, plain: bytes, aad: bytes) -> bytes:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM  # a tenth of a second to import

    nonce = os.urandom(_NONCE)
    return nonce + AESGCM(key).encrypt(nonce, plain, aad)


def _decrypt(key: bytes, sealed: bytes, aad: bytes) -> bytes:
    from cryptography.exceptions import InvalidTag
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    if len(sealed) < _NONCE + _TAG:
        raise SealingError(f"cut off: {len(sealed)} bytes are left, and {_NONCE + _TAG} are the fewest.")
    try:
        return AESGCM(key).decrypt(sealed[:_NONCE], sealed[_NONCE:], aad)
    except InvalidTag:
        raise SealingError("it was changed, or moved here from another place. Nothing of it was opened.") from None


def _after_version(sealed: bytes) -> bytes:
    if sealed[:1] != VERSION:
        raise SealingError(
            f"got format {sealed[:1].hex() or 'none'}; this lienzo knows {VERSION.hex()}. It was changed, or is newer."
        )
    return sealed[1:]


def _parted(wrapped: bytes) -> tuple[bytes, bytes]:
    """A wrapped key's key id and the rest."""
    body = _after_version(wrapped)
    length = body[0] if body else 0
    name, rest = body[1 : 1 + length], body[1 + length :]
    if not length or len(name) < length:
        raise SealingError("a wrapped key that is cut off.")
    return name, rest


def _encodable(text: str) -> bool:
    """Lone surrogates are no characters."""
    return not any("\ud800" <= character <= "\udfff" for character in text)
