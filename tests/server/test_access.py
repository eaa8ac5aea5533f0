"""Who calls: roles, API keys, and what a request carries."""

import base64
import contextlib
import re
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from accounts import ADMIN, Clock, audit
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import text

from lienzo.errors import (
    AccessError,
    CallerError,
    ExpiredError,
    ForbiddenError,
    LogError,
    RecordError,
    RequestError,
    RevokedError,
    StoreError,
)
from lienzo.provenance.database import Database
from lienzo.server import schema
from lienzo.server.access import (
    ANONYMOUS,
    COOKIE,
    LAST_USED,
    LOCAL,
    PERMISSIONS,
    ROLES,
    Access,
    Caller,
    Keyring,
    check_tenant,
)
from lienzo.server.audit import Audit
from lienzo.server.settings import Service


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def opened(place: str) -> Iterator[Database]:
    """A database of each kind."""
    with contextlib.closing(schema.opened(place)) as made:
        yield made


@pytest.fixture
def log(tmp_path: Path, clock: Clock) -> Iterator[Audit]:
    with contextlib.closing(audit(tmp_path, clock)) as made:
        yield made


@pytest.fixture
def keys(opened: Database, log: Audit, clock: Clock) -> Keyring:
    return Keyring(opened, log, now=clock)


@pytest.fixture
def one(tmp_path: Path, log: Audit, clock: Clock) -> Iterator[Keyring]:
    """In SQLite alone, where the database makes no difference."""
    with contextlib.closing(schema.opened(str(tmp_path / "one.db"))) as made:
        yield Keyring(made, log, now=clock)


# Roles


def test_what_roles_may() -> None:
    """Written out a second time, so that nobody's powers change by a slip."""
    assert ROLES["admin"] == set(PERMISSIONS)
    assert ROLES["operator"] == {"models:read", "verify", "metrics:read", "queue:manage"}
    assert ROLES["user"] == {"jobs:create", "jobs:read", "jobs:cancel", "images:read", "models:read", "verify"}
    assert ROLES["verifier"] == {"verify"} == ANONYMOUS.permissions


def test_whoever_may_not_is_told_what_is_allowed() -> None:
    user = Caller("key:1", "acme", "user", ROLES["user"])
    user.require("jobs:create")
    with pytest.raises(ForbiddenError, match=r"key:1 \(user of acme\) may not queue:manage. Allowed: images:read"):
        user.require("queue:manage")
    ANONYMOUS.require("verify")
    with pytest.raises(CallerError, match="needs an API key"):
        ANONYMOUS.require("images:read")


# Keys


def test_a_key_lets_in_whom_it_was_made_for(keys: Keyring, log: Audit) -> None:
    key, record = keys.add("Ada's laptop", tenant="acme", role="user", by=ADMIN)
    assert re.fullmatch(r"lk_[A-Za-z0-9_-]{43}", key)
    assert keys.caller(key) == Caller(f"key:{record.id}", "acme", "user", ROLES["user"]) == record.caller
    assert [one.document for one in keys.list()] == [{**record.document, "last_used": "2027-01-15T08:00:00Z"}]
    (entry,) = log.read()
    assert (entry.who, entry.act, entry.target) == ("local", "keys.add", f"key:{record.id}")
    assert entry.outcome == "user@acme"


def test_the_key_itself_is_kept_nowhere(one: Keyring, tmp_path: Path) -> None:
    key, _ = one.add("ada", tenant="acme", role="user", by=ADMIN)
    one.caller(key)
    secret = key.removeprefix("lk_")
    kept = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    for needle in (secret.encode(), secret[:16].encode(), base64.urlsafe_b64decode(secret + "=")):
        assert needle not in kept


def test_a_tenants_keys(keys: Keyring) -> None:
    for name, tenant in (("a", "acme"), ("b", "other"), ("c", "acme")):
        keys.add(name, tenant=tenant, role="user", by=ADMIN)
    assert sorted(record.name for record in keys.list("acme")) == ["a", "c"]
    assert len(keys.list()) == 3


def test_scopes_narrow_and_never_widen(keys: Keyring) -> None:
    key, record = keys.add("ci", tenant="acme", role="user", by=ADMIN, scopes=["verify", "models:read"])
    assert record.scopes == ("models:read", "verify")
    assert keys.caller(key).permissions == {"verify", "models:read"}
    with pytest.raises(RequestError, match="scope: got 'queue:manage', which user may not"):
        keys.add("ci", tenant="acme", role="user", by=ADMIN, scopes=["queue:manage"])
    with pytest.raises(RequestError, match="scope: got none"):
        keys.add("ci", tenant="acme", role="user", by=ADMIN, scopes=[])


