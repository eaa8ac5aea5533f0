"""The receipt of a picture: what was done, by what, signed, without the prompt.

A receipt is canonical JSON (RFC 8785). It holds the prompt only as a salted commitment: whoever has the salt can show
later that a prompt was this picture's, nobody without it can find the prompt in the receipt by trying, and once the salt is erased nobody can
at all. The picture itself remains: who has the weights can make pictures of guessed prompts and look whether one is like it.
"""

import hashlib
import hmac
import secrets
from collections.abc import Sequence
from typing import Annotated, Any, Final, Literal, Self

import rfc8785
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import from_json

from lienzo.errors import KeystoreError, ReceiptError
from lienzo.pipeline.generate import Given
from lienzo.pipeline.request import Request
from lienzo.provenance.encoding import decode64, encode64
from lienzo.provenance.keys import PublicKey, Signer
from lienzo.provenance.metadata import MAX_ADAPTERS, Embedding, Lora, Sha256, Software, Weights

SALT_BYTES: Final = 32
MAX_RECEIPT: Final = 1 << 20
"""Characters of a signed receipt's JSON."""

ID_BITS: Final = 48
"""Of a record id: what the watermark carries."""

Layer = Literal["credentials", "watermark", "log", "latent"]
"""What a picture was given besides its receipt."""

TIME: Final = r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ$"
RecordId = Annotated[str, Field(pattern="^[0-9a-f]{12}$")]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Parent(_Frozen):
    """A picture that went into this one.

    Attributes:
        sha256: of mode, size and raw pixels, see `lienzo.pipeline.request.InputImage`.
    """

    role: Literal["init", "mask"]
    sha256: Sha256


class Pixels(_Frozen):
    """A picture by its pixels.

    Attributes:
        sha256: as `InputImage` has it.
    """

    sha256: Sha256
    width: int = Field(ge=1)
    height: int = Field(ge=1)


class Score(_Frozen):
    """A number that a check went by."""

    name: str = Field(max_length=100)
    value: float


class Checked(_Frozen):
    """What safety checks found, in the form of `lienzo.safety.Outcome`."""

    status: Literal["passed", "flagged", "blocked", "not_checked"]
    by: tuple[Annotated[str, Field(max_length=300)], ...] = ()
    scores: tuple[Score, ...] = ()
    reasons: tuple[Annotated[str, Field(max_length=1000)], ...] = ()


class Safety(_Frozen):
    """What the checks of the prompt and of the picture found."""

    prompt: Checked
    picture: Checked


class Receipt(_Frozen):
    """What is signed.

    Attributes:
        id: the record's, 48 bits in hex: a keyed hash of the request's digest and the unmarked pixels, so that the same
            request always has the same one; the pixel watermark carries it.
        private: whether the picture carries its prompt nowhere.
        request: SHA-256 of the canonical request. In private mode, where that would let a guess at the prompt be tested, a
            commitment to it (`commit`).
        prompt: a commitment to the prompts (`commit_prompt`).
        settings: digest of the model's configurations, see `lienzo.models.bundle.Bundle.settings_digest`.
        picture: the finished pixels, before the file format.
        unmarked: SHA-256 of the pixels before any mark, as the model made them; of a private picture a salted commitment to it.
        perceptual: `lienzo.provenance.perceptual.perceptual_hash` of the finished picture.
        parents: pictures that went in.
        given: what else the caller gave (`lienzo.pipeline.generate.Given`): where there is anything, the picture does not come
            again from its request alone.
        safety: what was checked, and what came of it.
        credentials: id of the key that signs the credentials, so that nobody else can put the receipt into theirs.
        simulation: what a visible label in the picture says; None: there is none.
        made: UTC, RFC 3339; by this machine's own clock.
        seconds: that the picture took; of several made at once, its share.
        joules: that the processors took meanwhile, where the machine measures it; None: not measured.
    """

    version: Literal[1] = 1
    id: RecordId
    private: bool
    request: Sha256
    prompt: Sha256
    weights: Weights
    adapters: tuple[Lora, ...] = Field(default=(), max_length=MAX_ADAPTERS)
    embeddings: tuple[Embedding, ...] = Field(default=(), max_length=MAX_ADAPTERS)
    settings: Sha256
    dtype: str = Field(max_length=20)
    device: str = Field(max_length=20)
    software: Software
    picture: Pixels
    unmarked: Sha256
    perceptual: str = Field(pattern="^[0-9a-f]{16}$")
    parents: tuple[Parent, ...] = Field(default=(), max_length=10)
    given: tuple[Given, ...] = ()
    safety: Safety
    marks: tuple[Layer, ...]
    credentials: Sha256
    simulation: str | None = Field(default=None, max_length=200)
    made: str = Field(pattern=TIME)
    seconds: float = Field(ge=0)
    joules: float | None = Field(default=None, ge=0)

    @property
    def canonical(self) -> bytes:
        """RFC 8785 JSON; what is not given is left out."""
        return rfc8785.dumps(self.model_dump(mode="json", exclude_none=True))

    @property
    def digest(self) -> str:
        """SHA-256 of the canonical form in hex."""
        return hashlib.sha256(self.canonical).hexdigest()


