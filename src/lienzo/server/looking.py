"""What `/v1/detect` computes, in a process of its own: a large picture's VAE pass may take more memory than there is, and would
else take the API down with it."""

import json
from functools import partial
from typing import Any

from PIL import Image

from lienzo.provenance import bounded
from lienzo.provenance.detect import MOST_PIXELS, detect, shipped_calibration
from lienzo.provenance.examine import see
from lienzo.provenance.keys import Keystore
from lienzo.provenance.watermark import find
from lienzo.weights import load, locate

SECONDS = 120
MEMORY = 16 << 30
"""Bytes, the whole model's weights included."""


def finding(data: bytes, source: str | None) -> dict[str, Any]:
    """Whether a stranger's picture looks like a model's: `verdict`, `means`, `likelihood_ratio`. It is decoded in one process,
    which has no keys, and looked at in another.

    Raises:
        ImageError: no picture, a damaged one, or one too small to look at.
        UnreadableError: it took too long, or too much memory.
    """
    image = see(data, most=MOST_PIXELS).convert("RGB")
    keys = [key.hex() for key in Keystore().secrets("watermark")]
    model = str(locate(source)[1].resolve())  # here: the other process has another folder, and no network
    order = json.dumps({"model": model, "size": image.size, "keys": keys}).encode() + b"\n" + image.tobytes()
    found: dict[str, Any] = bounded.run(look, order, seconds=SECONDS, memory=MEMORY)
    return found


def look(order: bytes) -> dict[str, Any]:
    """In that process."""
    head, _, pixels = order.partition(b"\n")
    asked = json.loads(head)
    bundle = load(asked["model"])
    mark = partial(find, keys=[bytes.fromhex(key) for key in asked["keys"]])
    image = Image.frombytes("RGB", asked["size"], pixels)
    seen = detect(image, bundle, shipped_calibration(bundle), find_mark=mark)
    return {"verdict": seen.verdict, "means": seen.means, "likelihood_ratio": seen.likelihood_ratio}
