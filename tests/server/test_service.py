"""From a request over HTTP to a picture that proves where it comes from."""

import asyncio
import base64
import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi import Request as HttpRequest
from PIL import Image
from starlette.exceptions import HTTPException
from starlette.types import Message, Receive, Scope

from lienzo.errors import ConfigError, ModelNotFoundError
from lienzo.server import app
from lienzo.server.app import Outside, check
from lienzo.server.settings import Service
from server.conftest import SMALL, Served


def events(text: str) -> list[tuple[str, str]]:
    blocks = [block for block in text.replace("\r", "").split("\n\n") if block and not block.startswith(":")]
    pairs = [dict(line.split(": ", 1) for line in block.split("\n")) for block in blocks]
    return [(pair["event"], pair["data"]) for pair in pairs]


def test_a_picture_and_its_receipt(served: Served, tmp_path: Path) -> None:
    job = served.ask("a red circle", seed=7)
    done = served.ended(job["id"])
    assert done["state"] == "done" and done["request"]["seed"] == 7 and done["problem"] is None
    with served.client as client:
        answer = client.get(done["image"])
        receipt = client.get(done["receipt"]).json()
    assert answer.headers["content-type"] == "image/png"
    assert Image.open(io.BytesIO(answer.content)).size == (64, 64)
    assert receipt["receipt"]["receipt"]["private"] is True
    path = tmp_path / "picture.png"
    path.write_bytes(answer.content)
    environment = {"LIENZO_HOME": str(served.home), "PATH": ""}
    verdict = subprocess.run(
        [sys.executable, "-m", "lienzo", "verify", str(path), "--json"],
        env=environment,
        capture_output=True,
        check=True,
    )
    assert json.loads(verdict.stdout)["outcome"] == "proved"


def test_events_tell_how_far_it_is(served: Served) -> None:
    job = served.ask(steps=12)
    with served.client as client:
        told = events(client.get(f"/v1/jobs/{job['id']}/events").text)
    assert told[-1][0] == "end" and json.loads(told[-1][1])["state"] == "done"
    seen = [json.loads(data)["step"] for event, data in told if event == "progress"]
    assert seen == sorted(seen)
    for event, data in told:
        if event == "preview":
            assert max(Image.open(io.BytesIO(base64.b64decode(data))).size) <= 64


def test_anybody_may_ask_what_a_picture_proves(served: Served, picture: Image.Image) -> None:
    done = served.ended(served.ask()["id"])
    with served.client as client:
        made = client.get(done["image"]).content
        verdict = client.post("/v1/verify", files={"picture": made}).json()
        changed = io.BytesIO()
        image = Image.open(io.BytesIO(made)).convert("RGB")
        image.putpixel((3, 3), (1, 2, 3))
        image.save(changed, "PNG")
        stripped = client.post("/v1/verify", files={"picture": changed.getvalue()}).json()
        unknown = io.BytesIO()
        picture.save(unknown, "JPEG")
        finding = client.post("/v1/detect", files={"picture": unknown.getvalue()}).json()
        rubbish = client.post("/v1/verify", files={"picture": b"rubbish"})
    assert verdict["outcome"] == "proved"
    assert stripped["outcome"] == "not proved" and stripped["record"] == verdict["record"]
    assert finding["verdict"] == "inconclusive" and finding["model"] == "tiny"
    assert rubbish.status_code == 422 and rubbish.headers["content-type"] == "application/problem+json"


@pytest.mark.parametrize("headers", [{"Sec-Fetch-Site": "cross-site"}, {"Origin": "https://evil.example"}])
def test_another_sites_page_may_not_ask(served: Served, headers: dict[str, str]) -> None:
    with served.client as client:
        for method, path in (("POST", "/v1/jobs"), ("POST", "/sdapi/v1/interrupt"), ("DELETE", "/v1/jobs/x")):
            answer = client.request(method, path, headers=headers, content=b"{}")
            assert answer.status_code == 403 and "Another site" in answer.json()["detail"]
        own = client.post("/v1/jobs", json={"prompt": "x", **SMALL}, headers={"Origin": served.url})
    assert own.status_code == 202


def test_weights_are_numbers(served: Served) -> None:
    with served.client as client:
        for weight in ("nan", "inf", "11", "x"):
            answer = client.post("/v1/jobs", params={"lora": f"a:{weight}"}, json={"prompt": "x"})
            assert answer.status_code == 422 and "a number from -10 to 10" in answer.json()["detail"]


