"""The log in a database: SQLite by default, PostgreSQL by URL.

    log_entries      position, key, entry; and the hashes of the complete parts of the tree that end with it
    log_head         one row: the newest checkpoint, signed in the transaction that added the last entry, and the frontier
    log_checkpoints  those that were asked for, with their timestamps

Node (level, n) of the tree stands in the row of the last entry below it, so that an entry costs one row, a proof reads a row
for each of its hashes, and nothing is hashed anew. Whoever adds an entry first checks that the frontier is the one that the
head's signature covers, and that this head goes on from the one this process saw before: a log that was changed is not
signed again.
"""

import contextlib
import secrets
import sqlite3
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Self
from urllib.parse import quote

import sqlalchemy as sa
from sqlalchemy.exc import ArgumentError, DBAPIError, IntegrityError, SQLAlchemyError

from lienzo.errors import InputError, LienzoError, LogError, MissingExtraError, ProofError
from lienzo.provenance.database import durable, make_file, write_ahead
from lienzo.provenance.log import merkle
from lienzo.provenance.log.audit import Advance, Audit, Replay
from lienzo.provenance.log.checkpoint import Checkpoint, NoteKey, check_name, open_checkpoint
from lienzo.provenance.log.proofs import ConsistencyProof, LogProof, leaf_of

if TYPE_CHECKING:
    from lienzo.provenance.keys import PublicKey, Signer

FORMAT = 1
"""Of the tables. A log of a later one is refused."""

WAIT = 30.0
"""Seconds that an append waits for those of other processes."""

PAGE = 1000
"""Rows read at once when the whole log is."""

_LOCK = 0x6C69656E7A6F
"""Of PostgreSQL's advisory locks, the one under which tables are made."""

