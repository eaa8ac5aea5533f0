"""The keeper: starts the workers, starts those anew that died, gives back what they held, and removes what is kept no longer."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from functools import partial

from lienzo.errors import LienzoError
from lienzo.server import metrics
from lienzo.server.jobs import Queue
from lienzo.server.pictures import Pictures
from lienzo.server.settings import Service

LOOK = 0.2
"""Seconds between looks at the workers."""
PATIENCE = 30.0
"""Seconds up to which a worker that keeps dying waits for its next start."""
CLEANING = 600.0
"""Seconds between looks for what is kept no longer."""


@dataclass
class _Kept:
    place: str
    process: "subprocess.Popen[bytes] | None" = None
    started: float = 0.0
    deaths: int = field(default=0)

    @property
    def next_start(self) -> float:
        return self.started + min(PATIENCE, 0.5 * 2**self.deaths if self.deaths else 0.0)


class Keeper:
    """Keeps the workers alive, in a thread of the API's process."""

    def __init__(self, service: Service, queue: Queue, pictures: Pictures) -> None:
        self._service, self._queue, self._pictures = service, queue, pictures
        self._kept = [_Kept(f"worker-{place}") for place in range(service.workers)]
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="keeper", daemon=True)

    def start(self) -> None:
        self._thread.start()

    @property
    def alive(self) -> int:
        """Workers that run."""
        return sum(kept.process is not None and kept.process.poll() is None for kept in self._kept)

    def wake(self) -> None:
        """Tell the workers that there is something to do; they would find it by themselves a little later."""
        for kept in self._kept:
            process = kept.process
            if process is not None and process.stdin is not None:
                with contextlib.suppress(OSError, ValueError):  # it died; its successor looks by itself
                    os.write(process.stdin.fileno(), b"\n")

    def drain(self, timeout: float | None = None) -> None:
        """Let every worker finish what it holds, and stop."""
        self._stopping.set()
        self._thread.join()
        running = [kept.process for kept in self._kept if kept.process is not None]
        for process in running:
            process.send_signal(signal.SIGTERM)
        until = None if timeout is None else time.monotonic() + timeout
        for process in running:
            try:
                process.wait(None if until is None else max(0.0, until - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()  # what it held is begun anew at the next start
                process.wait()

    def _run(self) -> None:
        cleaned = 0.0
        while not self._stopping.wait(LOOK):
            turns: list[Callable[[], None]] = [self._give_back_of_the_dead]
            turns += [partial(self._look_at, kept) for kept in self._kept]
            if time.monotonic() - cleaned > CLEANING:
                cleaned = time.monotonic()
                turns.append(self.clean)
            for turn in turns:
                try:
                    turn()
                except LienzoError:
                    continue  # the database or the store is away; the next look may find it
                except Exception as error:
                    # Without this thread nothing would be started, given back or removed any more.
                    print(f"The keeper met {type(error).__name__} and goes on.", file=sys.stderr, flush=True)

    def _look_at(self, kept: _Kept) -> None:
        if kept.process is not None and kept.process.poll() is not None:
            print(f"A worker ended ({_how(kept.process.returncode)}); another is started.", file=sys.stderr, flush=True)
            kept.deaths = kept.deaths + 1 if time.monotonic() - kept.started < PATIENCE else 0
            kept.process = None
            metrics.forget_memory(kept.place)
        if kept.process is None and time.monotonic() >= kept.next_start:
            kept.started = time.monotonic()
            kept.process = subprocess.Popen(
                [sys.executable, "-m", "lienzo.server.worker"],
                env={**os.environ, metrics.PLACE: kept.place},
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
            )
            assert kept.process.stdin is not None
            with contextlib.suppress(BrokenPipeError):
                kept.process.stdin.write(json.dumps(asdict(self._service)).encode() + b"\n")
                kept.process.stdin.flush()
            metrics.WORKERS_STARTED.inc()

    def _give_back_of_the_dead(self) -> None:
        """Of this machine's workers; others' leases run out."""
        for worker in self._queue.workers():
            host, pid, _ = worker.rsplit(":", 2)
            if host == socket.gethostname() and not _lives(int(pid)):
                self._queue.release(worker)

    def clean(self) -> None:
        """Remove what has been kept for long enough."""
        before = time.time() - self._service.keep * 86_400
        while ended := self._queue.ended_before(before):
            for job in ended:
                self._pictures.remove_all(job.id, job.attempt)
                self._queue.forget(job)
        self._pictures.forget_inputs(before)


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    with contextlib.suppress(OSError), open(f"/proc/{pid}/stat", "rb") as file:
        return file.read().rpartition(b")")[2].split()[0] != b"Z"
    return True


def _how(code: int) -> str:
    return signal.Signals(-code).name if code < 0 else f"exit code {code}"
