"""Ctrl-C and SIGTERM unwind the program, so that temporary files go."""

import signal
from types import FrameType

_stopped = False


def install() -> None:
    """Take over both signals for this process, unless it was started to ignore them, as nohup does."""
    for number, handler in ((signal.SIGINT, _interrupt), (signal.SIGTERM, _terminate)):
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, handler)


def check() -> None:
    """Raise KeyboardInterrupt if Ctrl-C was pressed: libraries have been seen to swallow it while they are imported."""
    if _stopped:
        raise KeyboardInterrupt


def _interrupt(number: int, frame: FrameType | None) -> None:
    global _stopped
    _stopped = True
    raise KeyboardInterrupt


def _terminate(number: int, frame: FrameType | None) -> None:
    raise SystemExit(128 + number)
