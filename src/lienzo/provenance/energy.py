"""What the processors took, where the machine measures it."""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_RAPL: Final = Path("/sys/class/powercap")


@dataclass(frozen=True)
class Spent:
    """What a piece of work took.

    Attributes:
        seconds: by the wall clock.
        joules: of all processors meanwhile, whoever used them; None: not measured.
    """

    seconds: float
    joules: float | None

    def share(self, of: int) -> "Spent":
        """Of each of so many pictures."""
        return Spent(self.seconds / of, None if self.joules is None else self.joules / of)


class Meter:
    """Measures from its making on.

    Linux reads the counters of Intel's and AMD's processors (RAPL) to those who may; elsewhere, and for GPUs, nothing is
    measured, and nothing is guessed.
    """

    def __init__(self) -> None:
        self._start, self._counters = time.monotonic(), _counters()

    def spent(self) -> Spent:
        return Spent(time.monotonic() - self._start, _difference(self._counters, _counters()))


def _counters() -> dict[str, tuple[int, int]]:
    """Zone -> microjoules so far, and where the counter starts again."""
    found = {}
    for zone in sorted(_RAPL.glob("*-rapl:?")):  # packages; their parts have another colon
        try:
            found[zone.name] = (int((zone / "energy_uj").read_text()), int((zone / "max_energy_range_uj").read_text()))
        except (OSError, ValueError):  # only root may read them, as a rule
            continue
    return found


def _difference(before: dict[str, tuple[int, int]], after: dict[str, tuple[int, int]]) -> float | None:
    zones = before.keys() & after.keys()
    if not zones:
        return None
    return sum((after[zone][0] - before[zone][0]) % (before[zone][1] + 1) for zone in zones) / 1e6
