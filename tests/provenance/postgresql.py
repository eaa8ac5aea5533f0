"""A PostgreSQL of its own for tests: a cluster in a temporary folder, without network, reached by its socket."""

import contextlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

OPTIONS = "-c listen_addresses='' -c fsync=off -c unix_socket_directories="


@contextlib.contextmanager
def cluster() -> Iterator[str]:
    """The URL of an empty database; skips the test where PostgreSQL is not installed."""
    programs = shutil.which("initdb"), shutil.which("pg_ctl")
    if None in programs:
        found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
        if not found:
            pytest.skip("PostgreSQL is not installed")
        programs = str(found[-1]), str(found[-1].with_name("pg_ctl"))
    initdb, pg_ctl = map(str, programs)
    # It refuses to run as root; a socket's path must be short.
    who = ["runuser", "-u", "postgres", "--"] if os.geteuid() == 0 else []
    folder = Path(tempfile.mkdtemp(prefix="lienzo-pg-", dir="/tmp"))
    if who:
        shutil.chown(folder, "postgres")
    data = str(folder / "data")

    def run(*command: str) -> None:
        subprocess.run([*who, *command], check=True, cwd="/", stdout=subprocess.DEVNULL)

    try:
        run(initdb, "-D", data, "-U", "postgres", "--auth=trust", "--encoding=UTF8", "--no-sync")
        run(pg_ctl, "-D", data, "-w", "-o", f"{OPTIONS}{folder}", "-l", str(folder / "server.log"), "start")
        try:
            yield f"postgresql://postgres@/postgres?host={folder}"
        finally:
            run(pg_ctl, "-D", data, "-w", "-m", "immediate", "stop")
    finally:
        shutil.rmtree(folder)
