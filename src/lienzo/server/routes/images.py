"""/v1/images: finished pictures and their receipts."""

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Response

from lienzo.errors import RecordError
from lienzo.server.access import Caller
from lienzo.server.desk import Allowed, At, Desk, Route
from lienzo.server.jobs import Job

router = APIRouter(prefix="/v1/images", tags=["pictures"], route_class=Route)
Reader = Annotated[Caller, Depends(Allowed("images:read"))]


def finished(at: Desk, caller: Caller, id: str) -> Job:
    """
    Raises:
        RecordError: no such job of the caller's, or one that has no picture.
    """
    job = at.queue.get(id, caller.tenant)
    if job.picture is None:
        raise RecordError(f"This job has no picture: it is {job.state}.")
    return job


@router.get("/{id}", response_class=Response, responses={200: {"content": {"image/png": {}}}})
def picture(at: At, caller: Reader, id: str) -> Response:
    """The picture of a job, a PNG with its Content Credentials."""
    job = finished(at, caller, id)
    assert job.picture is not None
    headers = {
        "Content-Disposition": f'inline; filename="lienzo-{job.id}.png"',
        "Cache-Control": "private, max-age=3600",
    }
    return Response(at.pictures.read(job.picture), media_type="image/png", headers=headers)


@router.get("/{id}/receipt")
def receipt(at: At, caller: Reader, id: str) -> dict[str, Any]:
    """Its signed receipt, and the proof that it is in the log."""
    found = finished(at, caller, id).receipt
    assert found is not None
    return found
