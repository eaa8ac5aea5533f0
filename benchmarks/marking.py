"""What marking costs: `python benchmarks/marking.py [--pairs N]`.

One picture of the embedded model with 20 steps, made and encoded as PNG, bare and fully marked in turn; medians, their ratio,
and where the time goes. Keys, log and store are fresh ones in a temporary folder, on the disk that TMPDIR is on.
"""

import argparse
import os
import statistics
import tempfile
import time
from pathlib import Path

import torch


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=30)
    pairs = parser.parse_args().pairs
    with tempfile.TemporaryDirectory() as home:
        os.environ["LIENZO_HOME"] = home
        measure(pairs, Path(home))


def measure(pairs: int, home: Path) -> None:
    from lienzo import Pipeline, Request
    from lienzo.provenance.energy import Spent
    from lienzo.provenance.settings import Settings
    from lienzo.provenance.writing import encode
    from lienzo.studio import house

    bare = Pipeline.load(mark="off")
    full = Pipeline(bare.bundle, Settings.read(mark="full"))
    times: dict[str, list[float]] = {"bare": [], "full": []}
    for seed in range(-2, pairs):  # the first two make keys and warm up
        request = Request("a red circle to the left of a blue square on a white background", seed=seed + 2)
        for name, pipeline in (("bare", bare), ("full", full)) if seed % 2 else (("full", full), ("bare", bare)):
            start = time.perf_counter()
            encode(pipeline(request), "PNG")
            if seed >= 0:
                times[name].append(time.perf_counter() - start)
    notary = house(full.settings).notary
    result = bare(Request("a red circle", seed=1))
    stages: dict[str, list[float]] = {"watermark, receipt, log": [], "credentials": []}
    for _ in range(pairs):
        start = time.perf_counter()
        marked = notary.mark(result, Spent(0.0, None))
        middle = time.perf_counter()
        encode(marked, "PNG")
        stages["watermark, receipt, log"].append(middle - start)
        stages["credentials"].append(time.perf_counter() - middle)
    ratios = [one / other for one, other in zip(times["full"], times["bare"], strict=True)]
    print(f"{torch.get_num_threads()} threads, {pairs} pairs")
    for name, values in (times | stages).items():
        print(f"  {name:24} median {1000 * statistics.median(values):7.1f} ms")
    print(f"  full / bare              median {statistics.median(ratios):7.3f}")


if __name__ == "__main__":
    main()
