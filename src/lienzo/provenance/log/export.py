"""A whole log in one file, that a stranger checks with nothing but the log's public key.

JSON Lines, each in its one canonical spelling (keys sorted, no spaces, ASCII), so that a changed byte is a changed log:

    {"format":"lienzo-log/1","key":NAME+ID+KEY,"size":N}   of the newest checkpoint
    {"entry":BASE64,"index":0,"key":HEX}
    {"checkpoint":NOTE,"timestamp":BASE64 or null}      where a checkpoint was kept: after the entries that it covers
    ...
    {"checkpoint":NOTE,"timestamp":null}                last, the newest

Leaves are hashed as `lienzo.provenance.log.proofs` says. Reading takes memory for one line and one frontier, however long the
file is.
"""

import contextlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from lienzo.errors import InputError, LienzoError, ProofError, UntrustedTimestampError
from lienzo.provenance.encoding import decode64, encode64
from lienzo.provenance.files import place_parts
from lienzo.provenance.log.audit import MOST_PROBLEMS, Advance, Audit, Replay
from lienzo.provenance.log.checkpoint import MAX_NOTE, NoteKey, open_checkpoint, signer_of
from lienzo.provenance.log.merkle import MAX_SIZE
from lienzo.provenance.log.proofs import MAX_ENTRY, leaf_of
from lienzo.provenance.log.store import Log, SignedCheckpoint, Snapshot

if TYPE_CHECKING:
    from lienzo.provenance.keys import PublicKey

FORMAT = "lienzo-log/1"
Stamped = Callable[[bytes, bytes], object]
"""Checks a timestamp (answer, message); raises UntrustedTimestampError where it is a stranger's, another LienzoError where it is
not right."""

MAX_LINE = 2 * (MAX_ENTRY + MAX_NOTE)
"""Bytes of a line."""

MOST_FOUND = 10_000
"""Entries under one key that are gathered."""


def write_export(log: Log, path: Path, *, overwrite: bool = False) -> int:
    """Write a log to a file: whole or not at all.

    Returns:
        How many entries it has.

    Raises:
        OutputError: the file is there already, or cannot be written.
        LogError: the log cannot be read.
    """
    with log.snapshot() as snapshot:
        newest = open_checkpoint(snapshot.note, log.keys, log.origin)
        key = signer_of(snapshot.note, log.keys)
        lines = _written(snapshot, key, newest.size)
        place_parts(lines, path, if_exists="overwrite" if overwrite else "error")
    return newest.size


def verify_export(
    path: Path,
    keys: "Sequence[PublicKey]",
    *,
    origin: str | None = None,
    held: Iterable[str] = (),
    wanted: str | None = None,
    stamped: Stamped | None = None,
    advance: Advance | None = None,
) -> Audit:
    """Go through an exported log, from its first line to its last.

    Args:
        keys: that the log may be signed with. Take them from its keeper, never from the file.
        origin: the log's name; None: whichever log of those keys.
        held: checkpoints of the log, which the export has to agree with; that it goes on from one of more entries than it has
            is not proved.
        wanted: a key, whose entries are gathered (`Audit.found`).
        stamped: for example `lienzo.provenance.timestamps.verify` with its roots; None: timestamps are only counted.
        advance: told now and then how far it is.

    Raises:
        InputError: no such file, no export, or an earlier checkpoint that cannot be used.
    """
    with _told(path), path.open("rb") as file:
        return _verify(_lines(file), keys, origin, held, wanted, stamped, advance)


def check_header(path: Path) -> None:
    """Look whether a file is an export at all, by its first line.

    Raises:
        InputError: no such file, or no export.
    """
    with _told(path), path.open("rb") as file:
        _begun(_lines(file))


@contextlib.contextmanager
def _told(path: Path) -> Iterator[None]:
    """Errors with the file's name."""
    try:
        yield
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}. Name an exported log.") from None
    except InputError as error:
        raise InputError(f"{path}: {error}") from None


def _written(snapshot: Snapshot, key: NoteKey, size: int) -> Iterator[bytes]:
    yield _line({"format": FORMAT, "key": key.text, "size": size})
    kept = dict(snapshot.checkpoints)
    last = kept.pop(size, SignedCheckpoint(snapshot.note))
    for done, row in enumerate(snapshot.rows):
        if (one := kept.pop(done, None)) is not None:
            yield _checkpoint(one)
        yield _line({"entry": encode64(row.entry), "index": row.index, "key": row.key})
    yield _checkpoint(last)


def _checkpoint(kept: SignedCheckpoint) -> bytes:
    stamp = None if kept.timestamp is None else encode64(kept.timestamp)
    return _line({"checkpoint": kept.note, "timestamp": stamp})


def _line(document: Any) -> bytes:
    return json.dumps(document, sort_keys=True, separators=(",", ":")).encode("ascii") + b"\n"


