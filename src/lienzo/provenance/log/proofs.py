"""Proofs that travel: small documents, checked offline with nothing but the log's public key.

An entry is logged together with its key (the record id that it is looked up by), so that neither can be changed: the leaf is
the key in hex, a newline, and the entry's bytes.
"""

import re
from typing import TYPE_CHECKING, Annotated, Any, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer, ValidationError

from lienzo.errors import InputError, ProofError
from lienzo.provenance.encoding import decode64, encode64
from lienzo.provenance.log import merkle
from lienzo.provenance.log.checkpoint import MAX_NOTE, Checkpoint, NoteKey, open_checkpoint

if TYPE_CHECKING:
    from lienzo.provenance.keys import PublicKey

MAX_ENTRY = 1 << 16
"""Bytes of an entry."""

MAX_KEY = 128
"""Hexadecimal digits of a key."""

_MAX_HASHES = 2 * merkle.MAX_SIZE.bit_length()


def _bytes(value: object) -> object:
    return decode64(value) if isinstance(value, str) else value


Base64 = Annotated[bytes, BeforeValidator(_bytes), PlainSerializer(encode64, when_used="json")]
Hash = Annotated[Base64, Field(min_length=merkle.HASH_BYTES, max_length=merkle.HASH_BYTES)]
Size = Annotated[int, Field(ge=0, le=merkle.MAX_SIZE, strict=True)]
Key = Annotated[str, Field(pattern=f"^[0-9a-f]{{1,{MAX_KEY}}}$")]


def leaf_of(key: str, entry: bytes) -> bytes:
    """The leaf's hash.

    Raises:
        InputError: a key that is no hex, or an entry that is too long.
    """
    if not re.fullmatch(rf"[0-9a-f]{{1,{MAX_KEY}}}", key):
        raise InputError(f"got the log key {key[:60]!r}; allowed: 1 to {MAX_KEY} hexadecimal digits, small letters.")
    if len(entry) > MAX_ENTRY:
        raise InputError(f"got a log entry of {len(entry):,} bytes; allowed: {MAX_ENTRY:,}. Log a digest of it.")
    return merkle.leaf_hash(key.encode() + b"\n" + entry)


class _Proof(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    size: Size
    hashes: tuple[Hash, ...] = Field(max_length=_MAX_HASHES)
    checkpoint: str = Field(max_length=MAX_NOTE)

    @property
    def document(self) -> dict[str, Any]:
        """For JSON; bytes are base64."""
        return self.model_dump(mode="json")

    @classmethod
    def read(cls, document: object) -> Self:
        """Read what `document` returned.

        Raises:
            ProofError: something else.
        """
        try:
            return cls.model_validate(document)
        except ValidationError as error:
            found = error.errors(include_url=False, include_input=False, include_context=False)[0]
            where = ".".join(map(str, found["loc"])) or "document"
            raise ProofError(f"not a proof from a log: {where}: {found['msg']}."[:300]) from None

    def _opened(self, public: "PublicKey", origin: str | None) -> Checkpoint:
        checkpoint = open_checkpoint(self.checkpoint, [_key(public, self.checkpoint, origin)], origin)
        if checkpoint.size != self.size:
            raise ProofError(
                f"the proof is for a log of {self.size:,} entries, its checkpoint for {checkpoint.size:,}."
            )
        return checkpoint


class LogProof(_Proof):
    """That an entry is in a log.

    Attributes:
        index: its place, from 0.
        key: that it is looked up by.
        entry: its bytes.
        size: of the log that it is proved to be in.
        hashes: of `merkle.inclusion_path(index, size)`.
        checkpoint: the log's signed note at that size.
    """

    index: Size
    key: Key
    entry: Base64 = Field(max_length=MAX_ENTRY)


class ConsistencyProof(_Proof):
    """That a log only grew since it had `old` entries.

    Attributes:
        old: how many entries it had.
        size: how many it has now.
        hashes: of `merkle.consistency_path(old, size)`.
        checkpoint: the log's signed note now.
    """

    old: Size


def verify_proof(proof: LogProof, entry: bytes, public_key: "PublicKey", origin: str | None) -> None:
    """Check that exactly this entry is in the log.

    Args:
        public_key: the log's.
        origin: the log's name; None: whichever log of that key.

    Raises:
        UnknownKeyError: signed by another key.
        ProofError: it proves nothing of the kind.
    """
    checkpoint = proof._opened(public_key, origin)
    if proof.entry != entry:
        raise ProofError("the proof is for another entry.")
    leaf = leaf_of(proof.key, proof.entry)
    if not merkle.verify_inclusion(leaf, proof.index, proof.size, proof.hashes, checkpoint.root):
        raise ProofError("the entry is not where the proof says: entry, place or hashes were changed.")


def verify_consistency(proof: ConsistencyProof, earlier: str, public_key: "PublicKey", origin: str | None) -> None:
    """Check that the log of an earlier signed checkpoint is the beginning of the log now.

    Raises:
        UnknownKeyError: signed by another key.
        ProofError: it is not: entries were changed, removed or put in between.
    """
    old = open_checkpoint(earlier, [_key(public_key, earlier, origin)], origin)
    new = proof._opened(public_key, old.origin)
    if proof.old != old.size:
        raise ProofError(f"the proof begins at {proof.old:,} entries, the earlier checkpoint has {old.size:,}.")
    if not merkle.verify_consistency(old.size, old.root, new.size, new.root, proof.hashes):
        raise ProofError("the log does not go on from the earlier checkpoint: entries that were in it were changed.")


def _key(public: "PublicKey", note: str, origin: str | None) -> NoteKey:
    """A log signs under its own name, which is the note's first line."""
    try:
        return NoteKey.of(public, note.partition("\n")[0] if origin is None else origin)
    except InputError as error:
        raise ProofError(f"not a checkpoint: {error}") from None
