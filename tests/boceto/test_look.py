"""The program that judges pictures is itself right on true renders, and wrong pictures do not pass."""

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from boceto.look import look, score
from boceto.scenes import Scene, Thing, render, sample_scene

RED = Thing(name="circle", colour="red", x=0.26, y=0.5, radius=0.16)
BLUE = Thing(name="square", colour="blue", x=0.74, y=0.5, radius=0.16)
PAIR = Scene(background="white", things=(RED, BLUE), relation="left")


@pytest.mark.parametrize("holdout", [False, True])
def test_right_on_true_renders(holdout: bool) -> None:
    rng = np.random.default_rng(11)
    scenes = [sample_scene(rng, holdout=holdout) for _ in range(150)]
    assert sum(all(score(render(scene), scene).values()) for scene in scenes) >= 149


def test_right_on_blurred_and_noisy_renders() -> None:
    rng = np.random.default_rng(12)
    scenes = [sample_scene(rng) for _ in range(60)]
    right = 0
    for scene in scenes:
        soft = render(scene).resize((96, 96), Image.Resampling.BILINEAR).resize((128, 128), Image.Resampling.BILINEAR)
        noisy = np.asarray(soft) + rng.normal(0, 4, (128, 128, 3))
        right += all(score(Image.fromarray(noisy.clip(0, 255).astype(np.uint8)), scene).values())
    assert right >= 57


@pytest.mark.parametrize(
    ("drawn", "wrong"),
    [
        (replace(PAIR, background="yellow"), "background"),
        (replace(PAIR, things=(replace(RED, colour="green"), BLUE)), "colour"),
        (replace(PAIR, things=(replace(RED, name="star"), BLUE)), "shape"),
        (replace(PAIR, things=(RED,), relation=None), "count"),
        (replace(PAIR, things=(replace(RED, x=0.74), replace(BLUE, x=0.26))), "relation"),
        (replace(PAIR, things=(replace(RED, x=0.5, y=0.26), replace(BLUE, x=0.5, y=0.74))), "relation"),
    ],
)
def test_a_wrong_picture_is_wrong_where_it_is_wrong(drawn: Scene, wrong: str) -> None:
    assert all(score(render(PAIR), PAIR).values())
    result = score(render(drawn), PAIR)
    assert result[wrong] is False
    assert not all(result.values())


def test_an_empty_picture_has_no_things() -> None:
    view = look(Image.new("RGB", (128, 128), "white"))
    assert view.background == "white" and view.things == ()


def test_a_shapeless_blot_has_no_shape() -> None:
    blot = np.full((128, 128, 3), 250, np.uint8)
    blot[20:24, 10:118] = blot[20:110, 10:14] = (217, 32, 38)
    assert [seen.shape for seen in look(Image.fromarray(blot)).things] == [None]


def test_a_faint_line_has_no_shape() -> None:
    """It differs from the background, but is nearer to it than to any other colour."""
    faint = np.full((128, 128, 3), 250, np.uint8)
    faint[40:43, 40:90] = (224, 224, 224)
    assert [seen.shape for seen in look(Image.fromarray(faint)).things] == [None]
