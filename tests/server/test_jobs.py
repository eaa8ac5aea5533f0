"""The queue, on both databases."""

import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from lienzo.errors import BusyError, RecordError, RequestError
from lienzo.pipeline.request import Request
from lienzo.server.jobs import Job, Limits, Queue, new_id

CIRCLE = Request("a canary in a red circle", seed=7, width=64, height=64)


class Clock:
    now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def queue(place: str, clock: Clock) -> Iterator[Queue]:
    opened = Queue(place, Limits(lease=10, attempts=3, max_queued=20, max_queued_each=10), clock=clock)
    yield opened
    opened.close()


def put(queue: Queue, tenant: str = "ana", **more: object) -> Job:
    job, is_new = queue.put(CIRCLE, tenant=tenant, owner=tenant, model="tiny", **more)  # type: ignore[arg-type]
    assert is_new
    return job


def done(queue: Queue, job: Job) -> bool:
    return queue.finish(job, picture=f"{job.id}.png", receipt={}, warnings=(), seconds={})


def test_a_job_is_put_claimed_and_done(queue: Queue) -> None:
    job = put(queue)
    assert (job.state, job.attempt, job.steps) == ("queued", 0, 20)
    (held,) = queue.claim("w")
    assert (held.id, held.state, held.attempt, held.worker) == (job.id, "running", 1, "w")
    assert queue.request(held) == CIRCLE
    assert queue.beat(held, step=3, sigma=0.5, preview=b"png")
    assert (queue.get(job.id).step, queue.get(job.id).preview) == (3, b"png")
    assert done(queue, held)
    ended = queue.get(job.id)
    assert (ended.state, ended.picture, ended.preview) == ("done", f"{job.id}.png", None)
    assert queue.claim("w") == []


def test_what_is_put_is_there_for_another_process(place: str) -> None:
    one, two = Queue(place), Queue(place)
    job = put(one)
    one.close()
    assert two.request(two.get(job.id)) == CIRCLE
    two.close()


def test_the_prompt_is_nowhere_in_plain(queue: Queue, tmp_path: Path) -> None:
    put(queue)
    queue.claim("w")
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert queue.database.is_postgresql or len(files) >= 2
    for path in files:
        assert b"canary" not in path.read_bytes(), path


def test_tenants_see_only_their_own(queue: Queue) -> None:
    job = put(queue, "ana")
    for act in (queue.get, queue.cancel):
        with pytest.raises(RecordError, match="no such job"):
            act(job.id, "eve")
    assert queue.latest("eve") == [] and [one.id for one in queue.latest("ana")] == [job.id]


def test_an_idempotency_key_gives_the_same_job(queue: Queue) -> None:
    job = put(queue, idempotency="k", body=b"one")
    again, is_new = queue.put(CIRCLE, tenant="ana", owner="ana", model="tiny", idempotency="k", body=b"one")
    assert (again.id, is_new) == (job.id, False)
    with pytest.raises(RequestError, match="another request before"):
        queue.put(CIRCLE, tenant="ana", owner="ana", model="tiny", idempotency="k", body=b"two")
    assert put(queue, "eve", idempotency="k", body=b"two").id != job.id


def test_a_spent_quota_takes_no_job_back(queue: Queue) -> None:
    def spent() -> None:
        raise BusyError("spent", 5)

    job = put(queue, idempotency="k", body=b"1")
    assert queue.put(CIRCLE, tenant="ana", owner="ana", model="tiny", idempotency="k", body=b"1", check=spent) == (
        job,
        False,
    )
    with pytest.raises(BusyError):
        put(queue, check=spent)


