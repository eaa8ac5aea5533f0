"""Whatever hostile bytes do to their reader: here it is a result or one kind of error, soon."""

import io
import os
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
import zlib
from pathlib import Path
from typing import Any

import hostile
import pytest
from PIL import Image

from lienzo.errors import InputError, LienzoError, MetadataError, UnreadableError
from lienzo.provenance import bounded

MEMORY = 200_000_000
SECONDS = 10.0
"""Plenty, so that a busy machine does not fail tests of other limits."""

pytestmark = pytest.mark.skipif(os.name != "posix", reason="the limits are those of POSIX")


def run(function: Any, data: bytes = b"", **changed: Any) -> Any:
    return bounded.run(function, data, **{"seconds": SECONDS, "memory": MEMORY, **changed})


def bomb(side: int) -> bytes:
    """A PNG of side x side black pixels, one bit each, which decoders make one byte or more."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    packer = zlib.compressobj(9)
    row = bytes(1 + side // 8)
    pixels = b"".join([*(packer.compress(row) for _ in range(side)), packer.flush()])
    head = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def alive(pid: int) -> bool:
    """Running, so not a zombie either."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


# What goes well


def test_a_picture_is_read() -> None:
    file = io.BytesIO()
    Image.new("RGB", (64, 48)).save(file, "PNG")
    assert run(hostile.size, file.getvalue()) == [64, 48]
    assert run("hostile:size", file.getvalue()) == [64, 48]


@pytest.mark.parametrize("count", [0, 1, 5_000_000])
def test_bytes_go_both_ways(count: int) -> None:
    data = os.urandom(count)
    assert run(hostile.turned, data, most=count) == data[::-1]


