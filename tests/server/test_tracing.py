"""Traces of real processes, as a collector gets them."""

import contextlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from lienzo.server import metrics, tracing
from server.conftest import SMALL, Served

CANARY = "kanarienvogel"
PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


class Collector(ThreadingHTTPServer):
    """Keeps what it is sent.

    Attributes:
        spans: with the process that each came from.
    """

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Taking)
        self.spans: list[tuple[str, Span]] = []
        self.bodies: list[bytes] = []


class Taking(BaseHTTPRequestHandler):
    server: Collector

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        assert self.path == "/v1/traces" and self.headers["Content-Type"] == "application/x-protobuf"
        self.server.bodies.append(body)
        for of in ExportTraceServiceRequest.FromString(body).resource_spans:
            said = {one.key: one.value.string_value for one in of.resource.attributes}
            assert said["service.name"] == "lienzo"
            spans = [span for scope in of.scope_spans for span in scope.spans]
            self.server.spans += [(said["service.instance.id"], span) for span in spans]
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def collector(monkeypatch: pytest.MonkeyPatch) -> Iterator[Collector]:
    server = Collector()
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    monkeypatch.setenv(tracing.ENDPOINT, f"http://127.0.0.1:{server.server_port}")
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def test_one_trace_from_the_caller_to_the_last_stage(collector: Collector, serve: Callable[..., Served]) -> None:
    served = serve("--no-auth")
    with served.client as client:
        asked = {"prompt": CANARY, "negative_prompt": CANARY, **SMALL}
        job = client.post("/v1/jobs", json=asked, headers={"traceparent": PARENT}).json()["id"]
        assert served.ended(job)["state"] == "done"
        assert client.get(f"/{CANARY}").status_code == 404
    assert served.stop() in (0, -15), served.said
    ours = {
        span.name: (process, span) for process, span in collector.spans if span.trace_id.hex() == PARENT.split("-")[1]
    }
    assert ours.keys() == {"POST /v1/jobs", "wait", "make", *metrics.STAGES}
    request, make = ours["POST /v1/jobs"][1], ours["make"][1]
    assert request.parent_span_id.hex() == PARENT.split("-")[2] and request.kind == Span.SPAN_KIND_SERVER
    assert {one.key: one.value.int_value for one in request.attributes}["http.response.status_code"] == 202
    assert ours["wait"][1].parent_span_id == make.parent_span_id == request.span_id
    assert {one.key for one in make.attributes} == {"lienzo.job", "lienzo.model", "lienzo.steps", "lienzo.attempt"}
    assert {process for process, _ in ours.values()} == {"api", "worker-0"}
    ended = ours["wait"][1].end_time_unix_nano
    for stage in metrics.STAGES:
        process, span = ours[stage]
        assert process == "worker-0" and span.parent_span_id == make.span_id
        assert ended - 5e7 <= span.start_time_unix_nano <= span.end_time_unix_nano <= make.end_time_unix_nano + 5e7, (
            stage
        )
        ended = span.end_time_unix_nano
    unknown = [span for _, span in collector.spans if span.name == "GET"]
    assert len(unknown) == 1  # the path that there is not has no name
    assert CANARY.encode() not in b"".join(collector.bodies)


def test_an_error_is_told_without_its_words(collector: Collector) -> None:
    tracing.start("here")
    try:
        with contextlib.suppress(ValueError), tracing.request("GET", None):
            assert tracing.current() is not None
            raise ValueError(CANARY)
        parent = tracing.record("make", PARENT, 10.0, 11.0, error="store")
    finally:
        tracing.stop()
    assert parent is not None and parent.split("-")[1] == PARENT.split("-")[1]
    by_name = {span.name: span for _, span in collector.spans}
    assert by_name["GET"].status.code == by_name["make"].status.code == Status.STATUS_CODE_ERROR
    assert by_name["make"].status.message == "store" and not by_name["GET"].events
    assert (by_name["make"].start_time_unix_nano, by_name["make"].end_time_unix_nano) == (
        10_000_000_000,
        11_000_000_000,
    )
    assert CANARY.encode() not in b"".join(collector.bodies)


@pytest.mark.parametrize("sent", ["", "nonsense", "00-" + "0" * 32 + "-" + "0" * 16 + "-01", "ÿ" * 500])
def test_nonsense_from_a_caller_begins_a_trace_of_its_own(collector: Collector, sent: str) -> None:
    tracing.start("here")
    try:
        with tracing.request("GET", sent):
            pass
    finally:
        tracing.stop()
    [(_, span)] = collector.spans
    assert span.parent_span_id == b"" and int(span.trace_id.hex(), 16)


def test_without_a_collector_nothing_is_recorded() -> None:
    tracing.start("here")
    with tracing.request("GET", PARENT):
        assert tracing.current() is None
        assert tracing.record("make", PARENT, 0.0, 1.0) is None
    tracing.stop()


def test_a_missing_extra_is_told_at_the_start(home: Path) -> None:
    """The program itself, where the package cannot be imported."""
    hide = "import sys; sys.modules['opentelemetry.sdk'] = None; sys.argv[0] = 'lienzo'; from lienzo.cli import main; main()"
    environment = {**os.environ, tracing.ENDPOINT: "http://127.0.0.1:9", "LIENZO_MARK": "full"}
    (home / "config.toml").write_text(f"[service]\ndatabase = {json.dumps(str(home / 'x.db'))}\n")
    done = subprocess.run(
        [sys.executable, "-c", hide, "serve", "--no-auth", "--port", "0"],
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2, done.stderr
    assert tracing.ENDPOINT in done.stderr and "lienzo[otel]" in done.stderr and "Traceback" not in done.stderr
    assert not (home / "x.db").exists()
