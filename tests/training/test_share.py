"""Random numbers: a function of seed, step, sample and name, and of nothing else."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lienzo.training.share import Share


@given(st.integers(0, 2**63 - 1), st.integers(0, 10**9), st.sampled_from([1, 2, 3, 4, 6, 12]))
def test_parts_together_draw_what_one_part_draws(seed: int, step: int, count: int) -> None:
    whole = Share(seed=seed, step=step, size=12)
    parts = [Share(seed=seed, step=step, index=i, count=count, size=12 // count) for i in range(count)]
    assert [n for part in parts for n in part.numbers] == list(whole.numbers)
    for draw in ("uniform", "stratified"):
        assert torch.equal(torch.cat([getattr(p, draw)("a") for p in parts]), getattr(whole, draw)("a"))
    assert torch.equal(torch.cat([p.normal("a", 2, 3) for p in parts]), whole.normal("a", 2, 3))
    assert torch.equal(torch.cat([p.integers("a", 7) for p in parts]), whole.integers("a", 7))
    assert {part.common("a") for part in parts} == {whole.common("a")}


def test_seeds_steps_samples_and_names_differ() -> None:
    draws = {
        value
        for seed in range(3)
        for step in range(3)
        for name in "ab"
        for value in Share(seed=seed, step=step, size=4).uniform(name).tolist()
    }
    assert len(draws) == 3 * 3 * 2 * 4


def test_the_distributions() -> None:
    share = Share(seed=0, step=0, size=20_000)
    uniform, whole = share.uniform("u"), share.integers("i", 3)
    assert uniform.min() >= 0 and uniform.max() < 1
    assert uniform.mean().item() == pytest.approx(0.5, abs=0.01)
    assert (torch.bincount(whole) / 20_000).tolist() == pytest.approx([1 / 3] * 3, abs=0.02)
    normal = Share(seed=0, step=0, size=200).normal("n", 100)
    assert normal.mean().item() == pytest.approx(0, abs=0.03) and normal.std().item() == pytest.approx(1, abs=0.03)


def test_stratified_draws_take_one_from_each_part() -> None:
    assert (Share(seed=0, step=1, size=50).stratified("t") * 50).long().tolist() == list(range(50))
