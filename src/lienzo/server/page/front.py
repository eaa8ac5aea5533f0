"""How the page reaches a browser: only the paths that it needs, only to whom it may, in the browser's language, under a strict
policy, and naming no other host."""

import json
import os
import re
import secrets
import tempfile
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from importlib.resources import files
from typing import Any, Final

import gradio as gr
from anyio import to_thread
from fastapi import FastAPI
from fastapi import Request as HttpRequest
from fastapi.responses import RedirectResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from lienzo.errors import LienzoError, RequestError
from lienzo.server.access import Permission
from lienzo.server.desk import Desk, address
from lienzo.server.page import login
from lienzo.server.page.layout import build, theme
from lienzo.server.page.texts import LANGUAGES, language
from lienzo.server.problems import status_of

OWN: Final[Mapping[str, str]] = {"page.css": "text/css", "page.js": "text/javascript"}
"""Files of ours. Gradio would rewrite a style sheet that it is given, and lose parts of it."""
OPEN: Final = ("/theme.css", "/favicon.ico", "/assets/{path:path}", "/static/{path:path}")
"""What is the same for everybody."""
GUARDED: Final[Mapping[str, str]] = {
    "/": "GET",
    "/config": "GET",
    "/gradio_api/app_id": "GET",
    "/gradio_api/component_server": "POST",
    "/gradio_api/cancel": "POST",
    "/gradio_api/file={path:path}": "GET",
    "/gradio_api/heartbeat/{session}": "GET",
    "/gradio_api/queue/data": "GET",
    "/gradio_api/queue/join": "POST",
    "/gradio_api/reset": "POST",
    "/gradio_api/startup-events": "GET",
    "/gradio_api/upload": "POST",
    "/gradio_api/upload_progress": "GET",
}
"""What the page needs of Gradio's API. Nothing else of it can be reached: no proxy, no monitoring, no documentation."""
PERMISSION: Final[Permission] = "jobs:create"
"""Of whoever opens the page."""
POLICY: Final = (
    "default-src 'none'; "
    # Only scripts that come with the page; eval, as Gradio's HTML component and its drawing (PixiJS) compile what they show
    "script-src 'self' 'nonce-{nonce}' 'unsafe-eval'; "
    "style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; font-src 'self' data:; connect-src 'self'; "
    "worker-src 'self' blob:; form-action 'self'; base-uri 'self'; frame-ancestors 'none'"
)
_OUTSIDE = re.compile(r'\s*<(?:meta\s+(?:property|name)="(?:og|twitter):|link rel="manifest")[^>]*>')


class Front:
    """Stands before Gradio's applications, one a language."""

    def __init__(self, desk: Desk, pages: Mapping[str, ASGIApp]) -> None:
        self._desk, self._pages = desk, pages

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = HttpRequest(scope, receive)
        code = language(request.headers.get("accept-language"))
        try:
            admit = self._desk.gate.admit
            where = address(request)
            await to_thread.run_sync(partial(admit, request.headers, request.cookies, PERMISSION, address=where))
        except LienzoError as error:
            if scope["path"] != "/" or status_of(error) not in (401, 403):
                raise
            await RedirectResponse("/login", 303)(scope, receive, send)
            return
        page = self._pages[code]
        if scope["path"] == "/":
            await (await _document(page, request, code))(scope, receive, send)
        elif scope["path"] == "/gradio_api/queue/join":
            body = await request.body()
            _check_files(body)
            await page(scope, _once(body, receive), send)
        else:
            await page(scope, receive, send)


