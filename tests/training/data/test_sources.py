"""Every kind of source gives the same records; what is broken or hostile is listed and harms nothing."""

import csv
import io
import json
import os
import tarfile
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pytest
import webdataset
from PIL import Image
from pyarrow import parquet
from sets import encoded, folder, img2dataset, laion_row, picture, tar

from lienzo.errors import DataError, ImageError, MissingExtraError
from lienzo.training.data import DataConfig, Dataset, load_data


def load(*sources: Path, **options: Any) -> Dataset:
    return load_data(DataConfig(sources=sources, resolution=64, **options))  # type: ignore[arg-type]


def reasons(data: Dataset) -> dict[str, int]:
    return dict(Counter(skipped.reason for skipped in data.skipped))


ROWS = [{"file_name": f"p{i:02}.png", "text": f"pattern {i}"} for i in range(3)]


@pytest.fixture
def plain(tmp_path: Path) -> Path:
    return folder(tmp_path / "plain")


def without_captions(root: Path) -> Path:
    for path in root.glob("*.txt"):
        path.unlink()
    return root


def test_a_folder(plain: Path) -> None:
    data = load(plain)
    assert [r.key for r in data.records] == ["p00.png", "p01.png", "p02.png"]
    assert [r.captions for r in data.records] == [(f"pattern {i}",) for i in range(3)]
    assert {(r.width, r.height) for r in data.records} == {(48, 48)}
    assert np.array_equal(np.asarray(data.records[1].open()), np.asarray(picture(1)))
    assert (data.skipped, data.kinds) == ((), (("folder",),))


@pytest.mark.parametrize("kind", ["jsonl", "csv", "parquet"])
@pytest.mark.parametrize("named", ["folder", "file"])
def test_a_table_holds_the_same_data(plain: Path, kind: str, named: str) -> None:
    digest = load(plain).digest
    table = without_captions(plain) / f"metadata.{kind}"
    if kind == "jsonl":
        table.write_text("\n".join(map(json.dumps, ROWS)), encoding="utf-8")
    elif kind == "csv":
        with table.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, ["file_name", "text"])
            writer.writeheader()
            writer.writerows(ROWS)
    else:
        parquet.write_table(pyarrow.Table.from_pylist(ROWS), table)
    data = load(plain if named == "folder" else table)
    assert data.digest == digest
    assert (data.kinds, data.skipped) == (((kind,),), ())


def test_webdataset_shards_hold_the_same_data(plain: Path, tmp_path: Path) -> None:
    (tmp_path / "shards").mkdir()
    with webdataset.ShardWriter(str(tmp_path / "shards" / "%04d.tar"), maxcount=2, verbose=0) as sink:
        for i in range(3):
            sink.write({"__key__": f"deep/k{i}", "png": picture(i), "txt": f"pattern {i}"})
    data = load(tmp_path / "shards")
    assert data.digest == load(plain).digest
    assert [r.key for r in data.records] == ["0000.tar/deep/k0", "0000.tar/deep/k1", "0001.tar/deep/k2"]
    assert np.array_equal(np.asarray(data.records[2].open()), np.asarray(picture(2)))
    assert load(tmp_path / "shards" / "0001.tar").records[0].captions == ("pattern 2",)


