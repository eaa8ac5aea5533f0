"""From settings to a listening service."""

import socket
from collections.abc import Callable

import uvicorn

from lienzo.errors import ConfigError
from lienzo.server import tracing
from lienzo.server.app import check, create_app
from lienzo.server.settings import Service


def run(service: Service, tell: Callable[[str], None]) -> None:
    """Serve until SIGTERM or Ctrl-C, then drain.

    Raises:
        ConfigError: the address cannot be listened at.
        MissingExtraError: traces are asked for, and what sends them is not there.
    """
    check(service)
    tracing.start("api")
    try:
        listening = socket.create_server((service.host, service.port), backlog=128)
    except OSError as error:
        raise ConfigError(
            f"{service.host}:{service.port} cannot be listened at: {error.strerror}. Give another --host or --port."
        ) from None
    host, port = listening.getsockname()[:2]
    tell(f"lienzo serves at http://{host}:{port}" + ("" if service.auth else ", to everybody on this machine"))
    config = uvicorn.Config(
        create_app(service), log_level="warning", access_log=False, server_header=False, timeout_graceful_shutdown=30,
        limit_concurrency=512, timeout_keep_alive=15, h11_max_incomplete_event_size=65536,
    )  # fmt: skip
    uvicorn.Server(config).run(sockets=[listening])