def test_the_other_process_knows_no_secrets_and_may_do_little(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIENZO_KEK", "secret")
    monkeypatch.setenv("PYTHONPATH", "/nowhere")
    told = run(hostile.told)
    assert told["limits"] == {"FSIZE": [0, 0], "CORE": [0, 0], "NOFILE": [64, 64]}
    assert set(told["environment"]) <= {*bounded._PASSED_ON, "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "LC_CTYPE"}
    assert (told["folder"], told["torch"]) == ("/", False)
    assert not alive(told["pid"])


def test_what_it_prints_goes_nowhere() -> None:
    assert run(hostile.printing) == "answer"


def test_a_few_threads_are_allowed() -> None:
    assert run(hostile.threads) == 4


def test_several_at_once() -> None:
    results = list[bytes]()
    threads = [threading.Thread(target=lambda: results.append(run(hostile.turned, b"ab"))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [b"ba"] * 4


# What does not


@pytest.mark.parametrize(
    ("function", "reason"),
    [
        (hostile.aborting, r"its reader crashed \(SIGABRT\)"),
        (hostile.wandering, r"its reader crashed \(SIGSEGV\)"),
        (hostile.killing_itself, r"its reader crashed \(SIGKILL\)"),
        (hostile.leaving, "its reader stopped with exit code 3"),
        (hostile.hoarding, "MemoryError: it takes too much memory"),
        (hostile.opening_many, "OSError: .*Too many open files"),
        (hostile.failing, "ValueError: broken data stream"),
        (hostile.huge_error, "ValueError: x{490,500}$"),
        (hostile.deep, "RecursionError"),
        (hostile.unspeakable, "TypeError: .*not JSON serializable"),
        (hostile.leaving_in_python, "SystemExit: 5"),
        (hostile.interrupted, "KeyboardInterrupt"),
    ],
)
def test_whatever_happens_is_one_kind_of_error(function: Any, reason: str) -> None:
    with pytest.raises(UnreadableError, match=f"the picture could not be read: {reason}"):
        run(function)


def test_memory_is_limited_for_c_too() -> None:
    """10 MB a hundred times, of which the limit lets a fifth pass at most."""
    assert run(hostile.hoarding_in_c) <= 20


def test_a_bomb_does_not_go_off() -> None:
    data = bomb(20_000)  # 400 MB of pixels
    assert len(data) < 100_000
    before = time.monotonic()
    with pytest.raises(UnreadableError, match="MemoryError: it takes too much memory"):
        run(hostile.size, data)
    assert time.monotonic() - before < SECONDS
    assert run(hostile.size, bomb(1000)) == [1000, 1000]


@pytest.mark.parametrize("function", [hostile.sleeping, hostile.turning, hostile.sleeping_with_a_child])
def test_time_is_limited(function: Any) -> None:
    before = time.monotonic()
    with pytest.raises(UnreadableError, match=r"the manifest could not be read: it took (longer|too)"):
        run(function, seconds=1, what="the manifest")
    assert time.monotonic() - before < 1 + SECONDS


def test_nothing_is_written(tmp_path: Path) -> None:
    target = tmp_path / "planted"
    with pytest.raises(UnreadableError, match=r"OSError: .*File too large"):
        run(hostile.writing, str(target).encode())
    assert not target.exists() or target.stat().st_size == 0


def test_there_is_no_network() -> None:
    allowed = subprocess.run(["unshare", "--net", "--map-root-user", "true"], capture_output=True, check=False)
    if allowed.returncode:
        pytest.skip("this system lets nobody leave the network")
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = str(server.getsockname()[1]).encode()
        assert hostile.connected(port) == "connected"
        assert run(hostile.connected, port) == "Network is unreachable"


@pytest.mark.parametrize("count", [1001, 50_000_000])
def test_results_are_limited(count: int) -> None:
    assert run(hostile.huge, b"1000", most=1000) == bytes(1000)
    with pytest.raises(UnreadableError, match="more than 1,000 bytes came of it"):
        run(hostile.huge, str(count).encode(), most=1000)


def test_errors_of_lienzos_come_back_as_they_are() -> None:
    with pytest.raises(MetadataError, match=r"^no metadata\. Give a picture of lienzo's\.$"):
        run(hostile.refusing)
    with pytest.raises(LienzoError, match="weights"):
        run(hostile.refusing_with_more)


@pytest.mark.parametrize(
    "function", ["hostile", "hostile:", ":size", "hostile:nothing", "nothing:size", lambda data: data]
)
def test_functions_that_are_not_there(function: Any) -> None:
    with pytest.raises(InputError, match=r"another process must find it|could not be read: its reader stopped"):
        run(function)


def test_the_other_process_ends_when_this_one_is_killed() -> None:
    """Nobody is left to stop it: it stops itself."""
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); from lienzo.provenance import bounded\n"
        "bounded.run('hostile:sleeping', b'', seconds=1, memory=10**8)"
    )
    parent = subprocess.Popen([sys.executable, "-c", code, str(Path(__file__).parent)])
    deadline = time.monotonic() + 60
    children: list[int] = []
    while not children and time.monotonic() < deadline:
        time.sleep(0.01)
        children = [int(pid) for pid in Path(f"/proc/{parent.pid}/task/{parent.pid}/children").read_text().split()]
    (child,) = children
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    while alive(child) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not alive(child)


# What the child says is not believed


@pytest.mark.parametrize(
    "answer", [b"", b"x", b"j", b"j{", b"e", b"e1", b"e[1]", b"e{}", b'e["os", 1, 2]', b"j" + b"[" * 100_000, b"j\xff"]
)
def test_answers_that_make_no_sense(answer: bytes) -> None:
    with pytest.raises(UnreadableError, match="stopped with exit code 0"):
        bounded._result(answer, 0, 1_000_000, "the picture")


@pytest.mark.parametrize("answer", [b"bhalf of", b"j1", b'e["MetadataError", "no"]'])
def test_answers_of_a_process_that_crashed_are_not_taken(answer: bytes) -> None:
    with pytest.raises(UnreadableError, match="crashed"):
        bounded._result(answer, -signal.SIGSEGV, 1_000_000, "the picture")
