"""What dies, fills up or goes away: no acknowledged job is lost or done twice, and nothing unmarked is served."""

import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from lienzo.pipeline.request import Request
from lienzo.server.jobs import Queue
from lienzo.server.keepers import Keeper
from lienzo.server.pictures import Pictures
from lienzo.server.settings import Service
from server.conftest import SMALL, Served, start

Serve = Callable[..., Served]
LONG = {**SMALL, "steps": 60}


def workers(served: Served) -> list[int]:
    """Process ids."""
    children = Path(f"/proc/{served.process.pid}/task/{served.process.pid}/children")
    ids = []
    for task in children.parent.parent.glob("*/children"):
        ids += [int(pid) for pid in task.read_text().split()]
    return [pid for pid in ids if b"lienzo.server.worker" in Path(f"/proc/{pid}/cmdline").read_bytes()]


def running(served: Served, job: str) -> None:
    """Wait until a job is at some step."""
    until = time.monotonic() + 180
    with served.client as client:
        while not (client.get(f"/v1/jobs/{job}").json()["step"]):
            assert time.monotonic() < until
            time.sleep(0.02)


def proved(served: Served, job: dict[str, object], folder: Path) -> None:
    path = folder / "picture.png"
    with served.client as client:
        path.write_bytes(client.get(str(job["image"])).content)
    command = [sys.executable, "-m", "lienzo", "verify", str(path), "--json"]
    told = subprocess.run(command, env={"LIENZO_HOME": str(served.home), "PATH": ""}, capture_output=True)
    assert json.loads(told.stdout)["outcome"] == "proved", told


def test_a_killed_worker_takes_nothing_down(serve: Serve, tmp_path: Path) -> None:
    served = serve("--no-auth")
    job = served.ask(**LONG)
    running(served, job["id"])
    os.kill(workers(served)[0], signal.SIGKILL)
    with served.client as client:
        assert client.get("/healthz").status_code == 200
    done = served.ended(job["id"])
    assert done["state"] == "done"
    proved(served, done, tmp_path)
    assert any("SIGKILL" in line for line in served.said)


def test_a_job_whose_workers_die_is_poison(serve: Serve) -> None:
    served = serve("--no-auth", attempts=1)
    job = served.ask(**LONG)
    running(served, job["id"])
    os.kill(workers(served)[0], signal.SIGKILL)
    ended = served.ended(job["id"])
    assert ended["state"] == "failed" and ended["problem"]["type"] == "urn:lienzo:problem:poison"
    assert served.ended(served.ask()["id"])["state"] == "done"  # others are not troubled


def test_a_killed_api_loses_nothing(serve: Serve, model: Callable[[str], Path], tmp_path: Path) -> None:
    served = serve("--no-auth")
    jobs = [served.ask(seed=seed, **LONG)["id"] for seed in range(3)]
    running(served, jobs[0])
    (worker,) = workers(served)
    served.process.kill()
    served.ends()
    until = time.monotonic() + 60
    while Path(f"/proc/{worker}").exists():
        assert time.monotonic() < until, "the worker outlived its API"
        time.sleep(0.05)
    again = start(served.home, model("sd1"), "--no-auth")
    try:
        for job in jobs:
            done = again.ended(job)
            assert done["state"] == "done"
            proved(again, done, tmp_path)
    finally:
        again.stop()


def test_sigterm_drains(serve: Serve, model: Callable[[str], Path]) -> None:
    served = serve("--no-auth")
    first, second = served.ask(**LONG), served.ask(**LONG)
    running(served, first["id"])
    assert served.stop() == 0
    with sqlite3.connect(served.home / "service.db") as database:
        states = dict(database.execute("SELECT id, state FROM jobs").fetchall())
    database.close()
    assert states == {first["id"]: "done", second["id"]: "queued"}


def test_cancelling_stops_within_a_step(served: Served) -> None:
    job = served.ask(**{**SMALL, "steps": 150})
    running(served, job["id"])
    with served.client as client:
        told = client.delete(f"/v1/jobs/{job['id']}").json()
        assert told["state"] == "cancelled"
        next_one = served.ask()
        assert client.get(f"/v1/images/{job['id']}").status_code == 404
    assert served.ended(next_one["id"])["state"] == "done"


