"""Features of a real tiny VAE, calibrations of many sets, and the command."""

import io
import json
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from lienzo import Pipeline
from lienzo.cli import lienzo
from lienzo.errors import ConfigError, ImageError, InputError
from lienzo.images import png, to_image
from lienzo.models.bundle import Bundle
from lienzo.provenance.detect import (
    FALSE,
    FEATURES,
    FEWEST,
    Array,
    Calibration,
    aged,
    auc,
    calibrate,
    detect,
    features,
    fit,
    shipped_calibration,
    vae_digest,
)
from lienzo.provenance.examine import see
from lienzo.provenance.keys import Keystore
from lienzo.provenance.watermark import mark
from lienzo.weights import load

SIDE = 32


@dataclass(frozen=True)
class Mark:
    record_id: int
    tag_valid: bool


@pytest.fixture(scope="module")
def bundle(pipeline: Callable[[str], Pipeline]) -> Bundle:
    return pipeline("sd1").bundle


@torch.inference_mode()
def decoded(bundle: Bundle, count: int, first: int = 0) -> list[Image.Image]:
    """Pictures that the VAE's decoder made of noise."""
    shape = (4, SIDE // 8, SIDE // 8)
    latents = [torch.randn(shape, generator=torch.Generator().manual_seed(first + i)) for i in range(count)]
    return [to_image(bundle.vae.decode(z[None])[0]) for z in latents]


def drawn(count: int, first: int = 0) -> list[Image.Image]:
    """Soft noise, which no decoder made."""
    found = []
    for i in range(count):
        small = np.random.default_rng(first + i).integers(0, 256, (SIDE // 4, SIDE // 4, 3), dtype=np.uint8)
        found.append(Image.fromarray(small).resize((SIDE, SIDE), Image.Resampling.BICUBIC))
    return found


@pytest.fixture(scope="module")
def calibration(bundle: Bundle) -> Calibration:
    return calibrate(bundle, decoded(bundle, FEWEST), drawn(FEWEST), about="noise, decoded and drawn")


def clouds(random: np.random.Generator, count: int, apart: float) -> tuple[Array, Array]:
    """Features of two classes that lie `apart` standard deviations from each other in each."""
    shape = (count, len(FEATURES))
    return random.normal(size=shape) + apart, random.normal(size=shape)


def test_features_are_a_pure_function_of_pixels_and_weights(bundle: Bundle, picture: Image.Image) -> None:
    once, again = features(picture, bundle.vae), features(picture.copy(), bundle.vae)
    assert once == again and tuple(once) == FEATURES
    assert all(map(math.isfinite, once.values()))
    assert once != features(picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT), bundle.vae)


def test_it_tells_what_a_decoder_made(bundle: Bundle, calibration: Calibration) -> None:
    """Fresh pictures of both kinds; this VAE's weights are random, so the kinds are easily told apart."""
    ours = [detect(image, bundle, calibration) for image in decoded(bundle, 15, first=1000)]
    others = [detect(image, bundle, calibration) for image in drawn(15, first=1000)]
    assert sum(f.verdict == "ours" for f in ours) >= 10
    assert sum(f.verdict == "not ours" for f in ours) <= 1
    assert sum(f.verdict == "ours" for f in others) <= 1
    for finding in (*ours, *others):
        assert finding.likelihood_ratio is not None
        assert 1 / FEWEST - 1e-9 <= finding.likelihood_ratio <= FEWEST + 1e-9  # no more than the counts can say
        assert calibration.about in finding.means


@pytest.mark.parametrize("value", [0, 255], ids=["black", "white"])
def test_a_flat_picture_is_not_called_ours(bundle: Bundle, calibration: Calibration, value: int) -> None:
    flat = Image.new("L", (SIDE, SIDE), value)
    assert detect(flat, bundle, calibration).verdict != "ours"


@pytest.mark.parametrize("size", [(32, 32), (33, 95), (700, 41)], ids=str)
def test_any_size_from_the_smallest_on(bundle: Bundle, size: tuple[int, int]) -> None:
    image = drawn(1)[0].resize(size)
    assert all(map(math.isfinite, features(image, bundle.vae).values()))


def test_what_is_smaller_than_the_calibration_is_inconclusive(bundle: Bundle, calibration: Calibration) -> None:
    """Its features are other than those of whole pictures: on boceto one render in ten, halved, would be called ours."""
    ours = max(decoded(bundle, 5, first=1000), key=lambda i: detect(i, bundle, calibration).likelihood_ratio or 0)
    assert detect(ours, bundle, calibration).verdict == "ours"
    assert detect(ours, bundle, replace(calibration, smallest=SIDE + 1)).verdict == "inconclusive"


def test_too_small(bundle: Bundle) -> None:
    with pytest.raises(ImageError, match="31x200; both sides must have 32 pixels"):
        features(Image.new("RGB", (31, 200)), bundle.vae)


def test_without_a_calibration_it_is_inconclusive_and_says_how_to_make_one(bundle: Bundle) -> None:
    finding = detect(drawn(1)[0], bundle)
    assert (finding.verdict, finding.likelihood_ratio) == ("inconclusive", None)
    assert "lienzo detect --calibrate" in finding.means


def test_a_calibration_of_another_vae_is_refused(bundle: Bundle, calibration: Calibration) -> None:
    with pytest.raises(ConfigError, match="Name the model that it was made for"):
        detect(drawn(1)[0], bundle, replace(calibration, vae="0" * 64))


def test_a_mark_alone_makes_nothing_ours(bundle: Bundle, calibration: Calibration) -> None:
    image = drawn(1, first=1000)[0]
    marked = detect(image, bundle, calibration, find_mark=lambda _: Mark(record_id=0xABC, tag_valid=True))
    forged = detect(image, bundle, calibration, find_mark=lambda _: Mark(record_id=0xABC, tag_valid=False))
    assert (marked.verdict, marked.likelihood_ratio) == ("inconclusive", None)
    assert "a key of yours, of record 000000000abc" in marked.means and "lienzo verify" in marked.means
    assert (forged.verdict, forged.likelihood_ratio) == ("inconclusive", None) and "no key here" in forged.means


def test_the_digest_does_not_depend_on_how_the_model_was_loaded(model: Callable[[str], Path], bundle: Bundle) -> None:
    assert vae_digest(load(model("sd1"), dtype="bf16")) == vae_digest(bundle)


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    counts=st.tuples(st.integers(FEWEST, 300), st.integers(FEWEST, 300)),
    apart=st.sampled_from([0.0, 0.1, 0.5, 2.0, 50.0]),
)
def test_what_every_calibration_keeps(seed: int, counts: tuple[int, int], apart: float) -> None:
    random = np.random.default_rng(seed)
    ours, others = clouds(random, counts[0], apart)[0], clouds(random, counts[1], apart)[1]
    found = fit(ours, others, vae="0" * 64, about="clouds", smallest=SIDE)
    # it is what its JSON says
    assert Calibration.from_json(found.to_json()) == found
    # the ratio rises with the evidence, on both sides of 1
    evidence = np.linspace(-1e3, 1e3, 101)
    ratios = [found.likelihood_ratio(float(one)) for one in evidence]
    assert ratios == sorted(ratios) and found.likelihood_ratio(0.0) == 1
    # a verdict never contradicts its ratio
    for rows in (ours, others):
        for values in rows:
            ratio, verdict = found.likelihood_ratio(float(found.evidence(values))), found.verdict(values, SIDE)
            assert verdict != "ours" or ratio >= 1
            assert verdict != "not ours" or ratio <= 1
    assert found.auc[1] <= found.auc[0] <= found.auc[2]
    if apart == 50:
        assert found.auc[0] == 1.0


@pytest.mark.parametrize("apart", [0.0, 0.3, 1.0])
def test_the_stated_error_rates_hold_for_further_pictures(apart: float) -> None:
    """Over many calibrations: for a single one they hold on the average of all that could have been drawn."""
    wrong_ours, wrong_others, trials = 0.0, 0.0, 30
    for seed in range(trials):
        random = np.random.default_rng(seed)
        found = fit(*clouds(random, 150, apart), vae="0" * 64, about="clouds", smallest=SIDE)
        ours, others = clouds(random, 1000, apart)
        # a verdict asks for more: that the features be familiar
        wrong_ours += (found.evidence(others) > found.ours_above).mean() / trials
        wrong_others += (found.evidence(ours) < found.others_below).mean() / trials
    assert max(wrong_ours, wrong_others) <= 1.5 * FALSE


def test_auc_is_the_share_of_pairs_in_order() -> None:
    random = np.random.default_rng(0)
    ours, others = random.integers(0, 9, 40) + 1.0, random.integers(0, 9, 30) + 0.0
    pairs = [1.0 if a > b else 0.5 if a == b else 0.0 for a in ours for b in others]
    assert auc(ours, others) == pytest.approx(np.mean(pairs))
    assert auc(others, ours) == pytest.approx(1 - np.mean(pairs))


def test_too_few_pictures() -> None:
    with pytest.raises(InputError, match=r"100 pictures of either kind at least.*got 99"):
        fit(*clouds(np.random.default_rng(0), 99, 1.0), vae="0" * 64, about="clouds", smallest=SIDE)


def test_half_of_the_calibrating_pictures_go_through_jpeg(picture: Image.Image) -> None:
    changed = [aged(picture, np.random.default_rng(i)).tobytes() != picture.tobytes() for i in range(40)]
    assert 10 <= sum(changed) <= 30


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda d: d.pop("bias"), "bias missing"),
        (lambda d: d.update(extra=1), "unknown key 'extra'"),
        (lambda d: d.update(weights=d["weights"][1:]), "weights does not fit"),
        (lambda d: d.update(scale=[0.0] * len(d["scale"])), "does not fit"),
        (lambda d: d.update(features=["x"] * len(d["features"])), "does not fit"),
        (lambda d: d.update(bias="0"), "got str, expected float"),
        (lambda d: d.update(ours=0), "cannot be"),
        (lambda d: d.update(bias=float("nan")), "bias"),
    ],
)  # fmt: skip
def test_damaged_calibrations(
    calibration: Calibration, edit: Callable[[dict[str, object]], object], message: str
) -> None:
    data = json.loads(calibration.to_json())
    edit(data)
    with pytest.raises(ConfigError, match=message):
        Calibration.from_json(json.dumps(data))


