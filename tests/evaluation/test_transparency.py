"""`lienzo report`: what is known is told exactly, what is not is named as missing, and no file gets anything past the reader."""

import itertools
import json
import shutil
import xml.etree.ElementTree as ET
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from markdown_it import MarkdownIt
from PIL import Image

import clips
from lienzo import Pipeline
from lienzo.cli import lienzo
from lienzo.errors import ConfigError, InputError
from lienzo.evaluation import transparency
from lienzo.evaluation.transparency import (
    EU,
    NIST,
    SUPPLY,
    Data,
    Evaluated,
    Rates,
    Training,
    Use,
    gather,
    read,
    read_card,
    write,
)
from lienzo.models.bundle import COMPONENTS, tensors_digest
from lienzo.weights import locate

DOCS = Path(__file__).parents[2] / "docs" / "reports" / "boceto"
DIGEST = Pipeline.load().bundle.digest
RATES = {
    "what": "pixel watermark", "made_by": "python -m benchmarks.watermark", "weights": DIGEST,
    "rates": [{"name": "JPEG 50", "value": 0.99, "low": 0.97, "high": 1.0, "n": 500, "about": "true positives"}, {"name": "crop", "value": 0}],
}  # fmt: skip
EVALUATED = {
    "prompts": [{"text": "a"}], "seeds": [0, 1], "resamples": 20,
    "scores": [{"side": {"name": "boceto", "about": {"digest": DIGEST}}, "overall": {"clip_score": {"value": 31.5}}}],
}  # fmt: skip
DATA = {
    "digest": "d" * 64, "pictures": 3, "captions": {"captions": 3, "without": 0, "languages": {"English": 3}}, "people": {"pictures": 0},
    "licences": {"not_given": 1, "given": [{"name": "CC0", "pictures": 2}]}, "origins": {"not_given": 3, "given": []},
    "skipped": {"count": 0},
}  # fmt: skip
TRAINING = {
    "kind": "full", "what": "a fine-tuned text-to-image model", "steps": 12, "batch_size": 2, "averaged": True, "seconds": 61.0,
    "made_from": [{"role": "base", "name": "boceto", "digest": "b" * 64}], "machine": "CPU, 1 threads",
    "energy": {"kwh": 0.5, "estimate": True}, "scores": {"validation/loss": {"first": 2.0, "last": 1.0}},
}  # fmt: skip


def run(*words: object, code: int = 0) -> Result:
    result = CliRunner().invoke(lienzo, ["report", *map(str, words)], prog_name="lienzo")
    assert result.exit_code == code, result.output + repr(result.exception)
    return result


def saved(folder: Path, document: Any, name: str = "given.json") -> Path:
    (folder / name).write_text(json.dumps(document))
    return folder / name


def page(folder: Path) -> ET.Element:
    return ET.fromstring((folder / "index.html").read_text().removeprefix("<!DOCTYPE html>"))


def model_with(folder: Path, **files: str) -> Path:
    """The embedded model with files of our own beside it."""
    _, path, _ = locate(None)
    shutil.copytree(path, folder / "model")
    for name in ("README.md", "use.toml"):
        (folder / "model" / name).unlink()
    for name, text in files.items():
        (folder / "model" / name.replace("__", "-").replace("_", ".")).write_text(text)
    return folder / "model"


def test_the_embedded_model_is_told_exactly(tmp_path: Path) -> None:
    result = run("--out", tmp_path)
    bundle = Pipeline.load().bundle
    assert bundle.weights is not None
    tensors = bundle.weights()
    found = json.loads((tmp_path / "report.json").read_text())
    assert found["model"]["digest"] == bundle.digest
    assert found["model"]["digests"] == {part: tensors_digest(tensors[part]) for part in COMPONENTS}
    counts = {part: sum(p.numel() for p in getattr(bundle, part).parameters()) for part in COMPONENTS}
    assert found["model"]["parameters"] == counts
    assert found["architecture"] == {
        **{part: getattr(bundle, part).config.to_dict() for part in COMPONENTS}, "scheduler": bundle.schedule.config.to_dict(),
    }  # fmt: skip
    texts = [(tmp_path / "model-card.md").read_text(), " ".join(page(tmp_path).itertext())]
    for text in texts:
        for exact in (bundle.digest, *found["model"]["digests"].values(), f"{sum(counts.values()):,}"):
            assert exact in text
        assert all(f"{count:,}" in text for count in counts.values())
    assert found["licence"] == "MIT" and "coloured shapes" in texts[0]
    assert "512 prompts (half English, half Spanish)" in texts[0] and "True renders" not in texts[0]
    missing = [one["what"] for one in found["missing"]]
    assert missing == [SUPPLY[k][0] for k in ("provider", "data", "watermark", "filter", "energy", "audit")]
    assert all(f"not given: {what}" in result.output for what in missing)
    assert not list(tmp_path.glob(".*"))


