"""What a picture's marks prove, layer by layer, and what they do not.

Each layer says that it holds, that it fails (it is there, and contradicts the picture or itself), that it is absent, or
that it cannot be judged here (for want of a key, a log or a model). Together:

* proved: a trusted signature over exactly this file; or, of a file without a receipt, exactly the pixels of a record that
  is proved to be in a log and was signed with a trusted receipts key (a log's keeper vouches for
  nobody's pictures), in a file that every program shows alike (`lienzo.provenance.structure`);
* tampered: some layer fails;
* not proved: neither. A watermark that leads to a logged record of a picture that looks like this one is told, and is a
  reason to ask for the original; it is no proof, as whoever has one marked picture can copy its mark into another that is
  made to look alike to a perceptual hash.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal, Protocol

from PIL import Image

from lienzo.errors import InputError, LienzoError, ProofError, ReceiptError, UnknownKeyError
from lienzo.pipeline.request import InputImage, Request
from lienzo.provenance.credentials import STRUCTURE
from lienzo.provenance.examine import Evidence
from lienzo.provenance.keys import KnownKey, PublicKey
from lienzo.provenance.log import LogProof, verify_proof
from lienzo.provenance.perceptual import NEAR, distance, perceptual_hash
from lienzo.provenance.receipt import Entry, Receipt, SignedReceipt, opens

State = Literal["holds", "fails", "absent", "unknown"]
Outcome = Literal["proved", "not proved", "tampered"]
_OF_SIGNER: Final = ("signingCredential.", "claimSignature.outsideValidity", "timeStamp.")
"""C2PA's codes (specification 2.2, section 15.2)."""
_MISSING: Final = "The receipt says that there is a watermark, but none is found: compare it with another copy."
EXIT: Final[dict[Outcome, int]] = {"proved": 0, "not proved": 1, "tampered": 3}


@dataclass(frozen=True)
class Layer:
    """What one layer says.

    Attributes:
        says: one sentence for people.
    """

    name: str
    state: State
    says: str


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """All layers and what they prove together."""

    outcome: Outcome
    says: str
    layers: tuple[Layer, ...]
    record: str | None
    receipt: SignedReceipt | None = field(repr=False)

    @property
    def document(self) -> dict[str, Any]:
        """As `lienzo verify --json` prints it."""
        return {
            "outcome": self.outcome,
            "says": self.says,
            "record": self.record,
            "layers": [{"name": one.name, "state": one.state, "says": one.says} for one in self.layers],
            "receipt": None if self.receipt is None else self.receipt.document,
        }


@dataclass(frozen=True)
class Held:
    """A log's entry that counts.

    Attributes:
        by: whose key signed it.
    """

    entry: Entry
    by: KnownKey


@dataclass(frozen=True)
class Records:
    """What a log has of one record id.

    Attributes:
        name: of the log, for people.
        origin: the log's own name, which is in its checkpoints.
        size: entries of the whole log, as it was looked into.
        entries: (index, entry) of the record id.
    """

    name: str
    origin: str
    size: int
    entries: Sequence[tuple[int, bytes]]


class Ledger(Protocol):
    """Where records are looked up: a log, or an export of one."""

    def find(self, key: str) -> Records:
        """What is under a record id, each entry proved to be in the log.

        Raises:
            UnknownKeyError: the log is signed by nobody who is trusted.
            ProofError: something in it was changed.
            InputError: it is no log.
            LienzoError: it cannot be read here and now.
        """
        ...


@dataclass(frozen=True, kw_only=True)
class Sources:
    """What a picture is judged by.

    Attributes:
        keys: whose signatures count.
        watermark_keys: whose marks are known as one's own.
        log_keys: that logs may be signed with, for the proofs that pictures carry.
        ledgers: where records are looked up.
        opened: request and salt that somebody revealed.
        regenerate: makes the picture again and gives what its receipt would hold as `unmarked`; raises `LienzoError` where it
            cannot.
    """

    keys: Sequence[KnownKey] = ()
    watermark_keys: Sequence[bytes] = ()
    log_keys: Sequence[PublicKey] = ()
    ledgers: Sequence[Ledger] = ()
    opened: tuple[Request, bytes] | None = None
    regenerate: Callable[[SignedReceipt], str] | None = None


