"""`lienzo prompts`: list, show, erase, rotate."""

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from lienzo.cli.params import F, json_option
from lienzo.cli.text import note, plain, print_json, table, warn
from lienzo.errors import RecordError

if TYPE_CHECKING:
    from lienzo.provenance.prompts import PromptStore


def records_option(command: F) -> F:
    return click.option(
        "--records",
        metavar="FILE|URL",
        help="Where they are kept: a SQLite file, or postgresql://user@host/name; otherwise LIENZO_RECORDS, or `records.db` in lienzo's folder.",
    )(command)


@click.group(short_help="Look after prompts that are kept encrypted.")
def prompts() -> None:
    """Look after the prompts that are kept encrypted, so that a private picture's prompt can be shown, until it is erased.

    Keys: $LIENZO_KEK (base64 of 32 bytes), else a file in $LIENZO_HOME/keys that is made when it is first needed.
    """


@prompts.command("list", short_help="List of which records a request is kept.")
@records_option
@json_option
def list_(records: str | None, as_json: bool) -> None:
    """List the records of which a request is kept, each with its tenant. No prompt is shown, and no key is needed."""
    kept = _store(records).records()
    if as_json:
        print_json([{"record": record, "tenant": tenant} for record, tenant in kept])
    elif kept:
        table(kept)
    else:
        note("No requests are kept.")


@prompts.command(short_help="Show a kept request.")
@click.argument("record")
@records_option
@json_option
def show(record: str, records: str | None, as_json: bool) -> None:
    """Show the request that is kept for RECORD, decrypted; with --json also its tenant, and the salt of its commitment."""
    kept = _store(records).get(record)
    if as_json:
        request = json.loads(kept.request)
        print_json({"record": kept.record, "tenant": kept.tenant, "request": request, "salt": kept.salt.hex()})
    else:
        click.echo(plain(kept.request.decode()))


@prompts.command(short_help="Erase a kept request for good.")
@click.argument("record")
@records_option
@json_option
def erase(record: str, records: str | None, as_json: bool) -> None:
    """Erase the request and the salt that are kept for RECORD: what a private picture committed to can never be shown again. One that is
    not private has its prompt in the file itself, wherever that went.

    A service keeps what it was asked for besides, as long as its `keep` says. Backups made before still hold them, encrypted. `lienzo prompts rotate` after it makes those unreadable too.
    """
    if not _store(records).erase(record):
        raise RecordError(
            f"got the record {record!r}, of which nothing is kept: never, or erased before. What was erased is wiped."
        )
    if as_json:
        print_json({"record": record, "erased": True})
    else:
        click.echo(plain(f"{record}  erased"))
        note(
            "This cannot be taken back. Backups made before still hold it, encrypted: `lienzo prompts rotate` makes those unreadable."
        )


@prompts.command(short_help="Change the key that keeps prompts.")
@records_option
@json_option
def rotate(records: str | None, as_json: bool) -> None:
    """Change the key-encryption key: make the next one, wrap all data keys by it, destroy the old one.

    It may be stopped and run again: it then goes on where it was. With $LIENZO_KEK put the new key before the old one, with a
    comma between them, run this, then take the old one away. Backups made before can be read no more once the old key is
    destroyed.
    """
    done = _store(records, is_there=False).rotate()
    if as_json:
        print_json(
            {
                "current": done.current,
                "resumed": done.resumed,
                "rewrapped": done.rewrapped,
                "retired": list(done.retired),
                "failed": [{"record": record, "reason": reason} for record, reason in done.failed],
            }
        )
    else:
        click.echo(f"{done.current}  wraps from now on; {done.rewrapped:,} data keys wrapped anew")
        for key in done.retired:
            click.echo(f"{key}  retired: nothing is wrapped by it any more")
    for _, reason in done.failed:
        warn(f"{reason} The key that wrapped it is kept.")
    if done.resumed and not as_json:
        note("This went on with keys that were there already. For a fresh key run it once more.")
    if not done.retired and not done.failed:
        note(
            f"Nothing was changed: LIENZO_KEK holds one key, {done.current}. Put a new one before it, with a comma between, and run "
            "this again."
        )


def _store(records: str | None, *, is_there: bool = True) -> "PromptStore":
    from lienzo.provenance.prompts import PromptStore
    from lienzo.provenance.settings import Settings

    place = Settings.read(records=records).place("records")
    if is_there and "://" not in place and not Path(place).exists():
        raise RecordError(f"{place}: nothing is kept there. Name the database with --records or LIENZO_RECORDS.")
    return PromptStore(place)
