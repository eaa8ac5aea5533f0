"""Aspect-ratio buckets: pictures of about one shape are batched together, so that little is cut off.

After NovelAI's aspect-ratio bucketing (github.com/NovelAI/novelai-aspect-ratio-bucketing) in the form that kohya's
sd-scripts gave it (`make_bucket_resolutions`): for every width, the greatest height within the area, and both turned.
"""

import math
from collections.abc import Sequence

Bucket = tuple[int, int]
"""Width and height in pixels."""


def buckets(resolution: int, *, least: int, most: int, step: int) -> tuple[Bucket, ...]:
    """All sizes with sides from `least` to `most`, multiples of `step`, of at most resolution**2 pixels; sorted.

    Raises:
        ValueError: there is none.
    """
    area = resolution * resolution
    side = resolution // step * step
    found = {(side, side)} if least <= side <= most and side else set()
    for width in range(-(-least // step) * step, most + 1, step):
        height = min(most, area // width) // step * step
        if height >= least:
            found |= {(width, height), (height, width)}
    if not found:
        raise ValueError(
            f"no bucket has sides from {least} to {most} in steps of {step} and at most {resolution}x{resolution} pixels"
        )
    return tuple(sorted(found))


def nearest_bucket(width: int, height: int, among: Sequence[Bucket]) -> Bucket:
    """The bucket whose aspect ratio is nearest; of two as near, the one with more pixels.

    Ratios are compared by their logarithm, so that 2:1 is as far from 1:1 as 1:2 is (kohya takes plain differences).
    """
    ratio = math.log(width / height)
    return min(among, key=lambda b: (round(abs(math.log(b[0] / b[1]) - ratio), 9), -b[0] * b[1], b))


def resized(width: int, height: int, bucket: Bucket) -> tuple[int, int]:
    """The size that covers the bucket and keeps the picture's shape: one side fits, the other is cut."""
    scale = max(bucket[0] / width, bucket[1] / height)
    return max(bucket[0], round(width * scale)), max(bucket[1], round(height * scale))


def kept(width: int, height: int, bucket: Bucket) -> float:
    """The part of the picture's area that a crop to the bucket keeps, 0 to 1."""
    across, down = resized(width, height, bucket)
    return bucket[0] * bucket[1] / (across * down)
