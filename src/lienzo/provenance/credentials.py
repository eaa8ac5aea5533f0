"""Content Credentials (C2PA) in PNG, JPEG and WebP: adding them, and telling what those of a picture are worth.

A manifest says what was done to make the picture, carries assertions, is bound to every byte of the file by a hash, and is
signed. Only `Trusted` counts: anybody can sign with a certificate of their own making, which reads as `Valid`.

Nothing is fetched from anywhere: a picture may name a URL for its manifest, and whoever checks it would tell that
server so. All settings belong to the one call; those that the library keeps for a process or a thread are not used.
"""

import contextlib
import functools
import hashlib
import io
import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Literal

import rfc8785

from lienzo import __version__
from lienzo.errors import CredentialsError
from lienzo.provenance.certificates import Issuer
from lienzo.provenance.cose import hole, leaf_key, timestamped
from lienzo.provenance.files import Kind, kind_of_data
from lienzo.provenance.structure import structure
from lienzo.provenance.timestamps import Authority, relay

if TYPE_CHECKING:
    from c2pa import Context, Reader

State = Literal["Trusted", "Valid", "Invalid", "elsewhere", "absent"]

RECEIPT = "org.lienzo.receipt"
BINDING = "c2pa.soft-binding"
STRUCTURE = "org.lienzo.structure"
_TIMED = ("timeStamp.validated", "timeStamp.trusted")
"""Code of the failure that a file could be read in several ways, or that its manifest holds what nobody signed."""

_TRAINED = "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"
_COMPOSITE = "http://cv.iptc.org/newscodes/digitalsourcetype/compositeWithTrainedAlgorithmicMedia"
_AGENT = {"name": "lienzo", "version": __version__}
_UNTRUSTED = "signingCredential.untrusted"
_SIGNERS, _CLOCKS = "lienzo:signers", "lienzo:timestamps"
_PARENT = "parent"
_MIME = {"PNG": "image/png", "JPEG": "image/jpeg", "WEBP": "image/webp"}
_SETTINGS: dict[str, Any] = {
    "builder": {
        "thumbnail": {"enabled": False},  # 50 to 110 kB of what the file shows anyway
        "created_assertion_labels": ["c2pa.actions", RECEIPT, BINDING],  # said by us, not gathered from others
    },
    "verify": {"remote_manifest_fetch": False, "ocsp_fetch": False, "verify_after_sign": True},
    "core": {"decode_identity_assertions": False},
}


@dataclass(frozen=True)
class Parent:
    """The picture that another was made from: its file as it was given, so that its own credentials are kept."""

    data: bytes
    title: str


@dataclass(frozen=True)
class SoftBinding:
    """What leads back to the record when the manifest is gone: a watermark's algorithm, and the id that it holds."""

    algorithm: str
    value: str


@dataclass(frozen=True)
class Signed:
    """A file with credentials.

    Attributes:
        warnings: what the user should know, e.g. that no timestamp could be had.
    """

    data: bytes
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class CredentialsFound:
    """What a picture's credentials are worth, and what they say. What they say is only worth it where they are trusted.

    Attributes:
        state: "Trusted": the file is as it was signed, by somebody whose authority is trusted here. "Valid": as it was
            signed, by nobody who is. "Invalid": changed since, damaged, expired or revoked. "elsewhere": the file has but a link
            to some, which is not followed. "absent": there are none. A file that lienzo would not write so (`STRUCTURE`) is
            "Invalid" with a receipt of lienzo's, else "Valid" at best.
        failures: what is wrong, as `code: explanation`; the codes are C2PA's (specification 2.2, section 15.2) and `STRUCTURE`.
        title: that the manifest gives the picture.
        generator: the program that made the manifest, and its version.
        signer: the organisation (O) in the signer's certificate.
        key_id: of the signer: SHA-256 of the SPKI in the certificate; None where it cannot be told beyond doubt.
        time: when it was signed, on the word of a timestamp authority that is trusted; None where there is no such word.
        assertions: label -> content.
        parent: title and state of the picture that it was made from, as whoever signed found it; the state is None where
            that one had no credentials.
    """

    state: State
    failures: tuple[str, ...] = ()
    title: str | None = None
    generator: str | None = None
    signer: str | None = None
    key_id: str | None = None
    time: datetime | None = None
    assertions: Mapping[str, Any] = field(default_factory=dict)
    parent: tuple[str, State | None] | None = None

    @property
    def receipt(self) -> str | None:
        """The canonical JSON of the assertion `org.lienzo.receipt`; None where there is none, or another kind of thing."""
        content = self.assertions.get(RECEIPT)
        text = content.get("canonical") if isinstance(content, dict) else None
        return text if isinstance(text, str) else None


