"""What the service tells Prometheus: of real work by real processes, and of nobody's prompt."""

import os
import re
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import httpx
import prometheus_client.parser
import pytest

from lienzo.errors import StoreError
from lienzo.pipeline.request import Request
from lienzo.server import metrics
from lienzo.server.jobs import Limits, Queue
from server.conftest import SMALL, Served

CANARY = "kanarienvogel"
Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


def read(served: Served) -> Samples:
    with served.client as client:
        answer = client.get("/metrics")
    assert answer.status_code == 200
    families = prometheus_client.parser.text_string_to_metric_families(answer.text)
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in families
        for sample in family.samples
    }


def value(samples: Samples, name: str, **labels: str) -> float:
    return samples.get((name, frozenset(labels.items())), 0.0)


def labels(samples: Samples, name: str, label: str) -> set[str]:
    return {dict(pairs)[label] for found, pairs in samples if found == name and label in dict(pairs)}


def until(condition: Callable[[], object], timeout: float = 30) -> None:
    end = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.1)


def workers(served: Served) -> list[int]:
    children = Path(f"/proc/{served.process.pid}/task/{served.process.pid}/children")
    found = [int(pid) for path in children.parent.parent.glob("*/children") for pid in path.read_text().split()]
    return [pid for pid in found if b"lienzo.server.worker" in Path(f"/proc/{pid}/cmdline").read_bytes()]


@pytest.fixture(scope="module")
def worked(tmp_path_factory: pytest.TempPathFactory, model: Callable[[str], Path]) -> Iterator[Served]:
    """A service that has made pictures with two models of which it keeps one, refused some, and been asked for nonsense."""
    from server.conftest import start

    models = [f"tiny={model('sd1')}", f"second={model('sd2')}"]
    served = start(tmp_path_factory.mktemp("worked") / "home", model("sd1"), "--no-auth", models=models, cached=1)
    with served.client as client:
        asked = {"prompt": CANARY, **SMALL}
        for name in ("tiny", "second", "tiny"):
            job = client.post(f"/v1/jobs?model={name}", json=asked).json()["id"]
            assert served.ended(job)["state"] == "done"
        picture = client.get(f"/v1/images/{job}").content
        assert client.post("/v1/verify", files={"picture": picture}).json()["outcome"] == "proved"
        cancelled = client.post("/v1/jobs", json={**asked, "steps": 150}).json()["id"]
        assert client.delete(f"/v1/jobs/{cancelled}").json()["state"] == "cancelled"
        assert client.post("/v1/jobs", json={**asked, "steps": 151}).status_code == 422
        assert client.post("/v1/jobs", json={"prompt": CANARY, "colour": CANARY}).status_code == 422
        assert client.get(f"/v1/jobs/{CANARY}").status_code == 404
        for path in (f"/{CANARY}", f"/v1/{CANARY}/1", "/%2e%2e/etc"):
            assert client.get(path).status_code == 404
        for method in ("BREW", CANARY.upper()):
            assert client.request(method, "/healthz").status_code == 405
    yield served
    served.stop()


def test_every_metric_is_there_after_work(worked: Served) -> None:
    samples = read(worked)
    missing = metrics.names() - {name for name, _ in samples}
    assert missing == {"lienzo_jobs_failed_total"}  # nothing failed here
    assert labels(samples, "lienzo_faults_total", "reason") == {"store", "output", "log", "os", "memory", "runtime"}
    assert value(samples, "lienzo_verdicts_total", of="verify", verdict="proved") == 1
    assert value(samples, "lienzo_pictures_total", model="tiny") == 2
    assert value(samples, "lienzo_pictures_total", model="second") == 1
    assert value(samples, "lienzo_model_load_seconds_count", model="tiny") == 2
    assert value(samples, "lienzo_model_put_away_total") == 2
    assert value(samples, "lienzo_jobs_ended_total", state="done") == 3 == value(samples, "lienzo_jobs", state="done")
    assert value(samples, "lienzo_jobs_ended_total", state="cancelled") == 1
    assert value(samples, "lienzo_job_seconds_count") == 3
    assert value(samples, "lienzo_job_wait_seconds_count") in (3, 4)  # the cancelled one may have been begun
    assert value(samples, "lienzo_batch_size_sum") == value(samples, "lienzo_job_wait_seconds_count")
    for stage in metrics.STAGES:
        assert value(samples, "lienzo_stage_seconds_count", stage=stage) == 3
    assert (
        value(samples, "lienzo_stage_seconds_sum", stage="steps")
        > 0
        < value(samples, "lienzo_stage_seconds_sum", stage="mark")
    )
    assert value(samples, "lienzo_refusals_total", reason="request") == 2
    assert value(samples, "lienzo_refusals_total", reason="record") == 1
    assert value(samples, "lienzo_refusals_total", reason="http-405") == 2
    assert value(samples, "lienzo_workers") == 1 == value(samples, "lienzo_database_up")
    assert value(samples, "lienzo_queue_age_seconds") == 0 == value(samples, "lienzo_jobs", state="queued")
    for process in ("api", "worker-0"):
        assert 50e6 < value(samples, "lienzo_memory_bytes", process=process) < 20e9