@pytest.mark.parametrize("layout", ["webdataset", "files"])
def test_img2dataset(tmp_path: Path, layout: str) -> None:
    rows = [
        laion_row("000000000"),
        laion_row("000000001", punsafe=0.9),
        laion_row("000000002", similarity=0.1),
        laion_row("000000003", pwatermark=0.95),
        laion_row("000000004", AESTHETIC_SCORE=3.0),
        laion_row("000000005", AESTHETIC_SCORE=None),
        laion_row("000000006", status="failed_to_download", error_message="HTTP Error 404", caption="gone"),
        laion_row("000000007", LICENSE="CC-BY-4.0", similarity=float("nan")),
    ]
    root = img2dataset(tmp_path / "laion", rows, layout)
    data = load(root)
    assert reasons(data) == {"not downloaded": 1}
    assert "404" in data.skipped[0].detail
    assert len(data.records) == 7
    assert data.records[0].captions == ("a caption of 000000000",)
    assert data.records[0].row["url"] == "https://pictures.example/000000000.jpg"
    assert data.kinds[0] == tuple(sorted(("img2dataset", "webdataset" if layout == "webdataset" else "folder")))

    strict = load(root, min_similarity=0.2, min_aesthetic=5.0, max_watermark=0.8, max_unsafe=0.5)
    assert [r.key.rpartition("/")[2].partition(".")[0] for r in strict.records] == ["000000000"]
    assert {s.key.rpartition("/")[2].partition(".")[0]: s.detail for s in strict.skipped if s.reason == "filtered"} == {
        "000000001": "unsafe 0.9 is above 0.5",
        "000000002": "similarity 0.1 is below 0.2",
        "000000003": "watermark 0.95 is above 0.8",
        "000000004": "aesthetic 3 is below 5",
        "000000005": "it has no aesthetic score",
        "000000007": "it has no similarity score",
    }


def test_both_layouts_of_img2dataset_hold_the_same_data(tmp_path: Path) -> None:
    rows = [laion_row(f"00000000{i}") for i in range(3)]
    digests = {load(img2dataset(tmp_path / layout, rows, layout)).digest for layout in ("webdataset", "files")}
    assert len(digests) == 1