@pytest.mark.parametrize("text", ["", "[]", "{", "[" * 100_000, '"x"'], ids=["empty", "list", "cut", "deep", "text"])
def test_what_is_no_calibration(text: str) -> None:
    with pytest.raises(ConfigError, match="not a JSON object"):
        Calibration.from_json(text)


def run(*words: object) -> Result:
    return CliRunner().invoke(lienzo, ["detect", *map(str, words)], prog_name="lienzo")


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory, bundle: Bundle, calibration: Calibration) -> Path:
    folder = tmp_path_factory.mktemp("detect")
    (folder / "tiny.json").write_text(calibration.to_json())
    likeliest = max(decoded(bundle, 15, first=1000), key=lambda i: detect(i, bundle, calibration).likelihood_ratio or 0)
    likeliest.save(folder / "ours.png")
    drawn(1, first=1000)[0].save(folder / "other.png")
    whole = (folder / "other.png").read_bytes()
    (folder / "cut.png").write_bytes(whole[: len(whole) // 2])
    (folder / "garbage.png").write_bytes(bytes(range(256)) * 8)
    Image.new("1", (20_000, 20_000)).save(folder / "bomb.png")
    Image.new("RGB", (16, 16)).save(folder / "small.png")
    return folder


def test_command_says_ours_and_exits_with_0(model: Callable[[str], Path], files: Path) -> None:
    done = run(files / "ours.png", "--model", model("sd1"), "--calibration", files / "tiny.json")
    assert (done.exit_code, done.output.count("\n")) == (0, 2)
    assert f"{files / 'ours.png'}: ours  (likelihood ratio " in done.output and "no proof" in done.output


def test_command_says_what_a_watermark_says_and_no_more(
    model: Callable[[str], Path], files: Path, tmp_path: Path
) -> None:
    image = Image.open(files / "other.png").convert("RGB").resize((128, 128))
    options = ("--model", model("sd1"), "--calibration", files / "tiny.json")
    for name, key in (("own.png", Keystore().secret("watermark")), ("strange.png", bytes(32))):
        mark(image, 0xABC, key).save(tmp_path / name)
    own, strange = run(tmp_path / "own.png", *options), run(tmp_path / "strange.png", *options)
    assert own.exit_code == 1 and "own.png: inconclusive\n" in own.output
    assert "made with a key of yours, of record 000000000abc" in own.output
    assert (
        strange.exit_code == 1 and "strange.png: inconclusive\n" in strange.output and "no key here" in strange.output
    )


def test_a_picture_is_read_in_another_process_and_within_bounds(
    model: Callable[[str], Path], files: Path, tmp_path: Path
) -> None:
    options = ("--model", model("sd1"), "--calibration", files / "tiny.json")
    Image.new("RGB", (4001, 4000)).save(tmp_path / "large.png")
    Image.new("RGB", (64, 64)).save(tmp_path / "a.tiff")  # a format whose reader strangers need not reach
    large, tiff = run(tmp_path / "large.png", *options), run(tmp_path / "a.tiff", *options)
    assert large.exit_code == 2 and "4001x4000 is more than 16,000,000 pixels" in large.output
    assert tiff.exit_code == 2 and "PNG, JPEG and WEBP can" in tiff.output


def test_a_mask_stays_grey_and_a_picture_upright(tmp_path: Path) -> None:
    def seen(image: Image.Image, **options: object) -> Image.Image:
        file = io.BytesIO()
        image.save(file, "PNG", **options)
        return see(file.getvalue())

    ramp = Image.linear_gradient("L").resize((20, 10))
    assert seen(ramp).mode == "L" and seen(ramp).tobytes() == ramp.tobytes()
    turned = Image.Exif()
    turned[0x0112] = 6
    assert seen(ramp.convert("RGB"), exif=turned).size == (10, 20)
    with pytest.raises(ImageError, match="more than 100 pixels"):
        see(png(ramp), most=100)


def test_command_says_all_in_json(model: Callable[[str], Path], files: Path) -> None:
    done = run(
        files / "ours.png", files / "other.png", "--json", "--model", model("sd1"), "--calibration", files / "tiny.json"
    )
    assert done.exit_code == 1
    first, second = json.loads(done.stdout)["pictures"]
    assert first["verdict"] == "ours" != second["verdict"]
    assert set(first["features"]) == set(FEATURES) and first["mark"] is None


@pytest.mark.parametrize("name", ["cut.png", "garbage.png", "bomb.png", "small.png", "nothing.png"])
def test_hostile_pictures_are_one_message_and_the_others_are_still_told(
    model: Callable[[str], Path], files: Path, name: str
) -> None:
    done = run(files / name, files / "other.png", "--model", model("sd1"), "--calibration", files / "tiny.json")
    assert done.exit_code == 2
    errors = [line for line in done.stderr.splitlines() if line.startswith("Error: ")]
    assert len(errors) == 1 and str(files / name) in errors[0] and "Traceback" not in done.output
    assert f"{files / 'other.png'}: " in done.stdout


def test_a_model_nobody_calibrated(model: Callable[[str], Path], files: Path) -> None:
    done = run(files / "ours.png", "--model", model("sd1"))
    assert done.exit_code == 1 and ": inconclusive\n" in done.output and "--calibrate" in done.output


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "Name pictures to look at"),
        (("a.png", "--calibrate", "x.json"), "one of both"),
        (("--calibrate", "x.json", "--real", "."), "needs --prompts"),
        (("--calibrate", "x.json", "--prompts", "p.txt"), "needs --real"),
        (("a.png", "--real", "."), "--real is for --calibrate"),
        (("a.png", "--calibration", "nothing.json"), "nothing.json cannot be read"),
    ],
)  # fmt: skip
def test_what_cannot_be_done(words: tuple[str, ...], message: str) -> None:
    done = run(*words)
    assert done.exit_code == 2 and message in done.output