def add(
    data: bytes,
    kind: Kind,
    *,
    issuer: Issuer,
    title: str,
    receipt: Mapping[str, Any] | None = None,
    binding: SoftBinding | None = None,
    parent: Parent | None = None,
    composite: bool = False,
    label: str | None = None,
    authority: Authority | None = None,
    trust_anchors: str = "",
) -> Signed:
    """Add Content Credentials to a picture's file. The pixels and other metadata stay as they are.

    Args:
        issuer: who signs; see `lienzo.provenance.certificates.issuer`.
        title: of the picture, for people.
        receipt: becomes the assertion `org.lienzo.receipt`: its canonical JSON (RFC 8785), as a text. The library would
            keep an object in another way and give another one back: [0] as "AA==".
        binding: becomes the assertion `c2pa.soft-binding`, and an action that says there is a mark.
        parent: the input of img2img and inpainting. Without one, the picture was created; with one, opened and edited.
        composite: parts of the parent are in the picture still (inpainting).
        label: what a visible label in the picture says; becomes an action that says so.
        authority: of timestamps. Without its word the picture can be verified as long as the signer's certificate
            is valid. If it cannot be had, the picture is signed without it, and `warnings` says so.
        trust_anchors: PEM certificates of the authorities that are trusted: what the manifest says of the parent's
            credentials is by them.

    Raises:
        CredentialsError: it could not be done; no picture without credentials is returned in their place.
    """
    if kind_of_data(data) != kind:
        raise CredentialsError(f"got bytes that are no {kind} picture; give what was encoded as one.")
    manifest = _manifest(kind, title, receipt, binding, parent is not None, composite, label)
    sign = functools.partial(_sign, data, kind, manifest, issuer, parent, trust_anchors)
    if authority is None:
        return sign(None)
    try:
        with relay(authority) as relayed:
            return sign(relayed.url)
    except CredentialsError as error:  # if that was not for want of a timestamp, it will be raised again
        signed = sign(None)
        why = relayed.failed or error
        untimed = (
            f"{why} The picture is signed without a timestamp, and can be verified as long as its certificate lives."
        )
        return Signed(signed.data, (untimed, *signed.warnings))


def read(
    data: bytes,
    *,
    trust_anchors: str,
    timestamp_roots: str = "",
    revoked: Collection[str] = (),
) -> CredentialsFound:
    """Tell what a picture's credentials are worth and what they say.

    Whoever gives hostile files should call it in a process of its own: a parser in another language reads them.

    Args:
        data: a PNG, JPEG or WebP, told by content.
        trust_anchors: PEM certificates of the authorities that are trusted (see `lienzo.provenance.certificates.anchors`).
        timestamp_roots: PEM certificates of the timestamp authorities that are trusted.
        revoked: ids of keys that are not to be trusted.

    Raises:
        CredentialsError: anchors or roots that are no certificates; what is wrong with the picture is never an error.
    """
    from c2pa import C2paError, Reader

    kind = kind_of_data(data)
    if kind is None:
        return CredentialsFound("Invalid", ("the file is no PNG, JPEG or WebP picture",))
    context = _context(trust_anchors, timestamp_roots)
    try:
        with context, Reader(_MIME[kind], io.BytesIO(data), context=context) as reader:
            document = json.loads(reader.json())
            store, label = _store(reader, document), document["active_manifest"]
            spki = leaf_key(store, label)
            key_id = None if spki is None else hashlib.sha256(spki).hexdigest()
            found = _found(document, reader.get_validation_state(), key_id, revoked)
            flaw = _flaw(data, store, document)
            if flaw is None or found.state == "Invalid":
                return found
            worth: State = "Valid" if found.receipt is None else "Invalid"
            return replace(found, state=worth, failures=(*found.failures, f"{STRUCTURE}: {flaw}"))
    except C2paError.ManifestNotFound:
        return CredentialsFound("absent")
    except (C2paError, ValueError, RecursionError) as error:
        elsewhere = str(error).startswith("Remote")  # the library has a class for it, and does not use it
        return CredentialsFound("elsewhere" if elsewhere else "Invalid", (str(error)[:500],))
    except (KeyError, TypeError, AttributeError):  # the library gave something that no whole manifest makes it give
        return CredentialsFound("Invalid", ("the manifest is damaged",))


