"""Keys: what signs receipts and log checkpoints, what they are checked with, and where they are kept.

A folder of files that only their owner may read; nobody has to make it first:

    receipts.1.pem    first signing key for receipts; once a later one is there, only its public half is left
    receipts.2.pem    the current one: the highest number; only its public half, where the private one is elsewhere (`NAMED`)
    watermark.1.hex   a secret; old ones stay, since old pictures still carry their marks
    revoked/ID.json   when and why a key was revoked
    trusted/ID.json   somebody else's public key, and what to call it

Two processes that make the first key at the same time end with the same key (see `Vault`).
"""

import contextlib
import functools
import hashlib
import hmac
import json
import os
import re
import secrets
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, get_args

from lienzo.errors import KeystoreError
from lienzo.provenance.encoding import decode64, encode64
from lienzo.provenance.vault import Vault

if TYPE_CHECKING:  # imported where it is used: it takes a tenth of a second
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey, EllipticCurvePublicKey
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
    from cryptography.x509 import Certificate, CertificateBuilder

Algorithm = Literal["ed25519", "es256"]
"""ed25519: RFC 8032. es256: ECDSA on P-256 with SHA-256, its signature written as r || s (RFC 7518, section 3.4)."""

SECRET_BYTES = 32
TRUST_FORMAT = "lienzo-keys/2"
MAX_TRUST_FILE = 1_000_000
_HALF = 32  # bytes of r and of s
NAMED: Mapping[str, tuple[str, tuple[Algorithm, ...]]] = {
    "receipts": ("LIENZO_RECEIPTS_KEY", ("ed25519", "es256")),
    "log": ("LIENZO_LOG_KEY", ("ed25519",)),
}
"""Purposes whose key may lie elsewhere: the variable that says where (see `named_signer`), and the algorithms that it may be of."""


@dataclass(frozen=True)
class PublicKey:
    """What a signature is checked with.

    Attributes:
        spki: DER of SubjectPublicKeyInfo (RFC 5280, section 4.1).
    """

    algorithm: Algorithm
    spki: bytes

    @classmethod
    def from_spki(cls, spki: bytes) -> "PublicKey":
        """Read one and tell its algorithm.

        Raises:
            KeystoreError: damaged, or of an algorithm that lienzo does not use.
        """
        return cls._of(load_public(spki))

    @classmethod
    def _of(cls, key: "Ed25519PublicKey | EllipticCurvePublicKey") -> "PublicKey":
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
        from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

        spki = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        return cls("ed25519" if isinstance(key, Ed25519PublicKey) else "es256", spki)

    @functools.cached_property
    def id(self) -> str:
        """SHA-256 of the SPKI in hex: the key's name everywhere."""
        return hashlib.sha256(self.spki).hexdigest()

    def verify(self, message: bytes, signature: bytes) -> bool:
        """Whether the holder of the private key signed exactly this message."""
        from cryptography.exceptions import InvalidSignature
        from cryptography.hazmat.primitives.asymmetric.ec import ECDSA
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
        from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
        from cryptography.hazmat.primitives.hashes import SHA256

        if len(signature) != 2 * _HALF:  # of both algorithms
            return False
        key = load_public(self.spki)
        try:
            if isinstance(key, Ed25519PublicKey):
                key.verify(signature, message)
            else:
                r, s = (int.from_bytes(half) for half in (signature[:_HALF], signature[_HALF:]))
                key.verify(encode_dss_signature(r, s), message, ECDSA(SHA256()))
        except InvalidSignature:
            return False
        return True


class Signer(Protocol):
    """Whatever signs: a key file, a PKCS#11 token, a cloud's key service."""

    @property
    def algorithm(self) -> Algorithm: ...

    @property
    def public(self) -> PublicKey: ...

    def sign(self, message: bytes) -> bytes:
        """64 bytes: an Ed25519 signature, or r || s of ES256."""
        ...


