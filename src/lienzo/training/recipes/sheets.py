"""Pictures side by side."""

import math
from collections.abc import Sequence

from PIL import Image

GAP = 8
PAPER = "#e4e4e4"


def sheet(pictures: Sequence[Image.Image], columns: int | None = None) -> Image.Image:
    """All pictures, which are equally large, in a grid: as square as it goes, unless told how many columns."""
    columns = columns or math.ceil(math.sqrt(len(pictures)))
    width, height = pictures[0].size
    rows = math.ceil(len(pictures) / columns)
    page = Image.new("RGB", (columns * (width + GAP) + GAP, rows * (height + GAP) + GAP), PAPER)
    for i, picture in enumerate(pictures):
        page.paste(picture, (GAP + i % columns * (width + GAP), GAP + i // columns * (height + GAP)))
    return page
