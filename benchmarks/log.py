"""What the log costs: `python benchmarks/log.py [FOLDER]`. Makes a log of 100,000 entries there (in a temporary folder of the disk
that it is to be measured on), then adds and proves some more, one at a time, as pictures do."""

import statistics
import sys
import tempfile
import time
from pathlib import Path

from lienzo.provenance.keys import LocalSigner
from lienzo.provenance.log import Checkpoint, Log, verify_export, write_export
from lienzo.provenance.log.merkle import Frontier
from lienzo.provenance.log.proofs import leaf_of
from lienzo.provenance.log.store import ENTRIES, HEAD

ENTRIES_BEFORE = 100_000
MEASURED = 300


def entry(i: int) -> bytes:
    """As long as a picture's."""
    return b'{"id":"%012x","picture":"%064x","receipt":"%064x","perceptual":"%016x","version":1}' % (i, i, i, i)


def fill(log: Log, signer: LocalSigner, count: int) -> None:
    """All at once: what `append` would have written, in one transaction."""
    frontier = Frontier()
    with log._transaction(write=True) as connection:
        for i in range(count):
            hashes = b"".join(frontier.add(leaf_of(f"{i:012x}", entry(i))))
            row = {"position": i, "key": f"{i:012x}", "entry": entry(i), "hashes": hashes}
            connection.execute(ENTRIES.insert(), row)
        note = Checkpoint(log.origin, count, frontier.root).sign(signer)
        connection.execute(HEAD.update(), {"note": note, "peaks": b"".join(frontier.peaks)})


def main() -> None:
    signer = LocalSigner.generate()
    with tempfile.TemporaryDirectory(dir=sys.argv[1] if len(sys.argv) > 1 else None) as name:
        folder = Path(name)
        with Log.open(folder / "log.db", signer=signer) as log:
            fill(log, signer, ENTRIES_BEFORE)
        size = (folder / "log.db").stat().st_size / ENTRIES_BEFORE
        with Log.open(folder / "log.db", signer=signer) as log:
            appends, proofs = [], []
            used = time.process_time()
            for i in range(ENTRIES_BEFORE, ENTRIES_BEFORE + MEASURED):
                begin = time.perf_counter()
                index = log.append(entry(i), f"{i:012x}")
                middle = time.perf_counter()
                log.proof(index)
                appends.append(middle - begin)
                proofs.append(time.perf_counter() - middle)
            used = time.process_time() - used
            print(f"{ENTRIES_BEFORE:,} entries, {size:.0f} bytes each")
            print(f"append {1000 * statistics.median(appends):.2f} ms, {MEASURED / sum(appends):.0f} a second")
            print(
                f"proof {1000 * statistics.median(proofs):.2f} ms; both, processor time {1000 * used / MEASURED:.2f} ms"
            )
            for what, work in {
                "check": log.check,
                "export": lambda: write_export(log, folder / "log.jsonl"),
                "verify": lambda: verify_export(folder / "log.jsonl", [signer.public]),
            }.items():
                begin = time.perf_counter()
                work()
                print(f"{what} {time.perf_counter() - begin:.1f} s")


if __name__ == "__main__":
    main()
