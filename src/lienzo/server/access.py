"""Who calls, and what they may do: roles, API keys, and reading either a key or a token from a request.

A key is 32 random bytes that are shown once and kept only as their SHA-256. A slow hash would protect from guessing, of
which 256 random bits need no protection, and would cost every request its time. Keys are found by that hash: how long this
takes may tell about stored hashes, but whoever knew one whole would still have to find what it is the hash of.
"""

import base64
import hashlib
import json
import re
import secrets
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, Literal, Self, get_args

from lienzo.errors import (
    CallerError,
    ExpiredError,
    ForbiddenError,
    RecordError,
    RequestError,
    RevokedError,
    StoreError,
    nearest,
)
from lienzo.server.schema import tables

if TYPE_CHECKING:
    from lienzo.provenance.database import Database
    from lienzo.server.audit import Audit
    from lienzo.server.settings import Service

Permission = Literal[
    "jobs:create",  # and count against the tenant's quota
    "jobs:read",  # the tenant's own
    "jobs:cancel",  # the tenant's own
    "images:read",  # the tenant's own, with their receipts
    "models:read",
    "verify",  # and detect
    "metrics:read",
    "queue:manage",  # of all tenants: see that jobs are there, cancel them; not what they ask for
]
Role = Literal["admin", "operator", "user", "verifier"]
PERMISSIONS: Final[tuple[Permission, ...]] = get_args(Permission)
ROLES: Final[Mapping[Role, frozenset[Permission]]] = MappingProxyType(
    {
        "admin": frozenset(PERMISSIONS),
        "operator": frozenset({"models:read", "verify", "metrics:read", "queue:manage"}),
        "user": frozenset({"jobs:create", "jobs:read", "jobs:cancel", "images:read", "models:read", "verify"}),
        "verifier": frozenset({"verify"}),
    }
)
"""What each role may do, from the most powerful on. None of them shows another tenant's requests or pictures."""

PREFIX: Final = "lk_"
COOKIE: Final = "lienzo_key"
"""In which the page keeps a key."""
MAX_TOKEN: Final = 16_384
"""Characters of a key or token; no issuer's are as long."""
LAST_USED: Final = 60
"""Seconds within which the use of a key is written once."""
_KEY = re.compile(rf"{PREFIX}[A-Za-z0-9_-]{{43}}")
_TENANT = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")


@dataclass(frozen=True)
class Caller:
    """Who calls.

    Attributes:
        name: `key:ID`, `token:SUBJECT`, `local` (no authentication) or `anonymous`.
        tenant: whose jobs and pictures the caller sees; nobody's for `anonymous`.
        permissions: what the role may do, less what the key's scopes leave out.
    """

    name: str
    tenant: str
    role: Role
    permissions: frozenset[Permission]

    @property
    def identity(self) -> str:
        """Unlike every other caller's."""
        return f"{self.tenant} {self.name}"

    def may(self, permission: Permission) -> bool:
        return permission in self.permissions

    def require(self, permission: Permission) -> None:
        """
        Raises:
            CallerError: nobody knows who calls.
            ForbiddenError: the caller may not.
        """
        if self.may(permission):
            return
        if self == ANONYMOUS:
            raise _nobody()
        raise ForbiddenError(
            f"{self.name} ({self.role} of {self.tenant}) may not {permission}. Allowed: {', '.join(sorted(self.permissions))}."
        )


ANONYMOUS: Final = Caller("anonymous", "", "verifier", ROLES["verifier"])
"""Anybody may ask where a picture comes from."""
LOCAL: Final = Caller("local", "local", "admin", ROLES["admin"])
"""Whoever is at this machine, where there is no authentication."""


def check_tenant(name: str) -> str:
    """
    Raises:
        RequestError: no name of a tenant.
    """
    if not _TENANT.fullmatch(name):
        raise RequestError(
            f"tenant: got {name[:80]!r}. Allowed: 1 to 63 small letters, digits, dots, hyphens and underscores, a letter or digit first."
        )
    return name


@dataclass(frozen=True)
class KeyRecord:
    """What is known of a key. Times are UTC seconds since 1970; None: never.

    Attributes:
        scopes: what the key is narrowed to; None: all that its role may do.
    """

    id: str
    name: str
    tenant: str
    role: Role
    scopes: tuple[Permission, ...] | None
    created: int
    expires: int | None
    revoked: int | None
    last_used: int | None

    @property
    def caller(self) -> Caller:
        # A role that lost a permission since loses it for old keys, too.
        narrowed = ROLES[self.role] if self.scopes is None else ROLES[self.role].intersection(self.scopes)
        return Caller(f"key:{self.id}", self.tenant, self.role, narrowed)

    @property
    def document(self) -> dict[str, Any]:
        """For JSON; times in RFC 3339."""
        return {
            "id": self.id,
            "name": self.name,
            "tenant": self.tenant,
            "role": self.role,
            "scopes": None if self.scopes is None else list(self.scopes),
            "created": spelled(self.created),
            "expires": spelled(self.expires),
            "revoked": spelled(self.revoked),
            "last_used": spelled(self.last_used),
        }