_Position = sa.BigInteger().with_variant(sa.Integer(), "sqlite")  # in SQLite an INTEGER key is the row's own number
_TABLES = sa.MetaData()
ENTRIES = sa.Table(
    "log_entries", _TABLES,
    sa.Column("position", _Position, primary_key=True, autoincrement=False),
    sa.Column("key", sa.Text, nullable=False, index=True),
    sa.Column("entry", sa.LargeBinary, nullable=False),
    sa.Column("hashes", sa.LargeBinary, nullable=False),
)  # fmt: skip
HEAD = sa.Table(
    "log_head", _TABLES,
    sa.Column("format", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("note", sa.Text, nullable=False),
    sa.Column("peaks", sa.LargeBinary, nullable=False),
)  # fmt: skip
CHECKPOINTS = sa.Table(
    "log_checkpoints", _TABLES,
    sa.Column("size", _Position, primary_key=True, autoincrement=False),
    sa.Column("note", sa.Text, nullable=False),
    sa.Column("timestamp", sa.LargeBinary),
)  # fmt: skip


@dataclass(frozen=True)
class SignedCheckpoint:
    """A checkpoint to keep, or to give to others.

    Attributes:
        note: signed; see `lienzo.provenance.log.checkpoint`.
        timestamp: an RFC 3161 answer over the note's UTF-8 bytes; None where there is none.
        untimed: why there is no timestamp although one was asked for.
    """

    note: str
    timestamp: bytes | None = None
    untimed: str | None = None


@dataclass(frozen=True)
class Row:
    """An entry as it lies in the database."""

    index: int
    key: str
    entry: bytes
    hashes: bytes


@dataclass(frozen=True)
class Snapshot:
    """A log as it was at one moment, while others go on adding to it.

    Attributes:
        note: the newest checkpoint, not looked at yet.
        checkpoints: the kept ones, by the size that the database has for them.
        rows: entries in order.
    """

    note: str
    checkpoints: Mapping[int, SignedCheckpoint]
    rows: Iterator[Row]


@dataclass(frozen=True)
class _Head:
    note: str
    checkpoint: Checkpoint
    peaks: tuple[bytes, ...]


class Log:
    """An append-only log. Threads may share it; each process opens its own (see `open`).

    It promises: whoever holds a signed checkpoint can tell whether any entry that was in the log then has been changed,
    removed, moved or put in between since, with nothing but the log's public key. It does not promise that this cannot be
    done, nor that nobody is shown another log: who holds no checkpoint has only the log's word.
    """

    def __init__(
        self, engine: sa.Engine, where: str, origin: str, signer: "Signer | None", keys: Sequence[NoteKey]
    ) -> None:
        self.where, self.origin, self.keys = where, origin, tuple(keys)
        self._engine, self._signer = engine, signer
        self._seen: _Head | None = None
        self._seeing = threading.Lock()

    @classmethod
    def open(
        cls,
        where: str | Path,
        *,
        origin: str | None = None,
        signer: "Signer | None",
        keys: "Sequence[PublicKey]" = (),
    ) -> Self:
        """Open a log; make it where there is none and it can be signed.

        Args:
            where: a file of SQLite's, or a URL: `sqlite:///relative.db`, `sqlite:////absolute.db`,
                `postgresql://user:password@host/name`.
            origin: its name, which is in every checkpoint; None: the one it has, and for a new one `lienzo/` and 64 random bits,
                since one key may sign several logs.
            signer: an Ed25519 key; None: only to read; a file of SQLite's is opened so, too.
            keys: of earlier signers, where the key was changed since; those of other algorithms sign no log and are passed over.

        Raises:
            InputError: a URL, a name or a key that cannot be used.
            LogError: it cannot be reached, or is none of lienzo's; with no signer: there is none.
            ProofError: it was changed, or is signed by none of these keys (UnknownKeyError), or has another name.
        """
        if origin is not None:
            check_name(origin)
        engine, shown = _engine(where, create=signer is not None)
        try:
            log = cls(engine, shown, origin or "", signer, ())
            if signer is not None:
                log._create(signer, origin or f"lienzo/{secrets.token_hex(8)}")
            with log._transaction() as connection:
                _check_tables(connection, shown)
                log.origin = origin or _origin(log._row(connection)[0])
                known = [
                    *([] if signer is None else [signer.public]),
                    *(key for key in keys if key.algorithm == "ed25519"),
                ]
                log.keys = tuple(NoteKey.of(key, log.origin) for key in known)
                log._see(log._head(connection, None))
        except BaseException:
            engine.dispose()
            raise
        return log

    def close(self) -> None:
        self._engine.dispose()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __len__(self) -> int:
        return self.size

    @property
    def size(self) -> int:
        """Entries so far."""
        return self.head.size

    @property
    def head(self) -> Checkpoint:
        """The newest checkpoint; its signature was checked."""
        with self._reading() as (_, head):
            return head.checkpoint

    def append(self, entry: bytes, key: str) -> int:
        """Add an entry. When this returns, it is on the disk and under a signed checkpoint.

        Args:
            entry: at most 64 KiB, of any content. It can never be removed, so let it be a commitment and not what is committed to.
            key: hexadecimal digits that it can be looked up by; several entries may have the same.

        Returns:
            Its index, from 0.

        Raises:
            InputError: an entry or a key that is not allowed.
            LogError: it could not be added.
            ProofError: the log was changed; nothing is signed then.
        """
        if self._signer is None:
            raise LogError(f"{self.where}: was opened without a key to sign with, only to read.")
        leaf = leaf_of(key, entry)
        seen = self._seen
        with self._transaction(write=True) as connection:
            head = self._head(connection, seen)
            frontier = merkle.Frontier(head.checkpoint.size, head.peaks)
            index = frontier.size
            hashes = frontier.add(leaf)
            checkpoint = Checkpoint(self.origin, frontier.size, frontier.root)
            new = _Head(checkpoint.sign(self._signer), checkpoint, tuple(frontier.peaks))
            row = {"position": index, "key": key, "entry": entry, "hashes": b"".join(hashes)}
            connection.execute(ENTRIES.insert(), row)
            connection.execute(HEAD.update(), {"note": new.note, "peaks": b"".join(new.peaks)})
        self._see(new)
        return index

    def entry(self, index: int) -> bytes:
        """An entry's bytes, as they lie in the database; `proof` shows that they are what was logged.

        Raises:
            InputError: no such index.
        """
        with self._reading() as (connection, head):
            return self._entry(connection, head, index).entry

    def find(self, key: str) -> list[tuple[int, bytes]]:
        """(index, entry) of all entries under a key, in their order; `proof` shows that they are what was logged."""
        with self._reading() as (connection, head):
            signed = sa.and_(ENTRIES.c.key == key, ENTRIES.c.position.between(0, head.checkpoint.size - 1))
            query = sa.select(ENTRIES.c.position, ENTRIES.c.entry).where(signed).order_by(ENTRIES.c.position)
            return [(position, _blob(entry)) for position, entry in connection.execute(query)]

    def proof(self, index: int) -> LogProof:
        """That an entry is in the log as it is now; see `verify_proof`.

        Raises:
            InputError: no such index.
            ProofError: the log was changed: what lies there is not what was signed.
        """
        with self._reading() as (connection, head):
            row, size = self._entry(connection, head, index), head.checkpoint.size
            hashes = self._hashes(connection, merkle.inclusion_path(index, size))
        if not merkle.verify_inclusion(_leaf(row), index, size, hashes, head.checkpoint.root):
            raise ProofError(
                f"{self.where}: entry {index:,} or the tree above it is not what was signed. `lienzo log check` tells more."
            )
        return LogProof(
            index=index, key=row.key, entry=row.entry, size=size, hashes=tuple(hashes), checkpoint=head.note
        )

    def consistency(self, old: int) -> ConsistencyProof:
        """That the log only grew since it had `old` entries; see `verify_consistency`.

        Raises:
            InputError: it does not have so many.
        """
        with self._reading() as (connection, head):
            size = head.checkpoint.size
            if not 0 <= old <= size:
                raise InputError(f"got {old:,} entries; the log has {size:,}.")
            hashes = self._hashes(connection, merkle.consistency_path(old, size))
        return ConsistencyProof(old=old, size=size, hashes=tuple(hashes), checkpoint=head.note)

    def checkpoint(self, timestamp: Callable[[bytes], bytes] | None = None) -> SignedCheckpoint:
        """The newest checkpoint, to be kept where the log's keeper cannot reach; the log keeps it too.

        Args:
            timestamp: asks an authority, for example `lienzo.provenance.timestamps.Authority`. Where it fails, the checkpoint
                comes without (`untimed` says why).

        Raises:
            LogError, ProofError: as `append`.
        """
        with self._reading() as (connection, head):
            size = head.checkpoint.size
            kept = self._kept(connection, size)
        if kept is None or kept.note != head.note:
            kept = SignedCheckpoint(head.note)
            self._keep(size, kept)
        if timestamp is None or kept.timestamp is not None:
            return kept
        try:
            kept = SignedCheckpoint(kept.note, timestamp(kept.note.encode()))
        except (LienzoError, OSError) as error:
            return SignedCheckpoint(kept.note, untimed=str(error))
        self._keep(size, kept)
        return kept

    def check(self, held: Iterable[str] = (), *, advance: Advance | None = None) -> Audit:
        """Go through the whole log: every entry, every hash, and every checkpoint in it.

        Args:
            held: signed checkpoints that were kept elsewhere. Only with one can it be told that a log was set back, or
                replaced with another one that was signed with the same key.
            advance: told now and then how far it is.

        Raises:
            InputError: a held checkpoint that cannot be used.
            LogError: the database cannot be read.
        """
        with self.snapshot() as snapshot:
            replay = Replay(self.keys, self.origin, held, advance=advance)
            head = replay.checkpoint(snapshot.note, "the newest")
            for number, kept in snapshot.checkpoints.items():
                checkpoint = replay.checkpoint(kept.note, "kept in the log")
                if checkpoint is not None and checkpoint.size != number:
                    replay.problem(f"the checkpoint of {checkpoint.size:,} entries is kept as one of {number:,}")
            size = None if head is None else head.size
            replay.of = size or 0
            for row in snapshot.rows:
                if row.index < replay.size:
                    replay.problem(f"entry {row.index:,}: lies before the first; it was put there")
                    continue
                if size is not None and row.index >= size:
                    replay.problem(
                        f"entry {row.index:,}: lies beyond the {size:,} that are signed for; it was put there"
                    )
                    break
                if row.index != replay.size:
                    replay.problem(f"{_span(replay.size, row.index)}: missing")
                    replay.skip(row.index)
                replay.add(_leaf(row), _cut(row.hashes))
            if size is not None and replay.size < size:
                replay.problem(f"{_span(replay.size, size)}: missing")
                replay.skip(size)
        for damage in self._damage():
            replay.problem(f"the database's file: {damage}")
        return replay.finish()

    @contextlib.contextmanager
    def snapshot(self) -> Iterator[Snapshot]:
        """All of it as it is now, to be read while the block runs.

        Raises:
            LogError: the database cannot be read.
        """
        with self._transaction() as connection:
            rows = connection.execute(sa.select(CHECKPOINTS).order_by(CHECKPOINTS.c.size))
            kept = {size: SignedCheckpoint(_text(note), _stamp(stamp)) for size, note, stamp in rows}
            yield Snapshot(self._row(connection)[0], kept, self._rows(connection))

    def _damage(self) -> list[str]:
        """What SQLite finds wrong with its file: an index that does not lead to all entries, for example."""
        if self._engine.dialect.name != "sqlite":
            return []
        with self._transaction() as connection:
            told = connection.exec_driver_sql("PRAGMA integrity_check(10)").scalars().all()
        return [] if told == ["ok"] else [str(line) for line in told]

    # --- inside a transaction -----------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _transaction(self, *, write: bool = False) -> Iterator[sa.Connection]:
        """One view of the database. With `write`, no other process adds anything meanwhile."""
        try:
            with self._engine.connect() as connection:
                connection = connection.execution_options(write=write)
                if self._engine.dialect.name == "postgresql" and not write:
                    connection = connection.execution_options(isolation_level="REPEATABLE READ")
                with connection.begin():
                    yield connection
        except IntegrityError:
            raise ProofError(
                f"{self.where}: something lies where the next entry belongs, beyond what is signed for. "
                "The log was changed; `lienzo log check` tells more."
            ) from None
        except SQLAlchemyError as error:
            if "malformed" in str(error):  # SQLite's word for a damaged file
                raise LogError(
                    f"{self.where}: the database's file is damaged, or was changed with other tools. "
                    "Put a copy from before in its place, or move it away to begin another log."
                ) from None
            raise LogError(f"{self.where}: {_reason(error)}") from None

    @contextlib.contextmanager
    def _reading(self) -> Iterator[tuple[sa.Connection, _Head]]:
        seen = self._seen  # before the view is taken, so that the view cannot be older
        with self._transaction() as connection:
            head = self._head(connection, seen)
            yield connection, head
        self._see(head)

    def _row(self, connection: sa.Connection) -> tuple[str, bytes]:
        """Note and peaks of the head; before a change, PostgreSQL locks it until the change is done. SQLite has locked all already."""
        query = sa.select(HEAD)
        rows = connection.execute(
            query.with_for_update() if connection.get_execution_options()["write"] else query
        ).all()
        if len(rows) != 1:
            raise ProofError(f"{self.where}: has {len(rows)} heads instead of one; it was changed.")
        if rows[0].format != FORMAT:
            raise LogError(f"{self.where}: got format {rows[0].format}, this lienzo reads {FORMAT}. Update lienzo.")
        return _text(rows[0].note), _blob(rows[0].peaks)

    def _head(self, connection: sa.Connection, seen: _Head | None) -> _Head:
        """The newest checkpoint, proved to be signed, to be of the frontier beside it, and to go on from what was seen."""
        note, joined = self._row(connection)
        if seen is not None and note == seen.note and joined == b"".join(seen.peaks):
            return seen
        checkpoint = open_checkpoint(note, self.keys, self.origin)
        peaks = _cut(joined)
        if len(peaks) != checkpoint.size.bit_count() or merkle.joined(peaks) != checkpoint.root:
            raise ProofError(f"{self.where}: the tree's frontier is not the signed one; it was changed.")
        if seen is not None:
            old, new = seen.checkpoint, checkpoint
            if new.size < old.size:
                raise ProofError(f"{self.where}: had {old.size:,} entries and now has {new.size:,}; it was set back.")
            path = merkle.consistency_path(old.size, new.size)
            if not merkle.verify_consistency(old.size, old.root, new.size, new.root, self._hashes(connection, path)):
                raise ProofError(
                    f"{self.where}: does not go on from the {old.size:,} entries that it had; it was replaced."
                )
        return _Head(note, checkpoint, tuple(peaks))

    def _see(self, head: _Head) -> None:
        with self._seeing:
            if self._seen is None or self._seen.checkpoint.size <= head.checkpoint.size:
                self._seen = head

    def _entry(self, connection: sa.Connection, head: _Head, index: int) -> Row:
        if not 0 <= index < head.checkpoint.size:
            raise InputError(
                f"got the index {index:,}, which is not in the log; it has {head.checkpoint.size:,} entries."
            )
        row = connection.execute(sa.select(ENTRIES).where(ENTRIES.c.position == index)).one_or_none()
        if row is None:
            raise ProofError(
                f"{self.where}: entry {index:,} is missing; the log was changed. `lienzo log check` tells more."
            )
        return Row(row.position, _text(row.key), _blob(row.entry), _blob(row.hashes))

    def _hashes(self, connection: sa.Connection, path: Sequence[merkle.Part]) -> list[bytes]:
        """The hash of each part of the tree, from the stored ones of the complete parts in it."""
        complete = [list(merkle.complete_parts(part)) for part in path]
        last = sorted({end - 1 for parts in complete for _, end in parts})
        query = sa.select(ENTRIES.c.position, ENTRIES.c.hashes).where(ENTRIES.c.position.in_(last))
        stored = {position: _cut(_blob(hashes)) for position, hashes in connection.execute(query)} if last else {}

        def of(start: int, end: int) -> bytes:
            level = (end - start).bit_length() - 1
            hashes = stored.get(end - 1, [])
            return hashes[level] if level < len(hashes) else b""  # a wrong one: the proof will not hold

        return [merkle.joined([of(*part) for part in parts]) for parts in complete]

    def _rows(self, connection: sa.Connection) -> Iterator[Row]:
        after = -(1 << 63)
        while True:
            query = sa.select(ENTRIES).where(ENTRIES.c.position > after).order_by(ENTRIES.c.position).limit(PAGE)
            rows = connection.execute(query).all()
            yield from (Row(row.position, _text(row.key), _blob(row.entry), _blob(row.hashes)) for row in rows)
            if len(rows) < PAGE:
                return
            after = rows[-1].position

    def _kept(self, connection: sa.Connection, size: int) -> SignedCheckpoint | None:
        row = connection.execute(sa.select(CHECKPOINTS).where(CHECKPOINTS.c.size == size)).one_or_none()
        return None if row is None else SignedCheckpoint(_text(row.note), _stamp(row.timestamp))

    def _keep(self, size: int, kept: SignedCheckpoint) -> None:
        if self._signer is None:  # only reads
            return
        with self._transaction(write=True) as connection:
            self._row(connection)
            connection.execute(CHECKPOINTS.delete().where(CHECKPOINTS.c.size == size))
            row = {"size": size, "note": kept.note, "timestamp": kept.timestamp}
            connection.execute(CHECKPOINTS.insert(), row)

    def _create(self, signer: "Signer", origin: str) -> None:
        """Tables, and a signed head of no entries, unless they are there."""
        with self._transaction(write=True) as connection:
            if self._engine.dialect.name == "postgresql":
                connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_LOCK)))
            if sa.inspect(connection).has_table(HEAD.name):
                return
            _TABLES.create_all(connection)
            note = Checkpoint(origin, 0, merkle.EMPTY).sign(signer)
            connection.execute(HEAD.insert(), {"format": FORMAT, "note": note, "peaks": b""})


