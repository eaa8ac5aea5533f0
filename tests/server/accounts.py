"""What tests of access share, and a program that spends a quota as a process of its own: python accounts.py PLACE TENANT LIMIT TRIES."""

import sys
from pathlib import Path

from lienzo.errors import LimitError
from lienzo.provenance.keys import Keystore
from lienzo.server.access import LOCAL
from lienzo.server.audit import Audit
from lienzo.server.limits import Quotas
from lienzo.server.schema import opened

ADMIN = LOCAL


class Clock:
    """Seconds that pass when a test says so."""

    def __init__(self, now: float = 1_800_000_000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


def audit(folder: Path, clock: Clock | None = None) -> Audit:
    """A log of audit in a folder, with keys of its own."""
    return Audit(folder / "audit.db", Keystore(folder / "keys"), now=clock or Clock())


def spend(place: str, tenant: str, limit: int, tries: int) -> int:
    """Try so many times to count one picture, a transaction each; how many were let through."""
    database = opened(place)
    quotas, let = Quotas(database, audit(Path("unused")), limit, now=Clock()), 0
    for _ in range(tries):
        try:
            with database.writing() as connection:
                quotas.spend(connection, tenant, 1)
        except LimitError:
            continue
        let += 1
    database.close()
    return let


if __name__ == "__main__":
    print(spend(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])))
