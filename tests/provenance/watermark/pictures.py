"""Pictures to mark: drawn scenes, textures, and the extremes."""

import io
from collections.abc import Iterator

import numpy as np
from PIL import Image

from boceto.scenes import FAMILIES, render, sample_scene

RESIZED = Image.Resampling.BICUBIC


def scenes(count: int, size: int = 128, seed: int = 0) -> Iterator[Image.Image]:
    """One of each family in turn."""
    rng = np.random.default_rng(seed)
    for i in range(count):
        yield render(sample_scene(rng, list(FAMILIES)[i % len(FAMILIES)]), size)


def textures(count: int, size: tuple[int, int] = (256, 256), seed: int = 0) -> Iterator[Image.Image]:
    """Noise whose power falls as a photograph's does, from soft to rough, in colours that go together."""
    rng, (width, height) = np.random.default_rng(seed), size
    radius = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.fftfreq(width)[None])
    radius[0, 0] = 1
    for i in range(count):
        falls = (1.4, 1.0, 0.7)[i % 3]
        grey, *tints = (
            np.fft.ifft2(np.fft.fft2(rng.normal(size=(height, width))) / radius**falls).real for _ in range(4)
        )
        planes = np.stack([grey / grey.std() + 0.4 * tint / tint.std() for tint in tints], axis=-1)
        levels = rng.uniform(90, 165) + rng.uniform(25, 55) * planes
        yield Image.fromarray(levels.clip(0, 255).round().astype(np.uint8))


def extremes(size: int = 128) -> dict[str, Image.Image]:
    checks = np.indices((size, size)).sum(0)
    return {
        "black": Image.new("RGB", (size, size)),
        "white": Image.new("RGB", (size, size), "white"),
        "grey": Image.new("RGB", (size, size), (128, 128, 128)),
        "red": Image.new("RGB", (size, size), (255, 0, 0)),
        "fine checks": Image.fromarray((checks % 2 * 255).astype(np.uint8)).convert("RGB"),
        "coarse checks": Image.fromarray((checks // 16 % 2 * 255).astype(np.uint8)).convert("RGB"),
    }


def jpeg(image: Image.Image, quality: int) -> Image.Image:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=quality)
    return Image.open(file).convert("RGB")


def scaled(image: Image.Image, factor: float) -> Image.Image:
    return image.resize((round(image.width * factor), round(image.height * factor)), RESIZED)


def noisy(image: Image.Image, levels: float, seed: int = 0) -> Image.Image:
    pixels = np.asarray(image, np.float64)
    pixels = pixels + np.random.default_rng(seed).normal(0, levels, pixels.shape)
    return Image.fromarray(pixels.clip(0, 255).round().astype(np.uint8))


def psnr(one: Image.Image, other: Image.Image) -> float:
    error = np.asarray(one, np.float64) - np.asarray(other, np.float64)
    return float(10 * np.log10(255**2 / max(np.square(error).mean(), 1e-12)))