def test_a_key_expires(keys: Keyring, clock: Clock) -> None:
    key, record = keys.add("ada", tenant="acme", role="user", by=ADMIN, expires=100)
    clock.now += 99
    keys.caller(key)
    clock.now += 1
    with pytest.raises(ExpiredError, match=f"{record.id} expired 2027-01-15T08:01:40Z"):
        keys.caller(key)


def test_a_revoked_key_lets_in_no_more(keys: Keyring, log: Audit, clock: Clock) -> None:
    key, record = keys.add("ada", tenant="acme", role="user", by=ADMIN)
    other, _ = keys.add("other", tenant="acme", role="user", by=ADMIN)
    first = keys.revoke(record.id, by=ADMIN)
    clock.now += 10
    assert keys.revoke(record.id, by=ADMIN) == first  # when it was first revoked stays
    with pytest.raises(RevokedError, match=f"{record.id} was revoked 2027-01-15T08:00:00Z"):
        keys.caller(key)
    keys.caller(other)
    assert [entry.act for entry in log.read(target=f"key:{record.id}")] == ["keys.add", "keys.revoke"]
    with pytest.raises(RecordError, match="no key has it"):
        keys.revoke("0123", by=ADMIN)


def test_the_last_use_is_written_once_a_minute(keys: Keyring, clock: Clock) -> None:
    key, record = keys.add("ada", tenant="acme", role="user", by=ADMIN)

    def last() -> int | None:
        return keys.list()[0].last_used

    assert last() is None
    begun = int(clock.now)
    for seconds, written in ((0, 0), (LAST_USED - 1, 0), (LAST_USED, LAST_USED), (LAST_USED + 1, LAST_USED)):
        clock.now = begun + seconds
        keys.caller(key)
        assert last() == begun + written
    assert record.last_used is None


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"tenant": "Acme"}, "tenant: got 'Acme'. Allowed"),
        ({"tenant": "../acme"}, "tenant: got"),
        ({"role": "opertor"}, "Did you mean operator"),
        ({"name": "a\nb"}, "name: got"),
        ({"name": ""}, "name: got"),
        ({"expires": 0.0}, "expires: got"),
        ({"expires": float("nan")}, "expires: got"),
        ({"expires": float("inf")}, "expires: got"),
    ],
)
def test_what_cannot_be_a_key_is_refused(one: Keyring, wrong: dict[str, object], told: str) -> None:
    values = {"name": "ada", "tenant": "acme", "role": "user", **wrong}
    with pytest.raises(RequestError, match=re.escape(told)):
        one.add(values.pop("name"), by=ADMIN, **values)  # type: ignore[arg-type]
    assert one.list() == []


def as_key(data: bytes) -> str:
    return "lk_" + base64.urlsafe_b64encode(data).decode().rstrip("=")


@given(st.text() | st.binary(min_size=32, max_size=32).map(as_key))
def test_no_other_text_is_a_key(house: Access, text: str) -> None:
    with pytest.raises(CallerError):
        house.keys.caller(text)


def test_without_the_audit_log_nothing_is_done(one: Keyring, log: Audit, tmp_path: Path) -> None:
    key, record = one.add("ada", tenant="acme", role="user", by=ADMIN)
    log.close()
    (tmp_path / "audit.db").unlink()
    (tmp_path / "audit.db").mkdir()
    with pytest.raises(LogError):
        one.revoke(record.id, by=ADMIN)
    with pytest.raises(LogError):
        one.add("eve", tenant="acme", role="admin", by=ADMIN)
    assert one.caller(key) and [record.name for record in one.list()] == ["ada"]


def test_a_key_of_an_unknown_role_lets_nobody_in(opened: Database, keys: Keyring) -> None:
    key, _ = keys.add("ada", tenant="acme", role="user", by=ADMIN)
    with opened.writing() as connection:
        connection.execute(text("UPDATE access_keys SET role = 'emperor'"))
    with pytest.raises(StoreError, match="emperor"):
        keys.caller(key)


