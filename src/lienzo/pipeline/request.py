"""What is asked for. One definition for Python, the command line and whatever serves requests.

A request describes one picture; several pictures are several requests. It is validated when it is made, cannot change,
and has one canonical JSON form (RFC 8785), whose SHA-256 is its digest.
"""

import hashlib
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Final, Self

import rfc8785
from PIL import Image
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PrivateAttr,
    ValidationError,
    field_validator,
    model_validator,
)

from lienzo.diffusion.grids import GRIDS
from lienzo.diffusion.samplers import SAMPLERS
from lienzo.errors import RequestError, nearest
from lienzo.images import normalize, open_image
from lienzo.rng import SEED_LIMIT, new_seed

MAX_SIDE = 8192
MAX_AREA = 8192 * 4608
MAX_PROMPT = 10_000
MAX_FILE = 100_000_000
"""Bytes of an input picture's file that is kept beside its pixels, for the credentials in it."""


class InputImage(BaseModel):
    """An input picture by its pixels' digest. The pixels travel beside it, not in its JSON.

    Attributes:
        sha256: of mode, size and raw pixels, so that the same picture in another file format is the same input.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    sha256: str = Field(pattern="^[0-9a-f]{64}$")
    width: int = Field(ge=1)
    height: int = Field(ge=1)
    _image: Image.Image | None = PrivateAttr(default=None)
    _file: bytes | None = PrivateAttr(default=None)

    @classmethod
    def of(cls, image: Image.Image, file: bytes | None = None) -> Self:
        """From any PIL picture; see `lienzo.images.normalize` for what becomes of rotation, CMYK and so on.

        Args:
            file: that it was read from, with its own credentials; None: not known, or too large to keep.
        """
        image = normalize(image)
        header = f"{image.mode} {image.width}x{image.height}\n".encode()
        made = cls(sha256=hashlib.sha256(header + image.tobytes()).hexdigest(), width=image.width, height=image.height)
        made._image, made._file = image, file
        return made

    def __eq__(self, other: object) -> bool:
        return isinstance(other, InputImage) and other.sha256 == self.sha256

    def __hash__(self) -> int:
        return hash(self.sha256)

    @property
    def file(self) -> bytes | None:
        """The bytes of the file that it was read from; None where it was none, or too large to keep."""
        return self._file

    @property
    def image(self) -> Image.Image:
        """The picture, RGB or L.

        Raises:
            RequestError: only the digest is known, because the request was read from JSON.
        """
        if self._image is None:
            raise RequestError(
                f"The request needs its input picture ({self.width}x{self.height}, SHA-256 {self.sha256[:16]}...), "
                "and only its digest is recorded. Give the picture itself (--init, --mask)."
            )
        return self._image


def _as_input(value: Any) -> Any:
    if isinstance(value, (str, Path)):
        image, path = open_image(Path(value)), Path(value)
        return InputImage.of(image, path.read_bytes() if path.stat().st_size <= MAX_FILE else None)
    if isinstance(value, bytes):
        return InputImage.of(open_image(value), value if len(value) <= MAX_FILE else None)
    return InputImage.of(value) if isinstance(value, Image.Image) else value


Input = Annotated[InputImage, BeforeValidator(_as_input)]


class Request(BaseModel):
    """Everything that, with the weights, determines a picture.

    None means "as the model has it"; `pipeline.generate.resolve` fills it in, and a finished picture always carries a complete request.

    Raises:
        RequestError: a value that is not allowed; the message says what is.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    prompt: str = Field(default="", max_length=MAX_PROMPT, description="What to paint. May be empty.")
    negative_prompt: str = Field(default="", max_length=MAX_PROMPT, description="What to steer away from.")
    width: int | None = Field(default=None, ge=8, le=MAX_SIDE, multiple_of=8, description="Pixels, a multiple of 8.")
    height: int | None = Field(default=None, ge=8, le=MAX_SIDE, multiple_of=8, description="Pixels, a multiple of 8.")
    steps: int = Field(default=20, ge=1, le=1000, description="Denoising steps.")
    sampler: str | None = Field(default=None, description="A name of `lienzo samplers`.")
    grid: str | None = Field(default=None, description="Which noise levels to visit; a name of `lienzo samplers`.")
    sigmas: tuple[Annotated[float, Field(ge=0, le=1e6)], ...] | None = Field(
        default=None,
        min_length=2,
        max_length=1001,
        description="Explicit noise levels instead of steps and grid, falling.",
    )
    guidance_scale: float = Field(default=7.5, ge=-1000, le=1000, description="Classifier-free guidance; 1 is none.")
    guidance_rescale: float = Field(default=0.0, ge=0, le=1, description="Against over-exposure (arXiv:2305.08891).")
    guidance_interval: tuple[float, float] | None = Field(
        default=None, description="Guide only where low < sigma <= high (arXiv:2404.07724)."
    )
    eta: float = Field(default=0.0, ge=0, le=1, description="Fresh noise in DDIM's steps; 1 is DDPM.")
    order: int | None = Field(default=None, ge=1, le=3, description="Order of UniPC; the model's, as a rule 2.")
    clip_skip: int = Field(default=0, ge=0, le=100, description="Layers of the text encoder left out at the end.")
    seed: int = Field(default_factory=new_seed, ge=0, le=SEED_LIMIT - 1, description="Random where not given.")
    init: Input | None = Field(default=None, description="The picture to start from.")
    mask: Input | None = Field(default=None, description="White where `init` is to be painted anew.")
    soft_mask: bool = Field(
        default=False, description="Blend by the mask's grey values instead of splitting at one half."
    )
    strength: float | None = Field(
        default=None, gt=0, le=1, description="How much of `init` to change; 0.8, or 1 with a mask, where not given."
    )
    vae_tiling: bool | None = Field(
        default=None, description="Decode in overlapping tiles, to save memory; where not given, only above 1536x1536."
    )

    def __init__(self, prompt: str = "", **fields: Any) -> None:
        try:
            super().__init__(prompt=prompt, **fields)
        except ValidationError as error:
            raise RequestError(_explain(error)) from None

    @classmethod
    def from_json(cls, text: str | bytes) -> Self:
        """Read a request's JSON; inputs come as digests and have to be supplied with `with_inputs`."""
        try:
            return cls.model_validate_json(text)
        except ValidationError as error:
            raise RequestError(_explain(error)) from None

    @field_validator("sampler")
    @classmethod
    def _known_sampler(cls, name: str | None) -> str | None:
        if name is not None and name not in SAMPLERS:
            raise ValueError(f"there is no such sampler. {nearest(name, SAMPLERS)}")
        return name

    @field_validator("grid")
    @classmethod
    def _known_grid(cls, name: str | None) -> str | None:
        if name is not None and name not in GRIDS:
            raise ValueError(f"there is no such grid. {nearest(name, GRIDS)}")
        return name

    @field_validator("sigmas")
    @classmethod
    def _falling(cls, sigmas: tuple[float, ...] | None) -> tuple[float, ...] | None:
        if sigmas is not None and any(a <= b for a, b in pairwise(sigmas)):
            raise ValueError("noise levels must fall from each to the next, down to 0 as a rule.")
        return sigmas

    @model_validator(mode="after")
    def _together(self) -> Self:
        if self.width is not None and self.height is not None and self.width * self.height > MAX_AREA:
            raise ValueError(
                f"width: got {self.width}x{self.height}; at most {MAX_AREA:,} pixels are allowed. Ask for fewer."
            )
        if self.guidance_interval is not None and not 0 <= self.guidance_interval[0] < self.guidance_interval[1]:
            raise ValueError(f"guidance_interval: got {self.guidance_interval}; give 0 <= low < high, in sigmas.")
        if self.sigmas is not None and self.grid is not None:
            raise ValueError("sigmas: got a grid beside them; they are the grid. Give one of the two, not both.")
        if self.init is None:
            if self.mask is not None:
                raise ValueError(
                    "mask: got no init with it; it needs an init picture, and says which part of that to paint anew. Give both."
                )
            if self.strength is not None:
                raise ValueError(
                    f"strength: got {self.strength:g}; it needs an init picture, and says how much of that to change. "
                    "Give both, or leave it out."
                )
        if self.soft_mask and self.mask is None:
            raise ValueError("soft_mask: got True; it needs a mask. Give one, or leave it out.")
        if self.eta and self.sampler not in (None, "ddim"):
            raise ValueError(f"eta: got {self.eta:g}; it is ddim's and does nothing for {self.sampler}. Leave it out.")
        if self.order is not None and self.sampler not in (None, "unipc"):
            raise ValueError(
                f"order: got {self.order}; it is unipc's and does nothing for {self.sampler}. Leave it out."
            )
        return self

    @property
    def canonical(self) -> bytes:
        """The request as RFC 8785 JSON: the same bytes wherever and whenever it is written."""
        return rfc8785.dumps(self.model_dump(mode="json", exclude_none=True))

    @property
    def digest(self) -> str:
        """SHA-256 of the canonical form, in hex."""
        return hashlib.sha256(self.canonical).hexdigest()

    def replace(self, **changes: Any) -> Self:
        """A copy with some fields changed, validated anew."""
        kept = {name: getattr(self, name) for name in type(self).model_fields}
        return type(self)(**{**kept, **changes})

    def with_inputs(self, *, init: Any = None, mask: Any = None) -> Self:
        """Supply the pictures of a request that was read from JSON.

        Raises:
            RequestError: another picture than the recorded one.
        """
        given = {"init": _as_input(init), "mask": _as_input(mask)}
        for name, picture in given.items():
            recorded = getattr(self, name)
            if picture is not None and recorded is not None and picture.sha256 != recorded.sha256:
                raise RequestError(
                    f"{name}: got the pixels {picture.sha256[:16]}...; this is not the recorded picture, which has "
                    f"{recorded.sha256[:16]}... To start from another picture, make a new request."
                )
        return self.replace(**{name: picture for name, picture in given.items() if picture is not None})


