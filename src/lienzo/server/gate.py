"""Who calls, whether they may, and whether it is too much: what every route asks before anything else."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Final, Self

from lienzo.errors import CallerError
from lienzo.provenance.database import Database
from lienzo.server.access import ANONYMOUS, LOCAL, Access, Caller, Permission
from lienzo.server.audit import Audit
from lienzo.server.limits import Quotas, Rates, network
from lienzo.server.settings import Service

if TYPE_CHECKING:
    from sqlalchemy import Connection

FIRST: Final = "first"
"""Name of the key that is made where there is none."""
YEAR: Final = 365 * 86_400
"""Seconds after which it expires."""


class Gate:
    """Lets callers in. Threads may share it."""

    def __init__(self, access: Access, rates: Rates, quotas: Quotas, audit: Audit) -> None:
        self._access, self._rates, self._quotas = access, rates, quotas
        self.audit = audit

    @classmethod
    def of(cls, service: Service, database: Database) -> Self:
        """As the settings say.

        Raises:
            ConfigError: they do not fit together.
        """
        audit = Audit(service.audit_place)
        access = Access.of(service, database, audit)
        return cls(access, Rates(service.rate), Quotas(database, audit, service.quota), audit)

    def first_key(self) -> str | None:
        """A key for whoever starts a service that nobody could use; None: somebody has a key, or none is needed."""
        if self._access.open_to is not None or self._access.tokens is not None or self._access.keys.usable:
            return None
        key, _ = self._access.keys.add(FIRST, tenant=LOCAL.tenant, role="admin", by=LOCAL, expires=YEAR)
        return key

    def admit(
        self,
        headers: Mapping[str, str],
        cookies: Mapping[str, str],
        *permissions: Permission,
        address: str | None = None,
    ) -> Caller:
        """Who calls.

        Args:
            permissions: of which the caller must have one.
            address: where the request comes from.

        Raises:
            CallerError: nobody knows.
            ForbiddenError: somebody who may not.
            LimitError: too many requests.
        """
        try:
            caller = self._access.authenticate(headers, cookies, anonymous="verify" in permissions)
        except CallerError:
            if address is not None:  # keys that are tried out
                self._rates.take(f"unknown {network(address)}")
            raise
        held = [permission for permission in permissions if caller.may(permission)]
        caller.require((held or permissions)[0])
        if caller == ANONYMOUS and address is not None:
            self._rates.take(network(address))
        elif caller != LOCAL:
            self._rates.take(caller.identity)
        return caller

    def check(self, caller: Caller, pictures: int) -> None:
        """Whether the tenant's quota leaves so many pictures.

        Raises:
            LimitError, ForbiddenError: it does not, today or ever.
        """
        self._quotas.check(caller.tenant, pictures)

    def charge(self, connection: "Connection", caller: Caller) -> None:
        """Count a picture against the tenant's quota, in the transaction that queues it.

        Raises:
            LimitError: the quota is used up.
        """
        self._quotas.spend(connection, caller.tenant, 1)

    def close(self) -> None:
        self.audit.close()
