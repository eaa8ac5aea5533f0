"""What a reader of pictures may do when a picture is hostile; called in another process by the tests of `bounded`."""

import ctypes
import io
import os
import resource
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

from lienzo.errors import KeysError, MetadataError


def size(data: bytes) -> list[int]:
    """Decode a picture whole."""
    from PIL import Image

    Image.MAX_IMAGE_PIXELS = None  # the limits hold without PIL's own
    with Image.open(io.BytesIO(data)) as picture:
        picture.load()
        return list(picture.size)


def turned(data: bytes) -> bytes:
    return data[::-1]


def told(data: bytes) -> dict[str, Any]:
    """What the process is like."""
    limits = {name: resource.getrlimit(getattr(resource, f"RLIMIT_{name}")) for name in ("FSIZE", "CORE", "NOFILE")}
    return {
        "limits": limits,
        "environment": sorted(os.environ),
        "folder": os.getcwd(),
        "torch": "torch" in sys.modules,
        "pid": os.getpid(),
    }


def printing(data: bytes) -> str:
    print("noise on stdout", flush=True)
    os.write(1, b'j"forged"')
    os.write(2, b"noise on stderr")
    return "answer"


def aborting(data: bytes) -> None:
    os.abort()


def wandering(data: bytes) -> None:
    ctypes.string_at(0)


def leaving(data: bytes) -> None:
    os._exit(3)


def killing_itself(data: bytes) -> None:
    os.kill(os.getpid(), 9)


def turning(data: bytes) -> None:
    while True:
        pass


def sleeping(data: bytes) -> None:
    time.sleep(3600)


def sleeping_with_a_child(data: bytes) -> None:
    """The child keeps stdout's end open, which must not keep the parent waiting."""
    subprocess.Popen(["sleep", "3600"], close_fds=False)
    time.sleep(3600)


def hoarding(data: bytes) -> int:
    hoard = []
    while True:
        hoard.append(bytearray(10_000_000))


def hoarding_in_c(data: bytes) -> int:
    hoard = ctypes.CDLL(None).malloc
    hoard.restype = ctypes.c_void_p
    return len([None for _ in range(100) if hoard(ctypes.c_size_t(10_000_000))])


def writing(data: bytes) -> int:
    path = Path(data.decode())
    return path.write_bytes(b"x" * 10)


def opening_many(data: bytes) -> int:
    return len([open(os.devnull) for _ in range(1000)])


def huge(data: bytes) -> bytes:
    return bytes(int(data))


def huge_error(data: bytes) -> None:
    raise ValueError("x" * 50_000_000)


def deep(data: bytes) -> list[Any]:
    inner: list[Any] = []
    for _ in range(100_000):
        inner = [inner]
    return inner


def unspeakable(data: bytes) -> object:
    return object()


def failing(data: bytes) -> None:
    raise ValueError("broken data stream")


def refusing(data: bytes) -> None:
    raise MetadataError("no metadata. Give a picture of lienzo's.")


def refusing_with_more(data: bytes) -> None:
    raise KeysError("weights", missing=["a"])


def leaving_in_python(data: bytes) -> None:
    sys.exit(5)


def interrupted(data: bytes) -> None:
    raise KeyboardInterrupt


def threads(data: bytes) -> int:
    """A few are allowed: libraries have their own."""
    begun = [threading.Thread(target=time.sleep, args=(0.05,)) for _ in range(4)]
    for thread in begun:
        thread.start()
    for thread in begun:
        thread.join()
    return len(begun)


def connected(data: bytes) -> str:
    """Fetch from a port, as a planted URL would have it; the answer, or why there is none."""
    try:
        with socket.create_connection(("127.0.0.1", int(data)), timeout=5):
            return "connected"
    except OSError as error:
        return str(error.strerror)
