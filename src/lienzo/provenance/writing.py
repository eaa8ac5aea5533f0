"""Writing a finished picture's file: its pixels, its record, and what proves where it comes from."""

import io
from pathlib import Path

from lienzo.models.bundle import Bundle
from lienzo.pipeline.generate import Result
from lienzo.pipeline.request import InputImage, Request
from lienzo.provenance.files import IfExists, Kind, kind_of, place
from lienzo.provenance.marking import Marked
from lienzo.provenance.metadata import Record, file_options


def save(result: Result, path: str | Path, *, if_exists: IfExists = "error", quality: int = 95) -> Path:
    """Write a finished picture with its record, and signed where it is marked: PNG, JPEG or WebP (lossless), by the file's
    extension.

    Args:
        if_exists: what to do when the file is there: "error", "overwrite", or "number", which takes the next free name.
        quality: of a JPEG, 1 to 100.

    Returns:
        The path that was written.

    Raises:
        OutputError: unknown extension, a file in the way, or it cannot be written; no half-written file stays.
    """
    path = Path(path)
    return place(encode(result, kind_of(path), quality=quality), path, if_exists=if_exists)


def encode(result: Result, kind: Kind, *, quality: int = 95) -> bytes:
    """The bytes of a picture's file, with its record and, of a marked picture, its credentials.

    A private picture has no record: only what it was signed with.

    Args:
        kind: "PNG", "JPEG" or "WEBP".

    Raises:
        OutputError: a request too long for a JPEG.
        CredentialsError: they could not be added; no bare picture is given instead.
    """
    private = isinstance(result, Marked) and result.signed.receipt.private
    options = file_options(None if private else Record.of(result), kind, quality)
    buffer = io.BytesIO()
    result.image.save(buffer, kind, **options)
    return result.credentialed(buffer.getvalue(), kind) if isinstance(result, Marked) else buffer.getvalue()


def check_room(bundle: Bundle, request: Request, kind: str) -> None:
    """Find out before any work whether a file of that kind can hold a complete request (see `encode`).

    Raises:
        OutputError: a request too long for a JPEG.
    """
    if kind == "JPEG":  # the others hold any
        assert request.width and request.height
        unknown = InputImage(sha256="0" * 64, width=request.width, height=request.height)  # as long as the real one
        file_options(Record.about(bundle, request, unknown, unknown.sha256), kind)
