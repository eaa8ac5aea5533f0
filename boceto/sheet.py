"""A contact sheet of real renders, some of each family: `python -m boceto.sheet --out FILE`."""

import argparse
from pathlib import Path

import numpy as np
from PIL import Image

from boceto.scenes import FAMILIES, render, sample_scene


def contact_sheet(each: int = 8, size: int = 256, seed: int = 0) -> Image.Image:
    """`each` training scenes a family, a row each."""
    gap = 10
    page = Image.new("RGB", (each * (size + gap) + gap, len(FAMILIES) * (size + gap) + gap), "#c9ccd3")
    for row, family in enumerate(FAMILIES):
        rng = np.random.default_rng((seed, row))
        for column in range(each):
            picture = render(sample_scene(rng, family), size)
            page.paste(picture, (gap + column * (size + gap), gap + row * (size + gap)))
    return page


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m boceto.sheet", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="PNG or WebP")
    parser.add_argument("--each", type=int, default=8, help="pictures a family (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    contact_sheet(options.each, seed=options.seed).save(options.out)


if __name__ == "__main__":
    main()
