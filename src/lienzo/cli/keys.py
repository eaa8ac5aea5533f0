"""`lienzo keys`: list, rotate, revoke, export, trust, distrust."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from lienzo.cli.params import json_option
from lienzo.cli.text import note, plain, print_json, table

if TYPE_CHECKING:
    from lienzo.provenance.keys import KnownKey


@click.group(short_help="Look after the keys that sign pictures.")
def keys() -> None:
    """Look after the keys that sign pictures, and say whose you trust.

    They lie in $LIENZO_HOME/keys, else in the `lienzo/keys` of the platform's folder for configuration, and are made when they
    are first needed.
    """


@keys.command("list", short_help="List all public keys.")
@json_option
def list_(as_json: bool) -> None:
    """List all public keys: your own, current and old ones, and those you trust."""
    from lienzo.provenance.keys import Keystore

    store = Keystore()
    known = store.keys()
    if as_json:
        print_json([{**key.document, "own": key.own} for key in known])
    elif known:
        table([_row(key) for key in known])
    else:
        note(f"No keys in {store.folder} yet. The first one is made when a picture is signed.")


@keys.command(short_help="Make the next key of a purpose.")
@click.argument("purpose")
@json_option
def rotate(purpose: str, as_json: bool) -> None:
    """Make the next key of PURPOSE (`receipts`, `log` ...). The old one signs no more; what it signed can still be checked."""
    from lienzo.provenance.keys import Keystore

    store = Keystore()
    public = store.rotate(purpose)
    made = None if public is None else store.find(public.id)
    if as_json:
        print_json(None if made is None else made.document)
    elif made is None:
        click.echo(f"{purpose}  new secret; {len(store.secrets(purpose)) - 1} old kept")
    else:
        table([_row(made)])


@keys.command(short_help="Say that a key is not to be trusted any more.")
@click.argument("key_id", metavar="ID")
@click.option("--reason", required=True, metavar="TEXT", help="Why, for those who will ask.")
@json_option
def revoke(key_id: str, reason: str, as_json: bool) -> None:
    """Say that the key ID (8 digits or more of it) is not to be trusted any more: it was stolen, or might have been.

    Pictures that it signed verify no more, old ones included. Send others the list that `lienzo keys export` prints, so
    that they know too. To change a key without harm, use `rotate`.
    """
    from lienzo.provenance.keys import Keystore

    revoked = Keystore().revoke(key_id, reason)
    if as_json:
        print_json(revoked.document)
    else:
        table([_row(revoked)])


@keys.command(short_help="Print your public keys, for others to trust.")
@click.option("--name", metavar="TEXT", help="What others are to call you.")
@json_option
def export(name: str | None, as_json: bool) -> None:
    """Print your public keys and revocations as a trust list, which is a JSON document with --json and without.

    Whoever is to check your pictures saves it and runs `lienzo keys trust FILE`. It holds nothing secret.
    """
    from lienzo.provenance import certificates
    from lienzo.provenance.keys import Keystore

    print_json(certificates.export(Keystore(), name))


@keys.command(short_help="Trust the public keys of somebody else.")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--as", "whose", metavar="NAME", help="What to call its owner. [default: as the list says]")
@json_option
def trust(file: Path, whose: str | None, as_json: bool) -> None:
    """Trust the public keys in FILE, a list that `lienzo keys export` printed, and know its revocations.

    Nothing in the list vouches for it: get it from its owner by a way that you trust.
    """
    from lienzo.provenance import certificates
    from lienzo.provenance.keys import MAX_TRUST_FILE, Keystore
    from lienzo.reading import read_whole

    document = read_whole(file, MAX_TRUST_FILE)
    trusted = certificates.trust(Keystore(), document, whose)
    if as_json:
        print_json([key.document for key in trusted])
    elif trusted:
        table([_row(key) for key in trusted])


@keys.command(short_help="Trust somebody's keys no more.")
@click.argument("name")
@json_option
def distrust(name: str, as_json: bool) -> None:
    """Trust the keys and certificates of NAME no more, whose list `lienzo keys trust` took; see `lienzo keys list`.

    What they signed is then signed by somebody unknown. Trusting a list of theirs again takes this back; a key that is known to be
    revoked stays revoked.
    """
    from lienzo.provenance import certificates
    from lienzo.provenance.keys import Keystore

    gone, roots = certificates.distrust(Keystore(), name)
    if as_json:
        print_json({"whose": name, "keys": [key.document for key in gone], "certificates": roots})
    else:
        click.echo(plain(f"{name}  trusted no more: {len(gone)} keys, {roots} certificates"))
        table([_row(key, "trusted no more") for key in gone])


def _row(key: "KnownKey", state: str = "trusted") -> tuple[str, ...]:
    """
    Args:
        state: of a key of somebody else.
    """
    if key.own:
        state = "current" if key.retired is None else f"until {key.retired}"
    if key.revoked is not None:
        state = f"REVOKED {key.revoked.time}: {key.revoked.reason}"
    return key.public.id[:16], key.name, key.public.algorithm, f"made {key.made}" if key.made else "", state
