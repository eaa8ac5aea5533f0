"""Requests sealed on their way: from a client to the worker that makes the picture, past everything in between.

HPKE (RFC 9180), base mode, X25519 / HKDF-SHA256 / AES-256-GCM. What is sealed is the encapsulated key (32 bytes), then the
ciphertext. Base mode does not say who sealed it, and the same message can be handed in twice: put into `info` what it is for
(the tenant, the job's id), so that it opens nowhere else.
"""

from typing import TYPE_CHECKING

from lienzo.errors import KeystoreError, SealingError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.hpke import Suite

KEY_BYTES = 32
"""Of the secret and of the public key."""


def public_key(secret: bytes) -> bytes:
    """What clients seal to: the X25519 public key (RFC 7748) of 32 secret bytes, `Keystore.secret("worker")` for one."""
    from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

    _check_length(secret)
    return X25519PrivateKey.from_private_bytes(secret).public_key().public_bytes_raw()


def seal_to(public: bytes, request_json: bytes, info: bytes) -> bytes:
    """Seal a request so that only the holder of the secret key can open it, and only for the same `info`.

    Raises:
        KeystoreError: not a public key.
    """
    from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PublicKey

    _check_length(public)
    try:
        return _suite().encrypt(request_json, X25519PublicKey.from_public_bytes(public), info)
    except ValueError:  # a point of low order, with which anyone could open it
        raise KeystoreError("got a public key that no secret has. Ask the worker for its key anew.") from None


def open_sealed(secret: bytes, sealed: bytes, info: bytes) -> bytes:
    """Open what was sealed to this secret's public key.

    Raises:
        SealingError: changed, cut, sealed to another key or for another `info`.
    """
    from cryptography.exceptions import InvalidTag
    from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

    _check_length(secret)
    try:
        return _suite().decrypt(sealed, X25519PrivateKey.from_private_bytes(secret), info)
    except (InvalidTag, ValueError):
        raise SealingError(
            "a sealed request that does not open: it was changed, or sealed to another key or for another purpose. "
            "Ask the worker for its public key and seal it anew."
        ) from None


def _suite() -> "Suite":
    from cryptography.hazmat.primitives.hpke import AEAD, KDF, KEM, Suite

    return Suite(KEM.X25519, KDF.HKDF_SHA256, AEAD.AES_256_GCM)


def _check_length(key: bytes) -> None:
    if len(key) != KEY_BYTES:
        raise KeystoreError(f"got an X25519 key of {len(key)} bytes; expected {KEY_BYTES}.")
