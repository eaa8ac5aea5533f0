"""Programs that append as processes of their own: python appending.py together|killed PLACE NUMBER NUMBER."""

import json
import os
import random
import signal
import sys
import time

from signing import Fixed

from lienzo.provenance.log import Log


def together(place: str, who: int, count: int) -> None:
    """Append a number of entries; say which index each got."""
    with Log.open(place, signer=Fixed(), origin="example.org/pictures") as log:
        print(json.dumps([log.append(b"%d of %d" % (i, who), f"{who:012x}") for i in range(count)]))


def killed(place: str, rounds: int, seed: int) -> None:
    """Have two processes append, kill one in the midst of it, then the other; again and again. Say what was acknowledged."""
    rng = random.Random(seed)
    acknowledged: dict[int, str] = {}
    for turn in range(rounds):
        children = [_child(place, f"{turn}-{side}") for side in range(2)]
        for pid, pipe in children:
            first = os.read(pipe, 4096)  # it has begun
            time.sleep(rng.uniform(0, 0.03))
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            told = first
            while more := os.read(pipe, 1 << 16):
                told += more
            os.close(pipe)
            for line in told.decode().splitlines():
                index, _, entry = line.partition(" ")
                assert int(index) not in acknowledged, f"{index} was acknowledged twice"
                acknowledged[int(index)] = entry
    print(json.dumps(acknowledged))


def _child(place: str, name: str) -> tuple[int, int]:
    """A process that appends until it is killed, and what it says after each: index and entry, a line each."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid:
        os.close(writing)
        return pid, reading
    log = Log.open(place, signer=Fixed(), origin="example.org/pictures")
    i = 0
    while True:
        entry = f"{name}-{i}"
        os.write(writing, b"%d %s\n" % (log.append(entry.encode(), "ab"), entry.encode()))
        i += 1


if __name__ == "__main__":
    {"together": together, "killed": killed}[sys.argv[1]](sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
