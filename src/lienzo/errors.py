"""Every error that lienzo raises on purpose.

LienzoError
├── InputError(ValueError)      what the user asked for cannot be done as asked; the command line exits with 2
│   ├── RequestError            a field of the request: size, steps, guidance, prompt ...
│   ├── ImageError              an input picture that cannot be read or used
│   ├── ConfigError             a configuration file: unknown key, unsupported value
│   ├── DataError               training data that cannot be found or read, or of which nothing is left
│   ├── MetadataError           a picture without (or with damaged) lienzo metadata
│   ├── ReceiptError            a receipt, log entry or reveal file that is none, or damaged
│   ├── UnreadableError         untrusted bytes whose reading crashed, took too long or took too much
│   ├── RecordError             a stored request that is not there, or whose place another one has
│   └── MissingExtraError       the feature needs an optional dependency
├── WeightsError                a model that cannot be loaded
│   ├── ModelNotFoundError      no such folder, file or hub id (or the network is off)
│   ├── FormatError             a damaged, lying or unknown file
│   ├── UnsafePickleError       a pickle that asks for more than tensors; nothing of it was run
│   └── KeysError               missing, unexpected or wrongly shaped tensors, all of them listed
├── SafetyError                 a check that could not be made: nothing is returned unchecked
│   └── BlockedError            a check was made and said no; has its outcome
├── OutputError                 the picture could not be written
├── AccessError                 a caller whom the service does not let in, or not so far
│   ├── CallerError             nobody knows who calls: no key or token, or one that is unknown, forged or not for this service
│   │   ├── ExpiredError        a key or token whose time is over
│   │   └── RevokedError        a key that was revoked
│   └── ForbiddenError          the caller is known and may not do that
├── IssuerError                 the keys of those who issue tokens cannot be had, so no token can be checked
├── KeystoreError               a signing key, secret or certificate that cannot be used, made or found
├── SealingError                something encrypted that was changed or moved, or that another key was meant for
├── StoreError                  a database that cannot be opened, read or written, or that is not lienzo's
├── CredentialsError            Content Credentials that could not be added
├── TimestampError              a timestamp authority that gave none, or a timestamp that proves nothing
│   └── UntrustedTimestampError signed by nobody who is trusted, so nothing is proved
├── LogError                    the log's database cannot be opened, read or written
├── ProofError                  a log, checkpoint, proof or export that was changed; the command line exits with 3
│   └── UnknownKeyError         signed by a key that is not known, so nothing is proved
├── BusyError                   a service that can take no more just now; has the seconds after which to try again
│   └── LimitError              of this caller: too many requests, or a quota that is used up
└── NonFiniteError              NaN or infinity appeared while a picture was made
"""

from collections.abc import Iterable, Mapping
from difflib import get_close_matches


class LienzoError(Exception):
    """Base of all errors raised on purpose by lienzo."""


class InputError(LienzoError, ValueError):
    """The user asked for something that cannot be done as asked."""


class RequestError(InputError):
    """A request with a value that is not allowed."""


class ImageError(InputError):
    """An input picture that cannot be read or used."""


class ConfigError(InputError):
    """A configuration with an unknown key or an unsupported value."""


class DataError(InputError):
    """Training data that cannot be found or read, or of which nothing is left."""


class MetadataError(InputError):
    """A picture without lienzo metadata, or with damaged metadata."""


class ReceiptError(InputError):
    """A receipt, a log entry or a reveal file that is none of lienzo's, or damaged."""


class UnreadableError(InputError):
    """Untrusted bytes whose reading crashed, took too long or took too much; that happened in a process of its own."""


class RecordError(InputError):
    """A stored request that is not there, or whose place another one has already."""


class MissingExtraError(InputError):
    """A feature whose optional dependency is not installed."""


class WeightsError(LienzoError):
    """A model that cannot be loaded."""


class ModelNotFoundError(WeightsError):
    """No model of that name, or no network to fetch it."""


class FormatError(WeightsError):
    """A file that is damaged, lies about its contents, or is of no known format."""


class UnsafePickleError(WeightsError):
    """A pickle that asks for more than tensors. Nothing of it was run."""


