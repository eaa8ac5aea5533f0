"""Gradio's components, where they would do something else than is wanted here."""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import gradio as gr
from gradio import component_meta
from gradio.components.base import server
from gradio.components.image_editor import AcceptBlobs, EditorData
from gradio.data_classes import ImageData
from PIL import Image, ImageChops

from lienzo.errors import ImageError
from lienzo.images import DAMAGE

MOST_DRAWINGS: Final = 64
MOST_LAYERS: Final = 8
"""Drawings that browsers sent and did not use yet; older ones are dropped."""
MOST_DRAWN: Final = 1 << 22
"""Pixels of a layer."""


def _no_example(_: object) -> None:
    """Gradio describes its components with pictures that lie elsewhere."""


@contextmanager
def _without_stubs() -> Iterator[None]:
    """Gradio writes a .pyi file beside the source of every new component; here nothing is written into the package."""
    writes = component_meta.create_or_modify_pyi
    component_meta.create_or_modify_pyi = lambda *_: None
    try:
        yield
    finally:
        component_meta.create_or_modify_pyi = writes


with _without_stubs():

    class Upload(gr.Image):
        """A picture by the very bytes of its file, as its credentials are over them; it is opened by those who know its limits."""

        is_template = True  # for Gradio: looks like its parent
        example_payload = example_value = _no_example

        def preprocess(self, payload: ImageData | None) -> bytes | None:  # type: ignore[override]
            return None if payload is None or payload.path is None else Path(payload.path).read_bytes()

        def postprocess(self, value: bytes | None) -> ImageData | None:  # type: ignore[override]
            if value is None:
                return None
            from gradio.processing_utils import save_bytes_to_cache

            path = save_bytes_to_cache(value, "picture.png", cache_dir=self.GRADIO_CACHE)
            return ImageData(path=path, orig_name="picture.png", size=len(value), mime_type="image/png")

    class Drawing(gr.ImageEditor):
        """What was drawn over a picture, as files of layers; the picture below is only shown."""

        is_template = True
        example_payload = example_value = _no_example

        def preprocess(self, payload: EditorData | None) -> tuple[bytes, ...]:  # type: ignore[override]
            if payload is None:
                return ()
            if payload.id is None:
                return tuple(Path(layer.path).read_bytes() for layer in payload.layers)
            sent = self.blob_storage.pop(payload.id, None)
            return () if sent is None else tuple(layer for layer in sent.layers if layer is not None)

        @server  # type: ignore[untyped-decorator]
        def accept_blobs(self, data: AcceptBlobs) -> None:
            layer = str(data.data["index"] or 0)
            if layer != "null" and not (layer.isdecimal() and int(layer) < MOST_LAYERS):
                return  # Gradio would make a list as long as that
            super().accept_blobs(data)
            for old in list(self.blob_storage)[:-MOST_DRAWINGS]:
                self.blob_storage.pop(old, None)


def mask(layers: tuple[bytes, ...], size: tuple[int, int]) -> bytes | None:
    """White where anything was drawn, as a PNG of that size; None where nothing was.

    Raises:
        ImageError: a layer that cannot be read, or is too large.
    """
    drawn = Image.new("L", size)
    for data in layers:
        drawn = ImageChops.lighter(drawn, _opacity(data).resize(size, Image.Resampling.NEAREST))
    if drawn.getbbox() is None:
        return None
    file = io.BytesIO()
    drawn.save(file, "PNG")
    return file.getvalue()


def _opacity(data: bytes) -> Image.Image:
    try:
        layer = Image.open(io.BytesIO(data), formats=("PNG", "WEBP"))
        if layer.width * layer.height > MOST_DRAWN:
            raise ImageError(f"the drawing: {layer.width}x{layer.height} is more than {MOST_DRAWN:,} pixels.")
        return layer.convert("RGBA").getchannel("A").point(_half)
    except DAMAGE as error:
        raise ImageError(f"the drawing: damaged or unreadable ({error}).") from None


def _half(value: Any) -> Any:
    return 255 if value >= 128 else 0