def test_an_idempotency_key_is_for_the_whole_request(served: Served) -> None:
    with served.client as client:
        body, key = {"prompt": "x", **SMALL, "seed": 1}, {"Idempotency-Key": "whole"}
        first = client.post("/v1/jobs", json=body, headers=key)
        again = client.post("/v1/jobs", json=body, headers=key)
        other = client.post("/v1/jobs", params={"priority": 3}, json=body, headers=key)
    assert (first.status_code, again.json()["id"], other.status_code) == (202, first.json()["id"], 422)


def test_what_cannot_be_served_is_told_at_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ModelNotFoundError, match="/nowhere"):
        check(Service(models=("a=/nowhere",)))
    monkeypatch.setenv("LIENZO_MARK", "off")
    with pytest.raises(ConfigError, match="serves marked pictures alone"):
        check(Service())


def test_another_sites_name_does_not_lead_here(served: Served) -> None:
    with served.client as client:
        misled = client.post("/v1/jobs", json={"prompt": "x"}, headers={"Host": "evil.example:80"})
        named = client.get("/healthz", headers={"Host": "localhost"})
    assert (misled.status_code, named.status_code) == (421, 200)
    assert misled.headers["content-type"] == "application/problem+json"


def asked(outside: Outside, receive: Receive, address: str = "192.0.2.1") -> tuple[int, dict[str, Any]]:
    """Status and problem document of what is asked for by POST."""
    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    scope: Scope = {"type": "http", "method": "POST", "path": "/v1/verify", "headers": [], "query_string": b""}
    scope["client"] = (address, 1)
    asyncio.run(outside(scope, receive, send))
    return sent[0]["status"], json.loads(sent[1]["body"])


@pytest.fixture
def reads() -> FastAPI:
    """An application that reads requests to their ends, and tells errors as the service does."""
    made = FastAPI()
    made.add_exception_handler(HTTPException, app._http)

    @made.post("/v1/verify")
    async def read(http: HttpRequest) -> None:
        await http.body()

    return made


def test_who_sends_nothing_more_is_told_so(monkeypatch: pytest.MonkeyPatch, reads: FastAPI) -> None:
    monkeypatch.setattr(app, "PATIENCE", 0.05)
    pieces: list[Message] = [{"type": "http.request", "body": b"a", "more_body": True}]

    async def slow() -> Message:
        if pieces:
            return pieces.pop()
        await asyncio.sleep(60)
        raise AssertionError

    status, told = asked(Outside(reads, 1000), slow)
    assert (status, told["status"]) == (408, 408)


def test_no_more_are_answered_than_can_be(monkeypatch: pytest.MonkeyPatch, reads: FastAPI) -> None:
    monkeypatch.setattr(app, "MOST", 0)

    async def whole() -> Message:
        return {"type": "http.request", "body": b"", "more_body": False}

    status, told = asked(Outside(reads, 1000), whole)
    assert status == 503 and told["type"] == "urn:lienzo:problem:busy"
    monkeypatch.setattr(app, "MOST", 1)
    monkeypatch.setattr(app, "MOST_EACH", 0)
    assert [asked(Outside(reads, 1000), whole, one)[0] for one in ("192.0.2.1", "2001:db8::1", "127.0.0.1")] == [
        429,
        429,
        200,
    ]


@pytest.mark.parametrize("path", ["/v1/images/generations", "/sdapi/v1/png-info"])
def test_json_that_curl_calls_a_form_is_json(served: Served, path: str) -> None:
    body = json.dumps({"prompt": "a red circle", "size": "64x64", "steps": 2} if "images" in path else {"image": ""})
    headers = {"Content-Type": "application/x-www-form-urlencoded"}
    with served.client as client:
        as_form, as_json = (
            client.post(path, content=body, headers=one) for one in (headers, {"Content-Type": "application/json"})
        )
    assert as_form.status_code == as_json.status_code
    assert as_form.json().keys() == as_json.json().keys()


def test_what_can_never_be_made_is_told_at_the_start(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="device: got 'cuda:99'"):
        check(Service(device="cuda:99"))
    with pytest.raises(ConfigError, match="device: got 'gpu'"):
        check(Service(device="gpu"))
    with pytest.raises(ModelNotFoundError):
        check(Service(loras=(f"x={tmp_path / 'none.safetensors'}",)))
