"""Kept prompts: nowhere in plain, erased for good, their key changed while others read and write and processes are killed."""

import base64
import contextlib
import json
import os
import random
import shutil
import signal
import sqlite3
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from sqlalchemy import create_engine, text

from lienzo.cli import lienzo
from lienzo.errors import KeystoreError, RecordError, SealingError, StoreError
from lienzo.provenance.keys import Keystore
from lienzo.provenance.prompts import Kept, PromptStore
from lienzo.provenance.sealing import KeyRing, LocalKey, wrapped_by

CANARY = "kanarienvogel-7f3a91 «ñ»"
REQUEST = json.dumps({"prompt": CANARY, "seed": 7}).encode()
SALT = b"salt-of-the-canary-" + bytes(13)
KEYS = [LocalKey(bytes([number]) * 32) for number in range(3)]


def kek(*keys: LocalKey) -> str:
    return ",".join(base64.b64encode(key.key).decode() for key in keys)


@pytest.fixture(autouse=True)
def house(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LIENZO_HOME", str(tmp_path))
    monkeypatch.delenv("LIENZO_KEK", raising=False)
    return tmp_path


@pytest.fixture
def store(place: str) -> Iterator[PromptStore]:
    with contextlib.closing(PromptStore(place)) as opened:
        yield opened


@pytest.fixture
def run(house: Path) -> Callable[..., Result]:
    return lambda *args: CliRunner().invoke(lienzo, ["prompts", *map(str, args)], catch_exceptions=False)


def fill(store: PromptStore, count: int) -> dict[str, Kept]:
    kept = {f"{i:04}": Kept(f"{i:04}", "local", REQUEST + b" " * i, SALT + bytes([i % 256])) for i in range(count)}
    for one in kept.values():
        store.put(one.record, one.tenant, one.request, one.salt)
    return kept


def everything(folder: Path) -> bytes:
    """What the database's files hold, and whatever else lies there."""
    return b"\0".join(path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file())


def in_plain(data: bytes) -> bool:
    needles = [CANARY.encode(), SALT[:19], b"kanarienvogel", SALT[:19].hex().encode(), base64.b64encode(SALT)[:20]]
    return any(needle in data for needle in needles)


def row(path: Path, record: str) -> tuple[bytes, ...]:
    with contextlib.closing(sqlite3.connect(path)) as connection:
        (found,) = connection.execute("SELECT key, request, salt FROM prompts WHERE record = ?", (record,)).fetchall()
    return tuple(found)


def change(path: Path, statement: str, *values: object) -> None:
    with contextlib.closing(sqlite3.connect(path)) as connection, connection:
        assert connection.execute(statement, values).rowcount


# Keeping


def test_what_is_put_comes_back(store: PromptStore) -> None:
    store.put("r1", "anna", REQUEST, SALT)
    assert store.get("r1") == store.get("r1", "anna") == Kept("r1", "anna", REQUEST, SALT)
    store.put("r1", "anna", REQUEST, SALT)
    store.put("r2", "anna", b"", b"")
    assert store.get("r2") == Kept("r2", "anna", b"", b"")


def test_the_first_stays(store: PromptStore) -> None:
    store.put("r1", "anna", REQUEST, SALT)
    for tenant, request, salt in (("berta", REQUEST, SALT), ("anna", b"{}", SALT), ("anna", REQUEST, b"other")):
        with pytest.raises(RecordError, match="another request or salt is kept"):
            store.put("r1", tenant, request, salt)
    assert store.get("r1") == Kept("r1", "anna", REQUEST, SALT)


def test_nobody_reads_of_another_tenant(store: PromptStore) -> None:
    store.put("r1", "anna", REQUEST, SALT)
    messages = set()
    for record, tenant in (("r1", "berta"), ("r1", ""), ("r2", "anna")):
        with pytest.raises(RecordError, match="of which nothing is kept") as caught:
            store.get(record, tenant)
        messages.add(str(caught.value).replace(record, "..."))
    assert len(messages) == 1, "the message tells whether another tenant has that record"


def test_files_are_their_owners_alone(house: Path) -> None:
    store = PromptStore()
    store.put("r1", "anna", REQUEST, SALT)
    files = [path for path in house.rglob("*") if path.is_file()]
    assert {path.name for path in files} >= {"records.db", "records.db-wal", "records.db-shm"}
    assert {stat.S_IMODE(path.stat().st_mode) for path in files} == {0o600}


def test_each_database_has_a_key_of_its_own(house: Path) -> None:
    """Otherwise changing one's key would destroy the other's."""
    first, second = PromptStore(house / "a.db"), PromptStore(house / "b.db")
    for store in (first, second):
        store.put("r1", "anna", REQUEST, SALT)
    assert len(first.rotate().retired) == 1
    assert second.get("r1").request == REQUEST
    assert len(list((house / "keys").glob("prompts-*.hex"))) == 2


def test_two_processes_may_begin_at_once(house: Path) -> None:
    code = "import sys; from lienzo.provenance.prompts import PromptStore; PromptStore().put(sys.argv[1], 't', b'{}', b's')"
    children = [subprocess.Popen([sys.executable, "-c", code, name]) for name in "abcd"]
    assert [child.wait() for child in children] == [0] * 4
    assert {PromptStore().get(name).record for name in "abcd"} == set("abcd")
    assert len(list((house / "keys").iterdir())) == 1


# Canary


def test_the_canary_is_nowhere_in_plain(house: Path) -> None:
    path = house / "records.db"
    assert in_plain(REQUEST) and in_plain(SALT)
    store = PromptStore(path)
    steps: list[Callable[[], object]] = [
        lambda: fill(store, 20),
        lambda: store.get("0003"),
        lambda: store.erase("0003"),
        store.rotate,
        lambda: store.erase("0004"),
        store.close,
    ]
    for step in steps:
        shown = repr(step())
        assert not in_plain(everything(house))
        assert "kanarien" not in shown and "salt-of" not in shown
    with pytest.raises(RecordError) as caught:
        PromptStore(path).put("0001", "local", REQUEST, b"other")
    assert "kanarien" not in str(caught.value)


def test_postgresql_flushes_every_commit(postgresql: Callable[[str], str]) -> None:
    place = postgresql("hasty_prompts") + "%20-csynchronous_commit%3Doff"
    with contextlib.closing(PromptStore(place)) as store, store._database.reading() as connection:
        assert connection.exec_driver_sql("SHOW synchronous_commit").scalar() == "on"


def test_the_canary_is_nowhere_in_plain_in_postgresql(postgresql: Callable[[str], str]) -> None:
    url = postgresql("canary")
    store = PromptStore(url)
    fill(store, 5)
    store.put("marked", "tenant-to-be-found", REQUEST, SALT)
    store.rotate()
    store.erase("0001")
    store.close()
    engine = create_engine(url.replace("postgresql:", "postgresql+psycopg:"), isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.execute(text("CHECKPOINT"))
    engine.dispose()
    files = everything(Path(url.split("host=")[1].split("&")[0]))
    assert b"tenant-to-be-found" in files, "looked in the wrong place"
    assert not in_plain(files)


def test_a_failing_statement_tells_nothing(house: Path) -> None:
    """Neither of the prompt nor of its ciphertext: what fails may end in somebody's log."""
    store = PromptStore()
    change(house / "records.db", "UPDATE prompt_store SET id = 'x'")
    with contextlib.closing(sqlite3.connect(house / "records.db")) as connection:
        connection.execute("DROP TABLE prompts")
    with pytest.raises(StoreError, match="no such table") as caught:
        store.put("r1", "anna", REQUEST, SALT)
    assert len(str(caught.value)) < 300 and caught.value.__suppress_context__


@pytest.mark.parametrize("count", [1, 40])
def test_erased_bytes_are_in_no_file(house: Path, count: int) -> None:
    """Also not encrypted: whoever has the key later finds nothing to open, in any page or in the write-ahead log."""
    store = PromptStore()
    fill(store, count)
    rows = {record: row(house / "records.db", record) for record in map("{:04}".format, range(count))}
    for record in random.Random(0).sample(list(rows), count):
        parts = rows.pop(record)
        assert all(part in everything(house) for part in parts)
        assert store.erase(record)
        assert not any(part in everything(house) for part in parts)
        assert not store.erase(record)
        with pytest.raises(RecordError):
            store.get(record)
    store.put("0000", "local", b"{}", b"s")  # the place is free again


def test_erasing_says_if_the_bytes_cannot_be_wiped_yet(house: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lienzo.provenance.database.WAIT", 0.1)
    store = PromptStore()
    fill(store, 3)
    with contextlib.closing(sqlite3.connect(house / "records.db", isolation_level=None)) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT * FROM prompts").fetchall()
        with pytest.raises(StoreError, match="gone for every reader"):
            store.erase("0001")
    with pytest.raises(RecordError):
        store.get("0001")
    assert not store.erase("0001")  # again, which wipes
    assert not (house / "records.db-wal").stat().st_size


# Changed by somebody


def test_swapped_cells_and_rows_are_refused(house: Path) -> None:
    path, store = house / "records.db", PromptStore()
    fill(store, 3)
    store.put("other", "berta", REQUEST, SALT)
    before = {record: row(path, record) for record in ("0000", "0001", "other")}
    rows = [dict(zip(("key", "request", "salt"), before[record], strict=True)) for record in before]
    own, same_tenant, other_tenant = rows
    changes: list[dict[str, object]] = [
        {"request": own["salt"]},
        {"request": own["salt"], "salt": own["request"]},
        *({name: value} for other in (same_tenant, other_tenant) for name, value in other.items()),
        same_tenant,
        other_tenant,
        {"tenant": "berta"},
        {"schema": 2},
        {"request": "text"},
        {"salt": 7},
        {"tenant": b"bytes"},
        {"key": b""},
    ]
    for changed in changes:
        for name, value in {"tenant": "local", "schema": 1, **own, **changed}.items():
            change(path, f"UPDATE prompts SET {name} = ? WHERE record = '0000'", value)
        with pytest.raises(SealingError):
            store.get("0000")
    change(path, "DELETE FROM prompts WHERE record = '0001'")
    change(path, "UPDATE prompts SET record = '0001' WHERE record = 'other'")
    with pytest.raises(SealingError):
        store.get("0001")
    assert store.get("0002").request


def test_what_is_no_database_of_lienzos_is_refused(house: Path) -> None:
    (house / "noise.db").write_bytes(b"not a database at all" * 500)
    with pytest.raises(StoreError, match=r"noise\.db.*not a database"):
        PromptStore(house / "noise.db")
    with pytest.raises(StoreError, match="cannot be opened"):
        PromptStore(house / "noise.db" / "x.db")
    for url in ("mysql://user:secret@host/name", "sqlite://", "://"):
        with pytest.raises(StoreError, match="Allowed: a file") as caught:
            PromptStore(url)
        assert "secret" not in str(caught.value)
    with pytest.raises(StoreError, match="Check that") as caught:
        PromptStore("postgresql://user:secret@127.0.0.1:1/name?connect_timeout=2")
    assert "secret" not in str(caught.value)
    PromptStore().close()
    change(house / "records.db", "UPDATE prompt_store SET schema = 2")
    with pytest.raises(StoreError, match="version 2; this lienzo knows 1"):
        PromptStore()


# Keys


def test_a_lost_key_is_told_and_a_wrong_one_opens_nothing(house: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = PromptStore()
    store.put("r1", "anna", REQUEST, SALT)
    (file,) = (house / "keys").iterdir()
    saved = file.read_bytes()
    file.unlink()
    with pytest.raises(KeystoreError, match=r"r1: its data key is wrapped by the key .* which is not here"):
        store.get("r1")
    (made_anew,) = (house / "keys").iterdir()
    made_anew.write_bytes(KEYS[0].key.hex().encode())
    with pytest.raises(KeystoreError, match="not here"):
        store.get("r1")
    file.write_bytes(saved)
    assert store.get("r1").request == REQUEST
    monkeypatch.setenv("LIENZO_KEK", kek(KEYS[1]))
    assert store.get("r1").request == REQUEST  # the file is an older key then
    file.unlink()
    with pytest.raises(KeystoreError, match=KEYS[1].id):
        store.get("r1")


def test_the_key_may_be_in_the_environment(house: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIENZO_KEK", kek(KEYS[0]))
    store = PromptStore()
    kept = fill(store, 3)
    assert not (house / "keys").exists()
    assert store.rotate().retired == ()
    monkeypatch.setenv("LIENZO_KEK", kek(KEYS[1], KEYS[0]))
    assert {record: store.get(record) for record in kept} == kept
    done = store.rotate()
    assert (done.current, done.retired, done.rewrapped) == (KEYS[1].id, (KEYS[0].id,), 3)
    monkeypatch.setenv("LIENZO_KEK", kek(KEYS[1]))
    assert {record: store.get(record) for record in kept} == kept
    monkeypatch.setenv("LIENZO_KEK", kek(KEYS[0]))  # a process that was not told
    with pytest.raises(KeystoreError, match=f"{KEYS[0].id} to wrap with, which was retired"):
        store.put("r4", "anna", REQUEST, SALT)
    with pytest.raises(KeystoreError, match=f"{KEYS[0].id} to wrap with, which was retired"):
        store.rotate()
    for wrong, match in (
        ("secret!", r"LIENZO_KEK, key 1 of 1: got 7 characters that are no base64\. Allowed: the base64 of 32 bytes"),
        ("AAAA", r"got a key-encryption key of 3 bytes; expected 32\..*Make one: openssl"),
        (kek(KEYS[0]) + ",!", r"key 2 of 2: got 1 characters"),
    ):
        monkeypatch.setenv("LIENZO_KEK", wrong)
        with pytest.raises(KeystoreError, match=match) as caught:
            store.get("0001")
        assert wrong not in str(caught.value)


def test_from_a_file_to_the_environment_or_a_service(house: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = PromptStore()
    kept = fill(store, 3)
    monkeypatch.setenv("LIENZO_KEK", kek(KEYS[0]))
    assert store.rotate().rewrapped == 3
    assert not list((house / "keys").iterdir())
    service = PromptStore(keys=KeyRing(KEYS[1], (KEYS[0],)))
    assert service.rotate().retired == (KEYS[0].id,)
    monkeypatch.delenv("LIENZO_KEK")
    assert {record: service.get(record) for record in kept} == kept


def test_a_change_of_keys_leaves_the_cells_and_destroys_the_old_key(house: Path) -> None:
    path, store = house / "records.db", PromptStore()
    kept = fill(store, 250)
    before = {record: row(path, record) for record in kept}
    (old,) = (house / "keys").iterdir()
    saved = old.read_bytes()
    done = store.rotate()
    assert (done.rewrapped, done.resumed, done.failed) == (250, False, ())
    assert not old.exists()
    files = everything(house)
    for record, (key, *cells) in before.items():
        now = row(path, record)
        assert list(now[1:]) == cells
        assert wrapped_by(now[0]) == done.current != wrapped_by(key)
        assert key not in files, "with a copy of the old key it could still be opened"
    assert saved not in files
    assert {record: store.get(record) for record in kept} == kept


def test_damaged_records_are_told_and_keep_their_key(house: Path) -> None:
    store = PromptStore()
    fill(store, 4)
    key = row(house / "records.db", "0001")[0]
    change(house / "records.db", "UPDATE prompts SET key = ? WHERE record = '0001'", key[:-1] + bytes([key[-1] ^ 1]))
    done = store.rotate()
    assert (done.rewrapped, done.retired) == (3, ())
    assert [record for record, _ in done.failed] == ["0001"]
    assert len(list((house / "keys").iterdir())) == 2
    change(house / "records.db", "UPDATE prompts SET key = ? WHERE record = '0001'", key)
    done = store.rotate()
    assert (done.rewrapped, done.resumed, len(done.retired), done.failed) == (1, True, 1, ())


# Many at once


def test_keys_change_while_others_put_get_and_erase(place: str) -> None:
    """No record is lost, whichever key wrapped it at the moment when that was retired."""
    stores = [PromptStore(place) for _ in range(3)]
    kept, errors, over = fill(stores[0], 30), list[BaseException](), threading.Event()
    written: dict[str, Kept] = {}

    def work(number: int) -> None:
        try:
            store, i = stores[number], 0
            while not over.is_set():
                one = Kept(f"w{number}-{i}", "local", REQUEST, SALT)
                store.put(one.record, one.tenant, one.request, one.salt)
                assert store.get(f"{i % 30:04}") == kept[f"{i % 30:04}"]
                if i % 3:
                    written[one.record] = one
                else:
                    assert store.erase(one.record)
                i += 1
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in (0, 1)]
    for thread in threads:
        thread.start()
    try:
        retired = [stores[2].rotate(batch=7) for _ in range(4)]
    finally:
        over.set()
        for thread in threads:
            thread.join()
    assert not errors
    assert all(done.retired for done in retired)
    assert len(written) >= 4
    for one in (kept | written).values():
        assert stores[2].get(one.record) == one
    for store in stores:
        store.close()


def test_two_may_change_keys_at_once(place: str) -> None:
    stores = [PromptStore(place) for _ in range(2)]
    kept = fill(stores[0], 40)
    errors = list[BaseException]()

    def work(store: PromptStore) -> None:
        try:
            for _ in range(4):
                store.rotate(batch=3)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(store,)) for store in stores]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    assert {record: stores[0].get(record) for record in kept} == kept
    for store in stores:
        store.close()


VICTIMS = """
import os, sys
import cryptography.hazmat.primitives.ciphers.aead, sqlalchemy.dialects.sqlite
from lienzo.provenance.prompts import PromptStore

def rotate(path):
    store = PromptStore(path)
    print(os.getpid(), flush=True)
    while True:
        store.rotate(batch=4)

def put(path, name, request):
    store = PromptStore(path)
    print(os.getpid(), flush=True)
    for i in range(100_000):
        store.put(f"{name}-{i}", "local", request.encode(), b"salt")
        os.write(1, f"{i}\\n".encode())

for line in sys.stdin:
    what, *arguments = line.rstrip("\\n").split("\\t")
    pid = os.fork()
    if not pid:
        globals()[what](*arguments)
    os.waitpid(pid, 0)
    print("ended", flush=True)
"""


class Victims:
    """Processes to kill, forked from one that has imported everything, which would take most of the time."""

    def __init__(self) -> None:
        self._parent = subprocess.Popen(
            [sys.executable, "-c", VICTIMS], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, encoding="utf-8"
        )

    def kill(self, seconds: float, *what: str) -> list[str]:
        """Let one begin, kill it after some time, and return what it had said until then."""
        assert self._parent.stdin is not None and self._parent.stdout is not None
        self._parent.stdin.write("\t".join(what) + "\n")
        self._parent.stdin.flush()
        pid = int(self._parent.stdout.readline())
        time.sleep(seconds)
        os.kill(pid, signal.SIGKILL)
        return list(iter(lambda: self._parent.stdout.readline().rstrip("\n"), "ended"))  # type: ignore[union-attr]

    def close(self) -> None:
        self._parent.communicate()


def test_a_rotation_that_is_killed_goes_on_later(house: Path) -> None:
    path = house / "records.db"
    with contextlib.closing(PromptStore(path)) as store:
        kept = fill(store, 40)
        begun = time.perf_counter()
        store.rotate(batch=4)
        took = time.perf_counter() - begun
    chance, stopped_within = random.Random(1), 0
    with contextlib.closing(Victims()) as victims:
        for _ in range(20):
            victims.kill(chance.uniform(0, 2 * took), "rotate", str(path))
            assert not in_plain(everything(house))
            stopped_within += len(list((house / "keys").glob("prompts-*.hex"))) > 1
            with contextlib.closing(PromptStore(path)) as store:
                assert {record: store.get(record) for record in kept} == kept
    assert stopped_within, "no kill hit a rotation"
    with contextlib.closing(PromptStore(path)) as store:
        store.rotate()
        assert {record: store.get(record) for record in kept} == kept
    assert len(list((house / "keys").glob("prompts-*.hex"))) == 1


def test_what_was_put_survives_a_kill(house: Path) -> None:
    path, chance, count = house / "records.db", random.Random(2), 0
    with contextlib.closing(Victims()) as victims:
        for number in map(str, range(10)):
            acknowledged = victims.kill(chance.uniform(0.02, 0.2), "put", str(path), number, CANARY)
            assert not in_plain(everything(house))
            with contextlib.closing(PromptStore(path)) as store:
                for i in acknowledged:
                    assert store.get(f"{number}-{i}").request.decode() == CANARY
            count += len(acknowledged)
    assert count, "nothing was acknowledged before a kill"


# Command line


def test_the_command_line_shows_erases_and_rotates(house: Path, run: Callable[..., Result]) -> None:
    with contextlib.closing(PromptStore()) as store:
        store.put("r1", "anna", REQUEST, SALT)
    assert json.loads(run("show", "r1").stdout) == json.loads(REQUEST)
    expected = {"record": "r1", "tenant": "anna", "request": json.loads(REQUEST), "salt": SALT.hex()}
    assert json.loads(run("show", "r1", "--json").stdout) == expected
    done = json.loads(run("rotate", "--json").stdout)
    assert (done["rewrapped"], done["resumed"], len(done["retired"]), done["failed"]) == (1, False, 1, [])
    erased = run("erase", "r1", "--json")
    assert json.loads(erased.stdout) == {"record": "r1", "erased": True}
    for command in ("erase", "show"):
        again = run(command, "r1")
        assert (again.exit_code, again.stdout) == (2, "")
        assert "of which nothing is kept" in again.stderr


def test_the_command_line_tells_what_a_rotation_did(
    house: Path, run: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    other = house / "other.db"
    with contextlib.closing(PromptStore(other)) as store:
        store.put("r1", "anna", REQUEST, SALT)
    result = run("rotate", "--records", other)
    assert "wraps from now on; 1 data keys wrapped anew" in result.stdout
    assert "retired: nothing is wrapped by it any more" in result.stdout
    assert not (house / "records.db").exists()
    (file,) = (house / "keys").iterdir()
    Keystore().rotate(file.name.split(".")[0])
    assert "For a fresh key run it once more." in run("rotate", "--records", other).stderr
    key = row(other, "r1")[0]
    change(other, "UPDATE prompts SET key = ?", key[:-1] + bytes([key[-1] ^ 1]))
    assert "Warning: r1, its data key: it was changed" in run("rotate", "--records", other).stderr
    monkeypatch.setenv("LIENZO_KEK", kek(KEYS[0]))
    assert f"LIENZO_KEK holds one key, {KEYS[0].id}. Put a new one before it" in run("rotate").stderr


def test_records_are_listed_without_any_key(house: Path, run: Callable[..., Result]) -> None:
    with contextlib.closing(PromptStore()) as store:
        assert store.records() == []
        assert "No requests are kept" in run("list").stderr
        store.put("b2", "anna", b'{"prompt": "a secret"}', SALT)
        store.put("a1", "bob", REQUEST, SALT)
    shutil.rmtree(house / "keys")
    assert run("list").stdout == "a1  bob\nb2  anna\n"
    assert json.loads(run("list", "--json").stdout) == [
        {"record": "a1", "tenant": "bob"}, {"record": "b2", "tenant": "anna"},
    ]  # fmt: skip
    assert not (house / "keys").exists()
    result = run("list", "--records", house / "nothing.db")
    assert result.exit_code == 2 and "nothing is kept there" in result.stderr


def test_control_characters_of_a_prompt_do_not_reach_the_terminal(run: Callable[..., Result]) -> None:
    with contextlib.closing(PromptStore()) as store:
        store.put("r1", "anna", b'{"prompt": "\x1b[2J"}', SALT)
    assert "\x1b" not in run("show", "r1").stdout
    assert os.linesep in run("show", "r1").stdout
