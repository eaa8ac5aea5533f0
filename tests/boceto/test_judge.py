"""Judging: held-out prompts only, honest intervals, a sheet nobody picked."""

import numpy as np
import pytest
from PIL import Image

from boceto.judge import figures, held_out_prompts, sheet, wilson
from boceto.look import score
from boceto.scenes import captions, held_out, render


def test_prompts_are_held_out_and_bilingual() -> None:
    prompts = held_out_prompts(40, seed=0)
    assert all(held_out(scene) and caption in captions(scene) for scene, caption in prompts)
    assert [caption.language for _, caption in prompts] == ["en", "es"] * 20
    assert prompts == held_out_prompts(40, seed=0) != held_out_prompts(40, seed=1)


def test_true_renders_get_full_marks_and_blank_pictures_none() -> None:
    prompts = held_out_prompts(30, seed=2)
    best = figures([(scene, caption, score(render(scene), scene)) for scene, caption in prompts])
    assert all(row["right"] == row["of"] for row in best.values())
    assert best["count"]["of"] == 30 > best["relation"]["of"] > 0
    blank = Image.fromarray(np.full((128, 128, 3), 77, np.uint8))
    worst = figures([(scene, caption, score(blank, scene)) for scene, caption in prompts])
    assert worst["everything"]["right"] == 0


def test_wilson_interval() -> None:
    low, high = wilson(8, 10)
    assert (low, high) == pytest.approx((0.490, 0.943), abs=1e-3)
    assert wilson(10, 10)[1] == pytest.approx(1.0)


def test_sheet_holds_every_picture() -> None:
    page = sheet([Image.new("RGB", (128, 128), "red")] * 10, ["a red picture, una imagen roja"] * 10)
    red = (np.asarray(page) == (255, 0, 0)).all(-1).sum()
    assert red == 10 * 128 * 128
