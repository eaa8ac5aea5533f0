"""Pictures between files, PIL and tensors. The only place where they are converted.

Tensors are (3, H, W) or (B, 3, H, W) in [-1, 1]; PIL pictures are RGB, masks are L. Decoding is bounded before it
starts: a few kilobytes can claim a picture of gigabytes.
"""

import io
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from lienzo.errors import ImageError

if TYPE_CHECKING:  # imported where it is used: who only looks at a file does without
    from torch import Tensor

MAX_PIXELS = 64_000_000
"""Largest input picture (8K UHD is 33 million pixels)."""
GAP = 8
PAPER = "#e4e4e4"
"""Between the pictures of a sheet, and below them."""
DAMAGE = (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError)
"""What PIL raises of a damaged file."""


def open_image(
    source: Path | bytes, name: str | None = None, formats: tuple[str, ...] | None = None, *, most: int = MAX_PIXELS
) -> Image.Image:
    """Read a picture file whole, upright and in RGB (or L where it is grey).

    EXIF rotation is applied, CMYK and palettes become RGB, 16-bit grey is scaled to 8 bits, transparency is laid over
    white. Decoding starts only after the header's size was found within `most`; of a size beyond its own limit PIL
    warns too (`DecompressionBombWarning`), as warnings cannot be switched off for one thread alone.

    Args:
        formats: PIL's names of those that are read; None: all.
        most: pixels that it may have.

    Raises:
        ImageError: unreadable, truncated, too large, or animated.
    """
    what = name or (str(source) if isinstance(source, Path) else "the picture")
    return normalize(_opened(source, what, formats, most), what, most=most)


def transparency(source: bytes, name: str = "the picture") -> Image.Image | None:
    """How transparent a picture file is: L, white where it is wholly so. None where it is opaque throughout. Bounded as
    `open_image` is.

    Raises:
        ImageError: as `open_image`.
    """
    image = _opened(source, name, None, MAX_PIXELS)
    normalize(image, name)  # for its bounds; it leaves the picture as it was, but loaded
    try:
        image = ImageOps.exif_transpose(image)
        if not image.has_transparency_data:
            return None
        seen = ImageOps.invert(image.convert("RGBA").getchannel("A"))
    except DAMAGE as error:
        raise ImageError(f"{name}: damaged or unreadable picture ({error}).") from None
    return seen if seen.getbbox() else None


def _opened(source: Path | bytes, what: str, formats: tuple[str, ...] | None, most: int) -> Image.Image:
    """The header alone is read."""
    try:
        return Image.open(source if isinstance(source, Path) else io.BytesIO(source), formats=formats)
    except FileNotFoundError:
        raise ImageError(f"{what}: no such file.") from None
    except (Image.DecompressionBombWarning, Image.DecompressionBombError):
        raise ImageError(f"{what}: more than {most:,} pixels. Make it smaller first.") from None
    except UnidentifiedImageError:
        raise ImageError(f"{what}: not a picture that can be read; {_listed(formats)} can.") from None
    except DAMAGE as error:
        raise ImageError(f"{what}: damaged or unreadable picture ({error}).") from None


def normalize(image: Image.Image, what: str = "the picture", *, most: int = MAX_PIXELS) -> Image.Image:
    """An upright RGB or L picture of any PIL picture; see `open_image`."""
    try:
        return _normalized(image, what, most)
    except ImageError:
        raise
    except DAMAGE as error:
        raise ImageError(f"{what}: damaged or unreadable picture ({error}).") from None


def _normalized(image: Image.Image, what: str, most: int) -> Image.Image:
    if image.width * image.height > most:
        raise ImageError(f"{what}: {image.width}x{image.height} is more than {most:,} pixels. Make it smaller first.")
    if getattr(image, "n_frames", 1) > 1:
        raise ImageError(
            f"{what}: animated, with {getattr(image, 'n_frames', 1)} frames. Save one frame as a still picture."
        )
    image.load()
    image = ImageOps.exif_transpose(image)
    if image.mode in ("I;16", "I;16B", "I;16L", "I", "F"):
        values = np.asarray(image, dtype=np.float64)
        if not np.isfinite(values).all():
            raise ImageError(f"{what}: holds NaN or infinity, which is no grey.")
        top = (
            65535.0
            if values.max() > 255 or image.mode.startswith("I;16")
            else 255.0
            if image.mode != "F"
            else values.max() or 1
        )
        return Image.fromarray(np.clip(values / top * 255 + 0.5, 0, 255).astype(np.uint8))
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image.convert("L") if image.mode in ("L", "1") else image.convert("RGB")


def _listed(formats: tuple[str, ...] | None) -> str:
    *most, last = formats or ("PNG", "JPEG", "WebP", "TIFF", "BMP", "GIF")
    return f"{', '.join(most)} and {last}"


def to_tensor(image: Image.Image) -> "Tensor":
    """RGB picture -> (3, H, W) fp32 in [-1, 1]."""
    import torch

    array = np.array(image.convert("RGB"), dtype=np.float32) / 255.0
    return torch.from_numpy(array).permute(2, 0, 1).contiguous() * 2.0 - 1.0


def to_image(pixels: "Tensor") -> Image.Image:
    """(3, H, W) in [-1, 1] (clamped) -> RGB picture."""
    import torch

    levels = (pixels.float() / 2 + 0.5).clamp(0, 1).mul(255).round().to(torch.uint8)
    return Image.fromarray(levels.permute(1, 2, 0).cpu().numpy())


def resize(image: Image.Image, width: int, height: int) -> Image.Image:
    """Lanczos, as the reference does it; unchanged where the size fits."""
    return image if image.size == (width, height) else image.resize((width, height), Image.Resampling.LANCZOS)


def mask_tensor(mask: Image.Image, width: int, height: int, *, soft: bool) -> "Tensor":
    """White where the picture is to be made anew -> (1, H, W) fp32 in [0, 1]; without `soft`, 0 or 1 split at one half."""
    import torch

    values = torch.from_numpy(np.array(resize(mask.convert("L"), width, height), dtype=np.float32) / 255.0)[None]
    return values if soft else (values >= 0.5).float()


def sheet(pictures: Sequence[Image.Image], columns: int | None = None) -> Image.Image:
    """All pictures, which are equally large, in a grid: as square as it goes, unless told how many columns."""
    columns = columns or math.ceil(math.sqrt(len(pictures)))
    width, height = pictures[0].size
    rows = math.ceil(len(pictures) / columns)
    page = Image.new("RGB", (columns * (width + GAP) + GAP, rows * (height + GAP) + GAP), PAPER)
    for i, picture in enumerate(pictures):
        page.paste(picture, (GAP + i % columns * (width + GAP), GAP + i // columns * (height + GAP)))
    return page


def png(image: Image.Image) -> bytes:
    """The picture as a PNG's bytes, without any metadata."""
    file = io.BytesIO()
    image.save(file, format="PNG")
    return file.getvalue()
