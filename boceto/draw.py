"""Draw what boceto learns from, as WebDataset tars: `python -m boceto.draw --out DIR --scenes N --side S`.

Three sets, each in a folder of DIR for training and in one for validation (scenes that are held out from training):

* `scenes`: whole pictures, for the denoiser;
* `crops`: parts of them, half as wide and as sharp, for the VAE, which has no use for the whole;
* `looks`: whole pictures and single icons, of the size that the CLIP takes.

A tar is a pure function of the seed and its number, and it is written whole or not at all: what was drawn stays, and
the same command draws the rest.
"""

import argparse
import io
import json
import tarfile
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
from PIL import Image

from boceto.look import icon_crops
from boceto.scenes import FAMILIES, PLAIN, Scene, captions, render, sample_scene
from boceto.scenes.icons import GLYPHS
from boceto.scenes.language import a, un

KINDS: Final = (PLAIN, *FAMILIES)
"""Families in the order in which they take turns: every tar, and the first pictures of each, hold all of them."""
SHARD: Final = 1000
"""Scenes a tar."""
WORDINGS: Final = 8
"""Captions a picture: half English, half Spanish."""
CLIP_SIDE: Final = 128
ICON_SHARE: Final = 0.5
"""Of the pictures in `looks`, so many are single icons."""


class Drawn(NamedTuple):
    picture: Image.Image
    captions: tuple[str, ...]


Draw = Callable[[np.random.Generator, str, int, bool], Drawn]
"""(rng, family, side of a whole picture, held out) -> one sample."""


def scene_drawn(rng: np.random.Generator, family: str, side: int, holdout: bool) -> Drawn:
    """A whole picture."""
    scene = sample_scene(rng, family, holdout=holdout)
    return Drawn(render(scene, side), some_captions(scene, rng))


