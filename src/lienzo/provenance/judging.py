"""What this machine makes of a picture: the evidence in its file, held against the keys, logs and records that are known here."""

import contextlib
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import torch

from lienzo.errors import InputError, KeystoreError, MetadataError, UnreadableError
from lienzo.pipeline.generate import Step, finished, generate
from lienzo.pipeline.request import InputImage, Request
from lienzo.provenance.certificates import anchors
from lienzo.provenance.examine import examine
from lienzo.provenance.keys import Keystore, PublicKey
from lienzo.provenance.ledgers import ledger
from lienzo.provenance.metadata import read_stranger
from lienzo.provenance.prompts import PromptStore
from lienzo.provenance.receipt import SignedReceipt, commit_unmarked
from lienzo.provenance.settings import Settings
from lienzo.provenance.timestamps import trusted_roots
from lienzo.provenance.verify import Ledger, Sources, Verdict, verify
from lienzo.provenance.watermark.latent import latents_for
from lienzo.weights import load

Opened = tuple[Request, bytes]
"""A request, and the salt of its commitment."""


def judge(
    data: bytes,
    *,
    name: str = "the picture",
    logs: Sequence[str] = (),
    opened: Opened | None = None,
    regenerate: Callable[[SignedReceipt], str] | None = None,
    advance: Callable[[str, int, int], None] | None = None,
) -> Verdict:
    """Tell layer by layer what a picture's marks prove. Nothing is fetched from anywhere.

    Args:
        data: a PNG, JPEG or WebP file.
        name: for error messages.
        logs: exports, the own log, or database URLs; none: the own log, if there is one.
        opened: what somebody says was asked for.
        regenerate: makes the picture again, see `maker`; None: it is not made again.
        advance: told now and then which export was gone through how far, and of how much.

    Raises:
        InputError: no picture, a damaged or a hostile one.
    """
    store = Keystore()
    known = store.keys()
    log_keys = store.log_keys()
    found = examine(
        data,
        name=name,
        trust_anchors=anchors(store),
        timestamp_roots=trusted_roots().decode("ascii", "replace"),
        revoked=[key.public.id for key in known if key.revoked is not None],
    )
    sources = Sources(
        keys=known,
        watermark_keys=store.secrets("watermark"),
        log_keys=log_keys,
        ledgers=_ledgers(logs, log_keys, advance),
        opened=opened,
        regenerate=regenerate,
    )
    return verify(found, sources)


def _ledgers(
    logs: Sequence[str], keys: Sequence[PublicKey], advance: Callable[[str, int, int], None] | None
) -> list[Ledger]:
    own = Settings.read().place("log")
    if not logs and ("://" in own or Path(own).exists()):
        logs = (own,)
    return [ledger(where, own, keys, None if advance is None else partial(advance, Path(where).name)) for where in logs]


def maker(
    data: bytes, opened: Opened | None, model: str | None, on_step: Callable[[Step], object] | None = None
) -> Callable[[SignedReceipt], str]:
    """Makes the picture again, from the request that it carries, that was revealed, or that is kept here.

    Args:
        model: that made it; None: the embedded one.
        on_step: called after every evaluation of the network.
    """
    store = Keystore()

    def again(signed: "SignedReceipt") -> str:
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
        starts: list[torch.Tensor | None] = [None]
        if "latent" in receipt.marks:
            starts = [latents_for(bundle, asked, secret) for secret in store.secrets("watermark")]
            if not starts:
                raise KeystoreError("its initial noise was made with its maker's watermark key, which is not here.")
        for start in starts:
            (result,) = finished(generate(bundle, asked, latents=start), on_step)
            made = commit_unmarked(InputImage.of(result.image).sha256, salt if receipt.private else None)
            if made == receipt.unmarked:
                break
        return made

    return again