@pytest.mark.slow
def test_the_command_calibrates_a_model(model: Callable[[str], Path], tmp_path: Path) -> None:
    real = tmp_path / "real"
    real.mkdir()
    for i, image in enumerate(drawn(FEWEST)):
        image.save(real / f"{i:03}.png")
    (tmp_path / "prompts.txt").write_text("the red cat\nthe blue cat\n")
    out = tmp_path / "mine.json"
    words: tuple[object, ...] = (
        "--calibrate",
        out,
        "--model",
        model("sd1"),
        "--real",
        real,
        "--prompts",
        tmp_path / "prompts.txt",
    )
    words += ("--count", FEWEST, "--steps", 1)
    done = run(*words)
    assert done.exit_code == 0, done.output
    found = Calibration.from_json(out.read_bytes())
    assert (found.ours, found.others) == (FEWEST, FEWEST) and found.vae == vae_digest(load(model("sd1")))
    assert run(*words).exit_code == 2  # it is not overwritten


@pytest.fixture(scope="module")
def embedded() -> Bundle:
    return load(None)


def test_the_shipped_calibration_is_of_the_embedded_vae(embedded: Bundle) -> None:
    """Fails after the model was trained anew: run benchmarks/detection.py."""
    found = shipped_calibration(embedded)
    assert found is not None and found.vae == vae_digest(embedded)
    assert found.auc[1] > 0.5
