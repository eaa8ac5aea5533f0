"""Marking a finished picture: watermark, receipt, log entry, and what its file is signed with.

Everything that goes into pixels is a keyed function of the request and of the picture, so that the same request gives the
same picture with marks on; what depends on chance and time (salt, signature, place in the log) lies beside the pixels.
"""

import threading
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, Final, TypeVar

import torch
from PIL import Image

from lienzo import __version__
from lienzo.errors import LogError, RecordError, UnknownKeyError
from lienzo.images import png, to_image
from lienzo.pipeline.generate import Result
from lienzo.pipeline.request import InputImage, Request
from lienzo.provenance.certificates import Issuer, anchors, issuer
from lienzo.provenance.credentials import Parent, SoftBinding, add
from lienzo.provenance.energy import Spent
from lienzo.provenance.files import Kind
from lienzo.provenance.keys import Keystore, PublicKey, Signer
from lienzo.provenance.metadata import Embedding, Lora, Software, Weights, public_name
from lienzo.provenance.perceptual import perceptual_hash
from lienzo.provenance.prompts import PromptStore
from lienzo.provenance.receipt import (
    Checked,
    Layer,
    Pixels,
    Receipt,
    Safety,
    SignedReceipt,
    commit_prompt,
    commit_request,
    commit_unmarked,
    new_salt,
    parents,
    record_id,
)
from lienzo.provenance.settings import Settings
from lienzo.provenance.timestamps import configured

if TYPE_CHECKING:
    from lienzo.provenance.log import Log, LogProof

ALGORITHM: Final = "org.lienzo.watermark.1"
"""The watermark's name in credentials."""

T = TypeVar("T")

_NOBODY: Final = Checked(status="not_checked", reasons=("No check is set up.",))
NOT_CHECKED: Final = Safety(prompt=_NOBODY, picture=_NOBODY)


@dataclass(frozen=True, kw_only=True)
class Marked(Result):
    """A finished picture that can prove where it comes from.

    `pixels` and `latents` are the model's own; `image` is the picture with what was marked in it.

    Attributes:
        signed: its receipt.
        proof: that the receipt is in the log; None where there is no log.
        sign: puts credentials into a file's bytes: (bytes, "PNG", "JPEG" or "WEBP", this) -> bytes.
    """

    marked: Image.Image = field(repr=False)
    signed: SignedReceipt
    proof: "LogProof | None" = None
    sign: Callable[[bytes, Kind, "Marked"], bytes] = field(repr=False)

    @cached_property
    def image(self) -> Image.Image:
        return self.marked

    def credentialed(self, data: bytes, kind: Kind) -> bytes:
        """The file with its Content Credentials."""
        return self.sign(data, kind, self)

    @property
    def document(self) -> dict[str, Any]:
        """What the credentials hold of it: the signed receipt and its place in the log."""
        proof = {} if self.proof is None else {"log": self.proof.document}
        return {"receipt": self.signed.document, **proof}


