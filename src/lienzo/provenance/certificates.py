"""Certificates for Content Credentials: an own authority, made on first use, or an organisation's chain.

The own authority is two keys of the keystore, "ca" and "credentials", and beside its folder another with their
certificates:

    ca/root.1.crt      of the authority's key; a new one when the key was rotated or the certificate grows old
    ca/leaf.1.crt      of the key that signs pictures
    ca/trusted/ID.json a root of somebody else that is trusted, and whose trust list it came with

A self-made authority vouches for nobody's name. It says: signed by whoever holds this key, and changed by nobody since.
"""

import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import rfc8785

from lienzo.errors import KeystoreError
from lienzo.provenance.keys import (
    Keystore,
    KnownKey,
    LocalSigner,
    PublicKey,
    Signer,
    list_owner,
    load_public,
    named_signer,
    trust_list,
)
from lienzo.provenance.vault import Vault

if TYPE_CHECKING:
    from cryptography import x509

Kind = Literal["root", "leaf"]

ORGANISATION = "Self-issued with lienzo"
"""The O of own certificates, which readers of Content Credentials show as the signer."""

_YEAR = timedelta(days=365)
_LIVES: dict[Kind, timedelta] = {"root": 30 * _YEAR, "leaf": 10 * _YEAR}
_LEFT: dict[Kind, timedelta] = {"root": 11 * _YEAR, "leaf": 5 * _YEAR}
"""What must be left of a certificate's life when it signs. A picture without a timestamp can be verified only as long
as the leaf lives, so that is five years and more; and a root outlives its leaves."""
_SKEW = timedelta(hours=1)
"""How much later than ours the clock of who verifies may be set."""
_ALGORITHM_IDS = {"ed25519": bytes.fromhex("300506032b6570"), "es256": bytes.fromhex("300a06082a8648ce3d040302")}
"""DER of AlgorithmIdentifier: RFC 8410, section 3, and RFC 5758, section 3.2."""


@dataclass(frozen=True)
class Issuer:
    """Who signs Content Credentials.

    Attributes:
        signer: holds the private key of the first certificate.
        chain: PEM certificates, the signer's own first, each followed by that of who issued it.
    """

    signer: Signer
    chain: str


def issuer(store: Keystore | None = None, *, chain: str | Path | None = None, key: str | Path | None = None) -> Issuer:
    """Who signs here: an organisation's chain and key where they are given or configured, else the own authority.

    Args:
        chain: a PEM file. None: $LIENZO_CERT_CHAIN.
        key: a PKCS#8 PEM file of mode 0600, or a PKCS#11 URI (see `lienzo.provenance.pkcs11`). None: $LIENZO_CERT_KEY.

    Raises:
        KeystoreError: only one of the two, or files that do not fit together, or a certificate that is not valid today.
    """
    chain, key = chain or os.environ.get("LIENZO_CERT_CHAIN"), key or os.environ.get("LIENZO_CERT_KEY")
    if bool(chain) != bool(key):
        raise KeystoreError(
            "got only one of certificate chain (LIENZO_CERT_CHAIN) and key (LIENZO_CERT_KEY). Give both or none."
        )
    if chain and key:
        return _organisation(Path(chain), key)
    store = store or Keystore()
    root, leaf, signer = _own(store)
    return Issuer(signer, _pem(leaf) + _pem(root))


def anchors(store: Keystore | None = None) -> str:
    """PEM certificates of the authorities whose credentials count here: the own ones (revoked keys' left out), those
    trusted by `trust`, and the last of $LIENZO_CERT_CHAIN. Empty where there is none."""
    store = store or Keystore()
    revoked = {key.public for key in store.keys() if key.revoked is not None}
    vault = _vault(store)
    roots = [_read(vault, path) for path in vault.generations("root", "crt")]
    roots += [root for _, _, root in _trusted(vault)]
    if chain := os.environ.get("LIENZO_CERT_CHAIN"):
        roots.append(_load_chain(Path(chain))[-1])
    return "".join(dict.fromkeys(_pem(root) for root in roots if _public(root) not in revoked))


def export(store: Keystore, name: str | None = None) -> dict[str, Any]:
    """The keystore's trust list, with the own authority's roots beside it."""
    vault = _vault(store)
    roots = [_pem(_read(vault, path)) for path in vault.generations("root", "crt")]
    return {**store.export(name), "certificates": roots}


