"""How sure a score is: intervals over resamples, and folds over prompts. Everything is seeded."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lienzo.errors import InputError

CONFIDENCE = 0.95


@dataclass(frozen=True, kw_only=True)
class Interval:
    """A score and where it would lie with other pictures, in 95 of 100 cases; low and high None: too little to tell."""

    value: float
    low: float | None = None
    high: float | None = None

    def __str__(self) -> str:
        digits = f"{self.value:.4g}"
        return digits if self.low is None or self.high is None else f"{digits} [{self.low:.4g}, {self.high:.4g}]"


def bootstrap(
    statistic: Callable[[NDArray[np.int64]], float],
    groups: Sequence[int],
    *,
    value: float | None = None,
    resamples: int = 1000,
    seed: int = 0,
    bounds: tuple[float, float] = (-np.inf, np.inf),
) -> Interval:
    """Interval of a statistic over resamples of whole groups: pictures of one prompt are alike, so they go together.

    The resamples' spread is laid around the value itself. Means are not changed by that; distances between sets would be, as
    a resample holds pictures twice, which makes every set look narrower than it is.

    Args:
        statistic: a function of the chosen rows.
        groups: the group of every row, say its prompt.
        value: the score, where it was computed otherwise; None: of all rows.
        bounds: what the score can be at all; the interval ends there.
    """
    rows = _rows(groups)
    if value is None:
        value = statistic(np.arange(len(groups)))
    if len(rows) < 2 or resamples < 2 or not np.isfinite(value):
        return Interval(value=value)
    random = np.random.default_rng(seed)
    drawn = np.array(
        [
            statistic(np.concatenate([rows[i] for i in random.integers(len(rows), size=len(rows))]))
            for _ in range(resamples)
        ]
    )
    tail = (1 - CONFIDENCE) / 2
    low, high = np.clip(np.quantile(drawn - drawn.mean(), [tail, 1 - tail]) + value, *bounds)
    return Interval(value=value, low=float(low), high=float(high))


def folds(count: int, k: int, *, seed: int = 0) -> list[NDArray[np.int64]]:
    """`count` prompts in k parts whose sizes differ by one at most; each prompt is in one of them.

    Raises:
        InputError: fewer than two folds, or more than prompts.
    """
    if not 2 <= k <= count:
        raise InputError(f"{k} folds of {count} prompts: expected 2 to {count}.")
    return [np.sort(part) for part in np.array_split(np.random.default_rng(seed).permutation(count), k)]


def _rows(groups: Sequence[int]) -> list[NDArray[np.int64]]:
    values = np.asarray(groups)
    return [np.flatnonzero(values == group) for group in np.unique(values)]
