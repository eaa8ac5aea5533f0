"""Shared fixtures: tiny models in diffusers' layout, made once a session, and PostgreSQL, a real server in a folder of its own."""

import os
import pwd
import secrets
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import psycopg
import psycopg.sql
import pytest
import torch
from PIL import Image

import tiny
from lienzo import Pipeline

os.environ["LIENZO_MARK"] = "off"  # the bare pixels are compared with the reference; tests of marks ask for them
PROGRAMS = max(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: float(path.parent.name), default=None)
torch.set_num_threads(1)  # the networks are tiny: a second thread only waits


@pytest.fixture(autouse=True)
def home(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """lienzo's home folder, a test's own: no key or log of whoever runs the tests is touched."""
    folder = tmp_path_factory.mktemp("home")
    monkeypatch.setenv("LIENZO_HOME", str(folder))
    return folder


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The folder of a tiny model of a family ("sd1", "sd2", "inpaint"), made on first use."""
    made: dict[str, Path] = {}

    def folder(family: str) -> Path:
        if family not in made:
            made[family] = tiny.make(tmp_path_factory.mktemp(family), family)
        return made[family]

    return folder


@pytest.fixture(scope="session")
def pipeline(model: Callable[[str], Path]) -> Callable[[str], Pipeline]:
    made: dict[str, Pipeline] = {}

    def loaded(family: str) -> Pipeline:
        if family not in made:
            made[family] = Pipeline.load(model(family))
        return made[family]

    return loaded


@pytest.fixture(scope="session")
def picture() -> Image.Image:
    """96x128, colourful and smooth."""
    y, x = np.mgrid[0:128, 0:96] / 128
    waves = np.stack([np.sin(9 * x + 4 * y), np.cos(7 * y), np.sin(5 * x * y + 1)], axis=-1)
    return Image.fromarray(((waves + 1) * 127.5).astype(np.uint8))


@pytest.fixture(scope="session")
def mask() -> Image.Image:
    """White where to paint anew; its edges do not lie on latent cells."""
    area = np.zeros((128, 96), np.uint8)
    area[30:91, 21:70] = 255
    return Image.fromarray(area)


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
    """Where an empty database of each kind is."""
    if request.param == "sqlite":
        return str(tmp_path / "records.db")
    schema: Callable[[str], str] = request.getfixturevalue("postgresql")
    return schema(f"records_{secrets.token_hex(4)}")