def test_parquet_without_pyarrow(plain: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parquet.write_table(pyarrow.Table.from_pylist(ROWS), plain / "metadata.parquet")

    def missing(name: str) -> object:
        raise ImportError(name)

    monkeypatch.setattr("lienzo.training.data.sources.import_module", missing)
    with pytest.raises(MissingExtraError, match=r'pip install "lienzo\[train\]"'):
        load(plain)


# Captions


def test_captions_of_every_kind(tmp_path: Path) -> None:
    root = folder(tmp_path / "some", 4)
    (root / "p00.txt").write_text("first\n\n  second  one \nfirst\n", encoding="utf-8")
    (root / "p01.txt").write_bytes(b"\xef\xbb\xbfcaf\xc3\xa9\r\n")
    (root / "p02.txt").unlink()
    (root / "p02.json").write_text(json.dumps({"caption": "from json", "other": ["one", "two"]}), encoding="utf-8")
    (root / "p03.txt").write_text("\n", encoding="utf-8")
    data = load(root)
    assert [r.captions for r in data.records] == [("first", "second one"), ("café",), ("from json",), ()]
    assert "1 of 4 pictures have no caption" in data.notes[0]
    assert load(root, captions=("other", "caption")).records[2].captions == ("one", "two", "from json")
    given = DataConfig(sources=[{"path": root, "caption": "a photo of sks"}], resolution=64)  # type: ignore[list-item]
    assert load_data(given).records[3].captions == ("a photo of sks",)


def test_captions_that_cannot_be_read_are_told(tmp_path: Path) -> None:
    root = folder(tmp_path / "some", 4)
    (root / "p00.txt").write_bytes("una cigüeña".encode("latin-1"))
    (root / "p01.txt").unlink()
    (root / "p01.txt").mkdir()  # nothing that can be read
    (root / "p02.json").write_text("[1]", encoding="utf-8")
    (root / "other.txt").write_text("of no picture", encoding="utf-8")
    data = load(root)
    assert [r.key for r in data.records] == ["p02.png", "p03.png"]
    assert {s.key: s.reason for s in data.skipped} == {
        "p00.png": "broken caption", "p01.png": "broken caption", "p02.json": "broken row", "other.txt": "no picture",
    }  # fmt: skip
    assert "UTF-8" in next(s.detail for s in data.skipped if s.key == "p00.png")


@pytest.mark.parametrize("ending", ["TXT", "caption"])
def test_captions_under_other_endings(plain: Path, ending: str) -> None:
    digest = load(plain).digest
    for path in plain.glob("*.txt"):
        path.rename(path.with_suffix(f".{ending}"))
    assert load(plain).digest == digest


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_rows_that_are_not_utf8(plain: Path, kind: str) -> None:
    rows = {"csv": 'file_name,text\np00.png,un niño\np01.png,ok\n', "jsonl": "".join(
        f'{{"file_name": "p0{i}.png", "text": "{text}"}}\n' for i, text in enumerate(["un niño", "ok"]))}  # fmt: skip
    (plain / f"metadata.{kind}").write_bytes(rows[kind].encode("latin-1"))
    data = load(plain)
    assert [r.captions for r in data.records] == [("ok",)]
    assert {s.key: s.detail for s in data.skipped}[f"metadata.{kind}:1"] == "not UTF-8; save it in that encoding"


def test_a_column_that_no_row_has(plain: Path) -> None:
    (plain / "metadata.jsonl").write_text("\n".join(map(json.dumps, ROWS)), encoding="utf-8")
    with pytest.raises(DataError, match=r"captions: got 'texts'; no row has such a column. Did you mean text\?"):
        load(plain, captions=("text", "texts"))


def test_rows_of_one_picture_are_its_captions(plain: Path) -> None:
    rows = [{"file_name": "p00.png", "text": text} for text in ("one", "two")]
    (plain / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    data = load(plain)
    assert [(r.key, r.captions) for r in data.records] == [("p00.png", ("one", "two"))]
    assert reasons(data) == {"not in the table": 2}


# Bad pictures


def test_bad_pictures_are_listed_and_skipped(plain: Path) -> None:
    good = encoded(picture(9))
    (plain / "cut.png").write_bytes(good[: len(good) // 2])
    (plain / "empty.jpg").write_bytes(b"")
    (plain / "text.jpg").write_text("not a picture", encoding="utf-8")
    (plain / "tiny.png").write_bytes(encoded(picture(9, 8, 8)))
    (plain / "long.png").write_bytes(encoded(picture(9, 640, 40)))
    huge = Image.new("1", (10_000, 6_401))
    huge.save(plain / "huge.png")
    picture(1).save(plain / "moves.gif", save_all=True, append_images=[picture(2)])
    (plain / "README.md").write_text("about", encoding="utf-8")
    (plain / "bad.json").write_text("{", encoding="utf-8")
    (plain / "gone.png").symlink_to(plain / "nowhere.png")
    data = load(plain)
    assert len(data.records) == 3
    assert {s.key: s.reason for s in data.skipped} == {
        "cut.png": "broken",
        "empty.jpg": "broken",
        "text.jpg": "broken",
        "tiny.png": "tiny",
        "long.png": "too long",
        "huge.png": "huge",
        "moves.gif": "animated",
        "README.md": "other file",
        "gone.png": "unreadable",
    }
    assert all(skipped.detail for skipped in data.skipped)
    assert data.notes[0].startswith("9 skipped: 3 broken")


def test_nothing_left_is_an_error_that_says_why(tmp_path: Path) -> None:
    (tmp_path / "bad.png").write_bytes(b"no")
    with pytest.raises(DataError, match=r"no picture is left to train on. 1 skipped: bad.png: broken"):
        load(tmp_path)
    with pytest.raises(DataError, match="no such folder or file"):
        load(tmp_path / "nowhere")
    (tmp_path / "note.txt").write_text("hello", encoding="utf-8")
    with pytest.raises(DataError, match="neither a folder nor a tar"):
        load(tmp_path / "note.txt")


def test_a_table_of_links_says_what_to_do(tmp_path: Path) -> None:
    parquet.write_table(pyarrow.Table.from_pylist([{"URL": "http://x.example", "TEXT": "t"}]), tmp_path / "a.parquet")
    with pytest.raises(DataError, match="img2dataset first"):
        load(tmp_path / "a.parquet")
    parquet.write_table(pyarrow.Table.from_pylist([{"image": {"bytes": b"x"}, "text": "t"}]), tmp_path / "c.parquet")
    with pytest.raises(DataError, match="pictures themselves: write them to files"):
        load(tmp_path / "c.parquet")
    (tmp_path / "d.csv").write_text("file_name;text\na.png;hola\n", encoding="utf-8")
    with pytest.raises(DataError, match="divided by commas"):
        load(tmp_path / "d.csv")
    (tmp_path / "b.parquet").write_bytes(b"PAR1 and then nothing")
    with pytest.raises(DataError, match="damaged Parquet"):
        load(tmp_path / "b.parquet")


def test_a_hostile_table(plain: Path, tmp_path: Path) -> None:
    secret = tmp_path / "secret.png"
    secret.write_bytes(encoded(picture(50)))
    rows = [
        {"file_name": "p00.png", "text": "\ud800 fine", "mask": "../secret.png"},
        {"file_name": "../secret.png", "text": "up"},
        {"file_name": str(secret), "text": "absolute"},
        {"file_name": "a/../../secret.png", "text": "round about"},
        {"file_name": "nul\0.png", "text": "nul"},
        {"file_name": ["p01.png"], "text": "a list"},
        {"file_name": "nowhere.png", "text": "missing"},
    ]
    lines = [json.dumps(row) for row in rows] + ["{", "[1]", "[" * 100_000]
    (plain / "metadata.jsonl").write_text("\n".join(lines), encoding="utf-8")
    data = load(plain, masks=True)
    assert [(r.key, r.captions, r.mask) for r in data.records] == [("p00.png", ("? fine",), None)]
    assert reasons(data) == {"outside": 4, "broken row": 4, "missing file": 1, "not in the table": 2}


def test_a_hostile_tar(tmp_path: Path) -> None:
    secret = tmp_path / "secret.png"
    secret.write_bytes(encoded(picture(50)))
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w") as file:

        def add(name: str, data: bytes = b"", **attributes: Any) -> None:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            for key, value in attributes.items():
                setattr(member, key, value)
            file.addfile(member, io.BytesIO(data) if data else None)

        add("../../escape.png", encoded(picture(1)))
        add("/absolute.png", encoded(picture(2)))
        add("soft.png", type=tarfile.SYMTYPE, linkname=str(secret))
        add("hard.png", type=tarfile.LNKTYPE, linkname="../secret.png")
        add("device.png", type=tarfile.CHRTYPE, devmajor=1, devminor=5)
        add("fifo.png", type=tarfile.FIFOTYPE)
        add("twice.png", encoded(picture(3)))
        add("twice.png", encoded(picture(4)))
        add("words.txt", b"no picture")
        add("good.png", encoded(picture(5)))
        add("good.json", b'{"text": "a caption", "x": NaN}')
    before = sorted(tmp_path.rglob("*"))
    data = load(path)
    assert sorted(tmp_path.rglob("*")) == before, "nothing is unpacked"
    assert reasons(data) == {"link": 4, "duplicate name": 1, "no picture": 1}
    assert data.records[-2].captions == ("a caption",)
    assert picture(50).tobytes() not in {r.open().tobytes() for r in data.records}


def test_a_tar_that_lies_or_ends_early(tmp_path: Path) -> None:
    whole = tar(tmp_path / "a.tar", {f"{i}.png": encoded(picture(i)) for i in range(3)}).read_bytes()
    with tarfile.open(tmp_path / "a.tar") as file:
        last = file.getmembers()[-1]
    (tmp_path / "a.tar").write_bytes(whole[: last.offset_data + last.size // 2])
    data = load(tmp_path / "a.tar")
    assert (len(data.records), set(reasons(data))) == (2, {"broken"})
    lying = tarfile.TarInfo("big.png")
    lying.size = 2**40
    (tmp_path / "b.tar").write_bytes(whole[: last.offset] + lying.tobuf() + b"little")
    data = load(tmp_path / "b.tar")
    assert (len(data.records), set(reasons(data))) == (2, {"broken"})
    (tmp_path / "c.tar").write_bytes(whole[: last.offset] + b"\xff" * 512 + whole[last.offset :])
    data = load(tmp_path / "c.tar")
    assert (len(data.records), set(reasons(data))) == (2, {"broken"})


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_without_permission(plain: Path) -> None:
    (plain / "p01.png").chmod(0)
    data = load(plain)
    assert (len(data.records), reasons(data)) == (2, {"unreadable": 1})


def test_a_picture_that_is_gone_when_it_is_needed(plain: Path) -> None:
    data = load(plain)
    (plain / "p01.png").unlink()
    with pytest.raises(ImageError, match=r"p01\.png: cannot be read any more"):
        data.records[1].open()


# Duplicates and masks


def test_equal_and_near_pictures(tmp_path: Path) -> None:
    root = folder(tmp_path / "some", 4)
    picture(0).save(root / "same.bmp")
    (root / "same.txt").write_text("another caption", encoding="utf-8")
    picture(1).resize((96, 96), Image.Resampling.BICUBIC).save(root / "near.jpg", quality=60)
    data = load(root)
    assert reasons(data) == {"duplicate": 1}
    assert {r.key: r.captions for r in data.records}["p00.png"] == ("pattern 0", "another caption")
    assert len(load(root, duplicates="keep").records) == 6
    near = load(root, near_duplicates=8)
    assert {s.key: s.reason for s in near.skipped} == {"same.bmp": "duplicate", "p01.png": "near duplicate"}
    assert "from near.jpg" in next(s.detail for s in near.skipped if s.key == "p01.png")


def test_masks(plain: Path) -> None:
    half = Image.new("L", (48, 48))
    half.paste(255, (0, 0, 24, 48))
    half.save(plain / "p00.mask.png")
    Image.new("L", (10, 10)).save(plain / "p01.mask.png")
    (plain / "p02.mask.png").write_bytes(b"no")
    assert len(load(plain).records) == 3, "masks are no pictures"
    data = load(plain, masks=True)
    assert [r.key for r in data.records] == ["p00.png"]
    assert {s.key: s.detail for s in data.skipped}["p01.png"] == "the mask has 10x10 pixels, the picture 48x48"
    assert reasons(data) == {"broken mask": 2}
    assert data.records[0].digest != load(plain).records[0].digest


def test_the_digest_is_of_the_content(plain: Path, tmp_path: Path) -> None:
    digest = load(plain).digest
    (tmp_path / "moved").mkdir()
    for i, name in enumerate(["p02", "p00", "p01"]):
        Image.open(plain / f"{name}.png").save(tmp_path / "moved" / f"{i}.bmp")
        (tmp_path / "moved" / f"{i}.txt").write_bytes((plain / f"{name}.txt").read_bytes())
    assert load(tmp_path / "moved").digest == digest
    (plain / "p00.txt").write_text("another caption", encoding="utf-8")
    assert load(plain).digest != digest


def test_what_was_measured_is_kept(plain: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from lienzo.training.data import dataset

    opened: list[str] = []
    real = dataset.open_image
    monkeypatch.setattr(dataset, "open_image", lambda data, name=None: (opened.append(str(name)), real(data, name))[1])
    first = load(plain, cache=tmp_path / "cache")
    assert len(opened) == 3
    again = load(plain, cache=tmp_path / "cache")
    assert (len(opened), again.digest) == (3, first.digest)
    (plain / "p01.png").write_bytes(encoded(picture(77)))
    changed = load(plain, cache=tmp_path / "cache")
    assert (opened[3:], changed.digest != first.digest) == (["p01.png"], True)
    (tmp_path / "cache" / "measures.jsonl").write_bytes(b'{"stamp": 1}\n\xff[]\n{}')
    assert load(plain, cache=tmp_path / "cache").digest == changed.digest


def test_what_was_measured_before_a_stop_is_kept(plain: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from lienzo.training.data import dataset

    def stop(done: int, of: int) -> None:
        if done == 2:
            raise KeyboardInterrupt

    config = DataConfig(sources=[plain], resolution=64, cache=tmp_path / "cache")  # type: ignore[list-item]
    with pytest.raises(KeyboardInterrupt):
        load_data(config, stop)
    opened: list[str] = []
    real = dataset.open_image
    monkeypatch.setattr(dataset, "open_image", lambda data, name=None: (opened.append(str(name)), real(data, name))[1])
    assert len(load_data(config).records) == 3 and opened == ["p02.png"]