def test_the_same_key_at_once_is_one_job(place: str) -> None:
    queue = Queue(place)
    found: list[str] = []

    def ask() -> None:
        found.append(queue.put(CIRCLE, tenant="ana", owner="ana", model="tiny", idempotency="k", body=b"x")[0].id)

    threads = [threading.Thread(target=ask) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 6 and len(set(found)) == 1
    assert len(queue.latest(None)) == 1
    queue.close()


def test_no_job_is_claimed_twice(place: str) -> None:
    queues = [Queue(place) for _ in range(3)]
    for _ in range(24):
        put(queues[0])
    claimed: list[str] = []

    def work(queue: Queue, name: str) -> None:
        while jobs := queue.claim(name, most=2):
            claimed.extend(job.id for job in jobs)

    threads = [threading.Thread(target=work, args=(queue, f"w{i}")) for i, queue in enumerate(queues)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(claimed) == 24 == len(set(claimed))
    for queue in queues:
        queue.close()


def test_a_lost_worker_can_change_nothing(queue: Queue, clock: Clock) -> None:
    job = put(queue)
    (lost,) = queue.claim("one")
    clock.now += 11
    (held,) = queue.claim("two")
    assert (held.id, held.attempt) == (job.id, 2)
    assert not queue.beat(lost, step=5) and not done(queue, lost) and not queue.fail(lost, {})
    queue.release([lost])
    assert queue.get(job.id).worker == "two"
    assert done(queue, held)


def test_what_kills_its_workers_is_poison(queue: Queue, clock: Clock) -> None:
    job = put(queue)
    for attempt in (1, 2, 3):
        (held,) = queue.claim("w")
        assert held.attempt == attempt
        queue.release("w")
    assert queue.claim("w") == []
    ended = queue.get(job.id)
    assert ended.state == "failed" and ended.problem is not None and ended.problem["type"].endswith("poison")


def test_a_fault_of_the_services_own_puts_a_job_off(queue: Queue, clock: Clock) -> None:
    job = put(queue)
    for fault in range(1, 12):
        (held,) = queue.claim("w")
        assert (held.attempt, held.faults) == (fault, fault - 1)
        queue.put_off(held)
        clock.now += min(300, 2**fault) - 0.1
        assert queue.claim("w") == []
        clock.now += 0.2
    (held,) = queue.claim("w")
    queue.put_off(held)
    ended = queue.get(job.id)
    assert ended.state == "failed" and ended.problem is not None and ended.problem["type"].endswith("faults")


def test_cancelled_jobs_stop(queue: Queue) -> None:
    waiting, running = put(queue), put(queue, priority=1)
    (held,) = queue.claim("w")
    assert held.id == running.id
    assert queue.cancel(waiting.id, "ana").state == "cancelled" == queue.cancel(held.id).state
    assert not queue.beat(held, step=1) and not done(queue, held)
    assert queue.cancel(held.id).finished == queue.get(held.id).finished  # again changes nothing
    assert queue.claim("w") == []


def test_late_jobs_expire(queue: Queue, clock: Clock) -> None:
    waiting, running = put(queue, deadline=clock.now + 5), put(queue, priority=1, deadline=clock.now + 5)
    (held,) = queue.claim("w")
    clock.now += 6
    assert not queue.beat(held, step=1)
    assert queue.claim("w") == []
    assert queue.get(waiting.id).state == "expired" == queue.get(running.id).state


def test_a_full_queue_says_so(queue: Queue) -> None:
    for _ in range(10):
        put(queue, "ana")
    with pytest.raises(BusyError, match="10 of your jobs wait"):
        put(queue, "ana")
    for _ in range(10):
        put(queue, "eve")
    with pytest.raises(BusyError, match="20 jobs wait"):
        put(queue, "bob")
    queue.claim("w")
    put(queue, "bob")


def test_tenants_take_turns(queue: Queue, clock: Clock) -> None:
    for _ in range(6):
        put(queue, "ana")
    for _ in range(2):
        put(queue, "eve")
    order = []
    for _ in range(8):
        clock.now += 1
        (held,) = queue.claim("w")
        order.append(held.tenant)
        done(queue, held)
    assert order[:4].count("eve") == 2


def test_priority_counts_within_a_tenant_alone(queue: Queue, clock: Clock) -> None:
    low = put(queue, "ana", priority=-1)
    clock.now += 1
    high = put(queue, "ana", priority=5)
    other = put(queue, "eve", priority=-5)
    first = queue.claim("w")[0]
    clock.now += 1
    assert first.id == high.id
    assert queue.claim("w")[0].id == other.id
    assert queue.claim("w")[0].id == low.id


def test_alike_jobs_are_claimed_together(queue: Queue) -> None:
    first = put(queue)
    large, _ = queue.put(CIRCLE.replace(width=128), tenant="ana", owner="ana", model="tiny")
    second = put(queue)
    assert [job.id for job in queue.claim("w", most=8)] == [first.id, second.id]
    assert [job.id for job in queue.claim("w", most=8)] == [large.id]


def test_who_was_begun_before_is_made_alone(queue: Queue) -> None:
    jobs = [put(queue).id for _ in range(3)]
    queue.release(queue.claim("w", most=2))
    claimed = [[job.id for job in queue.claim("w", most=8)] for _ in range(3)]
    assert sorted(claimed) == sorted([job] for job in jobs)


def test_sealed_requests_of_no_job_are_swept(queue: Queue, clock: Clock) -> None:
    job = put(queue)
    orphan = new_id(clock.now)
    queue.prompts.put(orphan, "ana", CIRCLE.canonical, b"")
    assert queue.sweep(clock.now - 1) == 0
    clock.now += 100
    young = new_id(clock.now)
    queue.prompts.put(young, "ana", CIRCLE.canonical, b"")
    assert queue.sweep(clock.now - 1) == 1
    assert {record for record, _ in queue.prompts.records()} == {job.id, young}


@pytest.mark.parametrize("id_", ["", "\0", "../x", "é", "f" * 65])
def test_there_is_no_job_of_such_a_name(queue: Queue, id_: str) -> None:
    with pytest.raises(RecordError):
        queue.get(id_)


def test_what_is_forgotten_is_gone(queue: Queue, clock: Clock) -> None:
    job = put(queue)
    done(queue, queue.claim("w")[0])
    clock.now += 100
    assert [one.id for one in queue.ended_before(clock.now - 50)] == [job.id]
    queue.forget(job)
    with pytest.raises(RecordError):
        queue.get(job.id)
    with pytest.raises(RecordError):
        queue.request(job)


class Life(RuleBasedStateMachine):
    """Whatever workers, callers and time do: no job ends twice, none is lost, none is held by two."""

    @initialize()
    def begin(self) -> None:
        import tempfile

        self.folder = tempfile.TemporaryDirectory()
        self.clock = Clock()
        self.queue = Queue(f"{self.folder.name}/q.db", Limits(lease=10, attempts=3, max_queued=6), clock=self.clock)
        self.put_ids: set[str] = set()
        self.held: list[Job] = []
        self.ends: Counter[str] = Counter()

    @rule(tenant=st.sampled_from("ab"), late=st.booleans())
    def put(self, tenant: str, late: bool) -> None:
        try:
            job = put(self.queue, tenant, deadline=self.clock.now + 15 if late else None)
        except BusyError:
            assert self.queue.counts()["queued"] >= 6
        else:
            self.put_ids.add(job.id)

    @rule(most=st.integers(1, 3))
    def claim(self, most: int) -> None:
        self.held += self.queue.claim("w", most=most)

    @rule(data=st.data(), how=st.sampled_from(["finish", "fail", "release", "beat", "cancel"]))
    def act(self, data: st.DataObject, how: str) -> None:
        if not self.held:
            return
        job = data.draw(st.sampled_from(self.held))
        if how == "release":
            self.queue.release([job])
        elif how == "cancel":
            before = self.queue.get(job.id).is_open
            self.queue.cancel(job.id)
            self.ends[job.id] += before
        elif how == "beat":
            self.queue.beat(job, step=1)
        else:
            self.ends[job.id] += done(self.queue, job) if how == "finish" else self.queue.fail(job, {})

    @rule(seconds=st.integers(1, 12))
    def wait(self, seconds: int) -> None:
        self.clock.now += seconds

    @invariant()
    def all_is_well(self) -> None:
        known = {job.id: job for job in self.queue.latest(None)}
        assert known.keys() == self.put_ids
        assert all(count <= 1 for count in self.ends.values())
        for id_, count in self.ends.items():
            assert not count or not known[id_].is_open
        assert all(job.attempt <= 3 for job in known.values())

    def teardown(self) -> None:
        self.queue.close()
        self.folder.cleanup()


TestLife = Life.TestCase
TestLife.settings = settings(max_examples=15, stateful_step_count=25, deadline=None)


def test_opening_it_again_in_this_process_leaves_others_out(tmp_path: Path) -> None:
    """POSIX drops a process's locks on a file that it closes anywhere; another one would then take the write-ahead log away."""
    place = str(tmp_path / "service.db")
    queue = Queue(place)
    job = put(queue)
    again = Queue(place)
    again.close()
    code = f"from lienzo.server.jobs import Queue; q = Queue({place!r}); q.counts(); q.close()"
    subprocess.run([sys.executable, "-c", code], check=True)
    assert Path(f"{place}-wal").exists()
    assert queue.get(job.id).state == "queued"
    put(queue)
    queue.close()
