"""A worker: takes jobs from the queue, makes their pictures through the studio, stores them. A process of its own.

Started by the keeper as `python -m lienzo.server.worker`, with the settings as JSON in its first line of stdin; each
further line wakes it. When stdin ends, whoever started it is gone, and it stops at once; on SIGTERM it finishes what it holds first.
Each line that it writes to stdout says that it got on: with a job's id, if something of that job has changed.
"""

import contextlib
import io
import json
import os
import signal
import socket
import sys
import threading
import time
import traceback
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

import torch

from lienzo.errors import BlockedError, LienzoError, LogError, OutputError, StoreError
from lienzo.pipeline.generate import Result, Step, finished, resolve
from lienzo.provenance.energy import Spent
from lienzo.provenance.marking import Marked
from lienzo.provenance.settings import Settings
from lienzo.provenance.writing import encode
from lienzo.safety import Outcome
from lienzo.server import metrics, tracing
from lienzo.server.jobs import Job, Queue
from lienzo.server.pictures import Pictures
from lienzo.server.problems import kind, problem_of, status_of
from lienzo.server.settings import Service
from lienzo.studio import House, Pipeline
from lienzo.weights import load

if TYPE_CHECKING:
    from lienzo.models.bundle import Bundle

IDLE = 0.5
"""Seconds between looks into an empty queue, if nobody says that there is something."""
PREVIEW, PREVIEW_OF = 64, 4
"""Pixels of a preview's longer side at most, and the part of the picture's own: enough to see what it will be, too few to be it."""
PREVIEW_EVERY = 1.0
"""Seconds."""
PREVIEW_UNTIL = 0.5
"""Of the steps: later ones would show a picture that is all but finished, and carries no mark."""
BEAT = 0.2
"""Seconds between signs of life in the database, each of which is a flush of the disk."""
AWAY = (StoreError, OutputError, LogError, OSError)
"""Not the job's fault: a disk that is full, a database that is away. Tried again, later."""
FAULTS = (*AWAY, MemoryError, RuntimeError)
"""What may pass."""
for _fault in FAULTS:  # from 0, so that the first one is seen as an increase
    metrics.FAULTS.labels(kind(_fault))


class _NobodyWaits(Exception):  # noqa: N818 (no error: it ends a run)
    """All jobs of a batch were cancelled, or came too late."""


class Models:
    """Loaded models, with the least recently used one put away first.

    Args:
        service: which models there are, and how many are kept.
    """

    def __init__(self, service: Service) -> None:
        self._service = service
        self._loaded: OrderedDict[tuple[str, tuple[tuple[str, float], ...]], Bundle] = OrderedDict()

    def get(self, model: str, loras: tuple[tuple[str, float], ...]) -> "Bundle":
        """
        Raises:
            LienzoError: it cannot be loaded.
        """
        key = model, loras
        if key not in self._loaded:
            self._make_room(self._service.cached - 1)
            with metrics.LOADED.labels(model).time():
                self._loaded[key] = self._load(model, loras)  # which may have loaded another one on the way
        self._loaded.move_to_end(key)
        self._make_room(self._service.cached)
        return self._loaded[key]

    def _make_room(self, most: int) -> None:
        while len(self._loaded) > most:
            self._loaded.popitem(last=False)
            metrics.PUT_AWAY.inc()

    def _load(self, model: str, loras: tuple[tuple[str, float], ...]) -> "Bundle":
        if not loras:
            return load(self._service.sources[model], dtype=self._service.dtype, device=self._service.device)
        adapters = [(self._service.lora_sources[name], weight) for name, weight in loras]
        return Pipeline(self.get(model, ())).with_adapters(*adapters).bundle


