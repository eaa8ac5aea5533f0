"""A picture made by a tiny network, and both kinds of database. PostgreSQL is a real server, in a folder of its own."""

import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import psycopg.sql
import pytest

from lienzo import Pipeline, Request, Result

PROGRAMS = max(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: float(path.parent.name), default=None)


@pytest.fixture(scope="session")
def sd1(pipeline: Callable[[str], Pipeline]) -> Pipeline:
    return pipeline("sd1")


@pytest.fixture(scope="session")
def result(sd1: Pipeline) -> Result:
    request = Request(
        "a red circle, «ñ» 😀\nsecond line",
        negative_prompt="blurry: very",
        seed=7,
        steps=2,
        width=64,
        height=64,
        clip_skip=1,
    )
    return sd1(request)


@pytest.fixture(params=["png", "jpg", "jpeg", "webp"])
def target(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return tmp_path / f"picture.{request.param}"


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
