"""Error rates of filters, and `lienzo policy`."""

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from PIL import Image

from lienzo.cli import lienzo
from lienzo.errors import ImageError, InputError
from lienzo.safety import Outcome, Policy
from lienzo.safety.measure import error_rates, measure_pictures, measure_prompts
from lienzo.shares import Z

POLICY = Policy.model_validate(
    {
        "rules": [
            {"name": "weapons", "action": "deny", "reason": "No weapons.", "terms": ["bomb"]},
            {"name": "gore", "action": "flag", "reason": "Blood.", "terms": ["blood"], "negative": True},
        ]
    }
)
TABLE = """prompt,label
a cat,safe
a bath bomb,safe
blood donors,safe
"a dog, asleep",safe
a bomb,unsafe
blood,unsafe
b0mb,unsafe
"""


def run(*args: object) -> Result:
    return CliRunner().invoke(lienzo, ["policy", *map(str, args)], catch_exceptions=False)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "policy.toml").write_text(
        '[[rules]]\nname = "weapons"\naction = "deny"\nreason = "No weapons."\nterms = ["bomb"]\nnegative = true\n'
        '[[tenants.bakery.rules]]\nname = "cakes"\naction = "allow"\nreason = "Cakes."\nterms = ["chocolate bomb"]\n'
    )
    return tmp_path / "policy.toml"


# Rates


def test_rates_of_prompts(tmp_path: Path) -> None:
    (tmp_path / "labelled.csv").write_text("\ufeff" + TABLE)
    rates = {rate.name: rate for rate in measure_prompts(tmp_path / "labelled.csv", POLICY)}
    assert {name: (rate.value, rate.n) for name, rate in rates.items()} == {
        "false positives, blocked": (1 / 4, 4),
        "false positives": (2 / 4, 4),
        "false negatives, not blocked": (2 / 3, 3),
        "false negatives": (1 / 3, 3),
    }


@pytest.mark.parametrize(("hits", "n"), [(0, 1), (0, 50), (1, 2), (50, 50), (3, 1000)])
def test_intervals_end_where_the_share_could_just_have_come_from(hits: int, n: int) -> None:
    """Wilson's ends solve |p - hits / n| = z sqrt(p (1 - p) / n)."""
    safe = [("safe", Outcome(status="blocked", by=("x",), reasons=("y",)))] * hits
    rate = error_rates([*safe, *[("safe", Outcome(status="passed", by=("x",)))] * (n - hits)])[0]
    assert rate.value == hits / n and 0 <= rate.low <= rate.value <= rate.high <= 1
    for end in (rate.low, rate.high):
        assert abs(end - rate.value) == pytest.approx(Z * math.sqrt(end * (1 - end) / n), abs=1e-9)


def test_rates_of_pictures(tmp_path: Path) -> None:
    for tag, colours in (("safe", ("red", "blue")), ("unsafe", ("blue", "blue", "red"))):
        (tmp_path / tag).mkdir()
        for i, colour in enumerate(colours):
            Image.new("RGB", (8, 8), colour).save(tmp_path / tag / f"{i}.png")

    def not_blue(image: Image.Image) -> Outcome:
        if image.getpixel((0, 0)) == (0, 0, 255):
            return Outcome(status="blocked", by=("not-blue",), reasons=("Blue.",))
        return Outcome(status="passed", by=("not-blue",))

    rates = measure_pictures(tmp_path, [not_blue])
    assert [(rate.value, rate.n) for rate in rates] == [(1 / 2, 2), (1 / 2, 2), (1 / 3, 3), (1 / 3, 3)]
    with pytest.raises(InputError, match="Nothing was checked"):
        measure_pictures(tmp_path, [])
    with pytest.raises(InputError, match="neither a folder"):
        measure_pictures(tmp_path / "safe", [not_blue])
    (tmp_path / "safe" / "notes.txt").write_text("x")
    with pytest.raises(ImageError, match="notes"):
        measure_pictures(tmp_path, [not_blue])


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("prompt,label\na cat,fine\n", "row 2.*fine"),
        ("prompt,label\na cat\n", "row 2"),
        ("text,label\na cat,safe\n", "expected the columns"),
        ("prompt,label\n", "nothing to count"),
        ("", "nothing to count"),
        ('prompt,label\n"a cat,safe\n', "table"),
    ],
)
def test_tables_that_are_refused(tmp_path: Path, text: str, match: str) -> None:
    (tmp_path / "labelled.csv").write_text(text)
    with pytest.raises(InputError, match=match):
        measure_prompts(tmp_path / "labelled.csv", POLICY)


# The command line


def test_check_explains_what_it_found(file: Path) -> None:
    assert run("check", "a cat", "--policy", file).output == "passed\n"
    told = run("check", "a chocolate ＢＯＭＢ", "--policy", file)
    assert told.exit_code == 0
    assert told.output == "blocked\n  deny weapons: 'ＢＯＭＢ' in the prompt. No weapons.\n"
    lifted = run("check", "a chocolate bomb", "--policy", file, "--tenant", "bakery")
    assert lifted.output == "passed\n  deny weapons: 'bomb' in the prompt; lifted by cakes. No weapons.\n"
    both = run("check", "a cat", "--negative", "bomb", "--policy", file, "--tenant", "nobody")
    assert "in the negative prompt" in both.stdout and "'nobody'" in both.stderr


def test_check_and_show_as_json(file: Path) -> None:
    found = json.loads(run("check", "bomb", "--policy", file, "--json").stdout)
    [match] = found["matches"]
    assert found["status"] == "blocked" and (match["rule"], match["start"], match["end"]) == ("weapons", 0, 4)
    shown = json.loads(run("show", "--policy", file, "--tenant", "bakery", "--json").stdout)
    assert [rule["name"] for rule in shown["rules"]] == ["weapons", "cakes"] and shown["tenants"] == ["bakery"]
    assert found["by"] != [f"policy:{shown['digest']}"]
    assert found["by"] == [f"policy:{json.loads(run('show', '--policy', file, '--json').stdout)['digest']}"]
    assert (
        "deny weapons: No weapons.\n  terms: bomb\n  in negative prompts too\n" in run("show", "--policy", file).output
    )


def test_measure_prints_what_the_transparency_report_reads(tmp_path: Path, file: Path) -> None:
    (tmp_path / "labelled.csv").write_text(TABLE)
    found = json.loads(run("measure", tmp_path / "labelled.csv", "--policy", file, "--json").stdout)
    assert found.keys() == {"what", "made_by", "rates", "notes"}
    assert [set(rate) for rate in found["rates"]] == [{"name", "value", "low", "high", "n", "about"}] * 4
    assert "false negatives, not blocked  0.6667 [0.2077, 0.9385] of 3" in run(
        "measure", tmp_path / "labelled.csv", "--policy", file
    ).output  # fmt: skip


def test_mistakes_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIENZO_POLICY", str(tmp_path / "none.toml"))
    for args in (("check", "a cat"), ("show",), ("measure", tmp_path / "labelled.csv")):
        refused = run(*args)
        assert refused.exit_code == 2 and "none.toml cannot be read" in refused.stderr


def test_no_network_library_is_needed_to_check_a_prompt() -> None:
    code = (
        "import sys; sys.argv = ['lienzo', 'policy', 'check', 'a cat']\nfrom lienzo.cli import lienzo\n"
        "lienzo(standalone_mode=False)\nassert not {'torch', 'PIL', 'numpy', 'regex'} & sys.modules.keys()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "passed\n"
