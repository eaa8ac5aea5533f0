"""`lienzo access`: what it prints where, and that it does what it says."""

import contextlib
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from accounts import audit
from click.testing import CliRunner, Result

from lienzo.cli import lienzo
from lienzo.errors import RevokedError
from lienzo.server import schema
from lienzo.server.access import Keyring

Run = Callable[..., Result]


@pytest.fixture
def run(home: Path) -> Run:
    return lambda *args: CliRunner().invoke(lienzo, ["access", *map(str, args)], catch_exceptions=False)


@pytest.fixture
def keys(home: Path) -> Iterator[Keyring]:
    """As the service opens them, with the clock of the world."""
    with contextlib.closing(schema.opened(str(home / "service.db"))) as opened:
        yield Keyring(opened, audit(home))


def test_a_key_is_printed_alone(run: Run, keys: Keyring) -> None:
    made = run("add", "ada", "--tenant", "acme", "--role", "operator", "--expires", "90d", "--scope", "verify")
    assert made.exit_code == 0 and re.fullmatch(r"lk_[\w-]{43}\n", made.stdout)
    caller = keys.caller(made.stdout.strip())
    assert (caller.tenant, caller.role, caller.permissions) == ("acme", "operator", {"verify"})
    (record,) = keys.list()
    assert record.expires is not None and record.expires - record.created == 90 * 86_400
    assert record.id in made.stderr and "shown this once" in made.stderr and made.stdout.strip() not in made.stderr


def test_a_key_as_json(run: Run, keys: Keyring) -> None:
    told = json.loads(run("add", "ada", "--expires", "never", "--json").stdout)
    assert (told["tenant"], told["role"], told["expires"], told["scopes"]) == ("local", "user", None, None)
    assert keys.caller(told["key"]).name == f"key:{told['id']}"


def test_a_list_shows_everything_but_the_keys(run: Run) -> None:
    assert "No keys" in run("list").stderr
    key = run("add", "ada").stdout.strip()
    run("add", "bob", "--tenant", "acme", "--scope", "verify", "--expires", "12h")
    listed = run("list").stdout
    assert "ada" in listed and "user only verify" in listed and key not in listed
    (bob,) = json.loads(run("list", "--tenant", "acme", "--json").stdout)
    assert (bob["name"], bob["scopes"], bob["revoked"], bob["last_used"]) == ("bob", ["verify"], None, None)
    assert key not in run("list", "--json").stdout


def test_revoking(run: Run, keys: Keyring) -> None:
    told = json.loads(run("add", "ada", "--json").stdout)
    assert "REVOKED" in run("revoke", told["id"]).stdout
    with pytest.raises(RevokedError):
        keys.caller(told["key"])
    assert json.loads(run("revoke", told["id"], "--json").stdout)["revoked"] is not None
    unknown = run("revoke", "0123")
    assert unknown.exit_code == 2 and "lienzo access list" in unknown.stderr


def test_quotas(run: Run) -> None:
    assert run("quota", "acme").stdout == "acme  0 today  any number a day\n"
    assert run("quota", "acme", 1000).stdout == "acme  0 today  1,000 a day\n"
    assert json.loads(run("quota", "acme", "default", "--json").stdout) == {"tenant": "acme", "used": 0, "quota": 0}
    assert run("quota", "acme", "many").exit_code == 2


def test_every_change_is_in_the_audit_log(run: Run, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOGNAME", "ada l")
    assert "Nothing yet" in run("audit").stderr
    key = json.loads(run("add", "ada", "--json").stdout)["id"]
    run("revoke", key)
    run("quota", "acme", 5)
    run("list")
    told = json.loads(run("audit", "--json").stdout)
    assert [(entry["who"], entry["act"], entry["target"], entry["outcome"]) for entry in told] == [
        ("local:ada_l", "keys.add", f"key:{key}", "user@local"),
        ("local:ada_l", "keys.revoke", f"key:{key}", "done"),
        ("local:ada_l", "quotas.set", "tenant:acme", "5"),
    ]
    assert all(entry["proof"]["size"] == 3 for entry in told)
    assert len(run("audit", "--target", "tenant:acme").stdout.splitlines()) == 1
    checked = CliRunner().invoke(lienzo, ["log", "check", "--log", str(home / "audit.db")])
    assert checked.exit_code == 0 and "3 entries" in checked.stdout


@pytest.mark.parametrize(
    ("args", "told"),
    [
        (["add", "ada", "--expires", "9y"], "--expires: got '9y'; give minutes, hours or days"),
        (["add", "ada", "--expires", "0d"], "--expires: got '0d'"),
        (["add", "ada", "--role", "amdin"], "Did you mean admin"),
        (["add", "ada", "--tenant", "A B"], "tenant: got 'A B'"),
        (["add", "ada", "--scope", "queue:manage"], "which user may not"),
    ],
)
def test_what_cannot_be_done_is_told(run: Run, args: list[str], told: str) -> None:
    result = run(*args)
    assert result.exit_code == 2 and told in result.stderr and result.stdout == ""


def test_the_database_of_the_settings(run: Run, home: Path, tmp_path: Path) -> None:
    (home / "config.toml").write_text(
        f'[service]\ndatabase = "{tmp_path}/other.db"\naudit = "{tmp_path}/acts.db"\nquota = 7\n'
    )
    assert json.loads(run("quota", "acme", "--json").stdout)["quota"] == 7
    run("add", "ada")
    assert (tmp_path / "other.db").exists() and (tmp_path / "acts.db").exists() and not (home / "service.db").exists()