def _store(reader: "Reader", document: dict[str, Any]) -> bytes:
    """The manifest store, as the library found it in the file."""
    store = io.BytesIO()
    reader.resource_to_stream(f"self#jumbf=/c2pa/{document['active_manifest']}/c2pa.signature", store)  # gives it whole
    return store.getvalue()


def _flaw(data: bytes, store: bytes, document: dict[str, Any]) -> str | None:
    """Why a file with whole credentials could show something else than what was signed; None: it cannot.

    A hash over the file leaves out the place of the manifest. The library looks for the manifest in its own way, does not look
    at what else is in that place, and much of the manifest is padding that can be cut away to make room.
    """
    built = structure(data)
    if built.flaw is not None:
        return f"the file is not built as lienzo writes it: {built.flaw}"
    if built.store != store:
        return "the manifest is not the one that lies in its place"
    left_out = hole(store, document["active_manifest"])
    if left_out is None:
        return "the manifest holds something that nobody signed, or is not bound to its file as lienzo does it"
    results = document.get("validation_results", {}).get("activeManifest", {}).get("success", ())
    if timestamped(store, document["active_manifest"]) and not any(one["code"] in _TIMED for one in results):
        return "what lies in a timestamp's place is no timestamp of this signature"
    if left_out != built.place:
        return "what was signed leaves out something else than the manifest"
    manifests, named = document["manifests"], [document["active_manifest"]]
    for label in named:  # grows on the way
        parents = (one.get("active_manifest") for one in manifests[label].get("ingredients", ()))
        named.extend(one for one in parents if one in manifests and one not in named)
    return None if len(named) == len(manifests) else "there are manifests beside the one that was signed"


def _found(
    document: dict[str, Any], state: str | None, key_id: str | None, revoked: Collection[str]
) -> CredentialsFound:
    manifest = document["manifests"][document["active_manifest"]]
    results = document.get("validation_results", {}).get("activeManifest", {})
    signature = manifest.get("signature_info", {})
    failures = tuple(f"{entry['code']}: {entry.get('explanation', '')}"[:500] for entry in results.get("failure", ()))
    good = [(entry["code"], entry.get("explanation", "")) for entry in results.get("success", ())]
    worth: State = "Valid" if state in ("Trusted", "Valid") else "Invalid"
    if state == "Trusted":
        # the library lets timestamp authorities vouch for signers too; which list it found the signer's in, it says here
        if ("signingCredential.trusted", f"signing certificate trusted, found in [{_SIGNERS}] trust anchors") in good:
            worth = "Trusted"
        else:
            failures += (f"{_UNTRUSTED}: its authority is trusted for timestamps only",)
    if {key_id, signature.get("common_name")} & set(revoked):  # lienzo's own authorities give the id for a name
        worth, failures = "Invalid", (*failures, "signingCredential.revoked: the signer's key was revoked")
    timed = any(code == "timeStamp.trusted" and why.endswith(f", trust list: {_CLOCKS}") for code, why in good)
    generator: dict[str, Any] = next(iter(manifest.get("claim_generator_info", ())), {})
    (parent,) = [i for i in manifest.get("ingredients", ()) if i.get("relationship") == "parentOf"][:1] or [None]
    return CredentialsFound(
        state=worth,
        failures=failures,
        title=manifest.get("title"),
        generator=" ".join(str(generator[part]) for part in ("name", "version") if part in generator) or None,
        signer=signature.get("issuer"),
        key_id=key_id,
        time=datetime.fromisoformat(signature["time"]).astimezone(UTC) if timed else None,
        assertions={entry["label"]: entry["data"] for entry in manifest.get("assertions", ())},
        parent=None if parent is None else (parent.get("title", ""), _parent_state(parent)),
    )


def _parent_state(parent: Mapping[str, Any]) -> State | None:
    results = parent.get("validation_results", {}).get("activeManifest")
    if results is None:
        return None
    if {entry["code"] for entry in results.get("failure", ())} - {_UNTRUSTED}:
        return "Invalid"
    codes = {entry["code"] for entry in results.get("success", ())}
    return "Trusted" if "signingCredential.trusted" in codes else "Valid"