# --- the databases ----------------------------------------------------------------------------------------------------


def _engine(where: str | Path, *, create: bool) -> tuple[sa.Engine, str]:
    """The database, and its name as it may be shown: without a password."""
    text = str(where)
    if not isinstance(where, Path) and "://" in text:
        try:
            url = sa.make_url(text)
        except ArgumentError:
            raise InputError("got a log URL that is none. Allowed: a file, sqlite:///FILE, postgresql://...") from None
        shown = url.render_as_string(hide_password=True)
        if url.get_backend_name() == "postgresql":
            return _postgresql(url), shown
        if url.get_backend_name() != "sqlite" or not url.database or url.query:
            raise InputError(f"got the log {shown!r}. Allowed: a file, sqlite:///FILE, postgresql://...")
        text = url.database
    return _sqlite(Path(text), create=create), text


def _check_tables(connection: sa.Connection, where: str) -> None:
    """A view in a table's place would have us compute what somebody else wrote, for ever perhaps."""
    missing = sorted(_TABLES.tables.keys() - set(sa.inspect(connection).get_table_names()))
    if missing:
        raise LogError(f"{where}: no such table: {', '.join(missing)}: no log of lienzo's. Name another one.")


def _sqlite(path: Path, *, create: bool) -> sa.Engine:
    try:
        if create:
            make_file(path)
        elif not path.is_file():
            raise LogError(f"{path}: no log is there. Name one (--log), or let one be made with the first picture.")
    except OSError as error:
        raise LogError(f"{path}: {error.strerror or error}. Name a file in a folder that you may write to.") from None
    address = f"file:{quote(str(path.absolute()))}?mode={'rw' if create else 'ro'}"

    def connect() -> sqlite3.Connection:
        connection = sqlite3.connect(address, uri=True, timeout=WAIT, isolation_level=None, check_same_thread=False)
        connection.text_factory = lambda data: data.decode(errors="replace")  # what is no text is not what was logged
        if create:
            write_ahead(connection)
        return connection

    engine = sa.create_engine("sqlite://", creator=connect, poolclass=sa.QueuePool)

    @sa.event.listens_for(engine, "begin")
    def begin(connection: sa.Connection) -> None:  # Python's own does not begin before the first change
        connection.exec_driver_sql("BEGIN IMMEDIATE" if connection.get_execution_options()["write"] else "BEGIN")

    return engine