def test_labels_are_of_few_values_that_no_caller_makes_up(worked: Served) -> None:
    with worked.client as client:
        known = {*client.get("/openapi.json").json()["paths"], "/openapi.json", metrics.OTHER}
    samples = read(worked)
    assert labels(samples, "lienzo_http_request_seconds_count", "route") <= known
    methods = labels(samples, "lienzo_http_request_seconds_count", "method")
    assert metrics.OTHER in methods and methods <= {*metrics.METHODS, metrics.OTHER}
    assert labels(samples, "lienzo_pictures_total", "model") == {"tiny", "second"}
    assert labels(samples, "lienzo_memory_bytes", "process") == {"api", "worker-0"}


def test_no_prompt_no_job_and_no_tenant(worked: Served) -> None:
    with worked.client as client:
        text = client.get("/metrics").text
        jobs = client.get("/v1/jobs").json()["jobs"]
    assert len(jobs) == 4
    for secret in (CANARY, *(job["id"] for job in jobs)):
        assert secret.lower() not in text.lower()
    assert not re.search(r"\b(tenant|owner|prompt|caller)=", text)
    assert CANARY not in "".join(worked.said).lower()


def test_a_killed_worker_takes_no_count_with_it(serve: Callable[..., Served]) -> None:
    served = serve("--no-auth")
    for _ in range(2):
        served.ended(served.ask()["id"])
    before = read(served)
    [pid] = workers(served)
    os.kill(pid, signal.SIGKILL)
    until(lambda: workers(served) not in ([], [pid]))
    after = read(served)
    counts = {key for key in before if key[0].endswith(("_total", "_count", "_bucket"))}
    lost = {key for key in counts if after[key] < before[key]}
    assert not lost
    assert value(after, "lienzo_worker_starts_total") == 2
    served.ended(served.ask()["id"])
    last = read(served)
    assert value(last, "lienzo_pictures_total", model="tiny") == 3
    assert value(last, "lienzo_stage_seconds_count", stage="decode") == 3
    assert labels(last, "lienzo_memory_bytes", "process") == {"api", "worker-0"}  # not also the dead one's


def test_jobs_end_once_each(tmp_path: Path) -> None:
    """However they end, and whoever notices."""
    now, told = [1000.0], dict.fromkeys(metrics.STATES, 0)

    def count(state: metrics.State, jobs: int) -> None:
        told[state] += jobs

    queue = Queue(str(tmp_path / "service.db"), Limits(lease=10, attempts=2), clock=lambda: now[0], on_end=count)

    def put(deadline: float | None = None) -> str:
        return queue.put(Request("x", seed=1), tenant="a", owner="a", model="tiny", deadline=deadline)[0].id

    for _ in range(2):
        queue.cancel(put())
    queue.cancel(queue.latest("a")[0].id)  # again: no second end
    put(deadline=1001.0)
    put()
    now[0] = 1002.0
    [job] = queue.claim("one")  # the other one is too late
    now[0] = 1020.0
    [again] = queue.claim("two")
    assert again.id == job.id and not queue.finish(job, picture="p", receipt={}, warnings=(), seconds={})
    now[0] = 1040.0
    assert queue.claim("three") == []  # poison
    put()
    [job] = queue.claim("three")
    assert queue.finish(job, picture="p", receipt={}, warnings=(), seconds={})
    assert told == {**dict.fromkeys(metrics.STATES, 0), "cancelled": 2, "expired": 1, "failed": 1, "done": 1}
    assert {state: jobs for state, jobs in told.items() if jobs} == queue.counts()
    queue.close()


def test_a_database_that_is_away_is_told(tmp_path: Path) -> None:
    def away() -> dict[str, int]:
        raise StoreError("away")

    queue = SimpleNamespace(counts=away, oldest_waiting=lambda: 0.0)
    families = {family.name: family.samples for family in metrics.Now(queue, lambda: 2).collect()}  # type: ignore[arg-type]
    assert families.keys() == {"lienzo_workers", "lienzo_database_up"}
    assert families["lienzo_database_up"][0].value == 0 and families["lienzo_workers"][0].value == 2


def test_stages_of_pictures_made_together() -> None:
    stages = metrics.Stages(2)
    for _ in range(3):
        time.sleep(0.02)
        stages.step()
    stages.end(marking=0.5)
    assert [*stages.whole, "store"] == list(metrics.STAGES) and stages.whole["mark"] == 0.5
    assert 0.06 <= stages.whole["encode"] + stages.whole["steps"] < 0.5
    assert stages.seconds == {name: pytest.approx(taken / 2, abs=1e-6) for name, taken in stages.whole.items()}


def test_a_fault_of_the_service_is_counted_and_told_without_its_words(served: Served) -> None:
    """Nothing known makes it fail, so the wrapper is tried around an application that does."""
    import asyncio

    from lienzo.server.app import Outside

    async def broken(scope: object, receive: object, send: object) -> None:
        raise ValueError(CANARY)

    async def ask() -> httpx.Response:
        transport = httpx.ASGITransport(Outside(broken, 1000))  # type: ignore[arg-type]
        async with httpx.AsyncClient(transport=transport, base_url="http://here") as client:
            return await client.get("/x")

    answer = asyncio.run(ask())
    assert answer.status_code == 500 and answer.headers["x-content-type-options"] == "nosniff"
    assert answer.json()["type"] == "urn:lienzo:problem:fault" and CANARY not in answer.text
