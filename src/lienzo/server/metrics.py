"""What the service measures, for Prometheus. Nothing here knows a prompt, a tenant or a picture.

Workers are processes of their own: prometheus_client lets them share counters through files in $PROMETHEUS_MULTIPROC_DIR. Each
file is named after a place ("api", "worker-0"), not after a process, so that a worker goes on counting where the one that died
in its place stopped, and the files do not become more with every death. Both variables have to be set before this module is
imported; without the folder, a process tells of itself alone.
"""

import os
import time
from collections.abc import Callable, Iterable, Mapping
from itertools import pairwise
from typing import TYPE_CHECKING, Final, get_args

from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge, Histogram, generate_latest, values
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.metrics import MetricWrapperBase
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead

from lienzo.errors import LienzoError
from lienzo.server.jobs import Queue, State

if TYPE_CHECKING:
    from prometheus_client.metrics_core import Metric

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
PLACE: Final = "METRICS_PLACE"
"""The environment's variable that says which place a process has."""
OTHER: Final = "other"
"""The label of whatever a caller may make up: paths and methods that there are not."""
METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
ME: Final = os.environ.get(PLACE, "api")
_SHARED: Final = "PROMETHEUS_MULTIPROC_DIR" in os.environ
if _SHARED:
    values.ValueClass = values.MultiProcessValue(lambda: ME)  # type: ignore[no-untyped-call]
_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)

REQUESTS = Histogram(
    "lienzo_http_request_seconds", "From a request's arrival to its answer's beginning.", ["route", "method", "status"],
    buckets=(0.002, 0.005, *_SECONDS),
)  # fmt: skip
WAITED = Histogram("lienzo_job_wait_seconds", "From a job's acceptance to its beginning.", buckets=_SECONDS)
STAGE = Histogram("lienzo_stage_seconds", "Stages of a picture.", ["stage"], buckets=_SECONDS)
JOB = Histogram("lienzo_job_seconds", "From a job's acceptance to its picture.", buckets=_SECONDS)
PICTURES = Counter("lienzo_pictures", "Pictures made.", ["model"])
UNWATERMARKED = Counter(
    "lienzo_pictures_unwatermarked", "Pictures without a watermark: no room for one, or not asked for."
)
ENDED = Counter("lienzo_jobs_ended", "Jobs that ended, by how.", ["state"])
FAILED = Counter(
    "lienzo_jobs_failed", "Jobs that failed for good, by why; those that are poison are not among them.", ["reason"]
)
REFUSED = Counter("lienzo_refusals", "Requests and pictures refused.", ["reason"])
FAULTS = Counter("lienzo_faults", "Jobs given back after a fault.", ["reason"])
BATCH = Histogram("lienzo_batch_size", "Jobs made at once.", buckets=(1, 2, 4, 8, 16))
LOADED = Histogram(
    "lienzo_model_load_seconds",
    "Reading a model into memory, the first time and at each switch.",
    ["model"],
    buckets=_SECONDS,
)
PUT_AWAY = Counter("lienzo_model_put_away", "Models that had to make room for others.")
JOULES = Counter(
    "lienzo_energy_joules", "Energy of the processors while pictures were made, where the machine measures it."
)
VERDICTS = Counter("lienzo_verdicts", "Verdicts of verify and detect.", ["of", "verdict"])
MEMORY = Gauge("lienzo_memory_bytes", "Resident memory of API and workers.", ["process"], multiprocess_mode="livesum")
WORKERS_STARTED = Counter("lienzo_worker_starts", "Workers started, the first time and after each death.")

STAGES: Final = ("encode", "steps", "decode", "mark", "store")
STATES: Final[tuple[State, ...]] = get_args(State)
for _stage in STAGES:  # what is not there yet counts as 0, so that the first one is seen as an increase
    STAGE.labels(_stage)
for _state in STATES[2:]:
    ENDED.labels(_state)
for _reason in ("blocked", "busy", "log"):
    REFUSED.labels(_reason)


