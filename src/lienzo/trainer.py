"""A training run with scores at intervals: where training and evaluation meet."""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any

from PIL import Image

from lienzo.errors import ConfigError
from lienzo.evaluation import metrics
from lienzo.evaluation.features import clip_features, text_features
from lienzo.models.bundle import Bundle
from lienzo.pipeline.generate import finished
from lienzo.pipeline.request import Request
from lienzo.provenance.settings import Settings
from lienzo.provenance.writing import encode
from lienzo.studio import house, make
from lienzo.training import recipes
from lienzo.training.config import Recipe
from lienzo.training.data import DataConfig
from lienzo.training.distributed import device
from lienzo.training.recipes import Job, Made, run, silent
from lienzo.training.recipes.batches import Tell, spread
from lienzo.training.recipes.sheets import drawn
from lienzo.weights.clip import load_clip


def _picture(bundle: Bundle, request: Request) -> bytes:
    """A picture that is checked and signed as any other, without a watermark, which would be learned."""
    (result,) = finished(make(bundle, request, settings=Settings.signed_only()))
    return encode(result, "PNG")


def _sheet(picture: Image.Image) -> bytes:
    return house().notary.sign_sheet(picture, "Sample sheet of a training run")


FILES = recipes.Files(picture=_picture, sheet=_sheet)
"""Class pictures and sample sheets as this machine's settings want them signed."""


def train(recipe: Recipe[DataConfig], telling: Callable[[], AbstractContextManager[Tell]] = silent) -> Made:
    """Train what a recipe says; `lienzo.training.recipes.run` with `watch.clip` and `watch.score_every` obeyed, and with class
    pictures and sample sheets signed."""
    return run(recipe, telling=telling, score=score, files=FILES)


def check(recipe: Recipe[DataConfig], tell: Tell = lambda what, done, of: None) -> tuple[Job[Any, Any], float]:
    """Everything but training; `lienzo.training.recipes.check`, and that what the scores need is there."""
    job, loss = recipes.check(recipe, tell, FILES)
    score(job, recipe)
    return job, loss


def score(job: Job[Any, Any], recipe: Recipe[DataConfig]) -> Callable[[Any], Mapping[str, float]] | None:
    """The hook for `watch.score_every`: pictures of the validation's captions, always from the same seeds, judged by a CLIP.

    CLIP score; FID, KID, precision and recall against the validation's own pictures, in the CLIP's features.

    Raises:
        ConfigError: the recipe wants scores that it lacks something for.
    """
    watch = recipe.watch
    if watch.score_every is None:
        if watch.clip is not None:
            raise ConfigError("watch.clip is given, but not how often it scores: set watch.score_every.")
        return None
    if watch.clip is None or job.validation is None or job.bundle is None:
        raise ConfigError(
            "watch.score_every needs watch.clip, a [validation] to compare with, and a kind of recipe that makes pictures."
        )
    clip = load_clip(watch.clip, device=device())
    features = clip_features(clip)
    records = spread(job.validation, watch.validation_pictures)
    captions = [record.captions[0] if record.captions else "" for record in records]
    real = features.of(record.open() for record in records)
    texts, _ = text_features(clip, captions)
    side = recipe.data.resolution
    requests = [
        Request(text, seed=seed, width=side, height=side, steps=watch.sample_steps, guidance_scale=watch.guidance)
        for seed, text in enumerate(captions)
    ]
    bundled = job.bundle

    def scores(model: Any) -> dict[str, float]:
        made = features.of(drawn(bundled(model), requests))
        found = {"clip_score": float(metrics.clip_scores(made, texts).mean())}
        if len(made) > 3:
            precision, recall = metrics.precision_recall(real, made)
            found |= {"fid": metrics.fid(real, made), "kid": metrics.kid(real, made)}
            found |= {"precision": precision, "recall": recall}
        return found

    return scores
