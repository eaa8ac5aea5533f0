"""Content Credentials: what is added is found again and trusted; what was changed, or is somebody else's, never is."""

import io
import json
import random
import threading
import time
import zlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import c2pa
import numpy as np
import pytest
import rfc8785
from authority import Authority as Openssl
from authority import serving
from cryptography import x509
from forging import picture, where_the_manifest_is, with_less_padding
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from lienzo.errors import CredentialsError, KeystoreError
from lienzo.provenance import certificates
from lienzo.provenance.certificates import Issuer, anchors, issuer
from lienzo.provenance.credentials import BINDING, CredentialsFound, Parent, SoftBinding, add, read
from lienzo.provenance.keys import Keystore, LocalSigner
from lienzo.provenance.timestamps import Authority

KINDS = ("PNG", "JPEG", "WEBP")
TRAINED = "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"
XMP = (
    '<?xpacket begin="" id="W5M0MpCehiHzreSzNTczkc9d"?><x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF '
    'xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"><rdf:Description rdf:about="" '
    'xmlns:dcterms="http://purl.org/dc/terms/" dcterms:provenance="{}"/></rdf:RDF></x:xmpmeta><?xpacket end="w"?>'
)
COMPOSITE = "http://cv.iptc.org/newscodes/digitalsourcetype/compositeWithTrainedAlgorithmicMedia"
RECEIPT_CONTENT = {
    "picture": "ab" * 32,
    "seed": 7,
    "guidance": 7.5,
    "outcome": None,
    "name": "ñ",
    "parents": [{"a": 1}],
}


@pytest.fixture(scope="module")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> Issuer:
    return issuer(Keystore(tmp_path_factory.mktemp("stranger") / "keys"))


# What is added is found


@pytest.mark.parametrize("kind", KINDS)
def test_what_a_picture_says(kind: Any, own: Issuer, trusted: str) -> None:
    binding = SoftBinding("org.lienzo.pixels", "0123456789ab")
    plain = picture(kind)
    signed = add(plain, kind, issuer=own, title="a red circle", receipt=RECEIPT_CONTENT, binding=binding)
    assert signed.warnings == ()
    assert 10_000 < len(signed.data) - len(plain) < 15_000  # no thumbnail
    found = read(signed.data, trust_anchors=trusted)
    assert (found.state, found.failures) == ("Trusted", ())
    assert found.title == "a red circle"
    assert (found.generator or "").startswith("lienzo ")
    assert (found.signer, found.key_id) == ("Self-issued with lienzo", own.signer.public.id)
    assert (found.time, found.parent) == (None, None)
    assert json.loads(found.receipt or "") == RECEIPT_CONTENT
    assert found.assertions[BINDING] == {"alg": "org.lienzo.pixels", "blocks": [{"scope": {}, "value": "0123456789ab"}]}
    created, marked = found.assertions["c2pa.actions.v2"]["actions"]
    assert (created["action"], created["digitalSourceType"]) == ("c2pa.created", TRAINED)
    assert created["softwareAgent"]["name"] == "lienzo"
    assert marked["action"] == "c2pa.watermarked.bound"
    with Image.open(io.BytesIO(plain)) as before, Image.open(io.BytesIO(signed.data)) as after:
        assert np.array_equal(before, after)


@pytest.mark.parametrize("kind", KINDS)
def test_other_metadata_stays(kind: Any, own: Issuer, trusted: str) -> None:
    chunks = PngInfo()
    chunks.add_text("parameters", "a red circle")
    chunks.add_itxt("lienzo", '{"ñ": 1}')
    exif = Image.Exif()
    exif[305] = "lienzo"
    options = {"pnginfo": chunks} if kind == "PNG" else {"exif": exif, "xmp": XMP.format("nothing").encode()}
    plain = picture(kind, **options)
    signed = add(plain, kind, issuer=own, title="x").data
    assert read(signed, trust_anchors=trusted).state == "Trusted"
    with Image.open(io.BytesIO(plain)) as before, Image.open(io.BytesIO(signed)) as after:
        names = {"parameters", "lienzo"} if kind == "PNG" else {"exif", "xmp"}
        assert {name: before.info[name] for name in names} == {name: after.info[name] for name in names}