def in_words(schema: Mapping[str, Any]) -> str:
    """What a field's JSON Schema allows."""
    options = [option for option in schema.get("anyOf", [schema]) if option.get("type") != "null"]
    return " or ".join(map(_one_in_words, options))


def _one_in_words(schema: Mapping[str, Any]) -> str:
    if "$ref" in schema:
        return "a picture"
    kind = schema["type"]
    if kind == "string":
        return f"text of at most {schema['maxLength']:,} characters" if "maxLength" in schema else "text"
    if kind == "boolean":
        return "true or false"
    if kind == "array":
        least, most = schema["minItems"], schema["maxItems"]
        count = f"{least:,}" if least == most else f"{least:,} to {most:,}"
        bounds = _bounds(schema.get("items", {}))
        return f"{count} numbers{bounds}" if bounds else f"{count} finite numbers"
    steps = f", a multiple of {schema['multipleOf']}" if "multipleOf" in schema else ""
    return f"a {'whole ' if kind == 'integer' else ''}number{_bounds(schema)}{steps}"


def _bounds(schema: Mapping[str, Any]) -> str:
    words = {"minimum": "from", "exclusiveMinimum": "above", "maximum": "up to", "exclusiveMaximum": "below"}
    return "".join(f" {word} {schema[key]:,.10g}" for key, word in words.items() if key in schema)


