"""Calibrate and measure `lienzo detect` on the embedded model, in one run.

    python -m benchmarks.detection [--count 300] [--work DIR] [--no-write]

Pictures of the model and of others are made (see `OTHERS` and `ATTACKS`); one half calibrates, the other, of other seeds and
prompts, is measured. Written are src/lienzo/assets/detect/boceto.json, which the package carries, and the tables of
docs/explanation/detection.md. Pictures and features are kept in DIR and not made again: stopped at any point, the same command
goes on. Choose an empty DIR after a change to how features are measured.
"""

import argparse
import io
import json
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import cache
from itertools import product
from multiprocessing import get_context
from pathlib import Path
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from boceto.judge import held_out_prompts, there_and_back
from boceto.scenes import Scene, render, sample_scene
from lienzo.evaluation.resampling import bootstrap
from lienzo.gallery import fill
from lienzo.images import open_image
from lienzo.models.bundle import Bundle
from lienzo.pipeline.request import Request
from lienzo.provenance.detect import (
    BANDS,
    FEATURES,
    QUANTITIES,
    Calibration,
    aged,
    auc,
    cross_validated,
    features,
    fit,
    vae_digest,
)  # fmt: skip
from lienzo.weights import load

ROOT = Path(__file__).resolve().parent.parent
SHIPPED = ROOT / "src" / "lienzo" / "assets" / "detect" / "boceto.json"
PAGE = ROOT / "docs" / "explanation" / "detection.md"
SIDE: Final = 128
CALIBRATED, MEASURED = 3000, 7000
"""Seeds of the two halves: of prompts, noise and everything that is drawn."""
SETTINGS: Final = tuple(product(("ddim", "dpmpp_2m"), (2.0, 3.0, 5.0, 7.5)))
"""Samplers and guidance of the model's pictures, in turn; 20 steps."""
ATTACKED: Final = 100
"""Pictures of either class that each attack is tried on, at most."""

Array = NDArray[np.float64]
Random = np.random.Generator


def prompts(count: int, seed: int) -> list[Request]:
    return [
        Request(caption.text, seed=seed + i, steps=20, sampler=sampler, guidance_scale=guidance)
        for i, (_, caption) in enumerate(held_out_prompts(count, seed))
        for sampler, guidance in [SETTINGS[i % len(SETTINGS)]]
    ]


def noise(random: Random) -> Image.Image:
    """Noise whose spectrum falls with the frequency, as that of photographs does (Field 1987), in related colours."""
    fall = random.uniform(0.5, 1.5)
    fy, fx = np.meshgrid(np.fft.fftfreq(2 * SIDE), np.fft.rfftfreq(2 * SIDE), indexing="ij")
    by = 1 / np.maximum(np.hypot(fy, fx), 1 / SIDE) ** fall
    layers = np.stack([np.fft.irfft2(np.fft.rfft2(random.normal(size=(2 * SIDE,) * 2)) * by) for _ in range(3)], -1)
    layers = layers / layers.std() @ (np.full((3, 3), random.uniform(0, 0.5)) + np.eye(3))
    return _pixels(128 + random.uniform(20, 60) * layers)


def leaves(random: Random) -> Image.Image:
    """Discs of all sizes that hide each other, each with grain and shade of its own: edges and scales of photographs
    (dead leaves; Lee, Mumford and Huang 2001)."""
    picture = np.full((2 * SIDE, 2 * SIDE, 3), random.uniform(0, 255, 3))
    for _ in range(250):
        radius = 6 * random.uniform(0.02, 1) ** -0.6
        left, top = (int(place - radius) for place in random.uniform(0, 2 * SIDE, 2))
        around = picture[max(top, 0) : int(top + 2 * radius), max(left, 0) : int(left + 2 * radius)]
        y, x = (
            np.mgrid[: around.shape[0], : around.shape[1]] - radius + np.minimum((top, left), 0)[:, None, None] * -1.0
        )
        shade = x * random.normal(0, 0.3) + y * random.normal(0, 0.3)
        grain = random.normal(0, random.uniform(0, 12), x.shape)
        inside = np.hypot(x, y) < radius
        around[inside] = (random.uniform(0, 255, 3) + (shade + grain)[..., None])[inside]
    return _pixels(picture)


