"""What the pixel watermark survives, and what it costs.

    python -m benchmarks.watermark [--generated 300] [--drawn 300] [--textures 100] [--json FILE] [--page docs/explanation/watermark.md]

Pictures are those of the embedded model and the scenes that it learned from, at 128x128, and textures: noise whose power
falls as a photograph's does, at 256x256. Each is marked, changed and read; a set takes some seconds a picture. The share of right bits is
taken after nothing but the reading that fits the lattice best; "found" means the right record with the right tag, at the
false-positive rate that follows from the code (`payload.read`), below one in a million. Intervals are Wilson's, 95 %.
"""

import argparse
import io
import json
import math
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageFilter, ImageOps

from boceto.scenes import FAMILIES, captions, render, sample_scene
from lienzo.provenance.watermark import find, mark, pixels
from lienzo.provenance.watermark.payload import BITS, codeword
from lienzo.shares import wilson

KEY = b"benchmark" * 4
BICUBIC = Image.Resampling.BICUBIC
TRIES = 8 + 2 * pixels._TRIED
"""Readings that are decoded at most, each a chance to be wrong."""
FALSE = TRIES * (
    sum(math.comb(BITS, i) for i in range(8)) / 2**63 + sum(math.comb(BITS, i) for i in range(11)) / 2**63 / 2**16
)
BEGIN, END = "<!-- measured: python -m benchmarks.watermark -->", "<!-- end of what was measured -->"

Change = Callable[[Image.Image], Image.Image]


def jpeg(quality: int) -> Change:
    def change(image: Image.Image) -> Image.Image:
        file = io.BytesIO()
        image.save(file, "JPEG", quality=quality)
        return Image.open(file).convert("RGB")

    return change


def scaled(factor: float) -> Change:
    return lambda image: image.resize((round(image.width * factor), round(image.height * factor)), BICUBIC)


def cropped(share: float) -> Change:
    """Leaves out a share of the area, evenly around."""

    def change(image: Image.Image) -> Image.Image:
        off = (1 - math.sqrt(1 - share)) / 2
        left, top = round(off * image.width), round(off * image.height)
        return image.crop((left, top, image.width - left, image.height - top))

    return change


def noise(levels: float) -> Change:
    def change(image: Image.Image) -> Image.Image:
        array = np.asarray(image, np.float64)
        array = array + np.random.default_rng(0).normal(0, levels, array.shape)
        return Image.fromarray(array.clip(0, 255).round().astype(np.uint8))

    return change


def brightness(factor: float) -> Change:
    return lambda image: image.point(lambda level: min(255, round(level * factor)))


def screenshot(factor: float) -> Change:
    return lambda image: jpeg(85)(scaled(factor)(image))


def regenerated() -> Change:
    """Through the embedded model's autoencoder and back."""
    import torch

    from lienzo.images import to_image, to_tensor
    from lienzo.weights import load

    vae = load().vae

    @torch.no_grad()
    def change(image: Image.Image) -> Image.Image:
        return to_image(vae.decode(vae.encode(to_tensor(image)[None]).mode())[0])

    return change


def changes() -> dict[str, Change]:
    return {
        "none": lambda image: image,
        **{f"JPEG {quality}": jpeg(quality) for quality in (90, 70, 50)},
        "half the size": scaled(0.5),
        **{f"blur, sigma {s}": lambda image, s=s: image.filter(ImageFilter.GaussianBlur(s)) for s in (1, 2)},  # type: ignore[misc]
        **{f"noise, {levels} levels": noise(levels) for levels in (5, 10, 20)},
        **{f"brightness x {factor}": brightness(factor) for factor in (0.7, 0.9, 1.1, 1.3)},
        **{f"scaled x {factor}, JPEG 85": screenshot(factor) for factor in (1.25, 1.5)},
        "quarter turn": lambda image: image.transpose(Image.Transpose.ROTATE_90),
        "mirrored": ImageOps.mirror,
        "autoencoder and back": regenerated(),
        **{f"{share:.0%} cropped".replace("%", " %"): cropped(share) for share in (0.1, 0.25)},
        **{f"turned by {d}°": lambda image, d=d: image.rotate(d, BICUBIC) for d in (1, 5)},  # type: ignore[misc]
    }


def generated(count: int) -> Iterator[Image.Image]:
    """By the embedded model, of captions of all families."""
    from lienzo.images import to_image
    from lienzo.pipeline.generate import finished, generate
    from lienzo.pipeline.request import Request
    from lienzo.weights import load

    bundle, rng = load(), np.random.default_rng(0)
    for i in range(count):
        caption = captions(sample_scene(rng, list(FAMILIES)[i % len(FAMILIES)]))[0].text
        yield to_image(finished(generate(bundle, Request(caption, seed=i)))[0].pixels)


def drawn(count: int) -> Iterator[Image.Image]:
    rng = np.random.default_rng(0)
    for i in range(count):
        yield render(sample_scene(rng, list(FAMILIES)[i % len(FAMILIES)]))


def textures(count: int, side: int = 256) -> Iterator[Image.Image]:
    """Amplitudes falling as a power of the frequency, a photograph's being about 1."""
    rng = np.random.default_rng(1)
    radius = np.hypot(np.fft.fftfreq(side)[:, None], np.fft.fftfreq(side)[None])
    radius[0, 0] = 1
    for i in range(count):
        falls = (1.4, 1.0, 0.7)[i % 3]
        planes = [np.fft.ifft2(np.fft.fft2(rng.normal(size=(side, side))) / radius**falls).real for _ in range(4)]
        grey, *tints = (plane / plane.std() for plane in planes)
        levels = rng.uniform(90, 165) + rng.uniform(25, 55) * np.stack([grey + 0.4 * tint for tint in tints], axis=-1)
        yield Image.fromarray(levels.clip(0, 255).round().astype(np.uint8))


