"""Pictures that a model makes on the way."""

from collections.abc import Sequence

from PIL import Image

from lienzo.models.bundle import Bundle
from lienzo.pipeline.generate import finished, generate
from lienzo.pipeline.request import Request

AT_ONCE = 8
"""Pictures that an accelerator makes together."""


def drawn(bundle: Bundle, requests: Sequence[Request]) -> list[Image.Image]:
    """The pictures that are asked for."""
    batches = (requests[i : i + AT_ONCE] for i in range(0, len(requests), AT_ONCE))
    return [result.image for batch in batches for result in finished(generate(bundle, batch))]
