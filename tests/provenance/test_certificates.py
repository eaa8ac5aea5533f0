"""The own authority: made once, as C2PA and openssl want it, renewed in time; and an organisation's chain."""

import json
import shutil
import subprocess
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from click.testing import CliRunner
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from lienzo.cli import lienzo
from lienzo.errors import KeystoreError
from lienzo.provenance import certificates
from lienzo.provenance.certificates import Issuer, anchors, distrust, export, issuer, trust
from lienzo.provenance.keys import Keystore, LocalSigner


@pytest.fixture(autouse=True)
def _no_configuration(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LIENZO_CERT_CHAIN", raising=False)
    monkeypatch.delenv("LIENZO_CERT_KEY", raising=False)


@pytest.fixture
def store(tmp_path: Path) -> Keystore:
    return Keystore(tmp_path / "keys")


def certificates_of(found: Issuer) -> tuple[x509.Certificate, x509.Certificate]:
    leaf, root = x509.load_pem_x509_certificates(found.chain.encode())
    return leaf, root


def test_made_once_and_kept(store: Keystore) -> None:
    assert anchors(store) == ""
    with ThreadPoolExecutor(8) as pool:
        made = {found.chain for found in pool.map(lambda _: issuer(Keystore(store.folder)), range(16))}
    assert len(made) == 1
    leaf, root = certificates_of(issuer(store))
    assert leaf.public_key() == x509.load_pem_x509_certificates(made.pop().encode())[0].public_key()
    assert anchors(store).encode() in issuer(store).chain.encode()
    files = sorted(path.name for path in (store.folder.parent / "ca").iterdir())
    assert files == ["leaf.1.crt", "root.1.crt"]
    assert leaf.subject.rfc4514_string() == f"CN={issuer(store).signer.public.id},O=Self-issued with lienzo"
    assert leaf.issuer == root.subject


def test_openssl_accepts_the_chain(store: Keystore, tmp_path: Path) -> None:
    leaf, root = issuer(store).chain.split("-----END CERTIFICATE-----\n", 1)
    (tmp_path / "leaf.pem").write_text(leaf + "-----END CERTIFICATE-----\n")
    (tmp_path / "root.pem").write_text(root)
    command = ["openssl", "verify", "-x509_strict", "-purpose", "smimesign", "-CAfile", "root.pem", "leaf.pem"]
    assert subprocess.run(command, cwd=tmp_path, check=True, capture_output=True).stdout == b"leaf.pem: OK\n"


def test_what_each_may_do(store: Keystore) -> None:
    leaf, root = certificates_of(issuer(store))

    def usage(certificate: x509.Certificate) -> set[str]:
        found = certificate.extensions.get_extension_for_class(x509.KeyUsage).value
        return {name for name in ("digital_signature", "key_cert_sign", "crl_sign") if getattr(found, name)}

    assert usage(leaf) == {"digital_signature"}
    assert usage(root) == {"key_cert_sign", "crl_sign"}
    (purpose,) = leaf.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert purpose == x509.ExtendedKeyUsageOID.EMAIL_PROTECTION
    assert not leaf.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    by = leaf.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value.key_identifier
    assert by == root.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value.digest


@pytest.mark.parametrize("years", [4, 6])
def test_renewed_before_it_grows_old(store: Keystore, monkeypatch: pytest.MonkeyPatch, years: int) -> None:
    with monkeypatch.context() as patched:
        patched.setitem(certificates._LIVES, "leaf", years * timedelta(days=365))
        patched.setitem(certificates._LEFT, "leaf", timedelta(0))
        old, _ = certificates_of(issuer(store))
    new, root = certificates_of(issuer(store))
    assert (new == old) == (years == 6)
    assert new.not_valid_after_utc - datetime.now(UTC) > 5 * timedelta(days=365)
    assert new.public_key() == old.public_key()
    assert root.not_valid_after_utc > new.not_valid_after_utc


def test_rotation(store: Keystore) -> None:
    old, root = certificates_of(issuer(store))
    store.rotate("credentials")
    new, same = certificates_of(issuer(store))
    assert new.public_key() != old.public_key()
    assert same == root
    store.rotate("ca")
    other, newer = certificates_of(issuer(store))
    assert newer != root
    assert other.public_key() == new.public_key() and other.issuer == newer.subject
    assert len(x509.load_pem_x509_certificates(anchors(store).encode())) == 2  # old pictures still count


def test_while_keys_change_the_signer_is_that_of_its_certificate(store: Keystore) -> None:
    issuer(store)
    changing = [True]

    def change() -> None:
        while changing:
            Keystore(store.folder).rotate("credentials")

    with ThreadPoolExecutor(1) as pool:
        changed = pool.submit(change)
        made = [issuer(Keystore(store.folder)) for _ in range(60)]
        changing.clear()
        changed.result()
    assert len({one.chain for one in made}) > 1
    for one in made:
        assert spki(certificates_of(one)[0]) == one.signer.public.spki


def spki(certificate: x509.Certificate) -> bytes:
    return certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def test_a_revoked_authority_is_no_anchor(store: Keystore) -> None:
    issuer(store)
    store.revoke(store.signer("ca").public.id, "stolen")
    assert anchors(store) == ""
    _, root = certificates_of(issuer(store))
    assert x509.load_pem_x509_certificates(anchors(store).encode()) == [root]


def test_others_are_trusted_by_their_list(store: Keystore, tmp_path: Path) -> None:
    issuer(store)
    document = json.dumps(export(store, "Ana")).encode()
    assert b"PRIVATE" not in document
    mine = Keystore(tmp_path / "other" / "keys")
    trust(mine, document)
    assert anchors(mine) == anchors(store)
    assert {key.name for key in mine.keys()} == {"Ana: ca", "Ana: credentials"}
    store.revoke(store.signer("ca").public.id, "stolen")
    trust(mine, export(store, "Ana"))
    assert anchors(mine) == ""


def test_trust_ends_for_keys_and_certificates_alike(store: Keystore, tmp_path: Path) -> None:
    carl, mine = Keystore(tmp_path / "carl" / "keys"), Keystore(tmp_path / "mine" / "keys")
    issuer(store), issuer(carl), issuer(mine)
    stolen = store.signer("credentials").public.id
    store.revoke(stolen, "stolen")
    before = mine.keys(), anchors(mine)
    trust(mine, export(store, "Ana"))
    trust(mine, export(carl), "Carl")
    with pytest.raises(KeystoreError, match=r"got the name 'Bea'; trusted are: Ana, Carl\."):
        distrust(mine, "Bea")

    keys, roots = distrust(mine, "Ana")
    assert {key.public.id for key in keys} == {key.public.id for key in store.keys()}
    assert roots == 1
    assert {key.whose for key in mine.keys()} == {None, "Carl"}
    assert anchors(store) not in anchors(mine) and anchors(carl) in anchors(mine)
    assert len(distrust(mine, "Carl")[0]) == 2
    assert (mine.keys(), anchors(mine)) == before
    with pytest.raises(KeystoreError, match="none yet"):
        distrust(mine, "Ana")

    older = export(store, "Ana")
    for key in older["keys"]:
        key.pop("revoked", None)
    trust(mine, older)
    assert mine.find(stolen).revoked is not None, "what was known is not forgotten"
    assert anchors(store) in anchors(mine)


def test_a_certificate_that_two_lists_vouch_for(store: Keystore, tmp_path: Path) -> None:
    issuer(store)
    mine = Keystore(tmp_path / "mine" / "keys")
    organisations = {**export(store), "keys": []}
    with pytest.raises(KeystoreError, match="whose they are"):
        trust(mine, organisations)
    for name in ("Ana", "Carl"):
        assert trust(mine, {**organisations, "name": name}) == []
    assert distrust(mine, "Ana") == ([], 1)
    assert anchors(mine) == anchors(store)
    assert distrust(mine, "Carl") == ([], 1)
    assert anchors(mine) == ""


def test_a_damaged_file_of_a_trusted_certificate(store: Keystore, tmp_path: Path) -> None:
    issuer(store)
    mine = Keystore(tmp_path / "mine" / "keys")
    trust(mine, export(store, "Ana"))
    (path,) = (tmp_path / "mine" / "ca" / "trusted").iterdir()
    for damaged in (b"", b"[]", b'{"whose": "Ana", "certificate": 7}', path.read_bytes()[:-20]):
        path.write_bytes(damaged)
        with pytest.raises(KeystoreError, match="trust its owner's list again"):
            anchors(mine)


@pytest.mark.parametrize("bad", ["x", 7, None, "leaf"])
def test_a_bad_certificate_in_a_list(store: Keystore, tmp_path: Path, bad: object) -> None:
    leaf = issuer(store).chain.split("-----END CERTIFICATE-----\n", 1)[0] + "-----END CERTIFICATE-----\n"
    mine = Keystore(tmp_path / "other" / "keys")
    document = export(store)
    for wrong in (bad, document["certificates"] + [leaf if bad == "leaf" else bad]):
        with pytest.raises(KeystoreError, match="trust list"):
            trust(mine, {**document, "certificates": wrong})
    assert not mine.folder.exists() and anchors(mine) == ""


def test_the_command_line_takes_both(store: Keystore, tmp_path: Path) -> None:
    issuer(store)
    ana = CliRunner(env={"LIENZO_HOME": str(tmp_path)})
    (tmp_path / "ana.json").write_text(ana.invoke(lienzo, ["keys", "export"], catch_exceptions=False).stdout)
    other = CliRunner(env={"LIENZO_HOME": str(tmp_path / "other")})
    assert other.invoke(lienzo, ["keys", "trust", str(tmp_path / "ana.json")], catch_exceptions=False).exit_code == 0
    assert anchors(Keystore(tmp_path / "other" / "keys")) == anchors(store)

    name = store.signer("ca").public.id[:16]
    told = other.invoke(lienzo, ["keys", "distrust", name], catch_exceptions=False)
    assert told.stdout.startswith(f"{name}  trusted no more: 2 keys, 1 certificates\n")
    assert told.stdout.count("ed25519") + told.stdout.count("es256") == 2
    assert anchors(Keystore(tmp_path / "other" / "keys")) == ""
    again = other.invoke(lienzo, ["keys", "distrust", name, "--json"])
    assert (again.exit_code, again.stdout) == (2, "")
    assert "trusted are: none yet" in again.stderr


# An organisation's


@pytest.fixture
def organisation(store: Keystore, tmp_path: Path) -> Callable[[], tuple[Path, Path]]:
    def files() -> tuple[Path, Path]:
        found = issuer(store)
        (tmp_path / "chain.pem").write_text(found.chain)
        shutil.copy(store.folder / "credentials.1.pem", tmp_path / "key.pem")
        return tmp_path / "chain.pem", tmp_path / "key.pem"

    return files


def test_an_organisations_chain(
    organisation: Callable[[], tuple[Path, Path]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chain, key = organisation()
    other = Keystore(tmp_path / "other" / "keys")
    found = issuer(other, chain=chain, key=key)
    assert found.chain == chain.read_text()
    monkeypatch.setenv("LIENZO_CERT_CHAIN", str(chain))
    with pytest.raises(KeystoreError, match="Give both"):
        issuer(other)
    monkeypatch.setenv("LIENZO_CERT_KEY", str(key))
    assert issuer(other) == found
    assert anchors(other) in found.chain
    assert not other.folder.exists()


def test_what_does_not_fit_together(organisation: Callable[[], tuple[Path, Path]], tmp_path: Path) -> None:
    chain, key = organisation()
    key.chmod(0o644)
    with pytest.raises(KeystoreError, match="chmod 600"):
        issuer(chain=chain, key=key)
    key.chmod(0o600)
    key.write_bytes(LocalSigner.generate("es256").pem)
    with pytest.raises(KeystoreError, match="not of the key"):
        issuer(chain=chain, key=key)
    for wrong in (tmp_path / "nothing", tmp_path):
        with pytest.raises(KeystoreError, match="cannot be read"):
            issuer(chain=wrong, key=key)
    chain.write_text("")
    with pytest.raises(KeystoreError, match="no certificates"):
        issuer(chain=chain, key=key)


def test_an_expired_chain(
    store: Keystore, organisation: Callable[[], tuple[Path, Path]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(certificates._LIVES, "leaf", timedelta(seconds=-1))
    monkeypatch.setitem(certificates._LEFT, "leaf", timedelta(days=-1))
    chain, key = organisation()
    with pytest.raises(KeystoreError, match=r"not today\. Have it renewed"):
        issuer(chain=chain, key=key)
