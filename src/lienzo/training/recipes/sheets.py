"""Pictures that a model makes on the way, and their files."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from PIL import Image

from lienzo.images import png
from lienzo.models.bundle import Bundle
from lienzo.pipeline.generate import finished, generate
from lienzo.pipeline.request import Request

AT_ONCE = 8
"""Pictures that an accelerator makes together."""


def drawn(bundle: Bundle, requests: Sequence[Request]) -> list[Image.Image]:
    """The pictures that are asked for, the model's own: nothing is checked or marked."""
    batches = (requests[i : i + AT_ONCE] for i in range(0, len(requests), AT_ONCE))
    return [result.image for batch in batches for result in finished(generate(bundle, batch))]


def bare(bundle: Bundle, request: Request) -> bytes:
    """A picture as PNG, without a mark."""
    return png(drawn(bundle, [request])[0])


@dataclass(frozen=True)
class Files:
    """How pictures become PNG files. Training knows no keys, so that whoever calls says how they are signed.

    Attributes:
        picture: makes a picture.
        sheet: of a sheet, which is put together of pictures.
    """

    picture: Callable[[Bundle, Request], bytes] = bare
    sheet: Callable[[Image.Image], bytes] = png
