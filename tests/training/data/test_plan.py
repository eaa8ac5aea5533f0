"""Buckets and batches: each picture once an epoch, pure, the same for any number of processes."""

import math
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from sets import folder, picture

from lienzo.errors import ConfigError
from lienzo.training.data import DataConfig, Dataset, Draw, Loader, Record, Source, load_data, plan
from lienzo.training.data.buckets import buckets, kept, nearest_bucket, resized
from lienzo.training.data.captions import allows_crop, allows_flip
from lienzo.training.data.hashes import HASH_BITS, difference_hash, near_copies
from lienzo.training.data.pixels import mask, pixels
from lienzo.training.data.sources import Blob

# Buckets


def test_the_buckets_of_kohya() -> None:
    """`make_bucket_resolutions((512, 512), 256, 1024, 64)` of kohya's sd-scripts, written out."""
    assert set(buckets(512, least=256, most=1024, step=64)) == {
        (256, 1024), (256, 832), (256, 896), (256, 960), (320, 704), (320, 768), (384, 640), (448, 576), (512, 512),
        (576, 448), (640, 384), (704, 320), (768, 320), (832, 256), (896, 256), (960, 256), (1024, 256),
    }  # fmt: skip


@given(
    resolution=st.integers(8, 160).map(lambda n: n * 8),
    step=st.sampled_from([8, 16, 32, 64]),
    least=st.integers(8, 600),
    most=st.integers(8, 2500),
)
def test_buckets_are_within_their_bounds(resolution: int, step: int, least: int, most: int) -> None:
    try:
        found = buckets(resolution, least=least, most=most, step=step)
    except ValueError:
        assert most < -(-least // step) * step or (-(-least // step) * step) ** 2 > resolution**2
        return
    assert len(set(found)) == len(found)
    for width, height in found:
        assert width % step == 0 and height % step == 0
        assert least <= min(width, height) and max(width, height) <= most
        assert width * height <= resolution**2
        assert (height, width) in found


@given(width=st.integers(1, 5000), height=st.integers(1, 5000), resolution=st.sampled_from([64, 256, 512, 768]))
def test_the_nearest_bucket(width: int, height: int, resolution: int) -> None:
    among = DataConfig(sources=Path(), resolution=resolution).buckets  # type: ignore[arg-type]
    bucket = nearest_bucket(width, height, among)
    distance = abs(math.log(bucket[0] * height / (bucket[1] * width)))
    assert all(distance <= abs(math.log(b[0] * height / (b[1] * width))) + 1e-8 for b in among)
    turned = nearest_bucket(height, width, among)
    assert turned == bucket[::-1], "a picture and the same on its side are treated alike"
    across, down = resized(width, height, bucket)
    assert (across >= bucket[0] and down >= bucket[1]) and (across == bucket[0] or down == bucket[1])
    assert 0 < kept(width, height, bucket) <= 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"resolution": 500}, "multiple of 8"),
        ({"resolution": 64, "bucket_min": 128}, "no bucket has sides from 128"),
        ({"cache_text": True}, "need a folder"),
        ({"cache": "x", "cache_latents": True, "crop": "random"}, "crop"),
        ({"resolutoin": 64}, "Extra inputs"),
        ({"sources": []}, "at least 1"),
    ],
)
def test_what_a_config_refuses(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        DataConfig(**{"sources": ["x"], **options})


def test_every_setting_is_described() -> None:
    for model in (DataConfig, Source):
        assert all(info.description for info in model.model_fields.values())


def test_squares_only() -> None:
    config = DataConfig(sources=["x"], resolution=256, bucket_min=256, bucket_max=256)  # type: ignore[arg-type]
    assert config.buckets == ((256, 256),)


# Batches


def dataset(
    shapes: list[tuple[int, int]], *, repeats: int = 1, prior: int = 0, captions: Any = None, **options: Any
) -> Dataset:
    """Records without files: batches are made of what is known of them."""
    source = Source(path=Path("x"), repeats=repeats)
    klass = Source(path=Path("y"), weight=0.5)
    config = DataConfig(sources=(source,), prior=klass if prior else None, resolution=64, **options)

    def record(i: int, shape: tuple[int, int], source: Source, what: str) -> Record:
        return Record(
            key=f"{what}{i}", source=source, captions=captions or (f"{what} {i}",), width=shape[0], height=shape[1],
            pixels=f"{what}{i}", hash=i, bucket=nearest_bucket(*shape, config.buckets), picture=Blob(path=Path("x")),
        )  # fmt: skip

    return Dataset(
        config=config,
        records=tuple(record(i, shape, source, "r") for i, shape in enumerate(shapes)),
        prior=tuple(record(i, (64, 64), klass, "p") for i in range(prior)),
    )


SHAPES = st.lists(st.tuples(st.integers(30, 200), st.integers(30, 200)), min_size=1, max_size=40)


def shown(draws: list[Draw]) -> list[tuple[object, ...]]:
    return [(d.record.key, d.caption, d.bucket, d.crop, d.flip, d.again, d.prior, d.weight) for d in draws]


@given(shapes=SHAPES, batch=st.integers(1, 9), seed=st.integers(0, 2**40), repeats=st.integers(1, 3))
def test_each_picture_once_an_epoch(shapes: list[tuple[int, int]], batch: int, seed: int, repeats: int) -> None:
    data = dataset(shapes, repeats=repeats)
    made = plan(data, batch, seed)
    orders = []
    for epoch in range(2):
        steps = range(epoch * made.steps_per_epoch, (epoch + 1) * made.steps_per_epoch)
        batches = [made.batch_at(step) for step in steps]
        assert all(len(draws) == batch and len({d.bucket for d in draws}) == 1 for draws in batches)
        once = [d.record.key for draws in batches for d in draws if not d.again]
        assert Counter(once) == {record.key: repeats for record in data.records}
        orders.append(once)
        again = Counter(d.bucket for draws in batches for d in draws if d.again)
        members = Counter(record.bucket for record in data.records)
        assert all(again[b] == -members[b] * repeats % batch for b in members), "no more than the last batch lacks"
    if len(shapes) > 20:
        assert orders[0] != orders[1]


@given(
    shapes=SHAPES, share=st.integers(1, 4), world=st.integers(1, 4), step=st.integers(0, 500), seed=st.integers(0, 99),
    prior=st.integers(0, 5),
)  # fmt: skip
def test_ranks_share_the_batch_of_one_process(
    shapes: list[tuple[int, int]], share: int, world: int, step: int, seed: int, prior: int
) -> None:
    data = dataset(shapes, crop="random", flip=0.5, prior=prior)
    whole = plan(data, share * world, seed).batch_at(step)
    parts = [plan(data, share * world, seed).batch_at(step, rank, world) for rank in range(world)]
    ours = [d for part in parts for d in part if not d.prior]
    classes = [d for part in parts for d in part if d.prior]
    assert shown([*ours, *classes]) == shown(whole)
    assert len(classes) == (share * world if prior else 0)


@given(shapes=SHAPES, steps=st.lists(st.integers(0, 300), min_size=1, max_size=12))
def test_a_batch_is_a_pure_function_of_the_step(shapes: list[tuple[int, int]], steps: list[int]) -> None:
    data = dataset(shapes, crop="random", flip=0.5, captions=("a", "b", "c, d, e"), shuffle_tags=True)
    one = plan(data, 4, 7)
    in_any_order = {step: shown(one.batch_at(step)) for step in steps}
    for step in sorted(steps):
        assert shown(plan(data, 4, 7).batch_at(step)) == in_any_order[step]
    assert shown(plan(data, 4, 8).batch_at(steps[0])) != in_any_order[steps[0]]


def test_a_batch_that_cannot_be_shared() -> None:
    made = plan(dataset([(64, 64)]), 4)
    with pytest.raises(ConfigError, match=r"run\.batch_size is 4, which cannot be divided into 3"):
        made.batch_at(0, 0, 3)
    with pytest.raises(ConfigError, match="1 or more"):
        plan(dataset([(64, 64)]), 0)


def test_class_pictures_take_turns() -> None:
    made = plan(dataset([(64, 64)] * 5, prior=6), 3)
    drawn = [d for step in range(4) for d in made.batch_at(step) if d.prior]
    assert Counter(d.record.key for d in drawn) == {f"p{i}": 2 for i in range(6)}
    assert {d.weight for d in drawn} == {0.5}


def test_how_often_captions_are_dropped_and_chosen_and_pictures_mirrored() -> None:
    made = plan(dataset([(64, 64)] * 8, captions=("one", "two"), dropout=0.25, flip=0.5), 8)
    draws = [d for step in range(500) for d in made.batch_at(step)]
    counts = Counter(d.caption for d in draws)
    assert counts[""] / 4000 == pytest.approx(0.25, abs=0.03)
    assert counts["one"] / 4000 == pytest.approx(0.375, abs=0.03)
    assert sum(d.flip for d in draws) / 4000 == pytest.approx(0.5, abs=0.03)


def test_tags_are_shuffled_behind_those_that_stay() -> None:
    made = plan(dataset([(64, 64)], captions=("a, b, c, d",), shuffle_tags=True, keep_tags=1, dropout=0.0), 1)
    orders = {made.batch_at(step)[0].caption for step in range(100)}
    assert len(orders) == 6
    assert all(order[:3] == "a, " and sorted(order.split(", ")) == ["a", "b", "c", "d"] for order in orders)


# What captions allow


@pytest.mark.parametrize(
    "caption",
    [
        "a red circle to the left of a square", "the rightmost house", "un círculo a la izquierda", "la casa de la DERECHA",
        'a banner with "hello"', "a shop sign", "un cartel", "las letras", "numbers on a clock", "an arrow clockwise",
    ],
)  # fmt: skip
def test_captions_that_forbid_mirroring(caption: str) -> None:
    assert not allows_flip([caption])
    assert not allows_flip(["a red circle", caption]), "one of several is enough"


@pytest.mark.parametrize(
    "caption", ["", "a bright house", "un perro", "a copyright", "aleft", "a circle above a square"]
)
def test_captions_that_allow_mirroring(caption: str) -> None:
    assert allows_flip([caption])


def test_captions_that_keep_the_crop_centred() -> None:
    assert allows_crop(["a red circle", "una estrella"])
    for caption in ("a star in the top corner", "un sol en la esquina", "left of it", "mountains above the sea"):
        assert not allows_crop([caption])
    placed = plan(dataset([(100, 64)] * 4, captions=("a star in the corner",), crop="random"), 4)
    free = plan(dataset([(100, 64)] * 4, captions=("a star",), crop="random"), 4)
    assert len({d.crop for step in range(20) for d in placed.batch_at(step)}) == 1
    assert len({d.crop for step in range(20) for d in free.batch_at(step)}) > 1


@given(shapes=SHAPES, step=st.integers(0, 99))
def test_crops_lie_within_the_picture(shapes: list[tuple[int, int]], step: int) -> None:
    for draw in plan(dataset(shapes, crop="random"), 4).batch_at(step):
        across, down = resized(draw.record.width, draw.record.height, draw.bucket)
        assert 0 <= draw.crop[0] <= across - draw.bucket[0]
        assert 0 <= draw.crop[1] <= down - draw.bucket[1]


# Near duplicates


@given(
    hashes=st.lists(st.integers(0, 2**HASH_BITS - 1) | st.integers(0, 15), max_size=40),
    distance=st.integers(0, 8),
)
def test_near_copies_are_those_of_a_plain_comparison(hashes: list[int], distance: int) -> None:
    expected: dict[int, int] = {}
    for j in range(len(hashes)):
        near = [i for i in range(j) if i not in expected and (hashes[i] ^ hashes[j]).bit_count() <= distance]
        if near:
            expected[j] = near[0]
    assert near_copies(hashes, distance) == expected


def test_near_copies_across_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lienzo.training.data.hashes.BLOCK", 3)
    hashes = [i * 0xFFFF << (8 * (i % 7)) for i in range(60)] * 2
    assert near_copies(hashes, 0) == {60 + i: i for i in range(60)} | near_copies(hashes[:60], 0)


def test_the_hash_keeps_with_size_and_quality() -> None:
    one = difference_hash(picture(1, 96, 96))
    assert (one ^ difference_hash(picture(1, 96, 96).resize((40, 40)))).bit_count() <= 6
    assert (one ^ difference_hash(picture(2, 96, 96))).bit_count() > 20


# Pixels


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    folder(tmp_path / "some", 5, size=(90, 60))
    return folder(tmp_path / "some", 4, size=(60, 90), first=5)


def test_pixels_are_resized_cropped_and_mirrored(pictures: Path) -> None:
    data = load_data(DataConfig(sources=[pictures], resolution=64, flip=1.0))  # type: ignore[arg-type]
    draw = plan(data, 1).batch_at(0)[0]
    (width, height), (left, top) = draw.bucket, draw.crop
    image = draw.record.open().resize(resized(draw.record.width, draw.record.height, draw.bucket), 1)
    expected = torch.tensor(list(image.crop((left, top, left + width, top + height)).tobytes()), dtype=torch.float32)
    expected = expected.reshape(height, width, 3).permute(2, 0, 1) / 127.5 - 1
    assert draw.flip
    assert torch.allclose(pixels(draw), expected.flip(2), atol=1e-6)
    assert torch.equal(mask(draw), torch.ones(1, height, width))


@pytest.mark.parametrize(("threads", "ahead"), [(1, 0), (3, 4)])
def test_loading_ahead_changes_nothing(pictures: Path, threads: int, ahead: int) -> None:
    data = load_data(DataConfig(sources=[pictures], resolution=64, crop="random", masks=True))  # type: ignore[arg-type]
    made = plan(data, 4, 3)
    with Loader(made.batch_at, masks=True, threads=threads, ahead=ahead) as loader:
        for step in (0, 1, 2, 7, 3):
            batch = loader.batch(step)
            draws = made.batch_at(step)
            assert shown(list(batch.draws)) == shown(draws)
            assert torch.equal(batch.pixels, torch.stack([pixels(draw) for draw in draws]))
            assert batch.masks is not None and batch.masks.shape == (4, 1, *batch.pixels.shape[2:])
            assert batch.keys == tuple(d.record.key for d in draws)
            assert batch.weights.tolist() == [1.0] * 4
            assert batch.pixels.abs().max() <= 1
