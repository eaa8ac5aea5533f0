"""Requests and salts, kept encrypted: what a picture's commitment can be opened with, until somebody erases it.

Beside the encrypted cells stand, in plain, the record's id, the tenant and the ids of keys. The key-encryption key is in
$LIENZO_KEK, else in the keystore under a purpose of this database's own (`prompts-` and the database's id), so that whoever
changes the key of one database does not destroy that of another.
"""

import functools
import os
import secrets
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

from lienzo.errors import KeystoreError, RecordError, SealingError, StoreError
from lienzo.provenance.database import Database, insert_into
from lienzo.provenance.encoding import decode64
from lienzo.provenance.keys import Keystore, home
from lienzo.provenance.sealing import (
    KEY_BYTES,
    DataKey,
    KeyRing,
    KeySource,
    LocalKey,
    Place,
    Rewrapped,
    rewrap,
    wrapped_by,
)

if TYPE_CHECKING:
    from sqlalchemy import Connection, MetaData

SCHEMA: Final = 1
"""Version of the tables below; it is bound into every cell."""

_TRIES = 5  # at keys that another process changes at the same moment


@dataclass(frozen=True)
class Kept:
    """A record, opened.

    Attributes:
        request: canonical JSON of the request.
        salt: of the commitment.
    """

    record: str
    tenant: str
    request: bytes = field(repr=False)
    salt: bytes = field(repr=False)


@dataclass(frozen=True)
class Rotation:
    """What a change of the key-encryption key did.

    Attributes:
        current: id of the key that wraps from now on.
        resumed: whether it went on with an earlier change that was stopped, so made no new key.
        rewrapped: data keys that were wrapped anew.
        retired: ids of keys by which nothing is wrapped any more; those in files were destroyed.
        failed: records that could not be unwrapped, each with the reason. Their keys are kept.
    """

    current: str
    resumed: bool
    rewrapped: int
    retired: tuple[str, ...]
    failed: tuple[tuple[str, str], ...]


class OwnKeys:
    """Key-encryption keys from $LIENZO_KEK, else from the keystore.

    $LIENZO_KEK is the base64 of 32 bytes. To change it, put the new one before the old one with a comma between them, rotate,
    and take the old one away. Keys in the keystore are old ones then.
    """

    def __init__(self, keystore: Keystore, purpose: str) -> None:
        self._keystore, self._purpose = keystore, purpose

    def ring(self) -> KeyRing:
        given = _from_environment()
        if not given:
            self._keystore.secret(self._purpose)
        current, *older = (*given, *map(LocalKey, self._keystore.secrets(self._purpose)))
        return KeyRing(current, tuple(older))

    def renew(self) -> KeyRing:
        if not _from_environment():
            self._keystore.rotate(self._purpose)
        return self.ring()

    def retire(self, key_id: str) -> None:
        for secret in self._keystore.secrets(self._purpose):
            if LocalKey(secret).id == key_id:
                self._keystore.forget(self._purpose, secret)


