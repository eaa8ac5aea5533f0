"""Scores as pure functions of features or pixels. Features are (N, D), one row a picture; everything is float64.

| score | of | better | source |
|---|---|---|---|
| `fid` | two sets | 0 | arXiv:1706.08500 |
| `kid` | two sets | 0, may fall below | arXiv:1801.01401 |
| `precision_recall` | two sets | 1 | arXiv:1904.06991 |
| `clip_scores` | picture and prompt | 100 | arXiv:2104.08718 |
| `diversity` | pictures of one prompt | as asked for | mean distance |
| `psnr`, `ssim` | two pictures | infinite, 1 | Wang 2004 |
"""

from importlib.util import find_spec

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from lienzo.errors import InputError, MissingExtraError

Array = NDArray[np.float64]
MOST = 1000
"""Pictures of a set that `kid` compares at once; larger sets are averaged over several draws."""
BLOCK = 1024
"""Rows whose distances to a set are held at once: all of them would need the square of the set."""


class _Given(nn.Module):
    """The "network" of torchmetrics' FID, to which features are handed instead of pictures."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.num_features = width

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return features


def fid(real: Array, made: Array) -> float:
    """Frechet distance of the two sets' Gaussians, by torchmetrics:

    |m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2))                                       (arXiv:1706.08500, eq. 6)

    It falls with the number of pictures, however good they are: compare only figures of equally many.

    Raises:
        InputError: fewer than two pictures in a set, or features of two networks.
        MissingExtraError: torchmetrics is not installed.
    """
    _check(real, made)
    check_torchmetrics()
    from torchmetrics.image.fid import FrechetInceptionDistance

    metric = FrechetInceptionDistance(feature=_Given(real.shape[1]))
    metric.set_dtype(torch.float64)
    for features, is_real in ((real, True), (made, False)):
        metric.update(torch.from_numpy(np.ascontiguousarray(features)), real=is_real)
    return float(metric.compute())


def frechet(real: Array, made: Array) -> float:
    """`fid` by a symmetric matrix: the eigenvalues of C1 C2 are those of B B^T, where B = A1 A2^T and C = A^T A.

    The same figure to about 1e-6 of it, and several times as fast: for resampling.
    """
    _check(real, made)
    (a, c1), (b, c2) = (((x - x.mean(0)) / np.sqrt(len(x) - 1), x.mean(0)) for x in (real, made))
    traces = np.square(a).sum() + np.square(b).sum()
    a, b = (a, b) if len(a) <= len(b) else (b, a)
    across = _short(a) @ b.T
    cross = np.sqrt(np.maximum(np.linalg.eigvalsh(across @ across.T), 0)).sum()
    return float(np.square(c1 - c2).sum() + traces - 2 * cross)


def _short(a: Array) -> Array:
    """A matrix with the same A^T A and no more rows than columns."""
    if len(a) <= a.shape[1]:
        return a
    values, vectors = np.linalg.eigh(a.T @ a)
    short: Array = (vectors * np.sqrt(np.maximum(values, 0))).T
    return short


def kid(real: Array, made: Array, *, draws: int = 20, seed: int = 0) -> float:
    """Squared maximum mean discrepancy with the kernel (x.y / D + 1)^3, without bias (arXiv:1801.01401, section 4).

    The expected value does not depend on the number of pictures, so unlike FID it can be compared between sets of different sizes.
    Sets beyond `MOST` are averaged over `draws` seeded subsets.
    """
    _check(real, made)
    if max(len(real), len(made)) <= MOST:
        return _mmd(real, made)
    random = np.random.default_rng(seed)
    some = [[x[random.permutation(len(x))[:MOST]] for x in (real, made)] for _ in range(draws)]
    return float(np.mean([_mmd(x, y) for x, y in some]))


def _mmd(x: Array, y: Array) -> float:
    (n, width), m = x.shape, len(y)
    kxx, kyy, kxy = ((a @ b.T / width + 1) ** 3 for a, b in ((x, x), (y, y), (x, y)))
    own = (kxx.sum() - np.trace(kxx)) / (n * (n - 1)) + (kyy.sum() - np.trace(kyy)) / (m * (m - 1))
    return float(own - 2 * kxy.mean())


def precision_recall(real: Array, made: Array, *, neighbours: int = 3) -> tuple[float, float]:
    """(precision, recall): the part of made pictures that lie among real ones, and the other way round.

    "Among" is within reach of some picture of the set, whose reach is the distance to its k-th neighbour
    (arXiv:1904.06991, eq. 1 and 2). With few pictures both depend much on k and on how many there are.

    Raises:
        InputError: a set has no more pictures than `neighbours`.
    """
    _check(real, made, least=neighbours + 1)
    reach_real, reach_made = (_reach(x, neighbours) for x in (real, made))
    return _among(made, real, reach_real), _among(real, made, reach_made)


def _reach(x: Array, neighbours: int) -> Array:
    """(N,) of every row, the distance to its k-th neighbour in the set; a row is its own 0th."""
    found = []
    for begin in range(0, len(x), BLOCK):
        block = _distances(x[begin : begin + BLOCK], x)
        own = np.arange(len(block))
        block[own, begin + own] = 0  # what rounding leaves there is not nothing
        found.append(np.partition(block, neighbours, 1)[:, neighbours])
    return np.concatenate(found)


def _among(some: Array, others: Array, reach: Array) -> float:
    """The part of rows within reach of some row of the others."""
    blocks = (some[begin : begin + BLOCK] for begin in range(0, len(some), BLOCK))
    return sum(int((_distances(block, others) <= reach).any(1).sum()) for block in blocks) / len(some)


def clip_scores(pictures: Array, texts: Array) -> Array:
    """(N,): 100 max(cos, 0) of each picture with its text, the scale that torchmetrics and most papers print.

    CLIPScore's own (arXiv:2104.08718, eq. 1) is 2.5 max(cos, 0).
    """
    cosines: Array = (unit(pictures) * unit(texts)).sum(1)
    return 100 * np.maximum(cosines, 0)


def diversity(features: Array) -> float:
    """Mean distance of all pairs of rows.

    Raises:
        InputError: a single picture.
    """
    if len(features) < 2:
        raise InputError(f"diversity needs at least 2 pictures; got {len(features)}.")
    n = len(features)
    return float(_distances(features, features)[np.triu_indices(n, 1)].mean())


def psnr(a: NDArray[np.uint8], b: NDArray[np.uint8]) -> float:
    """Peak signal-to-noise ratio in dB of two pictures of 8 bits; infinite where they are equal."""
    error = np.square(a.astype(np.float64) - b).mean()
    return float("inf") if error == 0 else float(10 * np.log10(255**2 / error))


def ssim(a: NDArray[np.uint8], b: NDArray[np.uint8]) -> float:
    """Structural similarity of two pictures (H, W, 3) (Wang 2004: Gaussian window, sigma 1.5), by torchmetrics.

    Raises:
        InputError: smaller than the window, 11 pixels.
        MissingExtraError: torchmetrics is not installed.
    """
    if min(a.shape[:2]) < 11:
        raise InputError(f"SSIM's window is 11x11; got a picture of {a.shape[1]}x{a.shape[0]}.")
    check_torchmetrics()
    from torchmetrics.functional.image import structural_similarity_index_measure

    x, y = (torch.from_numpy(p.astype(np.float64)).permute(2, 0, 1)[None] for p in (a, b))
    found = structural_similarity_index_measure(x, y, data_range=255.0)
    assert isinstance(found, torch.Tensor)
    return float(found)


def unit(features: Array) -> Array:
    """Rows of length 1; a row of zeros stays."""
    length = np.linalg.norm(features, axis=1, keepdims=True)
    return features / np.where(length == 0, 1, length)


def check_torchmetrics() -> None:
    """Raises MissingExtraError: torchmetrics is not installed."""
    if find_spec("torchmetrics") is None:
        raise missing("FID and SSIM need torchmetrics")


def missing(what: str) -> MissingExtraError:
    return MissingExtraError(f'{what}: pip install "lienzo[eval]".')


def _distances(x: Array, y: Array) -> Array:
    """(N, M) Euclidean distances; exactly 0 on the diagonal of a set with itself."""
    squares = (x**2).sum(1)[:, None] + (y**2).sum(1) - 2 * x @ y.T
    if x is y:
        np.fill_diagonal(squares, 0)
    found: Array = np.sqrt(np.maximum(squares, 0))
    return found


def _check(real: Array, made: Array, *, least: int = 2) -> None:
    if real.ndim != 2 or made.ndim != 2 or real.shape[1] != made.shape[1]:
        raise InputError(f"Features of one network are needed, (N, D) each; got {real.shape} and {made.shape}.")
    if min(len(real), len(made)) < least:
        raise InputError(
            f"At least {least} pictures are needed on either side; got {len(real)} real and {len(made)} made."
        )
    if not (np.isfinite(real).all() and np.isfinite(made).all()):
        raise InputError("The features hold NaN or infinity: the network that made them is broken, or its weights are.")
