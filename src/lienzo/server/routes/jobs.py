"""/v1/jobs: pictures are asked for, watched, and cancelled; /v1/inputs: pictures to start from."""

import base64
import json
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Annotated, Any, Final

from anyio import Event, to_thread
from fastapi import APIRouter, Depends, Header, Query, Response, UploadFile
from pydantic import BaseModel, Field
from sse_starlette import EventSourceResponse

from lienzo.errors import RecordError, RequestError
from lienzo.pipeline.request import InputImage
from lienzo.server.access import Caller
from lienzo.server.desk import Allowed, Asked, At, Body, Desk, Route
from lienzo.server.jobs import Job, State
from lienzo.server.watching import LOOK

MAX_WEIGHT: Final = 10
"""Of a LoRA, and as little below 0."""
EXAMPLE: Final = {"prompt": "a red circle left of a blue square", "steps": 20, "seed": 7}

router = APIRouter(prefix="/v1", tags=["pictures"], route_class=Route)
Creator = Annotated[Caller, Depends(Allowed("jobs:create"))]
Reader = Annotated[Caller, Depends(Allowed("jobs:read", "queue:manage"))]
Canceller = Annotated[Caller, Depends(Allowed("jobs:cancel", "queue:manage"))]


class JobDocument(BaseModel):
    """What is known of a job. Times are UTC."""

    id: str
    state: State
    model: str
    loras: dict[str, float]
    priority: int
    created: datetime
    started: datetime | None
    finished: datetime | None
    deadline: datetime | None
    ahead: int | None = Field(description="Jobs that wait and were asked for earlier.")
    step: int
    steps: int
    sigma: float | None
    seconds_left: float | None
    image: str | None = Field(description="Where the picture is, once it is done.")
    receipt: str | None
    warnings: tuple[str, ...]
    problem: dict[str, Any] | None
    request: dict[str, Any] | None = Field(description="What was asked for, complete.")


class JobList(BaseModel):
    jobs: list[JobDocument]
    next: str | None = Field(description="Give as `before` to see earlier ones.")


def document(desk: Desk, job: Job, caller: Caller, *, with_request: bool = False) -> JobDocument:
    """As a caller sees it: of another tenant's job not what was asked for, nor what was said of that."""

    def at(seconds: float | None) -> datetime | None:
        return None if seconds is None else datetime.fromtimestamp(seconds, UTC)

    done, own = job.state == "done", _is_own(job, caller)
    return JobDocument(
        id=job.id,
        state=job.state,
        model=job.model,
        loras=dict(job.loras),
        priority=job.priority,
        created=datetime.fromtimestamp(job.created, UTC),
        started=at(job.started),
        finished=at(job.finished),
        deadline=at(job.deadline),
        ahead=desk.queue.ahead(job) if job.state == "queued" else None,
        step=job.step,
        steps=job.steps,
        sigma=job.sigma,
        seconds_left=job.seconds_left,
        image=f"/v1/images/{job.id}" if done and own else None,
        receipt=f"/v1/images/{job.id}/receipt" if done and own else None,
        warnings=job.warnings if own else (),
        problem=job.problem if own else None,
        request=json.loads(desk.queue.request(job).canonical) if own and with_request else None,
    )


def _is_own(job: Job, caller: Caller) -> bool:
    """Who looks after the queue alone sees not what was asked for, not even by their own tenant."""
    return job.tenant == caller.tenant and caller.may("jobs:read")


def parse_lora(text: str) -> tuple[str, float]:
    """NAME or NAME:WEIGHT."""
    name, colon, weight = text.rpartition(":")
    try:
        found = (name, float(weight)) if colon else (text, 1.0)
        if not abs(found[1]) <= MAX_WEIGHT:
            raise ValueError
    except ValueError:
        raise RequestError(
            f"lora: got {text[:100]!r}; give NAME or NAME:WEIGHT, a number from -{MAX_WEIGHT} to {MAX_WEIGHT}."
        ) from None
    return found