def test_a_store_that_cannot_be_written_is_told(serve: Serve, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    served = serve("--no-auth", store=str(tmp_path / "file"), attempts=2)
    ended = served.ended(served.ask()["id"])
    assert ended["state"] == "failed" and ended["problem"]["type"] == "urn:lienzo:problem:poison"
    with served.client as client:
        answer = client.post("/v1/inputs", files={"picture": png()})
    assert answer.status_code == 507 and answer.json()["type"] == "urn:lienzo:problem:output"


def png() -> bytes:
    import io

    from PIL import Image

    file = io.BytesIO()
    Image.new("RGB", (64, 64), "red").save(file, "PNG")
    return file.getvalue()


def test_a_dropped_stream_leaves_the_job_alone(served: Served) -> None:
    job = served.ask(**LONG)
    with served.client as client, client.stream("GET", f"/v1/jobs/{job['id']}/events") as stream:
        next(stream.iter_lines())
    assert served.ended(job["id"])["state"] == "done"


def test_the_keeper_goes_on_after_a_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    service = Service(database=str(tmp_path / "service.db"), store=str(tmp_path / "pictures"))
    queue = Queue(service.database_place)
    pictures = Pictures(service, queue.database)
    keeper = Keeper(service, queue, pictures)
    looked: list[int] = []

    def fail() -> None:
        looked.append(1)
        raise PermissionError("no")

    monkeypatch.setattr(keeper, "_give_back_of_the_dead", fail)
    monkeypatch.setattr(keeper, "_look_at", lambda _: looked.append(2))
    keeper.start()
    until = time.monotonic() + 10
    while looked.count(2) < 3:
        assert time.monotonic() < until
        time.sleep(0.05)
    keeper.drain()
    queue.close()


def test_what_dead_attempts_left_is_removed(tmp_path: Path) -> None:
    service = Service(database=str(tmp_path / "service.db"), store=str(tmp_path / "pictures"), keep=0)
    queue = Queue(service.database_place)
    pictures = Pictures(service, queue.database)
    job, _ = queue.put(Request("x", **SMALL), tenant="ana", owner="ana", model="tiny")
    for _ in range(2):  # the first one died after it kept its picture
        (held,) = queue.claim("w")
        pictures.keep(held.id, held.attempt, b"png")
        if held.attempt == 1:
            queue.release([held])
    queue.cancel(job.id)
    assert len([path for path in (tmp_path / "pictures").rglob("*") if path.is_file()]) == 2
    Keeper(service, queue, pictures).clean()
    assert not [path for path in (tmp_path / "pictures").rglob("*") if path.is_file()]
    queue.close()


def test_too_much_is_refused(served: Served) -> None:
    with served.client as client:
        large = client.post("/v1/jobs", content=b" " * 20_000_001)
        wide = client.post("/v1/jobs", json={"prompt": "x", "width": 4096, "height": 4096})
        many = client.post("/v1/jobs", json={"prompt": "x", "steps": 1000})
    assert (large.status_code, wide.status_code, many.status_code) == (413, 422, 422)
    assert "1,048,576 pixels" in wide.json()["detail"] and "at most 150" in many.json()["detail"]


@pytest.mark.slow
def test_two_hundred_kills_under_load(model: Callable[[str], Path], tmp_path: Path) -> None:
    """Of the API, of a worker, or of both, at random moments: every acknowledged job is done once, every picture proved."""
    chance = random.Random(7)
    home = tmp_path / "home"
    settings = {"workers": 2, "lease": 5.0, "attempts": 1000, "max_queued": 10_000, "max_queued_each": 10_000}
    served = start(home, model("sd1"), "--no-auth", **settings)
    acknowledged: dict[str, str] = {}
    kills = 0
    while kills < 200:
        try:
            with served.client as client:
                for _ in range(chance.randint(1, 3)):
                    key = f"{len(acknowledged)}-{kills}"
                    body = {"prompt": "a red circle", "seed": len(acknowledged), **SMALL, "steps": 20}
                    answer = client.post("/v1/jobs", json=body, headers={"Idempotency-Key": key})
                    acknowledged[answer.json()["id"]] = key
        except httpx.TransportError:
            pass
        time.sleep(chance.uniform(0, 0.6))
        what = chance.choice(["api", "worker", "worker", "both"])
        if what != "api":
            for pid in workers(served)[:1]:
                os.kill(pid, signal.SIGKILL)
        if what != "worker":
            served.process.kill()
            served.ends()
            served = start(home, model("sd1"), "--no-auth", **settings)
        kills += 1
    try:
        for job in acknowledged:
            assert served.ended(job, timeout=600)["state"] == "done"
        sample = chance.sample(sorted(acknowledged), 20)
        for job in sample:
            proved(served, served.ended(job), tmp_path)
    finally:
        served.stop()
    with sqlite3.connect(home / "service.db") as database:
        rows = database.execute("SELECT id, idempotency, state, picture FROM jobs").fetchall()
    database.close()
    assert {id_ for id_, *_ in rows} >= acknowledged.keys()
    assert len({key for _, key, *_ in rows}) == len(rows)  # no key gave two jobs
    assert all((home / "pictures" / picture).exists() for *_, state, picture in rows if state == "done")
    print(f"{kills} kills, {len(acknowledged)} jobs acknowledged, {len(rows)} kept")