def test_a_database_that_takes_nothing_still_lets_in(one: Keyring) -> None:
    """A full disk: the last use cannot be written, which is no reason to turn anybody away."""
    key, _ = one.add("ada", tenant="acme", role="user", by=ADMIN)
    with one._database.writing() as connection:
        connection.execute(
            text("CREATE TRIGGER full BEFORE UPDATE ON access_keys BEGIN SELECT RAISE(ABORT, 'disk full'); END")
        )
    assert one.caller(key).tenant == "acme"
    assert one.list()[0].last_used is None


# What a request carries


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Access]:
    folder = tmp_path_factory.mktemp("house")
    with (
        contextlib.closing(schema.opened(str(folder / "service.db"))) as made,
        contextlib.closing(audit(folder)) as log,
    ):
        yield Access(Keyring(made, log, now=Clock()))


@pytest.fixture(scope="module")
def ada(house: Access) -> str:
    return house.keys.add("ada", tenant="acme", role="user", by=ADMIN)[0]


def basic(name: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{name}:{password}".encode()).decode()


def test_where_a_key_may_stand(house: Access, ada: str) -> None:
    caller = house.keys.caller(ada)
    for headers, cookies in (
        ({"authorization": f"Bearer {ada}"}, {}),
        ({"authorization": f"bearer  {ada} "}, {}),
        ({"authorization": basic("anybody", ada)}, {}),
        ({"x-api-key": ada}, {}),
        ({}, {COOKIE: ada}),
        ({"authorization": f"Bearer {ada}", "x-api-key": "wrong"}, {COOKIE: "wrong"}),
    ):
        assert house.authenticate(headers, cookies) == caller


def test_a_wrong_key_is_not_passed_over_for_a_good_one(house: Access, ada: str) -> None:
    with pytest.raises(CallerError):
        house.authenticate({"authorization": "Bearer lk_wrong"}, {COOKIE: ada})
    with pytest.raises(CallerError):
        house.authenticate({"authorization": "Bearer lk_wrong"}, anonymous=True)


def test_who_says_nothing_is_nobody(house: Access) -> None:
    with pytest.raises(CallerError, match="needs an API key"):
        house.authenticate({}, {})
    assert house.authenticate({}, {}, anonymous=True) == ANONYMOUS


def test_who_is_at_the_machine(house: Access, tmp_path: Path) -> None:
    access = Access.of(Service(auth=False), house.keys._database, audit(tmp_path))
    assert access.authenticate({"authorization": "Bearer anything"}) == LOCAL == access.authenticate({})
    closed = Access.of(Service(), house.keys._database, audit(tmp_path))
    with pytest.raises(CallerError):
        closed.authenticate({})


@pytest.mark.parametrize(
    "header", ["", "Bearer", "Bearer ", "Basic", "Basic %%%", "Basic /////w==", "Digest x", "Bearer " + "x" * 20_000]
)
def test_damaged_headers(house: Access, header: str) -> None:
    with pytest.raises(CallerError):
        house.authenticate({"authorization": header}, anonymous=True)


@given(st.text(), st.sampled_from(["", "Bearer ", "Basic "]))
def test_any_header_is_a_caller_or_a_refusal(house: Access, text: str, scheme: str) -> None:
    with pytest.raises(AccessError) as told:
        house.authenticate({"authorization": scheme + text})
    assert len(str(told.value)) < 300


@pytest.mark.parametrize("name", ["", "-a", "a b", "a/b", "..", "á", "a" * 64, "A"])
def test_names_that_no_tenant_has(name: str) -> None:
    with pytest.raises(RequestError):
        check_tenant(name)


def test_threads_share_a_keyring(house: Access, ada: str) -> None:
    found: list[Caller] = []
    threads = [
        threading.Thread(target=lambda: found.extend(house.keys.caller(ada) for _ in range(25))) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [house.keys.caller(ada)] * 100


def test_keys_that_let_nobody_in_do_not_count(one: Keyring, clock: Clock) -> None:
    """Else whoever revoked the last one would be told no first one any more."""
    assert one.usable == 0
    _, soon = one.add("soon", tenant="acme", role="user", by=ADMIN, expires=10)
    _, revoked = one.add("revoked", tenant="acme", role="user", by=ADMIN)
    assert one.usable == 2
    one.revoke(revoked.id, by=ADMIN)
    clock.now += 11
    assert one.usable == 0 and soon.expires is not None
