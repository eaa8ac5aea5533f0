"""The page's login: a key in a cookie that only the service reads."""

import asyncio
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from lienzo.errors import LienzoError
from lienzo.server import problems
from lienzo.server.app import create_app
from lienzo.server.gate import Caller, Gate
from lienzo.server.page.login import COOKIE
from lienzo.server.settings import Service

KEY = "lk_right"


class StrangerError(LienzoError):
    """Of this test's gate."""


@pytest.fixture
def client(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[TestClient]:
    def admit(self: Gate, headers: Mapping[str, str], cookies: Mapping[str, str], permission: str) -> Caller:
        if cookies.get(COOKIE) != KEY:
            raise StrangerError("who?")
        return Caller("key:1", "tenant")

    monkeypatch.setenv("LIENZO_HOME", str(tmp_path))
    monkeypatch.setattr(Gate, "admit", admit)
    monkeypatch.setattr(problems, "STATUS", {**problems.STATUS, StrangerError: 401})
    loop = asyncio.new_event_loop()  # Gradio takes the thread's, and makes one that nobody closes where there is none
    asyncio.set_event_loop(loop)
    # not entered: without its lifespan there are no workers, and none are needed here
    yield TestClient(create_app(Service()), base_url="https://lienzo.test", follow_redirects=False)
    asyncio.set_event_loop(None)
    loop.close()


def test_the_page_leads_to_login_and_a_key_leads_back(client: TestClient) -> None:
    asked = client.get("/")
    assert (asked.status_code, asked.headers["location"]) == (303, "/login")
    assert client.post("/gradio_api/queue/join", json={}).status_code == 401
    form = client.get("/login", headers={"Accept-Language": "es"})
    assert 'lang="es"' in form.text and "Clave de API" in form.text and "http" not in form.text
    assert "default-src 'none'" in form.headers["content-security-policy"]
    wrong = client.post("/login", data={"key": "lk_<b>wrong"})
    assert wrong.status_code == 401 and 'role="alert"' in wrong.text and "<b>" not in wrong.text
    assert "set-cookie" not in wrong.headers

    entered = client.post("/login", data={"key": f" {KEY} "})
    assert (entered.status_code, entered.headers["location"]) == (303, "/")
    flags = {part.strip().lower() for part in entered.headers["set-cookie"].split(";")}
    assert {f"{COOKIE}={KEY}", "httponly", "samesite=strict", "secure", "path=/"} <= flags
    page = client.get("/")
    assert page.status_code == 200 and KEY not in page.text and "/logout" in page.text

    left = client.post("/logout")
    assert (left.status_code, left.headers["location"]) == (303, "/login")
    assert client.get("/").status_code == 303


def test_over_plain_http_the_cookie_is_not_secure_so_that_it_comes_back(client: TestClient) -> None:
    entered = client.post("http://127.0.0.1/login", data={"key": KEY})
    assert "secure" not in entered.headers["set-cookie"].lower()
