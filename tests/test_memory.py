"""Freed memory is kept where the C library can."""

import os
import subprocess
import sys

import pytest

SCRIPT = """
import resource
from lienzo.memory import keep_freed_memory
print(keep_freed_memory())
def work():
    bytearray(100_000_000)
work()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10): work()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="glibc only")
def test_pages_are_mapped_once() -> None:
    faults = {}
    for setting in ("0", "1"):
        env = {**os.environ, "LIENZO_KEEP_MEMORY": setting}
        done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True, env=env)
        kept, count = done.stdout.split()
        assert kept == str(setting == "1")
        faults[setting] = int(count)
    assert faults["1"] * 20 < faults["0"]