@pytest.mark.parametrize("algorithm", ["ed25519", "es256"])
@pytest.mark.parametrize("kind", KINDS)
def test_both_algorithms(algorithm: Any, kind: Any, tmp_path: Path) -> None:
    store = Keystore(tmp_path / "keys")
    store.signer("ca", algorithm=algorithm)
    store.signer("credentials", algorithm=algorithm)
    found = issuer(store)
    assert found.signer.algorithm == algorithm
    signed = add(picture(kind), kind, issuer=found, title="x").data
    assert read(signed, trust_anchors=anchors(store)).state == "Trusted"


@pytest.mark.parametrize("algorithm", ["ed25519", "es256"])
def test_asked_for_a_signature_the_library_does_as_with_the_key_itself(
    algorithm: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """lienzo gives it a function, since the key may be on a token. Here it gets the private key, and comes to the same."""
    store = Keystore(tmp_path / "keys")
    store.signer("ca", algorithm=algorithm)
    store.signer("credentials", algorithm=algorithm)
    found = issuer(store)
    by_function = add(picture("PNG"), "PNG", issuer=found, title="x").data

    def from_key(_: object, algorithm: object, chain: str, url: str | None) -> c2pa.Signer:
        pem = found.signer.pem  # type: ignore[attr-defined]
        return c2pa.Signer.from_info(c2pa.C2paSignerInfo(algorithm.name.lower().encode(), chain.encode(), pem, None))  # type: ignore[attr-defined]

    monkeypatch.setattr(c2pa.Signer, "from_callback", from_key)
    by_key = add(picture("PNG"), "PNG", issuer=found, title="x").data
    one, other = (read(data, trust_anchors=anchors(store)) for data in (by_function, by_key))
    assert one == other and one.state == "Trusted"


@settings(max_examples=30, deadline=None)
@given(
    receipt=st.dictionaries(
        st.text(max_size=8),
        st.recursive(
            st.none() | st.booleans() | st.integers(-(2**53) + 1, 2**53 - 1) | st.text(max_size=20)
            | st.floats(-1e15, 1e15),
            lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
            max_leaves=6,
        ),
        max_size=4,
    )
)  # fmt: skip
def test_a_receipt_comes_back_as_the_same_canonical_json(receipt: dict[str, Any], own: Issuer, trusted: str) -> None:
    signed = add(picture("PNG", 8), "PNG", issuer=own, title="x", receipt=receipt).data
    found = read(signed, trust_anchors=trusted)
    assert found.state == "Trusted"
    assert (found.receipt or "").encode() == rfc8785.dumps(receipt)


@pytest.mark.parametrize("receipt", [{"a": 2**53}, {"a": float("nan")}, {"a": b"x"}, {"a": {1: 2}}, {"a": "\ud800"}])
def test_a_receipt_that_is_no_json(receipt: dict[str, Any], own: Issuer) -> None:
    with pytest.raises(CredentialsError, match="receipt"):
        add(picture("PNG"), "PNG", issuer=own, title="x", receipt=receipt)


# Made from another picture


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("composite", [False, True])
def test_a_parent_keeps_its_credentials(kind: Any, composite: bool, own: Issuer, trusted: str) -> None:
    first = add(picture("PNG", seed=1), "PNG", issuer=own, title="first", receipt={"n": 1}).data
    parent = Parent(first, "first.png")
    signed = add(
        picture(kind), kind, issuer=own, title="second", parent=parent, composite=composite, trust_anchors=trusted
    )
    found = read(signed.data, trust_anchors=trusted)
    assert (found.state, signed.warnings) == ("Trusted", ())
    assert found.parent == ("first.png", "Trusted")
    opened, edited = found.assertions["c2pa.actions.v2"]["actions"]
    assert [opened["action"], edited["action"]] == ["c2pa.opened", "c2pa.edited"]
    assert edited["digitalSourceType"] == (COMPOSITE if composite else TRAINED)
    assert b"org.lienzo.receipt" in signed.data  # the first's manifest is inside


def test_other_parents(own: Issuer, stranger: Issuer, trusted: str) -> None:
    signed = add(picture("PNG", seed=1), "PNG", issuer=stranger, title="x").data
    broken = signed[:-40] + bytes([signed[-40] ^ 1]) + signed[-39:]
    for data, state in ((picture("WEBP"), None), (signed, "Valid"), (broken, "Invalid")):
        made = add(picture("PNG"), "PNG", issuer=own, title="y", parent=Parent(data, "in"), trust_anchors=trusted)
        found = read(made.data, trust_anchors=trusted)
        assert (found.state, found.parent, made.warnings) == ("Trusted", ("in", state), ())
    for data in (b"GIF89a", b"\xff\xd8\xffno", signed[:100], b""):
        made = add(picture("PNG"), "PNG", issuer=own, title="y", parent=Parent(data, "in"))
        assert read(made.data, trust_anchors=trusted).parent == ("in", None)
        assert len(made.warnings) == 1 and "credentials are not kept" in made.warnings[0]


def test_a_hostile_parent_does_no_harm(own: Issuer, trusted: str) -> None:
    rng = random.Random(0)
    parent = add(picture("JPEG", seed=1), "JPEG", issuer=own, title="x").data
    begin, end = where_the_manifest_is(parent)
    for _ in range(40):
        changed = Parent(mutated(parent, rng, begin, end - 9000), "in")
        made = add(picture("PNG", 8), "PNG", issuer=own, title="y", parent=changed, trust_anchors=trusted)
        assert read(made.data, trust_anchors=trusted).state == "Trusted"


# What cannot be signed


def test_no_picture_without_credentials_comes_back(own: Issuer, stranger: Issuer) -> None:
    for data, kind in ((b"", "PNG"), (picture("PNG"), "JPEG"), (picture("PNG")[:40], "PNG"), (b"\xff\xd8\xff", "JPEG")):
        with pytest.raises(CredentialsError):
            add(data, kind, issuer=own, title="x")  # type: ignore[arg-type]
    with pytest.raises(CredentialsError, match="without a parent"):
        add(picture("PNG"), "PNG", issuer=own, title="x", composite=True)
    with pytest.raises(CredentialsError):
        add(picture("PNG"), "PNG", issuer=replace(own, signer=stranger.signer), title="x")
    with pytest.raises(CredentialsError):
        add(picture("PNG"), "PNG", issuer=replace(own, chain="nonsense"), title="x")


def test_a_signer_that_refuses_is_quoted(own: Issuer, capfd: pytest.CaptureFixture[str]) -> None:
    class Unplugged:
        algorithm, public = own.signer.algorithm, own.signer.public

        def sign(self, message: bytes) -> bytes:
            raise KeystoreError("the token is gone")

    with pytest.raises(CredentialsError, match="the token is gone"):
        add(picture("PNG"), "PNG", issuer=Issuer(Unplugged(), own.chain), title="x")  # type: ignore[arg-type]
    assert capfd.readouterr().err == ""


# What must never be trusted


@pytest.fixture(scope="module", params=KINDS)
def signed(request: pytest.FixtureRequest, own: Issuer) -> bytes:
    kind = request.param
    return add(picture(kind), kind, issuer=own, title="x", receipt={"digest": "needle-needle"}).data


def test_a_stranger_is_valid_but_not_trusted(stranger: Issuer, trusted: str) -> None:
    signed = add(picture("PNG"), "PNG", issuer=stranger, title="x").data
    for anchors_given in (trusted, ""):
        found = read(signed, trust_anchors=anchors_given)
        assert found.state == "Valid"
        assert [f.partition(":")[0] for f in found.failures] == ["signingCredential.untrusted"]


def test_a_name_does_not_make_trust(own: Issuer, trusted: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stranger's authority and leaf under the very names of the own ones."""
    store = Keystore(tmp_path / "keys")
    leaf, root = x509.load_pem_x509_certificates(own.chain.encode())
    authority = store.signer("ca", algorithm="es256").public
    monkeypatch.setattr(certificates, "_name", lambda public: (root if public == authority else leaf).subject)
    signed = add(picture("PNG"), "PNG", issuer=issuer(store), title="x").data
    found = read(signed, trust_anchors=trusted)
    assert (found.state, found.key_id) == ("Valid", store.signer("credentials").public.id)


def test_stripped_by_another_program(signed: bytes, trusted: str) -> None:
    with Image.open(io.BytesIO(signed)) as image:
        again = io.BytesIO()
        image.save(again, image.format)
    assert read(again.getvalue(), trust_anchors=trusted) == CredentialsFound("absent")


def test_no_picture(trusted: str) -> None:
    for data in (b"", b"GIF89a", b"%PDF", b"RIFF", b"\x89PNG"):
        assert read(data, trust_anchors=trusted).state == "Invalid"


def test_anchors_that_are_none(signed: bytes, trusted: str) -> None:
    for wrong in ("x", trusted[:300], trusted.replace("M", "N")):
        with pytest.raises(CredentialsError, match="anchors"):
            read(signed, trust_anchors=wrong)


def test_a_changed_pixel(own: Issuer, trusted: str) -> None:
    signed = bytearray(add(picture("PNG", compress_level=0), "PNG", issuer=own, title="x").data)
    signed[-200] ^= 1
    found = read(bytes(signed), trust_anchors=trusted)
    assert found.state == "Invalid"
    assert found.failures[0].startswith("assertion.dataHash.mismatch")


def test_an_edited_assertion(signed: bytes, trusted: str) -> None:
    found = read(signed.replace(b"needle-needle", b"needle-noodle"), trust_anchors=trusted)
    assert found.state == "Invalid"
    assert found.failures[0].startswith("assertion.hashedURI.mismatch")


def test_credentials_moved_to_another_picture(own: Issuer, trusted: str) -> None:
    """The chunk with the manifest, put before another picture's pixels."""
    first = add(picture("PNG", seed=1), "PNG", issuer=own, title="x").data
    begin = first.index(b"caBX") - 4
    end = begin + 12 + int.from_bytes(first[begin : begin + 4])
    other = picture("PNG", seed=2)
    assert read(other[:33] + first[begin:end] + other[33:], trust_anchors=trusted).state == "Invalid"
    assert read(first, trust_anchors=trusted).state == "Trusted"


def test_what_follows_the_picture_is_covered(signed: bytes, trusted: str) -> None:
    assert read(signed + b"<script>", trust_anchors=trusted).state == "Invalid"


def test_a_revoked_signer(signed: bytes, own: Issuer, trusted: str) -> None:
    found = read(signed, trust_anchors=trusted, revoked={own.signer.public.id})
    assert found.state == "Invalid"
    assert found.failures == ("signingCredential.revoked: the signer's key was revoked",)
    assert read(signed, trust_anchors=trusted, revoked={"0" * 64}).state == "Trusted"


def test_a_leaf_cannot_issue(own: Issuer, trusted: str, tmp_path: Path) -> None:
    """Whoever holds the signing key must not be able to make other names trusted."""
    victim = LocalSigner.generate("es256")
    issued = certificates._pem(certificates._issue("leaf", own.signer, victim.public))
    signed = add(picture("PNG"), "PNG", issuer=Issuer(victim, issued + own.chain), title="x").data
    assert read(signed, trust_anchors=trusted).state != "Trusted"


# Expiry and timestamps


@pytest.fixture(scope="module")
def openssl(tmp_path_factory: pytest.TempPathFactory) -> Openssl:
    return Openssl(tmp_path_factory.mktemp("authority") / "tsa")


def test_a_timestamp(own: Issuer, trusted: str, openssl: Openssl, tmp_path: Path) -> None:
    before = datetime.now(UTC).replace(microsecond=0)
    seen: list[str] = []
    with serving(openssl.answer, seen) as url:
        signed = add(picture("PNG"), "PNG", issuer=own, title="x", authority=Authority(url))
    assert signed.warnings == ()
    assert len(seen) == 1
    found = read(signed.data, trust_anchors=trusted, timestamp_roots=openssl.root.decode())
    assert found.state == "Trusted" and found.time is not None
    assert before <= found.time <= datetime.now(UTC) + timedelta(seconds=1)
    assert read(signed.data, trust_anchors=trusted).time is None  # on nobody's word
    stranger = Openssl(tmp_path / "stranger").root.decode()
    assert read(signed.data, trust_anchors=trusted, timestamp_roots=stranger).time is None
    # who may tell the time may not sign pictures, and the other way round
    assert read(signed.data, trust_anchors="", timestamp_roots=trusted).state == "Valid"
    assert read(signed.data, trust_anchors=trusted, timestamp_roots=trusted).time is None


def test_an_expired_leaf_counts_with_a_trusted_timestamp_only(
    openssl: Openssl, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(certificates._LIVES, "leaf", timedelta(seconds=3))
    monkeypatch.setitem(certificates._LEFT, "leaf", timedelta(0))
    store = Keystore(tmp_path / "keys")
    short = issuer(store)
    expires = x509.load_pem_x509_certificate(short.chain.encode()).not_valid_after_utc
    with serving(openssl.answer) as url:
        timed = add(picture("PNG"), "PNG", issuer=short, title="x", authority=Authority(url)).data
    plain = add(picture("PNG"), "PNG", issuer=short, title="x").data
    trusted, clock = anchors(store), openssl.root.decode()
    for data in (timed, plain):
        assert read(data, trust_anchors=trusted, timestamp_roots=clock).state == "Trusted"
    time.sleep(max(0.0, (expires - datetime.now(UTC)).total_seconds() + 1.1))
    assert read(timed, trust_anchors=trusted, timestamp_roots=clock).state == "Trusted"
    assert read(timed, trust_anchors=trusted).state == "Invalid"
    assert read(plain, trust_anchors=trusted, timestamp_roots=clock).state == "Invalid"
    with pytest.raises(CredentialsError):
        add(picture("PNG"), "PNG", issuer=short, title="x")


@pytest.mark.parametrize("answer", [b"", b"junk", 500, 302, None])
def test_no_timestamp_loses_no_picture(answer: bytes | int | None, own: Issuer, trusted: str) -> None:
    stop = threading.Event()

    def reply(_: bytes) -> bytes | int:
        if answer is None:
            stop.wait(20)
            return 500
        return answer

    with serving(reply) as url:
        begin = time.monotonic()
        signed = add(picture("PNG"), "PNG", issuer=own, title="x", authority=Authority(url, timeout=0.5))
        took = time.monotonic() - begin
        stop.set()
    assert took < 10
    assert read(signed.data, trust_anchors=trusted).state == "Trusted"
    assert len(signed.warnings) == 1 and "signed without a timestamp" in signed.warnings[0]


def test_an_answer_to_another_query_is_no_timestamp(own: Issuer, trusted: str, openssl: Openssl) -> None:
    with serving(openssl.answer) as url:
        replayed = Authority(url)(b"something else")
    with serving(lambda _: replayed) as url:
        signed = add(picture("PNG"), "PNG", issuer=own, title="x", authority=Authority(url))
    found = read(signed.data, trust_anchors=trusted, timestamp_roots=openssl.root.decode())
    assert (found.state, found.time) == ("Trusted", None)
    assert signed.warnings


# Planted URLs


@pytest.mark.parametrize("kind", KINDS)
def test_a_planted_url_is_not_fetched(kind: Any, own: Issuer, trusted: str) -> None:
    seen: list[str] = []
    with serving(lambda _: 404, seen) as url:
        packet = XMP.format(f"{url}/manifest.c2pa")
        chunks = PngInfo()
        chunks.add_itxt("XML:com.adobe.xmp", packet)
        planted = picture(kind, **({"pnginfo": chunks} if kind == "PNG" else {"xmp": packet.encode()}))
        assert b"manifest.c2pa" in planted
        assert read(planted, trust_anchors=trusted).state != "Trusted"
        made = add(picture("PNG"), "PNG", issuer=own, title="x", parent=Parent(planted, "in"))
        assert read(made.data, trust_anchors=trusted).state == "Trusted"
        made = add(planted, kind, issuer=own, title="x")
        assert read(made.data, trust_anchors=trusted).state == "Trusted"
        assert seen == []
        with c2pa.Context() as default, pytest.raises(c2pa.C2paError):  # the plant is a real one
            c2pa.Reader(f"image/{kind.lower()}", io.BytesIO(planted), context=default)
        assert seen


def test_a_certificates_urls_are_not_fetched(keystore: Keystore, trusted: str) -> None:
    """OCSP and issuer addresses in a certificate."""
    seen: list[str] = []
    with serving(lambda _: 404, seen) as url:
        where = x509.AuthorityInformationAccess(
            [
                x509.AccessDescription(method, x509.UniformResourceIdentifier(url))
                for method in (x509.AuthorityInformationAccessOID.OCSP, x509.AuthorityInformationAccessOID.CA_ISSUERS)
            ]
        )
        leaf = LocalSigner.generate("es256")
        issued = certificates._issue("leaf", keystore.signer("ca"), leaf.public, [where])
        signed = add(picture("PNG"), "PNG", issuer=Issuer(leaf, certificates._pem(issued) + trusted), title="x").data
        assert read(signed, trust_anchors=trusted).state == "Trusted"
    assert seen == []


# Many at once, and anything at all


def test_no_room_is_made_for_another_picture(own: Issuer, trusted: str) -> None:
    """The file's hash leaves out the manifest's place. Less padding there, and another picture fits into it."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return len(data).to_bytes(4) + name + data + zlib.crc32(name + data).to_bytes(4)

    signed = add(picture("PNG"), "PNG", issuer=own, title="x").data
    begin, end = where_the_manifest_is(signed)
    store = signed[begin + 8 : end - 4]
    assert signed[:begin] + chunk(b"caBX", with_less_padding(store, 0)) + signed[end:] == signed
    other = picture("PNG", seed=5)[33:-12]
    forged = signed[:begin] + chunk(b"caBX", with_less_padding(store, len(other))) + other + signed[end:]
    with Image.open(io.BytesIO(forged)) as shown, Image.open(io.BytesIO(picture("PNG", seed=5))) as wanted:
        assert np.array_equal(shown, wanted)  # the attack is a real one
    assert read(forged, trust_anchors=trusted).state == "Invalid"

    signed = add(picture("JPEG"), "JPEG", issuer=own, title="x").data
    begin, end = where_the_manifest_is(signed)
    tables = b"\xff\xdb\x00\x43\x00" + b"\xff" * 64
    head, store = signed[begin + 4 : begin + 12], signed[begin + 12 : end]
    short = head + with_less_padding(store, len(tables))
    forged = signed[:begin] + b"\xff\xeb" + (len(short) + 2).to_bytes(2) + short + tables + signed[end:]
    assert len(forged) == len(signed)
    assert read(forged, trust_anchors=trusted).state == "Invalid"

    signed = add(picture("WEBP"), "WEBP", issuer=own, title="x").data
    begin, end = where_the_manifest_is(signed)
    more = b"XMP " + (100).to_bytes(4, "little") + b"x" * 100
    short = with_less_padding(signed[begin + 8 : end], len(more))
    for parts in (
        (b"C2PA" + len(short).to_bytes(4, "little") + short, more),
        (more, b"C2PA" + len(short).to_bytes(4, "little") + short),
    ):
        forged = signed[:begin] + b"".join(parts) + signed[end:]
        assert len(forged) == len(signed)
        assert read(forged, trust_anchors=trusted).state == "Invalid"


def test_threads_do_not_disturb_each_other(own: Issuer, trusted: str, stranger: Issuer) -> None:
    foreign = stranger.chain[stranger.chain.index("-----END CERTIFICATE-----\n") + 26 :]

    def work(number: int) -> None:
        ours = number % 2 == 0
        signed = add(picture("PNG", 16, number), "PNG", issuer=own if ours else stranger, title=f"{number}").data
        for _ in range(3):
            assert read(signed, trust_anchors=trusted).state == ("Trusted" if ours else "Valid")
            assert read(signed, trust_anchors=foreign).state == ("Valid" if ours else "Trusted")
            assert read(signed, trust_anchors="").state == "Valid"
        assert read(signed, trust_anchors=trusted).title == f"{number}"

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(64)))


def mutated(data: bytes, rng: random.Random, begin: int, end: int) -> bytes:
    changed = bytearray(data)
    match rng.randrange(6):
        case 0 | 1:
            for _ in range(rng.choice((1, 2, 8))):
                changed[rng.randrange(begin, end)] ^= 1 << rng.randrange(8)
        case 2:
            changed[rng.randrange(begin, end)] = rng.randrange(256)
        case 3:
            del changed[rng.randrange(begin, end) :]
        case 4:
            at = rng.randrange(begin, end)
            del changed[at : at + rng.choice((1, 4, 100))]
        case _:
            at = rng.randrange(begin, end)
            changed[at:at] = rng.randbytes(rng.choice((1, 4, 100)))
    return bytes(changed)


def soak(signed: bytes, trusted: str, count: int, seed: int) -> dict[str, int]:
    """States of changed files. Some bytes of the manifest's container are covered by no signature (padding, the
    chunk's checksum, the signature's unsigned header): a file where only those differ says what it said before."""
    rng = random.Random(seed)
    begin, end = where_the_manifest_is(signed)
    original = read(signed, trust_anchors=trusted)
    states: dict[str, int] = {}
    for number in range(count):
        changed = mutated(signed, rng, *((begin, end - 9000) if number % 2 else (0, len(signed))))
        found = read(changed, trust_anchors=trusted)
        if found.state == "Trusted":
            assert found == original, number
            assert changed.startswith(signed[:begin]) and changed.endswith(signed[end:]), number
        states[found.state] = states.get(found.state, 0) + 1
    return states


def test_changed_files_are_never_trusted(signed: bytes, trusted: str) -> None:
    states = soak(signed, trusted, 500, 0)
    assert states["Invalid"] > 250


@pytest.mark.slow
def test_many_changed_files_are_never_trusted(signed: bytes, trusted: str) -> None:
    soak(signed, trusted, 34_000, 1)
