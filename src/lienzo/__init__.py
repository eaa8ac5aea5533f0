"""Stable Diffusion as real software, whose pictures can be repeated and traced.

Importing this is light: torch is loaded with the first name that needs it.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lienzo.compat import (
        StableDiffusionImg2ImgPipeline,
        StableDiffusionInpaintPipeline,
        StableDiffusionPipeline,
    )
    from lienzo.errors import LienzoError
    from lienzo.pipeline.generate import Result, Step
    from lienzo.pipeline.request import Request
    from lienzo.provenance.metadata import read
    from lienzo.provenance.writing import save
    from lienzo.studio import Pipeline

__version__: str

_HOMES = {
    "LienzoError": "lienzo.errors",
    "Pipeline": "lienzo.studio",
    "Request": "lienzo.pipeline.request",
    "Result": "lienzo.pipeline.generate",
    "Step": "lienzo.pipeline.generate",
    "read": "lienzo.provenance.metadata",
    "save": "lienzo.provenance.writing",
    "StableDiffusionPipeline": "lienzo.compat",
    "StableDiffusionImg2ImgPipeline": "lienzo.compat",
    "StableDiffusionInpaintPipeline": "lienzo.compat",
}
__all__ = [  # noqa: RUF022 (by importance)
    "Pipeline",
    "Request",
    "Result",
    "Step",
    "save",
    "read",
    "StableDiffusionPipeline",
    "StableDiffusionImg2ImgPipeline",
    "StableDiffusionInpaintPipeline",
    "LienzoError",
]


def __getattr__(name: str) -> object:
    if name == "__version__":
        from importlib.metadata import version  # takes as long as the rest of the command line together

        return version("lienzo")
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'lienzo' has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
