"""The log in SQLite and in PostgreSQL: what is acknowledged stays, and what is changed is found."""

import contextlib
import json
import random
import re
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from signing import Fixed

from lienzo.errors import InputError, LogError, ProofError, UnknownKeyError
from lienzo.provenance.log import Log, open_checkpoint, verify_consistency, verify_proof
from lienzo.provenance.log.merkle import EMPTY, Frontier
from lienzo.provenance.log.proofs import MAX_ENTRY, leaf_of

SIGNER = Fixed()
HERE = Path(__file__).parent


def filled(log: Log, start: int, end: int) -> None:
    for i in range(start, end):
        assert log.append(b"entry %d" % i, f"{i % 7:012x}") == i


def engine(place: str) -> sa.Engine:
    """A way into the database past the log."""
    if "://" in place:
        return sa.create_engine(place.replace("postgresql:", "postgresql+psycopg:"))
    return sa.create_engine(f"sqlite:///{place}")


def tamper(place: str, *statements: str, **values: object) -> None:
    outside = engine(place)
    with outside.begin() as connection:
        for statement in statements:
            text = sa.text(statement)
            connection.execute(text, {name: values[name] for name in text._bindparams})
    outside.dispose()


def rows(place: str, query: str) -> list[Any]:
    outside = engine(place)
    with outside.connect() as connection:
        found = list(connection.execute(sa.text(query)))
    outside.dispose()
    return found


# What it holds


def test_a_new_log_is_empty_and_signed(opened: Log) -> None:
    assert (len(opened), opened.head.root) == (0, EMPTY)
    assert re.fullmatch("lienzo/[0-9a-f]{16}", opened.origin)
    assert open_checkpoint(opened.checkpoint().note, opened.keys, opened.origin) == opened.head
    assert opened.check().state == "proved"


def test_entries_are_kept_found_and_proved(place: str) -> None:
    with Log.open(place, signer=SIGNER) as log:
        filled(log, 0, 15)
    with Log.open(place, signer=SIGNER) as log:
        filled(log, 15, 30)
        assert log.size == len(log) == 30
        assert [log.entry(i) for i in range(30)] == [b"entry %d" % i for i in range(30)]
        assert log.find("000000000003") == [(i, b"entry %d" % i) for i in (3, 10, 17, 24)]
        assert log.find("00") == []
        for i in range(30):
            verify_proof(log.proof(i), b"entry %d" % i, SIGNER.public, log.origin)
        assert log.head.root == merkle_root(30)
        assert log.check().state == "proved"


def test_it_only_grows(opened: Log) -> None:
    earlier = []
    for i in range(20):
        earlier.append(opened.checkpoint().note)
        filled(opened, i, i + 1)
    for old, note in enumerate(earlier):
        verify_consistency(opened.consistency(old), note, SIGNER.public, opened.origin)
    audit = opened.check(earlier)
    assert (audit.state, audit.held, audit.checkpoints) == ("proved", 20, 21)


def test_entries_may_be_anything_of_64_kib(opened: Log) -> None:
    entries = [b"", b"\0\n\xff", bytes(MAX_ENTRY)]
    for index, entry in enumerate(entries):
        assert opened.append(entry, "f" * 128) == index
        verify_proof(opened.proof(index), entry, SIGNER.public, opened.origin)
    with pytest.raises(InputError, match=r"65,537 bytes; allowed: 65,536"):
        opened.append(bytes(MAX_ENTRY + 1), "00")
    for key in ("", "A0", "xyz", "0" * 129, "00\n"):
        with pytest.raises(InputError, match="hexadecimal"):
            opened.append(b"", key)
    assert opened.size == 3


# Many at once


def test_threads_share_it(opened: Log) -> None:
    barrier = threading.Barrier(6)

    def work(who: int) -> list[int]:
        barrier.wait()
        found = []
        for i in range(8):
            entry = b"%d %d" % (who, i)
            index = opened.append(entry, f"{who:02x}")
            verify_proof(opened.proof(index), entry, SIGNER.public, opened.origin)
            found.append(index)
        return found

    with ThreadPoolExecutor(6) as pool:
        indices = list(pool.map(work, range(6)))
    assert sorted(chain(*indices)) == list(range(48))
    assert all(given == sorted(given) for given in indices)
    assert opened.check().state == "proved"


