"""What dies, fills up or goes away: no acknowledged job is lost or done twice, and nothing unmarked is served."""

import json
import os
import random
import signal
import socket
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
    served = serve("--no-auth", store=str(tmp_path / "file"), faults=2)
    ended = served.ended(served.ask()["id"])
    assert ended["state"] == "failed" and ended["problem"]["type"] == "urn:lienzo:problem:faults"
    with served.client as client:
        answer = client.post("/v1/inputs", files={"picture": png()})
    assert answer.status_code == 507 and answer.json()["type"] == "urn:lienzo:problem:output"


def png(color: str = "red") -> bytes:
    import io

    from PIL import Image

    file = io.BytesIO()
    Image.new("RGB", (64, 64), color).save(file, "PNG")
    return file.getvalue()


def test_a_store_that_was_away_loses_nothing(serve: Serve, tmp_path: Path) -> None:
    place = tmp_path / "store"
    place.write_text("no folder")
    served = serve("--no-auth", store=str(place))
    job = served.ask()["id"]
    until = time.monotonic() + 60
    while not any("a fault, which may pass" in line for line in served.said):
        assert time.monotonic() < until
        time.sleep(0.05)
    place.unlink()
    assert served.ended(job)["state"] == "done"


def test_a_worker_that_hangs_is_killed(serve: Serve) -> None:
    served = serve("--no-auth", stall=10)
    job = served.ask(**LONG)
    running(served, job["id"])
    os.kill(workers(served)[0], signal.SIGSTOP)
    assert served.ended(job["id"])["state"] == "done"
    assert any("made no step for 10 s" in line for line in served.said)


def test_a_body_of_nobody_is_not_read(serve: Serve) -> None:
    served = serve()
    host, port = served.url.removeprefix("http://").split(":")
    for path in ("/v1/inputs", "/v1/jobs", "/v1/images/generations", "/sdapi/v1/txt2img"):
        with socket.create_connection((host, int(port)), timeout=20) as connection:
            connection.sendall(f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n".encode())
            assert connection.recv(100).startswith(b"HTTP/1.1 401 ")


def test_keys_that_are_tried_out_count(serve: Serve) -> None:
    served = serve(rate=1)
    wrong = {"Authorization": "Bearer lk_" + "x" * 43}
    with served.client as client:
        answers = [client.get("/v1/models", headers=wrong).status_code for _ in range(70)]
    assert answers[:50] == [401] * 50 and 429 in answers


def test_a_tenants_inputs_are_bounded(serve: Serve) -> None:
    served = serve("--no-auth", max_inputs=1)
    with served.client as client:
        first, second = (client.post("/v1/inputs", files={"picture": png(color)}) for color in ("red", "blue"))
    assert first.status_code == 201
    assert second.status_code == 429 and "within a day" in second.json()["detail"]


def test_streams_end_where_the_service_does(serve: Serve) -> None:
    served = serve("--no-auth")
    job, waits = served.ask(**LONG), served.ask(**LONG)
    running(served, job["id"])
    begun = time.monotonic()
    with served.client as client, client.stream("GET", f"/v1/jobs/{waits['id']}/events") as stream:
        lines = stream.iter_lines()
        next(lines)
        served.process.terminate()
        assert not any(line.startswith("event: end") for line in lines)  # it ended, and the job did not
    assert served.ends() == 0
    assert time.monotonic() - begun < 25


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
    """Of the API, of a worker, or of both, most of them in the middle of a picture: every acknowledged job is done once, every
    picture is proved, and what is not allowed is blocked."""
    chance = random.Random(7)
    home = tmp_path / "home"
    settings = {
        "page": False,
        "workers": 2,
        "lease": 5.0,
        "attempts": 1000,
        "max_queued": 10_000,
        "max_queued_each": 10_000,
    }
    served = start(home, model("sd1"), "--no-auth", **settings)
    acknowledged: dict[str, bool] = {}  # job -> whether it is allowed

    def counted(where: str) -> int:
        with sqlite3.connect(home / "service.db", timeout=60) as database:
            (count,) = database.execute(f"SELECT count(*) FROM jobs WHERE {where}").fetchone()
        database.close()
        return int(count)

    def ask() -> None:
        is_allowed = chance.random() < 0.9
        prompt = "a red circle" if is_allowed else "child porn"
        body = {"prompt": prompt, "seed": chance.randrange(1 << 30), **SMALL, "steps": 20}
        try:
            with served.client as client:
                answer = client.post("/v1/jobs", json=body, headers={"Idempotency-Key": f"{body['seed']}"})
                acknowledged[answer.json()["id"]] = is_allowed
        except httpx.TransportError:
            pass  # not acknowledged: it may be there or not

    kills = amid = 0
    while kills < 200:
        while counted("state = 'queued'") < 5:
            ask()
        if chance.random() < 0.6:
            until = time.monotonic() + 60
            while not counted("state = 'running'") and time.monotonic() < until:
                time.sleep(0.05)
        time.sleep(chance.uniform(0, 3))  # loading, steps, marking, delivering
        amid += counted("state = 'running'") > 0
        what = chance.choice(["api", "worker", "both"])
        if what != "api":
            for pid in chance.sample(found := workers(served), min(1, len(found))):
                os.kill(pid, signal.SIGKILL)
        if what == "both":
            ask()  # while its worker is being missed
        if what != "worker":
            served.process.kill()
            served.ends()
            served = start(home, model("sd1"), "--no-auth", **settings)
        kills += 1
    before = counted("state = 'done'")
    proved_ones = 0
    try:
        for job, is_allowed in acknowledged.items():
            ended = served.ended(job, timeout=900)
            assert ended["state"] == ("done" if is_allowed else "blocked"), ended
            with served.client as client:
                picture = client.get(f"/v1/images/{job}")
                assert picture.status_code == (200 if is_allowed else 404)
                if is_allowed:
                    verdict = client.post("/v1/verify", files={"picture": picture.content}).json()
                    assert verdict["outcome"] == "proved", verdict
                    proved_ones += 1
    finally:
        served.stop()
    with sqlite3.connect(home / "service.db") as database:
        rows = database.execute("SELECT id, idempotency, state, picture, attempt FROM jobs").fetchall()
    database.close()
    assert {id_ for id_, *_ in rows} >= acknowledged.keys()
    assert len({key for _, key, *_ in rows}) == len(rows)  # no key gave two jobs
    assert all((home / "pictures" / picture).exists() for _, _, state, picture, _ in rows if state == "done")
    again = sum(attempt > 1 for *_, attempt in rows)
    print(
        f"{kills} kills, {amid} while a picture was being made; {len(acknowledged)} jobs acknowledged, {len(rows)} kept, {before} done "
        f"before the last kill, {again} begun more than once; {proved_ones} pictures proved"
    )