def right_bits(image: Image.Image, record: int) -> float:
    """Share of the 127 bits in the reading that fits best, of all turns, brightnesses and blurs."""
    fits = (fit for luma in pixels._turned(pixels._luma(image)) for fit in pixels._fits(luma, pixels._BLURS))
    _, bits = max(fits, key=lambda fit: fit[0])
    word = codeword(record, KEY)
    return float(np.mean([bool(bit) == bool(word >> i & 1) for i, bit in enumerate(bits)]))


def psnr(one: Image.Image, other: Image.Image) -> float:
    error = np.asarray(one, np.float64) - np.asarray(other, np.float64)
    return float(10 * np.log10(255**2 / max(np.square(error).mean(), 1e-12)))


def measure(pictures: Iterator[Image.Image], bits: int) -> dict[str, Any]:
    """Args:
    bits: of how many pictures the share of right bits is taken, too.
    """
    attacks = changes()
    ratios, seconds, false = [], [], 0
    hits: dict[str, int] = defaultdict(int)
    shares: dict[str, list[float]] = defaultdict(list)
    count = 0
    for count, picture in enumerate(pictures, 1):
        false += find(picture, [KEY]) is not None
        start = time.perf_counter()
        marked = mark(picture, count, KEY)
        seconds.append(time.perf_counter() - start)
        ratios.append(psnr(picture, marked))
        for name, change in attacks.items():
            changed = change(marked)
            found = find(changed, [KEY])
            hits[name] += found is not None and found.tag_valid and found.record_id == count
            if count <= bits:
                shares[name].append(right_bits(changed, count))
    return {
        "pictures": count,
        "false_positives": false,
        "psnr_min": min(ratios),
        "psnr_median": statistics.median(ratios),
        "mark_seconds_median": statistics.median(seconds),
        "attacks": {
            name: {
                "found": hits[name],
                "of": count,
                "interval": wilson(hits[name], count),
                "bit_accuracy": statistics.mean(shares[name]),
                "bit_accuracy_of": len(shares[name]),
            }
            for name in attacks
        },
    }


def rates(sets: dict[str, Any]) -> dict[str, Any]:
    """As `lienzo report --watermark` reads them."""
    rows = [
        {
            "name": f"{name}: found after {change}",
            "value": row["found"] / row["of"],
            "low": row["interval"][0],
            "high": row["interval"][1],
            "n": row["of"],
            "about": f"{row['bit_accuracy']:.4f} of the bits right in {row['bit_accuracy_of']} of them",
        }
        for name, one in sets.items()
        for change, row in one["attacks"].items()
    ]
    for name, one in sets.items():
        low, high = wilson(one["false_positives"], one["pictures"])
        rows.append(
            {
                "name": f"{name}: unmarked ones taken for marked",
                "value": one["false_positives"] / one["pictures"],
                "low": low,
                "high": high,
                "n": one["pictures"],
                "about": f"by the code, {FALSE:.1e} are to be expected",
            }
        )
    notes = [
        f"{name}: PSNR of the mark at least {one['psnr_min']:.1f} dB, median {one['psnr_median']:.1f} dB; "
        f"{1000 * one['mark_seconds_median']:.0f} ms to put it on"
        for name, one in sets.items()
    ]
    return {"what": "pixel watermark", "made_by": "python -m benchmarks.watermark", "rates": rows, "notes": notes}


def table(sets: dict[str, Any]) -> str:
    """As Markdown."""
    lines = [
        "| change | " + " | ".join(f"{name}: found | bits right" for name in sets) + " |",
        "|---|" + "---|" * (2 * len(sets)),
    ]
    for name in next(iter(sets.values()))["attacks"]:
        cells = []
        for one in sets.values():
            row = one["attacks"][name]
            low, high = row["interval"]
            cells += [
                f"{row['found'] / row['of']:.1%} ({low:.1%} to {high:.1%})".replace("%", " %"),
                f"{row['bit_accuracy']:.1%}".replace("%", " %"),
            ]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    for name, one in sets.items():
        lines += [
            "",
            f"{name.capitalize()}: {one['pictures']}; PSNR of the mark at least {one['psnr_min']:.1f} dB, median "
            f"{one['psnr_median']:.1f} dB; marks found in the unmarked: {one['false_positives']}.",
        ]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--generated", type=int, default=300, help="pictures by the embedded model; 0: none")
    parser.add_argument("--drawn", type=int, default=300)
    parser.add_argument("--textures", type=int, default=100)
    parser.add_argument("--bits", type=int, default=50, help="pictures of each set whose bits are compared")
    parser.add_argument("--json", type=Path, help="write the figures here, for `lienzo report --watermark`")
    parser.add_argument("--page", type=Path, help="put the table between the marks of this page")
    chosen = parser.parse_args()
    wanted = {
        "pictures of the embedded model": (generated, chosen.generated),
        "drawn scenes": (drawn, chosen.drawn),
        "textures": (textures, chosen.textures),
    }
    figures = {}
    for name, (source, count) in wanted.items():
        if count:
            figures[name] = measure(source(count), chosen.bits)
            if chosen.json:
                chosen.json.write_text(json.dumps(rates(figures), indent=1) + "\n", encoding="utf-8")
    print(table(figures))
    if chosen.page:
        before, rest = chosen.page.read_text(encoding="utf-8").split(BEGIN)
        _, after = rest.split(END, 1)
        chosen.page.write_text(f"{before}{BEGIN}\n{table(figures)}\n{END}{after}", encoding="utf-8")


if __name__ == "__main__":
    main()
