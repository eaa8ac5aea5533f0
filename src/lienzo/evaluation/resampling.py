"""How sure a score is: intervals over resamples, and folds over prompts; shares, and whether two sides differ. Everything is
seeded.

A share has intervals of its own, as resamples of "all right" or "none" are all alike and would claim to be sure.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lienzo.errors import InputError
from lienzo.shares import CONFIDENCE, Z, wilson


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
    alone = np.concatenate(rows) if len(rows) == len(groups) else None  # then no group has to be put together

    def resample() -> NDArray[np.int64]:
        chosen = random.integers(len(rows), size=len(rows))
        return np.concatenate([rows[i] for i in chosen]) if alone is None else alone[chosen]

    drawn = np.array([statistic(resample()) for _ in range(resamples)])
    tail = (1 - CONFIDENCE) / 2
    low, high = np.clip(np.quantile(drawn - drawn.mean(), [tail, 1 - tail]) + value, *bounds)
    return Interval(value=value, low=float(low), high=float(high))


def share(hits: int, of: int) -> Interval:
    """A share and its interval after Wilson (1927), which is right for few and for none too.

    Raises:
        ValueError: of nothing, or more hits than there are.
    """
    low, high = wilson(hits, of)
    return Interval(value=hits / of, low=low, high=high)


def share_difference(first: NDArray[np.bool_], second: NDArray[np.bool_]) -> Interval:
    """The second share less the first, of pairs; half a pair is added to each of the four kinds of pairs, after Agresti and Min
    (2005), so that equal sides leave some doubt."""
    gained, lost, of = int((second & ~first).sum()), int((first & ~second).sum()), len(first)
    more, fewer, all_ = gained + 0.5, lost + 0.5, of + 2
    middle = (more - fewer) / all_
    half = Z * math.sqrt(more + fewer - (more - fewer) ** 2 / all_) / all_
    value = (gained - lost) / of
    return Interval(value=value, low=max(-1.0, min(value, middle - half)), high=min(1.0, max(value, middle + half)))


def mcnemar(first: NDArray[np.bool_], second: NDArray[np.bool_]) -> float:
    """How likely two shares of pairs would be at least so far apart by chance: exact, two-sided (McNemar 1947)."""
    differ, gained = int((first != second).sum()), int((second & ~first).sum())
    tail = sum(math.comb(differ, k) for k in range(min(gained, differ - gained) + 1))
    return float(min(1.0, 2 * tail / 2**differ))


def sign_flips(differences: NDArray[np.float64], *, flips: int = 9999, seed: int = 0) -> float:
    """How likely differences of pairs would have a mean at least so far from 0 by chance: the part of random flips of their signs,
    which change nothing where both sides come from the same, that reach it. It is never below 1 / (flips + 1)."""
    reached, left, random = 1, flips, np.random.default_rng(seed)
    least = abs(float(differences.sum())) * (1 - 1e-12)  # the same sum in another order is the same
    while left:
        some = min(left, 1 + 2_000_000 // len(differences))
        signs = random.integers(0, 2, (some, len(differences)), dtype=np.int8) * 2.0 - 1
        reached += int((np.abs(signs @ differences) >= least).sum())
        left -= some
    return reached / (flips + 1)


def holm(chances: Sequence[float]) -> list[float]:
    """Each chance made as large as it has to be for all of them to be asked at once (Holm 1979): below a, the risk of even one
    false alarm among them is at most a."""
    order = sorted(range(len(chances)), key=lambda i: chances[i])
    found, most = [1.0] * len(chances), 0.0
    for rank, i in enumerate(order):
        most = max(most, min(1.0, chances[i] * (len(chances) - rank)))
        found[i] = most
    return found


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
