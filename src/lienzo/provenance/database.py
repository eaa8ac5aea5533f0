"""Databases that keep what was acknowledged: SQLite by default, PostgreSQL by URL.

SQLite runs with a write-ahead log flushed at each commit (`synchronous=FULL`: with less, a power cut may take acknowledged
commits back), overwrites with zeros what is deleted, and is its owner's alone.
"""

import contextlib
import errno
import os
import time
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lienzo.errors import MissingExtraError, StoreError

if TYPE_CHECKING:  # imported where it is used: SQLAlchemy takes a fifth of a second
    import sqlite3

    from sqlalchemy import Connection, Engine, MetaData, Table
    from sqlalchemy.dialects import postgresql, sqlite

WAIT = 30.0
"""Seconds to wait for another process that writes."""

PATIENCE = {"connect_timeout": 10, "tcp_user_timeout": 30_000, "options": "-c statement_timeout=60s"}
"""For PostgreSQL, as libpq spells it, unless the URL says otherwise: who waits for a database for ever answers nobody."""

_ALONE = 0x6C69656E  # any number, but the same for all


class Database:
    """A SQLite file, made on first use with mode 0600, or a PostgreSQL database.

    Args:
        place: a file, `sqlite:///file`, or `postgresql://user@host/name`.
        tables: made where they are not there yet.

    Raises:
        StoreError: it cannot be opened, or is no database.
        MissingExtraError: PostgreSQL without its driver.
    """

    def __init__(self, place: str | Path, tables: "MetaData") -> None:
        self._engine, self.name = _engine(place)
        weakref.finalize(self, self._engine.dispose)  # whoever forgets to close leaves no connection open
        self._reader = self._engine.execution_options(lienzo_reads=True)
        with self.alone() as connection:  # two processes that make the same table at once would meet in the catalogue
            tables.create_all(connection)

    @property
    def is_postgresql(self) -> bool:
        return self._engine.dialect.name == "postgresql"

    @contextlib.contextmanager
    def reading(self) -> Iterator["Connection"]:
        """One consistent view (SQLite), or one of each statement (PostgreSQL)."""
        with self._told(), self._reader.connect() as connection:
            yield connection

    @contextlib.contextmanager
    def writing(self) -> Iterator["Connection"]:
        """A transaction, durable once the block is left; alone in writing on SQLite from its beginning."""
        with self._told(), self._engine.begin() as connection:
            yield connection

    @contextlib.contextmanager
    def alone(self) -> Iterator["Connection"]:
        """A transaction that no other of its kind runs beside, on PostgreSQL too."""
        with self.writing() as connection:
            if self.is_postgresql:
                connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_ALONE})")
            yield connection

    def scrub(self) -> None:
        """Take out of SQLite's files what was deleted: the write-ahead log is moved into the database and cut to nothing.

        PostgreSQL does so in its own time (VACUUM, and its write-ahead log, archives and replicas).

        Raises:
            StoreError: somebody reads the old state all the while; the deletion itself stands.
        """
        if self.is_postgresql:
            return
        until = time.monotonic() + WAIT
        with self._told(), contextlib.closing(self._engine.raw_connection()) as connection:
            cursor = connection.cursor()
            while True:
                cursor.execute("PRAGMA wal_checkpoint(TRUNCATE)")
                busy, *_ = cursor.fetchone() or (1,)
                if not busy:
                    return
                if time.monotonic() > until:
                    raise StoreError(
                        f"{self.name}: what was deleted is gone for every reader, but its encrypted bytes are still in the "
                        "file that ends in -wal, as somebody has been reading the old state for long. Run it again later."
                    )
                time.sleep(0.01)  # SQLite itself waits for readers, but not for another process that does the same

    def close(self) -> None:
        self._engine.dispose()

    @contextlib.contextmanager
    def _told(self) -> Iterator[None]:
        from sqlalchemy.exc import SQLAlchemyError

        try:
            yield
        except SQLAlchemyError as error:
            why = str(getattr(error, "orig", None) or error).strip().splitlines()[0]
            raise StoreError(
                f"{self.name}: {why}. Check that it is lienzo's, that you may write to it and that there is space."
            ) from None


