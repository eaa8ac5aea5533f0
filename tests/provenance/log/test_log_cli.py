"""`lienzo log`: what it prints, and what its exit codes say."""

import json
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from lienzo.cli import lienzo
from lienzo.provenance.keys import Keystore
from lienzo.provenance.log import Log, NoteKey

Run = Callable[..., Result]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """The command line, at home in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LIENZO_HOME", str(tmp_path / "home"))
    for name in ("LIENZO_LOG", "LIENZO_TSA", "LIENZO_TSA_ROOTS"):
        monkeypatch.delenv(name, raising=False)
    return lambda *args: CliRunner().invoke(lienzo, ["log", *map(str, args)], catch_exceptions=False)


@pytest.fixture
def filled(run: Run, tmp_path: Path) -> Path:
    """The log of that home, with ten entries; its key is the home's own."""
    place = tmp_path / "home" / "log.db"
    with Log.open(place, signer=Keystore().signer("log")) as log:
        for i in range(10):
            log.append(b"entry %d" % i, f"{i:012x}")
    return place


def key_of(run: Run) -> str:
    key: str = json.loads(run("show", "--json").stdout)["keys"][0]
    return key


def test_show(run: Run, filled: Path) -> None:
    told = json.loads(run("show", "--json").stdout)
    assert told["size"] == 10 and told["log"] == str(filled)
    assert NoteKey.parse(told["keys"][0]).name == told["origin"]
    shown = run("show")
    assert shown.exit_code == 0
    assert told["root"] in shown.stdout and told["keys"][0] in shown.stdout


def test_checkpoint_then_check(run: Run, filled: Path) -> None:
    note = run("checkpoint").stdout
    Path("held.txt").write_bytes(note.encode())
    assert json.loads(run("checkpoint", "--json").stdout) == {"checkpoint": note, "timestamp": None, "untimed": None}
    alone = run("check")
    assert alone.exit_code == 0 and alone.stdout.startswith("proved: ") and "--checkpoint" in alone.stderr
    held = run("check", "--checkpoint", "held.txt")
    assert held.exit_code == 0 and held.stderr == ""
    assert json.loads(run("check", "--json", "--checkpoint", "held.txt").stdout)["held"] == 1


def test_check_finds_a_change(run: Run, filled: Path) -> None:
    connection = sqlite3.connect(filled)
    connection.execute("UPDATE log_entries SET entry = 'x' WHERE position = 4")
    connection.commit()
    connection.close()
    found = run("check")
    assert found.exit_code == 3
    assert found.stdout.splitlines()[1] == "  entry 4: is not what was logged there: it was edited, exchanged or moved"
    assert json.loads(run("check", "--json").stdout)["state"] == "tampered"
    connection = sqlite3.connect(filled)
    connection.execute("DELETE FROM log_head")
    connection.commit()
    connection.close()
    found = run("check")
    assert found.exit_code == 3 and "0 heads instead of one" in found.stderr


def test_check_finds_that_it_was_set_back(run: Run, filled: Path) -> None:
    shutil.copytree(filled.parent, "before")
    assert run("export", "older.jsonl").exit_code == 0
    with Log.open(filled, signer=Keystore().signer("log")) as log:
        log.append(b"later", "00")
    Path("held.txt").write_text(run("checkpoint").stdout)
    for path in filled.parent.glob("log.db*"):
        path.unlink()
    for path in Path("before").glob("log.db*"):
        shutil.copy(path, filled.parent)
    assert run("check").exit_code == 0
    found = run("check", "--checkpoint", "held.txt")
    assert found.exit_code == 3 and "The log was set back." in found.stdout
    older = run("verify", "older.jsonl", "--checkpoint", "held.txt")
    assert older.exit_code == 1 and older.stdout.startswith("not proved: ") and "is older, it has 10" in older.stdout


def test_export_then_verify(run: Run, filled: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    key = key_of(run)
    Path("held.txt").write_text(run("checkpoint").stdout)
    made = run("export", "log.jsonl")
    assert (made.exit_code, made.stdout) == (0, "log.jsonl  10 entries\n") and key in made.stderr
    assert run("export", "log.jsonl").exit_code == 2
    assert json.loads(run("export", "log.jsonl", "--force", "--json").stdout)["size"] == 10
    assert run("verify", "log.jsonl").exit_code == 0
    monkeypatch.setenv("LIENZO_HOME", "stranger")
    unknown = run("verify", "log.jsonl")
    assert unknown.exit_code == 1 and unknown.stdout.startswith("not proved: ")
    trusting = run("verify", "log.jsonl", "--key", key, "--checkpoint", "held.txt", "--json")
    assert trusting.exit_code == 0 and json.loads(trusting.stdout)["held"] == 1
    assert not Path("stranger").exists()  # checking needs no keys of one's own
    data = Path("log.jsonl").read_bytes()
    Path("log.jsonl").write_bytes(data.replace(b"ZW50cnkgMw==", b"ZW50cnkgNA=="))
    assert run("verify", "log.jsonl", "--key", key).exit_code == 3


def test_what_cannot_be_done(run: Run, tmp_path: Path) -> None:
    for args, message in [
        (("show",), "no key of a log here yet"),
        (("verify", "none.jsonl"), "cannot be read"),
        (("verify", "none.jsonl", "--key", "x"), "expected one as `lienzo log show` prints it"),
        (("check", "--checkpoint", "none.txt"), "cannot be read"),
    ]:
        told = run(*args)
        assert told.exit_code == 2 and message in told.stderr
    assert not (tmp_path / "home").exists()
    Keystore().signer("log")
    told = run("show", "--log", "elsewhere.db")
    assert told.exit_code == 2 and "elsewhere.db: no log is there" in told.stderr
    assert not Path("elsewhere.db").exists()


def test_the_log_is_chosen(run: Run, filled: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Log.open("other.db", signer=Keystore().signer("log")) as log:
        log.append(b"", "00")
    assert json.loads(run("show", "--json", "--log", "other.db").stdout)["size"] == 1
    monkeypatch.setenv("LIENZO_LOG", "other.db")
    assert json.loads(run("show", "--json").stdout)["size"] == 1
    assert json.loads(run("show", "--json", "--log", filled).stdout)["size"] == 10


def test_a_rotated_key_and_a_revoked_one(run: Run, filled: Path) -> None:
    old = Keystore().signer("log").public
    Keystore().rotate("log")
    assert run("check").exit_code == 0
    with Log.open(filled, signer=Keystore().signer("log"), keys=[old]) as log:
        log.append(b"", "00")
    assert run("check").exit_code == 0
    Keystore().revoke(Keystore().signer("log").public.id, "stolen")
    told = run("check")
    assert told.exit_code == 1 and "none of which is a log key that is known" in told.stderr


def test_an_authority_out_of_reach_is_a_warning(run: Run, filled: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIENZO_TSA", "http://127.0.0.1:1/")
    told = run("checkpoint")
    assert told.exit_code == 0 and "Warning: no timestamp:" in told.stderr and "\n10\n" in told.stdout
