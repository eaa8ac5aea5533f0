"""What was done to the service and what it said of pictures, in a Merkle log of its own.

Every entry is canonical JSON (RFC 8785) of who, of which tenant, did what to what, with which outcome, and when. There is
no place in it for a prompt: each value is a word without spaces. What is in the log can be removed by nobody, so names in
it should be such as need not be.
"""

import hashlib
import json
import re
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, get_args

import rfc8785

from lienzo.errors import LogError, ProofError
from lienzo.provenance.keys import Keystore
from lienzo.provenance.log import Log, LogProof

if TYPE_CHECKING:
    from lienzo.provenance.keys import Signer
    from lienzo.server.access import Caller

FORMAT: Final = "lienzo-audit/1"
ORIGIN: Final = "lienzo/audit/"
"""How the names of audit logs begin."""
Act = Literal[
    "keys.add", "keys.revoke", "quotas.set", "jobs.cancel", "verify", "detect",
]  # fmt: skip
ACTS: Final[tuple[Act, ...]] = get_args(Act)
_WORD = re.compile(r"[!-~]{1,200}")


@dataclass(frozen=True)
class Entry:
    """An act, as it was logged.

    Attributes:
        index: in the log, from 0.
        time: UTC, RFC 3339, by this machine's clock.
        proof: that it is in the log as it is now (`lienzo.provenance.log.verify_proof`).
    """

    index: int
    time: str
    who: str
    tenant: str
    act: str
    target: str
    outcome: str
    proof: LogProof

    @property
    def document(self) -> dict[str, Any]:
        """For JSON, without the proof."""
        return {name: getattr(self, name) for name in ("index", "time", "who", "tenant", "act", "target", "outcome")}


class Audit:
    """The audit log. Threads and processes may share its database; it is opened, or made, when it is first needed.

    Args:
        place: a file or database URL, another one than that of the log of pictures.
        keys: whose `log` key signs it; None: those in lienzo's home.
        now: UTC seconds since 1970.
    """

    def __init__(
        self, place: str | Path, keys: Keystore | None = None, *, now: Callable[[], float] = time.time
    ) -> None:
        self.place = place
        self._keys, self._now = Keystore() if keys is None else keys, now
        self._opening = threading.Lock()
        self._log: tuple[Signer, Log] | None = None

    def record(self, who: "Caller", act: Act, target: str, *, outcome: str = "done") -> int:
        """Add an entry; it is on the disk and signed for when this returns.

        Args:
            target: `key:ID`, `job:ID`, `tenant:NAME`, or a picture's `sha256:DIGEST`.
            outcome: a word or two; spaces become hyphens.

        Returns:
            Its index.

        Raises:
            LogError, ProofError: it could not be added.
        """
        entry = {
            "format": FORMAT,
            "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(self._now())),
            "who": who.name,
            "tenant": who.tenant or "-",
            "act": act,
            "target": target,
            "outcome": outcome.replace(" ", "-"),
        }
        for name, value in entry.items():
            if not _WORD.fullmatch(value):
                raise LogError(f"{name}: an entry of the audit log has words of 1 to 200 letters without spaces.")
        return self._opened().append(rfc8785.dumps(entry), _key(target))

    def read(self, *, newest: int = 100, target: str | None = None) -> list[Entry]:
        """The newest entries, or all about a target, in their order; each was proved to be in the log.

        Raises:
            LogError: the log cannot be read.
            ProofError: it was changed.
        """
        log = self._opened()
        size = log.size
        indices = (
            range(max(0, size - newest), size)
            if target is None
            else [index for index, _ in log.find(_key(target))][-newest:]
        )
        return [_entry(log.proof(index)) for index in indices]

    def close(self) -> None:
        with self._opening:
            if self._log is not None:
                self._log[1].close()
                self._log = None

    def _opened(self) -> Log:
        signer = self._keys.signer("log")
        with self._opening:
            if self._log is None or self._log[0].public != signer.public:  # the key was changed
                if self._log is not None:
                    self._log[1].close()
                self._log = signer, self._open(signer)
            return self._log[1]

    def _open(self, signer: "Signer") -> Log:
        own = [key.public for key in self._keys.keys() if key.own and key.purpose == "log" and key.revoked is None]
        try:
            with Log.open(self.place, signer=None, keys=own) as there:
                origin = there.origin
        except LogError:  # there is none yet; what else it may be, opening it below tells
            # The same key signs the log of pictures. By its name neither log can be taken for the other.
            origin = f"{ORIGIN}{signer.public.id[:16]}"
        if not origin.startswith(ORIGIN):
            raise LogError(f"{self.place}: is the log {origin}, and none of audit. Name another place.")
        return Log.open(self.place, origin=origin, signer=signer, keys=own)


def _key(target: str) -> str:
    """What entries about a target are found by."""
    return hashlib.sha256(target.encode()).hexdigest()


def _entry(proof: LogProof) -> Entry:
    try:
        document = json.loads(proof.entry)
        if document.pop("format") != FORMAT:
            raise ValueError
        return Entry(index=proof.index, proof=proof, **document)
    except (ValueError, KeyError, TypeError, AttributeError):
        raise ProofError(f"entry {proof.index:,} of the audit log is none that lienzo wrote.") from None
