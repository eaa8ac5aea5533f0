"""A signing key that never leaves its token: a smart card, a USB stick, an HSM, by PKCS#11. Needs the extra `pkcs11`."""

import functools
import hashlib
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

from lienzo.errors import KeystoreError, MissingExtraError
from lienzo.provenance.keys import Algorithm, PublicKey
from lienzo.provenance.vault import Vault


@dataclass(frozen=True)
class TokenSigner:
    """Ed25519 or ES256 by a key on a token. One signature at a time: a session of PKCS#11 is for one thread."""

    public: PublicKey
    _key: Any = field(repr=False, compare=False)
    _lock: threading.Lock = field(repr=False, compare=False)

    @property
    def algorithm(self) -> Algorithm:
        return self.public.algorithm

    def sign(self, message: bytes) -> bytes:
        """64 bytes: an Ed25519 signature, or r || s of ES256.

        Raises:
            KeystoreError: the token was taken out, or refuses.
        """
        import pkcs11

        if self.algorithm == "ed25519":
            what, mechanism = message, pkcs11.Mechanism.EDDSA
        else:  # the hash is made here, since many tokens sign hashes only
            what, mechanism = hashlib.sha256(message).digest(), pkcs11.Mechanism.ECDSA
        try:
            with self._lock:
                signature = self._key.sign(what, mechanism=mechanism)
        except pkcs11.PKCS11Error as error:
            raise KeystoreError(f"the token does not sign: {_said(error)}. Is it still plugged in?") from None
        return bytes(signature)


def open_signer(uri: str) -> TokenSigner:
    """The key that a PKCS#11 URI (RFC 7512) names.

    Args:
        uri: `pkcs11:token=NAME;object=LABEL?module-path=LIBRARY&pin-source=FILE`: the token's name, the key's label, the
            library that its maker supplies, and a file of mode 0600 with the PIN.

    Raises:
        MissingExtraError: python-pkcs11 is not installed.
        KeystoreError: something in the URI is missing or not there; a wrong PIN; a key that is neither Ed25519 nor ECDSA on
            P-256.
    """
    try:
        import pkcs11
    except ImportError:
        raise MissingExtraError('A key on a PKCS#11 token needs python-pkcs11: pip install "lienzo[pkcs11]"') from None
    token, label, module, pin = _parts(uri)
    try:
        session, lock = _session(module, token, pin)
        with lock:
            private = _half(session, pkcs11.ObjectClass.PRIVATE_KEY, label)
            spki = _spki(_half(session, pkcs11.ObjectClass.PUBLIC_KEY, label))
    except (pkcs11.PKCS11Error, RuntimeError) as error:
        raise KeystoreError(
            f"no Ed25519 or ECDSA key {label!r} on the token {token!r} through {module}: {_said(error)}. "
            "Check the names in the URI, the library and the PIN."
        ) from None
    return TokenSigner(PublicKey.from_spki(spki), private, lock)


def _half(session: Any, half: Any, label: str) -> Any:
    """The private or the public key of that label; keys of kinds that lienzo does not use are passed over."""
    import pkcs11

    wanted = {pkcs11.Attribute.CLASS: half, pkcs11.Attribute.LABEL: label}
    kinds = (pkcs11.KeyType.EC_EDWARDS, pkcs11.KeyType.EC)
    found = [key for key in session.get_objects(wanted) if key.key_type in kinds]
    if len(found) != 1:
        raise pkcs11.MultipleObjectsReturned if found else pkcs11.NoSuchKey
    return found[0]


def _spki(public: Any) -> bytes:
    import pkcs11
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
    from pkcs11.util.ec import encode_ec_public_key

    if public.key_type == pkcs11.KeyType.EC:
        return bytes(encode_ec_public_key(public))
    # PKCS#11 3.1 has the point as it is; earlier ones as a DER octet string, whose tag and length come first
    point = bytes(public[pkcs11.Attribute.EC_POINT]).removeprefix(b"\x04\x20")
    try:
        key = Ed25519PublicKey.from_public_bytes(point)
    except ValueError:
        raise KeystoreError(
            f"the token has an Edwards key of {len(point)} bytes. Allowed: Ed25519, which has 32."
        ) from None
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


@functools.cache
def _session(module: str, token: str, pin: str) -> tuple[Any, threading.Lock]:
    """One a token: to be logged in is the whole process's state there, and a second log-in an error."""
    import pkcs11

    return pkcs11.lib(module).get_token(token_label=token).open(user_pin=pin), threading.Lock()


def _parts(uri: str) -> tuple[str, str, str, str]:
    parts = urlsplit(uri)
    path = dict(pair.partition("=")[::2] for pair in parts.path.split(";"))
    given = {name: unquote(value) for name, value in path.items()} | dict(parse_qsl(parts.query))
    missing = [name for name in ("token", "object", "module-path", "pin-source") if not given.get(name)]
    if parts.scheme != "pkcs11" or missing:
        raise KeystoreError(
            f"got the PKCS#11 URI {uri!r}; it lacks {', '.join(missing) or 'the scheme'}. Expected "
            "pkcs11:token=NAME;object=LABEL?module-path=LIBRARY&pin-source=FILE."
        )
    source = Path(given["pin-source"].removeprefix("file:"))
    pin = Vault(source.parent).read(source).decode("utf-8", "replace").strip()
    return given["token"], given["object"], given["module-path"], pin


def _said(error: Exception) -> str:
    """python-pkcs11 often says it by the error's name alone."""
    return str(error) or type(error).__name__
