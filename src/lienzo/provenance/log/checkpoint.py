"""Signed checkpoints: what a log says of itself, in the formats of C2SP (signed-note, tlog-checkpoint).

    lienzo/3f5a...            the log's origin: its name
    20852163                  how many entries it has
    CsUYapGG...=              root of the Merkle tree over them

    — lienzo/3f5a... Az3gr... key's name, then base64 of the key's id (4 bytes) and an Ed25519 signature of the lines above

Other programs for such logs read these, and witnesses may add signature lines of their own; lines by unknown keys are
ignored, as the format demands. Extension lines, which nobody could check, are refused.
"""

import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from lienzo.errors import InputError, ProofError, UnknownKeyError
from lienzo.provenance.encoding import decode64, encode64
from lienzo.provenance.log.merkle import HASH_BYTES, MAX_SIZE

if TYPE_CHECKING:
    from lienzo.provenance.keys import PublicKey, Signer

MAX_NOTE = 100_000
"""Characters: room for the 16 signatures that the format asks readers to accept."""

MAX_SIGNATURES = 64
MAX_NAME = 200
_ED25519 = b"\x01"
_KEY_BYTES = 32
_ID_BYTES = 4
_SPKI = bytes.fromhex("302a300506032b6570032100")
"""What precedes the 32 bytes of an Ed25519 key in its SPKI (RFC 8410, section 4)."""


def check_name(name: str) -> str:
    """The name of a log or key.

    Raises:
        InputError: empty, too long, or with spaces, plus signs or control characters.
    """
    if not 0 < len(name) <= MAX_NAME or "+" in name or any(c.isspace() or not c.isprintable() for c in name):
        raise InputError(
            f"got the log name {name[:60]!r}; allowed: 1 to {MAX_NAME} characters without spaces and plus signs, "
            "for example example.org/pictures."
        )
    return name


@dataclass(frozen=True)
class NoteKey:
    """An Ed25519 public key with the name that it signs under.

    Attributes:
        raw: the key's 32 bytes (RFC 8032).
    """

    name: str
    raw: bytes

    @classmethod
    def of(cls, public: "PublicKey", name: str) -> Self:
        """
        Raises:
            InputError: a key of another algorithm.
        """
        if public.algorithm != "ed25519":
            raise InputError(f"got a log key of algorithm {public.algorithm}; checkpoints are signed with ed25519.")
        return cls(check_name(name), public.spki.removeprefix(_SPKI))

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read `name+id+key`, as `text` spells it.

        Raises:
            InputError: not in that form, or its id is that of another key.
        """
        name, _, rest = text[: 2 * MAX_NAME].strip().partition("+")
        id_, _, encoded = rest.partition("+")
        try:
            kind_and_key = decode64(encoded)
        except ValueError:
            kind_and_key = b""
        key = cls(name, kind_and_key[1:])
        if kind_and_key[:1] != _ED25519 or len(key.raw) != _KEY_BYTES or key.id.hex() != id_:
            raise InputError(
                f"got the log key {text[:60]!r}; expected one as `lienzo log show` prints it: NAME+ID+KEY."
            )
        check_name(name)
        return key

    @property
    def id(self) -> bytes:
        """The first 4 bytes of SHA-256 over name, newline, type and key; a label, no proof."""
        return hashlib.sha256(self.name.encode() + b"\n" + _ED25519 + self.raw).digest()[:_ID_BYTES]

    @property
    def text(self) -> str:
        """As other programs for signed notes read it, and `parse` does."""
        return f"{self.name}+{self.id.hex()}+{encode64(_ED25519 + self.raw)}"

    @property
    def spki(self) -> bytes:
        """As `lienzo.provenance.keys.PublicKey` holds it."""
        return _SPKI + self.raw

    def verify(self, message: bytes, signature: bytes) -> bool:
        from cryptography.exceptions import InvalidSignature
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

        try:
            Ed25519PublicKey.from_public_bytes(self.raw).verify(signature, message)
        except (InvalidSignature, ValueError):
            return False
        return True


@dataclass(frozen=True)
class Checkpoint:
    """What a checkpoint says; that it is signed has been checked by whoever made this object.

    Attributes:
        root: 32 bytes.
    """

    origin: str
    size: int
    root: bytes

    @property
    def text(self) -> str:
        return f"{self.origin}\n{self.size}\n{encode64(self.root)}\n"

    def sign(self, signer: "Signer") -> str:
        """The signed note, under the log's own name."""
        key = NoteKey.of(signer.public, self.origin)
        return f"{self.text}\n— {key.name} {encode64(key.id + signer.sign(self.text.encode()))}\n"