def mount(app: FastAPI, desk: Desk) -> None:
    """Put the page into the application, at "/"; it is built when the application starts."""
    pages: dict[str, FastAPI] = {}
    for name, media_type in OWN.items():
        content = (files("lienzo.server.page") / name).read_text(encoding="utf-8")
        app.router.routes.append(Route(f"/{name}", _file(content, media_type), methods=["GET"]))
    app.router.routes.extend(Route(path, _Anybody(pages), methods=["GET"]) for path in OPEN)
    app.router.routes.extend(Route(path, Front(desk, pages), methods=[method]) for path, method in GUARDED.items())
    if desk.service.auth:
        app.include_router(login.router)
    outer = app.router.lifespan_context

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[Any]:
        async with AsyncExitStack() as stack:
            # What browsers send lies in a folder of this process alone; Gradio's own is every program's, and known by name.
            os.environ["GRADIO_TEMP_DIR"] = stack.enter_context(tempfile.TemporaryDirectory(prefix="lienzo-page-"))
            state = await stack.enter_async_context(outer(app))
            for code, texts in LANGUAGES.items():
                pages[code] = page = _alone(build(desk, texts), desk)
                await stack.enter_async_context(page.router.lifespan_context(page))
            yield state

    app.router.lifespan_context = lifespan


def _alone(page: gr.Blocks, desk: Desk) -> FastAPI:
    """Gradio's application of a page, by itself."""
    alone: FastAPI = gr.mount_gradio_app(
        FastAPI(), page, path="/", theme=theme(), footer_links=[], run_history=False, mcp_server=False,
        ssr_mode=False, pwa=False, enable_monitoring=False, show_error=False, max_file_size=desk.service.max_upload,
    )  # fmt: skip
    return alone


class _Anybody:
    """What needs no one to be let in, from either page."""

    def __init__(self, pages: Mapping[str, ASGIApp]) -> None:
        self._pages = pages

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await next(iter(self._pages.values()))(scope, receive, send)


def _file(content: str, media_type: str) -> Callable[[HttpRequest], Response]:
    def file(request: HttpRequest) -> Response:
        return Response(content, media_type=media_type, headers={"Cache-Control": "no-cache"})

    return file


def _check_files(body: bytes) -> None:
    """Files are those that were sent; Gradio would fetch one that is named by a URL."""
    try:
        waiting: list[Any] = [json.loads(body)]
    except (ValueError, RecursionError):
        raise RequestError("The request cannot be read: it is no JSON.") from None
    while waiting:
        one = waiting.pop()
        if isinstance(one, dict):
            if re.match(r"\w+:", str(one.get("path", ""))):
                raise RequestError("A picture by its address: got one; nothing is fetched here. Send the picture.")
            waiting.extend(one.values())
        elif isinstance(one, list):
            waiting.extend(one)


def _once(body: bytes, receive: Receive) -> Receive:
    """What was read already, then what comes."""
    pending = [body]

    async def again() -> Message:
        return {"type": "http.request", "body": pending.pop()} if pending else await receive()

    return again


async def _document(page: ASGIApp, request: HttpRequest, code: str) -> Response:
    """Gradio's HTML, in the page's language, with a nonce on its own scripts and without the hosts that it names."""
    kept: list[Message] = []

    async def keep(message: Message) -> None:
        kept.append(message)

    plain = [(name, value) for name, value in request.headers.raw if name != b"accept-encoding"]
    await page({**request.scope, "headers": plain}, request.receive, keep)
    nonce = secrets.token_urlsafe(16)
    html = b"".join(message.get("body", b"") for message in kept).decode()
    html = _OUTSIDE.sub("", html).replace('lang="en"', f'lang="{code}"', 1)
    html = html.replace("<script", f'<script nonce="{nonce}"')
    html = html.replace(
        "</head>", '<link rel="stylesheet" href="/page.css"><script src="/page.js" defer></script></head>', 1
    )
    return Response(
        html,
        _status(kept),
        {"Content-Security-Policy": POLICY.format(nonce=nonce), "Cache-Control": "no-store", "Vary": "Accept-Language"},
        "text/html",
    )


def _status(messages: Sequence[Message]) -> int:
    return next(int(message["status"]) for message in messages if message["type"] == "http.response.start")
