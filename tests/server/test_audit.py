"""The audit log: what is in it, what cannot get into it, and that nothing in it changes unseen."""

import contextlib
import json
import secrets
import sqlite3
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import rfc8785
from accounts import Clock, audit
from click.testing import CliRunner, Result

from lienzo.cli import lienzo
from lienzo.errors import LogError, ProofError
from lienzo.provenance.keys import Keystore
from lienzo.provenance.log import Log, LogProof, verify_proof
from lienzo.server.access import ANONYMOUS, LOCAL, ROLES, Caller
from lienzo.server.audit import Audit

OPERATOR = Caller("token:4711", "acme", "operator", ROLES["operator"])
PICTURE = f"sha256:{'ab' * 32}"


@pytest.fixture
def log(tmp_path: Path) -> Iterator[Audit]:
    with contextlib.closing(audit(tmp_path)) as made:
        yield made


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    monkeypatch.setenv("LIENZO_HOME", str(tmp_path))
    monkeypatch.setenv("LIENZO_LOG", str(tmp_path / "audit.db"))
    return lambda *args: CliRunner().invoke(lienzo, [*map(str, args)], catch_exceptions=False)


def test_what_an_entry_says(log: Audit, tmp_path: Path) -> None:
    assert log.record(OPERATOR, "jobs.cancel", "job:01") == 0
    assert log.record(ANONYMOUS, "verify", PICTURE, outcome="not ours") == 1
    first, second = log.read()
    assert first.document == {
        "index": 0, "time": "2027-01-15T08:00:00Z", "who": "token:4711", "tenant": "acme", "act": "jobs.cancel",
        "target": "job:01", "outcome": "done",
    }  # fmt: skip
    assert (second.who, second.tenant, second.outcome) == ("anonymous", "-", "not-ours")
    # Whoever has the log's key checks an entry with nothing but its proof.
    again = LogProof.read(json.loads(json.dumps(first.proof.document)))
    public = Keystore(tmp_path / "keys").signer("log").public
    entry = {"format": "lienzo-audit/1", **{name: value for name, value in first.document.items() if name != "index"}}
    verify_proof(again, rfc8785.dumps(entry), public, f"lienzo/audit/{public.id[:16]}")


def test_looking_for_a_target(log: Audit) -> None:
    for number in range(5):
        log.record(LOCAL, "keys.revoke", f"key:{number % 2}")
    assert [entry.index for entry in log.read(target="key:1")] == [1, 3]
    assert [entry.index for entry in log.read(target="key:0", newest=2)] == [2, 4]
    assert [entry.index for entry in log.read(newest=2)] == [3, 4]
    assert log.read(target="key:7") == []


@pytest.mark.parametrize("where", ["target", "outcome", "who"])
@pytest.mark.parametrize("text", ["", "a red\ncircle", "círculo", "x" * 201])
def test_no_place_for_a_prompt(log: Audit, where: str, text: str) -> None:
    who = replace(LOCAL, name=text) if where == "who" else LOCAL
    values = {"target": PICTURE, "outcome": "ours", **({} if where == "who" else {where: text})}
    with pytest.raises(LogError, match=f"{where}: an entry"):
        log.record(who, "verify", **values)
    assert log.read() == []


def test_the_tools_of_logs_read_it(log: Audit, run: Callable[..., Result], tmp_path: Path) -> None:
    log.record(OPERATOR, "jobs.cancel", "job:1")
    (tmp_path / "held.txt").write_bytes(run("log", "checkpoint").stdout.encode())
    log.record(OPERATOR, "jobs.cancel", "job:1")
    told = json.loads(run("log", "show", "--json").stdout)
    assert told["size"] == 2 and told["origin"].startswith("lienzo/audit/")
    checked = run("log", "check", "--checkpoint", tmp_path / "held.txt")
    assert (checked.exit_code, checked.stderr) == (0, "")
    assert run("log", "export", tmp_path / "audit.jsonl").exit_code == 0
    (key,) = told["keys"]
    verified = run("log", "verify", tmp_path / "audit.jsonl", "--key", key, "--checkpoint", tmp_path / "held.txt")
    assert verified.exit_code == 0 and verified.stdout.startswith("proved: lienzo/audit/")


def test_a_change_is_found(log: Audit, run: Callable[..., Result], tmp_path: Path) -> None:
    log.record(LOCAL, "keys.add", "key:1", outcome="admin@acme")
    log.record(LOCAL, "keys.add", "key:2", outcome="user@acme")
    with contextlib.closing(sqlite3.connect(tmp_path / "audit.db")) as connection, connection:
        connection.execute("UPDATE log_entries SET entry = replace(entry, 'admin', 'user') WHERE position = 0")
    with pytest.raises(ProofError, match="entry 0"):
        log.read()
    assert run("log", "check").exit_code == 3


def test_another_key_goes_on_with_it(log: Audit, tmp_path: Path) -> None:
    log.record(LOCAL, "keys.add", "key:1")
    keys = Keystore(tmp_path / "keys")
    keys.rotate("log")
    log.record(LOCAL, "keys.add", "key:2")  # while it is open
    keys.rotate("log")
    with contextlib.closing(audit(tmp_path)) as later:
        later.record(LOCAL, "keys.add", "key:3")
        assert [entry.target for entry in later.read()] == ["key:1", "key:2", "key:3"]


def test_it_is_not_the_log_of_pictures(tmp_path: Path) -> None:
    keys = Keystore(tmp_path / "keys")
    Log.open(tmp_path / "audit.db", signer=keys.signer("log")).close()
    with pytest.raises(LogError, match="Name another place"):
        audit(tmp_path).record(LOCAL, "keys.add", "key:1")


def test_what_somebody_else_wrote_into_it_is_told(log: Audit, tmp_path: Path) -> None:
    log.record(LOCAL, "keys.add", "key:1")
    with Log.open(tmp_path / "audit.db", signer=Keystore(tmp_path / "keys").signer("log")) as other:
        other.append(b'{"format":"lienzo-audit/1","time":"now"}', "ab")
    with pytest.raises(ProofError, match="entry 1 of the audit log is none that lienzo wrote"):
        log.read()


def test_threads_and_processes_share_it(tmp_path: Path) -> None:
    """Two that opened it on their own, as the service and the command line do, and four threads each."""
    logs = [audit(tmp_path) for _ in range(2)]
    threads = [
        threading.Thread(target=lambda log=log: [log.record(LOCAL, "keys.add", "key:1") for _ in range(5)])  # type: ignore[misc]
        for log in logs
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [entry.index for entry in logs[0].read()] == list(range(40))
    for log in logs:
        log.close()


def test_in_postgresql(postgresql: Callable[[str], str], tmp_path: Path) -> None:
    place = postgresql(f"audit_{secrets.token_hex(4)}")
    with contextlib.closing(Audit(place, Keystore(tmp_path / "keys"), now=Clock())) as log:
        log.record(LOCAL, "keys.add", "key:1")
    with contextlib.closing(Audit(place, Keystore(tmp_path / "keys"), now=Clock())) as log:
        log.record(LOCAL, "keys.revoke", "key:1")
        assert [entry.act for entry in log.read()] == ["keys.add", "keys.revoke"]
