"""The queue: jobs that are durable before they are acknowledged, and what may happen to them.

A worker holds a job by its lease and by the number of its attempt (the fencing token): whatever it says of a job counts only
while the job is running under that number. So a worker that was thought dead, or whose job was cancelled, can change nothing.

    queued -> running -> done | failed | blocked
       |         |
       |         +-> queued: its worker died; after `attempts` of them: failed
       |         +-> queued, for later: the disk is full, or a database away; after `faults` of them: failed
       +---------+-> cancelled | expired
"""

import hashlib
import hmac
import json
import re
import secrets
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Literal, Self

from lienzo.errors import BusyError, LienzoError, RecordError, RequestError, StoreError
from lienzo.pipeline.generate import lockstep_key
from lienzo.pipeline.request import Request
from lienzo.provenance.keys import Keystore
from lienzo.provenance.prompts import PromptStore
from lienzo.server.schema import opened, tables

if TYPE_CHECKING:
    from sqlalchemy import Connection

IDS: Final = re.compile("[0-9a-f]{32}")
"""Of jobs; see `new_id`. Records of pictures have shorter ones."""
IDLE: Final = {"worker": None, "lease": None, "preview": None, "step": 0}
"""Of a job that no worker holds."""
State = Literal["queued", "running", "done", "failed", "blocked", "cancelled", "expired"]
OPEN: Final = ("queued", "running")
POISON: Final = {
    "type": "urn:lienzo:problem:poison",
    "title": "Its workers died",
    "detail": "It was begun several times, and its worker died or ran out of memory each time. It is not begun again.",
}
FAULTY: Final = {
    "type": "urn:lienzo:problem:faults",
    "title": "The service could not keep it",
    "detail": "It was begun several times, and each time the service's store or database failed. Ask again later.",
}
LATEST: Final = 300.0
"""Seconds that a job waits at most after a fault; at first 2, then twice as long every time."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """What is known of a job, apart from its request. Times are seconds since 1970."""

    id: str
    tenant: str
    owner: str
    model: str
    loras: tuple[tuple[str, float], ...]
    priority: int
    created: float
    deadline: float | None
    state: State
    attempt: int
    faults: int
    worker: str | None
    started: float | None
    finished: float | None
    step: int
    steps: int
    sigma: float | None
    preview: bytes | None = field(repr=False)
    picture: str | None
    receipt: dict[str, Any] | None = field(repr=False)
    warnings: tuple[str, ...]
    problem: dict[str, Any] | None
    seconds: dict[str, float] | None
    trace: str | None

    @classmethod
    def of(cls, row: Mapping[Any, Any]) -> Self:
        read = {name: row[name] for name in cls.__dataclass_fields__}
        for name in ("receipt", "problem", "seconds"):
            read[name] = None if read[name] is None else json.loads(read[name])
        read["warnings"] = tuple(json.loads(read["warnings"] or "[]"))
        read["loras"] = tuple((name, weight) for name, weight in json.loads(read["loras"]))
        return cls(**read)

    @property
    def is_open(self) -> bool:
        return self.state in OPEN

    @property
    def seconds_left(self) -> float | None:
        """How long its steps will still take, judged by those done."""
        if self.state != "running" or not self.step or self.started is None:
            return None
        return max(0.0, (time.time() - self.started) / self.step * (self.steps - self.step))  # PLMS takes one more


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Of the queue.

    Attributes:
        max_queued: jobs that may wait; max_queued_each: of one tenant.
        lease: seconds without a sign of life after which a job is taken from its worker.
        attempts: how often a job is begun before it counts as poison; faults: and how often more, where the service's own store
            or database failed.
    """

    max_queued: int = 1000
    max_queued_each: int = 100
    lease: float = 30.0
    attempts: int = 3
    faults: int = 12