class PromptStore:
    """Encrypted requests and salts by record id. Threads and processes may share it.

    Args:
        place: a SQLite file or a database URL; None: `records.db` in lienzo's home.
        keys: where the key-encryption keys come from; None: `OwnKeys`. A `KeyRing` holds those of a key service.

    Raises:
        StoreError: it cannot be opened, or its tables are of another version.
    """

    def __init__(self, place: str | Path | None = None, keys: KeySource | None = None) -> None:
        self._database = Database(home() / "records.db" if place is None else place, _tables())
        self._keys = OwnKeys(Keystore(), f"prompts-{self._identity()}") if keys is None else keys

    def put(self, record_id: str, tenant: str, request_json: bytes, salt: bytes) -> None:
        """Keep a request and its salt; durable when this returns. The same again changes nothing.

        Raises:
            RecordError: there is another one of that id. It stays: its salt opens a commitment that is out in the world.
            KeystoreError: no key to wrap with.
        """
        place = Place(tenant, record_id, SCHEMA)
        data_key = DataKey.fresh()
        cells = {"request": data_key.seal(request_json, place, "request"), "salt": data_key.seal(salt, place, "salt")}
        for _ in range(_TRIES):
            ring = self._keys.ring()
            names = {"record": record_id, "tenant": tenant, "schema": SCHEMA, "kek": ring.current.id}
            wrapped = ring.wrap(data_key, place)
            with self._database.writing() as connection:
                if not self._may_wrap(connection, ring.current.id):
                    continue  # another process changed keys since
                is_new = _add(connection, "prompts", **names, **cells, key=wrapped)
            if not is_new and self.get(record_id) != Kept(record_id, tenant, request_json, salt):
                raise RecordError(
                    f"got the record {record_id}, of which another request or salt is kept. It stays as it is: "
                    "read it with `get` and use its salt, or erase it first."
                )
            return
        raise _retired(ring.current.id)

    def get(self, record_id: str, tenant: str | None = None) -> Kept:
        """Open a record.

        Args:
            tenant: None: whosever it is.

        Raises:
            RecordError: no such record, or another tenant's.
            SealingError: it was changed, or put together from several.
            KeystoreError: its key-encryption key is not here.
        """
        from sqlalchemy import select

        table = _tables().tables["prompts"]
        for attempt in range(1, _TRIES + 1):
            with self._database.reading() as connection:
                row = connection.execute(select(table).where(table.c.record == record_id)).mappings().one_or_none()
            if row is None or tenant not in (None, row["tenant"]):
                raise RecordError(
                    f"got the record {record_id[:200]!r}, of which nothing is kept: never, or erased since."
                )
            place = Place(row["tenant"], row["record"], row["schema"])
            try:
                data_key = self._keys.ring().unwrap(_blob(row["key"]), place)
            except KeystoreError:
                if attempt == _TRIES:
                    raise
                continue  # perhaps another process changed keys since the row was read
            cells = {name: data_key.open(_blob(row[name]), place, name) for name in ("request", "salt")}
            return Kept(place.record, place.tenant, **cells)
        raise AssertionError("not reached")

    def records(self) -> list[tuple[str, str]]:
        """(record, tenant) of all that is kept, by record. No key is needed, and nothing is opened."""
        from sqlalchemy import select

        table = _tables().tables["prompts"]
        with self._database.reading() as connection:
            rows = connection.execute(select(table.c.record, table.c.tenant).order_by(table.c.record))
            return [(str(record), str(tenant)) for record, tenant in rows]

    def erase(self, record_id: str) -> bool:
        """Destroy a record's data key and cells, so that they are in the database's files no more.

        Copies that were made before (backups, PostgreSQL's archives) still hold them, wrapped; `rotate` makes those
        unreadable too.

        Returns:
            Whether there was one.

        Raises:
            StoreError: it is gone, but its encrypted bytes cannot be wiped just now; run it again.
        """
        from sqlalchemy import delete

        table = _tables().tables["prompts"]
        with self._database.writing() as connection:
            there = connection.execute(delete(table).where(table.c.record == record_id)).rowcount > 0
        self._database.scrub()
        return there

    def rotate(self, *, batch: int = 100) -> Rotation:
        """Change the key-encryption key: make the next one, wrap all data keys by it, destroy the old one.

        It may be stopped at any point, even with kill -9 or a power cut, and run again, while others put, get and erase.
        Where an earlier change was stopped, this goes on with that one.

        Args:
            batch: data keys that are written at once.
        """
        ring = self._keys.ring()
        resumed = bool(ring.older)
        if not resumed:
            ring = self._keys.renew()
        rewrapped, retired = 0, list[str]()
        while True:
            done = rewrap(ring, self._wrapped_by_others(ring.current.id), self._replace, batch=batch)
            rewrapped += done.replaced
            before, ring = ring, self._keys.ring()
            if done.replaced or ring != before:
                continue  # somebody put records or changed keys in between
            with self._database.writing() as connection:
                may_wrap = self._may_wrap(connection, ring.current.id)
            if not may_wrap:
                before, ring = ring, self._keys.ring()
                if ring == before:  # nobody but whoever gave the keys can help
                    raise _retired(ring.current.id)
                continue
            retired = [key.id for key in ring.older if self._retire(key.id)]
            if done.failed or len(retired) == len(ring.older):
                break  # else somebody put a record by an older key just before it was retired
        for key_id in retired:
            self._keys.retire(key_id)
        self._database.scrub()
        failed = tuple((place.record, why) for place, why in done.failed)
        return Rotation(ring.current.id, resumed, rewrapped, tuple(retired), failed)

    def close(self) -> None:
        self._database.close()

    # Tables

    def _identity(self) -> str:
        """Of this database, made with it."""
        from sqlalchemy import select

        table = _tables().tables["prompt_store"]
        with self._database.reading() as connection:
            row = connection.execute(select(table)).one_or_none()
        if row is None:
            with self._database.writing() as connection:
                _add(connection, "prompt_store", one=1, schema=SCHEMA, id=secrets.token_hex(4))
                row = connection.execute(select(table)).one()
        if row.schema != SCHEMA:
            raise StoreError(
                f"{self._database.name}: its tables are of version {row.schema}; this lienzo knows {SCHEMA}."
            )
        return str(row.id)

    def _may_wrap(self, connection: "Connection", key_id: str) -> bool:
        """Whether a key is not retired. Until the transaction ends it cannot become so (PostgreSQL: by the row's lock;
        SQLite: nobody else writes)."""
        from sqlalchemy import select

        table = _tables().tables["prompt_keys"]
        _add(connection, "prompt_keys", id=key_id, retired=False)
        asked = select(table.c.retired).where(table.c.id == key_id).with_for_update(read=True)
        return not connection.execute(asked).scalar_one()

    def _retire(self, key_id: str) -> bool:
        """Let nobody wrap by a key any more, if nothing is wrapped by it."""
        from sqlalchemy import func, select, update

        keys, prompts = (_tables().tables[name] for name in ("prompt_keys", "prompts"))
        with self._database.writing() as connection:
            _add(connection, "prompt_keys", id=key_id, retired=False)
            connection.execute(select(keys).where(keys.c.id == key_id).with_for_update())
            # A statement of its own: on PostgreSQL it sees what was committed while the one before waited.
            if connection.execute(select(func.count()).where(prompts.c.kek == key_id)).scalar_one():
                return False
            connection.execute(update(keys).where(keys.c.id == key_id).values(retired=True))
            return True

    def _wrapped_by_others(self, current: str, page: int = 500) -> Iterator[tuple[Place, bytes]]:
        from sqlalchemy import select

        table = _tables().tables["prompts"]
        asked = select(table).where(table.c.kek != current)
        last = ""
        while True:
            with self._database.reading() as connection:
                rows = connection.execute(asked.where(table.c.record > last).order_by(table.c.record).limit(page)).all()
            for row in rows:
                yield Place(row.tenant, row.record, row.schema), _blob(row.key)
            if len(rows) < page:
                return
            last = rows[-1].record

    def _replace(self, changes: Sequence[Rewrapped]) -> int:
        from sqlalchemy import update

        table = _tables().tables["prompts"]
        key_id = wrapped_by(changes[0].new)
        written = 0
        with self._database.writing() as connection:
            if not self._may_wrap(connection, key_id):
                return 0  # another process changed keys once more
            for change in changes:
                same = (table.c.record == change.place.record) & (table.c.key == change.old)
                written += connection.execute(update(table).where(same).values(key=change.new, kek=key_id)).rowcount
        return written


