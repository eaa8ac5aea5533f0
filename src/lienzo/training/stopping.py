"""Stop between steps: what was learned is kept, whenever one presses Ctrl-C."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def stops_noted() -> Iterator[Callable[[], int]]:
    """Inside, the first Ctrl-C or SIGTERM is only noted; the second acts as it would have outside.

    Signals can only be handled in the main thread; elsewhere nothing is noted.

    Yields:
        What tells the number of the signal that was noted, 0 for none.
    """
    if threading.current_thread() is not threading.main_thread():
        yield lambda: 0
        return
    noted = 0
    before = {number: signal.getsignal(number) for number in SIGNALS}

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    def note(number: int, frame: FrameType | None) -> None:
        nonlocal noted
        noted = number
        restore()

    for number, handler in before.items():
        if handler is not signal.SIG_IGN:
            signal.signal(number, note)
    try:
        yield lambda: noted
    finally:
        restore()
