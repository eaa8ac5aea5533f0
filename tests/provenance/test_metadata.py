import hashlib
import io
import json
import shutil
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rfc8785
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from lienzo import Pipeline, Request, Result
from lienzo.errors import MetadataError, OutputError
from lienzo.images import open_image
from lienzo.provenance.infotext import infotext
from lienzo.provenance.metadata import KEY, MAX_RECORD, Record, read
from lienzo.provenance.writing import encode, save
from lienzo.weights import convert, load


def png_with(text: str | None = None, *, key: str = KEY, compressed: bool = False) -> bytes:
    chunks = PngInfo()
    if text is not None:
        chunks.add_itxt(key, text, zip=compressed)
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8)).save(buffer, "PNG", pnginfo=chunks)
    return buffer.getvalue()


def changed(result: Result, **changes: Any) -> str:
    """A record with some values replaced, its digest right unless replaced too."""
    document = json.loads(Record.of(result).canonical)
    if "request" in changes and "request_digest" not in changes:
        try:
            changes["request_digest"] = hashlib.sha256(rfc8785.dumps(changes["request"])).hexdigest()
        except ValueError:
            changes["request_digest"] = "0" * 64
    return json.dumps({**document, **changes})


def test_every_format_holds_the_record(result: Result, target: Path) -> None:
    record = read(save(result, target))
    assert record == Record.of(result)
    assert record.request == result.request
    assert record.request_digest == result.request.digest
    assert record.weights.digest == result.bundle.digest


def test_the_recorded_request_makes_the_same_pixels(sd1: Pipeline, result: Result, target: Path) -> None:
    again = sd1(read(save(result, target)).request)
    assert bool((again.pixels == result.pixels).all())
    assert Record.of(again).picture == read(target).picture


def test_lossless_formats_hold_the_pixels(result: Result, tmp_path: Path) -> None:
    for name in ("a.png", "a.webp"):
        with Image.open(save(result, tmp_path / name)) as image:
            assert np.array_equal(np.asarray(image), np.asarray(result.image))


def test_the_web_ui_text_is_where_its_readers_look(result: Result, target: Path) -> None:
    record = Record.of(result)
    text = infotext(record.request, model="model", model_digest=record.weights.digest, version=record.software.lienzo)
    with Image.open(save(result, target)) as image:
        if target.suffix == ".png":
            assert image.info["parameters"] == text
        else:
            exif = image.getexif()
            comment = exif.get_ifd(0x8769)[0x9286]
            assert exif.endian == ">"
            assert comment == b"UNICODE\0" + text.encode("utf-16-be")


def test_no_place_of_this_machine_is_in_the_file(result: Result, target: Path, model: Callable[[str], Path]) -> None:
    data = save(result, target).read_bytes()
    for word in (str(model("sd1").parent), str(target.parent), str(Path.home()), str(Path.cwd())):
        for encoding in ("utf-8", "utf-16-be", "utf-16-le"):
            assert word.encode(encoding) not in data


def test_the_same_result_gives_the_same_bytes(result: Result) -> None:
    for kind in ("PNG", "JPEG", "WEBP"):
        assert encode(result, kind) == encode(result, _again(kind))


def _again(kind: str) -> str:
    return kind


def test_odd_characters_survive(sd1: Pipeline, tmp_path: Path) -> None:
    prompt = '<b>&amp;\x00\x01\x7f\ufffe\uffff]]>\u202eabc\r\n\t"\\ 😀'
    made = sd1(Request(prompt, seed=1, steps=1, width=16, height=16))
    for ending in ("png", "jpg", "webp"):
        assert read(save(made, tmp_path / f"a.{ending}")).request.prompt == prompt


@pytest.mark.filterwarnings("ignore:.*prompt too long")
def test_the_longest_requests(sd1: Pipeline, tmp_path: Path) -> None:
    made = sd1(Request("😀" * 10_000, negative_prompt="😀" * 10_000, seed=1, steps=1, width=16, height=16))
    for ending in ("png", "webp"):
        assert read(save(made, tmp_path / f"a.{ending}")).request == made.request
    with pytest.raises(OutputError, match=r"Save as \.png or \.webp"):
        save(made, tmp_path / "a.jpg")
    assert not (tmp_path / "a.jpg").exists()


def test_chunks_after_the_pixels_are_found(result: Result) -> None:
    body = KEY.encode() + b"\0\0\0\0\0" + Record.of(result).canonical
    chunk = struct.pack(">I", len(body)) + b"iTXt" + body + struct.pack(">I", zlib.crc32(b"iTXt" + body))
    data = png_with()
    end = data.rindex(b"IEND") - 4
    assert read(data[:end] + chunk + data[end:]) == Record.of(result)


