"""Scenes, their pictures and their captions."""

import re
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from boceto.scenes import (
    COLOURS,
    PALETTE,
    RELATIONS,
    SHAPES,
    Scene,
    Thing,
    captions,
    combinations,
    held_out,
    render,
    sample_scene,
    unaccented,
)
from boceto.scenes.shapes import CONVERSE

scenes = st.integers(0, 2**32).map(lambda seed: sample_scene(np.random.default_rng(seed)))


def thing(shape: str, colour: str, **more: object) -> Thing:
    return replace(Thing(name=shape, colour=colour, x=0.5, y=0.5, radius=0.2), **more)


def texts(scene: Scene, language: str) -> list[str]:
    return [caption.text for caption in captions(scene) if caption.language == language]


def test_the_issues_own_example() -> None:
    scene = Scene(background="white", things=(thing("circle", "red"), thing("square", "blue")), relation="left")
    assert texts(scene, "en")[0] == "a red circle to the left of a blue square on a white background"
    assert texts(scene, "es")[0] == "un círculo rojo a la izquierda de un cuadrado azul sobre fondo blanco"


@pytest.mark.parametrize(
    ("scene", "english", "spanish"),
    [
        (
            Scene(background="gray", things=(thing("star", "yellow"),) * 3),
            "three yellow stars on a gray background",
            "tres estrellas amarillas sobre fondo gris",
        ),
        (
            Scene(background="orange", things=(thing("cross", "black"),) * 2),
            "two black crosses on an orange background",
            "dos cruces negras sobre fondo naranja",
        ),
        (
            Scene(background="red", things=(thing("cross", "white", size="small"),)),
            "a small white cross on a red background",
            "una cruz blanca pequeña sobre fondo rojo",
        ),
        (
            Scene(background="black", things=(thing("star", "orange"), thing("hexagon", "gray")), relation="above"),
            "an orange star above a gray hexagon on a black background",
            "una estrella naranja encima de un hexágono gris sobre fondo negro",
        ),
    ],
)
def test_gender_and_number_agree(scene: Scene, english: str, spanish: str) -> None:
    assert texts(scene, "en")[0] == english
    assert texts(scene, "es")[0] == spanish


def test_a_great_star_is_una_gran_estrella() -> None:
    scene = Scene(background="white", things=(thing("star", "red", size="large"),))
    assert "una gran estrella roja" in texts(scene, "es")


@given(scenes)
def test_captions_say_what_the_scene_shows(scene: Scene) -> None:
    for text in texts(scene, "en"):
        words = re.findall(r"[a-z]+", text)
        for one in scene.things:
            assert one.colour in words and one.name in text
            assert one.size == "medium" or one.size in words
        # no background named means white
        assert ("background" in words) or scene.background == "white"
        if "background" in words:
            assert scene.background in words
    assert texts(scene, "en") and texts(scene, "es")
    assert len(set(captions(scene))) == len(captions(scene))


@given(scenes)
def test_different_meanings_have_different_captions(scene: Scene) -> None:
    other = replace(scene, background=COLOURS[(COLOURS.index(scene.background) + 1) % len(COLOURS)])
    assert not {c.text for c in captions(scene)} & {c.text for c in captions(other)}


@given(scenes)
def test_scenes_are_drawable_and_unambiguous(scene: Scene) -> None:
    assert all(one.colour != scene.background for one in scene.things)
    assert all(one.x - 0.9 * one.radius > 0 and one.x + 0.9 * one.radius < 1 for one in scene.things)
    assert 1 <= len(scene.things) <= 4
    if scene.relation:
        first, second = scene.things
        assert (first.name, first.colour) != (second.name, second.colour)
    elif len(scene.things) > 1:
        assert len({(one.name, one.colour) for one in scene.things}) == 1


def test_held_out_combinations_never_appear_in_training() -> None:
    rng = np.random.default_rng(3)
    training = [sample_scene(rng) for _ in range(2000)]
    judged = [sample_scene(rng, holdout=True) for _ in range(200)]
    forbidden = {
        name for scene in judged for name in combinations(scene) if not any(name in combinations(s) for s in training)
    }
    assert all(combinations(scene) & forbidden for scene in judged)
    assert not any(held_out(scene) for scene in training)


def test_about_five_per_cent_of_combinations_are_held_out() -> None:
    alone = [
        Scene(background=background, things=(thing(shape, colour),))
        for shape in SHAPES
        for colour in COLOURS
        for background in COLOURS
        if colour != background
    ]
    assert 0.02 < sum(map(held_out, alone)) / len(alone) < 0.08


def test_holding_out_does_not_depend_on_which_thing_is_named_first() -> None:
    a, b = thing("circle", "red"), thing("square", "blue")
    for relation in RELATIONS[:4]:  # "inside" has no converse that is said
        one = Scene(background="white", things=(a, b), relation=relation)
        other = Scene(background="white", things=(b, a), relation=CONVERSE[relation])
        assert combinations(one) == combinations(other)


def test_pictures_have_the_scenes_colours_and_size() -> None:
    scene = Scene(background="green", things=(thing("square", "purple"),))
    picture = render(scene, 64)
    assert picture.size == (64, 64) and picture.mode == "RGB"
    assert picture.getpixel((0, 0)) == PALETTE["green"]
    assert picture.getpixel((32, 32)) == PALETTE["purple"]


def test_the_same_seed_gives_the_same_scene_and_picture() -> None:
    first, second = (sample_scene(np.random.default_rng(9)) for _ in range(2))
    assert first == second
    assert render(first).tobytes() == render(second).tobytes()


def test_accents_go_but_the_tilde_stays() -> None:
    assert unaccented("un círculo pequeño") == "un circulo pequeño"
