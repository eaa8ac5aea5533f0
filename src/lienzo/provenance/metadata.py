"""What every picture's file holds: the whole request, so that the same picture can be made again.

| file | the record, as JSON | AUTOMATIC1111's text (`infotext.py`) |
|------|---------------------|--------------------------------------|
| PNG  | iTXt `lienzo`       | tEXt, or iTXt where it needs Unicode, `parameters` |
| JPEG | XMP, property `record` of `NAMESPACE` | EXIF UserComment |
| WebP | XMP, property `record` of `NAMESPACE` | EXIF UserComment |

An unmarked file with the same request, weights and software has the same bytes: there is no time and no path in it.
"""

import hashlib
import io
import re
import xml.etree.ElementTree as ET
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Literal, Self
from xml.sax.saxutils import escape

import rfc8785
import torch
from PIL import Image, UnidentifiedImageError
from PIL.PngImagePlugin import PngImageFile, PngInfo
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import from_json

from lienzo import __version__
from lienzo.diffusion.schedule import Prediction
from lienzo.errors import MetadataError, OutputError, RequestError
from lienzo.images import MAX_PIXELS, to_image
from lienzo.models.bundle import Bundle
from lienzo.pipeline.generate import Given, Result
from lienzo.pipeline.request import InputImage, Request
from lienzo.provenance import bounded
from lienzo.provenance.infotext import infotext
from lienzo.weights.hub import HUB_ID

KEY = "lienzo"
NAMESPACE = "https://lienzo.invalid/ns/1.0/"
MAX_RECORD = 1 << 20
"""Characters. The largest request takes less than a fifth of that."""

MAX_ADAPTERS = 1000
"""Entries of a record's list of adapters."""

JPEG_SEGMENT = 65_000
"""Bytes that JPEG holds in one segment, less its own header."""

_EXIF_IFD, _USER_COMMENT, _SOFTWARE = 0x8769, 0x9286, 0x0131
_RDF = "http://www.w3.org/1999/02/22-rdf-syntax-ns#"

Sha256 = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]


class Weights(BaseModel):
    """Which weights: the model's own name, never a path, and `lienzo.models.bundle.weights_digest`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(max_length=300)
    digest: Sha256


class Lora(BaseModel):
    """A LoRA on the networks: its file's name and SHA-256, and how much of it each network had."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    name: str = Field(max_length=300)
    digest: Sha256
    unet: float
    text_encoder: float


class Embedding(BaseModel):
    """A textual-inversion embedding: what stood for it in the prompt, and its file's SHA-256."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    token: str = Field(max_length=300)
    digest: Sha256


class Software(BaseModel):
    """Versions of what made the picture."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    lienzo: str = Field(max_length=100)
    torch: str = Field(max_length=100)


