"""A key to sign with, of the shape that `lienzo.provenance.keys.Signer` has, and always the same."""

import hashlib
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat


@dataclass(frozen=True)
class Public:
    algorithm: Literal["ed25519", "es256"]
    spki: bytes

    @property
    def id(self) -> str:
        return hashlib.sha256(self.spki).hexdigest()


@dataclass(frozen=True)
class Fixed:
    """The key that follows from a name."""

    name: str = "log"
    algorithm: Literal["ed25519", "es256"] = "ed25519"

    @cached_property
    def _private(self) -> Ed25519PrivateKey:
        return Ed25519PrivateKey.from_private_bytes(hashlib.sha256(self.name.encode()).digest())

    @cached_property
    def public(self) -> Public:
        return Public(
            self.algorithm, self._private.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        )

    def sign(self, message: bytes) -> bytes:
        return self._private.sign(message)
