"""The application: routes, errors as problem documents, limits and headers."""

import logging
import re
import time
import traceback
from collections import Counter
from collections.abc import AsyncIterator, Callable, Collection
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlsplit

import anyio
from fastapi import FastAPI
from fastapi import Request as HttpRequest
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from lienzo.errors import BusyError, ConfigError, LienzoError, MissingExtraError, RequestError
from lienzo.provenance.settings import Settings
from lienzo.server import metrics, tracing
from lienzo.server.desk import Desk
from lienzo.server.gate import Gate
from lienzo.server.jobs import Queue
from lienzo.server.keepers import Keeper
from lienzo.server.limits import network
from lienzo.server.pictures import Pictures
from lienzo.server.problems import MEDIA_TYPE, PROBLEM, kind, problem, problem_of
from lienzo.server.routes import a1111, images, jobs, models, openai, operate, verify
from lienzo.server.settings import Service, is_loopback
from lienzo.weights import check_device, open_model
from lienzo.weights.adapters import inspect_adapter

LOG = logging.getLogger("lienzo.server")
HEADERS = {
    b"x-content-type-options": b"nosniff",
    b"referrer-policy": b"no-referrer",
    b"x-frame-options": b"DENY",
    b"cross-origin-resource-policy": b"same-origin",
    b"content-security-policy": b"default-src 'none'; frame-ancestors 'none'",
}
MOST, MOST_EACH = 500, 100
"""Requests that are answered at once, streams among them: in all, and of one address that is not this machine's."""
PATIENCE, SLOWEST = 30.0, 10_000
"""Seconds that a request may take to arrive, and bytes a second that earn it more of them."""
OWN_SITE = ("same-origin", "none")
LOOPBACK = ("localhost", "127.0.0.1", "[::1]")
REF = "#/components/schemas/"
DESCRIPTION = """Pictures from words, the same ones every time, each of which can prove where it comes from.

Ask with `POST /v1/jobs`, look at the job, fetch `/v1/images/{id}`. Errors are problem documents (RFC 9457).
"""


def create_app(service: Service) -> FastAPI:
    """The service's application; its workers start with it and are drained with it."""
    queue = Queue(service.database_place, service.limits, on_end=metrics.ended)
    pictures = Pictures(service, queue.database)
    desk = Desk(
        service=service,
        queue=queue,
        pictures=pictures,
        keeper=Keeper(service, queue, pictures),
        gate=Gate.of(service, queue.database),
    )

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        desk.keeper.start()
        yield
        desk.keeper.drain()
        desk.gate.close()
        queue.close()
        tracing.stop()

    app = FastAPI(
        title="lienzo", description=DESCRIPTION, version="1", lifespan=lifespan, docs_url=None, redoc_url=None
    )
    app.state.desk = desk
    for routes in (jobs, images, models, verify, openai, a1111, operate):
        app.include_router(routes.router)
    app.add_exception_handler(LienzoError, _told)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _http)
    app.add_middleware(Outside, most=service.max_upload, hosts=None if service.auth else LOOPBACK)
    app.openapi = _described(app.openapi)  # type: ignore[method-assign]
    if service.page:
        _mount_page(app, desk)
    return app


def _mount_page(app: FastAPI, desk: Desk) -> None:
    try:
        from lienzo.server.page.front import mount
    except ModuleNotFoundError as error:
        raise MissingExtraError(
            f'The page needs {error.name}: run pip install "lienzo[server]", or set page = false in [service] of config.toml.'
        ) from None
    mount(app, desk)


def _answer(document: dict[str, Any], **headers: str) -> JSONResponse:
    return JSONResponse(document, status_code=document["status"], media_type=MEDIA_TYPE, headers=headers)


async def _told(request: HttpRequest, error: Exception) -> JSONResponse:
    metrics.REFUSED.labels(kind(error)).inc()
    document = problem_of(error)
    if document["status"] >= 500:
        LOG.error("%s %r: %s", request.method, request.url.path, error)
    retry = {"Retry-After": str(max(1, round(error.retry_after)))} if isinstance(error, BusyError) else {}
    if document["status"] == 503:
        retry = {"Retry-After": "5"}
    if document["status"] == 401:
        retry = {"WWW-Authenticate": "Bearer"}
    return _answer(document, **retry)