def verify(found: Evidence, sources: Sources) -> Verdict:
    """Judge every layer of a picture.

    Raises nothing for what a file holds: a receipt or a proof that cannot be read is a layer that fails.

    Raises:
        InputError: a ledger that is none.
    """
    signed, receipt = _receipt(found, sources.keys)
    mark, marked = _watermark(found.image, signed, sources.watermark_keys)
    record = signed.receipt.id if signed is not None else marked
    held, log = _logged(found, signed, record, sources)
    layers = (
        _credentials(found),
        receipt,
        _pixels(found, signed, held),
        mark,
        log,
        _likeness(found.image, signed, held),
        _checked(signed),
        _opened(signed, sources.opened),
        _regenerated(signed, sources.regenerate),
    )
    outcome, says = _together({layer.name: layer.state for layer in layers}, layers, _whose(found.image, held))
    return Verdict(outcome=outcome, says=says, layers=layers, record=record, receipt=signed)


def _together(states: Mapping[str, State], layers: Iterable[Layer], whose: str) -> tuple[Outcome, str]:
    # what somebody else says of a picture says nothing against it
    failing = [layer.name for layer in layers if layer.state == "fails" and layer.name != "prompt"]
    if failing:
        return "tampered", f"Something was changed, forged or moved: {', '.join(failing)}."
    if states["prompt"] == "fails":
        return "not proved", "What was revealed is another picture's, or of another making of it."
    if states["credentials"] == states["receipt"] == "holds":
        says = "This very file is as it was signed, by a key that you trust."
        return "proved", f"{says} {_MISSING}" if any(layer.says == _MISSING for layer in layers) else says
    # a receipt that is not trusted, or not any more, is no reason to trust the rest
    if states["receipt"] == "absent" and states["pixels"] == states["log"] == "holds":
        return (
            "proved",
            f"Every pixel is that of a picture whose record, signed by {whose}, is proved to be in the log. Its file is another one: "
            "what else is in it, such as text about how it was made, nobody signed.",
        )
    # whoever has not the mark's key cannot tell whose mark it is, but sees where it leads
    leads = states["watermark"] in ("holds", "unknown") and states["log"] == states["likeness"] == "holds"
    if states["receipt"] == "absent" and leads:
        return "not proved", (
            f"Its watermark leads to a record, signed by {whose}, that is proved to be in the log, of a picture that looks like this "
            "one. Marks can be "
            "copied, so this is where to look further, and no proof: ask for the original file."
        )
    signed = [layer.says for layer in layers if layer.name in ("receipt", "log") and layer.state == "unknown"]
    return "not proved", " ".join(
        [
            "Nothing here proves where this picture comes from, which does not mean that it was not generated.",
            *signed[:1],
        ]
    )


def _credentials(found: Evidence) -> Layer:
    who = found.signer or "nobody named"
    failures = ", ".join(found.failures)
    if found.credentials == "Invalid" and found.failures and all(map(_of_signer, found.failures)):
        return Layer("credentials", "unknown", f"Content Credentials of a signer who does not count: {failures}.")
    match found.credentials:
        case "Trusted":
            return Layer("credentials", "holds", f"Content Credentials over exactly this file, signed by {who}.")
        case "Valid" if any(failure.startswith(STRUCTURE) for failure in found.failures):
            return Layer(
                "credentials",
                "unknown",
                f"Content Credentials of a file that programs may read differently: {failures}.",
            )
        case "Valid":
            return Layer(
                "credentials", "unknown", f"Content Credentials over exactly this file, but by a stranger: {who}."
            )
        case "elsewhere":
            return Layer(
                "credentials",
                "unknown",
                f"Content Credentials that are not in the file, but kept elsewhere; lienzo fetches nothing: {failures}.",
            )
        case "absent":
            return Layer("credentials", "absent", "No Content Credentials: none were made, or a program removed them.")
    return Layer("credentials", "fails", f"Content Credentials that do not fit this file: {failures}.")


