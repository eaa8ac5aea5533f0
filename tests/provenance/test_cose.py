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


HASH = {"exclusions": [{"start": 3, "length": 4}]}
PARTS = ("c2pa.assertions", "c2pa.claim.v2", "c2pa.signature")
TOKEN = {"tstTokens": [{"val": b"token"}]}


def manifest(signature: list[object], names: tuple[str, ...] = PARTS, salt: bytes = b"") -> bytes:
    """A manifest of these parts; the salt is the claim's."""
    boxes = {
        "c2pa.assertions": superbox("c2pa.hash.data", box(b"cbor", cbor(HASH))),
        "c2pa.signature": box(b"cbor", b"\xd2" + cbor(signature)),
    }
    claim = box(b"jumd", bytes(16) + b"\x03c2pa.claim.v2\0" + salt) + box(b"cbor", cbor({}))
    parts = (
        box(b"jumb", claim) if name == "c2pa.claim.v2" else superbox(name, boxes.get(name, box(b"cbor", cbor({}))))
        for name in names
    )
    return superbox("c2pa", superbox(LABEL, *parts))


@pytest.mark.parametrize(
    "unprotected",
    [{}, {"pad": b""}, {"pad": bytes(99), "pad2": bytes(3)}, {"sigTst": TOKEN}, {"pad": bytes(9), "sigTst2": TOKEN}],
)
def test_nothing_unsigned(unprotected: dict[str, object]) -> None:
    assert hole(manifest([b"", unprotected, None, b"signed"]), LABEL) == (3, 7)


@pytest.mark.parametrize(
    "signature",
    [
        *(
            [b"", unprotected, None, b"signed"]
            for unprotected in (
                {"x": b""}, {"pad": b"\0\0x"}, {"pad": {}}, {"pad": {0: b"words"}}, {"pad": {"": b"words"}}, {"pad": [0, 0]},
                {"pad2": []}, {"pad2": ""}, {"pad": None}, {"pad": 0},
                {"sigTst": TOKEN, "sigTst2": TOKEN}, {"sigTst": b"token"}, {"sigTst": {}}, {"sigTst": {"tstTokens": []}},
                {"sigTst2": {**TOKEN, "x": b"words"}}, {"sigTst2": {"tstTokens": [{"val": b"", "x": b"words"}]}},
                {"sigTst2": {"tstTokens": [{"val": b"token"}, {"val": b"words"}]}}, {"sigTst2": {"tstTokens": [{"val": "words"}]}},
            )
        ),
        [b"", {}, b"words", b"signed"], [b"", {}, None, b"signed", b"words"], [b"", {}, None], [b"", {}, None, "words"],
        [{}, {}, None, b"signed"], [b"", [], None, b"signed"],
    ],
)  # fmt: skip
def test_words_that_nobody_signed(signature: list[object]) -> None:
    assert hole(manifest(signature), LABEL) is None


def test_a_manifest_has_three_parts() -> None:
    good = [b"", {}, None, b"signed"]
    for names in (
        (*PARTS, "c2pa.databoxes"),
        (*PARTS, "c2pa.credentials"),
        ("x", *PARTS),
        PARTS[::2],
        (*PARTS, PARTS[1]),
    ):
        assert hole(manifest(good, names), LABEL) is None
    assert hole(manifest(good, salt=b"\0\0\0\x18c2sh" + bytes(16)), LABEL) is None  # which no hash is made of


@given(st.binary(max_size=300) | st.binary(max_size=300).map(lambda data: store(data, {})))
def test_anything_for_a_store(data: bytes) -> None:
    assert leaf_key(data, LABEL) is None
    assert hole(data, LABEL) is None
