"""A page that takes an API key and keeps it in a cookie; plain HTML, so that it works before anything else does."""

from functools import partial
from html import escape
from typing import Final
from urllib.parse import parse_qs

from anyio import to_thread
from fastapi import APIRouter
from fastapi import Request as HttpRequest
from fastapi.responses import HTMLResponse, RedirectResponse, Response
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException

from lienzo.errors import LienzoError
from lienzo.server.access import COOKIE, MAX_TOKEN
from lienzo.server.desk import At, address
from lienzo.server.page.texts import LANGUAGES, Texts, language
from lienzo.server.problems import status_of

POLICY: Final = (
    "default-src 'none'; style-src 'unsafe-inline'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
STYLE: Final = """:root{color-scheme:light dark}body{font:1rem/1.5 system-ui,sans-serif;max-width:24rem;margin:15vh auto;padding:0 1rem}
input,button{font:inherit;padding:.5rem;width:100%;box-sizing:border-box;margin-top:.5rem}[role=alert]{color:#b91c1c}
@media(prefers-color-scheme:dark){[role=alert]{color:#fca5a5}}"""

router = APIRouter(include_in_schema=False)


@router.get("/login")
def ask(request: HttpRequest) -> Response:
    return _page(_texts(request))


@router.post("/login")
async def enter(request: HttpRequest, at: At) -> Response:
    """Keep a key that opens the page."""
    body = b""
    async for piece in request.stream():
        body += piece
        if len(body) > 2 * MAX_TOKEN:
            raise HTTPException(413, f"The form is larger than {2 * MAX_TOKEN:,} bytes, which no key needs.")
    (key,) = parse_qs(body.decode("utf-8", "replace")).get("key", [""])[:1]
    try:
        # The key alone decides, not who is logged in already.
        admit = partial(at.gate.admit, Headers({}), {COOKIE: key.strip()}, "jobs:create", address=address(request))
        await to_thread.run_sync(admit)
    except LienzoError as error:
        if status_of(error) not in (401, 403):
            raise
        return _page(_texts(request), status_of(error))
    answer = RedirectResponse("/", 303)
    answer.set_cookie(COOKIE, key.strip(), httponly=True, samesite="strict", secure=_is_https(request), path="/")
    return answer


@router.post("/logout")
def leave(request: HttpRequest) -> Response:
    answer = RedirectResponse("/login", 303)
    answer.delete_cookie(COOKIE, httponly=True, samesite="strict", secure=_is_https(request), path="/")
    return answer


def _is_https(request: HttpRequest) -> bool:
    """Whether the browser spoke TLS: to us, or to a proxy that says so. Who lies here only keeps a cookie from himself."""
    return request.url.scheme == "https" or request.headers.get("x-forwarded-proto", "").split(",")[0] == "https"


def _texts(request: HttpRequest) -> Texts:
    return LANGUAGES[language(request.headers.get("accept-language"))]


def _page(texts: Texts, status: int = 200) -> HTMLResponse:
    wrong = f'<p role="alert">{escape(texts.wrong_key)}</p>' if status != 200 else ""
    return HTMLResponse(
        f'<!doctype html><html lang="{texts.code}"><meta charset="utf-8">'
        f'<meta name="viewport" content="width=device-width"><title>{texts.title}: {texts.login}</title><style>{STYLE}</style>'
        f"<main><h1>{texts.title}</h1><p>{texts.login_lead}</p>{wrong}"
        f'<form method="post" action="/login"><label for="key">{texts.key}</label>'
        f'<input id="key" name="key" type="password" autocomplete="current-password" required autofocus>'
        f"<button>{texts.enter}</button></form></main></html>",
        status,
        {"Content-Security-Policy": POLICY, "Cache-Control": "no-store", "Vary": "Accept-Language"},
    )