def _of_signer(failure: str) -> bool:
    """Whether it is about who signed and when (a certificate that expired or was revoked), not about what was signed."""
    return failure.startswith(_OF_SIGNER)


def _receipt(found: Evidence, keys: Sequence[KnownKey]) -> tuple[SignedReceipt | None, Layer]:
    name = "receipt"
    if found.document is None:
        return None, Layer(name, "absent", "No receipt in the file.")
    try:
        signed = SignedReceipt.read(found.document.get("receipt") if isinstance(found.document, dict) else None)
        if not signed.holds:
            return None, Layer(name, "fails", "The receipt is not the one that was signed.")
    except ReceiptError as error:
        return None, Layer(name, "fails", f"A receipt that cannot be read: {error}")
    if found.key_id != signed.receipt.credentials:
        return None, Layer(name, "fails", "The receipt is of another file: it names another key for the credentials.")
    known = next((key for key in keys if key.public == signed.public and key.purpose == "receipts"), None)
    made = f"made {signed.receipt.made} with {signed.receipt.weights.name}{_beside(signed.receipt)}"
    if known is None:
        return signed, Layer(
            name,
            "unknown",
            f"Signed, {made}, by a key that is not trusted here, {signed.public.id[:16]} (`lienzo keys trust`).",
        )
    who = _name(known)
    if known.revoked is not None:
        return signed, Layer(
            name,
            "unknown",
            f"Signed by {who}, with a key that was revoked {known.revoked.time}: {known.revoked.reason}",
        )
    return signed, Layer(name, "holds", f"Signed by {who}: {made}.")


def _beside(receipt: Receipt) -> str:
    """What to say where the request is not all that went in."""
    return f", not repeatable from its request alone ({', '.join(receipt.given)} given)" if receipt.given else ""


def _name(key: KnownKey) -> str:
    return "you" if key.own else f"{key.whose} (key {key.public.id[:16]})"


def _whose(image: Image.Image, held: Sequence[Held]) -> str:
    """Who signed the entries of exactly these pixels; where there are none, who signed any."""
    digest = InputImage.of(image).sha256
    exact = [one for one in held if one.entry.picture == digest]
    return " and ".join(dict.fromkeys(_name(one.by) for one in exact or held))


def _pixels(found: Evidence, signed: SignedReceipt | None, held: Sequence[Held]) -> Layer:
    recorded = {one.entry.picture for one in held} if signed is None else {signed.receipt.picture.sha256}
    if not recorded:
        return Layer("pixels", "absent", "No record to compare the pixels with.")
    if signed is not None and found.image.size != (signed.receipt.picture.width, signed.receipt.picture.height):
        return Layer("pixels", "fails", "The picture is not of the size that the receipt is about.")
    if InputImage.of(found.image).sha256 in recorded:
        # who signed a receipt into trusted credentials wrote the whole file, and meant it so
        if found.doubts and (signed is None or found.credentials != "Trusted"):
            return Layer(
                "pixels", "unknown",
                f"Every pixel is as recorded to lienzo, but other programs may show another picture: {'; '.join(found.doubts)}.",
            )  # fmt: skip
        return Layer("pixels", "holds", "Every pixel is as recorded.")
    if signed is not None and found.lossless:
        return Layer("pixels", "fails", "The pixels are not those that the receipt is about.")
    if signed is not None and found.credentials == "Trusted":
        return Layer(
            "pixels",
            "unknown",
            "Some pixels differ, as this kind of file keeps them only nearly; its bytes are as signed.",
        )
    return Layer("pixels", "unknown", "Some pixels differ from the recorded ones: re-encoded, resized or edited since.")