def test_a_record_rewritten_as_an_attribute_is_found(result: Result) -> None:
    from xml.sax.saxutils import quoteattr

    from lienzo.provenance.metadata import NAMESPACE

    packet = (
        '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
        f'<rdf:Description xmlns:q="{NAMESPACE}" q:record={quoteattr(Record.of(result).canonical.decode())}/></rdf:RDF></x:xmpmeta>'
    )
    buffer = io.BytesIO()
    result.image.save(buffer, "WEBP", xmp=packet.encode())
    assert read(buffer.getvalue()) == Record.of(result)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "not a PNG, JPEG or WebP"),
        (b"\x89PNG\r\n\x1a\n", "not a PNG|damaged|cannot be read"),
        (png_with(), "no record of lienzo's"),
        (png_with("a cat\nSteps: 20", key="parameters"), "another program's"),
        (png_with("not json"), "not JSON"),
        (png_with("[" * 100_000), "not JSON"),
        (png_with('{"version": 1, "request": {"seed": ' + "9" * 5000 + "}}"), "record"),
        (png_with('{"version": 1, "request": {"seed": NaN}}'), "not JSON"),
        (png_with("[]"), "holds no request"),
        (png_with("{}"), "holds no request"),
        (png_with('{"request": {}, "version": 3}'), "Update lienzo"),
        (png_with('{"request": {}, "version": true}'), "record"),
        (png_with("x" * (MAX_RECORD + 1)), "more than"),
        (png_with("x" * (8 << 20), compressed=True), "no record|damaged|too large"),
    ],
)
def test_damaged_and_hostile_pictures(data: bytes, message: str) -> None:
    with pytest.raises(MetadataError, match=message):
        read(data)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"request_digest": "0" * 64}, "edited or damaged"),
        ({"request_digest": None}, "edited or damaged"),
        ({"request": {"prompt": "x", "seed": 1, "steps": 0}}, "steps"),
        ({"request": {"prompt": "x", "seed": 1, "later_setting": 1}}, "later_setting"),
        ({"request": {"seed": 2**60}}, "damaged"),
        ({"request": {"seed": "1", "prompt": 5}}, "prompt"),
        ({"weights": None}, "weights"),
        ({"weights": {"name": "x" * 1000, "digest": "0" * 64}}, "weights.name"),
        ({"weights": {"name": "x", "digest": "zz"}}, "weights.digest"),
        ({"dtype": "object"}, "dtype"),
        ({"picture": 1}, "picture"),
        ({"software": {"lienzo": 1}}, "software"),
    ],
)
def test_records_with_wrong_values(result: Result, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(MetadataError, match=message):
        read(png_with(changed(result, **changes)))


def test_later_additions_to_the_record_do_no_harm(result: Result) -> None:
    assert read(png_with(changed(result, signature="later"))) == Record.of(result)


@pytest.mark.parametrize(
    "packet",
    [
        b"<x",
        b"\xff\xfe\x00",
        b'<?xml version="1.0"?><!DOCTYPE a [<!ENTITY b "bbbb">]><a>&b;</a>',
        b"<a>" * 100_000,
        b"x" * (5 << 20),
    ],
)
def test_damaged_and_hostile_xmp(packet: bytes) -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8)).save(buffer, "WEBP", xmp=packet)
    with pytest.raises(MetadataError, match="XMP"):
        read(buffer.getvalue())


def test_other_files(tmp_path: Path) -> None:
    with pytest.raises(MetadataError, match="No such file"):
        read(tmp_path / "nothing.png")
    with pytest.raises(MetadataError, match="directory"):
        read(tmp_path)
    bomb = png_with("{}").replace(struct.pack(">II", 8, 8), struct.pack(">II", 60_000, 60_000), 1)
    header = bomb.index(b"IHDR")
    bomb = bomb[: header + 17] + struct.pack(">I", zlib.crc32(bomb[header : header + 17])) + bomb[header + 21 :]
    with pytest.raises(MetadataError, match="pixels"):
        read(bomb)


@given(data=st.data())
@settings(deadline=None, max_examples=150)
def test_no_mutation_gets_past_the_errors(result: Result, data: st.DataObject) -> None:
    """Damage anywhere either leaves the record whole or is a MetadataError; it never reads as another request."""
    kind = data.draw(st.sampled_from(["PNG", "JPEG", "WEBP"]))
    original = encode(result, kind)
    broken = bytearray(original)
    for _ in range(data.draw(st.integers(1, 6))):
        broken[data.draw(st.integers(0, len(broken) - 1))] = data.draw(st.integers(0, 255))
    end = data.draw(st.one_of(st.just(len(broken)), st.integers(0, len(broken))))
    try:
        record = read(bytes(broken[:end]))
    except MetadataError:
        return
    assert record.request == result.request


def test_the_name_is_never_a_path(result: Result) -> None:
    from dataclasses import replace

    from lienzo.provenance.metadata import public_name

    for name, public in (
        ("/home/user/models/sd.safetensors", "sd.safetensors"),
        (r"C:\models\sd", "sd"),
        ("models/of/mine/", "mine"),
        ("org/name", "org/name"),
        ("boceto", "boceto"),
    ):
        assert public_name(replace(result.bundle, name=name)) == public


@pytest.mark.parametrize(
    ("file", "change"),
    [
        ("scheduler/scheduler_config.json", {"beta_end": 0.02}),
        ("unet/config.json", {"attention_head_dim": 4}),
        ("tokenizer/tokenizer_config.json", {"pad_token": "!", "added_tokens_decoder": {}}),
    ],
)
def test_settings_are_recorded_apart_from_the_weights(
    file: str, change: dict[str, Any], model: Callable[[str], Path], tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(model("sd1"), tmp_path / "model"))
    before = load(folder)
    path = folder / file
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    after = load(folder)
    assert before.digest == after.digest
    assert before.settings_digest != after.settings_digest


@pytest.mark.parametrize("family", ["sd1", "sd2", "inpaint"])
def test_every_layout_has_the_same_settings(family: str, model: Callable[[str], Path], tmp_path: Path) -> None:
    single = convert(model(family), tmp_path / "model.safetensors")
    again = convert(single, tmp_path / "model")
    assert len({load(place).settings_digest for place in (model(family), single, again)}) == 1


def test_reading_leaves_the_warning_filters_alone(result: Result, monkeypatch: pytest.MonkeyPatch) -> None:
    """They belong to the whole process, so other threads would feel it."""
    monkeypatch.setattr("warnings.catch_warnings", lambda: pytest.fail("the filters were changed"))
    assert read(encode(result, "PNG")) == Record.of(result)
    open_image(encode(result, "PNG"))