@dataclass(frozen=True)
class LocalSigner:
    """A private key in this process's memory."""

    public: PublicKey
    _key: "Ed25519PrivateKey | EllipticCurvePrivateKey" = field(repr=False, compare=False)

    @classmethod
    def generate(cls, algorithm: Algorithm = "ed25519") -> "LocalSigner":
        from cryptography.hazmat.primitives.asymmetric import ec, ed25519

        return cls.of(
            ed25519.Ed25519PrivateKey.generate() if algorithm == "ed25519" else ec.generate_private_key(ec.SECP256R1())
        )

    @classmethod
    def of(cls, key: "Ed25519PrivateKey | EllipticCurvePrivateKey") -> "LocalSigner":
        return cls(PublicKey._of(key.public_key()), key)

    @classmethod
    def from_pem(cls, pem: bytes) -> "LocalSigner":
        """Read a PKCS#8 key (RFC 5208) without a password.

        Raises:
            KeystoreError: damaged, locked with a password, or of an algorithm that lienzo does not use.
        """
        from cryptography.exceptions import UnsupportedAlgorithm
        from cryptography.hazmat.primitives.asymmetric import ec, ed25519
        from cryptography.hazmat.primitives.serialization import load_pem_private_key

        try:
            key = load_pem_private_key(pem, None)
        except TypeError:
            raise KeystoreError(
                "the key is locked with a password. Give one without, in a file of mode 0600."
            ) from None
        except (ValueError, UnsupportedAlgorithm):
            raise KeystoreError("no private key in PKCS#8 PEM form.") from None
        if not isinstance(key, ed25519.Ed25519PrivateKey | ec.EllipticCurvePrivateKey):
            raise KeystoreError(f"got a key of type {type(key).__name__}. Allowed: Ed25519, and ECDSA on P-256.")
        _check_curve(key)
        return cls.of(key)

    @property
    def algorithm(self) -> Algorithm:
        return self.public.algorithm

    @property
    def pem(self) -> bytes:
        """The private key as PKCS#8 PEM."""
        from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

        return self._key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())

    def certificate(self, builder: "CertificateBuilder") -> "Certificate":
        """A certificate that this key issues."""
        from cryptography.hazmat.primitives.hashes import SHA256

        return builder.sign(self._key, SHA256() if self.algorithm == "es256" else None)

    def sign(self, message: bytes) -> bytes:
        """64 bytes: an Ed25519 signature, or r || s of ES256."""
        from cryptography.hazmat.primitives.asymmetric.ec import ECDSA
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
        from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
        from cryptography.hazmat.primitives.hashes import SHA256

        if isinstance(self._key, Ed25519PrivateKey):
            return self._key.sign(message)
        return b"".join(n.to_bytes(_HALF) for n in decode_dss_signature(self._key.sign(message, ECDSA(SHA256()))))


@dataclass(frozen=True)
class Revocation:
    """When and why a key stopped being trusted. Times are UTC, RFC 3339."""

    time: str
    reason: str


@dataclass(frozen=True)
class KnownKey:
    """A public key and what is known about it.

    Attributes:
        public: the key.
        purpose: what it signs ("receipts", "log" ...); what else it signs does not count.
        whose: the name that its owner was trusted under; None: this keystore made it.
        made, retired: UTC, RFC 3339; retired is None for the current key of a purpose, and both for somebody else's
            where nothing is said.
        revoked: None where it was not.
    """

    public: PublicKey
    purpose: str
    whose: str | None
    made: str | None
    retired: str | None
    revoked: Revocation | None

    @property
    def own(self) -> bool:
        return self.whose is None

    @property
    def name(self) -> str:
        """For people."""
        return self.purpose if self.whose is None else f"{self.whose}: {self.purpose}"

    @property
    def document(self) -> dict[str, Any]:
        """As `Keystore.export` writes it; of somebody else's with whose it is."""
        optional = {"whose": self.whose, "made": self.made, "retired": self.retired}
        return {
            "id": self.public.id,
            "purpose": self.purpose,
            "algorithm": self.public.algorithm,
            "spki": encode64(self.public.spki),
            **{name: value for name, value in optional.items() if value is not None},
            **({"revoked": {"time": self.revoked.time, "reason": self.revoked.reason}} if self.revoked else {}),
        }


