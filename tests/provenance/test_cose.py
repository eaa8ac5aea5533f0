"""The signer's certificate, found in a manifest's bytes."""

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import given
from hypothesis import strategies as st

from lienzo.provenance.certificates import issuer
from lienzo.provenance.cose import hole, leaf_key
from lienzo.provenance.keys import Keystore

LABEL = "urn:c2pa:1"


def box(kind: bytes, body: bytes) -> bytes:
    return (8 + len(body)).to_bytes(4) + kind + body


def superbox(label: str, *boxes: bytes) -> bytes:
    return box(b"jumb", box(b"jumd", bytes(16) + b"\x03" + label.encode() + b"\0") + b"".join(boxes))


def cbor(value: object) -> bytes:
    match value:
        case int():
            return head(0, value)
        case bytes():
            return head(2, len(value)) + value
        case str():
            return head(3, len(value.encode())) + value.encode()
        case list():
            return head(4, len(value)) + b"".join(map(cbor, value))
        case dict():
            return head(5, len(value)) + b"".join(cbor(key) + cbor(one) for key, one in value.items())
    return b"\xf6"


def head(major: int, number: int) -> bytes:
    return bytes([major << 5 | number]) if number < 24 else bytes([major << 5 | 25]) + number.to_bytes(2)


def store(protected: bytes, unprotected: dict[object, object]) -> bytes:
    signature = b"\xd2" + cbor([protected, unprotected, None, bytes(64)])
    return superbox("c2pa", superbox(LABEL, superbox("c2pa.signature", box(b"cbor", signature))))


@pytest.fixture
def certificate() -> x509.Certificate:
    return x509.load_pem_x509_certificates(issuer().chain.encode())[0]


def test_one_certificate_or_a_chain(certificate: x509.Certificate) -> None:
    der, spki = certificate.public_bytes(Encoding.DER), Keystore().signer("credentials").public.spki
    assert leaf_key(store(cbor({1: 7, 33: der}), {"pad": b""}), LABEL) == spki
    assert leaf_key(store(cbor({33: [der, b"another"]}), {}), LABEL) == spki


def test_a_doubt_is_no_answer(certificate: x509.Certificate) -> None:
    der = certificate.public_bytes(Encoding.DER)
    good = store(cbor({33: der}), {})
    twice = b"\xa2" + 2 * cbor({33: der})[1:]
    signature = good[good.index(b"cbor") - 4 :]
    for doubtful in (
        store(cbor({33: der}), {33: der}),
        store(cbor({33: der}), {"x5chain": der}),
        store(cbor({}), {33: der}),
        store(twice, {}),
        store(cbor({33: []}), {}),
        store(cbor({33: [7]}), {}),
        store(cbor({33: der}) + b"\0", {}),
        superbox("c2pa", superbox(LABEL, superbox("c2pa.signature", signature, signature))),
        superbox("c2pa", *2 * [superbox(LABEL, superbox("c2pa.signature", signature))]),
        superbox("c2pa", superbox(LABEL)),
        store(b"\x81" * 60_000, {}),
        store(
            cbor({33: der.replace(b"\xa0\x03\x02\x01\x02", b"\xa0\x03\x02\x01\x0a", 1)}), {}
        ),  # of no version of X.509
        good[:-1],
        good + b"\0",
    ):
        assert leaf_key(doubtful, LABEL) is None
    assert leaf_key(good, "urn:c2pa:2") is None


@given(st.binary(max_size=300) | st.binary(max_size=300).map(lambda data: store(data, {})))
def test_anything_for_a_store(data: bytes) -> None:
    assert leaf_key(data, LABEL) is None
    assert hole(data, LABEL) is None
