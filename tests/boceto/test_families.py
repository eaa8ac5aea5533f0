"""Every family: pure functions of a seed, held-out combinations, captions in both languages that tell the truth."""

import numpy as np
import pytest

from boceto.look import icon_crops, score
from boceto.scenes import FAMILIES, captions, combinations, held_out, render, sample_scene
from boceto.scenes.icons import GLYPHS
from boceto.sheet import contact_sheet

families = pytest.mark.parametrize("family", FAMILIES)


@families
def test_the_same_seed_gives_the_same_scene_picture_and_captions(family: str) -> None:
    one, other = (sample_scene(np.random.default_rng(7), family) for _ in range(2))
    assert one == other and captions(one) == captions(other)
    assert render(one, 256).tobytes() == render(other, 256).tobytes()
    assert render(one, 256).size == (256, 256) and render(one, 256).mode == "RGB"


@families
def test_what_is_held_out_is_never_trained_on(family: str) -> None:
    rng = np.random.default_rng(3)
    training = {name for _ in range(1500) for name in combinations(sample_scene(rng, family))}
    judged = [sample_scene(rng, family, holdout=True) for _ in range(40)]
    assert all(held_out(scene) and combinations(scene) - training for scene in judged)


@families
def test_every_single_attribute_is_seen_in_training(family: str) -> None:
    """Only combinations are held out: what is judged is made of words that were all learned."""
    rng = np.random.default_rng(4)
    training = {word for _ in range(1500) for name in combinations(sample_scene(rng, family)) for word in name.split()}
    judged = [sample_scene(rng, family, holdout=True) for _ in range(60)]
    assert {word for scene in judged for name in combinations(scene) for word in name.split()} <= training


@families
@pytest.mark.parametrize("holdout", [False, True])
def test_pictures_show_what_their_scenes_say(family: str, holdout: bool) -> None:
    rng = np.random.default_rng(21)
    scenes = [sample_scene(rng, family, holdout=holdout) for _ in range(32)]
    wrong = [scene for scene in scenes if not all(score(render(scene, 256), scene).values())]
    assert len(wrong) <= 1, wrong


@families
def test_a_picture_of_another_scene_does_not_pass(family: str) -> None:
    rng = np.random.default_rng(22)
    scenes = [sample_scene(rng, family) for _ in range(12)]
    pairs = [(a, b) for a in scenes for b in scenes if combinations(a) != combinations(b)][:24]
    passed = sum(all(score(render(drawn, 256), told).values()) for drawn, told in pairs)
    assert passed <= len(pairs) // 3  # glyphs are not told apart, so some networks are alike to the program


@families
def test_captions_are_many_in_both_languages(family: str) -> None:
    rng = np.random.default_rng(5)
    for _ in range(200):
        found = captions(sample_scene(rng, family))
        assert len(set(found)) == len(found)
        for language in ("en", "es"):
            texts = [caption.text for caption in found if caption.language == language]
            assert len(texts) >= 3
            assert all("  " not in text and text == text.strip() for text in texts)


def texts_of(family: str, count: int = 1200) -> set[str]:
    rng = np.random.default_rng(6)
    return {caption.text for _ in range(count) for caption in captions(FAMILIES[family].sample(rng))}


@pytest.mark.parametrize(
    ("family", "text"),
    [
        ("networks", "a DDoS attack: many red bots sending traffic to a server"),
        ("networks", "un ataque DDoS: muchos bots rojos enviando tráfico a un servidor"),
        ("flows", "una cadena de tres bloques unidos por flechas"),
        ("flows", "un diagrama de flujo de datos de cuatro pasos"),
        ("cities", "un paisaje urbano futurista al atardecer con elementos cibernéticos"),
        ("interfaces", "a login form with a padlock"),
    ],
)
def test_the_wordings_asked_for(family: str, text: str) -> None:
    assert text in texts_of(family)


def test_icons_are_cut_out_of_their_pictures() -> None:
    rng = np.random.default_rng(8)
    scenes = [sample_scene(rng, "networks") for _ in range(150)]
    crops = [crop for scene in scenes for crop in icon_crops(render(scene, 256), scene)]
    assert {name for name, _ in crops} <= set(GLYPHS) and len({name for name, _ in crops}) == 11
    assert all(picture.size == (64, 64) and len(picture.getcolors(4096) or ()) > 1 for _, picture in crops)


def test_the_contact_sheet_has_a_row_a_family() -> None:
    page = contact_sheet(each=2, size=64)
    assert page.size == (2 * 74 + 10, len(FAMILIES) * 74 + 10)