def _watermark(image: Image.Image, signed: SignedReceipt | None, keys: Sequence[bytes]) -> tuple[Layer, str | None]:
    """The layer, and the record that the mark leads to."""
    from lienzo.provenance.watermark import find

    name = "watermark"
    mark = find(image, keys)
    if mark is None:
        if signed is not None and "watermark" in signed.receipt.marks:
            return Layer(name, "unknown", _MISSING), None
        return Layer(name, "absent", "No watermark is found."), None
    record = f"{mark.record_id:012x}"
    if signed is not None and signed.receipt.id != record and signed.receipt.parents:
        return Layer(
            name, "unknown", f"The watermark leads to record {record}: perhaps that of a picture that went in."
        ), record
    if signed is not None and signed.receipt.id != record:
        return Layer(
            name, "fails", f"The watermark leads to record {record}, the receipt is {signed.receipt.id}."
        ), record
    if mark.tag_valid:
        return Layer(name, "holds", f"A watermark that was made with a key of yours leads to record {record}."), record
    return Layer(name, "unknown", f"A watermark, by whose key cannot be told here, leads to record {record}."), record


def _logged(
    found: Evidence, signed: SignedReceipt | None, record: str | None, sources: Sources
) -> tuple[Sequence[Held], Layer]:
    """The record's entries in the logs that were given, and the layer."""
    name = "log"
    if record is None:
        return (), Layer(name, "absent", "Nothing leads to an entry of a log.")
    unread, doubts, shown, held = list[str](), list[str](), list[str](), list[Held]()
    try:
        carried = _carried(found.document, signed, sources.log_keys)
    except LienzoError as error:
        return (), Layer(name, "fails", str(error))
    for (
        ledger
    ) in sources.ledgers:  # all of them: one that was changed must not be passed over in silence for another's sake
        try:
            records = ledger.find(record)
            rows = [(index, entry) for index, row in records.entries if (entry := _entry(row)) is not None]
        except UnknownKeyError as error:
            unread.append(f"Signed by a key that is not trusted here: {error}")
            continue
        except ProofError as error:  # what is wrong with a log is no fault of the picture's
            unread.append(f"It tells nothing, as it was changed or is damaged: {error}")
            continue
        except InputError:  # no log at all: a mistake of whoever named it
            raise
        except LienzoError as error:  # not to be read here and now
            unread.append(str(error))
            continue
        own = [(index, entry) for index, entry in rows if signed is None or entry.receipt == signed.receipt.digest]
        counting = [
            (index, Held(entry, by))
            for index, entry in own
            if entry.id == record and (by := _signer(entry, sources.keys)) is not None
        ]
        if counting:
            # the same request made again has another entry: the one of these pixels, else the first
            digest = InputImage.of(found.image).sha256
            index, one = min(counting, key=lambda row: (row[1].entry.picture != digest, row[0]))
            held.extend(one for _, one in counting)
            shown.append(
                f"Entry {index} of {records.name}, signed by {_name(one.by)}, made {one.entry.made}, is proved to be in it."
            )
        elif own:  # whoever has a revoked key could have had it logged, and whoever keeps the log anything
            doubts.append(
                f"Its record in {records.name} has no right signature of a key that counts here: the key is not trusted or "
                "revoked, or the log's keeper wrote it."
            )
        elif carried is not None and carried[0] == records.origin:
            if carried[1] < records.size:
                return (), Layer(
                    name, "fails", f"{records.name} is the log that the picture was entered in, and it is not there."
                )
            doubts.append(
                f"{records.name} has {records.size:,} entries: an earlier state of the log than the one that the "
                f"picture was entered in (entry {carried[1]:,}). Give a newer one."
            )
    if shown:
        return held, Layer(name, "holds", " ".join(shown + unread))
    if doubts:
        return (), Layer(name, "unknown", " ".join(doubts + unread))
    if carried is not None:
        shows = f"Entry {carried[1]} of {carried[0]}, as the proof that the picture carries shows."
        return (), Layer(name, "holds", " ".join([shows, *unread]))
    if unread:
        return (), Layer(name, "unknown", " ".join(unread))
    if signed is not None and "log" in signed.receipt.marks:
        return (), Layer(
            name, "unknown", "The receipt says that it was logged, but no log given here shows it (--log)."
        )
    return (), Layer(name, "absent", f"No log that was given here has an entry of record {record}.")


def _entry(row: bytes) -> Entry | None:
    """None for what is no record: whoever keeps a log may put anything in it, which says nothing of a picture."""
    try:
        return Entry.read(row)
    except ReceiptError:
        return None


