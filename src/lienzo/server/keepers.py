"""The keeper: starts the workers, starts those anew that died or hang, gives back what they held, and removes what is kept no longer."""

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
from lienzo.server.watching import Changes

LOOK = 0.2
"""Seconds between looks at the workers."""
PATIENCE = 30.0
"""Seconds up to which a worker that keeps dying waits for its next start."""
CLEANING = 600.0
"""Seconds between looks for what is kept no longer."""
ORPHANED = 3600.0
"""Seconds after which a sealed request without a job is nobody's."""


@dataclass
class _Kept:
    place: str
    process: "subprocess.Popen[bytes] | None" = None
    started: float = 0.0
    seen: float = 0.0  # when it last said that it got on
    deaths: int = field(default=0)

    @property
    def next_start(self) -> float:
        return self.started + min(PATIENCE, 0.5 * 2**self.deaths if self.deaths else 0.0)


class Keeper:
    """Keeps the workers alive, in a thread of the API's process."""

    def __init__(self, service: Service, queue: Queue, pictures: Pictures) -> None:
        self._service, self._queue, self._pictures = service, queue, pictures
        self._kept = [_Kept(f"worker-{place}") for place in range(service.workers)]
        self.changes = Changes()
        self.stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="keeper", daemon=True)

    def start(self) -> None:
        self._thread.start()

    @property
    def alive(self) -> int:
        """Workers that run."""
        return sum(map(_runs, self._kept))

    def wake(self) -> None:
        """Tell the workers that there is something to do; they would find it by themselves a little later."""
        for kept in self._kept:
            process = kept.process
            if process is not None and process.stdin is not None:
                with contextlib.suppress(OSError, ValueError):  # it died; its successor looks by itself
                    os.write(process.stdin.fileno(), b"\n")

    def stop(self) -> None:
        """Tell every worker to finish what it holds, and take nothing more; told again, they end at once."""
        how = signal.SIGKILL if self.stopping.is_set() else signal.SIGTERM
        self.stopping.set()
        self._send(how)

    def drain(self) -> None:
        """Stop, and wait until all workers have ended."""
        self.stopping.set()
        self._thread.join()
        self._send(signal.SIGTERM)  # to one that was started meanwhile; nobody starts others any more
        while self.alive:
            for kept in self._kept:
                self._kill_if_hung(kept)  # what it held is begun anew at the next start
            time.sleep(LOOK / 4)

    def _send(self, how: signal.Signals) -> None:
        for kept in self._kept:
            process = kept.process  # the keeper's thread may put another in its place
            if process is not None:
                process.send_signal(how)

    def _run(self) -> None:
        next_cleaning = 0.0

        def clean() -> None:
            nonlocal next_cleaning
            if self.clean():
                next_cleaning = 0.0

        while not self.stopping.wait(LOOK):
            turns: list[Callable[[], None]] = [self._give_back_of_the_dead]
            turns += [partial(self._look_at, kept) for kept in self._kept]
            if time.monotonic() > next_cleaning:
                next_cleaning = time.monotonic() + CLEANING
                turns.append(clean)
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
        self._kill_if_hung(kept)
        if kept.process is None and time.monotonic() >= kept.next_start:
            kept.started = kept.seen = time.monotonic()
            process = subprocess.Popen(
                [sys.executable, "-m", "lienzo.server.worker"],
                env={**os.environ, metrics.PLACE: kept.place},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
            )
            assert process.stdin is not None
            threading.Thread(target=self._listen, args=(kept, process), daemon=True).start()
            with contextlib.suppress(BrokenPipeError):
                process.stdin.write(json.dumps(asdict(self._service)).encode() + b"\n")
                process.stdin.flush()
            kept.process = process  # not before: what wakes it must not come before its settings
            metrics.WORKERS_STARTED.inc()

    def _listen(self, kept: _Kept, process: "subprocess.Popen[bytes]") -> None:
        assert process.stdout is not None
        for line in process.stdout:
            kept.seen = time.monotonic()
            if job := line.decode("ascii", "replace").strip():
                self.changes.tell(job)

    def _kill_if_hung(self, kept: _Kept) -> None:
        if _runs(kept) and time.monotonic() - kept.seen > self._service.stall:
            assert kept.process is not None
            print(f"A worker made no step for {self._service.stall:g} s; it is killed.", file=sys.stderr, flush=True)
            kept.process.kill()

    def _give_back_of_the_dead(self) -> None:
        """Of this machine's workers; others' leases run out."""
        for worker in self._queue.workers():
            host, pid, _ = worker.rsplit(":", 2)
            if host == socket.gethostname() and not _lives(int(pid)):
                self._queue.release(worker)

    def clean(self) -> bool:
        """Remove what has been kept for long enough, but not so much at once that workers are not looked after.

        Returns:
            Whether there may be more.
        """
        before = time.time() - self._service.keep * 86_400
        ended = self._queue.ended_before(before, limit=20)
        for job in ended:
            if self.stopping.is_set():
                return False
            self._pictures.remove_all(job.id, job.attempt)
            self._queue.forget(job)
        if not ended:
            self._pictures.forget_inputs(before)
            self._queue.sweep(time.time() - ORPHANED)
        return bool(ended)


def _runs(kept: _Kept) -> bool:
    return kept.process is not None and kept.process.poll() is None


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