def _engine(place: str | Path) -> tuple["Engine", str]:
    """With the name to show, which has no password."""
    from sqlalchemy import create_engine, event, make_url
    from sqlalchemy.exc import ArgumentError

    text = str(place)
    if "://" not in text:
        text = f"sqlite:///{text}"
    try:
        url = make_url(text)
    except (ArgumentError, ValueError):
        raise StoreError(
            "got a database URL that cannot be read. Allowed: a file, or postgresql://user@host/name."
        ) from None
    name = url.render_as_string(hide_password=True)
    # Statements that fail are told without their parameters: those are nobody's business.
    options: dict[str, Any] = {"hide_parameters": True}
    if url.drivername in ("postgresql", "postgres", "postgresql+psycopg"):
        try:
            patience = {name: value for name, value in PATIENCE.items() if name not in url.query}
            postgres = url.set(drivername="postgresql+psycopg")
            engine = create_engine(postgres, pool_pre_ping=True, connect_args=patience, **options)
        except ModuleNotFoundError:
            raise MissingExtraError('PostgreSQL needs its driver: run pip install "lienzo[postgres]".') from None
        event.listen(engine, "connect", durable)
        return engine, name
    if url.drivername != "sqlite" or not url.database:
        raise StoreError(f"got the database {name}. Allowed: a file, sqlite:///file, or postgresql://user@host/name.")
    path = Path(url.database)
    try:
        make_file(path)
    except OSError as error:
        raise StoreError(
            f"{path}: cannot be opened: {error.strerror or error}. Name a file that you may write to."
        ) from None
    engine = create_engine(url, connect_args={"timeout": WAIT, "check_same_thread": False}, **options)

    @event.listens_for(engine, "connect")
    def connected(connection: Any, _: object) -> None:
        connection.isolation_level = None  # transactions are begun below, not by Python's driver
        write_ahead(connection)
        for pragma in ("secure_delete=ON", "temp_store=MEMORY"):
            connection.execute(f"PRAGMA {pragma}")

    @event.listens_for(engine, "begin")
    def begun(connection: "Connection") -> None:
        reads = connection.get_execution_options().get("lienzo_reads")
        # One who reads first and wants to write then may be refused at once, so writers say so from the beginning.
        connection.exec_driver_sql("BEGIN" if reads else "BEGIN IMMEDIATE")

    return engine, url.database


def insert_into(connection: "Connection", table: "Table") -> "postgresql.Insert | sqlite.Insert":
    """An INSERT that may have an ON CONFLICT: both databases spell it alike, but SQLAlchemy has no common word for it."""
    from sqlalchemy.dialects import postgresql, sqlite

    return postgresql.insert(table) if connection.dialect.name == "postgresql" else sqlite.insert(table)


def durable(connection: Any, _: object) -> None:
    """For each new connection to PostgreSQL: what is committed is on disk.

    Raises:
        StoreError: the server flushes nothing to disk.
    """
    with connection.cursor() as cursor:
        if cursor.execute("SHOW fsync").fetchone() == ("off",):
            raise StoreError("the server has fsync=off and would lose what is committed with the power. Switch it on.")
        if cursor.execute("SHOW synchronous_commit").fetchone() == ("off",):
            cursor.execute("SET SESSION synchronous_commit = on")
    connection.commit()


def write_ahead(connection: "sqlite3.Connection") -> None:
    """For each new connection to SQLite that writes: a write-ahead log, which is flushed at each commit (with less, a power cut
    may take acknowledged commits back). SQLite does not wait for others where it begins the log of a new file, so this does.

    Raises:
        sqlite3.OperationalError: others are in the way for long.
    """
    import sqlite3

    until = time.monotonic() + WAIT
    while True:
        try:
            connection.execute("PRAGMA journal_mode=WAL")
            break
        except sqlite3.OperationalError as error:
            if "locked" not in str(error) or time.monotonic() > until:
                raise
            time.sleep(0.01)
    connection.execute("PRAGMA synchronous=FULL")


def make_file(path: Path) -> None:
    """Make a database's file where there is none, its owner's alone; SQLite gives the files beside it the same mode.

    One that is there is not opened: POSIX drops all locks of a process on a file as soon as the process closes it anywhere, and
    with its locks SQLite would lose what keeps other processes from taking its write-ahead log away.

    Raises:
        OSError: it cannot be made, or not be written.
    """
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with contextlib.suppress(FileExistsError):
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
        return
    if not path.is_file():
        raise OSError(errno.EISDIR, os.strerror(errno.EISDIR))
    if not os.access(path, os.R_OK | os.W_OK):
        raise OSError(errno.EACCES, os.strerror(errno.EACCES))
