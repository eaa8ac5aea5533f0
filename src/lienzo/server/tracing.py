"""Traces for OpenTelemetry: a request over HTTP, its job's wait and the stages of its picture are one trace, whichever process did them.

On where OTEL_EXPORTER_OTLP_ENDPOINT names a collector; otherwise nothing here does anything. Across processes a span is named by
its traceparent (W3C Trace Context), which the job keeps. Spans have durations, names of routes, models and stages, numbers and
jobs' ids; never a prompt, an error's words, a tenant or a path.
"""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from lienzo.errors import MissingExtraError

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.sdk.trace import TracerProvider

ENDPOINT: Final = "OTEL_EXPORTER_OTLP_ENDPOINT"
HEADER: Final = "traceparent"

Attributes = Mapping[str, str | int | float]

_provider: "TracerProvider | None" = None


def start(process: str) -> None:
    """Send this process's spans to the collector, if there is one.

    Args:
        process: what it is called there.

    Raises:
        MissingExtraError: there is a collector, but not what is needed to talk to it.
    """
    global _provider
    if not os.environ.get(ENDPOINT):
        return
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ModuleNotFoundError:
        raise MissingExtraError(
            f'{ENDPOINT} is set, but traces need OpenTelemetry: run pip install "lienzo[otel]", or take the variable away.'
        ) from None
    name = os.environ.get("OTEL_SERVICE_NAME", "lienzo")
    _provider = TracerProvider(resource=Resource.create({"service.name": name, "service.instance.id": process}))
    _provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))


def stop() -> None:
    """Send what is not sent yet."""
    global _provider
    if _provider is not None:
        _provider.shutdown()
        _provider = None


class Answered:
    """What is known of a request once it is answered.

    Attributes:
        route: the template of its path; None: there is none. status: of HTTP; None: nobody was answered.
    """

    route: str | None = None
    status: int | None = None


@contextmanager
def request(method: str, traceparent: str | None) -> Iterator[Answered]:
    """Around a request over HTTP; part of the caller's trace where it sent one."""
    answered = Answered()
    if _provider is None:
        yield answered
        return
    from opentelemetry.trace import SpanKind, Status, StatusCode, use_span

    span = _provider.get_tracer("lienzo").start_span(method, _context(traceparent), SpanKind.SERVER)
    try:
        # an exception's words may hold a prompt
        with use_span(span, record_exception=False, set_status_on_exception=False):
            yield answered
    finally:
        if answered.route is not None:
            span.update_name(f"{method} {answered.route}")
            span.set_attribute("http.route", answered.route)
        span.set_attribute("http.request.method", method)
        if answered.status is not None:
            span.set_attribute("http.response.status_code", answered.status)
        if answered.status is None or answered.status >= 500:
            span.set_status(Status(StatusCode.ERROR))
        span.end()


def current() -> str | None:
    """The traceparent of the request that this thread answers; None: nobody traces."""
    if _provider is None:
        return None
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    carrier: dict[str, str] = {}
    TraceContextTextMapPropagator().inject(carrier)
    return carrier.get(HEADER)


def record(
    name: str,
    parent: str | None,
    began: float,
    ended: float,
    attributes: Attributes | None = None,
    *,
    error: str | None = None,
) -> str | None:
    """A span of what is over.

    Args:
        parent: its traceparent; None: it is nobody's part, and is not recorded.
        began, ended: seconds since 1970.
        error: why it failed, in a word.

    Returns:
        Its own traceparent.
    """
    if _provider is None or parent is None:
        return None
    from opentelemetry.trace import Status, StatusCode, format_span_id, format_trace_id

    span = _provider.get_tracer("lienzo").start_span(
        name, _context(parent), attributes=attributes, start_time=round(began * 1e9)
    )
    if error is not None:
        span.set_status(Status(StatusCode.ERROR, error))
    span.end(round(max(began, ended) * 1e9))
    of = span.get_span_context()
    return f"00-{format_trace_id(of.trace_id)}-{format_span_id(of.span_id)}-{int(of.trace_flags):02x}"


def _context(traceparent: str | None) -> "Context":
    from opentelemetry.context import Context
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    carrier = {} if traceparent is None else {HEADER: traceparent}
    return TraceContextTextMapPropagator().extract(carrier, Context())