class Record(BaseModel):
    """Where a picture comes from.

    Attributes:
        version: 2 where there are adapters or embeddings, so that a lienzo that knows none does not pass over them.
        request: complete; its inputs are known by their digests.
        adapters, embeddings: what was on the weights; None where nothing was.
        prediction_type: what the U-Net predicted.
        settings: digest of the rest of the model: configurations, noise schedule, tokenizer; see
            `lienzo.models.bundle.Bundle.settings_digest`.
        dtype: that the U-Net computed in, e.g. "float32".
        device: "cpu", "cuda" ...
        threads: that torch computed with on the CPU: with another number, sums come out in another order and the last
            bits differ.
        picture: digest and size of the pixels before the file format, which a JPEG does not keep, was applied.
        unmarked: digest of the pixels before anything was marked in them; None where nothing was.
        given: what the caller gave beside the request; None where nothing was: the request alone gives the picture.
    """

    model_config = ConfigDict(frozen=True)

    version: Literal[1, 2] = 1
    request: Request
    request_digest: Sha256
    weights: Weights
    adapters: tuple[Lora, ...] | None = Field(default=None, min_length=1, max_length=MAX_ADAPTERS)
    embeddings: tuple[Embedding, ...] | None = Field(default=None, min_length=1, max_length=MAX_ADAPTERS)
    prediction_type: Prediction
    settings: Sha256
    dtype: str = Field(pattern="^(float32|float16|bfloat16|float64)$")
    device: str = Field(max_length=20)
    threads: int | None = Field(default=None, ge=1, le=4096)
    software: Software
    picture: InputImage
    unmarked: Sha256 | None = None
    given: tuple[Given, ...] | None = Field(default=None, min_length=1)

    @classmethod
    def of(cls, result: Result) -> Self:
        """The record of a finished picture. Computes the weights' digest when it is asked for the first time."""
        picture, made = InputImage.of(result.image), InputImage.of(to_image(result.pixels))
        bare = InputImage(sha256=picture.sha256, width=picture.width, height=picture.height)
        return cls.about(
            result.bundle, result.request, bare, None if made == picture else made.sha256, given=result.given
        )

    @classmethod
    def about(
        cls,
        bundle: Bundle,
        request: Request,
        picture: InputImage,
        unmarked: str | None = None,
        *,
        given: tuple[Given, ...] = (),
    ) -> Self:
        """The record of a picture of this request and model."""
        weight = next(bundle.unet.parameters())
        return cls(
            version=2 if bundle.adapters or bundle.embeddings else 1,
            request=request,
            request_digest=request.digest,
            weights=Weights(name=public_name(bundle), digest=bundle.digest),
            adapters=tuple(Lora(**asdict(used)) for used in bundle.adapters) or None,
            embeddings=tuple(Embedding(**asdict(used)) for used in bundle.embeddings) or None,
            prediction_type=bundle.schedule.prediction_type,
            settings=bundle.settings_digest,
            dtype=str(weight.dtype).removeprefix("torch."),
            device=weight.device.type,
            threads=torch.get_num_threads() if weight.device.type == "cpu" else None,
            software=Software(lienzo=__version__, torch=torch.__version__),
            picture=picture,
            unmarked=unmarked,
            given=given or None,
        )

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Read a record and check that its request is the one whose digest is written beside it.

        Raises:
            MetadataError: not a record, of a later version, or damaged.
        """
        if len(text) > MAX_RECORD:
            raise MetadataError(f"the record has {len(text):,} characters, more than the {MAX_RECORD:,} allowed.")
        try:
            data = from_json(text, allow_inf_nan=False)
        except ValueError as error:
            raise MetadataError(f"the record is not JSON ({error}).") from None
        if not isinstance(data, dict) or not isinstance(data.get("request"), dict):
            raise MetadataError("the record holds no request.")
        if data.get("version") not in (1, 2):
            raise MetadataError(
                f"the record has version {str(data.get('version'))[:40]!r}; this lienzo reads versions 1 and 2. Update lienzo."
            )
        try:
            canonical = rfc8785.dumps(data["request"])
            if hashlib.sha256(canonical).hexdigest() != data.get("request_digest"):
                raise MetadataError("the request is not the one whose digest is recorded: it was edited or damaged.")
            return cls.model_validate({**data, "request": Request.from_json(canonical)})
        except MetadataError:
            raise
        except ValidationError as error:
            found = error.errors(include_url=False, include_input=False)[0]
            raise MetadataError(f"the record's {'.'.join(map(str, found['loc']))} is wrong: {found['msg']}.") from None
        except RequestError as error:
            raise MetadataError(f"the recorded request is not allowed: {error}") from None
        except ValueError as error:  # numbers beyond what canonical JSON can hold
            raise MetadataError(f"the record is damaged ({error}).") from None

    @property
    def model_made(self) -> str:
        """Digest of the pixels as the model made them."""
        return self.unmarked or self.picture.sha256

    @property
    def canonical(self) -> bytes:
        """The record as RFC 8785 JSON."""
        return rfc8785.dumps(self.model_dump(mode="json", exclude_none=True))


def public_name(bundle: Bundle) -> str:
    """The model's name without any folder of this machine: the last part of a path, or a hub id whole."""
    return bundle.name if HUB_ID.fullmatch(bundle.name) else re.split(r"[\\/]", bundle.name.rstrip("\\/"))[-1]


def file_options(record: Record | None, kind: str, quality: int = 95) -> dict[str, Any]:
    """What PIL is to write beside the pixels, and how.

    Args:
        record: None: nothing beside the pixels.

    Raises:
        OutputError: a request too long for a JPEG.
    """
    texts = {} if record is None else _texts(record, kind)
    if kind == "PNG":
        return texts
    if kind == "WEBP":
        return {**texts, "lossless": True, "quality": 80}
    longest = max(map(len, texts.values()), default=0)
    if longest > JPEG_SEGMENT:
        raise OutputError(
            f"The request takes {longest:,} bytes, and a JPEG holds {JPEG_SEGMENT:,}. Save as .png or .webp."
        )
    return {**texts, "quality": quality, "subsampling": 0}


def _texts(record: Record, kind: str) -> dict[str, Any]:
    document = record.canonical.decode()
    text = infotext(
        record.request,
        model=record.weights.name,
        model_digest=record.weights.digest,
        version=record.software.lienzo,
        loras=[(used.name, used.unet, used.text_encoder) for used in record.adapters or ()],
    )
    if kind == "PNG":
        chunks = PngInfo()
        chunks.add_text("parameters", text)
        chunks.add_itxt(KEY, document)
        return {"pnginfo": chunks}
    return {"exif": _exif(text), "xmp": _xmp(document)}