class Keystore:
    """A folder of keys, made on first use.

    Args:
        folder: None: `home()/keys`.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self._vault = Vault(home() / "keys" if folder is None else Path(folder))

    @property
    def folder(self) -> Path:
        return self._vault.folder

    def signer(self, purpose: str = "receipts", *, algorithm: Algorithm = "ed25519") -> Signer:
        """The current key of a purpose: the one that the environment names (see `NAMED`), else the keystore's own.

        Args:
            algorithm: of the first key, if there is none yet; an existing one keeps its own.

        Raises:
            KeystoreError: a key file that others may read, or a damaged one; a named key that cannot be used, or was revoked.
        """
        if (named := _named(purpose)) is not None:
            return self._remembered(purpose, *named)
        while True:
            latest = self._vault.latest(purpose, "pem")
            if latest is None:
                self._vault.add(purpose, "pem", None, lambda: _private_file(purpose, algorithm))
                continue
            text = self._vault.read(latest)
            if b"PRIVATE KEY" not in text:
                if self._vault.latest(purpose, "pem") != latest:
                    continue  # another process replaced it in between
                where = f", name where that is ({NAMED[purpose][0]})" if purpose in NAMED else ""
                raise KeystoreError(
                    f"{latest}: holds no private key. Restore it{where}, or run `lienzo keys rotate {purpose}` to have a new "
                    "one made."
                )
            with told_of(latest):
                signer = LocalSigner.from_pem(text)
            if self._revocation(signer.public.id) is None:
                return signer
            self.rotate(purpose)  # was stopped between revoking the key and making the next one

    def secret(self, purpose: str) -> bytes:
        """32 random bytes, made on first use; the current ones of a purpose.

        Raises:
            KeystoreError: a file that others may read, or a damaged one.
        """
        if self._vault.latest(purpose, "hex") is None:
            self._vault.add(purpose, "hex", None, _secret_file)
        return self.secrets(purpose)[0]

    def secrets(self, purpose: str) -> list[bytes]:
        """All that were ever current and are not forgotten, newest first: an old mark is found with an old secret."""
        while True:
            files = self._vault.generations(purpose, "hex")
            try:
                return [self._read_secret(path) for path in reversed(files)]
            except KeystoreError:
                if self._vault.generations(purpose, "hex") == files:
                    raise  # else one was forgotten in between

    def forget(self, purpose: str, secret: bytes) -> None:
        """Remove the file of a secret that nothing needs any more; forgetting it twice does nothing."""
        for path in self._vault.generations(purpose, "hex"):
            try:
                same = hmac.compare_digest(self._read_secret(path), secret)
            except KeystoreError:
                if path.exists():
                    raise
                continue  # another process forgot it in between
            if same:
                self._vault.remove(path)

    def rotate(self, purpose: str, *, algorithm: Algorithm | None = None) -> PublicKey | None:
        """Make the next key of a purpose. The old one can sign no more; what it signed can still be checked.

        Args:
            algorithm: None: the current key's.

        Returns:
            The new key; None for a secret, of which nothing is public.

        Raises:
            KeystoreError: there is nothing of that purpose, or the environment names its key.
        """
        if (named := _named(purpose)) is not None:
            raise KeystoreError(
                f"the key for {purpose} is the one that {named[0]} names. Name the next one there; the old one stays known."
            )
        if (latest := self._vault.latest(purpose, "pem")) is not None:
            kind = algorithm or self._read_public(latest).algorithm
            self._vault.add(purpose, "pem", latest, lambda: _private_file(purpose, kind))
            self._forget_private(purpose)
            return self.signer(purpose).public
        if (latest := self._vault.latest(purpose, "hex")) is not None:
            self._vault.add(purpose, "hex", latest, _secret_file)
            return None
        there = ", ".join(self._vault.names()) or "none yet"
        raise KeystoreError(f"got the purpose {purpose!r}, of which there is no key. There are: {there}.")

    def revoke(self, key_id: str, reason: str) -> KnownKey:
        """Say that a key is not to be trusted. What it signed then counts for nothing, since nobody can tell when it
        was signed. The current key of a purpose is followed by a new one, unless the environment names it. Once revoked, the
        first time and reason stay.

        Args:
            key_id: the whole id, or so much of its beginning that only one key has it; at least 8 digits.

        Raises:
            KeystoreError: no such key, several, or an empty reason.
        """
        if not reason.strip():
            raise KeystoreError("reason: got nothing. Say in a few words why the key is not to be trusted any more.")
        known = self.find(key_id)
        self._mark_revoked(known.public.id, Revocation(_now(), reason.strip()))
        if known.own and known.retired is None and _named(known.purpose) is None:
            self.rotate(known.purpose)
        return self.find(known.public.id)

    def keys(self) -> list[KnownKey]:
        """All public keys: own ones of each purpose in the order they were made, then those of others by name."""
        own = []
        for purpose in self._vault.names("pem"):
            files = self._vault.generations(purpose, "pem")
            made = [_made(path, self._vault.read(path)) for path in files]
            for path, begin, end in zip(files, made, [*made[1:], None], strict=True):
                public = self._read_public(path)
                own.append(KnownKey(public, purpose, None, begin, end, self._revocation(public.id)))
        seen = {key.public.id for key in own}
        others = [key for key in self._trusted() if key.public.id not in seen]
        return own + sorted(others, key=lambda key: (key.name, key.public.id))

    def log_keys(self, *, own: bool = False) -> list[PublicKey]:
        """Public keys that a log may be signed with; own: only the own log."""
        known = [key for key in self.keys() if key.revoked is None and key.purpose == "log"]
        return [key.public for key in known if key.own or not own]

    def find(self, key_id: str) -> KnownKey:
        """The key of that id, or of an id that begins so.

        Raises:
            KeystoreError: none, or several.
        """
        found = [key for key in self.keys() if key.public.id.startswith(key_id)] if len(key_id) >= 8 else []
        if len(found) != 1:
            what = "several keys begin so" if found else "no key has that id"
            raise KeystoreError(
                f"got the key id {key_id[:64]!r}; {what}. Give 8 digits or more of one that `lienzo keys list` shows."
            )
        return found[0]

    def export(self, name: str | None = None) -> dict[str, Any]:
        """The own public keys as a trust list, which another keystore reads with `trust`.

        Args:
            name: what others are to call its owner, unless they have a better one.
        """
        keys = [key.document for key in self.keys() if key.own]
        return {"format": TRUST_FORMAT, **({"name": name} if name else {}), "keys": keys}

    def trust(self, document: bytes | Mapping[str, Any], whose: str | None = None) -> list[KnownKey]:
        """Take the public keys of a trust list for trustworthy, and its revocations for known.

        Nothing in the list vouches for it: get it from its owner by a way that you trust. A revocation that is known
        already stays, even where the list has it no more. A list speaks of its owner's keys alone.

        Args:
            whose: what to call its owner; None: as the list says, else by the first key's id.

        Raises:
            KeystoreError: no trust list, a damaged one, or one with keys of one's own or of somebody else whom one trusts;
                then none of it is taken.
        """
        keys = list(_from_document(trust_list(document), whose))
        there = {key.public.id: key for key in self.keys()}
        for key in keys:
            known = there.get(key.public.id, key)
            if known.own:
                raise KeystoreError(
                    f"got a trust list with your own key {key.public.id[:16]} ({known.purpose}). A list speaks of its owner's keys "
                    "alone. Nothing of it was taken."
                )
            if (known.whose, known.purpose) != (key.whose, key.purpose):
                raise KeystoreError(
                    f"got a trust list of {key.whose!r} with the {key.purpose} key {key.public.id[:16]}, which is trusted here as "
                    f"{known.name!r}. Nothing of it was taken. If it is {known.whose!r}'s newer list, say so (--as); if "
                    f"{known.whose!r} is to be trusted no more, run `lienzo keys distrust` first."
                )
        for key in keys:
            text = json.dumps(key.document, indent=2, ensure_ascii=False).encode()
            self._vault.put(f"trusted/{key.public.id}.json", text, if_exists="overwrite")
            if key.revoked is not None:
                self._mark_revoked(key.public.id, key.revoked)
        return [self.find(key.public.id) for key in keys]

    def distrust(self, whose: str) -> list[KnownKey]:
        """Trust somebody's keys no more; `trust` takes them back. What is known to be revoked stays so.

        Returns:
            The keys that counted until now; none where nobody of that name was trusted.
        """
        theirs = [key for key in self._trusted() if key.whose == whose]
        for key in theirs:
            self._vault.remove(self.folder / "trusted" / f"{key.public.id}.json")
        return theirs

    # Files

    def _remembered(self, purpose: str, variable: str, key: str) -> Signer:
        """The key that the environment names; its public half is kept, so that what it signs can be checked here."""
        with told_of(variable):
            signer, allowed = named_signer(key), NAMED[purpose][1]
            if signer.algorithm not in allowed:
                raise KeystoreError(
                    f"got a key of the algorithm {signer.algorithm}. Allowed for {purpose}: {', '.join(allowed)}."
                )
            while True:
                latest = self._vault.latest(purpose, "pem")  # before looking: so only one of two processes adds it
                known = next((key for key in self.keys() if key.public == signer.public), None)
                if known is None:
                    self._vault.add(purpose, "pem", latest, lambda: _public_file(signer.public, purpose, _now()))
                    self._forget_private(purpose)
                elif not known.own or known.purpose != purpose:
                    raise KeystoreError(
                        f"the key {signer.public.id[:16]} is {known.name!r} here, and a key counts for one purpose. Name another one."
                    )
                elif known.revoked is not None:
                    raise KeystoreError(f"the key {signer.public.id[:16]} was revoked. Name another one.")
                else:
                    return signer

    def _read_public(self, path: Path) -> PublicKey:
        from cryptography.exceptions import UnsupportedAlgorithm
        from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_public_key

        text = self._vault.read(path)
        with told_of(path):
            if b"PRIVATE KEY" in text:
                return LocalSigner.from_pem(text).public
            try:
                key = load_pem_public_key(text)
            except (ValueError, UnsupportedAlgorithm):
                raise KeystoreError("holds no key. Restore the file, or remove it if it is not lienzo's.") from None
            return PublicKey.from_spki(key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo))

    def _read_secret(self, path: Path) -> bytes:
        try:
            secret = bytes.fromhex(self._vault.read(path).decode("ascii"))
        except ValueError:
            secret = b""
        if len(secret) != SECRET_BYTES:
            raise KeystoreError(f"{path}: damaged; expected {2 * SECRET_BYTES} hexadecimal digits. Restore the file.")
        return secret

    def _forget_private(self, purpose: str) -> None:
        """Leave only the public half of all but the current key."""
        for path in self._vault.generations(purpose, "pem")[:-1]:
            text = self._vault.read(path)
            if b"PRIVATE KEY" in text:
                public = self._read_public(path)
                self._vault.put(path.name, _public_file(public, purpose, _made(path, text)), if_exists="overwrite")

    def _trusted(self) -> Iterator[KnownKey]:
        for path in sorted((self.folder / "trusted").glob("*.json")):
            document = _json(path, self._vault.read(path))
            with told_of(path):
                (key,) = _from_document({"format": TRUST_FORMAT, "keys": [document]}, document.get("whose"))
            yield replace(key, revoked=self._revocation(key.public.id))

    def _revocation(self, key_id: str) -> Revocation | None:
        path = self.folder / "revoked" / f"{key_id}.json"
        if not path.exists():
            return None
        # A damaged file still revokes: the safe reading.
        return _revocation(_json(path, self._vault.read(path))) or Revocation("unknown", f"{path} is damaged")

    def _mark_revoked(self, key_id: str, revocation: Revocation) -> None:
        if self._revocation(key_id) is not None:
            return
        text = json.dumps({"time": revocation.time, "reason": revocation.reason}, ensure_ascii=False).encode()
        self._vault.put(f"revoked/{key_id}.json", text, if_exists="keep")


def named_signer(key: str) -> Signer:
    """The key that a setting names.

    Args:
        key: a PKCS#8 PEM file of mode 0600, or a PKCS#11 URI (see `lienzo.provenance.pkcs11`).

    Raises:
        KeystoreError: it cannot be used.
    """
    if key.startswith("pkcs11:"):
        from lienzo.provenance.pkcs11 import open_signer

        return open_signer(key)
    path = Path(key)
    with told_of(path):
        return LocalSigner.from_pem(Vault(path.parent).read(path))


def _named(purpose: str) -> tuple[str, str] | None:
    """The variable that may name a purpose's key, and what it names; None where it names none."""
    if purpose not in NAMED:
        return None
    variable, _ = NAMED[purpose]
    key = os.environ.get(variable)
    return (variable, key) if key else None


