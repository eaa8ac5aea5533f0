"""Content Credentials (C2PA) in PNG, JPEG and WebP: adding them, and telling what those of a picture are worth.

A manifest says what was done to make the picture, carries assertions, is bound to every byte of the file by a hash, and is
signed. Only `Trusted` counts: anybody can sign with a certificate of their own making, which reads as `Valid`.

Nothing is fetched from anywhere: a picture may name a URL for its manifest, and whoever checks it would tell that
server so. All settings belong to the one call; those that the library keeps for a process or a thread are not used.
"""

import contextlib
import functools
import io
import json
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Literal

import rfc8785

from lienzo import __version__
from lienzo.errors import CredentialsError
from lienzo.provenance.certificates import Issuer
from lienzo.provenance.files import kind_of_data
from lienzo.provenance.timestamps import Authority, relay

if TYPE_CHECKING:
    from c2pa import Context

State = Literal["Trusted", "Valid", "Invalid", "absent"]

RECEIPT = "org.lienzo.receipt"
BINDING = "c2pa.soft-binding"

_TRAINED = "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"
_COMPOSITE = "http://cv.iptc.org/newscodes/digitalsourcetype/compositeWithTrainedAlgorithmicMedia"
_AGENT = {"name": "lienzo", "version": __version__}
_UNTRUSTED = "signingCredential.untrusted"
_PARENT = "parent"
_MIME = {"PNG": "image/png", "JPEG": "image/jpeg", "WEBP": "image/webp"}
_KEY_ID = re.compile(r"[0-9a-f]{64}")
_SETTINGS: dict[str, Any] = {
    "builder": {
        "thumbnail": {"enabled": False},  # 50 to 110 kB of what the file shows anyway
        "created_assertion_labels": ["c2pa.actions", RECEIPT, BINDING],  # said by us, not gathered from others
    },
    "verify": {"remote_manifest_fetch": False, "ocsp_fetch": False},
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
            signed, by nobody who is. "Invalid": changed since, damaged, expired or revoked. "absent": there are none.
        failures: what is wrong, as `code: explanation`; the codes are C2PA's (specification 2.2, section 15.2).
        title: that the manifest gives the picture.
        generator: the program that made the manifest, and its version.
        signer: the organisation (O) in the signer's certificate.
        key_id: of the signer, where an authority of lienzo's own issued the certificate (its name, CN, is the id).
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


def add(
    data: bytes,
    kind: Literal["PNG", "JPEG", "WEBP"],
    *,
    issuer: Issuer,
    title: str,
    receipt: Mapping[str, Any] | None = None,
    binding: SoftBinding | None = None,
    parent: Parent | None = None,
    composite: bool = False,
    authority: Authority | None = None,
    trust_anchors: str = "",
) -> Signed:
    """Add Content Credentials to a picture's file. The pixels and other metadata stay as they are.

    Args:
        issuer: who signs; see `lienzo.provenance.certificates.issuer`.
        title: of the picture, for people.
        receipt: becomes the assertion `org.lienzo.receipt`. Whole numbers must lie within 2^53, as everywhere in JSON.
        binding: becomes the assertion `c2pa.soft-binding`, and an action that says there is a mark.
        parent: the input of img2img and inpainting. Without one, the picture was created; with one, opened and edited.
        composite: parts of the parent are in the picture still (inpainting).
        authority: of timestamps. Without its word the picture can be verified as long as the signer's certificate
            is valid. If it cannot be had, the picture is signed without it, and `warnings` says so.
        trust_anchors: PEM certificates of the authorities that are trusted: what the manifest says of the parent's
            credentials is by them.

    Raises:
        CredentialsError: it could not be done; no picture without credentials is returned in their place.
    """
    if kind_of_data(data) != kind:
        raise CredentialsError(f"got bytes that are no {kind} picture; give what was encoded as one.")
    manifest = _manifest(kind, title, receipt, binding, parent is not None, composite)
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
    """
    from c2pa import C2paError, Reader

    kind = kind_of_data(data)
    if kind is None:
        return CredentialsFound("Invalid", ("the file is no PNG, JPEG or WebP picture",))
    try:
        with (
            _context(trust_anchors, timestamp_roots) as context,
            Reader(_MIME[kind], io.BytesIO(data), context=context) as reader,
        ):
            document = json.loads(reader.json())
            state = reader.get_validation_state()
    except C2paError.ManifestNotFound:
        return CredentialsFound("absent")
    except (C2paError, ValueError, RecursionError) as error:
        return CredentialsFound("Invalid", (str(error)[:500],))
    return _found(document, state, revoked)


def _found(document: dict[str, Any], state: str | None, revoked: Collection[str]) -> CredentialsFound:
    manifest = document["manifests"][document["active_manifest"]]
    results = document.get("validation_results", {}).get("activeManifest", {})
    signature = manifest.get("signature_info", {})
    name = signature.get("common_name")
    key_id = name if isinstance(name, str) and _KEY_ID.fullmatch(name) else None
    failures = tuple(f"{entry['code']}: {entry.get('explanation', '')}"[:500] for entry in results.get("failure", ()))
    worth: State = "Trusted" if state == "Trusted" else "Valid" if state == "Valid" else "Invalid"
    if key_id is not None and key_id in revoked:
        worth, failures = "Invalid", (*failures, "signingCredential.revoked: the signer's key was revoked")
    timed = "timeStamp.trusted" in {entry["code"] for entry in results.get("success", ())}
    generator: dict[str, Any] = next(iter(manifest.get("claim_generator_info", ())), {})
    (parent,) = [i for i in manifest.get("ingredients", ()) if i.get("relationship") == "parentOf"][:1] or [None]
    return CredentialsFound(
        state="Trusted"
        if state == "Trusted" and not failures
        else "Valid"
        if state == "Valid" and not failures
        else "Invalid",
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
    assertions: list[dict[str, Any]] = [
        {"label": "c2pa.actions", "data": {"actions": actions, "allActionsIncluded": True}}
    ]
    if receipt is not None:
        try:
            content = json.loads(rfc8785.dumps(dict(receipt)))
        except (rfc8785.CanonicalizationError, TypeError) as error:
            raise CredentialsError(f"the receipt is not JSON with numbers up to 2^53: {error}.") from None
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

    trust: dict[str, Any] = {}
    if trust_anchors:
        trust["trust_anchors"] = trust_anchors
    if timestamp_roots:
        trust["anchors"] = [{"trust_anchors": timestamp_roots, "trust_kind": "tsa", "trust_uri": "lienzo:timestamps"}]
    return Context.from_dict({**_SETTINGS, "trust": trust})
