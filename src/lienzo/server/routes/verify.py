"""/v1/verify and /v1/detect: what a picture's marks prove, and what its pixels look like. For everybody, as Art. 50 of the EU AI
Act asks of those who offer generators."""

import hashlib
import threading
from typing import Annotated, Any

from fastapi import APIRouter, Depends, UploadFile
from pydantic import BaseModel, Field

from lienzo.errors import BusyError
from lienzo.provenance.judging import judge
from lienzo.server import metrics
from lienzo.server.access import Caller
from lienzo.server.desk import Allowed, At, Desk, Route
from lienzo.server.looking import finding

PATIENCE = 30.0
"""Seconds that a picture waits for its turn to be looked at: each takes a processor and much memory."""

router = APIRouter(prefix="/v1", tags=["verification"], route_class=Route)
Anyone = Annotated[Caller, Depends(Allowed("verify"))]
_room, _turn = threading.Semaphore(8), threading.Semaphore(2)  # few wait, so that others' requests find a thread


class VerdictLayer(BaseModel):
    name: str
    state: str = Field(description="holds, fails, absent or unknown.")
    says: str


class VerdictDocument(BaseModel):
    """What a picture's marks prove."""

    outcome: str = Field(description="proved, not proved or tampered.")
    says: str
    record: str | None = Field(description="Which record its marks lead to.")
    layers: list[VerdictLayer]
    receipt: dict[str, Any] | None


class FindingDocument(BaseModel):
    """What a picture's pixels look like to the model's VAE: a hint, no proof."""

    verdict: str = Field(description="ours, not ours or inconclusive.")
    means: str
    likelihood_ratio: float | None
    model: str


class _Turn:
    """One of few."""

    def __enter__(self) -> None:
        busy = BusyError("Many pictures are being looked at. Try again later.", 5.0)
        if not _room.acquire(blocking=False):
            raise busy
        if not _turn.acquire(timeout=PATIENCE):
            _room.release()
            raise busy

    def __exit__(self, *_: object) -> None:
        _turn.release()
        _room.release()


@router.post("/verify")
def verify_picture(at: At, caller: Anyone, picture: UploadFile) -> VerdictDocument:
    """What a PNG, JPEG or WebP proves, layer by layer; see docs/howto/verify.md."""
    return verified(at, caller, picture.file.read())


@router.post("/detect")
def detect_picture(at: At, caller: Anyone, picture: UploadFile) -> FindingDocument:
    """Whether a picture looks like one of the default model's; see docs/howto/detect.md."""
    return detected(at, caller, picture.file.read())


def verified(at: Desk, caller: Caller, data: bytes) -> VerdictDocument:
    """
    Raises:
        InputError: no picture, a damaged or a hostile one.
        BusyError: too many are being looked at.
    """
    with _Turn():
        verdict = judge(data)
    at.gate.audit.record(caller, "verify", _target(data), outcome=verdict.outcome)
    metrics.VERDICTS.labels("verify", verdict.outcome).inc()
    return VerdictDocument.model_validate(verdict.document)


def detected(at: Desk, caller: Caller, data: bytes) -> FindingDocument:
    """
    Raises:
        ImageError: no picture, a damaged one, or one too small to look at.
        BusyError: too many are being looked at.
    """
    name, source = next(iter(at.service.sources.items()))
    with _Turn():
        found = FindingDocument(**finding(data, source), model=name)
    at.gate.audit.record(caller, "detect", _target(data), outcome=found.verdict)
    metrics.VERDICTS.labels("detect", found.verdict).inc()
    return found


def _target(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"