def gradient(random: Random) -> Image.Image:
    """Soft colours from corner to corner with a few soft lights, as of backdrops."""
    y, x = np.mgrid[0 : 1 : 2j * SIDE, 0 : 1 : 2j * SIDE]
    corners = random.uniform(0, 255, (4, 3))
    share = np.stack([(1 - x) * (1 - y), x * (1 - y), (1 - x) * y, x * y], -1)
    picture = share @ corners
    for _ in range(random.integers(0, 4)):
        cx, cy, wide = random.uniform(0.1, 0.9), random.uniform(0.1, 0.9), random.uniform(0.05, 0.4)
        picture += np.exp(-((x - cx) ** 2 + (y - cy) ** 2) / wide**2)[..., None] * random.normal(0, 80, 3)
    return _pixels(picture)


def _pixels(levels: Array) -> Image.Image:
    """Of twice the side, reduced."""
    picture = Image.fromarray(np.clip(levels, 0, 255).round().astype(np.uint8))
    return picture.resize((SIDE, SIDE), Image.Resampling.LANCZOS)


def drawn(family: str) -> Callable[[Random], Image.Image]:
    return lambda random: render(sample_scene(random, family), SIDE)


OTHERS: Final[Mapping[str, Callable[[Random], Image.Image]]] = {
    "noise like photographs'": noise,
    "dead leaves": leaves,
    "gradients": gradient,
    "drawings of interfaces": drawn("interfaces"),
    "drawings of dashboards": drawn("dashboards"),
}
OURS: Final = "ours"
RENDERS, REDUCED, REGENERATED = "renders, same prompts", "renders, drawn larger and reduced", "renders through the VAE"
UNSEEN: Final = "drawings of interfaces"
"""The kind that a second calibration is not shown, to see what becomes of unknown kinds."""


def jpeg(quality: int) -> Callable[[Image.Image, int], Image.Image]:
    def attack(image: Image.Image, _: int) -> Image.Image:
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", quality=quality)
        return Image.open(buffer).convert("RGB")

    return attack


