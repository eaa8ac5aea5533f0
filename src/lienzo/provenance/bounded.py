"""Reading what strangers made, in a process of its own that cannot take this one along.

A picture can be a bomb (a small file that unpacks to gigabytes), it can be made to hang a decoder or to crash one that is
written in C. `run` calls a function of the bytes in a fresh Python with limits on memory, processor time, files and time by
the clock. Whatever happens there, here it is a result or an `UnreadableError`.

It is a fence against accidents and against exhaustion, not a prison: code that takes over the process there can do what its
user can do. Where Linux allows it, there is no network in the process. On Windows only the time and the result's size are limited; macOS does not enforce the limit on memory.
"""

import contextlib
import json
import math
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any, BinaryIO, Final

from lienzo import errors
from lienzo.errors import InputError, LienzoError, UnreadableError

MOST_RESULT: Final = 1_000_000
"""Bytes that a result has at most, unless told."""

_STARTING = 20.0
"""Seconds that Python may take to begin and to import the function; on a busy machine it takes long."""
_MOST_FILES = 64
_NEW_USER, _NEW_NETWORK = 0x10000000, 0x40000000
"""CLONE_NEWUSER and CLONE_NEWNET of unshare(2); `os` has them from Python 3.12 on."""
_MOST_MESSAGE = 500
_READY = b"ready\n"
_PASSED_ON = ("LANG", "LC_ALL", "LD_LIBRARY_PATH", "PATH", "SYSTEMROOT")
"""Environment variables; keys and passwords are none of them."""
_CHILD = (
    "import sys, json; sys.path[:] = json.loads(sys.argv[1]); from lienzo.provenance.bounded import _serve; _serve()"
)
_ENDINGS = {"SIGXCPU": "it took too much processor time", "SIGALRM": "it took too long"}


