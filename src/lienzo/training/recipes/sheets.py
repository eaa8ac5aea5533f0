"""Pictures that a model makes on the way, and pictures side by side."""

import math
from collections.abc import Sequence

from PIL import Image

from lienzo.models.bundle import Bundle
from lienzo.pipeline.generate import finished, generate
from lienzo.pipeline.request import Request

AT_ONCE = 8
"""Pictures that an accelerator makes together."""
GAP = 8
PAPER = "#e4e4e4"


def drawn(bundle: Bundle, requests: Sequence[Request]) -> list[Image.Image]:
    """The pictures that are asked for."""
    batches = (requests[i : i + AT_ONCE] for i in range(0, len(requests), AT_ONCE))
    return [result.image for batch in batches for result in finished(generate(bundle, batch))]


def sheet(pictures: Sequence[Image.Image], columns: int | None = None) -> Image.Image:
    """All pictures, which are equally large, in a grid: as square as it goes, unless told how many columns."""
    columns = columns or math.ceil(math.sqrt(len(pictures)))
    width, height = pictures[0].size
    rows = math.ceil(len(pictures) / columns)
    page = Image.new("RGB", (columns * (width + GAP) + GAP, rows * (height + GAP) + GAP), PAPER)
    for i, picture in enumerate(pictures):
        page.paste(picture, (GAP + i % columns * (width + GAP), GAP + i // columns * (height + GAP)))
    return page
