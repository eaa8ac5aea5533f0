"""`lienzo eval` on the embedded model with tiny CLIPs: figures, report, resuming, comparing, bad input."""

import json
import shutil
import xml.etree.ElementTree as ET
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from PIL import Image

import clips
from lienzo import Pipeline, Request
from lienzo.cli import lienzo
from lienzo.errors import InputError
from lienzo.evaluation import metrics
from lienzo.evaluation.features import clip_features, text_features
from lienzo.gallery import fill
from lienzo.nn.lora import LowRank
from lienzo.provenance.metadata import read
from lienzo.weights.adapters import Adapter, with_adapters
from lienzo.weights.clip import load_clip

PROMPTS = ["a red circle on a white background", "a blue <square> & a green star", "a yellow star"]


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return clips.make(tmp_path_factory.mktemp("clip"))


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("inputs")
    (folder / "prompts.txt").write_text("\n".join(PROMPTS))
    rows = [f'"{p}",{"shapes" if i else "circles"}' for i, p in enumerate(PROMPTS)]
    (folder / "prompts.csv").write_text("prompt,group\n" + "\n".join(rows))
    (folder / "real" / "deep").mkdir(parents=True)
    random = np.random.default_rng(0)
    for i in range(9):
        picture = Image.fromarray(random.integers(0, 256, (40, 50, 3), dtype=np.uint8))
        picture.save(folder / "real" / ("deep" if i % 2 else "") / f"{i}.png")
    (folder / "real" / "broken.jpg").write_bytes(b"no picture")
    return folder


def run(*words: object, code: int = 0) -> Result:
    result = CliRunner().invoke(lienzo, ["eval", *map(str, words)], prog_name="lienzo")
    assert result.exit_code == code, result.output + repr(result.exception)
    return result


