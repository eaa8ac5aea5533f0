"""Requests sealed to a worker: RFC 9180 as its test vectors and an implementation from its text have it."""

import hmac
from hashlib import sha256

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given
from hypothesis import strategies as st

from lienzo.errors import KeystoreError, SealingError
from lienzo.provenance.hpke import open_sealed, public_key, seal_to

# The published vector of mode 0, DHKEM(X25519, HKDF-SHA256), HKDF-SHA256, AES-256-GCM
INFO = bytes.fromhex("4f6465206f6e2061204772656369616e2055726e")
SECRET = bytes.fromhex("497b4502664cfea5d5af0b39934dac72242a74f8480451e1aee7d6a53320333d")
PUBLIC = bytes.fromhex("430f4b9859665145a6b1ba274024487bd66f03a2dd577d7753c68d7d7d00c00c")
EPHEMERAL = bytes.fromhex("179d4b53b6365c45b600c4163b61d95cbc2f4d9e36f1695558dce265ab8bab11")
ENCAPSULATED = bytes.fromhex("6c93e09869df3402d7bf231bf540fadd35cd56be14f97178f0954db94b7fc256")
KEY = bytes.fromhex("f50b0609186798729ed0564b36ef2ef8044f1f9d05636874d1f46c819c7a669f")
NONCE = bytes.fromhex("151d9929e2449747889bc923")
PLAIN = bytes.fromhex("4265617574792069732074727574682c20747275746820626561757479")
CIPHERTEXT = bytes.fromhex("e5d84cd531cfb583096e7cfa9641bd3079cf3a91cda813c52deb5f512be9931980a41de125a925cdad859d5b7a")

KEM_SUITE = b"KEM" + (0x20).to_bytes(2)
SUITE = b"HPKE" + b"".join(number.to_bytes(2) for number in (0x20, 1, 2))


# RFC 9180, section 4: an oracle


def extract(suite: bytes, salt: bytes, label: bytes, material: bytes) -> bytes:
    return hmac.digest(salt or bytes(32), b"HPKE-v1" + suite + label + material, sha256)


def expand(suite: bytes, secret: bytes, label: bytes, info: bytes, length: int) -> bytes:
    text = length.to_bytes(2) + b"HPKE-v1" + suite + label + info
    return hmac.digest(secret, text + b"\x01", sha256)[:length]


def schedule(shared: bytes, ephemeral: bytes, public: bytes, info: bytes) -> tuple[bytes, bytes]:
    """Key and nonce of the first message (sections 4.1 and 5.1, base mode)."""
    secret = extract(KEM_SUITE, b"", b"eae_prk", shared)
    secret = expand(KEM_SUITE, secret, b"shared_secret", ephemeral + public, 32)
    context = b"\0" + extract(SUITE, b"", b"psk_id_hash", b"") + extract(SUITE, b"", b"info_hash", info)
    secret = extract(SUITE, secret, b"secret", b"")
    return expand(SUITE, secret, b"key", context, 32), expand(SUITE, secret, b"base_nonce", context, 12)


def raw(secret: bytes) -> bytes:
    return X25519PrivateKey.from_private_bytes(secret).public_key().public_bytes_raw()


def oracle_seal(public: bytes, plain: bytes, info: bytes, ephemeral: bytes) -> bytes:
    shared = X25519PrivateKey.from_private_bytes(ephemeral).exchange(X25519PublicKey.from_public_bytes(public))
    key, nonce = schedule(shared, raw(ephemeral), public, info)
    return raw(ephemeral) + AESGCM(key).encrypt(nonce, plain, b"")


def oracle_open(secret: bytes, sealed: bytes, info: bytes) -> bytes:
    shared = X25519PrivateKey.from_private_bytes(secret).exchange(X25519PublicKey.from_public_bytes(sealed[:32]))
    key, nonce = schedule(shared, sealed[:32], raw(secret), info)
    return AESGCM(key).decrypt(nonce, sealed[32:], b"")


def test_the_oracle_gives_the_published_vector() -> None:
    assert (raw(SECRET), raw(EPHEMERAL)) == (PUBLIC, ENCAPSULATED)
    shared = X25519PrivateKey.from_private_bytes(EPHEMERAL).exchange(X25519PublicKey.from_public_bytes(PUBLIC))
    assert schedule(shared, ENCAPSULATED, PUBLIC, INFO) == (KEY, NONCE)
    assert AESGCM(KEY).encrypt(NONCE, PLAIN, b"Count-0") == CIPHERTEXT


@given(plain=st.binary(max_size=200), info=st.binary(max_size=50), secret=st.binary(min_size=32, max_size=32))
def test_both_open_what_the_other_sealed(plain: bytes, info: bytes, secret: bytes) -> None:
    public = public_key(secret)
    assert public == raw(secret)
    assert open_sealed(secret, oracle_seal(public, plain, info, EPHEMERAL), info) == plain
    assert oracle_open(secret, seal_to(public, plain, info), info) == plain


def test_every_bit_counts_and_so_does_what_it_is_for() -> None:
    sealed = seal_to(PUBLIC, b"{}", b"tenant a")
    assert open_sealed(SECRET, sealed, b"tenant a") == b"{}"
    for bit in range(8 * len(sealed)):
        changed = bytearray(sealed)
        changed[bit // 8] ^= 1 << bit % 8
        with pytest.raises(SealingError):
            open_sealed(SECRET, bytes(changed), b"tenant a")
    for cut in range(len(sealed)):
        with pytest.raises(SealingError):
            open_sealed(SECRET, sealed[:cut], b"tenant a")
    for secret, info in ((SECRET, b"tenant b"), (SECRET, b""), (EPHEMERAL, b"tenant a")):
        with pytest.raises(SealingError):
            open_sealed(secret, sealed, info)


def test_keys_that_are_none_are_refused() -> None:
    for wrong in (b"", bytes(31), bytes(33)):
        for use in (public_key, lambda key: seal_to(key, b"{}", b""), lambda key: open_sealed(key, b"", b"")):
            with pytest.raises(KeystoreError, match=f"of {len(wrong)} bytes; expected 32"):
                use(wrong)
    with pytest.raises(KeystoreError, match="that no secret has"):
        seal_to(bytes(32), b"{}", b"")  # everybody shares a secret with this point
    with pytest.raises(SealingError):
        open_sealed(SECRET, bytes(100), b"")
