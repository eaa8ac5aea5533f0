"""Rates and quotas: never more than is allowed, whoever asks and from wherever."""

import contextlib
import math
import subprocess
import sys
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import accounts
import pytest
from accounts import ADMIN, Clock, audit
from hypothesis import given
from hypothesis import strategies as st

from lienzo.errors import BusyError, ForbiddenError, LimitError, LogError, RequestError
from lienzo.provenance.database import Database
from lienzo.server import schema
from lienzo.server.audit import Audit
from lienzo.server.limits import WINDOW, Quotas, Rates, network

RATES = st.sampled_from([0.125, 0.5, 1.0, 4.0])  # of which the times below are exact in binary
PAUSES = st.lists(st.integers(0, 400).map(lambda n: n / 4) | st.just(0.0), max_size=400)


def taken(rates: Rates, who: str) -> int | None:
    """None, or the seconds to wait."""
    try:
        rates.take(who)
    except LimitError as error:
        return int(error.retry_after)
    return None


@given(RATES, PAUSES)
def test_a_bucket_does_what_a_bucket_does(rate: float, pauses: list[float]) -> None:
    """Beside one that is counted plainly, in fractions: tokens that flow in, a brim, one token a request."""
    clock = Clock(0)
    rates = Rates(rate, clock=clock)
    brim = Fraction(rate) * Fraction(WINDOW)
    tokens = brim
    for pause in pauses:
        clock.now += pause
        tokens = min(brim, tokens + Fraction(pause) * Fraction(rate))
        wait = taken(rates, "ada")
        if tokens >= 1:
            tokens -= 1
            assert wait is None
        else:
            assert wait == math.ceil((1 - tokens) / Fraction(rate))


@given(RATES, PAUSES)
def test_whoever_waits_as_told_is_let_in(rate: float, pauses: list[float]) -> None:
    clock = Clock(0)
    rates = Rates(rate, clock=clock)
    for pause in pauses:
        clock.now += pause
        if (wait := taken(rates, "ada")) is not None:
            clock.now += wait
            assert taken(rates, "ada") is None


@given(st.floats(1e-4, 1e4), st.lists(st.floats(0, 100), max_size=300))
def test_never_more_than_a_bucket_and_what_flows_in(rate: float, pauses: list[float]) -> None:
    clock = Clock(0)
    rates = Rates(rate, clock=clock)
    let = 0
    for pause in pauses:
        clock.now += pause
        let += taken(rates, "ada") is None
    assert let <= max(1, rate * WINDOW) + rate * clock.now + 1e-6
    assert let >= min(len(pauses), 1)


def test_callers_have_buckets_of_their_own() -> None:
    rates = Rates(1, clock=Clock(0))
    assert [taken(rates, "ada") for _ in range(61)] == [None] * 60 + [1]
    assert taken(rates, "bob") is None


def test_no_rate_is_any_number() -> None:
    rates = Rates(0, clock=Clock(0))
    assert {taken(rates, "ada") for _ in range(10_000)} == {None}


def test_strangers_fill_no_memory_and_free_nobody() -> None:
    clock = Clock(0)
    rates = Rates(1, clock=clock, most=100)
    while taken(rates, "greedy") is None:
        pass
    for stranger in range(10_000):
        clock.now += 1 / 1024
        rates.take(str(stranger))
        assert len(rates._full_at) <= 101
    # Nine tokens and a bit have flowed in since, and no more.
    assert sum(taken(rates, "greedy") is None for _ in range(100)) == 9


def test_networks() -> None:
    assert network("192.0.2.7") == network("::ffff:192.0.2.7") == "192.0.2.7"
    assert network("2001:db8:1:2::7") == network("2001:db8:1:2:ffff::") == "2001:db8:1:2::/64"
    assert network("2001:db8:1:3::7") != network("2001:db8:1:2::7")
    assert network("testclient") == "testclient"


# Quotas


@pytest.fixture
def opened(place: str) -> Iterator[Database]:
    with contextlib.closing(schema.opened(place)) as made:
        yield made


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def log(tmp_path: Path, clock: Clock) -> Iterator[Audit]:
    with contextlib.closing(audit(tmp_path, clock)) as made:
        yield made


