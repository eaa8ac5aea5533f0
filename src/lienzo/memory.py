"""Keep freed memory for the next allocation.

glibc gives every block above some threshold straight back to the kernel when it is freed. A network allocates and
frees hundreds of such blocks a step, and each time the kernel has to hand out, zero and map the same pages anew:
measured on two cores, that is a tenth and more of a U-Net's time (docs/benchmarks.md).
"""

import ctypes
import os
import sys

# <malloc.h>
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4
NEVER = -1


def keep_freed_memory() -> bool:
    """Tell glibc to keep what is freed, for the whole process; the peak stays what it was.

    `LIENZO_KEEP_MEMORY=0` in the environment leaves everything as it is.

    Returns:
        Whether it was done: on Linux with glibc only.
    """
    if sys.platform != "linux" or os.environ.get("LIENZO_KEEP_MEMORY") == "0":
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    return mallopt is not None and bool(mallopt(M_MMAP_MAX, 0)) and bool(mallopt(M_TRIM_THRESHOLD, NEVER))
