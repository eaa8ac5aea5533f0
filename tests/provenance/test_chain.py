"""From a prompt to a verdict: every layer together, on the real model, with real keys, database and files."""

import contextlib
import io
import json
import os
import signal
import sqlite3
import struct
import subprocess
import sys
import time
import zlib
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import c2pa
import numpy as np
import pytest
import torch
from click.testing import CliRunner
from forging import chunk
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw, ImageFilter, PngImagePlugin

import checkers
from lienzo import Pipeline, Request, read, save
from lienzo.cli import lienzo
from lienzo.errors import BlockedError, ConfigError, LienzoError, LogError, MetadataError, ReceiptError, SafetyError
from lienzo.gallery import fill
from lienzo.images import png, to_tensor
from lienzo.pipeline.generate import finished, generate
from lienzo.pipeline.request import InputImage
from lienzo.provenance import credentials
from lienzo.provenance.certificates import anchors, issuer
from lienzo.provenance.encoding import encode64
from lienzo.provenance.energy import Spent
from lienzo.provenance.examine import examine
from lienzo.provenance.files import Kind
from lienzo.provenance.keys import Keystore
from lienzo.provenance.log import Log, verify_proof, write_export
from lienzo.provenance.marking import Marked, Notary
from lienzo.provenance.perceptual import perceptual_hash
from lienzo.provenance.receipt import Checked, Entry, Safety, Said, SignedReceipt, opens
from lienzo.provenance.settings import Settings
from lienzo.provenance.verify import Sources, verify
from lienzo.provenance.watermark import mark
from lienzo.provenance.writing import encode
from lienzo.studio import House, house

POLICY = """
[[rules]]
name = "circles"
action = "deny"
terms = ["circle"]
reason = "no circles here"
"""
CANARY = "zanahoria-9f41 sobre un fondo blanco"


@pytest.fixture(scope="module")
def marked_pipeline() -> Pipeline:
    return Pipeline.load(mark="full")


def run(*arguments: str | Path) -> tuple[int, str]:
    done = CliRunner().invoke(lienzo, [str(one) for one in arguments])
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return done.exit_code, done.stdout


def states(path: Path, *options: str | Path) -> tuple[int, dict[str, str]]:
    code, output = run("verify", path, "--json", *options)
    document = json.loads(output)
    return code, {layer["name"]: layer["state"] for layer in document["layers"]}


def make(pipeline: Pipeline, path: Path, prompt: str = "a red circle", seed: int = 7, **options: int) -> Marked:
    result = pipeline(Request(prompt, seed=seed, steps=4, **options))
    assert isinstance(result, Marked)
    save(result, path)
    return result


