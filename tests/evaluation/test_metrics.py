"""Scores against torchmetrics, closed forms, and what must hold of any set of pictures."""

import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lienzo.errors import InputError, MissingExtraError
from lienzo.evaluation import metrics
from lienzo.evaluation.metrics import Array
from lienzo.evaluation.resampling import Interval, bootstrap, folds

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # torchmetrics' own imports
    import torchmetrics.image.kid
    from torchmetrics.functional.image import peak_signal_noise_ratio


def features(n: int, width: int = 6, *, seed: int = 0, shift: float = 0.0) -> Array:
    random = np.random.default_rng(seed)
    return random.normal(size=(n, width)) @ random.normal(size=(width, width)) + shift


def closed_form(x: Array, y: Array) -> float:
    """With the symmetric square root: tr((C1 C2)^(1/2)) = tr((C1^(1/2) C2 C1^(1/2))^(1/2))."""
    c1, c2 = np.cov(x.T), np.cov(y.T)
    values, vectors = np.linalg.eigh(c1)
    root = (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T
    cross = np.sqrt(np.maximum(np.linalg.eigvalsh(root @ c2 @ root), 0)).sum()
    return float(((x.mean(0) - y.mean(0)) ** 2).sum() + np.trace(c1 + c2) - 2 * cross)


@pytest.mark.parametrize(("n", "m", "width"), [(50, 40, 6), (7, 50, 12), (9, 8, 30), (200, 200, 3)])
def test_fid_equals_its_closed_form(n: int, m: int, width: int) -> None:
    x, y = features(n, width, seed=1), features(m, width, seed=2, shift=0.3)
    want = closed_form(x, y)
    assert metrics.fid(x, y) == pytest.approx(want, rel=1e-6)
    assert metrics.frechet(x, y) == pytest.approx(want, rel=1e-6)


def test_fid_of_gaussians_that_are_known() -> None:
    x = features(400, 4)
    x = (x - x.mean(0)) @ np.linalg.inv(np.linalg.cholesky(np.cov(x.T))).T  # mean 0, covariance 1 exactly
    assert metrics.fid(x, 2 * x + 3) == pytest.approx(4 * 3**2 + 4 * (2 - 1) ** 2, rel=1e-9)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 1000), shift=st.floats(-2, 2))
def test_distances_of_sets_are_symmetric_and_know_no_order(seed: int, shift: float) -> None:
    x, y = features(30, seed=seed), features(30, seed=seed + 1, shift=shift)
    order = np.random.default_rng(seed).permutation(30)
    for score in (metrics.fid, metrics.frechet, metrics.kid):
        value = score(x, y)
        assert score(y, x) == pytest.approx(value, rel=1e-6, abs=1e-9)
        assert score(x[order], y) == pytest.approx(value, rel=1e-6, abs=1e-9)
    assert metrics.fid(x, x) == pytest.approx(0, abs=1e-6)
    assert metrics.frechet(x, x) == pytest.approx(0, abs=1e-6)
    assert metrics.kid(x, x) <= 1e-9  # without bias, a set is nearer to itself than chance
    assert metrics.precision_recall(x, x) == (1.0, 1.0)
    precision, recall = metrics.precision_recall(x, y)
    assert metrics.precision_recall(y, x) == (recall, precision)


def test_kid_equals_torchmetrics() -> None:
    x, y = features(40, seed=1), features(40, seed=2, shift=0.2)
    want = torchmetrics.image.kid.poly_mmd(torch.from_numpy(x), torch.from_numpy(y))
    assert metrics.kid(x, y) == pytest.approx(float(want), rel=1e-9)


def test_kid_does_not_depend_on_how_many_pictures_there_are() -> None:
    few = np.mean([metrics.kid(features(12, 4, seed=1)[:12], same(12, i)) for i in range(400)])
    many = np.mean([metrics.kid(features(12, 4, seed=1)[:12], same(200, i)) for i in range(50)])
    assert few == pytest.approx(many, rel=0.1)


def same(n: int, seed: int) -> Array:
    return np.random.default_rng(seed + 99).normal(size=(n, 4))


def test_kid_of_large_sets_is_a_mean_over_seeded_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = features(60, seed=1), features(60, seed=2)
    whole = metrics.kid(x, y)
    monkeypatch.setattr(metrics, "MOST", 20)
    drawn = metrics.kid(x, y, draws=200)
    assert drawn != whole and drawn == pytest.approx(whole, rel=0.3)
    assert metrics.kid(x, y, draws=200) == drawn


def test_precision_and_recall_by_hand() -> None:
    real = np.array([[0.0], [1.0], [2.0], [10.0], [11.0], [12.0]])
    made = np.array([[0.5], [1.5], [1.0], [0.9]])  # all of the first heap, none of the second
    precision, recall = metrics.precision_recall(real, made, neighbours=1)
    assert precision == 1.0
    assert recall == pytest.approx(2 / 6)  # 1.0 by 0.9 and itself, 2.0 by 1.5; nothing reaches 0
    far = metrics.precision_recall(real, made + 100, neighbours=1)
    assert far == (0.0, 0.0)