@router.post(
    "/jobs",
    status_code=202,
    openapi_extra={
        "requestBody": {
            "required": True,
            "content": {
                "application/json": {"schema": {"$ref": "#/components/schemas/Asked"}, "example": EXAMPLE},
            },
        }
    },
)
def create(
    at: At,
    caller: Creator,
    body: Body,
    response: Response,
    model: Annotated[str | None, Query(description="A name of /v1/models; the first one where not given.")] = None,
    lora: Annotated[list[str] | None, Query(description="NAME or NAME:WEIGHT of /v1/models.", max_length=10)] = None,
    priority: Annotated[int, Query(ge=-10, le=10, description="Among your own jobs; higher comes first.")] = 0,
    deadline: Annotated[
        float | None, Query(gt=0, le=604_800, description="Seconds from now after which nobody wants it any more.")
    ] = None,
    idempotency_key: Annotated[
        str | None, Header(min_length=1, max_length=200, description="The same again gives the same job.")
    ] = None,
) -> JobDocument:
    """Ask for a picture. It is kept before this answers; look at the job for how far it is."""
    job, is_new = at.submit(
        Asked.from_json(body),
        caller,
        model=model,
        loras=tuple(map(parse_lora, lora or ())),
        priority=priority,
        deadline=None if deadline is None else time.time() + deadline,
        idempotency=idempotency_key,
        body=repr((model, lora, priority, deadline)).encode() + body,
    )
    response.headers["Location"] = f"/v1/jobs/{job.id}"
    if not is_new:
        response.headers["Idempotent-Replayed"] = "true"
    return document(at, job, caller)


@router.get("/jobs")
def latest(
    at: At,
    caller: Reader,
    before: Annotated[str | None, Query(max_length=64)] = None,
    limit: Annotated[int, Query(ge=1, le=200)] = 50,
) -> JobList:
    """Your latest jobs first, without what was asked for."""
    jobs = at.queue.latest(at.whose(caller), before=before, limit=limit)
    return JobList(jobs=[document(at, job, caller) for job in jobs], next=jobs[-1].id if len(jobs) == limit else None)


@router.get("/jobs/{id}")
def get(at: At, caller: Reader, id: str) -> JobDocument:
    """A job, with what was asked for: send that again, and the same picture comes."""
    job = at.queue.get(id, at.whose(caller))
    return document(at, job, caller, with_request=True)


@router.delete("/jobs/{id}")
def cancel(at: At, caller: Canceller, id: str) -> JobDocument:
    """Cancel a job, within one step where it is running already. One that has ended stays as it is."""
    job = at.queue.get(id, at.whose(caller))
    if job.is_open and job.tenant != caller.tenant:
        at.gate.audit.record(caller, "jobs.cancel", f"job:{id}")
    return document(at, at.queue.cancel(id), caller)


@router.get("/jobs/{id}/events", response_class=EventSourceResponse)
async def events(at: At, caller: Reader, id: str) -> EventSourceResponse:
    """Server-sent events: `progress` with the job as JSON at each change, `preview` with a small PNG in base64, `end` with the
    job when nothing more will change. Where it ends without `end`, the service is being restarted: ask again."""
    at.keeper.changes.check_room(caller.identity)
    first = await to_thread.run_sync(at.queue.get, id, at.whose(caller))
    watched = _watched(at, first, caller)
    return EventSourceResponse(watched, ping=15, shutdown_event=Event(), shutdown_grace_period=2 * LOOK)


async def _watched(at: Desk, job: Job, caller: Caller) -> AsyncIterator[dict[str, str]]:
    told: str | None = None
    preview: bytes | None = None
    with at.keeper.changes.watching(job.id, caller.identity) as changed:
        while not at.keeper.stopping.is_set():
            try:
                job = await to_thread.run_sync(at.queue.get, job.id)
            except RecordError:  # removed meanwhile
                return
            known = (await to_thread.run_sync(document, at, job, caller)).model_dump_json()
            if not job.is_open:
                yield {"event": "end", "data": known}
                return
            if known != told:
                told = known
                yield {"event": "progress", "data": known}
            if _is_own(job, caller) and job.preview is not None and job.preview != preview:
                preview = job.preview
                yield {"event": "preview", "data": base64.b64encode(preview).decode()}
            await changed()


@router.post("/inputs", status_code=201)
def add_input(at: At, caller: Creator, picture: UploadFile) -> InputImage:
    """Send a picture to start from, or a mask; name what this answers as `init` or `mask` of a job."""
    return at.pictures.add_input(caller.tenant, picture.file.read())


def schemas() -> dict[str, Any]:
    """Of what is read here without FastAPI's help."""
    schema = Asked.model_json_schema(ref_template="#/components/schemas/{model}")
    return {**schema.pop("$defs", {}), "Asked": schema}