def home() -> Path:
    """Where lienzo keeps what is its user's: $LIENZO_HOME, else `lienzo` in the platform's folder for configuration."""
    if chosen := os.environ.get("LIENZO_HOME"):
        return Path(chosen).expanduser()
    if sys.platform == "win32":
        base = os.environ.get("APPDATA") or Path.home() / "AppData" / "Roaming"
    elif sys.platform == "darwin":
        base = Path.home() / "Library" / "Application Support"
    else:
        base = os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config"
    return Path(base) / "lienzo"


def trust_list(document: bytes | Mapping[str, Any]) -> Mapping[str, Any]:
    """A trust list, read from JSON where it is that; what is in it is not checked yet.

    Raises:
        KeystoreError: no JSON object, or a huge one.
    """
    if not isinstance(document, bytes):
        return document
    if len(document) > MAX_TRUST_FILE:
        raise KeystoreError(f"got {len(document):,} bytes; a trust list has at most {MAX_TRUST_FILE:,}.")
    return _json(None, document)


def list_owner(document: Mapping[str, Any], whose: str | None) -> str | None:
    """What to call a trust list's owner: as the caller says, else as the list does; None where neither does.

    Raises:
        KeystoreError: a name that cannot be shown.
    """
    whose = whose or document.get("name")
    if whose is not None and not (isinstance(whose, str) and 0 < len(whose) <= 100 and whose.isprintable()):
        raise KeystoreError("got a name for the list's owner that cannot be shown. Give up to 100 letters in one line.")
    return whose