def test_precision_and_recall_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(3)
    real, made = rng.normal(size=(40, 5)), rng.normal(size=(33, 5)) * 1.3
    whole = metrics.precision_recall(real, made)
    assert 0 < whole[0] < 1 and 0 < whole[1] < 1
    monkeypatch.setattr(metrics, "BLOCK", 7)
    assert metrics.precision_recall(real, made) == whole


def test_collapse_shows_as_low_recall_and_low_diversity() -> None:
    real = features(100, 4)
    collapsed = real[:1] + 0.01 * features(100, 4, seed=3)
    precision, recall = metrics.precision_recall(real, collapsed)
    assert precision > 0.9 and recall < 0.1
    assert metrics.diversity(collapsed) < 0.1 * metrics.diversity(real)


def test_diversity_is_the_mean_of_all_pairs() -> None:
    assert metrics.diversity(np.array([[0.0, 0.0], [3.0, 4.0], [0.0, 0.0]])) == pytest.approx(10 / 3)


def test_clip_score_is_the_cosine_in_percent_and_never_negative() -> None:
    texts = np.array([[1.0, 0.0], [1.0, 1.0], [1.0, 0.0]])
    pictures = np.array([[5.0, 0.0], [0.0, 2.0], [-1.0, 0.0]])
    assert metrics.clip_scores(pictures, texts) == pytest.approx([100, 100 / np.sqrt(2), 0])


def test_psnr_and_ssim() -> None:
    random = np.random.default_rng(0)
    a = random.integers(0, 256, (24, 32, 3), dtype=np.uint8)
    b = np.clip(a.astype(int) + random.integers(-9, 10, a.shape), 0, 255).astype(np.uint8)
    want = peak_signal_noise_ratio(
        torch.from_numpy(a.astype(float)), torch.from_numpy(b.astype(float)), data_range=255.0
    )
    assert metrics.psnr(a, b) == pytest.approx(float(want), rel=1e-6)
    assert metrics.psnr(a, a) == float("inf")
    assert metrics.ssim(a, a) == pytest.approx(1, abs=1e-9)
    assert metrics.ssim(a, b) == pytest.approx(metrics.ssim(b, a), abs=1e-9) and 0.5 < metrics.ssim(a, b) < 1
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    flat, other = np.full((16, 16, 3), 100, np.uint8), np.full((16, 16, 3), 140, np.uint8)
    want_flat = (2 * 100 * 140 + c1) / (100**2 + 140**2 + c1) * c2 / c2  # Wang 2004, eq. 13, without variance
    assert metrics.ssim(flat, other) == pytest.approx(want_flat, rel=1e-6)


@pytest.mark.parametrize("score", [metrics.fid, metrics.frechet, metrics.kid, metrics.precision_recall])
def test_features_that_cannot_be_compared_are_refused(score: object) -> None:
    good = features(10)
    for bad, match in (
        (features(10, 5), "one network"), (features(1), "At least"), (np.full((10, 6), np.nan), "NaN"),
    ):  # fmt: skip
        with pytest.raises(InputError, match=match):
            score(good, bad)  # type: ignore[operator]
    with pytest.raises(InputError, match="at least 2"):
        metrics.diversity(features(1))
    with pytest.raises(InputError, match="11x11"):
        metrics.ssim(np.zeros((8, 20, 3), np.uint8), np.zeros((8, 20, 3), np.uint8))


def test_without_torchmetrics_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r'pip install "lienzo\[eval\]"'):
        metrics.fid(features(5), features(5))


def test_bootstrap_covers_the_truth_about_as_often_as_it_says() -> None:
    hits = 0
    for seed in range(200):
        values = np.random.default_rng(seed).normal(size=40)
        found = bootstrap(lambda i, v=values: float(v[i].mean()), range(40), resamples=300, seed=seed)
        assert found.low is not None and found.high is not None
        hits += found.low <= 0 <= found.high
    assert 180 <= hits <= 198  # 95 %, less a little, as resamples are somewhat narrow


def test_bootstrap_draws_whole_groups() -> None:
    values = np.repeat(np.random.default_rng(0).normal(size=10), 20)  # 200 pictures, but 10 prompts only
    groups = np.repeat(np.arange(10), 20).tolist()

    def width(found: Interval) -> float:
        assert found.low is not None and found.high is not None
        return found.high - found.low

    whole = bootstrap(lambda i: float(values[i].mean()), groups)
    alone = bootstrap(lambda i: float(values[i].mean()), range(200))
    assert width(whole) > 3 * width(alone)
    assert bootstrap(lambda i: float(values[i].mean()), groups) == whole  # seeded
    assert bootstrap(lambda i: 1.0, [0, 0, 0]) == Interval(value=1.0)  # one group: nothing to resample
    bounded = bootstrap(lambda i: float(values[i].mean()), groups, value=0.0, bounds=(0.0, 1.0))
    assert bounded.low == 0.0


def test_folds_are_parts() -> None:
    parts = folds(11, 4)
    assert sorted(np.concatenate(parts).tolist()) == list(range(11))
    assert {len(p) for p in parts} == {2, 3}
    assert [p.tolist() for p in folds(11, 4)] == [p.tolist() for p in parts]
    assert [p.tolist() for p in folds(11, 4, seed=1)] != [p.tolist() for p in parts]
    for k in (1, 12):
        with pytest.raises(InputError, match="folds"):
            folds(11, k)