class SignedReceipt(_Frozen):
    """A receipt with its signature, and the key to check it with.

    What is signed is what the log holds of it (`Entry`): the receipt's digest among it, so that one signature vouches for
    both. That it is right says only that the holder of that key signed; whose it is, a trust list says.
    """

    receipt: Receipt
    algorithm: Literal["ed25519", "es256"]
    key: str = Field(max_length=400, description="SubjectPublicKeyInfo, DER, base64")
    signature: str = Field(max_length=100, description="base64")

    @classmethod
    def sign(cls, receipt: Receipt, signer: Signer) -> Self:
        said = Said.of(receipt, signer.public)
        return cls(
            receipt=receipt,
            algorithm=signer.public.algorithm,
            key=encode64(signer.public.spki),
            signature=encode64(signer.sign(said.message)),
        )

    @classmethod
    def read(cls, document: str | bytes | Any) -> Self:
        """From JSON, or from what was read from JSON.

        Raises:
            ReceiptError: not a receipt, or one with anything unknown in it.
        """
        try:
            if isinstance(document, str | bytes):
                if len(document) > MAX_RECEIPT:
                    raise ReceiptError(
                        f"the receipt has {len(document):,} bytes, more than the {MAX_RECEIPT:,} allowed."
                    )
                document = from_json(document, allow_inf_nan=False)
            # JSON's own rules: no number for a string, no list but for a tuple
            return cls.model_validate_json(rfc8785.dumps(document), strict=True)
        except ValidationError as error:
            found = error.errors(include_url=False, include_input=False)[0]
            where = ".".join(map(str, found["loc"])) or "the whole"
            raise ReceiptError(f"not a receipt of lienzo's: {where[:100]}: {found['msg']}.") from None
        except (ValueError, TypeError, RecursionError) as error:
            if isinstance(error, ReceiptError):
                raise
            raise ReceiptError(f"the receipt cannot be read ({str(error)[:200]}).") from None

    @property
    def public(self) -> PublicKey:
        """The key that it says it was signed with.

        Raises:
            ReceiptError: no key.
        """
        try:
            key = PublicKey.from_spki(decode64(self.key))
        except (ValueError, KeystoreError) as error:
            raise ReceiptError(f"the receipt's key cannot be read: {error}") from None
        if key.algorithm != self.algorithm:
            raise ReceiptError(f"the receipt says {self.algorithm}, its key is for {key.algorithm}.")
        return key

    @property
    def holds(self) -> bool:
        """Whether the signature is right for exactly this receipt.

        Raises:
            ReceiptError: no key, or no signature, that can be read.
        """
        return _verified(Said.of(self.receipt, self.public), self.signature, self.public)

    @property
    def document(self) -> dict[str, Any]:
        """As JSON has it."""
        return self.model_dump(mode="json", exclude_none=True)

    @property
    def canonical(self) -> bytes:
        return rfc8785.dumps(self.document)

    @property
    def entry(self) -> "Entry":
        """What the log holds of it."""
        said = Said.of(self.receipt, self.public)
        return Entry(**said.model_dump(), signature=self.signature)


_CONTEXT: Final = b"lienzo record v1\n"
"""Before what is signed, so that a signature under anything else of ours is never one under a record."""


