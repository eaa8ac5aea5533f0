"""The export: one file that a stranger checks, and that nobody can change."""

import contextlib
import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from signing import Fixed

from lienzo.errors import InputError, LogError, OutputError, UntrustedTimestampError
from lienzo.provenance.log import Audit, Log, verify_export, write_export
from lienzo.provenance.log.export import MAX_LINE

SIGNER = Fixed()
KEYS = [SIGNER.public]
SIZE = 12


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """export.jsonl of 12 entries, with a checkpoint kept at 5 and one with a timestamp at 9; those two, held.txt and timed.txt."""
    folder = tmp_path_factory.mktemp("export")
    with Log.open(folder / "log.db", signer=SIGNER, origin="example.org/pictures") as log:
        for i in range(SIZE):
            if i == 5:
                (folder / "held.txt").write_text(log.checkpoint().note)
            if i == 9:
                (folder / "timed.txt").write_text(log.checkpoint(lambda message: b"answer").note)
            log.append(b"entry %d" % i, f"{i % 3:02x}")
        assert write_export(log, folder / "export.jsonl") == SIZE
    return folder


@pytest.fixture(scope="module")
def data(folder: Path) -> bytes:
    return (folder / "export.jsonl").read_bytes()


@pytest.fixture
def verified(tmp_path: Path) -> Callable[..., Audit]:
    def verify(data: bytes, **options: object) -> Audit:
        path = tmp_path / "file"
        path.write_bytes(data)
        return verify_export(path, KEYS, **options)  # type: ignore[arg-type]

    return verify


def test_a_stranger_needs_the_file_and_the_key(folder: Path) -> None:
    audit = verify_export(folder / "export.jsonl", KEYS, wanted="01")
    assert (audit.state, audit.size, audit.checkpoints, audit.problems) == ("proved", SIZE, 3, ())
    assert audit.found == tuple((i, b"entry %d" % i) for i in (1, 4, 7, 10))
    assert audit.notes == ("1 timestamps were not checked",)
    held = (folder / "held.txt").read_text()
    assert verify_export(folder / "export.jsonl", KEYS, origin="example.org/pictures", held=[held]).held == 1


def test_its_form_is_simple(data: bytes) -> None:
    lines = [json.loads(line) for line in data.splitlines()]
    assert lines[0].keys() == {"format", "key", "size"}
    assert [line["index"] for line in lines if "index" in line] == list(range(SIZE))
    assert [int(line["checkpoint"].split("\n")[1]) for line in lines if "checkpoint" in line] == [5, 9, SIZE]


def test_an_empty_log_too(tmp_path: Path) -> None:
    with Log.open(tmp_path / "log.db", signer=SIGNER) as log:
        write_export(log, tmp_path / "export")
        log.checkpoint()
        write_export(log, tmp_path / "again")
    assert (tmp_path / "export").read_bytes() == (tmp_path / "again").read_bytes()
    audit = verify_export(tmp_path / "export", KEYS)
    assert (audit.state, audit.size) == ("proved", 0)


def test_an_unknown_key_proves_nothing(folder: Path) -> None:
    for keys in ([], [Fixed("other").public], [Fixed(algorithm="es256").public]):
        audit = verify_export(folder / "export.jsonl", keys)
        assert audit.state == "not proved" and "none of the log keys that are known" in audit.unproved[0]
    audit = verify_export(folder / "export.jsonl", KEYS, origin="example.org/other")
    assert audit.state == "not proved" and "not example.org/other" in audit.unproved[0]


def test_timestamps_are_checked_by_whoever_can(folder: Path) -> None:
    asked = []
    audit = verify_export(
        folder / "export.jsonl", KEYS, stamped=lambda answer, message: asked.append((answer, message))
    )
    assert (audit.state, audit.notes) == ("proved", ())
    assert asked == [(b"answer", (folder / "timed.txt").read_bytes())]

    def refuse(answer: bytes, message: bytes) -> None:
        raise LogError("the timestamp is of another message.")

    audit = verify_export(folder / "export.jsonl", KEYS, stamped=refuse)
    assert audit.state == "tampered" and "another message" in audit.problems[0]

    def stranger(answer: bytes, message: bytes) -> None:
        raise UntrustedTimestampError("an authority that is not trusted.")

    audit = verify_export(folder / "export.jsonl", KEYS, stamped=stranger)
    assert (audit.state, audit.problems) == ("not proved", ())
    assert audit.unproved == ("after 9 entries: an authority that is not trusted.",)


