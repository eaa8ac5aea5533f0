"""From pictures to figures: everything that the inputs allow, and what they did not and why."""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from lienzo import __version__
from lienzo.errors import ImageError, InputError
from lienzo.evaluation import metrics
from lienzo.evaluation.features import Features, clip_features, text_features
from lienzo.evaluation.metrics import Array
from lienzo.evaluation.prompts import Prompt
from lienzo.evaluation.resampling import Interval, bootstrap, folds
from lienzo.images import open_image
from lienzo.models.clip_vision import CLIP
from lienzo.shares import CONFIDENCE
from lienzo.weights.clip import LoadedCLIP

PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".gif")
NEIGHBOURS = 3
Advance = Callable[[str, int, int], object]
"""Called with (what is done, how many, of how many)."""


@dataclass(frozen=True, kw_only=True)
class Side:
    """Pictures of one model at one setting.

    Attributes:
        name: as the report calls it.
        about: what made them: model, digest, settings.
        pictures: one a (prompt, seed), all seeds of the first prompt first.
    """

    name: str
    about: Mapping[str, Any]
    pictures: tuple[Path, ...]


@dataclass(frozen=True, kw_only=True)
class Scores:
    """What was found of one side.

    Attributes:
        overall: score -> its value and interval.
        groups: group of prompts -> score -> the same; empty where there is one group only.
        folds: score -> its value on each fold of prompts.
        by_prompt, by_picture: score -> one value each, in the order of the pictures.
    """

    side: Side
    overall: Mapping[str, Interval]
    groups: Mapping[str, Mapping[str, Interval]]
    folds: Mapping[str, tuple[float, ...]]
    by_prompt: Mapping[str, tuple[float, ...]]
    by_picture: Mapping[str, tuple[float, ...]]


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """The second side against the first, picture by picture of the same prompt and seed.

    Attributes:
        overall: "psnr" (of the pairs that differ) and "ssim" of the pairs; "clip_score" and "diversity": second less first.
        by_picture: score -> one value a pair; None: the two are equal, so that PSNR has no figure.
        equal: pairs that are equal bit for bit.
    """

    overall: Mapping[str, Interval]
    by_picture: Mapping[str, tuple[float | None, ...]]
    equal: int


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """Everything the report shows.

    Attributes:
        networks: "clip", "features" -> name and digest of what judged.
        diversity_of: whose distances `diversity` measures.
        real: pictures compared with, and those that could not be read, with the reason.
        left_out: score -> why it could not be computed.
        notes: what to bear in mind.
    """

    prompts: tuple[Prompt, ...]
    seeds: tuple[int, ...]
    scores: tuple[Scores, ...]
    comparison: Comparison | None
    networks: Mapping[str, Mapping[str, str]]
    diversity_of: str
    real: Mapping[str, Any]
    left_out: Mapping[str, str]
    notes: tuple[str, ...]
    resamples: int

    def to_dict(self, root: Path) -> dict[str, Any]:
        """As JSON; pictures by their paths as seen from the folder `root`."""
        found = asdict(self)
        for scores in found["scores"]:
            scores["side"]["pictures"] = [Path(os.path.relpath(p, root)).as_posix() for p in scores["side"]["pictures"]]
        return {
            "version": 1,
            "software": {"lienzo": __version__, "torch": torch.__version__},
            "confidence": CONFIDENCE,
            **found,
        }