def crop_drawn(rng: np.random.Generator, family: str, side: int, holdout: bool) -> Drawn:
    """A square of half the side, around a thing where there is one: a crop without edges would teach little."""
    scene = sample_scene(rng, family, holdout=holdout)
    half = side // 2
    x, y = rng.random(2)
    if scene.things:
        thing = scene.things[rng.integers(len(scene.things))]
        x, y = np.array((thing.x, thing.y)) + rng.uniform(-0.2, 0.2, 2)
    left, top = (min(max(round(v * side) - half // 2, 0), side - half) for v in (x, y))
    return Drawn(render(scene, side).crop((left, top, left + half, top + half)), some_captions(scene, rng))


def look_drawn(rng: np.random.Generator, family: str, side: int, holdout: bool) -> Drawn:
    """A whole picture, or one of the icons that are cut out of one, with what it is."""
    if rng.random() >= ICON_SHARE:
        return scene_drawn(rng, family, CLIP_SIDE, holdout)
    scene = sample_scene(rng, ("networks", "networks", "flows")[rng.integers(3)], holdout=holdout)
    crops = icon_crops(render(scene, side), scene, CLIP_SIDE)
    if not crops:  # a flow without transactions
        return look_drawn(rng, family, side, holdout)
    name, crop = crops[rng.integers(len(crops))]
    return Drawn(crop, icon_captions(name))


def icon_captions(name: str) -> tuple[str, str]:
    """What a crop around one icon is called; the first is the one it is told apart by."""
    said = "transaction" if name == "document" else name
    return a(said), un(said)


ICONS: Final = tuple(name for name in GLYPHS if name not in ("envelope", "lock", "warning"))
"""Icons that stand as things of their own in a scene."""


@dataclass(frozen=True, kw_only=True)
class Set:
    """What a folder of tars holds.

    Attributes:
        draw: makes a sample.
        seed: part of every tar's own.
        share: pictures, as a part of the scenes asked for.
    """

    draw: Draw
    seed: int
    share: float


SETS: Final = {
    "scenes": Set(draw=scene_drawn, seed=1, share=1.0),
    "crops": Set(draw=crop_drawn, seed=2, share=0.5),
    "looks": Set(draw=look_drawn, seed=3, share=0.5),
}
VALIDATION: Final = 512
"""Pictures of each set that are held out."""


def some_captions(scene: Scene, rng: np.random.Generator, count: int = WORDINGS) -> tuple[str, ...]:
    """Wordings at random, as many English as Spanish."""
    chosen: list[str] = []
    for language in ("en", "es"):
        texts = [caption.text for caption in captions(scene) if caption.language == language]
        chosen += [texts[i] for i in rng.permutation(len(texts))[: count // 2]]
    return tuple(chosen)


def samples(of: str, number: int, count: int, side: int, seed: int, holdout: bool) -> Iterator[Drawn]:
    """The content of one tar."""
    rng = np.random.default_rng((seed, SETS[of].seed, holdout, number))
    for i in range(count):
        yield SETS[of].draw(rng, KINDS[i % len(KINDS)], side, holdout)


def write_tar(path: Path, drawn: Iterator[Drawn]) -> None:
    """Write pictures and captions, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(".part")
    with tarfile.open(unfinished, "w", format=tarfile.USTAR_FORMAT) as tar:
        for i, (picture, texts) in enumerate(drawn):
            png = io.BytesIO()
            picture.save(png, "PNG", compress_level=3)  # the default takes three times as long and saves a tenth
            _add(tar, f"{i:05d}.png", png.getvalue())
            _add(tar, f"{i:05d}.json", json.dumps({"text": texts}, ensure_ascii=False).encode())
    unfinished.replace(path)


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(data)
    tar.addfile(member, io.BytesIO(data))


@dataclass(frozen=True, kw_only=True)
class _Job:
    path: Path
    of: str
    number: int
    count: int
    holdout: bool


def _jobs(out: Path, scenes: int) -> Iterator[_Job]:
    for name, kind in SETS.items():
        for folder, holdout, total in (
            (name, False, round(kind.share * scenes)),
            (f"{name}-held-out", True, VALIDATION),
        ):
            for number, first in enumerate(range(0, total, SHARD)):
                yield _Job(
                    path=out / folder / f"{number:05d}.tar",
                    of=name,
                    number=number,
                    count=min(SHARD, total - first),
                    holdout=holdout,
                )


def draw_sets(out: Path, *, scenes: int, side: int, seed: int = 0, processes: int | None = None) -> None:
    """Draw all sets that `out` does not hold yet.

    Args:
        scenes: for training, in the set `scenes`; the others hold a fixed part of that.
        side: pixels of a whole picture.
        processes: None: one a core.

    Raises:
        ValueError: `out` holds sets of another number, size or seed.
    """
    asked = {"scenes": scenes, "side": side, "seed": seed}
    note = out / "drawn.json"
    if note.exists() and (found := json.loads(note.read_text(encoding="utf-8"))) != asked:
        raise ValueError(f"{out} holds {found}, asked for was {asked}. Name another folder, or remove this one.")
    out.mkdir(parents=True, exist_ok=True)
    note.write_text(json.dumps(asked) + "\n", encoding="utf-8")
    missing = [job for job in _jobs(out, scenes) if not job.path.exists()]
    # spawned: torch's threads, where there are any, do not survive a fork
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
        for _ in pool.map(partial(_work, side=side, seed=seed), missing):
            pass


def _work(job: _Job, side: int, seed: int) -> None:
    write_tar(job.path, samples(job.of, job.number, job.count, side, seed, job.holdout))


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m boceto.draw", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="where the sets go")
    parser.add_argument("--scenes", type=int, default=100_000, help="for training (default: %(default)s)")
    parser.add_argument("--side", type=int, default=256, help="pixels of a picture (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    draw_sets(options.out, scenes=options.scenes, side=options.side, seed=options.seed)


if __name__ == "__main__":
    main()