async def _invalid(request: HttpRequest, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    metrics.REFUSED.labels("request").inc()
    found = [
        {"where": ".".join(map(str, one["loc"])), "detail": str(one["msg"])} for one in error.errors()
    ]  # without what was got: that may be a prompt
    return _answer(
        problem(422, "; ".join(f"{one['where']}: {one['detail']}" for one in found), kind="request", errors=found)
    )


async def _http(request: HttpRequest, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    metrics.REFUSED.labels(f"http-{error.status_code}").inc()
    return _answer(problem(error.status_code, str(error.detail)), **(dict(error.headers or {})))


def _described(openapi: Callable[[], dict[str, Any]]) -> Callable[[], dict[str, Any]]:
    """The OpenAPI, with the schemas that FastAPI does not know and problem documents for all that goes wrong."""

    def described() -> dict[str, Any]:
        schema = openapi()
        schema["components"]["schemas"].update(jobs.schemas(), Problem=PROBLEM)
        told = {"description": "A problem document.", "content": {MEDIA_TYPE: {"schema": {"$ref": REF + "Problem"}}}}
        for path in schema["paths"].values():
            for operation in path.values():
                operation["responses"] = {"default": told, **operation["responses"]}
                operation["responses"].pop("422", None)
        return schema

    return described


class TooLargeError(HTTPException):
    """A body larger than is allowed."""


class Outside:
    """Around the application: bounds what comes in and how long that takes, adds headers to what goes out, measures; answers where
    the application failed. Starlette would answer outside of this, and raise again, for the server to log the error's words.

    Args:
        most: bytes of a request's body.
        hosts: names that callers may know it by; None: any. Where nobody has to say who they are, a page of another site could
            else have its own name lead here (DNS rebinding), and ask in the name of whoever looks at it.
    """

    def __init__(self, app: ASGIApp, most: int, hosts: Collection[str] | None = None) -> None:
        self._app, self._most, self._hosts = app, most, hosts
        self._answering: Counter[str] = Counter()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        given = next((value for name, value in scope["headers"] if name == tracing.HEADER.encode()), None)
        method = metrics.known_method(scope["method"])
        with tracing.request(method, None if given is None else given.decode("latin-1")) as told:
            await self._serve(scope, receive, send, told)

    async def _serve(self, scope: Scope, receive: Receive, send: Send, told: tracing.Answered) -> None:
        begun, got, is_whole = time.perf_counter(), 0, False
        reads: float | None = None  # since when

        async def counted() -> Message:
            nonlocal got, is_whole, reads
            reads = time.perf_counter() if reads is None else reads
            left = reads + PATIENCE + got / SLOWEST - time.perf_counter()
            try:
                with anyio.fail_after(None if is_whole else max(0.0, left)):
                    message = await receive()
            except TimeoutError:
                raise HTTPException(408, f"The request came too slowly: send {SLOWEST:,} bytes a second.") from None
            got += len(message.get("body", b""))
            is_whole = not message.get("more_body", False)
            if got > self._most:
                raise TooLargeError(413, f"The request is larger than {self._most:,} bytes, which is the most here.")
            return message

        async def answered(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], *_missing(message["headers"])]
                told.route, told.status = getattr(scope.get("route"), "path", None), message["status"]
                metrics.http(told.route, scope["method"], message["status"], time.perf_counter() - begun)
            await send(message)

        who = network(scope["client"][0]) if scope.get("client") else ""
        self._answering[who] += 1
        try:
            if scope["path"] != "/healthz" and (crowd := self._too_many(who)):
                await _answer(crowd, **{"Retry-After": "5"})(scope, counted, answered)
            elif refusal := self._refusal(scope):
                await _answer(refusal)(scope, counted, answered)
            else:
                await self._app(scope, counted, answered)
        except Exception as error:
            # Without the error's own words, which may hold a prompt.
            trace = "".join(traceback.format_tb(error.__traceback__))
            LOG.error("%s %r: %s\n%s", scope["method"], scope["path"], type(error).__name__, trace)
            if told.status is not None:
                raise ConnectionAbortedError("an answer that had begun") from None
            await _answer(problem_of(error))(scope, receive, answered)
        finally:
            self._answering[who] -= 1
            if not self._answering[who]:
                del self._answering[who]

    def _too_many(self, who: str) -> dict[str, Any] | None:
        if self._answering.total() > MOST:
            return problem(503, f"{MOST} requests are being answered, and no more may. Try again later.", kind="busy")
        if self._answering[who] > MOST_EACH and not is_loopback(who):  # there are proxies and many callers behind it
            return problem(
                429, f"{MOST_EACH} requests of your address are being answered. Try again later.", kind="busy"
            )
        return None

    def _refusal(self, scope: Scope) -> dict[str, Any] | None:
        """Who is led here by another site's name, or asks on behalf of another site's page, which may not act for a user's browser:
        browsers say so of themselves, and a page cannot keep them from it."""
        headers = Headers(scope=scope)
        host = headers.get("host", "")
        if self._hosts is not None and re.sub(r":\d+$", "", host) not in self._hosts:
            return problem(421, "Without authentication this service answers to localhost alone.")
        if scope["method"] in ("GET", "HEAD", "OPTIONS"):
            return None
        site, origin = headers.get("sec-fetch-site"), headers.get("origin")
        foreign = origin is not None and urlsplit(origin).netloc != host if site is None else site not in OWN_SITE
        return problem(403, "Another site's page asks for this.", kind="forbidden") if foreign else None


def _missing(headers: list[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    given = {name.lower() for name, _ in headers}
    return [(name, value) for name, value in HEADERS.items() if name not in given]


def check(service: Service) -> None:
    """Whether there is something to serve, and whether it would be marked.

    Raises:
        ConfigError: marks are switched off, a LoRA that is none, or a device that is not there.
        WeightsError: a model or adapter that is not there, or damaged.
    """
    try:
        check_device(service.device)
    except RequestError as error:  # of config.toml, not of a request
        raise ConfigError(str(error)) from None
    for source in service.sources.values():
        open_model(source)
    for name, source in service.lora_sources.items():
        if inspect_adapter(source) is None:
            raise ConfigError(f"loras: got {name}={source}, which is no adapter. Name a LoRA's file or folder.")
    if Settings.read().mark == "off":
        raise ConfigError("mark: got 'off'; the service serves marked pictures alone. Set it to credentials or full.")
