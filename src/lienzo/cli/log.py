"""`lienzo log`: show, checkpoint, export, check, verify."""

import contextlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lienzo.cli import signals
from lienzo.cli.params import json_option
from lienzo.cli.progress import Progress, progress
from lienzo.cli.text import note, plain, print_json, table, warn
from lienzo.errors import InputError, LogError

if TYPE_CHECKING:
    from lienzo.provenance.log import Audit, Log
    from lienzo.provenance.log.audit import Advance

MAX_CHECKPOINT = 100_000
EXIT = {"proved": 0, "not proved": 1, "tampered": 3}


def log_option(command: Callable[..., Any]) -> Callable[..., Any]:
    return click.option(
        "--log", "where", metavar="URL",
        help="A file or database (postgresql://...); otherwise LIENZO_LOG, or `log.db` in lienzo's folder.",
    )(command)  # fmt: skip


def held_option(command: Callable[..., Any]) -> Callable[..., Any]:
    return click.option(
        "--checkpoint", "held", metavar="FILE", multiple=True, type=click.Path(path_type=Path),
        help="An earlier checkpoint that you kept; several may be given.",
    )(command)  # fmt: skip


@click.group(short_help="Look after the log of pictures.")
def log() -> None:
    """Look after the log of pictures: an append-only list in which nothing can be changed unnoticed.

    Who holds an earlier checkpoint (`lienzo log checkpoint`) can tell whether any entry was changed since. Keep one now and
    then where nobody who can write to the log can reach it.
    """


@log.command(short_help="Tell what the log is.")
@log_option
@json_option
def show(where: str | None, as_json: bool) -> None:
    """Tell what the log is: its name, its entries, the key that others check it with."""
    with _opened(where, sign=False) as opened:
        head, keys = opened.head, [key.text for key in opened.keys]
    from lienzo.provenance.encoding import encode64

    facts = {"log": opened.where, "origin": opened.origin, "size": head.size, "root": encode64(head.root)}
    if as_json:
        print_json({**facts, "keys": keys})
    else:
        table([*((name, str(value)) for name, value in facts.items()), *(("key", key) for key in keys)])


@log.command(short_help="Print a signed checkpoint, to be kept elsewhere.")
@log_option
@json_option
def checkpoint(where: str | None, as_json: bool) -> None:
    """Print the newest checkpoint, signed: the log's name, size and root. Keep it where the log's keeper cannot reach.

    Where a timestamp authority is set up (LIENZO_TSA), the log also keeps its word on when the checkpoint was there already.
    """
    from lienzo.provenance.encoding import encode64
    from lienzo.provenance.timestamps import configured

    with _opened(where, sign=True) as opened:
        made = opened.checkpoint(configured())
    if made.untimed is not None:
        warn(f"no timestamp: {made.untimed}")
    if as_json:
        stamp = None if made.timestamp is None else encode64(made.timestamp)
        print_json({"checkpoint": made.note, "timestamp": stamp, "untimed": made.untimed})
    else:
        click.echo(made.note, nl=False)


@log.command(short_help="Write the whole log to a file for others.")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--force", is_flag=True, help="Overwrite the file.")
@log_option
@json_option
def export(file: Path, force: bool, where: str | None, as_json: bool) -> None:
    """Write the whole log to FILE, for others to check with `lienzo log verify` and the log's key, offline."""
    from lienzo.provenance.log import write_export

    with _opened(where, sign=False) as opened:
        size = write_export(opened, file, overwrite=force)
        keys = [key.text for key in opened.keys]
    if as_json:
        print_json({"path": str(file), "size": size, "keys": keys})
    else:
        click.echo(plain(f"{file}  {size:,} entries"))
        note(f"Others need one of these keys, by a way that they trust: {', '.join(keys)}")


