"""Sets for training: tars that are pure functions of their seed, written whole, and held out where they must be."""

import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from boceto import draw
from boceto.draw import (
    ICONS,
    KINDS,
    SETS,
    VALIDATION,
    Drawn,
    draw_sets,
    icon_captions,
    samples,
    some_captions,
    write_tar,
)
from boceto.scenes import captions, sample_scene
from lienzo.training.data import DataConfig, load_data


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("drawn")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(draw, "VALIDATION", 16)
        draw_sets(folder, scenes=40, side=64, processes=1)
    return folder


@pytest.mark.parametrize(("name", "count", "side"), [("scenes", 40, 64), ("crops", 20, 32), ("looks", 20, 128)])
def test_lienzo_reads_what_is_drawn(drawn: Path, name: str, count: int, side: int) -> None:
    for folder, pictures in ((name, count), (f"{name}-held-out", 16)):
        sides = {"resolution": side, "bucket_min": side, "bucket_max": side, "min_side": 8}
        found = load_data(DataConfig(sources=drawn / folder, duplicates="keep", **sides))  # type: ignore[arg-type]
        assert len(found.records) == pictures and not found.skipped
        assert all(record.captions and (record.width, record.height) == (side, side) for record in found.records)


def test_what_is_there_stays_and_the_rest_comes_the_same_again(drawn: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(draw, "VALIDATION", 16)
    kept, lost = drawn / "scenes" / "00000.tar", drawn / "looks-held-out" / "00000.tar"
    stamp, content = kept.stat().st_mtime_ns, lost.read_bytes()
    lost.unlink()
    draw_sets(drawn, scenes=40, side=64, processes=1)
    assert kept.stat().st_mtime_ns == stamp and lost.read_bytes() == content
    assert not list(drawn.rglob("*.part"))


def test_sets_of_another_size_are_not_mixed(drawn: Path) -> None:
    with pytest.raises(ValueError, match=r"asked for was .*'side': 96"):
        draw_sets(drawn, scenes=40, side=96)


def test_an_interrupted_tar_is_none(tmp_path: Path) -> None:
    def broken():  # type: ignore[no-untyped-def]
        yield Drawn(Image.new("RGB", (8, 8)), ("a picture",))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_tar(tmp_path / "set" / "00000.tar", broken())
    assert not (tmp_path / "set" / "00000.tar").exists()


@pytest.mark.parametrize("of", SETS)
def test_seeds_numbers_and_sets_differ(of: str) -> None:
    def first(number: int, seed: int, holdout: bool = False) -> bytes:
        return next(samples(of, number, 1, 64, seed, holdout)).picture.tobytes()

    different = {first(0, 0), first(1, 0), first(0, 1), first(0, 0, holdout=True)}
    assert len(different) == 4 and first(0, 0) in different


def test_the_first_pictures_hold_every_family(monkeypatch: pytest.MonkeyPatch) -> None:
    families: list[str] = []

    def told(rng: np.random.Generator, family: str, holdout: bool) -> object:
        families.append(family)
        return sample_scene(rng, family, holdout=holdout)

    monkeypatch.setattr(draw, "sample_scene", lambda rng, family, *, holdout: told(rng, family, holdout))
    list(samples("scenes", 0, len(KINDS), 16, 0, False))
    assert families == list(KINDS)


def test_both_languages_in_equal_parts() -> None:
    rng = np.random.default_rng(0)
    scene = sample_scene(rng, "cities")
    english = {caption.text for caption in captions(scene) if caption.language == "en"}
    texts = some_captions(scene, rng)
    assert len(texts) == len(set(texts)) == 8
    assert sum(text in english for text in texts) == 4


def test_icons_are_named_in_both_languages() -> None:
    assert icon_captions("database") == ("a database", "una base de datos")
    assert icon_captions("document") == ("a transaction", "una transacción")
    assert len({icon_captions(name) for name in ICONS}) == len(ICONS) == 12


def test_single_icons_are_among_what_the_clip_looks_at(drawn: Path) -> None:
    names = {icon_captions(name) for name in ICONS}
    with tarfile.open(drawn / "looks" / "00000.tar") as tar:
        rows = [json.load(tar.extractfile(m)) for m in tar if m.name.endswith(".json")]  # type: ignore[arg-type]
        pictures = [Image.open(io.BytesIO(tar.extractfile(m).read())) for m in tar if m.name.endswith(".png")]  # type: ignore[union-attr]
    icons = [tuple(row["text"]) in names for row in rows]
    assert 0 < sum(icons) < len(icons) == len(pictures)
    assert VALIDATION >= 512
