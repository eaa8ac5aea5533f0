"""What the service measures, for Prometheus. Nothing here knows a prompt, a tenant or a picture.

Workers are processes of their own: prometheus_client lets them share counters through files in $PROMETHEUS_MULTIPROC_DIR, which
has to be set before this module is imported.
"""

import os
import time
from collections.abc import Callable, Iterable, Mapping
from itertools import pairwise
from typing import TYPE_CHECKING, Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.multiprocess import MultiProcessCollector

if TYPE_CHECKING:
    from prometheus_client.metrics_core import Metric

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)

REQUESTS = Histogram(
    "lienzo_http_request_seconds", "From a request's arrival to its answer's beginning.", ["route", "method", "status"],
    buckets=(0.002, 0.005, *_SECONDS),
)  # fmt: skip
WAITED = Histogram("lienzo_job_wait_seconds", "From a job's acceptance to its beginning.", buckets=_SECONDS)
STAGE = Histogram("lienzo_stage_seconds", "Stages of a picture.", ["stage"], buckets=_SECONDS)
JOB = Histogram("lienzo_job_seconds", "From a job's acceptance to its picture.", buckets=_SECONDS)
PICTURES = Counter("lienzo_pictures", "Pictures made.", ["model"])
REFUSED = Counter("lienzo_refusals", "Requests and pictures refused.", ["reason"])
FAULTS = Counter("lienzo_faults", "Jobs given back after a fault.")
FAILED = Counter("lienzo_jobs_failed", "Jobs that failed for good.", ["reason"])
BATCH = Histogram("lienzo_batch_size", "Jobs made at once.", buckets=(1, 2, 4, 8, 16))
MODEL_LOADS = Counter("lienzo_model_loads", "Models read into memory, the first time and at each switch.", ["model"])
JOULES = Counter("lienzo_energy_joules", "Energy of the processors for pictures, where the machine measures it.")
VERDICTS = Counter("lienzo_verdicts", "Verdicts of verify and detect.", ["of", "verdict"])
MEMORY = Gauge(
    "lienzo_memory_bytes", "Resident memory of API and workers.", ["process"], multiprocess_mode="livesum"
)  # fmt: skip
WORKERS_STARTED = Counter("lienzo_worker_starts", "Workers started, the first time and after each death.")


class Stages:
    """When the stages of pictures made together began and ended, each picture with its share.

    The first step is known only when it is done, so what was before it (reading the prompt) is told from it by the median of
    the others.

    Args:
        pictures: made together.
    """

    def __init__(self, pictures: int) -> None:
        self._pictures = pictures
        self._times = [time.perf_counter()]
        self.seconds: dict[str, float] = {}

    def step(self) -> None:
        self._times.append(time.perf_counter())

    def end(self, *, marking: float) -> None:
        """
        Args:
            marking: seconds of all that came after decoding.
        """
        first, *others = [later - earlier for earlier, later in pairwise(self._times)]
        usual = sorted(others)[len(others) // 2] if others else first
        spent = {
            "encode": max(0.0, first - usual),
            "steps": sum(others) + min(first, usual),
            "decode": max(0.0, time.perf_counter() - self._times[-1] - marking),
            "mark": marking,
        }
        self.seconds = {stage: round(seconds / self._pictures, 6) for stage, seconds in spent.items()}

    def observe(self) -> None:
        for stage, seconds in self.seconds.items():
            STAGE.labels(stage).observe(seconds)


class QueueState:
    """The queue as it is when somebody asks.

    Args:
        counts: state -> jobs; oldest: seconds for which the oldest waits.
    """

    def __init__(self, counts: Callable[[], Mapping[str, int]], oldest: Callable[[], float]) -> None:
        self._counts, self._oldest = counts, oldest

    def collect(self) -> Iterable["Metric"]:
        counts = self._counts()
        jobs = GaugeMetricFamily("lienzo_jobs", "Jobs kept, by state.", labels=["state"])
        for state in ("queued", "running", "done", "failed", "blocked", "cancelled", "expired"):
            jobs.add_metric([state], counts.get(state, 0))
        yield jobs
        yield GaugeMetricFamily("lienzo_queue_age_seconds", "For how long the oldest job waits.", value=self._oldest())


def text(queue: QueueState) -> bytes:
    """All metrics, as Prometheus reads them."""
    MEMORY.labels("api").set(resident())
    registry = CollectorRegistry()
    MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
    registry.register(queue)
    return generate_latest(registry)


def resident() -> int:
    """Bytes of memory that this process holds."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