def _lines(file: IO[bytes]) -> Iterator[dict[str, Any]]:
    """Each line as a JSON object.

    Raises:
        ProofError: too long, or not as `_line` writes it.
    """
    number = 0
    while line := file.readline(MAX_LINE + 1):
        number += 1
        try:
            document = json.loads(line.decode("ascii"))
            proper = isinstance(document, dict) and _line(document) == line
        except (ValueError, RecursionError):
            proper = False
        if not proper:
            raise ProofError(f"line {number:,}: not as an export has it; it was changed or cut off")
        yield document


class _Reader:
    """An export's lines, one after the other, put into a replay."""

    def __init__(self, replay: Replay, key: NoteKey, wanted: str | None, stamped: Stamped | None) -> None:
        self.replay, self.key, self.wanted, self.stamped = replay, key, wanted, stamped
        self.found: list[tuple[int, bytes]] = []
        self.newest: int | None = None  # size of the last checkpoint
        self.signed = False  # whether that is signed with the key of the first line
        self.unchecked = 0

    def take(self, document: dict[str, Any]) -> None:
        match document:
            case {"entry": str(entry), "index": int(index), "key": str(key), **rest} if not rest:
                self._entry(index, key, decode64(entry))
            case {"checkpoint": str(note), "timestamp": None, **rest} if not rest:
                self._checkpoint(note)
            case {"checkpoint": str(note), "timestamp": str(stamp), **rest} if not rest:
                self._checkpoint(note)
                self._stamp(note, decode64(stamp))
            case _:
                raise ProofError(
                    f"after {self.replay.size:,} entries: a line that is neither an entry nor a checkpoint"
                )

    def _entry(self, index: int, key: str, entry: bytes) -> None:
        if type(index) is not int or index != self.replay.size:
            raise ProofError(
                f"entry {self.replay.size:,}: another one stands in its place; some are missing or were moved"
            )
        self.replay.add(leaf_of(key, entry))
        if key == self.wanted and len(self.found) < MOST_FOUND:
            self.found.append((index, entry))

    def _checkpoint(self, note: str) -> None:
        size = self.replay.size
        if self.newest is not None and size <= self.newest:
            raise ProofError(f"after {size:,} entries: two checkpoints")
        checkpoint = self.replay.checkpoint(note, f"after {size:,} entries")
        if checkpoint is not None and checkpoint.size != size:
            raise ProofError(f"after {size:,} entries: a checkpoint of {checkpoint.size:,}")
        self.newest = size
        self.signed = checkpoint is not None and signer_of(note, self.replay.keys) == self.key

    def _stamp(self, note: str, answer: bytes) -> None:
        if self.stamped is None:
            self.unchecked += 1
            return
        try:
            self.stamped(answer, note.encode())
        except UntrustedTimestampError as error:
            if len(self.replay.unproved) < MOST_PROBLEMS:
                self.replay.unproved.append(f"after {self.replay.size:,} entries: {error}")


def _verify(
    lines: Iterator[dict[str, Any]],
    keys: "Sequence[PublicKey]",
    origin: str | None,
    held: Iterable[str],
    wanted: str | None,
    stamped: Stamped | None,
    advance: Advance | None,
) -> Audit:
    key, size = _begun(lines)
    known = [NoteKey.of(public, key.name) for public in keys if public.algorithm == "ed25519"]
    replay = Replay([*known, key], key.name, held, advance=advance, of=size)
    if origin not in (None, key.name):
        replay.unproved.append(f"it is the log {key.name}, not {origin}.")
    if key not in known:
        replay.unproved.append(f"it is signed with {key.text}, which is none of the log keys that are known here.")
    reader = _Reader(replay, key, wanted, stamped)
    whole = False
    try:
        for document in lines:
            reader.take(document)
        if not replay.size == reader.newest == size or not reader.signed:
            raise ProofError(f"it ends after {replay.size:,} entries without the signed checkpoint of all {size:,}")
        whole = True
    except (LienzoError, ValueError) as error:
        replay.problem(str(error))
    if reader.unchecked:
        replay.notes.append(f"{reader.unchecked:,} timestamps were not checked")
    return replace(replay.finish(whole=whole, copy=True), found=tuple(reader.found))


def _begun(lines: Iterator[dict[str, Any]]) -> tuple[NoteKey, int]:
    """What the first line says: key and size."""
    try:
        return _header(next(lines, {}))
    except LienzoError as error:
        raise InputError(f"not an exported log ({error}). `lienzo log export` writes one.") from None


def _header(document: dict[str, Any]) -> tuple[NoteKey, int]:
    """Key and size.

    Raises:
        LienzoError: another document.
    """
    match document:
        case {"format": str(name), "key": str(key), "size": int(size), **rest} if name == FORMAT and not rest:
            if type(size) is int and 0 <= size <= MAX_SIZE and (found := NoteKey.parse(key)).text == key:
                return found, size
    raise ProofError(f"its first line is not that of {FORMAT}")