def report(out: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((out / "report.json").read_text())
    return found


def check_page(out: Path) -> ET.Element:
    """The page is well-formed, and every picture and link leads to a file that opens."""
    root = ET.fromstring((out / "index.html").read_text().removeprefix("<!DOCTYPE html>"))
    pictures = [image.attrib["src"] for image in root.iter("img")]
    for path in pictures:
        with Image.open(out / path) as image:
            image.load()
    assert all((out / link.attrib["href"]).is_file() for link in root.iter("a"))
    assert all(image.attrib["alt"] for image in root.iter("img"))
    return root


@pytest.fixture(scope="module")
def whole(clip: Path, inputs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Everything at once: two settings, a CLIP, real pictures."""
    out = tmp_path_factory.mktemp("out") / "report"
    run(
        "--prompts", inputs / "prompts.csv", "--clip", clip, "--real", inputs / "real", "--steps", 2, "--seeds", 2,
        "--set", "steps=3", "--set", "guidance=2", "--folds", 3, "--resamples", 40, "--out", out,
    )  # fmt: skip
    return out


def test_the_figures_are_those_of_the_pictures(whole: Path, clip: Path, inputs: Path) -> None:
    found = report(whole)
    assert found["seeds"] == [0, 1] and [p["text"] for p in found["prompts"]] == PROMPTS
    loaded = load_clip(clip)
    features = clip_features(loaded)
    texts, _ = text_features(loaded, PROMPTS)
    real = features.of(Image.open(p) for p in sorted((inputs / "real").rglob("*.png")))
    for scores, steps in zip(found["scores"], (2, 3), strict=True):
        paths = [whole / p for p in scores["side"]["pictures"]]
        requests = [read(p).request for p in paths]
        assert [(r.prompt, r.seed, r.steps) for r in requests] == [(p, s, steps) for p in PROMPTS for s in (0, 1)]
        made = features.of(Image.open(p) for p in paths)
        want = metrics.clip_scores(made, np.repeat(texts, 2, axis=0))
        assert scores["by_picture"]["clip_score"] == pytest.approx(want, abs=1e-4)
        overall = {name: score["value"] for name, score in scores["overall"].items()}
        assert overall["clip_score"] == pytest.approx(want.mean(), abs=1e-4)
        assert overall["fid"] == pytest.approx(metrics.frechet(real, made), rel=1e-4)
        assert overall["kid"] == pytest.approx(metrics.kid(real, made), rel=1e-4)
        assert (overall["precision"], overall["recall"]) == metrics.precision_recall(real, made)
        pairs = [metrics.diversity(metrics.unit(made[i : i + 2])) for i in (0, 2, 4)]
        assert scores["by_prompt"]["diversity"] == pytest.approx(pairs, abs=1e-4)
        for name, score in scores["overall"].items():
            assert score["low"] <= score["high"], name
        assert {name: len(values) for name, values in scores["folds"].items()} == {
            "clip_score": 3,
            "diversity": 3,
            "kid": 3,
        }
        assert sum(scores["folds"]["clip_score"]) / 3 == pytest.approx(overall["clip_score"])
        assert set(scores["groups"]) == {"circles", "shapes"}
    assert found["real"]["pictures"] == 9
    assert [Path(skipped["path"]).name for skipped in found["real"]["skipped"]] == ["broken.jpg"]
    assert any("fewer" in note for note in found["notes"]) and found["left_out"] == {}


def test_two_settings_are_compared_picture_by_picture(whole: Path) -> None:
    found = report(whole)
    first, second = (scores["by_picture"]["clip_score"] for scores in found["scores"])
    comparison = found["comparison"]
    assert comparison["by_picture"]["clip_score"] == pytest.approx(np.subtract(second, first))
    assert comparison["overall"]["clip_score"]["value"] == pytest.approx(np.mean(second) - np.mean(first))
    a, b = (np.asarray(Image.open(whole / scores["side"]["pictures"][0])) for scores in found["scores"])
    assert comparison["by_picture"]["psnr"][0] == pytest.approx(metrics.psnr(a, b))
    assert comparison["by_picture"]["ssim"][0] == pytest.approx(metrics.ssim(a, b))
    assert comparison["equal"] == 0
    assert [scores["side"]["name"] for scores in found["scores"]] == [
        "boceto (steps=2, guidance_scale=default)", "boceto (steps=3, guidance_scale=2)",
    ]  # fmt: skip


def test_the_report_opens(whole: Path) -> None:
    root = check_page(whole)
    text = " ".join(root.itertext())
    assert "a blue <square> & a green star" in text and "3 folds of prompts" in text and "Groups of prompts" in text
    assert len(list(root.iter("img"))) == 2 * 6 + 7
    assert len(list((whole / "plots").iterdir())) == 7
    assert not [p for p in whole.rglob("*") if ".part" in p.name]


def test_pictures_that_are_there_are_not_made_again(
    whole: Path, inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "copy"
    shutil.copytree(whole, out)
    made: list[Request] = []
    import lienzo.gallery

    real_make = lienzo.gallery.make

    def counted(bundle: Any, requests: list[Request], **options: Any) -> Any:
        made.extend(requests)
        return real_make(bundle, requests, **options)

    monkeypatch.setattr(lienzo.gallery, "make", counted)
    words = ["--prompts", inputs / "prompts.txt", "--steps", 2, "--seeds", 2, "--resamples", 20, "--out", out]
    before = report(out)["scores"][0]["side"]["pictures"]
    run(*words)
    assert made == [] and report(out)["scores"][0]["side"]["pictures"] == before
    (out / before[0]).write_bytes((out / before[1]).read_bytes())  # another picture under its name
    (out / before[3]).write_bytes((out / before[3]).read_bytes()[:300])  # cut off
    (out / before[4]).unlink()
    content = (whole / before[0]).read_bytes()
    run(*words)
    assert [(r.prompt, r.seed) for r in made] == [(PROMPTS[0], 0), (PROMPTS[1], 1), (PROMPTS[2], 0)]
    assert (out / before[0]).read_bytes() == content


def test_without_clip_there_is_still_something_to_tell(inputs: Path, tmp_path: Path) -> None:
    words = ["--prompts", inputs / "prompts.txt", "--steps", 1, "--seeds", 2, "--resamples", 20, "--out", tmp_path]
    result = run(*words, "--set", "guidance=1", "--json")
    found = json.loads(result.stdout)
    assert set(found["scores"][0]["overall"]) == {"diversity"} and "pixels" in found["diversity_of"]
    assert set(found["comparison"]["overall"]) == {"psnr", "ssim", "diversity"}
    assert set(found["left_out"]) == {"clip_score", "fid", "kid", "precision", "recall"}
    assert "--clip" in found["left_out"]["clip_score"] and "--real" in found["left_out"]["fid"]
    a, b = (np.asarray(Image.open(tmp_path / p)) / 255 for p in found["scores"][0]["side"]["pictures"][:2])
    assert found["scores"][0]["by_prompt"]["diversity"][0] == pytest.approx(np.sqrt(((a - b) ** 2).mean()))
    check_page(tmp_path)


def test_a_model_against_itself_differs_in_nothing(inputs: Path, clip: Path, tmp_path: Path) -> None:
    words = ["boceto", "--prompts", inputs / "prompts.txt", "--steps", 1, "--seeds", 1, "--resamples", 20]
    run(*words, "--against", "boceto", "--clip", clip, "--out", tmp_path)
    found = report(tmp_path)
    assert found["comparison"]["equal"] == 3 and found["comparison"]["by_picture"]["psnr"] == [None] * 3
    assert found["comparison"]["overall"]["clip_score"] == {"value": 0.0, "low": 0.0, "high": 0.0}
    assert found["comparison"]["overall"]["ssim"]["value"] == pytest.approx(1)
    assert "equal" in found["left_out"]["psnr"] and "--seeds" in found["left_out"]["diversity"]
    assert [s["side"]["name"] for s in found["scores"]] == ["boceto (first)", "boceto (second)"]
    check_page(tmp_path)


def test_two_models_of_different_sizes(inputs: Path, clip: Path, tmp_path: Path, model: Callable[[str], Path]) -> None:
    (tmp_path / "one.txt").write_text("a red cat")
    vision = clips.make_vision(tmp_path / "vision")
    words = [
        "--prompts",
        tmp_path / "one.txt",
        "--steps",
        1,
        "--seeds",
        4,
        "--resamples",
        20,
        "--out",
        tmp_path / "out",
    ]
    run(
        *words,
        "--against",
        model("sd1"),
        "--size",
        "64x64",
        "--set",
        "width=72",
        "--features",
        vision,
        "--real",
        inputs / "real",
    )
    found = report(tmp_path / "out")
    assert "differ in size" in found["left_out"]["psnr"] and "several prompts" in found["left_out"]["folds"]
    assert {"fid", "kid", "precision", "recall", "diversity"} <= set(found["scores"][1]["overall"])
    assert found["scores"][0]["overall"]["fid"]["low"] is None  # of one prompt there is nothing to resample
    assert found["networks"]["features"]["name"].startswith("CLIP")
    check_page(tmp_path / "out")


@pytest.mark.parametrize(
    ("words", "match"),
    [
        (["--set", "colour=red"], "--set: got 'colour=red'"),
        (["--set", "steps"], "expected NAME=VALUE"),
        (["--set", "steps=many"], "--steps: got 'many'"),
        (["--steps", "0"], "--steps: got 0"),
        (["--clip", "nowhere"], "No CLIP model at nowhere"),
        (["--features", "nowhere.pth"], "No features at nowhere.pth"),
        (["--against", "bocetto"], "bocetto"),
        (["--out", "prompts.txt"], "prompts.txt cannot be made"),
        (["--real", "empty"], "holds no picture"),
        (["--real", "broken", "--clip", "CLIP"], "None of the 1 real pictures"),
    ],
)
def test_bad_input_says_what_is_wrong(
    words: list[str], match: str, inputs: Path, clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copy(inputs / "prompts.txt", ".")
    Path("empty").mkdir()
    Path("broken").mkdir()
    Path("broken/a.png").write_bytes(b"no")
    filled = [str(clip) if word == "CLIP" else word for word in words]
    steps = [] if "--steps" in words else ["--steps", "1"]
    result = run("--prompts", "prompts.txt", "--seeds", 1, *steps, *filled, code=2)
    assert match in result.output


def test_without_the_extra_it_is_named(inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from lienzo.evaluation import report as page

    monkeypatch.setattr(page, "find_spec", lambda name: None)
    result = run("--prompts", inputs / "prompts.txt", "--out", tmp_path / "out", code=2)
    assert 'pip install "lienzo[eval]"' in result.output and not (tmp_path / "out").exists()


def test_ctrl_c_says_what_is_there_and_leaves_no_rubbish(
    inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import lienzo.gallery

    real_save, saved = lienzo.gallery.save, []

    def stopping(*args: Any, **options: Any) -> Any:
        if len(saved) == 2:
            raise KeyboardInterrupt
        saved.append(args[1])
        return real_save(*args, **options)

    monkeypatch.setattr(lienzo.gallery, "save", stopping)
    words = ["--prompts", inputs / "prompts.txt", "--steps", 1, "--seeds", 2, "--resamples", 20, "--out", tmp_path]
    result = run(*words, code=130)
    assert "2 of 6 pictures" in result.output and "goes on from there" in result.output
    assert sorted(p for p in tmp_path.rglob("*") if p.is_file()) == sorted(saved)
    monkeypatch.setattr(lienzo.gallery, "save", real_save)
    run(*words)
    assert len(list((tmp_path / "pictures").rglob("*.png"))) == 6


def test_a_gallery_makes_what_the_pipeline_makes(pipeline: Callable[[str], Pipeline], tmp_path: Path) -> None:
    pipe = pipeline("sd1")
    requests = [Request("a cat", seed=s, steps=2, width=64, height=64) for s in range(3)]
    kept = list(fill(pipe.bundle, requests, tmp_path, batch=2))
    assert [(k.index, k.reused) for k in kept] == [(0, False), (1, False), (2, False)]
    for found, request in zip(kept, requests, strict=True):
        assert Image.open(found.path).tobytes() == pipe(request).image.tobytes()
    again = list(fill(pipe.bundle, [*requests, Request("a dog", seed=1, steps=2, width=64, height=64)], tmp_path))
    assert [(k.index, k.reused) for k in again] == [(0, True), (1, True), (2, True), (3, False)]
    other = replace(pipe.bundle, unet=pipe.bundle.unet, name="other", weights=lambda: changed)
    changed = {part: {k: v + 1 for k, v in some.items()} for part, some in pipe.bundle.state_dicts().items()}
    assert not any(k.reused for k in fill(other, requests[:1], tmp_path))  # other weights: other pictures


def test_every_side_needs_all_its_pictures(tmp_path: Path) -> None:
    from lienzo.evaluation.prompts import Prompt
    from lienzo.evaluation.scores import Side, evaluate, find_pictures

    with pytest.raises(ValueError, match="one picture a prompt and seed"):
        evaluate([Side(name="a", about={}, pictures=())], [Prompt(text="a")], [0])
    with pytest.raises(InputError, match="no folder"):
        find_pictures(tmp_path / "nowhere")


def test_adapters_have_pictures_of_their_own(tmp_path: Path) -> None:
    bundle = Pipeline.load().bundle
    layer = "down_blocks.0.resnets.0.conv1"
    channels, *kernel = bundle.unet.get_parameter(f"{layer}.weight").shape
    low = LowRank(torch.full((1, *kernel), 0.1), torch.ones(channels, 1, 1, 1))
    style = Adapter.of("style", {"unet": {layer: low}})
    request = [Request("a red circle", seed=1, steps=1)]
    paths = []
    for adapted in (bundle, with_adapters(bundle, [(style, 1.0, 1.0)]), with_adapters(bundle, [(style, 0.5, 1.0)])):
        (made,), (again,) = fill(adapted, request, tmp_path), fill(adapted, request, tmp_path)
        assert (made.reused, again.reused, again.path) == (False, True, made.path)
        assert Image.open(made.path).tobytes() == Pipeline(adapted)(request[0]).image.tobytes()
        paths.append(made.path)
    assert len(set(paths)) == 3
    shutil.copy(paths[0], paths[1])
    (found,) = fill(with_adapters(bundle, [(style, 1.0, 1.0)]), request, tmp_path)
    assert not found.reused, "the base's picture under the name of an adapter's"


def test_what_a_prompt_lost_is_told_whether_or_not_its_pictures_were_there(tmp_path: Path) -> None:
    (tmp_path / "long.txt").write_text("a red circle " * 40 + "\na blue star\n")
    words = [
        "--prompts",
        tmp_path / "long.txt",
        "--steps",
        1,
        "--seeds",
        2,
        "--resamples",
        20,
        "--out",
        tmp_path / "out",
    ]
    for _ in range(2):
        assert run(*words).output.count("prompt too long for the model") == 1
        assert len([note for note in report(tmp_path / "out")["notes"] if "prompt too long" in note]) == 1


@pytest.mark.parametrize("out", ["real", "real/deep/report"])
def test_what_is_made_never_counts_as_real(out: str, inputs: Path, tmp_path: Path) -> None:
    shutil.copytree(inputs / "real", tmp_path / "real")
    words = ["--prompts", inputs / "prompts.txt", "--steps", 1, "--seeds", 1, "--real", tmp_path / "real"]
    refused = run(*words, "--out", tmp_path / out, code=2)
    assert "would count as real" in refused.output and not list(tmp_path.rglob("index.html"))