def _from_document(document: Mapping[str, Any], whose: str | None) -> Iterator[KnownKey]:
    """The keys of a trust list.

    Raises:
        KeystoreError: where anything of it is not as `Keystore.export` writes it.
    """
    keys = document.get("keys")
    if document.get("format") != TRUST_FORMAT or not isinstance(keys, list):
        raise KeystoreError(f"no trust list: expected what `lienzo keys export` writes (format {TRUST_FORMAT!r}).")
    whose = list_owner(document, whose)
    for number, key in enumerate(keys, 1):
        try:
            public = PublicKey.from_spki(decode64(key["spki"]))
            purpose, revoked = key["purpose"], key.get("revoked")
            whose = whose or public.id[:16]
            made, retired = key.get("made"), key.get("retired")
            if not (isinstance(purpose, str) and re.fullmatch(r"[a-z0-9-]{1,40}", purpose)):
                raise KeystoreError("purpose: expected up to 40 small letters, digits and hyphens.")
            if (key["id"], key["algorithm"]) != (public.id, public.algorithm):
                raise KeystoreError("its id or algorithm is not that of its spki.")
            if not all(time is None or (isinstance(time, str) and len(time) <= 40) for time in (made, retired)):
                raise KeystoreError("made, retired: expected times in RFC 3339 form.")
            revocation = None if revoked is None else _revocation(revoked)
            if (revoked is None) != (revocation is None):
                raise KeystoreError("revoked: expected a time and a reason.")
        except (KeystoreError, KeyError, TypeError, AttributeError, ValueError) as error:
            why = f"{error} is missing." if isinstance(error, KeyError) else str(error)
            raise KeystoreError(f"key {number} of the trust list: {why} Nothing of the list was taken.") from None
        yield KnownKey(public, purpose, whose, made, retired, revocation)


