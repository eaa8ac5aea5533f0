"""RFC 3161 timestamps: somebody else's signed word on when something was there already.

What is sent is the SHA-256 of the message and a random number, never the message.
"""

import contextlib
import hashlib
import os
import secrets
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from http.client import HTTPException
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any
from urllib.parse import urlsplit

from lienzo.errors import TimestampError, UntrustedTimestampError

if TYPE_CHECKING:
    from rfc3161_client import TimeStampResponse

MOST_BYTES = 100_000
"""Of an answer; those with a long chain of certificates have some 7,000."""

_STRANGER = "certificate verify error"

_SHA256 = "2.16.840.1.101.3.4.2.1"


@dataclass(frozen=True)
class Authority:
    """A timestamp authority, called with a message.

    Attributes:
        url: http or https; the answer is signed, so http gives away only that something was stamped.
        timeout: seconds for everything.
        roots: PEM certificates to check each answer against (see `verify`). None: what comes back is only checked to be about
            this message and this request, and it is for `verify` to say whether it is worth anything.
    """

    url: str
    timeout: float = 5.0
    roots: bytes | None = None

    def __post_init__(self) -> None:
        parts = urlsplit(self.url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise TimestampError(f"got the timestamp authority {self.url!r}; expected a URL with http or https.")

    def __call__(self, message: bytes) -> bytes:
        """Have a message stamped.

        Returns:
            The authority's answer: DER of TimeStampResp (RFC 3161, section 2.4.2), as `openssl ts -verify -in` reads it.

        Raises:
            TimestampError: not reachable in time, refused, or an answer to another question.
        """
        from rfc3161_client import HashAlgorithm, TimestampRequestBuilder

        request = (
            TimestampRequestBuilder().data(message).hash_algorithm(HashAlgorithm.SHA256).cert_request(cert_request=True)
        ).build()
        token = self.ask(request.as_bytes())
        answer = _decoded(token)
        _check_message(answer, message)
        if answer.tst_info.nonce != request.nonce:
            raise TimestampError(f"{self.url}: answered another request (its nonce differs). Try another authority.")
        if self.roots is not None:
            verify(token, message, self.roots)
        return token

    def ask(self, query: bytes) -> bytes:
        """What comes back for a query (DER of TimeStampReq), not looked at.

        Raises:
            TimestampError: not reachable in time, or refused.
        """
        request = urllib.request.Request(
            self.url,
            data=query,
            headers={"Content-Type": "application/timestamp-query", "Accept": "application/timestamp-reply"},
        )
        end = time.monotonic() + self.timeout
        answer = b""
        try:
            with urllib.request.build_opener(_NoRedirect).open(request, timeout=self.timeout) as response:
                while chunk := response.read1(MOST_BYTES + 1 - len(answer)):
                    answer += chunk
                    if time.monotonic() > end:  # each piece came in time, but not all of them
                        raise TimeoutError("timed out")
        except (OSError, HTTPException, ValueError) as error:  # URLError is an OSError
            reason = getattr(error, "reason", None) or error
            if isinstance(error, urllib.error.HTTPError):
                error.close()
            raise TimestampError(f"{self.url}: no timestamp: {reason}. Is the authority reachable from here?") from None
        if len(answer) > MOST_BYTES:
            raise TimestampError(f"{self.url}: answered with more than {MOST_BYTES:,} bytes, which no timestamp has.")
        return answer


@dataclass
class Relayed:
    """Where to ask, and why there was no answer (the last reason)."""

    url: str
    failed: TimestampError | None = None


@contextlib.contextmanager
def relay(authority: Authority) -> Iterator[Relayed]:
    """A server on this machine, as long as the block runs, that passes queries on to an authority.

    For code that asks by itself and would wait for 30 seconds: so it waits no longer than `authority` does, and goes
    only there. Its path is secret, so that no other program on the machine is served.
    """
    path = f"/{secrets.token_hex(16)}"
    relayed = Relayed("")

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            size = int(self.headers.get("Content-Length") or 0)
            if self.path != path or size > MOST_BYTES:
                self.send_error(404)
                return
            try:
                answer = authority.ask(self.rfile.read(size))
            except TimestampError as error:
                relayed.failed = error
                self.send_error(502)
                return
            self.send_response(200)
            self.send_header("Content-Type", "application/timestamp-reply")
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = False  # so that none outlives the block
        relayed.url = f"http://127.0.0.1:{server.server_port}{path}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.005}, daemon=True)
        thread.start()
        try:
            yield relayed
        finally:
            server.shutdown()
            thread.join()


def configured() -> Authority | None:
    """The authority at $LIENZO_TSA, its answers checked against the certificates in the file $LIENZO_TSA_ROOTS; None where
    there is no LIENZO_TSA.

    Raises:
        TimestampError: no URL, or a file that cannot be read.
    """
    url = os.environ.get("LIENZO_TSA")
    return Authority(url, roots=trusted_roots() or None) if url else None


def trusted_roots() -> bytes:
    """What the file $LIENZO_TSA_ROOTS holds; empty where that is not set.

    Raises:
        TimestampError: it cannot be read.
    """
    path = os.environ.get("LIENZO_TSA_ROOTS")
    if not path:
        return b""
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise TimestampError(f"LIENZO_TSA_ROOTS: {path} cannot be read: {error.strerror or error}.") from None


def verify(token: bytes, message: bytes, roots: bytes) -> datetime:
    """The time at which the message was there already, on the authority's word.

    Args:
        token: as `Authority` returns it.
        roots: PEM certificates of the authorities that are trusted. The authority's own certificate has to have been valid at
            the time it says; whether it was revoked since is not asked.

    Raises:
        TimestampError: damaged, of another message, or signed by nobody who is trusted (UntrustedTimestampError; whether it
            is damaged as well cannot be told then).
    """
    from cryptography import x509
    from rfc3161_client import VerificationError, VerifierBuilder

    answer = _decoded(token)
    _check_message(answer, message)
    try:
        trusted = x509.load_pem_x509_certificates(roots)
    except ValueError:
        raise TimestampError(
            "the roots hold no certificate in PEM form. Give those of the timestamp authority."
        ) from None
    builder = VerifierBuilder()
    for certificate in trusted:
        builder = builder.add_root_certificate(certificate)
    try:
        builder.build().verify_message(answer, message)
    except (VerificationError, ValueError) as error:
        raise _untrusted(str(error)) from None
    return answer.tst_info.gen_time.astimezone(UTC)


def _untrusted(told: str) -> TimestampError:
    """OpenSSL's own words, as rfc3161_client passes them on, tell a stranger's certificate from a wrong signature."""
    if _STRANGER in told:
        _, _, why = told.partition("Verify error: ")
        return UntrustedTimestampError(
            "the timestamp is not to be trusted: its authority's certificate leads to none of the roots that are trusted here "
            f"({why.partition(chr(34))[0] or 'no reason given'}). Name the authority's root in LIENZO_TSA_ROOTS, if you trust it."
        )
    why = "its signature is not right" if "ErrorStack" in told else told
    return TimestampError(f"the timestamp is not to be trusted: {why}. It was damaged or forged.")


def _decoded(token: bytes) -> "TimeStampResponse":
    from rfc3161_client import PKIStatus, decode_timestamp_response

    try:
        answer = decode_timestamp_response(token)
        if answer.status not in (PKIStatus.GRANTED, PKIStatus.GRANTED_WITH_MODS):
            told = "; ".join(answer.status_string)[:200] or "no reason given"
            raise TimestampError(f"the authority refused ({told}).")
        answer.tst_info  # noqa: B018  # raises where it is damaged
    except ValueError as error:
        raise TimestampError(f"not a timestamp: {str(error)[:200]}.") from None
    return answer


def _check_message(answer: "TimeStampResponse", message: bytes) -> None:
    imprint = answer.tst_info.message_imprint
    if imprint.hash_algorithm.dotted_string != _SHA256 or imprint.message != hashlib.sha256(message).digest():
        raise TimestampError("the timestamp is of another message.")


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """An authority that was configured is not to send us anywhere else."""

    def redirect_request(self, req: Any, fp: IO[bytes], code: int, msg: str, headers: Any, newurl: str) -> None:
        return None