def open_checkpoint(note: str, keys: Iterable[NoteKey], origin: str | None = None) -> Checkpoint:
    """Read a checkpoint that one of the keys signed.

    Args:
        note: whole, as `Checkpoint.sign` makes it.
        origin: the log that it has to be of; None: whichever.

    Raises:
        UnknownKeyError: signed by none of the keys.
        ProofError: damaged, of another log, or with a signature that is not right.
    """
    return _opened(note, keys, origin)[0]


def signer_of(note: str, keys: Iterable[NoteKey]) -> NoteKey:
    """Which of the keys signed a checkpoint (the first one, where several did).

    Raises:
        UnknownKeyError, ProofError: as `open_checkpoint`.
    """
    return _opened(note, keys, None)[1]


def _opened(note: str, keys: Iterable[NoteKey], origin: str | None) -> tuple[Checkpoint, NoteKey]:
    checkpoint, signatures = _read(note)
    if origin is not None and checkpoint.origin != origin:
        raise ProofError(f"the checkpoint is of the log {checkpoint.origin!r}, not of {origin!r}.")
    known = {(key.name, key.id): key for key in keys}
    signers = []
    for name, data in signatures:
        key = known.get((name, data[:_ID_BYTES]))
        if key is not None:
            if not key.verify(checkpoint.text.encode(), data[_ID_BYTES:]):
                raise ProofError(
                    f"the signature of {name} under the checkpoint is not right: it was changed or forged."
                )
            signers.append(key)
    if not signers:
        names = ", ".join(f"{name}+{data[:_ID_BYTES].hex()}" for name, data in signatures[:5])
        raise UnknownKeyError(f"the checkpoint is signed by {names}, none of which is a log key that is known here.")
    return checkpoint, signers[0]


def _read(note: str) -> tuple[Checkpoint, list[tuple[str, bytes]]]:
    """The body, and name and data of each signature; nothing of it can be trusted yet."""
    if len(note) > MAX_NOTE:
        raise ProofError(f"the checkpoint has {len(note):,} characters, more than the {MAX_NOTE:,} allowed.")
    body, gap, lines = note.rpartition("\n\n")
    found = re.fullmatch(r"([^\n]+)\n(0|[1-9][0-9]{0,18})\n([A-Za-z0-9+/=]{44})", body, re.ASCII)
    if not gap or not found or not lines.endswith("\n") or any(c < " " and c != "\n" for c in note):
        raise ProofError("not a checkpoint: expected the log's name, its size, its root, an empty line and signatures.")
    try:
        checkpoint = Checkpoint(check_name(found[1]), int(found[2]), decode64(found[3]))
        checkpoint.text.encode()
        signatures = [_signature(line) for line in lines[:-1].split("\n")]
    except (ValueError, InputError) as error:
        raise ProofError(f"the checkpoint is damaged: {str(error)[:300]}.") from None
    if checkpoint.size > MAX_SIZE or len(checkpoint.root) != HASH_BYTES or len(signatures) > MAX_SIGNATURES:
        raise ProofError("the checkpoint is damaged: a size, a root or a number of signatures that no log has.")
    return checkpoint, signatures


def _signature(line: str) -> tuple[str, bytes]:
    found = re.fullmatch(r"— ([^ ]+) ([A-Za-z0-9+/=]+)", line)
    data = decode64(found[2]) if found else b""
    if not found or len(data) <= _ID_BYTES:
        raise ValueError(f"not a signature line: {line[:60]!r}")
    return check_name(found[1]), data