def trust(store: Keystore, document: bytes | Mapping[str, Any], whose: str | None = None) -> list[KnownKey]:
    """Trust the keys and roots of a trust list; see `Keystore.trust`.

    Raises:
        KeystoreError: no trust list, or damaged, or nobody's; then none of it is taken.
    """
    from cryptography import x509

    document = trust_list(document)
    taken = []
    roots = document.get("certificates", [])
    for number, text in enumerate(roots if isinstance(roots, list) else [None], 1):
        try:
            certificate = x509.load_pem_x509_certificate(text.encode("ascii"))
            if not certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca:
                raise ValueError("it is not an authority's")
        except (ValueError, AttributeError, x509.ExtensionNotFound) as error:
            raise KeystoreError(
                f"certificate {number} of the trust list: {error}. Nothing of the list was taken."
            ) from None
        taken.append(_pem(certificate))
    owner = list_owner(document, whose)
    if taken and owner is None and not document.get("keys"):
        raise KeystoreError("got a trust list with certificates that says not whose they are. Say it (--as).")
    keys = store.trust(document, whose)
    for pem in taken:
        text = rfc8785.dumps({"whose": keys[0].whose if keys else owner, "certificate": pem})
        _vault(store).put(f"trusted/{hashlib.sha256(text).hexdigest()}.json", text, if_exists="overwrite")
    return keys


def distrust(store: Keystore, whose: str) -> tuple[list[KnownKey], int]:
    """Trust the keys and roots of somebody's trust lists no more. A root that somebody else's list vouches for too stays.

    Args:
        whose: the name that they are trusted under.

    Returns:
        The keys that counted until now, and how many roots did.

    Raises:
        KeystoreError: nobody of that name is trusted.
    """
    vault = _vault(store)
    roots = [(path, owner) for path, owner, _ in _trusted(vault)]
    names = {owner for _, owner in roots} | {key.whose for key in store.keys() if key.whose is not None}
    if whose not in names:
        raise KeystoreError(f"got the name {whose[:100]!r}; trusted are: {', '.join(sorted(names)) or 'none yet'}.")
    theirs = [path for path, owner in roots if owner == whose]
    for path in theirs:  # before the keys: if stopped in between, the name is still known and it can be run again
        vault.remove(path)
    return store.distrust(whose), len(theirs)


def _trusted(vault: Vault) -> "Iterator[tuple[Path, str, x509.Certificate]]":
    """Each trusted root's file, whose list it came with, and itself."""
    from cryptography import x509

    for path in sorted((vault.folder / "trusted").glob("*.json")):
        try:
            document = json.loads(vault.read(path))
            yield path, str(document["whose"]), x509.load_pem_x509_certificate(document["certificate"].encode("ascii"))
        except (ValueError, KeyError, TypeError, AttributeError):
            raise KeystoreError(
                f"{path}: holds no trusted certificate. Remove it, and trust its owner's list again."
            ) from None


def _own(store: Keystore) -> "tuple[x509.Certificate, x509.Certificate, Signer]":
    """The current root and leaf, made or renewed where need be, and the key that the leaf is of: another process may change
    either key meanwhile, so each is read once."""
    authority, own = store.signer("ca", algorithm="es256"), store.signer("credentials", algorithm="es256")
    root = _current(_vault(store), "root", authority, authority.public)
    return root, _current(_vault(store), "leaf", authority, own.public), own


def _current(vault: Vault, kind: Kind, authority: Signer, public: PublicKey) -> "x509.Certificate":
    """The last certificate of a kind, if it is of this key, by this authority, and has long enough to live; else the next."""
    while True:
        latest = vault.latest(kind, "crt")
        if latest is not None:
            found = _read(vault, latest)
            lives = found.not_valid_after_utc - datetime.now(UTC) > _LEFT[kind]
            if lives and _public(found) == public and found.issuer == _name(authority.public):
                return found
        vault.add(kind, "crt", latest, lambda: _pem(_issue(kind, authority, public)).encode())


