"""The pages on serving and operating say what is so: the settings, the lines to type, backup and restore, the metrics."""

import json
import re
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import MISSING, fields
from pathlib import Path

import pytest

from docs.pages import DOCS, blocks, rows
from lienzo.server import metrics
from lienzo.server.settings import Service
from server.conftest import Served, start

SERVE, OPERATE = DOCS / "howto" / "serve.md", DOCS / "howto" / "operate.md"


def test_every_setting_is_told_with_its_default() -> None:
    def told(default: object) -> str:
        if default is None or default == ():
            return "none"
        if isinstance(default, tuple):
            return ", ".join(default)
        return str(default).lower() if isinstance(default, bool) else str(default)

    assert MISSING not in [field.default for field in fields(Service)]
    expected = {f"`{field.name}`": told(field.default) for field in fields(Service)}
    table = {name: default for name, default, _ in rows(SERVE, "## Settings")}
    assert table == expected


def test_every_metric_is_told() -> None:
    told = {name for row in rows(OPERATE, "## What is measured") for name in re.findall(r"`(lienzo_\w+)`", row[0])}
    assert told == {re.sub("_(total|count)$", "", name) for name in metrics.names()}


def test_the_five_lines(served: Served, tmp_path: Path) -> None:
    if shutil.which("curl") is None:
        pytest.skip("curl is not installed (Debian: apt-get install curl)")
    [block] = [one for one in blocks(SERVE) if one.text.startswith("curl")]
    ask, *lines = block.text.replace("http://127.0.0.1:8000", served.url).strip().split("\n")

    def typed(line: str) -> str:
        done = subprocess.run(["bash", "-c", line], cwd=tmp_path, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        return done.stdout

    job = json.loads(typed(ask))["id"]
    events, document, picture, verdict = [typed(line.replace("JOB", job)) for line in lines]
    assert events.replace("\r", "").strip().split("\n\n")[-1].startswith("event: end")
    assert json.loads(document)["state"] == "done" and json.loads(document)["request"]["seed"] == 7
    assert picture == "" and (tmp_path / "circle.png").read_bytes()[:4] == b"\x89PNG"
    assert json.loads(verdict)["outcome"] == "proved"


def test_a_backup_of_a_live_service_is_restored_where_it_was(
    tmp_path: Path, model: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    home, copy = tmp_path / "home", tmp_path / "copy"
    names: dict[str, Callable[[Path, Path], None]] = {}
    for block in blocks(OPERATE):
        if block.language == "python":
            exec(compile(block.text, str(OPERATE), "exec"), names)
    served = start(home, model("sd1"), "--no-auth")
    try:
        before = served.ended(served.ask("a red circle", seed=7)["id"])
        with served.client as client:
            picture, receipt = client.get(before["image"]).content, client.get(before["receipt"]).json()
        waiting = served.ask("a blue square", seed=8, steps=12)
        names["backup"](home, copy)  # while a job runs
        assert served.ended(waiting["id"], 200)["state"] == "done"
    finally:
        served.stop()
    shutil.rmtree(home)
    shutil.copytree(copy, home)
    served = start(home, model("sd1"), "--no-auth")
    try:
        with served.client as client:
            assert client.get(f"/v1/jobs/{before['id']}").json() == before  # its sealed request included
            assert client.get(before["image"]).content == picture
            assert client.get(before["receipt"]).json() == receipt
            assert client.post("/v1/verify", files={"picture": picture}).json()["outcome"] == "proved"
        again = served.ended(waiting["id"], 200)  # it ran when the copy was made, and is made again
        assert again["state"] == "done" and again["request"]["seed"] == 8
    finally:
        served.stop()
    monkeypatch.setenv("LIENZO_HOME", str(home))
    from click.testing import CliRunner

    from lienzo.cli import lienzo

    checked = CliRunner().invoke(lienzo, ["log", "check"])
    assert checked.exit_code == 0, checked.output
