"""The service as it is run: a process of its own with workers of its own, on a port that was free, with a tiny model."""

import json
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

SMALL = {"width": 64, "height": 64, "steps": 2}


@dataclass
class Served:
    """A running service.

    Attributes:
        said: the lines that it wrote to stderr.
    """

    url: str
    home: Path
    process: "subprocess.Popen[str]"
    reader: threading.Thread
    said: list[str]

    @property
    def client(self) -> httpx.Client:
        return httpx.Client(base_url=self.url, timeout=120)

    def ask(self, prompt: str = "a red circle", **fields: Any) -> dict[str, Any]:
        """A job's document."""
        with self.client as client:
            answer = client.post("/v1/jobs", json={"prompt": prompt, **SMALL, **fields})
        assert answer.status_code == 202, answer.text
        return answer.json()  # type: ignore[no-any-return]

    def ended(self, job: str, timeout: float = 300) -> dict[str, Any]:
        """Its document, once it has ended."""
        until = time.monotonic() + timeout
        with self.client as client:
            while time.monotonic() < until:
                document = client.get(f"/v1/jobs/{job}").json()
                assert "state" in document, (document, self.said)
                if document["state"] not in ("queued", "running"):
                    return document  # type: ignore[no-any-return]
                time.sleep(0.05)
        raise AssertionError((document, self.said))

    def lienzo(self, *args: str) -> str:
        """What the command line says on the same machine."""
        ran = subprocess.run(
            [sys.executable, "-m", "lienzo", *args],
            env={**os.environ, "LIENZO_HOME": str(self.home)}, capture_output=True, text=True, check=True,
        )  # fmt: skip
        return ran.stdout

    def stop(self) -> int:
        self.process.terminate()
        self.process.wait(180)
        return self.ends()

    def ends(self) -> int:
        """Its exit code, once it has ended."""
        self.reader.join(180)
        assert self.process.stderr is not None
        self.process.stderr.close()
        return self.process.wait(180)


def start(home: Path, model: Path, *args: str, **settings: Any) -> Served:
    """`lienzo serve`, once it listens."""
    home.mkdir(exist_ok=True)
    lines = [f"{name} = {json.dumps(value)}" for name, value in {"models": [f"tiny={model}"], **settings}.items()]
    (home / "config.toml").write_text("[service]\n" + "\n".join(lines) + "\n")
    environment = {**os.environ, "LIENZO_HOME": str(home), "LIENZO_MARK": "full", "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [sys.executable, "-m", "lienzo", "serve", "--port", "0", *args],
        env=environment, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True,
    )  # fmt: skip
    assert process.stderr is not None
    said: list[str] = []
    for line in process.stderr:
        said.append(line)
        if found := re.search(r"serves at (http://\S+?)(?:,|$)", line):
            break
    else:
        raise AssertionError("".join(said))
    reader = threading.Thread(target=lambda: said.extend(process.stderr or ()), daemon=True)
    reader.start()
    served = Served(found[1], home, process, reader, said)
    until = time.monotonic() + 180
    with served.client as client:
        while client.get("/readyz").status_code != 200:
            assert time.monotonic() < until, said
            time.sleep(0.1)
    return served


@pytest.fixture(scope="session")
def served(tmp_path_factory: pytest.TempPathFactory, model: Callable[[str], Path]) -> Iterator[Served]:
    """One for all tests that change nothing of it, open to this machine."""
    running = start(tmp_path_factory.mktemp("served") / "home", model("sd1"), "--no-auth")
    yield running
    running.stop()


@pytest.fixture
def serve(tmp_path: Path, model: Callable[[str], Path]) -> Iterator[Callable[..., Served]]:
    """Starts services of a test's own, without the page, which takes seconds to load."""
    running: list[Served] = []

    def begin(*args: str, **settings: Any) -> Served:
        running.append(start(tmp_path / f"home-{len(running)}", model("sd1"), *args, **{"page": False, **settings}))
        return running[-1]

    yield begin
    for one in running:
        if one.process.poll() is None:
            one.process.terminate()
        one.ends()