def _revocation(document: Mapping[str, Any]) -> Revocation | None:
    time, reason = document.get("time"), document.get("reason")
    if isinstance(time, str) and isinstance(reason, str) and len(time) <= 40 and 0 < len(reason) <= 1000:
        return Revocation(time, reason)
    return None


def _json(path: Path | None, text: bytes) -> dict[str, Any]:
    try:
        document = json.loads(text)
    except (ValueError, RecursionError):
        document = None
    if not isinstance(document, dict):
        raise KeystoreError(f"{path or 'the trust list'}: not a JSON object.")
    return document


@functools.lru_cache(maxsize=256)
def load_public(spki: bytes) -> "Ed25519PublicKey | EllipticCurvePublicKey":
    """cryptography's own object for a public key.

    Raises:
        KeystoreError: damaged, or of an algorithm that lienzo does not use.
    """
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519
    from cryptography.hazmat.primitives.serialization import load_der_public_key

    try:
        key = load_der_public_key(spki)
    except (ValueError, UnsupportedAlgorithm):
        raise KeystoreError("not a public key in SPKI form.") from None
    if not isinstance(key, ed25519.Ed25519PublicKey | ec.EllipticCurvePublicKey):
        raise KeystoreError(f"got a key of type {type(key).__name__}. Allowed: Ed25519, and ECDSA on P-256.")
    _check_curve(key)
    return key


