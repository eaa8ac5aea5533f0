"""How much a caller may ask for: requests a second, counted in memory, and pictures a day of a tenant, counted in the database."""

import math
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from ipaddress import IPv6Address, ip_address
from typing import TYPE_CHECKING, Final

from lienzo.errors import ForbiddenError, LimitError, RequestError
from lienzo.provenance.database import insert_into
from lienzo.server.access import check_tenant
from lienzo.server.schema import tables

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from lienzo.provenance.database import Database
    from lienzo.server.access import Caller
    from lienzo.server.audit import Audit

WINDOW: Final = 60.0
"""Seconds whose requests may come all at once."""
MOST_CALLERS: Final = 100_000
"""Who are remembered."""
MAX_QUOTA: Final = 2**31 - 1


class Rates:
    """A token bucket a caller, in this process's memory. Threads may share it.

    A bucket holds what `rate` gives in a minute. Of each is kept only the moment at which it will be full again (GCRA): a
    request moves that on by the time that it takes to fill one token, unless it then lay more than a whole bucket ahead.

    Args:
        rate: requests a second; 0: any number.
        clock: seconds that only grow.
    """

    def __init__(self, rate: float, *, clock: Callable[[], float] = time.monotonic, most: int = MOST_CALLERS) -> None:
        self._each = 1 / rate if rate else 0.0
        self._bucket = max(WINDOW, self._each)  # at least one request fits
        self._clock, self._most = clock, most
        self._full_at: dict[str, float] = {}
        self._lock = threading.Lock()

    def take(self, who: str) -> None:
        """Count a request.

        Args:
            who: a caller's tenant and name, or `network(...)` of somebody unknown.

        Raises:
            LimitError: too many; this one does not count.
        """
        if not self._each:
            return
        with self._lock:
            now = self._clock()
            full_at = max(self._full_at.get(who, now), now) + self._each
            wait = math.ceil(full_at - now - self._bucket)
            if wait > 0:
                raise LimitError(
                    f"too many requests: {1 / self._each:g} a second over a minute are allowed. Try again in {wait} s.",
                    wait,
                )
            self._full_at[who] = full_at
            if len(self._full_at) > self._most:
                self._forget(now)

    def _forget(self, now: float) -> None:
        """Full buckets are as good as none. Where that is not enough, those go that are fullest: they lose least by it."""
        kept = sorted(((when, who) for who, when in self._full_at.items() if when > now), reverse=True)
        self._full_at = {who: when for when, who in kept[: self._most // 2]}


def network(address: str) -> str:
    """Who somebody without a key is: the address, of IPv6 the /64 that one customer has as a rule."""
    try:
        known = ip_address(address)
    except ValueError:  # a Unix socket, a test client
        return address
    if not isinstance(known, IPv6Address):
        return str(known)
    if known.ipv4_mapped is not None:
        return str(known.ipv4_mapped)
    return f"{IPv6Address(int(known) >> 64 << 64)}/64"


class Quotas:
    """Pictures a day (UTC) of each tenant. Processes may share the database: together they never exceed a quota.

    Args:
        database: of the service (`lienzo.server.schema.opened`).
        audit: told of every quota that is changed, before that counts.
        default: pictures a day of tenants without a quota of their own; 0: any number.
        now: UTC seconds since 1970.
    """

    def __init__(
        self, database: "Database", audit: "Audit", default: int = 0, *, now: Callable[[], float] = time.time
    ) -> None:
        self._database, self._audit, self._default, self._now = database, audit, default, now

    def spend(self, connection: "Connection", tenant: str, pictures: int) -> None:
        """Count pictures, in the transaction that queues them: both stand, or neither. What was asked for counts, made or not.

        Raises:
            LimitError: the quota does not leave so many today. Roll the transaction back.
            ForbiddenError: it never will.
        """
        usage, limit = tables().tables["usage"], self._limit(connection, tenant)
        if limit and pictures > limit:
            raise self._refusal(tenant, limit, pictures)
        # The row stays locked until the transaction ends, so of two processes one sees what the other counted.
        first = insert_into(connection, usage).values(tenant=tenant, day=self._day, pictures=pictures)
        total = usage.c.pictures + first.excluded.pictures
        counted = first.on_conflict_do_update(
            index_elements=[usage.c.tenant, usage.c.day],
            set_={"pictures": total},
            where=total <= limit if limit else None,
        )
        # Nothing comes back where nothing was counted. `rowcount` is promised for updates alone, and PostgreSQL keeps to that.
        if connection.execute(counted.returning(usage.c.pictures)).scalar_one_or_none() is None:
            raise self._refusal(tenant, limit, pictures)

    def check(self, tenant: str, pictures: int) -> None:
        """Whether a quota leaves so many today; counts nothing, and spares whoever asks for too many all that comes before counting.

        Raises:
            LimitError, ForbiddenError: as `spend`.
        """
        used, limit = self.used(tenant)
        if limit and used + pictures > limit:
            raise self._refusal(tenant, limit, pictures)

    def used(self, tenant: str) -> tuple[int, int]:
        """Pictures counted today, and the quota (0: any number)."""
        from sqlalchemy import select

        usage = tables().tables["usage"]
        asked = select(usage.c.pictures).where(usage.c.tenant == tenant, usage.c.day == self._day)
        with self._database.reading() as connection:
            return connection.execute(asked).scalar_one_or_none() or 0, self._limit(connection, tenant)

    def set(self, tenant: str, pictures: int | None, *, by: "Caller") -> None:
        """Change a tenant's quota, from the next request on.

        Args:
            pictures: a day; 0: any number; None: the default again.

        Raises:
            RequestError: no name of a tenant, or no such number.
            LogError, StoreError: it could not be written down; then nothing is changed.
        """
        from sqlalchemy import delete

        check_tenant(tenant)
        if pictures is not None and not 0 <= pictures <= MAX_QUOTA:
            raise RequestError(f"quota: got {pictures}; give 0 (any number) to {MAX_QUOTA:,} pictures a day.")
        quotas = tables().tables["quotas"]
        with self._database.writing() as connection:
            if pictures is None:
                connection.execute(delete(quotas).where(quotas.c.tenant == tenant))
            else:
                row = insert_into(connection, quotas).values(tenant=tenant, pictures=pictures)
                connection.execute(
                    row.on_conflict_do_update(index_elements=[quotas.c.tenant], set_={"pictures": pictures})
                )
            outcome = "default" if pictures is None else str(pictures)
            self._audit.record(by, "quotas.set", f"tenant:{tenant}", outcome=outcome)

    @property
    def _day(self) -> str:
        return datetime.fromtimestamp(self._now(), UTC).date().isoformat()

    def _refusal(self, tenant: str, limit: int, pictures: int) -> LimitError | ForbiddenError:
        if pictures > limit:
            return ForbiddenError(
                f"got {pictures:,} pictures; the quota of {tenant} is {limit:,} a day. Ask for fewer, or for a higher quota."
            )
        now = datetime.fromtimestamp(self._now(), UTC)
        tomorrow = datetime(now.year, now.month, now.day, tzinfo=UTC) + timedelta(days=1)
        return LimitError(
            f"the quota of {tenant}, {limit:,} pictures a day, does not leave {pictures:,} for today. It begins anew at 00:00 UTC.",
            math.ceil((tomorrow - now).total_seconds()),
        )

    def _limit(self, connection: "Connection", tenant: str) -> int:
        from sqlalchemy import select

        quotas = tables().tables["quotas"]
        own = connection.execute(select(quotas.c.pictures).where(quotas.c.tenant == tenant)).scalar_one_or_none()
        return self._default if own is None else own