@log.command(short_help="Go through the whole log and look for changes.")
@held_option
@log_option
@json_option
def check(held: tuple[Path, ...], where: str | None, as_json: bool) -> None:
    """Go through the whole log: every entry, every hash, every checkpoint. Exits with 0 if all is as it was signed, 3 if something
    was changed.

    That the log was set back, or replaced with another one of the same key, can only be told with --checkpoint.
    """
    notes = [_read_checkpoint(path) for path in held]
    with _opened(where, sign=False) as opened, reading_log(opened.where) as advance:
        audit = opened.check(notes, advance=advance)
    _report(audit, as_json)


@log.command(short_help="Check a log that was exported, offline.")
@click.argument("file", metavar="EXPORT", type=click.Path(path_type=Path))
@click.option("--key", metavar="KEY", help="The log's key, NAME+ID+KEY, as `lienzo log show` prints it.")
@held_option
@json_option
def verify(file: Path, key: str | None, held: tuple[Path, ...], as_json: bool) -> None:
    """Check EXPORT, a log that somebody exported. Exits with 0 if it is whole and signed with a key that you trust, 1 if the key
    is not known or the export is older than a --checkpoint, 3 if something was changed.

    Without --key, your own keys and those you trust count (`lienzo keys list`).
    """
    from lienzo.provenance.keys import Keystore, PublicKey
    from lienzo.provenance.log import NoteKey, verify_export
    from lienzo.provenance.timestamps import trusted_roots
    from lienzo.provenance.timestamps import verify as verify_timestamp

    notes = [_read_checkpoint(path) for path in held]
    roots = trusted_roots()
    stamped = (lambda answer, message: verify_timestamp(answer, message, roots)) if roots else None
    given = None if key is None else NoteKey.parse(key)
    keys = Keystore().log_keys() if given is None else [PublicKey.from_spki(given.spki)]
    origin = None if given is None else given.name
    with reading_log(file.name) as advance:
        audit = verify_export(file, keys, origin=origin, held=notes, stamped=stamped, advance=advance)
    _report(audit, as_json)


def _opened(where: str | None, *, sign: bool) -> "Log":
    """The log, with the keys of this machine."""
    from lienzo.provenance.keys import Keystore
    from lienzo.provenance.log import Log
    from lienzo.provenance.settings import Settings

    keys = Keystore().log_keys(own=True)
    place = Settings.read(log=where).place("log")
    if not keys:
        raise LogError(f"{place}: there is no key of a log here yet. It is made with the first picture that is logged.")
    return Log.open(place, signer=Keystore().signer("log") if sign else None, keys=keys)


@contextlib.contextmanager
def reading_log(name: str) -> "Iterator[Advance]":
    """A progress bar while a log is gone through; Ctrl-C stops it."""
    with progress() as bar:
        yield lambda done, of: read_so_far(bar, name, done, of)


def read_so_far(bar: Progress, name: str, done: int, of: int) -> None:
    signals.check()
    bar.advance(f"reading {plain(name)}", done, of)


def _read_checkpoint(path: Path) -> str:
    try:
        with path.open(encoding="utf-8", newline="") as file:
            return file.read(MAX_CHECKPOINT + 1)
    except (OSError, ValueError) as error:
        raise InputError(
            f"{path}: cannot be read: {error}. Name a file that `lienzo log checkpoint` printed."
        ) from None


def _report(audit: "Audit", as_json: bool) -> None:
    if as_json:
        print_json(audit.document)
    else:
        click.echo(
            plain(f"{audit.state}: {audit.origin}, {audit.size:,} entries, {audit.checkpoints} checkpoints agree")
        )
        for line in (*audit.problems, *audit.unproved):
            click.echo(plain(f"  {line}"))
        for line in audit.notes:
            note(f"Note: {line}.")
        if audit.state == "proved" and not audit.held:
            note(
                "Note: that the log was not set back or replaced, only a checkpoint kept elsewhere (--checkpoint) shows."
            )
    sys.exit(EXIT[audit.state])
