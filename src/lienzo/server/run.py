"""From settings to a listening service."""

import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

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
            f"{service.host}:{service.port} cannot be listened at: {str(error.strerror).partition(' (while')[0]}. Give another --host or --port."
        ) from None
    app = create_app(service)
    host, port = listening.getsockname()[:2]
    tell(f"lienzo serves at http://{host}:{port}" + ("" if service.auth else ", to everybody on this machine"))
    if key := app.state.desk.gate.first_key():
        tell(f"The first API key, an administrator's, shown this once: {key}")
    config = uvicorn.Config(
        app, log_level="warning", access_log=False, server_header=False, timeout_graceful_shutdown=30,
        limit_concurrency=1000, proxy_headers=service.proxy is not None, forwarded_allow_ips=service.proxy, timeout_keep_alive=15, h11_max_incomplete_event_size=65536,
    )  # fmt: skip

    def stop() -> None:
        if not app.state.desk.keeper.stopping.is_set():
            tell(
                "Draining: what was begun is finished, what waits is kept for the next start. Once more ends it at once."
            )
        app.state.desk.keeper.stop()

    _Server(config, stop).run(sockets=[listening])


class _Server(uvicorn.Server):
    """Ends as a service does that was told to: with exit code 0. (uvicorn dies once more of the signal.) Workers are
    told at once, and finish while answers are still being sent; a second signal ends what they do."""

    def __init__(self, config: uvicorn.Config, stop: Callable[[], None]) -> None:
        super().__init__(config)
        self._stop = stop

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self._stop()
        super().handle_exit(sig, frame)

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        before = {one: signal.signal(one, self.handle_exit) for one in (signal.SIGTERM, signal.SIGINT)}
        try:
            yield
        finally:
            for one, handler in before.items():
                signal.signal(one, handler)
