"""`lienzo access`: add, list, revoke, quota, audit."""

import contextlib
import getpass
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import click

from lienzo.cli.params import json_option
from lienzo.cli.text import note, print_json, table

if TYPE_CHECKING:
    from lienzo.server.access import Caller, KeyRecord, Keyring
    from lienzo.server.audit import Audit
    from lienzo.server.limits import Quotas

SECONDS = {"m": 60, "h": 3600, "d": 86_400}


class Span(click.ParamType):  # type: ignore[type-arg]  # generic only in newer clicks
    """A time from now on, in seconds, or `never`."""

    name = "TIME"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float | str:
        if value == "never":
            return "never"
        found = re.fullmatch(r"([1-9][0-9]{0,4})([mhd])", value)
        if not found:
            self.fail(f"got {value!r}; give minutes, hours or days (30m, 12h, 90d), or never.", param, ctx)
        return float(int(found[1]) * SECONDS[found[2]])


@click.group(short_help="Say who may use the service.")
def access() -> None:
    """Say who may use the service on this machine: API keys, quotas, and what was done.

    A running service heeds all of it from the next request on. Every change is written into the audit log.
    """


@access.command(short_help="Make an API key.")
@click.argument("name")
@click.option("--tenant", default="local", metavar="NAME", help="Whose jobs and pictures it sees. [default: local]")
@click.option("--role", default="user", metavar="ROLE", help="admin, operator, user or verifier. [default: user]")
@click.option("--expires", type=Span(), default="365d", help="90d, 12h, 30m or never. [default: 365d]")
@click.option(
    "--scope",
    "scopes",
    multiple=True,
    metavar="PERMISSION",
    help="Only this of what the role may do; several may be given.",
)
@json_option
def add(name: str, tenant: str, role: str, expires: float | str, scopes: tuple[str, ...], as_json: bool) -> None:
    """Make an API key that people will call NAME, and print it: on stdout, alone, this once. It cannot be shown again."""
    with _opened() as service:
        key, record = service.keys.add(
            name,
            tenant=tenant,
            role=role,
            by=_caller(),
            expires=None if isinstance(expires, str) else expires,
            scopes=scopes or None,
        )
    if as_json:
        print_json({"key": key, **record.document})
        return
    click.echo(key)
    until = record.document["expires"] or "it is revoked"
    note(f"{record.id}: {record.role} of {record.tenant}, until {until}. Keep the key now: it is shown this once.")


@access.command("list", short_help="List the API keys.")
@click.option("--tenant", metavar="NAME", help="Only those of this tenant.")
@json_option
def list_(tenant: str | None, as_json: bool) -> None:
    """List the API keys: all that is known of each, and not the key itself, which is kept nowhere."""
    with _opened() as service:
        records = service.keys.list(tenant)
    if as_json:
        print_json([record.document for record in records])
    elif records:
        table([_row(record) for record in records])
    else:
        note("No keys. `lienzo access add NAME` makes one.")


@access.command(short_help="Let an API key in no more.")
@click.argument("key_id", metavar="ID")
@json_option
def revoke(key_id: str, as_json: bool) -> None:
    """Let the API key ID (`lienzo access list`) in no more, from the next request on. It cannot be taken back."""
    with _opened() as service:
        record = service.keys.revoke(key_id, by=_caller())
    if as_json:
        print_json(record.document)
    else:
        table([_row(record)])


@access.command(short_help="Show or change how many pictures a tenant may make a day.")
@click.argument("tenant")
@click.argument("pictures", required=False)
@json_option
def quota(tenant: str, pictures: str | None, as_json: bool) -> None:
    """Show how many pictures TENANT made today (UTC) and may make a day, or change that to PICTURES: a number, 0 for any number,
    or `default` for what the service's settings say.
    """
    if pictures is not None and pictures != "default" and not re.fullmatch("[0-9]{1,10}", pictures):
        raise click.BadParameter(f"PICTURES: got {pictures!r}; give a number, 0 for any number, or default.")
    with _opened() as service:
        if pictures is not None:
            service.quotas.set(tenant, None if pictures == "default" else int(pictures), by=_caller())
        used, limit = service.quotas.used(tenant)
    if as_json:
        print_json({"tenant": tenant, "used": used, "quota": limit})
    else:
        table([(tenant, f"{used:,} today", f"{limit:,} a day" if limit else "any number a day")])


@access.command(short_help="Show what was done, and every verdict.")
@click.option(
    "--newest", type=click.IntRange(1, 100_000), default=100, metavar="N", help="How many at most. [default: 100]"
)
@click.option(
    "--target", metavar="NAME", help="Only what was done to this: key:ID, tenant:NAME, sha256:DIGEST of a picture ..."
)
@json_option
def audit(newest: int, target: str | None, as_json: bool) -> None:
    """Show the newest entries of the audit log, each proved to be in it.

    `lienzo log check --log FILE` goes through the whole of it; with --json each entry comes with its proof.
    """
    with _opened() as service:
        entries = service.audit.read(newest=newest, target=target)
    if as_json:
        print_json([{**entry.document, "proof": entry.proof.document} for entry in entries])
    elif entries:
        table([tuple(map(str, entry.document.values())) for entry in entries])
    else:
        note("Nothing yet.")


@dataclass(frozen=True)
class _Opened:
    keys: "Keyring"
    quotas: "Quotas"
    audit: "Audit"


@contextlib.contextmanager
def _opened() -> Iterator[_Opened]:
    """What the service on this machine keeps, whether it runs or not."""
    from lienzo.server.access import Keyring
    from lienzo.server.audit import Audit
    from lienzo.server.limits import Quotas
    from lienzo.server.schema import opened
    from lienzo.server.settings import Service

    service = Service.read()
    with (
        contextlib.closing(opened(service.database_place)) as database,
        contextlib.closing(Audit(service.audit_place)) as audit,
    ):
        yield _Opened(Keyring(database, audit), Quotas(database, audit, service.quota), audit)


def _caller() -> "Caller":
    """Whoever runs the command, by the name that the system has for them."""
    from lienzo.server.access import LOCAL

    try:
        name = re.sub("[^!-~]", "_", getpass.getuser())[:100]
    except (KeyError, OSError):  # a user id without a name, as in some containers
        name = "unknown"
    return replace(LOCAL, name=f"local:{name}")


def _row(record: "KeyRecord") -> tuple[str, ...]:
    facts = record.document
    scopes = "" if record.scopes is None else f" only {', '.join(record.scopes)}"
    state = f"REVOKED {facts['revoked']}" if facts["revoked"] else f"until {facts['expires'] or 'revoked'}"
    used = f"used {facts['last_used']}" if facts["last_used"] else "not used"
    return record.id, record.name, record.tenant, f"{record.role}{scopes}", state, used