def names() -> set[str]:
    """Of all samples that may be told, apart from histograms' buckets and sums, which go with their counts."""
    endings = {"counter": "_total", "histogram": "_count"}
    described = [
        one for metric in globals().values() if isinstance(metric, MetricWrapperBase) for one in metric.describe()
    ]
    return {one.name + endings.get(one.type, "") for one in described} | set(Now.NAMES)


def known_method(method: str) -> str:
    return method if method in METHODS else OTHER


def http(route: str | None, method: str, status: int, seconds: float) -> None:
    """Of a request.

    Args:
        route: the template of its path; None: there is no such path.
    """
    REQUESTS.labels(route or OTHER, known_method(method), status).observe(seconds)


def ended(state: State, jobs: int) -> None:
    ENDED.labels(state).inc(jobs)


def measure_memory() -> None:
    """Of this process."""
    MEMORY.labels(ME).set(resident())


def forget_memory(place: str) -> None:
    """Of a process that is dead."""
    if _SHARED:
        mark_process_dead(place)  # type: ignore[no-untyped-call]


class Stages:
    """When the stages of pictures made together began and ended; storing them comes after, one by one.

    The first step is known only when it is done, so what was before it (reading the prompt) is told from it by the median of
    the others.

    Args:
        pictures: made together.

    Attributes:
        begun: seconds since 1970.
        whole: stage -> seconds that it took, in their order, without a gap between them.
    """

    def __init__(self, pictures: int) -> None:
        self._pictures = pictures
        self.begun = time.time()
        self._times = [time.perf_counter()]
        self.whole: dict[str, float] = {}

    def step(self) -> None:
        self._times.append(time.perf_counter())

    def end(self, *, marking: float) -> None:
        """
        Args:
            marking: seconds of all that came after decoding.
        """
        first, *others = [later - earlier for earlier, later in pairwise(self._times)]
        usual = sorted(others)[len(others) // 2] if others else first
        self.whole = {
            "encode": max(0.0, first - usual),
            "steps": sum(others) + min(first, usual),
            "decode": max(0.0, time.perf_counter() - self._times[-1] - marking),
            "mark": marking,
        }

    def spans(self) -> Iterable[tuple[str, float, float]]:
        """Stage, when it began (seconds since 1970), seconds that it took."""
        at = self.begun
        for stage, taken in self.whole.items():
            yield stage, at, taken
            at += taken

    @property
    def seconds(self) -> dict[str, float]:
        """Stage -> each picture's share."""
        return {stage: round(seconds / self._pictures, 6) for stage, seconds in self.whole.items()}


class Now:
    """The queue and the workers as they are when somebody asks.

    Args:
        alive: workers that run.
    """

    NAMES: Final[Mapping[str, str]] = {
        "lienzo_workers": "Workers that run.",
        "lienzo_database_up": "Whether the database answers.",
        "lienzo_jobs": "Jobs kept, by state.",
        "lienzo_queue_age_seconds": "For how long the oldest job waits.",
    }

    def __init__(self, queue: Queue, alive: Callable[[], int]) -> None:
        self._queue, self._alive = queue, alive

    def collect(self) -> Iterable["Metric"]:
        yield self._gauge("lienzo_workers", {(): self._alive()})
        try:
            counts, oldest = self._queue.counts(), self._queue.oldest_waiting()
        except LienzoError:  # what the processes counted is told all the same
            yield self._gauge("lienzo_database_up", {(): 0})
            return
        yield self._gauge("lienzo_database_up", {(): 1})
        yield self._gauge("lienzo_jobs", {(state,): counts.get(state, 0) for state in STATES}, "state")
        yield self._gauge("lienzo_queue_age_seconds", {(): oldest})

    def _gauge(self, name: str, samples: Mapping[tuple[str, ...], float], *labels: str) -> "Metric":
        gauge = GaugeMetricFamily(name, self.NAMES[name], labels=labels)
        for of, sample in samples.items():
            gauge.add_metric(of, sample)
        return gauge


def text(now: Now) -> bytes:
    """All metrics, as Prometheus reads them."""
    measure_memory()
    registry = CollectorRegistry()
    registry.register(now)
    if _SHARED:
        MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
    else:
        registry.register(REGISTRY)
    return generate_latest(registry)


def resident() -> int:
    """Bytes of memory that this process holds."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