def test_processes_append_at_once(place: str) -> None:
    """Four of them, from the moment on at which there is no log yet."""
    count = 25
    running = [start("together", place, who, count) for who in range(4)]
    indices = [json.loads(finished(process)) for process in running]
    assert sorted(chain(*indices)) == list(range(4 * count))
    with Log.open(place, signer=None, keys=[SIGNER.public]) as log:
        for who, given in enumerate(indices):
            assert given == sorted(given)
            assert log.find(f"{who:012x}") == [(index, b"%d of %d" % (i, who)) for i, index in enumerate(given)]
        assert log.check().state == "proved"


def test_nothing_acknowledged_is_lost_to_kill_9(place: str) -> None:
    killed(place, 10)  # two processes each


@pytest.mark.slow
def test_nothing_acknowledged_is_lost_to_kill_9_soak(place: str) -> None:
    killed(place, 100)


def killed(place: str, rounds: int) -> None:
    acknowledged = json.loads(finished(start("killed", place, rounds, rounds)))
    assert len(acknowledged) >= rounds
    with Log.open(place, signer=SIGNER) as log:
        for index, entry in acknowledged.items():
            assert log.entry(int(index)) == entry.encode()
        audit = log.check()
        assert (audit.state, audit.problems) == ("proved", ())
        assert audit.size >= len(acknowledged)
        log.append(b"goes on", "00")
        assert log.check().state == "proved"