def _check_curve(key: Any) -> None:
    curve = getattr(key, "curve", None)
    if curve is not None and curve.name != "secp256r1":
        raise KeystoreError(f"got an ECDSA key on {curve.name}. Allowed: Ed25519, and ECDSA on P-256.")


def _private_file(purpose: str, algorithm: Algorithm) -> bytes:
    if algorithm not in get_args(Algorithm):
        raise KeystoreError(f"got the algorithm {algorithm!r}. Allowed: {', '.join(get_args(Algorithm))}.")
    return _explained(purpose, _now()) + LocalSigner.generate(algorithm).pem


def _public_file(public: PublicKey, purpose: str, made: str) -> bytes:
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    pem = load_public(public.spki).public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    return _explained(purpose, made) + pem


def _explained(purpose: str, made: str) -> bytes:
    """Lines before the key, which readers of PEM pass over (RFC 7468, section 2)."""
    return f"lienzo's key for {purpose}\nmade {made}\n\n".encode()


def _secret_file() -> bytes:
    return secrets.token_hex(SECRET_BYTES).encode()


def _made(path: Path, text: bytes) -> str:
    """When a key was made: as its file says, else (somebody put the key there) when the file was written."""
    found = re.search(rb"^made ([0-9TZ:.+-]{1,40})$", text, re.M)
    return found[1].decode() if found else _spelled(datetime.fromtimestamp(path.stat().st_mtime, UTC))


def _now() -> str:
    return _spelled(datetime.now(UTC))


def _spelled(time: datetime) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ")


@contextlib.contextmanager
def told_of(what: Path | str) -> Iterator[None]:
    """Say in errors which file or variable it is."""
    try:
        yield
    except KeystoreError as error:
        raise KeystoreError(f"{what}: {error}") from None
