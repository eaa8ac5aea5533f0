"""Whose key signed a manifest: its certificate, found in the manifest's bytes, which the library does not give.

A manifest store is nested boxes (JUMBF, ISO 19566-5); the box `c2pa.signature` of a manifest holds a COSE_Sign1 (RFC 9052,
section 4.2) in CBOR (RFC 8949), whose protected header holds the signer's certificates (x5chain, RFC 9360). Only one way of
writing is read, the one that leaves no doubt which certificate it is: each box once, definite lengths, no key twice.
"""

from collections.abc import Iterator
from typing import Any, Final

_SIGN1, _X5CHAIN = 18, 33
_DEPTH: Final = 16


def leaf_key(store: bytes, manifest: str) -> bytes | None:
    """The SPKI (DER) of the certificate that a manifest is signed with; None where that is not beyond doubt.

    Args:
        store: the manifest store.
        manifest: its label.
    """
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
    from cryptography.x509 import load_der_x509_certificate

    try:
        content = store
        for label in ("c2pa", manifest, "c2pa.signature"):
            (content,) = [rest for name, rest in _superboxes(content) if name == label]
        (signature,) = [body for kind, body in _boxes(content) if kind == b"cbor"]
        certificate = load_der_x509_certificate(_certificate(signature))
        return certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    except (ValueError, TypeError, IndexError, UnsupportedAlgorithm):
        return None


def _boxes(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """(type, content) of each box."""
    at = 0
    while at < len(data):
        size = int.from_bytes(data[at : at + 4])
        if not 8 <= size <= len(data) - at:
            raise ValueError("a box that is longer than what holds it")
        yield data[at + 4 : at + 8], data[at + 8 : at + size]
        at += size


def _superboxes(data: bytes) -> Iterator[tuple[str, bytes]]:
    """(label, the boxes that follow its description) of each superbox."""
    for kind, body in _boxes(data):
        if kind == b"jumb":
            size = int.from_bytes(body[:4])
            # description: length, type, 16 bytes of what kind of box, a byte of flags, the label, which ends with a zero
            yield body[25:size].partition(b"\0")[0].decode(), body[size:]


def _certificate(signature: bytes) -> bytes:
    protected, unprotected, *_ = _cbor(signature)
    if {_X5CHAIN, "x5chain"} & unprotected.keys():
        raise ValueError("certificates outside of what is signed")
    chain = _cbor(protected)[_X5CHAIN]
    first = chain if isinstance(chain, bytes) else chain[0]
    if not isinstance(first, bytes):
        raise ValueError("no certificate")
    return first


def _cbor(data: bytes) -> Any:
    value, end = _item(data, 0, 0)
    if end != len(data):
        raise ValueError("bytes after the value")
    return value


def _item(data: bytes, at: int, depth: int) -> tuple[Any, int]:
    """The value that begins there, and where the next one does. A tag is passed over where it is COSE_Sign1's."""
    if depth > _DEPTH:
        raise ValueError("nested too deeply")
    major, small = divmod(data[at], 32)
    at += 1
    if small < 24:
        number = small
    elif small < 28:
        width = 1 << (small - 24)
        number, at = int.from_bytes(_part(data, at, width)), at + width
    else:
        raise ValueError("no definite length")
    match major:
        case 0:
            return number, at
        case 1:
            return -1 - number, at
        case 2:
            return _part(data, at, number), at + number
        case 3:
            return _part(data, at, number).decode(), at + number
        case 4:
            items = []
            for _ in range(number):
                item, at = _item(data, at, depth + 1)
                items.append(item)
            return items, at
        case 5:
            pairs: dict[Any, Any] = {}
            for _ in range(number):
                key, at = _item(data, at, depth + 1)
                if key in pairs:
                    raise ValueError("a key twice")
                pairs[key], at = _item(data, at, depth + 1)
            return pairs, at
        case 6 if number == _SIGN1 and depth == 0:
            return _item(data, at, depth + 1)
        case 7 if small in (20, 21, 22):
            return (False, True, None)[small - 20], at
    raise ValueError("no value that a signature needs")


def _part(data: bytes, at: int, size: int) -> bytes:
    if size > len(data) - at:
        raise ValueError("cut off")
    return data[at : at + size]