def run(
    function: str | Callable[..., Any],
    data: bytes,
    *,
    seconds: float,
    memory: int,
    most: int = MOST_RESULT,
    what: str = "the picture",
) -> Any:
    """function(data), computed in a process of its own.

    Args:
        function: by name, "package.module:function", or one that can be found by its name. It takes bytes and returns bytes
            or what JSON can hold (tuples come back as lists).
        seconds: by the clock, and of the processor; starting Python and importing the function's module not counted.
        memory: bytes that it may ask for, beside those that its code takes.
        most: bytes that the result may have.
        what: was read, for the error message.

    Raises:
        UnreadableError: it crashed, was stopped at a limit, or raised an error that is not lienzo's.
        LienzoError: the error of lienzo's that the function raised, of the same class.
    """
    name = _name(function)
    order = {"function": name, "seconds": seconds, "memory": memory, "most": most, "bytes": len(data)}
    path = [os.path.abspath(folder) for folder in sys.path]
    variables = {key: os.environ[key] for key in _PASSED_ON if key in os.environ}
    child = subprocess.Popen(
        [sys.executable, "-I", "-B", "-c", _CHILD, json.dumps(path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={**variables, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
        cwd=Path(sys.executable).anchor,
        start_new_session=True,
    )
    assert child.stdin is not None and child.stdout is not None
    clock = _Clock(child)
    sender = threading.Thread(target=_send, args=(child.stdin, json.dumps(order).encode() + b"\n", data), daemon=True)
    try:
        clock.wind(_STARTING)
        sender.start()
        begun = child.stdout.readline(len(_READY)) == _READY
        answer = b""
        if begun:
            clock.wind(seconds)
            answer = child.stdout.read(most + 2)
        if len(answer) < most + 2:
            _until_ended(child)
    finally:
        clock.stop()
        _kill(child)
        code = child.wait()
        sender.join()
        child.stdout.close()
    if clock.struck and not begun:
        raise UnreadableError(
            f"{what} could not be read: its reader did not begin within {_STARTING:g} seconds. Try again."
        )
    if clock.struck:
        raise UnreadableError(f"{what} could not be read: it took longer than {seconds:g} seconds.")
    return _result(answer, code, most, what)


class _Clock:
    """Kills a process when its time is over."""

    def __init__(self, child: "subprocess.Popen[bytes]") -> None:
        self._child, self._timer, self.struck = child, threading.Timer(0, lambda: None), False

    def wind(self, seconds: float) -> None:
        self._timer.cancel()
        self._timer = threading.Timer(seconds, self._strike)
        self._timer.daemon = True
        self._timer.start()

    def stop(self) -> None:
        self._timer.cancel()

    def _strike(self) -> None:
        self.struck = True
        _kill(self._child)


def _kill(child: "subprocess.Popen[bytes]") -> None:
    """With all that it started: it leads a group of its own."""
    if child.returncode is not None:
        return  # its id may be somebody else's by now
    if os.name == "posix":
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(child.pid, signal.SIGKILL)
    else:
        child.kill()


def _until_ended(child: "subprocess.Popen[bytes]") -> None:
    """Wait, but leave the process's id taken, where the system can (all but macOS and Windows)."""
    if hasattr(os, "waitid"):
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    else:
        child.wait()


def _send(pipe: BinaryIO, *parts: bytes) -> None:
    with contextlib.suppress(OSError), pipe:  # it may have ended already, which its exit code explains
        for part in parts:
            pipe.write(part)


def _name(function: str | Callable[..., Any]) -> str:
    if isinstance(function, str):
        module, _, name = function.partition(":")
    else:
        module, name = function.__module__, function.__qualname__
    if not name.replace(".", "").isidentifier() or module in ("", "__main__"):
        raise InputError(
            f"got the function {module}:{name}; another process must find it: give one at the top of a module."
        )
    return f"{module}:{name}"


def _result(answer: bytes, code: int, most: int, what: str) -> Any:
    """What the child said, of which nothing is believed."""
    error: LienzoError = UnreadableError(f"{what} could not be read: {_ending(code)}.")
    kind, body = answer[:1], answer[1:]
    if len(body) > most:
        raise UnreadableError(f"{what} could not be read: more than {most:,} bytes came of it.")
    if code == 0 and kind == b"b":
        return body
    if code == 0 and kind in (b"j", b"e"):
        with contextlib.suppress(ValueError, RecursionError):
            said = json.loads(body)
            if kind == b"j":
                return said
            if isinstance(said, list) and len(said) == 2:
                error = _error(str(said[0]), str(said[1])[:_MOST_MESSAGE], what)
    raise error


def _error(name: str, message: str, what: str) -> LienzoError:
    kind = getattr(errors, name, None)
    if isinstance(kind, type) and issubclass(kind, LienzoError):
        return kind(message)
    return UnreadableError(
        f"{what} could not be read: {name}: {message}" if message else f"{what} could not be read: {name}."
    )


def _ending(code: int) -> str:
    if code >= 0:
        return f"its reader stopped with exit code {code}"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"
    return _ENDINGS.get(name, f"its reader crashed ({name})")


# In the other process


def _serve() -> None:
    """Read the order from stdin, answer on what was stdout. What the function prints goes nowhere."""
    answers = os.fdopen(os.dup(1), "wb")
    nowhere = os.open(os.devnull, os.O_RDWR)
    os.dup2(nowhere, 1)
    _leave_network()
    source = sys.stdin.buffer
    order = json.loads(source.readline())
    data = source.read(order["bytes"])
    module, _, name = order["function"].partition(":")
    function: Any = import_module(module)
    for part in name.split("."):
        function = getattr(function, part)
    _limit(order["seconds"], order["memory"])
    answers.write(_READY)
    answers.flush()
    try:
        result = function(data)
        answer = b"b" + result if isinstance(result, bytes) else b"j" + json.dumps(result).encode()
        if len(answer) > order["most"] + 1:
            answer = answer[: order["most"] + 2]
    except BaseException as error:
        message = "it takes too much memory" if isinstance(error, MemoryError) else str(error)[:_MOST_MESSAGE]
        answer = b"e" + json.dumps([type(error).__name__, message]).encode()
    answers.write(answer)
    answers.flush()
    os._exit(0)  # without the cleaning up of libraries that have seen the bytes


def _limit(seconds: float, memory: int) -> None:
    if os.name != "posix":
        return
    import resource

    # Should the parent have been killed, nobody else stops this.
    signal.setitimer(signal.ITIMER_REAL, seconds + 1)
    limits = {
        resource.RLIMIT_AS: _address_space() + memory,
        resource.RLIMIT_CPU: math.ceil(seconds),
        resource.RLIMIT_FSIZE: 0,
        resource.RLIMIT_NOFILE: _MOST_FILES,
        resource.RLIMIT_CORE: 0,  # a core would hold the bytes
    }
    for kind, most in limits.items():
        hard = resource.getrlimit(kind)[1]
        # The system kills at the hard limit without a reason: a second later than at the soft one, which says why.
        last = most + 1 if kind == resource.RLIMIT_CPU else most
        if hard != resource.RLIM_INFINITY:
            most, last = min(most, hard), min(last, hard)
        with contextlib.suppress(ValueError, OSError):  # macOS takes no limit on memory
            resource.setrlimit(kind, (most, last))


def _leave_network() -> None:
    """Into a network namespace of its own, which has none: where Linux allows it, to root or to users. Else it is left out."""
    if sys.platform == "linux":
        import ctypes

        system = ctypes.CDLL(None)
        if system.unshare(_NEW_NETWORK):
            system.unshare(_NEW_NETWORK | _NEW_USER)


def _address_space() -> int:
    """Bytes of address space that this process has already; 0 where the system does not say."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[0])
    except OSError:
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE")