def test_twice_is_the_same_to_the_byte(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write(gather(), tmp_path / name)
    for path in (tmp_path / "a").iterdir():
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes()


def test_what_nobody_told_is_said_to_be_missing_and_what_supplies_it(tmp_path: Path) -> None:
    found = gather(model_with(tmp_path))
    assert {name for name, given in found.given.items() if given} == {"weights"}
    write(found, tmp_path / "out")
    told = (tmp_path / "out" / "transparency.md").read_text()
    for what, how in SUPPLY.values():
        assert what in told and how.split(",")[0].replace(">", "\\>").replace("_", "\\_").lstrip("-") in told
    assert "Told here: weights." in told and "| MS-2.12-003 |" in told
    card = (tmp_path / "out" / "model-card.md").read_text()
    assert "| licence | not given |" in card and "Intended: not given." in card and "| contact | not given |" in card


def test_everything_that_is_given_is_told(tmp_path: Path) -> None:
    use = 'licence = "CC0"\nprovider = "Somebody"\ncontact = "a@b.example"\nintended = ["x"]\nforbidden = ["y"]\nlimits = ["z"]\n'
    model = model_with(
        tmp_path, training_json=json.dumps(TRAINING), data__report_json=json.dumps(DATA), use_toml=use, recipe_toml="a = 1",
    )  # fmt: skip
    rates = saved(tmp_path, RATES, "rates.json")
    words = [
        "--watermark",
        rates,
        "--filter",
        rates,
        "--eval",
        saved(tmp_path, EVALUATED),
        "--out",
        tmp_path / "out",
        "--json",
    ]
    found = json.loads(run(model, *words).stdout)
    assert [one["what"] for one in found["missing"]] == ["a bias audit"]
    assert found["energy"] == {"kwh": 0.5, "estimate": True} and found["data"]["digest"] == "d" * 64
    card = (tmp_path / "out" / "model-card.md").read_text()
    for cell in (
        "12 of 2 samples",
        "61 seconds",
        "`" + "b" * 64 + "`",
        "0.5000 kWh, an estimate",
        "CC0 (2), not given (1)",
        "31.5",
    ):
        assert cell in card, cell
    told = (tmp_path / "out" / "transparency.md").read_text()
    assert "| JPEG 50 | 0.99 \\[0.97, 1\\] | 500 | true positives |" in told and "| crop | 0 | not given |  |" in told
    assert "0.5000 kWh, an estimate" in told and "its own card's word" not in told
    points = {one["id"]: one["here"] for one in found["nist_ai_600_1"]}
    assert points["MS-2.7-005"] == "Told here: watermark."
    assert points["MS-2.11-002"] == "Not given. Lacking: a bias audit."


def test_points_name_only_parts_that_there_are() -> None:
    assert {need for point in (*EU, *NIST) for need in point.needs} <= {*SUPPLY, "weights"}
    ids = [point.id for point in (*EU, *NIST)]
    assert len(ids) == len({*ids})
    assert all(len(point.id.split("-")) == 3 for point in NIST)
    text = json.dumps([point.asks for point in (*EU, *NIST)])
    assert "complies" not in text and "certif" not in text


def test_what_a_card_claims_is_not_taken_for_a_measurement() -> None:
    here = {id_: here for id_, _, here in gather().points(NIST)}
    assert here["MS-2.3-002"] == "Told here: scores (its own card's word)."


# --- real files -------------------------------------------------------------------------------------------------------


def test_it_reads_what_eval_and_data_report_write(tmp_path: Path) -> None:
    (tmp_path / "prompts.txt").write_text("a red circle\na blue star\n")
    words = ["eval", "--prompts", "prompts.txt", "--seeds", "2", "--steps", "1", "--resamples", "20", "--out", "scores"]
    data = tmp_path / "data"
    data.mkdir()
    for i in range(3):
        Image.fromarray(np.random.default_rng(i).integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(data / f"{i}.png")
        (data / f"{i}.txt").write_text("a red circle")
    runner = CliRunner()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path)
        assert runner.invoke(lienzo, words).exit_code == 0
        listed = runner.invoke(lienzo, ["data", "report", "data", "--json"])
        (tmp_path / "data.json").write_text(listed.stdout)
        by_file = json.loads(run("--eval", "scores", "--data", "data.json", "--out", "a", "--json").stdout)
        by_data = json.loads(run("--eval", "scores/report.json", "--data", "data", "--out", "b", "--json").stdout)
    assert by_file["data"] == by_data["data"] and by_file["data"]["pictures"] == 3
    report = json.loads((tmp_path / "scores" / "report.json").read_text())
    assert by_file["scores"]["scores"][0]["overall"] == report["scores"][0]["overall"]
    assert "diversity" in (tmp_path / "a" / "model-card.md").read_text()


def test_figures_of_another_model_are_refused(tmp_path: Path) -> None:
    other = json.loads(json.dumps(EVALUATED).replace(DIGEST, "e" * 64))
    with pytest.raises(InputError, match="is about other weights \\(eeee"):
        gather(evaluated=saved(tmp_path, other))
    both = {**EVALUATED, "scores": [*other["scores"], *EVALUATED["scores"]]}
    found = gather(evaluated=saved(tmp_path, both)).scores
    assert found is not None and [s.side.about.digest for s in found.scores] == [DIGEST]
    with pytest.raises(InputError, match="measured on pictures of other weights"):
        gather(watermark=saved(tmp_path, {**RATES, "weights": "f" * 64}))


def test_an_audit_end_to_end(tmp_path: Path) -> None:
    clip = clips.make(tmp_path / "clip")
    (tmp_path / "audit.toml").write_text(
        'name = "a"\nabout = "b"\n[[sets]]\nname = "<colour>"\nabout = "c"\nvariants = ["red", "blue"]\ntemplate = "a {variant} {shape}"\n'
        'slots.shape = ["circle", "star"]\njudge = "a {shape}"\n'
        '[[sets.measures]]\nname = "shape"\noptions = {circle = "a circle", star = "a star"}\nright = "{shape}"\n'
    )
    words = ["--audit", tmp_path / "audit.toml", "--clip", clip, "--count", 2, "--steps", 1, "--size", "64x64"]
    words += ["--resamples", 20, "--out", tmp_path / "out"]
    result = run(*words)
    assert "audit: " in result.output
    found = json.loads((tmp_path / "out" / "report.json").read_text())["audit"]
    assert found["pictures"] == 8 and found["settings"] == {"steps": 1, "width": 64, "height": 64}
    assert [c["measure"] for c in found["comparisons"]] == ["fit", "shape"]
    pictures = sorted((tmp_path / "out" / "audit" / "pictures").rglob("*.png"))
    assert len(pictures) == 8 and found["sheets"] == ["audit/sheet-1.png"]
    root = page(tmp_path / "out")
    (image,) = root.iter("img")
    with Image.open(tmp_path / "out" / image.attrib["src"]) as sheet:
        assert sheet.size == (2 * 72 + 8, 2 * 72 + 8)
    assert "Audit: <colour>" in "".join(root.itertext())
    stamps = [path.stat().st_mtime_ns for path in pictures]
    run(*words)
    assert [path.stat().st_mtime_ns for path in pictures] == stamps, "pictures that are there are not made again"


# --- hostile and broken input -----------------------------------------------------------------------------------------


def change(document: Any, **new: Any) -> Any:
    return {**document, **new}


@pytest.mark.parametrize(
    ("kind", "content", "match"),
    [
        (Rates, "", "is no table of error rates.*the whole: Invalid JSON"),
        (Rates, "[1]", "the whole: Input should be an object"),
        (Rates, "[" * 100_000, "recursion"),
        (Rates, json.dumps(change(RATES, rates=[])), "rates: List should have at least 1"),
        (Rates, json.dumps(change(RATES, rates=[{"name": "a", "value": 1.5}])), "rates.0.value: .*less than or equal to 1"),
        (Rates, json.dumps(change(RATES, rates=[{"name": "a", "value": float("nan")}])), "rates.0.value"),
        (Rates, json.dumps(change(RATES, rates=[{"value": 0.5}])), "rates.0.name: Field required"),
        (Rates, json.dumps(change(RATES, what="x" * 10_001)), "what: String should have at most"),
        (Evaluated, json.dumps(change(EVALUATED, seeds=["many"])), "seeds.0: Input should be a valid integer"),
        (Evaluated, json.dumps(EVALUATED).replace("31.5", "Infinity"), "clip_score.value: .*finite"),
        (Evaluated, json.dumps(EVALUATED).replace("31.5", '"31"x'), "Invalid JSON"),
        (Evaluated, "{}", "prompts: Field required"),
        (Data, json.dumps(change(DATA, pictures=-1)), "pictures: .*greater than or equal to 0"),
        (Data, json.dumps(change(DATA, pictures=10**400)), "pictures"),
        (Data, json.dumps(change(DATA, licences=None)), "licences: Input should be an object"),
        (Training, json.dumps(change(TRAINING, energy={"kwh": "much", "estimate": True})), "kwh"),
        (Training, json.dumps(change(TRAINING, seconds=float("inf"))), "seconds: .*finite"),
        (Use, 'intended = "x"', "intended: Input should be a valid list"),
        (Use, 'purpose = ["x"]', "purpose: Extra inputs"),
        (Use, "intended = [", "is no TOML"),
        (Use, "a = " + "[" * 100_000, "is no TOML"),
    ],
)  # fmt: skip
def test_a_file_that_is_not_what_it_is_taken_for(kind: Any, content: str, match: str, tmp_path: Path) -> None:
    (tmp_path / "given").write_text(content)
    with pytest.raises(ConfigError, match=match) as raised:
        read(kind, tmp_path / "given")
    assert len(str(raised.value)) < 1000


def test_bytes_that_are_no_text(tmp_path: Path) -> None:
    (tmp_path / "given").write_bytes(b"\xff\xfe\x00\x01")
    for kind in (Rates, Data, Evaluated, Training, Use):
        with pytest.raises(ConfigError):
            read(kind, tmp_path / "given")
    assert read_card(tmp_path / "given").sections == {}
    with pytest.raises(InputError, match="cannot be read"):
        read(Rates, tmp_path)
    with pytest.raises(InputError, match="cannot be read"):
        read(Rates, tmp_path / "nowhere")


def test_nothing_oversized_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = saved(tmp_path, RATES)
    monkeypatch.setattr(transparency, "MOST_BYTES", path.stat().st_size - 1)
    for reading in (lambda: read(Rates, path), lambda: read_card(path)):
        with pytest.raises(InputError, match="which no file of this kind needs"):
            reading()
    (tmp_path / "endless").symlink_to("/dev/zero")
    with pytest.raises(InputError, match="which no file of this kind needs"):
        read(Rates, tmp_path / "endless")


@pytest.mark.parametrize(
    ("words", "match"),
    [
        (["--audit", "scenes"], "belong together"),
        (["--clip", "nowhere"], "belong together"),
        (["--audit", "scene", "--clip", "nowhere"], "Did you mean scenes"),
        (["--audit", "scenes", "--clip", "nowhere"], "No CLIP model at nowhere"),
        (["--eval", "nowhere"], "does not exist"),
        (["--eval", "."], "report.json cannot be read"),
        (["--watermark", "file"], "is no table of error rates"),
        (["--use", "file"], "is no TOML"),
        (["--data", "empty"], "empty"),
        (["--out", "file"], "file cannot be made"),
        (["bocetto"], "Did you mean boceto"),
        (["--audit", "scenes", "--clip", "nowhere", "--steps", "0"], "--steps: got 0"),
    ],
)
def test_bad_words_say_what_is_wrong(
    words: list[str], match: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("no file of ours")
    (tmp_path / "empty").mkdir()
    out = [] if "--out" in words else ["--out", "out"]
    assert match in run(*words, *out, code=2).output


EVIL = "</pre><script>alert(1)</script>[x](javascript:alert(1)) | `'\"&<img src=x onerror=1> \x1b[31m\u202e\n# heading"


def test_nothing_that_a_file_says_becomes_markup(tmp_path: Path) -> None:
    text = json.dumps(EVIL, ensure_ascii=True)
    model = model_with(
        tmp_path,
        README_md=f"---\nlicense: {EVIL.splitlines()[0]}\nlanguage: {EVIL.splitlines()[0]}\n---\n## Limits\n{EVIL}\n```\n{EVIL}\n",
        use_toml=f"intended = [{text}]\nforbidden = [{text}]\nprovider = {text}\ncontact = {text}\n",
        training_json=json.dumps(change(TRAINING, what=EVIL, machine=EVIL)),
        data__report_json=json.dumps(
            change(DATA, notes=[EVIL], origins={"not_given": 0, "given": [{"name": EVIL, "pictures": 1}]})
        ),
    )
    rates = saved(tmp_path, change(RATES, what=EVIL, rates=[{"name": EVIL, "value": 0.1, "about": EVIL}]), "rates.json")
    evaluated = json.loads(json.dumps(EVALUATED))
    evaluated["scores"][0]["side"]["name"] = EVIL
    evaluated["scores"][0]["overall"] = {EVIL: {"value": 1.0}}
    found = gather(model, watermark=rates, filter=rates, evaluated=saved(tmp_path, evaluated))
    write(found, tmp_path / "out")
    root = page(tmp_path / "out")
    assert {e.tag for e in root.iter()} <= {
        "html", "head", "meta", "title", "style", "body", "h1", "h2", "h3", "p", "code", "ul", "li", "table", "tr", "th", "td", "pre",
    }  # fmt: skip
    assert "<script>alert(1)</script>" in "".join(root.itertext()), "it is shown, not run"
    for name in ("model-card.md", "transparency.md"):
        content = (tmp_path / "out" / name).read_text()
        tokens = MarkdownIt("commonmark").enable("table").parse(content)
        flat = [part for token in tokens for part in (token, *(token.children or ()))]
        assert not [t for t in flat if t.type in ("html_block", "html_inline", "link_open", "image", "softbreak")]
        assert "\x1b" not in content and "\u202e" not in content
        titles = [t.content for before, t in itertools.pairwise(tokens) if before.type == "heading_open"]
        assert "heading" not in titles
    json.loads((tmp_path / "out" / "report.json").read_text())


def test_a_single_file_has_nothing_beside_it(tmp_path: Path, model: Callable[[str], Path]) -> None:
    result = CliRunner().invoke(lienzo, ["convert", str(model("sd1")), str(tmp_path / "one.safetensors")])
    assert result.exit_code == 0, result.output
    found = gather(tmp_path / "one.safetensors", config=model("sd1"))
    assert found.card is None and found.use is None and found.model.digest == gather(model("sd1")).model.digest


# --- the one that is committed ----------------------------------------------------------------------------------------


def test_the_committed_report_is_about_the_embedded_model() -> None:
    committed = json.loads((DOCS / "report.json").read_text())
    found = json.loads(json.dumps(gather().to_dict()))
    again = "not current: run `lienzo report --out docs/reports/boceto`"
    for key in ("model", "architecture", "card", "use", "licence", "eu_ai_act", "nist_ai_600_1"):
        assert committed[key] == found[key], f"{key} is {again}"
    for name in ("model-card.md", "transparency.md", "index.html"):
        assert found["model"]["digest"] in (DOCS / name).read_text(), f"{name} is {again}"
    assert sum(path.stat().st_size for path in DOCS.iterdir()) < 100_000