def half(image: Image.Image, _: int) -> Image.Image:
    return image.resize((SIDE // 2, SIDE // 2), Image.Resampling.LANCZOS)


def half_and_back(image: Image.Image, index: int) -> Image.Image:
    return half(image, index).resize((SIDE, SIDE), Image.Resampling.BICUBIC)


def crop(image: Image.Image, index: int) -> Image.Image:
    """A tenth of each side away, anywhere: as a rule off the grid of latent cells."""
    left, top = np.random.default_rng(index).integers(0, SIDE // 10 + 1, 2)
    side = SIDE - SIDE // 10
    return image.crop((left, top, left + side, top + side))


ATTACKS: Final[Mapping[str, Callable[[Image.Image, int], Image.Image]]] = {
    "JPEG 90": jpeg(90),
    "JPEG 70": jpeg(70),
    "JPEG 50": jpeg(50),
    "half the size": half,
    "half the size and back": half_and_back,
    "10 % cropped": crop,
    "blur, radius 1": lambda image, _: image.filter(ImageFilter.GaussianBlur(1)),
}


def met(image: Image.Image, index: int) -> Image.Image:
    return aged(image, np.random.default_rng((CALIBRATED, index)))


CHANGES: Final[Mapping[str, Callable[[Image.Image, int], Image.Image]]] = {
    "as it is": lambda image, _: image,
    "as met": met,
    **ATTACKS,
}


@cache
def model() -> Bundle:
    torch.set_num_threads(1)  # the pictures are small: a second thread only waits
    return load(None)


@cache
def scenes(seed: int, count: int) -> list[Scene]:
    return [scene for scene, _ in held_out_prompts(count, seed)]


@dataclass(frozen=True)
class Job:
    """A picture to be measured; `path` is that of a picture of the model."""

    kind: str
    seed: int
    index: int
    change: str
    path: Path | None = None

    @property
    def key(self) -> str:
        return f"{self.kind}/{self.seed}/{self.index}/{self.change}"


def picture(job: Job) -> Image.Image:
    if job.path is not None:
        return open_image(job.path)
    if job.kind in OTHERS:
        return OTHERS[job.kind](np.random.default_rng((job.seed, list(OTHERS).index(job.kind), job.index)))
    scene = scenes(job.seed, -(-(job.index + 1) // 100) * 100)[job.index]
    if job.kind == REDUCED:
        side = int(np.random.default_rng((job.seed, job.index)).integers(SIDE + 1, 4 * SIDE))
        return render(scene, side).resize((SIDE, SIDE), Image.Resampling.LANCZOS)
    image = render(scene, SIDE)
    return next(there_and_back(model(), [image])) if job.kind == REGENERATED else image


def measured(job: Job) -> tuple[str, list[float]]:
    found = features(CHANGES[job.change](picture(job), job.index), model().vae)
    return job.key, [found[name] for name in FEATURES]


class Bench:
    """Pictures and features, each made once and kept in a folder."""

    def __init__(self, work: Path, count: int, processes: int | None) -> None:
        self.count, self.processes = count, processes
        self.pictures = work / "pictures"
        self.file = work / f"features-{vae_digest(model())[:12]}.jsonl"
        self.known: dict[str, list[float]] = {}
        if self.file.exists():
            self.known = dict(map(json.loads, self.file.read_text(encoding="utf-8").splitlines()))
        self.generated: dict[int, list[Path]] = {}

    def made(self, seed: int) -> list[Path]:
        """The model's pictures of one half."""
        if seed not in self.generated:
            paths = {kept.index: kept.path for kept in fill(model(), prompts(self.count, seed), self.pictures)}
            self.generated[seed] = [paths[i] for i in range(self.count)]
        return self.generated[seed]

    def rows(self, kind: str, seed: int, count: int, change: str = "as it is") -> Array:
        """Features (count, len(FEATURES)) of the first pictures of a kind, changed."""
        began = time.perf_counter()
        paths = self.made(seed) if kind == OURS else [None] * count
        jobs = [Job(kind, seed, index, change, paths[index]) for index in range(count)]
        todo = [job for job in jobs if job.key not in self.known]
        if todo:
            with (
                ProcessPoolExecutor(self.processes, mp_context=get_context("spawn")) as pool,
                self.file.open("a", encoding="utf-8") as file,
            ):
                for key, values in pool.map(measured, todo):
                    self.known[key] = values
                    file.write(json.dumps([key, values]) + "\n")
                    file.flush()
        print(f"{count:4} {kind}, {change}: {time.perf_counter() - began:.0f} s", flush=True)
        return np.array([self.known[job.key] for job in jobs])


def subsets() -> dict[str, tuple[str, ...]]:
    """Features to choose from: all, all but one quantity, and each quantity alone."""
    of = {quantity: tuple(f"{quantity}_{band}" for band in range(BANDS)) for quantity in QUANTITIES}
    without = {f"without `{q}`": tuple(name for name in FEATURES if name not in of[q]) for q in QUANTITIES}
    return {"all": FEATURES, **without, **{f"`{q}` alone": names for q, names in of.items()}}


def chosen(ours: Array, others: Array, renders: Array) -> tuple[tuple[str, ...], list[list[str]]]:
    """The subset with the largest cross-validated AUC against all others, and a table of all subsets."""
    found, table = {}, []
    for name, names in subsets().items():
        columns = [FEATURES.index(one) for one in names]
        value = auc(*cross_validated(ours[:, columns], others[:, columns]))
        table.append([name, f"{auc(*cross_validated(ours[:, columns], renders[:, columns])):.3f}", f"{value:.3f}"])
        found[name] = (value, names)
    return max(found.values(), key=lambda one: one[0])[1], table


def area(ours: Array, others: Array) -> str:
    """AUC of evidence with its bootstrap interval; the i-th of either class are resampled together, as they may show one scene."""
    groups = [*range(len(ours)), *range(len(others))]
    both, count = np.concatenate([ours, others]), len(ours)

    def value(rows: NDArray[np.int64]) -> float:
        return auc(both[rows[rows < count]], both[rows[rows >= count]])

    found = bootstrap(value, groups, bounds=(0, 1))
    return f"{found.value:.3f} [{found.low:.3f}, {found.high:.3f}]"


def verdicts(calibration: Calibration, rows: Array, side: int = SIDE) -> list[str]:
    """Shares of "ours", "inconclusive" and "not ours"."""
    found = [calibration.verdict(one, side) for one in rows]
    return [f"{found.count(verdict) / len(found):.1%}" for verdict in ("ours", "inconclusive", "not ours")]


def measure(bench: Bench, calibration: Calibration, narrow: Calibration) -> Iterator[tuple[str, list[list[str]]]]:
    """Tables by name."""
    columns = [FEATURES.index(name) for name in calibration.features]
    attacked, few = min(ATTACKED, bench.count), bench.count // 5

    def rows(
        kind: str, count: int, change: str = "as it is", **how: Callable[[Image.Image, int], Image.Image]
    ) -> Array:
        return bench.rows(kind, MEASURED, count, change, **how)[:, columns]

    ours = rows(OURS, bench.count)
    evidence = calibration.evidence(ours)
    table = [[OURS, str(len(ours)), "", *verdicts(calibration, ours)]]
    counts = {RENDERS: bench.count, REDUCED: bench.count // 2, **dict.fromkeys(OTHERS, few), REGENERATED: few}
    for kind, count in counts.items():
        others = rows(kind, count)
        table.append([kind, str(count), area(evidence, calibration.evidence(others)), *verdicts(calibration, others)])
    unseen = rows(UNSEEN, few)
    where = area(narrow.evidence(ours), narrow.evidence(unseen))
    table.append([f"{UNSEEN}, calibrated without", str(few), where, *verdicts(narrow, unseen)])
    yield "kinds", table
    table = []
    for name in ATTACKS:
        mine, theirs = (rows(kind, attacked, name) for kind in (OURS, RENDERS))
        where = area(calibration.evidence(mine), calibration.evidence(theirs))
        side = min(ATTACKS[name](Image.new("RGB", (SIDE, SIDE)), 0).size)
        table.append(
            [name, str(attacked), where, *verdicts(calibration, mine, side), verdicts(calibration, theirs, side)[0]]
        )
    yield "attacks", table


def halves(bench: Bench) -> tuple[Array, Array, dict[str, Array]]:
    """Features of the calibrating half: ours, renders (every second one drawn larger and reduced), and other kinds."""
    ours = bench.rows(OURS, CALIBRATED, bench.count, "as met")
    renders = bench.rows(RENDERS, CALIBRATED, bench.count, "as met")
    reduced = bench.rows(REDUCED, CALIBRATED, bench.count // 2, "as met")
    few = bench.count // 6
    kinds = {kind: bench.rows(kind, CALIBRATED, few, "as met") for kind in OTHERS}
    return ours, np.concatenate([renders, reduced]), kinds


def written(name: str, head: Sequence[str], table: Sequence[Sequence[str]]) -> None:
    """Put a table between its marks on the page."""
    lines = [f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *table)]
    page = PAGE.read_text(encoding="utf-8")
    mark = re.compile(rf"(<!-- table: {name} -->\n).*?(<!-- end -->)", re.S)
    if not mark.search(page):
        raise SystemExit(f"{PAGE} has no place for the table {name!r}.")
    PAGE.write_text(mark.sub(lambda found: found[1] + "\n".join(lines) + "\n" + found[2], page), encoding="utf-8")


HEADS: Final = {
    "features": ["features", "AUC against renders", "AUC against all others"],
    "kinds": ["pictures", "n", "AUC against ours [95 %]", "called ours", "inconclusive", "called not ours"],
    "attacks": [
        "what both went through", "n", "AUC [95 %]", "ours called ours", "inconclusive", "called not ours",
        "renders called ours",
    ],
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument(
        "--count", type=int, default=300, help="pictures of the model in each half (default: %(default)s)"
    )
    parser.add_argument("--work", type=Path, default=Path("detection-work"), help="where what was made is kept")
    parser.add_argument("--processes", type=int, help="that measure pictures (default: one a core)")
    parser.add_argument("--no-write", action="store_true", help="print only")
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    bundle = model()
    bench = Bench(options.work, options.count, options.processes)
    ours, renders, kinds = halves(bench)
    others = np.concatenate([renders, *kinds.values()])
    names, table = chosen(ours, others, renders)
    tables = {"features": table}
    about = (
        f"{len(ours)} pictures of {bundle.name}'s at {SIDE}x{SIDE} (ddim and dpmpp_2m, 20 steps, guidance 2 to 7.5), "
        f"{len(renders)} renders of such scenes, {len(others) - len(renders)} textures, gradients and drawings"
    )
    calibration = fit(ours, others, vae=vae_digest(bundle), about=about, smallest=SIDE, names=names)
    seen = np.concatenate([renders, *(rows for kind, rows in kinds.items() if kind != UNSEEN)])
    narrow = fit(ours, seen, vae=vae_digest(bundle), about=about, smallest=SIDE, names=names)
    print(
        f"cross-validated AUC {calibration.auc}, thresholds {calibration.others_below:.2f}, {calibration.ours_above:.2f}"
    )
    if not options.no_write:
        SHIPPED.parent.mkdir(exist_ok=True)
        SHIPPED.write_text(calibration.to_json(), encoding="utf-8")
        written("features", HEADS["features"], table)
    for name, table in measure(bench, calibration, narrow):
        tables[name] = table
        if not options.no_write:
            written(name, HEADS[name], table)
    for name, table in tables.items():
        print(f"\n{name}", *(" | ".join(row) for row in (HEADS[name], *table)), sep="\n")


if __name__ == "__main__":
    main()