class Notary:
    """Marks pictures as the settings say. Threads may share it; keys and databases are opened on first use.

    Args:
        keys: None: those in lienzo's home.
    """

    def __init__(self, settings: Settings, keys: Keystore | None = None) -> None:
        self.settings = settings
        self.keys = Keystore() if keys is None else keys
        self._log: tuple[PublicKey, Log] | None = None
        self._opening = threading.Lock()

    def mark(
        self,
        result: Result,
        spent: Spent,
        *,
        safety: Safety = NOT_CHECKED,
        labelled: tuple[Image.Image, str] | None = None,
    ) -> Result:
        """Mark a finished picture. Nothing is returned unless all of it was done.

        Args:
            labelled: the picture as it is to be seen, and what the visible label in it says; None: there is no label.
            safety: what the checks found.

        Raises:
            LienzoError: a key, the log or the records' store cannot be used.
        """
        settings, request = self.settings, result.request
        if settings.mark == "off":
            return result
        configured(), issuer(self.keys)  # what cannot be signed is not to be logged
        made = to_image(result.pixels)
        unmarked = InputImage.of(made).sha256
        layers: list[Layer] = ["credentials"]
        told: list[str] = []
        key = self.keys.secret("watermark")
        record = record_id(
            key,
            settings.tenant,
            request,
            unmarked,
            private=settings.private,
            label=None if labelled is None else labelled[1],
        )
        picture, said = (made, None) if labelled is None else labelled
        whole = settings.mark != "credentials"
        if whole:
            from lienzo.provenance.watermark import can_carry, mark

            if can_carry(picture):  # else the receipt says that there is none
                picture = mark(picture, record, key)
                layers.append("watermark")
            else:
                told.append(
                    f"{picture.width}x{picture.height} pixels have no room for a watermark; it is signed and logged"
                )
            layers.append("log")
        if settings.mark == "latent":
            layers.append("latent")
        salt = self._salt(f"{record:012x}", request)
        by = issuer(self.keys)  # also of files that are written later, when the key may be another
        receipt = self._receipt(result, spent, safety, record, picture, said, unmarked, salt, tuple(layers), by)
        signed = SignedReceipt.sign(receipt, self.keys.signer("receipts"))
        proof = None
        if whole:
            index = self._with_log(lambda log: log.append(signed.entry.canonical, receipt.id))
            proof = self._with_log(lambda log: log.proof(index))
        return Marked(
            request=result.request,
            pixels=result.pixels,
            latents=result.latents,
            bundle=result.bundle,
            warnings=(*result.warnings, *told),
            given=result.given,
            marked=picture,
            signed=signed,
            proof=proof,
            sign=partial(self._sign, by),
        )

    def sign_sheet(self, image: Image.Image, title: str) -> bytes:
        """A PNG that is put together of generated pictures, with Content Credentials that say so; where nothing is marked,
        without. There is no request that gives it, so it has no receipt.

        Raises:
            LienzoError: it cannot be signed.
        """
        if self.settings.mark == "off":
            return png(image)
        signed = add(
            png(image),
            "PNG",
            issuer=issuer(self.keys),
            title=title,
            authority=configured(),
            trust_anchors=anchors(self.keys),
        )
        for warning in signed.warnings:
            warnings.warn(warning, stacklevel=2)
        return signed.data

    @property
    def log(self) -> "Log":
        """The log that pictures are entered in, with the key that signs it now: another process may have changed or revoked it.

        Raises:
            LienzoError: it cannot be opened.
        """
        signer = self.keys.signer("log")
        with self._opening:
            if self._log is None or self._log[0] != signer.public:
                opened = self._open(signer)
                if self._log is not None:
                    self._log[1].close()  # threads that use it still finish
                self._log = signer.public, opened
            return self._log[1]

    def _open(self, signer: Signer) -> "Log":
        from lienzo.provenance.log import Log

        place = self.settings.place("log")
        own = [key for key in self.keys.keys() if key.own and key.purpose == "log"]
        try:
            return Log.open(place, signer=signer, keys=[key.public for key in own if key.revoked is None])
        except UnknownKeyError as error:
            if all(key.revoked is None for key in own):
                raise
            raise LogError(
                f"{error} A key of the log was revoked. Nothing can be added to what it signed: keep {place} for what it still "
                "tells, and begin another log, by moving it or with LIENZO_LOG."
            ) from None

    def _with_log(self, use: "Callable[[Log], T]") -> T:
        """Use the log; once more, where its key was changed just after we looked."""
        log = self.log
        try:
            return use(log)
        except UnknownKeyError:
            if (newer := self.log) is log:
                raise
            return use(newer)

    @cached_property
    def records(self) -> PromptStore:
        """Where requests and salts are kept, encrypted.

        Raises:
            LienzoError: it cannot be opened.
        """
        return PromptStore(self.settings.place("records"))

    def _salt(self, record: str, request: Request) -> bytes:
        """Of the record's commitments, kept with the request: the one that is there already, if it was made before."""
        for attempt in range(2):
            try:
                return self.records.get(record, self.settings.tenant).salt
            except RecordError:
                try:
                    self.records.put(record, self.settings.tenant, request.canonical, salt := new_salt())
                    return salt
                except RecordError:  # another process was quicker
                    if attempt:
                        raise
        raise AssertionError("not reached")

    def _sign(self, by: Issuer, data: bytes, kind: Kind, marked: Marked) -> bytes:
        receipt, init = marked.signed.receipt, marked.request.init
        parent = None if init is None else Parent(init.file or png(init.image), "the picture to start from")
        signed = add(
            data,
            kind,
            issuer=by,
            title=f"{receipt.simulation}: picture {receipt.id}" if receipt.simulation else f"Picture {receipt.id}",
            receipt=marked.document,
            binding=SoftBinding(ALGORITHM, receipt.id) if "watermark" in receipt.marks else None,
            parent=parent,
            composite=marked.request.mask is not None,
            label=receipt.simulation,
            authority=configured(),
            trust_anchors=anchors(self.keys),
        )
        for warning in signed.warnings:
            warnings.warn(warning, stacklevel=2)
        return signed.data

    def _receipt(
        self,
        result: Result,
        spent: Spent,
        safety: Safety,
        record: int,
        picture: Image.Image,
        said: str | None,
        unmarked: str,
        salt: bytes,
        layers: tuple[Layer, ...],
        by: Issuer,
    ) -> Receipt:
        bundle, request, private = result.bundle, result.request, self.settings.private
        weight = next(bundle.unet.parameters())
        return Receipt(
            id=f"{record:012x}",
            private=private,
            request=commit_request(request, salt if private else None),
            prompt=commit_prompt(request, salt),
            weights=Weights(name=public_name(bundle), digest=bundle.digest),
            adapters=tuple(Lora(**asdict(used)) for used in bundle.adapters),
            embeddings=tuple(Embedding(**asdict(used)) for used in bundle.embeddings),
            settings=bundle.settings_digest,
            dtype=str(weight.dtype).removeprefix("torch."),
            device=weight.device.type,
            software=Software(lienzo=__version__, torch=torch.__version__),
            picture=Pixels(sha256=InputImage.of(picture).sha256, width=picture.width, height=picture.height),
            unmarked=commit_unmarked(unmarked, salt if private else None),
            perceptual=perceptual_hash(picture),
            parents=tuple(parents(request)),
            given=result.given,
            safety=safety,
            marks=layers,
            credentials=by.signer.public.id,
            simulation=said,
            made=datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            seconds=round(spent.seconds, 3),
            joules=None if spent.joules is None else round(spent.joules, 1),
        )