def test_a_file_made_meanwhile_is_not_overwritten(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "log.jsonl"
    rows = Log._rows

    def slow(self: Log, connection: Any) -> Iterator[Any]:
        target.write_bytes(b"of another process")
        yield from rows(self, connection)

    with Log.open(tmp_path / "log.db", signer=Fixed("a")) as log:
        log.append(b"0", "00")
        monkeypatch.setattr(Log, "_rows", slow)
        with pytest.raises(OutputError, match="exists already"):
            write_export(log, target)
        assert target.read_bytes() == b"of another process" and not list(tmp_path.glob(".lienzo-*"))
        assert write_export(log, target, overwrite=True) == 1
    assert target.read_bytes().startswith(b'{"format"')


def test_checkpoints_of_an_earlier_key(tmp_path: Path) -> None:
    old, new = Fixed("old"), Fixed("new")
    with Log.open(tmp_path / "log.db", signer=old) as log:
        log.append(b"0", "00")
        log.checkpoint()
    with Log.open(tmp_path / "log.db", signer=new, keys=[old.public]) as log:
        log.append(b"1", "00")
        write_export(log, tmp_path / "export")
    assert verify_export(tmp_path / "export", [old.public, new.public]).state == "proved"
    assert verify_export(tmp_path / "export", [new.public]).state == "not proved"
    assert verify_export(tmp_path / "export", [old.public]).state == "not proved"


def test_another_history_does_not_agree_with_a_held_checkpoint(folder: Path, tmp_path: Path) -> None:
    with Log.open(tmp_path / "log.db", signer=SIGNER, origin="example.org/pictures") as log:
        for i in range(SIZE + 3):
            log.append(b"other %d" % i, "00")
        write_export(log, tmp_path / "export")
    held = (folder / "held.txt").read_text()
    assert verify_export(tmp_path / "export", KEYS).state == "proved"
    audit = verify_export(tmp_path / "export", KEYS, held=[held])
    assert audit.state == "tampered" and audit.problems[0].startswith("checkpoint of 5 entries (held elsewhere)")


def test_an_older_export_than_a_held_checkpoint(tmp_path: Path) -> None:
    """An honest one, and one that nobody can tell from it: nothing was changed, and nothing later is proved."""
    with Log.open(tmp_path / "log.db", signer=SIGNER) as log:
        log.append(b"", "00")
        early = log.checkpoint().note
        write_export(log, tmp_path / "export")
        log.append(b"", "00")
        held = log.checkpoint().note
    audit = verify_export(tmp_path / "export", KEYS, held=[held, early])
    assert (audit.state, audit.problems, audit.held) == ("not proved", (), 1)
    assert audit.unproved == (
        "checkpoint of 2 entries (held elsewhere): this copy of the log is older, it has 1; whether the log only grew since cannot "
        "be told. Get a newer copy.",
    )
    cut = (tmp_path / "export").read_bytes().splitlines(keepends=True)[:-1]
    (tmp_path / "export").write_bytes(b"".join(cut))
    assert verify_export(tmp_path / "export", KEYS, held=[held]).state == "tampered", "which was cut, not older"


def test_how_far_it_is_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lienzo.provenance.log.audit._TELL", 3)
    told: list[tuple[int, int]] = []
    with Log.open(tmp_path / "log.db", signer=SIGNER) as log:
        for _ in range(8):
            log.append(b"", "00")
        write_export(log, tmp_path / "export")
        log.check(advance=lambda done, of: told.append((done, of)))
    assert told == [(3, 8), (6, 8)]
    verify_export(tmp_path / "export", KEYS, advance=lambda done, of: told.append((done, of)))
    assert told == [(3, 8), (6, 8)] * 2
    header, *lines = (tmp_path / "export").read_bytes().splitlines(keepends=True)
    (tmp_path / "export").write_bytes(b"".join([header.replace(b'"size":8', b'"size":1'), *lines]))
    told.clear()
    verify_export(tmp_path / "export", KEYS, advance=lambda done, of: told.append((done, of)))
    assert told == [(3, 3), (6, 6)], "never more than all, whatever a stranger's file says"


def line(document: object) -> bytes:
    return json.dumps(document, sort_keys=True, separators=(",", ":")).encode() + b"\n"


def test_lines_changed_with_care(data: bytes, verified: Callable[..., Audit]) -> None:
    """By somebody who knows the format: everything but the signatures is as it should be."""
    lines = data.splitlines(keepends=True)
    entry = json.loads(lines[3])
    final = json.loads(lines[-1])
    forged = {
        "an entry's bytes": [*lines[:3], line({**entry, "entry": "Zm9yZ2Vk"}), *lines[4:]],
        "an entry's key": [*lines[:3], line({**entry, "key": "ff"}), *lines[4:]],
        "an entry left out": [*lines[:3], *lines[4:]],
        "an entry twice": [*lines[:4], *lines[3:]],
        "two exchanged": [*lines[:3], lines[4], lines[3], *lines[5:]],
        "a checkpoint left out at the end": lines[:-1],
        "a checkpoint twice": [*lines, lines[-1]],
        "a checkpoint too early": [*lines[:3], lines[-1], *lines[3:]],
        "an entry after the end": [*lines, line({**entry, "index": SIZE})],
        "an empty line": [*lines[:3], b"\n", *lines[3:]],
        "another size": [line({**json.loads(lines[0]), "size": SIZE + 1}), *lines[1:]],
        "a checkpoint more": [*lines[:-1], line({**final, "timestamp": 5})],
        "spaces": [*lines[:3], lines[3].replace(b":", b": "), *lines[4:]],
        "a name more": [*lines[:3], line({**entry, "more": 1}), *lines[4:]],
        "true for 1": [*lines[:2], lines[2].replace(b'"index":1,', b'"index":true,'), *lines[3:]],
    }
    for name, changed in forged.items():
        assert b"".join(changed) != data, name
        audit = verified(b"".join(changed))
        assert audit.state == "tampered", name


def test_only_the_kept_checkpoints_may_be_left_out(data: bytes, verified: Callable[..., Audit]) -> None:
    """They add nothing to the last one, which is over all entries."""
    lines = data.splitlines(keepends=True)
    assert b"checkpoint" in lines[6]
    assert verified(b"".join(lines[:6] + lines[7:])).state == "proved"


@pytest.mark.parametrize("count", [pytest.param(1_000), pytest.param(50_000, marks=pytest.mark.slow)])
def test_no_mutated_export_is_accepted(data: bytes, verified: Callable[..., Audit], count: int) -> None:
    """So many changed bits, and so many cuts, insertions and moved lines."""
    rng = random.Random(1)
    for _ in range(count):
        at = rng.randrange(len(data))
        changed = bytearray(data)
        changed[at] ^= 1 << rng.randrange(8)
        refused(verified, bytes(changed))
    lines = data.splitlines(keepends=True)
    for _ in range(count):
        match rng.randrange(4):
            case 0:
                mutated = data[: rng.randrange(len(data))]
            case 1:
                at = rng.randrange(len(data))
                mutated = data[:at] + data[at + rng.randint(1, 200) :]
            case 2:
                at = rng.randrange(len(data) + 1)
                mutated = (
                    data[:at]
                    + rng.choice([b"\n", b"{}\n", b" ", b"\0", b'"', lines[rng.randrange(len(lines))]])
                    + data[at:]
                )
            case 3:
                moved = list(lines)
                moved.insert(rng.randrange(len(moved)), moved.pop(rng.randrange(len(moved))))
                mutated = b"".join(moved)
        if mutated != data:
            refused(verified, mutated)


def refused(verified: Callable[..., Audit], data: bytes) -> None:
    with contextlib.suppress(InputError):  # its first line was hit
        assert verified(data, stamped=right_answer).state != "proved", data


def right_answer(answer: bytes, message: bytes) -> None:
    """Timestamps are for their own checker: without one, the export says that they were not checked."""
    if answer != b"answer":
        raise LogError("not the authority's answer.")


@given(data=st.binary(max_size=300))
@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_file_is_a_crash(verified: Callable[..., Audit], data: bytes) -> None:
    with pytest.raises(InputError, match="not an exported log"):
        verified(data)


def test_hostile_lines_are_bounded(data: bytes, verified: Callable[..., Audit]) -> None:
    first = data.splitlines(keepends=True)[0]
    for hostile in (
        b"[" * MAX_LINE, b'{"a":' * 20_000 + b"1", b"9" * 100_000 + b"\n", b"x" * (3 * MAX_LINE), b"NaN\n", b"[1,2]\n", b'"\\ud800"\n',
        b'{"checkpoint":"\\ud800","timestamp":null}\n', b'{"checkpoint":"","timestamp":"%"}\n', b'{"entry":"\\u00e9","index":0,"key":"00"}\n',
        b'{"checkpoint":' + json.dumps("x\n5\n" * 20_000).encode() + b',"timestamp":null}\n',
    ):  # fmt: skip
        assert verified(first + hostile).state == "tampered"
        with pytest.raises(InputError, match="not an exported log"):
            verified(hostile)


def test_where_it_is_written(folder: Path, tmp_path: Path) -> None:
    target = tmp_path / "export"
    with Log.open(folder / "log.db", signer=None, keys=KEYS) as log:
        write_export(log, target)
        with pytest.raises(OutputError, match="exists already"):
            write_export(log, target)
        write_export(log, target, overwrite=True)
        with pytest.raises(OutputError, match="No such file"):
            write_export(log, tmp_path / "no" / "export")
    assert [path.name for path in tmp_path.iterdir()] == ["export"]
    with pytest.raises(InputError, match="cannot be read"):
        verify_export(tmp_path / "none", KEYS)
    with pytest.raises(InputError, match="cannot be read"):
        verify_export(tmp_path, KEYS)