def _signer(entry: Entry, keys: Sequence[KnownKey]) -> KnownKey | None:
    """The key that signed an entry, if it counts here."""
    named = (key for key in keys if key.public.id == entry.key and key.revoked is None and key.purpose == "receipts")
    try:
        return next((key for key in named if entry.signed_by(key.public)), None)
    except ReceiptError:
        return None


def _carried(document: Any, signed: SignedReceipt | None, keys: Sequence[PublicKey]) -> tuple[str, int] | None:
    """The log and the place that the picture's own proof shows; None where it carries none or no key fits.

    Raises:
        ProofError: it shows something else.
    """
    carried = document.get("log") if isinstance(document, dict) else None
    if carried is None or signed is None:
        return None
    proof = LogProof.read(carried)
    for key in keys:
        try:
            verify_proof(proof, signed.entry.canonical, key, None)
            return proof.checkpoint.partition("\n")[0], proof.index
        except UnknownKeyError:
            continue
    return None


def _likeness(image: Image.Image, signed: SignedReceipt | None, held: Sequence[Held]) -> Layer:
    hashes = [one.entry.perceptual for one in held] + ([signed.receipt.perceptual] if signed is not None else [])
    if not hashes:
        return Layer("likeness", "absent", "No record to compare the picture with.")
    off = min(distance(perceptual_hash(image), one) for one in hashes)
    if off <= NEAR:
        return Layer("likeness", "holds", f"It looks like the recorded picture ({off} of 63 signs differ).")
    # never a failure: of an even picture, strong compression alone turns as many signs; what was exchanged, other layers tell
    why = (
        "the mark was copied from another picture"
        if signed is None
        else "too even, or too strongly compressed, to be told"
    )
    return Layer(
        "likeness", "unknown",
        f"It does not look like the recorded picture ({off} of 63 signs differ): cut, turned or painted over, or {why}.",
    )  # fmt: skip


def _checked(signed: SignedReceipt | None) -> Layer:
    """What the safety checks found when the picture was made."""
    name = "safety"
    if signed is None:
        return Layer(name, "absent", "No receipt that says whether prompt and picture were checked.")
    safety = signed.receipt.safety
    told = "; ".join(
        f"{what} {found.status.replace('_', ' ')}" + (f" ({' '.join(found.reasons)})" if found.reasons else "")
        for what, found in (("Prompt", safety.prompt), ("picture", safety.picture))
    )
    checked = "not_checked" not in (safety.prompt.status, safety.picture.status)
    label = f" It is labelled {signed.receipt.simulation}." if signed.receipt.simulation else ""
    return Layer(name, "holds" if checked else "unknown", f"{told}.{label}")


def _opened(signed: SignedReceipt | None, opened: tuple[Request, bytes] | None) -> Layer:
    if opened is None:
        return Layer("prompt", "unknown", "Nobody revealed the prompt (--reveal).")
    if signed is None:
        return Layer("prompt", "unknown", "No receipt whose commitment could be opened.")
    if opens(signed.receipt, *opened):
        return Layer("prompt", "holds", f"The picture was asked for with the prompt {opened[0].prompt!r}.")
    return Layer("prompt", "fails", "What was revealed is not what the receipt committed to.")


def _regenerated(signed: SignedReceipt | None, again: Callable[[SignedReceipt], str] | None) -> Layer:
    name = "regeneration"
    if again is None:
        return Layer(name, "unknown", "Not made again (--regenerate).")
    if signed is None:
        return Layer(name, "unknown", "No receipt to compare a picture made again with.")
    if signed.receipt.given:
        return Layer(
            name,
            "unknown",
            f"It is not repeatable from its request alone: its maker gave {' and '.join(signed.receipt.given)} besides.",
        )
    try:
        digest = again(signed)
    except LienzoError as error:
        return Layer(name, "unknown", f"It cannot be made again here: {error}")
    if digest == signed.receipt.unmarked:
        return Layer(name, "holds", "Made again from its request, it is the same, bit for bit.")
    return Layer(
        name,
        "unknown",
        "Made again from its request, it differs: another processor, thread count or version does that too.",
    )
