"""What the service adds to making pictures, and what it does with more than it can make: `python -m benchmarks.service`.

A real `lienzo serve` on this machine's loopback alone, with the embedded model.

1. Overhead: jobs one after the other, each watched by its events. From sending the request until the job is seen to be done, less
   what its stages took; and the parts of that, which overlap: who waits for the acknowledgement has the worker begin meanwhile.
2. Load: for a while, jobs come at random moments (a Poisson process), at 1, 2 and 5 times what it can make. How long
   acknowledgements and pictures take, how many were refused with 429, how much memory API and workers held, and whether every
   acknowledged job was done.
"""

import argparse
import json
import os
import random
import re
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

import httpx

BODY = {"prompt": "a red circle left of a blue square", "steps": 8}
CLOSED = ("done", "failed", "blocked", "cancelled", "expired")


@dataclass
class Service:
    url: str
    process: "subprocess.Popen[str]"
    client: httpx.Client = field(repr=False)

    def memory(self) -> int:
        """Bytes that the API and its workers hold."""
        total = 0
        for pid in [self.process.pid, *map(int, _children(self.process.pid))]:
            fields = Path(f"/proc/{pid}/statm").read_text().split()
            total += int(fields[1]) * os.sysconf("SC_PAGE_SIZE")
        return total


def _children(pid: int) -> list[str]:
    return [child for task in Path(f"/proc/{pid}/task").glob("*/children") for child in task.read_text().split()]


def start(home: Path, max_queued: int) -> Service:
    (home / "config.toml").write_text(f"[service]\nmax_queued = {max_queued}\nmax_queued_each = {max_queued}\n")
    process = subprocess.Popen(
        [sys.executable, "-m", "lienzo", "serve", "--no-auth", "--port", "0"],
        env={**os.environ, "LIENZO_HOME": str(home)}, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stderr is not None
    found = None
    while found is None:
        found = re.search(r"http://[\d.:]+", process.stderr.readline())
    threading.Thread(target=process.stderr.read, daemon=True).start()
    client = httpx.Client(base_url=found[0], timeout=60)
    while client.get("/readyz").status_code != 200:
        time.sleep(0.1)
    return Service(found[0], process, client)


def one(service: Service, seed: int) -> tuple[float, float, str]:
    """Seconds until it was acknowledged and until it was seen to be done; the job's id."""
    begun = time.perf_counter()
    job: str = service.client.post("/v1/jobs", json={**BODY, "seed": seed}).json()["id"]
    acknowledged = time.perf_counter() - begun
    with service.client.stream("GET", f"/v1/jobs/{job}/events") as events:
        for line in events.iter_lines():
            if line.startswith("event: end"):
                break
    return acknowledged, time.perf_counter() - begun, job


def percentiles(values: list[float]) -> str:
    if len(values) < 2:
        return "too few"
    cuts = statistics.quantiles(values, n=100, method="inclusive")
    return "  ".join(f"p{p} {1000 * cuts[p - 1]:8,.0f} ms" for p in (50, 95, 99))


def overhead(service: Service, count: int, database: Path) -> float:
    """What the service adds to making pictures, part by part; the median seconds that a picture took to be made."""
    parts: dict[str, list[float]] = {}
    for seed in range(count):
        acknowledged, seen, job = one(service, seed)
        with sqlite3.connect(database) as connection:
            row = connection.execute(
                "SELECT seconds, created, started, finished FROM jobs WHERE id = ?", (job,)
            ).fetchone()
        made = sum(json.loads(row[0]).values())
        created, started, finished = row[1:]
        for name, value in (
            ("making the picture", made),
            ("all else", seen - made),
            ("  acknowledging", acknowledged),
            ("  until a worker begins", started - created),
            ("  the worker's own", finished - started - made),
            ("  until it is seen", seen - (finished - created)),  # with the way there, before it was kept
        ):
            parts.setdefault(name, []).append(value)
    print(f"{count} jobs one after the other")
    for name, values in parts.items():
        print(f"  {name:<26} {percentiles(values)}")
    return statistics.median(parts["making the picture"])


def load(service: Service, rate: float, seconds: float) -> None:
    chance = random.Random(7)
    acknowledged: dict[str, float] = {}
    took: list[float] = []
    refused, peak, failed = 0, 0, 0
    lock = threading.Lock()

    def ask(seed: int) -> None:
        nonlocal refused, failed
        begun = time.perf_counter()
        answer = httpx.post(f"{service.url}/v1/jobs", json={**BODY, "seed": seed}, timeout=60)
        with lock:
            if answer.status_code == 202:
                took.append(time.perf_counter() - begun)
                acknowledged[answer.json()["id"]] = time.time()
            elif answer.status_code == 429:
                refused += 1
            else:
                failed += 1

    threads = []
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        thread = threading.Thread(target=ask, args=(len(threads),))
        thread.start()
        threads.append(thread)
        peak = max(peak, service.memory())
        time.sleep(chance.expovariate(rate))
    for thread in threads:
        thread.join()
    states: dict[str, dict[str, object]] = {}
    while len(states) < len(acknowledged):
        for job in acknowledged.keys() - states.keys():
            document = service.client.get(f"/v1/jobs/{job}").json()
            if document["state"] in CLOSED:
                states[job] = document
        peak = max(peak, service.memory())
        time.sleep(0.5)
    from datetime import datetime

    def spent(document: dict[str, object]) -> float:
        created, finished = (datetime.fromisoformat(str(document[name])) for name in ("created", "finished"))
        return (finished - created).total_seconds()

    done = [document for document in states.values() if document["state"] == "done"]
    print(
        f"{rate:.2f} jobs/s for {seconds:.0f} s: {len(threads)} asked, {len(acknowledged)} acknowledged, {refused} refused with 429, {failed} otherwise"
    )
    print(f"  acknowledgement            {percentiles(took)}")
    print(f"  until done                 {percentiles([spent(document) for document in done])}")
    print(f"  done {len(done)} of {len(acknowledged)} acknowledged; at most {peak / 1e6:,.0f} MB in API and worker")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=100, help="jobs one after the other")
    parser.add_argument("--seconds", type=float, default=60, help="of each load")
    parser.add_argument("--queue", type=int, default=50, help="jobs that may wait")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        service = start(Path(folder), given.queue)
        try:
            one(service, 0)  # loads the model
            makes = overhead(service, given.count, Path(folder) / "service.db")
            for times in (1, 2, 5):
                print(f"\n{times} x capacity")
                load(service, times / makes, given.seconds)
        finally:
            service.process.terminate()
            service.process.wait()


if __name__ == "__main__":
    main()