def read_stranger(data: bytes) -> Record:
    """As `read`, in a process of its own that a hostile file can hang or crash, and not this one.

    Raises:
        MetadataError: as `read`.
        UnreadableError: it cannot be read within bounds.
    """
    return Record.from_json(bounded.run(_canonical, data, seconds=60, memory=3 << 30))


def _canonical(data: bytes) -> bytes:
    return read(data).canonical


def read(source: str | Path | bytes) -> Record:
    """The record of a picture that lienzo made: a PNG, JPEG or WebP, told by content.

    Raises:
        MetadataError: no such file, not a picture, no record in it, or a damaged one.
    """
    what = "the picture" if isinstance(source, bytes) else str(source)
    try:
        with Image.open(
            io.BytesIO(source) if isinstance(source, bytes) else source, formats=("PNG", "JPEG", "WEBP")
        ) as image:
            if image.width * image.height > MAX_PIXELS:
                raise MetadataError(f"more than {MAX_PIXELS:,} pixels.")
            return Record.from_json(_document(image))
    except MetadataError as error:
        raise MetadataError(f"{what}: {error}") from None
    except UnidentifiedImageError:
        raise MetadataError(f"{what}: not a PNG, JPEG or WebP picture, or a damaged one.") from None
    except (Image.DecompressionBombWarning, Image.DecompressionBombError):
        raise MetadataError(f"{what}: more than {MAX_PIXELS:,} pixels.") from None
    except OSError as error:
        raise MetadataError(f"{what}: cannot be read: {error.strerror or error}.") from None
    except (ValueError, SyntaxError, EOFError, Warning) as error:  # PIL's warnings, where the caller has them raised
        raise MetadataError(f"{what}: damaged metadata ({error}).") from None


def _document(image: Image.Image) -> str:
    """The record's JSON, wherever the format keeps it."""
    text: object = image.info.get(KEY)
    if text is None and isinstance(image, PngImageFile):
        text = image.text.get(KEY)  # reads the whole file: other programs write their chunks after the pixels
    if text is None and isinstance(image.info.get("xmp"), bytes):
        text = _from_xmp(image.info["xmp"])
    if isinstance(text, str):
        return text
    if "parameters" in image.info:
        raise MetadataError(
            "it holds another program's parameters, but no record of lienzo's. Give the prompt and the settings as options."
        )
    raise MetadataError(
        "it holds no record of lienzo's. It is a private picture, lienzo did not make it, or a program removed the record "
        "(messengers and many editors do). Use the original file."
    )


def _exif(text: str) -> bytes:
    """EXIF with the text as a UserComment: big endian throughout, which is how AUTOMATIC1111 and its readers have it."""
    exif = Image.Exif()
    exif.endian = ">"
    exif[_SOFTWARE] = f"lienzo {__version__}"
    exif.get_ifd(_EXIF_IFD)[_USER_COMMENT] = b"UNICODE\0" + text.encode("utf-16-be")
    return exif.tobytes()


def _xmp(document: str) -> bytes:
    # U+FFFE and U+FFFF may be in JSON but not in XML; JSON can spell them out
    spelled = re.sub("[\ufffe\uffff]", lambda found: f"\\u{ord(found[0]):04x}", document)
    return (
        '<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>'
        f'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="{_RDF}">'
        f'<rdf:Description rdf:about="" xmlns:{KEY}="{NAMESPACE}"><{KEY}:record>{escape(spelled)}</{KEY}:record>'
        '</rdf:Description></rdf:RDF></x:xmpmeta><?xpacket end="w"?>'
    ).encode()


def _from_xmp(packet: bytes) -> str | None:
    """The record in an XMP packet, as an element or, as some programs rewrite it, an attribute."""
    if len(packet) > 4 * MAX_RECORD:
        raise MetadataError(f"its XMP metadata has {len(packet):,} bytes, which no record needs.")
    try:
        text = packet.decode("utf-8").strip("\0 \n")
        if "<!DOCTYPE" in text:  # its entities could expand to anything
            raise MetadataError("its XMP metadata declares a document type, which XMP does not allow.")
        root = ET.fromstring(text)
    except UnicodeDecodeError:
        raise MetadataError("its XMP metadata is not UTF-8.") from None
    except ET.ParseError as error:
        raise MetadataError(f"its XMP metadata is damaged ({error}).") from None
    name = f"{{{NAMESPACE}}}record"
    for element in root.iter():
        if element.tag == name:
            return element.text or ""
        if name in element.attrib:
            return element.attrib[name]
    return None
