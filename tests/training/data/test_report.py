"""`lienzo data report`, against a set that was counted by hand."""

import json
import signal
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from PIL import Image
from sets import encoded, picture

from lienzo.cli import lienzo
from lienzo.training.data.language import language

ROWS: list[tuple[str, tuple[int, int], dict[str, Any]]] = [
    ("a.png", (100, 100), {"text": "a woman and a red house", "license": "CC0", "url": "https://one.example/a.png", "punsafe": 0.1}),
    ("b.png", (300, 100), {"text": "una casa roja junto al mar", "license": "CC0", "url": "https://one.example/b.png"}),
    ("c.png", (100, 1000), {"text": "the house to the left of the woman", "url": "http://two.example:80/c"}),
    ("d.png", (700, 700), {"text": "<script>alert(1)</script> 家 と 海 の 絵 が ここ に あり ます", "punsafe": 0.5}),
    ("e.png", (64, 64), {}),
]  # fmt: skip


@pytest.fixture
def data(tmp_path: Path) -> Path:
    root = tmp_path / "data"
    root.mkdir()
    for i, (name, (width, height), _) in enumerate(ROWS):
        (root / name).write_bytes(encoded(picture(i, width, height)))
    (root / "copy.png").write_bytes(encoded(picture(0, 100, 100)))
    picture(3, 700, 700).resize((350, 350), Image.Resampling.BICUBIC).save(root / "near.png")
    (root / "broken.png").write_bytes(b"no")
    rows = [{"file_name": name, **row} for name, _, row in ROWS]
    rows += [{"file_name": name, "text": "a woman and a red house"} for name in ("copy.png", "broken.png")]
    rows += [{"file_name": "near.png", "text": "[bold]the house[/bold] and \x1b[31mthe sea"}]
    (root / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return root


def run(*args: object) -> Result:
    return CliRunner().invoke(lienzo, ["data", "report", *map(str, args)], catch_exceptions=False)


def test_the_figures(data: Path) -> None:
    done = run(data, "--json", "--resolution", 128)
    assert done.exit_code == 0
    found = json.loads(done.stdout)
    assert found["pictures"] == 5
    assert found["sources"] == [{"path": str(data), "kinds": ["jsonl"], "pictures": 5, "repeats": 1, "prior": False}]
    assert found["skipped"]["reasons"] == {"broken": 1, "duplicate": 1, "too long": 1}
    assert {s["key"]: s["reason"] for s in found["skipped"]["list"]} == {
        "broken.png": "broken", "c.png": "too long", "copy.png": "duplicate",
    }  # fmt: skip
    assert found["sizes"] == {
        "shorter_side": [
            {"pixels": "64 to 127", "pictures": 3}, {"pixels": "256 to 511", "pictures": 1},
            {"pixels": "512 to 767", "pictures": 1},
        ],
        "smallest": [64, 64], "largest": [700, 700], "median_megapixels": 0.03,
        "shapes": {"portrait": 0, "square": 4, "landscape": 1},
    }  # fmt: skip
    assert sum(bucket["pictures"] for bucket in found["buckets"]) == 5
    assert {"width": 128, "height": 128, "pictures": 4} in found["buckets"]
    assert found["captions"] == {
        "captions": 4, "without": 1, "different": 4, "mean_words": 7.0, "forbid_flipping": 0,
        "languages": {"English": 2, "Spanish": 1, "other": 1}, "languages_how": "by counting common words: an estimate",
    }  # fmt: skip
    assert found["people"]["pictures"] == 1
    assert found["people"]["terms"] == [{"term": "woman", "pictures": 1}]
    assert {"term": "house", "pictures": 2} in found["terms"]
    assert found["licences"] == {"not_given": 3, "given": [{"name": "CC0", "pictures": 2}]}
    assert found["origins"] == {"not_given": 3, "given": [{"name": "one.example", "pictures": 2}]}
    assert found["scores"] == {"unsafe": {"given": 2, "least": 0.1, "median": 0.3, "most": 0.5}}
    assert [(d["key"], d["of"]) for d in found["duplicates"]["near"]] == [("near.png", "d.png")]
    assert [d["key"] for d in found["duplicates"]["exact"]] == ["copy.png"]
    assert len(found["digest"]) == 64
    assert found["notes"] == [
        "3 skipped: 1 broken, 1 too long, 1 duplicate.",
        "1 of 5 pictures have no caption and are learned with the empty one.",
        "2 of 5 pictures are smaller than what they are trained at, and are enlarged.",
    ]


def test_tables_for_people(data: Path) -> None:
    done = run(data)
    assert done.exit_code == 0
    for text in (
        "Overview",
        "pictures",
        "jsonl",
        "CC0",
        "one.example",
        "woman",
        "near.png",
        "broken.png",
        "[bold]"[:0],
    ):
        assert text in done.stdout
    assert "\x1b[31m" not in done.stdout
    assert done.stderr.startswith("Note: ")


class Page(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.tags.append(tag)

    def handle_data(self, data: str) -> None:
        self.text += data


def test_a_page(data: Path, tmp_path: Path) -> None:
    assert run(data, "--html", tmp_path / "page.html").exit_code == 0
    page = Page()
    page.feed((tmp_path / "page.html").read_text(encoding="utf-8"))
    assert "script" not in page.tags
    assert {"h1", "h2", "table"} <= set(page.tags)
    assert "one.example" in page.text and "estimate" in page.text
    refused = CliRunner().invoke(lienzo, ["data", "report", str(data), "--html", str(tmp_path / "page.html")])
    assert (refused.exit_code, "exists already" in refused.stderr) == (2, True)
    assert run(data, "--html", tmp_path / "page.html", "--force").exit_code == 0


def test_what_cannot_be_reported_is_one_message(tmp_path: Path) -> None:
    for args, message in (
        ((tmp_path / "nowhere",), "no such folder or file"),
        ((tmp_path,), "no picture is left"),
        ((tmp_path, "--resolution", 500), "--resolution: got 500"),
    ):
        done = CliRunner().invoke(lienzo, ["data", "report", *map(str, args)])
        assert done.exit_code == 2
        assert done.stderr.startswith("Error: ") and message in done.stderr


SLOW = """
import sys, time
from lienzo.cli import main
from lienzo.training.data import dataset
read = dataset.open_image
def slow(*args):
    print("reading", flush=True)
    time.sleep(0.2)
    return read(*args)
dataset.open_image = slow
sys.argv = ["lienzo", "data", "report", sys.argv[1]]
main()
"""


def test_ctrl_c(tmp_path: Path) -> None:
    for i in range(200):
        (tmp_path / f"{i}.png").write_bytes(encoded(picture(i)))
    process = subprocess.Popen(
        [sys.executable, "-c", SLOW, str(tmp_path)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stdout.readline() == "reading\n"
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=20)
    assert (process.returncode, err) == (130, "Stopped.\n")
    assert out.count("reading") < 20, "what was not begun is dropped"


@pytest.mark.parametrize(
    ("caption", "expected"),
    [
        ("a red circle to the left of a blue square", "English"),
        ("un círculo rojo a la izquierda de un cuadrado azul", "Spanish"),
        ("¿dónde está?", "Spanish"),
        ("ein roter Kreis neben einem blauen Quadrat", "other"),
        ("красный круг", "other"),
        ("circle", "undecided"),
        ("", "undecided"),
    ],
)
def test_languages(caption: str, expected: str) -> None:
    assert language(caption) == expected


def test_a_score_that_is_no_number_is_none_that_is_given(tmp_path: Path) -> None:
    for i in range(3):
        (tmp_path / f"{i}.png").write_bytes(encoded(picture(i)))
    (tmp_path / "metadata.csv").write_text("file_name,similarity\n0.png,nan\n1.png,0.5\n2.png,\n", encoding="utf-8")
    done = CliRunner().invoke(lienzo, ["data", "report", str(tmp_path), "--json", "--cache", str(tmp_path / "kept")])
    assert done.exit_code == 0 and (tmp_path / "kept" / "measures.jsonl").is_file()
    assert json.loads(done.stdout)["scores"]["similarity"] == {"given": 1, "least": 0.5, "median": 0.5, "most": 0.5}
