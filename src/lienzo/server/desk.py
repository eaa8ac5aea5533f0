"""What every route needs: the settings, the queue, the pictures, and who calls."""

from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from functools import partial
from typing import Annotated, Any, Final

from anyio import to_thread
from fastapi import Depends
from fastapi import Request as HttpRequest
from fastapi.responses import Response
from fastapi.routing import APIRoute

from lienzo.errors import RequestError, nearest
from lienzo.pipeline.request import InputImage, Request
from lienzo.server import tracing
from lienzo.server.access import Caller, Permission
from lienzo.server.gate import Gate
from lienzo.server.jobs import Job, Queue
from lienzo.server.keepers import Keeper
from lienzo.server.pictures import Pictures
from lienzo.server.settings import Service

FORM: Final = "application/x-www-form-urlencoded"


class Asked(Request):
    """A request as it comes over the wire: input pictures by their digest. Text is never taken for a file's name."""

    init: InputImage | None = None
    mask: InputImage | None = None


@dataclass(frozen=True, kw_only=True)
class Desk:
    """Where requests arrive."""

    service: Service
    queue: Queue
    pictures: Pictures
    keeper: Keeper
    gate: Gate = field(repr=False)

    def submit(
        self,
        asked: Request,
        caller: Caller,
        *,
        model: str | None = None,
        loras: tuple[tuple[str, float], ...] = (),
        priority: int = 0,
        deadline: float | None = None,
        idempotency: str | None = None,
        body: bytes = b"",
    ) -> tuple[Job, bool]:
        """Check what is asked for and put it into the queue; see `Queue.put`.

        Raises:
            RequestError: more than is allowed here, or something that is not there.
            BusyError: the queue is full, or the quota spent.
        """
        name = next(iter(self.service.sources)) if model is None else model
        if name not in self.service.sources:
            raise RequestError(f"model: got {name[:100]!r}. {nearest(name, self.service.sources)}")
        for lora, _ in loras:
            if lora not in self.service.lora_sources:
                raise RequestError(f"lora: got {lora[:100]!r}. {nearest(lora, self.service.lora_sources)}")
        self.service.check(asked)
        request = self.pictures.filled(asked, caller.tenant)
        put = self.queue.put(
            request,
            tenant=caller.tenant,
            owner=caller.name,
            model=name,
            loras=loras,
            priority=priority,
            deadline=deadline,
            idempotency=idempotency,
            body=body,
            trace=tracing.current(),
            check=lambda: self.gate.check(caller, 1),
            charge=lambda connection: self.gate.charge(connection, caller),
        )
        self.keeper.wake()
        return put

    def whose(self, caller: Caller) -> str | None:
        """Whose jobs a caller may see and cancel; None: everybody's. What was asked for and its picture stay the tenant's own."""
        return None if caller.may("queue:manage") else caller.tenant


def desk(request: HttpRequest) -> Desk:
    found: Desk = request.app.state.desk
    return found


def address(request: HttpRequest) -> str | None:
    """Where a request comes from."""
    return None if request.client is None else request.client.host


At = Annotated[Desk, Depends(desk)]


class Allowed:
    """A dependency: the caller, who has one of the permissions. `Route` has seen to that."""

    def __init__(self, *permissions: Permission) -> None:
        self.permissions = permissions

    def __call__(self, request: HttpRequest) -> Caller:
        caller: Caller = request.state.caller
        return caller


class Route(APIRoute):
    """Lets in who may, before anything of the body is read: FastAPI would first read all of it. JSON that is sent as a form, as
    curl does unless told, is taken for JSON; no route takes such forms."""

    def get_route_handler(self) -> Callable[[HttpRequest], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()
        asked = [one.call for one in self.dependant.dependencies if isinstance(one.call, Allowed)]

        async def admitted(http: HttpRequest) -> Response:
            for one in asked:
                admit = partial(
                    desk(http).gate.admit, http.headers, http.cookies, *one.permissions, address=address(http)
                )
                http.state.caller = await to_thread.run_sync(admit)
            if http.headers.get("content-type", "").startswith(FORM):
                kept = [header for header in http.scope["headers"] if header[0] != b"content-type"]
                http = HttpRequest(
                    {**http.scope, "headers": [*kept, (b"content-type", b"application/json")]}, http.receive
                )
            return await handle(http)

        return admitted


async def body(request: HttpRequest) -> bytes:
    return await request.body()


Body = Annotated[bytes, Depends(body)]
