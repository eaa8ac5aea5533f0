"""`lienzo serve`."""

import os
import shutil
import tempfile

import click

from lienzo.cli.text import note

EPILOG = """
\b
Everything else is set in `[service]` of config.toml in lienzo's home; see docs/howto/serve.md.
Exit codes: see `lienzo --help`.
"""


@click.command(epilog=EPILOG, short_help="Serve pictures over HTTP.")
@click.option("--host", metavar="ADDRESS", help="Where to listen. [default: 127.0.0.1]")
@click.option("--port", type=click.IntRange(0, 65535), help="0: any that is free. [default: 8000]")
@click.option("--no-auth", is_flag=True, help="Let everybody on this machine in without a key.")
def serve(host: str | None, port: int | None, no_auth: bool) -> None:
    """Serve pictures: REST, a page for the browser, a durable queue, metrics. Ctrl-C or SIGTERM drains and stops."""
    shared = tempfile.mkdtemp(prefix="lienzo-metrics-")
    os.environ["PROMETHEUS_MULTIPROC_DIR"] = shared  # before anything imports prometheus_client; the workers inherit it
    try:
        from lienzo.server.run import run
        from lienzo.server.settings import Service

        run(Service.read(host=host, port=port, auth=False if no_auth else None), note)
    finally:
        shutil.rmtree(shared, ignore_errors=True)