@pytest.fixture
def quotas(opened: Database, log: Audit, clock: Clock) -> Quotas:
    return Quotas(opened, log, 10, now=clock)


def test_a_quota_begins_anew_at_midnight(quotas: Quotas, opened: Database, clock: Clock) -> None:
    for pictures in (4, 6):
        with opened.writing() as connection:
            quotas.spend(connection, "acme", pictures)
    assert quotas.used("acme") == (10, 10)
    with pytest.raises(LimitError, match="10 pictures a day, does not leave 1 for today") as told:  # noqa: SIM117
        with opened.writing() as connection:
            quotas.spend(connection, "acme", 1)
    assert told.value.retry_after == 16 * 3600 and isinstance(told.value, BusyError)
    with opened.writing() as connection:
        quotas.spend(connection, "other", 10)
    clock.now += told.value.retry_after
    assert quotas.used("acme") == (0, 10)
    with opened.writing() as connection:
        quotas.spend(connection, "acme", 10)


def test_what_is_rolled_back_does_not_count(quotas: Quotas, opened: Database) -> None:
    with contextlib.suppress(ZeroDivisionError), opened.writing() as connection:
        quotas.spend(connection, "acme", 7)
        raise ZeroDivisionError
    assert quotas.used("acme") == (0, 10)


def test_checking_counts_nothing(quotas: Quotas, opened: Database) -> None:
    quotas.check("acme", 10)
    with opened.writing() as connection:
        quotas.spend(connection, "acme", 9)
    quotas.check("acme", 1)
    with pytest.raises(LimitError, match="does not leave 2 for today"):
        quotas.check("acme", 2)
    with pytest.raises(ForbiddenError):
        quotas.check("acme", 11)
    assert quotas.used("acme") == (9, 10)


def test_more_than_a_day_ever_gives(quotas: Quotas, opened: Database) -> None:
    with pytest.raises(ForbiddenError, match="got 11 pictures; the quota of acme is 10 a day"):  # noqa: SIM117
        with opened.writing() as connection:
            quotas.spend(connection, "acme", 11)


def test_quotas_of_their_own(quotas: Quotas, opened: Database, log: Audit) -> None:
    quotas.set("acme", 2, by=ADMIN)
    quotas.set("acme", 3, by=ADMIN)
    quotas.set("free", 0, by=ADMIN)
    assert (quotas.used("acme"), quotas.used("free"), quotas.used("other")) == ((0, 3), (0, 0), (0, 10))
    with opened.writing() as connection:
        quotas.spend(connection, "free", 1_000)
        quotas.spend(connection, "free", 1_000)
    assert quotas.used("free") == (2_000, 0)
    quotas.set("acme", None, by=ADMIN)
    quotas.set("acme", None, by=ADMIN)
    assert quotas.used("acme") == (0, 10)
    told = [(entry.target, entry.outcome) for entry in log.read() if entry.act == "quotas.set"]
    assert told == [(f"tenant:{name}", value) for name, value in (
        ("acme", "2"), ("acme", "3"), ("free", "0"), ("acme", "default"), ("acme", "default"),
    )]  # fmt: skip


@pytest.mark.parametrize(("tenant", "pictures"), [("Acme", 1), ("acme", -1), ("acme", 2**31)])
def test_quotas_that_cannot_be(quotas: Quotas, tenant: str, pictures: int) -> None:
    with pytest.raises(RequestError):
        quotas.set(tenant, pictures, by=ADMIN)


def test_a_quota_is_not_changed_unseen(opened: Database, tmp_path: Path) -> None:
    (tmp_path / "audit.db").mkdir()
    quotas = Quotas(opened, audit(tmp_path), 10, now=Clock())
    with pytest.raises(LogError):
        quotas.set("acme", 99, by=ADMIN)
    assert quotas.used("acme") == (0, 10)


def test_two_processes_together_stay_within_a_quota(place: str, opened: Database, quotas: Quotas) -> None:
    """60 tries of each for 75 pictures, at the same time."""
    command = [sys.executable, accounts.__file__, place, "acme", "75", "60"]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    let = [int(process.communicate(timeout=60)[0]) for process in running]
    assert sum(let) == 75 and quotas.used("acme")[0] == 75
    assert all(15 <= one <= 60 for one in let)
