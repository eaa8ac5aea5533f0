"""What a recipe's `[data]` section says: where the pictures are, which of them count, and how they are cut."""

from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from lienzo.training.data.buckets import Bucket, buckets

CAPTION_COLUMNS = ("text", "caption", "TEXT", "prompt", "description")
"""Looked for in this order where no column is named: Hugging Face's, img2dataset's, LAION's names."""


class Source(BaseModel):
    """Pictures in one place."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    path: Path = Field(
        description="A folder of pictures, a metadata table (JSON Lines, CSV, Parquet), a tar or a folder of tars."
    )
    repeats: int = Field(default=1, ge=1, le=10_000, description="How often each picture is drawn in an epoch.")
    weight: float = Field(default=1.0, ge=0, le=1000, description="What its pictures' loss is multiplied with.")
    caption: str | None = Field(
        default=None, max_length=10_000, description="The caption of pictures that have none of their own."
    )


def _as_source(value: Any) -> Any:
    return {"path": value} if isinstance(value, (str, Path)) else value


def _as_sources(value: Any) -> Any:
    return [value] if isinstance(value, (str, Path, dict, Source)) else value


OneSource = Annotated[Source, BeforeValidator(_as_source)]


class DataConfig(BaseModel):
    """Which pictures to train on, and what is done to them before a network sees them."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    sources: Annotated[tuple[OneSource, ...], BeforeValidator(_as_sources)] = Field(
        min_length=1, description="Where the pictures are; a path alone will do."
    )
    prior: OneSource | None = Field(
        default=None,
        description="Pictures of the whole class (DreamBooth, arXiv:2208.12242, section 3.2): one is drawn beside every picture.",
    )
    captions: tuple[str, ...] | None = Field(
        default=None,
        min_length=1,
        description="Columns (of tables and of .json files) with captions, all used; null: a .txt file, else the first of "
        + ", ".join(CAPTION_COLUMNS)
        + ".",
    )
    dropout: float = Field(
        default=0.1, ge=0, le=1, description="Part of the captions replaced by the empty one (arXiv:2207.12598)."
    )
    trim_padding: float = Field(
        default=0.0,
        ge=0,
        le=1,
        description="In this part of the steps, captions are cut behind the batch's longest: less work. The others keep the "
        "padding that prompts have when pictures are made.",
    )
    shuffle_tags: bool = Field(default=False, description="Put the parts between commas into another order every time.")
    keep_tags: int = Field(default=0, ge=0, le=1000, description="So many parts at the front keep their place.")

    resolution: int = Field(
        default=512, ge=8, le=4096, multiple_of=8, description="Buckets have at most this number squared of pixels."
    )
    bucket_min: int | None = Field(
        default=None, ge=8, le=4096, description="A bucket's shortest side; null: half the resolution."
    )
    bucket_max: int | None = Field(
        default=None,
        ge=8,
        le=8192,
        description="A bucket's longest side; null: twice the resolution. As both: only squares.",
    )
    bucket_step: int | None = Field(
        default=None,
        ge=8,
        le=512,
        multiple_of=8,
        description="Buckets' sides are multiples of this; null: an eighth of the resolution, a multiple of 8 up to 64.",
    )
    crop: Literal["center", "random"] = Field(
        default="center", description="Which part stays. Captions that place something keep it centred."
    )
    crop_keeps: float = Field(
        default=0.5, ge=0, le=1, description="Pictures of which less than this part would stay are skipped."
    )
    flip: float = Field(
        default=0.0, ge=0, le=1, description="How often a picture is mirrored, where its captions allow that."
    )
    masks: bool = Field(default=False, description="Read NAME.mask.png or the column `mask`, for masked loss.")

    min_side: int = Field(default=32, ge=1, le=8192, description="Pictures with a shorter side are skipped.")
    min_similarity: float | None = Field(default=None, description="Of picture and caption, as LAION gives it.")
    min_aesthetic: float | None = Field(default=None, description="LAION's aesthetic score, about 1 to 10.")
    max_watermark: float | None = Field(default=None, description="Probability of a watermark (LAION's `pwatermark`).")
    max_unsafe: float | None = Field(default=None, description="Probability of unsafe content (LAION's `punsafe`).")
    duplicates: Literal["skip", "keep"] = Field(default="skip", description="What becomes of equal pixels.")
    near_duplicates: int | None = Field(
        default=None,
        ge=0,
        le=32,
        description="Skip pictures whose 128-bit difference hash is within so many bits of another's; null: keep them.",
    )

    cache: Path | None = Field(default=None, description="A folder for what is costly to compute again; null: none.")
    cache_latents: bool = Field(default=False, description="Keep latents in the cache; needs centred crops.")
    cache_text: bool = Field(default=False, description="Keep text embeddings in the cache.")
    threads: int = Field(default=2, ge=1, le=256, description="Threads that read pictures.")

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if (self.cache_latents or self.cache_text) and self.cache is None:
            raise ValueError("cache_latents and cache_text need a folder: set cache")
        if self.cache_text and self.shuffle_tags:
            raise ValueError("cache_text does not go with shuffle_tags: a shuffled caption is hardly met twice")
        if self.keep_tags and not self.shuffle_tags:
            raise ValueError("keep_tags is given, but needs shuffle_tags")
        if self.cache_latents and self.crop == "random":
            raise ValueError('cache_latents needs crop = "center": a random crop is never met twice')
        self.buckets  # noqa: B018 (raises where there is none)
        return self

    @property
    def buckets(self) -> tuple[Bucket, ...]:
        """All buckets that pictures can go to."""
        step = self.bucket_step or min(64, max(8, self.resolution // 64 * 8))
        return buckets(
            self.resolution,
            least=self.bucket_min or max(8, self.resolution // 2),
            most=self.bucket_max or self.resolution * 2,
            step=step,
        )