def _postgresql(url: sa.URL) -> sa.Engine:
    try:
        engine = sa.create_engine(url.set(drivername="postgresql+psycopg"))
    except ModuleNotFoundError:
        raise MissingExtraError('A log in PostgreSQL needs psycopg. Run: pip install "lienzo[postgres]"') from None
    sa.event.listen(engine, "connect", durable)
    return engine


def _reason(error: SQLAlchemyError) -> str:
    """The database's own first line, and what may help."""
    text = (str(error.orig) if isinstance(error, DBAPIError) else str(error)).strip().partition("\n")[0].rstrip(".")
    if "locked" in text:
        return f"{text}: another process was adding to it for more than {WAIT:.0f} seconds. Try again."
    if "no such table" in text or "does not exist" in text or "not a database" in text:
        return f"{text}: no log of lienzo's. Name another one."
    return f"{text}. Nothing was added."


def _origin(note: str) -> str:
    try:
        return check_name(note.partition("\n")[0])
    except InputError:
        raise ProofError("what the log signed last is no checkpoint; it was changed.") from None


def _leaf(row: Row) -> bytes:
    """The leaf's hash; that of nothing where `append` would not have taken what lies there."""
    try:
        return leaf_of(row.key, row.entry)
    except InputError:
        return b""


def _cut(hashes: bytes) -> list[bytes]:
    """Hashes that lie one behind the other."""
    return [hashes[i : i + merkle.HASH_BYTES] for i in range(0, len(hashes), merkle.HASH_BYTES)]


def _blob(value: object) -> bytes:
    """A column's bytes. SQLite keeps anything in any column; what is no bytes was not put there by `append`."""
    return bytes(value) if isinstance(value, bytes | memoryview) else b""


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


def _stamp(value: object) -> bytes | None:
    return None if value is None else _blob(value)


def _span(start: int, end: int) -> str:
    return f"entry {start:,}" if end - start == 1 else f"entries {start:,} to {end - 1:,}"