def _issue(
    kind: Kind, authority: Signer, public: PublicKey, more: "Sequence[x509.ExtensionType]" = ()
) -> "x509.Certificate":
    """A certificate as C2PA wants it (specification 2.2, section 14.5.1; its authority's as RFC 5280, section 4.2)."""
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
    from cryptography.x509.oid import ExtendedKeyUsageOID

    subject_key = load_public(public.spki)
    now, is_root = datetime.now(UTC), kind == "root"
    usage = dict.fromkeys(
        (
            "content_commitment",
            "key_encipherment",
            "data_encipherment",
            "key_agreement",
            "encipher_only",
            "decipher_only",
        ),
        False,
    )
    builder = (
        x509.CertificateBuilder()
        .subject_name(_name(public))
        .issuer_name(_name(authority.public))
        .public_key(subject_key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _SKEW)
        .not_valid_after(now + _LIVES[kind])
        .add_extension(x509.BasicConstraints(ca=is_root, path_length=0 if is_root else None), critical=True)
        .add_extension(
            x509.KeyUsage(digital_signature=not is_root, key_cert_sign=is_root, crl_sign=is_root, **usage),
            critical=True,
        )
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(subject_key), critical=False)
    )
    if not is_root:
        authority_key = load_public(authority.public.spki)
        builder = builder.add_extension(
            x509.ExtendedKeyUsage([ExtendedKeyUsageOID.EMAIL_PROTECTION]), critical=False
        ).add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(authority_key), critical=False)
    for extension in more:
        builder = builder.add_extension(extension, critical=False)
    # cryptography signs with keys in memory only. So one of those, of the same algorithm, has it write what is to be
    # signed, and the authority, wherever its key is, signs that.
    draft = LocalSigner.generate(authority.algorithm).certificate(builder)
    signature = authority.sign(draft.tbs_certificate_bytes)
    if authority.algorithm == "es256":
        signature = encode_dss_signature(int.from_bytes(signature[:32]), int.from_bytes(signature[32:]))
    parts = draft.tbs_certificate_bytes + _ALGORITHM_IDS[authority.algorithm] + _der(0x03, b"\0" + signature)
    return x509.load_der_x509_certificate(_der(0x30, parts))


def _der(tag: int, content: bytes) -> bytes:
    """Tag, length, content (X.690, section 8.1)."""
    if len(content) < 0x80:
        return bytes([tag, len(content)]) + content
    length = len(content).to_bytes((len(content).bit_length() + 7) // 8)
    return bytes([tag, 0x80 | len(length)]) + length + content


def _name(public: PublicKey) -> "x509.Name":
    """The key's id is the name: so a reader of credentials, who sees names, knows which key to look for in the list of
    revoked ones."""
    from cryptography import x509
    from cryptography.x509.oid import NameOID

    return x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, ORGANISATION),
            x509.NameAttribute(NameOID.COMMON_NAME, public.id),
        ]
    )


def _organisation(chain: Path, key: str | Path) -> Issuer:
    certificates = _load_chain(chain)
    leaf = certificates[0]
    signer = named_signer(str(key))
    if _public(leaf) != signer.public:
        raise KeystoreError(f"{chain}: its first certificate is not of the key {key}. Give the chain of that key.")
    now = datetime.now(UTC)
    if not leaf.not_valid_before_utc <= now < leaf.not_valid_after_utc:
        raise KeystoreError(
            f"{chain}: its first certificate is valid from {leaf.not_valid_before_utc:%Y-%m-%d} to "
            f"{leaf.not_valid_after_utc:%Y-%m-%d}, not today. Have it renewed."
        )
    return Issuer(signer, "".join(map(_pem, certificates)))


def _load_chain(path: Path) -> "list[x509.Certificate]":
    from cryptography import x509

    try:
        return x509.load_pem_x509_certificates(path.read_bytes())
    except OSError as error:
        raise KeystoreError(
            f"{path}: cannot be read: {error.strerror or error}. Name a chain of certificates."
        ) from None
    except ValueError:
        raise KeystoreError(
            f"{path}: no certificates in PEM form. Name a chain, the signer's certificate first."
        ) from None


def _read(vault: Vault, path: Path) -> "x509.Certificate":
    from cryptography import x509

    try:
        return x509.load_pem_x509_certificate(vault.read(path))
    except ValueError:
        raise KeystoreError(
            f"{path}: holds no certificate. Restore the file, or remove it to have another made."
        ) from None


def _public(certificate: "x509.Certificate") -> PublicKey | None:
    """None for a key of a kind that lienzo does not use."""
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    spki = certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    try:
        return PublicKey.from_spki(spki)
    except KeystoreError:
        return None


def _pem(certificate: "x509.Certificate") -> str:
    from cryptography.hazmat.primitives.serialization import Encoding

    return certificate.public_bytes(Encoding.PEM).decode()


def _vault(store: Keystore) -> Vault:
    return Vault(store.folder.parent / "ca")
