"""Logs in both databases. PostgreSQL is a real server, started for the session in a folder of its own."""

import os
import pwd
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import psycopg.sql
import pytest
from signing import Fixed

from lienzo.provenance.log import Log

PROGRAMS = max(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: float(path.parent.name), default=None)


@pytest.fixture(scope="session")
def postgresql() -> Iterator[Callable[[str], str]]:
    """Makes a schema, which is as good as a database of its own and made faster, and tells its URL."""
    if PROGRAMS is None or not (PROGRAMS / "initdb").exists():
        pytest.skip("PostgreSQL is not installed (Debian: apt-get install postgresql)")
    root = os.geteuid() == 0  # the server refuses to be run by root
    if root and "postgres" not in [user.pw_name for user in pwd.getpwall()]:
        pytest.skip("PostgreSQL cannot be run by root, and there is no user postgres")
    folder = Path(tempfile.mkdtemp(prefix="lienzo-pg-"))  # short: a socket's path has 107 bytes at most
    if root:
        shutil.chown(folder, "postgres")

    def run(program: str, *args: str) -> None:
        command = [str(PROGRAMS / program), *args]
        as_user = ["runuser", "-u", "postgres", "--"] if root else []
        done = subprocess.run(
            [*as_user, *command], cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        )
        assert done.returncode == 0, f"{program}: {done.stderr}"

    data = str(folder / "data")
    try:
        run("initdb", "--auth=trust", "--username=postgres", "--encoding=UTF8", "--no-sync", "-D", data)
        options = f"-c listen_addresses= -c unix_socket_directories={folder}"
        run("pg_ctl", "start", "--wait", "-D", data, "-o", options, "-l", str(folder / "server.log"))
        try:

            def schema(name: str) -> str:
                with psycopg.connect(host=str(folder), user="postgres", autocommit=True) as connection:
                    connection.execute(psycopg.sql.SQL("CREATE SCHEMA {}").format(psycopg.sql.Identifier(name)))
                return f"postgresql://postgres@/postgres?host={folder}&options=-csearch_path%3D{name}"

            yield schema
        finally:
            run("pg_ctl", "stop", "--mode=immediate", "-D", data)
    finally:
        shutil.rmtree(folder)


@pytest.fixture(params=["sqlite", "postgresql"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Where a new log can be made: in either database."""
    if request.param == "sqlite":
        return str(tmp_path / "log.db")
    schema: Callable[[str], str] = request.getfixturevalue("postgresql")
    return schema(re.sub(r"\W", "_", tmp_path.name).lower())


@pytest.fixture
def opened(place: str) -> Iterator[Log]:
    with Log.open(place, signer=Fixed()) as log:
        yield log