MOST_FINDINGS: Final = 10
"""That an error tells of."""


def _explain(error: ValidationError) -> str:
    """Pydantic's findings as sentences: which field, what was got, what is allowed."""
    lines: dict[str, str] = {}  # one a field: where one of its numbers is wrong, pydantic counts the rest anew
    fields = Request.model_json_schema()["properties"]
    for found in error.errors(include_url=False):
        name = ".".join(str(part)[:100] for part in found["loc"])
        message, got = found["msg"].removeprefix("Value error, "), found["input"]
        field = str(found["loc"][0]) if name else ""
        if field in lines:
            continue
        if len(lines) == MOST_FINDINGS:
            lines[""] = "And more."
            break
        shown = repr(got) if len(repr(got)) <= 80 else repr(got)[:77] + "..."
        if found["type"] == "value_error":  # a validator's own words; an input picture's begin with its name
            told = message.removeprefix(f"{got}: ").removeprefix("the picture: ")
            lines[field] = f"{name}: got {shown}; {told}" if name else message
        elif not name:
            lines[field] = f"The request cannot be read: {message}."
        elif found["type"] == "extra_forbidden":
            lines[field] = f"{name}: got {shown}; there is no such setting. {nearest(name, fields)}"
        elif found["type"] == "string_too_long":
            lines[field] = (
                f"{name}: got {len(got):,} characters; give {in_words(fields[name])}. Models read some 75 tokens."
            )
        else:
            lines[field] = f"{name}: got {shown}; give {in_words(fields[field])}."
    return "\n".join(lines.values())
