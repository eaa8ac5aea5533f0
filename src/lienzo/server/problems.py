"""Errors as HTTP tells them: problem details (RFC 9457). What is not an error of lienzo's own is told without its details."""

import re
from collections.abc import Mapping
from typing import Any, Final

from lienzo.errors import (
    BlockedError,
    BusyError,
    CallerError,
    ConfigError,
    ForbiddenError,
    ImageError,
    InputError,
    IssuerError,
    LienzoError,
    LogError,
    MissingExtraError,
    OutputError,
    RecordError,
    StoreError,
    WeightsError,
)

MEDIA_TYPE: Final = "application/problem+json"
STATUS: Final[Mapping[type[Exception], int]] = {
    RecordError: 404,
    MissingExtraError: 501,
    ConfigError: 500,
    ImageError: 422,
    InputError: 422,
    BlockedError: 422,
    BusyError: 429,
    CallerError: 401,
    ForbiddenError: 403,
    IssuerError: 503,
    OutputError: 507,
    StoreError: 503,
    LogError: 503,
    WeightsError: 500,
}
"""Error -> status; the first class of an error's own order of classes that is here counts."""
TITLES: Final = {
    400: "The request cannot be read",
    401: "Who are you?",
    403: "You may not",
    404: "There is no such thing",
    405: "Not with this method",
    408: "Too slow",
    409: "Not as things are",
    413: "Too large",
    415: "Not in this format",
    421: "Not by this name",
    422: "It cannot be done as asked",
    429: "Too many",
    500: "A fault of the service",
    501: "Not installed here",
    503: "Not just now",
    507: "No room",
}
PROBLEM: Final = {
    "title": "Problem",
    "type": "object",
    "required": ["type", "title", "status", "detail"],
    "properties": {
        "type": {"type": "string", "format": "uri-reference", "examples": ["urn:lienzo:problem:request"]},
        "title": {"type": "string"},
        "status": {"type": "integer", "minimum": 400, "maximum": 599},
        "detail": {"type": "string", "description": "What was got, what is allowed and what to do."},
    },
}
"""JSON Schema of a problem document."""


def kind(error: Exception | type[Exception]) -> str:
    """A short name of an error's class: "request" of RequestError."""
    class_ = error if isinstance(error, type) else type(error)
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "-", class_.__name__.removesuffix("Error")).lower()


def status_of(error: Exception) -> int:
    return next((STATUS[one] for one in type(error).__mro__ if one in STATUS), 500)


def problem(status: int, detail: str, *, kind: str | None = None, **more: Any) -> dict[str, Any]:
    """A problem document."""
    type_ = "about:blank" if kind is None else f"urn:lienzo:problem:{kind}"
    return {"type": type_, "title": TITLES.get(status, "Problem"), "status": status, "detail": detail, **more}


def problem_of(error: Exception) -> dict[str, Any]:
    """The problem document of an error."""
    status = status_of(error)
    if not isinstance(error, LienzoError):
        return problem(500, "Something failed that should not have. The service's own log says what.", kind="fault")
    if status >= 500:  # its words name files, hosts and users, which are for whoever runs the service
        return problem(status, "The service cannot do this just now. Its own log says why.", kind=kind(error))
    more = {"reasons": list(getattr(error.outcome, "reasons", ()))} if isinstance(error, BlockedError) else {}
    return problem(status, str(error), kind=kind(error), **more)