class Queue:
    """Jobs in a database. Threads and processes may share it.

    Args:
        place: a SQLite file or a database URL.
        clock: seconds since 1970.
        on_end: told of every state in which jobs end, and of how many, once that is durable.
    """

    def __init__(
        self,
        place: str,
        limits: Limits | None = None,
        *,
        clock: Callable[[], float] = time.time,
        keys: Keystore | None = None,
        on_end: Callable[[State, int], object] = lambda state, jobs: None,
    ) -> None:
        self.database = opened(place)
        self.prompts = PromptStore(place)
        self.limits = limits or Limits()
        self._clock, self._on_end = clock, on_end
        self._secret = (keys or Keystore()).secret("idempotency")

    # For those who ask

    def put(
        self,
        request: Request,
        *,
        tenant: str,
        owner: str,
        model: str,
        loras: Sequence[tuple[str, float]] = (),
        priority: int = 0,
        deadline: float | None = None,
        idempotency: str | None = None,
        body: bytes = b"",
        trace: str | None = None,
        check: Callable[[], object] = lambda: None,
        charge: Callable[["Connection"], object] | None = None,
    ) -> tuple[Job, bool]:
        """Keep a job; durable when this returns.

        Args:
            deadline: seconds since 1970 after which nobody wants the picture any more.
            idempotency: the caller's key: the same again gives the same job; body: what has to be the same with it.
            trace: traceparent of what asks for it.
            check: called before anything is kept of a new job; raises where the tenant may have no more.
            charge: called in the same transaction; raises where the tenant may have no more.

        Returns:
            The job, and whether it is new.

        Raises:
            BusyError: the queue is full.
            RequestError: the idempotency key came with another body before.
        """
        from sqlalchemy import insert

        digest = None if idempotency is None else hmac.digest(self._secret, body, "sha256")
        if idempotency is not None and (known := self._repeated(tenant, idempotency, digest)):
            return known, False
        check()
        with self.database.reading() as connection:
            self._check_room(connection, tenant)
        id_ = new_id(self._clock())
        self.prompts.put(id_, tenant, request.canonical, b"")  # no salt: it opens no commitment
        values = {
            "id": id_,
            "tenant": tenant,
            "owner": owner,
            "idempotency": idempotency,
            "body": digest,
            "model": model,
            "loras": json.dumps([list(lora) for lora in loras]),
            "shape": hashlib.sha256(lockstep_key(request).encode()).hexdigest(),
            "priority": priority,
            "created": self._clock(),
            "deadline": deadline,
            "state": "queued",
            "attempt": 0,
            "step": 0,
            "steps": request.steps,
            "trace": trace,
        }
        try:
            with self.database.alone() as connection:
                known = None if idempotency is None else self._find_repeated(connection, tenant, idempotency, digest)
                if known is None:
                    self._check_room(connection, tenant)
                    if charge is not None:
                        charge(connection)
                    connection.execute(insert(tables().tables["jobs"]).values(values))
                    inputs = {picture.sha256 for picture in (request.init, request.mask) if picture is not None}
                    for sha256 in inputs:
                        connection.execute(insert(tables().tables["job_inputs"]).values(job=id_, sha256=sha256))
        except StoreError:
            raise  # whether it was kept is not known, so its request has to stay
        except LienzoError:
            self.prompts.erase(id_)
            raise
        if known is not None:  # the same came twice at once
            self.prompts.erase(id_)
            return known, False
        return self.get(id_), True

    def get(self, id_: str, tenant: str | None = None) -> Job:
        """
        Args:
            tenant: None: whosever it is.

        Raises:
            RecordError: no such job, or another tenant's.
        """
        from sqlalchemy import select

        jobs = tables().tables["jobs"]
        row = None
        if IDS.fullmatch(id_):  # PostgreSQL takes no NUL
            with self.database.reading() as connection:
                row = connection.execute(select(jobs).where(jobs.c.id == id_)).mappings().one_or_none()
        if row is None or tenant not in (None, row["tenant"]):
            raise RecordError("There is no such job: never, or not kept any longer.")
        return Job.of(row)

    def request(self, job: Job) -> Request:
        """What is asked for, unsealed; its inputs by their digests alone."""
        return Request.from_json(self.prompts.get(job.id, job.tenant).request)

    def latest(
        self, tenant: str | None, *, owner: str | None = None, before: str | None = None, limit: int = 50
    ) -> list[Job]:
        """The latest jobs first; before: the id of the last one seen."""
        from sqlalchemy import select

        jobs = tables().tables["jobs"]
        query = select(jobs).order_by(jobs.c.id.desc()).limit(limit)
        if tenant is not None:
            query = query.where(jobs.c.tenant == tenant)
        if owner is not None:
            query = query.where(jobs.c.owner == owner)
        if before is not None:
            query = query.where(jobs.c.id < before)
        with self.database.reading() as connection:
            return [Job.of(row) for row in connection.execute(query).mappings()]

    def open_of(self, tenant: str, owner: str) -> list[Job]:
        """A caller's jobs that wait or run, in the order in which they were asked for."""
        from sqlalchemy import select

        jobs = tables().tables["jobs"]
        own = (jobs.c.tenant == tenant) & (jobs.c.owner == owner) & jobs.c.state.in_(OPEN)
        with self.database.reading() as connection:
            return [Job.of(row) for row in connection.execute(select(jobs).where(own).order_by(jobs.c.id)).mappings()]

    def ahead(self, job: Job) -> int:
        """How many wait that were asked for earlier. Fairness may let it overtake some."""
        from sqlalchemy import func, select

        jobs = tables().tables["jobs"]
        earlier = (jobs.c.state == "queued") & (jobs.c.created < job.created)
        with self.database.reading() as connection:
            return connection.execute(select(func.count()).where(earlier)).scalar_one()

    def cancel(self, id_: str, tenant: str | None = None) -> Job:
        """Stop a job; one that has ended stays as it is. Its worker notices at the next step."""
        self.get(id_, tenant)
        self._change(id_, None, {"state": "cancelled", "finished": self._clock(), "preview": None})
        return self.get(id_, tenant)

    def check(self) -> None:
        """
        Raises:
            StoreError: the database does not answer.
        """
        with self.database.reading() as connection:
            connection.exec_driver_sql("SELECT 1")

    def counts(self) -> dict[str, int]:
        """State -> jobs."""
        from sqlalchemy import func, select

        state = tables().tables["jobs"].c.state
        counted = select(state, func.count().label("jobs")).group_by(state)
        with self.database.reading() as connection:
            return {row.state: row.jobs for row in connection.execute(counted)}

    def oldest_waiting(self) -> float:
        """Seconds for which the oldest job waits; 0 where none does."""
        from sqlalchemy import func, select

        jobs = tables().tables["jobs"]
        with self.database.reading() as connection:
            created = connection.execute(select(func.min(jobs.c.created)).where(jobs.c.state == "queued")).scalar()
        return 0.0 if created is None else max(0.0, self._clock() - created)

    # For workers

    def claim(self, worker: str, *, most: int = 1) -> list[Job]:
        """Take the job whose turn it is, with up to `most - 1` that can be made together with it.

        Turns go to the tenant that has fewest jobs running, then to the one that was served least recently; within a tenant
        by priority, then by age. A job that was begun before is made alone: others shall not share its fate again.
        """
        from sqlalchemy import func, or_, select, update

        jobs, tenants = tables().tables["jobs"], tables().tables["tenants"]
        now = self._clock()
        ready = (jobs.c.state == "queued") & or_(jobs.c.due.is_(None), jobs.c.due <= now)
        with self._tidied(now) as connection:
            busy = (
                select(jobs.c.tenant, func.count().label("running"))
                .where(jobs.c.state == "running")
                .group_by(jobs.c.tenant)
                .subquery()
            )
            first = (
                connection.execute(
                    select(jobs)
                    .outerjoin(busy, busy.c.tenant == jobs.c.tenant)
                    .outerjoin(tenants, tenants.c.tenant == jobs.c.tenant)
                    .where(ready)
                    .order_by(
                        func.coalesce(busy.c.running, 0),
                        func.coalesce(tenants.c.served, 0),
                        jobs.c.priority.desc(),
                        jobs.c.created,
                    )
                    .limit(1)
                )
                .mappings()
                .one_or_none()
            )
            if first is None:
                return []
            alike = [jobs.c[name] == first[name] for name in ("tenant", "model", "loras", "shape")]
            chosen = [first["id"]]
            if most > 1 and first["attempt"] == 0:
                others = select(jobs.c.id).where(ready, jobs.c.attempt == 0, jobs.c.id != first["id"], *alike)
                ranked = others.order_by(jobs.c.priority.desc(), jobs.c.created).limit(most - 1)
                chosen += connection.execute(ranked).scalars().all()
            values = {
                "state": "running",
                "attempt": jobs.c.attempt + 1,
                "worker": worker,
                "lease": now + self.limits.lease,
                "started": now,
                "step": 0,
            }
            # One that was cancelled since it was read stays so.
            mine = jobs.c.id.in_(chosen) & (jobs.c.state == "queued")
            connection.execute(update(jobs).where(mine).values(values))
            self._served(connection, first["tenant"], now)
            held = jobs.c.id.in_(chosen) & (jobs.c.state == "running") & (jobs.c.worker == worker)
            rows = connection.execute(select(jobs).where(held)).mappings().all()
        order = {id_: place for place, id_ in enumerate(chosen)}
        return sorted(map(Job.of, rows), key=lambda job: order[job.id])

    def beat(
        self, job: Job, *, step: int | None = None, sigma: float | None = None, preview: bytes | None = None
    ) -> bool:
        """A sign of life, with how far it is. False: the job is not this worker's any more, or too late; stop."""
        now = self._clock()
        if job.deadline is not None and now > job.deadline:
            self._change(job.id, job.attempt, {"state": "expired", "finished": now, "preview": None})
            return False
        told = {"step": step, "sigma": sigma, "preview": preview}
        known = {name: value for name, value in told.items() if value is not None}
        return self._change(job.id, job.attempt, {"lease": now + self.limits.lease, **known})

    def holds(self, job: Job) -> bool:
        """Whether the job is still this worker's; says nothing, so takes no flush of the disk."""
        from sqlalchemy import select

        jobs = tables().tables["jobs"]
        same = (jobs.c.id == job.id) & (jobs.c.attempt == job.attempt) & (jobs.c.state == "running")
        with self.database.reading() as connection:
            return connection.execute(select(jobs.c.id).where(same)).one_or_none() is not None

    def finish(
        self,
        job: Job,
        *,
        picture: str,
        receipt: Mapping[str, Any],
        warnings: Sequence[str],
        seconds: Mapping[str, float],
    ) -> bool:
        """It is done. False: it was not this worker's any more, and nothing changed."""
        ended = {
            "state": "done",
            "finished": self._clock(),
            "picture": picture,
            "receipt": json.dumps(receipt),
            "warnings": json.dumps(list(warnings)),
            "seconds": json.dumps(seconds),
            "preview": None,
        }
        return self._change(job.id, job.attempt, ended)

    def fail(self, job: Job, problem: Mapping[str, Any], *, state: Literal["failed", "blocked"] = "failed") -> bool:
        """It cannot be done, however often it is tried."""
        ended = {"state": state, "finished": self._clock(), "problem": json.dumps(problem), "preview": None}
        return self._change(job.id, job.attempt, ended)

    def release(self, jobs_of: str | Iterable[Job]) -> None:
        """Give jobs back, to be begun anew: those given, or all that a worker holds."""
        from sqlalchemy import update

        jobs = tables().tables["jobs"]
        with self.database.alone() as connection:
            if isinstance(jobs_of, str):
                connection.execute(
                    update(jobs).where(jobs.c.state == "running", jobs.c.worker == jobs_of).values(lease=0.0)
                )
            else:
                for job in jobs_of:
                    same = (jobs.c.id == job.id) & (jobs.c.attempt == job.attempt) & (jobs.c.state == "running")
                    connection.execute(update(jobs).where(same).values(lease=0.0))
        with self._tidied(self._clock()):
            pass

    def put_off(self, job: Job) -> None:
        """Give a job back after a fault of the service's own. It waits, longer every time, and after `faults` of them has failed."""
        now = self._clock()
        if job.faults + 1 >= self.limits.faults:
            ended = {"state": "failed", "problem": json.dumps(FAULTY), "finished": now}
        else:
            ended = {"state": "queued", "due": now + min(LATEST, 2.0 ** (job.faults + 1))}
        self._change(job.id, job.attempt, {**ended, **IDLE, "faults": job.faults + 1})

    def workers(self) -> list[str]:
        """Who holds jobs."""
        from sqlalchemy import select

        jobs = tables().tables["jobs"]
        with self.database.reading() as connection:
            held = select(jobs.c.worker).where(jobs.c.state == "running").distinct()
            return [name for name in connection.execute(held).scalars() if name is not None]

    # Retention

    def ended_before(self, when: float, *, limit: int = 100) -> Sequence[Job]:
        """Jobs that ended earlier."""
        from sqlalchemy import select

        jobs = tables().tables["jobs"]
        with self.database.reading() as connection:
            rows = connection.execute(select(jobs).where(jobs.c.finished < when).limit(limit)).mappings()
            return [Job.of(row) for row in rows]

    def forget(self, job: Job) -> None:
        """Remove all that is known of a job; its sealed request can be opened by nobody any more."""
        from sqlalchemy import delete

        jobs, inputs = tables().tables["jobs"], tables().tables["job_inputs"]
        with self.database.writing() as connection:
            connection.execute(delete(inputs).where(inputs.c.job == job.id))
            connection.execute(delete(jobs).where(jobs.c.id == job.id))
        self.prompts.erase(job.id)

    def sweep(self, before: float) -> int:
        """Erase sealed requests of no job, which a process left that died between the two; younger ones may still get theirs.

        Returns:
            How many.
        """
        from sqlalchemy import select

        jobs = tables().tables["jobs"]
        sealed = [
            record for record, _ in self.prompts.records() if IDS.fullmatch(record) and record < new_id(before)[:12]
        ]
        with self.database.reading() as connection:
            known = set(connection.execute(select(jobs.c.id)).scalars())
        orphans = [record for record in sealed if record not in known]
        for record in orphans:
            self.prompts.erase(record)
        return len(orphans)

    def close(self) -> None:
        self.prompts.close()
        self.database.close()

    # Within

    @contextmanager
    def _tidied(self, now: float) -> Iterator["Connection"]:
        """A transaction alone, with jobs whose lease has run out taken back, and those that are too late expired."""
        with self.database.alone() as connection:
            ended = self._take_back(connection, now)
            yield connection
        for state, jobs in ended.items():
            self._on_end(state, jobs)

    def _change(self, id_: str, attempt: int | None, values: Mapping[str, Any]) -> bool:
        """Of a job that is still open; with an attempt: that is still running under that number."""
        from sqlalchemy import update

        jobs = tables().tables["jobs"]
        same = jobs.c.id == id_
        same &= jobs.c.state.in_(OPEN) if attempt is None else (jobs.c.state == "running") & (jobs.c.attempt == attempt)
        with self.database.writing() as connection:
            is_changed = connection.execute(update(jobs).where(same).values(**values)).rowcount == 1
        if is_changed and "finished" in values:
            self._on_end(values["state"], 1)
        return is_changed

    def _take_back(self, connection: "Connection", now: float) -> dict[State, int]:
        """Jobs whose lease has run out wait again, or count as poison; jobs that are too late expire. How many ended so."""
        from sqlalchemy import update

        jobs = tables().tables["jobs"]
        lost = (jobs.c.state == "running") & (jobs.c.lease < now)
        poisoned = {"state": "failed", "finished": now, "problem": json.dumps(POISON), **IDLE}
        deadly = jobs.c.attempt - jobs.c.faults >= self.limits.attempts
        poison = connection.execute(update(jobs).where(lost, deadly).values(poisoned))
        connection.execute(update(jobs).where(lost).values(state="queued", **IDLE))
        late = (jobs.c.state == "queued") & (jobs.c.deadline < now)
        expired = connection.execute(update(jobs).where(late).values(state="expired", finished=now))
        return {"failed": poison.rowcount, "expired": expired.rowcount}

    def _served(self, connection: "Connection", tenant: str, now: float) -> None:
        from sqlalchemy import insert, update

        tenants = tables().tables["tenants"]
        if not connection.execute(update(tenants).where(tenants.c.tenant == tenant).values(served=now)).rowcount:
            connection.execute(insert(tenants).values(tenant=tenant, served=now))

    def _check_room(self, connection: "Connection", tenant: str) -> None:
        from sqlalchemy import case, func, select

        jobs = tables().tables["jobs"]
        own = func.coalesce(func.sum(case((jobs.c.tenant == tenant, 1), else_=0)), 0)
        waiting, ours = connection.execute(select(func.count(), own).where(jobs.c.state == "queued")).one()
        if waiting >= self.limits.max_queued or ours >= self.limits.max_queued_each:
            whose = "jobs wait" if waiting >= self.limits.max_queued else "of your jobs wait"
            raise BusyError(
                f"{max(ours, 0) if whose[0] == 'o' else waiting} {whose}, and no more may. Try again later.", 5.0
            )

    def _repeated(self, tenant: str, idempotency: str, digest: bytes | None) -> Job | None:
        with self.database.reading() as connection:
            return self._find_repeated(connection, tenant, idempotency, digest)

    def _find_repeated(
        self, connection: "Connection", tenant: str, idempotency: str, digest: bytes | None
    ) -> Job | None:
        from sqlalchemy import select

        jobs = tables().tables["jobs"]
        same = (jobs.c.tenant == tenant) & (jobs.c.idempotency == idempotency)
        row = connection.execute(select(jobs).where(same)).mappings().one_or_none()
        if row is None:
            return None
        if row["body"] != digest:
            raise RequestError(
                "Idempotency-Key: came with another request before. Send the same again, or take another key."
            )
        return Job.of(row)


def new_id(now: float) -> str:
    """Of a job: 48 bits of time in milliseconds, so that they sort by age, and 80 bits of chance."""
    return f"{int(now * 1000):012x}{secrets.token_hex(10)}"