@pytest.mark.parametrize("ending", ["png", "jpg", "webp"])
def test_a_picture_proves_itself(marked_pipeline: Pipeline, tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"a.{ending}"
    make(marked_pipeline, path)
    code, found = states(path)
    assert code == 0
    pixels = "unknown" if ending == "jpg" else "holds"
    every = ("credentials", "receipt", "watermark", "log", "likeness")
    assert found == {
        **dict.fromkeys(every, "holds"),
        "pixels": pixels,
        "prompt": "unknown",
        "regeneration": "unknown",
        "safety": "unknown",
    }


def test_an_even_picture_is_not_called_tampered(marked_pipeline: Pipeline, tmp_path: Path) -> None:
    """Of gradients, JPEG turns more of the perceptual hash's signs than two pictures that look alike may differ in."""
    (bare,) = finished(generate(marked_pipeline.bundle, [Request("a red circle", seed=7, steps=2)]))
    nothing = Checked(status="not_checked")
    notary = House(Settings.read(mark="full")).notary
    ramp = np.add.outer(np.arange(256), np.arange(256)) / 2
    unlike = 0
    for quality in (1, 10, 50, 95):
        image = Image.fromarray(np.repeat(ramp[..., None], 3, axis=2).astype(np.uint8))
        even = replace(bare, pixels=to_tensor(image))
        path = tmp_path / f"{quality}.jpg"
        made = notary.mark(even, Spent(1.0, None), safety=Safety(prompt=nothing, picture=nothing))
        path.write_bytes(encode(made, "JPEG", quality=quality))
        code, found = states(path)
        assert code == 0 and found["likeness"] in ("holds", "unknown")
        unlike += found["likeness"] == "unknown"
    assert unlike


@pytest.mark.parametrize("ending", ["png", "jpg", "webp"])
def test_credentials_that_are_kept_elsewhere_say_nothing_against_a_picture(tmp_path: Path, ending: str) -> None:
    xmp = (
        '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"><rdf:Description '
        'rdf:about="" xmlns:dcterms="http://purl.org/dc/terms/" dcterms:provenance="https://example.org/manifest"/></rdf:RDF></x:xmpmeta>'
    )
    path, text = tmp_path / f"a.{ending}", PngImagePlugin.PngInfo()
    text.add_itxt("XML:com.adobe.xmp", xmp)
    Image.new("RGB", (64, 64), "red").save(path, **({"pnginfo": text} if ending == "png" else {"xmp": xmp.encode()}))
    code, output = run("verify", path, "--json")
    told = {layer["name"]: layer for layer in json.loads(output)["layers"]}["credentials"]
    assert (code, told["state"]) == (1, "unknown") and "https://example.org/manifest" in told["says"]


def test_finds_the_record_when_everything_beside_the_pixels_is_gone(marked_pipeline: Pipeline, tmp_path: Path) -> None:
    path, stripped, export = tmp_path / "a.png", tmp_path / "b.jpg", tmp_path / "log.jsonl"
    result = make(marked_pipeline, path)
    Image.open(path).convert("RGB").save(stripped, quality=80)
    assert run("log", "export", export)[0] == 0
    code, found = states(stripped, "--log", export)
    assert code == 1, "a mark is a pointer and no proof"
    assert (found["credentials"], found["receipt"]) == ("absent", "absent")
    assert (found["watermark"], found["log"], found["likeness"]) == ("holds",) * 3
    told = json.loads(run("verify", stripped, "--json")[1])
    assert (
        told["record"] == result.signed.receipt.id
        and "leads to a record, signed by you, that is proved to be in the log" in told["says"]
    )


def test_the_very_pixels_of_a_record_are_proved_without_its_file(marked_pipeline: Pipeline, tmp_path: Path) -> None:
    make(marked_pipeline, tmp_path / "a.png")
    Image.open(tmp_path / "a.png").convert("RGB").save(tmp_path / "b.png")
    code, found = states(tmp_path / "b.png")
    assert (code, found["receipt"], found["pixels"], found["log"]) == (0, "absent", "holds", "holds")


def test_what_is_seen_is_what_is_verified(marked_pipeline: Pipeline, tmp_path: Path) -> None:
    """The recorded pixels are in each of these files, and something else is shown."""
    make(marked_pipeline, tmp_path / "a.png")
    image = Image.open(tmp_path / "a.png").convert("RGB")
    other = Image.new("RGB", image.size, "red")
    image.save(tmp_path / "animated.png", save_all=True, append_images=[other], default_image=True)
    image.save(tmp_path / "animated.webp", save_all=True, append_images=[other], lossless=True, duration=[1, 100_000])
    for name in ("animated.png", "animated.webp"):
        assert run("verify", tmp_path / name)[0] == 2
    clear = image.convert("RGBA")
    clear.putalpha(Image.linear_gradient("L").resize(image.size))
    clear.save(tmp_path / "clear.png")
    turned = Image.Exif()
    turned[0x0112] = 3
    image.save(tmp_path / "turned.png", exif=turned)
    for name in ("clear.png", "turned.png"):
        code, found = states(tmp_path / name)
        assert code == 1 and found["pixels"] != "holds", name
    # to lienzo the recorded pixels, to others another picture: it says so
    bare = png(image)
    brighter = bare[:33] + chunk(b"gAMA", struct.pack(">I", 1_000_000)) + bare[33:]
    tables = chunk(b"acTL", struct.pack(">II", 1, 0)) + chunk(
        b"acTL", struct.pack(">II", 0, 0)
    )  # PIL gives up, browsers play
    frame = chunk(b"fcTL", struct.pack(">IIIIIHHBB", 0, *image.size, 0, 0, 1, 1, 0, 0))
    pixels = next(body for kind, body in chunks(png(other)) if kind == b"IDAT")
    moving = bare[:33] + tables + bare[33:-12] + frame + chunk(b"fdAT", bytes(3) + b"\1" + pixels) + bare[-12:]
    raw = zlib.decompress(next(body for kind, body in chunks(bare) if kind == b"IDAT"))
    shortsighted = bare.replace(
        next(chunk(kind, body) for kind, body in chunks(bare) if kind == b"IDAT"),
        chunk(
            b"IDAT", b"\x08\x1d" + zlib.compress(raw, 9)[2:]
        ),  # libpng shows the rows before a match of 256 bytes back
    )
    steered = bare[:33] + chunk(b"tEXt", b"colorspace\0CMY") + bare[33:]  # inverted colours in ImageMagick
    for data in (brighter, moving, shortsighted, steered):
        (tmp_path / "forged.png").write_bytes(data)
        code, output = run("verify", tmp_path / "forged.png", "--json")
        (layer,) = [one for one in json.loads(output)["layers"] if one["name"] == "pixels"]
        assert code == 1 and layer["state"] == "unknown" and "other programs may show another picture" in layer["says"]


def test_transparency_over_another_ground_is_another_picture(marked_pipeline: Pipeline, tmp_path: Path) -> None:
    """Laid over white, every pixel is the recorded one; over black, a corner is dark."""
    make(marked_pipeline, tmp_path / "a.png")
    seen = Image.open(tmp_path / "a.png").convert("RGB")
    corner = seen.crop((0, 0, 1, 1))
    alphas = range(255 - min(corner.getpixel((0, 0))), 256)  # type: ignore[arg-type, type-var]
    for alpha in alphas:  # the clearest one that gives this very colour over white
        colour = [round(255 - (255 - level) * 255 / max(alpha, 1)) for level in corner.getpixel((0, 0))]  # type: ignore[union-attr]
        clear = Image.new("RGBA", (1, 1), (*colour, alpha))
        if (
            Image.alpha_composite(Image.new("RGBA", (1, 1), "white"), clear).convert("RGB").tobytes()
            == corner.tobytes()
        ):
            break
    assert alpha < 255
    forged = seen.convert("RGBA")
    forged.paste(clear, (0, 0))
    forged.save(tmp_path / "b.png")
    assert "other programs may show another picture" in run("verify", tmp_path / "b.png")[1]
    assert states(tmp_path / "b.png")[0] == 1


def test_a_picture_of_another_size_or_without_its_mark_is_told(marked_pipeline: Pipeline, tmp_path: Path) -> None:
    """As if somebody had found a way around the file's structure."""
    make(marked_pipeline, tmp_path / "a.jpg")
    store = Keystore()
    found = examine((tmp_path / "a.jpg").read_bytes(), trust_anchors=anchors())
    judged = partial(verify, sources=Sources(keys=store.keys(), watermark_keys=store.secrets("watermark")))
    assert judged(found).says == "This very file is as it was signed, by a key that you trust."
    blurred = judged(replace(found, image=found.image.filter(ImageFilter.GaussianBlur(3))))
    assert blurred.outcome == "proved" and "a watermark, but none is found" in blurred.says
    larger = judged(replace(found, image=found.image.resize((192, 192))))
    assert larger.outcome == "tampered"
    assert {one.name: one.state for one in larger.layers}["pixels"] == "fails"


def test_a_pixel_edited_under_the_credentials_is_caught(marked_pipeline: Pipeline, tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    make(marked_pipeline, path)
    path.write_bytes(with_pixels(path.read_bytes(), one_pixel_off))
    code, found = states(path)
    assert code == 3
    assert (found["credentials"], found["pixels"]) == ("fails", "fails")


def test_a_receipt_moved_to_another_picture_is_caught(marked_pipeline: Pipeline, tmp_path: Path) -> None:
    first, second = tmp_path / "a.png", tmp_path / "b.png"
    make(marked_pipeline, first)
    make(marked_pipeline, second, "a blue square on a yellow background", seed=8)
    other = np.asarray(Image.open(second).convert("RGB"))
    first.write_bytes(with_pixels(first.read_bytes(), lambda _: other))
    code, found = states(first)
    assert code == 3
    assert (found["credentials"], found["pixels"], found["watermark"]) == ("fails",) * 3


def test_a_stranger_proves_nothing(
    marked_pipeline: Pipeline, tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, trust = tmp_path / "a.png", tmp_path / "trust.json"
    make(marked_pipeline, path)
    trust.write_text(run("keys", "export")[1], encoding="utf-8")
    monkeypatch.setenv("LIENZO_HOME", str(tmp_path / "elsewhere"))
    code, found = states(path)
    assert (code, found["credentials"], found["receipt"], found["log"]) == (1, "unknown", "unknown", "unknown")
    assert run("keys", "trust", trust)[0] == 0
    code, found = states(path)
    assert (code, found["credentials"], found["receipt"], found["log"]) == (0, "holds", "holds", "holds")


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_nobody_puts_anothers_receipt_into_credentials_of_theirs(
    marked_pipeline: Pipeline, tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch, kind: Kind
) -> None:
    """Who checks trusts Ana and Bea; Bea draws on Ana's picture, and signs it with Ana's receipt."""
    path = tmp_path / "a.png"
    make(marked_pipeline, path)
    found = credentials.read(path.read_bytes(), trust_anchors=anchors())
    receipt, lists = json.loads(found.receipt or ""), [run("keys", "export")[1]]
    assert found.key_id == receipt["receipt"]["receipt"]["credentials"] == Keystore().signer("credentials").public.id

    monkeypatch.setenv("LIENZO_HOME", str(tmp_path / "bea"))
    bea = issuer()
    Keystore().signer("receipts")
    lists.append(run("keys", "export")[1])
    picture, file = Image.open(path).convert("RGB"), io.BytesIO()
    ImageDraw.Draw(picture).text((6, 4), "GUILTY")
    picture.save(file, kind)
    forged = tmp_path / "forged"
    forged.write_bytes(credentials.add(file.getvalue(), kind, issuer=bea, title="x", receipt=receipt).data)

    monkeypatch.setenv("LIENZO_HOME", str(tmp_path / "checker"))
    for number, text in enumerate(lists):
        (tmp_path / f"{number}.json").write_text(text, encoding="utf-8")
        assert run("keys", "trust", tmp_path / f"{number}.json")[0] == 0
    assert states(path)[0] == 0
    code, layers = states(forged)
    assert (code, layers["credentials"], layers["receipt"]) == (3, "holds", "fails")


def test_pictures_outlive_a_change_of_keys(marked_pipeline: Pipeline, tmp_path: Path) -> None:
    """Also one that was made before the change and written after it."""
    make(marked_pipeline, tmp_path / "a.png")
    late = marked_pipeline(Request("a blue star", seed=8, steps=1))
    for purpose in ("ca", "credentials", "receipts", "log"):
        Keystore().rotate(purpose)
    save(late, tmp_path / "b.png")
    assert [states(tmp_path / name)[0] for name in ("a.png", "b.png")] == [0, 0]


def test_without_its_metadata_a_revoked_signers_picture_is_not_proved(
    marked_pipeline: Pipeline, tmp_path: Path
) -> None:
    path, stripped = tmp_path / "a.png", tmp_path / "b.png"
    make(marked_pipeline, path)
    Image.open(path).convert("RGB").save(stripped)
    old = Keystore().signer("receipts").public.id
    Keystore().rotate("receipts")
    assert states(stripped)[0] == 0, "changing keys takes nothing away"
    Keystore().revoke(old, "stolen")
    code, found = states(stripped)
    assert (code, found["watermark"], found["log"], states(path)[0]) == (1, "holds", "unknown", 1)


@pytest.mark.parametrize("bad", ["é" * 86, "%%", "spare bits", "no padding"])
@pytest.mark.parametrize("field", ["key", "signature"])
def test_a_receipt_that_is_no_proper_base64(signed: SignedReceipt, tmp_path: Path, field: str, bad: str) -> None:
    document, file = signed.document, io.BytesIO()
    good = document[field]
    document[field] = {"spare bits": with_spare_bits(good), "no padding": good.rstrip("=")[:-1]}.get(bad, bad)
    Image.new("RGB", (64, 64)).save(file, "PNG")
    made = credentials.add(file.getvalue(), "PNG", issuer=issuer(), title="x", receipt={"receipt": document})
    (tmp_path / "a.png").write_bytes(made.data)
    code, output = run("verify", tmp_path / "a.png", "--json")
    (layer,) = [one for one in json.loads(output)["layers"] if one["name"] == "receipt"]
    assert (code, layer["state"]) == (3, "fails") and "cannot be read" in layer["says"]


@pytest.mark.parametrize(("purpose", "layer"), [("receipts", "receipt"), ("credentials", "credentials")])
def test_a_revoked_key_proves_nothing(marked_pipeline: Pipeline, tmp_path: Path, purpose: str, layer: str) -> None:
    path = tmp_path / "a.png"
    make(marked_pipeline, path)
    Keystore().revoke(Keystore().signer(purpose).public.id, "stolen")
    code, found = states(path)
    assert (code, found[layer]) == (1, "unknown"), "neither proved nor tampered with"


def test_a_log_whose_key_was_revoked_takes_no_more(
    marked_pipeline: Pipeline, tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(marked_pipeline, tmp_path / "a.png")
    Keystore().revoke(Keystore().signer("log").public.id, "stolen")
    notary = Notary(Settings.read(mark="full"))
    with pytest.raises(LogError, match=r"begin another log, by moving it or with LIENZO_LOG"):
        _ = notary.log
    monkeypatch.setenv("LIENZO_LOG", str(home / "second.db"))
    assert Notary(Settings.read(mark="full")).log.size == 0


def test_a_running_process_signs_the_log_with_the_key_that_is_current(
    marked_pipeline: Pipeline, tmp_path: Path, home: Path
) -> None:
    """Two notaries on one home, as two processes have them."""
    full = Settings.read(mark="full")
    one, other = Notary(full), Notary(full)
    bare = Pipeline(marked_pipeline.bundle, Settings.read(mark="off"))(Request("a red circle", seed=7, steps=1))
    spent = Spent(seconds=1.0, joules=None)
    for notary in (one, other, one):
        assert isinstance(notary.mark(bare, spent), Marked)
    old = Keystore().signer("log").public
    Keystore().rotate("log")
    new = Keystore().signer("log").public
    assert isinstance(other.mark(bare, spent), Marked)
    last = one.mark(bare, spent)
    assert isinstance(last, Marked) and last.proof is not None
    verify_proof(last.proof, last.proof.entry, new, None)
    assert one.log.size == other.log.size == 5
    Keystore().revoke(old.id, "stolen long ago")
    assert isinstance(one.mark(bare, spent), Marked)  # the head is signed by another
    Keystore().revoke(new.id, "stolen")
    for notary in (one, other):
        with pytest.raises(LogError, match="A key of the log was revoked"):
            notary.mark(bare, spent)


def test_anyone_reads_the_watermark_and_its_record_in_an_export(
    marked_pipeline: Pipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, stripped, export, trust = (tmp_path / name for name in ("a.png", "b.png", "log.jsonl", "trust.json"))
    make(marked_pipeline, path)
    Image.open(path).convert("RGB").save(stripped)
    assert run("log", "export", export)[0] == 0
    trust.write_text(run("keys", "export")[1], encoding="utf-8")
    monkeypatch.setenv("LIENZO_HOME", str(tmp_path / "elsewhere"))
    code, found = states(stripped, "--log", export)
    assert (code, found["watermark"], found["log"]) == (1, "unknown", "unknown")
    assert run("keys", "trust", trust)[0] == 0
    assert states(stripped, "--log", export) == (0, {**found, "pixels": "holds", "log": "holds", "likeness": "holds"})


def test_a_mark_copied_to_another_picture_proves_nothing(marked_pipeline: Pipeline, tmp_path: Path) -> None:
    result = make(marked_pipeline, tmp_path / "a.png")
    other = Pipeline(marked_pipeline.bundle, Settings.read(mark="off"))(
        Request("three yellow stars on a blue background", seed=8, steps=8)
    )
    mark(other.image, int(result.signed.receipt.id, 16), b"no key of ours").save(tmp_path / "b.png")
    code, found = states(tmp_path / "b.png")
    assert (code, found["watermark"], found["log"], found["likeness"]) == (1, "unknown", "holds", "unknown")


@pytest.mark.parametrize("given", ["file", "picture"])
def test_a_picture_that_starts_from_another_says_so(marked_pipeline: Pipeline, tmp_path: Path, given: str) -> None:
    first, second = tmp_path / "a.png", tmp_path / "b.png"
    make(marked_pipeline, first)
    init = first if given == "file" else Image.open(first)
    save(marked_pipeline(Request("a blue circle", seed=3, steps=4, init=init)), second)
    found = credentials.read(second.read_bytes(), trust_anchors=anchors())
    actions = [one["action"] for one in found.assertions["c2pa.actions.v2"]["actions"]]
    assert found.state == "Trusted" and actions[:2] == ["c2pa.opened", "c2pa.edited"]
    # a file keeps its own credentials, a bare picture has none
    assert found.parent == ("the picture to start from", "Trusted" if given == "file" else None)
    assert json.loads(found.receipt or "")["receipt"]["receipt"]["parents"][0]["role"] == "init"


def test_a_picture_that_the_checker_blocks_is_not_returned(
    tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = ("generate", "a red circle", "--steps", "1", "--out", tmp_path / "a.png", "--mark", "full")
    monkeypatch.setenv("LIENZO_SAFETY", str(checkers.write(tmp_path / "strict", limits=-1.0)))  # every cosine is above
    done = CliRunner().invoke(lienzo, [*map(str, options)])
    assert done.exit_code == 2 and "Blocked" in done.stderr
    assert not (tmp_path / "a.png").exists() and not (home / "log.db").exists()
    monkeypatch.setenv("LIENZO_SAFETY", str(checkers.write(tmp_path / "mild", limits=1.0)))
    assert run(*options)[0] == 0
    found = credentials.read((tmp_path / "a.png").read_bytes(), trust_anchors=anchors())
    safety = json.loads(found.receipt or "")["receipt"]["receipt"]["safety"]
    assert (safety["prompt"]["status"], safety["picture"]["status"]) == ("passed", "passed")
    assert safety["picture"]["by"][0].startswith("checker:")


def test_a_log_that_was_set_back_is_caught(marked_pipeline: Pipeline, tmp_path: Path, home: Path) -> None:
    make(marked_pipeline, tmp_path / "first.png", "a blue star", seed=9)
    with contextlib.closing(sqlite3.connect(home / "log.db")) as connection:
        connection.execute("VACUUM INTO ?", [str(tmp_path / "older.db")])
    make(marked_pipeline, tmp_path / "a.png")
    replace_log(home, tmp_path / "older.db")
    make(Pipeline(marked_pipeline.bundle, Settings.read(mark="full")), tmp_path / "b.png", "a blue star", seed=10)
    code, found = states(tmp_path / "a.png")
    assert (code, found["log"]) == (3, "fails")


def test_another_log_of_the_same_key_says_nothing_of_a_picture(
    marked_pipeline: Pipeline, tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two projects, each with its log: neither is the other, changed. The key may change meanwhile; the logs stay what they are."""
    make(marked_pipeline, tmp_path / "a.png")
    with monkeypatch.context() as patch:
        patch.setenv("LIENZO_LOG", str(tmp_path / "project.db"))
        project = Pipeline(marked_pipeline.bundle, Settings.read(mark="full"))
        for seed in (8, 9):
            make(project, tmp_path / f"{seed}.png", "a blue star", seed=seed)
        other = house(project.settings).notary.log.origin
    own = house(marked_pipeline.settings).notary.log.origin
    assert own != other
    Keystore().rotate("log")
    for seed in (1, 2, 3):  # the own log is longer than the other was
        make(marked_pipeline, tmp_path / f"own{seed}.png", seed=seed)
    assert house(marked_pipeline.settings).notary.log.origin == own
    code, found = states(tmp_path / "9.png")  # compared with the own log
    assert (code, found["log"]) == (0, "holds"), "by the proof that it carries"
    monkeypatch.setenv("LIENZO_LOG", str(tmp_path / "project.db"))
    assert states(tmp_path / "9.png")[1]["log"] == "holds"
    assert states(tmp_path / "a.png")[0] == 0


def replace_log(home: Path, by: Path) -> None:
    for file in home.glob("log.db*"):
        file.unlink()
    by.rename(home / "log.db")
    house.__globals__["_house"].cache_clear()


def test_who_keeps_a_log_makes_nobody_elses_pictures(
    marked_pipeline: Pipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who checks trusts Ana's keys and Max's log key; Max logs a picture of his own as one of Ana's."""
    result = make(marked_pipeline, tmp_path / "real.png")
    Image.open(tmp_path / "real.png").convert("RGB").save(tmp_path / "bare.png")
    ana = run("keys", "export", "--name", "Ana")[1]
    real = result.signed.entry
    ana_key = real.key

    monkeypatch.setenv("LIENZO_HOME", str(tmp_path / "max"))
    fake = Image.new("RGB", (256, 256), "white")
    ImageDraw.Draw(fake).text((20, 100), "Ana never made this", (0, 0, 0), font_size=20)
    fake = mark(fake, 0x123456789ABC, b"x" * 32)
    fake.save(tmp_path / "fake.png")
    told = {
        "id": "123456789abc", "key": ana_key, "picture": InputImage.of(fake).sha256, "perceptual": perceptual_hash(fake),
    }  # fmt: skip
    mine = Keystore().signer("receipts")
    said = Said(**real.model_copy(update=told).model_dump(exclude={"signature"}))
    forged = [
        Entry(**said.model_dump(), signature=real.signature),
        Entry(**said.model_dump(), signature=encode64(mine.sign(said.message))),
        Entry(**said.model_dump(), signature="%%"),
    ]
    assert not any(one.signed_by(result.signed.public) for one in forged[:2])
    with Log.open(tmp_path / "max.db", signer=Keystore().signer("log")) as log:
        for one in forged:
            log.append(one.canonical, one.id)
        log.append(real.canonical, real.id)  # that, he may
        log.append(real.canonical, "123456789abc")
        for record in (real.id, "123456789abc"):
            log.append(b"no record at all", record)
        write_export(log, tmp_path / "max.jsonl")
    kept = json.loads(run("keys", "export", "--name", "Max")[1])
    kept["keys"] = [key for key in kept["keys"] if key["purpose"] == "log"]

    monkeypatch.setenv("LIENZO_HOME", str(tmp_path / "checker"))
    for name, text in (("ana", ana), ("max", json.dumps(kept))):
        (tmp_path / f"{name}.json").write_text(text, encoding="utf-8")
        assert run("keys", "trust", tmp_path / f"{name}.json")[0] == 0
    code, found = states(tmp_path / "fake.png", "--log", tmp_path / "max.jsonl")
    assert (code, found["log"], found["pixels"]) == (1, "unknown", "absent")
    told_of_real = json.loads(run("verify", tmp_path / "bare.png", "--log", tmp_path / "max.jsonl", "--json")[1])
    assert told_of_real["outcome"] == "proved" and f"signed by Ana (key {ana_key[:16]})" in told_of_real["says"]


def test_an_older_export_says_nothing_about_a_younger_picture(marked_pipeline: Pipeline, tmp_path: Path) -> None:
    older, newer = tmp_path / "older.jsonl", tmp_path / "newer.jsonl"
    make(marked_pipeline, tmp_path / "a.png")
    assert run("log", "export", older)[0] == 0
    make(marked_pipeline, tmp_path / "b.png", "a blue star", seed=9)
    code, found = states(tmp_path / "b.png", "--log", older)
    assert (code, found["log"]) == (0, "unknown")
    assert run("log", "export", newer)[0] == 0
    code, found = states(tmp_path / "b.png", "--log", older, "--log", newer)
    assert (code, found["log"]) == (0, "holds")


def test_what_is_no_log_is_a_mistake_and_no_verdict(marked_pipeline: Pipeline, tmp_path: Path) -> None:
    path, other = tmp_path / "a.png", tmp_path / "notes.txt"
    make(marked_pipeline, path)
    other.write_text("no log\n", encoding="utf-8")
    for place in (path, tmp_path / "bare.png"):
        if place != path:  # nothing in it leads to any log
            Image.new("RGB", (64, 64)).save(place)
        done = CliRunner().invoke(lienzo, ["verify", str(place), "--log", str(other)])
        assert (done.exit_code, done.stdout) == (2, "") and "not an exported log" in done.stderr


def test_a_log_that_cannot_be_read_now_is_unknown(
    marked_pipeline: Pipeline, tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(marked_pipeline, tmp_path / "a.png")
    nobody = f"postgresql://nobody@/none?host={tmp_path}"  # no server has its socket there
    code, found = states(tmp_path / "a.png", "--log", nobody)
    assert (code, found["receipt"], found["log"]) == (0, "holds", "holds"), "by the proof that it carries"
    assert nobody.partition("@")[2].partition("?")[0] in run("verify", tmp_path / "a.png", "--log", nobody)[1]
    Image.open(tmp_path / "a.png").convert("RGB").save(tmp_path / "b.png")
    code, found = states(tmp_path / "b.png", "--log", nobody)
    assert (code, found["receipt"], found["log"]) == (1, "absent", "unknown")
    assert run("log", "export", tmp_path / "log.jsonl")[0] == 0
    code, found = states(tmp_path / "a.png", "--log", nobody, "--log", tmp_path / "log.jsonl")
    assert (code, found["log"]) == (0, "holds")


@pytest.mark.parametrize(
    ("harm", "expected"),
    [("revoked", (0, "unknown")), ("no log", (0, "holds")), ("cut off", (0, "holds")), ("headless", (0, "holds"))],
)
def test_whatever_became_of_the_own_log_the_other_layers_are_told(
    marked_pipeline: Pipeline, tmp_path: Path, home: Path, harm: str, expected: tuple[int, str]
) -> None:
    path = tmp_path / "a.png"
    make(marked_pipeline, path)
    match harm:
        case "revoked":
            Keystore().revoke(Keystore().signer("log").public.id, "stolen")
        case "no log" | "cut off":  # then the proof that the picture carries counts
            with contextlib.closing(sqlite3.connect(home / "log.db")) as connection:
                connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            for file in home.glob("log.db-*"):
                file.unlink()
            whole = (home / "log.db").read_bytes()
            (home / "log.db").write_bytes(whole[: len(whole) // 2] if harm == "cut off" else b"no database" * 1000)
        case "headless":
            with contextlib.closing(sqlite3.connect(home / "log.db")) as connection, connection:
                connection.execute("DELETE FROM log_head")
    code, found = states(path)
    assert (code, found["log"]) == expected
    every = ("credentials", "receipt", "pixels", "watermark", "likeness")
    assert [found[name] for name in every] == ["holds"] * 5


def test_only_the_own_log_is_opened_as_a_database(
    marked_pipeline: Pipeline, tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stranger's file of SQLite's can make whoever asks it compute for ever, and opening it may write to it."""
    path, evil = tmp_path / "a.png", tmp_path / "log.db"
    make(marked_pipeline, path)
    with contextlib.closing(sqlite3.connect(evil)) as connection:
        connection.execute(
            "CREATE VIEW log_head(format, note, peaks) AS WITH RECURSIVE n(i) AS "
            "(SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT 1, 'x', x'' FROM n WHERE i < 0"
        )
    before = evil.read_bytes()
    done = CliRunner().invoke(lienzo, ["verify", str(path), "--log", str(evil)])
    assert done.exit_code == 2 and "lienzo log export" in done.stderr
    monkeypatch.setenv("LIENZO_LOG", str(evil))  # one's own by name, but somebody exchanged it
    code, output = run("verify", path)
    assert code == 0 and "as the proof that the picture carries shows" in output and str(evil) in output
    assert evil.read_bytes() == before and not list(tmp_path.glob("log.db-*"))
    monkeypatch.delenv("LIENZO_LOG")
    assert states(path, "--log", home / "log.db")[1]["log"] == "holds"
    for url in (f"sqlite:///{evil}", f"file:{evil}?mode=ro://", f"sqlite+pysqlite:///{evil}", "http://[::1]/"):
        done = CliRunner().invoke(lienzo, ["verify", str(path), "--log", url])
        assert done.exit_code == 2 and "neither your own log's" in done.stderr
    assert evil.read_bytes() == before and not list(tmp_path.glob("log.db-*"))
    monkeypatch.setenv("LIENZO_LOG", f"sqlite:///{home / 'log.db'}")  # one's own may have any form
    assert states(path)[1]["log"] == states(path, "--log", f"sqlite:///{home / 'log.db'}")[1]["log"] == "holds"


def test_the_same_request_gives_the_same_marked_picture(marked_pipeline: Pipeline) -> None:
    requests = [Request("a red circle", seed=seed, steps=2) for seed in (1, 2)]
    both = marked_pipeline(requests)
    alone = [marked_pipeline(request) for request in requests]
    bare = Pipeline(marked_pipeline.bundle, Settings.read(mark="off"))(requests[0])
    for one, other in zip(both, alone, strict=True):
        assert isinstance(one, Marked) and isinstance(other, Marked)
        assert one.image.tobytes() == other.image.tobytes()
        assert one.signed.receipt.id == other.signed.receipt.id
        assert one.signed.receipt.prompt == other.signed.receipt.prompt  # the salt of a record is kept
        assert one.proof and other.proof and one.proof.index != other.proof.index
    assert not isinstance(bare, Marked)
    assert bare.pixels.equal(both[0].pixels)
    assert bare.image.tobytes() != both[0].image.tobytes()


def test_credentials_leave_every_pixel_as_it_is(marked_pipeline: Pipeline, tmp_path: Path, home: Path) -> None:
    pipeline = Pipeline(marked_pipeline.bundle, Settings.read(mark="credentials"))
    result = make(pipeline, tmp_path / "a.png")
    assert result.signed.receipt.marks == ("credentials",)
    assert result.signed.receipt.picture.sha256 == result.signed.receipt.unmarked
    assert not (home / "log.db").exists()
    code, found = states(tmp_path / "a.png")
    assert (code, found["credentials"], found["receipt"], found["pixels"]) == (0, "holds", "holds", "holds")
    assert (found["watermark"], found["log"]) == ("absent", "absent")


def test_a_private_picture_holds_no_prompt(marked_pipeline: Pipeline, tmp_path: Path, home: Path) -> None:
    pipeline = Pipeline(marked_pipeline.bundle, Settings.read(mark="full", private=True))
    result = make(pipeline, tmp_path / "a.png", CANARY)
    canary = CANARY.split()[0].encode()
    places = [tmp_path / "a.png", *(path for path in home.rglob("*") if path.is_file())]
    assert len(places) > 5  # picture, keys, certificates, log, records
    for place in places:
        assert canary not in place.read_bytes(), place
    with pytest.raises(MetadataError):
        read(tmp_path / "a.png")
    kept = house(pipeline.settings).notary.records.get(result.signed.receipt.id)
    assert opens(result.signed.receipt, result.request, kept.salt)
    assert not opens(result.signed.receipt, result.request.replace(prompt="another"), kept.salt)
    assert result.signed.receipt.request != result.request.digest
    code, found = states(tmp_path / "a.png", "--regenerate")
    assert (code, found["regeneration"]) == (0, "holds")  # its request is kept here, encrypted


def test_a_private_prompt_is_shown_by_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recwarn: pytest.WarningsRecorder
) -> None:
    monkeypatch.chdir(tmp_path)
    words = [*CANARY.split(), *["zanahoria-9f41"] * 100]  # bare words are shown as one prompt; so many do not fit
    options = ("--private", "--mark", "full", "--steps", "1", "--seed", "4242", "--json")
    done = CliRunner().invoke(lienzo, ["generate", *words, *options])
    assert done.exit_code == 0, done.stderr
    assert "One prompt." in done.stderr and "did not see its last" in done.stderr
    assert "zanahoria" not in done.output
    (path,) = tmp_path.iterdir()
    assert path.name == "lienzo-private.png", "the seed helps to guess"
    result = Pipeline.load(mark="full", private=True)(Request(CANARY, seed=1, steps=1))
    assert "zanahoria" not in repr(result) and not recwarn.list


def test_a_private_picture_is_not_found_by_the_same_one_made_openly(marked_pipeline: Pipeline) -> None:
    request = Request("a red circle", seed=7, steps=2)
    hidden = Pipeline(marked_pipeline.bundle, Settings.read(mark="full", private=True))(request)
    open_ = marked_pipeline(request)
    assert isinstance(hidden, Marked) and isinstance(open_, Marked)
    for of in ("id", "prompt", "request", "unmarked", "picture"):
        assert getattr(hidden.signed.receipt, of) != getattr(open_.signed.receipt, of), of


def test_pictures_that_keep_their_prompts_are_not_made_in_private(
    marked_pipeline: Pipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LIENZO_PRIVATE", "1")
    monkeypatch.setenv("LIENZO_MARK", "full")
    with pytest.raises(ConfigError, match="LIENZO_PRIVATE=0"):
        next(fill(marked_pipeline.bundle, [Request("a red circle", seed=1, steps=1)], tmp_path / "kept"))
    assert not (tmp_path / "kept").exists()


def test_what_has_no_room_for_a_watermark_says_so(marked_pipeline: Pipeline) -> None:
    with pytest.warns(UserWarning, match="56x56 pixels have no room for a watermark"):
        result = marked_pipeline(Request("a red circle", seed=1, steps=1, width=56, height=56))
    assert isinstance(result, Marked) and result.signed.receipt.marks == ("credentials", "log")


def test_what_cannot_be_signed_is_not_logged(marked_pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    marked_pipeline(Request("a red circle", seed=1, steps=1))
    size = house(marked_pipeline.settings).notary.log.size
    monkeypatch.setenv("LIENZO_TSA", "nonsense")
    with pytest.raises(LienzoError, match="nonsense"):
        marked_pipeline(Request("a red circle", seed=1, steps=1))
    assert house(marked_pipeline.settings).notary.log.size == size


def test_a_label_is_not_lost_when_a_picture_is_made_again(marked_pipeline: Pipeline, tmp_path: Path) -> None:
    options = ("--steps", "1", "--mark", "full")
    assert run("generate", "a login form", *options, "--simulation", "es", "--out", tmp_path / "a.png")[0] == 0
    assert run("generate", "--from", tmp_path / "a.png", "--mark", "full", "--out", tmp_path / "b.png")[0] == 0
    first, second = (Image.open(tmp_path / name).convert("RGB").tobytes() for name in ("a.png", "b.png"))
    assert first == second
    assert "SIMULACIÓN" in run("verify", tmp_path / "b.png")[1]


def test_a_picture_from_marked_noise_is_made_again_from_it(
    tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def again(name: str, *options: str) -> tuple[bool, str]:
        told = CliRunner().invoke(lienzo, ["generate", "--from", str(path), *options, "--out", str(tmp_path / name)])
        assert told.exit_code == 0, told.output
        first, second = (Image.open(file).convert("RGB").tobytes() for file in (path, tmp_path / name))
        return first == second, told.stderr

    monkeypatch.setenv("LIENZO_MARK", "full")  # as where nothing is set
    path = tmp_path / "a.png"
    assert run("generate", "a circle", "--seed", "7", "--steps", "1", "--mark", "latent", "--out", path)[0] == 0
    same, said = again("b.png")
    assert same and "Warning" not in said
    same, said = again("c.png", "--mark", "full")
    assert not same and "made from marked noise (--mark latent): that comes again only with" in said
    same, said = again("d.png", "--init", str(path), "--strength", "1")
    assert not same and "Warning" not in said, "which is another request"
    monkeypatch.setenv("LIENZO_HOME", str(tmp_path / "another's"))
    same, said = again("e.png")
    assert not same and "its maker's watermark key" in said

    stripped = PngImagePlugin.PngInfo()
    with Image.open(path) as image:
        for name, text in image.text.items():  # type: ignore[attr-defined]
            stripped.add_itxt(name, text)
        image.save(path, pnginfo=stripped)
    same, said = again("f.png")
    assert not same and "too, so on another kind of processor or from marked noise" in said


def test_a_record_that_was_made_twice_shows_its_own_entry(marked_pipeline: Pipeline, tmp_path: Path) -> None:
    make(marked_pipeline, tmp_path / "a.png")
    Image.open(tmp_path / "a.png").convert("RGB").save(tmp_path / "b.png")
    make(marked_pipeline, tmp_path / "again.png")
    assert "Entry 0 of" in run("verify", tmp_path / "b.png")[1], "the first, not the last"
    assert "Entry 1 of" in run("verify", tmp_path / "again.png")[1]


@pytest.mark.parametrize("changed_first", [True, False])
def test_every_log_is_looked_into_whatever_their_order(
    marked_pipeline: Pipeline, tmp_path: Path, changed_first: bool
) -> None:
    make(marked_pipeline, tmp_path / "a.png")
    good, changed = tmp_path / "good.jsonl", tmp_path / "changed.jsonl"
    assert run("log", "export", good)[0] == 0
    text = good.read_text()
    changed.write_text(text.replace('"data":"', '"data":"eyJ', 1) if '"data":"' in text else text[:-20] + "\n")
    logs = [changed, good] if changed_first else [good, changed]
    code, output = run("verify", tmp_path / "a.png", "--log", logs[0], "--log", logs[1])
    assert code == 0 and "It tells nothing, as it was changed or is damaged" in output
    Image.open(tmp_path / "a.png").convert("RGB").save(tmp_path / "b.png")
    assert states(tmp_path / "b.png", "--log", changed)[0] == 1


def test_a_key_signs_for_its_purpose_alone(marked_pipeline: Pipeline, tmp_path: Path) -> None:
    result = make(marked_pipeline, tmp_path / "a.png")
    receipt, log_key = result.signed.receipt, Keystore().signer("log")
    found = examine((tmp_path / "a.png").read_bytes(), trust_anchors=anchors())
    forged = replace(found, document={"receipt": SignedReceipt.sign(receipt, log_key).document})
    layers = {one.name: one for one in verify(forged, Sources(keys=Keystore().keys())).layers}
    assert layers["receipt"].state == "unknown" and "not trusted here" in layers["receipt"].says
    assert {key.id for key in Keystore().log_keys()} == {log_key.public.id}


def test_a_revealed_prompt_is_the_pictures_or_is_not(marked_pipeline: Pipeline, tmp_path: Path) -> None:
    result = make(marked_pipeline, tmp_path / "a.png")
    code, output = run("prompts", "show", result.signed.receipt.id, "--json")
    assert code == 0
    reveal = tmp_path / "reveal.json"
    reveal.write_text(output, encoding="utf-8")
    code, found = states(tmp_path / "a.png", "--reveal", reveal)
    assert (code, found["prompt"]) == (0, "holds")
    document = json.loads(output)
    document["request"]["prompt"] = "a green circle"
    reveal.write_text(json.dumps(document), encoding="utf-8")
    code, found = states(tmp_path / "a.png", "--reveal", reveal)
    assert (code, found["prompt"]) == (1, "fails"), "no proof, and nothing against the picture"


def test_erasing_a_record_leaves_the_proofs(marked_pipeline: Pipeline, tmp_path: Path) -> None:
    result = make(marked_pipeline, tmp_path / "a.png")
    house(marked_pipeline.settings).notary.records.erase(result.signed.receipt.id)
    assert states(tmp_path / "a.png")[0] == 0


def test_a_simulation_says_so_in_the_picture_and_in_all_that_goes_with_it(
    marked_pipeline: Pipeline, tmp_path: Path
) -> None:
    pipeline = Pipeline(marked_pipeline.bundle, Settings.read(mark="full", simulation="es"))
    result = make(pipeline, tmp_path / "a.png")
    assert result.signed.receipt.simulation == "SIMULACIÓN"
    bare = np.asarray(Pipeline(marked_pipeline.bundle, Settings.read(mark="off"))(result.request).image, np.int16)
    changed = np.abs(np.asarray(result.image, np.int16) - bare).max(axis=2) > 40
    assert 0.1 < changed.mean() < 0.6  # a band across the middle
    assert states(tmp_path / "a.png")[0] == 0
    with c2pa.Reader(tmp_path / "a.png") as reader:
        manifest = reader.get_active_manifest()
    assert manifest["title"].startswith("SIMULACIÓN: ")
    (actions,) = [one["data"]["actions"] for one in manifest["assertions"] if one["label"] == "c2pa.actions.v2"]
    assert [one["action"] for one in actions] == ["c2pa.created", "c2pa.edited", "c2pa.watermarked.bound"]
    assert actions[1]["description"] == "Burnt in a visible label: SIMULACIÓN"


def test_the_policy_blocks_before_anything_is_made(marked_pipeline: Pipeline, tmp_path: Path, home: Path) -> None:
    policy = tmp_path / "policy.toml"
    policy.write_text(POLICY, encoding="utf-8")
    pipeline = Pipeline(marked_pipeline.bundle, Settings.read(mark="full", policy=str(policy)))
    with pytest.raises(BlockedError, match="no circles"):
        pipeline(Request("a red circle", seed=7, steps=1))
    assert not (home / "log.db").exists()
    result = pipeline(Request("a blue square", seed=7, steps=1))
    assert isinstance(result, Marked)
    assert result.signed.receipt.safety.prompt.status == "passed"
    assert result.signed.receipt.safety.picture.status == "not_checked"


def test_a_check_that_fails_returns_no_picture(marked_pipeline: Pipeline, home: Path) -> None:
    def broken(image: Image.Image) -> None:
        raise OSError("lost")

    rules = House(Settings.read(mark="full"))
    rules.checks = (broken,)  # type: ignore[assignment]
    run = rules.make(marked_pipeline.bundle, Request("a red circle", seed=7, steps=1))
    with pytest.raises(SafetyError, match="OSError"):
        finished(run)
    assert not (home / "log.db").exists()


@pytest.mark.parametrize("what", ["latents", "generators", "steps"])
def test_what_was_given_beside_the_request_is_told(marked_pipeline: Pipeline, tmp_path: Path, what: str) -> None:
    """A receipt does not say that another picture came of the request; nor is that picture taken for one that was changed."""
    rules, path = House(Settings.read(mark="full")), tmp_path / "a.png"
    request = Request("a red circle", seed=1, steps=2)
    latents = marked_pipeline(Request("a blue square on a black background", seed=5, steps=2)).latents[None]
    options: dict[str, Any] = {
        "latents": {"latents": latents}, "generators": {"generators": [torch.Generator().manual_seed(2)]}, "steps": {},
    }[what]  # fmt: skip
    run_ = rules.make(marked_pipeline.bundle, request, **options)
    sent: torch.Tensor | None = None
    while True:
        try:
            step = run_.send(sent)
        except StopIteration as stopped:
            (result,) = stopped.value
            break
        sent = latents.clone() if what == "steps" else None
        step.x.zero_()  # a copy
    save(result, path)
    assert result.signed.receipt.given == read(path).given == (what,)
    code, output = run("verify", path, "--json", "--regenerate")
    layers = {layer["name"]: layer for layer in json.loads(output)["layers"]}
    assert (code, layers["receipt"]["state"], layers["regeneration"]["state"]) == (0, "holds", "unknown")
    for name in ("receipt", "regeneration"):
        assert "not repeatable from its request alone" in layers[name]["says"] and what in layers[name]["says"]
    assert "not repeatable from its request alone" in run("inspect", path)[1]
    done = CliRunner().invoke(lienzo, ["generate", "--from", str(path), "--out", str(tmp_path / "b.png")])
    assert done.exit_code == 0 and "was not made from its request alone" in done.stderr
    assert read(tmp_path / "b.png").given is None


def test_generators_of_the_seeds_are_nothing_beside_the_request(marked_pipeline: Pipeline) -> None:
    requests = [Request("a red circle", seed=seed, steps=1) for seed in (1, 2)]
    bundle, own = marked_pipeline.bundle, [torch.Generator().manual_seed(seed) for seed in (1, 2)]
    assert [one.given for one in finished(generate(bundle, requests, generators=own))] == [(), ()]
    shared = [torch.Generator().manual_seed(1)] * 2
    mixed = [requests[0], requests[1].replace(seed=1, steps=2)]
    assert [one.given for one in finished(generate(bundle, mixed, generators=shared))] == [("generators",)] * 2


def test_another_watermark_key_is_told_when_a_picture_is_made_again(marked_pipeline: Pipeline, tmp_path: Path) -> None:
    make(marked_pipeline, tmp_path / "a.png")
    options = ["generate", "--from", str(tmp_path / "a.png"), "--mark", "full", "--out"]
    same = CliRunner().invoke(lienzo, [*options, str(tmp_path / "b.png")])
    Keystore().rotate("watermark")
    other = CliRunner().invoke(lienzo, [*options, str(tmp_path / "c.png")])
    assert (same.exit_code, other.exit_code) == (0, 0)
    assert "a watermark of another key" in other.stderr and "a watermark of another key" not in same.stderr


def test_a_mark_in_the_initial_noise_is_another_picture_that_comes_again(
    marked_pipeline: Pipeline, tmp_path: Path
) -> None:
    pipeline = Pipeline(marked_pipeline.bundle, Settings.read(mark="latent"))
    result = make(pipeline, tmp_path / "a.png")
    assert result.signed.receipt.marks == ("credentials", "watermark", "log", "latent")
    assert result.signed.receipt.given == ()
    assert not result.pixels.equal(make(marked_pipeline, tmp_path / "b.png").pixels)
    code, found = states(tmp_path / "a.png", "--regenerate")
    assert (code, found["regeneration"]) == (0, "holds")


def test_private_needs_a_mark() -> None:
    with pytest.raises(ConfigError, match="private"):
        Settings(mark="off", private=True)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("[pictures]\nmark = 'fully'\n", "full"),
        ("[pictures]\nmarks = 'full'\n", "unknown key 'marks'"),
        ("[picture]\n", "got picture; expected the tables"),
        ("mark", "no TOML"),
    ],
)
def test_a_mistaken_setting_is_an_error(home: Path, text: str, told: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LIENZO_MARK")
    (home / "config.toml").write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match=told):
        Settings.read()


def test_settings_are_the_callers_then_the_environments_then_the_files(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("LIENZO_MARK")
    assert Settings.read().mark == "full"
    (home / "config.toml").write_text("[pictures]\nmark = 'credentials'\ntenant = 'art'\n", encoding="utf-8")
    assert (Settings.read().mark, Settings.read().tenant) == ("credentials", "art")
    monkeypatch.setenv("LIENZO_MARK", "off")
    assert Settings.read().mark == "off"
    assert Settings.read(mark="latent").mark == "latent"
    monkeypatch.setenv("LIENZO_MARK", "some")
    with pytest.raises(ConfigError, match="LIENZO_MARK"):
        Settings.read()


@given(data=st.data())
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_changed_receipt_is_accepted(signed: SignedReceipt, data: st.DataObject) -> None:
    """Every byte of the canonical form, changed in any way: unreadable, or its signature fails."""
    text = bytearray(signed.canonical)
    place = data.draw(st.integers(0, len(text) - 1))
    text[place] ^= data.draw(st.integers(1, 255))
    try:
        changed = SignedReceipt.read(bytes(text))
        held = changed.holds
    except ReceiptError:
        return
    assert not held or changed == signed


@pytest.mark.parametrize("part", ["weights", "software", "adapters", "embeddings"])
def test_a_receipt_with_anything_unknown_in_it_is_refused(signed: SignedReceipt, part: str) -> None:
    document, more = signed.document, {"approved_by": "the queen"}
    rows = {
        "adapters": {"name": "a", "digest": "0" * 64, "unet": 1.0, "text_encoder": 1.0},
        "embeddings": {"token": "a", "digest": "0" * 64},
    }
    receipt = document["receipt"]
    receipt[part] = [rows[part] | more] if part in rows else receipt[part] | more
    with pytest.raises(ReceiptError, match="approved_by"):
        SignedReceipt.read(document)


@pytest.fixture(scope="module")
def signed(marked_pipeline: Pipeline, tmp_path_factory: pytest.TempPathFactory) -> SignedReceipt:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LIENZO_HOME", str(tmp_path_factory.mktemp("signing")))
        result = marked_pipeline(Request("a red circle", seed=7, steps=1))
    assert isinstance(result, Marked)
    return result.signed


@pytest.mark.parametrize("kills", [pytest.param(3), pytest.param(200, marks=pytest.mark.slow)])
def test_killed_anywhere_it_returns_no_unmarked_picture_and_loses_no_entry(
    tmp_path: Path, home: Path, kills: int
) -> None:
    """A process makes one picture after the other until it is killed, and notes each that it has been given."""
    noted = tmp_path / "noted"
    noted.touch()
    script = tmp_path / "work.py"
    script.write_text(
        "import sys, itertools\n"
        "from pathlib import Path\n"
        "from lienzo import Pipeline, Request, save\n"
        "pipeline = Pipeline.load(mark='full')\n"
        "folder, first = Path(sys.argv[1]), int(sys.argv[2])\n"
        "with open(folder / 'noted', 'a', buffering=1) as noted:\n"
        "    for seed in itertools.count(first):\n"
        "        result = pipeline(Request('a red circle', seed=seed, steps=1))\n"
        "        path = save(result, folder / f'{seed}.png')\n"
        "        noted.write(f'{path.name} {result.signed.receipt.id}\\n')\n",
        encoding="utf-8",
    )
    rng = np.random.default_rng(kills)
    environment = {**os.environ, "LIENZO_HOME": str(home), "OMP_NUM_THREADS": "1"}
    for life in range(kills):
        before = noted.stat().st_size
        worker = subprocess.Popen([sys.executable, script, tmp_path, str(1000 * life)], env=environment)
        deadline = time.monotonic() + 120
        while noted.stat().st_size == before and worker.poll() is None and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(rng.uniform(0, 0.5))
        worker.send_signal(signal.SIGKILL)
        assert worker.wait() == -signal.SIGKILL, "it stopped by itself"
        for part in tmp_path.glob("*.part"):  # what a killed process cannot remove
            part.unlink()
    lines = [line.split() for line in noted.read_text(encoding="utf-8").splitlines()]
    assert len(lines) >= kills
    assert run("log", "check")[0] == 0
    logged = house(Settings.read(mark="full")).notary.log
    for name, record in lines:
        assert logged.find(record), name
    for path in tmp_path.glob("*.png"):
        assert states(path)[0] == 0, path


def with_spare_bits(text: str) -> str:
    """The same bytes in base64, with a bit set that no byte has; where there is no room for one, a digit too many."""
    digits = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
    bare = text.rstrip("=")
    if bare == text:
        return text + "A"
    return bare[:-1] + digits[digits.index(bare[-1]) + 1] + text[len(bare) :]


def one_pixel_off(pixels: np.ndarray) -> np.ndarray:
    changed = pixels.copy()
    changed[5, 5, 0] ^= 1
    return changed


def with_pixels(png: bytes, change: Callable[[np.ndarray], np.ndarray]) -> bytes:
    """The PNG with other pixels and every other chunk as it was."""
    fresh = io.BytesIO()
    Image.fromarray(change(np.asarray(Image.open(io.BytesIO(png)).convert("RGB")))).save(fresh, "PNG")
    data = [chunk for chunk in chunks(fresh.getvalue()) if chunk[0] == b"IDAT"]
    kept = [chunk for chunk in chunks(png) if chunk[0] != b"IDAT"]
    last = next(i for i, chunk in enumerate(kept) if chunk[0] == b"IEND")
    out = b"\x89PNG\r\n\x1a\n"
    for kind, body in [*kept[:last], *data, *kept[last:]]:
        out += struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
    return out


def chunks(png: bytes) -> list[tuple[bytes, bytes]]:
    found, at = [], 8
    while at < len(png):
        (length,) = struct.unpack(">I", png[at : at + 4])
        found.append((png[at + 4 : at + 8], png[at + 8 : at + 8 + length]))
        at += 12 + length
    return found
