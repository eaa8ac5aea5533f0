"""Keep freed memory for the next allocation.

glibc gives every block above some threshold straight back to the kernel when it is freed. A network allocates and
frees hundreds of such blocks a step, and each time the kernel has to hand out, zero and map the same pages anew:
measured on two cores, that is a tenth and more of a U-Net's time (docs/benchmarks.md). A VAE's few huge blocks are
another matter: kept, they would raise the peak.
"""

import ctypes
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

# <malloc.h>
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
NEVER = -1
KEPT = 2**30
"""Bytes; smaller blocks are kept."""
KEPT_IN_LARGE_WORK = 2**23


def keep_freed_memory() -> bool:
    """Tell glibc to keep what is freed, for the whole process.

    `LIENZO_KEEP_MEMORY=0` in the environment leaves everything as it is.

    Returns:
        Whether it was done: on Linux with glibc only.
    """
    return _set(M_MMAP_THRESHOLD, KEPT) and _set(M_TRIM_THRESHOLD, NEVER)


@contextmanager
def large_work() -> Iterator[None]:
    """Give back what was kept, and keep small blocks only, while something runs that needs few but huge ones.

    The setting is the process's: another thread's work meanwhile is a little slower, never different.
    """
    if _set(M_MMAP_THRESHOLD, KEPT_IN_LARGE_WORK):
        ctypes.CDLL(None).malloc_trim(0)
    try:
        yield
    finally:
        _set(M_MMAP_THRESHOLD, KEPT)


def _set(option: int, value: int) -> bool:
    if sys.platform != "linux" or os.environ.get("LIENZO_KEEP_MEMORY") == "0":
        return False
    mallopt: Callable[[int, int], int] | None = getattr(ctypes.CDLL(None), "mallopt", None)
    return mallopt is not None and bool(mallopt(option, value))