class KeysError(WeightsError):
    """A state dict that does not fit its network; lists every difference.

    Attributes:
        missing: names the network has and the file lacks.
        unexpected: names the file has and the network lacks.
        wrong_shape: name -> (shape in the file, shape in the network).
    """

    def __init__(
        self,
        what: str,
        *,
        missing: Iterable[str] = (),
        unexpected: Iterable[str] = (),
        wrong_shape: Mapping[str, tuple[tuple[int, ...], tuple[int, ...]]] | None = None,
    ) -> None:
        self.missing = tuple(sorted(missing))
        self.unexpected = tuple(sorted(unexpected))
        self.wrong_shape = dict(wrong_shape or {})
        lines = [f"{what}: the tensors do not fit the network."]
        lines += _listed("missing", self.missing)
        lines += _listed("unexpected", self.unexpected)
        lines += _listed(
            "wrong shape",
            tuple(
                f"{k}: got {list(got)}, expected {list(want)}" for k, (got, want) in sorted(self.wrong_shape.items())
            ),
        )
        super().__init__("\n".join(lines))


class SafetyError(LienzoError):
    """A safety check that could not be made, or answered nonsense: the picture is not returned."""


class BlockedError(SafetyError):
    """A prompt or picture that a safety check does not let through; there is no picture.

    Attributes:
        outcome: the `lienzo.safety.Outcome` that says which check it was and why.
    """

    def __init__(self, outcome: object) -> None:
        super().__init__(outcome)
        self.outcome = outcome


class OutputError(LienzoError):
    """The picture could not be written (no permission, no space, no such folder)."""


class AccessError(LienzoError):
    """A caller whom the service does not let in, or not so far."""


class CallerError(AccessError):
    """Nobody knows who calls: no key or token, or one that is unknown, forged, damaged or not for this service."""


class ExpiredError(CallerError):
    """A key or token whose time is over."""


class RevokedError(CallerError):
    """A key that was revoked."""


class ForbiddenError(AccessError):
    """The caller is known and may not do that."""


class IssuerError(LienzoError):
    """The keys of those who issue tokens cannot be had, so no token can be checked."""


class KeystoreError(LienzoError):
    """A key or certificate that cannot be used: readable by others, damaged, revoked, expired, unknown, out of reach."""


class SealingError(LienzoError):
    """Something encrypted that was changed, cut or moved, or that was sealed with another key. Nothing of it was opened."""


class StoreError(LienzoError):
    """A database that cannot be opened, read or written, or that is not lienzo's."""


class CredentialsError(LienzoError):
    """Content Credentials that could not be added to a picture; it is not returned without them."""


class TimestampError(LienzoError):
    """An authority that gave no timestamp, or a timestamp that is damaged, of something else, or of nobody who is trusted."""


class UntrustedTimestampError(TimestampError):
    """A timestamp by an authority that is not trusted here, which proves nothing, neither good nor bad."""


class LogError(LienzoError):
    """The log's database cannot be opened, read or written; nothing was added."""


class ProofError(LienzoError):
    """A log, checkpoint, proof or export that does not hold: it was changed, forged or damaged."""


class UnknownKeyError(ProofError):
    """Signed by a key that is not known here, which proves nothing, neither good nor bad."""


class BusyError(LienzoError):
    """A service that can take no more just now.

    Attributes:
        retry_after: seconds after which to try again.
    """

    def __init__(self, message: str, retry_after: float) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class LimitError(BusyError):
    """A caller of whom the service takes no more just now: too many requests, or a quota that is used up."""


class NonFiniteError(LienzoError):
    """NaN or infinity appeared while a picture was made; no picture is returned."""


def nearest(got: str, allowed: Iterable[str]) -> str:
    """Sentences that offer the nearest allowed names, then all of them."""
    names = sorted(allowed)
    if not names:
        return "There are none here."
    close = get_close_matches(got, names, n=3, cutoff=0.5)
    hint = f"Did you mean {' or '.join(close)}? " if close else ""
    return f"{hint}Allowed: {', '.join(names)}."


def _listed(title: str, names: tuple[str, ...], most: int = 20) -> list[str]:
    if not names:
        return []
    rest = [f"    ... and {len(names) - most} more"] if len(names) > most else []
    return [f"  {title} ({len(names)}):", *(f"    {name}" for name in names[:most]), *rest]
