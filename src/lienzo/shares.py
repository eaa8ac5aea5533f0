"""A share of few cases, and the interval that goes with it."""

import math
from statistics import NormalDist
from typing import Final

CONFIDENCE: Final = 0.95
Z: Final = NormalDist().inv_cdf((1 + CONFIDENCE) / 2)
"""Standard deviations that `CONFIDENCE` of a normal distribution lies within."""


def wilson(hits: int, of: int) -> tuple[float, float]:
    """The 95 % interval of a share after Wilson (1927), which is right for few cases, for none and for all too.

    Raises:
        ValueError: of nothing, or more hits than there are.
    """
    if not 0 <= hits <= of or not of:
        raise ValueError(f"a share of {hits} in {of}: expected 0 to {of}, of 1 or more.")
    p, z = hits / of, Z**2 / of
    middle, half = (p + z / 2) / (1 + z), Z / (1 + z) * math.sqrt(p * (1 - p) / of + z / (4 * of))
    return max(0.0, min(p, middle - half)), min(1.0, max(p, middle + half))  # rounding must not leave p outside