@functools.cache
def _tables() -> "MetaData":
    from sqlalchemy import Boolean, CheckConstraint, Column, Integer, LargeBinary, MetaData, Table, Text

    metadata = MetaData()
    Table(
        "prompts",
        metadata,
        Column("record", Text, primary_key=True),
        Column("tenant", Text, nullable=False),
        Column("schema", Integer, nullable=False),
        Column("kek", Text, nullable=False, index=True),
        Column("key", LargeBinary, nullable=False),
        Column("request", LargeBinary, nullable=False),
        Column("salt", LargeBinary, nullable=False),
    )
    Table(
        "prompt_keys",
        metadata,
        Column("id", Text, primary_key=True),
        Column("retired", Boolean, nullable=False),
    )
    Table(
        "prompt_store",
        metadata,
        Column("one", Integer, CheckConstraint("one = 1"), primary_key=True, autoincrement=False),
        Column("schema", Integer, nullable=False),
        Column("id", Text, nullable=False),
    )
    return metadata


def _add(connection: "Connection", table: str, **values: object) -> bool:
    """Add a row unless there is one of that key, and say whether it was added."""
    insert = insert_into(connection, _tables().tables[table]).values(values).on_conflict_do_nothing()
    return connection.execute(insert).rowcount > 0


def _blob(value: object) -> bytes:
    """SQLite keeps any type in any column."""
    if not isinstance(value, bytes):
        raise SealingError("got text or a number where encrypted bytes belong: the database was changed.")
    return value


def _retired(key_id: str) -> KeystoreError:
    return KeystoreError(
        f"got the key-encryption key {key_id} to wrap with, which was retired: nothing may be wrapped by it any more. Put the key "
        "that followed it, or a new one, first: in LIENZO_KEK (this one behind it, with a comma between, if it is still needed) "
        "or in your key service."
    )


def _from_environment() -> list[LocalKey]:
    """What is wrong with a key is told without showing it."""
    texts = [text.strip() for text in os.environ.get("LIENZO_KEK", "").split(",") if text]
    found = []
    for number, text in enumerate(texts, 1):
        try:
            found.append(LocalKey(decode64(text)))
        except (ValueError, KeystoreError) as error:
            got = str(error) if isinstance(error, KeystoreError) else f"got {len(text)} characters that are no base64."
            raise KeystoreError(
                f"LIENZO_KEK, key {number} of {len(texts)}: {got} Allowed: the base64 of {KEY_BYTES} bytes, and behind it, with "
                "commas between, older keys that are still needed. Make one: openssl rand -base64 32"
            ) from None
    return found