class Worker:
    """Makes pictures until it is told to stop.

    Args:
        name: unlike every other worker's.
        tell: told whenever it gets on: the id of a job of which something has changed, or nothing.
    """

    def __init__(self, service: Service, name: str, tell: Callable[[str], object]) -> None:
        self.service, self.name, self.tell = service, name, tell
        self.queue = Queue(service.database_place, service.limits, on_end=metrics.ended)
        self.pictures = Pictures(service, self.queue.database)
        self.models = Models(service)
        self._houses: dict[str, TimedHouse] = {}
        self.draining = threading.Event()
        self.woken = threading.Event()

    def run(self) -> None:
        while not self.draining.is_set():
            self.tell("")
            try:
                jobs = self.queue.claim(self.name, most=self.service.batch)
            except StoreError as error:
                complain(f"the queue cannot be read: {error}")
                self.draining.wait(2)
                continue
            metrics.measure_memory()
            if jobs:
                self.begun(jobs)
                self.do(jobs)
            else:
                self.woken.wait(IDLE)
                self.woken.clear()

    def begun(self, jobs: Sequence[Job]) -> None:
        """Count jobs that were claimed together."""
        metrics.BATCH.observe(len(jobs))
        for job in jobs:
            assert job.started is not None
            if job.attempt == 1:  # else it did not wait alone
                metrics.WAITED.observe(max(0.0, job.started - job.created))
                tracing.record("wait", job.trace, job.created, job.started)

    def do(self, jobs: Sequence[Job]) -> None:
        """Make the pictures of jobs that were claimed together."""
        with self._beating(jobs):
            try:
                self._try(jobs)
            except StoreError as error:  # while it was told how they ended: their leases run out
                complain(f"the queue cannot be written: {error}")
            except Exception as error:  # without its words, which may hold a prompt
                where = "".join(traceback.format_tb(error.__traceback__))
                complain(f"a fault of lienzo's: {type(error).__name__}\n{where}")
                self._give_back(jobs, is_away=False)
        for job in jobs:
            self.tell(job.id)

    def _try(self, jobs: Sequence[Job]) -> None:
        try:
            self._make(jobs)
        except BlockedError as error:
            if len(jobs) > 1:  # somebody's picture was refused; whose?
                for job in jobs:
                    self._try([job])
                return
            metrics.REFUSED.labels("blocked").inc()
            trace(jobs[0], error="blocked")
            self.queue.fail(jobs[0], problem_of(error), state="blocked")
        except FAULTS as error:
            words = f": {error}" if isinstance(error, LienzoError) else ""  # what others say may hold a prompt
            complain(f"a fault, which may pass: {type(error).__name__}{words}")
            reason = next(kind(one) for one in FAULTS if isinstance(error, one))
            metrics.FAULTS.labels(reason).inc(len(jobs))
            for job in jobs:
                trace(job, error=reason)
            self._give_back(jobs, isinstance(error, AWAY))
        except LienzoError as error:
            if len(jobs) > 1:
                for job in jobs:
                    self._try([job])
                return
            if status_of(error) >= 500:  # whose words the job's problem leaves out
                complain(f"a job cannot be done: {error}")
            metrics.FAILED.labels(kind(error)).inc()
            trace(jobs[0], error=kind(error))
            self.queue.fail(jobs[0], problem_of(error))

    def _make(self, jobs: Sequence[Job]) -> None:
        requests = [self.pictures.filled(self.queue.request(job), job.tenant) for job in jobs]
        bundle = self.models.get(jobs[0].model, jobs[0].loras)
        for request in requests:
            self.service.check(resolve(bundle, request))  # what was left to the model is known only now
        house = self._house(jobs[0].tenant)
        house.marking = 0.0
        stages = metrics.Stages(len(jobs))
        held, next_preview, next_beat = list(jobs), 0.0, 0.0

        def tell(step: Step) -> None:
            nonlocal held, next_preview, next_beat
            stages.step()
            self.tell("")
            metrics.measure_memory()
            previews: Sequence[bytes | None] = [None] * len(jobs)
            begun = time.monotonic()
            # What a check may still refuse is not shown.
            is_early = step.index < PREVIEW_UNTIL * step.of
            if not house.checks and is_early and begun > max(next_preview, next_beat):
                previews = list(small(step))
                next_preview = max(begun + PREVIEW_EVERY, begun + 20 * (time.monotonic() - begun))
            if begun < next_beat:
                held = [job for job in held if self.queue.holds(job)]
            else:
                told = zip(jobs, previews, strict=True)
                held = [
                    job
                    for job, preview in told
                    if job in held and self.queue.beat(job, step=step.index, sigma=step.sigma, preview=preview)
                ]
                next_beat = time.monotonic() + BEAT
                for job in jobs:
                    self.tell(job.id)
            if not held:
                raise _NobodyWaits

        with contextlib.suppress(_NobodyWaits):
            results = finished(house.make(bundle, requests), tell)
            stages.end(marking=house.marking)
            for job, result in zip(jobs, results, strict=True):
                if job in held:
                    self._deliver(job, result, stages)

    def _house(self, tenant: str) -> "TimedHouse":
        if tenant not in self._houses:
            self._houses[tenant] = TimedHouse(Settings.read(tenant=tenant, private=self.service.private or None))
        return self._houses[tenant]

    def _deliver(self, job: Job, result: Result, stages: "metrics.Stages") -> None:
        assert isinstance(result, Marked), "the service serves marked pictures alone"
        begun, began = time.perf_counter(), time.time()
        name = self.pictures.keep(job.id, job.attempt, encode(result, "PNG"))
        seconds = {**stages.seconds, "store": round(time.perf_counter() - begun, 6)}
        kept = self.queue.finish(job, picture=name, receipt=result.document, warnings=result.warnings, seconds=seconds)
        if kept:
            metrics.PICTURES.labels(job.model).inc()
            metrics.JOB.observe(max(0.0, time.time() - job.created))
            for stage, taken in seconds.items():
                metrics.STAGE.labels(stage).observe(taken)
            whole = trace(job)
            for stage, at, taken in (*stages.spans(), ("store", began, seconds["store"])):
                tracing.record(stage, whole, at, at + taken)
            if "watermark" not in result.signed.receipt.marks:
                metrics.UNWATERMARKED.inc()
            metrics.JOULES.inc(result.signed.receipt.joules or 0)
        else:
            self.pictures.remove(name)

    def _give_back(self, jobs: Sequence[Job], is_away: bool) -> None:
        with contextlib.suppress(StoreError):  # then the leases run out by themselves
            if is_away:
                for job in jobs:
                    self.queue.put_off(job)
            else:
                self.queue.release(jobs)
        self.draining.wait(1)

    @contextlib.contextmanager
    def _beating(self, jobs: Sequence[Job]) -> Iterator[None]:
        """Signs of life while something takes longer than a step: loading a model, a large decode."""
        over = threading.Event()

        def beat() -> None:
            while not over.wait(self.service.lease / 3):
                with contextlib.suppress(StoreError):
                    for job in jobs:
                        self.queue.beat(job)

        thread = threading.Thread(target=beat, daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()


class TimedHouse(House):
    """A house that knows how long all that comes after decoding took."""

    marking = 0.0

    def _finished(self, result: Result, admitted: Outcome, spent: Spent) -> Result:
        begun = time.perf_counter()
        try:
            return super()._finished(result, admitted, spent)
        finally:
            self.marking += time.perf_counter() - begun


def small(step: Step) -> Iterator[bytes]:
    """Previews, as small PNGs."""
    for image in step.previews():
        side = min(PREVIEW, max(image.size) // PREVIEW_OF)
        image.thumbnail((side, side))
        file = io.BytesIO()
        image.save(file, "PNG")
        yield file.getvalue()


def say(line: str) -> None:
    """To the keeper."""
    with contextlib.suppress(OSError):  # it is gone, which ends this process too
        os.write(sys.stdout.fileno(), f"{line}\n".encode())


def complain(message: str) -> None:
    print(f"worker {os.getpid()}: {message}", file=sys.stderr, flush=True)


def trace(job: Job, *, error: str | None = None) -> str | None:
    """A span of this attempt at a job, which is over."""
    assert job.started is not None
    known: tracing.Attributes = {
        "lienzo.job": job.id,
        "lienzo.model": job.model,
        "lienzo.steps": job.steps,
        "lienzo.attempt": job.attempt,
    }
    return tracing.record("make", job.trace, job.started, time.time(), known, error=error)


def worker_name() -> str:
    """Says which machine's and which process it is, so that others see whether it lives."""
    return f"{socket.gethostname()}:{os.getpid()}:{time.time_ns()}"


def main() -> None:
    service = Service.from_dict(json.loads(sys.stdin.readline()))
    torch.set_num_threads(max(1, (os.cpu_count() or 1) // service.workers))
    tracing.start(metrics.ME)
    worker = Worker(service, worker_name(), say)

    def drain(*_: object) -> None:
        worker.draining.set()
        worker.woken.set()

    signal.signal(signal.SIGTERM, drain)
    # Ctrl-C reaches the whole group; the keeper tells its workers what to do.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_listen, args=(worker,), daemon=True).start()
    worker.run()
    tracing.stop()


def _listen(worker: Worker) -> None:
    """Each line says that there is something to do; the end, that nobody is there any more."""
    for _ in sys.stdin:
        worker.woken.set()
    os._exit(1)


if __name__ == "__main__":
    main()