def find_pictures(folder: str | Path) -> tuple[Path, ...]:
    """All pictures in a folder and those below it, by name.

    Raises:
        InputError: no folder, or none in it.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(f"{folder} is no folder of pictures.")
    found = tuple(sorted(p for p in folder.rglob("*") if p.suffix.lower() in PICTURES and p.is_file()))
    if not found:
        raise InputError(f"{folder} holds no picture; looked for {', '.join(PICTURES)}.")
    return found


def evaluate(
    sides: Sequence[Side],
    prompts: Sequence[Prompt],
    seeds: Sequence[int],
    *,
    real: Sequence[Path] = (),
    clip: LoadedCLIP | None = None,
    features: Features | None = None,
    resamples: int = 1000,
    k: int = 5,
    seed: int = 0,
    advance: Advance = lambda what, done, of: None,
) -> Evaluation:
    """Score one side, or two and the second against the first.

    Args:
        real: pictures to compare with, for FID, KID, precision and recall.
        clip: for the CLIP score.
        features: for FID and the others; the CLIP's where not given.
        resamples: for intervals of means; a tenth of them for FID and the others, which cost more.
        k: folds over prompts; as many as prompts where there are fewer.
        seed: of resamples and folds.
    """
    if not sides or any(len(side.pictures) != len(prompts) * len(seeds) for side in sides):
        raise ValueError("Every side needs one picture a prompt and seed.")
    judge = _Judge(prompts, seeds, clip=clip, features=features, resamples=resamples, k=k, seed=seed, advance=advance)
    judge.look_at_real(real)
    scores = tuple(judge.score(side) for side in sides)
    comparison = judge.compare(*scores) if len(scores) == 2 else None
    networks = {}
    if clip is not None:
        networks["clip"] = {"name": clip.name, "digest": clip.digest}
    if judge.features is not None:
        networks["features"] = {"name": judge.features.name, "digest": judge.features.digest}
    return Evaluation(
        prompts=tuple(prompts),
        seeds=tuple(seeds),
        scores=scores,
        comparison=comparison,
        networks=networks,
        diversity_of=judge.diversity_of,
        real={"pictures": 0 if judge.real is None else len(judge.real), "skipped": judge.skipped},
        left_out=judge.left_out,
        notes=tuple(judge.notes),
        resamples=resamples,
    )


class _Judge:
    """One evaluation under way: what all sides share."""

    def __init__(
        self,
        prompts: Sequence[Prompt],
        seeds: Sequence[int],
        *,
        clip: LoadedCLIP | None,
        features: Features | None,
        resamples: int,
        k: int,
        seed: int,
        advance: Advance,
    ) -> None:
        self.prompts, self.seeds, self.resamples, self.seed, self.advance = prompts, seeds, resamples, seed, advance
        self.left_out: dict[str, str] = {}
        self.notes: list[str] = []
        self.skipped: list[dict[str, str]] = []
        self.real: Array | None = None
        self.texts: Array | None = None
        self.clip = None if clip is None else clip_features(clip)
        self.features = features or self.clip
        self.same = self.features is self.clip
        self.groups = np.repeat(np.arange(len(prompts)), len(seeds))  # the prompt of every picture
        if clip is None:
            self.left_out["clip_score"] = "it needs a CLIP: --clip FOLDER"
        elif isinstance(clip.model, CLIP):
            self.texts, cut = text_features(clip, [p.text for p in prompts])
            if cut:
                self.notes.append(f"CLIP could not read the end of {len(cut)} prompts, {cut[0][:60]!r} among them.")
        else:
            self.left_out["clip_score"] = f"{clip.name} is the image side of a CLIP alone, and words need both"
        encoder = self.clip or self.features
        self.diversity_of = (
            f"unit vectors of {encoder.name}" if encoder else "pixels, root mean square on a scale of 0 to 1"
        )
        if len(seeds) < 2:
            self.left_out["diversity"] = "it needs several pictures of each prompt: --seeds 2 or more"
        self.folds: list[NDArray[np.int64]] = []
        if len(prompts) < 2:
            self.left_out["folds"] = "they need several prompts"
            self.notes.append("One prompt only: no intervals, as they would have to come from other prompts.")
        else:
            self.folds = folds(len(prompts), min(k, len(prompts)), seed=seed)

    def look_at_real(self, paths: Sequence[Path]) -> None:
        of_sets = ("fid", "kid", "precision", "recall")
        if not paths:
            self.left_out |= dict.fromkeys(of_sets, "it needs real pictures: --real FOLDER")
        elif self.features is None:
            self.left_out |= dict.fromkeys(of_sets, "it needs features: --features, or --clip")
        else:
            self.real = self._encode(self.features, self._readable(paths), "real pictures", len(paths))
            made, width = len(self.groups), self.real.shape[1]
            if min(len(self.real), made) <= NEIGHBOURS:
                why = f"it needs more than {NEIGHBOURS} pictures on either side; there are {len(self.real)} real and {made} made"
                self.left_out |= dict.fromkeys(of_sets, why)
                self.real = None
            elif min(len(self.real), made) < width:
                self.notes.append(
                    f"FID is of {made} made and {len(self.real)} real pictures with features of {width} numbers: with fewer "
                    "pictures than numbers, most of it is what is missing. Go by KID, or make more."
                )
        if self.skipped:
            self.notes.append(f"{len(self.skipped)} of {len(paths)} real pictures could not be read and were left out.")

    def score(self, side: Side) -> Scores:
        prompts, seeds = len(self.prompts), len(self.seeds)
        overall: dict[str, Interval] = {}
        by_prompt: dict[str, Array] = {}
        by_picture: dict[str, Array] = {}
        by_fold: dict[str, list[float]] = {}
        clip = None if self.clip is None else self._made(self.clip, side)
        features = clip if self.same or self.features is None else self._made(self.features, side)
        if clip is not None and self.texts is not None:
            by_picture["clip_score"] = metrics.clip_scores(clip, self.texts[self.groups])
            by_prompt["clip_score"] = by_picture["clip_score"].reshape(prompts, seeds).mean(1)
        if seeds > 1:
            found = clip if clip is not None else features
            rows = None if found is None else metrics.unit(found)
            by_prompt["diversity"] = np.array([self._diversity(side, rows, i) for i in range(prompts)])
        for name, values in by_prompt.items():
            overall[name] = self._mean(values)
            by_fold[name] = [float(values[part].mean()) for part in self.folds]
        if self.real is not None and features is not None:
            overall |= self._sets(features)
            parts = [features[np.isin(self.groups, part)] for part in self.folds]
            if all(len(part) > 1 for part in parts):
                by_fold["kid"] = [metrics.kid(self.real, part, seed=self.seed) for part in parts]
        return Scores(
            side=side,
            overall=overall,
            groups=self._by_group(by_prompt),
            folds={name: tuple(values) for name, values in by_fold.items() if values},
            by_prompt={name: tuple(map(float, values)) for name, values in by_prompt.items()},
            by_picture={name: tuple(map(float, values)) for name, values in by_picture.items()},
        )

    def compare(self, first: Scores, second: Scores) -> Comparison:
        overall: dict[str, Interval] = {}
        by_picture: dict[str, tuple[float | None, ...]] = {}
        pairs = list(zip(first.side.pictures, second.side.pictures, strict=True))
        equal, noise, likeness, why = 0, [], [], ""
        for done, (a, b) in enumerate(pairs, 1):
            x, y = (np.asarray(open_image(p).convert("RGB")) for p in (a, b))
            if x.shape != y.shape:
                why = f"the pictures differ in size: {x.shape[1]}x{x.shape[0]} and {y.shape[1]}x{y.shape[0]}"
                break
            equal += bool((x == y).all())
            noise.append(metrics.psnr(x, y))
            if min(x.shape[:2]) < 11:
                self.left_out["ssim"] = "its window is 11x11 pixels, and the pictures are smaller"
            else:
                likeness.append(metrics.ssim(x, y))
            self.advance("comparing pictures", done, len(pairs))
        if why:
            self.left_out |= {"psnr": why, "ssim": why}
        else:
            by_picture["psnr"] = tuple(value if np.isfinite(value) else None for value in noise)
            differ = [i for i, value in enumerate(noise) if np.isfinite(value)]
            if differ:
                overall["psnr"] = self._mean(np.array(noise)[differ], self.groups[differ])
            else:
                self.left_out["psnr"] = "all pictures are equal bit for bit, so that it has no figure"
            if likeness:
                by_picture["ssim"] = tuple(likeness)
                overall["ssim"] = self._mean(np.array(likeness), self.groups)
        for name in first.by_prompt:
            overall[name] = self._mean(np.array(second.by_prompt[name]) - np.array(first.by_prompt[name]))
        for name in first.by_picture:
            by_picture[name] = tuple((np.array(second.by_picture[name]) - np.array(first.by_picture[name])).tolist())
        return Comparison(overall=overall, by_picture=by_picture, equal=equal)

    def _mean(self, values: Array, groups: NDArray[np.int64] | None = None) -> Interval:
        """Mean of one value a prompt, or of one a picture with the prompts as `groups`."""
        rows = np.arange(len(values)) if groups is None else groups
        return bootstrap(lambda i: float(values[i].mean()), rows.tolist(), resamples=self.resamples, seed=self.seed)

    def _sets(self, made: Array) -> dict[str, Interval]:
        real = self.real
        assert real is not None
        precision, recall = metrics.precision_recall(real, made, neighbours=NEIGHBOURS)
        found = {}
        bounds = {"fid": (0.0, np.inf), "kid": (-np.inf, np.inf)}
        scores: dict[str, tuple[float, Callable[[Array, Array], float]]] = {
            "fid": (metrics.fid(real, made), metrics.frechet),
            "kid": (metrics.kid(real, made, seed=self.seed), lambda a, b: metrics.kid(a, b, draws=1, seed=self.seed)),
            "precision": (precision, lambda a, b: metrics.precision_recall(a, b, neighbours=NEIGHBOURS)[0]),
            "recall": (recall, lambda a, b: metrics.precision_recall(a, b, neighbours=NEIGHBOURS)[1]),
        }
        for done, (name, (value, score)) in enumerate(scores.items()):
            self.advance(f"interval of {name}", done, len(scores))
            random = np.random.default_rng(self.seed)

            def resampled(
                rows: NDArray[np.int64],
                score: Callable[[Array, Array], float] = score,
                random: np.random.Generator = random,
            ) -> float:
                return score(real[random.integers(len(real), size=len(real))], made[rows])

            found[name] = bootstrap(
                resampled,
                self.groups.tolist(),
                value=value,
                resamples=self.resamples // 10,
                seed=self.seed,
                bounds=bounds.get(name, (0.0, 1.0)),
            )
        return found

    def _by_group(self, by_prompt: Mapping[str, Array]) -> dict[str, dict[str, Interval]]:
        names = list(dict.fromkeys(p.group for p in self.prompts))
        if len(names) < 2:
            return {}
        found = {}
        for name in names:
            rows = [i for i, p in enumerate(self.prompts) if p.group == name]
            found[name] = {score: self._mean(values[rows]) for score, values in by_prompt.items()}
        return found

    def _diversity(self, side: Side, rows: Array | None, prompt: int) -> float:
        members = np.flatnonzero(self.groups == prompt)
        if rows is not None:
            return metrics.diversity(rows[members])
        pixels = np.stack([np.asarray(open_image(side.pictures[i]).convert("RGB")).reshape(-1) for i in members]) / 255
        return metrics.diversity(pixels / np.sqrt(pixels.shape[1]))

    def _made(self, features: Features, side: Side) -> Array:
        return self._encode(features, map(open_image, side.pictures), f"pictures of {side.name}", len(side.pictures))

    def _encode(self, features: Features, pictures: Iterator[Image.Image], what: str, of: int) -> Array:
        return features.of(pictures, on_batch=lambda done: self.advance(f"looking at {what}", done, of))

    def _readable(self, paths: Sequence[Path]) -> Iterator[Image.Image]:
        for path in paths:
            try:
                picture = open_image(path)
            except ImageError as error:
                self.skipped.append({"path": str(path), "why": str(error)})
            else:
                yield picture
        if len(self.skipped) == len(paths):
            raise InputError(f"None of the {len(paths)} real pictures can be read. The first: {self.skipped[0]['why']}")
