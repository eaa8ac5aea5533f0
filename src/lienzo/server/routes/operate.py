"""Whether the service lives and can work, and its metrics."""

from typing import Annotated

from fastapi import APIRouter, Depends, Response

from lienzo.errors import LienzoError
from lienzo.server import metrics
from lienzo.server.access import Caller
from lienzo.server.desk import Allowed, At, Route

router = APIRouter(tags=["operation"], route_class=Route)


@router.get("/healthz")
async def healthz() -> dict[str, str]:
    """Whether it lives."""
    return {"status": "ok"}


@router.get("/readyz", responses={503: {"description": "It cannot work just now."}})
def readyz(at: At, response: Response) -> dict[str, str]:
    """Whether it can work: its database answers, and a worker runs."""
    found = {"database": "ok", "workers": "ok" if at.keeper.alive else "none runs"}
    try:
        at.queue.check()
    except LienzoError:
        found["database"] = "does not answer"
    if set(found.values()) != {"ok"}:
        response.status_code = 503
    return found


@router.get("/metrics", response_class=Response, responses={200: {"content": {"text/plain": {}}}})
def measured(at: At, caller: Annotated[Caller, Depends(Allowed("metrics:read"))]) -> Response:
    """For Prometheus."""
    now = metrics.Now(at.queue, lambda: at.keeper.alive)
    return Response(metrics.text(now), media_type=metrics.CONTENT_TYPE)
