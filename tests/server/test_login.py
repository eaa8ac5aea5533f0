"""The page's login: a key in a cookie that only the service reads."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from lienzo.server.access import COOKIE
from lienzo.server.app import create_app
from lienzo.server.keepers import Keeper
from lienzo.server.settings import Service


@pytest.fixture
def service(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[TestClient, str]]:
    """A client over TLS that nobody knows yet, and a key."""
    monkeypatch.setenv("LIENZO_HOME", str(tmp_path))
    monkeypatch.setattr(Keeper, "start", lambda self: None)  # no workers: no picture is made here
    monkeypatch.setattr(Keeper, "drain", lambda self: None)
    app = create_app(Service())
    key = app.state.desk.gate.first_key()
    with TestClient(app, base_url="https://lienzo.test", follow_redirects=False) as client:
        yield client, key


def test_the_page_leads_to_login_and_a_key_leads_back(service: tuple[TestClient, str]) -> None:
    client, key = service
    asked = client.get("/")
    assert (asked.status_code, asked.headers["location"]) == (303, "/login")
    assert client.post("/gradio_api/queue/join", json={}).status_code == 401
    form = client.get("/login", headers={"Accept-Language": "es"})
    assert 'lang="es"' in form.text and "Clave de API" in form.text and "http" not in form.text
    assert "default-src 'none'" in form.headers["content-security-policy"]
    wrong = client.post("/login", data={"key": "lk_<b>wrong"})
    assert wrong.status_code == 401 and 'role="alert"' in wrong.text and "<b>" not in wrong.text
    assert "set-cookie" not in wrong.headers

    entered = client.post("/login", data={"key": f" {key} "})
    assert (entered.status_code, entered.headers["location"]) == (303, "/")
    flags = {part.strip().lower() for part in entered.headers["set-cookie"].split(";")}
    assert {f"{COOKIE.lower()}={key.lower()}", "httponly", "samesite=strict", "secure", "path=/"} <= flags
    page = client.get("/")
    assert page.status_code == 200 and key not in page.text and "/logout" in page.text

    left = client.post("/logout")
    assert (left.status_code, left.headers["location"]) == (303, "/login")
    assert client.get("/").status_code == 303


def test_over_plain_http_the_cookie_is_not_secure_so_that_it_comes_back(service: tuple[TestClient, str]) -> None:
    client, key = service
    entered = client.post("http://127.0.0.1/login", data={"key": key})
    assert "secure" not in entered.headers["set-cookie"].lower()
