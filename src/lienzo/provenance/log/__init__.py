"""An append-only log of commitments: any change to an acknowledged entry can be told by whoever holds an earlier signed checkpoint.

merkle       the tree: hashes, roots, proofs (RFC 6962)
checkpoint   what the log signs (C2SP signed-note, tlog-checkpoint)
proofs       documents that are checked offline
store        `Log`: the tree in SQLite or PostgreSQL
audit        going through a whole log
export       one file for strangers
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lienzo.provenance.log.audit import Audit
    from lienzo.provenance.log.checkpoint import Checkpoint, NoteKey, open_checkpoint
    from lienzo.provenance.log.export import check_header, verify_export, write_export
    from lienzo.provenance.log.proofs import ConsistencyProof, LogProof, verify_consistency, verify_proof
    from lienzo.provenance.log.store import Log, SignedCheckpoint

_HOMES = {
    "Audit": "audit",
    "Checkpoint": "checkpoint", "NoteKey": "checkpoint", "open_checkpoint": "checkpoint",
    "check_header": "export", "verify_export": "export", "write_export": "export",
    "ConsistencyProof": "proofs", "LogProof": "proofs", "verify_consistency": "proofs", "verify_proof": "proofs",
    "Log": "store", "SignedCheckpoint": "store",
}  # fmt: skip
__all__ = [
    "Audit",
    "Checkpoint",
    "ConsistencyProof",
    "Log",
    "LogProof",
    "NoteKey",
    "SignedCheckpoint",
    "check_header",
    "open_checkpoint",
    "verify_consistency",
    "verify_export",
    "verify_proof",
    "write_export",
]


def __getattr__(name: str) -> object:  # who only checks a proof needs no database
    if name in _HOMES:
        return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
