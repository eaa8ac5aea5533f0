"""Who watches a job is woken as soon as its worker says that something of it has changed, instead of asking again and again."""

import asyncio
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Final

from lienzo.errors import BusyError

LOOK: Final = 0.5
"""Seconds after which a job is looked at though nobody said anything: another machine's worker may have it, or it was cancelled."""
MOST: Final = 50
"""Jobs that one caller watches at once."""


class Changes:
    """Of jobs, in this process: told by the keeper's threads, waited for in the event loop."""

    def __init__(self) -> None:
        self._waiting: defaultdict[str, set[tuple[asyncio.AbstractEventLoop, asyncio.Event]]] = defaultdict(set)
        self._watchers: Counter[str] = Counter()

    def tell(self, job: str) -> None:
        """Something of a job has changed. Any thread may call this."""
        for loop, event in tuple(self._waiting.get(job, ())):
            with suppress(RuntimeError):  # a loop that has ended
                loop.call_soon_threadsafe(event.set)

    def check_room(self, who: str) -> None:
        """
        Raises:
            BusyError: the caller watches as many jobs as one may.
        """
        if self._watchers[who] >= MOST:
            raise BusyError(f"You watch {MOST} jobs at once, and no more may be. Close some of the streams.", 5.0)

    @contextmanager
    def watching(self, job: str, who: str) -> Iterator[Callable[[], Awaitable[None]]]:
        """Gives what waits until the job has changed since the last time, or until it is time to look anyway."""
        event = asyncio.Event()
        entry = asyncio.get_running_loop(), event

        async def changed() -> None:
            with suppress(TimeoutError):
                await asyncio.wait_for(event.wait(), LOOK)
            event.clear()

        self._waiting[job].add(entry)
        self._watchers[who] += 1
        try:
            yield changed
        finally:
            self._waiting[job].discard(entry)
            if not self._waiting[job]:
                del self._waiting[job]
            self._watchers[who] -= 1
            if not self._watchers[who]:
                del self._watchers[who]