def _manifest(
    kind: str,
    title: str,
    receipt: Mapping[str, Any] | None,
    binding: SoftBinding | None,
    has_parent: bool,
    composite: bool,
    label: str | None,
) -> dict[str, Any]:
    """A manifest definition, as the library takes it."""
    if composite and not has_parent:
        raise CredentialsError("composite: got True without a parent, of which parts could be left. Give the parent.")
    made = {"softwareAgent": _AGENT, "digitalSourceType": _COMPOSITE if composite else _TRAINED}
    actions: list[dict[str, Any]] = (
        [{"action": "c2pa.opened", "parameters": {"ingredientIds": [_PARENT]}}, {"action": "c2pa.edited", **made}]
        if has_parent
        else [{"action": "c2pa.created", **made}]
    )
    if label is not None:
        actions.append(
            {"action": "c2pa.edited", "softwareAgent": _AGENT, "description": f"Burnt in a visible label: {label}"}
        )
    assertions: list[dict[str, Any]] = [
        {"label": "c2pa.actions", "data": {"actions": actions, "allActionsIncluded": True}}
    ]
    if receipt is not None:
        try:
            content = {"canonical": rfc8785.dumps(dict(receipt)).decode()}
        except (ValueError, TypeError) as error:
            raise CredentialsError(f"the receipt is no JSON with whole numbers below 2^53: {error}.") from None
        assertions.append({"label": RECEIPT, "data": content})
    if binding is not None:
        actions.append({"action": "c2pa.watermarked.bound", "softwareAgent": _AGENT})
        blocks = [{"scope": {}, "value": binding.value}]
        assertions.append({"label": BINDING, "data": {"alg": binding.algorithm, "blocks": blocks}})
    return {"title": title, "format": _MIME[kind], "claim_generator_info": [_AGENT], "assertions": assertions}


def _sign(
    data: bytes,
    kind: str,
    manifest: dict[str, Any],
    issuer: Issuer,
    parent: Parent | None,
    trust_anchors: str,
    url: str | None,
) -> Signed:
    from c2pa import Builder, C2paError, C2paSigningAlg, Signer

    algorithm = {"ed25519": C2paSigningAlg.ED25519, "es256": C2paSigningAlg.ES256}[issuer.signer.algorithm]
    refused: list[Exception] = []

    def sign(claim: bytes) -> bytes:
        try:
            return issuer.signer.sign(claim)
        except Exception as error:  # cannot pass through the library, which takes nothing for "no"
            refused.append(error)
            return b""

    warnings: list[str] = []
    signed = io.BytesIO()
    try:
        with (
            _context(trust_anchors) as context,
            Signer.from_callback(sign, algorithm, issuer.chain, url) as signer,
            contextlib.ExitStack() as stack,
        ):
            builder = stack.enter_context(Builder(manifest, context))
            if parent is not None:
                about = {"title": parent.title, "relationship": "parentOf", "label": _PARENT}
                mime = _MIME.get(kind_of_data(parent.data) or "")
                try:
                    if mime is None:
                        raise C2paError("not a PNG, JPEG or WebP picture")
                    worth = read(parent.data, trust_anchors=trust_anchors)
                    forged = [failure for failure in worth.failures if failure.startswith(STRUCTURE)]
                    if forged:  # the library would call them trusted
                        raise C2paError(forged[0])
                    builder.add_ingredient(about, mime, io.BytesIO(parent.data))
                except C2paError as error:
                    builder = stack.enter_context(Builder({**manifest, "ingredients": [about]}, context))
                    warnings.append(f"the input picture's own credentials are not kept: {str(error)[:300]}.")
            builder.sign(signer, _MIME[kind], io.BytesIO(data), signed)
    except C2paError as error:
        if refused:
            raise CredentialsError(f"the signer refused: {refused[0]}") from refused[0]
        raise CredentialsError(f"the picture could not be signed: {str(error)[:500]}.") from None
    return Signed(signed.getvalue(), tuple(warnings))


def _context(trust_anchors: str, timestamp_roots: str = "") -> "Context":
    from c2pa import Context

    lists = [(trust_anchors, "manifest", _SIGNERS), (timestamp_roots, "tsa", _CLOCKS)]
    anchors = [{"trust_anchors": pem, "trust_kind": kind, "trust_uri": uri} for pem, kind, uri in lists if pem]
    for pem in {pem for pem, _, _ in lists if pem}:
        _check_pem(pem)
    return Context.from_dict({**_SETTINGS, "trust": {"anchors": anchors}})


@functools.lru_cache(maxsize=32)
def _check_pem(pem: str) -> None:
    """The library passes over what is no certificate, and then trusts nobody."""
    from cryptography.x509 import load_pem_x509_certificates

    try:
        load_pem_x509_certificates(pem.encode())
    except ValueError as error:
        raise CredentialsError(f"the trust anchors are no certificates in PEM form: {error}.") from None
