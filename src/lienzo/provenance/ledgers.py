"""Where `verify` looks records up: a log that can be opened, or an export of one."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lienzo.errors import InputError, ProofError, UnknownKeyError
from lienzo.provenance.keys import PublicKey
from lienzo.provenance.log import Log, check_header, verify_export, verify_proof
from lienzo.provenance.log.audit import Advance
from lienzo.provenance.verify import Records


@dataclass(frozen=True)
class OpenLog:
    """A log's database, opened whenever it is asked: that it cannot be is for the verdict to tell."""

    where: str
    keys: Sequence[PublicKey]

    def find(self, key: str) -> Records:
        """See `lienzo.provenance.verify.Ledger`."""
        with Log.open(self.where, signer=None, keys=self.keys) as log:
            size, rows = log.size, log.find(key)
            for index, entry in rows:
                self._check(log, index, entry)
            return Records(f"the log {log.origin}", log.origin, size, rows)

    def _check(self, log: Log, index: int, entry: bytes) -> None:
        proof = log.proof(index)
        for key in self.keys:
            try:
                return verify_proof(proof, entry, key, log.origin)
            except UnknownKeyError:
                continue
        raise UnknownKeyError(f"the log {log.origin} is signed by none of the keys that are known here.")


@dataclass(frozen=True)
class ExportedLog:
    """A file that `lienzo log export` wrote."""

    path: Path
    keys: Sequence[PublicKey]
    advance: Advance | None = None

    def find(self, key: str) -> Records:
        """See `lienzo.provenance.verify.Ledger`."""
        name = f"the exported log {self.path.name}"
        audit = verify_export(self.path, self.keys, wanted=key, advance=self.advance)
        if audit.problems:
            raise ProofError(f"{name}: {audit.problems[0]}")
        if audit.unproved:
            raise UnknownKeyError(f"{name}: {audit.unproved[0]}")
        return Records(name, audit.origin, audit.size, audit.found)


def ledger(where: str, own: str, keys: Sequence[PublicKey], advance: Advance | None = None) -> OpenLog | ExportedLog:
    """The own log or one in PostgreSQL as a database, any other file as an export: a stranger's file of SQLite's could make us
    compute for ever.

    Args:
        own: where the own log is.
        advance: told now and then how much of an export was gone through.

    Raises:
        InputError: another URL, or another file than an export.
    """
    path = Path(where)
    if where == own or where.startswith(("postgresql:", "postgresql+")) or _same(path, Path(own)):
        return OpenLog(where, keys)
    if "://" in where:
        raise InputError(
            "got a log URL that is neither your own log's nor one of PostgreSQL. Name your own, or an export of another one, "
            "which its keeper writes with `lienzo log export`."
        )
    try:
        with path.open("rb") as file:
            is_database = file.read(16) == b"SQLite format 3\0"
    except OSError as error:
        raise InputError(
            f"{path}: cannot be read: {error.strerror or error}. Name your log or an export of another one."
        ) from None
    if is_database:
        raise InputError(
            f"{path}: a database that is not your own log. Name an export of it, which its keeper writes with "
            "`lienzo log export`."
        )
    check_header(path)
    return ExportedLog(path, keys, advance)


def _same(path: Path, other: Path) -> bool:
    try:
        return path.samefile(other)
    except OSError:
        return False