class Keyring:
    """The API keys. Threads and processes may share their database.

    Args:
        database: of the service (`lienzo.server.schema.opened`).
        audit: told of every key that is added or revoked, before that counts.
        now: UTC seconds since 1970.
    """

    def __init__(self, database: "Database", audit: "Audit", *, now: Callable[[], float] = time.time) -> None:
        self._database, self._audit, self._now = database, audit, now

    def add(
        self,
        name: str,
        *,
        tenant: str,
        role: str,
        by: Caller,
        expires: float | None = None,
        scopes: Iterable[str] | None = None,
    ) -> tuple[str, KeyRecord]:
        """Make a key.

        Args:
            name: what people call it.
            by: who makes it.
            expires: seconds from now; None: never.
            scopes: what to narrow it to; None: all that the role may do.

        Returns:
            The key itself, which is kept nowhere, and what is known of it.

        Raises:
            RequestError: a name, tenant, role, time or scope that is not allowed.
            LogError, StoreError: it could not be written down; then there is no such key.
        """
        check_tenant(tenant)
        if not (0 < len(name) <= 100 and name.isprintable()):
            raise RequestError(f"name: got {name[:80]!r}. Give up to 100 letters in one line.")
        if role not in ROLES:
            raise RequestError(f"role: got {role[:80]!r}. {nearest(role, ROLES)}")
        known: Role = next(one for one in ROLES if one == role)
        narrowed = None if scopes is None else _scopes(known, scopes)
        if expires is not None and not 0 < expires <= 1e10:
            raise RequestError(f"expires: got {expires} seconds from now. Give more than 0, or none.")
        key, now = PREFIX + secrets.token_urlsafe(32), int(self._now())
        record = KeyRecord(
            id=secrets.token_hex(6),
            name=name,
            tenant=tenant,
            role=known,
            scopes=narrowed,
            created=now,
            expires=None if expires is None else int(now + expires),
            revoked=None,
            last_used=None,
        )
        row = {
            **{name: getattr(record, name) for name in record.__dataclass_fields__},
            "scopes": None if narrowed is None else json.dumps(narrowed),
            "digest": _digest(key),
        }
        with self._database.writing() as connection:
            connection.execute(tables().tables["access_keys"].insert().values(row))
            self._audit.record(by, "keys.add", f"key:{record.id}", outcome=f"{role}@{tenant}")
        return key, record

    def list(self, tenant: str | None = None) -> list[KeyRecord]:
        """All keys, or a tenant's, in the order they were made."""
        from sqlalchemy import select

        keys = tables().tables["access_keys"]
        asked = select(keys).order_by(keys.c.created, keys.c.id)
        if tenant is not None:
            asked = asked.where(keys.c.tenant == tenant)
        with self._database.reading() as connection:
            return [_record(row) for row in connection.execute(asked).mappings()]

    @property
    def usable(self) -> int:
        """Keys that let somebody in: neither revoked nor expired."""
        now = self._now()
        return sum(one.revoked is None and (one.expires is None or one.expires > now) for one in self.list())

    def revoke(self, key_id: str, *, by: Caller) -> KeyRecord:
        """Let a key in no more, from the next request on. Doing it again changes nothing.

        Raises:
            RecordError: no such key.
            LogError, StoreError: it could not be written down; then the key still counts.
        """
        from sqlalchemy import select, update

        keys = tables().tables["access_keys"]
        ours = keys.c.id == key_id
        with self._database.writing() as connection:
            done = connection.execute(
                update(keys).where(ours, keys.c.revoked.is_(None)).values(revoked=int(self._now()))
            )
            row = connection.execute(select(keys).where(ours)).mappings().one_or_none()
            if row is None:
                raise RecordError(f"got the key id {key_id[:80]!r}; no key has it. `lienzo access list` shows all.")
            if done.rowcount:
                self._audit.record(by, "keys.revoke", f"key:{key_id}")
        return _record(row)

    def caller(self, token: str) -> Caller:
        """Whose key this is.

        Raises:
            CallerError: nobody's.
            ExpiredError, RevokedError: it lets nobody in any more.
        """
        from sqlalchemy import select

        unknown = CallerError("got an API key that is not known here. Ask for one; `lienzo access add` makes it.")
        if not _KEY.fullmatch(token):
            raise unknown
        keys, now = tables().tables["access_keys"], int(self._now())
        with self._database.reading() as connection:
            row = connection.execute(select(keys).where(keys.c.digest == _digest(token))).mappings().one_or_none()
        if row is None:
            raise unknown
        record = _record(row)
        if record.revoked is not None:
            raise RevokedError(f"the API key {record.id} was revoked {spelled(record.revoked)}. Ask for another one.")
        if record.expires is not None and record.expires <= now:
            raise ExpiredError(f"the API key {record.id} expired {spelled(record.expires)}. Ask for another one.")
        if record.last_used is None or record.last_used <= now - LAST_USED:
            self._used(record.id, now)
        return record.caller

    def _used(self, key_id: str, now: int) -> None:
        from sqlalchemy import or_, update

        keys = tables().tables["access_keys"]
        long_ago = or_(keys.c.last_used.is_(None), keys.c.last_used <= now - LAST_USED)
        try:
            with self._database.writing() as connection:
                connection.execute(update(keys).where(keys.c.id == key_id, long_ago).values(last_used=now))
        except StoreError:
            return  # a full disk must not keep those out who only want to fetch their pictures