class Said(_Frozen):
    """What a receipt's key signs: who says which pixels go with which receipt. No word of the prompt.

    Attributes:
        receipt: SHA-256 of its canonical form.
        key: id of the one that signs.
        picture, perceptual, made: as the receipt has them.
    """

    version: Literal[1] = 1
    id: RecordId
    receipt: Sha256
    key: Sha256
    picture: Sha256
    perceptual: str = Field(pattern="^[0-9a-f]{16}$")
    made: str = Field(pattern=TIME)

    @classmethod
    def of(cls, receipt: Receipt, key: PublicKey) -> "Said":
        return Said(
            id=receipt.id,
            receipt=receipt.digest,
            key=key.id,
            picture=receipt.picture.sha256,
            perceptual=receipt.perceptual,
            made=receipt.made,
        )

    @property
    def message(self) -> bytes:
        """The bytes that are signed."""
        return _CONTEXT + rfc8785.dumps(self.model_dump(mode="json"))


class Entry(Said):
    """What the log holds of a receipt: what its key signed, and the signature.

    So a log's keeper cannot have a record say what its signer did not: that it is logged proves when it was at the latest,
    the signature proves whose it is.
    """

    signature: str = Field(max_length=100, description="base64")

    @classmethod
    def read(cls, data: bytes) -> Self:
        """
        Raises:
            ReceiptError: not an entry of lienzo's.
        """
        try:
            return cls.model_validate_json(data, strict=True)
        except ValidationError as error:
            raise ReceiptError(f"not a log entry of lienzo's: {error.errors(include_url=False)[0]['msg']}.") from None

    @property
    def canonical(self) -> bytes:
        """As it is logged: RFC 8785 JSON."""
        return rfc8785.dumps(self.model_dump(mode="json"))

    def signed_by(self, key: PublicKey) -> bool:
        """Whether that key signed exactly this.

        Raises:
            ReceiptError: no signature that can be read.
        """
        said = Said(**self.model_dump(exclude={"signature"}))
        return self.key == key.id and _verified(said, self.signature, key)


def _verified(said: Said, signature: str, key: PublicKey) -> bool:
    try:
        raw = decode64(signature)
    except ValueError:
        raise ReceiptError("the receipt's signature is not base64.") from None
    return key.verify(said.message, raw)


def new_salt() -> bytes:
    """From the system's source of secrets: 256 bits."""
    return secrets.token_bytes(SALT_BYTES)


def commit(content: bytes, salt: bytes) -> str:
    """HMAC-SHA-256 under the salt, in hex: it binds, and hides as long as the salt is secret.

    Raises:
        ReceiptError: a salt of another length.
    """
    if len(salt) != SALT_BYTES:
        raise ReceiptError(f"got a salt of {len(salt)} bytes; expected {SALT_BYTES}.")
    return hmac.new(salt, content, hashlib.sha256).hexdigest()


def commit_prompt(request: Request, salt: bytes) -> str:
    """To the prompt and the negative prompt alone."""
    return commit(b"prompt\n" + rfc8785.dumps([request.prompt, request.negative_prompt]), salt)


def commit_request(request: Request, salt: bytes | None) -> str:
    """To everything that was asked for; without a salt its plain digest."""
    return request.digest if salt is None else commit(b"request\n" + request.canonical, salt)


def commit_unmarked(sha256: str, salt: bytes | None) -> str:
    """To the model's own pixels, by their digest; without a salt that digest itself, with which guesses could be tried."""
    return sha256 if salt is None else commit(b"unmarked\n" + sha256.encode(), salt)


def opens(receipt: Receipt, request: Request, salt: bytes) -> bool:
    """Whether the receipt's commitments are to this request."""
    return (receipt.prompt, receipt.request) == (
        commit_prompt(request, salt),
        commit_request(request, salt if receipt.private else None),
    )


def record_id(
    key: bytes, tenant: str, request: Request, unmarked: str, *, private: bool = False, label: str | None = None
) -> int:
    """48 bits: a keyed hash of whose picture it is, of the request's digest, of the unmarked pixels' SHA-256 and of its form.

    A private picture's is another one than that of the same picture made openly, so that nobody finds the one by the other.

    The same request gives the same id, and so the same marked picture; without the key it tells nothing.
    """
    digests = bytes.fromhex(request.digest) + bytes.fromhex(unmarked)
    message = b"lienzo record id v1\n" + digests + rfc8785.dumps([tenant, private, label])
    return int.from_bytes(hmac.new(key, message, hashlib.sha256).digest()[: ID_BITS // 8])


def parents(request: Request) -> Sequence[Parent]:
    """The pictures that a request starts from."""
    given = {"init": request.init, "mask": request.mask}
    return tuple(Parent(role=role, sha256=one.sha256) for role, one in given.items() if one is not None)  # type: ignore[arg-type]
