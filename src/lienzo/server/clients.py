"""What the routes for other programs' clients share: they wait for their pictures, and know settings that lienzo does not have."""

import base64
import binascii
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from anyio import to_thread
from fastapi import Request as HttpRequest
from starlette.exceptions import HTTPException

from lienzo.errors import LienzoError, RequestError, nearest
from lienzo.pipeline.request import Request
from lienzo.rng import SEED_LIMIT, new_seed
from lienzo.server.access import Caller
from lienzo.server.desk import Desk
from lienzo.server.jobs import Job
from lienzo.server.problems import problem

GONE: Final = 499
"""The caller has closed the connection; nobody reads the answer."""

MOST_COMPLAINTS: Final = 10

Harmless = tuple[tuple[object, ...], str]
"""Values of a foreign setting that ask for nothing that lienzo does not do anyway, and what to do instead of the others."""


def complaints(given: Mapping[str, Any], harmless: Mapping[str, Harmless], known: Sequence[str]) -> list[str]:
    """What of foreign settings cannot be honoured, as sentences. None is always harmless; forms have their values as text.

    Args:
        known: names of settings that do something here, for hints.
    """
    found: list[str] = []
    for name, value in given.items():
        if value is None:
            continue
        if len(found) == MOST_COMPLAINTS:
            return [*found, "And more."]
        if name not in harmless:
            found.append(f"{name[:50]}: there is no such setting here. {nearest(name[:50], known)}")
            continue
        values, instead = harmless[name]
        if value not in values and str(value).casefold() not in {str(one).casefold() for one in values}:
            allowed = ", ".join(repr(one) for one in values) or "to leave it out"
            found.append(f"{name}: got {str(value)[:50]!r}. Allowed: {allowed}. {instead}")
    return found


def series(request: Request, n: int) -> list[Request]:
    """The request n times, each with the next seed."""
    return [request.replace(seed=request.seed + i) for i in range(n)]


def first_seed(n: int) -> int:
    """A random seed that n - 1 others may follow."""
    return min(new_seed(), SEED_LIMIT - n)


def submit(desk: Desk, caller: Caller, requests: Sequence[Request], **how: Any) -> list[Job]:
    """All or none into the queue; see `Desk.submit`. Whoever asks here gets the pictures too.

    Raises:
        ForbiddenError: a caller who may see no pictures.
        BusyError: one who waits for as many as one may, or whose quota does not leave so many.
    """
    caller.require("images:read")
    desk.keeper.changes.check_room(caller.identity)
    desk.gate.check(caller, len(requests))
    jobs: list[Job] = []
    try:
        for request in requests:
            jobs.append(desk.submit(request, caller, **how)[0])
    except LienzoError:
        cancel(desk, jobs)
        raise
    return jobs


def cancel(desk: Desk, jobs: Sequence[Job]) -> None:
    for job in jobs:
        desk.queue.cancel(job.id)


async def ended(
    desk: Desk,
    http: HttpRequest,
    caller: Caller,
    jobs: Sequence[Job],
    *,
    enough: Callable[[Job], bool] = lambda job: job.state == "done",
) -> list[Job]:
    """Wait for jobs; the event loop stays free. Where the caller goes away, or one turns out not to be `enough`, the rest
    is cancelled.

    Returns:
        Those that have ended: all, or up to the first that was not enough.

    Raises:
        HTTPException: the caller has gone, or the service stops before a job was begun.
    """
    known = []
    for i, job in enumerate(jobs):
        with desk.keeper.changes.watching(job.id, caller.identity) as changed:
            while job.is_open:
                if await http.is_disconnected():
                    await to_thread.run_sync(cancel, desk, jobs[i:])
                    raise HTTPException(GONE, "The caller has gone; what it waited for is cancelled.")
                if job.state == "queued" and desk.keeper.stopping.is_set():
                    await to_thread.run_sync(cancel, desk, jobs[i:])
                    raise HTTPException(503, "The service is being restarted. Ask again.", {"Retry-After": "5"})
                await changed()
                job = await to_thread.run_sync(desk.queue.get, job.id)
        known.append(job)
        if not enough(job):
            await to_thread.run_sync(cancel, desk, jobs[i + 1 :])
            break
    return known


def undone(job: Job) -> dict[str, Any]:
    """The problem document of a job that has ended without a picture."""
    if job.problem is not None:
        return {**problem(500, ""), **job.problem}
    return problem(409, f"The job {job.id} is {job.state}; there is no picture. Ask anew.", kind=job.state)


def decoded(text: str, name: str) -> bytes:
    """A picture's file from base64, bare or as a data URL.

    Raises:
        RequestError: it is no base64. Other URLs are not fetched.
    """
    if text.startswith("data:"):
        text = text.partition(",")[2]
    try:
        return base64.b64decode("".join(text.split()), validate=True)
    except (binascii.Error, ValueError):
        raise RequestError(
            f"{name}: got text that is not base64. Send a picture's file in base64; URLs are not fetched."
        ) from None
