"""`lienzo verify`."""

import contextlib
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from lienzo.cli import signals
from lienzo.cli.log import log_keys, read_so_far
from lienzo.cli.params import json_option
from lienzo.cli.progress import Progress, progress
from lienzo.cli.text import plain, print_json
from lienzo.errors import InputError
from lienzo.reading import read_whole

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from lienzo.pipeline.generate import Step
    from lienzo.pipeline.request import Request
    from lienzo.provenance.keys import Keystore, PublicKey
    from lienzo.provenance.receipt import SignedReceipt
    from lienzo.provenance.verify import Ledger, Verdict

MAX_REVEAL = 1_000_000
SIGNS = {"holds": "+", "fails": "!", "absent": "-", "unknown": "?"}

EPILOG = """
\b
Exit codes: 0 proved; 1 not proved; 2 cannot be done as asked (no such picture, a damaged one); 3 something was changed,
forged or moved. A picture that is not proved may still be generated: marks can be removed.
"""


@click.command(epilog=EPILOG, short_help="Tell what a picture's marks prove.")
@click.argument("picture", type=click.Path(path_type=Path))
@click.option(
    "--log", "logs", metavar="LOG", multiple=True,
    help="An export of a log (`lienzo log export`), your own log, or a URL; several may be given. [default: your own, if there is one]",
)  # fmt: skip
@click.option(
    "--reveal", metavar="FILE", type=click.Path(path_type=Path),
    help="The prompt and its salt, as `lienzo prompts show RECORD --json` wrote them: is it this picture's?",
)  # fmt: skip
@click.option("--regenerate", is_flag=True, help="Make the picture again from its request and compare bit for bit.")
@click.option("--model", metavar="MODEL", help="For --regenerate, where the embedded model did not make it.")
@json_option
def verify(
    picture: Path, logs: tuple[str, ...], reveal: Path | None, regenerate: bool, model: str | None, as_json: bool
) -> None:
    """Tell layer by layer what PICTURE's marks prove: its credentials, receipt, watermark, log entry, likeness, prompt.

    + holds, ! fails, - absent, ? cannot be told here. Nothing is fetched from anywhere.
    """
    if model is not None and not regenerate:
        raise InputError("--model is for --regenerate. Leave it out, or give both.")
    from lienzo.provenance.verify import EXIT

    with progress() as bar:
        verdict = _verdict(picture, logs, reveal, regenerate, model, bar)
    if as_json:
        print_json(verdict.document)
    else:
        click.echo(plain(f"{verdict.outcome}: {verdict.says}"))
        width = max(len(layer.name) for layer in verdict.layers)
        for layer in verdict.layers:
            click.echo(plain(f"  {SIGNS[layer.state]} {layer.name:{width}}  {layer.says}"))
    sys.exit(EXIT[verdict.outcome])


def _verdict(
    picture: Path, logs: tuple[str, ...], reveal: Path | None, again: bool, model: str | None, bar: Progress
) -> "Verdict":
    from lienzo.provenance.certificates import anchors
    from lienzo.provenance.examine import MOST_BYTES, examine
    from lienzo.provenance.keys import Keystore
    from lienzo.provenance.timestamps import trusted_roots
    from lienzo.provenance.verify import Sources, verify

    store = Keystore()
    known = store.keys()
    trusted = log_keys(own=False)
    data = read_whole(picture, MOST_BYTES)
    found = examine(
        data,
        name=str(picture),
        trust_anchors=anchors(store),
        timestamp_roots=trusted_roots().decode("ascii", "replace"),
        revoked=[key.public.id for key in known if key.revoked is not None],
    )
    opened = None if reveal is None else _revealed(reveal)
    sources = Sources(
        keys=known,
        watermark_keys=store.secrets("watermark"),
        log_keys=trusted,
        ledgers=_ledgers(logs, trusted, bar),
        opened=opened,
        regenerate=_maker(data, opened, store, model, bar) if again else None,
    )
    return verify(found, sources)


def _ledgers(logs: tuple[str, ...], keys: "list[PublicKey]", bar: Progress) -> "list[Ledger]":
    from lienzo.provenance.ledgers import ledger
    from lienzo.provenance.settings import Settings

    own = Settings.read().place("log")
    if not logs and ("://" in own or Path(own).exists()):
        logs = (own,)
    return [ledger(where, own, keys, partial(read_so_far, bar, Path(where).name)) for where in logs]


def _revealed(path: Path) -> "tuple[Request, bytes]":
    import json

    from lienzo.pipeline.request import Request

    content = read_whole(path, MAX_REVEAL)
    try:
        told = json.loads(content)
        return Request.from_json(json.dumps(told["request"])), bytes.fromhex(told["salt"])
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise InputError(
            f"{path}: not what `lienzo prompts show RECORD --json` writes ({str(error)[:100]}). Expected request and salt."
        ) from None


def _maker(
    data: bytes, opened: "tuple[Request, bytes] | None", store: "Keystore", model: str | None, bar: Progress
) -> "Callable[[SignedReceipt], str]":
    """Makes the picture again, from the request that it carries, that was revealed, or that is kept here."""

    def again(signed: "SignedReceipt") -> str:
        import torch

        from lienzo.errors import KeystoreError, MetadataError, UnreadableError
        from lienzo.pipeline.generate import finished, generate
        from lienzo.pipeline.request import InputImage, Request
        from lienzo.provenance.metadata import read_stranger
        from lienzo.provenance.prompts import PromptStore
        from lienzo.provenance.receipt import commit_unmarked
        from lienzo.provenance.settings import Settings
        from lienzo.provenance.watermark.latent import latents_for
        from lienzo.weights import load

        receipt, (asked, salt) = signed.receipt, opened or (None, None)
        if asked is None and not receipt.private:
            with contextlib.suppress(MetadataError, UnreadableError):
                record = read_stranger(data)
                asked = record.request
                if record.threads is not None and receipt.device == "cpu":
                    torch.set_num_threads(record.threads)  # as many give the same bits
        if asked is None:
            kept = PromptStore(Settings.read().place("records")).get(receipt.id)
            asked, salt = Request.from_json(kept.request), kept.salt
        if receipt.adapters or receipt.embeddings:
            raise InputError("it was made with adapters; use `lienzo generate --from` with their files.")
        bundle = load(model, dtype=receipt.dtype)
        if bundle.digest != receipt.weights.digest:
            raise InputError(
                f"it was made with {receipt.weights.name}, weights {receipt.weights.digest[:16]}; name that model (--model)."
            )
        bar.say("Making the picture again ...", True)
        starts: list[Tensor | None] = [None]
        if "latent" in receipt.marks:
            starts = [latents_for(bundle, asked, secret) for secret in store.secrets("watermark")]
            if not starts:
                raise KeystoreError("its initial noise was made with its maker's watermark key, which is not here.")

        def show(step: "Step") -> None:
            signals.check()
            bar.advance("making it again", step.index, step.of)

        for start in starts:
            (result,) = finished(generate(bundle, asked, latents=start), show)
            made = commit_unmarked(InputImage.of(result.image).sha256, salt if receipt.private else None)
            if made == receipt.unmarked:
                break
        return made

    return again
