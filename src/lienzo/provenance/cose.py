"""Whose key signed a manifest, and what of the file it signed: found in the manifest's bytes, as the library does not say it.

A manifest store is nested boxes (JUMBF, ISO 19566-5); the box `c2pa.signature` of a manifest holds a COSE_Sign1 (RFC 9052,
section 4.2) in CBOR (RFC 8949), whose protected header holds the signer's certificates (x5chain, RFC 9360). Only one way of
writing is read, the one that leaves no doubt which certificate it is: each box once, definite lengths, no key twice.

The unprotected header is signed by nobody. It holds padding, ten kilobytes of it, for a signature of unknown length.
"""

from collections.abc import Iterator
from typing import Any, Final

_SIGN1, _X5CHAIN = 18, 33
_DEPTH: Final = 16
_PADS: Final = {"pad", "pad2"}
_TIMES: Final = {"sigTst", "sigTst2"}
_UNSIGNED: Final = _PADS | _TIMES
"""Names in an unprotected header (C2PA 2.2, section 13.2): padding and timestamps."""
_CONTENTS: Final = ([b"cbor"], [b"json"], [b"bfdb", b"bidb"])
"""What a box holds that holds no others: CBOR, JSON, or a file with its description."""
_ASSERTIONS: Final = "c2pa.assertions"
_PARTS: Final = [_ASSERTIONS, "c2pa.claim.v2", "c2pa.signature"]
"""What a manifest holds. C2PA knows more (data boxes, credentials of persons), to which nothing has to refer."""


def leaf_key(store: bytes, manifest: str) -> bytes | None:
    """The SPKI (DER) of the certificate that a manifest is signed with; None where that is not beyond doubt.

    Args:
        store: the manifest store.
        manifest: its label.
    """
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
    from cryptography.x509 import InvalidVersion, load_der_x509_certificate

    try:
        signature = _cbor_of(_inside(store, "c2pa", manifest, "c2pa.signature"))
        certificate = load_der_x509_certificate(_certificate(signature))
        return certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    except (ValueError, TypeError, IndexError, UnsupportedAlgorithm, InvalidVersion):
        return None
    except Warning:  # where the caller has them raised: of a certificate that breaks a rule
        return None


def hole(store: bytes, manifest: str) -> tuple[int, int] | None:
    """What the manifest's hash leaves out of its file: the bytes from one place to another; None where that is not beyond
    doubt, or where the manifest holds anything that nobody signed.

    Timestamps are signed by their authority, which is not checked here; see `timestamped`.
    """
    try:
        content = _inside(store, "c2pa", manifest)
        if [label for label, _ in _superboxes(content)] != _PARTS:
            return None
        _check_boxes(content)
        _check_signature(_cbor(_cbor_of(_inside(content, "c2pa.signature"))))
        assertion = _cbor(_cbor_of(_inside(content, _ASSERTIONS, "c2pa.hash.data")))
        (left_out,) = assertion["exclusions"]
        return left_out["start"], left_out["start"] + left_out["length"]
    except (ValueError, TypeError, KeyError, IndexError, AttributeError):
        return None


def timestamped(store: bytes, manifest: str) -> bool:
    """Whether its unsigned header holds what should be a timestamp."""
    try:
        _, unprotected, *_ = _cbor(_cbor_of(_inside(store, "c2pa", manifest, "c2pa.signature")))
        return bool(unprotected.keys() & _TIMES)
    except (ValueError, TypeError, KeyError, IndexError, AttributeError):
        return False


def _inside(store: bytes, *labels: str) -> bytes:
    """What a superbox holds, which lies in others; there is one of each name."""
    for label in labels:
        (store,) = [rest for name, rest in _superboxes(store) if name == label]
    return store


def _cbor_of(content: bytes) -> bytes:
    (body,) = [body for kind, body in _boxes(content) if kind == b"cbor"]
    return body


def _check_signature(signature: Any) -> None:
    """Nobody signs what stands around the protected header and the signature's own bytes, and the library does not look: no
    content, which is the claim in its box; padding of zeros, and of no other type; one timestamp at most."""
    protected, unprotected, content, signed = signature
    if not (isinstance(protected, bytes) and content is None and isinstance(signed, bytes)):
        raise ValueError("no COSE_Sign1 without content")
    if unprotected.keys() - _UNSIGNED:
        raise ValueError("words in the unsigned header")
    for pad in unprotected.keys() & _PADS:
        if not isinstance(unprotected[pad], bytes) or any(unprotected[pad]):
            raise ValueError("words in the padding")
    times = [unprotected[name] for name in unprotected.keys() & _TIMES]
    for time in times:
        token = time["tstTokens"][0]["val"]
        if len(times) > 1 or not isinstance(token, bytes) or time != {"tstTokens": [{"val": token}]}:
            raise ValueError("more than one timestamp")


def _check_boxes(content: bytes, salted: bool = False) -> None:
    """The library passes over boxes that it does not know, also where it computes hashes. Salts are for what is hashed."""
    kinds = []
    for kind, body in _boxes(content):
        kinds.append(kind)
        if kind == b"jumb":
            ((_, about),) = _boxes(body[: (size := int.from_bytes(body[:4]))])
            label, _, salt = about[17:].partition(b"\0")
            if salt and not (salted and len(salt) == 24 and salt[:8] == b"\0\0\0\x18c2sh"):
                raise ValueError("a description with something behind it")
            _check_boxes(body[size:], salted or label == _ASSERTIONS.encode())
    if set(kinds) != {b"jumb"} and kinds not in _CONTENTS:
        raise ValueError("boxes that no manifest needs")


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