@dataclass(frozen=True)
class Access:
    """Reads from a request who calls.

    Args:
        keys: API keys.
        tokens: who a bearer token is of (`lienzo.server.oidc.Tokens.caller`); None: tokens are not taken.
        open_to: taken for the caller of every request, whatever it carries; None: callers say who they are.
    """

    keys: Keyring
    tokens: Callable[[str], Caller] | None = None
    open_to: Caller | None = field(default=None, kw_only=True)

    @classmethod
    def of(cls, service: "Service", database: "Database", audit: "Audit") -> Self:
        """As the settings say.

        Raises:
            ConfigError: those of tokens do not fit together.
            MissingExtraError: tokens without the library that reads them.
        """
        tokens = None
        if service.oidc_issuer is not None:
            from lienzo.server.oidc import Tokens

            tokens = Tokens.of(service).caller
        return cls(Keyring(database, audit), tokens, open_to=None if service.auth else LOCAL)

    def authenticate(
        self, headers: Mapping[str, str], cookies: Mapping[str, str] | None = None, *, anonymous: bool = False
    ) -> Caller:
        """Who calls. Looked at in this order: `Authorization: Bearer` (an API key or a token), `Authorization: Basic` (the
        password is the key: clients of A1111's API know nothing else), `X-API-Key`, the page's cookie. The first that is
        there decides.

        Args:
            headers: found by names in small letters, as Starlette's are.
            anonymous: whether a request that carries nothing is let in as `ANONYMOUS`. One with a bad key is not.

        Raises:
            CallerError: nobody knows; also when the key or token is expired or revoked.
            ForbiddenError: a good token of somebody who has no role or tenant here.
            IssuerError: a token that cannot be checked now.
            StoreError: the database cannot be read.
        """
        if self.open_to is not None:
            return self.open_to
        token = _token(headers, cookies or {})
        if token is None:
            if anonymous:
                return ANONYMOUS
            raise _nobody()
        if len(token) > MAX_TOKEN:
            raise CallerError(f"got a key or token of {len(token):,} characters. Allowed: {MAX_TOKEN:,}.")
        if token.startswith(PREFIX) or self.tokens is None:
            return self.keys.caller(token)
        return self.tokens(token)


def spelled(seconds: float | None) -> str | None:
    """RFC 3339."""
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _record(row: Mapping[Any, Any]) -> KeyRecord:
    values = {name: row[name] for name in KeyRecord.__dataclass_fields__}
    scopes = values.pop("scopes")
    if values["role"] not in ROLES:
        raise StoreError(f"the API key {row['id']} has the role {row['role']!r}, of a newer lienzo or of nobody.")
    return KeyRecord(**values, scopes=None if scopes is None else tuple(json.loads(scopes)))


def _scopes(role: Role, scopes: Iterable[str]) -> tuple[Permission, ...]:
    asked = set(scopes)
    for scope in sorted(asked - ROLES[role]):
        raise RequestError(f"scope: got {scope[:80]!r}, which {role} may not. {nearest(scope, ROLES[role])}")
    if not asked:
        raise RequestError("scope: got none. Name what the key may do, or leave the scopes out.")
    return tuple(one for one in PERMISSIONS if one in asked)


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode()).digest()


def _token(headers: Mapping[str, str], cookies: Mapping[str, str]) -> str | None:
    if (header := headers.get("authorization")) is not None:
        scheme, _, rest = header.partition(" ")
        if scheme.lower() == "bearer":
            return rest.strip()
        if scheme.lower() == "basic":
            return _password(rest.strip())
        raise CallerError("Authorization: got neither Bearer nor Basic. Send it as `Authorization: Bearer KEY`.")
    return headers.get("x-api-key") or cookies.get(COOKIE)


def _password(encoded: str) -> str:
    try:
        return base64.b64decode(encoded, validate=True).decode().partition(":")[2]
    except ValueError:
        raise CallerError("Authorization: Basic without base64 of NAME:KEY behind it.") from None


def _nobody() -> CallerError:
    return CallerError("this needs an API key or a token. Send it as `Authorization: Bearer ...`.")
