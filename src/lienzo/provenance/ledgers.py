"""Where `verify` looks records up: a log that can be opened, or an export of one."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lienzo.errors import InputError, ProofError, UnknownKeyError
from lienzo.provenance.keys import PublicKey
from lienzo.provenance.log import Log, verify_export, verify_proof
from lienzo.provenance.verify import Records


@dataclass(frozen=True)
class OpenLog:
    """A log's database."""

    log: Log
    keys: Sequence[PublicKey]

    @property
    def name(self) -> str:
        return f"the log {self.log.origin}"

    def find(self, key: str) -> Records:
        """See `lienzo.provenance.verify.Ledger`."""
        size, rows = self.log.size, self.log.find(key)
        for index, entry in rows:
            self._check(index, entry)
        return Records(self.log.origin, size, rows)

    def _check(self, index: int, entry: bytes) -> None:
        proof = self.log.proof(index)
        for key in self.keys:
            try:
                return verify_proof(proof, entry, key, self.log.origin)
            except UnknownKeyError:
                continue
        raise UnknownKeyError(f"{self.name} is signed by none of the keys that are known here.")


@dataclass(frozen=True)
class ExportedLog:
    """A file that `lienzo log export` wrote."""

    path: Path
    keys: Sequence[PublicKey]

    @property
    def name(self) -> str:
        return f"the exported log {self.path.name}"

    def find(self, key: str) -> Records:
        """See `lienzo.provenance.verify.Ledger`."""
        audit = verify_export(self.path, self.keys, wanted=key)
        if audit.problems:
            raise ProofError(f"{self.name}: {audit.problems[0]}")
        if audit.unproved:
            raise UnknownKeyError(f"{self.name}: {audit.unproved[0]}")
        return Records(audit.origin, audit.size, audit.found)


def ledger(where: str | Path, keys: Sequence[PublicKey]) -> OpenLog | ExportedLog:
    """A database (a URL, or a file of SQLite's) or an export, told by its content.

    Raises:
        LienzoError: it cannot be read.
    """
    if "://" in str(where) or _is_database(Path(where)):
        return OpenLog(Log.open(where, signer=None, keys=keys), keys)
    return ExportedLog(Path(where), keys)


def _is_database(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return file.read(16) == b"SQLite format 3\0"
    except OSError as error:
        raise InputError(
            f"{path}: cannot be read: {error.strerror or error}. Name a log or an export of one."
        ) from None