def start(what: str, place: str, *numbers: int) -> "subprocess.Popen[str]":
    command = [sys.executable, str(HERE / "appending.py"), what, place, *map(str, numbers)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finished(process: "subprocess.Popen[str]") -> str:
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    return out


# What is changed is found


@pytest.fixture
def kept(place: str) -> Callable[[], Log]:
    """A log of 20 entries with a checkpoint of 8; opened anew each time, so that nothing is remembered."""
    with Log.open(place, signer=SIGNER) as log:
        filled(log, 0, 8)
        log.checkpoint()
        filled(log, 8, 20)
    return lambda: Log.open(place, signer=SIGNER)


SWAP = (
    "UPDATE log_entries SET position = -1 WHERE position = 5",
    "UPDATE log_entries SET position = 5 WHERE position = 10",
    "UPDATE log_entries SET position = 10 WHERE position = -1",
)
CHANGES = {
    "edited": (("UPDATE log_entries SET entry = :junk WHERE position = 5",), ["entry 5: is not what was logged"]),
    "another key": (("UPDATE log_entries SET key = '00' WHERE position = 5",), ["entry 5: is not what was logged"]),
    "a key that is none": (("UPDATE log_entries SET key = 'X' WHERE position = 5",), ["entry 5: is not what was logged"]),
    "deleted": (("DELETE FROM log_entries WHERE position = 5",), ["entry 5: missing"]),
    "the first deleted": (("DELETE FROM log_entries WHERE position = 0",), ["entry 0: missing"]),
    "the last deleted": (
        ("DELETE FROM log_entries WHERE position = 19",),
        ["entry 19: missing", "checkpoint of 20 entries (the newest): its root cannot be computed"],
    ),
    "all deleted": (
        ("DELETE FROM log_entries",),
        ["entries 0 to 19: missing", "checkpoint of 8 entries (kept in the log)", "checkpoint of 20 entries (the newest)"],
    ),
    "reordered": (SWAP, ["entry 5: its tree hashes are those of another place", "entry 10: its tree hashes are those of"]),
    "contents exchanged": (
        (
            "UPDATE log_entries SET entry = :five WHERE position = 10", "UPDATE log_entries SET key = '000000000005' WHERE position = 10",
            "UPDATE log_entries SET entry = :ten WHERE position = 5", "UPDATE log_entries SET key = '000000000003' WHERE position = 5",
        ),
        ["entry 5: is not what was logged", "entry 10: is not what was logged"],
    ),
    "a tree hash changed": (
        ("UPDATE log_entries SET hashes = :wrong WHERE position = 5",),
        ["entries 4 to 5: the stored tree hash is not theirs", "entries 4 to 7: the stored tree hash is not theirs"],
    ),
    "tree hashes removed": (
        ("UPDATE log_entries SET hashes = :nothing WHERE position = 5",),
        ["entry 5: its tree hashes are those of another place"],
    ),
    "put behind the last": (
        ("INSERT INTO log_entries (position, key, entry, hashes) VALUES (20, '00', :junk, :junk)",),
        ["entry 20: lies beyond the 20"],
    ),
    "put before the first": (
        ("INSERT INTO log_entries (position, key, entry, hashes) VALUES (-1, '00', :junk, :junk)",),
        ["entry -1: lies before the first"],
    ),
    "a kept checkpoint changed": (
        ("UPDATE log_checkpoints SET note = :note",),
        ["kept in the log: the signature of"],
    ),
    "a kept checkpoint of another size": (
        ("UPDATE log_checkpoints SET size = 9",),
        ["the checkpoint of 8 entries is kept as one of 9"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("change", CHANGES)
def test_what_was_changed_is_named(place: str, kept: Callable[[], Log], change: str) -> None:
    statements, problems = CHANGES[change]
    [(stored,)] = rows(place, "SELECT hashes FROM log_entries WHERE position = 5")
    [(note,)] = rows(place, "SELECT note FROM log_checkpoints")
    tamper(
        place, *statements, junk=b"junk", five=b"entry 5", ten=b"entry 10", nothing=b"",
        wrong=bytes(stored[:32]) + bytes(32), note=note.replace("\n8\n", "\n9\n"),
    )  # fmt: skip
    with kept() as log:
        audit = log.check()
    assert audit.state == "tampered"
    assert len(audit.problems) == len(problems), audit.problems
    for problem, expected in zip(audit.problems, problems, strict=True):
        assert problem.startswith(expected)


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE log_head SET peaks = :wrong",
        "UPDATE log_head SET note = :wrong_note",
        "UPDATE log_head SET note = 'x'",
        "DELETE FROM log_head",
    ],
)
def test_a_changed_head_is_not_even_opened(place: str, kept: Callable[[], Log], statement: str) -> None:
    [(note, peaks)] = rows(place, "SELECT note, peaks FROM log_head")
    with kept() as running:
        tamper(
            place, statement, wrong=bytes(peaks[:-1]) + bytes([peaks[-1] ^ 1]), wrong_note=note.replace("\n20\n", "\n21\n")
        )  # fmt: skip
        with pytest.raises(ProofError):
            kept()
        for use in (
            lambda: running.append(b"", "00"),
            running.checkpoint,
            lambda: running.proof(3),
            lambda: running.size,
        ):
            with pytest.raises(ProofError):
                use()
    assert rows(place, "SELECT count(*) FROM log_entries") == [(20,)]


def rewritten(place: str, changed: int) -> None:
    """What somebody can do who has the database but not the key: change an entry, and every hash above it."""
    entries = rows(place, "SELECT position, key, entry FROM log_entries ORDER BY position")
    frontier = Frontier()
    for position, key, entry in entries:
        new = b"forged" if position == changed else bytes(entry)
        hashes = b"".join(frontier.add(leaf_of(key, new)))
        statement = "UPDATE log_entries SET entry = :entry, hashes = :hashes WHERE position = :position"
        tamper(place, statement, entry=new, hashes=hashes, position=position)


def test_a_whole_tree_forged_without_the_key(place: str, kept: Callable[[], Log]) -> None:
    rewritten(place, 12)
    with kept() as log:
        (problem,) = log.check().problems
        assert "one or more of entries 8 to 19 were changed" in problem
        with pytest.raises(ProofError, match="not what was signed"):
            log.proof(12)


def test_an_edited_entry_has_no_proof(place: str, kept: Callable[[], Log]) -> None:
    with kept() as log:
        tamper(place, "UPDATE log_entries SET entry = :junk WHERE position = 5", junk=b"junk")
        with pytest.raises(ProofError, match=r"entry 5 or the tree above it is not what was signed"):
            log.proof(5)
        verify_proof(log.proof(6), b"entry 6", SIGNER.public, log.origin)
        tamper(place, "DELETE FROM log_entries WHERE position = 19")
        with pytest.raises(ProofError):
            log.proof(18)


def set_back(place: str, head: Any, size: int) -> None:
    statements = ("DELETE FROM log_entries WHERE position >= :size", "UPDATE log_head SET note = :note, peaks = :peaks")
    tamper(place, *statements, size=size, note=head.note, peaks=bytes(head.peaks))


def test_a_log_set_back(place: str) -> None:
    """To a state that was signed once: only who remembers, or holds a checkpoint, can tell."""
    with Log.open(place, signer=SIGNER) as log:
        filled(log, 0, 10)
        [head] = rows(place, "SELECT note, peaks FROM log_head")
        filled(log, 10, 20)
        held = log.checkpoint().note
        tamper(place, "DELETE FROM log_checkpoints")
        set_back(place, head, 10)
        with pytest.raises(ProofError, match="had 20 entries and now has 10; it was set back"):
            log.append(b"", "00")
    with Log.open(place, signer=SIGNER) as log:
        assert log.check().state == "proved"
        audit = log.check([held])
        assert audit.state == "tampered" and "there are only 10. The log was set back." in audit.problems[0]


def test_a_forked_log(place: str) -> None:
    """Set back and gone on with otherwise, by somebody who has the key."""
    with Log.open(place, signer=SIGNER) as log:
        filled(log, 0, 10)
        [head] = rows(place, "SELECT note, peaks FROM log_head")
        filled(log, 10, 20)
        held = log.checkpoint().note
        tamper(place, "DELETE FROM log_checkpoints")
        set_back(place, head, 10)
        with Log.open(place, signer=SIGNER) as other:
            for i in range(15):
                other.append(b"another %d" % i, "00")
        for use in (lambda: log.append(b"", "00"), lambda: log.proof(3), log.checkpoint, lambda: log.size):
            with pytest.raises(ProofError, match="does not go on from the 20 entries"):
                use()
    with Log.open(place, signer=SIGNER) as log:
        assert log.check().state == "proved"
        audit = log.check([held])
        assert audit.state == "tampered" and audit.problems[0].startswith("checkpoint of 20 entries (held elsewhere)")
        with pytest.raises(ProofError, match="does not go on"):
            verify_consistency(log.consistency(20), held, SIGNER.public, log.origin)


def test_something_in_the_way_of_the_next_entry(place: str, kept: Callable[[], Log]) -> None:
    tamper(
        place, "INSERT INTO log_entries (position, key, entry, hashes) VALUES (20, '00', :junk, :junk)", junk=b"junk"
    )
    with kept() as log, pytest.raises(ProofError, match="something lies where the next entry belongs"):
        log.append(b"", "00")


@pytest.mark.parametrize("value", ["'text'", "7", "1e300", "10000000000000000", "x'ff'", "CAST(x'ff' AS TEXT)", "NULL"])
@pytest.mark.parametrize("column", ["log_entries.entry", "log_entries.key", "log_entries.hashes", "log_checkpoints.note",
                                    "log_checkpoints.timestamp", "log_head.note", "log_head.peaks"])  # fmt: skip
def test_values_of_other_types(tmp_path: Path, column: str, value: str) -> None:
    """SQLite keeps anything in any column."""
    place = str(tmp_path / "log.db")
    with Log.open(place, signer=SIGNER) as log:
        filled(log, 0, 5)
        log.checkpoint()
        log.append(b"last", "00")
    table, name = column.split(".")
    with contextlib.closing(sqlite3.connect(place)) as connection:
        connection.execute("PRAGMA writable_schema = 1")
        connection.execute("UPDATE sqlite_master SET sql = replace(sql, 'NOT NULL', '')")
        connection.commit()
    with contextlib.closing(sqlite3.connect(place)) as connection:
        connection.execute(f"UPDATE {table} SET {name} = {value}")
        connection.commit()
    if table == "log_head":
        with pytest.raises(ProofError):
            Log.open(place, signer=SIGNER)
        return
    with Log.open(place, signer=SIGNER) as log:
        assert log.check().state == ("proved" if name == "timestamp" else "tampered")
        for index in range(log.size):
            with contextlib.suppress(ProofError):  # some hash it needs may be among those that are left
                log.proof(index)
        log.find("00")
        with contextlib.suppress(ProofError):
            log.append(b"goes on", "00")


def test_a_damaged_file(tmp_path: Path) -> None:
    place = tmp_path / "log.db"
    with Log.open(place, signer=SIGNER) as log:
        filled(log, 0, 100)
    with contextlib.closing(sqlite3.connect(place)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    whole = place.read_bytes()
    rng = random.Random(9)
    found = 0
    for _ in range(60):
        damaged = bytearray(whole)
        at = rng.randrange(100, len(whole))  # behind the file's header
        damaged[at : at + 16] = rng.randbytes(16)
        place.write_bytes(damaged)
        for name in ("log.db-wal", "log.db-shm"):
            (tmp_path / name).unlink(missing_ok=True)
        try:
            with Log.open(place, signer=None, keys=[SIGNER.public]) as log:
                audit = log.check()
                assert audit.state == "tampered" or log.head.root == merkle_root(100)
                found += audit.state == "tampered"
        except (ProofError, LogError):
            found += 1
    assert found > 15  # the others hit free space


def merkle_root(size: int) -> bytes:
    frontier = Frontier()
    for i in range(size):
        frontier.add(leaf_of(f"{i % 7:012x}", b"entry %d" % i))
    return frontier.root


# Keys, names, places


def test_a_new_key_goes_on(place: str) -> None:
    old, new = Fixed("old"), Fixed("new")
    with Log.open(place, signer=old) as log:
        origin = log.origin
        filled(log, 0, 5)
        held = log.checkpoint().note
    with pytest.raises(UnknownKeyError):
        Log.open(place, signer=new)
    with Log.open(place, signer=new, keys=[old.public]) as log:
        filled(log, 5, 9)
        assert log.origin == origin
        assert log.check([held]).state == "proved"
        verify_proof(log.proof(2), b"entry 2", new.public, origin)
    with Log.open(place, signer=new) as log:
        audit = log.check()
        assert audit.state == "not proved" and "none of which is a log key that is known" in audit.unproved[0]


def test_a_log_has_one_name(place: str) -> None:
    with Log.open(place, signer=SIGNER, origin="example.org/a") as log:
        log.append(b"", "00")
    with pytest.raises(ProofError, match=r"'example\.org/a', not of 'example\.org/b'"):
        Log.open(place, signer=SIGNER, origin="example.org/b")
    with pytest.raises(InputError, match="without spaces"):
        Log.open(place, signer=SIGNER, origin="a b")
    with pytest.raises(InputError, match="ed25519"):
        Log.open(place, signer=Fixed(algorithm="es256"))


def test_without_a_key_it_is_only_read(place: str) -> None:
    with Log.open(place, signer=SIGNER) as log:
        filled(log, 0, 3)
    with Log.open(place, signer=None, keys=[Fixed(algorithm="es256").public, SIGNER.public]) as log:
        assert log.check().state == "proved"
        assert log.checkpoint().note == log.proof(1).checkpoint
        with pytest.raises(LogError, match="only to read"):
            log.append(b"", "00")
    assert rows(place, "SELECT count(*) FROM log_checkpoints") == [(0,)]


def test_a_held_checkpoint_has_to_be_one(opened: Log) -> None:
    for held in ("", "x", opened.checkpoint().note.replace("\n0\n", "\n1\n")):
        with pytest.raises(InputError, match="the earlier checkpoint cannot be used"):
            opened.check([held])


def test_a_later_format_is_refused(place: str, opened: Log) -> None:
    tamper(place, "UPDATE log_head SET format = 2")
    with pytest.raises(LogError, match="got format 2, this lienzo reads 1"):
        Log.open(place, signer=SIGNER)


# Timestamps


def test_timestamps_are_kept(opened: Log) -> None:
    asked = []

    def authority(message: bytes) -> bytes:
        asked.append(message)
        return b"answer %d" % len(asked)

    filled(opened, 0, 3)
    made = opened.checkpoint(authority)
    assert (made.timestamp, asked) == (b"answer 1", [made.note.encode()])
    assert opened.checkpoint(authority) == made == opened.checkpoint()
    filled(opened, 3, 4)
    assert opened.checkpoint(authority).timestamp == b"answer 2"
    assert opened.check().state == "proved"


@pytest.mark.parametrize("error", [OSError("no route"), LogError("no route")])
def test_an_authority_out_of_reach_is_said(opened: Log, error: Exception) -> None:
    def authority(message: bytes) -> bytes:
        raise error

    filled(opened, 0, 3)
    made = opened.checkpoint(authority)
    assert (made.timestamp, made.untimed) == (None, "no route")
    assert open_checkpoint(made.note, opened.keys).size == 3
    assert opened.checkpoint(lambda message: b"answer").timestamp == b"answer"


# What only one of the databases has


def test_sqlite_flushes_every_commit(tmp_path: Path) -> None:
    with Log.open(tmp_path / "log.db", signer=SIGNER) as log, log._engine.connect() as connection:
        connection = connection.execution_options(write=False)
        assert connection.exec_driver_sql("PRAGMA synchronous").scalar() == 2
        assert connection.exec_driver_sql("PRAGMA journal_mode").scalar() == "wal"
    assert (tmp_path / "log.db").stat().st_mode & 0o777 == 0o600


def test_postgresql_flushes_every_commit(postgresql: Callable[[str], str]) -> None:
    place = postgresql("hasty") + "%20-csynchronous_commit%3Doff"
    assert rows(place, "SHOW synchronous_commit") == [("off",)]
    with Log.open(place, signer=SIGNER) as log, log._engine.connect() as connection:
        assert connection.execution_options(write=False).exec_driver_sql("SHOW synchronous_commit").scalar() == "on"


@pytest.mark.parametrize("name", ["with space.db", "100%.db", "a?b#c.db", "ñ.db", "new/folder/log.db"])
def test_any_file_name(tmp_path: Path, name: str) -> None:
    with Log.open(tmp_path / name, signer=SIGNER) as log:
        log.append(b"", "00")
    assert (tmp_path / name).is_file()
    with Log.open(f"sqlite:///{tmp_path}/url.db", signer=SIGNER) as log:
        assert log.size == 0
    assert (tmp_path / "url.db").is_file()


def test_places_that_are_none(tmp_path: Path) -> None:
    junk = tmp_path / "junk.db"
    junk.write_bytes(b"not a database" * 1000)
    other = tmp_path / "other.db"
    with sa.create_engine(f"sqlite:///{other}").begin() as connection:
        connection.execute(sa.text("CREATE TABLE t (x INTEGER)"))
    for where, message in [
        (junk, "not a database: no log of lienzo's"), (tmp_path, "no log is there"), (tmp_path / "none.db", "no log is there"),
        (other, "no such table"),
    ]:  # fmt: skip
        with pytest.raises(LogError, match=message):
            Log.open(where, signer=None, keys=[SIGNER.public])
    assert not (tmp_path / "none.db").exists()
    for url in ("mysql://host/x", "sqlite://", "://", "sqlite:///x.db?mode=ro", "postgres+nonsense://x"):
        with pytest.raises(InputError, match="Allowed"):
            Log.open(url, signer=SIGNER)


def test_a_server_out_of_reach_is_said_without_the_password() -> None:
    with pytest.raises(LogError, match=r"postgresql://me:\*\*\*@/none") as caught:
        Log.open("postgresql://me:secret@/none?host=/nonexistent", signer=SIGNER)
    assert "secret" not in str(caught.value)


def filled_up(log: Log) -> None:
    while True:
        log.append(bytes(MAX_ENTRY), "00")


def test_a_full_disk_adds_nothing(tmp_path: Path) -> None:
    with Log.open(tmp_path / "log.db", signer=SIGNER) as log:
        filled(log, 0, 3)
        with log._engine.connect() as connection:
            connection.execution_options(write=False).exec_driver_sql("PRAGMA max_page_count = 1")
        with pytest.raises(LogError, match=r"full\. Nothing was added"):
            filled_up(log)
        assert log.check().state == "proved"
